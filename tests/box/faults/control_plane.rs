//! The control plane dies while machines start, or is away for longer than a Lease lasts.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{one_of_many, quick};
use crate::support::census::NeverTwice;
use crate::support::soak::{measured, short_or_long, since};
use crate::support::{BOOT, Finally, SOON, TheBox, is_ready, the_box_alone};

fn mended(the_box: &TheBox) -> impl Drop {
    Finally(|| drop(the_box.try_script("control-plane/start", &[])))
}

#[tokio::test]
#[ignore = "needs a box"]
async fn machines_start_although_etcd_and_the_api_server_are_killed_meanwhile() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("etcd").await;
    tenant.given_farm("farm", json!({})).await;
    let _mended = mended(&the_box);
    let never_twice = NeverTwice::watch();
    let count = short_or_long(5, 20);
    for (round, part) in short_or_long(vec!["etcd"], vec!["etcd", "kube-apiserver"]).into_iter().enumerate() {
        let fault = format!("{part} killed -9 during {count} starts");
        let name = |index: usize| format!("guest-{round}-{index}");
        let begin = Instant::now();
        for index in 0..count {
            tenant.asks_for(&name(index), one_of_many(index)).await;
        }
        the_box.script("control-plane/stop", &["-9", part]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        the_box.script("control-plane/start", &[]);
        let back = Instant::now();
        for index in 0..count {
            tenant.until(&name(index), "runs", BOOT, is_ready).await;
        }
        measured(&fault, "all Ready after their creation", since(begin));
        measured(&fault, "all Ready after the API server was back", since(back));
        the_box.all_is_accounted_for().await;
        for index in 0..count {
            tenant.deletes(&name(index)).await;
        }
    }
    never_twice.holds();
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_an_operator_without_an_api_server_ends_and_begins_again_when_there_is_one() {
    let the_box = the_box_alone().await;
    let fault = "API server away for longer than a Lease";
    let process = || {
        let status = the_box.script("operator", &["status"]);
        status.lines().find(|line| line.starts_with("operator-1")).map(str::to_owned)
    };
    let tenant = the_box.tenant("away").await;
    let before = tenant.given_machine("before", quick()).await;
    let first = process();
    let _mended = mended(&the_box);
    let begin = Instant::now();
    the_box.script("control-plane/stop", &["-9", "kube-apiserver"]);
    the_box
        .eventually("the operator to end", SOON, async || {
            let now = process();
            if now != first { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    let ended = begin.elapsed();
    measured(fault, "operator without a Lease ended after", since(begin));
    assert!(ended < Duration::from_secs(20), "others may lead after 15 s: {ended:?}");
    tokio::time::sleep(Duration::from_secs(300)).await;

    the_box.script("control-plane/start", &[]);
    let back = Instant::now();
    tenant.asks_for("after", quick()).await;
    tenant.until("after", "runs", BOOT, is_ready).await;
    measured(fault, "a machine asked for then Ready after", since(back));
    let same = tenant.machines().get("before").await.unwrap();
    assert_eq!(same.status.unwrap().phase_transitions, before.status.unwrap().phase_transitions, "it just went on");
    the_box.all_is_accounted_for().await;
}
