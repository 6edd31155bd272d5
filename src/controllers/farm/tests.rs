//! What a farm does next, and what it tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use proptest::prelude::*;

use super::dry_run;
use super::groups::{is_made_by, make, seat};
use super::news;
use super::plan::{Step, plan};
use super::status::{deleting_status, dry_run_status, is_urgent, status};
use super::testing::*;
use crate::api::conditions::{READY, State, find, stamp};
use crate::api::{
    GroupUpdateStrategy, MachineGroup, Phase, Quota, ROUTER_LABEL, RouterTemplate, RunStrategy, VRouter, VRouterStatus,
    VirtualFarm, VirtualFarmStatus, VirtualMachine, Watchdog,
};
use crate::controllers::placement::plan::Wait;
use crate::controllers::placement::testing as site;
use crate::network::RouterSeat;

fn workers(replicas: i32) -> VirtualFarm {
    with_group(farm(), group("workers", replicas))
}

fn changed(mut group: MachineGroup) -> MachineGroup {
    group.flavour = "m1.large".into();
    group
}

fn broken(mut machine: VirtualMachine) -> VirtualMachine {
    machine.status.as_mut().unwrap().conditions = stamp(vec![State::no(READY, "Booting", "")], &[], None, at(0));
    machine
}

#[test]
fn a_group_makes_its_machines_and_they_get_addresses() {
    given(workers(2)).plans(["create farm-a-workers-0", "create farm-a-workers-1"]);
    given(workers(2))
        .with(member("workers", 0))
        .with(member("workers", 1))
        .plans(["farm-a-workers-0 gets 172.16.1.2", "farm-a-workers-1 gets 172.16.1.3"]);
    given(workers(2)).with(running("workers", 0)).with(running("workers", 1)).plans([]);
}

#[test]
fn a_machine_is_made_with_owner_labels_and_finalizer() {
    let machine = make(&workers(1), &group("workers", 1), 0);
    let owner = &machine.owner_references()[0];
    assert_eq!((owner.name.as_str(), owner.controller), ("farm-a", Some(true)));
    assert_eq!(machine.finalizers(), ["cascina.dev/cleanup"]);
    assert_eq!(machine.labels()["cascina.dev/group"], "workers");
    assert_eq!(machine.namespace().as_deref(), Some("tenant"));
}

#[test]
fn without_a_network_nothing_is_made() {
    let refused = Err(Wait::new("NetworkOverlaps", "172.16.1.0/24 belongs to farm other/b"));
    given(workers(2)).with(bare("mine", 1)).network(refused).plans([]);
}

#[test]
fn a_machine_that_somebody_deletes_is_made_again_once_it_is_gone() {
    given(workers(2)).with(running("workers", 0)).with(leaving(running("workers", 1))).plans([]);
    given(workers(2)).with(running("workers", 0)).plans(["create farm-a-workers-1"]);
    given(workers(2)).with(running("workers", 1)).plans(["create farm-a-workers-0"]);
}

#[test]
fn fewer_replicas_delete_what_does_not_work_then_the_highest() {
    let three =
        |farm| given(farm).with(running("workers", 0)).with(broken(running("workers", 1))).with(running("workers", 2));
    three(workers(2)).plans(["delete farm-a-workers-1"]);
    three(workers(1)).plans(["delete farm-a-workers-1", "delete farm-a-workers-2"]);
}

#[test]
fn a_group_that_is_not_wanted_any_more_goes() {
    given(farm())
        .with(running("workers", 0))
        .with(bare("mine", 9))
        .plans(["mine gets 172.16.1.3", "delete farm-a-workers-0"]);
}

#[test]
fn a_change_replaces_one_machine_at_a_time() {
    let two = |farm| given(farm).with(running("workers", 0)).with(running("workers", 1));
    let recreate = with_group(farm(), changed(group("workers", 2)));
    two(recreate.clone()).plans(["delete farm-a-workers-1"]);
    given(recreate.clone()).with(running("workers", 0)).with(leaving(running("workers", 1))).plans([]);
    given(recreate).with(running("workers", 0)).plans(["create farm-a-workers-1"]);
    let mut patient = changed(group("workers", 2));
    patient.update.strategy = GroupUpdateStrategy::OnDelete;
    let left_alone = two(with_group(farm(), patient));
    left_alone.plans([]);
    let (reason, message) = ready_of(&status(&left_alone.0, &left_alone.plan(), at(200)));
    assert_eq!(reason, "MachinesReady", "a farm is as it was wanted");
    assert!(message.ends_with("until somebody deletes them: farm-a-workers-0, farm-a-workers-1"), "{message}");
}

