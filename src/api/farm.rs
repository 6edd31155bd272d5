//! `VirtualFarm`: a tenant's network with its quota, its people and its machines.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{LABEL, OBJECT_NAME, SUBJECT_NAME};
use super::router::IPV4;
use super::zone_names::{zone, zone_name};
use super::{Bytes, ElasticIp, HypervisorClass, Readiness, RouterTemplate, RunStrategy, UserData, Watchdog};

/// An isolated network with its quota, its people and its groups of machines.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cascina.dev",
    version = "v1alpha1",
    kind = "VirtualFarm",
    namespaced,
    shortname = "vfarm",
    category = "cascina",
    status = "VirtualFarmStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name: at most 40 characters, machines are named after it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9-]*$')").message("metadata.name: only lower-case letters, digits and dashes, machines are named after it"),
    printcolumn(name = "NETWORK", type_ = "string", json_path = ".status.network"),
    printcolumn(name = "PUBLIC-IP", type_ = "string", json_path = ".status.publicIP"),
    printcolumn(name = "MACHINES", type_ = "string", json_path = ".status.machines"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.elasticIP) || has(self.router)").message("spec.elasticIP: needs a router; add router: {}"),
    validation = Rule::new("!has(self.publicIP) || has(self.router)").message("spec.publicIP: needs a router; add router: {}"),
    validation = Rule::new("!has(self.router) || !has(self.groups) || self.groups.all(group, group.name != 'router')")
        .message("spec.groups: in a farm with a router no group can have the name router, its machines would have the router's name"),
    validation = Rule::new("!has(self.groups) || self.groups.map(group, group.replicas).sum() <= 1024")
        .message("spec.groups: at most 1024 machines together; a farm has 253 addresses, the rest is held back"),
    validation = Rule::new("!has(self.sshKeys) || self.sshKeys.map(key, key.size()).sum() <= 65536")
        .message("spec.sshKeys: at most 64 KiB together; they go into the seed of every machine"),
    validation = Rule::new("(has(self.network) && has(self.network.cidr)) == (has(oldSelf.network) && has(oldSelf.network.cidr))")
        .message("spec.network.cidr: can't be added or removed later, machines have addresses in it; make a new farm")
)]
pub struct VirtualFarmSpec {
    /// The farm's network; absent: a free one of the site's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<DefaultedNetwork>,
    /// The public address of the farm's router, one of the site's; absent: the lowest that is free.
    #[serde(default, rename = "publicIP", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = IPV4))]
    pub public_ip: Option<String>,
    /// What the farm's machines may use together; absent: the site's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// Public keys that may log in to every machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::ssh_keys::ssh_keys")]
    pub ssh_keys: Vec<String>,
    /// Who may change the farm and its machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub admins: Vec<Subject>,
    /// Who may look at the farm and its machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub users: Vec<Subject>,
    /// The farm's gateway: DHCP, DNS, the way out and the ways in; absent: the farm is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<RouterTemplate>,
    /// One more public address, which belongs to one machine.
    #[serde(default, rename = "elasticIP", skip_serializing_if = "Option::is_none")]
    pub elastic_ip: Option<ElasticIp>,
    /// Machines alike, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub groups: Vec<MachineGroup>,
}

/// A farm's network; what is absent is chosen.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DefaultedNetwork {
    /// An IPv4 /24 of the site's pool, such as `172.16.7.0/24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 18))]
    #[x_kube(
        validation = Rule::new("isCIDR(self) && cidr(self).ip().family() == 4 && cidr(self).prefixLength() == 24 && cidr(self) == cidr(self).masked()")
            .message("must be an IPv4 network with a prefix of 24, such as 172.16.7.0/24"),
        validation = Rule::new("self == oldSelf").message("can't change, machines have addresses in it; make a new farm")
    )]
    pub cidr: Option<String>,
    /// DNS domain of the machines; absent: the farm's name below the site's domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 190),
        regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?([.][a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$")
    )]
    #[x_kube(validation = zone())]
    pub domain: Option<String>,
    /// DNS servers of the machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 15)))]
    #[x_kube(
        validation = Rule::new("self.all(address, isIP(address) && ip(address).family() == 4)").message("every DNS server must be an IPv4 address"),
        validation = Rule::new("self.all(address, !isIP(address) || ip(address).isGlobalUnicast())").message("nobody answers at a DNS server's address that is unspecified, loopback, link-local, multicast or broadcast")
    )]
    pub dns: Vec<String>,
}

