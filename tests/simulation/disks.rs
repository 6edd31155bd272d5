//! Disks as they are: what guests may write to them counts, and nothing that was on one is lost or hidden.

use std::collections::BTreeSet;
use std::sync::Arc;

use cascina::api::Bytes;
use serde_json::{Value, json};

use crate::datacentre::{Datacentre, Live, ours};
use crate::drive::{Act, drive};
use crate::flows::{act, empty};
use crate::state::faults_of;
use crate::world::World;

/// A flavour with more disk than the others.
pub const HUGE: &str = "huge";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn size(value: &Value) -> Bytes {
    value.as_str().map(|text| text.parse().unwrap()).unwrap_or_default()
}

/// What counts of a machine's disks, by its status.
fn counted(machine: &Value) -> Bytes {
    let status = &machine["status"];
    let image = &status["image"]["disk"];
    let root = size(&status["flavour"]["rootDisk"]).max(size(&image["virtualSize"]));
    let root = if image.is_null() { Bytes::ZERO } else { root };
    let data = size(&status["flavour"]["dataDisk"]);
    if status["hypervisor"].is_null() { Bytes::ZERO } else { root + data }
}

impl World {
    /// What the disks of a machine may grow to, in the pools that are asked for.
    fn disks_of(&self, uid: &str, is_asked: impl Fn(&str) -> bool) -> Bytes {
        let pools = self.pools.iter().filter(|(name, _)| is_asked(name));
        let disks = pools.flat_map(|(_, pool)| &pool.sizes).filter(|(volume, _)| volume.starts_with(uid));
        disks.map(|(_, size)| *size).sum()
    }

    /// Looks whether the disks of the guests of a farm may grow beyond its quota, those of no object among them. A disk that
    /// no domain has, nobody writes to.
    fn check_quota_of_disks(&mut self, farm: &str, most: Bytes) {
        let domains: BTreeSet<_> =
            self.hosts.values().flat_map(|host| host.domains.keys()).map(ToString::to_string).collect();
        let uids = self.farms.iter().filter(|(_, of)| *of == farm).map(|(uid, _)| uid);
        let uids = uids.filter(|uid| domains.contains(*uid));
        let disks: Bytes = uids.map(|uid| self.disks_of(uid, |_| true)).sum();
        if disks > most {
            self.violated(format!("{farm} has disks that may grow to {disks} instead of {most}"));
        }
    }
}

impl Live {
    /// Looks whether disks may grow to more than what counts for their machines, or than the quota of their farm.
    pub fn check_disks(&self) {
        let [farms, machines] =
            ["virtualfarms", "virtualmachines"].map(|plural| self.api.with(|store, _| store.list(&ours(plural), "")));
        self.world(|world| {
            for machine in &machines {
                let pool = world.hosts.get(text(&machine["status"]["hypervisor"])).map(|host| host.pool.clone());
                let disks = world.disks_of(text(&machine["metadata"]["uid"]), |name| Some(name) == pool.as_deref());
                let counted = counted(machine);
                if disks > counted {
                    let name = &machine["metadata"]["name"];
                    world.violated(format!("{name} has disks that may grow to {disks}, and {counted} is counted"));
                }
            }
            for farm in &farms {
                let name = format!("{}/{}", text(&farm["metadata"]["namespace"]), text(&farm["metadata"]["name"]));
                if let Some(most) = farm["spec"]["quota"]["storage"].as_str() {
                    world.check_quota_of_disks(&name, most.parse().unwrap());
                }
            }
        });
    }

    /// A machine that somebody made gets another flavour, or runs by another strategy.
    fn gives(&self, name: &str, spec: &Value) {
        self.patch("virtualmachines", "tenant", name, &json!({"spec": spec}));
    }
}

/// A site with a flavour that has more disk than the others.
pub fn with_huge_disks() -> Datacentre {
    let mut site = empty().clone();
    site.create("flavours", "", HUGE, json!({"cpus": 1, "memory": "512Mi", "rootDisk": "9Gi", "dataDisk": "5Gi"}));
    site
}

/// Somebody's machine is halted, given another flavour, and called back.
const CHANGES: [Act; 4] = [
    act(60, |live, _| live.gives("hand", &json!({"runStrategy": "Halted"}))),
    act(60, |live, _| live.check_disks()),
    act(0, |live, _| live.gives("hand", &json!({"flavour": HUGE, "runStrategy": "Always"}))),
    act(60, |live, _| live.check_disks()),
];

const CHANGES_BACK: [Act; 3] = [
    act(0, |live, _| live.gives("hand", &json!({"runStrategy": "Halted"}))),
    act(60, |live, _| live.gives("hand", &json!({"flavour": "small", "runStrategy": "Always"}))),
    act(60, |live, _| live.check_disks()),
];

