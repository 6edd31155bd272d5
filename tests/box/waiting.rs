//! Machines wait for quota or room, say what for, and start by themselves when it is there.

use std::time::{Duration, Instant};

use cascina::api::{Maintenance, Phase, VirtualMachine};
use kube::api::Patch;
use serde_json::json;

use crate::support::libvirt::host_of;
use crate::support::{BOOT, Finally, SOON, Tenant, TheBox, condition, reason, the_box_alone};

/// What waited starts so soon after what it waited for is there.
const BY_ITSELF: Duration = Duration::from_secs(5);

fn is_scheduled(machine: &VirtualMachine) -> bool {
    condition(machine, "Scheduled").is_some_and(|scheduled| scheduled.status == "True")
}

/// Waits until a machine waits for this reason, and returns the message.
async fn waits(tenant: &Tenant<'_>, name: &str, why: &str, holds: impl Fn(&str) -> bool) -> String {
    let machine = tenant
        .until(name, &format!("waits because of {why}"), BOOT, |machine| {
            let (reason, message) = reason(machine, "Scheduled");
            reason == why && holds(&message) && crate::support::reason(machine, "Ready").0 == why
        })
        .await;
    assert_eq!(machine.status.as_ref().unwrap().phase, Some(Phase::Pending));
    reason(&machine, "Scheduled").1
}

/// A machine gets its host soon after `begin`.
async fn starts_by_itself(tenant: &Tenant<'_>, name: &str, after: &str, begin: Instant) -> VirtualMachine {
    let machine = tenant.until(name, "is scheduled", SOON, is_scheduled).await;
    let took = begin.elapsed();
    println!("{name}: scheduled {:.2} s after {after}", took.as_secs_f64());
    assert!(took < BY_ITSELF, "it took {took:?}");
    machine
}

#[tokio::test]
#[ignore = "needs a box"]
async fn over_quota_a_machine_waits_until_there_is_quota() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("quota").await;
    tenant.given_farm("farm", json!({"quota": {"instances": 1, "memory": "1Gi"}})).await;
    let quick = json!({"readiness": "None"});
    tenant.asks_for("first", quick.clone()).await;
    tenant.ready("first").await;
    tenant.asks_for("second", quick.clone()).await;
    let message = waits(&tenant, "second", "QuotaExceeded", |_| true).await;
    assert_eq!(message, "farm: instances 1 of 1 used, needs 1 more");
    the_box
        .until(&tenant.farms(), "farm", "says it", SOON, |farm| {
            condition(farm, "QuotaExceeded")
                .is_some_and(|over| over.status == "True" && over.message.contains("second"))
        })
        .await;

    let quota = json!({"spec": {"quota": {"instances": 2}}});
    tenant.farms().patch("farm", &Default::default(), &Patch::Merge(quota)).await.unwrap();
    starts_by_itself(&tenant, "second", "the quota was raised", Instant::now()).await;

    tenant.asks_for("third", quick).await;
    waits(&tenant, "third", "QuotaExceeded", |message| message.contains("instances 2 of 2 used")).await;
    tenant.ready("second").await;
    tenant.deletes("first").await;
    the_box.until_gone(&tenant.machines(), "first", SOON).await;
    starts_by_itself(&tenant, "third", "another was gone", Instant::now()).await;
}

async fn open_all(the_box: &TheBox) {
    for host in ["worker-1", "worker-2"] {
        the_box.maintain(host, Maintenance::None).await;
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn without_room_a_machine_waits_with_causes_counted_and_starts_when_there_is_some() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("room").await;
    let _whole = Finally(|| {
        drop(the_box.try_script("site", &["--apply"]));
        drop(the_box.try_script("host", &["start", "worker-2"]));
    });
    // The hosts promise 4Gi each: one machine takes most of one.
    the_box.has_flavour("e2e-half", json!({"cpus": 1, "memory": "2200Mi"})).await;
    tenant.given_farm("farm", json!({})).await;
    let large = json!({"flavour": "e2e-half", "readiness": "None"});

    the_box.maintain("worker-1", Maintenance::Cordon).await;
    the_box
        .until(&the_box.all::<cascina::api::Hypervisor>(), "worker-1", "is closed", SOON, |host| {
            reason(host, "Schedulable").0 == "Cordoned"
        })
        .await;
    tenant.asks_for("first", large.clone()).await;
    let first = tenant.ready("first").await;
    assert_eq!(host_of(&first), "worker-2", "a cordoned host gets nothing new");
    tenant.asks_for("second", large.clone()).await;
    let message = waits(&tenant, "second", "Unschedulable", |_| true).await;
    assert_eq!(message, "0/4 hypervisors: 2 of class Service, 1 cordoned, 1 lacks 2200Mi memory");

    // Two minds about service hosts: closed they count as what they are for this machine, of another class.
    the_box.script("host", &["stop", "worker-2"]);
    let message = waits(&tenant, "second", "Unschedulable", |message| message.contains("unreachable")).await;
    assert_eq!(message, "0/4 hypervisors: 2 of class Service, 1 cordoned, 1 unreachable");

    let begin = Instant::now();
    the_box.maintain("worker-1", Maintenance::None).await;
    let second = starts_by_itself(&tenant, "second", "a host was opened", begin).await;
    assert_eq!(host_of(&second), "worker-1");

    the_box.script("host", &["start", "worker-2"]);
    tenant.asks_for("third", large).await;
    waits(&tenant, "third", "Unschedulable", |message| message.contains("2 lack 2200Mi memory")).await;
    tenant.deletes("second").await;
    the_box.until_gone(&tenant.machines(), "second", SOON).await;
    starts_by_itself(&tenant, "third", "another was gone", Instant::now()).await;
    open_all(&the_box).await;
}
