//! What a farm knows of itself, and what the controller has promised but not yet seen written.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;
use tokio::time::Instant;

use super::addresses::Promises;
use super::network::{Claim, Verdict, choose};
use super::rest::Rests;
use super::room::Parts;
use crate::api::{VRouter, VirtualFarm, VirtualMachine};
use crate::controllers::cache::Key;
use crate::controllers::context::Context;
use crate::controllers::ledger::{HOSTS_UNREAD, Ledger, is_member};
use crate::controllers::placement::observe::{key, quota_of};
use crate::controllers::placement::plan::{Amount, Budget, Wait};
use crate::controllers::placement::standing::{held, holds_reservation};
use crate::network::FarmNetwork;

/// What a farm knows of itself, at one moment.
pub struct View {
    /// The farm.
    pub farm: Arc<VirtualFarm>,
    /// The machines that name it, and those of its namespace that have names such as its own have.
    pub machines: Vec<Arc<VirtualMachine>>,
    /// Its network, or why it has none.
    pub network: Verdict,
    /// Addresses promised to its machines.
    pub promised: Promises,
    /// Addresses of its network that hosts have, or may have, and that none of its machines has.
    pub left_behind: BTreeSet<Ipv4Addr>,
    /// What is on hosts isn't known yet: nothing new is given.
    pub hosts_are_unread: bool,
    /// Its quota and what of it is used.
    pub budget: Budget,
    /// What its machines are made from.
    pub parts: Parts,
    /// The router of its name.
    pub router: Option<Arc<VRouter>>,
}

/// What the controller remembers between reconciles. All of it can be found anew; it covers the time in which a write
/// has been sent and its outcome isn't known.
#[derive(Default)]
pub struct Memory {
    /// Networks promised to farms, with the uid of the farm. Held while a network is chosen, so that farms are asked
    /// one after another.
    networks: Mutex<HashMap<Key, (String, FarmNetwork)>>,
    addresses: Mutex<HashMap<Key, Promises>>,
    /// What the role bindings of each farm were last made from, and when.
    pub bindings: Mutex<HashMap<Key, (u64, Instant)>>,
    /// When the status of each farm was last written.
    pub told: Mutex<HashMap<Key, Instant>>,
    /// Which namespaces rest from their dry runs.
    pub rests: Mutex<Rests>,
}

/// Looks at a farm; its network, if it needs one, is promised to it from here on.
pub fn look(context: &Context, memory: &Memory, farm: &Arc<VirtualFarm>) -> View {
    look_with(context, memory, farm, true)
}

/// Looks at a farm and promises nothing: for a dry run.
pub fn look_only(context: &Context, memory: &Memory, farm: &Arc<VirtualFarm>) -> View {
    look_with(context, memory, farm, false)
}

fn look_with(context: &Context, memory: &Memory, farm: &Arc<VirtualFarm>, promising: bool) -> View {
    let farm_key = key(&**farm);
    let machines = machines(context, &farm_key);
    let ledger = Ledger::look(context);
    View {
        network: memory.network(context, farm, &ledger, promising),
        promised: memory.promises(&farm_key, &machines),
        left_behind: left_behind(farm, &machines, &ledger),
        hosts_are_unread: ledger.is_unread(),
        budget: budget(context, farm, &machines, &ledger),
        parts: parts(context, farm, &machines),
        router: context.caches.routers.get(&farm_key.0, &farm_key.1),
        farm: Arc::clone(farm),
        machines,
    }
}

/// Of a namespace with thousands of machines only those that concern the farm: it looks whenever one of them changes.
fn machines(context: &Context, (namespace, farm): &Key) -> Vec<Arc<VirtualMachine>> {
    let caches = &context.caches;
    let mut machines = caches.machines_of(namespace, farm);
    let alike = caches.machines.named(namespace, &format!("{farm}-"));
    machines.extend(alike.into_iter().filter(|machine| machine.spec.farm != *farm));
    machines
}

/// Addresses that none of a farm's machines has, and that are taken all the same: by domains whose objects are gone, by
/// copies that were given up, by machines of another farm that had its name.
fn left_behind(farm: &VirtualFarm, machines: &[Arc<VirtualMachine>], ledger: &Ledger) -> BTreeSet<Ipv4Addr> {
    let (own, others): (Vec<_>, Vec<_>) = machines.iter().partition(|machine| is_member(machine, farm));
    let own: HashSet<_> = own.iter().filter_map(|machine| machine.metadata.uid.as_deref()).collect();
    let on_hosts = ledger.others(|holding| own.contains(holding.uid.as_str())).map(|(_, address)| address);
    let of_objects = others.iter().filter_map(|machine| address_of(machine));
    on_hosts.chain(of_objects).collect()
}

fn address_of(machine: &VirtualMachine) -> Option<Ipv4Addr> {
    machine.status.as_ref()?.address.as_ref()?.parse().ok()
}

