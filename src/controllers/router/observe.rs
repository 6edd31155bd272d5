//! What there is of a router: its objects, the machine that it is, and what that was last heard to do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::addresses::{Addresses, Claim, Others, choose};
use super::desired::{Desired, Ingredients, desired};
use super::keys;
use super::peers::{Neighbour, consents};
use super::plan::machine_name;
use super::status::ADDRESS_SHARE;
use super::talk::Heard;
use crate::api::conditions::is_true;
use crate::api::site::Site;
use crate::api::{FarmRef, VRouter, VRouterStatus, VirtualFarm, VirtualMachine};
use crate::controllers::cache::Key;
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::hypervisor::loss::FENCED;
use crate::controllers::placement::observe::{is_router_to_be, key};
use crate::controllers::placement::plan::Wait;
use crate::controllers::writes::apply_status_unless_changed;
use crate::network::FarmNetwork;
use crate::network::router::{Hash, PrivateKey};

/// What was seen of a router.
pub struct View {
    /// The router.
    pub router: Arc<VRouter>,
    /// Its farm.
    pub farm: Option<Arc<VirtualFarm>>,
    /// What the site says.
    pub site: Arc<Site>,
    /// The machine of the name that its own has.
    pub machine: Option<Arc<VirtualMachine>>,
    /// Its public addresses.
    pub addresses: Addresses,
    /// What it is to do, or why nobody can tell.
    pub desired: Result<Desired, Wait>,
    /// Since when its agent hasn't answered.
    pub silent_since: Option<Timestamp>,
}

/// Keys by the uid of their router, with their generation.
type Keys = HashMap<String, (i32, PrivateKey)>;

/// What is remembered of routers. All of it can be found anew.
#[derive(Default)]
pub struct Memory {
    /// The addresses last given to each router, with its uid: what was sent and perhaps never arrived. Held while addresses are
    /// given, so that routers are asked one after another.
    given: tokio::sync::Mutex<Given>,
    /// What the machine of each router was last heard to do, by its uid.
    machines: Mutex<HashMap<String, Acquaintance>>,
    keys: Mutex<Keys>,
}

/// What is remembered of a router's machine.
#[derive(Clone, Default)]
pub struct Acquaintance {
    /// What it was last heard to do, and when.
    pub heard: Option<(Heard, Timestamp)>,
    /// Since when its agent hasn't answered.
    pub silent_since: Option<Timestamp>,
    /// When what it counted was last asked for.
    counted: Option<Timestamp>,
}

impl Acquaintance {
    /// The hash of the files that it last said to work by.
    #[must_use]
    pub fn hash(&self) -> Option<(Hash, Timestamp)> {
        match self.heard {
            Some((Heard::InForce(ref working), time)) => Some((working.hash, time)),
            _ => None,
        }
    }
}

impl Memory {
    /// What is remembered of a machine.
    pub fn recall(&self, machine: &VirtualMachine) -> Acquaintance {
        machine.uid().and_then(|uid| self.machines().get(&uid).cloned()).unwrap_or_default()
    }

    /// Takes in what a machine was heard to do.
    pub fn hear(&self, machine: &VirtualMachine, heard: &Heard, now: Timestamp) {
        let Some(uid) = machine.uid() else { return };
        let mut machines = self.machines();
        let known = machines.entry(uid).or_default();
        let silent = matches!(heard, Heard::Nothing);
        known.silent_since = silent.then(|| known.silent_since.unwrap_or(now));
        known.heard = Some((heard.clone(), now));
    }

    /// Whether what a machine counted was asked for longer ago than this; from now on it wasn't.
    pub fn is_time_to_count(&self, machine: &VirtualMachine, every: Duration, now: Timestamp) -> bool {
        let Some(uid) = machine.uid() else { return false };
        let mut machines = self.machines();
        let known = machines.entry(uid).or_default();
        let age = |time: Timestamp| Duration::try_from(now.duration_since(time)).unwrap_or_default();
        let due = known.counted.is_none_or(|time| age(time) >= every);
        if due {
            known.counted = Some(now);
        }
        due
    }

