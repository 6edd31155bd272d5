//! What objects say that there is on a host.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use uuid::Uuid;

use crate::api::{Hypervisor, Phase, VirtualMachine};
use crate::controllers::cache::Cache;
use crate::controllers::context::Context;
use crate::controllers::machine::recipe::{disks, disks_home};
use crate::controllers::vanish::Claims;
use crate::libvirt::{DomainUuid, VolumeSpec};

/// From here on hosts are held to what objects say.
pub fn guard(context: &Context) {
    let (machines, hypervisors) = (Arc::clone(&context.caches.machines), Arc::clone(&context.caches.hypervisors));
    context.fleet.guard_with(move |host, before| {
        let Some(hypervisor) = hypervisors.get("", host) else { return Claims::default() };
        let home = disks_home(&hypervisor);
        let mut claims = Claims::default();
        for mate in pool_mates(&hypervisors, &hypervisor) {
            for machine in machines.filed_under(&mate) {
                claim(&mut claims, host, &home, &machine, before);
            }
        }
        claims
    });
}

/// The hosts whose machines may have their disks in the pool of this one.
fn pool_mates(hypervisors: &Cache<Hypervisor>, hypervisor: &Hypervisor) -> Vec<String> {
    let shared = &hypervisor.spec.storage.shared;
    if shared.is_none() {
        return vec![hypervisor.name_any()];
    }
    let all = hypervisors.list();
    all.iter().filter(|other| other.spec.storage.shared == *shared).map(|other| other.name_any()).collect()
}

/// A machine that runs has its domain on its host, and one whose disks were made has them where they were made. What
/// came to be after a survey was begun may be missing in it.
fn claim(claims: &mut Claims, host: &str, home: &str, machine: &VirtualMachine, before: Timestamp) {
    let Some(status) = &machine.status else { return };
    let is_here = status.hypervisor.as_deref() == Some(host);
    let has_disks_here = status.disks_on.as_deref() == Some(home);
    let is_new = status.phase_transitions.last().is_some_and(|last| last.time >= before);
    if !(is_here || has_disks_here) || is_new || machine.metadata.deletion_timestamp.is_some() {
        return;
    }
    let Some(uid) = machine.metadata.uid.as_deref().and_then(|uid| uid.parse::<Uuid>().ok()) else { return };
    if is_here && matches!(status.phase, Some(Phase::Booting | Phase::Running | Phase::Stopping | Phase::Unknown)) {
        claims.domains.insert(DomainUuid(uid));
    }
    if let (true, Some(flavour), Some(image)) = (has_disks_here, &status.flavour, &status.image) {
        let (_, _, volumes) = disks(uid, flavour, image);
        claims.volumes.extend(volumes.iter().map(VolumeSpec::name).map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Bytes, PhaseTransition};
    use crate::controllers::placement::testing::{at, machine, running_on};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn running() -> VirtualMachine {
        let mut running = running_on(machine("one", 0), "worker-1", 1, "1Gi");
        running.metadata.uid = Some("6f0c6a5e-0000-4000-8000-00000000000a".into());
        let status = running.status.as_mut().unwrap();
        status.phase = Some(Phase::Running);
        status.disks_on = Some("worker-1/uuid".into());
        status.flavour.as_mut().unwrap().data_disk = Some(Bytes::gibi(1));
        status.phase_transitions = vec![PhaseTransition { phase: Phase::Running, time: at(10) }];
        running
    }

    fn claimed(host: &str, machine: &VirtualMachine, before: i64) -> (usize, usize) {
        let mut claims = Claims::default();
        claim(&mut claims, host, &format!("{host}/uuid"), machine, at(before));
        (claims.domains.len(), claims.volumes.len())
    }

    #[test]
    fn a_machine_that_runs_has_its_domain_and_its_disks_on_its_host() {
        assert_eq!(claimed("worker-1", &running(), 20), (1, 1));
        assert_eq!(claimed("worker-2", &running(), 20), (0, 0));
        let mut halted = running();
        halted.status.as_mut().unwrap().phase = Some(Phase::Stopped);
        assert_eq!(claimed("worker-1", &halted, 20), (0, 1));
    }

    #[test]
    fn what_is_newer_than_the_look_or_on_its_way_out_may_be_missing() {
        assert_eq!(claimed("worker-1", &running(), 10), (0, 0));
        let mut going = running();
        going.metadata.deletion_timestamp = Some(Time(at(15)));
        assert_eq!(claimed("worker-1", &going, 20), (0, 0));
    }
}
