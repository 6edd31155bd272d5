//! Which machine of a farm has which address: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use kube::ResourceExt;

use crate::api::{PAUSED_ANNOTATION, VirtualMachine, is_annotated};
use crate::controllers::placement::observe::claim;
use crate::network::{FarmNetwork, MacAddress};

/// Addresses promised to machines, by uid, that may not stand in their status yet.
pub type Promises = BTreeMap<String, Ipv4Addr>;

/// A machine and the address that it gets.
pub type Gift = (Arc<VirtualMachine>, Ipv4Addr);

/// How the addresses of a farm are given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Addresses {
    /// What is to be written.
    pub gifts: Vec<Gift>,
    /// What is wrong with addresses that stand there already.
    pub conflicts: Vec<String>,
    /// Machines for which there is none left.
    pub without: Vec<String>,
    /// How many are in use.
    pub used: usize,
}

/// Gives every machine without an address the lowest that nobody has, oldest machine first. Machines on their way out
/// keep theirs until they are gone; an address is never taken from a machine. What is `kept_back` is given to nobody: it may
/// still be used on a host, or be a router's.
#[must_use]
pub fn give(
    network: FarmNetwork,
    machines: &[Arc<VirtualMachine>],
    promised: &Promises,
    kept_back: &BTreeSet<Ipv4Addr>,
) -> Addresses {
    let mut plan = Addresses::default();
    let mut oldest_first: Vec<_> = machines.iter().collect();
    oldest_first.sort_by_cached_key(|machine| claim(machine));
    let mut owners: BTreeMap<Ipv4Addr, &VirtualMachine> = BTreeMap::new();
    for machine in &oldest_first {
        match address_of(machine) {
            None => {}
            Some(Ok(address)) if network.is_machine_address(address) => {
                let owner = *owners.entry(address).or_insert(machine);
                if owner.metadata.uid != machine.metadata.uid {
                    plan.conflicts.push(conflict(machine, owner, address));
                } else if is_awake(machine) && (mac_of(machine) != Some(MacAddress::of(address)) || !is_bound(machine))
                {
                    plan.gifts.push((Arc::clone(machine), address));
                }
            }
            Some(_) => plan.conflicts.push(format!("the address of {} is none of {network}", machine.name_any())),
        }
    }
    let kept_back = kept_back.iter().copied().filter(|address| network.is_machine_address(*address));
    let mut taken: BTreeSet<_> = owners.keys().copied().chain(kept_back).collect();
    // A promise to a machine that is still there holds, whether or not it has been written.
    let promise = |machine: &VirtualMachine| machine.uid().and_then(|uid| promised.get(&uid).copied());
    let waiting = || oldest_first.iter().filter(|machine| address_of(machine).is_none());
    let kept: BTreeMap<_, _> = waiting()
        .filter_map(|machine| Some((machine.uid(), promise(machine).filter(|address| taken.insert(*address))?)))
        .collect();
    for machine in waiting().filter(|machine| is_awake(machine)) {
        let address = kept.get(&machine.uid()).copied().or_else(|| network.free_address(&taken));
        match address {
            Some(address) => {
                taken.insert(address);
                plan.gifts.push((Arc::clone(machine), address));
            }
            None => plan.without.push(machine.name_any()),
        }
    }
    plan.used = taken.len();
    plan
}

fn is_awake(machine: &VirtualMachine) -> bool {
    machine.metadata.deletion_timestamp.is_none() && !is_annotated(machine, PAUSED_ANNOTATION)
}

fn address_of(machine: &VirtualMachine) -> Option<Result<Ipv4Addr, std::net::AddrParseError>> {
    machine.status.as_ref()?.address.as_ref().map(|address| address.parse())
}

/// Whether it is written down whose address it has.
fn is_bound(machine: &VirtualMachine) -> bool {
    machine.status.as_ref().is_some_and(|status| status.farm_uid.is_some())
}

fn mac_of(machine: &VirtualMachine) -> Option<MacAddress> {
    machine.status.as_ref()?.mac.as_ref()?.parse().ok()
}

