//! A guest's agent is a program of the tenant's: it may answer anything, at any length, or nothing. That costs its own
//! machine its readiness, and nobody anything else.

use std::time::{Duration, Instant};

use cascina::api::{Phase, VirtualMachine};
use serde_json::json;

use crate::support::libvirt::host_of;
use crate::support::soak::short_or_long;
use crate::support::{BOOT, SOON, Tenant, TheBox, is_ready, reason, the_box_alone};

/// Plays the agent in the guest, and tells the lies that it is told to tell.
const LIAR: &str = include_str!("lying_agent/agent");

/// Each is told for so many seconds.
const LASTS: u32 = 8;

/// What the operator may grow by while it is lied to: less than two of the answers that libvirt hands on.
const GROWTH_KIB: u64 = 16 << 10;

async fn given_a_liar(tenant: &Tenant<'_>, host: &serde_json::Value) {
    let file = json!({"path": "/usr/libexec/agent", "permissions": "0755", "content": LIAR});
    let user_data = format!("#cloud-config\n{}", json!({"write_files": [file]}));
    tenant.asks_for("liar", json!({"hypervisorSelector": host, "userData": {"inline": user_data}})).await;
}

/// Lets the true agent begin a lie; it ends by itself.
fn lie(tenant: &Tenant<'_>, liar: &VirtualMachine, lie: &str, seconds: u32) {
    let begin = format!("echo {lie} {seconds} >/run/lie; (sleep 1; killall qemu-ga) >/dev/null 2>&1 &");
    assert!(tenant.inside(liar, &["sh", "-c", &begin]).0, "{lie}: the guest listens");
    std::thread::sleep(Duration::from_secs(2));
}

/// Lets the operator look at a machine now.
fn look_at(the_box: &TheBox, tenant: &Tenant<'_>, machine: &str) {
    let mark = format!("e2e/look={}", uuid::Uuid::new_v4());
    the_box.cluster.must("kubectl", &["annotate", "-n", &tenant.namespace, "cvm", machine, "--overwrite", &mark]);
}

/// Calls to a host that failed, of any kind.
fn failed_calls(the_box: &TheBox, host: &str) -> f64 {
    the_box.metrics().sum("cascina_libvirt_call_errors_total", &[("host", host)])
}

fn agent_is_silent(machine: &VirtualMachine) -> bool {
    reason(machine, "AgentConnected").0 == "NoAnswer"
}

#[tokio::test]
#[ignore = "needs a box"]
async fn an_agent_that_lies_costs_its_own_machine_its_readiness_and_nobody_anything() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("liar").await;
    let honest = tenant.given_machine("honest", json!({})).await;
    let host = host_of(&honest);
    the_box.cluster.must("kubectl", &["label", "--overwrite", "hypervisor", &host, &format!("e2e/host={host}")]);
    given_a_liar(&tenant, &json!({"e2e/host": host})).await;
    let liar = tenant.ready("liar").await;
    assert_eq!(host_of(&liar), host);
    let (failed, before) = (failed_calls(&the_box, &host), the_box.resident_kib());

    let all = vec!["nonsense", "huge", "silence", "noise", "large", "stream", "lines"];
    for what in short_or_long(all[..4].to_vec(), all) {
        lie(&tenant, &liar, what, LASTS);
        let begin = Instant::now();
        look_at(&the_box, &tenant, "liar");
        let caught = tenant.until("liar", &format!("is caught: {what}"), SOON, agent_is_silent).await;
        let caught_after = begin.elapsed();
        assert_eq!(reason(&caught, "Ready").0, "AgentLost");
        let said = serde_json::to_string(&caught.status).unwrap();
        assert!(!said.contains("unasked") && !said.contains("xxxx"), "nothing that it said is shown: {said}");
        assert_eq!(caught.status.unwrap().address, liar.status.as_ref().unwrap().address);

        let memory = the_box.resident_kib();
        tenant.until("liar", &format!("tells the truth again after {what}"), BOOT, is_ready).await;
        println!(
            "{what:>9}: caught {:.1} s after a look, operator at {} MiB",
            caught_after.as_secs_f64(),
            memory >> 10
        );
        assert!(memory < before + GROWTH_KIB, "{what}: the operator grew from {before} to {memory} KiB");
    }

    lie(&tenant, &liar, "silence", 300);
    look_at(&the_box, &tenant, "liar");
    tenant.until("liar", "is caught in its silence", SOON, agent_is_silent).await;
    tenant.asks_for("late", json!({"hypervisorSelector": {"e2e/host": host}})).await;
    tenant.ready("late").await;
    let liar = tenant.machines().get("liar").await.unwrap();
    assert!(agent_is_silent(&liar), "its neighbour's agent was heard while it said nothing");
    assert!(is_ready(&tenant.machines().get("honest").await.unwrap()));
    assert_eq!(failed_calls(&the_box, &host), failed, "a lie is no failure of the host");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn an_agent_that_only_says_yes_to_a_shutdown_delays_nobody() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("unwilling").await;
    tenant.given_farm("farm", json!({})).await;
    given_a_liar(&tenant, &json!({})).await;
    let liar = tenant.ready("liar").await;
    let host = host_of(&liar);
    let failed = failed_calls(&the_box, &host);
    lie(&tenant, &liar, "unwilling", 600);
    let begin = Instant::now();
    tenant.changes("liar", json!({"runStrategy": "Halted"})).await;
    tenant
        .until("liar", "is told to stop", SOON, |machine| {
            machine.status.as_ref().unwrap().phase >= Some(Phase::Stopping)
        })
        .await;
    println!("asked {:.1} s after it was to stop", begin.elapsed().as_secs_f64());
    tenant.deletes("liar").await;
    the_box.until_gone(&tenant.machines(), "liar", SOON).await;
    println!("gone {:.1} s after it was to stop", begin.elapsed().as_secs_f64());
    assert_eq!(failed_calls(&the_box, &host), failed, "waiting for an agent is no failure of the host");
}
