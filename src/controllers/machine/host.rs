//! What a machine's host, by its Hypervisor, means for the machine. Pure.

use kube::ResourceExt;

use super::recipe::Refusal;
use crate::api::site::Timings;
use crate::api::{FENCED_ANNOTATION, Hypervisor, VirtualMachine};
use crate::controllers::hypervisor::loss::{Leaves, is_stated, leaves};

/// What a machine's host means for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostStanding {
    /// Its copy there was given up: what is left of it is removed when the host returns.
    pub given_up: bool,
    /// Why nothing is started there now.
    pub closed: Option<Refusal>,
    /// What becomes of the machine while the host doesn't answer.
    pub prospects: Option<String>,
}

/// What a machine's host means for it.
#[must_use]
pub fn host_standing(machine: &VirtualMachine, hypervisor: &Hypervisor, timings: &Timings) -> HostStanding {
    let tombstones = hypervisor.status.as_ref().map(|status| status.tombstones.as_slice()).unwrap_or_default();
    let epoch = machine.status.as_ref().and_then(|status| status.epoch).unwrap_or_default();
    let uid = machine.uid().unwrap_or_default();
    HostStanding {
        given_up: tombstones.iter().any(|tombstone| tombstone.copy.uid == uid && tombstone.copy.epoch >= epoch),
        closed: closed(hypervisor),
        prospects: prospects(machine, hypervisor, timings),
    }
}

fn closed(hypervisor: &Hypervisor) -> Option<Refusal> {
    let name = hypervisor.name_any();
    if is_stated(hypervisor) {
        let message = format!(
            "somebody said that {name} is off, so nothing is started there; to open it again: kubectl annotate hypervisor {name} {FENCED_ANNOTATION}-"
        );
        return Some(Refusal::new("HostFenced", message));
    }
    let swept = hypervisor.status.as_ref().is_none_or(|status| status.tombstones.iter().all(|one| one.departed));
    (!swept)
        .then(|| Refusal::new("HostNotSwept", format!("first {name} is freed of machines that were given up there")))
}

fn prospects(machine: &VirtualMachine, hypervisor: &Hypervisor, timings: &Timings) -> Option<String> {
    let name = hypervisor.name_any();
    let fence = format!("once {name} is surely off: kubectl annotate hypervisor {name} {FENCED_ANNOTATION}=true");
    if machine.metadata.deletion_timestamp.is_some() {
        let seconds = timings.deletion_deadline.as_secs();
        return Some(format!(
            "it is let go {seconds} s after its deletion, and what is left of it removed when {name} returns"
        ));
    }
    let evict_after = timings.evict_after;
    match leaves(machine, hypervisor) {
        Leaves::Never => None,
        Leaves::WhenSilent if !evict_after.is_zero() => {
            let seconds = evict_after.as_secs();
            Some(format!("it is made anew elsewhere when {name} has been Unreachable for {seconds} s, or {fence}"))
        }
        Leaves::WhenFenced | Leaves::WhenSilent => Some(format!("it is started elsewhere only {fence}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{MachineCopy, Tombstone};
    use crate::controllers::placement::testing::{host, machine, running_on};

    fn timings() -> Timings {
        Timings::default()
    }

    #[test]
    fn a_machine_whose_disks_are_shared_says_with_which_command_it_moves() {
        let mut service = host("service-1", 8, "8Gi", "80Gi");
        service.spec.storage.shared = Some("san".into());
        let machine = running_on(machine("one", 0), "service-1", 1, "512Mi");
        let prospects = host_standing(&machine, &service, &timings()).prospects.unwrap();
        assert!(prospects.ends_with("kubectl annotate hypervisor service-1 cascina.dev/fenced=true"), "{prospects}");
        let worker = host("worker-1", 8, "8Gi", "80Gi");
        let prospects = host_standing(&machine, &worker, &timings()).prospects.unwrap();
        assert!(prospects.contains("for 300 s"), "{prospects}");
    }

    #[test]
    fn nothing_is_started_on_a_host_that_is_said_to_be_off_or_is_not_swept() {
        let machine = running_on(machine("one", 0), "worker-1", 1, "512Mi");
        let closed = |host: &Hypervisor| host_standing(&machine, host, &timings()).closed.map(|refusal| refusal.reason);
        let mut worker = host("worker-1", 8, "8Gi", "80Gi");
        assert_eq!(closed(&worker), None);
        let given_up = Tombstone {
            copy: MachineCopy { uid: machine.uid().unwrap(), epoch: 1, ..MachineCopy::default() },
            departed: false,
            since: machine.metadata.creation_timestamp.clone().unwrap(),
        };
        worker.status.as_mut().unwrap().tombstones.push(given_up);
        assert_eq!(closed(&worker).as_deref(), Some("HostNotSwept"));
        assert!(host_standing(&machine, &worker, &timings()).given_up);
        worker.annotations_mut().insert(FENCED_ANNOTATION.into(), "2026-11-23T23:00:00Z".into());
        assert_eq!(closed(&worker).as_deref(), Some("HostFenced"));
        worker.annotations_mut().clear();
        worker.status.as_mut().unwrap().tombstones[0].departed = true;
        assert_eq!(closed(&worker), None, "what is removed while it answers is in nobody's way");
        worker.annotations_mut().insert(FENCED_ANNOTATION.into(), "2026-11-23T23:00:00Z".into());
        let mut later = machine.clone();
        later.status.as_mut().unwrap().epoch = Some(2);
        assert!(!host_standing(&later, &worker, &timings()).given_up, "a later placement isn't meant");
    }
}
