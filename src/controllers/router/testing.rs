//! Routers and what is around them, for tests.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::site::PublicNetwork;
use crate::api::{RouterTemplate, VRouter, VRouterSpec};

/// Three public addresses, from `198.51.100.20`.
pub fn public() -> PublicNetwork {
    PublicNetwork {
        network: "198.51.100.0/24".parse().unwrap(),
        gateway: "198.51.100.1".parse().unwrap(),
        addresses: vec!["198.51.100.20-198.51.100.22".parse().unwrap()],
    }
}

/// The router of `farm-a` that asks for nothing, made at this second.
pub fn router(name: &str, second: i64) -> VRouter {
    let spec =
        VRouterSpec { farm: "farm-a".into(), public_ip: None, elastic_ip: None, template: RouterTemplate::default() };
    let mut router = VRouter::new(name, spec);
    router.metadata.namespace = Some("tenant".into());
    router.metadata.uid = Some(format!("uid-{name}"));
    router.metadata.generation = Some(1);
    router.metadata.creation_timestamp = Timestamp::from_second(second).ok().map(Time);
    router
}
