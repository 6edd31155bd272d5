//! Farms: network, addresses, groups of machines, people.
//!
//! The farm's loop is the one writer of addresses in its farm. Networks and addresses stand in the objects themselves;
//! what has been promised and not yet seen written is remembered for as long as that lasts (`observe::Memory`).

mod access;
mod act;
mod addresses;
mod dry_run;
mod groups;
mod network;
mod observe;
mod plan;
mod rest;
mod room;
mod router;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, select_all};
use futures::{Stream, StreamExt};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;

use self::access::Extent;
use self::observe::{Memory, View, lock, look, look_only};
use self::status::{HELD_BACK, NETWORK_READY, SHARE};
use super::cache::{Key, reference};
use super::context::Context;
use super::error::Error;
use super::news::{Attention, News, remind, tell as tell_news};
use super::placement::observe::{World, key};
use super::placement::plan::Wait;
use super::router::pins;
use super::runner;
use super::ssh_keys::{self, INVALID_SSH_KEY};
use super::writes::{add_finalizer, apply_status, remove_finalizer, tell_kept};
pub use plan::some_of;

use crate::api::conditions::{find, is_true};
use crate::api::{
    DRY_RUN_ANNOTATION, Flavour, Hypervisor, VRouter, VirtualFarm, VirtualFarmStatus, VirtualMachine,
    has_our_finalizer, is_annotated,
};
use crate::network::FarmNetwork;

/// A farm is looked at this often even if nothing changes.
const INTERVAL: Duration = Duration::from_secs(300);

/// A dry run is made anew this often: hosts change all the time.
const DRY_RUN_INTERVAL: Duration = Duration::from_secs(10);

/// Counters in a farm's status are written at most this often.
const COUNTERS_INTERVAL: Duration = Duration::from_secs(1);

/// The pause after an object turned out to be other than it was known to be.
const SURPRISED: Duration = Duration::from_millis(200);

/// The machines of a farm come in swarms; those that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(50);

/// Runs farms until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    let memory = Arc::new(Memory::default());
    let farms = Arc::clone(&context.caches.farms);
    let triggers = triggers(&context);
    remind(&context, &farms, "Reconciling", lasting);
    let of_paused = Arc::clone(&memory);
    let while_paused = move |farm: Arc<VirtualFarm>, context: Arc<Context>| {
        let memory = Arc::clone(&of_paused);
        async move {
            access::ensure(&context, &memory, &farm, Extent::TakeAway).await?;
            Ok(Action::requeue(INTERVAL))
        }
    };
    let reconcile = move |farm, context: Arc<Context>| {
        let memory = Arc::clone(&memory);
        async move { reconcile(farm, &context, &memory).await }
    };
    runner::run_and_hold(context, &farms, triggers, GATHER, shutdown, reconcile, while_paused).await;
}

/// What wakes a farm besides itself: its machines, its router, a network that somebody (a farm, or a host that returned) gives back,
/// an address that is kept on a host or isn't any more, the site's pool and quota, and a flavour for which there may be room
/// now.
fn triggers(context: &Arc<Context>) -> BoxStream<'static, ObjectRef<VirtualFarm>> {
    let machines = context.caches.machines.changes().map(|machine| farms_of(&machine));
    let routers = context.caches.routers.changes().map(|router| vec![farm_of_router(&router)]);
    let without_network = {
        let context = Arc::clone(context);
        let hypervisors = context.caches.hypervisors.changes().map(|_| ());
        let farms = context.caches.farms.changes().map(|_| ());
        stream::select(farms, hypervisors).map(move |()| farms_without_network(&context))
    };
    let all = {
        let context = Arc::clone(context);
        site_changes(&context).map(move |()| all_farms(&context))
    };
    let kept = {
        let context = Arc::clone(context);
        context.caches.hypervisors.changes().scan(HashMap::new(), move |known, host| {
            let after = kept_addresses(&host);
            let before = known.insert(host.name_any(), after.clone()).unwrap_or_default();
            let changed = before.symmetric_difference(&after);
            let of_namespace = |namespace: &str| context.caches.farms.named(namespace, "");
            let farms = changed.filter_map(|kept| farm_of_kept(kept, of_namespace));
            std::future::ready(Some(farms.map(|(namespace, farm)| reference(&namespace, &farm)).collect()))
        })
    };
    let held_back = {
        let context = Arc::clone(context);
        context.caches.flavours.changes().map(move |flavour| farms_that_hold_back(&context, &flavour))
    };
    let shared = [without_network.boxed(), all.boxed(), kept.boxed(), held_back.boxed()];
    select_all([machines.boxed(), routers.boxed()].into_iter().chain(shared)).flat_map(stream::iter).boxed()
}

