//! What hosts that share a pool say of it together: it is there once, however many of them have it.

use kube::ResourceExt;

use super::plan::allocatable;
use crate::api::{Bytes, Hypervisor, Resources};
use crate::controllers::context::Context;
use crate::controllers::placement::standing::held;

/// What the other hosts of a pool say of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolMates {
    /// The least that may be promised of it by what one of them says; absent: none of them was ever looked at.
    pub allocatable: Option<Bytes>,
    /// What is promised to their machines.
    pub allocated: Bytes,
}

impl PoolMates {
    /// Looks at the hosts that share the pool of this one.
    pub fn of(context: &Context, hypervisor: &Hypervisor) -> Self {
        let mut mates = Self::default();
        let Some(shared) = &hypervisor.spec.storage.shared else { return mates };
        for other in context.caches.hypervisors.list() {
            if other.uid() != hypervisor.uid() && other.spec.storage.shared.as_ref() == Some(shared) {
                let machines = context.caches.machines_on(&other.name_any());
                mates.add(&other, machines.iter().map(|machine| held(machine).storage).sum());
            }
        }
        mates
    }

    /// One host more. What it says is taken from what there is, not from what its status makes of that together with others:
    /// a pool that shrank and grew again would never be seen to grow.
    fn add(&mut self, other: &Hypervisor, allocated: Bytes) {
        let capacity = other.status.as_ref().and_then(|status| status.capacity);
        let its = capacity.map(|capacity| allocatable(other, capacity, Bytes::ZERO).storage);
        self.allocatable = self.allocatable.into_iter().chain(its).min();
        self.allocated += allocated;
    }

    /// What may be promised by this host: of the pool what all of its hosts admit.
    #[must_use]
    pub fn admit(&self, own: Resources) -> Resources {
        Resources { storage: self.allocatable.map_or(own.storage, |storage| own.storage.min(storage)), ..own }
    }

    /// What is promised by this host, and of the pool by all of them.
    #[must_use]
    pub fn with(&self, own: Resources) -> Resources {
        Resources { storage: own.storage + self.allocated, ..own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Capacity;
    use crate::controllers::placement::testing::host;

    fn says(capacity: u32, reserved: u32, told: u32) -> Hypervisor {
        let mut host = host("mate", 8, "8Gi", &format!("{told}Gi"));
        host.spec.reserved = Some(Capacity { storage: Some(Bytes::gibi(reserved)), ..Capacity::default() });
        let capacity = Resources { cpu: 8, memory: Bytes::gibi(8), storage: Bytes::gibi(capacity) };
        host.status.as_mut().unwrap().capacity = Some(capacity);
        host
    }

    fn storage(size: u32) -> Resources {
        Resources { cpu: 4, memory: Bytes::gibi(1), storage: Bytes::gibi(size) }
    }

    #[test]
    fn a_pool_is_as_large_as_the_smallest_of_its_hosts_says_and_holds_what_all_have_there() {
        let mut mates = PoolMates::default();
        assert_eq!((mates.admit(storage(100)), mates.with(storage(10))), (storage(100), storage(10)));
        mates.add(&says(100, 20, 100), Bytes::gibi(30));
        mates.add(&says(300, 0, 300), Bytes::gibi(5));
        let mut never_seen = says(1, 0, 1);
        never_seen.status = None;
        mates.add(&never_seen, Bytes::ZERO);
        assert_eq!((mates.admit(storage(90)), mates.admit(storage(70))), (storage(80), storage(70)));
        assert_eq!(mates.with(storage(10)), storage(45));
    }

    #[test]
    fn a_pool_that_grew_is_seen_to_have_grown_by_all_of_its_hosts() {
        let mut mates = PoolMates::default();
        mates.add(&says(200, 0, 100), Bytes::ZERO);
        assert_eq!(mates.admit(storage(200)), storage(200), "though its status has yet to say so");
    }
}
