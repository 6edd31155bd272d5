//! `Hypervisor`: keeps a connection to each host, tells how it is, and leaves nothing behind on it.

mod act;
mod certificates;
mod claims;
mod copies;
mod departed;
pub mod loss;
mod observe;
mod orphans;
mod outage;
mod owners;
mod plan;
mod pool;
mod status;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};

use super::cache::reference;
use super::context::Context;
use super::error::Error;
use super::fleet::{Change, FleetHost};
use super::news::{remind, tell};
use super::runner;
use super::writes::{add_finalizer, apply_status_unless_changed, remove_finalizer, tell_kept};
use crate::api::{Hypervisor, HypervisorStatus, VirtualFarm, has_our_finalizer};
use crate::libvirt::HostError;
use loss::Patience;
use observe::observe;
use plan::{Reach, plan};

/// Machines come and go in swarms; the sums of a host are told once for all that happens within this time.
const GATHER: Duration = Duration::from_millis(500);

/// A Secret that was renewed is noticed within this time.
const STEADY: Duration = Duration::from_secs(60);

/// What may or may not belong to nobody is looked at again after this time.
const UNSURE: Duration = Duration::from_secs(5);

/// Runs the controller until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    claims::guard(&context);
    let triggers = triggers(&context);
    let hypervisors = Arc::clone(&context.caches.hypervisors);
    remind(&context, &hypervisors, "Survey", status::lasting);
    runner::run(context, &hypervisors, triggers, GATHER, shutdown, reconcile).await;
}

/// What wakes a host's controller: the host itself, the machines that have it, farms that are gone, images that it may hold, its
/// twins.
fn triggers(context: &Arc<Context>) -> stream::BoxStream<'static, ObjectRef<Hypervisor>> {
    let on_hosts = context.fleet.changes().map(|change| match change {
        Change::Reach(host) | Change::Stock(host) | Change::Domain(host, _) => reference("", &host),
    });
    let of_machines = context.caches.machines.changes().filter_map(|machine| {
        let host = machine.status.as_ref().and_then(|status| status.hypervisor.as_deref());
        std::future::ready(host.map(|host| reference("", host)))
    });
    let of_farms = {
        let (farms, machines) = (Arc::clone(&context.caches.farms), Arc::clone(&context.caches.machines));
        let gone = move |farm: &Arc<VirtualFarm>| farm.uid().is_some_and(|uid| !farms.has_uid(&uid));
        context.caches.farms.changes().filter(move |farm| std::future::ready(gone(farm))).flat_map(move |farm| {
            let of_farm = machines.named(&farm.namespace().unwrap_or_default(), "");
            let hosts = of_farm.iter().filter_map(|machine| machine.status.as_ref()?.hypervisor.clone());
            stream::iter(hosts.map(|host| reference("", &host)).collect::<Vec<_>>())
        })
    };
    let hypervisors = Arc::clone(&context.caches.hypervisors);
    let all =
        move || stream::iter(hypervisors.list().iter().map(|host| ObjectRef::from_obj(&**host)).collect::<Vec<_>>());
    let of_images = context.caches.images.changes().flat_map({
        let all = all.clone();
        move |_| all()
    });
    let of_twins = context.caches.hypervisors.changes().filter(|host| {
        // Only one that goes can make room for another.
        std::future::ready(host.metadata.deletion_timestamp.is_some())
    });
    let of_twins = of_twins.flat_map(move |_| all());
    stream::select_all([on_hosts.boxed(), of_machines.boxed(), of_farms.boxed(), of_images.boxed(), of_twins.boxed()])
        .boxed()
}

