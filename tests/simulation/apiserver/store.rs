//! The objects, their versions, and what the API server does by itself when they change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cascina::api::custom_resource_definitions;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::apply::{Applied, Manager, Owners, apply, take_over};
use super::kind::{Change, Entry, Key, Kind, Resource, Write, has_finalizers, is_news, key_of, resource};
use super::refusal::Refusal;
use super::schema::Schema;

/// All objects.
#[derive(Clone, Debug)]
pub struct Store {
    /// Kinds by group and plural name.
    pub kinds: BTreeMap<Resource, Kind>,
    /// The version of the last change.
    pub version: u64,
    /// When something other than an event or a host's time of contact last changed.
    pub last_change: Timestamp,
    /// Uids of all objects.
    pub(super) uids: BTreeSet<String>,
    made: u64,
}

impl Store {
    /// A cluster with its namespaces and our kinds.
    pub fn new(now: Timestamp) -> Self {
        let mut kinds = BTreeMap::new();
        for definition in custom_resource_definitions() {
            let version = &definition.spec.versions[0];
            let document = serde_json::to_value(version.schema.as_ref().unwrap().open_api_v3_schema.as_ref()).unwrap();
            let names = &definition.spec.names;
            let api_version = format!("{}/{}", definition.spec.group, version.name);
            let schema = Schema::of_custom(&document);
            let key = (definition.spec.group.clone(), names.plural.clone());
            kinds.insert(key, Kind::new(&api_version, &names.kind, schema, true));
        }
        for (group, plural, api_version, kind) in [
            ("", "namespaces", "v1", "Namespace"),
            ("", "secrets", "v1", "Secret"),
            ("", "configmaps", "v1", "ConfigMap"),
            ("rbac.authorization.k8s.io", "rolebindings", "rbac.authorization.k8s.io/v1", "RoleBinding"),
            ("events.k8s.io", "events", "events.k8s.io/v1", "Event"),
        ] {
            kinds.insert((group.into(), plural.into()), Kind::new(api_version, kind, Schema::of_builtin(), false));
        }
        let mut store = Self { kinds, version: 100, last_change: now, uids: BTreeSet::new(), made: 0 };
        for name in ["kube-system", "default", "cascina-system"] {
            let namespace = json!({"metadata": {"name": name}});
            store.create(&resource("", "namespaces"), "", namespace, "test", now).unwrap();
        }
        store
    }

    /// An object as it is.
    pub fn get(&self, of: &Resource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let entry = self.kinds.get(of)?.objects.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(Arc::clone(&entry.object))
    }

    /// All objects of a kind in a namespace; everywhere, if that is empty.
    pub fn list(&self, of: &Resource, namespace: &str) -> Vec<Arc<Value>> {
        let objects = self.kinds.get(of).into_iter().flat_map(|kind| &kind.objects);
        let wanted = objects.filter(|((place, _), _)| namespace.is_empty() || place == namespace);
        wanted.map(|(_, entry)| Arc::clone(&entry.object)).collect()
    }

    /// All objects of a kind as they were then, and the version of that.
    pub fn list_at(&self, of: &Resource, namespace: &str, then: Timestamp) -> (Vec<Arc<Value>>, u64) {
        let mut objects = BTreeMap::new();
        let mut version = 0;
        let changes = self.kinds.get(of).into_iter().flat_map(|kind| &kind.changes);
        for change in changes.take_while(|change| change.at <= then) {
            version = change.version;
            match change.kind {
                "DELETED" => drop(objects.remove(&key_of(&change.object))),
                _ => drop(objects.insert(key_of(&change.object), Arc::clone(&change.object))),
            }
        }
        let here = objects.into_iter().filter(|((place, _), _)| namespace.is_empty() || place == namespace);
        (here.map(|(_, object)| object).collect(), version)
    }

