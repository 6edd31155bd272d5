//! `VRouter`: the gateway of a farm. The type stands; the controller that runs it comes later.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The router of a farm: DHCP, DNS, NAT and forwards at the farm's gateway address.
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
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VRouterSpec {
    /// Name of the farm, in the same namespace, whose gateway this is.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a router can't move to another farm: delete it and make a new one"))]
    pub farm: String,
    /// How many routers stand in for each other.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 2))]
    pub replicas: i32,
}

/// What is known of a router.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct VRouterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

fn one() -> i32 {
    1
}
