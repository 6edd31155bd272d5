//! What of an object is kept in memory: only what is read.
//!
//! Whoever may write an object may hang a mebibyte of labels and annotations on it, and who wrote which field is half of
//! what is left. So an object in the cache is not all of the object: it is never written back as a whole (`objects`).

use std::collections::BTreeMap;

use kube::Resource;

/// Which labels of a kind are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepLabels {
    /// All: somebody selects by them.
    All,
    /// Our own.
    Ours,
}

/// Whether a label or an annotation is one of Cascina's.
#[must_use]
pub fn is_ours(key: &str) -> bool {
    key.starts_with("cascina.dev/")
}

/// The object without what nobody reads.
pub(super) fn slim<K: Resource>(mut object: K, labels: KeepLabels) -> K {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    keep_ours(&mut metadata.annotations);
    if labels == KeepLabels::Ours {
        keep_ours(&mut metadata.labels);
    }
    object
}

fn keep_ours(entries: &mut Option<BTreeMap<String, String>>) {
    if let Some(entries) = entries {
        entries.retain(|key, _| is_ours(key));
    }
    if entries.as_ref().is_some_and(BTreeMap::is_empty) {
        *entries = None;
    }
}
