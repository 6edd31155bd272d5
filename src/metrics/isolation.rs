//! What Prometheus is told of the isolation of hosts.

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::of_hosts::OfHosts;

/// What tests of isolation came to.
#[derive(Default)]
pub struct IsolationMetrics {
    verified: Family<HostLabels, Gauge>,
    last_held: Family<HostLabels, Gauge>,
    runs: OfHosts<RunLabels, Counter>,
    leaks: OfHosts<LeakLabels, Counter>,
    repairs: OfHosts<HostLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabels {
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabels {
    host: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeakLabels {
    host: String,
    attack: &'static str,
}

impl IsolationMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("isolation");
        registry.register("verified", "1 while a host is verified for isolation", self.verified.clone());
        registry.register_with_unit(
            "last_held_timestamp",
            "When every attack last failed",
            Unit::Seconds,
            self.last_held.clone(),
        );
        registry.register("runs", "Tests of isolation by result", self.runs.family.clone());
        registry.register("leaks", "Tests in which an attack succeeded", self.leaks.family.clone());
        registry.register("repairs", "How often filters were put back in place", self.repairs.family.clone());
    }

    /// Whether a host is verified now.
    pub fn verified(&self, host: &str, verified: bool) {
        self.verified.get_or_create(&of(host)).set(i64::from(verified));
    }

    /// Every attack failed.
    pub fn held(&self, host: &str, at: Timestamp) {
        self.run(host, "held");
        self.last_held.get_or_create(&of(host)).set(at.as_second());
    }

    /// These attacks succeeded.
    pub fn leaked(&self, host: &str, attacks: impl IntoIterator<Item = &'static str>) {
        self.run(host, "leaked");
        for attack in attacks {
            self.leaks.of(host, &LeakLabels { host: host.to_owned(), attack }).inc();
        }
    }

    /// Nothing was learnt.
    pub fn inconclusive(&self, host: &str) {
        self.run(host, "inconclusive");
    }

    /// Filters were put back in place.
    pub fn repaired(&self, host: &str) {
        self.repairs.of(host, &of(host)).inc();
    }

    /// The host is gone from the API.
    pub fn forget(&self, host: &str) {
        self.runs.forget(host);
        self.leaks.forget(host);
        self.repairs.forget(host);
        self.verified.remove(&of(host));
        self.last_held.remove(&of(host));
    }

    fn run(&self, host: &str, result: &'static str) {
        self.runs.of(host, &RunLabels { host: host.to_owned(), result }).inc();
    }
}

fn of(host: &str) -> HostLabels {
    HostLabels { host: host.to_owned() }
}
