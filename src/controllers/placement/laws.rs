//! What holds for every site, however it looks.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::hosts::{empty_offer, share_pools, sizes_of_pools};
use super::plan::{Amount, Budget, Decision, HostOffer, Openness, Place, Request, Role, Supply, place};
use super::testing::{at, host};
use crate::api::{Bytes, HypervisorClass, Quota};

fn farm(number: u8) -> (String, String) {
    ("tenant".into(), format!("farm-{number}"))
}

fn amount(cpus: i64, memory: u32, storage: u32) -> Amount {
    Amount { cpus, memory: Bytes::mebi(memory), storage: Bytes::mebi(storage) }
}

prop_compose! {
    fn request()(
        farm_number in 0u8..3, group in proptest::option::of(0u8..2), priority in -1i32..2, age in 0i64..5,
        cpus in 1i64..4, memory in 1u32..8, storage in 0u32..4, home in proptest::option::weighted(0.2, 0usize..4),
        service in proptest::bool::weighted(0.2), role in proptest::option::weighted(0.2, any::<bool>()),
        lost in proptest::option::weighted(0.1, proptest::option::of(0u8..2)),
    ) -> Request {
        let class = if service { HypervisorClass::Service } else { HypervisorClass::Worker };
        let selector = BTreeMap::new();
        Request {
            machine: (String::new(), String::new()),
            farm: farm(farm_number),
            group: group.map(|group| format!("group-{group}")),
            priority,
            created: at(age),
            needs: amount(cpus, memory, storage),
            revision: "image-1".into(),
            supply: Supply::All,
            place: match (home, lost) {
                (Some(host), _) => Place::Home { host: format!("host-{host}"), storage: Bytes::mebi(1) },
                (None, Some(pool)) => {
                    let (pool, held) = (pool.map(pool_name), amount(0, 0, 1));
                    Place::Away { class, selector, pool, held, counted: false }
                }
                (None, None) => Place::Any { class, selector },
            },
            role: role.map_or(Role::Machine, |public| Role::Router { public }),
        }
    }
}

fn pool_name(number: u8) -> String {
    format!("pool-{number}")
}

/// The size of its disks that are in the account of the host already.
fn disks_there(request: &Request) -> Bytes {
    match &request.place {
        Place::Home { storage, .. } => *storage,
        Place::Away { pool: Some(_), held, .. } => held.storage,
        Place::Any { .. } | Place::Away { pool: None, .. } => Bytes::ZERO,
    }
}

fn named<T>(list: Vec<T>, mut name: impl FnMut(usize, &mut T)) -> Vec<T> {
    list.into_iter()
        .enumerate()
        .map(|(index, mut item)| {
            name(index, &mut item);
            item
        })
        .collect()
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    vec(request(), 0..20).prop_map(|list| {
        named(list, |index, request: &mut Request| request.machine = ("tenant".into(), format!("machine-{index}")))
    })
}

prop_compose! {
    fn offer()(
        cpus in 0i64..10, memory in 0u32..20, storage in 0u32..12, used in (0i64..5, 0u32..10, 0u32..6),
        open in proptest::bool::weighted(0.8), public: bool, service in proptest::bool::weighted(0.3), cached: bool,
        pool in proptest::option::weighted(0.5, 0u8..2),
    ) -> HostOffer {
        HostOffer {
            pool: pool.map(pool_name),
            public,
            name: String::new(),
            class: if service { HypervisorClass::Service } else { HypervisorClass::Worker },
            labels: BTreeMap::new(),
            openness: if open { Openness::Open } else { Openness::Cordoned },
            allocatable: amount(cpus, memory, storage),
            allocated: amount(used.0.min(cpus), used.1.min(memory), used.2.min(storage)),
            cached: cached.then(|| "image-1".to_owned()).into_iter().collect(),
            groups: BTreeMap::new(),
            routed: BTreeSet::new(),
        }
    }
}

