//! Faults below and around the operator while it works. What must hold after each: nothing lost, nothing doubled, nothing
//! left behind. How long things took is printed, and kept by `make soak`, which runs the long forms.

mod churn;
mod control_plane;
mod host;
mod mount;
mod network;
mod storage;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::TheBox;

/// Within this time the operator has noticed that a host is silent, and back again: `unreachableAfter`, and then some.
const NOTICED: Duration = Duration::from_secs(60);

/// A machine that is Ready as soon as its domain runs: what the guest does isn't the point.
fn quick() -> Value {
    json!({"readiness": "None"})
}

/// One of twenty: so many have room on all hosts only.
fn one_of_many(index: usize) -> Value {
    let class = if index.is_multiple_of(2) { "Worker" } else { "Service" };
    json!({"readiness": "None", "class": class})
}

/// The same on one host.
fn quick_on(host: &str) -> Value {
    json!({"readiness": "None", "hypervisorSelector": {"e2e/host": host}})
}

/// Machines choose hosts by labels.
fn label(the_box: &TheBox) {
    for host in ["worker-1", "worker-2"] {
        the_box.cluster.must("kubectl", &["label", "--overwrite", "hypervisor", host, &format!("e2e/host={host}")]);
    }
}
