//! `VirtualMachine`: one machine of a farm.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{DATA_KEY, OBJECT_NAME};
use super::zone_names::zone_name;
use super::{Bandwidth, Bytes, DiskFormat, HypervisorClass};
use crate::network::RouterSeat;

/// A machine of a farm. Its domain's UUID is this object's `metadata.uid`; its address and MAC are given, never chosen.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cascina.dev",
    version = "v1alpha1",
    kind = "VirtualMachine",
    namespaced,
    shortname = "cvm",
    category = "cascina",
    status = "VirtualMachineStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name: at most 63 characters, it becomes the host name"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9-]*$')").message("metadata.name: only lower-case letters, digits and dashes, it becomes the host name"),
    validation = zone_name("self.metadata.name", "metadata.name"),
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "HYPERVISOR", type_ = "string", json_path = ".status.hypervisor"),
    printcolumn(name = "ADDRESS", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "IMAGE", type_ = "string", json_path = ".spec.image", priority = 1),
    printcolumn(name = "FLAVOUR", type_ = "string", json_path = ".spec.flavour", priority = 1),
    printcolumn(name = "MAC", type_ = "string", json_path = ".status.mac", priority = 1),
    printcolumn(name = "BOOT-SECONDS", type_ = "integer", json_path = ".status.bootSeconds", priority = 1),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.sshKeys) || self.sshKeys.map(key, key.size()).sum() <= 16384")
        .message("spec.sshKeys: at most 16 KiB together, in addition to the farm's; a namespace may have thousands of machines"),
    validation = Rule::new("!has(self.hypervisorSelector) || self.hypervisorSelector.all(label, label.size() <= 317 && self.hypervisorSelector[label].size() <= 63)")
        .message("spec.hypervisorSelector: labels of hosts have at most 317 characters in their names and 63 in their values")
)]
pub struct VirtualMachineSpec {
    /// Name of the `VirtualFarm`, in the same namespace, that it belongs to.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a machine can't move to another farm: delete it and make a new one"))]
    pub farm: String,
    /// Name of the `Flavour`. A change takes effect at the next start; `RestartRequired` says so. Disks stay as they were made; `DisksKept` says so.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub flavour: String,
    /// Name of the `Image`.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the disk is made from the image: delete the machine and make a new one"))]
    pub image: String,
    /// Class of the hosts that it may run on.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the class can't change: delete the machine and make a new one"))]
    pub class: HypervisorClass,
    /// Only hosts with these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub hypervisor_selector: BTreeMap<String, String>,
    /// Handed to the guest as NoCloud user-data: cloud-config or a script, at most 16 KiB of UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserData>,
    /// Public keys that may log in, in addition to the farm's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::ssh_keys::ssh_keys")]
    pub ssh_keys: Vec<String>,
    /// When the machine shall run.
    #[serde(default)]
    pub run_strategy: RunStrategy,
    /// Higher is placed first, among the machines of its namespace.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// What happens to it when its host is drained or lost.
    #[serde(default)]
    pub eviction_strategy: EvictionStrategy,
    /// What makes it Ready.
    #[serde(default)]
    pub readiness: Readiness,
    /// What happens when its guest hangs: one that feeds a watchdog and stops doing so, `PowerOff` switches off, and
    /// `runStrategy` says what follows, as after a crash.
    #[serde(default)]
    pub watchdog: Watchdog,
}

/// Where user-data comes from: exactly one of the three.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.inline), has(self.secretRef), has(self.configMapRef)].filter(given, given).size() == 1")
        .message("userData: give exactly one of inline, secretRef, configMapRef")
)]
pub struct UserData {
    /// The text itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    #[x_kube(validation = Rule::new("bytes(self).size() <= 16384").message("userData.inline: at most 16 KiB of UTF-8; let the guest fetch what is larger"))]
    pub inline: Option<String>,
    /// A key of a Secret in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRef>,
    /// A key of a ConfigMap in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<KeyRef>,
}

/// A key of a Secret or ConfigMap in the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Key in its data.
    #[serde(default = "user_data_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = DATA_KEY))]
    pub key: String,
}

fn user_data_key() -> String {
    "userData".into()
}

/// When a machine shall run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunStrategy {
    /// Always: started again whenever it stops.
    #[default]
    Always,
    /// Not now; its disks stay.
    Halted,
    /// Started again when it fails, not when the guest shuts itself down.
    RerunOnFailure,
    /// Started once, never again.
    Once,
}

/// What happens to a machine when its host is drained or lost.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvictionStrategy {
    /// Moved while it runs.
    LiveMigrate,
    /// Drained by its batch system, then deleted.
    Drain,
    /// Stopped and made anew elsewhere.
    #[default]
    Recreate,
    /// Left where it is.
    None,
}

/// What makes a machine Ready.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// The guest agent answers.
    #[default]
    Agent,
    /// The domain runs.
    None,
}