/// The networks of machines and domains that aren't a farm's own: while one of them is there nobody gets its network.
fn claims_of_machines(context: &Context, farm: &VirtualFarm, ledger: &Ledger) -> Vec<Claim> {
    let machines = context.caches.machines.list();
    let (own, others): (Vec<_>, Vec<_>) = machines.iter().partition(|machine| is_member(machine, farm));
    let own: HashSet<_> = own.iter().filter_map(|machine| machine.metadata.uid.as_deref()).collect();
    let on_hosts = ledger.others(|holding| own.contains(holding.uid.as_str()));
    let on_hosts = on_hosts.map(|(entry, address)| Claim::of_machine(entry.name(), address));
    let of_object = |machine: &&Arc<VirtualMachine>| {
        let (namespace, name) = key(&***machine);
        Some(Claim::of_machine(format!("machine {namespace}/{name}"), address_of(machine)?))
    };
    others.iter().filter_map(of_object).chain(on_hosts).collect()
}

fn parts(context: &Context, farm: &VirtualFarm, machines: &[Arc<VirtualMachine>]) -> Parts {
    let groups = farm.spec.groups.iter().map(|group| (group.flavour.as_str(), group.image.as_str()));
    let specs = machines.iter().map(|machine| (machine.spec.flavour.as_str(), machine.spec.image.as_str()));
    Parts::of(context, groups.chain(specs))
}

fn budget(context: &Context, farm: &VirtualFarm, machines: &[Arc<VirtualMachine>], ledger: &Ledger) -> Budget {
    let mut budget = Budget {
        farm: key(farm),
        quota: quota_of(farm, context.site().default_quota),
        instances: 0,
        used: Amount::default(),
    };
    let is_counted =
        |machine: &&Arc<VirtualMachine>| machine.spec.farm == farm.name_any() && machine.router().is_none();
    for machine in machines.iter().filter(is_counted) {
        budget.instances += i64::from(holds_reservation(machine));
        budget.used += held(machine);
    }
    for entry in ledger.remains(&context.caches.machines) {
        let of_farm = entry.holding.machine.0 == budget.farm.0 && entry.holding.farm.as_ref() == Some(&budget.farm.1);
        if of_farm && !entry.holding.is_router && !entry.is_off {
            budget.instances += 1;
            budget.used += entry.holding.amount;
        }
    }
    budget
}

impl Memory {
    fn network(&self, context: &Context, farm: &VirtualFarm, ledger: &Ledger, promising: bool) -> Verdict {
        let mut promised = lock(&self.networks);
        // Read while the lock is held: what others were given before is in here or in the promises.
        let farms = context.caches.farms.list();
        promised.retain(|_, (uid, _)| {
            let promised_to = farms.iter().find(|farm| farm.uid().as_ref() == Some(uid));
            promised_to.is_some_and(|farm| Claim::of(farm).held.is_none())
        });
        let own_key = key(farm);
        let promise = |key: &Key| promised.get(key).map(|(_, network)| *network);
        let mut own = Claim::of(farm);
        own.held = own.held.or_else(|| promise(&own_key));
        let others = farms.iter().filter(|other| other.uid() != farm.uid()).map(|other| {
            let claim = Claim::of_other(other);
            Claim { held: claim.held.or_else(|| promise(&claim.farm)), ..claim }
        });
        let mut others: Vec<_> = others.collect();
        if own.is_choosing() && ledger.is_unread() {
            return Err(Wait::new(HOSTS_UNREAD, "every host is looked at once before a network is given"));
        }
        if own.is_choosing() {
            others.extend(claims_of_machines(context, farm, ledger));
        }
        let verdict = choose(&own, &others, context.site().farm_networks);
        if let (true, Ok(network), Some(uid)) = (promising, &verdict, farm.uid()) {
            promised.insert(own_key, (uid, *network));
        }
        verdict
    }

    /// The promises to machines that are there and don't show an address yet.
    fn promises(&self, farm: &Key, machines: &[Arc<VirtualMachine>]) -> Promises {
        let is_bare = |machine: &VirtualMachine| machine.status.as_ref().is_none_or(|status| status.address.is_none());
        let bare: HashSet<_> = machines
            .iter()
            .filter(|machine| is_bare(machine))
            .filter_map(|machine| machine.metadata.uid.as_ref())
            .collect();
        let mut all = lock(&self.addresses);
        let Some(promises) = all.get_mut(farm) else { return BTreeMap::new() };
        promises.retain(|uid, _| bare.contains(uid));
        promises.clone()
    }

    /// Promises an address to a machine before it is written.
    pub fn promise(&self, farm: &Key, machine: &VirtualMachine, address: Ipv4Addr) {
        if let Some(uid) = machine.uid() {
            lock(&self.addresses).entry(farm.clone()).or_default().insert(uid, address);
        }
    }

    /// Forgets a farm that is gone.
    pub fn forget(&self, farm: &Key) {
        lock(&self.networks).remove(farm);
        lock(&self.addresses).remove(farm);
        lock(&self.bindings).remove(farm);
        lock(&self.told).remove(farm);
    }
}

/// Nothing that is kept under these locks is left half-changed by a panic.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
