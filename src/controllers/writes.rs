//! How the controllers write to the API server: server-side apply, each with a field manager of its own, and only
//! what differs from what is there.

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::object::HasStatus;
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::cache::{Cache, Cached};
use super::context::Context;
use super::error::Error;
use crate::api::conditions::{State, stamp};
use crate::api::{FINALIZER, PAUSED_ANNOTATION};

/// The part of a status that one field manager writes.
pub struct Share {
    /// Name of the field manager.
    pub manager: &'static str,
    /// Top-level fields of the status.
    pub fields: &'static [&'static str],
    /// Types of conditions.
    pub conditions: &'static [&'static str],
}

/// What is told of every kind alike.
const PAUSE_SHARE: Share = Share { manager: "cascina-pause", fields: &[], conditions: &["Paused"] };

/// What is told of every kind alike, once its own controller has nothing more to tell.
const KEPT_SHARE: Share = Share { manager: "cascina-kept", fields: &[], conditions: &["Deleting"] };

impl Share {
    /// The part of a status that belongs to this manager.
    fn of(&self, status: &Value) -> Value {
        let mut part = Map::new();
        for field in self.fields {
            if let Some(value) = status.get(*field).filter(|value| !value.is_null()) {
                part.insert((*field).to_owned(), value.clone());
            }
        }
        let ours = |condition: &&Value| {
            condition.get("type").and_then(Value::as_str).is_some_and(|kind| self.conditions.contains(&kind))
        };
        let conditions: Vec<_> =
            status.get("conditions").and_then(Value::as_array).into_iter().flatten().filter(ours).cloned().collect();
        if !conditions.is_empty() {
            part.insert("conditions".to_owned(), conditions.into());
        }
        Value::Object(part)
    }
}

/// Writes a share of an object's status, unless it stands there already. Fields of the share that `status` leaves out
/// are removed.
///
/// # Errors
/// What the API server says. An object that is gone meanwhile is no error.
pub async fn apply_status<K>(
    context: &Context,
    cache: &Cache<K>,
    api: &Api<K>,
    object: &K,
    share: &Share,
    status: &impl Serialize,
) -> Result<(), Error>
where
    K: Cached + HasStatus<Status: Serialize>,
{
    match write_status(context, cache, api, object, share, status, None).await {
        Err(error) if error.is_conflict() => Ok(()),
        outcome => outcome,
    }
}

/// The same for what was decided from `object` as it is: if it changed since, nothing is written. For what must not be
/// decided twice, such as addresses and places: after an answer that never came, a version of the object other than
/// this one tells whether the write happened. Who calls this sees to it that one namespace doesn't hold up another.
///
/// # Errors
/// What the API server says; a conflict if the object changed.
pub async fn apply_status_unless_changed<K>(
    context: &Context,
    cache: &Cache<K>,
    api: &Api<K>,
    object: &K,
    share: &Share,
    status: &impl Serialize,
) -> Result<(), Error>
where
    K: Cached + HasStatus<Status: Serialize>,
{
    write_status(context, cache, api, object, share, status, object.resource_version()).await
}

async fn write_status<K>(
    context: &Context,
    cache: &Cache<K>,
    api: &Api<K>,
    object: &K,
    share: &Share,
    status: &impl Serialize,
    version: Option<String>,
) -> Result<(), Error>
where
    K: Cached + HasStatus<Status: Serialize>,
{
    let wanted = share.of(&serde_json::to_value(status)?);
    let newest = cache.latest(object);
    // An apply of a status asks for no uid, whatever stands in it: it would land on the new object of that name. What
    // slips through in the moment before the watch tells of that object is put right when its controller writes.
    if version.is_none() && newest.as_ref().is_some_and(|newest| newest.uid() != object.uid()) {
        return Ok(());
    }
    let current = serde_json::to_value(newest.as_deref().unwrap_or(object).status())?;
    if is_same(&share.of(&current), &wanted) {
        return Ok(());
    }
    let name = object.name_any();
    let mut patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name },
        "status": wanted,
    });
    // Who decided from one version of the object has a bound of its own.
    let _turn = if version.is_none() { Some(context.writes.take(object).await) } else { None };
    if let (Some(version), Some(metadata)) = (version, patch.get_mut("metadata").and_then(Value::as_object_mut)) {
        metadata.insert("resourceVersion".to_owned(), version.into());
    }
    context.metrics.write::<K>("status");
    match api.patch_status(&name, &PatchParams::apply(share.manager).force(), &Patch::Apply(patch)).await {
        Ok(written) => cache.absorb(written),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Whether two statuses say the same: the order of conditions, which the API server chooses, says nothing.
fn is_same(one: &Value, other: &Value) -> bool {
    let ordered = |status: &Value| {
        let mut status = status.clone();
        if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.sort_by_key(|condition| condition.get("type").map(ToString::to_string));
        }
        status
    };
    ordered(one) == ordered(other)
}

