//! How long a machine takes and what it costs, beside what libvirt alone takes: in a running box, in one run.
//!
//! `make bench`, or `. .box/env; cargo bench --bench box [MACHINES]`. The floor does with `virsh` exactly what the
//! operator does for a machine, on the same hosts, with the operator's own domain definition and seed. Numbers are for
//! reading, nothing is asserted: the box is emulated and its cores are shared.

#[path = "../tests/support/cluster.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod cluster;
#[path = "box/floor.rs"]
mod floor;
#[path = "box/operator.rs"]
mod operator;
#[path = "../tests/box/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
mod support;
#[path = "../tests/support/turn.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod turn;

use std::time::{Duration, Instant};

use cascina::api::{Hypervisor, VirtualMachine};
use futures::future::join_all;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use operator::{Cost, Idle};
use support::libvirt::host_of;
use support::{Finally, HOSTS, Tenant, TheBox, is_ready, the_box_alone};

/// One machine is measured so often; the median counts.
const SINGLES: usize = 3;

#[tokio::main]
async fn main() {
    let swarm = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(20);
    let the_box = the_box_alone().await;
    // The workers promise eight CPUs each, too few for a swarm on emulated hosts that hardly use theirs.
    set_overcommit(&the_box, json!({"cpu": 4})).await;
    let _as_before = Finally(|| {
        for host in HOSTS {
            let none = r#"{"spec":{"overcommit":null}}"#;
            the_box.cluster.run("kubectl", &["patch", "hypervisor", host, "--type=merge", "-p", none]);
        }
    });
    let idle = operator::idle(&the_box).await;
    let tenant = the_box.tenant("bench").await;
    // The first machine fills caches on all sides and is the model for the floor.
    let model = tenant.given_machine("model", json!({})).await;
    let floor = floor::Floor::of(&the_box, &model);

    let mut singles = (Vec::new(), Vec::new());
    let mut cost = Cost::default();
    for round in 0..SINGLES {
        let before = Cost::now(&the_box).await;
        singles.0.push(create(&tenant, &[format!("single-{round}")]).await.last);
        cost = Cost::now(&the_box).await.since(&before);
        remove_all_but_model(&tenant).await;
        singles.1.push(floor.create(1).last);
    }
    let before = Cost::now(&the_box).await;
    let names: Vec<_> = (0..swarm).map(|index| format!("swarm-{index}")).collect();
    let ours = create(&tenant, &names).await;
    let swarm_cost = Cost::now(&the_box).await.since(&before);
    let busy = operator::idle(&the_box).await;
    remove_all_but_model(&tenant).await;
    let plain = floor.create(swarm);

    println!("\n{:<44} {:>9} {:>9} {:>7}", "create → guest answers, seconds", "Cascina", "virsh", "ratio");
    row(&format!("1 machine, median of {SINGLES}"), median(&mut singles.0), median(&mut singles.1));
    row(&format!("{swarm} machines, the first"), ours.first, plain.first);
    row(&format!("{swarm} machines, the last"), ours.last, plain.last);
    println!("\n{:<44} {:>9} {:>9}", "per machine start", "1", swarm);
    let both = [(&cost, 1.0), (&swarm_cost, swarm as f64)];
    counts("writes to the API server (KubeVirt: ~8.5)", both.map(|(cost, machines)| cost.writes / machines));
    counts("  of these finalizers and objects", both.map(|(cost, machines)| cost.other_writes / machines));
    counts("events", both.map(|(cost, machines)| cost.events / machines));
    counts("libvirt calls that make it", both.map(|(cost, machines)| cost.making / machines));
    counts("libvirt calls that watch it boot", both.map(|(cost, machines)| cost.watching / machines));
    println!("\n{:<44} {:>9} {:>9}", "the operator at rest", "0", swarm + 1);
    println!("{:<44} {:>9.1} {:>9.1}", "RSS, MiB", idle.rss_mib, busy.rss_mib);
    println!("{:<44} {:>9.2} {:>9.2}", "CPU, % of a core", idle.cpu_percent, busy.cpu_percent);
    println!("\n{}", Idle::build(&the_box));
}

fn row(what: &str, ours: Duration, plain: Duration) {
    let (ours, plain) = (ours.as_secs_f64(), plain.as_secs_f64());
    println!("{what:<44} {ours:>9.2} {plain:>9.2} {:>7.2}", ours / plain);
}

fn counts(what: &str, per_machine: [f64; 2]) {
    println!("{what:<44} {:>9.1} {:>9.1}", per_machine[0], per_machine[1]);
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// From the first request to the first and the last guest that answered.
pub struct Times {
    first: Duration,
    last: Duration,
}

async fn create(tenant: &Tenant<'_>, names: &[String]) -> Times {
    let begin = Instant::now();
    join_all(names.iter().map(|name| tenant.asks_for(name, json!({})))).await;
    let machines = tenant.machines();
    let mut first = None;
    loop {
        let all: Vec<VirtualMachine> = machines.list(&Default::default()).await.unwrap().items;
        let ready = all.iter().filter(|machine| names.contains(&machine.name_any()) && is_ready(machine)).count();
        if ready > 0 {
            first = first.or(Some(begin.elapsed()));
        }
        if ready == names.len() {
            return Times { first: first.unwrap_or_default(), last: begin.elapsed() };
        }
        assert!(begin.elapsed() < Duration::from_secs(900), "only {ready} of {} are Ready", names.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn remove_all_but_model(tenant: &Tenant<'_>) {
    let machines = tenant.machines();
    let all: Vec<VirtualMachine> = machines.list(&Default::default()).await.unwrap().items;
    for machine in all.iter().filter(|machine| machine.name_any() != "model") {
        tenant.deletes(&machine.name_any()).await;
    }
    for machine in all.iter().filter(|machine| machine.name_any() != "model") {
        tenant.the_box.until_gone(&machines, &machine.name_any(), Duration::from_secs(120)).await;
    }
}

async fn set_overcommit(the_box: &TheBox, ratios: serde_json::Value) {
    let hosts = the_box.all::<Hypervisor>();
    for host in HOSTS {
        let patch = json!({"spec": {"overcommit": ratios}});
        hosts.patch(host, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
}

/// The hosts that the floor uses: those that the operator chose from.
pub const WORKERS: [&str; 2] = ["worker-1", "worker-2"];

/// Where the model runs.
pub fn home(model: &VirtualMachine) -> String {
    host_of(model)
}