/// An address that a copy on a host has, which nobody else gets: the namespace and the farm of the copy, as far as that is known.
type Kept = ((String, Option<String>), Option<String>);

/// The addresses of copies on a host.
fn kept_addresses(host: &Hypervisor) -> BTreeSet<Kept> {
    let status = host.status.iter();
    let copies =
        status.flat_map(|status| status.copies.iter().chain(status.tombstones.iter().map(|stone| &stone.copy)));
    copies.map(|copy| ((copy.namespace.clone(), copy.farm.clone()), copy.address.clone())).collect()
}

/// The farm that an address is kept from. A domain without an object tells no farm: it is the one that has the network.
fn farm_of_kept(
    ((namespace, farm), address): &Kept,
    of_namespace: impl Fn(&str) -> Vec<Arc<VirtualFarm>>,
) -> Option<Key> {
    if let Some(farm) = farm {
        return Some((namespace.clone(), farm.clone()));
    }
    let network = FarmNetwork::of(address.as_ref()?.parse().ok()?);
    let has_it = |farm: &Arc<VirtualFarm>| {
        farm.status.as_ref().and_then(|status| status.network.as_ref()?.parse().ok()) == Some(network)
    };
    of_namespace(namespace).into_iter().find(has_it).map(|farm| key(&*farm))
}

fn farm_of_router(router: &VRouter) -> ObjectRef<VirtualFarm> {
    reference(&router.namespace().unwrap_or_default(), &router.spec.farm)
}

/// The farm that a machine names and the one that made it: the same, unless somebody meddles.
fn farms_of(machine: &VirtualMachine) -> Vec<ObjectRef<VirtualFarm>> {
    let namespace = machine.namespace().unwrap_or_default();
    let owners = machine.owner_references().iter().filter(|owner| owner.kind == "VirtualFarm");
    let others = owners.map(|owner| owner.name.clone()).filter(|owner| *owner != machine.spec.farm);
    others.chain([machine.spec.farm.clone()]).map(|name| reference(&namespace, &name)).collect()
}

fn farms_without_network(context: &Context) -> Vec<ObjectRef<VirtualFarm>> {
    let refused = |farm: &&Arc<VirtualFarm>| {
        farm.status.as_ref().is_some_and(|status| {
            find(&status.conditions, NETWORK_READY).is_some() && !is_true(&status.conditions, NETWORK_READY)
        })
    };
    context.caches.farms.list().iter().filter(refused).map(|farm| ObjectRef::from_obj(&**farm)).collect()
}

/// The farms that hold machines of this flavour back.
fn farms_that_hold_back(context: &Context, flavour: &Flavour) -> Vec<ObjectRef<VirtualFarm>> {
    let name = flavour.name_any();
    let waits = |farm: &&Arc<VirtualFarm>| {
        let holds_back = farm.status.as_ref().is_some_and(|status| status.held_back.is_some());
        holds_back && farm.spec.groups.iter().any(|group| group.flavour == name)
    };
    context.caches.farms.list().iter().filter(waits).map(|farm| ObjectRef::from_obj(&**farm)).collect()
}

fn all_farms(context: &Context) -> Vec<ObjectRef<VirtualFarm>> {
    context.caches.farms.list().iter().map(|farm| ObjectRef::from_obj(&**farm)).collect()
}

fn site_changes(context: &Context) -> impl Stream<Item = ()> + Send + 'static {
    stream::unfold(context.site.clone(), |mut site| async move {
        site.changed().await.ok()?;
        Some(((), site))
    })
}

async fn reconcile(farm: Arc<VirtualFarm>, context: &Arc<Context>, memory: &Memory) -> Result<Action, Error> {
    let is_going = farm.metadata.deletion_timestamp.is_some();
    if !is_going && !is_annotated(&*farm, DRY_RUN_ANNOTATION) {
        return work(farm, context, memory).await;
    }
    // Access that was taken away goes whatever else waits, and nothing else waits for it.
    let taken_away = access::ensure(context, memory, &farm, Extent::TakeAway).await;
    let action =
        if is_going { tear_down(&farm, context, memory).await } else { rehearse(&farm, context, memory).await };
    taken_away.and(action)
}

