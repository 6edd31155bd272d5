//! libvirtd dies under load, and comes back late.

use std::time::{Duration, Instant};

use cascina::api::Phase;
use kube::ResourceExt;
use serde_json::json;

use super::{label, quick_on};
use crate::support::census::NeverTwice;
use crate::support::soak::{measured, since};
use crate::support::{BOOT, Finally, is_ready, the_box_alone};

const FAULT: &str = "libvirtd killed -9 under load";

/// So many machines are started, stopped and deleted at a time.
const GROUP: usize = 4;

/// libvirtd dies so many milliseconds after machines of its host were asked for, halted and deleted.
const MOMENTS: [u64; 8] = [200, 600, 60, 1200, 350, 2000, 900, 120];

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_machines_start_stop_and_go_although_libvirtd_is_killed() {
    let the_box = the_box_alone().await;
    label(&the_box);
    let tenant = the_box.tenant("libvirtd").await;
    tenant.given_farm("farm", json!({})).await;
    let _goes_on = Finally(|| drop(the_box.try_script("host", &["resume", "worker-1"])));
    let never_twice = NeverTwice::watch();
    let name = |round: usize, what: &str, index: usize| format!("{what}-{round}-{index}");
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        for what in ["halted", "doomed"] {
            for index in 0..GROUP {
                tenant.asks_for(&name(round, what, index), quick_on("worker-1")).await;
            }
        }
        for what in ["halted", "doomed"] {
            for index in 0..GROUP {
                tenant.ready(&name(round, what, index)).await;
            }
        }
        let begin = Instant::now();
        for index in 0..GROUP {
            tenant.asks_for(&name(round, "new", index), quick_on("worker-1")).await;
            tenant.changes(&name(round, "halted", index), json!({"runStrategy": "Halted"})).await;
            tenant.deletes(&name(round, "doomed", index)).await;
        }
        tokio::time::sleep(Duration::from_millis(moment)).await;
        the_box.script("host", &["crash", "worker-1"]);
        let slow = round % 2 == 1;
        if slow {
            // It comes back after a second, and then needs ten more until it says anything.
            tokio::time::sleep(Duration::from_millis(1100)).await;
            the_box.script("host", &["hang", "worker-1"]);
            tokio::time::sleep(Duration::from_secs(10)).await;
            the_box.script("host", &["resume", "worker-1"]);
        }
        for index in 0..GROUP {
            tenant.until(&name(round, "new", index), "runs", BOOT, is_ready).await;
            the_box.until_gone(&tenant.machines(), &name(round, "doomed", index), BOOT).await;
            let stops = tenant.until(&name(round, "halted", index), "stops", BOOT, |machine| {
                machine.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Stopped))
            });
            let uid = stops.await.uid().unwrap();
            assert!(the_box.virsh("worker-1", &["domstate", &uid]).contains("shut off"));
        }
        let how = if slow { "and silent for 10 s more" } else { "and back after 1 s" };
        measured(FAULT, &format!("{moment} ms into {} requests, {how}: all done after", 3 * GROUP), since(begin));
        the_box.all_is_accounted_for().await;
        for what in ["new", "halted"] {
            for index in 0..GROUP {
                tenant.deletes(&name(round, what, index)).await;
            }
        }
    }
    never_twice.holds();
}
