//! The kinds of `cascina.dev/v1alpha1` as Rust types: data, documentation and CEL rules.
//!
//! No behaviour lives here beyond small pure helpers; the controllers decide, this module only says
//! what can be said. The manifests in `crds/` are generated from these types (`cascina crds`).

mod bytes;
pub mod conditions;
mod farm;
mod flavour;
mod hypervisor;
mod image;
mod machine;
mod names;
mod router;
pub mod site;
mod ssh_keys;
mod zone_names;

pub use bytes::Bytes;
pub use farm::{
    DefaultedNetwork, GroupUpdate, GroupUpdateStrategy, MachineGroup, PlannedMachine, Quota, QuotaUse, Subject,
    SubjectKind, VirtualFarm, VirtualFarmSpec, VirtualFarmStatus,
};
pub use flavour::{Bandwidth, Flavour, FlavourSpec};
pub use hypervisor::{
    Capacity, DriftPolicy, Hypervisor, HypervisorClass, HypervisorNetwork, HypervisorNetworks, HypervisorPhase,
    HypervisorSpec, HypervisorStatus, HypervisorStorage, Isolation, MachineCopy, Maintenance, Overcommit, PoolMark,
    Resources, SecretRef, Tombstone, Virtualization,
};
pub use image::{
    CachePolicy, DiskFormat, DiskImage, Image, ImageCache, ImageHost, ImageHostState, ImagePhase, ImageSource,
    ImageSpec, ImageStatus, KernelImage, VerifiedSource,
};
pub use machine::{
    EvictionStrategy, KeyRef, Phase, PhaseTransition, PinnedDisk, PinnedFlavour, PinnedImage, PinnedKernel, Readiness,
    RouterRole, RunStrategy, StartFailure, UserData, VirtualMachine, VirtualMachineSpec, VirtualMachineStatus,
    Watchdog,
};
pub use names::{BadObjectName, ObjectName};
pub use router::{
    AppliedConfig, EgressAction, EgressRule, ElasticIp, FarmPeer, FarmRef, FarmVpn, MachineRef, PeerConsent,
    PeerStatus, PortForward, PortProtocol, RouterTemplate, Standby, VRouter, VRouterSpec, VRouterStatus, VpnStatus,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use serde_json::json;

/// The API group of every kind.
pub const GROUP: &str = "cascina.dev";

/// Annotation that stops reconciling an object while its value is `"true"`.
pub const PAUSED_ANNOTATION: &str = "cascina.dev/paused";

/// Annotation on a `VirtualFarm`: while `"true"` the plan is shown in status and nothing is made.
pub const DRY_RUN_ANNOTATION: &str = "cascina.dev/dry-run";

/// Annotation on a `Hypervisor` that doesn't answer: somebody saw to it that the host is off, so nothing runs on it. Any
/// value; the time of the statement is a good one.
pub const FENCED_ANNOTATION: &str = "cascina.dev/fenced";

/// Annotation on a `Hypervisor`: consent to remove what belongs to no object. Its value is the code that the condition
/// `Orphans` gives, which stands for exactly what is listed there.
pub const SWEEP_ANNOTATION: &str = "cascina.dev/sweep";

/// Finalizer on every object that stands for something outside Kubernetes.
pub const FINALIZER: &str = "cascina.dev/cleanup";

/// The garbage collector's finalizer on an object that was deleted with `--cascade=orphan`: what it owns is to stay.
pub const ORPHAN_FINALIZER: &str = "orphan";

/// Label on what a farm made: the farm's name.
pub const FARM_LABEL: &str = "cascina.dev/farm";

/// Label on the machines of a group: the group's name.
pub const GROUP_LABEL: &str = "cascina.dev/group";

/// Label on a machine that is to be a router. It makes none of it: it keeps the farm from giving it an address like any other
/// before its status says that it is one.
pub const ROUTER_LABEL: &str = "cascina.dev/router";

/// Annotation on the machines of a group: the hash of the template that they were made from.
pub const TEMPLATE_ANNOTATION: &str = "cascina.dev/template-hash";

/// The generation that the status of an object speaks of before a controller has looked at it.
pub const UNOBSERVED: i64 = -1;

/// Every custom resource definition, in the order in which `crds/` lists them.
#[must_use]
pub fn custom_resource_definitions() -> Vec<CustomResourceDefinition> {
    let kinds =
        [Hypervisor::crd(), Image::crd(), Flavour::crd(), VirtualFarm::crd(), VirtualMachine::crd(), VRouter::crd()];
    kinds.into_iter().map(unobserved_at_first).collect()
}

/// Lets an object that no controller has looked at say so: without a status, tools that wait for objects by the rules
/// of kstatus take it for done in the moment in which it is made.
fn unobserved_at_first(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let fields = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(status) = fields.and_then(|fields| fields.get_mut("status")) {
            status.default = Some(JSON(json!({ "observedGeneration": UNOBSERVED })));
        }
    }
    definition
}

/// Whether an object is being deleted and what it owns is to stay.
pub fn keeps_dependents(object: &impl kube::ResourceExt) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == ORPHAN_FINALIZER)
}

/// Whether our finalizer is on an object: something outside Kubernetes may stand for it.
pub fn has_our_finalizer(object: &impl kube::ResourceExt) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Whether an annotation stands on the object with the value `"true"`.
pub fn is_annotated(object: &impl kube::ResourceExt, annotation: &str) -> bool {
    object.annotations().get(annotation).is_some_and(|value| value == "true")
}
