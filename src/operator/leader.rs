//! Of several instances one works: a Lease decides.

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kube_lease_manager::LeaseManagerBuilder;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Options;

/// Name of the Lease in the operator's namespace.
const LEASE: &str = "cascina-operator";

/// Seconds after the last renewal at which others may take over.
const DURATION: u64 = 15;

/// Seconds before that at which the holder renews; also the clock skew that is tolerated.
const GRACE: u64 = 10;

/// Seconds before that at which a holder that could not renew stops: what it is at has to end first.
const MARGIN: u64 = 1;

/// How often the holder looks whether it was renewed.
const LOOK: Duration = Duration::from_secs(2);

/// The lead, as long as it is held.
pub struct Lead {
    leases: Api<Lease>,
    identity: String,
    held: watch::Receiver<bool>,
    renewing: JoinHandle<kube_lease_manager::Result<kube_lease_manager::LeaseManager>>,
}

impl Lead {
    /// Ends when another instance may have taken over.
    pub async fn lost(&self) {
        let mut held = self.held.clone();
        tokio::select! {
            // An error says that renewing ended, which is a loss too.
            _ = held.wait_for(|held| !held) => {}
            () = self.run_out() => {}
        }
    }

    /// Ends when the Lease wasn't renewed in time. The manager goes on trying, and holds the lead for its own meanwhile.
    async fn run_out(&self) {
        let mut renewed = Timestamp::now();
        // Waiting for an answer counts: an API server that hangs renews nothing.
        while let Ok(seen) = tokio::time::timeout(time_left(renewed, Timestamp::now()), self.look()).await {
            renewed = seen.unwrap_or(renewed);
        }
    }

    /// After a while, when the Lease was last renewed, if it can be read and is ours.
    async fn look(&self) -> Option<Timestamp> {
        tokio::time::sleep(LOOK).await;
        let spec = self.leases.get(LEASE).await.ok()?.spec?;
        let ours = spec.holder_identity.as_deref() == Some(&*self.identity);
        spec.renew_time.filter(|_| ours).map(|time| time.0)
    }

    /// Gives the lead away, so that another instance need not wait.
    pub async fn release(self) {
        drop(self.held);
        // If this fails the Lease runs out by itself.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.renewing).await;
    }
}

/// Waits for the lead; `None` if told to stop before.
///
/// # Errors
/// The Lease can't be read or written: mostly missing rights.
pub async fn wait_for_lead(client: Client, options: &Options, stop: &CancellationToken) -> Result<Option<Lead>> {
    let Options { namespace, identity, .. } = options;
    let manager = LeaseManagerBuilder::new(client.clone(), LEASE)
        .with_namespace(namespace)
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
    Ok(Some(Lead { leases: Api::namespaced(client, namespace), identity: identity.clone(), held, renewing }))
}

/// How long the holder of a Lease that was renewed last at this time may still work.
fn time_left(renewed: Timestamp, now: Timestamp) -> Duration {
    let age = Duration::try_from(now.duration_since(renewed)).unwrap_or_default();
    Duration::from_secs(DURATION - MARGIN).saturating_sub(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_stops_before_others_may_take_over() {
        let left = |age| time_left(Timestamp::UNIX_EPOCH, Timestamp::from_second(age).unwrap()).as_secs();
        assert!(left((DURATION - GRACE).cast_signed()) > 0, "there is time to renew");
        assert_eq!([left(13), left(14), left(15), left(1_000)], [1, 0, 0, 0]);
        assert_eq!(left(-10), 14, "a clock that was set back says nothing");
    }
}
