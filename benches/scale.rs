//! How the operator grows: so many machines on simulated hosts, behind the same port as real ones, in real time.
//!
//! `cargo bench --bench scale [MACHINES…]`; 500, 1000, 2000 and 5000 if none is given. The operator is a process of its
//! own, with the simulated hosts in it; the API server, in memory, is another. A plot goes to the file that
//! `CASCINA_PLOT` names. At the end a host hangs and a machine crashes again and again, and others start.

#[path = "../tests/simulation/apiserver/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod apiserver;
#[path = "../tests/simulation/canary.rs"]
mod canary;
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
#[path = "scale/operator.rs"]
mod operator;
#[path = "scale/plot.rs"]
mod plot;
#[path = "scale/process.rs"]
mod process;
#[path = "../tests/simulation/router.rs"]
mod router;
#[path = "scale/row.rs"]
mod row;
#[path = "../tests/simulation/sharing.rs"]
#[allow(dead_code, reason = "the simulation uses the rest")]
mod sharing;
#[path = "../tests/simulation/world.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod world;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use cascina::api::HypervisorClass;
use cascina::clock::Clock;
use serde_json::json;

use apiserver::{ApiServer, resource};
use datacentre::{Datacentre, ours};
use faults::{Call, Faults, Odds};
use operator::Operator;
use process::Usage;
use row::Row;

/// The operator's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Machines on one host.
const PER_HOST: usize = 25;

/// Machines of one farm.
const PER_FARM: usize = 250;

/// How long the steady state is watched.
const STEADY: Duration = Duration::from_secs(60);

/// Machines that start beside trouble.
const BESIDE_TROUBLE: usize = 500;

/// Machines of one tenant beside which another asks for one.
const NEIGHBOURS: usize = 5000;

/// Where there is trouble.
struct Trouble {
    host: &'static str,
    machine: &'static str,
}

const TROUBLED: Trouble = Trouble { host: "host-0", machine: "crasher" };

fn main() {
    operator::be_one();
    let given: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if given.is_empty() { vec![500, 1000, 2000, 5000] } else { given };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("{}", row::HEAD);
    let mut rows = Vec::new();
    for machines in sizes {
        let row = runtime.block_on(grow(machines));
        println!("{}", row.line());
        rows.push(row);
    }
    println!();
    rows.iter().for_each(|row| println!("{}", row.rest()));
    if let Some(path) = std::env::var_os("CASCINA_PLOT") {
        std::fs::write(&path, plot::plot(&rows)).unwrap();
    }
    for (flavour, does) in [("small", "start"), ("vast", "can only wait")] {
        let beside = runtime.block_on(beside_a_neighbour(flavour));
        println!("\nWhile {NEIGHBOURS} machines of another tenant {does}: {beside}");
    }
    let [calm, troubled] = [false, true].map(|trouble| runtime.block_on(beside(trouble)));
    println!(
        "\n{BESIDE_TROUBLE} machines Ready after {calm:.1} s; beside a host that hangs and a machine that crashes every second after {troubled:.1} s: ratio {:.2}",
        troubled / calm
    );
}

fn hosts(machines: usize) -> usize {
    machines.div_ceil(PER_HOST)
}