    /// Makes an object.
    pub fn create(
        &mut self,
        of: &Resource,
        namespace: &str,
        mut object: Value,
        manager: &str,
        now: Timestamp,
    ) -> Result<Arc<Value>, Refusal> {
        self.may_create_in(namespace)?;
        let kind = self.kinds.get(of).ok_or_else(|| Refusal::unknown(of))?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (namespace.to_owned(), name.clone());
        if kind.objects.contains_key(&key) {
            return Err(Refusal::exists(&kind.kind, &name));
        }
        object["apiVersion"] = kind.api_version.clone().into();
        object["kind"] = kind.kind.clone().into();
        if kind.has_status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        self.made += 1;
        let uid = uuid::Uuid::from_u128(0xcafe_0000_0000_4000_8000_0000_0000_0000 + u128::from(self.made)).to_string();
        let metadata = &mut object["metadata"];
        if !namespace.is_empty() {
            metadata["namespace"] = namespace.into();
        }
        metadata["uid"] = uid.clone().into();
        metadata["creationTimestamp"] = seconds(now).into();
        metadata["generation"] = 1.into();
        self.uids.insert(uid);
        let kind = self.kinds.get_mut(of).ok_or_else(|| Refusal::unknown(of))?;
        kind.schema.complete(&mut object);
        let mut owners = Owners::new();
        take_over(&kind.schema.shape, &mut owners, &updater(manager, false), &json!({}), &object);
        Ok(self.put(of, key, object, owners, "ADDED", now))
    }

    /// Replaces an object, or its status.
    pub fn replace(
        &mut self,
        of: &Resource,
        namespace: &str,
        name: &str,
        object: Value,
        write: &Write<'_>,
    ) -> Result<Arc<Value>, Refusal> {
        let (kind, entry) = self.find(of, namespace, name)?;
        if object["metadata"]["resourceVersion"].is_null() {
            return Err(Refusal::invalid("metadata.resourceVersion: must be specified for an update"));
        }
        let (old, mut owners) = (Arc::clone(&entry.object), entry.owners.clone());
        check_preconditions(&kind.kind, &old, &object)?;
        let new = kind.settled(&old, object, write);
        take_over(&kind.schema.shape, &mut owners, &updater(write.manager, write.status), &old, &new);
        self.update(of, &old, new, owners, write.now)
    }

    /// Merges a patch (RFC 7386).
    pub fn merge(
        &mut self,
        of: &Resource,
        namespace: &str,
        name: &str,
        patch: &Value,
        write: &Write<'_>,
    ) -> Result<Arc<Value>, Refusal> {
        let (kind, entry) = self.find(of, namespace, name)?;
        let old = Arc::clone(&entry.object);
        check_preconditions(&kind.kind, &old, patch)?;
        let mut object = (*old).clone();
        merge_patch(&mut object, patch);
        object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        self.replace(of, namespace, name, object, write)
    }

