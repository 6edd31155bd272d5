//! What is told of a site on which all goes as it should: no Warning, and that everything is as it was wanted.

use serde_json::{Value, json};

use crate::apiserver::{Store, resource};
use crate::datacentre::{Datacentre, ours};
use crate::drive::{Act, drive, drive_by_chance};
use crate::faults::{Odds, Stop};
use crate::flows::{FLOWS, act, empty, with_farm, with_router, with_two_routers};
use crate::kstatus::{Reading, reading};

/// Warnings that were told after a moment, in words.
fn warnings_since(before: &Datacentre, site: &Datacentre) -> Vec<String> {
    let told = |site: &Datacentre| {
        let events = site.store.list(&resource("events.k8s.io", "events"), "");
        let warnings = events.iter().filter(|event| event["type"] == "Warning");
        let words = |event: &Value| format!("{} {}: {}", event["regarding"]["name"], event["reason"], event["note"]);
        warnings.map(|event| words(event)).collect::<Vec<_>>()
    };
    let known = told(before);
    told(site).into_iter().filter(|warning| !known.contains(warning)).collect()
}

#[track_caller]
fn tells_no_warning(start: &Datacentre, acts: &[Act]) {
    let driven = drive(start, acts, None);
    assert_eq!(warnings_since(start, &driven.site), Vec::<String>::new());
}

/// Objects of ours that a tool which waits for them would wait for, and why.
fn awaited(store: &Store) -> Vec<String> {
    let kinds = ["hypervisors", "images", "flavours", "virtualfarms", "virtualmachines", "vrouters"];
    let objects = kinds.into_iter().flat_map(|plural| store.list(&ours(plural), ""));
    let awaited = objects.filter(|object| reading(object) != Reading::Current);
    awaited.map(|object| format!("{} {}: {}", object["kind"], object["metadata"]["name"], object["status"])).collect()
}

#[test]
fn a_normal_start_tells_no_warning() {
    let start = Datacentre::new();
    tells_no_warning(&start, &[act(0, |live, _| live.create_routed_farm())]);
    tells_no_warning(empty(), &[act(0, |live, _| live.create_routed_farm())]);
    tells_no_warning(
        empty(),
        &[act(0, |live, _| {
            live.create_routed_farm();
            live.patch_farm(&json!({"router": {"replicas": 2}, "elasticIP": {"target": "farm-nodes-0"}}));
        })],
    );
    tells_no_warning(empty(), &[act(0, |live, _| live.create_farm(40))]);
}

#[test]
fn what_is_applied_in_another_order_tells_no_warning() {
    tells_no_warning(
        empty(),
        &[
            act(0, |live, _| {
                let group = json!({"name": "nodes", "replicas": 2, "flavour": "later", "image": "one"});
                live.create("virtualfarms", "tenant", "farm", json!({"groups": [group]}));
                live.create(
                    "virtualmachines",
                    "tenant",
                    "early",
                    json!({
                        "farm": "other", "flavour": "small", "image": "one",
                        "userData": {"configMapRef": {"name": "later"}},
                    }),
                );
            }),
            act(5, |live, _| {
                live.create("flavours", "", "later", json!({"cpus": 1, "memory": "512Mi", "rootDisk": "3Gi"}));
                live.create("virtualfarms", "tenant", "other", json!({}));
                live.api.with(|store, now| {
                    let map = json!({"metadata": {"name": "later"}, "data": {"userData": "#!/bin/sh"}});
                    store.create(&resource("", "configmaps"), "tenant", map, "somebody", now).unwrap();
                });
            }),
        ],
    );
}

#[test]
fn what_people_wish_and_the_operators_own_restart_tell_no_warning() {
    for name in [
        "roll a group",
        "shrink and grow",
        "delete a machine",
        "halt and start",
        "delete the farm",
        "open and close ways into a farm",
        "give a router another public address",
        "give a farm two routers, then one",
        "delete a farm with two routers",
    ] {
        let flow = FLOWS.iter().find(|flow| flow.name == name).unwrap();
        let start = (flow.start)();
        let driven = drive(start, flow.acts, None);
        assert_eq!(warnings_since(start, &driven.site), Vec::<String>::new(), "{name}");
    }
    for start in [with_farm(), with_router(), with_two_routers()] {
        let driven = drive_by_chance(start, &[], Some(Stop::After(40)), Odds::default(), 0);
        assert_eq!(warnings_since(start, &driven.site), Vec::<String>::new());
    }
}

#[test]
fn a_wait_that_lasts_is_told_once_as_a_warning() {
    let driven = drive(
        empty(),
        &[act(0, |live, _| {
            live.create("virtualfarms", "tenant", "farm", json!({}));
            live.create(
                "virtualmachines",
                "tenant",
                "lost",
                json!({"farm": "farm", "flavour": "none", "image": "one"}),
            );
        })],
        None,
    );
    let told = warnings_since(empty(), &driven.site);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("FailedScheduling") && told[0].contains("there is no Flavour none"), "{told:?}");
}

#[test]
fn what_is_as_it_was_wanted_reads_as_current() {
    let driven = drive(
        with_router(),
        &[
            act(0, |live, _| live.create_machine("always", "Always")),
            act(0, |live, _| live.create_machine("never", "Halted")),
            act(0, |live, _| live.create_machine("once", "Once")),
            act(0, |live, _| live.create_machine("again", "RerunOnFailure")),
            act(30, |live, _| live.shut_down("tenant/once")),
            act(0, |live, _| live.shut_down("tenant/again")),
            act(30, |live, _| live.edit_group("runStrategy", &json!("Halted"))),
        ],
        None,
    );
    assert_eq!(awaited(&driven.site.store), Vec::<String>::new());
    let phase = |name: &str| {
        let machine = driven.site.store.get(&ours("virtualmachines"), "tenant", name).unwrap();
        machine["status"]["phase"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        ["always", "never", "once", "again", "farm-nodes-0"].map(phase),
        ["Running", "Stopped", "Stopped", "Stopped", "Stopped"]
    );
}

#[test]
fn what_nobody_has_looked_at_is_not_current() {
    let mut site = Datacentre::new();
    site.create("virtualfarms", "tenant", "farm", json!({}));
    site.create("virtualmachines", "tenant", "one", json!({"farm": "farm", "flavour": "small", "image": "one"}));
    let fresh = awaited(&site.store);
    assert_eq!(fresh.len(), 5 + 3 + 2, "hosts, images, farm and machine: {fresh:?}");
}
