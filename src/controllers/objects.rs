//! How the controllers make, change and remove objects of their own.

use std::sync::Arc;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde_json::{Map, Value};

use super::cache::{Cache, Cached};
use super::context::Context;
use super::error::Error;

/// Objects of one kind in one namespace, and in whose name they are written.
pub struct Objects<'a, K: Cached> {
    /// What the controllers share.
    pub context: &'a Context,
    /// Where they are known.
    pub cache: &'a Cache<K>,
    /// Where they are written.
    pub api: Api<K>,
    /// Name of the field manager.
    pub manager: &'static str,
}

impl<K: Cached + Serialize> Objects<'_, K> {
    fn params(&self) -> PostParams {
        PostParams { field_manager: Some(self.manager.into()), ..PostParams::default() }
    }

    /// Makes one: a create, not an apply, which would take over what somebody makes under this name right now.
    ///
    /// # Errors
    /// What the API server says; that somebody was faster.
    pub async fn create(&self, object: &K) -> kube::Result<()> {
        let _turn = self.context.writes.take(object).await;
        self.context.metrics.write::<K>("object");
        self.cache.absorb(self.api.create(&self.params(), object).await?);
        Ok(())
    }

    /// Makes one what it is to be, from the version that the change was planned from: what somebody else changed since is not
    /// undone, and what the cache doesn't keep of it stays as it is.
    ///
    /// # Errors
    /// What the API server says; a conflict if it changed.
    pub async fn change(&self, object: &K) -> Result<(), Error> {
        let is_planned_from = |known: &Arc<K>| known.resource_version() == object.resource_version();
        // One that changed meanwhile has woken whoever planned this.
        let Some(before) = self.cache.latest(object).filter(is_planned_from) else { return Ok(()) };
        let mut before = K::clone(&before);
        // So the patch says for which version it is.
        before.meta_mut().resource_version = None;
        let patch = merge_patch(&serde_json::to_value(&before)?, &serde_json::to_value(object)?);
        let params = PatchParams { field_manager: Some(self.manager.into()), ..PatchParams::default() };
        let _turn = self.context.writes.take(object).await;
        self.context.metrics.write::<K>("object");
        self.cache.absorb(self.api.patch(&object.name_any(), &params, &Patch::Merge(patch)).await?);
        Ok(())
    }

    /// Deletes exactly this one, as it was looked at: whoever took it from its owner meanwhile keeps it. That it is gone
    /// is no error.
    ///
    /// # Errors
    /// What the API server says; a conflict if it changed.
    pub async fn delete(&self, object: &K) -> kube::Result<()> {
        let exactly = Preconditions { uid: object.uid(), resource_version: object.resource_version() };
        let _turn = self.context.writes.take(object).await;
        self.context.metrics.write::<K>("object");
        match self.api.delete(&object.name_any(), &DeleteParams::default().preconditions(exactly)).await {
            Ok(answer) => {
                // As it is now, with a deletion timestamp, unless it is gone already.
                if let Some(object) = answer.left() {
                    self.cache.absorb(object);
                }
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What has to be merged (RFC 7386) into the one to make it the other: `null` removes a field, a list is one value.
fn merge_patch(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return after.clone() };
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let changed = changed.map(|(key, value)| {
        let known = before.get(key).unwrap_or(&Value::Null);
        // Into what isn't there an object is merged as into an empty one: so nulls in it go.
        let known = if value.is_object() && !known.is_object() { &Value::Object(Map::new()) } else { known };
        (key.clone(), merge_patch(known, value))
    });
    Value::Object(gone.chain(changed).collect())
}

/// Whether an object couldn't be made because its namespace is being deleted.
#[must_use]
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Whether an object couldn't be made because there is one of that name.
#[must_use]
pub fn is_name_taken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// RFC 7386, section 2.
    fn merged(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut target = if let Value::Object(target) = target { target } else { Map::new() };
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                let known = target.remove(key).unwrap_or_default();
                target.insert(key.clone(), merged(known, value));
            }
        }
        Value::Object(target)
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<u8>().prop_map(Value::from), "[a-c]{0,2}".prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn one_source_of_user_data_takes_the_place_of_another() {
        let before = json!({"spec": {"userData": {"inline": "a"}, "image": "one"}});
        let after = json!({"spec": {"userData": {"secretRef": {"name": "s"}}, "image": "one"}});
        let patch = json!({"spec": {"userData": {"inline": null, "secretRef": {"name": "s"}}}});
        assert_eq!(merge_patch(&before, &after), patch);
    }

    proptest! {
        #[test]
        fn a_patch_makes_the_one_the_other_and_touches_nothing_else(before in documents(), after in documents()) {
            let [before, after] = [before, after].map(|document| json!({"spec": document}));
            let patch = merge_patch(&before, &after);
            prop_assert_eq!(merged(before.clone(), &patch), after.clone());
            prop_assert_eq!(before == after, patch == json!({}));
            let with_more = |mut document: Value| {
                document["metadata"] = json!({"annotations": {"example.org/note": "kept"}});
                document
            };
            prop_assert_eq!(merged(with_more(before), &patch), with_more(after));
        }
    }
}
