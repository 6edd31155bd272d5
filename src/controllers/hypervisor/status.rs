//! What is told of a host. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::certificates::{self, CERTIFICATE_EXPIRING};
use super::loss::is_stated;
use super::orphans::ORPHANS;
use super::outage::{STRAY_COPIES, fenced, losses, removing, stray_copies, unfence};
use super::plan::{self, Plan, Reach, Refusal, View};
use crate::api::conditions::{self, FENCED, READY, State};
use crate::api::{Hypervisor, HypervisorStatus, Maintenance, PoolMark};
use crate::controllers::isolation::admits_machines;
use crate::controllers::news::News;
use crate::controllers::writes::Share;

/// What of the status the controller writes.
pub const SHARE: Share = Share {
    manager: "cascina-hypervisor",
    fields: &[
        "observedGeneration",
        "phase",
        "hostUuid",
        "poolMark",
        "capacity",
        "allocatable",
        "allocated",
        "cpuAllocation",
        "memoryAllocation",
        "machines",
        "libvirtVersion",
        "qemuVersion",
        "cpuModel",
        "cachedImages",
        "lastContact",
        "unreachableSince",
        "copies",
        "tombstones",
    ],
    conditions: &[READY, "Reachable", "Schedulable", FENCED, STRAY_COPIES, ORPHANS, CERTIFICATE_EXPIRING, "Deleting"],
};

/// Reason of a host whose answer isn't believed, because much is missing in it.
const MASS_VANISH: &str = "MassVanish";

/// How many copies the status lists.
pub(super) const LISTED_COPIES: usize = 2048;

/// With so many copies a host takes no more: what a pass of placement still gives it before it sees that has its place in the list.
pub(super) const MOST_COPIES: usize = LISTED_COPIES - 128;

/// How many revisions the status lists.
const LISTED_IMAGES: usize = 256;

/// The controller's share of the status.
pub fn status(hypervisor: &Hypervisor, seen: &View, plan: &Plan, namespace: &str, now: Timestamp) -> HypervisorStatus {
    let before = hypervisor.status.clone().unwrap_or_default();
    let generation = hypervisor.metadata.generation;
    let allocated = seen.pool_mates.with(plan::allocated(&seen.placed));
    let mut status = HypervisorStatus {
        observed_generation: generation,
        phase: plan.phase,
        allocated: Some(allocated),
        machines: i32::try_from(seen.placed.len()).ok(),
        unreachable_since: plan.loss.since.map(Time),
        copies: plan.residents.iter().take(LISTED_COPIES).cloned().collect(),
        tombstones: plan.loss.tombstones.clone(),
        conditions: conditions::stamp(
            states(hypervisor, seen, plan, namespace, now),
            &before.conditions,
            generation,
            now,
        ),
        ..before
    };
    if let Some(survey) = seen.seen.as_ref().and_then(|view| view.survey.present()) {
        let capacity = plan::capacity(hypervisor.spec.capacity.as_ref(), &survey.facts, survey.space);
        status.capacity = Some(capacity);
        status.host_uuid = survey.facts.uuid.map(|uuid| uuid.to_string()).or(status.host_uuid);
        let found = || plan::found_mark(survey).cloned();
        status.pool_mark = plan::pool_mark(hypervisor)
            .cloned()
            .or_else(|| found().map(|volume| PoolMark { pool: hypervisor.spec.storage.pool.clone(), volume }));
        status.libvirt_version = Some(survey.facts.libvirt_version.clone());
        status.qemu_version = Some(survey.facts.qemu_version.clone());
        status.cpu_model = Some(survey.facts.cpu_model.clone());
        status.cached_images = seen.cached_images.iter().take(LISTED_IMAGES).cloned().collect();
        let contact = seen.seen.as_ref().and_then(|view| view.last_contact);
        status.last_contact = contact.map(whole_minute).map(Time);
    }
    let own = status.capacity.map(|capacity| plan::allocatable(hypervisor, capacity, seen.kept_back));
    status.allocatable = own.map(|own| seen.pool_mates.admit(own));
    if let Some(allocatable) = status.allocatable {
        status.cpu_allocation = Some(format!("{}/{}", allocated.cpu, allocatable.cpu));
        status.memory_allocation =
            Some(format!("{}/{}", allocated.memory.whole_mebibytes(), allocatable.memory.whole_mebibytes()));
    }
    status
}

/// The last contact is told to the minute, or it would be a write at every heartbeat.
fn whole_minute(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second().div_euclid(60) * 60).unwrap_or(time)
}

fn states(hypervisor: &Hypervisor, seen: &View, plan: &Plan, namespace: &str, now: Timestamp) -> Vec<State> {
    let mut states = vec![ready(hypervisor, seen, plan)];
    states.extend(plan.reach.as_ref().map(reachable));
    states.push(schedulable(hypervisor, seen, plan));
    states.extend(plan.loss.fence.map(|fence| fenced(hypervisor, fence)));
    states.extend(stray_copies(plan));
    if matches!(plan.reach, Some(Reach::Answers)) && seen.refusal.is_none() {
        states.push(seen.sweep.state(&hypervisor.name_any()));
    }
    states.extend(certificates::state(hypervisor, &seen.certificates, namespace, now));
    if hypervisor.metadata.deletion_timestamp.is_some() {
        let cleaning = Refusal::new("Cleaning", "it is being let go");
        let waits = plan.waits.as_ref().unwrap_or(&cleaning);
        states.push(State::yes("Deleting", waits.reason, waits.message.clone()));
    }
    states
}

