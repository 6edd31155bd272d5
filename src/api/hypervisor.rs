//! `Hypervisor`: a libvirt host of the site.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Bytes;
use super::names::OBJECT_NAME;

/// A host that runs libvirtd and QEMU, and nothing of ours.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cascina.dev",
    version = "v1alpha1",
    kind = "Hypervisor",
    shortname = "hv",
    category = "cascina",
    status = "HypervisorStatus",
    derive = "PartialEq",
    printcolumn(name = "CLASS", type_ = "string", json_path = ".spec.class"),
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "CPU-ALLOC", type_ = "string", json_path = ".status.cpuAllocation"),
    printcolumn(name = "MEM-ALLOC", type_ = "string", json_path = ".status.memoryAllocation"),
    printcolumn(name = "MACHINES", type_ = "integer", json_path = ".status.machines"),
    printcolumn(name = "LIBVIRT", type_ = "string", json_path = ".status.libvirtVersion"),
    printcolumn(name = "QEMU", type_ = "string", json_path = ".status.qemuVersion"),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(name = "URI", type_ = "string", json_path = ".spec.uri", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.uri.startsWith('qemu+tcp:') || (has(self.insecure) && self.insecure)")
        .message("spec.uri: qemu+tcp gives everybody on the network root on the host; use qemu+tls or qemu+ssh, or set spec.insecure: true in a lab"),
    validation = Rule::new("!(self.uri.startsWith('qemu+tls:') || self.uri.startsWith('qemu+ssh:')) || has(self.credentialsSecretRef)")
        .message("spec.credentialsSecretRef: qemu+tls needs a Secret of type kubernetes.io/tls with ca.crt, qemu+ssh one of type kubernetes.io/ssh-auth"),
    validation = Rule::new("self.class != 'Worker' || !has(self.networks.public)")
        .message("spec.networks.public: only hosts of class Service carry public networks"),
    validation = Rule::new("!has(self.maintenance) || self.maintenance != 'Drain'")
        .message("spec.maintenance: Drain is not available in this version; use Cordon and halt or delete the machines")
)]
pub struct HypervisorSpec {
    /// How libvirtd is reached: `qemu+tls://HOST/system`, `qemu+ssh://USER@HOST/system`, or `qemu+tcp://` with `insecure`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^qemu[+](tls|ssh|tcp)://([A-Za-z0-9_.-]{1,64}@)?([A-Za-z0-9.-]+|\\\\[[0-9a-fA-F:]+\\\\])(:[0-9]{1,5})?/system$')").message("must look like qemu+tls://HOST/system; parameters are not accepted"))]
    pub uri: String,
    /// The machine that has to answer there, by its host UUID; absent: the one that answered first. To accept another one in
    /// its place, write that one's UUID here: it stands in the message of `Ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    pub host_uuid: Option<String>,
    /// Secret in the operator's namespace with the client certificate (`kubernetes.io/tls` with `ca.crt`) or key (`kubernetes.io/ssh-auth` with `known_hosts`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// Admits `qemu+tcp`, which is neither encrypted nor authenticated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Worker hosts have local disks and cattle; Service hosts a shared pool, migration and public networks.
    #[serde(default)]
    pub class: HypervisorClass,
    /// Whether guests run under KVM or in emulation; never guessed.
    #[serde(default)]
    pub virtualization: Virtualization,
    /// The bridges of the host that carry guests.
    pub networks: HypervisorNetworks,
    /// Where volumes live.
    pub storage: HypervisorStorage,
    /// What the host has, where libvirt reports it wrongly or only a share is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// Kept back for the host itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Capacity>,
    /// How far beyond what is there machines may be promised.
    #[serde(default)]
    pub overcommit: Overcommit,
    /// Address at which other hosts reach this one for migration; absent: the host of the URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9.:-]+$"))]
    pub migration_address: Option<String>,
    /// `Cordon` keeps new machines away.
    #[serde(default)]
    pub maintenance: Maintenance,
    /// What is done about domains, cards and volumes that somebody changed on the host by hand.
    #[serde(default)]
    pub drift_policy: DriftPolicy,
}

/// A Secret in the operator's own namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
}

/// What a host is for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HypervisorClass {
    /// Local disks, replaceable machines.
    #[default]
    Worker,
    /// Shared pool, live migration, public networks.
    Service,
}

/// How guests execute.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Virtualization {
    /// Hardware virtualisation.
    #[default]
    #[serde(rename = "KVM")]
    Kvm,
    /// QEMU's own translator, for laboratories.
    Emulated,
}

/// The bridges that carry guests.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct HypervisorNetworks {
    /// Carries the farms.
    pub private: HypervisorNetwork,
    /// Carries public addresses; Service hosts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<HypervisorNetwork>,
}

/// A bridge of the host.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct HypervisorNetwork {
    /// Name of the bridge device; it has no address and `no_linklocal_learn` set.
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub bridge: String,
}

/// Where volumes live.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct HypervisorStorage {
    /// Name of an active libvirt storage pool.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub pool: String,
    /// Hosts with the same name here see the same volumes, and have one account of the space for them; absent: the pool is
    /// the host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub shared: Option<String>,
}

/// An amount of what machines use; absent fields say nothing.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65536))]
    pub cpu: Option<i32>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Space for volumes; at a host that shares its pool, of all of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Bytes>,
}

