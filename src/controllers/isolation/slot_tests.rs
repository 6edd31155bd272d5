//! Who has which networks, and which canaries are nobody's.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::plan::{Step, View};
use super::recipe::canary_uuid;
use super::slots::{Claims, choose, strays};
use super::tests::{MAKE, domain, seen, stage, steps, unknown};
use crate::controllers::observed::Observed;
use crate::libvirt::{DomainRun, DomainUuid, Survey};
use crate::network::FarmNetwork;

const NETWORKS: &str = "198.18.0.0/15";

fn chosen(claims: Claims) -> i32 {
    choose(&claims, NETWORKS.parse().unwrap())
}

/// The networks of canaries that were seen with these slots.
fn networks_of(slots: &[i32]) -> BTreeSet<FarmNetwork> {
    slots.iter().flat_map(|slot| stage(*slot).networks()).collect()
}

#[test]
fn a_slot_is_free_when_no_status_and_no_canary_that_was_seen_has_it() {
    assert_eq!(chosen(Claims::default()), 0);
    let older = [0, 1, 3].into();
    assert_eq!(chosen(Claims { older, ..Claims::default() }), 2);
    let seen = networks_of(&[0, 2]);
    assert_eq!(chosen(Claims { younger: [1].into(), seen: seen.clone(), ..Claims::default() }), 3);
    let half = seen.into_iter().skip(1).take(1).collect();
    assert_eq!(chosen(Claims { seen: half, ..Claims::default() }), 1, "of a pair that somebody has half of");
}

#[test]
fn a_host_keeps_its_slot_unless_an_older_one_has_it_or_anothers_canary_got_there_first() {
    let own = Claims { own: Some(1), younger: [0, 1].into(), ..Claims::default() };
    assert_eq!(chosen(own.clone()), 1, "the younger one moves");
    assert_eq!(chosen(Claims { older: [1].into(), ..own.clone() }), 2);
    assert_eq!(chosen(Claims { own: Some(-1), ..own.clone() }), 2);
    let met = Claims { seen: networks_of(&[1]), ..own };
    assert_eq!(chosen(met.clone()), 1, "its own canary may be there, on a host that says nothing");
    assert_eq!(chosen(Claims { is_bare: true, ..met }), 2);
}

#[test]
fn a_canary_whose_hypervisor_is_gone_goes_and_nobody_elses() {
    let uid = |number| uuid::Uuid::from_u128(number);
    let canary_of = |number: u128, cluster: &str| {
        let mut canary = domain(DomainRun::Running);
        let tag = canary.canary.as_mut().unwrap();
        (tag.uid, tag.cluster) = (uid(number), cluster.into());
        (canary_uuid(cluster, uid(number)), canary)
    };
    let mut survey = Survey::default();
    let copied = (DomainUuid(uid(9)), canary_of(2, "cluster").1);
    survey.domains.extend([canary_of(1, "cluster"), canary_of(2, "cluster"), canary_of(3, "other"), copied]);
    let known = uid(1).to_string();
    let found = strays(&survey, "cluster", |uid| uid == known);
    assert_eq!(found, [canary_uuid("cluster", uid(2))], "by its own name: a copy of one is somebody's");
    let view = View { strays: found.clone(), ..seen(Observed::Absent) };
    assert_eq!(steps(&view, 0), [&[Step::RemoveStray(found[0])][..], &MAKE].concat());
    let silent = View { canary: unknown(), strays: Vec::new(), ..view };
    assert_eq!(steps(&silent, 0), []);
}

proptest! {
    /// Whoever asks whenever, and whatever became of objects: no two hosts ever have the same.
    #[test]
    fn no_two_hosts_are_given_the_same_slot(moves in prop::collection::vec((0..6_usize, 0..4_u8), 1..40)) {
        // By host, oldest first: what its status says, and with which slot its canary runs.
        let mut hosts: Vec<(Option<i32>, Option<i32>)> = vec![(None, None); 6];
        for (host, what) in moves {
            let slots = |hosts: &[(Option<i32>, _)]| hosts.iter().filter_map(|(slot, _)| *slot).collect();
            // One that runs with another slot than its host's status has is of an earlier object, and another's.
            let own = hosts[host].1.is_some() && hosts[host].0 == hosts[host].1;
            let running = |(index, (_, runs)): (usize, &(_, Option<i32>))| runs.filter(|_| !own || index != host);
            let seen: Vec<_> = hosts.iter().enumerate().filter_map(running).collect();
            match what {
                // Its object goes and its canary stays.
                0 => hosts[host].0 = None,
                // The canary of an earlier object is removed.
                1 if hosts[host].0 != hosts[host].1 => hosts[host].1 = None,
                _ => {
                    let claims = Claims {
                        own: hosts[host].0,
                        is_bare: !own,
                        older: slots(&hosts[..host]),
                        younger: slots(&hosts[host + 1..]),
                        seen: networks_of(&seen),
                    };
                    let slot = chosen(claims);
                    prop_assert!(!seen.contains(&slot), "{slot} is another's: {hosts:?}");
                    hosts[host].0 = Some(slot);
                    if hosts[host].1.is_none() {
                        hosts[host].1 = Some(slot);
                    }
                }
            }
        }
    }
}
