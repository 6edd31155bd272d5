//! What the garbage collector and the namespace controller do.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kind::resource;
use super::refusal::Refusal;
use super::store::Store;

impl Store {
    /// What the garbage collector and the namespace controller would do now. Says whether there was anything.
    pub fn collect_garbage(&mut self, now: Timestamp) -> bool {
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
