//! What there is of a router: its objects, the machine that it is, and what that was last heard to do.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use kube::ResourceExt;

use super::addresses::{Addresses, Claim, Others, choose};
use super::consents::{consents, kept, told, with_pins};
use super::desired::{Desired, Ingredients, desired};
use super::keys;
use super::memory::{Given, Memory, Replica};
use super::peers::Neighbour;
use super::pins;
use super::plan::{is_its_machine, machine_name};
use super::status::ADDRESS_SHARE;
use crate::api::site::Site;
use crate::api::{FarmRef, PeerConsent, VRouter, VRouterStatus, VirtualFarm, VirtualMachine};
use crate::controllers::cache::Key;
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::ledger::{Entry, Ledger, is_member};
use crate::controllers::placement::observe::{is_router_to_be, key};
use crate::controllers::placement::plan::Wait;
use crate::controllers::writes::apply_status_unless_changed;
use crate::network::{FarmNetwork, RouterSeat};

/// What was seen of a router.
pub struct View {
    /// The router.
    pub router: Arc<VRouter>,
    /// Its farm.
    pub farm: Option<Arc<VirtualFarm>>,
    /// What the site says.
    pub site: Arc<Site>,
    /// The machines of the names that its own have.
    pub replicas: Vec<Replica>,
    /// Where copies of its machines may run whose objects are gone.
    pub copies: Vec<String>,
    /// Its public addresses.
    pub addresses: Addresses,
    /// What it is to do, or why nobody can tell.
    pub desired: Result<Desired, Wait>,
    /// Which farms it means by the names of its peers.
    pub consents: Vec<PeerConsent>,
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
    let machines = context.caches.machines_of(&namespace, &router.spec.farm);
    let vpn = router.spec.template.vpn.as_ref().filter(|_| router.metadata.deletion_timestamp.is_none());
    let key = match vpn {
        Some(vpn) => keys::ensure(context, memory, &router, vpn.key_generation).await?,
        None => None,
    };
    let names = RouterSeat::PAIR.map(|seat| machine_name(&name, seat));
    let named = names.iter().filter_map(|name| context.caches.machines.get(&namespace, name));
    let replicas = named.map(|machine| memory.replica(&machine)).collect();
    let pins = match farm.as_deref().filter(|_| vpn.is_some()) {
        Some(farm) => pins(context, memory, &router, farm).await?,
        None => Vec::new(),
    };
    let neighbours = neighbours(context, memory, &router, farm.as_deref()).await?;
    let consents = told(&router, &pins, |farm| neighbours.get(farm).map(|neighbour| neighbour.farm_uid.clone()));
    let desired = match farm.as_deref().map(|farm| (farm, network_of(farm))) {
        None => {
            Err(Wait::new("FarmNotFound", format!("there is no VirtualFarm {} in this namespace", router.spec.farm)))
        }
        Some((farm, None)) => Err(Wait::new("NetworkNotReady", format!("farm {} has no network yet", farm.name_any()))),
        Some((farm, Some(network))) => desired(&Ingredients {
            farm,
            network,
            router: &with_pins(&router, &pins),
            machines: &members(&machines, farm),
            addresses: &addresses,
            site: &site,
            key: key.as_ref(),
            neighbours: &neighbours,
        }),
    };
    let copies = copies(context, &namespace, &names);
    Ok(View { router, farm, site, replicas, copies, addresses, desired, consents })
}

/// What hosts have, or may have, of machines of these names whose objects are gone. What was given up isn't waited for: its
/// addresses stay taken.
fn copies(context: &Context, namespace: &str, names: &[String]) -> Vec<String> {
    let ledger = Ledger::look(context);
    let without_object = ledger.entries().filter(|entry| {
        let (of, name) = &entry.holding.machine;
        let named = of == namespace && names.contains(name);
        named && !entry.is_given_up && !entry.is_off && !context.caches.machines.has_uid(&entry.holding.uid)
    });
    without_object.map(Entry::name).collect()
}

fn network_of(farm: &VirtualFarm) -> Option<FarmNetwork> {
    farm.status.as_ref()?.network.as_ref()?.parse().ok()
}

/// What the farm means by the names of its peers, kept before anything is done by it.
async fn pins(
    context: &Context,
    memory: &Memory,
    router: &VRouter,
    farm: &VirtualFarm,
) -> Result<Vec<PeerConsent>, Error> {
    let known = pins::known(context, memory, &farm.uid().unwrap_or_default()).await?;
    let is_there = |farm: &Key| {
        let found = context.caches.farms.get(&farm.0, &farm.1)?;
        found.uid().filter(|_| found.metadata.deletion_timestamp.is_none())
    };
    let kept = kept(&with_pins(router, &known), is_there);
    // One that goes leaves nothing behind.
    if farm.metadata.deletion_timestamp.is_none() {
        pins::keep(context, memory, farm, &kept).await?;
    }
    Ok(kept)
}