    /// The key of a router, if it is known in this generation.
    pub fn key(&self, uid: &str, generation: i32) -> Option<PrivateKey> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(uid).filter(|(known, _)| *known == generation).map(|(_, key)| key.clone())
    }

    /// This is the key of a router.
    pub fn remember_key(&self, uid: String, generation: i32, key: PrivateKey) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (generation, key));
    }

    /// A router has no key any more.
    pub fn forget_key(&self, uid: &str) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Forgets machines that are none any more.
    pub fn forget_the_gone(&self, context: &Context) {
        self.machines().retain(|uid, _| context.caches.machines.has_uid(uid));
    }

    fn machines(&self) -> MutexGuard<'_, HashMap<String, Acquaintance>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at everything that the plan needs; gives the router public addresses on the way.
///
/// # Errors
/// What the API server says.
pub async fn observe(context: &Context, memory: &Memory, router: &Arc<VRouter>) -> Result<View, Error> {
    let addresses = addresses(context, memory, router).await?;
    let router = context.caches.routers.latest(router).unwrap_or_else(|| Arc::clone(router));
    let (namespace, name) = key(&*router);
    let farm = context.caches.farms.get(&namespace, &router.spec.farm);
    let site = context.site();
    let machines = context.caches.machines.in_namespace(&namespace);
    let vpn = router.spec.template.vpn.as_ref().filter(|_| router.metadata.deletion_timestamp.is_none());
    let key = match vpn {
        Some(vpn) => keys::ensure(context, memory, &router, vpn.key_generation).await?,
        None => None,
    };
    let machine_name = machine_name(&name);
    let machine = machines.iter().find(|machine| machine.name_any() == machine_name).cloned();
    let desired = match farm.as_deref().map(|farm| (farm, network_of(farm))) {
        None => {
            Err(Wait::new("FarmNotFound", format!("there is no VirtualFarm {} in this namespace", router.spec.farm)))
        }
        Some((farm, None)) => Err(Wait::new("NetworkNotReady", format!("farm {} has no network yet", farm.name_any()))),
        Some((farm, Some(network))) => desired(&Ingredients {
            farm,
            network,
            router: &router,
            machines: &members(&machines, &router.spec.farm),
            addresses: &addresses,
            site: &site,
            key: key.as_ref(),
            neighbours: &neighbours(context, &router),
        }),
    };
    let silent_since = machine.as_ref().and_then(|machine| memory.recall(machine).silent_since);
    Ok(View { router, farm, site, machine, addresses, desired, silent_since })
}

fn network_of(farm: &VirtualFarm) -> Option<FarmNetwork> {
    farm.status.as_ref()?.network.as_ref()?.parse().ok()
}

/// The routers of this cloud that a router names, and that name its farm.
fn neighbours(context: &Context, router: &VRouter) -> BTreeMap<Key, Neighbour> {
    let own = key(router);
    let peers = router.spec.template.vpn.iter().flat_map(|vpn| &vpn.peers);
    let named = peers.filter_map(|peer| peer.peer_ref.as_ref());
    let neighbour = |named: &FarmRef| {
        let other = context.caches.routers.get(&named.namespace, &named.name)?;
        let there = other.metadata.deletion_timestamp.is_none() && key(&*other) != own && consents(&other, &own);
        let farm = context.caches.farms.get(&named.namespace, &other.spec.farm).filter(|_| there)?;
        let status = other.status.clone().unwrap_or_default();
        let vpn = status.vpn.unwrap_or_default();
        let neighbour = Neighbour {
            network: network_of(&farm),
            key: vpn.public_key.and_then(|key| key.parse().ok()),
            endpoint: vpn.endpoint.and_then(|endpoint| endpoint.parse().ok()),
        };
        Some(((named.namespace.clone(), named.name.clone()), neighbour))
    };
    named.filter_map(neighbour).collect()
}

