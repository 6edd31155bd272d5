//! `Flavour`: a size of machine.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::Bytes;

/// A size of machine that tenants choose by name. Editing it never changes machines that exist:
/// each pins the flavour it was started with.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cascina.dev",
    version = "v1alpha1",
    kind = "Flavour",
    shortname = "fl",
    category = "cascina",
    derive = "PartialEq",
    printcolumn(name = "CPUS", type_ = "integer", json_path = ".spec.cpus"),
    printcolumn(name = "MEMORY", type_ = "string", json_path = ".spec.memory"),
    printcolumn(name = "ROOT-DISK", type_ = "string", json_path = ".spec.rootDisk"),
    printcolumn(name = "DATA-DISK", type_ = "string", json_path = ".spec.dataDisk"),
    printcolumn(name = "OUTBOUND", type_ = "string", json_path = ".spec.bandwidth.outbound", priority = 1),
    printcolumn(name = "INBOUND", type_ = "string", json_path = ".spec.bandwidth.inbound", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct FlavourSpec {
    /// Virtual CPUs.
    #[schemars(range(min = 1, max = 512))]
    pub cpus: i32,
    /// Memory of the guest.
    #[x_kube(validation = Rule::new("type(self) == int ? self > 0 : quantity(self).isGreaterThan(quantity('0'))").message("must be more than nothing"))]
    pub memory: Bytes,
    /// Size of the root disk, a copy-on-write overlay over the image. Machines whose image has no disk have none.
    /// Absent: as large as the image says. Machines that have a disk keep it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<Bytes>,
    /// Size of an empty second disk; absent: none. Machines that were placed without one don't get it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_disk: Option<Bytes>,
    /// What the network card carries at most; absent: as much as the host can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

/// What a network card carries at most, in bytes. The host enforces it: no guest can change it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[x_kube(validation = Rule::new("has(self.outbound) || has(self.inbound)").message("give outbound, or inbound, or both"))]
pub struct Bandwidth {
    /// What the guest may send in a second; the rest is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 10000 : quantity(self).compareTo(quantity('10k')) >= 0").message("must be at least 10k, bytes a second"))]
    pub outbound: Option<Bytes>,
    /// What the guest may receive in a second; the rest waits for a moment, and senders take turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 10000 : quantity(self).compareTo(quantity('10k')) >= 0").message("must be at least 10k, bytes a second"))]
    pub inbound: Option<Bytes>,
    /// What may pass at once after a pause; absent: a tenth of what may pass in a second. Never less than 64Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("type(self) == int ? self <= 1073741824 : quantity(self).compareTo(quantity('1Gi')) <= 0").message("must be at most 1Gi: more is no limit"))]
    pub burst: Option<Bytes>,
}
