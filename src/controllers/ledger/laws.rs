//! What holds whatever is on hosts.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::samples::{domain, holding};
use super::*;
use crate::api::conditions::{State, stamp};
use crate::api::{Bytes, MachineCopy, Resources, Tombstone};
use crate::controllers::placement::testing::{host, machine, running_on};
use crate::libvirt::Survey;

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, number / 4, 2 + number % 4)
}

fn tombstone(number: u8) -> Tombstone {
    let uid = uuid::Uuid::from_u128(number.into()).to_string();
    let copy = MachineCopy { uid, address: Some(address(number).to_string()), ..MachineCopy::default() };
    Tombstone { copy, departed: false, since: Time(Timestamp::UNIX_EPOCH) }
}

fn survey(machines: &BTreeSet<u8>) -> Survey {
    let mut survey = Survey::default();
    survey
        .domains
        .extend(machines.iter().map(|number| domain((*number).into(), "us", &[&address(*number).to_string()])));
    survey
}

fn taken(ledger: &Ledger, own: &BTreeSet<u8>) -> BTreeSet<Ipv4Addr> {
    let own: BTreeSet<_> = own.iter().map(|number| uuid::Uuid::from_u128((*number).into()).to_string()).collect();
    ledger.others(|holding| own.contains(&holding.uid)).map(|(_, address)| address).collect()
}

proptest! {
    /// Whatever hosts had when they were last read is taken, whether or not they answer and whether or not it has an
    /// object; but for one's own, and for hosts that are surely off.
    #[test]
    fn what_was_last_seen_is_taken(
        hosts in vec((vec(proptest::collection::btree_set(0u8..20, 0..6), 1..4), any::<bool>()), 1..4),
        own in proptest::collection::btree_set(0u8..20, 0..6),
        buried in btree_map(0usize..3, proptest::collection::btree_set(0u8..20, 0..4), 0..3),
    ) {
        let sightings = Sightings::new("us");
        let mut hypervisors = Vec::new();
        let mut expected = BTreeSet::new();
        for (index, (surveys, is_off)) in hosts.iter().enumerate() {
            let mut hypervisor = host(&format!("host-{index}"), 8, "8Gi", "8Gi");
            let status = hypervisor.status.as_mut().unwrap();
            status.tombstones = buried.get(&index).into_iter().flatten().map(|number| tombstone(*number)).collect();
            if *is_off {
                status.conditions = stamp(vec![State::yes(FENCED, "Annotated", "")], &[], None, Timestamp::UNIX_EPOCH);
            } else {
                let last = surveys.last().unwrap();
                expected.extend(last.difference(&own).chain(buried.get(&index).into_iter().flatten()).map(|number| address(*number)));
            }
            for (second, machines) in surveys.iter().enumerate() {
                sightings.saw(&hypervisor.name_any(), &survey(machines), Timestamp::from_second(second as i64).unwrap());
            }
            hypervisors.push(Arc::new(hypervisor));
        }
        prop_assert_eq!(taken(&Ledger::of(&hypervisors, &sightings), &own), expected);
    }
}

#[test]
fn a_domain_holds_what_its_cards_may_speak_under_wherever_that_stands() {
    let (uuid, mut seen) = domain(1, "us", &["172.16.1.2"]);
    let forms = Arc::make_mut(seen.forms.as_mut().unwrap());
    let card = &mut forms.defined.as_mut().unwrap().nics[0];
    card.mac = "02:00:ac:10:02:07".into();
    card.parameters.insert(("IP".into(), "198.51.100.20".into()));
    let held = |domain: &crate::libvirt::SurveyedDomain| Holding::of_domain(uuid, domain, "us").unwrap().addresses;
    let addresses: BTreeSet<Ipv4Addr> =
        ["172.16.1.2", "172.16.2.7", "198.51.100.20"].iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(held(&seen), addresses);
    (seen.tag, seen.copied_tag) = (None, seen.tag);
    assert_eq!(held(&seen), addresses, "the cards of a copy are as real");
}

#[test]
fn a_copy_without_an_object_has_disks_of_the_size_that_anybody_knows() {
    let sightings = Sightings::new("us");
    let mut listed = tombstone(1).copy;
    listed.holds = Some(Resources { cpu: 1, memory: Bytes::gibi(1), storage: Bytes::ZERO });
    let mut hypervisor = host("host-1", 8, "8Gi", "8Gi");
    hypervisor.status.as_mut().unwrap().copies = vec![listed];
    let begun = Holding { amount: Amount { storage: Bytes::gibi(20), ..Amount::default() }, ..holding(1, &[]) };
    sightings.begins("host-1", begun);
    let remains = Ledger::of(&[Arc::new(hypervisor)], &sightings).uncounted(|_| false);
    let amounts: Vec<_> = remains.iter().map(|entry| entry.holding.amount).collect();
    assert_eq!(amounts, [Amount { cpus: 1, memory: Bytes::gibi(1), storage: Bytes::gibi(20) }]);
}

#[test]
fn of_a_host_that_is_off_only_disks_in_a_pool_of_others_are_left() {
    let off = |pool: Option<&str>| {
        let mut hypervisor = host("host-1", 8, "8Gi", "8Gi");
        hypervisor.spec.storage.shared = pool.map(str::to_owned);
        let status = hypervisor.status.as_mut().unwrap();
        status.conditions = stamp(vec![State::yes(FENCED, "Annotated", "")], &[], None, Timestamp::UNIX_EPOCH);
        let mut stone = tombstone(1);
        stone.copy.holds = Some(Resources { cpu: 1, memory: Bytes::gibi(1), storage: Bytes::gibi(20) });
        status.tombstones = vec![stone];
        let ledger = Ledger::of(&[Arc::new(hypervisor)], &Sightings::new("us"));
        assert_eq!(taken(&ledger, &BTreeSet::new()), BTreeSet::new(), "its addresses are free");
        ledger.uncounted(|_| false)
    };
    assert_eq!(off(None).len(), 0);
    let left = off(Some("san-1"));
    assert!(left.len() == 1 && left[0].is_off);
    assert_eq!(left[0].holding.amount, Amount { storage: Bytes::gibi(20), ..Amount::default() });
}

#[test]
fn a_machine_that_is_being_made_holds_its_disks() {
    let mut made = running_on(machine("one", 0), "worker-1", 2, "1Gi");
    made.status.as_mut().unwrap().flavour.as_mut().unwrap().data_disk = Some(Bytes::gibi(5));
    let amount = Holding::of_object(&made).unwrap().amount;
    assert_eq!(amount, Amount { cpus: 2, memory: Bytes::gibi(1), storage: Bytes::gibi(5) });
}