#[test]
fn what_was_said_of_an_earlier_spec_makes_no_farm_ready() {
    let mut called_back = running("workers", 0);
    called_back.metadata.generation = Some(2);
    called_back.status.as_mut().unwrap().observed_generation = Some(1);
    let waits = given(workers(1)).with(called_back);
    let (reason, message) = ready_of(&status(&waits.0, &waits.plan(), at(200)));
    assert_eq!(reason, "MachinesNotReady");
    assert!(message.ends_with("farm-a-workers-0: its spec was changed, and that is yet to be looked at"), "{message}");
    let mut routed = routed(workers(0));
    routed.metadata.generation = Some(2);
    let mut router = its_router(&routed);
    router.metadata.generation = Some(2);
    let conditions = stamp(vec![State::yes(READY, "Routing", "")], &[], None, at(0));
    router.status = Some(VRouterStatus { observed_generation: Some(1), conditions, ..VRouterStatus::default() });
    let waits = given(routed).routed_by(router);
    assert_eq!(ready_of(&status(&waits.0, &waits.plan(), at(200))).0, "RouterNotReady");
}

#[test]
fn with_surge_the_new_machine_comes_first() {
    let mut surging = changed(group("workers", 2));
    surging.update.max_unavailable = 0;
    surging.update.max_surge = 1;
    let fresh = |healthy: bool| {
        let mut machine = running("workers", 2);
        let template = make(&farm(), &surging, 2);
        machine.spec = template.spec;
        machine.metadata.annotations = template.metadata.annotations;
        if healthy { machine } else { broken(machine) }
    };
    let rolling = with_group(farm(), surging.clone());
    let old = || given(rolling.clone()).with(running("workers", 0)).with(running("workers", 1));
    old().plans(["create farm-a-workers-2"]);
    old().with(fresh(false)).plans([]);
    old().with(fresh(true)).plans(["delete farm-a-workers-1"]);
}

#[test]
fn a_change_replaces_what_does_not_work_at_once_and_never_what_nobody_can_see() {
    let recreate = with_group(farm(), changed(group("workers", 2)));
    given(recreate.clone())
        .with(broken(running("workers", 0)))
        .with(broken(running("workers", 1)))
        .plans(["delete farm-a-workers-1", "delete farm-a-workers-0"]);
    let mut unseen = running("workers", 0);
    unseen.status.as_mut().unwrap().phase = Some(Phase::Unknown);
    given(recreate).with(unseen).with(running("workers", 1)).plans([]);
}

#[test]
fn what_can_change_in_place_does() {
    let mut halted = group("workers", 1);
    halted.run_strategy = RunStrategy::Halted;
    given(with_group(farm(), halted)).with(running("workers", 0)).plans(["update farm-a-workers-0"]);
    let mut watched = group("workers", 1);
    watched.watchdog = Watchdog::PowerOff;
    given(with_group(farm(), watched)).with(running("workers", 0)).plans(["update farm-a-workers-0"]);
    let mut edited = running("workers", 0);
    edited.spec.flavour = "m1.large".into();
    given(workers(1)).with(edited).plans(["update farm-a-workers-0"]);
    let mut other_hash = running("workers", 0);
    other_hash.annotations_mut().insert("cascina.dev/template-hash".into(), "of-an-older-operator".into());
    given(workers(1)).with(other_hash).plans(["update farm-a-workers-0"]);
}

#[test]
fn keys_of_the_farm_do_not_replace_machines() {
    let mut farm = workers(1);
    farm.spec.ssh_keys = vec!["ssh-ed25519 AAAA ada".into()];
    given(farm).with(running("workers", 0)).plans([]);
}

#[test]
fn somebody_elses_machine_of_our_name_is_not_taken_over() {
    let mut foreign = bare("farm-a-workers-0", 1);
    foreign.spec.farm = "other".into();
    let given = given(workers(2)).with(foreign);
    given.plans(["create farm-a-workers-1"]);
    let plan = given.plan();
    assert_eq!(plan.troubles[0].reason, "NameTaken");
    assert!(plan.troubles[0].message.contains("farm-a-workers-0"));
}