fn conflict(machine: &VirtualMachine, owner: &VirtualMachine, address: Ipv4Addr) -> String {
    let (machine, owner) = (machine.name_any(), owner.name_any());
    format!("{machine} and {owner} both have {address}, which belongs to {owner}: delete {machine}")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{addressed, bare, member};
    use super::*;
    use proptest::prelude::*;

    fn network() -> FarmNetwork {
        "172.16.1.0/24".parse().unwrap()
    }

    fn gifts(plan: &Addresses) -> Vec<String> {
        plan.gifts.iter().map(|(machine, address)| format!("{} {address}", machine.name_any())).collect()
    }

    fn arcs(machines: Vec<VirtualMachine>) -> Vec<Arc<VirtualMachine>> {
        machines.into_iter().map(Arc::new).collect()
    }

    #[test]
    fn the_oldest_gets_the_lowest_free_address() {
        let machines = arcs(vec![bare("b", 2), bare("a", 1), addressed(bare("c", 0), "172.16.1.2")]);
        assert_eq!(
            gifts(&give(network(), &machines, &Promises::new(), &BTreeSet::new())),
            ["a 172.16.1.3", "b 172.16.1.4"]
        );
    }

    #[test]
    fn a_machine_on_its_way_out_keeps_its_address_and_gets_none() {
        let mut leaving = addressed(bare("a", 0), "172.16.1.2");
        leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
        let mut bare_leaving = bare("b", 1);
        bare_leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
        let plan =
            give(network(), &arcs(vec![leaving, bare_leaving, bare("c", 2)]), &Promises::new(), &BTreeSet::new());
        assert_eq!(gifts(&plan), ["c 172.16.1.3"]);
    }

    #[test]
    fn the_younger_of_two_with_one_address_is_refused() {
        let twice = arcs(vec![addressed(bare("a", 1), "172.16.1.2"), addressed(bare("b", 0), "172.16.1.2")]);
        let plan = give(network(), &twice, &Promises::new(), &BTreeSet::new());
        assert_eq!(plan.conflicts, ["a and b both have 172.16.1.2, which belongs to b: delete a"]);
        assert_eq!(gifts(&plan), Vec::<String>::new());
        let foreign =
            give(network(), &arcs(vec![addressed(bare("a", 1), "10.0.0.1")]), &Promises::new(), &BTreeSet::new());
        assert_eq!(foreign.conflicts, ["the address of a is none of 172.16.1.0/24"]);
    }

    #[test]
    fn a_promise_that_may_have_been_written_is_kept() {
        let promises = Promises::from([("uid-b".to_owned(), Ipv4Addr::new(172, 16, 1, 2))]);
        let plan = give(network(), &arcs(vec![bare("a", 0), bare("b", 1)]), &promises, &BTreeSet::new());
        assert_eq!(gifts(&plan), ["a 172.16.1.3", "b 172.16.1.2"]);
    }

    #[test]
    fn the_address_of_what_a_lost_host_may_still_run_is_given_to_nobody() {
        let left_behind = ["172.16.1.2", "172.16.2.3"].map(|address| address.parse().unwrap()).into();
        let plan = give(network(), &arcs(vec![bare("a", 0)]), &Promises::new(), &left_behind);
        assert_eq!((gifts(&plan), plan.used), (vec!["a 172.16.1.3".to_owned()], 2));
        let own = arcs(vec![addressed(bare("a", 0), "172.16.1.2")]);
        assert_eq!(give(network(), &own, &Promises::new(), &left_behind).conflicts, Vec::<String>::new());
    }

    #[test]
    fn a_mac_address_that_is_not_made_from_the_address_is_put_right() {
        let mut odd = addressed(bare("a", 0), "172.16.1.2");
        odd.status.as_mut().unwrap().mac = Some("02:00:00:00:00:01".into());
        assert_eq!(gifts(&give(network(), &arcs(vec![odd]), &Promises::new(), &BTreeSet::new())), ["a 172.16.1.2"]);
    }

    #[test]
    fn a_machine_of_an_earlier_version_is_bound_to_its_farm() {
        let mut unbound = addressed(bare("a", 0), "172.16.1.2");
        unbound.status.as_mut().unwrap().farm_uid = None;
        let plan = give(network(), &arcs(vec![unbound]), &Promises::new(), &BTreeSet::new());
        assert_eq!(gifts(&plan), ["a 172.16.1.2"]);
    }

    #[test]
    fn the_254th_machine_waits() {
        let machines = arcs((0..255).map(|index| member("workers", index)).collect());
        let plan = give(network(), &machines, &Promises::new(), &BTreeSet::new());
        assert_eq!((plan.gifts.len(), plan.without.len(), plan.used), (253, 2, 253));
    }

    proptest! {
        #[test]
        fn addresses_are_unique_and_given_once(
            having in proptest::collection::btree_map(0i64..300, proptest::option::of(2u8..=254), 0..60),
            promised in proptest::collection::btree_map(0i64..300, 2u8..=254, 0..20),
        ) {
            let machines: Vec<_> = having.iter().map(|(index, address)| {
                let machine = bare(&format!("m{index}"), *index);
                address.map_or(machine.clone(), |last| addressed(machine, &format!("172.16.1.{last}")))
            }).collect();
            let promises = promised.iter()
                .map(|(index, last)| (format!("uid-m{index}"), Ipv4Addr::new(172, 16, 1, *last))).collect();
            let machines = arcs(machines);
            let plan = give(network(), &machines, &promises, &BTreeSet::new());
            let mut given: Vec<_> = plan.gifts.iter().map(|(_, address)| *address).collect();
            let before: BTreeSet<_> = machines.iter().filter_map(|machine| address_of(machine)?.ok()).collect();
            prop_assert!(given.iter().all(|address| !before.contains(address) && network().is_machine_address(*address)));
            given.sort();
            given.dedup();
            prop_assert_eq!(given.len(), plan.gifts.len());

            let done: Vec<_> = machines.iter().map(|machine| {
                let gift = plan.gifts.iter().find(|(to, _)| to.uid() == machine.uid());
                Arc::new(gift.map_or((**machine).clone(), |(_, address)| addressed((**machine).clone(), &address.to_string())))
            }).collect();
            prop_assert!(give(network(), &done, &promises, &BTreeSet::new()).gifts.is_empty(), "given twice nothing is left to give");
        }
    }
}
