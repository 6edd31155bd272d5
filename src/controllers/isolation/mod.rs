//! Isolation of hosts: proves with packets, again and again, that each host keeps farms apart.
//!
//! On every host runs a canary, a small guest of the operator's own with four network cards behind the same filters as
//! everybody's: attacker, victim and peer in one farm, an outsider in another. The operator asks it through its agent to
//! attack itself, judges what arrived, and says so in the condition `IsolationVerified`, without which placement puts no
//! new machine on the host. What libvirt believes of its filters is not asked. Filters that were lost are put back.

mod act;
mod evidence;
mod observe;
mod plan;
mod recipe;
#[cfg(test)]
mod slot_tests;
mod slots;
mod status;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::Arc;

use futures::{StreamExt, stream};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio_stream::wrappers::WatchStream;

use super::cache::reference;
use super::context::Context;
use super::error::Error;
use super::fleet::Change;
use super::news::{remind, tell};
use super::runner;
use super::writes::apply_status;
use crate::api::{FINALIZER, Hypervisor};
use act::{Deeds, Outcome, act};
use evidence::Memory;
use observe::{Observation, observe};
use plan::plan;
use verdict::Verdict;

pub use recipe::kept_back;
pub use status::admits_machines;

/// Runs the controller until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    let triggers = triggers(&context);
    let hypervisors = Arc::clone(&context.caches.hypervisors);
    let memory = Arc::new(Memory::default());
    remind(&context, &hypervisors, "SelfTest", status::lasting);
    let reconcile = move |hypervisor, context| reconcile(hypervisor, context, Arc::clone(&memory));
    runner::run(context, &hypervisors, triggers, std::time::Duration::ZERO, shutdown, reconcile).await;
}

/// What wakes a host's test besides its own changes and its interval: the host, and the site's settings.
fn triggers(context: &Arc<Context>) -> stream::BoxStream<'static, ObjectRef<Hypervisor>> {
    let on_hosts = context.fleet.changes().filter_map(|change| {
        std::future::ready(match change {
            Change::Reach(host) | Change::Stock(host) => Some(reference("", &host)),
            Change::Domain(..) => None,
        })
    });
    let hypervisors = Arc::clone(&context.caches.hypervisors);
    let all =
        move || stream::iter(hypervisors.list().iter().map(|host| ObjectRef::from_obj(&**host)).collect::<Vec<_>>());
    let of_images = context.caches.images.changes().flat_map({
        let all = all.clone();
        move |_| all()
    });
    let of_site = WatchStream::from_changes(context.site.clone()).flat_map(move |_| all());
    stream::select_all([on_hosts.boxed(), of_images.boxed(), of_site.boxed()]).boxed()
}

async fn reconcile(hypervisor: Arc<Hypervisor>, context: Arc<Context>, memory: Arc<Memory>) -> Result<Action, Error> {
    let name = hypervisor.name_any();
    if !hypervisor.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        // Either nothing was made for it yet, or nothing is left.
        memory.forget(&hypervisor);
        context.metrics.isolation.forget(&name);
        return Ok(Action::await_change());
    }
    let Observation { mut view, host } = observe(&context, &hypervisor, &memory).await?;
    let plan = plan(&view, context.clock.now());
    let mut deeds = Deeds::default();
    if let Some(host) = host.filter(|_| !plan.steps.is_empty()) {
        deeds = act(&context, &host, &view, &plan.steps).await;
    }
    let now = context.clock.now();
    let repaired = view.evidence.learn(&deeds, now);
    memory.keep(&hypervisor, view.evidence.clone());
    count(&context, &name, &deeds);

    let after = status::status(&hypervisor, &view, now);
    context.metrics.isolation.verified(&name, status::is_verified(&after));
    let api: Api<Hypervisor> = context.cluster_api();
    apply_status(&context, &context.caches.hypervisors, &api, &hypervisor, &status::SHARE, &after).await?;
    for news in status::news(&hypervisor, &after, repaired) {
        tell(&context, &context.caches.hypervisors, &*hypervisor, "SelfTest", news).await;
    }
    match deeds.error {
        Some(source) => Err(Error::Host { host: name, source }),
        None => Ok(Action::requeue(plan::pause(&view, now))),
    }
}

fn count(context: &Context, host: &str, deeds: &Deeds) {
    let metrics = &context.metrics.isolation;
    if deeds.refreshed {
        metrics.repaired(host);
    }
    match &deeds.outcome {
        Some(Outcome::Judged(Verdict::Held)) => metrics.held(host, context.clock.now()),
        Some(Outcome::Judged(Verdict::Leaked(attacks))) => metrics.leaked(host, attacks.iter().map(|a| a.name())),
        Some(Outcome::Judged(Verdict::Inconclusive(_))) => metrics.inconclusive(host),
        Some(Outcome::NoAnswer) | None => {}
    }
}