#[test]
fn names_are_read_back() {
    assert_eq!(seat("farm-a", "farm-a-work-ers-10"), Some(("work-ers", 10)));
    for name in ["farm-a-workers", "farm-b-workers-0", "farm-a-workers-01", "farm-a-workers-+1", "farm-a-workers--1"] {
        assert!(seat("farm-a", name).is_none_or(|(group, _)| group != "workers"), "{name}");
    }
}

fn ready_of(status: &VirtualFarmStatus) -> (String, String) {
    let ready = find(&status.conditions, READY).unwrap();
    (ready.reason.clone(), ready.message.clone())
}

#[test]
fn a_farm_is_ready_when_all_its_machines_are() {
    let ready = given(workers(2)).with(running("workers", 0)).with(running("workers", 1)).with(bare("mine", 9));
    let told = status(&ready.0, &ready.plan(), at(200));
    assert_eq!(ready_of(&told), ("MachinesReady".into(), "2 of 2 ready".into()));
    assert_eq!(told.machines.as_deref(), Some("2/3"));
    assert_eq!(told.gateway.as_deref(), Some("172.16.1.1"));
    assert_eq!((told.addresses_used, told.addresses_available), (Some(3), Some(250)));
    assert_eq!(told.phases, BTreeMap::from([("Pending".into(), 1), ("Running".into(), 2)]));
}

#[test]
fn a_farm_says_which_machine_it_waits_for_and_why() {
    let mut waiting = running("workers", 1);
    let no = State::no("Scheduled", "Unschedulable", "0/4 hypervisors: 4 cordoned");
    waiting.status.as_mut().unwrap().conditions = stamp(vec![no], &[], None, at(0));
    let given = given(workers(3)).with(running("workers", 0)).with(waiting);
    let told = status(&given.0, &given.plan(), at(200));
    let expected = "1 of 3 ready; farm-a-workers-1: Unschedulable: 0/4 hypervisors: 4 cordoned";
    assert_eq!(ready_of(&told), ("MachinesNotReady".into(), expected.into()));
    assert_eq!(told.machines.as_deref(), Some("1/3"));
}

#[test]
fn a_halted_group_is_as_it_should_be() {
    let mut halted = group("workers", 1);
    halted.run_strategy = RunStrategy::Halted;
    let mut stopped = broken(running("workers", 0));
    stopped.spec.run_strategy = RunStrategy::Halted;
    stopped.status.as_mut().unwrap().phase = Some(Phase::Stopped);
    let given = given(with_group(farm(), halted)).with(stopped);
    assert_eq!(ready_of(&status(&given.0, &given.plan(), at(200))).0, "MachinesReady");
}

#[test]
fn quota_that_is_exceeded_is_shown() {
    let mut waiting = running("workers", 0);
    let no = State::no("Scheduled", "QuotaExceeded", "farm-a: instances 0 of 0 used, needs 1 more");
    waiting.status.as_mut().unwrap().conditions = stamp(vec![no], &[], None, at(0));
    let given_waiting = given(workers(1)).with(waiting);
    let told = status(&given_waiting.0, &given_waiting.plan(), at(200));
    let quota = find(&told.conditions, "QuotaExceeded").unwrap();
    assert_eq!((quota.status.as_str(), quota.reason.as_str()), ("True", "MachinesWait"));
    let mut lowered = given(workers(1));
    lowered.0.budget.quota = Quota { instances: Some(1), ..Quota::default() };
    lowered.0.budget.instances = 2;
    let told = status(&lowered.0, &lowered.plan(), at(200));
    let quota = find(&told.conditions, "QuotaExceeded").unwrap();
    assert_eq!(quota.reason, "QuotaLowered");
    assert_eq!(quota.message, "in use: instances 2 of 1; what runs stays, nothing new starts");
}

#[test]
fn a_refused_network_is_told_and_what_there_was_stays_in_view() {
    let refused = Err(Wait::new("OutsidePool", "10.0.0.0/24 is not in the site's pool"));
    let given = given(workers(1)).network(refused);
    let told = status(&given.0, &given.plan(), at(200));
    assert_eq!(ready_of(&told).0, "OutsidePool");
    assert_eq!(find(&told.conditions, "NetworkReady").unwrap().reason, "OutsidePool");
    assert_eq!(told.network, None);
}

