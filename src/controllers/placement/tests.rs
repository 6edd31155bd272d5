//! What placement decides, for sites small enough to see through.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::decide;
use super::observe::World;
use super::plan::Amount;
use super::standing::{Standing, holds_reservation, standing, wishes_to_run};
use super::status::{Outcome, lasting, news, patience_left, status};
use super::testing::*;
use crate::api::conditions::{State, stamp};
use crate::api::{
    Bytes, HypervisorClass, HypervisorPhase, ImagePhase, Maintenance, Phase, PhaseTransition, Quota, RunStrategy,
    VirtualMachine,
};
use crate::controllers::ledger::{Entry, Holding, samples};
use crate::controllers::news::Attention;

fn decided(world: &World) -> Vec<String> {
    words(&decide(world))
}

fn big(name: &str) -> crate::api::Hypervisor {
    host(name, 16, "32Gi", "500Gi")
}

#[test]
fn machines_are_spread() {
    let site = world(vec![big("one"), big("two")], vec![machine("a", 0), machine("b", 1)]);
    assert_eq!(decided(&site), ["a@one", "b@two"]);
}

#[test]
fn machines_of_a_group_go_to_different_hosts_even_if_only_one_has_the_image() {
    let mut cached = big("two");
    cached.status.as_mut().unwrap().cached_images =
        vec![crate::images::volumes_of(&image("appliance").spec).unwrap().revision];
    let group = vec![of_group(machine("a", 0), "workers"), of_group(machine("b", 1), "workers")];
    let site = world(vec![big("one"), cached.clone()], group);
    assert_eq!(decided(&site), ["a@two", "b@one"]);
    let site = world(vec![big("one"), cached], vec![machine("a", 0), machine("b", 1)]);
    assert_eq!(decided(&site), ["a@two", "b@two"], "without a group the image decides");
}

/// A site whose image has this condition; host `two` has a copy, on `one` a member of the group fits better.
fn with_source(state: State, two: crate::api::Hypervisor) -> World {
    let mut image = image("appliance");
    let revision = crate::images::volumes_of(&image.spec).unwrap().revision;
    let status = image.status.as_mut().unwrap();
    status.revision = Some(revision.clone());
    status.conditions = stamp(vec![state], &[], None, at(0));
    let mut two = two;
    two.status.as_mut().unwrap().cached_images = vec![revision];
    let group =
        vec![of_group(machine("a", 0), "workers"), of_group(running_on(machine("b", 1), "two", 1, "1Gi"), "workers")];
    let mut site = world(vec![big("one"), two], group);
    site.images.insert("appliance".into(), Arc::new(image));
    site
}

#[test]
fn an_image_whose_source_is_gone_is_used_where_there_is_a_copy() {
    let gone = || State::yes("SourceUnavailable", "SourceUnreachable", "");
    assert_eq!(decided(&with_source(gone(), big("two")))[0], "a@two");
    let full = decided(&with_source(gone(), host("two", 1, "1Gi", "500Gi")));
    assert_eq!(
        full[0],
        "a: Unschedulable: 0/2 hypervisors: 1 lacks 1 CPU, 1 without its image, of which no more copies can be made"
    );
}

#[test]
fn an_image_that_is_fetched_once_more_is_waited_for_where_there_is_no_copy() {
    let coming = || State::unknown("SourceUnavailable", "Fetching", "");
    let waits = decided(&with_source(coming(), big("two")));
    assert!(waits[0].starts_with("a: ImageFetching: its image is fetched once more"), "{waits:?}");
    let mut alone = with_source(coming(), big("two"));
    alone.machines.retain(|machine| machine.metadata.name.as_deref() == Some("a"));
    Arc::make_mut(&mut alone.machines[0]).metadata.labels = None;
    assert_eq!(decided(&alone), ["a@two"], "a copy is as good as ever");
}

#[test]
fn new_hosts_are_waited_for_but_not_long() {
    let mut new = big("new");
    new.status = None;
    new.metadata.creation_timestamp = Some(Time(at(100)));
    let site = world(vec![big("one"), new], vec![machine("a", 0)]);
    assert_eq!(site.settling(at(105)), Some(Duration::from_secs(10)));
    assert_eq!(site.settling(at(115)), None);
    assert_eq!(world(vec![big("one")], vec![]).settling(at(100)), None, "a host that was looked at is known");
}

