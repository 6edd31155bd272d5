//! What follows when a host is lost: since when it is, whether somebody says that it is off, and which copies of machines
//! are given up on it. Pure.
//!
//! A copy that is given up gets a tombstone in the host's status before anything else happens. Only then may its machine
//! be placed elsewhere or its object go. So what a host may bring back is known when it returns, whoever died meanwhile.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::copies::is_left;
use super::plan::{Placed, Reach, View};
use crate::api::conditions::{FENCED, find, whole_seconds};
use crate::api::site::Timings;
use crate::api::{
    EvictionStrategy, FENCED_ANNOTATION, Hypervisor, HypervisorClass, HypervisorPhase, PAUSED_ANNOTATION, Phase,
    RunStrategy, Tombstone, VirtualMachine, is_annotated,
};
use crate::controllers::placement::standing::wishes_to_run;
use crate::libvirt::Survey;

/// How many tombstones a host keeps: its object has to stay small.
pub const MOST_TOMBSTONES: usize = 2048;

/// How many of them may be of one namespace.
pub const MOST_OF_NAMESPACE: usize = 512;

/// How long what is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A silence shorter than this says nothing.
    pub unreachable_after: Duration,
    /// After so long more, Worker machines are given up; absent: never.
    pub evict_after: Option<Duration>,
    /// A machine that is deleted is given up after so long.
    pub deletion_deadline: Duration,
}

impl From<&Timings> for Patience {
    fn from(timings: &Timings) -> Self {
        let evict_after = timings.evict_after;
        Self {
            unreachable_after: timings.unreachable_after,
            evict_after: (!evict_after.is_zero()).then_some(evict_after),
            deletion_deadline: timings.deletion_deadline,
        }
    }
}

/// When a machine may be made anew elsewhere, after its host was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// It stays: it doesn't wish to run, or is to stay, or its disks are nowhere else.
    Never,
    /// Once the host is fenced: two copies of it would write to one disk.
    WhenFenced,
    /// Once the host has been silent for long enough.
    WhenSilent,
}

/// When a machine may leave a host that is lost.
#[must_use]
pub fn leaves(machine: &VirtualMachine, hypervisor: &Hypervisor) -> Leaves {
    let phase = machine.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
    let ran_once = machine.spec.run_strategy == RunStrategy::Once && phase >= Phase::Booting;
    let stays = machine.spec.eviction_strategy == EvictionStrategy::None || is_annotated(machine, PAUSED_ANNOTATION);
    if stays || ran_once || !wishes_to_run(machine) {
        Leaves::Never
    } else if hypervisor.spec.storage.shared.is_some() {
        Leaves::WhenFenced
    } else if machine.spec.class == HypervisorClass::Worker {
        Leaves::WhenSilent
    } else {
        Leaves::Never
    }
}

/// What became of somebody's statement that a host is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It holds: nothing runs there.
    Holds,
    /// The host answered since: it isn't off any more, or never was.
    Answered,
}

/// What follows from a host's silence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Since when it is silent.
    pub since: Option<Timestamp>,
    /// What became of the statement that it is off, if somebody made it.
    pub fence: Option<Fence>,
    /// The copies that are given up on it.
    pub tombstones: Vec<Tombstone>,
    /// Machines that can't be given up because there are too many tombstones.
    pub without: usize,
    /// When time alone changes something.
    pub again: Option<Duration>,
}

/// Whether nothing can be learnt of the host: it is lost, or there is no way to ask it.
fn is_gone(seen: &View, reach: Option<&Reach>) -> bool {
    matches!(reach, Some(Reach::Lost { .. })) || (reach.is_none() && seen.refusal.is_some())
}

/// What follows from what was seen of a host.
#[must_use]
pub fn loss(hypervisor: &Hypervisor, seen: &View, reach: Option<&Reach>, patience: &Patience, now: Timestamp) -> Loss {
    let status = hypervisor.status.clone().unwrap_or_default();
    let before = status.unreachable_since.map(|since| since.0);
    let since = match reach {
        Some(Reach::Lost { silent: true, .. }) => before.or(Some(whole_seconds(now))),
        // Nobody knows better yet.
        Some(Reach::Quiet(_) | Reach::Doubted(_)) | None => before,
        Some(Reach::Answers | Reach::Lost { .. }) => None,
    };
    let mut loss = Loss { since, fence: fence(hypervisor, seen, reach), ..Loss::default() };
    loss.tombstones = match seen.seen.as_ref().and_then(|view| view.survey.present()) {
        Some(survey) if seen.refusal.is_none() => still_needed(status.tombstones, seen, survey),
        _ => status.tombstones,
    };
    if is_gone(seen, reach) {
        give_up(&mut loss, seen, patience, now);
    }
    loss
}

