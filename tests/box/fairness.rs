//! One tenant's load is not another's wait.

use std::time::{Duration, Instant};

use cascina::api::{Phase, VirtualMachine};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::support::soak::{measured, short_or_long};
use crate::support::{SOON, Tenant, TheBox, condition, reason, the_box, the_box_alone};

/// From the creation of a machine until it has its host, whatever else is asked for at the time.
const PLACED_WITHIN: Duration = Duration::from_secs(2);

/// What the operator may have in memory, in KiB.
const MEMORY: u64 = 300 * 1024;

/// Machines of one farm.
const PER_FARM: usize = 250;

/// A size that no host has room for: what is asked for waits, and nothing is started.
const VAST: &str = "e2e-vast";

/// Its phase, which is there as soon as it was looked at.
fn phase(machine: &VirtualMachine) -> Option<Phase> {
    machine.status.as_ref()?.phase
}

fn is_placed(machine: &VirtualMachine) -> bool {
    condition(machine, "Scheduled").is_some_and(|scheduled| scheduled.status == "True")
}

/// Makes a machine, and takes how long it takes to be placed.
async fn placed_after(tenant: &Tenant<'_>, name: &str) -> Duration {
    let begin = Instant::now();
    tenant.asks_for(name, json!({"readiness": "None"})).await;
    while !tenant.machines().get(name).await.is_ok_and(|machine| is_placed(&machine)) {
        assert!(begin.elapsed() < Duration::from_secs(120), "{name} isn't placed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begin.elapsed()
}

async fn leader(the_box: &TheBox) -> (Option<String>, Option<i32>) {
    let leases: Api<Lease> = Api::namespaced(the_box.cluster.client.clone(), "cascina-system");
    let lease = leases.get("cascina-operator").await.unwrap().spec.unwrap();
    (lease.holder_identity, lease.lease_transitions)
}

/// How many of a tenant's machines are there, and how many of them were told that they wait.
async fn told(tenant: &Tenant<'_>) -> (usize, usize) {
    let machines = tenant.machines().list(&Default::default()).await.unwrap().items;
    let waiting = machines.iter().filter(|machine| reason(*machine, "Scheduled").0 == "Unschedulable");
    (machines.len(), waiting.count())
}

/// Makes as many farms as so many machines need, and forgets them with their namespace.
async fn asks_for_thousands(tenant: &Tenant<'_>, machines: usize) {
    for index in 0..machines.div_ceil(PER_FARM) {
        let replicas = PER_FARM.min(machines - index * PER_FARM);
        let group = json!({"name": "nodes", "replicas": replicas, "flavour": VAST, "image": "appliance"});
        tenant.makes("VirtualFarm", farm(&format!("farm-{index}"), json!({"groups": [group]}))).await;
    }
}

fn farm(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
#[ignore = "needs a box"]
async fn while_one_tenants_thousands_are_made_anothers_machine_is_placed_at_once() {
    let the_box = the_box_alone().await;
    let count = short_or_long(300, 5000);
    let (many, one) = (the_box.tenant("many").await, the_box.tenant("one").await);
    the_box.has_flavour(VAST, json!({"cpus": 1, "memory": "1Ti"})).await;
    one.given_farm("farm", json!({})).await;
    one.ready(&one.asks_for("first", json!({"readiness": "None"})).await.name_any()).await;
    one.deletes("first").await;
    let leads = leader(&the_box).await;

    asks_for_thousands(&many, count).await;
    let (begin, mut waits, mut memory) = (Instant::now(), Vec::new(), 0);
    loop {
        let name = format!("probe-{}", waits.len());
        waits.push(placed_after(&one, &name).await);
        one.deletes(&name).await;
        the_box.until_gone(&one.machines(), &name, SOON).await;
        memory = memory.max(the_box.resident_kib());
        if told(&many).await == (count, count) && waits.len() >= 5 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(900), "{:?} of {count} are there and told", told(&many).await);
    }
    waits.sort();
    let fault = format!("{count} machines of another tenant are made");
    measured(&fault, "all there and told after, s", format!("{:.1}", begin.elapsed().as_secs_f64()));
    measured(&fault, "created to placed, median, s", format!("{:.2}", waits[waits.len() / 2].as_secs_f64()));
    measured(&fault, "created to placed, worst, s", format!("{:.2}", waits[waits.len() - 1].as_secs_f64()));
    measured(&fault, "machines asked for beside them", waits.len());
    measured(&fault, "memory of the operator, MiB", memory / 1024);
    assert_eq!(leader(&the_box).await, leads, "the lead stays");
    assert!(waits.iter().all(|wait| *wait <= PLACED_WITHIN), "{waits:?}");
    assert!(memory <= MEMORY, "{} MiB", memory / 1024);
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_farm_makes_what_its_quota_allows_and_says_what_it_holds_back() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("held").await;
    let group = |name: &str| json!({"name": name, "replicas": 253, "flavour": crate::support::SMALL, "image": "appliance", "readiness": "None"});
    let groups = [group("a"), group("b"), group("c")];
    tenant.makes("VirtualFarm", farm("farm", json!({"quota": {"instances": 1}, "groups": groups}))).await;
    let holds_back = |count: i32| {
        move |farm: &cascina::api::VirtualFarm| {
            let told = condition(farm, "HeldBack").is_some_and(|held| held.status == "True");
            told && farm.status.as_ref().is_some_and(|status| status.held_back == Some(count))
        }
    };
    let held = the_box.until(&tenant.farms(), "farm", "holds 758 back", SOON, holds_back(758)).await;
    let (why, message) = reason(&held, "HeldBack");
    assert_eq!(why, "QuotaExceeded");
    assert!(message.starts_with("758 machines are held back until there is room"), "{message}");
    tenant.ready("farm-a-0").await;
    assert_eq!(tenant.machines().list(&Default::default()).await.unwrap().items.len(), 1);
    the_box
        .eventually("an event to tell it", SOON, async || {
            let events = the_box.events(&tenant.namespace, "farm").await;
            let told = events.iter().any(|(reason, _)| reason == "MachinesHeldBack");
            if told { Ok(()) } else { Err(format!("{events:?}")) }
        })
        .await;

    let quota = json!({"spec": {"quota": {"instances": 2}}});
    tenant.farms().patch("farm", &Default::default(), &kube::api::Patch::Merge(quota)).await.unwrap();
    the_box.until(&tenant.farms(), "farm", "holds 757 back", SOON, holds_back(757)).await;
    tenant.until("farm-a-1", "is placed", SOON, is_placed).await;
}

/// Makes machines with much on them that nobody reads, and waits until each was looked at.
async fn asks_for_large_ones(tenant: &Tenant<'_>, names: std::ops::Range<usize>) {
    let count = names.end;
    let (note, keys) = ("x".repeat(250_000), vec!["ssh-rsa AAAAB3NzaC1yc2EA ".repeat(160); 4]);
    for index in names {
        let machine = json!({
            "metadata": {"name": format!("large-{index}"), "annotations": {"example.org/note": note}},
            "spec": {"farm": "none", "flavour": "none", "image": "none", "runStrategy": "Halted", "sshKeys": keys},
        });
        tenant.makes("VirtualMachine", machine).await;
    }
    tenant
        .the_box
        .eventually("all to be seen", SOON, async || {
            let machines = tenant.machines().list(&Default::default()).await.unwrap().items;
            let told = machines.iter().filter(|machine| phase(machine).is_some()).count();
            if told == count { Ok(()) } else { Err(format!("{told} of {count} were")) }
        })
        .await;
}

/// What is read of an object is a small part of it. The first machines show what it takes to read one, which the
/// allocator keeps.
#[tokio::test]
#[ignore = "needs a box"]
async fn large_objects_of_a_tenant_are_small_in_the_operators_memory() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("large").await;
    let (first, count) = short_or_long((40, 100), (100, 300));
    asks_for_large_ones(&tenant, 0..first).await;
    let before = the_box.resident_kib();
    asks_for_large_ones(&tenant, first..count).await;
    let each = the_box.resident_kib().saturating_sub(before) / (count - first) as u64;
    measured(&format!("{count} machines of 266 KB"), "memory of the operator for each, KiB", each);
    assert!(each <= 100, "{each} KiB: most of what was written");
}
