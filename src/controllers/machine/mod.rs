//! `VirtualMachine`: makes, starts, watches, stops and removes the domain of each machine on the host that placement
//! chose for it.

mod act;
mod drift;
mod flavour;
mod host;
mod news;
mod observe;
mod plan;
pub mod recipe;
#[cfg(test)]
mod router_tests;
mod situation;
mod status;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod told_tests;
mod triggers;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};

use super::context::Context;
use super::error::Error;
use super::news::{remind, tell as tell_news};
use super::runner;
use super::writes::{add_finalizer, apply_status, remove_finalizer};
use crate::api::conditions::find;
use crate::api::{DriftPolicy, Phase, VirtualMachine, VirtualMachineStatus, has_our_finalizer};
use crate::controllers::ledger::Holding;
use crate::controllers::observed::Observed;
use crate::controllers::placement::standing::is_removed;
use crate::libvirt::{DomainRun, DomainUuid, HostError, SurveyedDomain, domain_name};
use act::{Outcome, is_overtaken};
use observe::{Observation, observe};
use plan::{GONE, LEFT_BEHIND, plan};
use recipe::Recipe;
use situation::{Failure, Plan, Standing, Step, View, Want};

/// A wait shorter than this isn't worth a write: mostly the next step comes first.
const HASTY: Duration = Duration::from_secs(2);

/// What was put right is looked at again after this time; so is what couldn't be.
const REPAIRED: Duration = Duration::from_secs(5);

/// A machine whose plan was overtaken is looked at anew after this time; mostly its change has woken it already.
const OVERTAKEN: Duration = Duration::from_secs(1);

/// A machine whose host is quiet for the moment is looked at again after this time, or when the host answers.
const QUIET: Duration = Duration::from_secs(1);

/// Runs the controller until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    let triggers = triggers::triggers(&context);
    let machines = Arc::clone(&context.caches.machines);
    remind(&context, &machines, "Reconcile", news::lasting);
    runner::run(context, &machines, triggers, Duration::ZERO, shutdown, reconcile).await;
}

async fn reconcile(machine: Arc<VirtualMachine>, context: Arc<Context>) -> Result<Action, Error> {
    let api: Api<VirtualMachine> = context.api(&machine.namespace().unwrap_or_default());
    let cache = &context.caches.machines;
    let deleted = machine.metadata.deletion_timestamp.is_some();
    let machine = if deleted {
        if !has_our_finalizer(&*machine) {
            if is_removed(&machine) && !machine.finalizers().is_empty() {
                tell_removed(&context, &machine).await?;
            }
            return Ok(Action::await_change());
        }
        newest_for_removal(&context, &api, machine).await?
    } else {
        add_finalizer(&context, cache, &api, &machine).await?;
        cache.latest(&machine).unwrap_or(machine)
    };

    let host = machine.status.as_ref().and_then(|status| status.hypervisor.as_deref());
    let patience = context.site().timings.unreachable_after;
    if host.is_some_and(|host| context.fleet.is_quiet(host, patience)) {
        return Ok(Action::requeue(QUIET));
    }
    let now = context.clock.now();
    let mut seen = observe(&context, &machine).await?;
    let want = want(&context, &machine);
    let mut plan = plan(&want, &seen.view, now);
    // Its object stays anyhow, and counts as long as a host may have something of it. It is let go when it is the last one.
    let is_kept = machine.finalizers().len() > 1 && !plan.leaves_nothing(&seen.view.placement);
    if plan.release && !is_kept {
        if machine.finalizers().len() > 1 && tell_removed(&context, &machine).await? {
            return Ok(Action::requeue(OVERTAKEN));
        }
        if plan.standing.reason == LEFT_BEHIND {
            context.events.warning(machine.object_ref(&()), LEFT_BEHIND, "Delete", plan.standing.message.clone()).await;
        }
        if let Some(host) = host.filter(|_| plan.standing.reason == GONE) {
            context.fleet.sightings().releases(host, &machine.uid().unwrap_or_default(), now);
        }
        remove_finalizer(&context, cache, &api, &machine).await?;
        return Ok(Action::await_change());
    }
    let mut passed = Vec::new();
    if !plan.steps.is_empty() {
        match carry_out(&context, &mut seen, &machine, &mut plan).await? {
            Some(phases) => passed = phases,
            None => return Ok(Action::requeue(OVERTAKEN)),
        }
    }
    put_right(&context, &seen, &machine, &mut plan).await?;
    let now = context.clock.now();
    if plan.standing.phase == Phase::Pending && is_hasty(&machine, now) {
        return Ok(Action::requeue(HASTY));
    }
    let after = status::status(&machine, &seen.view, &plan, want.drift, &passed, now);
    apply_status(&context, cache, &api, &machine, &status::SHARE, &after).await?;
    tell(&context, &machine, &after, &plan.standing).await;
    tell_drift(&context, &machine, &plan, want.drift).await;
    Ok(Action::requeue(plan.again))
}