/// The network stands in the farm's status before anything is given out of it.
async fn work(farm: Arc<VirtualFarm>, context: &Arc<Context>, memory: &Memory) -> Result<Action, Error> {
    let farms = &context.caches.farms;
    let access = access::ensure(context, memory, &farm, Extent::Whole).await;
    add_finalizer(context, farms, &context.api(&farm.namespace().unwrap_or_default()), &farm).await?;
    let farm = farms.latest(&farm).unwrap_or(farm);
    let view = look(context, memory, &farm);
    let network = view.network.as_ref().ok().map(ToString::to_string);
    if network.is_some() && network != farm.status.as_ref().and_then(|status| status.network.clone()) {
        tell(context, memory, &view, status::status(&view, &plan::plan(&view), context.clock.now())).await?;
    }
    let done = act::carry_out(context, memory, &view, plan::plan(&view)).await;

    let view = look(context, memory, &farms.latest(&farm).unwrap_or(farm));
    let mut plan = plan::plan(&view);
    let errors = [done.error.as_ref(), access.as_ref().err()];
    plan.troubles.extend(errors.into_iter().flatten().map(not_written));
    plan.troubles.extend(access.as_ref().ok().cloned().flatten());
    let pause = tell(context, memory, &view, status::status(&view, &plan, context.clock.now())).await?;
    done.tell(context, &act::about(&view.farm)).await;
    if let Some(error) = done.error.or(access.err()) {
        return Err(error);
    }
    let unread = view.hosts_are_unread.then_some(SURPRISED);
    let pause = pause.into_iter().chain(unread).min().unwrap_or(INTERVAL);
    Ok(Action::requeue(if done.surprised { pause.min(SURPRISED) } else { pause }))
}

/// What is told of something that couldn't be written.
fn not_written(error: &Error) -> Wait {
    if error.is_refusal() {
        let message = format!("the API server refuses an object of the farm, so that stays as it was: {error}");
        return Wait::new("WriteRefused", message);
    }
    Wait::new("WriteFailed", format!("an object of the farm couldn't be written, and is tried again: {error}"))
}

async fn rehearse(farm: &Arc<VirtualFarm>, context: &Arc<Context>, memory: &Memory) -> Result<Action, Error> {
    let namespace = farm.namespace().unwrap_or_default();
    let began = Instant::now();
    if let Err(left) = lock(&memory.rests).begin(&namespace, began) {
        return Ok(Action::requeue(left));
    }
    let view = look_only(context, memory, farm);
    let planned = dry_run::rehearse(&view, World::look(context));
    lock(&memory.rests).end(&namespace, began, Instant::now());
    let status = status::dry_run_status(&view, planned, context.clock.now());
    write_status(context, memory, farm, &status).await?;
    Ok(Action::requeue(DRY_RUN_INTERVAL))
}

async fn tear_down(farm: &Arc<VirtualFarm>, context: &Arc<Context>, memory: &Memory) -> Result<Action, Error> {
    if !has_our_finalizer(&**farm) {
        memory.forget(&key(&**farm));
        tell_kept(context, &**farm).await?;
        return Ok(Action::await_change());
    }
    let view = look_only(context, memory, farm);
    let done = act::carry_out(context, memory, &view, plan::plan(&view)).await;
    done.tell(context, &act::about(farm)).await;
    if let Some(error) = done.error {
        return Err(error);
    }
    let view = look_only(context, memory, farm);
    let ours = |machine: &Arc<VirtualMachine>| groups::is_made_by(machine, farm);
    let name = farm.name_any();
    let present: Vec<_> =
        view.machines.iter().filter(|machine| machine.spec.farm == name || ours(machine)).cloned().collect();
    let has_router =
        view.router.as_ref().is_some_and(|router| router::is_router_of(router, farm) || router::is_left(router, farm));
    if present.is_empty() && !has_router {
        let api = context.api(&farm.namespace().unwrap_or_default());
        pins::forget(context, farm).await?;
        remove_finalizer(context, &context.caches.farms, &api, farm).await?;
        memory.forget(&key(&**farm));
        return Ok(Action::await_change());
    }
    let pause = tell(context, memory, &view, status::deleting_status(&view, &present, context.clock.now())).await?;
    let pause = pause.unwrap_or(INTERVAL);
    Ok(Action::requeue(if done.surprised { pause.min(SURPRISED) } else { pause }))
}

