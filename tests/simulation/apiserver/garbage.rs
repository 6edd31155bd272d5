//! What the garbage collector and the namespace controller do.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kind::{Write, resource};
use super::refusal::Refusal;
use super::store::Store;

impl Store {
    /// What the garbage collector and the namespace controller would do now. Says whether there was anything.
    pub fn collect_garbage(&mut self, now: Timestamp) -> bool {
        self.orphan_dependents(now);
        let mut doomed = Vec::new();
        for (of, kind) in &self.kinds {
            for ((namespace, name), entry) in &kind.objects {
                let metadata = &entry.object["metadata"];
                let owners = metadata["ownerReferences"].as_array();
                let alive = |owner: &Value| self.uids.contains(owner["uid"].as_str().unwrap_or_default());
                let orphaned = owners.is_some_and(|owners| !owners.is_empty() && !owners.iter().any(alive));
                let homeless = self.is_terminating(namespace);
                if (orphaned || homeless) && metadata["deletionTimestamp"].is_null() {
                    doomed.push((of.clone(), namespace.clone(), name.clone()));
                }
            }
        }
        for (of, namespace, name) in &doomed {
            let _ = self.delete(of, namespace, name, &json!({}), now);
        }
        self.finish_namespaces(now) || !doomed.is_empty()
    }

    /// What somebody deleted with `--cascade=orphan` loses those it owns, and then the finalizer that asks for it.
    fn orphan_dependents(&mut self, now: Timestamp) {
        let all = |store: &Self| {
            let objects = store.kinds.iter().flat_map(|(of, kind)| {
                kind.objects.iter().map(|((namespace, name), entry)| {
                    (of.clone(), namespace.clone(), name.clone(), entry.object.clone())
                })
            });
            objects.collect::<Vec<_>>()
        };
        let write = Write { manager: "garbage-collector", status: false, now };
        let asks = |object: &Value| {
            let finalizers = object["metadata"]["finalizers"].as_array();
            !object["metadata"]["deletionTimestamp"].is_null()
                && finalizers.is_some_and(|finalizers| finalizers.contains(&json!("orphan")))
        };
        // Mostly nobody asks, and this is looked for at every moment.
        if !self.kinds.values().flat_map(|kind| kind.objects.values()).any(|entry| asks(&entry.object)) {
            return;
        }
        for (of, namespace, name, owner) in all(self).into_iter().filter(|(_, _, _, object)| asks(object)) {
            let metadata = &owner["metadata"];
            let finalizers = metadata["finalizers"].as_array().cloned().unwrap_or_default();
            for (of, namespace, name, dependent) in all(self) {
                let owners = dependent["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
                let others: Vec<_> = owners.iter().filter(|one| one["uid"] != metadata["uid"]).collect();
                if others.len() < owners.len() {
                    let patch = json!({"metadata": {"ownerReferences": others}});
                    let _ = self.merge(&of, &namespace, &name, &patch, &write);
                }
            }
            let rest: Vec<_> = finalizers.iter().filter(|finalizer| **finalizer != "orphan").collect();
            let _ = self.merge(&of, &namespace, &name, &json!({"metadata": {"finalizers": rest}}), &write);
        }
    }

    fn finish_namespaces(&mut self, now: Timestamp) -> bool {
        let namespaces = self.list(&resource("", "namespaces"), "");
        let name = |namespace: &Value| namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let terminating = namespaces.iter().filter(|namespace| self.is_terminating(&name(namespace)));
        let is_empty = |place: &str| self.kinds.values().all(|kind| kind.objects.keys().all(|(of, _)| of != place));
        let done: Vec<_> = terminating.filter(|namespace| is_empty(&name(namespace))).cloned().collect();
        for namespace in &done {
            self.remove(&resource("", "namespaces"), namespace, now);
        }
        !done.is_empty()
    }

    /// Whether something new may come into a namespace.
    pub(super) fn may_create_in(&self, namespace: &str) -> Result<(), Refusal> {
        if namespace.is_empty() {
            return Ok(());
        }
        match self.get(&resource("", "namespaces"), "", namespace) {
            None => Err(Refusal::not_found("Namespace", namespace)),
            Some(_) if self.is_terminating(namespace) => Err(Refusal::terminating(namespace)),
            Some(_) => Ok(()),
        }
    }

    fn is_terminating(&self, namespace: &str) -> bool {
        let found = self.get(&resource("", "namespaces"), "", namespace);
        found.is_some_and(|namespace| !namespace["metadata"]["deletionTimestamp"].is_null())
    }
}
