//! How the controllers make, change and remove objects of their own.

use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde::Serialize;

use super::cache::{Cache, Cached};
use super::context::Context;

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
        self.context.metrics.write::<K>("object");
        self.cache.absorb(self.api.create(&self.params(), object).await?);
        Ok(())
    }

    /// Changes one, with the version that the change was planned from: what somebody else changed since is not undone.
    ///
    /// # Errors
    /// What the API server says; a conflict if it changed.
    pub async fn replace(&self, object: &K) -> kube::Result<()> {
        self.context.metrics.write::<K>("object");
        self.cache.absorb(self.api.replace(&object.name_any(), &self.params(), object).await?);
        Ok(())
    }

    /// Deletes exactly this one, as it was looked at: whoever took it from its owner meanwhile keeps it. That it is gone
    /// is no error.
    ///
    /// # Errors
    /// What the API server says; a conflict if it changed.
    pub async fn delete(&self, object: &K) -> kube::Result<()> {
        let exactly = Preconditions { uid: object.uid(), resource_version: object.resource_version() };
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