async fn reconcile(hypervisor: Arc<Hypervisor>, context: Arc<Context>) -> Result<Action, Error> {
    let api: Api<Hypervisor> = context.cluster_api();
    let cache = &context.caches.hypervisors;
    let deleted = hypervisor.metadata.deletion_timestamp.is_some();
    if deleted && !has_our_finalizer(&*hypervisor) {
        context.fleet.disconnect(&hypervisor.name_any());
        tell_kept(&context, &*hypervisor).await?;
        return Ok(Action::await_change());
    }
    if !deleted {
        add_finalizer(&context, cache, &api, &hypervisor).await?;
    }
    let hypervisor = cache.latest(&hypervisor).unwrap_or(hypervisor);

    let (seen, host) = observe(&context, &hypervisor).await?;
    if host.is_none() {
        context.fleet.disconnect(&hypervisor.name_any());
    }
    let now = context.clock.now();
    let plan = plan(&hypervisor, &seen, &Patience::from(&context.site().timings), now);
    if plan.release {
        context.fleet.disconnect(&hypervisor.name_any());
        context.fleet.sightings().forget(&hypervisor.name_any());
        if let Some(note) = outage::left_behind(&plan) {
            context.events.warning(hypervisor.object_ref(&()), "LeftBehind", "Delete", note).await;
        }
        context.metrics.forget_host(&hypervisor.name_any());
        remove_finalizer(&context, cache, &api, &hypervisor).await?;
        return Ok(Action::await_change());
    }
    let mut work = Work::default();
    if let Some(host) = host.as_ref().filter(|_| !plan.cut_offs.is_empty()) {
        work.note(act::cut_off(host, &plan.cut_offs).await);
    }
    let after = status::status(&hypervisor, &seen, &plan, &context.namespace, now);
    // Others act upon tombstones and fences: a status that was decided from an older one doesn't replace it.
    apply_status_unless_changed(&context, cache, &api, &hypervisor, &status::SHARE, &after).await?;
    measure(&context, &hypervisor, &seen, &after);
    for news in status::news(&hypervisor, &plan, &after) {
        tell(&context, cache, &*hypervisor, "Survey", news).await;
    }
    if let Some(host) = host {
        carry_out(&context, &hypervisor, &host, &plan, &mut work).await;
        work.outcome(&host)?;
    }
    Ok(Action::requeue(pause(&plan, deleted)))
}

/// What came of the work on a host: one part that fails keeps none of the others from being done.
#[derive(Default)]
struct Work {
    failed: Option<HostError>,
}

impl Work {
    fn note(&mut self, outcome: Result<(), HostError>) {
        if let Err(error) = outcome {
            self.failed.get_or_insert(error);
        }
    }

    /// A host that doesn't answer is asked for nothing more.
    fn is_over(&self) -> bool {
        self.failed.as_ref().is_some_and(HostError::is_silence)
    }

    fn outcome(self, host: &FleetHost) -> Result<(), Error> {
        self.failed.map_or(Ok(()), |source| Err(Error::Host { host: host.name.clone(), source }))
    }
}

async fn carry_out(context: &Context, hypervisor: &Hypervisor, host: &FleetHost, plan: &plan::Plan, work: &mut Work) {
    if !plan.removals.is_empty() && !work.is_over() {
        work.note(act::remove(host, &plan.removals, &context.metrics).await);
    }
    if plan.renews_rules && !work.is_over() {
        let renewed = act::renew_rules(host).await;
        if let Some(renewed) = renewed.as_ref().ok().filter(|renewed| !renewed.is_empty()) {
            let note = format!("guests behind {} have the rules of this version now", renewed.join(", "));
            context.events.normal(hypervisor.object_ref(&()), "RulesRenewed", "Renew", note).await;
        }
        work.note(renewed.map(|_| ()));
    }
    if !plan.steps.is_empty() && !work.is_over() {
        work.note(act::act(host, &plan.steps).await);
    }
}

/// What is counted of a host.
fn measure(context: &Context, hypervisor: &Hypervisor, seen: &plan::View, after: &HypervisorStatus) {
    let (metrics, name) = (&context.metrics, hypervisor.name_any());
    metrics.set_tombstones(&name, after.tombstones.len());
    metrics.set_orphans(&name, seen.sweep.orphans.domains.len(), seen.sweep.bytes.get());
    metrics.set_doubted(&name, seen.seen.as_ref().is_some_and(|view| view.doubt.is_some()));
    for (which, end) in certificates::ends(&seen.certificates) {
        metrics.set_certificate_expiry(&name, which, end.as_second());
    }
}

fn pause(plan: &plan::Plan, deleted: bool) -> Duration {
    match plan.reach {
        _ if deleted || !plan.removals.is_empty() || !plan.cut_offs.is_empty() => Duration::from_secs(1),
        Some(Reach::Quiet(_) | Reach::Doubted(_)) => Duration::from_secs(2),
        _ if plan.is_unsure => UNSURE,
        _ => plan.loss.again.map_or(STEADY, |again| again.clamp(Duration::from_millis(100), STEADY)),
    }
}
