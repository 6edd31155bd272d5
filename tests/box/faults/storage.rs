//! A host's storage is full, doesn't answer, or isn't there.

use std::time::{Duration, Instant};

use cascina::api::Phase;
use serde_json::{Value, json};

use super::{NOTICED, label, quick_on};
use crate::support::census::NeverTwice;
use crate::support::libvirt::epoch_of;
use crate::support::soak::{measured, short_or_long, since};
use crate::support::{BOOT, Finally, SOON, TheBox, is_ready, reason, the_box_alone};

/// A machine with a data disk that the pool can promise but not hold.
pub(super) const GREEDY: &str = "e2e-greedy";

/// The host's pool as it was, and its libvirtd knows it.
pub(super) fn put_back(the_box: &TheBox, host: &str) {
    drop(the_box.try_script("storage", &["back", host]));
    drop(the_box.try_script("virsh", &[host, "pool-refresh", "cascina"]));
}

/// The box has such machines.
pub(super) async fn greedy(the_box: &TheBox) {
    the_box.has_flavour(GREEDY, json!({"cpus": 1, "memory": "192Mi", "dataDisk": "256Mi"})).await;
}

fn greedy_on(host: &str) -> Value {
    json!({"flavour": GREEDY, "hypervisorSelector": {"e2e/host": host}})
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_full_disk_stops_starts_and_guests_until_there_is_space() {
    let the_box = the_box_alone().await;
    label(&the_box);
    greedy(&the_box).await;
    let _back = Finally(|| put_back(&the_box, "worker-1"));
    the_box.script("storage", &["own", "worker-1"]);
    let tenant = the_box.tenant("full").await;
    let writer = tenant.given_machine("writer", greedy_on("worker-1")).await;

    let fault = "disk full while a machine is made";
    the_box.script("storage", &["fill", "worker-1"]);
    tenant.asks_for("late", greedy_on("worker-1")).await;
    tenant
        .until("late", "says that there is no space", NOTICED, |machine| {
            reason(machine, "Ready").1.contains("no space left in the storage pool")
        })
        .await;

    let fault_running = "disk full under a guest";
    // What it writes stays in its memory too, to be compared in the end. It begins when its agent has surely said so.
    assert!(tenant.inside(&writer, &["dd", "if=/dev/urandom", "of=/tmp/kept", "bs=1M", "count=24"]).0);
    let write = "disk=/dev/$(grep -lx data /sys/block/vd*/serial | cut -d/ -f4); \
                 (sleep 3; dd if=/tmp/kept of=$disk bs=1M conv=fsync && touch /tmp/written) >/dev/null 2>&1 </dev/null &";
    let begin = Instant::now();
    assert!(tenant.inside(&writer, &["sh", "-c", write]).0);
    let stopped =
        tenant.until("writer", "is paused", BOOT, |machine| reason(machine, "Ready").0 == "PausedByIOError").await;
    measured(fault_running, "reported after", since(begin));
    assert_eq!(stopped.status.as_ref().unwrap().phase, Some(Phase::Running), "the domain is there");
    tokio::time::sleep(short_or_long(Duration::ZERO, Duration::from_secs(60))).await;

    the_box.script("storage", &["free", "worker-1"]);
    let freed = Instant::now();
    let again = tenant.until("writer", "goes on", BOOT, is_ready).await;
    measured(fault_running, "guest went on after there was space", since(freed));
    let compare = "disk=/dev/$(grep -lx data /sys/block/vd*/serial | cut -d/ -f4); \
                   while [ ! -e /tmp/written ]; do sleep 1; done; cmp -n 25165824 /tmp/kept $disk";
    assert!(tenant.inside(&again, &["sh", "-c", compare]).0, "not a byte was lost");
    assert_eq!(epoch_of(&again), epoch_of(&writer));
    tenant.ready("late").await;
    measured(fault, "Ready after there was space", since(freed));
    drop(tenant);
    the_box.all_is_accounted_for().await;
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_a_disk_that_hangs_costs_its_host_alone() {
    let the_box = the_box_alone().await;
    let fault = "network host–storage cut (its disk hangs)";
    label(&the_box);
    greedy(&the_box).await;
    let _back = Finally(|| put_back(&the_box, "worker-1"));
    the_box.script("storage", &["own", "worker-1"]);
    let tenant = the_box.tenant("hung-disk").await;
    let struck = tenant.given_machine("struck", greedy_on("worker-1")).await;
    let never_twice = NeverTwice::watch();

    the_box.script("storage", &["hang", "worker-1"]);
    let begin = Instant::now();
    tenant.asks_for("late", greedy_on("worker-1")).await;
    tenant.asks_for("elsewhere", quick_on("worker-2")).await;
    tenant.until("elsewhere", "runs on another host", SOON, is_ready).await;
    measured(fault, "a new machine on another host Ready after", since(begin));
    tokio::time::sleep(Duration::from_secs(120)).await;
    let late = tenant.machines().get("late").await.unwrap();
    println!("meanwhile: {:?}", reason(&late, "Ready"));

    the_box.script("storage", &["resume", "worker-1"]);
    let resumed = Instant::now();
    tenant.until("late", "runs", BOOT, is_ready).await;
    measured(fault, "a machine asked for meanwhile Ready after the disk answered", since(resumed));
    let again = tenant.ready("struck").await;
    assert_eq!(epoch_of(&again), epoch_of(&struck), "its guest just went on");
    never_twice.holds();
    drop(tenant);
    the_box.all_is_accounted_for().await;
}