/// Ratios of what may be promised to what is there.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Copy, Debug, PartialEq)]
#[x_kube(
    // The API server compares whole numbers with a whole minimum: to it 0 is not below 0.1.
    validation = Rule::new("self.cpu > 0.0 && self.memory > 0.0").message("overcommit: ratios must be above 0")
)]
pub struct Overcommit {
    /// Virtual CPUs per CPU.
    #[serde(default = "one")]
    #[schemars(range(min = 0.1, max = 64.0))]
    pub cpu: f64,
    /// Guest memory per memory.
    #[serde(default = "one")]
    #[schemars(range(min = 0.1, max = 4.0))]
    pub memory: f64,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { cpu: one(), memory: one() }
    }
}

fn one() -> f64 {
    1.0
}

/// What the administrator wants of a host.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maintenance {
    /// Normal work.
    #[default]
    None,
    /// No new machines.
    Cordon,
    /// No new machines, and those there move away. Not available yet.
    Drain,
}

/// What is done about what somebody changed on a host by hand. Network cards are put back behind their filters under
/// either.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriftPolicy {
    /// It is put right where nothing can be lost by that, and reported.
    #[default]
    Repair,
    /// It is reported.
    Report,
}

/// What a host is doing.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HypervisorPhase {
    /// Not looked at yet.
    #[default]
    Pending,
    /// Answers and takes machines.
    Ready,
    /// Doesn't answer.
    Unreachable,
    /// Cordoned.
    Maintenance,
    /// Answers, but somebody said that it is off: takes no machines until the annotation is removed.
    Fenced,
    /// Refused: the reason stands in the condition `Ready`.
    Rejected,
}

/// CPUs, memory and storage together.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPUs.
    pub cpu: i32,
    /// Memory.
    pub memory: Bytes,
    /// Space for volumes.
    pub storage: Bytes,
}

/// By which volume a storage pool is known again.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolMark {
    /// Name of the pool.
    pub pool: String,
    /// Name of the volume, which is empty.
    pub volume: String,
}

/// A copy of a machine on a host: its domain and its volumes, as they are or may be, and what they hold.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MachineCopy {
    /// `metadata.uid` of the machine.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its farm; absent: a domain of which no object is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub farm: Option<String>,
    /// The placement that it is of.
    pub epoch: i64,
    /// Its address, which nobody else gets before the copy is gone or the host is fenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its public addresses, if it is a router: nobody else gets them either.
    #[serde(default, rename = "publicIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub public_ips: Vec<String>,
    /// It is a router, which no quota counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub router: bool,
    /// What it takes from its host, and from its farm's quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<Resources>,
    /// Its object was gone when nobody watched, and another had its name, as after a restore from a backup: it stays until somebody
    /// consents.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
}

/// What is left of a machine on a host: its copy there was given up, because the host was lost or because its object went
/// past its finalizer, and is removed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// The copy; one of a later placement isn't meant.
    #[serde(flatten)]
    pub copy: MachineCopy,
    /// Its object went while the host answered, so the host takes machines while it is removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub departed: bool,
    /// When it was given up.
    pub since: Time,
}

/// What is known of a host's isolation.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Isolation {
    /// Which pair of the site's networks for self-tests is this host's.
    pub slot: i32,
    /// When every attack last failed; while all is well, not told more often than once a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<Time>,
    /// Attacks that succeeded at the last try.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub leaks: Vec<String>,
}

/// What is known of a host.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct HypervisorStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What the host is doing.
    pub phase: HypervisorPhase,
    /// The identity of the machine, from its firmware, as libvirt told it at the first contact. Another one isn't talked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_uuid: Option<String>,
    /// An empty volume that was put into the pool at the first contact. Where it is missing, the pool's storage isn't
    /// mounted, and nothing is concluded from what lies there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_mark: Option<PoolMark>,
    /// What is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Resources>,
    /// What may be promised: capacity less reserved and the canary's memory, times overcommit; of a shared pool what all of
    /// its hosts admit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<Resources>,
    /// What is promised to machines; of a shared pool to those of all of its hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated: Option<Resources>,
    /// Allocated of allocatable CPUs, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_allocation: Option<String>,
    /// Allocated of allocatable memory, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_allocation: Option<String>,
    /// Machines placed here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machines: Option<i32>,
    /// Version of libvirt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub libvirt_version: Option<String>,
    /// Version of QEMU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu_version: Option<String>,
    /// Model of the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Revisions of images whose volumes are complete here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub cached_images: Vec<String>,
    /// What is known of its isolation from attacks by the operator's own guest on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// When the host last answered, to the minute while all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_contact: Option<Time>,
    /// Since when the host is `Unreachable`, by silence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable_since: Option<Time>,
    /// Copies of the machines that have this host, and domains of ours whose objects aren't known: what they hold is taken
    /// until they are seen to be gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2048))]
    pub copies: Vec<MachineCopy>,
    /// Copies of machines that were given up, and are removed when the host answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2048))]
    pub tombstones: Vec<Tombstone>,
    /// `Ready`, `Reachable`, `IsolationVerified`, `Schedulable`, `Fenced`, `StrayCopies`, `Orphans`, `CertificateExpiring`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