/// Limits of what the machines of a farm use together; an absent field is no limit.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 253))]
    pub instances: Option<i32>,
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub cpus: Option<i32>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Bytes>,
}

/// What the machines of a farm use together.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaUse {
    /// Machines.
    pub instances: i32,
    /// Virtual CPUs.
    pub cpus: i32,
    /// Memory.
    pub memory: Bytes,
    /// Disks.
    pub storage: Bytes,
}

/// Somebody, as Kubernetes' role bindings name them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("(self.kind == 'ServiceAccount') == has(self.namespace)")
        .message("a ServiceAccount needs its namespace, a User or Group has none")
)]
pub struct Subject {
    /// `User`, `Group` or `ServiceAccount`.
    pub kind: SubjectKind,
    /// Their name.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBJECT_NAME))]
    pub name: String,
    /// Namespace of a ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub namespace: Option<String>,
}

/// What a subject is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// A person.
    User,
    /// People.
    Group,
    /// A program.
    ServiceAccount,
}

/// Machines alike, named `<farm>-<group>-<index>`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MachineGroup {
    /// Name of the group.
    #[schemars(length(min = 1, max = 16), regex(pattern = r"^[a-z]([a-z0-9-]*[a-z0-9])?$"))]
    #[x_kube(validation = zone_name("self", "name"))]
    pub name: String,
    /// How many machines.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 253))]
    pub replicas: i32,
    /// Name of the `Flavour`.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub flavour: String,
    /// Name of the `Image`.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub image: String,
    /// Class of the hosts.
    #[serde(default)]
    pub class: HypervisorClass,
    /// When the machines shall run.
    #[serde(default)]
    pub run_strategy: RunStrategy,
    /// What makes a machine Ready.
    #[serde(default)]
    pub readiness: Readiness,
    /// What happens when a guest hangs.
    #[serde(default)]
    pub watchdog: Watchdog,
    /// Handed to every machine as NoCloud user-data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserData>,
    /// How a change reaches the machines.
    #[serde(default)]
    pub update: GroupUpdate,
}

fn one() -> i32 {
    1
}

/// How a change of a group reaches its machines.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.strategy) || self.strategy != 'Drain'").message("update.strategy: Drain needs a batch system, which is not available in this version; use Recreate or OnDelete"),
    validation = Rule::new("!(has(self.maxUnavailable) && has(self.maxSurge)) || self.maxUnavailable + self.maxSurge > 0").message("update: maxUnavailable and maxSurge can't both be 0, nothing could ever change")
)]
pub struct GroupUpdate {
    /// Which machines are made anew.
    #[serde(default)]
    pub strategy: GroupUpdateStrategy,
    /// With `Recreate`: how many machines may be missing at a time.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 253))]
    pub max_unavailable: i32,
    /// With `Recreate`: how many machines more than `replicas` there may be at a time.
    #[serde(default)]
    #[schemars(range(min = 0, max = 253))]
    pub max_surge: i32,
}

impl Default for GroupUpdate {
    fn default() -> Self {
        Self { strategy: GroupUpdateStrategy::default(), max_unavailable: 1, max_surge: 0 }
    }
}

/// Which machines of a group a change replaces.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupUpdateStrategy {
    /// Drained by the batch system first. Not available yet.
    Drain,
    /// All, a few at a time.
    #[default]
    Recreate,
    /// Only those that somebody deletes.
    OnDelete,
}

/// What a dry run would do with one machine.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct PlannedMachine {
    /// Name of the machine.
    pub name: String,
    /// `Create`, `Keep`, `Replace` or `Delete`.
    pub action: String,
    /// Where it would go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// Why it would wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// What is known of a farm.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualFarmStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The gateway's address in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The router's public address.
    #[serde(rename = "publicIP", skip_serializing_if = "Option::is_none")]
    pub public_ip: Option<String>,
    /// Addresses in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses_used: Option<i32>,
    /// Addresses left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses_available: Option<i32>,
    /// What the machines use together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_used: Option<QuotaUse>,
    /// Ready machines of all, `3/4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machines: Option<String>,
    /// Machines of groups that aren't made, because no address or no quota is left for them; the condition `HeldBack` says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back: Option<i32>,
    /// How many machines are in each phase.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub phases: std::collections::BTreeMap<String, i32>,
    /// With the annotation `cascina.dev/dry-run`: what would be done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 253))]
    pub plan: Vec<PlannedMachine>,
    /// `Ready`, `NetworkReady`, `RouterReady`, `QuotaExceeded`, `HeldBack`, `SshKeysValid`, `Paused`, `Deleting`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
