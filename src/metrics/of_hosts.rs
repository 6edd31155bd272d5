//! Series with a host in their labels. They go with the host: an alert on one that is gone would never end.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::family::{Family, MetricConstructor};

/// A family that knows which of its series are of which host.
pub(super) struct OfHosts<Labels, Metric, Make = fn() -> Metric> {
    /// What the registry shows.
    pub(super) family: Family<Labels, Metric, Make>,
    seen: Mutex<BTreeMap<String, HashSet<Labels>>>,
}

impl<Labels: Clone + Eq + Hash, Metric: Default> Default for OfHosts<Labels, Metric> {
    fn default() -> Self {
        Self::from(Family::default())
    }
}

impl<Labels, Metric, Make> From<Family<Labels, Metric, Make>> for OfHosts<Labels, Metric, Make> {
    fn from(family: Family<Labels, Metric, Make>) -> Self {
        Self { family, seen: Mutex::default() }
    }
}

impl<Labels, Metric, Make> OfHosts<Labels, Metric, Make>
where
    Labels: Clone + Eq + Hash,
    Metric: Clone,
    Make: MetricConstructor<Metric>,
{
    /// The metric with these labels, which name this host.
    pub(super) fn of(&self, host: &str, labels: &Labels) -> Metric {
        let mut seen = self.lock();
        // Most calls are of series that are there: they copy no text.
        if seen.get(host).is_none_or(|series| !series.contains(labels)) {
            seen.entry(host.to_owned()).or_default().insert(labels.clone());
        }
        self.family.get_or_create_owned(labels)
    }

    /// Takes back all that names this host.
    pub(super) fn forget(&self, host: &str) {
        for labels in self.lock().remove(host).unwrap_or_default() {
            self.family.remove(&labels);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, HashSet<Labels>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
