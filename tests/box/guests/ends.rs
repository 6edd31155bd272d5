//! Panics and hangs are ends of a run, and what follows is what the run strategy says.

use cascina::api::{Phase, VirtualMachine};
use serde_json::{Value, json};

use crate::support::{BOOT, Tenant, is_ready, the_box};

const PANIC: &str = "(sleep 1; echo c >/proc/sysrq-trigger) </dev/null >/dev/null 2>&1 &";

/// Nobody feeds the watchdog any more, as when nothing in the guest gets a turn.
const HANG: &str = "(sleep 1; kill -STOP $(ps | awk '/[w]atchdog -F/ {print $1}')) </dev/null >/dev/null 2>&1 &";

fn phase(machine: &VirtualMachine) -> Phase {
    machine.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

fn boots(machine: &VirtualMachine) -> usize {
    let transitions = &machine.status.as_ref().unwrap().phase_transitions;
    transitions.iter().filter(|transition| transition.phase == Phase::Booting).count()
}

/// What is told that this ends runs `Once` as failed and `Always` with another start.
async fn ends(tenant: &Tenant<'_>, how: &str, command: &str, spec: Value) {
    for strategy in ["Once", "Always"] {
        let name = format!("{how}-{}", strategy.to_lowercase());
        let mut spec = spec.clone();
        spec["runStrategy"] = strategy.into();
        let machine = tenant.given_machine(&name, spec).await;
        assert!(tenant.inside(&machine, &["sh", "-c", command]).0, "{name} can be told to");
    }
    let once = format!("{how}-once");
    tenant.until(&once, "is Failed", BOOT, |machine| phase(machine) == Phase::Failed).await;
    let always = format!("{how}-always");
    tenant.until(&always, "runs again", BOOT, |machine| is_ready(machine) && boots(machine) > 1).await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_kernel_that_panics_has_crashed() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("panic").await;
    ends(&tenant, "panic", PANIC, json!({})).await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_guest_that_hangs_has_crashed_where_it_has_a_watchdog() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("hang").await;
    ends(&tenant, "hang", HANG, json!({"watchdog": "PowerOff"})).await;
    let plain = tenant.given_machine("plain", json!({})).await;
    assert!(!the_box.domain_xml(&plain).contains("<watchdog"), "nobody asked for one");
}