/// Says of a machine of which nothing is left that finalizers of others keep its object. Whether that was news.
async fn tell_removed(context: &Context, machine: &VirtualMachine) -> Result<bool, Error> {
    let api: Api<VirtualMachine> = context.api(&machine.namespace().unwrap_or_default());
    let before = machine.status.clone().unwrap_or_default();
    let after = status::removed(machine, context.clock.now());
    apply_status(context, &context.caches.machines, &api, machine, &status::SHARE, &after).await?;
    let told = |status: &VirtualMachineStatus| find(&status.conditions, "Deleting").map(|told| told.message.clone());
    Ok(told(&before) != told(&after))
}

/// Does the plan's steps and lets its standing say how that went; the phases that were passed on the way. `None`: the
/// plan was overtaken, and says nothing of the machine any more.
async fn carry_out(
    context: &Context,
    seen: &mut Observation,
    machine: &VirtualMachine,
    plan: &mut Plan,
) -> Result<Option<Vec<(Phase, Timestamp)>>, Error> {
    let (Some(host), Ok(uid)) = (&seen.host, recipe::uid(machine)) else { return Ok(Some(Vec::new())) };
    let starts = plan.steps.contains(&Step::Start);
    let resumes = plan.steps.contains(&Step::Resume);
    let sets_clock = plan.steps.contains(&Step::SetClock);
    let begun = context.clock.now();
    if resumes {
        host.note_resumed(DomainUuid(uid), begun);
    }
    let is_overtaken = || is_overtaken(machine, context.caches.machines.latest(machine).as_deref());
    let sightings = context.fleet.sightings();
    if let Some(holding) = Holding::of_object(machine).filter(|_| starts) {
        sightings.begins(&host.name, holding);
    }
    let outcome = act::act(host, DomainUuid(uid), &seen.view, &plan.steps, is_overtaken).await;
    sightings.ends(&host.name, &uid.to_string(), context.clock.now());
    match outcome {
        Ok(Outcome::Overtaken) => Ok(None),
        Ok(Outcome::Done) if starts => {
            // What the next look would find is told now, and needs no write of its own then.
            seen.view.domain = started(&seen.view);
            plan.standing.phase = Phase::Booting;
            "Booting".clone_into(&mut plan.standing.reason);
            "waits for the guest's agent".clone_into(&mut plan.standing.message);
            Ok(Some(vec![(Phase::Scheduled, begun), (Phase::Provisioning, begun)]))
        }
        Ok(Outcome::Done) => {
            plan.clock = plan.clock.filter(|_| !sets_clock);
            Ok(Some(Vec::new()))
        }
        Err(error) if sets_clock && !error.is_silence() => {
            tracing::debug!(host = %host.name, machine = %uid, %error, "a guest's clock can't be set yet");
            Ok(Some(Vec::new()))
        }
        Err(error) if resumes && !error.is_silence() => {
            tracing::warn!(host = %host.name, %error, "a guest that an I/O error paused can't be resumed yet");
            Ok(Some(Vec::new()))
        }
        Err(error) if error.is_silence() || !starts => {
            host.refresh();
            Err(Error::Host { host: host.name.clone(), source: error })
        }
        Err(error) => {
            host.refresh();
            refused(plan, seen, &error, context.clock.now());
            Ok(Some(Vec::new()))
        }
    }
}

