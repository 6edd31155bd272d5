//! What two machines of one router do next, and what is told of them, as tables.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::memory::Replica;
use super::news::news;
use super::observe::View;
use super::plan::{Plan, machine_name, plan};
use super::status::status;
use super::talk::{Heard, Working};
use super::tests::{now, replica, running, the_router, view, words};
use crate::api::conditions::find;
use crate::api::{VRouterStatus, VirtualMachine};
use crate::network::RouterSeat;

/// A router of two machines, and what a change makes of one of them.
fn pair(changes: &[&dyn Fn(&mut Replica)]) -> View {
    let mut router = the_router();
    router.spec.template.replicas = 2;
    let mut view = view(router, None);
    let of = |seat: RouterSeat| {
        let mut machine = running();
        let name = machine_name("farm-a", seat);
        machine.metadata.uid = Some(format!("00000000-0000-0000-0000-00000000000{}", name.chars().last().unwrap()));
        machine.metadata.name = Some(name);
        let status = machine.status.as_mut().unwrap();
        status.router.as_mut().unwrap().seat = seat;
        status.address = Some(view.desired.as_ref().unwrap().router.farm.router_address(seat).to_string());
        status.hypervisor = Some(format!("service-{}", u8::from(seat == RouterSeat::Second) + 1));
        replica(machine)
    };
    let mut replicas = RouterSeat::PAIR.map(of);
    let hash = view.desired.as_ref().unwrap().router.documents().hash();
    for (replica, leads) in replicas.iter_mut().zip([true, false]) {
        replica.heard = Some(Heard::InForce(Working { hash, leads: Some(leads), peers: BTreeMap::new() }));
    }
    for (replica, change) in replicas.iter_mut().zip(changes) {
        change(replica);
    }
    view.replicas = replicas.into();
    view
}

fn machine(replica: &mut Replica) -> &mut VirtualMachine {
    Arc::make_mut(&mut replica.machine)
}

fn stays(_: &mut Replica) {}

fn outdated(replica: &mut Replica) {
    machine(replica).spec.image = "last-year".into();
}

fn leads(replica: &mut Replica, is: bool) {
    let Some(Heard::InForce(working)) = &mut replica.heard else { panic!("it says nothing") };
    working.leads = Some(is);
}

fn alone(replica: &mut Replica) {
    let status = machine(replica).status.as_mut().unwrap();
    status.router.as_mut().unwrap().seat = RouterSeat::Only;
    status.address = Some("172.16.1.1".into());
    leads(replica, true);
}

fn said(view: &View) -> Vec<Option<Heard>> {
    view.replicas.iter().map(|one| one.heard.clone()).collect()
}

#[track_caller]
fn does(view: &View, steps: &[&str]) -> Plan {
    let plan = plan(view, now());
    assert_eq!(words(&plan), steps);
    plan
}

fn told(plan: &Plan) -> Vec<bool> {
    plan.seats.iter().map(|seat| seat.tell.is_some()).collect()
}

#[test]
fn both_are_made_and_told_the_same() {
    let mut nobody = pair(&[]);
    nobody.replicas.clear();
    does(&nobody, &["create farm-a-router-0", "create farm-a-router-1"]);
    let at_work = does(&pair(&[]), &[]);
    let [one, other] = &at_work.seats[..] else { panic!("two seats") };
    let [one, other] = [one, other].map(|seat| seat.tell.clone().unwrap());
    assert_eq!(one.documents, other.documents);
    assert_ne!((one.uuid, one.host), (other.uuid, other.host));
}

#[test]
fn of_two_that_are_outdated_the_one_goes_first_whose_turn_it_is_not() {
    does(&pair(&[&outdated, &outdated]), &["delete: MachineOutdated"]).steps.iter().for_each(|step| {
        assert!(format!("{step:?}").contains("farm-a-router-1"), "{step:?}");
    });
    let turned = pair(&[
        &|one| {
            outdated(one);
            leads(one, false);
        },
        &|one| {
            outdated(one);
            leads(one, true);
        },
    ]);
    assert!(format!("{:?}", does(&turned, &["delete: MachineOutdated"]).steps).contains("farm-a-router-0"));
    // The other follows when the new one works as it should, and not before.
    let new = pair(&[&outdated, &|one| one.heard = None]);
    assert_eq!(told(&does(&new, &[])), [true, true]);
    does(&pair(&[&outdated, &stays]), &["delete: MachineOutdated"]);
    let mut gone = pair(&[&outdated, &stays]);
    gone.replicas.pop();
    does(&gone, &["create farm-a-router-1"]);
}

#[test]
fn with_another_public_address_the_one_whose_turn_it_is_goes_on_by_the_old_one_until_the_other_works() {
    let moved = |one: &mut Replica| {
        let role = machine(one).status.as_mut().unwrap().router.as_mut().unwrap();
        role.public_ips = vec!["198.51.100.22".into()];
        one.heard = None;
    };
    let first = does(&pair(&[&moved, &moved]), &["delete: PublicAddressChanged"]);
    assert!(format!("{:?}", first.steps).contains("farm-a-router-1"));
    let new = does(&pair(&[&moved, &|one| one.heard = None]), &[]);
    assert_eq!(told(&new), [false, true], "it has no card for what it would be told");
    assert_eq!(new.seats[0].wait.as_ref().unwrap().reason, "PublicAddressChanged");
    does(&pair(&[&moved, &stays]), &["delete: PublicAddressChanged"]);
}

