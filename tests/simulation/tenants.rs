//! Tenants who write what they may into the metadata of their objects: no two of them come to share anything.

use cascina::network::FarmNetwork;
use serde_json::{Value, json};

use crate::apiserver::resource;
use crate::datacentre::{Datacentre, Live, ours};
use crate::drive::{Act, drive};
use crate::faults::Faults;
use crate::flows::{act, with_farm};

/// What makes the garbage collector delete an object for somebody who may not: an owner that never was.
fn disown(live: &Live, plural: &str, name: &str) {
    let nobody = json!([{
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualFarm", "name": "nobody", "uid": "00000000-0000-4000-8000-00000000dead",
    }]);
    live.patch(plural, "tenant", name, &json!({"metadata": {"ownerReferences": nobody}}));
}

fn strip(live: &Live, plural: &str, name: &str, field: &str) {
    live.patch(plural, "tenant", name, &json!({"metadata": {field: null}}));
}

/// A farm of another tenant with one machine.
fn make_a_neighbour(live: &Live, _: &Faults) {
    live.api.with(|store, now| {
        let namespace = json!({"metadata": {"name": "neighbour"}});
        store.create(&resource("", "namespaces"), "", namespace, "admin", now).unwrap();
    });
    let groups = json!([{"name": "nodes", "replicas": 1, "flavour": "small", "image": "one"}]);
    live.create("virtualfarms", "neighbour", "farm", json!({"groups": groups}));
}

/// The farm goes though a machine of it, whose owner was cleared, runs on.
const LEAVES_A_MACHINE: &[Act] = &[
    act(0, |live, _| {
        strip(live, "virtualmachines", "farm-nodes-0", "ownerReferences");
        disown(live, "virtualfarms", "farm");
    }),
    act(5, |live, _| strip(live, "virtualfarms", "farm", "finalizers")),
    act(5, make_a_neighbour),
];