#[test]
fn a_paused_host_gets_nothing_new_since_nobody_proves_its_isolation() {
    let mut paused = big("one");
    paused.metadata.annotations = Some([("cascina.dev/paused".to_owned(), "true".to_owned())].into());
    let site = world(vec![paused], vec![machine("a", 0)]);
    assert_eq!(decided(&site), ["a: Unschedulable: 0/1 hypervisors: 1 paused"]);
}

#[test]
fn a_host_without_proof_of_isolation_gets_nothing_new_and_keeps_what_it_has() {
    let with_isolation = |name: &str, state: State| {
        let mut host = big(name);
        let conditions = &mut host.status.as_mut().unwrap().conditions;
        conditions.retain(|condition| condition.type_ != "IsolationVerified");
        conditions.extend(stamp(vec![state], &[], None, at(0)));
        host
    };
    let leaks = with_isolation("a", State::no("IsolationVerified", "FramesLeaked", ""));
    let silent = with_isolation("b", State::unknown("IsolationVerified", "NotRun", ""));
    let off = with_isolation("c", State::unknown("IsolationVerified", "Disabled", ""));
    let runs = running_on(machine("old", 0), "a", 1, "512Mi");
    let site = world(vec![leaks.clone(), silent.clone()], vec![machine("new", 1), runs]);
    assert_eq!(decided(&site), ["new: Unschedulable: 0/2 hypervisors: 2 not verified for isolation"]);
    assert_eq!(decided(&world(vec![leaks.clone(), silent, off], vec![machine("new", 0)])), ["new@c"]);

    let mut young = leaks;
    young.metadata.creation_timestamp = Some(Time(at(100)));
    let site = world(vec![big("one"), young], vec![]);
    assert_eq!(site.settling(at(105)), Some(Duration::from_secs(10)), "new hosts get time to prove themselves");
}

#[test]
fn hosts_are_counted_by_cause() {
    let mut cordoned = big("c1");
    cordoned.spec.maintenance = Maintenance::Cordon;
    let mut also = big("c2");
    also.spec.maintenance = Maintenance::Cordon;
    let full = host("full", 16, "400Mi", "500Gi");
    let mut silent = big("silent");
    silent.status.as_mut().unwrap().phase = HypervisorPhase::Unreachable;
    let site = world(vec![cordoned, also, full, silent], vec![machine("a", 0)]);
    assert_eq!(decided(&site), ["a: Unschedulable: 0/4 hypervisors: 2 cordoned, 1 lacks 512Mi memory, 1 unreachable"]);
    assert_eq!(decided(&world(vec![], vec![machine("a", 0)])), ["a: Unschedulable: no hypervisors"]);
}

#[test]
fn class_selector_and_disks_are_respected() {
    let mut service = big("service");
    service.spec.class = HypervisorClass::Service;
    let mut fussy = machine("a", 0);
    fussy.spec.hypervisor_selector.insert("rack".into(), "7".into());
    let mut fresh = big("fresh");
    fresh.status.as_mut().unwrap().conditions.clear();
    let site = world(vec![service, big("one"), fresh], vec![fussy, machine("b", 1)]);
    assert_eq!(
        decided(&site),
        ["a: Unschedulable: 0/3 hypervisors: 2 not selected by hypervisorSelector, 1 of class Service", "b@one",]
    );
    let mut heavy = world(vec![host("one", 16, "32Gi", "2Gi")], vec![machine("a", 0)]);
    heavy.images.insert("appliance".into(), Arc::new(disk_image("appliance", "1Gi")));
    assert_eq!(decided(&heavy), ["a: Unschedulable: 0/1 hypervisors: 1 lacks 3Gi storage"]);
    heavy.images.insert("appliance".into(), Arc::new(disk_image("appliance", "10Gi")));
    assert!(decided(&heavy)[0].starts_with("a: FlavourTooSmall: "));
}

