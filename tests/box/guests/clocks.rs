//! A guest that stood still knows the time again when it goes on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube::ResourceExt;
use serde_json::json;

use crate::support::libvirt::host_of;
use crate::support::{BOOT, Finally, SOON, condition, is_ready, reason, the_box};

/// So long it stands still, which shows in a clock that counts seconds.
const STOOD_STILL: Duration = Duration::from_secs(20);

#[tokio::test]
#[ignore = "needs a box"]
async fn a_guest_that_somebody_paused_gets_its_clock_set() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("clock").await;
    let machine = tenant.given_machine("guest", json!({})).await;
    let (host, uid) = (host_of(&machine), machine.uid().unwrap());
    let ours = || i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    // To ask takes seconds on busy cores: what the guest says is right if it lies between the question and the answer.
    let behind = || {
        let asked = ours();
        let (_, text) = tenant.inside(&machine, &["date", "+%s"]);
        let guests: i64 = String::from_utf8_lossy(&text).trim().parse().unwrap();
        guests.clamp(asked, ours()) - guests
    };
    assert!(behind().abs() < 5, "it starts with the host's time");
    the_box.virsh(&host, &["suspend", &uid]);
    let _resumed = Finally(|| drop(the_box.try_script("virsh", &[&host, "resume", &uid])));
    tenant.until("guest", "is told to be paused", SOON, |machine| reason(machine, "Ready").0 == "Paused").await;
    assert_eq!(reason(&tenant.machines().get("guest").await.unwrap(), "ClockSet").0, "StandsStill");
    tokio::time::sleep(STOOD_STILL).await;
    the_box.virsh(&host, &["resume", &uid]);
    tenant
        .until("guest", "has its clock set", BOOT, |machine| {
            is_ready(machine) && condition(machine, "ClockSet").is_none()
        })
        .await;
    let seconds = behind();
    assert!(seconds.abs() < 5, "{seconds} s behind");
}
