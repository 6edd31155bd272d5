//! Disks count as they are, wherever and however often somebody looks: by quota, by host, by pool.

use std::sync::Arc;

use kube::ResourceExt;

use super::decide::decide;
use super::observe::World;
use super::plan::Amount;
use super::testing::*;
use crate::api::{Bytes, Flavour, Hypervisor, HypervisorClass, Phase, PhaseTransition, Quota, RunStrategy};
use crate::controllers::ledger::{Entry, Holding, samples};

fn gibi(size: u32) -> Bytes {
    Bytes::gibi(size)
}

fn flavour_with(name: &str, root: u32, data: Option<u32>) -> Flavour {
    let mut flavour = flavour(name, 1, "512Mi");
    flavour.spec.root_disk = Some(gibi(root));
    flavour.spec.data_disk = data.map(gibi);
    flavour
}

/// A site whose image has a disk of 1Gi, with these flavours besides the small ones.
fn site(hosts: Vec<Hypervisor>, names: &[&str], flavours: Vec<Flavour>) -> World {
    let machines = (0..).zip(names).map(|(age, name)| machine(name, age)).collect();
    let mut site = world(hosts, machines);
    site.images.insert("appliance".into(), Arc::new(disk_image("appliance", "1Gi")));
    site.flavours.extend(flavours.into_iter().map(|flavour| (flavour.name_any(), Arc::new(flavour))));
    site
}

fn asks_for(site: &mut World, name: &str, flavour: &str, run: RunStrategy) {
    let found = site.machines.iter_mut().find(|machine| machine.name_any() == name).unwrap();
    let machine = Arc::make_mut(found);
    machine.spec.flavour = flavour.into();
    machine.spec.run_strategy = run;
}

/// Its controller says that it ran and is off.
fn stops(site: &mut World, name: &str) {
    let found = site.machines.iter_mut().find(|machine| machine.name_any() == name).unwrap();
    let status = Arc::make_mut(found).status.as_mut().unwrap();
    status.phase = Some(Phase::Stopped);
    let steps = [(Phase::Running, 900), (Phase::Stopped, 901)];
    status.phase_transitions =
        steps.into_iter().map(|(phase, second)| PhaseTransition { phase, time: at(second) }).collect();
}

fn decided(site: World) -> (Vec<String>, World) {
    let decided = decide(&site);
    (words(&decided), after(site, &decided))
}

/// Halted, given another flavour, called back: what became of it.
fn restarted_as(mut site: World, name: &str, flavour: &str) -> (Vec<String>, World) {
    stops(&mut site, name);
    asks_for(&mut site, name, flavour, RunStrategy::Halted);
    let (rests, mut site) = decided(site);
    assert_eq!(rests, [format!("{name} rests: Halted")]);
    asks_for(&mut site, name, flavour, RunStrategy::Always);
    decided(site)
}

/// What counts towards the farm's quota, and towards the first host.
fn counted(site: &World) -> (Bytes, Bytes) {
    (site.budgets()[0].used.storage, site.offers()[0].allocated.storage)
}

fn disks_of(site: &World, name: &str) -> (Option<Bytes>, Option<Bytes>) {
    let machine = site.machines.iter().find(|machine| machine.name_any() == name).unwrap();
    let flavour = machine.status.clone().unwrap().flavour.unwrap();
    (flavour.root_disk, flavour.data_disk)
}