#[test]
fn deletion_takes_what_the_farm_made_and_waits_for_the_rest() {
    let mut farm = workers(2);
    farm.metadata.deletion_timestamp = farm.metadata.creation_timestamp.clone();
    let given = given(farm).with(running("workers", 0)).with(leaving(running("workers", 1))).with(bare("mine", 9));
    given.plans(["delete farm-a-workers-0"]);
    let told = deleting_status(&given.0, &given.0.machines, at(200));
    let deleting = find(&told.conditions, "Deleting").unwrap();
    assert_eq!(deleting.reason, "MachinesPresent");
    assert!(deleting.message.contains("farm-a-workers-0, farm-a-workers-1"), "{}", deleting.message);
    assert!(deleting.message.ends_with("somebody else made, who has to delete them: mine"), "{}", deleting.message);
}

#[test]
fn what_is_to_be_kept_without_its_farm_is_left_alone_and_the_farm_waits() {
    let mut farm = workers(1);
    farm.metadata.deletion_timestamp = farm.metadata.creation_timestamp.clone();
    farm.metadata.finalizers = Some(vec!["cascina.dev/cleanup".into(), "orphan".into()]);
    let deleting = |given: &Given| {
        let told = deleting_status(&given.0, &given.0.machines, at(200));
        let deleting = find(&told.conditions, "Deleting").unwrap().clone();
        (deleting.reason, deleting.message)
    };
    let at_once = given(farm.clone()).with(running("workers", 0));
    at_once.plans([]);
    assert_eq!(deleting(&at_once).0, "Orphaning");
    // The garbage collector parts them, then takes its finalizer off.
    farm.metadata.finalizers = Some(vec!["cascina.dev/cleanup".into()]);
    let mut parted = running("workers", 0);
    parted.metadata.owner_references = None;
    let later = given(farm).with(parted);
    later.plans([]);
    let (reason, message) = deleting(&later);
    assert_eq!(reason, "MachinesKept");
    assert!(message.ends_with("(kubectl delete -n tenant) virtualmachine/farm-a-workers-0"), "{message}");
}

#[test]
fn what_was_restored_from_a_backup_is_the_farms_again() {
    let restored = |change: &dyn Fn(&mut VirtualMachine)| {
        let mut machine = running("workers", 0);
        machine.metadata.owner_references = None;
        change(&mut machine);
        given(workers(1)).with(machine)
    };
    let adopted = restored(&|_| ());
    adopted.plans(["update farm-a-workers-0"]);
    let Some(Step::Update(machine)) = adopted.plan().steps.pop() else { panic!("it isn't adopted") };
    assert!(is_made_by(&machine, &workers(1)));
    let earlier = |machine: &mut VirtualMachine| {
        machine.metadata.owner_references = running("workers", 0).metadata.owner_references;
        machine.owner_references_mut()[0].uid = "uid-of-yesterday".into();
        machine.metadata.finalizers = None;
    };
    restored(&earlier).plans(["update farm-a-workers-0"]);
    // What isn't surely the farm's is somebody's.
    for change in [
        &|machine: &mut VirtualMachine| machine.metadata.annotations = None,
        &|machine: &mut VirtualMachine| machine.metadata.labels = None,
        &|machine: &mut VirtualMachine| machine.spec.farm = "other".into(),
        &|machine: &mut VirtualMachine| machine.spec.image = "other".into(),
        &|machine: &mut VirtualMachine| {
            machine.metadata.owner_references = running("workers", 0).metadata.owner_references;
            machine.owner_references_mut()[0].uid = "uid-of-another".into();
            machine.owner_references_mut()[0].name = "another".into();
        },
    ] as [&dyn Fn(&mut VirtualMachine); 5]
    {
        let somebodys = restored(change).plan();
        assert!(!words(&somebodys).contains(&"update farm-a-workers-0".to_owned()));
        assert_eq!(somebodys.troubles[0].reason, "NameTaken");
    }
    let farm = routed(workers(0));
    let mut router = its_router(&farm);
    router.metadata.owner_references = None;
    given(farm).routed_by(router).plans(["change router farm-a"]);
}

#[test]
fn counters_can_wait_but_reasons_can_not() {
    let (one, two) = (given(workers(1)).with(running("workers", 0)), given(workers(1)).with(member("workers", 0)));
    let (ready, not) = (status(&one.0, &one.plan(), at(200)), status(&two.0, &two.plan(), at(200)));
    assert!(is_urgent(&not, &ready));
    let mut counted = ready.clone();
    counted.phases = BTreeMap::from([("Booting".into(), 1)]);
    assert!(!is_urgent(&ready, &counted));
}

