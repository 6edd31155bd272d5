//! Machines are made, halted, started, resized and deleted all the time, and the operator is killed at random moments.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cascina::api::{Phase, VirtualMachine};
use fastrand::Rng;
use kube::ResourceExt;
use serde_json::json;

use super::one_of_many;
use crate::support::census::NeverTwice;
use crate::support::soak::{dice, measured, short_or_long, since};
use crate::support::{SMALL, Tenant, is_ready, reason, the_box_alone};

/// All of them have come to rest within this time after the last request.
const QUIET: Duration = Duration::from_secs(240);

/// Another size.
const LARGER: &str = "e2e-larger";

/// The machines that there shall be, and whether they shall run.
type Wanted = BTreeMap<String, bool>;

/// One random request.
async fn request(tenant: &Tenant<'_>, dice: &mut Rng, names: &[String], wanted: &mut Wanted) {
    let index = dice.usize(..names.len());
    let name = &names[index];
    let Some(runs) = wanted.get(name).copied() else {
        // One of that name may still be on its way out.
        if tenant.machines().get_opt(name).await.unwrap().is_none() {
            tenant.asks_for(name, one_of_many(index)).await;
            wanted.insert(name.clone(), true);
        }
        return;
    };
    match dice.u32(..4) {
        0 => {
            tenant.deletes(name).await;
            wanted.remove(name);
        }
        1 => {
            let flavour = if dice.bool() { SMALL } else { LARGER };
            tenant.changes(name, json!({"flavour": flavour})).await;
        }
        _ => {
            let strategy = if runs { "Halted" } else { "Always" };
            tenant.changes(name, json!({"runStrategy": strategy})).await;
            wanted.insert(name.clone(), !runs);
        }
    }
}

fn has_come_to_rest(machine: &VirtualMachine, runs: bool) -> bool {
    let phase = machine.status.as_ref().and_then(|status| status.phase);
    // One that was halted before it ever had a host never ran, so it can't have stopped.
    let is_off = matches!(phase, Some(Phase::Stopped | Phase::Pending)) && reason(machine, "Ready").0 == "Halted";
    if runs { is_ready(machine) && phase == Some(Phase::Running) } else { is_off }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn killed_at_random_the_operator_loses_doubles_and_leaves_nothing() {
    let the_box = the_box_alone().await;
    let (kills, count) = short_or_long((8, 6), (50, 20));
    let fault = format!("operator killed -9 {kills} times during a churn of {count} machines");
    let mut dice = dice(&fault);
    let tenant = the_box.tenant("churn").await;
    tenant.given_farm("farm", json!({})).await;
    the_box.has_flavour(LARGER, json!({"cpus": 1, "memory": "208Mi"})).await;
    let names: Vec<_> = (0..count).map(|index| format!("guest-{index}")).collect();
    let never_twice = NeverTwice::watch();
    let (mut wanted, mut requests, begin) = (Wanted::new(), 0, Instant::now());
    for _ in 0..kills {
        // A few requests at random distances, then the blow: sometimes at once, sometimes when most is done.
        for _ in 0..dice.u32(1..=5) {
            request(&tenant, &mut dice, &names, &mut wanted).await;
            requests += 1;
            tokio::time::sleep(Duration::from_millis(dice.u64(..300))).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.u64(..1500))).await;
        the_box.script("operator", &["kill9"]);
        the_box.script("operator", &["start"]);
    }
    measured(&fault, "requests", requests);
    measured(&fault, "took", since(begin));

    let last = Instant::now();
    for name in &names {
        match wanted.get(name) {
            Some(runs) => {
                let what = if *runs { "runs in the end" } else { "is off in the end" };
                tenant.until(name, what, QUIET, |machine| has_come_to_rest(machine, *runs)).await;
            }
            None => the_box.until_gone(&tenant.machines(), name, QUIET).await,
        }
    }
    measured(&fault, "all at rest after the last kill", since(last));
    let left: Vec<_> = tenant.machines().list(&Default::default()).await.unwrap().items;
    let left: Vec<_> = left.iter().map(ResourceExt::name_any).collect();
    assert_eq!(left, wanted.into_keys().collect::<Vec<_>>());
    the_box.all_is_accounted_for().await;
    never_twice.holds();
}