/// Hosts, some of which share a pool: as large as they say together, and holding what any of them put there.
fn offers() -> impl Strategy<Value = Vec<HostOffer>> {
    vec(offer(), 0..5).prop_map(|list| {
        let mut hosts = named(list, |index, offer: &mut HostOffer| offer.name = format!("host-{index}"));
        let mut sizes: BTreeMap<String, Bytes> = BTreeMap::new();
        for host in &hosts {
            if let Some(pool) = &host.pool {
                *sizes.entry(pool.clone()).or_default() += host.allocatable.storage;
            }
        }
        share_pools(&mut hosts, &sizes);
        hosts
    })
}

prop_compose! {
    fn budget()(
        instances in proptest::option::of(0i32..8), cpus in proptest::option::of(0i32..8),
        memory in proptest::option::of(0u32..16),
    ) -> Budget {
        let quota = Quota { instances, cpus, memory: memory.map(Bytes::mebi), storage: None };
        Budget { farm: farm(0), quota, instances: 0, used: Amount::default() }
    }
}

fn budgets() -> impl Strategy<Value = Vec<Budget>> {
    vec(budget(), 3).prop_map(|list| named(list, |index, budget: &mut Budget| budget.farm = farm(index as u8)))
}

fn placed<'a>(decisions: &'a [Decision], requests: &'a [Request]) -> impl Iterator<Item = (&'a Request, &'a String)> {
    decisions.iter().filter_map(|decision| {
        let request = requests.iter().find(|request| request.machine == decision.machine)?;
        Some((request, decision.verdict.as_ref().ok()?))
    })
}

fn goes_home(request: &Request) -> bool {
    matches!(request.place, Place::Home { .. })
}

