//! Steps become calls, and nothing else.

use super::plan::Step;
use crate::controllers::fleet::FleetHost;
use crate::libvirt::{DomainUuid, HostError, OwnershipTag};
use crate::metrics::Metrics;

/// Does the steps; what is in use after all stays.
///
/// # Errors
/// What the host said.
pub async fn act(host: &FleetHost, steps: &[Step]) -> Result<(), HostError> {
    // A machine that is being made may need a filter before its domain is there: then it waits until the next look.
    let Ok(_alone) = host.making.try_write() else { return Ok(()) };
    for step in steps {
        step_on(host, step).await?;
    }
    host.refresh();
    Ok(())
}

/// Puts guests behind the rules of this version. Returns the filters that had others.
///
/// # Errors
/// What the host said.
pub async fn renew_rules(host: &FleetHost) -> Result<Vec<String>, HostError> {
    let renewed = host.host.renew_filters().await?;
    host.note_rules_renewed();
    Ok(renewed)
}

/// Cuts guests off the network.
///
/// # Errors
/// What the host said.
pub async fn cut_off(host: &FleetHost, steps: &[Step]) -> Result<(), HostError> {
    for step in steps {
        step_on(host, step).await?;
    }
    host.refresh();
    Ok(())
}

/// Removes what is left of placements that are over. No machine that is being made has a part in that.
///
/// # Errors
/// What the host said.
pub async fn remove(host: &FleetHost, steps: &[Step], metrics: &Metrics) -> Result<(), HostError> {
    for step in steps {
        step_on(host, step).await?;
        if matches!(step, Step::RemoveCopy(_)) {
            metrics.stale_copy_removed();
        }
    }
    host.refresh();
    Ok(())
}

async fn step_on(host: &FleetHost, step: &Step) -> Result<(), HostError> {
    let outcome = match step {
        Step::MarkPool(name) => host.host.write_volume(name, &[]).await,
        Step::DeleteFilter(name) => host.host.delete_filter(name).await,
        Step::DeleteVolume(name) => host.host.delete_volume(name).await,
        Step::CutOff(uuid) => {
            tracing::info!(host = %host.name, machine = %uuid, "its farm is gone: cut off the network");
            host.host.mend_nics(*uuid, &[]).await
        }
        // While it runs its volumes stay.
        Step::RemoveCopy(tag) => return remove_copy(host, tag).await,
    };
    match outcome {
        Err(HostError::InUse { .. }) => Ok(()),
        outcome => outcome,
    }
}

/// Looks once more before it switches off: by now a later placement may be there under the same UUID.
async fn remove_copy(host: &FleetHost, stale: &OwnershipTag) -> Result<(), HostError> {
    let uuid = DomainUuid(stale.uid);
    let there = host.host.domain(uuid).await?.and_then(|domain| domain.tag);
    if there.is_some_and(|tag| tag.cluster == stale.cluster && tag.epoch <= stale.epoch) {
        tracing::info!(host = %host.name, machine = %uuid, epoch = stale.epoch, "removing a copy of a placement that is over");
        host.host.destroy(uuid).await?;
        host.host.undefine(uuid).await?;
    }
    Ok(())
}
