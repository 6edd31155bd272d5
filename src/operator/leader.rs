//! Of several instances one works: a Lease decides.

use anyhow::{Context as _, Result};
use kube_lease_manager::LeaseManagerBuilder;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::controllers::context::Context;

/// Name of the Lease in the operator's namespace.
const LEASE: &str = "cascina-operator";

/// Seconds after the last renewal at which others may take over.
const DURATION: u64 = 15;

/// Seconds before that at which the holder renews; also the clock skew that is tolerated.
const GRACE: u64 = 5;

/// The lead, as long as it is held.
pub struct Lead {
    held: watch::Receiver<bool>,
    renewing: JoinHandle<kube_lease_manager::Result<kube_lease_manager::LeaseManager>>,
}

impl Lead {
    /// Ends when another instance may have taken over.
    pub async fn lost(&self) {
        let mut held = self.held.clone();
        // An error says that renewing ended, which is a loss too.
        let _ = held.wait_for(|held| !held).await;
    }

    /// Gives the lead away, so that another instance need not wait.
    pub async fn release(self) {
        drop(self.held);
        // If this fails the Lease runs out by itself.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.renewing).await;
    }
}

/// Waits for the lead; `None` if told to stop before.
///
/// # Errors
/// The Lease can't be read or written: mostly missing rights.
pub async fn wait_for_lead(context: &Context, identity: &str, stop: &CancellationToken) -> Result<Option<Lead>> {
    let manager = LeaseManagerBuilder::new(context.client.clone(), LEASE)
        .with_namespace(&context.namespace)
        .with_identity(identity)
        .with_field_manager(format!("cascina-lease-{identity}"))
        .with_duration(DURATION)
        .with_grace(GRACE)
        .build()
        .await
        .context("reading the Lease")?;
    let (mut held, renewing) = manager.watch().await;
    let waiting = async { held.wait_for(|held| *held).await.map(|_| ()) };
    tokio::select! {
        outcome = waiting => outcome.context("renewing the Lease ended")?,
        () = stop.cancelled() => return Ok(None),
    }
    Ok(Some(Lead { held, renewing }))
}