/// Puts right what somebody changed by hand. A host that refuses that is told of; whatever else there is goes on.
async fn put_right(
    context: &Context,
    seen: &Observation,
    machine: &VirtualMachine,
    plan: &mut Plan,
) -> Result<(), Error> {
    let (Some(host), Ok(uid)) = (seen.host.as_ref().filter(|_| !plan.repairs.is_empty()), recipe::uid(machine)) else {
        return Ok(());
    };
    let is_overtaken = || is_overtaken(machine, context.caches.machines.latest(machine).as_deref());
    match act::act(host, DomainUuid(uid), &seen.view, &plan.repairs, is_overtaken).await {
        Err(error) if error.is_silence() => return Err(Error::Host { host: host.name.clone(), source: error }),
        outcome => plan.repair_failure = outcome.err().map(|error| error.to_string()),
    }
    plan.again = plan.again.min(REPAIRED);
    Ok(())
}

/// The domain as it is right after its start.
fn started(view: &View) -> Observed<SurveyedDomain> {
    let Ok(Recipe { domain, .. }) = &view.recipe else { return view.domain.clone() };
    Observed::Present(SurveyedDomain {
        name: domain_name(domain.uuid),
        run: DomainRun::Running,
        tag: Some(domain.tag.clone()),
        canary: None,
        copied_tag: None,
        memory: domain.memory,
        cpus: domain.cpus,
        forms: None,
    })
}

/// The host said no to a start: said, counted, tried again later.
fn refused(plan: &mut Plan, seen: &Observation, error: &HostError, now: Timestamp) {
    let count = seen.view.history.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
    let pause = plan::pause(count);
    let failure =
        Failure { count, retry_after: now.checked_add(pause).unwrap_or(Timestamp::MAX), message: error.to_string() };
    plan.standing = Standing {
        phase: Phase::Scheduled,
        ready: false,
        reason: error.reason().to_owned(),
        message: format!("{error}; tried again in {} s", pause.as_secs()),
        failure: Some(failure),
    };
    plan.again = pause;
}

/// A machine that is to be removed, as the API server has it: a cache that doesn't know of its placement yet would
/// leave its domain behind.
async fn newest_for_removal(
    context: &Context,
    api: &Api<VirtualMachine>,
    machine: Arc<VirtualMachine>,
) -> Result<Arc<VirtualMachine>, Error> {
    if machine.status.as_ref().is_some_and(|status| status.hypervisor.is_some()) {
        return Ok(machine);
    }
    let newest = api.get_opt(&machine.name_any()).await?.filter(|newest| newest.uid() == machine.uid());
    let Some(newest) = newest else { return Ok(machine) };
    context.caches.machines.absorb(newest.clone());
    Ok(Arc::new(newest))
}

fn want(context: &Context, machine: &VirtualMachine) -> Want {
    let timings = &context.site().timings;
    let host = machine.status.as_ref().and_then(|status| status.hypervisor.as_deref()).unwrap_or_default();
    Want {
        deleted: machine.metadata.deletion_timestamp.is_some(),
        run: machine.spec.run_strategy,
        readiness: machine.spec.readiness,
        boot_deadline: timings.boot_deadline,
        // A router keeps nothing that matters.
        shutdown_grace: if machine.router().is_some() { Duration::ZERO } else { timings.shutdown_grace },
        drift: context.caches.hypervisors.get("", host).map(|host| host.spec.drift_policy).unwrap_or_default(),
    }
}

/// Whether the machine is so young that its wait will mostly be over before anybody could read of it.
fn is_hasty(machine: &VirtualMachine, now: Timestamp) -> bool {
    let untold = machine.status.as_ref().is_none_or(|status| status.phase.is_none());
    let young = machine
        .metadata
        .creation_timestamp
        .as_ref()
        .is_some_and(|created| Duration::try_from(now.duration_since(created.0)).unwrap_or_default() < HASTY);
    untold && young
}

async fn tell(context: &Arc<Context>, machine: &VirtualMachine, after: &VirtualMachineStatus, standing: &Standing) {
    for (phase, age) in status::new_phases(machine, after) {
        context.metrics.transition(phase, age);
    }
    for told in news::story(machine, after, standing) {
        tell_news(context, &context.caches.machines, machine, "Reconcile", told).await;
    }
}

/// Whatever was changed by hand is worth an event, once.
async fn tell_drift(context: &Context, machine: &VirtualMachine, plan: &Plan, policy: DriftPolicy) {
    for (drift, repaired) in news::new_drifts(machine, plan, policy) {
        context.metrics.drift(drift.kind.reason(), if repaired { "Repaired" } else { "Reported" });
        let note = format!("{}: {}", drift.what, drift.kind.advice(policy));
        context.events.warning(machine.object_ref(&()), drift.kind.reason(), "Compare", note).await;
    }
}