#[test]
fn news_are_told_once() {
    let given = given(workers(1));
    let first = status(&given.0, &given.plan(), at(200));
    let told: Vec<_> = news(&VirtualFarmStatus::default(), &first).into_iter().map(|news| news.note).collect();
    assert_eq!(told, ["the farm's network is 172.16.1.0/24"]);
    assert!(news(&first, &first).is_empty());
}

#[test]
fn a_farm_is_woken_for_a_copy_that_tells_its_address_alone() {
    let mut of_namespace = farm();
    of_namespace.status.get_or_insert_default().network = Some("172.16.1.0/24".into());
    let of_namespace = Arc::new(of_namespace);
    let woken = |farm: Option<&str>, address: Option<&str>| {
        let kept = (("tenant".to_owned(), farm.map(str::to_owned)), address.map(str::to_owned));
        super::farm_of_kept(&kept, |_| vec![Arc::clone(&of_namespace)]).map(|(_, farm)| farm)
    };
    assert_eq!(woken(None, Some("172.16.1.7")), Some("farm-a".into()));
    assert_eq!(woken(Some("other"), Some("172.16.1.7")), Some("other".into()), "it is written down");
    assert_eq!(woken(None, Some("172.16.2.7")), None);
    assert_eq!(woken(None, None), None);
}

#[test]
fn a_dry_run_shows_what_would_happen_and_why_something_would_wait() {
    let mut farm = with_group(with_group(farm(), changed(group("workers", 2))), group("new", 2));
    farm.spec.quota = Some(Quota { instances: Some(3), ..Quota::default() });
    let given = given(farm).with(running("workers", 0)).with(running("old", 0));
    let mut world = site::world(vec![site::host("one", 64, "64Gi", "99Gi")], vec![]);
    world.machines.clone_from(&given.0.machines);
    let planned = dry_run::rehearse(&given.0, world);
    let lines: Vec<_> = planned
        .iter()
        .map(|one| {
            let place = one.hypervisor.as_ref().or(one.waits.as_ref()).cloned().unwrap_or_default();
            format!("{} {} {place}", one.action, one.name)
        })
        .collect();
    assert_eq!(
        lines,
        [
            "Create farm-a-new-0 one",
            "Create farm-a-new-1 QuotaExceeded: farm-a: instances 3 of 3 used, needs 1 more",
            "Delete farm-a-old-0 ",
            "Replace farm-a-workers-0 one",
            "Create farm-a-workers-1 one",
        ]
    );
    let told = dry_run_status(&given.0, planned, at(200));
    assert_eq!(ready_of(&told).0, "DryRun");
    assert!(ready_of(&told).1.contains("3 to create, 0 to keep, 1 to replace, 1 to delete; 1 would wait"));
    assert_eq!(told.network, None, "nothing is reserved");
    assert_eq!(find(&told.conditions, "NetworkReady").unwrap().message, "it would get 172.16.1.0/24");
}

#[test]
fn a_dry_run_of_thousands_rehearses_those_that_can_have_an_address() {
    let mut farm = farm();
    farm.spec.groups = (0..32).map(|index| group(&format!("g{index}"), 253)).collect();
    let given = given(farm);
    let planned = dry_run::rehearse(&given.0, site::world(vec![site::host("one", 999, "999Gi", "99Gi")], vec![]));
    let waits = |one: &&crate::api::PlannedMachine| one.waits.as_deref().is_some_and(|why| why.contains("no address"));
    assert_eq!((planned.len(), planned.iter().filter(waits).count()), (8096, 8096 - 253));
    let told = dry_run_status(&given.0, planned, at(200));
    assert!(ready_of(&told).1.contains("8096 to create"), "{}", ready_of(&told).1);
    assert_eq!(told.plan.len(), 253);
}

#[test]
fn a_dry_run_of_a_refused_farm_says_so_for_every_machine() {
    let refused = Err(Wait::new("NetworkOverlaps", "172.16.1.0/24 belongs to farm other/b"));
    let given = given(workers(1)).network(refused);
    let world = site::world(vec![site::host("one", 64, "64Gi", "99Gi")], vec![]);
    let planned = dry_run::rehearse(&given.0, world);
    assert!(planned[0].waits.as_ref().unwrap().contains("NetworkOverlaps: 172.16.1.0/24 belongs to farm other/b"));
}