#[test]
fn a_machine_waits_for_what_it_is_made_of_and_says_so() {
    let site = |change: &dyn Fn(&mut World, &mut VirtualMachine)| {
        let mut one = machine("a", 0);
        let mut site = world(vec![big("one")], vec![]);
        change(&mut site, &mut one);
        site.machines = vec![Arc::new(one)];
        decided(&site).remove(0)
    };
    let none = site(&|site, _| site.farms.clear());
    assert_eq!(none, "a: FarmNotFound: there is no VirtualFarm farm-a in this namespace");
    let network = site(&|site, _| {
        let farm = Arc::make_mut(site.farms.values_mut().next().unwrap());
        let no = State::no("NetworkReady", "NetworkOverlaps", "172.16.1.0/24 belongs to other/farm-b");
        farm.status.as_mut().unwrap().conditions = stamp(vec![no], &[], None, at(0));
    });
    assert_eq!(
        network,
        "a: NetworkNotReady: network of farm farm-a: NetworkOverlaps: 172.16.1.0/24 belongs to other/farm-b"
    );
    assert!(site(&|_, one| one.status = None).starts_with("a: AddressPending"));
    assert!(
        site(&|_, one| one.spec.flavour = "none".into()).starts_with("a: FlavourNotFound: there is no Flavour none")
    );
    assert!(site(&|_, one| one.spec.image = "none".into()).starts_with("a: ImageNotFound: there is no Image none"));
    let rejected = site(&|site, _| {
        let mut image = image("appliance");
        let status = image.status.as_mut().unwrap();
        status.phase = ImagePhase::Rejected;
        status.conditions = stamp(vec![State::no("Ready", "BackingFile", "has a backing file")], &[], None, at(0));
        site.images.insert("appliance".into(), Arc::new(image));
    });
    assert_eq!(rejected, "a: ImageNotReady: image appliance: Rejected: has a backing file");
    let outdated = site(&|site, _| {
        let mut image = image("appliance");
        image.metadata.generation = Some(2);
        site.images.insert("appliance".into(), Arc::new(image));
    });
    assert_eq!(outdated, "a: ImageFetching: image appliance: being read anew");
}

#[test]
fn quota_is_counted_and_explained() {
    let quota = Quota { instances: Some(2), ..Quota::default() };
    let machines = vec![machine("a", 0), machine("b", 1), machine("c", 2)];
    let site = with_quota(world(vec![big("one")], machines), quota);
    let first = decide(&site);
    assert_eq!(words(&first), ["a@one", "b@one", "c: QuotaExceeded: farm-a: instances 2 of 2 used, needs 1 more"]);
    let second = decide(&after(site, &first));
    assert_eq!(words(&second), ["c: QuotaExceeded: farm-a: instances 2 of 2 used, needs 1 more"]);
    let several = Quota { cpus: Some(0), memory: Some("256Mi".parse().unwrap()), ..Quota::default() };
    let mut site = world(vec![big("one")], vec![machine("a", 0)]);
    site.default_quota = Some(several);
    assert_eq!(
        decided(&site),
        ["a: QuotaExceeded: farm-a: cpus 0 of 0 used, needs 1 more; memory 0 of 256Mi used, needs 512Mi more"]
    );
}

#[test]
fn a_guest_without_an_object_counts_against_its_farm_and_its_host() {
    let left = |farm: Option<&str>| {
        let amount = Amount { cpus: 1, memory: Bytes::gibi(1), storage: Bytes::ZERO };
        let farm = farm.map(str::to_owned);
        let holding = Arc::new(Holding { farm, amount, ..samples::holding(1, &["172.16.1.9"]) });
        Entry { host: "worker-1".into(), holding, is_given_up: false, is_off: false }
    };
    let quota = Quota { instances: Some(1), ..Quota::default() };
    for farm in [Some("farm-a"), None] {
        let mut full = with_quota(world(vec![big("worker-1")], vec![machine("a", 0)]), quota);
        full.remains = vec![left(farm)];
        assert!(decided(&full)[0].starts_with("a: QuotaExceeded"), "{farm:?}: {:?}", decided(&full));
    }
    let mut tight = world(vec![host("worker-1", 1, "1Gi", "80Gi")], vec![machine("a", 0)]);
    assert_eq!(decided(&tight), ["a@worker-1"]);
    tight.remains = vec![left(Some("farm-a"))];
    assert!(decided(&tight)[0].starts_with("a: Unschedulable"), "{:?}", decided(&tight));
}