/// The statement is about one outage. It is believed while the host is lost, and never again once the host has answered.
fn fence(hypervisor: &Hypervisor, seen: &View, reach: Option<&Reach>) -> Option<Fence> {
    if !is_stated(hypervisor) {
        return None;
    }
    let status = hypervisor.status.as_ref();
    let before = status.and_then(|status| find(&status.conditions, FENCED)).map(|fenced| fenced.status == "True");
    match before {
        Some(false) => Some(Fence::Answered),
        _ if matches!(reach, Some(Reach::Answers)) => Some(Fence::Answered),
        _ if is_gone(seen, reach) => Some(Fence::Holds),
        Some(true) => Some(Fence::Holds),
        None => None,
    }
}

/// Whether somebody says that the host is off.
#[must_use]
pub fn is_stated(hypervisor: &Hypervisor) -> bool {
    hypervisor.annotations().get(FENCED_ANNOTATION).is_some_and(|value| value != "false")
}

/// Of the tombstones of a host that answers, those of which it still has something, and none of a machine that stayed.
fn still_needed(mut tombstones: Vec<Tombstone>, seen: &View, survey: &Survey) -> Vec<Tombstone> {
    tombstones.retain(|tombstone| !seen.owners.stayed(tombstone) && is_left(tombstone, survey, &seen.owners));
    tombstones
}

fn give_up(loss: &mut Loss, seen: &View, patience: &Patience, now: Timestamp) {
    let mut waits: Vec<Duration> = Vec::new();
    for placed in &seen.placed {
        let due = match (placed.deleted, placed.leaves) {
            (Some(deleted), _) => deleted.checked_add(patience.deletion_deadline).ok(),
            (None, Leaves::WhenFenced | Leaves::WhenSilent) if loss.fence == Some(Fence::Holds) => Some(now),
            (None, Leaves::WhenSilent) if !seen.most_are_silent => {
                let evicted = |since: Timestamp| since.checked_add(patience.evict_after?).ok();
                loss.since.and_then(evicted)
            }
            (None, _) => None,
        };
        match due {
            Some(due) if due <= now => bury(loss, placed, now),
            Some(due) => waits.extend(Duration::try_from(due.duration_since(now))),
            None => {}
        }
    }
    loss.again = waits.into_iter().min();
}

fn bury(loss: &mut Loss, placed: &Placed, now: Timestamp) {
    let tombstone = Tombstone { copy: placed.copy.clone(), departed: false, since: Time(whole_seconds(now)) };
    if !loss.add(tombstone) {
        loss.without += 1;
    }
}

impl Loss {
    /// Adds a tombstone, in place of one of an earlier placement. Says whether there is room for it: one namespace can't take
    /// the room of others.
    pub(super) fn add(&mut self, tombstone: Tombstone) -> bool {
        let copy = &tombstone.copy;
        let of_namespace = self.tombstones.iter().filter(|known| known.copy.namespace == copy.namespace).count();
        let full = of_namespace >= MOST_OF_NAMESPACE || self.tombstones.len() >= MOST_TOMBSTONES;
        match self.tombstones.iter_mut().find(|known| known.copy.uid == copy.uid) {
            Some(known) if known.copy.epoch >= copy.epoch => {}
            Some(known) => *known = tombstone,
            None if full => return false,
            None => self.tombstones.push(tombstone),
        }
        true
    }
}

/// What is said of the statement that the host is off, and the phase of a host that answers in spite of it.
#[must_use]
pub fn phase_of_fenced(phase: HypervisorPhase, fence: Option<Fence>) -> HypervisorPhase {
    let answers = matches!(phase, HypervisorPhase::Ready | HypervisorPhase::Maintenance);
    if answers && fence == Some(Fence::Answered) { HypervisorPhase::Fenced } else { phase }
}
