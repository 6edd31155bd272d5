//! Everything on all hosts against all objects: is something lost, there twice, or left behind?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cascina::api::{Phase, VirtualMachine};
use cascina::libvirt::POOL_MARK;
use cascina::network::RuleSet;
use kube::ResourceExt;

use super::{HOSTS, SOON, TheBox};

impl TheBox {
    /// Waits until hosts and objects agree: each machine that runs has one domain that runs, on its host; no domain, no
    /// volume and no filter is there that belongs to nobody.
    #[track_caller]
    pub fn all_is_accounted_for(&self) -> impl Future<Output = ()> {
        self.eventually("hosts and objects to agree", SOON, async || {
            let wrong = self.discrepancies().await;
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
        })
    }

    async fn discrepancies(&self) -> Vec<String> {
        let machines: Vec<VirtualMachine> = self.all().list(&Default::default()).await.unwrap().items;
        let machines: BTreeMap<_, _> = machines.into_iter().map(|machine| (machine.uid().unwrap(), machine)).collect();
        let running = running_guests();
        let mut wrong = Vec::new();
        for (uid, machine) in &machines {
            let runs = machine.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Running));
            let count = running.get(uid).copied().unwrap_or_default();
            if runs && count != 1 {
                wrong.push(format!("{} is Running and {count} QEMUs run it", machine.name_any()));
            }
        }
        let filters: BTreeSet<_> = RuleSet::ALL.into_iter().map(RuleSet::filter_name).collect();
        for host in HOSTS {
            let is_here = |uid: &str| {
                let status = machines.get(uid).and_then(|machine| machine.status.as_ref());
                status.is_some_and(|status| status.hypervisor.as_deref() == Some(host))
            };
            let domains = self.domains(host).into_iter().filter(|uid| !is_here(uid));
            wrong.extend(domains.map(|uid| format!("{host} has a domain {uid} of no machine there")));
            let is_ours = |volume: &str| {
                let of_the_host = volume.starts_with("img-") || volume.starts_with(POOL_MARK);
                of_the_host || machines.keys().any(|uid| volume.starts_with(uid))
            };
            let is_unfinished = |volume: &str| volume.ends_with(".incomplete");
            let volumes = self.volumes(host).into_iter();
            let volumes = volumes.filter(|name| is_unfinished(name) || !is_ours(name));
            wrong.extend(volumes.map(|volume| format!("{host} has a volume {volume} of nobody")));
            let strange = self.filters(host).into_iter().filter(|name| !filters.contains(name));
            wrong.extend(strange.map(|filter| format!("{host} has a filter {filter} of no rule set")));
        }
        wrong
    }
}

/// How many QEMUs run each machine, over all hosts: their processes are processes of this machine.
fn running_guests() -> BTreeMap<String, usize> {
    let mut guests = BTreeMap::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(command) = std::fs::read_to_string(process.path().join("cmdline")) else { continue };
        // The program too: a fork that is yet to become QEMU, or a shell that mentions it, runs nothing.
        let mut words = command.split('\0');
        if !words.next().is_some_and(|program| program.contains("qemu-system")) {
            continue;
        }
        let uid = words.find_map(|word| word.strip_prefix("guest=casc-")?.split(',').next());
        if let Some(uid) = uid {
            *guests.entry(uid.to_owned()).or_default() += 1;
        }
    }
    guests
}

/// Looks all the time whether a machine runs twice.
pub struct NeverTwice {
    ended: Arc<AtomicBool>,
    watching: Option<JoinHandle<BTreeSet<String>>>,
}

impl NeverTwice {
    /// Begins to look.
    pub fn watch() -> Self {
        let ended = Arc::<AtomicBool>::default();
        let until = Arc::clone(&ended);
        let watching = std::thread::spawn(move || {
            let mut doubled = BTreeSet::new();
            while !until.load(Ordering::Relaxed) {
                doubled.extend(running_guests().into_iter().filter(|(_, count)| *count > 1).map(|(uid, _)| uid));
                std::thread::sleep(Duration::from_millis(100));
            }
            doubled
        });
        Self { ended, watching: Some(watching) }
    }

    /// Ends with a look at what was seen.
    pub fn holds(mut self) {
        let doubled = self.end();
        assert!(doubled.is_empty(), "these machines ran twice at the same time: {doubled:?}");
    }

    fn end(&mut self) -> BTreeSet<String> {
        self.ended.store(true, Ordering::Relaxed);
        self.watching.take().map(|watching| watching.join().unwrap()).unwrap_or_default()
    }
}

impl Drop for NeverTwice {
    fn drop(&mut self) {
        self.end();
    }
}
