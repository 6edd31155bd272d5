//! Writes what was promised or given back, and remembers what may or may not have been written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::decide::Decided;
use super::observe::{World, key};
use super::status::{Outcome, SHARE, leaves, status};
use crate::api::VirtualMachine;
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::observed::Observed;
use crate::controllers::runner::full_name;
use crate::controllers::turns::in_turns;
use crate::controllers::writes::apply_status_unless_changed;

/// Writes at the same time.
const WRITES_IN_FLIGHT: usize = 16;

/// A pass begins no more writes after this time. What is left is decided anew: a machine that came meanwhile is decided
/// and written in its turn, and doesn't wait until all that was there before it has been.
const WRITING: Duration = Duration::from_millis(400);

/// A write without an answer for so long may or may not have happened.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It stands there.
    Yes,
    /// It surely doesn't.
    No,
    /// Nobody knows.
    Perhaps,
    /// It wasn't begun.
    NotYet,
}

/// Writes what was decided, of each namespace in turns, as far as there is time; a write that fails or isn't begun is
/// decided anew in the next pass.
pub async fn write_all(context: &Context, decided: Vec<Decided>, now: Timestamp) -> Vec<(Decided, Written)> {
    let begin = Instant::now();
    let decided = in_turns(decided, |(machine, _)| machine.metadata.namespace.clone());
    let written = stream::iter(decided).map(|(machine, outcome)| async move {
        let written = match begin.elapsed() {
            elapsed if elapsed < WRITING => write(context, &machine, &outcome, now).await,
            _ => Written::NotYet,
        };
        ((machine, outcome), written)
    });
    written.buffer_unordered(WRITES_IN_FLIGHT).collect().await
}

async fn write(context: &Context, machine: &VirtualMachine, outcome: &Outcome, now: Timestamp) -> Written {
    // While a machine is being started on the host that is given up, nothing is decided about its machines; and once the
    // new placement stands, the old one starts nothing any more.
    let lost = leaves(machine, outcome).and_then(|lost| context.fleet.get(lost));
    let _alone = match lost.as_ref().map(|lost| (lost.making.try_write(), lost.view().survey)) {
        None => None,
        Some((Ok(alone), Observed::Unknown { .. })) => Some(alone),
        Some(_) => return Written::No,
    };
    let api = context.api(&machine.namespace().unwrap_or_default());
    let status = status(machine, outcome, now);
    let writing = apply_status_unless_changed(context, &context.caches.machines, &api, machine, &SHARE, &status);
    let name = full_name(machine);
    match tokio::time::timeout(WRITE_DEADLINE, writing).await {
        Ok(Ok(())) => Written::Yes,
        Ok(Err(error)) if error.is_conflict() => {
            debug!(kind = "VirtualMachine", object = %name, "changed meanwhile; deciding again");
            Written::No
        }
        Ok(Err(error)) => {
            report(context, &name, &error);
            if error.is_refusal() { Written::No } else { Written::Perhaps }
        }
        Err(_) => {
            warn!(kind = "VirtualMachine", object = %name, "placement not written: no answer in time");
            Written::Perhaps
        }
    }
}

/// Counts and logs a write that failed.
pub fn report(context: &Context, name: &str, error: &Error) {
    context.metrics.reconcile::<VirtualMachine>(Duration::ZERO, Some(error.reason()));
    warn!(kind = "VirtualMachine", object = %name, %error, "placement not written");
}

/// Placements that may or may not have been written, by uid of the machine. They count as written, and are written
/// again, until the machine is seen to have changed: each was written for one version of it.
#[derive(Default)]
pub struct Doubts(HashMap<String, Decided>);

impl Doubts {
    /// Remembers a placement whose write had no answer.
    pub fn remember(&mut self, decided: Decided) {
        if let (Outcome::Placed { .. }, Some(uid)) = (&decided.1, decided.0.uid()) {
            self.0.insert(uid, decided);
        }
    }

    /// Forgets a placement of which is known how its write ended.
    pub fn settle(&mut self, (machine, _): &Decided) {
        if let Some(uid) = &machine.metadata.uid {
            self.0.remove(uid);
        }
    }

    /// Forgets what is settled and shows the world as if the rest were written. Returns what is to be written again.
    pub fn count_in(&mut self, world: &mut World, now: Timestamp) -> Vec<Decided> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let same = |one: &VirtualMachine, other: &VirtualMachine| {
            one.uid() == other.uid() && one.resource_version() == other.resource_version()
        };
        self.0.retain(|_, (machine, _)| world.machines.iter().any(|known| same(known, machine)));
        for (machine, outcome) in self.0.values() {
            for known in world.machines.iter_mut().filter(|known| key(&***known) == key(&**machine)) {
                let mut assumed = (**machine).clone();
                assumed.status = Some(status(machine, outcome, now));
                *known = Arc::new(assumed);
            }
        }
        self.0.values().cloned().collect()
    }
}