/// An API server with hosts and tenants, and an operator.
struct Stage {
    api: ApiServer,
    faults: Arc<Faults>,
    operator: Operator,
    listening: tokio::task::JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Stage {
    /// Hosts are read and have their images.
    async fn set(machines: usize) -> Self {
        let Datacentre { store, now, .. } = site(machines);
        let api = ApiServer::new(store, Clock::simulated(now));
        let faults = Arc::new(Faults::new(0, None, Odds::default()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = router(&api, &faults);
        let listening = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let operator = Operator::start(&url, machines);
        let stage = Self { api, faults, operator, listening };
        until(|| stage.is_open()).await;
        stage
    }

    fn create_farm(&self, namespace: &str, farm: &str, group: &str, replicas: usize) {
        let group = json!({"name": group, "replicas": replicas, "flavour": "small", "image": "one"});
        let farm = json!({"metadata": {"name": farm}, "spec": {"groups": [group]}});
        self.api.with(|store, now| store.create(&ours("virtualfarms"), namespace, farm, "bench", now)).unwrap();
    }

    /// Whether every host takes machines of every image.
    fn is_open(&self) -> bool {
        let all = |plural: &str, path: &str, wanted: &str| {
            let objects = self.api.with(|store, _| store.list(&ours(plural), ""));
            objects.iter().all(|object| object.pointer(path).is_some_and(|value| value == wanted))
        };
        let hosts = self.api.with(|store, _| store.list(&ours("hypervisors"), "")).len();
        all("hypervisors", "/status/phase", "Ready") && all("images", "/status/ready", &format!("{hosts}/{hosts}"))
    }

    fn ready(&self) -> usize {
        let machines = self.api.with(|store, _| store.list(&ours("virtualmachines"), ""));
        machines.iter().filter(|machine| machine["status"]["phase"] == "Running").count()
    }
}

/// The API server for clients in other processes.
fn router(api: &ApiServer, faults: &Arc<Faults>) -> Router {
    let (api, faults) = (api.clone(), Arc::clone(faults));
    Router::new().fallback_service(tower::service_fn(move |request: Request<Body>| {
        let (api, faults) = (api.clone(), Arc::clone(&faults));
        async move { Ok::<_, Infallible>(api.serve(request, &faults).await.unwrap()) }
    }))
}

async fn grow(machines: usize) -> Row {
    let stage = Stage::set(machines).await;
    let own = || Usage::of(std::process::id()).cpu;
    let (begin, cpu, server_cpu) = (Instant::now(), stage.operator.usage().cpu, own());
    let (kubernetes, libvirt) = (stage.faults.calls(), stage.operator.report().calls);
    for index in 0..machines.div_ceil(PER_FARM) {
        stage.create_farm(&format!("tenant-{index}"), "farm", "nodes", PER_FARM.min(machines - index * PER_FARM));
    }
    until(|| stage.operator.report().running >= machines).await;
    let started = begin.elapsed().as_secs_f64();
    until(|| stage.ready() >= machines).await;
    let ready = begin.elapsed().as_secs_f64();
    let (cpu, server_cpu) = (stage.operator.usage().cpu - cpu, own() - server_cpu);
    let each = |count: u64| count as f64 / machines as f64;
    let (kubernetes, libvirt) =
        (each(stage.faults.calls() - kubernetes), each(stage.operator.report().calls - libvirt));
    // What comes with the last phase, and the garbage of the start.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (calm, calls, report) = (stage.operator.usage(), stage.faults.by_call(), stage.operator.report());
    tokio::time::sleep(STEADY).await;
    let usage = stage.operator.usage();
    let heartbeats = STEADY.as_secs_f64() / 5.0 * hosts(machines) as f64;
    Row {
        machines,
        started,
        ready,
        cpu,
        server_cpu,
        kubernetes,
        libvirt,
        steady_cpu: (usage.cpu - calm.cpu) / STEADY.as_secs_f64() * 100.0,
        steady_kubernetes: since(&calls, stage.faults.by_call()),
        surveys: (stage.operator.report().surveys - report.surveys) as f64 / heartbeats,
        memory: usage.memory,
    }
}

/// What came to these counts.
fn since(before: &BTreeMap<Call, u64>, mut now: BTreeMap<Call, u64>) -> BTreeMap<Call, u64> {
    now.iter_mut().for_each(|(call, count)| *count -= before.get(call).copied().unwrap_or_default());
    now.retain(|_, count| *count > 0);
    now
}

/// How long machines take to be Ready, with and without trouble beside them.
async fn beside(trouble: bool) -> f64 {
    let mut stage = Stage::set(BESIDE_TROUBLE * 2).await;
    stage.create_farm("tenant-0", "farm", TROUBLED.machine, 1);
    until(|| stage.ready() >= 1).await;
    if trouble {
        stage.operator.trouble();
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    let begin = Instant::now();
    for index in 1..=BESIDE_TROUBLE / PER_FARM {
        stage.create_farm(&format!("tenant-{index}"), "farm", "nodes", PER_FARM);
    }
    let ready = || {
        let machines = stage.api.with(|store, _| store.list(&ours("virtualmachines"), ""));
        let well = machines.iter().filter(|machine| machine["metadata"]["name"] != "farm-crasher-0");
        well.filter(|machine| machine["status"]["phase"] == "Running").count()
    };
    until(|| ready() >= BESIDE_TROUBLE).await;
    begin.elapsed().as_secs_f64()
}

/// How long machines of one tenant take to be placed while another tenant's thousands are made in one namespace.
async fn beside_a_neighbour(flavour: &str) -> String {
    let stage = Stage::set(NEIGHBOURS).await;
    let create = |plural: &str, namespace: &str, object| {
        stage.api.with(|store, now| store.create(&ours(plural), namespace, object, "bench", now)).unwrap();
    };
    create("flavours", "", json!({"metadata": {"name": "vast"}, "spec": {"cpus": 1, "memory": "1Pi"}}));
    stage.create_farm("tenant-1", "farm", "nodes", 1);
    until(|| stage.ready() >= 1).await;
    for index in 0..NEIGHBOURS / PER_FARM {
        let group = json!({"name": "nodes", "replicas": PER_FARM, "flavour": flavour, "image": "one"});
        let farm = json!({"metadata": {"name": format!("farm-{index}")}, "spec": {"groups": [group]}});
        create("virtualfarms", "tenant-0", farm);
    }
    // Whether it is placed, or was told that it waits.
    let is_decided = |machine: &serde_json::Value, status: &str| {
        let conditions = machine["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|one| one["type"] == "Scheduled" && one["status"] == status)
    };
    let (begin, mut waits) = (Instant::now(), Vec::new());
    loop {
        let name = format!("one-{}", waits.len());
        let spec = json!({"farm": "farm", "flavour": "small", "image": "one"});
        let asked = Instant::now();
        create("virtualmachines", "tenant-1", json!({"metadata": {"name": name}, "spec": spec}));
        let placed = || {
            let machine = stage.api.with(|store, _| store.get(&ours("virtualmachines"), "tenant-1", &name));
            machine.is_some_and(|machine| is_decided(&machine, "True"))
        };
        while !placed() {
            assert!(asked.elapsed() < Duration::from_secs(600), "not placed in ten minutes");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        waits.push(asked.elapsed().as_secs_f64());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let machines = stage.api.with(|store, _| store.list(&ours("virtualmachines"), "tenant-0"));
        let wanted = if flavour == "vast" { "False" } else { "True" };
        if machines.iter().filter(|machine| is_decided(machine, wanted)).count() >= NEIGHBOURS {
            break;
        }
    }
    waits.sort_by(f64::total_cmp);
    format!(
        "created to placed {:.2} s, at worst {:.2} s, {} times until all were told after {:.1} s; memory {:.0} MiB",
        waits[waits.len() / 2],
        waits[waits.len() - 1],
        waits.len(),
        begin.elapsed().as_secs_f64(),
        stage.operator.usage().memory,
    )
}

/// Hosts and tenants for so many machines.
pub fn site(machines: usize) -> Datacentre {
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

/// Waits; what takes longer than ten minutes won't come.
async fn until(reached: impl Fn() -> bool) {
    let begin = Instant::now();
    while !reached() {
        assert!(begin.elapsed() < Duration::from_secs(600), "not reached in ten minutes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
