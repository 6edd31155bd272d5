//! What Prometheus is told.

mod isolation;
mod of_hosts;
mod routers;

use std::time::Duration;

use kube::Resource;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use self::isolation::IsolationMetrics;
use self::of_hosts::OfHosts;
use self::routers::RouterMetrics;
pub use self::routers::{Counted, CountedPeer, RouterMachines};
use crate::api::Phase;
use crate::libvirt::CallObserver;

/// The metrics of the operator and the registry that shows them.
pub struct Metrics {
    registry: Registry,
    machines: Family<PhaseLabels, Gauge>,
    transitions: Family<PhaseLabels, Histogram>,
    calls: OfHosts<CallLabels, Histogram>,
    call_errors: OfHosts<CallErrorLabels, Counter>,
    reconciles: Family<KindLabels, Histogram>,
    reconcile_errors: Family<ReconcileErrorLabels, Counter>,
    writes: Family<WriteLabels, Counter>,
    evictions: Counter,
    stale_copies: Counter,
    tombstones: Family<HostLabels, Gauge>,
    drifts: Family<DriftLabels, Counter>,
    orphaned_domains: Family<HypervisorLabels, Gauge>,
    orphaned_storage: Family<HypervisorLabels, Gauge>,
    vanish_guard_active: Family<GuardLabels, Gauge>,
    vanish_guard: Family<GuardLabels, Counter>,
    certificate_expiry: Family<CertificateLabels, Gauge>,
    leader: Gauge,
    /// What tests of isolation came to.
    pub isolation: IsolationMetrics,
    /// What farms' routers counted.
    pub routers: RouterMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabels {
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    host: String,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallErrorLabels {
    host: String,
    operation: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileErrorLabels {
    kind: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HypervisorLabels {
    hypervisor: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GuardLabels {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    hypervisor: String,
    which: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DriftLabels {
    kind: &'static str,
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: String,
    part: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.005, 2.0, 16));
        let mut metrics = Self {
            registry: Registry::with_prefix("cascina"),
            machines: Family::default(),
            transitions: Family::new_with_constructor(seconds),
            calls: Family::new_with_constructor(seconds as fn() -> Histogram).into(),
            call_errors: OfHosts::default(),
            reconciles: Family::new_with_constructor(seconds),
            reconcile_errors: Family::default(),
            writes: Family::default(),
            evictions: Counter::default(),
            stale_copies: Counter::default(),
            tombstones: Family::default(),
            drifts: Family::default(),
            orphaned_domains: Family::default(),
            orphaned_storage: Family::default(),
            vanish_guard_active: Family::default(),
            vanish_guard: Family::default(),
            certificate_expiry: Family::default(),
            leader: Gauge::default(),
            isolation: IsolationMetrics::default(),
            routers: RouterMetrics::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let Self { registry, routers, .. } = self;
        routers.register(registry);
        registry.register("machines", "Virtual machines by phase", self.machines.clone());
        registry.register_with_unit(
            "machine_phase_transition",
            "Time from the creation of a machine to the beginning of a phase",
            Unit::Seconds,
            self.transitions.clone(),
        );
        registry.register_with_unit(
            "libvirt_call_duration",
            "Time of calls to hosts",
            Unit::Seconds,
            self.calls.family.clone(),
        );
        registry.register("libvirt_call_errors", "Calls to hosts that failed", self.call_errors.family.clone());
        registry.register_with_unit("reconcile_duration", "Time of reconciles", Unit::Seconds, self.reconciles.clone());
        registry.register("reconcile_errors", "Reconciles that failed", self.reconcile_errors.clone());
        registry.register("kubernetes_writes", "Writes to the API server", self.writes.clone());
        registry.register("evictions", "Machines placed elsewhere after their host was lost", self.evictions.clone());
        registry.register(
            "stale_copies_removed",
            "Copies of machines from placements that were over, removed from hosts that returned",
            self.stale_copies.clone(),
        );
        registry.register(
            "tombstones",
            "Copies of machines given up on a host and not yet removed",
            self.tombstones.clone(),
        );
        registry.register("drift", "Changes by hand that were found on hosts", self.drifts.clone());
        registry.register("orphaned_domains", "Domains that belong to no machine", self.orphaned_domains.clone());
        registry.register_with_unit(
            "orphaned_storage",
            "Space that volumes take which belong to no machine",
            Unit::Bytes,
            self.orphaned_storage.clone(),
        );
        registry.register(
            "vanish_guard_active",
            "1 while an answer in which much is missing is doubted",
            self.vanish_guard_active.clone(),
        );
        registry.register("vanish_guard", "Answers in which much was missing", self.vanish_guard.clone());
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the certificates between the operator and hosts end",
            self.certificate_expiry.clone(),
        );
        registry.register("leader", "1 while this instance leads", self.leader.clone());
        self.isolation.register(registry);
    }

    /// Machines by phase, counted anew.
    pub fn set_machines(&self, phases: impl IntoIterator<Item = Phase>) {
        self.machines.clear();
        for phase in ALL_PHASES {
            self.machines.get_or_create(&PhaseLabels { phase: format!("{phase:?}") }).set(0);
        }
        for phase in phases {
            self.machines.get_or_create(&PhaseLabels { phase: format!("{phase:?}") }).inc();
        }
    }

    /// A machine began a phase so long after its creation.
    pub fn transition(&self, phase: Phase, since_creation: Duration) {
        self.transitions
            .get_or_create(&PhaseLabels { phase: format!("{phase:?}") })
            .observe(since_creation.as_secs_f64());
    }

    /// A reconcile ended.
    pub fn reconcile<K: Resource<DynamicType = ()>>(&self, time: Duration, error: Option<&'static str>) {
        let kind = K::kind(&()).into_owned();
        if let Some(reason) = error {
            self.reconcile_errors.get_or_create(&ReconcileErrorLabels { kind: kind.clone(), reason }).inc();
        }
        self.reconciles.get_or_create(&KindLabels { kind }).observe(time.as_secs_f64());
    }

    /// A write to the API server; `part` is `status`, `metadata`, `object` or `event`.
    pub fn write<K: Resource<DynamicType = ()>>(&self, part: &'static str) {
        self.writes.get_or_create(&WriteLabels { kind: K::kind(&()).into_owned(), part }).inc();
    }

    /// A machine was placed elsewhere after its host was lost.
    pub fn evicted(&self) {
        self.evictions.inc();
    }

    /// A copy of a placement that was over was removed from its host.
    pub fn stale_copy_removed(&self) {
        self.stale_copies.inc();
    }

    /// So many copies are given up on a host and not yet removed.
    pub fn set_tombstones(&self, host: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.tombstones.get_or_create(&HostLabels { host: host.to_owned() }).set(count);
    }

    /// A host is gone from the API.
    pub fn forget_host(&self, host: &str) {
        self.calls.forget(host);
        self.call_errors.forget(host);
        self.isolation.forget(host);
        self.tombstones.remove(&HostLabels { host: host.to_owned() });
        let labels = HypervisorLabels { hypervisor: host.to_owned() };
        self.orphaned_domains.remove(&labels);
        self.orphaned_storage.remove(&labels);
        let source = GuardLabels { source: host.to_owned() };
        self.vanish_guard_active.remove(&source);
        self.vanish_guard.remove(&source);
        for which in ["client", "authority", "host"] {
            self.certificate_expiry.remove(&CertificateLabels { hypervisor: host.to_owned(), which });
        }
    }

    /// What on a host belongs to no object.
    pub fn set_orphans(&self, hypervisor: &str, domains: usize, bytes: u64) {
        let labels = HypervisorLabels { hypervisor: hypervisor.to_owned() };
        self.orphaned_domains.get_or_create(&labels).set(i64::try_from(domains).unwrap_or(i64::MAX));
        self.orphaned_storage.get_or_create(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// An answer of a source, a kind or a host, is doubted, or isn't any more.
    pub fn set_doubted(&self, source: &str, doubted: bool) {
        let labels = GuardLabels { source: source.to_owned() };
        let before = self.vanish_guard_active.get_or_create(&labels).set(i64::from(doubted));
        if doubted && before == 0 {
            self.vanish_guard.get_or_create(&labels).inc();
        }
    }

    /// When a certificate ends.
    pub fn set_certificate_expiry(&self, hypervisor: &str, which: &'static str, end: i64) {
        let labels = CertificateLabels { hypervisor: hypervisor.to_owned(), which };
        self.certificate_expiry.get_or_create(&labels).set(end);
    }

    /// Something on a host was changed by hand; `action` is `Repaired` or `Reported`.
    pub fn drift(&self, kind: &'static str, action: &'static str) {
        self.drifts.get_or_create(&DriftLabels { kind, action }).inc();
    }

    /// Whether this instance leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The text that Prometheus reads.
    ///
    /// # Errors
    /// Never with the metrics above; the encoder has an error type.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

impl CallObserver for Metrics {
    fn observe(&self, host: &str, operation: &'static str, seconds: f64, outcome: &'static str) {
        self.calls.of(host, &CallLabels { host: host.to_owned(), operation }).observe(seconds);
        if outcome != "ok" {
            let labels = CallErrorLabels { host: host.to_owned(), operation, reason: outcome };
            self.call_errors.of(host, &labels).inc();
        }
    }
}

const ALL_PHASES: [Phase; 10] = [
    Phase::Pending,
    Phase::Scheduled,
    Phase::Provisioning,
    Phase::Booting,
    Phase::Running,
    Phase::Migrating,
    Phase::Stopping,
    Phase::Stopped,
    Phase::Failed,
    Phase::Unknown,
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A name of a host is a label's value and never a line of its own.
        #[test]
        fn a_label_stays_in_its_quotes(host in any::<String>()) {
            let metrics = Metrics::default();
            metrics.observe(&host, "survey", 1.0, "HostUnreachable");
            let page = metrics.encode().unwrap();
            let escaped = host.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let line = format!(
                "cascina_libvirt_call_errors_total{{host=\"{escaped}\",operation=\"survey\",reason=\"HostUnreachable\"}} 1\n"
            );
            prop_assert!(page.contains(&line), "{}", page);
        }
    }

    /// A host that is gone from the API is gone from the page, whatever was counted of it; others stay.
    #[test]
    fn nothing_is_told_of_a_host_that_is_gone() {
        let metrics = Metrics::default();
        for host in ["gone", "stays"] {
            metrics.observe(host, "survey", 1.0, "HostUnreachable");
            metrics.set_tombstones(host, 1);
            metrics.set_orphans(host, 1, 1);
            metrics.set_doubted(host, true);
            metrics.set_certificate_expiry(host, "host", 0);
            metrics.isolation.verified(host, true);
            metrics.isolation.held(host, jiff::Timestamp::UNIX_EPOCH);
            metrics.isolation.leaked(host, ["mac-spoof"]);
            metrics.isolation.inconclusive(host);
            metrics.isolation.repaired(host);
        }
        let families = |page: &str, host: &str| {
            let lines = page.lines().filter(|line| line.contains(&format!("=\"{host}\"")));
            lines
                .filter_map(|line| line.split('{').next().map(str::to_owned))
                .collect::<std::collections::BTreeSet<_>>()
        };
        let before = metrics.encode().unwrap();
        metrics.forget_host("gone");
        let after = metrics.encode().unwrap();
        assert_eq!(families(&after, "gone"), Default::default());
        assert_eq!(families(&after, "stays"), families(&before, "gone"));
    }
}