    /// Applies what a manager wants.
    pub fn apply(
        &mut self,
        of: &Resource,
        namespace: &str,
        name: &str,
        wanted: Value,
        force: bool,
        write: &Write<'_>,
    ) -> Result<Arc<Value>, Refusal> {
        let manager: Manager = (write.manager.to_owned(), "Apply", part(write.status));
        let Ok((kind, entry)) = self.find(of, namespace, name) else {
            return self.apply_new(of, namespace, name, wanted, &manager, write);
        };
        let (old, mut owners) = (Arc::clone(&entry.object), entry.owners.clone());
        check_preconditions(&kind.kind, &old, &without_uid(&wanted, write.status))?;
        let wanted = restricted(wanted, write.status);
        let merged = match apply(&kind.schema.shape, &mut owners, &manager, &old, &wanted, force) {
            Applied::Merged(merged) => merged,
            Applied::Conflicts(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| path.join(".")).collect();
                return Err(Refusal::conflict(&kind.kind, name, &format!("fields of others: {}", paths.join(", "))));
            }
        };
        let new = kind.settled(&old, merged, write);
        self.update(of, &old, new, owners, write.now)
    }

    fn apply_new(
        &mut self,
        of: &Resource,
        namespace: &str,
        name: &str,
        wanted: Value,
        manager: &Manager,
        write: &Write<'_>,
    ) -> Result<Arc<Value>, Refusal> {
        let kind = self.kinds.get(of).ok_or_else(|| Refusal::unknown(of))?;
        if write.status {
            return Err(Refusal::not_found(&kind.kind, name));
        }
        if !wanted["metadata"]["uid"].is_null() {
            return Err(Refusal::conflict(&kind.kind, name, "Precondition failed: UID in precondition"));
        }
        let shape = kind.schema.shape.clone();
        let made = self.create(of, namespace, wanted.clone(), write.manager, write.now)?;
        let mut owners = Owners::new();
        // The same values again: nothing changes but who owns them.
        let _ = apply(&shape, &mut owners, manager, &made, &wanted, true);
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(entry) = self.kinds.get_mut(of).and_then(|kind| kind.objects.get_mut(&key)) {
            entry.owners = owners;
        }
        Ok(made)
    }

    /// Deletes an object: marks it while finalizers stand on it. Gives what is left of it.
    pub fn delete(
        &mut self,
        of: &Resource,
        namespace: &str,
        name: &str,
        preconditions: &Value,
        now: Timestamp,
    ) -> Result<Option<Arc<Value>>, Refusal> {
        let (kind, entry) = self.find(of, namespace, name)?;
        let old = Arc::clone(&entry.object);
        check_preconditions(&kind.kind, &old, &json!({ "metadata": preconditions }))?;
        let owners = entry.owners.clone();
        if !has_finalizers(&old) {
            self.remove(of, &old, now);
            return Ok(None);
        }
        let mut object = (*old).clone();
        if old["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = seconds(now).into();
            object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            object["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        self.update(of, &old, object, owners, now).map(Some)
    }

    fn find(&self, of: &Resource, namespace: &str, name: &str) -> Result<(&Kind, &Entry), Refusal> {
        let kind = self.kinds.get(of).ok_or_else(|| Refusal::unknown(of))?;
        let entry = kind.objects.get(&(namespace.to_owned(), name.to_owned()));
        Ok((kind, entry.ok_or_else(|| Refusal::not_found(&kind.kind, name))?))
    }

    fn update(
        &mut self,
        of: &Resource,
        old: &Arc<Value>,
        new: Value,
        owners: Owners,
        now: Timestamp,
    ) -> Result<Arc<Value>, Refusal> {
        let key = key_of(old);
        if new == **old {
            // Nothing happened, so nobody hears of it.
            if let Some(entry) = self.kinds.get_mut(of).and_then(|kind| kind.objects.get_mut(&key)) {
                entry.owners = owners;
            }
            return Ok(Arc::clone(old));
        }
        if !new["metadata"]["deletionTimestamp"].is_null() && !has_finalizers(&new) {
            return Ok(self.remove(of, &Arc::new(new), now));
        }
        Ok(self.put(of, key, new, owners, "MODIFIED", now))
    }

    fn put(
        &mut self,
        of: &Resource,
        key: Key,
        mut object: Value,
        owners: Owners,
        what: &'static str,
        now: Timestamp,
    ) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(object);
        let Some(kind) = self.kinds.get_mut(of) else { return object };
        let before = kind.objects.insert(key, Entry { object: Arc::clone(&object), owners });
        if is_news(before.as_ref().map(|entry| &*entry.object), &object) {
            self.last_change = now;
        }
        kind.note(Change { version: self.version, at: now, kind: what, object: Arc::clone(&object) });
        object
    }

    /// Takes an object away.
    pub(super) fn remove(&mut self, of: &Resource, object: &Arc<Value>, now: Timestamp) -> Arc<Value> {
        self.version += 1;
        self.last_change = now;
        let mut last = (**object).clone();
        last["metadata"]["resourceVersion"] = self.version.to_string().into();
        let last = Arc::new(last);
        self.uids.remove(last["metadata"]["uid"].as_str().unwrap_or_default());
        if let Some(kind) = self.kinds.get_mut(of) {
            kind.objects.remove(&key_of(&last));
            kind.note(Change { version: self.version, at: now, kind: "DELETED", object: Arc::clone(&last) });
        }
        last
    }
}

fn part(status: bool) -> String {
    if status { "status".into() } else { String::new() }
}

fn updater(manager: &str, status: bool) -> Manager {
    (manager.to_owned(), "Update", part(status))
}

/// To an apply of a status the uid says nothing, as the real API server has it.
fn without_uid(wanted: &Value, status: bool) -> Value {
    let mut given = wanted.clone();
    if status {
        given["metadata"]["uid"] = Value::Null;
    }
    given
}

/// The part of what is applied that a write to this subresource looks at.
fn restricted(mut wanted: Value, status: bool) -> Value {
    if let Some(fields) = wanted.as_object_mut() {
        if status {
            fields.retain(|name, _| name == "status");
        } else {
            fields.remove("status");
        }
    }
    wanted
}

fn check_preconditions(kind: &str, old: &Value, given: &Value) -> Result<(), Refusal> {
    for field in ["uid", "resourceVersion"] {
        let (wanted, is) = (&given["metadata"][field], &old["metadata"][field]);
        if wanted.is_string() && wanted != is {
            let name = old["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Refusal::conflict(kind, name, &format!("Precondition failed: {field}: {wanted} is {is}")));
        }
    }
    Ok(())
}

fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            drop(target.as_object_mut().and_then(|target| target.remove(name)));
        } else {
            merge_patch(&mut target[name], value);
        }
    }
}

/// Times in metadata have whole seconds.
fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}
