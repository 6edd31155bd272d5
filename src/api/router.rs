//! `VRouter`: the gateway of a farm, and what of the farm it exposes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Bytes;
use super::names::LABEL;
use crate::network::RouterSeat;

/// An IPv4 address. A pattern and no CEL rule: a router has a thousand of them.
pub(super) const IPV4: &str =
    r"^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])[.]){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])$";

/// An IPv4 network with its prefix.
const CIDR: &str = r"^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])[.]){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])/([0-9]|[12][0-9]|3[0-2])$";

/// An address and a port.
const ENDPOINT: &str = r"^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])[.]){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]):[1-9][0-9]{0,4}$";

/// A uid as Kubernetes gives it.
const UID: &str = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";

/// The router of a farm: DHCP, DNS, NAT, forwards and firewall at the farm's gateway address. The farm's controller makes
/// it from the farm's `spec.router`; change it there.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cascina.dev",
    version = "v1alpha1",
    kind = "VRouter",
    namespaced,
    shortname = "vr",
    category = "cascina",
    status = "VRouterStatus",
    derive = "PartialEq",
    printcolumn(name = "FARM", type_ = "string", json_path = ".spec.farm"),
    printcolumn(name = "PUBLIC-IP", type_ = "string", json_path = ".status.publicIP"),
    printcolumn(name = "ELASTIC-IP", type_ = "string", json_path = ".status.elasticIP"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct VRouterSpec {
    /// Name of the farm, in the same namespace, whose gateway this is.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a router can't move to another farm: delete it and make a new one"))]
    pub farm: String,
    /// Its public address, one of the site's; absent: the lowest that is free.
    #[serde(default, rename = "publicIP", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = IPV4))]
    pub public_ip: Option<String>,
    /// One more public address, which belongs to one machine.
    #[serde(default, rename = "elasticIP", skip_serializing_if = "Option::is_none")]
    pub elastic_ip: Option<ElasticIp>,
    /// What else it is told.
    #[serde(flatten)]
    pub template: RouterTemplate,
}

/// What a farm says of its router.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RouterTemplate {
    /// How many machines the router is: of two, on two hosts, one works, and the other takes its turn when that is gone.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 2))]
    pub replicas: i32,
    /// Ports of the public address that lead to machines. Everything else that comes from outside is dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into(), "protocol".into()]))]
    pub forwards: Vec<PortForward>,
    /// Tunnels to other farms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpn: Option<FarmVpn>,
    /// Where machines may go, judged in this order; what no rule speaks of is admitted. The site denies some networks to
    /// all farms, whatever stands here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub egress: Vec<EgressRule>,
}

impl Default for RouterTemplate {
    fn default() -> Self {
        Self { replicas: one(), forwards: Vec::new(), vpn: None, egress: Vec::new() }
    }
}

impl RouterTemplate {
    /// What its machines are.
    #[must_use]
    pub fn seats(&self) -> &'static [RouterSeat] {
        if self.replicas > 1 { &RouterSeat::PAIR } else { &[RouterSeat::Only] }
    }
}

/// Tunnels to other farms, by WireGuard: their machines and this farm's reach each other.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FarmVpn {
    /// Another number makes a new key. Farms of this cloud learn it at once, others have to be told.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub key_generation: i32,
    /// The other ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub peers: Vec<FarmPeer>,
}

fn one() -> i32 {
    1
}

/// Another farm: of this cloud by its name, of another by the key of its router.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.peerRef) != has(self.publicKey)").message("give exactly one of peerRef and publicKey"),
    validation = Rule::new("has(self.publicKey) == (has(self.networks) && self.networks.size() > 0)").message("networks: says what is behind the tunnel; needed with publicKey, known of a peerRef"),
    validation = Rule::new("!has(self.endpoint) || has(self.publicKey)").message("endpoint: known of a peerRef; leave it out")
)]
pub struct FarmPeer {
    /// What it is called here.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// A farm of this cloud, whose router has to name this one too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_ref: Option<FarmRef>,
    /// The public key of another cloud's router, as its status shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"))]
    pub public_key: Option<String>,
    /// Where that is, as `198.51.100.20:51820`; absent: it comes to us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 21), regex(pattern = ENDPOINT))]
    #[x_kube(validation = Rule::new("self.split(':').all(part, !isIP(part) || ip(part).isGlobalUnicast())").message("nobody is at an address that is unspecified, loopback, link-local, multicast or broadcast: give its public one"))]
    pub endpoint: Option<String>,
    /// The networks behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 18), regex(pattern = CIDR)))]
    #[x_kube(validation = Rule::new("self.all(network, !isCIDR(network) || ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3'].all(kept, !cidr(network).containsCIDR(kept) && !cidr(kept).containsCIDR(network)))").message("a tunnel can't lead to networks that hold loopback, link-local, multicast or reserved addresses, so not everywhere either: name those behind the peer"))]
    pub networks: Vec<String>,
}