#[test]
fn priority_goes_before_age_and_a_large_one_does_not_block_small_ones() {
    let mut urgent = machine("z", 2);
    urgent.spec.priority = 5;
    let mut large = machine("large", 1);
    large.spec.flavour = "m1.large".into();
    large.spec.priority = 9;
    let site = world(vec![host("one", 1, "1Gi", "9Gi")], vec![machine("a", 0), large, urgent]);
    assert_eq!(
        decided(&site),
        [
            "a: Unschedulable: 0/1 hypervisors: 1 lacks 1 CPU",
            "large: Unschedulable: 0/1 hypervisors: 1 lacks 6 CPUs",
            "z@one",
        ]
    );
}

#[test]
fn what_nobody_may_touch_is_left_alone() {
    let mut paused = machine("paused", 0);
    paused.metadata.annotations = Some([("cascina.dev/paused".to_owned(), "true".to_owned())].into());
    let mut leaving = machine("leaving", 1);
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    let mut fresh = machine("fresh", 2);
    fresh.metadata.finalizers = None;
    let placed = running_on(machine("placed", 3), "gone", 1, "512Mi");
    let site = world(vec![big("one")], vec![paused, leaving, fresh, placed]);
    assert_eq!(decided(&site), Vec::<String>::new());
}

#[test]
fn a_leaving_machine_holds_its_place_until_it_is_gone() {
    let mut leaving = running_on(machine("leaving", 0), "one", 1, "512Mi");
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    let mut site = world(vec![host("one", 1, "1Gi", "9Gi")], vec![leaving, machine("next", 1)]);
    assert_eq!(decided(&site), ["next: Unschedulable: 0/1 hypervisors: 1 lacks 1 CPU"]);
    site.machines.remove(0);
    assert_eq!(decided(&site), ["next@one"]);
}

fn stopped(mut machine: VirtualMachine, strategy: RunStrategy, steps: &[(Phase, i64)]) -> VirtualMachine {
    machine.spec.run_strategy = strategy;
    let status = machine.status.as_mut().unwrap();
    status.phase = steps.last().map(|(phase, _)| *phase);
    status.phase_transitions =
        steps.iter().map(|&(phase, second)| PhaseTransition { phase, time: at(second) }).collect();
    machine
}

#[test]
fn a_halted_machine_that_is_called_back_at_once_is_admitted_anew_all_the_same() {
    let steps = [(Phase::Running, 10), (Phase::Stopped, 20)];
    let called_back = stopped(running_on(machine("a", 0), "one", 1, "512Mi"), RunStrategy::Always, &steps);
    let site = world(vec![big("one")], vec![called_back]);
    let released = decide(&site);
    assert_eq!(words(&released), ["a rests: Halted"]);
    let again = decide(&after(site, &released));
    assert_eq!(words(&again), ["a@one"]);
    let (before, outcome) = &again[0];
    assert_eq!(status(before, outcome, at(60)).epoch, Some(2));
}

#[test]
fn a_halted_machine_gives_back_and_is_admitted_again_at_home_with_the_next_epoch() {
    let steps = [(Phase::Running, 10), (Phase::Stopped, 20)];
    let mut home = host("two", 4, "8Gi", "9Gi");
    let halted = stopped(running_on(machine("a", 0), "two", 1, "512Mi"), RunStrategy::Halted, &steps);
    let site = world(vec![big("one"), home.clone()], vec![halted.clone()]);
    let released = decide(&site);
    assert_eq!(words(&released), ["a rests: Halted"]);
    let mut site = after(site, &released);
    assert_eq!(decided(&site), Vec::<String>::new(), "said once");
    assert_eq!(site.machines[0].status.as_ref().unwrap().hypervisor.as_deref(), Some("two"));
    assert!(!holds_reservation(&site.machines[0]));
    assert_eq!(site.offers()[1].allocated.cpus, 0);

    Arc::make_mut(&mut site.machines[0]).spec.run_strategy = RunStrategy::Always;
    let again = decide(&site);
    assert_eq!(words(&again), ["a@two"]);
    let (before, outcome) = &again[0];
    let now = status(before, outcome, at(60));
    assert_eq!(now.epoch, Some(2));
    assert_eq!(now.image.unwrap().revision, "appliance-0", "its disk was made from that");

    home.spec.maintenance = Maintenance::Cordon;
    site.hypervisors[1] = Arc::new(home);
    assert_eq!(decided(&site), ["a: Unschedulable: its disks are on two, which is cordoned"]);
    site.hypervisors.remove(1);
    assert!(decided(&site)[0].contains("no hypervisor of that name"));
}

