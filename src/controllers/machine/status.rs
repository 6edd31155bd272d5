//! What is told of a machine: conditions, phases with their times, events. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::recipe::Recipe;
use super::situation::{Clock, Drift, Placement, Plan, Standing, View};
use crate::api::conditions::{self, READY, State};
use crate::api::{DriftPolicy, FINALIZER, Phase, PhaseTransition, StartFailure, VirtualMachine, VirtualMachineStatus};
use crate::controllers::placement::standing::REMOVED;
use crate::controllers::ssh_keys::{SSH_KEYS_VALID, ssh_keys_valid};
use crate::controllers::writes::Share;
use crate::guest::{Told, told_anew};
use crate::libvirt::{DomainRun, SEED_DEVICE, SurveyedDomain};

/// What of the status the machine's controller writes.
pub const SHARE: Share = Share {
    manager: "cascina-machine",
    fields: &["observedGeneration", "phase", "phaseTransitions", "disksOn", "bootSeconds", "startFailure"],
    conditions: &[
        READY,
        "Provisioned",
        "AgentConnected",
        "InSync",
        "RestartRequired",
        DISKS_KEPT,
        CLOCK_SET,
        SSH_KEYS_VALID,
        "Deleting",
    ],
};

/// Condition of a machine that is on its host as it was made.
pub const IN_SYNC: &str = "InSync";

/// Condition of a machine whose guest's vCPUs stood still, as long as its clock isn't set.
pub const CLOCK_SET: &str = "ClockSet";

/// Condition of a machine whose disks are others than its flavour says.
const DISKS_KEPT: &str = "DisksKept";

/// How many phases the status remembers.
const REMEMBERED: usize = 16;

/// The controller's share of the status.
pub fn status(
    machine: &VirtualMachine,
    seen: &View,
    plan: &Plan,
    policy: DriftPolicy,
    passed: &[(Phase, Timestamp)],
    now: Timestamp,
) -> VirtualMachineStatus {
    let before = machine.status.clone().unwrap_or_default();
    let standing = &plan.standing;
    let generation = machine.metadata.generation;
    let phase_transitions = transitions(&before, standing.phase, passed, now);
    let mut states = vec![ready(standing)];
    states.extend(provisioned(seen, standing));
    states.extend(agent(seen));
    states.extend(in_sync(seen, plan, policy));
    states.extend(restart_required(seen));
    states.extend(seen.kept_disks.as_ref().map(|what| State::yes(DISKS_KEPT, "MadeBefore", what.clone())));
    states.extend(plan.clock.map(clock_set));
    states.extend(seen.recipe.as_ref().ok().and_then(|recipe| ssh_keys_valid(&recipe.bad_keys)));
    if machine.metadata.deletion_timestamp.is_some() {
        states.push(State::yes("Deleting", standing.reason.clone(), standing.message.clone()));
    }
    VirtualMachineStatus {
        observed_generation: generation,
        phase: Some(standing.phase),
        disks_on: disks_on(seen).or(before.disks_on),
        boot_seconds: boot_seconds(&phase_transitions),
        start_failure: standing.failure.as_ref().map(|failure| StartFailure {
            count: failure.count,
            retry_after: Time(conditions::whole_seconds(failure.retry_after)),
            message: failure.message.clone(),
        }),
        conditions: conditions::stamp(states, &before.conditions, generation, now),
        phase_transitions,
        ..VirtualMachineStatus::default()
    }
}

/// The status of a machine of which nothing is left but its object, which finalizers of others keep.
pub fn removed(machine: &VirtualMachine, now: Timestamp) -> VirtualMachineStatus {
    let before = machine.status.clone().unwrap_or_default();
    let generation = machine.metadata.generation;
    let others: Vec<_> = machine.finalizers().iter().map(String::as_str).filter(|name| *name != FINALIZER).collect();
    let message =
        format!("it holds no host and no quota any more; finalizers of others keep it: {}", others.join(", "));
    let states = vec![State::no(READY, REMOVED, message.clone()), State::yes("Deleting", REMOVED, message)];
    VirtualMachineStatus {
        observed_generation: generation,
        phase: Some(Phase::Stopped),
        phase_transitions: transitions(&before, Phase::Stopped, &[], now),
        conditions: conditions::stamp(states, &before.conditions, generation, now),
        ..VirtualMachineStatus::default()
    }
}

fn ready(standing: &Standing) -> State {
    let (reason, message) = (standing.reason.clone(), standing.message.clone());
    match (standing.ready, standing.phase) {
        (true, _) => State::yes(READY, reason, message),
        (false, Phase::Unknown) => State::unknown(READY, reason, message),
        (false, _) => State::no(READY, reason, message),
    }
}

fn provisioned(seen: &View, standing: &Standing) -> Option<State> {
    match standing.phase {
        _ if seen.placement == Placement::Nowhere => None,
        Phase::Pending | Phase::Unknown => None,
        Phase::Scheduled | Phase::Provisioning => {
            Some(State::no("Provisioned", standing.reason.clone(), standing.message.clone()))
        }
        _ => Some(State::yes("Provisioned", "Made", "its volumes and its domain are on its host")),
    }
}

