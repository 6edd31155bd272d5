//! What a host offers before anything is promised.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;

use super::plan::{Amount, HostOffer, Openness};
use crate::api::conditions::{find, is_true};
use crate::api::{Bytes, Hypervisor, HypervisorPhase, Maintenance, PAUSED_ANNOTATION, Resources, is_annotated};
use crate::controllers::isolation::admits_machines;

/// Condition of a hypervisor that takes machines.
const SCHEDULABLE: &str = "Schedulable";

/// Condition of a hypervisor that answers.
const REACHABLE: &str = "Reachable";

/// A host with nothing on it.
pub fn empty_offer(hypervisor: &Hypervisor) -> HostOffer {
    let status = hypervisor.status.clone().unwrap_or_default();
    let allocatable = status.allocatable.unwrap_or_default();
    HostOffer {
        name: hypervisor.name_any(),
        class: hypervisor.spec.class,
        pool: hypervisor.spec.storage.shared.clone(),
        public: hypervisor.spec.networks.public.is_some(),
        labels: hypervisor.labels().clone(),
        openness: openness(hypervisor),
        allocatable: amount(allocatable),
        allocated: Amount::default(),
        cached: status.cached_images.into_iter().collect::<BTreeSet<_>>(),
        groups: BTreeMap::new(),
        routed: BTreeSet::new(),
    }
}

/// What may be promised of every pool that hosts share: where they say different things of it, the least. A host that was
/// never looked at says nothing.
pub fn sizes_of_pools<'a>(hypervisors: impl Iterator<Item = &'a Hypervisor>) -> BTreeMap<String, Bytes> {
    let mut sizes = BTreeMap::new();
    for hypervisor in hypervisors {
        let allocatable = hypervisor.status.as_ref().and_then(|status| status.allocatable);
        if let (Some(pool), Some(allocatable)) = (&hypervisor.spec.storage.shared, allocatable) {
            let size = sizes.entry(pool.clone()).or_insert(allocatable.storage);
            *size = (*size).min(allocatable.storage);
        }
    }
    sizes
}

/// Hosts that share a pool have one account of it between them: each offers what is left when all of them have had theirs.
pub fn share_pools(offers: &mut [HostOffer], sizes: &BTreeMap<String, Bytes>) {
    let mut promised: BTreeMap<String, Bytes> = BTreeMap::new();
    for offer in offers.iter() {
        if let Some(pool) = &offer.pool {
            *promised.entry(pool.clone()).or_default() += offer.allocated.storage;
        }
    }
    for offer in offers {
        let Some(pool) = &offer.pool else { continue };
        offer.allocated.storage = promised.get(pool).copied().unwrap_or_default();
        offer.allocatable.storage = sizes.get(pool).copied().unwrap_or_default();
    }
}

fn openness(hypervisor: &Hypervisor) -> Openness {
    let Some(status) = &hypervisor.status else { return Openness::NotReady };
    let silent = find(&status.conditions, REACHABLE).is_some_and(|reachable| reachable.status != "True");
    if hypervisor.spec.maintenance != Maintenance::None || status.phase == HypervisorPhase::Maintenance {
        Openness::Cordoned
    } else if is_annotated(hypervisor, PAUSED_ANNOTATION) {
        Openness::Paused
    } else if silent || status.phase == HypervisorPhase::Unreachable {
        Openness::Unreachable
    } else if status.allocatable.is_none() || hypervisor.metadata.deletion_timestamp.is_some() {
        Openness::NotReady
    } else if !admits_machines(status) {
        Openness::Unverified
    } else if is_true(&status.conditions, SCHEDULABLE) {
        Openness::Open
    } else {
        Openness::NotReady
    }
}

fn amount(resources: Resources) -> Amount {
    Amount { cpus: resources.cpu.into(), memory: resources.memory, storage: resources.storage }
}