fn ready(hypervisor: &Hypervisor, seen: &View, plan: &Plan) -> State {
    if let Some(refusal) = &seen.refusal {
        return State::no(READY, refusal.reason, refusal.message.clone());
    }
    match &plan.reach {
        Some(Reach::Answers) => State::yes(READY, "Answers", format!("{} answers", hypervisor.spec.uri)),
        Some(Reach::Quiet(why)) => State::unknown(READY, "NotAnswering", why.clone()),
        Some(Reach::Doubted(why)) => State::unknown(READY, MASS_VANISH, doubt(why)),
        Some(Reach::Lost { reason, message, .. }) => State::no(READY, *reason, message.clone()),
        None => State::unknown(READY, "Connecting", "no connection yet"),
    }
}

/// Said while an answer in which much is missing isn't believed.
fn doubt(why: &str) -> String {
    format!(
        "{why}: nothing is made or removed before a second answer says the same; is its pool mounted, is its libvirtd whole?"
    )
}

fn reachable(reach: &Reach) -> State {
    match reach {
        Reach::Answers => State::yes("Reachable", "Answers", "the host answers"),
        Reach::Quiet(why) => State::unknown("Reachable", "NotAnswering", why.clone()),
        Reach::Doubted(why) => State::unknown("Reachable", MASS_VANISH, doubt(why)),
        Reach::Lost { reason, message, .. } => State::no("Reachable", *reason, message.clone()),
    }
}

/// Whether placement may put new machines here.
fn schedulable(hypervisor: &Hypervisor, seen: &View, plan: &Plan) -> State {
    if let Some(refusal) = &seen.refusal {
        return State::no("Schedulable", refusal.reason, refusal.message.clone());
    }
    if hypervisor.metadata.deletion_timestamp.is_some() {
        return State::no("Schedulable", "Deleting", "it is being deleted");
    }
    if hypervisor.spec.maintenance != Maintenance::None {
        return State::no("Schedulable", "Cordoned", "spec.maintenance keeps new machines away");
    }
    if is_stated(hypervisor) {
        return State::no("Schedulable", "Fenced", format!("somebody said that it is off; {}", unfence(hypervisor)));
    }
    if plan.is_swept_first() {
        return State::no("Schedulable", "RemovingStaleCopies", removing(plan));
    }
    if plan.residents.len() >= MOST_COPIES {
        return State::no("Schedulable", "TooManyCopies", too_many(plan.residents.len()));
    }
    match &plan.reach {
        Some(Reach::Answers) if !hypervisor.status.as_ref().is_some_and(admits_machines) => {
            State::no("Schedulable", "IsolationNotVerified", "see the condition IsolationVerified")
        }
        Some(Reach::Answers) => State::yes("Schedulable", "Open", "new machines may be placed here"),
        _ => State::no("Schedulable", "Unreachable", "it doesn't answer"),
    }
}

/// What a person has to act on if it lasts, by the status alone.
pub fn lasting(hypervisor: &Hypervisor) -> Option<News> {
    answer(&Hypervisor { status: None, ..hypervisor.clone() }, hypervisor.status.as_ref()?).filter(News::has_to_last)
}

/// Said of a host with more machines and copies than its status has room for.
fn too_many(copies: usize) -> String {
    let unlisted = copies.saturating_sub(LISTED_COPIES);
    let unlisted = match unlisted {
        0 => String::new(),
        _ => format!(
            "; {unlisted} of them are not in status.copies: what becomes of these while it is silent is not known"
        ),
    };
    format!("{copies} machines and copies are on it, and its status lists {LISTED_COPIES}{unlisted}: delete some")
}

/// What is worth an event in the step from the old status to the new.
pub fn news(hypervisor: &Hypervisor, plan: &Plan, after: &HypervisorStatus) -> Vec<News> {
    let warned = [ORPHANS, CERTIFICATE_EXPIRING].into_iter().filter_map(|kind| warning(hypervisor, kind, after));
    answer(hypervisor, after).into_iter().chain(losses(hypervisor, plan, after)).chain(warned).collect()
}

/// A condition that came true, or is true for another reason.
fn warning(hypervisor: &Hypervisor, kind: &str, after: &HypervisorStatus) -> Option<News> {
    let before = hypervisor.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let new = conditions::find(&after.conditions, kind).filter(|new| new.status == "True")?;
    let told = conditions::find(before, kind).is_some_and(|old| old.status == "True" && old.reason == new.reason);
    (!told).then(|| News::warning(kind, format!("{}: {}", hypervisor.name_any(), new.message)))
}

fn answer(hypervisor: &Hypervisor, after: &HypervisorStatus) -> Option<News> {
    let before = hypervisor.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let old = conditions::find(before, READY);
    let new = conditions::find(&after.conditions, READY)?;
    if old.is_some_and(|old| old.status == new.status && old.reason == new.reason) {
        return None;
    }
    let message = format!("{}: {}", hypervisor.name_any(), new.message);
    match new.status.as_str() {
        "True" => Some(News::normal("HostReady", message)),
        // What it is reached with may be applied after it.
        "False" if after.last_contact.is_none() => Some(News::if_it_lasts(READY, &new.reason, message)),
        "False" => Some(News::warning(&new.reason, message)),
        "Unknown" if new.reason == MASS_VANISH => Some(News::warning(&new.reason, message)),
        _ => None,
    }
}