#[test]
fn one_that_is_silent_makes_way_whatever_the_other_does() {
    let silent = |one: &mut Replica| one.silent_since = now().checked_sub(Duration::from_secs(60)).ok();
    does(&pair(&[&silent, &|one| one.heard = None]), &["delete: RouterSilent"]);
    does(&pair(&[&silent, &silent]), &["delete: RouterSilent", "delete: RouterSilent"]);
}

#[test]
fn a_second_router_is_there_before_the_one_that_was_alone_goes() {
    let mut one = pair(&[&alone, &stays]);
    one.replicas.pop();
    assert_eq!(told(&does(&one, &["create farm-a-router-1"])), [false, false]);
    let booting = |one: &mut Replica| machine(one).status.as_mut().unwrap().conditions.clear();
    assert_eq!(told(&does(&pair(&[&alone, &booting]), &[])), [false, false], "two would have the gateway's address");
    does(&pair(&[&alone, &|one| one.heard = None]), &["delete: ReplicasChanged"]);
    let leaving = |one: &mut Replica| {
        alone(one);
        machine(one).metadata.deletion_timestamp = Some(Time(now()));
    };
    assert_eq!(told(&does(&pair(&[&leaving, &stays]), &[])), [false, false]);
    let mut gone = pair(&[&stays, &stays]);
    gone.replicas.remove(0);
    assert_eq!(told(&does(&gone, &["create farm-a-router-0"])), [false, true]);
}

#[test]
fn a_farm_that_wants_one_again_gets_one_that_is_alone() {
    let mut less = pair(&[]);
    Arc::make_mut(&mut less.router).spec.template.replicas = 1;
    assert_eq!(told(&does(&less, &["delete: ReplicasChanged", "delete: MachineSurplus"])), [false]);
    let mut leaving = pair(&[]);
    Arc::make_mut(&mut leaving.router).metadata.deletion_timestamp = Some(Time(now()));
    does(&leaving, &["delete: Deleting", "delete: Deleting"]);
}

fn reasons(status: &VRouterStatus) -> Vec<String> {
    let of = |kind| find(&status.conditions, kind).map(|one| format!("{}={}", one.status, one.reason));
    ["Ready", "Redundant"].into_iter().filter_map(of).collect()
}

#[test]
fn it_says_whose_turn_it_is_and_whether_the_other_would_do() {
    let tells = |view: &View| status(view, &plan(view, now()), &said(view), now());
    let both = tells(&pair(&[]));
    assert_eq!(reasons(&both), ["True=Routing", "True=StandbyReady"]);
    let standby = both.standby.clone().unwrap();
    assert_eq!((both.machine.as_deref(), standby.machine.as_str()), (Some("farm-a-router-0"), "farm-a-router-1"));
    assert_eq!(both.config.as_ref().unwrap().hash, standby.config.unwrap().hash);

    // The first is gone, the second works.
    let gone = |one: &mut Replica| {
        machine(one).status.as_mut().unwrap().conditions.clear();
        one.heard = None;
    };
    let mut turned = pair(&[&gone, &|one| leads(one, true)]);
    Arc::make_mut(&mut turned.router).status = Some(both.clone());
    let after = tells(&turned);
    assert_eq!(reasons(&after), ["True=Routing", "False=MachineNotReady"]);
    assert_eq!(after.machine.as_deref(), Some("farm-a-router-1"));
    assert_eq!(after.config, both.config, "it works by the same since the same time");
    let told: Vec<_> = news(Some(&both), &after).into_iter().map(|news| news.note).collect();
    assert_eq!(told, ["farm-a-router-1 works in place of farm-a-router-0"]);

    let neither = pair(&[&|one| leads(one, false), &stays]);
    assert_eq!(reasons(&tells(&neither))[0], "False=Pending");
    let cut = tells(&pair(&[&stays, &|one| leads(one, true)]));
    assert_eq!(reasons(&cut), ["True=Routing", "False=BothLead"]);

    // The first comes back while it is cut off from the farm, and works too: the second goes on.
    let mut both_lead = pair(&[&stays, &|one| leads(one, true)]);
    Arc::make_mut(&mut both_lead.router).status = Some(after.clone());
    let again = tells(&both_lead);
    assert_eq!((reasons(&again)[1].as_str(), again.machine.as_deref()), ("False=BothLead", Some("farm-a-router-1")));
    assert!(news(Some(&after), &again).iter().all(|news| news.reason != "TurnTaken"));
    assert!(find(&cut.conditions, "Redundant").unwrap().message.contains("service-1 and service-2"));
    let names: Vec<_> = cut.machine.into_iter().chain(cut.standby.map(|standby| standby.machine)).collect();
    assert_eq!(names, ["farm-a-router-0", "farm-a-router-1"]);
    assert_eq!(pair(&[]).replicas[1].machine.name_any(), "farm-a-router-1");
}
