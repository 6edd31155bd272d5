//! What is written of a decision, and what is told of it.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::observe::Candidate;
use super::plan::{IMAGE_FETCHING, QUOTA_EXCEEDED, UNSCHEDULABLE, Wait};
use super::standing::{FINISHED, HALTED, SCHEDULED};
use crate::api::conditions::{State, find, stamp};
use crate::api::{VirtualMachine, VirtualMachineStatus};
use crate::controllers::news::{Attention, News};
use crate::controllers::writes::Share;

/// What placement writes of a machine's status.
pub const SHARE: Share = Share {
    manager: "cascina-placement",
    fields: &["hypervisor", "epoch", "flavour", "image"],
    conditions: &[SCHEDULED],
};

/// A machine younger than this isn't told of a wait that is likely to be over soon.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What happens to a machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It gets a host and may run.
    Placed {
        /// The host.
        host: String,
        /// What it is made from.
        candidate: Box<Candidate>,
    },
    /// It waits.
    Waits(Wait),
    /// It gives back what it holds.
    Rests(&'static str),
    /// Its host is lost and there is no other: it keeps what it holds.
    Stranded(Wait),
    /// Its host was lost and answers again.
    Stays,
}

impl Outcome {
    /// Whether nothing is promised and nothing given back by it: it is told, and counts for nobody.
    #[must_use]
    pub fn is_only_told(&self) -> bool {
        match self {
            Self::Placed { .. } | Self::Rests(_) => false,
            Self::Waits(_) | Self::Stranded(_) | Self::Stays => true,
        }
    }
}

/// Reason of machines whose host is lost, and that go nowhere else.
pub const STRANDED: &str = "Stranded";

/// The host that a machine leaves because it is lost.
#[must_use]
pub fn leaves<'a>(machine: &'a VirtualMachine, outcome: &Outcome) -> Option<&'a str> {
    let Outcome::Placed { host, .. } = outcome else { return None };
    machine.status.as_ref()?.hypervisor.as_deref().filter(|before| before != host)
}

/// The status after the outcome; only [`SHARE`] of it is written.
#[must_use]
pub fn status(machine: &VirtualMachine, outcome: &Outcome, now: Timestamp) -> VirtualMachineStatus {
    let before = machine.status.clone().unwrap_or_default();
    let state = match outcome {
        Outcome::Placed { host, .. } => State::yes(SCHEDULED, "Placed", format!("on {host}")),
        Outcome::Waits(wait) => State::no(SCHEDULED, wait.reason, wait.message.clone()),
        Outcome::Rests(reason) => State::no(SCHEDULED, *reason, rests_because(reason, &before)),
        Outcome::Stranded(wait) => {
            let message = format!("on {}, which is lost, and nowhere else: {}", home(&before), wait.message);
            State::yes(SCHEDULED, STRANDED, message)
        }
        Outcome::Stays => State::yes(SCHEDULED, "Placed", format!("on {}", home(&before))),
    };
    let conditions = stamp(vec![state], &before.conditions, machine.metadata.generation, now);
    match outcome {
        Outcome::Placed { host, candidate } => VirtualMachineStatus {
            hypervisor: Some(host.clone()),
            epoch: Some(before.epoch.unwrap_or_default().saturating_add(1)),
            flavour: Some(candidate.flavour.clone()),
            image: Some(candidate.image.clone()),
            conditions,
            ..before
        },
        Outcome::Waits(_) | Outcome::Rests(_) | Outcome::Stranded(_) | Outcome::Stays => {
            VirtualMachineStatus { conditions, ..before }
        }
    }
}

fn home(status: &VirtualMachineStatus) -> &str {
    status.hypervisor.as_deref().unwrap_or_default()
}

fn rests_because(reason: &str, status: &VirtualMachineStatus) -> &'static str {
    match (reason, &status.hypervisor) {
        (HALTED, None) => "runStrategy is Halted; it never ran",
        (HALTED, Some(_)) => "runStrategy is Halted; its disks stay",
        (FINISHED, _) => "it ran and came to its end; its disks stay",
        _ => "",
    }
}

/// How long the machine may still be left without news of its wait: most machines wait a moment for their address or
/// for objects applied together with them, and telling of each would double the writes of a normal start.
#[must_use]
pub fn patience_left(machine: &VirtualMachine, outcome: &Outcome, now: Timestamp) -> Option<Duration> {
    let Outcome::Waits(wait) = outcome else { return None };
    if wait.reason == UNSCHEDULABLE || wait.reason == QUOTA_EXCEEDED || scheduled_reason(machine).is_some() {
        return None;
    }
    let created = machine.metadata.creation_timestamp.as_ref()?.0;
    let age = Duration::try_from(now.duration_since(created)).unwrap_or_default();
    PATIENCE.checked_sub(age).filter(|left| !left.is_zero())
}

/// The reason of the condition `Scheduled`, where it was ever told.
#[must_use]
pub fn scheduled_reason(machine: &VirtualMachine) -> Option<&str> {
    let status = machine.status.as_ref()?;
    find(&status.conditions, SCHEDULED).map(|scheduled| scheduled.reason.as_str())
}

/// What is new about a machine, if anything.
#[must_use]
pub fn news(machine: &VirtualMachine, outcome: &Outcome, waited: Duration) -> Option<News> {
    if let (Some(lost), Outcome::Placed { host, .. }) = (leaves(machine, outcome), outcome) {
        let note = format!("{lost} is lost: made anew on {host}");
        return Some(News::normal("Evicted", note));
    }
    match outcome {
        Outcome::Placed { host, .. } => {
            let note = format!("placed on {host} after {:.1} s", waited.as_secs_f64());
            Some(News::normal("Scheduled", note))
        }
        // An image that is being fetched comes, however long it takes.
        Outcome::Waits(wait) if wait.reason == IMAGE_FETCHING => None,
        Outcome::Waits(wait) if scheduled_reason(machine) != Some(wait.reason) => {
            Some(failed_scheduling(wait.reason, &wait.message))
        }
        Outcome::Stranded(wait) if scheduled_reason(machine) != Some(STRANDED) => {
            let note = format!("{}: {}", wait.reason, wait.message);
            Some(News::warning(STRANDED, note))
        }
        Outcome::Waits(_) | Outcome::Rests(_) | Outcome::Stranded(_) | Outcome::Stays => None,
    }
}

/// What a machine may wait for that a person has to act on if it lasts, by its status alone.
#[must_use]
pub fn lasting(machine: &VirtualMachine) -> Option<News> {
    let scheduled = find(&machine.status.as_ref()?.conditions, SCHEDULED)?;
    let rests = [HALTED, FINISHED, IMAGE_FETCHING].contains(&scheduled.reason.as_str());
    (scheduled.status == "False" && !rests).then(|| failed_scheduling(&scheduled.reason, &scheduled.message))
}

fn failed_scheduling(reason: &str, message: &str) -> News {
    News {
        attention: Attention::if_it_lasts(SCHEDULED, reason),
        reason: "FailedScheduling".into(),
        note: format!("{reason}: {message}"),
    }
}

/// Since when a machine has been waiting, as far as its object tells.
#[must_use]
pub fn waiting_since(machine: &VirtualMachine) -> Option<Timestamp> {
    let told = machine.status.as_ref().and_then(|status| find(&status.conditions, SCHEDULED));
    let since = told.filter(|scheduled| scheduled.status == "False").map(|scheduled| scheduled.last_transition_time.0);
    let never_placed = machine.status.as_ref().is_none_or(|status| status.hypervisor.is_none());
    let created = machine.creation_timestamp().map(|time| time.0);
    if never_placed { created } else { since.or(created) }
}