fn agent(seen: &View) -> Option<State> {
    let domain = seen.domain.present()?;
    if matches!(domain.run, DomainRun::Off(_)) {
        return Some(State::no("AgentConnected", "Off", "the domain doesn't run"));
    }
    Some(match seen.agent {
        Some(true) => State::yes("AgentConnected", "Answers", "the guest's agent answers"),
        _ => State::no("AgentConnected", "NoAnswer", "the guest's agent doesn't answer"),
    })
}

/// Whether it is on its host as it was made.
fn in_sync(seen: &View, plan: &Plan, policy: DriftPolicy) -> Option<State> {
    let tell = |drift: &Drift| format!("{}: {}", drift.what, drift.kind.advice(policy));
    match plan.drifts.first() {
        Some(worst) => {
            let mut told: Vec<_> = plan.drifts.iter().map(tell).collect();
            told.extend(plan.repair_failure.as_ref().map(|failure| format!("that failed: {failure}")));
            Some(State::no(IN_SYNC, worst.kind.reason(), told.join("; ")))
        }
        None => seen
            .domain
            .present()
            .filter(|domain| domain.tag.is_some() && domain.forms.is_some())
            .map(|_| State::yes(IN_SYNC, IN_SYNC, "on its host it is as it was made")),
    }
}

/// A machine that runs has its disks where it runs.
fn disks_on(seen: &View) -> Option<String> {
    let domain = seen.domain.present()?;
    let runs = domain.tag.is_some() && !matches!(domain.run, DomainRun::Off(_));
    seen.disks_home.clone().filter(|_| runs)
}

fn clock_set(clock: Clock) -> State {
    match clock {
        Clock::StandsStill => {
            State::no(CLOCK_SET, "StandsStill", "the guest's clock stands still with it, and is set when it goes on")
        }
        Clock::Behind => State::no(
            CLOCK_SET,
            "Behind",
            "the guest stood still, or may have, and its clock with it; it is set as soon as its agent does that",
        ),
    }
}

fn restart_required(seen: &View) -> Option<State> {
    let domain = seen.domain.present().filter(|domain| !matches!(domain.run, DomainRun::Off(_)))?;
    let running = domain.tag.as_ref()?;
    let recipe = seen.recipe.as_ref().ok()?;
    let wanted = &recipe.domain.tag;
    Some(match &seen.outdated {
        Some(what) => State::yes("RestartRequired", "SpecChanged", what.clone()),
        None if running.spec_hash != wanted.spec_hash => {
            let what = changes(domain, recipe);
            State::yes("RestartRequired", "SpecChanged", format!("changed since it was started: {what}"))
        }
        None => State::no("RestartRequired", "UpToDate", "a restart would change nothing"),
    })
}

/// What differs from what a machine runs with, in words.
fn changes(domain: &SurveyedDomain, recipe: &Recipe) -> String {
    let running = domain.forms.as_ref().and_then(|forms| forms.running.as_ref());
    let Some(before) = running.and_then(|running| running.disks.get(SEED_DEVICE)) else {
        return "what its guest is told, or its devices".to_owned();
    };
    let after = recipe.seed.as_ref().map(|seed| seed.name.as_str()).unwrap_or_default();
    if before == after {
        return "its watchdog, its host's bridge or its storage".to_owned();
    }
    let told: Vec<_> = told_anew(before, after).into_iter().map(in_words).collect();
    if told.is_empty() { "its keys, user-data, or network".to_owned() } else { told.join("; ") }
}

const fn in_words(told: Told) -> &'static str {
    match told {
        Told::Keys => "its keys",
        Told::UserData => {
            "its user-data, of which a guest with cloud-init does at its next start only what is for each boot: for the rest \
             make a new machine"
        }
        Told::Domain => "its domain",
        Told::Network => "its gateway, DNS servers or domain",
    }
}

fn transitions(
    before: &VirtualMachineStatus,
    phase: Phase,
    passed: &[(Phase, Timestamp)],
    now: Timestamp,
) -> Vec<PhaseTransition> {
    let mut transitions = before.phase_transitions.clone();
    for (phase, time) in passed.iter().copied().chain([(phase, now)]) {
        if transitions.last().map(|last| last.phase) != Some(phase) {
            transitions.push(PhaseTransition { phase, time: whole_microseconds(time) });
        }
    }
    let surplus = transitions.len().saturating_sub(REMEMBERED);
    transitions.drain(..surplus);
    transitions
}

fn whole_microseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// Seconds from the last start to the first answer after it.
fn boot_seconds(transitions: &[PhaseTransition]) -> Option<i32> {
    let started = transitions.iter().rposition(|transition| transition.phase == Phase::Booting)?;
    let after = transitions.get(started..)?;
    let answered = after.iter().find(|transition| transition.phase == Phase::Running)?;
    let booting = after.first()?;
    i32::try_from(answered.time.duration_since(booting.time).as_secs()).ok()
}

/// How long after its creation each new phase began, for metrics.
pub fn new_phases(machine: &VirtualMachine, after: &VirtualMachineStatus) -> Vec<(Phase, Duration)> {
    let known = machine.status.as_ref().and_then(|status| status.phase_transitions.last()).map(|last| last.time);
    let Some(created) = machine.metadata.creation_timestamp.as_ref() else { return Vec::new() };
    let since = |time: Timestamp| Duration::try_from(time.duration_since(created.0)).unwrap_or_default();
    after
        .phase_transitions
        .iter()
        .filter(|transition| known.is_none_or(|known| transition.time > known))
        .map(|transition| (transition.phase, since(transition.time)))
        .collect()
}
