//! `Image`: what machines start from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Bytes;

/// A disk, or a kernel with its initramfs, or both, checked before anything opens it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cascina.dev",
    version = "v1alpha1",
    kind = "Image",
    shortname = "img",
    category = "cascina",
    status = "ImageStatus",
    derive = "PartialEq",
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "REVISION", type_ = "string", json_path = ".status.revision"),
    printcolumn(name = "SIZE", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "HOSTS", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "PROGRESS", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.disk) || has(self.kernel)").message("spec: give disk, or kernel, or both")
)]
pub struct ImageSpec {
    /// A disk image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskImage>,
    /// A kernel to boot directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelImage>,
    /// Which hosts keep a copy.
    #[serde(default)]
    pub cache: ImageCache,
}

/// A disk image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DiskImage {
    /// Where it comes from.
    pub source: ImageSource,
    /// `sha256:` and 64 hexadecimal digits, of the file as it is fetched.
    #[schemars(length(max = 71), regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub checksum: String,
    /// The format; a file of another format is refused.
    pub format: DiskFormat,
}

/// A kernel, its initramfs and its command line.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KernelImage {
    /// The kernel.
    pub kernel: VerifiedSource,
    /// The initramfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<VerifiedSource>,
    /// Kernel command line, printable ASCII.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024), regex(pattern = r"^[ -~]*$"))]
    pub cmdline: String,
}

/// A file and what it must hash to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedSource {
    /// Where it comes from.
    #[serde(flatten)]
    pub source: ImageSource,
    /// `sha256:` and 64 hexadecimal digits.
    #[schemars(length(max = 71), regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub checksum: String,
}

/// Where a file comes from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// `https://`, `http://`, or `file://` below a root that the site's configuration allows.
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^(https?|file)://[!-~]+$"))]
    pub url: String,
}

/// The format of a disk image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
    /// Plain sectors.
    Raw,
}

impl DiskFormat {
    /// The name that libvirt and QEMU know it by.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// Which hosts keep a copy before a machine asks for it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageCache {
    /// `All` hosts, or `OnDemand`: those where a machine is placed.
    #[serde(default)]
    pub policy: CachePolicy,
    /// With `All`: only hosts with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// When hosts get a copy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// As soon as the image is verified.
    All,
    /// When a machine that needs it is placed there.
    #[default]
    OnDemand,
}

/// How far an image is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImagePhase {
    /// Not begun.
    #[default]
    Pending,
    /// On its way to the operator.
    Fetching,
    /// Verified; hosts may still be waiting for copies.
    Ready,
    /// Refused: the condition `Ready` says why.
    Rejected,
    /// The source could not be read; it is tried again.
    Failed,
}

/// How far one host is with an image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageHostState {
    /// Waits for its turn or for the host.
    #[default]
    Waiting,
    /// On its way.
    Uploading,
    /// Complete.
    Ready,
    /// Failed; it is tried again.
    Failed,
}

/// One host's copy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageHost {
    /// Name of the Hypervisor.
    pub name: String,
    /// How far it is.
    pub state: ImageHostState,
    /// Share uploaded, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
    /// Why it waits or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What is known of an image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far it is.
    pub phase: ImagePhase,
    /// Short name of these contents; a change of checksum or command line is a new revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Size of the files together, rounded up to whole mebibytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Size of the disk as a guest sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<Bytes>,
    /// Hosts with a complete copy of those that shall have one, `3/4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// Percent, rate and time left of what is being moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// The hosts that shall have a copy; at most 64, those not ready first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub hosts: Vec<ImageHost>,
    /// `Ready`, `SourceUnavailable`, `Deleting`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