fn with_quota(mut given: Given, quota: Quota) -> Given {
    given.0.budget.quota = quota;
    given
}

fn instances(limit: i32) -> Quota {
    Quota { instances: Some(limit), ..Quota::default() }
}

fn held_back_of(given: &Given) -> (Option<i32>, String, String) {
    let told = status(&given.0, &given.plan(), at(200));
    let condition = find(&told.conditions, "HeldBack").unwrap();
    (told.held_back, condition.reason.clone(), condition.message.clone())
}

#[test]
fn what_the_quota_does_not_allow_is_not_made_and_said() {
    let mut farm = farm();
    farm.spec.groups = ["a", "b", "c"].map(|name| group(name, 253)).into();
    let given = with_quota(given(farm), instances(1));
    given.plans(["create farm-a-a-0"]);
    let why = "758 machines are held back until there is room: farm-a: instances 1 of 1 used, needs 1 more";
    assert_eq!(held_back_of(&given), (Some(758), "QuotaExceeded".into(), why.into()));
    let told = status(&given.0, &given.plan(), at(200));
    assert_eq!(ready_of(&told).0, "MachinesHeldBack");
    assert_eq!(find(&told.conditions, "QuotaExceeded").unwrap().reason, "MachinesHeldBack");
    let news: Vec<_> = news(&VirtualFarmStatus::default(), &told).into_iter().map(|news| news.reason).collect();
    assert_eq!(news, ["NetworkAssigned", "MachinesHeldBack"]);
    assert!(super::news(&told, &told).is_empty());
}

#[test]
fn a_machine_that_is_there_and_not_yet_placed_has_its_share_of_the_quota() {
    let two = |quota| with_quota(given(workers(3)).with(member("workers", 0)), quota);
    let first = "farm-a-workers-0 gets 172.16.1.2";
    two(instances(2)).plans([first, "create farm-a-workers-1"]);
    two(instances(1)).plans([first]);
    let memory = Quota { memory: Some("1Gi".parse().unwrap()), ..Quota::default() };
    two(memory).plans([first, "create farm-a-workers-1"]);
    let why = "1 machine is held back until there is room: farm-a: memory 1Gi of 1Gi used, needs 512Mi more";
    assert_eq!(held_back_of(&two(memory)).2, why);
    let mut leaving_one = with_quota(given(workers(1)).with(leaving(member("old", 0))), instances(1));
    leaving_one.0.budget.instances = 1;
    assert_eq!(words(&leaving_one.plan()), Vec::<String>::new(), "what runs until it is gone has its share until then");
    leaving_one.0.budget.instances = 0;
    assert_eq!(words(&leaving_one.plan()), ["create farm-a-workers-0"]);
}

#[test]
fn a_group_that_shall_not_run_needs_addresses_and_no_quota() {
    let mut halted = group("workers", 2);
    halted.run_strategy = RunStrategy::Halted;
    let given = with_quota(given(with_group(farm(), halted)), instances(0));
    given.plans(["create farm-a-workers-0", "create farm-a-workers-1"]);
    assert_eq!(held_back_of(&given).1, "NothingHeldBack");
}

#[test]
fn no_machine_is_made_for_which_no_address_is_left() {
    let mut full = given(with_group(with_group(farm(), group("a", 253)), group("b", 1)));
    assert_eq!(full.plan().steps.len(), 253);
    assert_eq!(
        held_back_of(&full).2,
        "1 machine is held back until there is room: no address is left in 172.16.1.0/24"
    );
    full.0.left_behind = ["172.16.1.9".parse().unwrap()].into();
    assert_eq!((full.plan().steps.len(), held_back_of(&full).0), (252, Some(2)), "what a lost host may use isn't left");
}

/// The machines after the steps have been carried out and everything has come to rest.
fn carried_out(machines: &[Arc<VirtualMachine>], steps: &[Step]) -> Vec<Arc<VirtualMachine>> {
    let mut after: BTreeMap<_, _> = machines
        .iter()
        .filter(|machine| machine.metadata.deletion_timestamp.is_none())
        .map(|machine| (machine.name_any(), (**machine).clone()))
        .collect();
    for step in steps {
        match step {
            Step::Create(machine) | Step::Update(machine) => {
                let mut machine = (**machine).clone();
                machine.metadata.uid.get_or_insert(format!("uid-{}", machine.name_any()));
                after.insert(machine.name_any(), machine);
            }
            Step::Delete(machine) => drop(after.remove(&machine.name_any())),
            Step::MakeRouter(_) | Step::ChangeRouter(_) | Step::DeleteRouter(_) => {}
            Step::GiveAddress(machine, address) => {
                if let Some(machine) = after.get_mut(&machine.name_any()) {
                    *machine = addressed(machine.clone(), &address.to_string());
                }
            }
        }
    }
    after
        .into_values()
        .map(|mut machine| {
            let status = machine.status.get_or_insert_default();
            status.conditions = stamp(vec![State::yes(READY, "AgentAnswers", "")], &[], None, at(0));
            Arc::new(machine)
        })
        .collect()
}

