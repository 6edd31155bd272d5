//! One kind: its objects, its last changes, and what a write to it may touch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::apply::Owners;
use super::schema::Schema;

/// Group and plural name of a kind.
pub type Resource = (String, String);

/// Namespace (empty for cluster-scoped kinds) and name.
pub type Key = (String, String);

/// So many changes of a kind can be watched from; older versions are gone (410).
const HISTORY: usize = 20_000;

/// An object and who owns what of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The object.
    pub object: Arc<Value>,
    /// Who owns what.
    pub owners: Owners,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Version of the whole store.
    pub version: u64,
    /// When it happened.
    pub at: Timestamp,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: &'static str,
    /// The object after it.
    pub object: Arc<Value>,
}

/// What is known of a kind.
#[derive(Clone, Debug)]
pub struct Kind {
    /// `group/version` or `v1`.
    pub api_version: String,
    /// Its name.
    pub kind: String,
    /// Its shape and defaults.
    pub(super) schema: Arc<Schema>,
    /// Whether the status is written apart.
    pub(super) has_status: bool,
    /// Its objects.
    pub objects: BTreeMap<Key, Entry>,
    /// The last changes, oldest first.
    pub changes: VecDeque<Change>,
    /// Changes up to this version are forgotten.
    pub forgotten: u64,
}

/// What a write is made under.
pub struct Write<'a> {
    /// Name of the field manager.
    pub manager: &'a str,
    /// Whether the status is written, or all but the status.
    pub status: bool,
    /// The time.
    pub now: Timestamp,
}

impl Kind {
    pub(super) fn new(api_version: &str, kind: &str, schema: Schema, has_status: bool) -> Self {
        Self {
            api_version: api_version.into(),
            kind: kind.into(),
            schema: Arc::new(schema),
            has_status,
            objects: BTreeMap::new(),
            changes: VecDeque::new(),
            forgotten: 0,
        }
    }

    pub(super) fn note(&mut self, change: Change) {
        self.changes.push_back(change);
        if self.changes.len() > HISTORY
            && let Some(oldest) = self.changes.pop_front()
        {
            self.forgotten = oldest.version;
        }
    }

    /// The object as it is stored: what the write may not touch stays, and a new spec is a new generation.
    pub(super) fn settled(&self, old: &Value, mut object: Value, write: &Write<'_>) -> Value {
        if write.status {
            let status = object["status"].take();
            object = old.clone();
            object["status"] = status;
        } else if self.has_status {
            object["status"] = old["status"].clone();
        }
        if object["status"].is_null()
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        for kept in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
        ] {
            match old["metadata"].get(kept) {
                Some(value) => object["metadata"][kept] = value.clone(),
                None => drop(object["metadata"].as_object_mut().and_then(|fields| fields.remove(kept))),
            }
        }
        self.schema.complete(&mut object);
        if !write.status && object["spec"] != old["spec"] {
            object["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        object
    }
}

/// A kind by group and plural name.
pub fn resource(group: &str, plural: &str) -> Resource {
    (group.to_owned(), plural.to_owned())
}

pub(super) fn key_of(object: &Value) -> Key {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

pub(super) fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}

pub(super) fn is_news(before: Option<&Value>, after: &Value) -> bool {
    let without_times = |object: &Value| {
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = Value::Null;
        object["status"]["lastContact"] = Value::Null;
        object
    };
    after["kind"] != "Event" && before.map(without_times) != Some(without_times(after))
}
