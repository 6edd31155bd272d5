//! What is told of a machine as events. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::plan::UNDEFINED;
use super::situation::{Drift, Plan, Standing};
use super::status::IN_SYNC;
use crate::api::conditions::{self, READY};
use crate::api::{DriftPolicy, Phase, PhaseTransition, VirtualMachine, VirtualMachineStatus};
use crate::controllers::ledger::FARM_GONE;
use crate::controllers::news::{Attention, Lasting, News};
use crate::controllers::ssh_keys::{self, INVALID_SSH_KEY};

/// What is new in a status, told as events.
pub fn story(machine: &VirtualMachine, after: &VirtualMachineStatus, standing: &Standing) -> Vec<News> {
    let default = VirtualMachineStatus::default();
    let before = machine.status.as_ref().unwrap_or(&default);
    let known = before.phase_transitions.last().map(|last| last.time);
    let fresh = after.phase_transitions.iter().filter(|transition| known.is_none_or(|known| transition.time > known));
    let created = machine.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let mut chapters: Vec<_> = fresh.filter_map(|transition| chapter(transition, after, standing, created)).collect();
    let old_reason = conditions::find(&before.conditions, READY).map(|ready| ready.reason.as_str());
    if old_reason != Some(standing.reason.as_str())
        && let Some(attention) = attention(&standing.reason)
    {
        chapters.push(News { attention, reason: standing.reason.clone(), note: standing.message.clone() });
    }
    let bad_keys = ssh_keys::news(&before.conditions, &after.conditions);
    chapters.extend(bad_keys.map(|note| News::warning(INVALID_SSH_KEY, note)));
    chapters
}

fn chapter(
    transition: &PhaseTransition,
    after: &VirtualMachineStatus,
    standing: &Standing,
    created: Option<Timestamp>,
) -> Option<News> {
    let age = created.map(|created| transition.time.duration_since(created).as_secs_f64()).unwrap_or_default();
    let earlier = |phase: Phase| {
        let found =
            after.phase_transitions.iter().rev().find(|other| other.phase == phase && other.time <= transition.time);
        found.map_or(0.0, |other| transition.time.duration_since(other.time).as_secs_f64())
    };
    let (reason, note) = match transition.phase {
        Phase::Booting => (
            "Started",
            format!("domain made in {:.1} s and started, {age:.1} s after creation", earlier(Phase::Provisioning)),
        ),
        Phase::Running if standing.ready => (
            "Ready",
            format!("{} {:.1} s after the start, {age:.1} s after creation", standing.message, earlier(Phase::Booting)),
        ),
        Phase::Stopping if standing.reason == "Removing" => ("Removing", standing.message.clone()),
        Phase::Stopping => ("Stopping", standing.message.clone()),
        Phase::Stopped => ("Stopped", standing.message.clone()),
        _ => return None,
    };
    Some(News::normal(reason, note))
}

/// What a person has to act on if it lasts, by the status alone.
pub fn lasting(machine: &VirtualMachine) -> Option<News> {
    let ready = conditions::find(&machine.status.as_ref()?.conditions, READY)?;
    let attention = attention(&ready.reason).filter(|attention| matches!(attention, Attention::IfItLasts(_)))?;
    Some(News { attention, reason: ready.reason.clone(), note: ready.message.clone() })
}

/// What drifted since the last look, to be counted and told: its kind and whether it is put right.
pub fn new_drifts<'a>(machine: &VirtualMachine, plan: &'a Plan, policy: DriftPolicy) -> Vec<(&'a Drift, bool)> {
    let conditions = machine.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let told = conditions::find(conditions, IN_SYNC).filter(|told| told.status == "False");
    let is_new = |drift: &&Drift| told.is_none_or(|told| !told.message.contains(&drift.what));
    plan.drifts.iter().filter(is_new).map(|drift| (drift, drift.kind.repair(policy).is_some())).collect()
}

/// A guest that shuts down ends its agent first and may take so long for the rest.
const GOING_DOWN: Duration = Duration::from_secs(90);

/// Whom a reason concerns when it appears; `None`: it is no news.
fn attention(reason: &str) -> Option<Attention> {
    match reason {
        "ImageNotOnHost" => Some(Attention::Nobody),
        "AgentLost" => {
            Some(Attention::IfItLasts(Lasting { condition: READY, reason: reason.into(), grace: GOING_DOWN }))
        }
        // What is applied together may come in any order, and a host may be too busy to answer once.
        "HostUnreachable" | "Paused" | "UploadFailed" | "UserDataNotFound" | "WaitingForHost" => {
            Some(Attention::if_it_lasts(READY, reason))
        }
        "BackOff" | "BootTimeout" | "DiskDeleted" | "ForeignDomain" | "HostRefused" | "InvalidDns" | "InvalidName"
        | "InvalidUserData" | "NoSpace" | "PausedByIOError" | "SeedTooLarge" | "UserDataForbidden" | "WrongAddress"
        | FARM_GONE | UNDEFINED => Some(Attention::Somebody),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::situation::Failure;
    use super::*;
    use crate::controllers::placement::testing::machine;

    fn told(reason: &str) -> Option<Attention> {
        let standing = Standing {
            phase: Phase::Running,
            ready: false,
            reason: reason.into(),
            message: "so it is".into(),
            failure: None::<Failure>,
        };
        let after = VirtualMachineStatus::default();
        let told = story(&machine("one", 0), &after, &standing);
        assert!(told.iter().all(|news| news.reason == reason && news.note == "so it is"));
        told.into_iter().next().map(|news| news.attention)
    }

    #[test]
    fn a_warning_is_something_that_a_person_has_to_act_on() {
        for waits in ["AddressPending", "NotPlaced", "Booting", "Provisioning", "ShuttingDown", "Halted"] {
            assert_eq!(told(waits), None, "{waits}");
        }
        assert_eq!(told("ImageNotOnHost"), Some(Attention::Nobody), "the copy is on its way");
        for failure in ["UploadFailed", "BackOff", "NoSpace", "PausedByIOError", "DiskDeleted"] {
            assert!(!matches!(told(failure), None | Some(Attention::Nobody)), "{failure}");
        }
    }

    #[test]
    fn an_agent_that_ends_before_its_guest_is_no_news() {
        let Some(Attention::IfItLasts(lasting)) = told("AgentLost") else { panic!("told at once") };
        assert!(lasting.grace >= Duration::from_secs(90) && lasting.reason == "AgentLost");
    }
}