/// A farm that may have disks of 16Gi, and a machine in it.
const BEGINS_SMALL: [Act; 2] = [
    act(0, |live, _| {
        live.create_farm(0);
        live.patch_farm(&json!({"quota": {"storage": "16Gi"}}));
    }),
    act(1, |live, _| live.create_machine("hand", "Always")),
];

fn driven(acts: &[&[Act]]) -> Datacentre {
    let driven = drive(&with_huge_disks(), &acts.concat(), None);
    assert_eq!(faults_of(&driven.site), Vec::<String>::new());
    driven.site
}

fn hand(site: &Datacentre) -> Arc<Value> {
    site.store.get(&ours("virtualmachines"), "tenant", "hand").unwrap()
}

/// The reason and the message of a condition.
fn condition(object: &Value, kind: &str) -> (String, String) {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    let told = |field: &str| found.map(|found| text(&found[field]).to_owned()).unwrap_or_default();
    (told("reason"), told("message"))
}

#[test]
fn a_machine_that_is_given_a_flavour_with_more_disk_runs_with_the_disks_that_it_has() {
    let site = driven(&[&BEGINS_SMALL, &CHANGES]);
    let machine = hand(&site);
    assert_eq!((text(&machine["status"]["phase"]), text(&machine["status"]["flavour"]["name"])), ("Running", HUGE));
    let (reason, message) = condition(&machine, "DisksKept");
    assert_eq!(reason, "MadeBefore");
    assert!(message.contains("a root disk of 3Gi") && message.contains("a data disk of 5Gi"), "{message}");

    let back = hand(&driven(&[&BEGINS_SMALL, &CHANGES, &CHANGES_BACK]));
    assert_eq!((text(&back["status"]["phase"]), condition(&back, "DisksKept").0.as_str()), ("Running", ""));
}

#[test]
fn a_machine_that_is_given_a_flavour_with_less_disk_counts_as_before() {
    let begins_huge = [
        BEGINS_SMALL[0],
        act(1, |live, _| {
            let spec = json!({"farm": "farm", "flavour": HUGE, "image": "one"});
            live.create("virtualmachines", "tenant", "hand", spec);
        }),
    ];
    let another = [
        act(5, |live, _| live.create_machine("another", "Always")),
        act(60, |live, _| live.check_disks()),
        act(0, |live, _| live.patch_farm(&json!({"quota": {"storage": "17Gi"}}))),
        act(60, |live, _| live.check_disks()),
    ];
    let changes = [act(60, |live, _| live.check_disks()), CHANGES_BACK[0], CHANGES_BACK[1], CHANGES_BACK[2]];
    let site = driven(&[&begins_huge, &changes, &another[..2]]);
    let waits = site.store.get(&ours("virtualmachines"), "tenant", "another").unwrap();
    assert_eq!(condition(&waits, "Scheduled").0, "QuotaExceeded");
    let data = format!("{}-data.qcow2", text(&hand(&site)["metadata"]["uid"]));
    let domains = site.world.hosts.values().flat_map(|host| host.domains.values());
    let attached = domains.filter(|domain| domain.spec.data.as_ref().is_some_and(|disk| disk.volume == data)).count();
    assert_eq!(attached, 1, "what is on its data disk is in sight");

    let site = driven(&[&begins_huge, &changes, &another]);
    let runs = site.store.get(&ours("virtualmachines"), "tenant", "another").unwrap();
    assert_eq!(text(&runs["status"]["phase"]), "Running", "17Gi are enough for 14Gi and 3Gi");
}

#[test]
fn a_pool_that_two_hosts_share_is_promised_once_and_both_say_so() {
    let site = driven(&[&[
        act(0, |live, _| {
            live.create_farm(0);
            // One of its hosts says that it is smaller than libvirt does.
            live.patch("hypervisors", "", "service-2", &json!({"spec": {"capacity": {"storage": "20Gi"}}}));
        }),
        act(70, |live, _| {
            for name in ["a", "b"] {
                let spec = json!({"farm": "farm", "flavour": HUGE, "image": "one", "class": "Service"});
                live.create("virtualmachines", "tenant", name, spec);
            }
        }),
        act(90, |live, _| live.check_disks()),
    ]]);
    let machines = ["a", "b"].map(|name| site.store.get(&ours("virtualmachines"), "tenant", name).unwrap());
    let mut placed: Vec<_> = machines.iter().map(|machine| condition(machine, "Scheduled")).collect();
    placed.sort();
    assert_eq!([placed[0].0.as_str(), placed[1].0.as_str()], ["Placed", "Unschedulable"]);
    assert!(placed[1].1.contains("2 lack 14Gi storage"), "{}", placed[1].1);
    for name in ["service-1", "service-2"] {
        let host = site.store.get(&ours("hypervisors"), "", name).unwrap();
        let says = ["allocated", "allocatable"].map(|what| size(&host["status"][what]["storage"]));
        assert_eq!(says, [Bytes::gibi(14), Bytes::gibi(20)], "{name}");
    }
}
