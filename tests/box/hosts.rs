//! What becomes of machines when their host hangs or loses power: they and nobody else.

use std::time::{Duration, Instant};

use cascina::api::{Hypervisor, HypervisorPhase, Phase};
use kube::ResourceExt;
use serde_json::json;

use crate::support::libvirt::host_of;
use crate::support::soak::{measured, short_or_long, since};
use crate::support::{BOOT, Finally, SOON, Tenant, TheBox, is_ready, reason, the_box_alone};

const HUNG: &str = "host hung";

/// Within this time the operator has given up on a host that says nothing: a deadline of a call, and then some.
const GIVEN_UP: Duration = Duration::from_secs(60);

fn on(host: &str) -> serde_json::Value {
    json!({"hypervisorSelector": {"e2e/host": host}})
}

/// Machines choose hosts by labels.
async fn label(the_box: &TheBox) {
    for host in ["worker-1", "worker-2"] {
        the_box.cluster.must("kubectl", &["label", "--overwrite", "hypervisor", host, &format!("e2e/host={host}")]);
    }
}

/// How long it took from the creation of a machine on the other host until its domain ran: the best of a few.
async fn best_start(tenant: &Tenant<'_>, name: &str) -> Duration {
    let mut best = Duration::MAX;
    for index in 0..short_or_long(3, 10) {
        let name = format!("{name}-{index}");
        let begin = Instant::now();
        tenant.asks_for(&name, json!({"hypervisorSelector": {"e2e/host": "worker-2"}, "readiness": "None"})).await;
        tenant.ready(&name).await;
        best = best.min(begin.elapsed());
        tenant.deletes(&name).await;
        tenant.the_box.until_gone(&tenant.machines(), &name, SOON).await;
    }
    best
}

/// How often the other host was read.
fn surveys(the_box: &TheBox) -> f64 {
    let labels = [("host", "worker-2"), ("operation", "survey")];
    the_box.metrics().sum("cascina_libvirt_call_duration_seconds_count", &labels)
}

async fn two_machines(tenant: &Tenant<'_>) {
    tenant.given_farm("farm", json!({})).await;
    for (name, host) in [("struck", "worker-1"), ("spared", "worker-2")] {
        tenant.asks_for(name, on(host)).await;
    }
    for (name, host) in [("struck", "worker-1"), ("spared", "worker-2")] {
        assert_eq!(host_of(&tenant.ready(name).await), host);
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_host_that_hangs_costs_its_own_machines_and_no_other() {
    let the_box = the_box_alone().await;
    label(&the_box).await;
    let tenant = the_box.tenant("hang").await;
    two_machines(&tenant).await;

    let calm = best_start(&tenant, "calm").await;
    let _resumed = Finally(|| drop(the_box.try_script("host", &["resume", "worker-1"])));
    the_box.script("host", &["hang", "worker-1"]);
    let begin = Instant::now();
    let surveys = surveys(&the_box);
    // What waits for the hung host must not stand in the way of the others.
    for name in ["waits-1", "waits-2", "waits-3"] {
        tenant.asks_for(name, on("worker-1")).await;
    }
    let meanwhile = best_start(&tenant, "meanwhile").await;
    let delay = meanwhile.saturating_sub(calm);
    measured(HUNG, "best start of a machine on another host, before", format!("{:.2} s", calm.as_secs_f64()));
    measured(HUNG, "the same meanwhile", format!("{:.2} s", meanwhile.as_secs_f64()));
    assert!(delay < Duration::from_secs(1), "one host that hangs delays the others by {delay:?}");
    tenant.asks_for("new", on("worker-2")).await;
    tenant.ready("new").await;
    assert!(is_ready(&tenant.machines().get("spared").await.unwrap()), "a machine on another host stays Ready");

    let unknown = tenant
        .until("struck", "is Unknown", GIVEN_UP, |machine| {
            machine.status.as_ref().unwrap().phase == Some(Phase::Unknown)
        })
        .await;
    measured(HUNG, "its own machine Unknown after", since(begin));
    assert_eq!(reason(&unknown, "Ready").0, "HostUnreachable");
    let hosts = the_box.all::<Hypervisor>();
    the_box
        .until(&hosts, "worker-1", "is Unreachable", GIVEN_UP, |host| {
            host.status.as_ref().unwrap().phase == HypervisorPhase::Unreachable
        })
        .await;
    let pace = (self::surveys(&the_box) - surveys) / begin.elapsed().as_secs_f64();
    measured(HUNG, "another host read every", format!("{:.1} s", 1.0 / pace));
    assert!(pace > 0.25, "it is read every two seconds and whenever something changes there");
    // Deleting a machine on the other host isn't held up, deleting one on this host waits and says so.
    tenant.deletes("new").await;
    the_box.until_gone(&tenant.machines(), "new", SOON).await;

    the_box.script("host", &["resume", "worker-1"]);
    let back = Instant::now();
    let again = tenant.ready("struck").await;
    measured(HUNG, "its own machine Ready again after the thaw", since(back));
    assert_eq!(again.uid(), unknown.uid());
    assert_eq!(again.status.unwrap().epoch, unknown.status.unwrap().epoch, "nothing was started anew");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn after_a_power_loss_machines_run_again_and_deletions_are_made_up_for() {
    let the_box = the_box_alone().await;
    label(&the_box).await;
    let tenant = the_box.tenant("power").await;
    two_machines(&tenant).await;
    tenant.asks_for("doomed", on("worker-1")).await;
    let doomed = tenant.ready("doomed").await;

    let _started = Finally(|| drop(the_box.try_script("host", &["start", "worker-1"])));
    the_box.script("host", &["stop", "worker-1"]);
    tenant.deletes("doomed").await;
    let waits = tenant.until("doomed", "says what it waits for", GIVEN_UP, |machine| {
        reason(machine, "Deleting").0 == "WaitingForHost"
    });
    assert!(waits.await.metadata.deletion_timestamp.is_some());
    assert!(is_ready(&tenant.machines().get("spared").await.unwrap()));

    the_box.script("host", &["start", "worker-1"]);
    let begin = Instant::now();
    the_box.until_gone(&tenant.machines(), "doomed", BOOT).await;
    println!("the deletion was made up for {:.1} s after power came back", begin.elapsed().as_secs_f64());
    the_box.nothing_left_of(&[doomed.uid().unwrap()]).await;
    let struck = tenant
        .until("struck", "runs again", BOOT, |machine| {
            // The old status says Ready until the operator has looked: only a boot after the loss counts.
            let transitions = &machine.status.as_ref().unwrap().phase_transitions;
            is_ready(machine) && transitions.iter().filter(|one| one.phase == Phase::Booting).count() > 1
        })
        .await;
    println!("the machine ran again {:.1} s after power came back", begin.elapsed().as_secs_f64());
    assert_eq!(the_box.hosts_with(&struck.uid().unwrap()), ["worker-1"], "where its disks are");
}