#[test]
fn what_still_runs_keeps_its_place_though_it_shall_not() {
    let stopping = [(Phase::Running, 10), (Phase::Stopping, 20)];
    let one = stopped(running_on(machine("a", 0), "one", 1, "512Mi"), RunStrategy::Halted, &stopping);
    assert_eq!(standing(&one), Standing::Holds);
}

#[test]
fn once_is_once_and_a_restart_by_wish_is_not_mistaken_for_the_end() {
    let steps = [(Phase::Running, 10), (Phase::Stopped, 20)];
    let finished = stopped(running_on(machine("a", 0), "one", 1, "512Mi"), RunStrategy::Once, &steps);
    assert_eq!(standing(&finished), Standing::Rests("Finished"));
    // Admitted again (at 1000) after a halt; its controller hasn't noticed yet and still says Stopped.
    let mut again = finished.clone();
    again.status.as_mut().unwrap().conditions =
        stamp(vec![State::yes("Scheduled", "Placed", "")], &[], None, at(1_000));
    assert_eq!(standing(&again), Standing::Holds);
    let quick =
        stopped(again, RunStrategy::Once, &[(Phase::Stopped, 20), (Phase::Booting, 1_000), (Phase::Stopped, 1_000)]);
    assert_eq!(standing(&quick), Standing::Rests("Finished"));
    let mut halted = machine("b", 1);
    halted.spec.run_strategy = RunStrategy::Halted;
    assert_eq!(standing(&halted), Standing::Rests("Halted"));
    halted.spec.run_strategy = RunStrategy::Once;
    assert!(wishes_to_run(&halted));
}

#[test]
fn two_machines_with_one_address_never_both_run() {
    let mut younger = machine("b", 1);
    younger.status = machine("a", 0).status;
    let site = world(vec![big("one")], vec![machine("a", 0), younger.clone()]);
    let words = decided(&site);
    assert_eq!(words, ["a@one", "b: AddressConflict: 172.16.1.2 belongs to machine a: delete one of the two"]);
    let site = world(vec![big("one")], vec![machine("a", 0), running_on(younger, "one", 1, "512Mi")]);
    assert_eq!(decided(&site), ["a: AddressConflict: 172.16.1.2 belongs to machine b: delete one of the two"]);
}

#[test]
fn a_young_machine_is_not_told_of_a_wait_that_will_be_over_soon() {
    let mut young = machine("a", 100);
    young.status = None;
    let site = world(vec![big("one")], vec![young]);
    let (machine, outcome) = decide(&site).remove(0);
    assert_eq!(patience_left(&machine, &outcome, at(100)), Some(Duration::from_secs(2)));
    assert_eq!(patience_left(&machine, &outcome, at(102)), None);
    let full = super::plan::Wait::new("Unschedulable", "no hypervisors");
    assert_eq!(patience_left(&machine, &Outcome::Waits(full), at(100)), None);
}

#[test]
fn an_event_is_told_when_the_reason_changes() {
    let site = world(vec![], vec![machine("a", 0)]);
    let first = decide(&site);
    let (one, outcome) = &first[0];
    let news_of_it = news(one, outcome, Duration::ZERO).unwrap();
    assert_eq!(news_of_it.reason, "FailedScheduling");
    assert_eq!(news_of_it.attention, Attention::if_it_lasts("Scheduled", "Unschedulable"), "a moment is no news");
    assert_eq!(news_of_it.note, "Unschedulable: no hypervisors");
    let site = after(site, &first);
    let (one, outcome) = decide(&site).remove(0);
    assert_eq!(news(&one, &outcome, Duration::ZERO), None);
}

