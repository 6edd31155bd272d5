//! Objects that others hold on to, part from their owners, or bring back from a backup.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::apiserver::{Resource, Store, resource};
use crate::datacentre::{Datacentre, Live, ours};
use crate::drive::drive;
use crate::flows::{act, empty, with_farm, with_router};
use crate::state::faults_of;

fn machines() -> Resource {
    ours("virtualmachines")
}

fn condition(object: &Value, kind: &str) -> (String, String) {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    let text = |field: &str| found.map(|found| found[field].as_str().unwrap().to_owned()).unwrap_or_default();
    (text("reason"), text("message"))
}

fn farm(store: &Store) -> Arc<Value> {
    store.get(&ours("virtualfarms"), "tenant", "farm").expect("the farm is there")
}

impl Live {
    /// Puts finalizers on an object.
    fn hold(&self, plural: &str, name: &str, finalizers: &[&str]) {
        self.patch(plural, "tenant", name, &json!({"metadata": {"finalizers": finalizers}}));
    }

    /// Deletes a farm as `kubectl delete --cascade=orphan` does.
    fn part(&self, plural: &str, name: &str) {
        self.hold(plural, name, &["cascina.dev/cleanup", "orphan"]);
        self.delete(plural, "tenant", name);
    }

    /// The machine that has a host.
    fn on(&self, host: &str) -> String {
        let machines = self.api.with(|store, _| store.list(&machines(), "tenant"));
        let on_host = machines.iter().find(|machine| machine["status"]["hypervisor"] == host).unwrap();
        on_host["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// Takes all objects of a namespace away past their finalizers, and brings them back as a backup does: without uids, owners and
    /// statuses, and what is owned first.
    fn restore(&self) {
        let kinds =
            [machines(), ours("vrouters"), resource("rbac.authorization.k8s.io", "rolebindings"), ours("virtualfarms")];
        self.api.with(|store, now| {
            let kept: Vec<_> = kinds.iter().map(|kind| store.list(kind, "tenant")).collect();
            for (kind, objects) in kinds.iter().zip(&kept) {
                for object in objects {
                    let name = object["metadata"]["name"].as_str().unwrap();
                    let write = crate::apiserver::Write { manager: "backup", status: false, now };
                    let nobody = json!({"metadata": {"finalizers": null}});
                    store.merge(kind, "tenant", name, &nobody, &write).unwrap();
                    store.delete(kind, "tenant", name, &json!({}), now).unwrap();
                }
            }
            for (kind, objects) in kinds.iter().zip(&kept) {
                for object in objects {
                    let mut object = (**object).clone();
                    let known = object["metadata"].clone();
                    object["metadata"] =
                        json!({"name": known["name"], "labels": known["labels"], "annotations": known["annotations"]});
                    object.as_object_mut().unwrap().remove("status");
                    store.create(kind, "tenant", object, "backup", now).unwrap();
                }
            }
        });
    }
}

#[test]
fn a_farm_deleted_without_its_machines_waits_and_loses_nothing() {
    for start in [with_farm(), with_router()] {
        let before = start.store.list(&machines(), "tenant");
        let driven = drive(start, &[act(0, |live, _| live.part("virtualfarms", "farm"))], None);
        let after = driven.site.store.list(&machines(), "tenant");
        let uids =
            |machines: &[Arc<Value>]| machines.iter().map(|one| one["metadata"]["uid"].clone()).collect::<Vec<_>>();
        assert_eq!(uids(&before), uids(&after));
        assert!(after.iter().all(|machine| machine["status"]["phase"] == "Running"));
        let (reason, message) = condition(&farm(&driven.site.store), "Deleting");
        assert!(reason == "MachinesKept" && message.contains("farm-nodes-0"), "{reason}: {message}");

        let gone = drive(
            &driven.site,
            &[act(0, |live, _| {
                for machine in live.api.with(|store, _| store.list(&machines(), "tenant")) {
                    let name = machine["metadata"]["name"].as_str().unwrap().to_owned();
                    if !name.contains("router") {
                        live.delete("virtualmachines", "tenant", &name);
                    }
                }
                if live.api.with(|store, _| store.get(&ours("vrouters"), "tenant", "farm")).is_some() {
                    live.delete("vrouters", "tenant", "farm");
                }
            })],
            None,
        );
        assert!(gone.site.store.list(&ours("virtualfarms"), "").is_empty(), "{}", farm(&gone.site.store));
        assert_eq!(faults_of(&gone.site), Vec::<String>::new());
    }
}

#[test]
fn what_somebody_else_keeps_counts_no_more_and_says_what_it_waits_for() {
    let driven = drive(
        with_farm(),
        &[act(0, |live, _| {
            live.hold("virtualmachines", "farm-nodes-0", &["cascina.dev/cleanup", "example.org/backup"]);
            live.edit_group("replicas", &json!(2));
            live.delete("virtualmachines", "tenant", "farm-nodes-0");
        })],
        None,
    );
    let store = &driven.site.store;
    let kept = store.get(&machines(), "tenant", "farm-nodes-0").unwrap();
    let (reason, message) = condition(&kept, "Deleting");
    assert!(reason == "Removed" && message.ends_with("keep it: example.org/backup"), "{reason}: {message}");
    assert_eq!(kept["status"]["phase"], "Stopped");
    assert_eq!(kept["metadata"]["finalizers"], json!(["example.org/backup"]));
    let used = &farm(store)["status"]["quotaUsed"];
    let others = store.list(&machines(), "tenant").len() as i64 - 1;
    assert_eq!(used["instances"], others, "{used}");
    assert_eq!(faults_of(&driven.site), Vec::<String>::new());
    let let_go = drive(
        &driven.site,
        &[act(0, |live, _| {
            live.patch("virtualmachines", "tenant", "farm-nodes-0", &json!({"metadata": {"finalizers": null}}))
        })],
        None,
    );
    assert_eq!(condition(&farm(&let_go.site.store), "Ready").0, "MachinesReady");
}

#[test]
fn what_somebody_else_keeps_counts_as_long_as_its_guest_may_run() {
    let acts = [
        act(0, |live, _| {
            live.patch_farm(&json!({"quota": {"instances": 3}}));
            live.world(|world| world.host("worker-1").linked = false);
            let away = live.on("worker-1");
            live.hold("virtualmachines", &away, &["cascina.dev/cleanup", "example.org/backup"]);
            live.delete("virtualmachines", "tenant", &away);
            live.edit_group("replicas", &json!(4));
        }),
        act(1000, |_, _| {}),
    ];
    let away = drive(with_farm(), &acts, None).site;
    assert_eq!(farm(&away.store)["status"]["quotaUsed"]["instances"], 3, "it runs where nobody can see");
    let kept = away.store.list(&machines(), "tenant");
    let kept = kept.iter().find(|machine| !machine["metadata"]["deletionTimestamp"].is_null()).unwrap();
    assert_eq!(condition(kept, "Deleting").0, "LeftBehind");

    let back = act(0, |live, _| live.world(|world| world.host("worker-1").linked = true));
    let back = drive(&away, &[back, act(120, |_, _| {})], None).site;
    assert_eq!(faults_of(&back), Vec::<String>::new());
    let kept = back.store.get(&machines(), "tenant", kept["metadata"]["name"].as_str().unwrap()).unwrap();
    assert_eq!(condition(&kept, "Deleting").0, "Removed");
    assert_eq!(kept["metadata"]["finalizers"], json!(["example.org/backup"]));
    let running = back.store.list(&machines(), "tenant");
    assert_eq!(running.iter().filter(|machine| machine["status"]["phase"] == "Running").count(), 3);
}

/// The same without anybody's finalizer: the object goes, and what it held stays taken.
#[test]
fn what_was_deleted_while_its_host_was_away_holds_its_address_and_its_quota() {
    let acts = [
        act(0, |live, _| {
            live.patch_farm(&json!({"quota": {"instances": 3}}));
            live.world(|world| world.host("worker-1").linked = false);
            let away = live.on("worker-1");
            live.delete("virtualmachines", "tenant", &away);
            live.edit_group("replicas", &json!(4));
        }),
        act(1000, |_, _| {}),
    ];
    let away = drive(with_farm(), &acts, None).site;
    let host = away.store.get(&ours("hypervisors"), "", "worker-1").unwrap();
    let address = &host["status"]["tombstones"][0]["address"];
    assert!(address.is_string(), "{}", host["status"]);
    let there = away.store.list(&machines(), "tenant");
    assert!(
        there
            .iter()
            .all(|machine| machine["status"]["address"] != *address
                && machine["metadata"]["deletionTimestamp"].is_null())
    );
    assert_eq!(there.iter().filter(|machine| machine["status"]["phase"] == "Running").count(), 2);
    assert_eq!(farm(&away.store)["status"]["quotaUsed"]["instances"], 3);
    let back = act(0, |live, _| live.world(|world| world.host("worker-1").linked = true));
    let back = drive(&away, &[back], None).site;
    assert_eq!(faults_of(&back), Vec::<String>::new());
}

/// A copy that was given up on one host counts when the machine is gone from another, and its object says so.
#[test]
fn what_was_given_up_elsewhere_counts_though_its_object_holds_nothing() {
    let acts = [
        act(0, |live, _| {
            live.patch_farm(&json!({"quota": {"instances": 3}}));
            live.power("worker-1", false);
        }),
        act(500, |live, _| {
            let host = live.api.with(|store, _| store.get(&ours("hypervisors"), "", "worker-1")).unwrap();
            let moved = host["status"]["tombstones"][0]["name"].as_str().expect("it was given up there").to_owned();
            live.hold("virtualmachines", &moved, &["cascina.dev/cleanup", "example.org/backup"]);
            live.delete("virtualmachines", "tenant", &moved);
            live.edit_group("replicas", &json!(4));
        }),
        act(300, |_, _| {}),
    ];
    let away = drive(with_farm(), &acts, None).site;
    let kept = away.store.list(&machines(), "tenant");
    let kept = kept.iter().find(|machine| !machine["metadata"]["deletionTimestamp"].is_null()).unwrap();
    assert_eq!(condition(kept, "Deleting").0, "Removed");
    assert_eq!(farm(&away.store)["status"]["quotaUsed"]["instances"], 3, "its first copy may run");
    let running = away.store.list(&machines(), "tenant");
    assert_eq!(running.iter().filter(|machine| machine["status"]["phase"] == "Running").count(), 2);
    let back = act(0, |live, _| live.power("worker-1", true));
    let back = drive(&away, &[back, act(120, |_, _| {})], None).site;
    assert_eq!(faults_of(&back), Vec::<String>::new());
    let running = back.store.list(&machines(), "tenant");
    assert_eq!(running.iter().filter(|machine| machine["status"]["phase"] == "Running").count(), 3);
}

#[test]
fn a_farm_that_somebody_else_keeps_says_so() {
    let driven = drive(
        with_farm(),
        &[act(0, |live, _| {
            live.hold("virtualfarms", "farm", &["cascina.dev/cleanup", "example.org/backup"]);
            live.delete("virtualfarms", "tenant", "farm");
        })],
        None,
    );
    let (reason, message) = condition(&farm(&driven.site.store), "Deleting");
    assert!(reason == "KeptByOthers" && message.ends_with("keep it: example.org/backup"), "{reason}: {message}");
}

#[test]
fn what_a_backup_brings_back_becomes_ready() {
    let restore = act(0, |live, _| {
        live.world(|world| world.hosts.values_mut().for_each(|host| host.domains.clear()));
        live.restore();
    });
    let driven = drive(with_router(), &[restore], None);
    let store = &driven.site.store;
    let farm = farm(store);
    assert_eq!(condition(&farm, "Ready").0, "MachinesReady", "{}", farm["status"]);
    let machines = store.list(&machines(), "tenant");
    assert_eq!(machines.len(), 3);
    let owned =
        |object: &Value| object["metadata"]["ownerReferences"].as_array().is_some_and(|owners| owners.len() == 1);
    assert!(machines.iter().all(|machine| owned(machine)), "{machines:?}");
    assert!(store.list(&ours("vrouters"), "tenant").iter().all(|router| owned(router)));
    assert_eq!(empty().store.list(&ours("virtualfarms"), "").len(), 0);
}

/// How many domains and disks of the tenant hosts have.
fn guests_and_disks(site: &Datacentre) -> (usize, usize) {
    let domains = site.world.hosts.values().flat_map(|host| host.domains.values());
    let volumes = site.world.pools.values().flat_map(|pool| pool.volumes.keys());
    (
        domains.filter(|domain| domain.spec.tag.namespace == "tenant").count(),
        volumes.filter(|volume| volume.ends_with("-root.qcow2")).count(),
    )
}

/// A stuck namespace was freed by force while no operator ran, and its objects come back under new uids.
#[test]
fn what_a_backup_brings_back_costs_nobody_the_disks_of_before() {
    let acts = [
        act(5, |_, faults| faults.disturb(|way| way.away = true)),
        act(5, |live, faults| {
            live.restore();
            faults.dead.cancel();
        }),
        act(300, |_, _| {}),
    ];
    let before = guests_and_disks(with_farm());
    assert_eq!(before, (3, 3));
    let restored = drive(with_farm(), &acts, None).site;
    assert_eq!(condition(&farm(&restored.store), "Ready").0, "MachinesReady", "{}", farm(&restored.store)["status"]);
    assert_eq!(guests_and_disks(&restored), (6, 6), "what was there before is there");
    assert_eq!(restored.world.violations.found, Vec::<String>::new());
    assert_ne!(farm(&restored.store)["status"]["network"], "172.16.1.0/24", "in which guests of before may be");
    assert_eq!(farm(&restored.store)["status"]["quotaUsed"]["instances"], 6, "they count");
    let old = with_farm().store.list(&machines(), "tenant");
    let old: Vec<_> = old.iter().map(|machine| machine["metadata"]["uid"].as_str().unwrap().to_owned()).collect();
    let domains = || restored.world.hosts.values().flat_map(|host| host.domains.iter());
    let before = || domains().filter(|(uuid, _)| old.contains(&uuid.to_string()));
    assert!(before().all(|(_, domain)| domain.addresses_on_the_wire().next().is_none()), "their farm is gone");

    // That what has their names goes, too, is no consent.
    let again = drive(&restored, &[act(0, |live, _| live.delete("virtualfarms", "tenant", "farm"))], None).site;
    assert_eq!(guests_and_disks(&again), (3, 3));

    let consent = act(60, |live, _| {
        for host in ["worker-1", "worker-2", "worker-3"] {
            let hypervisor = live.api.with(|store, _| store.get(&ours("hypervisors"), "", host)).unwrap();
            let (reason, message) = condition(&hypervisor, "Orphans");
            assert_eq!(reason, "Found", "{host}: {message}");
            let code = message.split("cascina.dev/sweep=").nth(1).unwrap()[..8].to_owned();
            let consent = json!({"metadata": {"annotations": {"cascina.dev/sweep": code}}});
            live.patch("hypervisors", "", host, &consent);
        }
    });
    let swept = drive(&again, &[consent], None).site;
    assert_eq!(guests_and_disks(&swept), (0, 0));
    assert_eq!(faults_of(&swept), Vec::<String>::new());
}