#[test]
fn disks_count_as_they_were_made_whatever_flavour_a_machine_has_later() {
    let flavours = vec![flavour_with("c1.large", 100, Some(50))];
    let quota = Quota { storage: Some(gibi(200)), ..Quota::default() };
    let mut site = with_quota(site(vec![host("one", 16, "32Gi", "900Gi")], &["a", "b"], flavours), quota);
    asks_for(&mut site, "a", "c1.large", RunStrategy::Always);
    asks_for(&mut site, "b", "c1.large", RunStrategy::Halted);
    let (_, site) = decided(site);
    assert_eq!(counted(&site), (gibi(150), gibi(150)));

    let (again, mut site) = restarted_as(site, "a", "m1.tiny");
    assert_eq!(again, ["a@one"]);
    assert_eq!(site.machines[0].status.clone().unwrap().flavour.unwrap().name, "m1.tiny");
    assert_eq!(counted(&site), (gibi(150), gibi(150)), "its volumes are as large as before");
    asks_for(&mut site, "b", "c1.large", RunStrategy::Always);
    let (waits, _) = decided(site);
    assert!(waits[0].starts_with("b: QuotaExceeded: farm-a: storage 150Gi of 200Gi used"), "{waits:?}");
}

#[test]
fn a_machine_gets_no_disk_after_its_first_placement_and_keeps_those_that_it_has() {
    let flavours = || vec![flavour_with("c1.batch", 20, Some(50))];
    let (_, plain) = decided(site(vec![host("one", 16, "32Gi", "60Gi")], &["a"], flavours()));
    let (again, plain) = restarted_as(plain, "a", "c1.batch");
    assert_eq!(again, ["a@one"], "it asks for no more room than it has");
    assert_eq!(disks_of(&plain, "a"), (Some(gibi(3)), None), "a data disk that it never had isn't missed");

    let mut batch = site(vec![host("one", 16, "32Gi", "90Gi")], &["a"], flavours());
    asks_for(&mut batch, "a", "c1.batch", RunStrategy::Always);
    let (_, batch) = decided(batch);
    let (_, batch) = restarted_as(batch, "a", "m1.tiny");
    assert_eq!(disks_of(&batch, "a"), (Some(gibi(20)), Some(gibi(50))), "what is on its data disk stays in sight");
}

#[test]
fn a_root_disk_that_was_made_stays_large_enough_for_its_image() {
    let flavours = vec![flavour_with("m1.small", 20, None), flavour_with("m1.flat", 1, None)];
    let mut site = site(vec![host("one", 16, "32Gi", "90Gi")], &["a"], flavours);
    site.images.insert("appliance".into(), Arc::new(disk_image("appliance", "10Gi")));
    asks_for(&mut site, "a", "m1.small", RunStrategy::Always);
    let (_, site) = decided(site);
    assert_eq!(restarted_as(site, "a", "m1.flat").0, ["a@one"]);
}

#[test]
fn new_disks_elsewhere_are_those_of_the_flavour_of_now() {
    let mut site = site(vec![host("one", 16, "32Gi", "90Gi")], &["a"], vec![flavour_with("m1.small", 20, None)]);
    asks_for(&mut site, "a", "m1.small", RunStrategy::Always);
    let (_, mut site) = decided(site);
    stops(&mut site, "a");
    asks_for(&mut site, "a", "m1.tiny", RunStrategy::Halted);
    let (_, mut site) = decided(site);
    asks_for(&mut site, "a", "m1.tiny", RunStrategy::Always);
    site.hypervisors.push(Arc::new(host("two", 16, "32Gi", "90Gi")));
    let (moved, site) = decided(having_lost(site, "one", "a"));
    assert_eq!(moved, ["a@two"]);
    assert_eq!(disks_of(&site, "a"), (Some(gibi(3)), None));
}

/// A host of class Service that shares this pool.
fn sharing(name: &str, pool: &str, storage: &str) -> Hypervisor {
    let mut host = host(name, 16, "32Gi", storage);
    host.spec.class = HypervisorClass::Service;
    host.spec.storage.shared = Some(pool.into());
    host
}

/// Machines for service hosts, each with a disk of 80Gi.
fn large_on(hosts: Vec<Hypervisor>, names: &[&str]) -> World {
    let mut site = site(hosts, names, vec![flavour_with("m1.disk", 80, None)]);
    for name in names {
        asks_for(&mut site, name, "m1.disk", RunStrategy::Always);
    }
    for machine in &mut site.machines {
        Arc::make_mut(machine).spec.class = HypervisorClass::Service;
    }
    site
}