proptest! {
    #[test]
    fn every_machine_is_decided_once(requests in requests(), hosts in offers(), farms in budgets()) {
        let mut names: Vec<_> = place(&requests, &hosts, &farms).into_iter().map(|one| one.machine).collect();
        names.sort();
        let mut asked: Vec<_> = requests.into_iter().map(|one| one.machine).collect();
        asked.sort();
        prop_assert_eq!(names, asked);
    }

    #[test]
    fn no_host_is_overbooked(requests in requests(), hosts in offers(), farms in budgets()) {
        let decisions = place(&requests, &hosts, &farms);
        for host in &hosts {
            let mut sum = host.allocated;
            for (request, _) in placed(&decisions, &requests).filter(|(_, name)| **name == host.name) {
                prop_assert_eq!(host.openness, Openness::Open);
                let outside = request.role == Role::Router { public: true };
                prop_assert!(host.public || !outside);
                sum.cpus += request.needs.cpus;
                sum.memory += request.needs.memory;
                sum.storage += request.needs.storage.saturating_sub(disks_there(request));
                let twin = |other: &Request| {
                    let alike = [request, other].map(|one| one.role != Role::Machine && !goes_home(one));
                    alike == [true, true] && other.farm == request.farm && other.machine != request.machine
                };
                let mut here = placed(&decisions, &requests).filter(|(_, name)| **name == host.name);
                prop_assert!(here.all(|(other, _)| !twin(other)), "one host's end is both routers'");
            }
            prop_assert!(sum.cpus <= host.allocatable.cpus);
            prop_assert!(sum.memory <= host.allocatable.memory);
            prop_assert!(sum.storage <= host.allocatable.storage);
        }
    }

    /// However many hosts share a pool, it is promised once.
    #[test]
    fn no_pool_is_overbooked(requests in requests(), hosts in offers(), farms in budgets()) {
        let decisions = place(&requests, &hosts, &farms);
        for first in hosts.iter().filter(|host| host.pool.is_some()) {
            let in_pool = |name: &str| hosts.iter().any(|host| host.name == name && host.pool == first.pool);
            let added = placed(&decisions, &requests)
                .filter(|(_, name)| in_pool(name))
                .map(|(request, _)| request.needs.storage.saturating_sub(disks_there(request)));
            let added: Bytes = added.sum();
            prop_assert!(first.allocated.storage + added <= first.allocatable.storage);
        }
    }

    /// What hosts have of a pool is counted for all of them, and the least that one says of its size is believed.
    #[test]
    fn hosts_of_a_pool_have_one_account(list in vec((0u32..100, 0u32..100, proptest::option::of(0u8..2)), 0..5)) {
        let hypervisors: Vec<_> = list
            .iter()
            .map(|(storage, _, pool)| {
                let mut host = host("host", 1, "1Gi", &format!("{storage}Gi"));
                host.spec.storage.shared = pool.map(pool_name);
                host
            })
            .collect();
        let mut offers: Vec<_> = hypervisors.iter().map(empty_offer).collect();
        for (offer, (_, used, _)) in offers.iter_mut().zip(&list) {
            offer.allocated.storage = Bytes::gibi(*used);
        }
        share_pools(&mut offers, &sizes_of_pools(hypervisors.iter()));
        for (offer, (storage, used, pool)) in offers.iter().zip(&list) {
            let mates = || list.iter().filter(|(_, _, other)| pool.is_some() && other == pool);
            let size = mates().map(|(storage, _, _)| *storage).min().unwrap_or(*storage);
            let all: u32 = if pool.is_some() { mates().map(|(_, used, _)| *used).sum() } else { *used };
            prop_assert_eq!(offer.allocatable.storage, Bytes::gibi(size));
            prop_assert_eq!(offer.allocated.storage, Bytes::gibi(all));
        }
    }

    #[test]
    fn no_farm_is_above_its_quota(requests in requests(), hosts in offers(), farms in budgets()) {
        let decisions = place(&requests, &hosts, &farms);
        for budget in &farms {
            let counts = |request: &Request| request.farm == budget.farm && request.role == Role::Machine;
            let mine: Vec<_> = placed(&decisions, &requests).filter(|(request, _)| counts(request)).collect();
            let cpus: i64 = mine.iter().map(|(request, _)| request.needs.cpus).sum();
            let memory: Bytes = mine.iter().map(|(request, _)| request.needs.memory).sum();
            prop_assert!(budget.quota.instances.is_none_or(|limit| mine.len() as i64 <= i64::from(limit)));
            prop_assert!(budget.quota.cpus.is_none_or(|limit| cpus <= i64::from(limit)));
            prop_assert!(budget.quota.memory.is_none_or(|limit| memory <= limit));
        }
    }

    #[test]
    fn the_order_in_which_things_are_listed_does_not_matter(
        requests in requests(), hosts in offers(), farms in budgets(),
    ) {
        let decisions = place(&requests, &hosts, &farms);
        let turned = |list: &[Request]| list.iter().rev().cloned().collect::<Vec<_>>();
        let hosts_turned: Vec<_> = hosts.iter().rev().cloned().collect();
        prop_assert_eq!(decisions, place(&turned(&requests), &hosts_turned, &farms));
    }

    /// Nobody waits who would fit into what is left in the end.
    #[test]
    fn nobody_waits_for_what_is_free(requests in requests(), hosts in offers(), farms in budgets()) {
        let decisions = place(&requests, &hosts, &farms);
        let mut left = hosts.clone();
        let mut farms_left = farms.clone();
        for (request, name) in placed(&decisions, &requests) {
            let added = Amount { storage: request.needs.storage.saturating_sub(disks_there(request)), ..request.needs };
            let pool = left.iter().find(|host| host.name == *name).and_then(|host| host.pool.clone());
            for host in &mut left {
                if host.name == *name {
                    host.allocated += added;
                } else if pool.is_some() && host.pool == pool {
                    host.allocated.storage += added.storage;
                }
            }
            for host in left.iter_mut().filter(|host| host.name == *name && request.role != Role::Machine) {
                host.routed.insert(request.farm.clone());
            }
            let counts = |farm: &&mut Budget| farm.farm == request.farm && request.role == Role::Machine;
            for farm in farms_left.iter_mut().filter(counts) {
                farm.instances += 1;
                farm.used += added;
            }
        }
        let waiting: Vec<_> = requests
            .iter()
            .filter(|request| !placed(&decisions, &requests).any(|(one, _)| one.machine == request.machine))
            .cloned()
            .collect();
        prop_assert!(place(&waiting, &left, &farms_left).iter().all(|decision| decision.verdict.is_err()));
    }

    /// With machines of different sizes more room may let one large machine in before two small ones; the first in
    /// line and machines alike never lose by something being freed.
    #[test]
    fn the_first_in_line_never_loses_by_what_is_freed(
        requests in requests(), hosts in offers(), farms in budgets(), which in 0usize..5,
    ) {
        let before = place(&requests, &hosts, &farms);
        let mut freed = hosts.clone();
        if let Some(host) = freed.get_mut(which) {
            host.allocated = Amount::default();
            host.openness = Openness::Open;
        }
        let after = place(&requests, &freed, &farms);
        if before.first().is_some_and(|first| first.verdict.is_ok()) {
            prop_assert!(after[0].verdict.is_ok());
        }
    }

    #[test]
    fn of_machines_alike_never_fewer_are_placed_when_something_is_freed(
        count in 0usize..20, one in request(), hosts in offers(), farms in budgets(), which in 0usize..5,
    ) {
        let alike: Vec<_> = (0..count)
            .map(|index| Request { machine: ("tenant".into(), format!("machine-{index}")), ..one.clone() })
            .collect();
        let placed = |hosts: &[HostOffer]| place(&alike, hosts, &farms).iter().filter(|one| one.verdict.is_ok()).count();
        let mut freed = hosts.clone();
        if let Some(host) = freed.get_mut(which) {
            host.allocated = Amount::default();
        }
        prop_assert!(placed(&freed) >= placed(&hosts));
    }

    /// However many machines some tenants ask for and since when: places for machines alike that become free one after
    /// another are shared so that nobody who still waits has two fewer than anybody else.
    #[test]
    fn tenants_that_wait_share_what_becomes_free(asked in vec(1usize..12, 2..5), places in 1i64..24) {
        let one = |tenant: usize, index: usize| Request {
            machine: (format!("tenant-{tenant}"), format!("machine-{index}")),
            farm: (format!("tenant-{tenant}"), "farm".into()),
            group: None,
            priority: 0,
            created: at(tenant as i64),
            needs: amount(1, 1, 0),
            revision: "image-1".into(),
            supply: Supply::All,
            place: Place::Any { class: HypervisorClass::Worker, selector: BTreeMap::new() },
            role: Role::Machine,
        };
        let mut waiting: Vec<_> = asked
            .iter()
            .enumerate()
            .flat_map(|(tenant, count)| (0..*count).map(move |index| one(tenant, index)))
            .collect();
        let mut farms: Vec<_> = (0..asked.len())
            .map(|tenant| Budget {
                farm: (format!("tenant-{tenant}"), "farm".into()),
                quota: Quota::default(),
                instances: 0,
                used: Amount::default(),
            })
            .collect();
        let mut host = HostOffer {
            name: "host-0".into(),
            class: HypervisorClass::Worker,
            pool: None,
            public: false,
            labels: BTreeMap::new(),
            openness: Openness::Open,
            allocatable: amount(64, 64, 64),
            allocated: amount(64, 64, 64),
            cached: BTreeSet::new(),
            groups: BTreeMap::new(),
            routed: BTreeSet::new(),
        };
        for _ in 0..places {
            host.allocated = amount(63, 63, 64);
            let decisions = place(&waiting, std::slice::from_ref(&host), &farms);
            let chosen: Vec<_> = placed(&decisions, &waiting).map(|(request, _)| request.machine.clone()).collect();
            for machine in &chosen {
                for farm in farms.iter_mut().filter(|farm| farm.farm.0 == machine.0) {
                    farm.instances += 1;
                    farm.used += amount(1, 1, 0);
                }
            }
            waiting.retain(|request| !chosen.contains(&request.machine));
        }
        let most = farms.iter().map(|farm| farm.instances).max().unwrap_or_default();
        for farm in &farms {
            let waits = waiting.iter().any(|request| request.machine.0 == farm.farm.0);
            prop_assert!(!waits || most - farm.instances <= 1, "{farms:?}");
        }
    }
}