/// Shows in its status that an object is paused, or that it isn't any more.
///
/// # Errors
/// What the API server says. An object that is gone meanwhile is no error.
pub async fn tell_pause<K>(context: &Context, object: &K, paused: bool) -> Result<(), Error>
where
    K: Cached + HasStatus<Status: Serialize>,
{
    let message = format!("the annotation {PAUSED_ANNOTATION} is \"true\": remove it to go on");
    let state = paused.then(|| State::yes("Paused", "Annotated", message));
    tell_alike(context, object, &PAUSE_SHARE, state).await
}

/// Shows of an object on its way out, with which the operator has done, which finalizers of others keep it.
///
/// # Errors
/// What the API server says. An object that is gone meanwhile is no error.
pub async fn tell_kept<K>(context: &Context, object: &K) -> Result<(), Error>
where
    K: Cached + HasStatus<Status: Serialize>,
{
    if object.finalizers().is_empty() {
        return Ok(());
    }
    let message = format!("the operator has done; finalizers of others keep it: {}", object.finalizers().join(", "));
    tell_alike(context, object, &KEPT_SHARE, Some(State::yes("Deleting", "KeptByOthers", message))).await
}

/// Writes the one condition of a share that every kind has, unless it says so already.
async fn tell_alike<K>(context: &Context, object: &K, share: &Share, state: Option<State>) -> Result<(), Error>
where
    K: Cached + HasStatus<Status: Serialize>,
{
    let shown = share.of(&serde_json::to_value(object.status())?);
    let shown = shown.pointer("/conditions/0");
    let says = |state: &State| {
        shown.is_some_and(|shown| {
            shown.get("reason") == Some(&json!(state.reason)) && shown.get("message") == Some(&json!(state.message))
        })
    };
    if state.as_ref().map_or(shown.is_none(), says) {
        return Ok(());
    }
    let conditions = stamp(state.into_iter().collect(), &[], object.meta().generation, context.clock.now());
    let name = object.name_any();
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name },
        "status": { "conditions": conditions },
    });
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(context.client.clone(), &namespace, &resource),
        None => Api::all_with(context.client.clone(), &resource),
    };
    let _turn = context.writes.take(object).await;
    context.metrics.write::<K>("status");
    match api.patch_status(&name, &PatchParams::apply(share.manager).force(), &Patch::Apply(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Puts our finalizer on an object; it stays with whatever else stands there.
///
/// # Errors
/// What the API server says.
pub async fn add_finalizer<K: Cached>(
    context: &Context,
    cache: &Cache<K>,
    api: &Api<K>,
    object: &K,
) -> Result<(), Error> {
    if object.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(());
    }
    let finalizers: Vec<_> = object.finalizers().iter().map(String::as_str).chain([FINALIZER]).collect();
    write_finalizers(context, cache, api, object, &finalizers).await
}

/// Takes our finalizer away: from here on nothing outside stands for the object.
///
/// # Errors
/// What the API server says; a conflict if the object changed since it was looked at.
pub async fn remove_finalizer<K: Cached>(
    context: &Context,
    cache: &Cache<K>,
    api: &Api<K>,
    object: &K,
) -> Result<(), Error> {
    let rest: Vec<_> = object.finalizers().iter().map(String::as_str).filter(|name| *name != FINALIZER).collect();
    if rest.len() == object.finalizers().len() {
        return Ok(());
    }
    write_finalizers(context, cache, api, object, &rest).await
}

async fn write_finalizers<K: Cached>(
    context: &Context,
    cache: &Cache<K>,
    api: &Api<K>,
    object: &K,
    finalizers: &[&str],
) -> Result<(), Error> {
    // The resource version makes this fail if anything happened to the object since the decision.
    let patch = json!({
        "metadata": { "resourceVersion": object.resource_version(), "finalizers": finalizers },
    });
    let _turn = context.writes.take(object).await;
    context.metrics.write::<K>("metadata");
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(written) => cache.absorb(written),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_its_fields_and_its_conditions_and_nothing_else() {
        let share = Share { manager: "test", fields: &["phase"], conditions: &["Ready"] };
        let status = json!({
            "phase": "Running", "address": "172.16.1.2", "hypervisor": null,
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Scheduled", "status": "True"}],
        });
        assert_eq!(share.of(&status), json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(share.of(&Value::Null), json!({}));
    }

    #[test]
    fn the_order_of_conditions_says_nothing() {
        let (one, other) = (json!({"type": "Ready"}), json!({"type": "Deleting"}));
        assert!(is_same(&json!({"conditions": [one, other]}), &json!({"conditions": [other, one]})));
        assert!(!is_same(&json!({"conditions": [one]}), &json!({"conditions": [other]})));
    }
}
