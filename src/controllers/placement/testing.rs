//! Objects for tests: sites with hosts, farms and machines, written down in a line each.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::json;

use super::observe::{RouterParts, World, key};
use super::standing::SCHEDULED;
use super::status::{Outcome, status};
use crate::api::conditions::{State, stamp};
use crate::api::{
    Flavour, FlavourSpec, GROUP_LABEL, Hypervisor, HypervisorPhase, Image, PinnedFlavour, PinnedImage, Quota,
    VirtualFarm, VirtualMachine, VirtualMachineStatus,
};

/// So many seconds after a fixed beginning.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn meta(name: &str, age_rank: i64) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        uid: Some(format!("uid-{name}")),
        generation: Some(1),
        resource_version: Some("1".into()),
        creation_timestamp: Some(Time(at(age_rank))),
        ..ObjectMeta::default()
    }
}

/// A host that takes machines.
pub fn host(name: &str, cpus: i32, memory: &str, storage: &str) -> Hypervisor {
    let mut host: Hypervisor = serde_json::from_value(json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "Hypervisor", "metadata": {"name": name},
        "spec": {
            "uri": format!("qemu+tls://{name}/system"),
            "networks": {"private": {"bridge": "farms"}}, "storage": {"pool": "default"},
        },
        "status": {
            "phase": "Ready",
            "allocatable": {"cpu": cpus, "memory": memory, "storage": storage},
        },
    }))
    .unwrap();
    let states = vec![
        State::yes("Schedulable", "Ready", ""),
        State::yes("Reachable", "Answers", ""),
        State::yes("IsolationVerified", "Verified", ""),
    ];
    host.status.as_mut().unwrap().conditions = stamp(states, &[], None, at(0));
    host
}

/// A kernel-only image that is ready.
pub fn image(name: &str) -> Image {
    let mut image: Image = serde_json::from_value(json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "Image", "metadata": {"name": name},
        "spec": {"kernel": {"kernel": {"url": "https://example.org/kernel", "checksum": format!("sha256:{}", "a".repeat(64))}}},
        "status": {"phase": "Ready", "revision": format!("{name}-1"), "observedGeneration": 1},
    }))
    .unwrap();
    image.metadata.generation = Some(1);
    image
}

/// An image with a disk of this size.
pub fn disk_image(name: &str, size: &str) -> Image {
    let mut image = image(name);
    image.spec.kernel = None;
    image.spec.disk = serde_json::from_value(json!({
        "source": {"url": "https://example.org/disk"}, "checksum": format!("sha256:{}", "b".repeat(64)), "format": "qcow2",
    }))
    .unwrap();
    image.status.as_mut().unwrap().virtual_size = Some(size.parse().unwrap());
    image
}

/// A flavour without a data disk.
pub fn flavour(name: &str, cpus: i32, memory: &str) -> Flavour {
    let spec = FlavourSpec {
        cpus,
        memory: memory.parse().unwrap(),
        root_disk: Some("3Gi".parse().unwrap()),
        data_disk: None,
        bandwidth: None,
    };
    Flavour { metadata: meta(name, 0), spec }
}

/// A farm with a network.
pub fn farm(name: &str) -> VirtualFarm {
    let mut farm: VirtualFarm = serde_json::from_value(json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualFarm", "metadata": {}, "spec": {},
        "status": {"network": "172.16.1.0/24", "gateway": "172.16.1.1"},
    }))
    .unwrap();
    farm.metadata = meta(name, 0);
    farm.metadata.namespace = Some("tenant".into());
    farm
}

/// A machine of farm `farm-a` that its controller has taken on and that has an address.
pub fn machine(name: &str, age_rank: i64) -> VirtualMachine {
    let mut machine: VirtualMachine = serde_json::from_value(json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {},
        "spec": {"farm": "farm-a", "flavour": "m1.tiny", "image": "appliance"},
    }))
    .unwrap();
    machine.metadata = meta(name, age_rank);
    machine.metadata.namespace = Some("tenant".into());
    machine.metadata.finalizers = Some(vec![crate::api::FINALIZER.into()]);
    let address = format!("172.16.1.{}", 2 + age_rank);
    machine.status = Some(VirtualMachineStatus { address: Some(address), ..VirtualMachineStatus::default() });
    machine
}

