//! From all objects to what happens to each machine: pure.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::observe::{World, key};
use super::plan::{Decision, place};
use super::standing::{Standing, holds_reservation, standing};
use super::status::{Outcome, STRANDED, scheduled_reason};
use crate::api::VirtualMachine;

/// What happens to a machine.
pub type Decided = (Arc<VirtualMachine>, Outcome);

/// What happens to each machine that doesn't merely stay as it is.
///
/// What a machine gives back is free for others only once that is written, so the sum of what is promised is never
/// above what there is, whatever happens in between.
#[must_use]
pub fn decide(world: &World) -> Vec<Decided> {
    // Mostly nobody asks for anything, and then nothing need be added up.
    let claims = LazyCell::new(|| world.claims());
    let mut decided = Vec::new();
    let mut candidates = BTreeMap::new();
    for machine in &world.machines {
        match standing(machine) {
            Standing::Holds if world.is_given_up(machine) => match world.candidate(machine, &claims) {
                Ok(candidate) => drop(candidates.insert(key(&**machine), (Arc::clone(machine), candidate))),
                Err(wait) => decided.push((Arc::clone(machine), Outcome::Stranded(wait))),
            },
            Standing::Holds if scheduled_reason(machine) == Some(STRANDED) => {
                decided.push((Arc::clone(machine), Outcome::Stays));
            }
            Standing::LeftAlone | Standing::Holds => {}
            Standing::Rests(reason) if !holds_reservation(machine) && scheduled_reason(machine) == Some(reason) => {}
            Standing::Rests(reason) => decided.push((Arc::clone(machine), Outcome::Rests(reason))),
            Standing::Wants => match world.candidate(machine, &claims) {
                Ok(candidate) => drop(candidates.insert(key(&**machine), (Arc::clone(machine), candidate))),
                Err(wait) => decided.push((Arc::clone(machine), Outcome::Waits(wait))),
            },
        }
    }
    if candidates.is_empty() {
        return decided;
    }
    let requests: Vec<_> = candidates.values().map(|(_, candidate)| candidate.request.clone()).collect();
    for Decision { machine, verdict } in place(&requests, &world.offers(), &world.budgets()) {
        let Some((machine, candidate)) = candidates.remove(&machine) else { continue };
        let outcome = match verdict {
            Ok(host) => Outcome::Placed { host, candidate: Box::new(candidate) },
            Err(wait) if holds_reservation(&machine) => Outcome::Stranded(wait),
            Err(wait) => Outcome::Waits(wait),
        };
        decided.push((machine, outcome));
    }
    decided
}