/// A farm, wherever it is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct FarmRef {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub name: String,
    /// Its `metadata.uid`: no other farm that has the name later is meant. Absent: the one that had it first while
    /// it was named here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = UID))]
    pub uid: Option<String>,
}

/// A port of the public address and where it leads.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.targetRef) != has(self.address)").message("give exactly one of targetRef and address"))]
pub struct PortForward {
    /// The port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// What carries it.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// The machine that it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<MachineRef>,
    /// The address in the farm that it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = IPV4))]
    pub address: Option<String>,
    /// The port there; absent: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: Option<i32>,
    /// Who may come, as networks such as `192.0.2.0/24`; none: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = CIDR)))]
    pub source_ranges: Vec<String>,
}

/// A machine of the farm.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct MachineRef {
    /// Name of the `VirtualMachine`.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub name: String,
}

/// What carries ports.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortProtocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
}

/// What becomes of packets that machines send to a network outside.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.protocol) || (has(self.ports) && self.ports.size() > 0)").message("protocol: says of which ports the rule speaks; give ports too"))]
pub struct EgressRule {
    /// The network, such as `203.0.113.0/24`.
    #[schemars(regex(pattern = CIDR))]
    pub cidr: String,
    /// To which ports; none: all of them, and what has no ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i32>,
    /// What carries these ports; absent: TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<PortProtocol>,
    /// What becomes of them.
    pub action: EgressAction,
}

/// What becomes of packets.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressAction {
    /// They pass.
    Allow,
    /// They are refused, and the sender is told.
    Deny,
}

/// A public address that belongs to one machine.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct ElasticIp {
    /// Name of the machine.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub target: String,
    /// The address, one of the site's; absent: the lowest that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = IPV4))]
    pub address: Option<String>,
}

/// What a router works by.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct AppliedConfig {
    /// The generation of the spec that it was made from.
    pub generation: i64,
    /// The hash of all its files.
    pub hash: String,
    /// When it was put in force.
    pub time: Time,
}

/// The other one of two routers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Name of the machine that it is.
    pub machine: String,
    /// What it works by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<AppliedConfig>,
}

/// What others have to know to reach a farm by a tunnel, and what is known of them.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct VpnStatus {
    /// The public key that the router works by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The other ends, to the minute.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub peers: Vec<PeerStatus>,
}

/// What is known of the other end of a tunnel.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// What it is called here.
    pub name: String,
    /// When it last proved who it is; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<Time>,
    /// What came from it.
    pub received: Bytes,
    /// What went to it.
    pub sent: Bytes,
}

/// Which farm is meant by the name of a peer in another namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerConsent {
    /// What the peer is called here.
    pub name: String,
    /// Namespace of its farm.
    pub namespace: String,
    /// Name of its farm.
    pub farm: String,
    /// `metadata.uid` of its farm.
    pub uid: String,
}

/// What is known of a router.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct VRouterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Its public address. It is the router's as long as it stands here.
    #[serde(rename = "publicIP", skip_serializing_if = "Option::is_none")]
    pub public_ip: Option<String>,
    /// The public address of one machine.
    #[serde(rename = "elasticIP", skip_serializing_if = "Option::is_none")]
    pub elastic_ip: Option<String>,
    /// Name of the machine that it is; of two, the one whose turn it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// What it works by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<AppliedConfig>,
    /// The other one of two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
    /// What others have to know to reach its farm by a tunnel, and what is known of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpn: Option<VpnStatus>,
    /// Which farms are meant by the names of its peers, of those that ever named this one: whoever has such a name later isn't joined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub consents: Vec<PeerConsent>,
    /// `Ready`, `AddressesReady`, `ConfigApplied`, `Redundant`, `TargetsFound`, `NamesOutside`, `PeersJoined`, `Deleting`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