/// The same machine as a member of a group.
pub fn of_group(mut machine: VirtualMachine, group: &str) -> VirtualMachine {
    machine.labels_mut().insert(GROUP_LABEL.into(), group.into());
    machine
}

/// The same machine, running on a host.
pub fn running_on(mut machine: VirtualMachine, host: &str, cpus: i32, memory: &str) -> VirtualMachine {
    let status = machine.status.as_mut().unwrap();
    status.hypervisor = Some(host.into());
    status.epoch = Some(1);
    status.flavour = Some(PinnedFlavour {
        name: "m1.tiny".into(),
        cpus,
        memory: memory.parse().unwrap(),
        root_disk: None,
        data_disk: None,
        bandwidth: None,
    });
    status.image =
        Some(PinnedImage { name: "appliance".into(), revision: "appliance-0".into(), disk: None, kernel: None });
    status.conditions = stamp(vec![State::yes(SCHEDULED, "Placed", "")], &[], None, at(0));
    machine
}

/// A site with one small farm, the flavours `m1.tiny` and `m1.large`, the image `appliance`, and what is given.
pub fn world(hosts: Vec<Hypervisor>, machines: Vec<VirtualMachine>) -> World {
    let farm = farm("farm-a");
    World {
        machines: machines.into_iter().map(Arc::new).collect(),
        hypervisors: hosts.into_iter().map(Arc::new).collect(),
        images: [image("appliance")].into_iter().map(|image| (image.name_any(), Arc::new(image))).collect(),
        flavours: [flavour("m1.tiny", 1, "512Mi"), flavour("m1.large", 6, "8Gi")]
            .into_iter()
            .map(|flavour| (flavour.name_any(), Arc::new(flavour)))
            .collect(),
        farms: [(key(&farm), Arc::new(farm))].into_iter().collect(),
        default_quota: None,
        routers: RouterParts { image: "router".into(), flavour: "router".into() },
        given_up: BTreeMap::new(),
        remains: Vec::new(),
        hosts_are_unread: false,
    }
}

/// The same site after a host was lost and this machine's placement there was given up.
pub fn having_lost(mut world: World, host: &str, name: &str) -> World {
    let found = world.hypervisors.iter_mut().find(|hypervisor| hypervisor.name_any() == host).unwrap();
    let status = Arc::make_mut(found).status.as_mut().unwrap();
    status.phase = HypervisorPhase::Unreachable;
    status.conditions = stamp(vec![State::no("Reachable", "HostUnreachable", "")], &[], None, at(0));
    let machine = world.machines.iter().find(|machine| machine.name_any() == name).unwrap();
    let epoch = machine.status.as_ref().unwrap().epoch.unwrap();
    world.given_up.insert(machine.uid().unwrap(), epoch);
    world
}

/// The same site with a quota for the farm.
pub fn with_quota(mut world: World, quota: Quota) -> World {
    for farm in world.farms.values_mut() {
        Arc::make_mut(farm).spec.quota = Some(quota);
    }
    world
}

/// The site after the outcomes have been written.
pub fn after(mut world: World, decided: &[super::decide::Decided]) -> World {
    for (machine, outcome) in decided {
        let known = world.machines.iter_mut().find(|known| known.uid() == machine.uid()).unwrap();
        Arc::make_mut(known).status = Some(status(machine, outcome, at(1_000)));
    }
    world
}

/// What was decided, in words: `name@host`, `name: Reason: message`, `name rests: Reason`.
pub fn words(decided: &[super::decide::Decided]) -> Vec<String> {
    let mut words: Vec<_> = decided
        .iter()
        .map(|(machine, outcome)| match outcome {
            Outcome::Placed { host, .. } => format!("{}@{host}", machine.name_any()),
            Outcome::Waits(wait) => format!("{}: {}: {}", machine.name_any(), wait.reason, wait.message),
            Outcome::Rests(reason) => format!("{} rests: {reason}", machine.name_any()),
            Outcome::Stranded(wait) => format!("{} is stranded: {}: {}", machine.name_any(), wait.reason, wait.message),
            Outcome::Stays => format!("{} stays", machine.name_any()),
        })
        .collect();
    words.sort();
    words
}
