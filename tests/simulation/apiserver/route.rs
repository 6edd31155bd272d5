//! What a URI asks for.

use std::collections::BTreeMap;

use axum::http::Uri;

use super::kind::{Resource, resource};

/// What a URI asks for.
#[derive(Clone, Debug)]
pub struct Route {
    /// The kind.
    pub resource: Resource,
    /// The namespace; empty for cluster-scoped kinds and for all namespaces.
    pub namespace: String,
    /// The object; empty for all.
    pub name: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Parameters.
    pub query: BTreeMap<String, String>,
}

impl Route {
    /// Of `/api/v1/…` or `/apis/GROUP/VERSION/…`.
    pub fn of(uri: &Uri) -> Self {
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
        let group = match parts.next() {
            Some("api") => "",
            Some("apis") => parts.next().unwrap(),
            other => panic!("no route for {other:?} in {uri}"),
        };
        let parts: Vec<_> = parts.skip(1).collect();
        let (namespace, rest) = match parts.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let part = |index: usize| rest.get(index).copied().unwrap_or_default();
        let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Self {
            resource: resource(group, part(0)),
            namespace: namespace.to_owned(),
            name: part(1).to_owned(),
            subresource: part(2).to_owned(),
            query: query.into_owned().collect(),
        }
    }

    /// Whether a parameter is set.
    pub fn flag(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| value == "true" || value == "1")
    }
}
