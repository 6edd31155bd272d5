//! `VRouter`: makes the machine that is a farm's router, gives it public addresses, and tells it what to do.
//!
//! A router is a `VirtualMachine` like others: it is placed, started, watched, fenced and swept as they are. That it is the
//! router stands in its status, which no tenant can write. Its farm then gives it the gateway's address, placement leaves the
//! farm's quota out of it, and its host gives it a second card, in the public network. All that it does it is told through the
//! agent of its guest, as files that follow from the objects alone.

mod act;
mod addresses;
mod desired;
mod keys;
mod observe;
mod peers;
mod plan;
mod status;
mod talk;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tunnels;

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tokio_stream::wrappers::WatchStream;

use self::observe::{Memory, View, observe};
use self::plan::{Plan, Step, Telling, plan};
use self::status::{PEERS_JOINED, SHARE};
use self::talk::{Guest, Heard};
use super::cache::reference;
use super::context::Context;
use super::error::Error;
use super::placement::observe::key;
use super::runner;
use super::writes::{add_finalizer, apply_status, remove_finalizer};
use crate::api::conditions::find;
use crate::api::{FINALIZER, VRouter};
use crate::metrics::Counted;

/// A router on which nothing happens is asked this often whether it works by what it was told.
const POLL: Duration = Duration::from_secs(10);

/// One that doesn't yet is looked at again after this time; mostly something wakes it before.
const SOON: Duration = Duration::from_secs(2);

/// Tunnels that were changed so lately are new.
const NEW: Duration = Duration::from_secs(30);

/// What a router counts is read this often.
const COUNT: Duration = Duration::from_secs(30);

/// What changes in a farm within this time is told at once.
const GATHER: Duration = Duration::from_millis(100);

/// Runs the controller until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    let memory = Arc::new(Memory::default());
    let triggers = triggers(&context);
    let routers = Arc::clone(&context.caches.routers);
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
    } else if !router.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
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
    act::act(context, &view.router.namespace().unwrap_or_default(), &plan.steps).await?;
    tell_of_deletions(context, &view.router, &plan.steps).await;
    let heard = tell(context, memory, &view, &plan).await?;
    count(context, memory, &view, &plan, heard.as_ref()).await?;

    let now = context.clock.now();
    let silent_since = view.machine.as_ref().and_then(|machine| memory.recall(machine).silent_since);
    let view = View { silent_since, ..view };
    let after = status::status(&view, &plan, heard.as_ref(), now);
    let before = routers.latest(&view.router).unwrap_or_else(|| Arc::clone(&view.router));
    if after.vpn.is_none() && before.status.as_ref().is_some_and(|status| status.vpn.is_some()) {
        keys::remove(context, memory, &view.router).await?;
    }
    apply_status(context, routers, &api, &before, &SHARE, &after).await?;
    for news in status::news(before.status.as_ref(), &after) {
        let about = view.router.object_ref(&());
        if news.warning {
            context.events.warning(about, &news.reason, "Reconcile", news.note).await;
        } else {
            context.events.normal(about, &news.reason, "Reconcile", news.note).await;
        }
    }
    let at_rest = plan.steps.is_empty() && plan.wait.is_none() && matches!(heard, Some(Heard::InForce(_)));
    let patience = poll(&routers.latest(&view.router).unwrap_or(view.router), now);
    Ok(Action::requeue(if at_rest || plan.tell.is_none() { patience } else { SOON }))
}

/// Tells the router what to do, unless it said so lately that it does.
async fn tell(context: &Context, memory: &Memory, view: &View, plan: &Plan) -> Result<Option<Heard>, Error> {
    let (Some(Telling { host, uuid, started, documents }), Some(machine)) = (&plan.tell, &view.machine) else {
        return Ok(None);
    };
    let now = context.clock.now();
    let known = memory.recall(machine);
    let patience = poll(&view.router, now);
    let is_fresh = |time: Timestamp| age(time, now) < patience && started.is_none_or(|started| time > started);
    if known.hash().is_some_and(|(hash, time)| hash == documents.hash() && is_fresh(time)) {
        return Ok(known.heard.map(|(heard, _)| heard));
    }
    let Some(host) = context.fleet.get(host) else { return Ok(None) };
    match (Guest { host: &*host.host, uuid: *uuid }).bring_to(documents).await {
        Ok(heard) => {
            memory.hear(machine, &heard, context.clock.now());
            Ok(Some(heard))
        }
        Err(source) => Err(Error::Host { host: host.name.clone(), source }),
    }
}

/// Reads what the router counted, for Prometheus. One that doesn't work has counted nothing.
async fn count(
    context: &Context,
    memory: &Memory,
    view: &View,
    plan: &Plan,
    heard: Option<&Heard>,
) -> Result<(), Error> {
    let farm = key(&*view.router);
    let (Some(Telling { host, uuid, .. }), Some(machine), Ok(desired)) = (&plan.tell, &view.machine, &view.desired)
    else {
        context.metrics.routers.forget(&farm);
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

async fn tell_of_deletions(context: &Context, router: &VRouter, steps: &[Step]) {
    for step in steps {
        if let Step::Delete(_, why) = step
            && why.reason != "Deleting"
        {
            context.events.warning(router.object_ref(&()), why.reason, "Replacing", why.message.clone()).await;
        }
    }
}