#[test]
fn who_leads_next_knows_by_the_status_what_was_to_be_told_if_it_lasts() {
    let site = world(vec![], vec![machine("a", 0)]);
    let first = decide(&site);
    let told = news(&first[0].0, &first[0].1, Duration::ZERO);
    assert_eq!(lasting(&after(site, &first).machines[0]), told);
    assert_eq!(lasting(&machine("a", 0)), None, "nobody has looked at it");
    let said = |state: State| {
        let mut machine = machine("a", 0);
        machine.status.get_or_insert_default().conditions = stamp(vec![state], &[], None, at(0));
        lasting(&machine)
    };
    assert_eq!(said(State::yes("Scheduled", "Placed", "")), None);
    for rests in ["Halted", "Finished", "ImageFetching"] {
        assert_eq!(said(State::no("Scheduled", rests, "")), None, "{rests}");
    }
}

#[test]
fn a_machine_that_is_made_anew_by_itself_needs_nobody() {
    let lost = running_on(machine("a", 0), "one", 1, "512Mi");
    let site = world(vec![big("two")], vec![machine("b", 1)]);
    let (_, placed) = decide(&site).remove(0);
    let told = news(&lost, &placed, Duration::ZERO).unwrap();
    assert_eq!((told.reason.as_str(), told.attention), ("Evicted", Attention::Nobody));
}

#[test]
fn a_placement_without_an_answer_counts_until_the_machine_has_changed() {
    use super::act::Doubts;
    let mut site = world(vec![host("one", 1, "1Gi", "9Gi")], vec![machine("a", 0), machine("b", 1)]);
    let mut doubts = Doubts::default();
    let placed = decide(&site).into_iter().find(|(_, outcome)| matches!(outcome, Outcome::Placed { .. })).unwrap();
    doubts.remember(placed.clone());

    let mut seen = site.clone();
    let again = doubts.count_in(&mut seen, at(60));
    assert_eq!(words(&again), ["a@one"], "it is written again");
    assert_eq!(decided(&seen), ["b: Unschedulable: 0/1 hypervisors: 1 lacks 1 CPU"], "and its place is taken");
    assert_eq!(words(&doubts.count_in(&mut site.clone(), at(60))), ["a@one"], "and again, if that wasn't begun");

    doubts.settle(&placed);
    assert_eq!(words(&doubts.count_in(&mut site.clone(), at(60))), Vec::<String>::new(), "known is known");
    doubts.remember(placed);
    Arc::make_mut(&mut site.machines[0]).metadata.resource_version = Some("2".into());
    assert_eq!(words(&doubts.count_in(&mut site, at(60))), Vec::<String>::new());
    assert!(decided(&site).contains(&"a@one".to_owned()), "the machine as it is now decides");
}

fn two_hosts() -> Vec<crate::api::Hypervisor> {
    vec![host("worker-1", 8, "8Gi", "80Gi"), host("worker-2", 8, "8Gi", "80Gi")]
}

#[test]
fn a_machine_whose_placement_is_given_up_goes_to_another_host_as_it_was_made() {
    let world =
        having_lost(world(two_hosts(), vec![running_on(machine("one", 0), "worker-1", 3, "1Gi")]), "worker-1", "one");
    let quota = Quota { instances: Some(1), cpus: Some(3), memory: Some("1Gi".parse().unwrap()), storage: None };
    let world = with_quota(world, quota);
    let decided = decide(&world);
    assert_eq!(words(&decided), ["one@worker-2"], "the farm has paid for it already");
    let moved = after(world, &decided);
    let status = moved.machines[0].status.clone().unwrap();
    assert_eq!((status.epoch, status.flavour.unwrap().cpus), (Some(2), 3));
    assert_ne!(status.image.unwrap().revision, "appliance-0", "its own revision can't be had any more");
    assert!(decide(&moved).is_empty(), "the tombstone is of its first placement");
}

#[test]
fn a_lost_machine_that_finds_no_room_keeps_its_place_and_its_reservation() {
    let hosts = vec![host("worker-1", 8, "8Gi", "80Gi"), host("worker-2", 1, "8Gi", "80Gi")];
    let world = having_lost(world(hosts, vec![running_on(machine("one", 0), "worker-1", 3, "1Gi")]), "worker-1", "one");
    let decided = decide(&world);
    assert_eq!(words(&decided), ["one is stranded: Unschedulable: 0/2 hypervisors: 1 lacks 3 CPUs, 1 unreachable"]);
    let mut stranded = after(world, &decided);
    let status = stranded.machines[0].status.clone().unwrap();
    assert_eq!((status.hypervisor.as_deref(), status.epoch), (Some("worker-1"), Some(1)));
    assert!(holds_reservation(&stranded.machines[0]), "its quota and its room aren't given to others");
    stranded.given_up.clear();
    assert_eq!(words(&decide(&stranded)), ["one stays"]);
}