prop_compose! {
    fn any_group()(replicas in 0i32..6, new: bool, unavailable in 0i32..3, surge in 0i32..3) -> MachineGroup {
        let mut group = group("workers", replicas);
        group.update.max_unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
        group.update.max_surge = surge;
        if new { changed(group) } else { group }
    }
}

proptest! {
    /// Whatever there is, a farm comes to rest with as many machines as it shall have, and then plans nothing; on the
    /// way no more machines than allowed are there, and none that works is deleted below what shall stay available.
    #[test]
    fn a_farm_comes_to_rest(
        group in any_group(),
        having in proptest::collection::btree_map(0i32..8, (any::<bool>(), any::<bool>()), 0..8),
    ) {
        let replicas = group.replicas as usize;
        let ceiling = replicas.max(having.len()) + group.update.max_surge as usize;
        let floor = replicas.saturating_sub(group.update.max_unavailable as usize);
        let mut given = given(with_group(farm(), group));
        for (index, (works, goes)) in having {
            let machine = running("workers", index);
            let machine = if works { machine } else { broken(machine) };
            given = given.with(if goes { leaving(machine) } else { machine });
        }
        for _ in 0..40 {
            let steps = plan(&given.0).steps;
            let working = |machine: &VirtualMachine| super::groups::health(machine) == super::groups::Health::Available;
            let count = |machines: &[Arc<VirtualMachine>]| machines
                .iter()
                .filter(|machine| machine.metadata.deletion_timestamp.is_none() && working(machine))
                .count();
            let deleted = steps.iter().filter(|step| matches!(step, Step::Delete(machine) if working(machine))).count();
            prop_assert!(deleted == 0 || count(&given.0.machines) - deleted >= floor);
            given.0.machines = carried_out(&given.0.machines, &steps);
            prop_assert!(given.0.machines.len() <= ceiling);
        }
        prop_assert_eq!(given.0.machines.len(), replicas);
        prop_assert!(plan(&given.0).steps.is_empty());
    }
}

fn routed(farm: VirtualFarm) -> VirtualFarm {
    let mut farm = farm;
    farm.spec.router = Some(RouterTemplate::default());
    farm
}

/// The router that the farm makes.
fn its_router(farm: &VirtualFarm) -> VRouter {
    let made = given(farm.clone()).plan().steps.into_iter().find_map(|step| match step {
        Step::MakeRouter(router) => Some(*router),
        _ => None,
    });
    let mut router = made.expect("a router is made");
    router.metadata.uid = Some("uid-router".into());
    router
}

#[test]
fn a_farm_makes_changes_and_deletes_its_router() {
    let farm = routed(workers(0));
    given(farm.clone()).plans(["make router farm-a"]);
    let router = its_router(&farm);
    given(farm.clone()).routed_by(router.clone()).plans([]);
    let mut public = farm.clone();
    public.spec.public_ip = Some("198.51.100.20".into());
    given(public).routed_by(router.clone()).plans(["change router farm-a"]);
    given(workers(0)).routed_by(router.clone()).plans(["delete router farm-a"]);
    let mut leaving = farm.clone();
    leaving.metadata.deletion_timestamp = Some(Time(at(9)));
    given(leaving).routed_by(router.clone()).plans(["delete router farm-a"]);
    let mut stray = router;
    stray.metadata.owner_references = None;
    stray.metadata.labels = None;
    let plan = given(farm).routed_by(stray).plan();
    assert_eq!((words(&plan), plan.troubles[0].reason), (vec![], "NameTaken"));
}

