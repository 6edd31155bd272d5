//! The operator as a process of its own, with the simulated hosts in it, beside an API server in another.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cascina::api::ImageSpec;
use cascina::images::volumes_of;
use cascina::libvirt::DomainRun;
use kube::{Client, Config};
use serde::{Deserialize, Serialize};

use crate::datacentre::Live;
use crate::faults::{Faults, Odds};
use crate::images::images;
use crate::process::Usage;
use crate::world::World;
use crate::{TROUBLED, site};

/// The word by which a process is told to be the operator.
const ROLE: &str = "operator";

/// How often it tells how things stand.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How things stand on the hosts.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Domains that run.
    pub running: usize,
    /// Calls to hosts.
    pub calls: u64,
    /// Surveys among them.
    pub surveys: u64,
}

/// A process that is the operator; it ends with this.
pub struct Operator {
    process: Child,
    orders: ChildStdin,
    last: Arc<Mutex<Report>>,
}

impl Operator {
    /// Starts it, for so many machines.
    pub fn start(url: &str, machines: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([ROLE, url, &machines.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (orders, lines) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()).lines());
        let last = Arc::<Mutex<Report>>::default();
        let told = Arc::clone(&last);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *told.lock().unwrap() = serde_json::from_str(&line).unwrap();
            }
        });
        Self { process, orders, last }
    }

    /// How things stand.
    pub fn report(&self) -> Report {
        *self.last.lock().unwrap()
    }

    /// What it has used.
    pub fn usage(&self) -> Usage {
        Usage::of(self.process.id())
    }

    /// From now on a host hangs, and guests of a certain name crash.
    pub fn trouble(&mut self) {
        writeln!(self.orders, "trouble").unwrap();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Is the operator, if this process was told to be. Never ends by itself, but with the one that started it.
pub fn be_one() {
    let given: Vec<_> = std::env::args().skip(1).collect();
    let [role, url, machines] = given.as_slice() else { return };
    if role != ROLE {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(operate(url, machines.parse().unwrap()));
}

async fn operate(url: &str, machines: usize) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let live = site(machines).wake();
    live.world(stock);
    let faults = Arc::new(Faults::new(0, None, Odds::default()));
    let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
    let ordered = live.clone();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lines().map_while(Result::ok) {
            ordered.world(|world| {
                world.host(TROUBLED.host).hung = true;
                world.guests.crash = Some((TROUBLED.machine.into(), Duration::from_secs(1)));
            });
        }
        // Nobody is there any more.
        std::process::exit(0);
    });
    tokio::spawn(live.clone().operate_through(client, Arc::clone(&faults)));
    loop {
        println!("{}", serde_json::to_string(&report(&live, &faults)).unwrap());
        tokio::time::sleep(TELL_EVERY).await;
    }
}

/// Images are there already: how long copies take says nothing of the operator.
fn stock(world: &mut World) {
    for image in ["one", "two"] {
        let spec: ImageSpec = serde_json::from_value(images().spec(image)).unwrap();
        for volume in volumes_of(&spec).unwrap().iter() {
            world.pools.values_mut().for_each(|pool| drop(pool.volumes.insert(volume.name.clone(), None)));
        }
    }
}

fn report(live: &Live, faults: &Faults) -> Report {
    live.world(|world| {
        let domains = world.hosts.values().flat_map(|host| host.domains.values());
        Report {
            running: domains.filter(|domain| domain.run == DomainRun::Running).count(),
            calls: faults.calls(),
            surveys: world.surveys.values().sum(),
        }
    })
}
