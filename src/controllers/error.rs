//! Why a reconcile ended early, and what to do about it.

use crate::libvirt::HostError;

/// Why a reconcile ended early. All of these are tried again, with growing pauses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no, or nothing.
    #[error("Kubernetes: {0}")]
    Kubernetes(#[from] kube::Error),
    /// A host said no, or nothing.
    #[error("host {host}: {source}")]
    Host {
        /// Name of the `Hypervisor`.
        host: String,
        /// What it said.
        source: HostError,
    },
    /// One of our own objects can't be written as JSON.
    #[error("encoding: {0}")]
    Encoding(#[from] serde_json::Error),
}

impl Error {
    /// One word for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kubernetes(kube::Error::Api(status)) if status.code == 409 => "Conflict",
            Self::Kubernetes(kube::Error::Api(status)) if status.code == 403 => "Forbidden",
            Self::Kubernetes(_) => "Kubernetes",
            Self::Host { source, .. } => source.reason(),
            Self::Encoding(_) => "Encoding",
        }
    }

    /// Whether the object merely changed under our hands: the normal way of optimistic locking.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Kubernetes(kube::Error::Api(status)) if status.code == 409)
    }

    /// Whether the API server refused, so that surely nothing happened. After anything else it may have.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Kubernetes(kube::Error::Api(status)) => (400..500).contains(&status.code) && status.code != 408,
            Self::Encoding(_) => true,
            Self::Kubernetes(_) | Self::Host { .. } => false,
        }
    }
}
