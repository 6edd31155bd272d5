//! `VRouter`: makes the machine that is a farm's router, gives it public addresses, and tells it what to do.
//!
//! A router is a `VirtualMachine` like others: it is placed, started, watched, fenced and swept as they are. That it is the
//! router stands in its status, which no tenant can write. Its farm then gives it the gateway's address, placement leaves the
//! farm's quota out of it, and its host gives it a second card, in the public network. All that it does it is told through the
//! agent of its guest, as files that follow from the objects alone.

mod act;
mod addresses;
mod consents;
mod desired;
mod fate;
mod keys;
mod memory;
mod news;
mod observe;
#[cfg(test)]
mod pair_tests;
mod peers;
pub mod pins;
mod plan;
mod secrets;
mod status;
mod talk;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tunnels;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use tokio_stream::wrappers::WatchStream;

use self::memory::Memory;
use self::observe::{View, observe};
use self::plan::{Plan, Seat, Step, Telling, plan};
use self::status::{PEERS_JOINED, REDUNDANT, SHARE};
use self::talk::{Guest, Hashes, Heard};
use super::cache::reference;
use super::context::Context;
use super::error::Error;
use super::ledger::HOSTS_UNREAD;
use super::news::{remind, tell as tell_news};
use super::placement::observe::key;
use super::runner;
use super::writes::{add_finalizer, apply_status, remove_finalizer, tell_kept};
use crate::api::conditions::{READY, find, is_true};
use crate::api::{VRouter, VRouterStatus, has_our_finalizer};
use crate::metrics::{Counted, RouterMachines};

/// A router on which nothing happens is asked this often whether it works by what it was told.
const POLL: Duration = Duration::from_secs(10);

/// One that doesn't yet is looked at again after this time; mostly something wakes it before.
const SOON: Duration = Duration::from_secs(2);

/// Tunnels that were changed so lately are new.
const NEW: Duration = Duration::from_secs(30);

/// A router that was started so lately, and hasn't been heard since, has no files.
const STARTED: Duration = Duration::from_secs(30);

/// What a router counts is read this often.
const COUNT: Duration = Duration::from_secs(30);

/// What changes in a farm within this time is told at once.
const GATHER: Duration = Duration::from_millis(100);

/// Runs the controller until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    let memory = Arc::new(Memory::default());
    let triggers = triggers(&context);
    let routers = Arc::clone(&context.caches.routers);
    remind(&context, &routers, "Reconcile", news::lasting);
    runner::run(context, &routers, triggers, GATHER, shutdown, move |router, context| {
        let memory = Arc::clone(&memory);
        async move { reconcile(router, &context, &memory).await }
    })
    .await;
}

/// What wakes a router besides itself: its farm, the farm's machines (one of which it is), another router that gives an address
/// back or is the other end of a tunnel, the site's settings.
fn triggers(context: &Arc<Context>) -> stream::BoxStream<'static, ObjectRef<VRouter>> {
    let farms = context
        .caches
        .farms
        .changes()
        .map(|farm| vec![reference(&farm.namespace().unwrap_or_default(), &farm.name_any())]);
    let machines = context
        .caches
        .machines
        .changes()
        .map(|machine| vec![reference(&machine.namespace().unwrap_or_default(), &machine.spec.farm)]);
    let waiting = {
        let context = Arc::clone(context);
        context.caches.routers.changes().map(move |router| {
            let peers = router.spec.template.vpn.iter().flat_map(|vpn| &vpn.peers);
            let peers =
                peers.filter_map(|peer| peer.peer_ref.as_ref()).map(|peer| reference(&peer.namespace, &peer.name));
            peers.chain(without_addresses(&context)).collect()
        })
    };
    let all = {
        let context = Arc::clone(context);
        WatchStream::from_changes(context.site.clone())
            .map(move |_| context.caches.routers.list().iter().map(|router| ObjectRef::from_obj(&**router)).collect())
    };
    stream::select_all([farms.boxed(), machines.boxed(), waiting.boxed(), all.boxed()]).flat_map(stream::iter).boxed()
}