#[test]
fn shared_disks_are_taken_along_to_a_host_of_the_same_pool_only() {
    let in_pool = |name: &str, pool: &str| {
        let mut host = host(name, 8, "8Gi", "80Gi");
        host.spec.storage.shared = Some(pool.into());
        host
    };
    let hosts = vec![in_pool("service-1", "san"), in_pool("service-2", "other"), in_pool("service-3", "san")];
    let mut one = running_on(machine("one", 0), "service-1", 1, "1Gi");
    one.status.as_mut().unwrap().image.as_mut().unwrap().revision = "appliance-0".into();
    let world = having_lost(world(hosts, vec![one]), "service-1", "one");
    let decided = decide(&world);
    assert_eq!(words(&decided), ["one@service-3"]);
    let image = after(world, &decided).machines[0].status.clone().unwrap().image.unwrap();
    assert_eq!(image.revision, "appliance-0", "the disk is made from it");
}

#[test]
fn a_machine_that_was_about_to_start_on_a_lost_host_is_charged_when_it_moves() {
    let mut resting = running_on(machine("one", 0), "worker-1", 3, "1Gi");
    resting.status.as_mut().unwrap().conditions.clear();
    let world = having_lost(world(two_hosts(), vec![resting]), "worker-1", "one");
    assert_eq!(words(&decide(&world)), ["one@worker-2"]);
    let none_left = Quota { instances: Some(0), cpus: None, memory: None, storage: None };
    let waits = words(&decide(&with_quota(world, none_left)));
    assert!(waits[0].starts_with("one: QuotaExceeded"), "{waits:?}");
}

/// The same machine in another namespace, which has a farm of that name too.
fn of_tenant(mut machine: VirtualMachine, tenant: &str, site: &mut World) -> Arc<VirtualMachine> {
    machine.metadata.namespace = Some(tenant.into());
    machine.metadata.uid = Some(format!("{tenant}-{}", machine.metadata.name.as_deref().unwrap_or_default()));
    let mut farm = farm("farm-a");
    farm.metadata.namespace = Some(tenant.into());
    site.farms.insert((tenant.into(), "farm-a".into()), Arc::new(farm));
    Arc::new(machine)
}

#[test]
fn who_asks_for_much_does_not_make_wait_who_asks_for_little() {
    let mut site = world(vec![host("one", 4, "32Gi", "500Gi")], (0..20).map(|age| machine("m", age)).collect());
    for (index, machine) in site.machines.iter_mut().enumerate() {
        let machine = Arc::make_mut(machine);
        machine.metadata.name = Some(format!("m-{index:02}"));
        machine.metadata.uid = Some(format!("m-{index:02}"));
        machine.spec.priority = 1000;
    }
    let late = of_tenant(machine("late", 100), "other", &mut site);
    site.machines.push(late);
    let first: Vec<_> = decide(&site).iter().map(|decided| words(std::slice::from_ref(decided)).remove(0)).collect();
    assert_eq!(first[..4], ["m-00@one", "late@one", "m-01@one", "m-02@one"], "and a priority is one's own");

    let mut full = after(site, &decide(&world(vec![], vec![])));
    full.hypervisors = vec![Arc::new(host("one", 2, "32Gi", "500Gi"))];
    full.machines[0] = Arc::new(running_on((*full.machines[0]).clone(), "one", 1, "512Mi"));
    let placed: Vec<_> = decided(&full).into_iter().filter(|words| words.contains('@')).collect();
    assert_eq!(placed, ["late@one"], "the one place that is left is for who has nothing yet");
}

#[test]
fn only_what_is_promised_or_given_back_is_waited_for() {
    let site = world(vec![host("one", 1, "1Gi", "9Gi")], vec![machine("a", 0), machine("b", 1)]);
    let told: Vec<_> = decide(&site).iter().map(|(_, outcome)| outcome.is_only_told()).collect();
    assert_eq!(told, [false, true]);
    assert!(!Outcome::Rests("Halted").is_only_told());
}