/// The machines of a farm that aren't its router.
fn members(machines: &[Arc<VirtualMachine>], farm: &str) -> Vec<Arc<VirtualMachine>> {
    let is_member = |machine: &&Arc<VirtualMachine>| {
        machine.spec.farm == farm && machine.router().is_none() && !is_router_to_be(machine)
    };
    machines.iter().filter(is_member).cloned().collect()
}

/// The router's public addresses: written down before anything is made with them.
async fn addresses(context: &Context, memory: &Memory, router: &Arc<VRouter>) -> Result<Addresses, Error> {
    let mut given = memory.given.lock().await;
    let router = context.caches.routers.latest(router).unwrap_or_else(|| Arc::clone(router));
    let routers = context.caches.routers.list();
    given.retain(|_, (uid, _)| routers.iter().any(|router| router.uid().as_ref() == Some(uid)));
    let others: Vec<_> = routers.iter().filter(|other| other.uid() != router.uid()).collect();
    let claims: Vec<_> = others.iter().map(|other| claim(context, &given, other)).collect();
    let left_behind = left_behind(context);
    let site = context.site();
    let own = VRouter { status: Some(with_given(&router, &given)), ..(*router).clone() };
    if router.metadata.deletion_timestamp.is_some() {
        // It keeps what it has until it is gone.
        return Ok(Addresses::default());
    }
    let chosen = choose(&own, &Others { claims: &claims, left_behind: &left_behind }, site.routers.public.as_ref());
    if let Some(uid) = router.uid() {
        given.insert(key(&*router), (uid, chosen.all().collect()));
    }
    let before = router.status.clone().unwrap_or_default();
    let after = VRouterStatus {
        public_ip: chosen.own().map(|address| address.to_string()),
        elastic_ip: chosen.elastic().map(|address| address.to_string()),
        ..before
    };
    let api = context.api(&router.namespace().unwrap_or_default());
    apply_status_unless_changed(context, &context.caches.routers, &api, &router, &ADDRESS_SHARE, &after).await?;
    Ok(chosen)
}

/// The uid of each router, and its addresses, its own first.
type Given = HashMap<Key, (String, Vec<Ipv4Addr>)>;

/// The status of a router as it stands, or as it was sent and isn't seen yet.
fn with_given(router: &VRouter, given: &Given) -> VRouterStatus {
    let mut status = router.status.clone().unwrap_or_default();
    if status.public_ip.is_none()
        && let Some((_, addresses)) = given.get(&key(router))
    {
        status.public_ip = addresses.first().map(ToString::to_string);
    }
    status
}

/// What another router has, by its status, by what it was sent, and by the cards of its machine.
fn claim(context: &Context, given: &Given, router: &VRouter) -> Claim {
    let mut claim = Claim::of(router);
    claim.held.extend(given.get(&claim.router).into_iter().flat_map(|(_, addresses)| addresses));
    let machine = context.caches.machines.get(&claim.router.0, &machine_name(&claim.router.1));
    let on_cards = machine.iter().filter_map(|machine| machine.router()).flat_map(|role| &role.public_ips);
    claim.held.extend(on_cards.filter_map(|address| address.parse::<Ipv4Addr>().ok()));
    claim
}

/// Public addresses of routers that were given up and may still run: on hosts that nobody said to be off.
fn left_behind(context: &Context) -> BTreeSet<Ipv4Addr> {
    let hypervisors = context.caches.hypervisors.list();
    let statuses = hypervisors.iter().filter_map(|hypervisor| hypervisor.status.as_ref());
    let lost = statuses.filter(|status| !is_true(&status.conditions, FENCED));
    let tombstones = lost.flat_map(|status| &status.tombstones);
    tombstones.flat_map(|tombstone| &tombstone.public_ips).filter_map(|address| address.parse().ok()).collect()
}