/// Routers that lack an address that another may give back.
fn without_addresses(context: &Context) -> Vec<ObjectRef<VRouter>> {
    let lacks = |router: &&Arc<VRouter>| {
        let status = router.status.clone().unwrap_or_default();
        find(&status.conditions, "AddressesReady").is_some_and(|ready| ready.status != "True")
    };
    context.caches.routers.list().iter().filter(lacks).map(|router| ObjectRef::from_obj(&**router)).collect()
}

async fn reconcile(router: Arc<VRouter>, context: &Arc<Context>, memory: &Memory) -> Result<Action, Error> {
    let routers = &context.caches.routers;
    let api = context.api(&router.namespace().unwrap_or_default());
    memory.forget_the_gone(context);
    if router.metadata.deletion_timestamp.is_none() {
        add_finalizer(context, routers, &api, &router).await?;
    } else if !has_our_finalizer(&*router) {
        tell_kept(context, &*router).await?;
        return Ok(Action::await_change());
    }
    let router = routers.latest(&router).unwrap_or(router);
    let view = observe(context, memory, &router).await?;
    let plan = plan(&view, context.clock.now());
    if plan.release {
        keys::remove(context, memory, &view.router).await?;
        context.metrics.routers.forget(&key(&*view.router));
        remove_finalizer(context, routers, &api, &view.router).await?;
        return Ok(Action::await_change());
    }
    let done = act::act(context, &view.router.namespace().unwrap_or_default(), &plan.steps).await;
    tell_of_deletions(context, &view.router, &done.steps).await;
    let heard = tell_all(context, memory, &view, &plan).await?;

    let now = context.clock.now();
    let replicas = view.replicas.iter().map(|one| memory.replica(&one.machine)).collect();
    let view = View { replicas, ..view };
    let after = status::status(&view, &plan, &heard, now);
    context.metrics.routers.set_machines(key(&*view.router), machines(&view, &after));
    let before = routers.latest(&view.router).unwrap_or_else(|| Arc::clone(&view.router));
    if after.vpn.is_none() && before.status.as_ref().is_some_and(|status| status.vpn.is_some()) {
        keys::remove(context, memory, &view.router).await?;
    }
    apply_status(context, routers, &api, &before, &SHARE, &after).await?;
    for news in news::news(before.status.as_ref(), &after) {
        tell_news(context, routers, &*view.router, "Reconcile", news).await;
    }
    // Last: what one of its machines wants in vain, or a host that just went away, is no reason to say nothing of the router.
    done.error.map_or(Ok(()), Err)?;
    count(context, memory, &view, &plan, &heard).await?;
    let works = |heard: &Option<Heard>| matches!(heard, Some(Heard::InForce(_)));
    let at_rest = plan.steps.is_empty() && plan.seats.iter().all(|seat| seat.wait.is_none()) && heard.iter().all(works);
    let nobody_is_told = plan.seats.iter().all(|seat| seat.tell.is_none());
    let mut verdicts = [&view.addresses.own, &view.addresses.elastic].into_iter().flatten();
    let unread = verdicts.any(|verdict| verdict.as_ref().is_err_and(|wait| wait.reason == HOSTS_UNREAD));
    let patience = if unread { SOON } else { poll(&routers.latest(&view.router).unwrap_or(view.router), now) };
    Ok(Action::requeue(if at_rest || nobody_is_told { patience } else { SOON }))
}

/// How many machines it is to be, and how many work or would.
fn machines(view: &View, status: &VRouterStatus) -> RouterMachines {
    let ready = [READY, REDUNDANT].into_iter().filter(|kind| is_true(&status.conditions, kind)).count();
    RouterMachines { ready: ready as u64, desired: view.seats().len() as u64 }
}

/// Tells every machine of the router what to do. While nobody is known whose turn it is, all are asked.
async fn tell_all(context: &Context, memory: &Memory, view: &View, plan: &Plan) -> Result<Vec<Option<Heard>>, Error> {
    let leads = |telling: &Telling| memory.replica(&telling.machine).leads();
    let tellings = || plan.seats.iter().filter_map(|seat| seat.tell.as_ref());
    let known = plan.seats.len() < 2 || tellings().any(leads);
    let patience = if known { poll(&view.router, context.clock.now()) } else { Duration::ZERO };
    let tell_one = async |seat: &Seat| match &seat.tell {
        Some(telling) => tell(context, memory, telling, patience).await,
        None => Ok(None),
    };
    let heard = join_all(plan.seats.iter().map(tell_one)).await;
    let alone = heard.len() == 1;
    let one = |heard: Result<Option<Heard>, Error>| match heard {
        // The other one is told and heard whatever becomes of this one's host.
        Err(Error::Host { host, source }) if !alone => {
            tracing::warn!(host, error = %source, "one of two routers can't be asked");
            Ok(None)
        }
        heard => heard,
    };
    heard.into_iter().map(one).collect()
}

