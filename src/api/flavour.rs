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
    /// Absent: as large as the image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<Bytes>,
    /// Size of an empty second disk; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_disk: Option<Bytes>,
}
