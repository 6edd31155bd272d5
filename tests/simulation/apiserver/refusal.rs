//! What the API server says when it says no.

use serde_json::{Value, json};

use super::kind::Resource;

/// A refusal: code, reason, message, and what else stands in the details.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    reason: &'static str,
    message: String,
    details: Value,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, details: json!({}) }
    }

    /// There is no such object.
    pub fn not_found(kind: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{kind} {name:?} not found"))
    }

    /// There is one already.
    pub fn exists(kind: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{kind} {name:?} already exists"))
    }

    /// It is another one by now.
    pub fn conflict(kind: &str, name: &str, why: &str) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {kind} {name:?}: {why}"))
    }

    /// It makes no sense.
    pub fn invalid(why: &str) -> Self {
        Self::new(422, "Invalid", why.to_owned())
    }

    /// Nothing new in a namespace that goes.
    pub fn terminating(namespace: &str) -> Self {
        let message = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let causes = json!({"causes": [{"reason": "NamespaceTerminating", "message": message}]});
        Self { details: causes, ..Self::new(403, "Forbidden", message) }
    }

    /// Changes that are forgotten.
    pub fn expired(version: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {version} ({oldest})"))
    }

    /// A kind that this server doesn't know: the simulation has to learn it.
    pub fn unknown(of: &Resource) -> Self {
        panic!("the simulated API server knows no {of:?}: teach it in apiserver/store.rs");
    }

    /// As a `Status` object.
    pub fn status(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": self.details, "code": self.code,
        })
    }
}
