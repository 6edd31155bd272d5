//! The rules by which GitOps tools wait for objects (kstatus of cli-utils, for kinds that it doesn't know).

use serde_json::Value;

/// How such a tool reads an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As its spec wants it.
    Current,
    /// On its way there.
    InProgress,
    /// It won't get there by itself.
    Failed,
    /// Being deleted.
    Terminating,
}

/// How such a tool reads an object.
pub fn reading(object: &Value) -> Reading {
    let metadata = &object["metadata"];
    let observed = &object["status"]["observedGeneration"];
    let status_of = |kind: &str| {
        let conditions = object["status"]["conditions"].as_array();
        let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
        found.and_then(|condition| condition["status"].as_str())
    };
    if !metadata["deletionTimestamp"].is_null() {
        Reading::Terminating
    } else if observed.is_number() && *observed != metadata["generation"] || status_of("Reconciling") == Some("True") {
        Reading::InProgress
    } else if status_of("Stalled") == Some("True") {
        Reading::Failed
    } else if status_of("Ready").is_none_or(|ready| ready == "True") {
        Reading::Current
    } else {
        Reading::InProgress
    }
}
