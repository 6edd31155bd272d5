//! Steps become calls, and nothing else.

use super::plan::Step;
use crate::controllers::fleet::FleetHost;
use crate::libvirt::{DomainUuid, HostError, OwnershipTag};
use crate::metrics::Metrics;

/// Does the steps; what is in use after all stays.
///
/// # Errors
/// What the host said first. The other steps are done all the same.
pub async fn act(host: &FleetHost, steps: &[Step]) -> Result<(), HostError> {
    // A machine that is being made may need a filter before its domain is there: then it waits until the next look.
    let Ok(_alone) = host.making.try_write() else { return Ok(()) };
    let mut tries = Tries::default();
    for step in steps {
        if tries.admit(step) {
            tries.note(step, step_on(host, step).await);
        }
    }
    host.refresh();
    tries.outcome()
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
/// What the host said first. The other guests are cut off all the same.
pub async fn cut_off(host: &FleetHost, steps: &[Step]) -> Result<(), HostError> {
    let mut tries = Tries::default();
    for step in steps {
        if tries.admit(step) {
            tries.note(step, step_on(host, step).await);
        }
    }
    host.refresh();
    tries.outcome()
}

/// Removes what is left of placements that are over. No machine that is being made has a part in that.
///
/// # Errors
/// What the host said first. What is left of other machines is removed all the same.
pub async fn remove(host: &FleetHost, steps: &[Step], metrics: &Metrics) -> Result<(), HostError> {
    let mut tries = Tries::default();
    for step in steps {
        if tries.admit(step) {
            let outcome = step_on(host, step).await;
            if outcome.is_ok() && matches!(step, Step::RemoveCopy(_)) {
                metrics.stale_copy_removed();
            }
            tries.note(step, outcome);
        }
    }
    host.refresh();
    tries.outcome()
}

/// What has come of steps so far. All are tried, or one that always fails would keep those after it from ever being done.
#[derive(Default)]
struct Tries {
    /// Copies that couldn't be removed: what the names of their volumes begin with.
    stay: Vec<String>,
    first: Option<HostError>,
}

impl Tries {
    /// Whether a step may be tried. The volumes of a copy that is still there stay, and a host that is silent is asked for nothing
    /// more.
    fn admit(&self, step: &Step) -> bool {
        let of_copy = |name: &String| self.stay.iter().any(|prefix| name.starts_with(prefix));
        let stays = matches!(step, Step::DeleteVolume(name) if of_copy(name));
        !stays && !self.first.as_ref().is_some_and(HostError::is_silence)
    }

    fn note(&mut self, step: &Step, outcome: Result<(), HostError>) {
        let Err(error) = outcome else { return };
        if let Step::RemoveCopy(tag) = step {
            self.stay.push(format!("{}-", tag.uid));
        }
        match &self.first {
            // That it is silent now counts for the steps to come.
            Some(_) if !error.is_silence() => {}
            _ => self.first = Some(error),
        }
    }

    fn outcome(self) -> Result<(), HostError> {
        self.first.map_or(Ok(()), Err)
    }
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn cut_off(number: u128) -> Step {
        Step::CutOff(DomainUuid(Uuid::from_u128(number)))
    }

    fn refused(message: &str) -> HostError {
        HostError::Refused { operation: "mend_nics", message: message.into() }
    }

    /// What is tried of these steps when some fail, and what comes of it.
    fn tried(steps: &[Step], fails: impl Fn(&Step) -> Option<HostError>) -> (Vec<Step>, Result<(), HostError>) {
        let (mut tries, mut tried) = (Tries::default(), Vec::new());
        for step in steps {
            if tries.admit(step) {
                tried.push(step.clone());
                tries.note(step, fails(step).map_or(Ok(()), Err));
            }
        }
        (tried, tries.outcome())
    }

    #[test]
    fn a_cable_that_can_not_be_pulled_leaves_no_other_plugged_in() {
        let steps = [1, 2, 3].map(cut_off);
        let fails =
            |step: &Step| (*step != steps[1]).then(|| refused(if *step == steps[0] { "first" } else { "last" }));
        let (tried, outcome) = tried(&steps, fails);
        assert_eq!(tried, steps);
        assert!(outcome.unwrap_err().to_string().contains("first"));
    }

    #[test]
    fn a_host_that_is_silent_is_asked_once() {
        let silent = HostError::Deadline { operation: "mend_nics", after: std::time::Duration::from_secs(10) };
        let (tried, outcome) = tried(&[1, 2, 3].map(cut_off), |_| Some(silent.clone()));
        assert_eq!(tried, [cut_off(1)]);
        assert!(outcome.unwrap_err().is_silence());
    }

    #[test]
    fn the_volumes_of_a_copy_that_is_still_there_stay() {
        let tag = |number| OwnershipTag {
            cluster: "us".into(),
            namespace: "tenant".into(),
            name: "one".into(),
            uid: Uuid::from_u128(number),
            epoch: 1,
            spec_hash: String::new(),
        };
        let volume = |number| Step::DeleteVolume(format!("{}-root", Uuid::from_u128(number)));
        let copies = [1, 2].map(|number| Step::RemoveCopy(tag(number)));
        let steps = [copies[0].clone(), copies[1].clone(), volume(1), volume(2)];
        let (tried, outcome) = tried(&steps, |step| (*step == copies[0]).then(|| refused("no")));
        assert_eq!(tried, [copies[0].clone(), copies[1].clone(), volume(2)]);
        assert!(outcome.is_err());
    }
}
