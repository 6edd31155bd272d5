//! Objects of one kind, filed by name and by whatever else they are looked up by.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use kube::{Resource, ResourceExt};

/// Namespace (empty for cluster-scoped kinds) and name.
pub type Key = (String, String);

/// Under what an object is filed, besides its name: what many are looked up by that are few of all.
pub type Index<K> = fn(&K) -> Vec<String>;

/// How many deleted objects of a namespace are remembered, so that a late answer doesn't bring one back. Each has a list of its
/// own: what one tenant deletes pushes nobody else's out.
const REMEMBERED: usize = 1024;

/// The uids of objects that were seen to be deleted.
#[derive(Default)]
pub(super) struct Buried {
    by_namespace: HashMap<String, VecDeque<String>>,
    uids: HashSet<String>,
}

impl Buried {
    pub(super) fn add(&mut self, namespace: String, uid: String) {
        if !self.uids.insert(uid.clone()) {
            return;
        }
        let of_namespace = self.by_namespace.entry(namespace).or_default();
        of_namespace.push_back(uid);
        if of_namespace.len() > REMEMBERED
            && let Some(oldest) = of_namespace.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }
}

/// All objects of one kind as they are known, and how they are found.
pub(super) struct Objects<K> {
    pub(super) index: Index<K>,
    pub(super) by_key: BTreeMap<Key, Arc<K>>,
    pub(super) by_entry: BTreeMap<String, BTreeSet<Key>>,
    pub(super) uids: HashSet<String>,
    pub(super) buried: Buried,
}

impl<K: Resource> Objects<K> {
    pub(super) fn new(index: Index<K>) -> Self {
        Self {
            index,
            by_key: BTreeMap::new(),
            by_entry: BTreeMap::new(),
            uids: HashSet::new(),
            buried: Buried::default(),
        }
    }

    pub(super) fn insert(&mut self, object: Arc<K>) {
        let key = key(&*object);
        self.remove(&key);
        for entry in (self.index)(&object) {
            self.by_entry.entry(entry).or_default().insert(key.clone());
        }
        self.uids.extend(object.uid());
        self.by_key.insert(key, object);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(known) = self.by_key.remove(key) else { return };
        if let Some(uid) = &known.meta().uid {
            self.uids.remove(uid);
        }
        for entry in (self.index)(&known) {
            let Some(keys) = self.by_entry.get_mut(&entry) else { continue };
            keys.remove(key);
            if keys.is_empty() {
                self.by_entry.remove(&entry);
            }
        }
    }

    /// Takes everything out.
    pub(super) fn empty(&mut self) -> BTreeMap<Key, Arc<K>> {
        self.by_entry.clear();
        self.uids.clear();
        std::mem::take(&mut self.by_key)
    }
}

pub(super) fn key<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Whether two copies are of one version of one object.
pub(super) fn is_same_version<K: Resource>(one: &K, other: &K) -> bool {
    let version = |object: &K| (object.uid(), object.resource_version());
    key(one) == key(other) && version(one) == version(other)
}

/// Resource versions of one kind grow, and may be compared as numbers (KEP-5504).
pub(super) fn is_newer<K: Resource>(object: &K, known: &K) -> bool {
    let version = |object: &K| object.resource_version().and_then(|version| version.parse::<u64>().ok());
    object.uid() != known.uid() || version(object) > version(known)
}