/// Tells a machine what to do, unless it said so lately that it does.
async fn tell(
    context: &Context,
    memory: &Memory,
    telling: &Telling,
    patience: Duration,
) -> Result<Option<Heard>, Error> {
    let Telling { machine, host, uuid, started, documents } = telling;
    let now = context.clock.now();
    let known = memory.recall(machine);
    let is_fresh = |time: Timestamp| age(time, now) < patience && started.is_none_or(|started| time > started);
    if known.hash().is_some_and(|(hash, time)| hash == documents.hash() && is_fresh(time)) {
        return Ok(known.heard.map(|(heard, _)| heard));
    }
    let Some(host) = context.fleet.get(host) else { return Ok(None) };
    // Asking what it has takes a third of a second in a slow guest, in which nobody gets into the farm.
    let has = match known.in_force_since(*started) {
        Some((before, _)) if before == documents.hash() => None,
        Some((_, files)) => Some(files),
        None => started.is_some_and(|started| age(started, now) < STARTED).then(Hashes::new),
    };
    match (Guest { host: &*host.host, uuid: *uuid }).bring_to(documents, has, || context.clock.now()).await {
        Ok(heard) => {
            memory.hear(machine, &heard, documents, context.clock.now());
            Ok(Some(heard))
        }
        Err(source) => Err(Error::Host { host: host.name.clone(), source }),
    }
}

/// Reads what the machine whose turn it is counted, for Prometheus. One that doesn't work has counted nothing.
async fn count(
    context: &Context,
    memory: &Memory,
    view: &View,
    plan: &Plan,
    heard: &[Option<Heard>],
) -> Result<(), Error> {
    let farm = key(&*view.router);
    let told = plan.seats.iter().zip(heard).filter_map(|(seat, heard)| Some((seat.tell.as_ref()?, heard.as_ref())));
    let told: Vec<_> = told.collect();
    let leads = |heard: &Option<&Heard>| matches!(heard, Some(Heard::InForce(working)) if working.leads != Some(false));
    let leader = told.iter().find(|(_, heard)| leads(heard)).or_else(|| told.first());
    let (Some((Telling { machine, host, uuid, .. }, heard)), Ok(desired)) = (leader, &view.desired) else {
        context.metrics.routers.stops_counting(&farm);
        return Ok(());
    };
    let (Some(Heard::InForce(working)), Some(host)) = (heard, context.fleet.get(host)) else { return Ok(()) };
    if !memory.is_time_to_count(machine, COUNT, context.clock.now()) {
        return Ok(());
    }
    let guest = Guest { host: &*host.host, uuid: *uuid };
    let counted = guest.count(&desired.router.counters()).await;
    let counted = counted.map_err(|source| Error::Host { host: host.name.clone(), source })?;
    if let Some(counted) = counted {
        context.metrics.routers.set(farm, Counted { peers: tunnels::counted(desired, working), ..counted });
    }
    Ok(())
}

/// How often a router is asked: often while its tunnels are new, and their other ends not there yet.
fn poll(router: &VRouter, now: Timestamp) -> Duration {
    let status = router.status.clone().unwrap_or_default();
    let is_new = status.config.is_some_and(|config| age(config.time.0, now) < NEW);
    let awaits = find(&status.conditions, PEERS_JOINED).is_some_and(|joined| joined.status != "True");
    if is_new && awaits { SOON } else { POLL }
}

fn age(time: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(time)).unwrap_or_default()
}

async fn tell_of_deletions(context: &Arc<Context>, router: &VRouter, steps: &[Step]) {
    let deletions = steps.iter().filter_map(|step| match step {
        Step::Delete(_, why) if why.reason != "Deleting" => Some(news::of_deletion(why)),
        _ => None,
    });
    for news in deletions {
        tell_news(context, &context.caches.routers, router, "Replacing", news).await;
    }
}