#[test]
fn a_pool_that_hosts_share_is_promised_once() {
    let hosts = || vec![sharing("one", "san-1", "100Gi"), sharing("two", "san-1", "100Gi")];
    let (first, site) = decided(large_on(hosts(), &["a", "b"]));
    let waits = "b: Unschedulable: 0/2 hypervisors: 2 lack 80Gi storage".to_owned();
    assert_eq!(first, ["a@one".to_owned(), waits.clone()]);
    assert_eq!(decided(site).0, [waits], "nor when the first is there");

    let mut apart = hosts();
    apart.push(sharing("three", "san-2", "100Gi"));
    assert_eq!(decided(large_on(apart, &["a", "b"])).0, ["a@one", "b@three"], "another pool is another");
}

#[test]
fn of_hosts_that_say_different_things_of_their_pool_the_smallest_counts() {
    let hosts = vec![sharing("one", "san-1", "300Gi"), sharing("two", "san-1", "100Gi")];
    let (first, site) = decided(large_on(hosts, &["a", "b"]));
    assert_eq!(first, ["a@one", "b: Unschedulable: 0/2 hypervisors: 2 lack 80Gi storage"]);
    let offers = site.offers();
    assert!(offers.iter().all(|offer| offer.allocated.storage == gibi(80)));
    assert!(offers.iter().all(|offer| offer.allocatable.storage == gibi(100)));

    let mut silent = sharing("two", "san-1", "1Gi");
    silent.status = None;
    let hosts = vec![sharing("one", "san-1", "300Gi"), silent];
    assert_eq!(decided(large_on(hosts, &["a", "b"])).0, ["a@one", "b@one"], "one that never answered says nothing");
}

#[test]
fn disks_that_are_taken_along_need_no_room_in_their_pool() {
    let hosts = vec![sharing("one", "san-1", "100Gi"), sharing("two", "san-1", "100Gi")];
    let (_, site) = decided(large_on(hosts, &["a"]));
    let (moved, site) = decided(having_lost(site, "one", "a"));
    assert_eq!(moved, ["a@two"]);
    assert!(site.offers().iter().all(|offer| offer.allocated.storage == gibi(80)));
}

/// What is left on a host of a machine without an object.
fn left_on(host: &str, size: u32, is_off: bool) -> Entry {
    let amount = Amount { storage: gibi(size), ..Amount::default() };
    let holding = Holding { farm: Some("farm-a".into()), amount, ..samples::holding(1, &["172.16.1.9"]) };
    Entry { host: host.into(), holding: Arc::new(holding), is_given_up: true, is_off }
}

#[test]
fn disks_that_are_left_behind_count_until_they_are_gone() {
    let mut tight = site(vec![host("one", 16, "32Gi", "90Gi")], &["a"], vec![flavour_with("m1.disk", 80, None)]);
    asks_for(&mut tight, "a", "m1.disk", RunStrategy::Always);
    tight.remains = vec![left_on("one", 20, false)];
    assert_eq!(decided(tight.clone()).0, ["a: Unschedulable: 0/1 hypervisors: 1 lacks 80Gi storage"]);
    tight.remains = vec![left_on("gone", 20, false)];
    let quota = Quota { storage: Some(gibi(90)), ..Quota::default() };
    let waits = decided(with_quota(tight, quota)).0;
    assert!(waits[0].starts_with("a: QuotaExceeded: farm-a: storage 20Gi of 90Gi used"), "{waits:?}");

    let hosts = vec![sharing("one", "san-1", "90Gi"), sharing("two", "san-1", "90Gi")];
    let mut shared = with_quota(large_on(hosts, &["a"]), quota);
    shared.remains = vec![left_on("two", 20, true)];
    assert_eq!(decided(shared.clone()).0, ["a: Unschedulable: 0/2 hypervisors: 2 lack 80Gi storage"]);
    shared.remains = vec![left_on("elsewhere", 20, true)];
    assert_eq!(decided(shared).0, ["a@one"], "what is off counts towards no quota");
}