/// Writes a status and tells what is new in it. While only counters move, at most once a second: returns how long to
/// wait then.
async fn tell(
    context: &Arc<Context>,
    memory: &Memory,
    view: &View,
    status: VirtualFarmStatus,
) -> Result<Option<Duration>, Error> {
    let before = view.farm.status.clone().unwrap_or_default();
    let last = lock(&memory.told).get(&key(&*view.farm)).copied();
    let left = last.and_then(|last| COUNTERS_INTERVAL.checked_sub(last.elapsed()));
    if let Some(left) = left.filter(|left| !left.is_zero())
        && status != before
        && !status::is_urgent(&before, &status)
    {
        return Ok(Some(left));
    }
    write_status(context, memory, &view.farm, &status).await?;
    tell_of_network(context, &view.farm, &before, &status).await;
    Ok(None)
}

async fn write_status(
    context: &Context,
    memory: &Memory,
    farm: &VirtualFarm,
    status: &VirtualFarmStatus,
) -> Result<(), Error> {
    if farm.status.as_ref() == Some(status) {
        return Ok(());
    }
    let api = context.api(&farm.namespace().unwrap_or_default());
    apply_status(context, &context.caches.farms, &api, farm, &SHARE, status).await?;
    lock(&memory.told).insert(key(farm), Instant::now());
    Ok(())
}

/// Events about the network and about troubles, each when its reason is new.
async fn tell_of_network(
    context: &Arc<Context>,
    farm: &VirtualFarm,
    before: &VirtualFarmStatus,
    after: &VirtualFarmStatus,
) {
    for news in news(before, after) {
        tell_news(context, &context.caches.farms, farm, "Reconciling", news).await;
    }
}

/// Reasons of `Ready` that are worth a warning.
const TROUBLES: [&str; 10] = [
    "AddressConflict",
    "AddressesExhausted",
    "GatewayLeftBehind",
    "InvalidNetwork",
    "NameTaken",
    "NetworkOverlaps",
    "OutsidePool",
    "PoolExhausted",
    "RoleBindingTaken",
    "WriteRefused",
];

/// What a person has to act on if it lasts, by the status alone.
fn lasting(farm: &VirtualFarm) -> Vec<News> {
    let told = farm.status.as_ref().map(|status| news(&VirtualFarmStatus::default(), status)).unwrap_or_default();
    told.into_iter().filter(News::has_to_last).collect()
}

fn news(before: &VirtualFarmStatus, after: &VirtualFarmStatus) -> Vec<News> {
    let mut news = Vec::new();
    if let Some(network) = after.network.as_ref().filter(|network| before.network.as_ref() != Some(*network)) {
        news.push(News::normal("NetworkAssigned", format!("the farm's network is {network}")));
    }
    let holds_back = |status: &VirtualFarmStatus| {
        let held_back = find(&status.conditions, HELD_BACK).filter(|held_back| held_back.status == "True");
        held_back.map(|held_back| (held_back.reason.clone(), held_back.message.clone()))
    };
    if let Some((reason, message)) = holds_back(after)
        && holds_back(before).is_none_or(|(before, _)| before != reason)
    {
        let attention = Attention::if_it_lasts(HELD_BACK, reason.clone());
        news.push(News { attention, reason: "MachinesHeldBack".into(), note: format!("{reason}: {message}") });
    }
    let reason = |status: &VirtualFarmStatus| find(&status.conditions, "Ready").map(|ready| ready.reason.clone());
    if let Some(ready) = find(&after.conditions, "Ready").filter(|_| reason(before) != reason(after)) {
        let trouble = TROUBLES.into_iter().find(|trouble| *trouble == ready.reason);
        news.extend(trouble.map(|trouble| News::warning(trouble, &ready.message)));
    }
    let waits = |status: &VirtualFarmStatus| find(&status.conditions, "Deleting").map(|waits| waits.reason.clone());
    if let Some(kept) = find(&after.conditions, "Deleting").filter(|kept| kept.reason == "MachinesKept")
        && waits(before) != waits(after)
    {
        news.push(News::warning("MachinesKept", &kept.message));
    }
    let bad_keys = ssh_keys::news(&before.conditions, &after.conditions);
    news.extend(bad_keys.map(|message| News::warning(INVALID_SSH_KEY, message)));
    news
}