#[test]
fn only_the_router_gets_the_gateways_address_and_it_is_no_machine_of_the_farm() {
    let farm = routed(workers(0));
    let router = its_router(&farm);
    let at_work = || given(farm.clone()).routed_by(router.clone());
    let mut to_be = bare("farm-a-router-0", 0);
    to_be.labels_mut().insert(ROUTER_LABEL.into(), "farm-a".into());
    at_work().with(to_be.clone()).plans([]);
    at_work().with(appointed(to_be.clone())).plans(["farm-a-router-0 gets 172.16.1.1"]);
    at_work().with(addressed(appointed(to_be.clone()), "172.16.1.1")).plans([]);
    // The one that was there before keeps it until it is gone.
    let mut last = addressed(appointed(bare("farm-a-router-0", 0)), "172.16.1.1");
    last.metadata.deletion_timestamp = Some(Time(at(9)));
    at_work().with(last).with(appointed(bare("another", 1))).plans([]);
    let mut lost = at_work().with(appointed(to_be.clone()));
    lost.0.left_behind = ["172.16.1.1".parse().unwrap()].into();
    assert_eq!((words(&lost.plan()), lost.plan().troubles[0].reason), (vec![], "GatewayLeftBehind"));

    let counted = at_work().with(addressed(appointed(to_be), "172.16.1.1"));
    let status = status(&counted.0, &counted.plan(), at(9));
    assert_eq!((status.machines.as_deref(), status.addresses_used), (Some("0/0"), Some(0)));
    assert_eq!(find(&status.conditions, READY).unwrap().reason, "RouterNotReady");
}

/// A tenant writes the labels of his machines.
#[test]
fn a_machine_that_has_an_address_counts_whatever_its_label_says() {
    let claims_to_be = |mut machine: VirtualMachine| {
        machine.labels_mut().insert(ROUTER_LABEL.into(), "x".into());
        machine
    };
    let labelled = || claims_to_be(addressed(bare("own", 0), "172.16.1.2"));
    let site = given(workers(0)).with(labelled()).with(bare("next", 1));
    site.plans(["next gets 172.16.1.3"]);
    assert_eq!(site.plan().addresses_used, 2);
    let unwritten = labelled().status.map(|_| claims_to_be(bare("own", 0))).unwrap();
    let mut promised = given(workers(0)).with(unwritten).with(bare("next", 1));
    promised.0.promised = [("uid-own".to_owned(), "172.16.1.2".parse().unwrap())].into();
    promised.plans(["own gets 172.16.1.2", "next gets 172.16.1.3"]);
}

#[test]
fn two_routers_have_addresses_of_their_own_which_no_machine_is_given() {
    let mut farm = routed(workers(0));
    farm.spec.router.as_mut().unwrap().replicas = 2;
    let router = its_router(&farm);
    let at_work = || given(farm.clone()).routed_by(router.clone());
    let first = || seated(bare("farm-a-router-0", 0), RouterSeat::First);
    let second = || seated(bare("farm-a-router-1", 0), RouterSeat::Second);
    let both = ["farm-a-router-0 gets 172.16.1.253", "farm-a-router-1 gets 172.16.1.254"];
    at_work().with(first()).with(second()).plans(both);

    // While one that is alone goes on, the second gets ready; one that is to be alone waits for all others.
    let alone = addressed(appointed(bare("farm-a-router-0", 0)), "172.16.1.1");
    at_work().with(alone).with(second()).plans(["farm-a-router-1 gets 172.16.1.254"]);
    let leaving_second = leaving(addressed(second(), "172.16.1.254"));
    at_work().with(appointed(bare("farm-a-router-0", 0))).with(leaving_second).plans([]);

    // What may still run on a lost host keeps its place, not the other's.
    let mut lost = at_work().with(first()).with(second());
    lost.0.left_behind = ["172.16.1.253".parse().unwrap()].into();
    let plan = lost.plan();
    assert_eq!((words(&plan), plan.troubles[0].reason), (vec![both[1].to_owned()], "GatewayLeftBehind"));
    lost.0.left_behind = ["172.16.1.1".parse().unwrap()].into();
    assert_eq!(words(&lost.plan()), Vec::<String>::new(), "one that was alone knows of no other");

    let squatter = addressed(bare("login", 0), "172.16.1.253");
    let taken = at_work().with(squatter).with(first()).plan();
    assert_eq!((words(&taken), taken.troubles[0].reason), (vec![], "RouterAddressTaken"));
    let network = "172.16.1.0/24".parse().unwrap();
    let kept: Vec<_> = at_work().0.kept_back(network).into_iter().map(|address| address.octets()[3]).collect();
    assert_eq!(kept, [253, 254]);
}