/// The routers of this cloud that a router names, and that name its farm.
async fn neighbours(
    context: &Context,
    memory: &Memory,
    router: &VRouter,
    farm: Option<&VirtualFarm>,
) -> Result<BTreeMap<Key, Neighbour>, Error> {
    let own = key(router);
    let own_uid = farm.and_then(ResourceExt::uid).unwrap_or_default();
    let peers = router.spec.template.vpn.iter().flat_map(|vpn| &vpn.peers);
    let named = peers.filter_map(|peer| peer.peer_ref.as_ref());
    let mut neighbours = BTreeMap::new();
    for FarmRef { namespace, name, .. } in named {
        let Some(other) = context.caches.routers.get(namespace, name) else { continue };
        let Some(farm) = context.caches.farms.get(namespace, &other.spec.farm) else { continue };
        let Some(farm_uid) = farm.uid() else { continue };
        let names_us =
            other.metadata.deletion_timestamp.is_none() && key(&*other) != own && consents(&other, &own, &own_uid);
        // Whom it means by our name it may have told nobody.
        if !names_us || !consents(&with_pins(&other, &pins::known(context, memory, &farm_uid).await?), &own, &own_uid) {
            continue;
        }
        let vpn = other.status.clone().unwrap_or_default().vpn.unwrap_or_default();
        let neighbour = Neighbour {
            farm_uid,
            network: network_of(&farm),
            key: vpn.public_key.and_then(|key| key.parse().ok()),
            endpoint: vpn.endpoint.and_then(|endpoint| endpoint.parse().ok()),
        };
        neighbours.insert((namespace.clone(), name.clone()), neighbour);
    }
    Ok(neighbours)
}

/// The machines of a farm that aren't its router.
fn members(machines: &[Arc<VirtualMachine>], farm: &VirtualFarm) -> Vec<Arc<VirtualMachine>> {
    let is_member = |machine: &&Arc<VirtualMachine>| {
        is_member(machine, farm) && machine.router().is_none() && !is_router_to_be(machine)
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
    let ledger = Ledger::look(context);
    let left_behind = left_behind(context, &router, &ledger);
    let site = context.site();
    let own = VRouter { status: Some(with_given(&router, &given)), ..(*router).clone() };
    if router.metadata.deletion_timestamp.is_some() {
        // It keeps what it has until it is gone.
        return Ok(Addresses::default());
    }
    let chosen = choose(
        &own,
        &Others { claims: &claims, left_behind: &left_behind, unread: ledger.is_unread() },
        site.routers.public.as_ref(),
    );
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

/// What another router has, by its status, by what it was sent, and by the cards of its machines.
fn claim(context: &Context, given: &Given, router: &VRouter) -> Claim {
    let mut claim = Claim::of(router);
    claim.held.extend(given.get(&claim.router).into_iter().flat_map(|(_, addresses)| addresses));
    let (namespace, name) = &claim.router;
    let machine = |seat| context.caches.machines.get(namespace, &machine_name(name, seat));
    let machines: Vec<_> = RouterSeat::PAIR.into_iter().filter_map(machine).collect();
    let on_cards = machines.iter().filter_map(|machine| machine.router()).flat_map(|role| &role.public_ips);
    claim.held.extend(on_cards.filter_map(|address| address.parse::<Ipv4Addr>().ok()));
    claim
}

/// Addresses that machines or domains have which aren't this router's own: whoever made them, and whatever became of their
/// objects.
fn left_behind(context: &Context, router: &VRouter, ledger: &Ledger) -> BTreeSet<Ipv4Addr> {
    let machines = context.caches.machines.list();
    let is_own = |machine: &&Arc<VirtualMachine>| is_its_machine(machine, router);
    let own: HashSet<_> = machines.iter().filter(is_own).filter_map(|machine| machine.uid()).collect();
    let others = machines.iter().filter(|machine| !is_own(machine)).filter_map(|machine| machine.router());
    let of_objects = others.flat_map(|role| &role.public_ips).filter_map(|address| address.parse().ok());
    ledger.others(|holding| own.contains(&holding.uid)).map(|(_, address)| address).chain(of_objects).collect()
}