/// What happens when a guest hangs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watchdog {
    /// Nothing: there is no watchdog.
    #[default]
    None,
    /// It is switched off.
    PowerOff,
}

/// Where a machine is in its life.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Waits for an address, quota or a host; the reason stands in `Scheduled`.
    #[default]
    Pending,
    /// Has a host.
    Scheduled,
    /// Its volumes and its domain are being made.
    Provisioning,
    /// The domain runs, the guest has not answered yet.
    Booting,
    /// The guest answered.
    Running,
    /// On its way to another host.
    Migrating,
    /// Shutting down.
    Stopping,
    /// Not running, by wish or by its own shutdown.
    Stopped,
    /// Cannot go on by itself.
    Failed,
    /// Its host doesn't answer.
    Unknown,
}

/// A phase and when it began.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct PhaseTransition {
    /// The phase.
    pub phase: Phase,
    /// When it began, with microseconds.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: jiff::Timestamp,
}

/// The flavour that a machine was started with, with the sizes of the disks that it has.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PinnedFlavour {
    /// Its name.
    pub name: String,
    /// Virtual CPUs.
    pub cpus: i32,
    /// Memory.
    pub memory: Bytes,
    /// Size of the root disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<Bytes>,
    /// Size of the data disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_disk: Option<Bytes>,
    /// What its network card carries at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

/// The revision of an image that a machine was made from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct PinnedImage {
    /// Name of the `Image`.
    pub name: String,
    /// Its revision.
    pub revision: String,
    /// The disk, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<PinnedDisk>,
    /// The kernel, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PinnedKernel>,
}

impl PinnedImage {
    /// Names of the image's volumes.
    pub fn volumes(&self) -> impl Iterator<Item = &str> {
        let disk = self.disk.iter().map(|disk| disk.volume.as_str());
        let kernel = self.kernel.iter().map(|kernel| kernel.kernel.as_str());
        let initrd = self.kernel.iter().filter_map(|kernel| kernel.initrd.as_deref());
        disk.chain(kernel).chain(initrd)
    }
}

impl VirtualMachine {
    /// What it is as a router, if it is one.
    #[must_use]
    pub fn router(&self) -> Option<&RouterRole> {
        self.status.as_ref()?.router.as_ref()
    }
}

/// The base volume of a root disk.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PinnedDisk {
    /// Name of the volume.
    pub volume: String,
    /// Its format.
    pub format: DiskFormat,
    /// Its size as a guest sees it.
    pub virtual_size: Bytes,
}

/// Kernel and initramfs volumes and the command line.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct PinnedKernel {
    /// Name of the kernel's volume.
    pub kernel: String,
    /// Name of the initramfs's volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// Kernel command line.
    #[serde(default)]
    pub cmdline: String,
}

/// Starts that failed in a row, and when the next is tried.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StartFailure {
    /// How many in a row.
    pub count: i32,
    /// Not before this time.
    pub retry_after: Time,
    /// What the last one said.
    pub message: String,
}

/// What a machine is as the router of its farm: only the router's controller says that it is one.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RouterRole {
    /// Which of the farm's routers it is.
    #[serde(default)]
    pub seat: RouterSeat,
    /// Its public address, and those that it answers to besides; none: it has no card in the public network.
    #[serde(default, rename = "publicIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub public_ips: Vec<String>,
}

/// What is known of a machine. The router's controller writes `router`; the farm's writes `address`, `mac` and `farmUID`; placement writes `hypervisor`,
/// `epoch`, `flavour`, `image` and the condition `Scheduled`; the machine's controller writes the rest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!has(oldSelf.address) || has(self.address)", "message": "an address is given once; delete the machine to give it back"}]))]
pub struct VirtualMachineStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it is in its life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The last phases and when each began, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub phase_transitions: Vec<PhaseTransition>,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// Counts placements; a copy of the machine with a lower epoch is not this machine any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// The address in the farm's network. Given once: the guest and its filters have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "an address is given once; delete the machine to give it back"}]))]
    pub address: Option<String>,
    /// The MAC address, made from the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// `metadata.uid` of the farm that gave the address. A farm that is made again under the name is another one, and
    /// this machine is none of it.
    #[serde(rename = "farmUID", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "an address is of one farm; delete the machine to give it back"}]))]
    pub farm_uid: Option<String>,
    /// Only of the machine that is the farm's router: what it is as that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<RouterRole>,
    /// The flavour that it was started with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flavour: Option<PinnedFlavour>,
    /// The image that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PinnedImage>,
    /// Where its disks were made: a host and its UUID, or `shared/` and the name of a shared storage. There they are never made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks_on: Option<String>,
    /// Seconds from the start of the domain to the first answer of the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_seconds: Option<i32>,
    /// Starts that failed in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_failure: Option<StartFailure>,
    /// `Ready`, `Scheduled`, `Provisioned`, `AgentConnected`, `InSync`, `RestartRequired`, `DisksKept`, `ClockSet`, `SshKeysValid`, `Paused`, `Deleting`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