fn reason(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.map(|condition| condition["reason"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

/// The networks of cards of a tenant's guests, those that are on the wire only.
fn networks(site: &Datacentre, namespace: &str) -> Vec<String> {
    let domains = site.world.hosts.values().flat_map(|host| host.domains.values());
    let of_tenant = domains.filter(|domain| domain.spec.tag.namespace == namespace);
    let mut networks: Vec<_> = of_tenant
        .flat_map(|domain| domain.addresses_on_the_wire())
        .map(|address| FarmNetwork::of(address).to_string())
        .collect();
    networks.sort();
    networks.dedup();
    networks
}

#[test]
fn a_machine_whose_farm_is_gone_is_cut_off_and_its_network_stays_its_own() {
    let site = drive(with_farm(), LEAVES_A_MACHINE, None).site;
    let neighbour = site.store.get(&ours("virtualfarms"), "neighbour", "farm").unwrap();
    assert_eq!(neighbour["status"]["network"], "172.16.2.0/24", "172.16.1.0/24 is held by a machine that runs");
    assert_eq!(networks(&site, "neighbour"), ["172.16.2.0/24"]);
    assert_eq!(networks(&site, "tenant"), Vec::<String>::new());
    let left = site.store.get(&ours("virtualmachines"), "tenant", "farm-nodes-0").unwrap();
    assert_eq!(reason(&left, "Ready"), "FarmGone");
    let host = left["status"]["hypervisor"].as_str().unwrap();
    let host = site.store.get(&ours("hypervisors"), "", host).unwrap();
    assert_eq!(reason(&host, "Orphans"), "Found");
}

#[test]
fn a_machine_that_is_paused_is_cut_off_all_the_same() {
    let pause = act(0, |live, _| {
        let paused = json!({"metadata": {"annotations": {"cascina.dev/paused": "true"}}});
        live.patch("virtualmachines", "tenant", "farm-nodes-0", &paused);
    });
    let acts: Vec<_> = [pause].into_iter().chain(LEAVES_A_MACHINE.iter().copied()).collect();
    let site = drive(with_farm(), &acts, None).site;
    assert_eq!(
        (networks(&site, "tenant"), networks(&site, "neighbour")),
        (Vec::new(), vec!["172.16.2.0/24".to_owned()])
    );
}

#[test]
fn a_farm_that_is_made_again_under_the_name_has_nothing_of_the_first() {
    let mut acts = LEAVES_A_MACHINE[..2].to_vec();
    acts.push(act(5, |live, _| live.create_farm(1)));
    let site = drive(with_farm(), &acts, None).site;
    let farm = site.store.get(&ours("virtualfarms"), "tenant", "farm").unwrap();
    assert_eq!(farm["status"]["network"], "172.16.2.0/24");
    let left = site.store.get(&ours("virtualmachines"), "tenant", "farm-nodes-0").unwrap();
    assert_eq!(reason(&left, "Ready"), "FarmGone");
    assert_eq!(networks(&site, "tenant"), Vec::<String>::new(), "the name farm-nodes-0 is taken, so nothing else runs");
}

/// A router's machine whose owner was cleared is its router's all the same: the address isn't given away under it.
#[test]
fn a_public_address_stays_taken_until_the_router_that_has_it_is_gone() {
    let acts = [
        act(0, |live, _| {
            let paused = json!({"ownerReferences": null, "annotations": {"cascina.dev/paused": "true"}});
            live.patch("virtualmachines", "tenant", "farm-router-0", &json!({"metadata": paused}));
        }),
        act(5, |live, _| live.patch_farm(&json!({"router": null}))),
        act(20, |live, faults| {
            make_a_neighbour(live, faults);
            live.patch("virtualfarms", "neighbour", "farm", &json!({"spec": {"router": {}}}));
        }),
    ];
    let site = drive(crate::flows::with_router(), &acts, None).site;
    let theirs = site.store.get(&ours("vrouters"), "neighbour", "farm").unwrap();
    assert_eq!(theirs["status"]["publicIP"], "198.51.100.21", "198.51.100.20 is on a card that is plugged in");
    assert_eq!(site.world.violations.found, Vec::<String>::new());
    let waits = site.store.get(&ours("vrouters"), "tenant", "farm").expect("it waits for its machine");
    assert_eq!(reason(&waits, "Deleting"), "MachinePresent");
}

/// Here nobody keeps the operator from it: that the chart's policy doesn't either is asserted on a real API server.
#[test]
fn a_router_without_owner_and_labels_goes_with_its_vrouter() {
    for parted in [0, 60] {
        let acts = [
            act(0, |live, _| {
                let nobodys = json!({"metadata": {"ownerReferences": null, "labels": null}});
                live.patch("virtualmachines", "tenant", "farm-router-0", &nobodys);
            }),
            act(parted, |live, _| live.patch_farm(&json!({"router": null}))),
        ];
        let site = drive(crate::flows::with_router(), &acts, None).site;
        assert!(site.store.list(&ours("vrouters"), "").is_empty());
        assert!(site.store.get(&ours("virtualmachines"), "tenant", "farm-router-0").is_none());
        assert_eq!(crate::state::faults_of(&site), Vec::<String>::new());
    }
}

fn strip_a_machine(live: &Live) {
    let paused = json!({"metadata": {"annotations": {"cascina.dev/paused": "true"}}});
    live.patch("virtualmachines", "tenant", "farm-nodes-0", &paused);
    live.delete("virtualmachines", "tenant", "farm-nodes-0");
    strip(live, "virtualmachines", "farm-nodes-0", "finalizers");
}

/// Whatever a farm's tenant does with finalizers, his guests count until they are gone, and they go.
fn nothing_runs_outside_the_quota(acts: &[Act]) {
    let quota = act(0, |live, _| live.patch_farm(&json!({"quota": {"instances": 3}})));
    let acts: Vec<_> = [quota].into_iter().chain(acts.iter().copied()).collect();
    let site = drive(with_farm(), &acts, None).site;
    assert_eq!(site.world.violations.found, Vec::<String>::new());
    let domains = site.world.hosts.values().flat_map(|host| host.domains.values());
    assert_eq!(domains.filter(|domain| domain.spec.tag.namespace == "tenant").count(), 3, "the old guest is gone");
    assert_eq!(crate::state::faults_of(&site), Vec::<String>::new());
}

#[test]
fn a_guest_whose_object_went_past_its_finalizer_counts_until_it_is_gone() {
    nothing_runs_outside_the_quota(&[act(5, |live, _| strip_a_machine(live))]);
}

#[test]
fn it_goes_under_the_policy_that_only_reports() {
    nothing_runs_outside_the_quota(&[act(5, |live, _| {
        for host in ["worker-1", "worker-2", "worker-3"] {
            live.patch("hypervisors", "", host, &json!({"spec": {"driftPolicy": "Report"}}));
        }
        strip_a_machine(live);
    })]);
}

#[test]
fn it_goes_though_no_operator_was_there_to_see() {
    nothing_runs_outside_the_quota(&[
        act(5, |_, faults| faults.disturb(|way| way.away = true)),
        act(5, |live, faults| {
            strip_a_machine(live);
            faults.dead.cancel();
        }),
    ]);
}
