//! What the bench measured, in words.

use std::collections::BTreeMap;

use crate::faults::Call;
use crate::hosts;

/// Head of the table.
pub const HEAD: &str = "\
| machines | hosts | all started | all Ready | CPU of the operator | of the API server | API calls a machine | host calls a machine | CPU at rest | API calls a minute at rest | surveys a host and heartbeat | memory |
|---|---|---|---|---|---|---|---|---|---|---|---|";

/// What one size came to.
pub struct Row {
    /// Machines.
    pub machines: usize,
    /// Seconds until every domain ran.
    pub started: f64,
    /// Seconds until every machine was Ready.
    pub ready: f64,
    /// Seconds of CPU of the operator until then.
    pub cpu: f64,
    /// Seconds of CPU of the API server until then.
    pub server_cpu: f64,
    /// Calls to the API server for each machine until then.
    pub kubernetes: f64,
    /// Calls to hosts for each machine until then.
    pub libvirt: f64,
    /// Percent of a core that the operator takes in the steady state.
    pub steady_cpu: f64,
    /// Calls to the API server in a minute of the steady state, of each sort.
    pub steady_kubernetes: BTreeMap<Call, u64>,
    /// Surveys for each host and heartbeat in the steady state.
    pub surveys: f64,
    /// MiB of the operator.
    pub memory: f64,
}

impl Row {
    /// It, in a table.
    pub fn line(&self) -> String {
        format!(
            "| {} | {} | {:.1} s | {:.1} s | {:.1} s | {:.1} s | {:.1} | {:.1} | {:.1} % | {} | {:.2} | {:.0} MiB |",
            self.machines,
            hosts(self.machines),
            self.started,
            self.ready,
            self.cpu,
            self.server_cpu,
            self.kubernetes,
            self.libvirt,
            self.steady_cpu,
            self.steady_kubernetes.values().sum::<u64>(),
            self.surveys,
            self.memory,
        )
    }

    /// What was called at rest.
    pub fn rest(&self) -> String {
        let calls = self.steady_kubernetes.iter().map(|(call, count)| format!("{count} {}", call.0));
        let calls = calls.collect::<Vec<_>>().join(", ");
        format!("{} machines, calls to the API server in a minute at rest: {calls}", self.machines)
    }
}
