//! How the operator grows: so many machines on simulated hosts, an API server in memory, real time.
//!
//! `cargo bench --bench scale [MACHINES…]`; 500, 1000, 2000 and 5000 if none is given. The API server and the hosts run in
//! the same process, so CPU and memory are upper bounds. A plot goes to the file that `CASCINA_PLOT` names.

#[path = "../tests/simulation/apiserver/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod apiserver;
#[path = "../tests/simulation/datacentre.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod datacentre;
#[path = "../tests/simulation/faults.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod faults;
#[path = "../tests/simulation/host.rs"]
mod host;
#[path = "../tests/simulation/images.rs"]
mod images;
#[path = "../tests/simulation/invariants.rs"]
mod invariants;
#[path = "scale/plot.rs"]
mod plot;
#[path = "scale/process.rs"]
mod process;
#[path = "../tests/simulation/world.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cascina::api::HypervisorClass;
use serde_json::json;

use apiserver::resource;
use datacentre::{Datacentre, Live, ours};
use faults::{Faults, Odds};
use process::Usage;

/// Machines on one host.
const PER_HOST: usize = 25;

/// Machines of one farm.
const PER_FARM: usize = 250;

/// How long the steady state is watched.
const STEADY: Duration = Duration::from_secs(60);

/// What one size came to.
pub struct Row {
    /// Machines.
    pub machines: usize,
    /// Seconds until every domain ran.
    pub started: f64,
    /// Seconds until every machine was Ready.
    pub ready: f64,
    /// Seconds of CPU until then.
    pub cpu: f64,
    /// Calls to the API server for each machine until then.
    pub kubernetes: f64,
    /// Calls to hosts for each machine until then.
    pub libvirt: f64,
    /// Percent of a core in the steady state.
    pub steady_cpu: f64,
    /// Surveys for each host and heartbeat in the steady state.
    pub surveys: f64,
    /// MiB.
    pub memory: f64,
}

fn main() {
    let given: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if given.is_empty() { vec![500, 1000, 2000, 5000] } else { given };
    println!(
        "| machines | hosts | all started | all Ready | CPU | API calls | host calls | steady CPU | surveys | memory |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut rows = Vec::new();
    for machines in sizes {
        let row = measure(machines);
        println!(
            "| {machines} | {} | {:.1} s | {:.1} s | {:.1} s | {:.1} | {:.1} | {:.1} % | {:.2} | {:.0} MiB |",
            hosts(machines),
            row.started,
            row.ready,
            row.cpu,
            row.kubernetes,
            row.libvirt,
            row.steady_cpu,
            row.surveys,
            row.memory,
        );
        rows.push(row);
    }
    if let Some(path) = std::env::var_os("CASCINA_PLOT") {
        std::fs::write(&path, plot::plot(&rows)).unwrap();
    }
}

fn hosts(machines: usize) -> usize {
    machines.div_ceil(PER_HOST)
}

fn measure(machines: usize) -> Row {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let row = runtime.block_on(grow(machines));
    runtime.shutdown_background();
    row
}

async fn grow(machines: usize) -> Row {
    let live = site(machines).wake();
    let faults = Arc::new(Faults::new(0, None, Odds::default()));
    tokio::spawn(live.clone().operate(Arc::clone(&faults)));
    // Hosts are read and get their images first.
    until(|| {
        live.world(|world| world.pools.values().filter(|pool| pool.volumes.len() >= 2).count() >= hosts(machines))
    })
    .await;
    let (begin, before, calls) = (Instant::now(), Usage::now(), counts(&faults));
    create_farms(&live, machines);
    until(|| live.world(|world| running(world)) >= machines).await;
    let started = begin.elapsed().as_secs_f64();
    until(|| ready(&live) >= machines).await;
    let (ready, cpu, after) = (begin.elapsed().as_secs_f64(), Usage::now().cpu - before.cpu, counts(&faults));
    // What comes with the last phase, and the garbage of the start.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let surveys = |live: &Live| live.world(|world| world.surveys.values().sum::<u64>());
    let (calm, surveyed) = (Usage::now(), surveys(&live));
    tokio::time::sleep(STEADY).await;
    let usage = Usage::now();
    let heartbeats = STEADY.as_secs_f64() / 5.0 * hosts(machines) as f64;
    let each = |count: u64| count as f64 / machines as f64;
    Row {
        machines,
        started,
        ready,
        cpu,
        kubernetes: each(after.0 - calls.0),
        libvirt: each(after.1 - calls.1),
        steady_cpu: (usage.cpu - calm.cpu) / STEADY.as_secs_f64() * 100.0,
        surveys: (surveys(&live) - surveyed) as f64 / heartbeats,
        memory: usage.memory,
    }
}

fn site(machines: usize) -> Datacentre {
    let mut site = Datacentre::new();
    for index in 0..hosts(machines) {
        let name = format!("host-{index}");
        site.add_host(&name, HypervisorClass::Worker, &name);
    }
    for index in 0..machines.div_ceil(PER_FARM) {
        let namespace = json!({"metadata": {"name": format!("tenant-{index}")}});
        site.store.create(&resource("", "namespaces"), "", namespace, "bench", site.now).unwrap();
    }
    site
}

fn create_farms(live: &Live, machines: usize) {
    for index in 0..machines.div_ceil(PER_FARM) {
        let replicas = PER_FARM.min(machines - index * PER_FARM);
        let group = json!({"name": "nodes", "replicas": replicas, "flavour": "small", "image": "one"});
        let farm = json!({"metadata": {"name": "farm"}, "spec": {"groups": [group]}});
        let namespace = format!("tenant-{index}");
        live.api.with(|store, now| store.create(&ours("virtualfarms"), &namespace, farm, "bench", now)).unwrap();
    }
}

fn running(world: &world::World) -> usize {
    let domains = world.hosts.values().flat_map(|host| host.domains.values());
    domains.filter(|domain| world::is_active(domain.run)).count()
}

fn ready(live: &Live) -> usize {
    let machines = live.api.with(|store, _| store.list(&ours("virtualmachines"), ""));
    machines.iter().filter(|machine| machine["status"]["phase"] == "Running").count()
}

/// Calls to the API server and to hosts.
fn counts(faults: &Faults) -> (u64, u64) {
    let by_call = faults.by_call();
    let of = |libvirt: bool| {
        by_call.iter().filter(|(call, _)| call.0.starts_with("libvirt") == libvirt).map(|(_, count)| count).sum()
    };
    (of(false), of(true))
}

/// Waits; what takes longer than ten minutes won't come.
async fn until(reached: impl Fn() -> bool) {
    let begin = Instant::now();
    while !reached() {
        assert!(begin.elapsed() < Duration::from_secs(600), "not reached in ten minutes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
