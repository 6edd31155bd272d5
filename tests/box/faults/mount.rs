//! The worst that can happen to a pool: its directory is there and empty, as where a mount failed. That nothing is in it
//! says nothing of what belongs there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cascina::api::{Hypervisor, Phase, VirtualMachine};
use kube::ResourceExt;
use serde_json::json;

use super::NOTICED;
use super::storage::{GREEDY, greedy, put_back};
use crate::support::libvirt::epoch_of;
use crate::support::soak::{measured, short_or_long, since};
use crate::support::{BOOT, Finally, TheBox, reason, the_box_alone};

const FAULT: &str = "network host–storage cut (the mount is missing)";

/// Both see the same pool.
const HOSTS: [&str; 2] = ["service-1", "service-2"];

/// What lies in the pools of these hosts, as the hosts see it.
fn in_the_pools(the_box: &TheBox) -> BTreeSet<String> {
    let files = HOSTS.map(|host| the_box.script("host", &["enter", host, "ls", "/var/lib/cascina/pool"]));
    files.iter().flat_map(|files| files.lines()).map(str::to_owned).collect()
}

#[tokio::test]
#[ignore = "needs a box"]
async fn where_a_mount_is_missing_nothing_is_made_and_nothing_forgotten() {
    let the_box = the_box_alone().await;
    greedy(&the_box).await;
    let tenant = the_box.tenant("away").await;
    tenant.given_farm("farm", json!({})).await;
    let names = short_or_long(vec!["running", "doomed"], vec!["running", "doomed", "halted"]);
    let halts = names.contains(&"halted");
    for name in &names {
        tenant.asks_for(name, json!({"class": "Service", "flavour": GREEDY})).await;
    }
    for name in &names {
        tenant.ready(name).await;
    }
    let is_off = |machine: &VirtualMachine| machine.status.as_ref().unwrap().phase == Some(Phase::Stopped);
    if halts {
        tenant.changes("halted", json!({"runStrategy": "Halted"})).await;
        tenant.until("halted", "stops", BOOT, is_off).await;
    }
    let before = tenant.machines().get("running").await.unwrap();
    let doomed = tenant.machines().get("doomed").await.unwrap();
    let volumes = in_the_pools(&the_box);

    let mounted = || HOSTS.iter().for_each(|host| put_back(&the_box, host));
    let _mounted = Finally(mounted);
    for host in HOSTS {
        the_box.script("storage", &["away", host]);
    }
    let begin = Instant::now();
    if halts {
        tenant.changes("halted", json!({"runStrategy": "Always"})).await;
    }
    tenant.deletes("doomed").await;
    let said =
        the_box.until(&the_box.all::<Hypervisor>(), HOSTS[0], "says that its storage is missing", NOTICED, |host| {
            reason(host, "Ready").0 == "StorageMissing"
        });
    println!("{}", reason(&said.await, "Ready").1);
    measured(FAULT, "reported after", since(begin));
    tenant.until("doomed", "waits", NOTICED, |machine| reason(machine, "Deleting").0 == "WaitingForHost").await;
    // Less than the deadline of a deletion, after which it would be given up as on a host that is lost.
    tokio::time::sleep(short_or_long(Duration::from_secs(3), Duration::from_secs(75))).await;
    let made = in_the_pools(&the_box);
    assert!(made.is_empty(), "nothing is made where the pool isn't: {made:?}");
    assert!(tenant.machines().get_opt("doomed").await.unwrap().is_some(), "its disks are where nobody can look");

    mounted();
    let back = Instant::now();
    the_box.until_gone(&tenant.machines(), "doomed", BOOT).await;
    measured(FAULT, "a deletion made up for after the mount was back", since(back));
    if halts {
        tenant.ready("halted").await;
    }
    let after = tenant.ready("running").await;
    assert_eq!(epoch_of(&after), epoch_of(&before), "its guest just went on");
    let doomed = doomed.uid().unwrap();
    let there = in_the_pools(&the_box);
    let lost: Vec<_> = volumes.difference(&there).filter(|name| !name.starts_with(&doomed)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    the_box.all_is_accounted_for().await;
}
