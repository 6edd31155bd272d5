//! Tells of machines that wait, beside the loop that places.
//!
//! What a wait is called changes nothing of what is promised, so it may be told late, or never if the wait is over
//! before. Each telling is for one version of the machine: one that was placed meanwhile isn't said to wait.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::ResourceExt;
use tokio::sync::Notify;
use tracing::debug;

use super::RETRY;
use super::act::{WRITE_DEADLINE, report};
use super::decide::Decided;
use super::status::{SHARE, news, status};
use crate::api::VirtualMachine;
use crate::controllers::context::Context;
use crate::controllers::news::tell;
use crate::controllers::runner::full_name;
use crate::controllers::turns::in_turns;
use crate::controllers::writes::apply_status_unless_changed;

/// Tellings at the same time: few, so that those who are placed find the API server free.
const TELLINGS_IN_FLIGHT: usize = 4;

/// What is to be told.
#[derive(Default)]
pub struct Telling {
    waits: Mutex<Waits>,
    news: Notify,
}

#[derive(Default)]
struct Waits {
    /// As the last pass saw it, and not yet told.
    untold: VecDeque<Decided>,
    /// The uids of machines that are being told of.
    in_flight: HashSet<String>,
}

impl Telling {
    /// This is to be told, each namespace in turns, and nothing of what was to be told before.
    pub fn tell(&self, waits: Vec<Decided>) {
        self.lock().untold = in_turns(waits, |(machine, _)| machine.metadata.namespace.clone()).into();
        self.news.notify_one();
    }

    /// Tells, as long as it runs.
    pub async fn run(&self, context: &Arc<Context>) {
        let untold = stream::unfold((), |()| async { Some((self.next().await, ())) });
        untold.for_each_concurrent(TELLINGS_IN_FLIGHT, |decided| self.tell_one(context, decided)).await;
    }

    async fn next(&self) -> Decided {
        loop {
            if let Some(decided) = self.take() {
                return decided;
            }
            self.news.notified().await;
        }
    }

    /// What is decided anew of a machine that is being told of waits until that has ended.
    fn take(&self) -> Option<Decided> {
        let mut waits = self.lock();
        let Waits { untold, in_flight } = &mut *waits;
        let next = untold.iter().position(|(machine, _)| !in_flight.contains(&uid(machine)))?;
        let decided = untold.remove(next)?;
        in_flight.insert(uid(&decided.0));
        Some(decided)
    }

    /// A telling has ended. One that is to be tried again is overtaken by what was decided since.
    fn ends(&self, decided: Decided, settled: bool) {
        let mut waits = self.lock();
        let told = uid(&decided.0);
        waits.in_flight.remove(&told);
        let is_newest = waits.untold.iter().all(|(machine, _)| uid(machine) != told);
        if !settled && is_newest {
            waits.untold.push_back(decided);
        }
        self.news.notify_one();
    }

    async fn tell_one(&self, context: &Arc<Context>, decided: Decided) {
        let machine = &decided.0;
        let newest = context.caches.machines.latest(machine);
        let is_as_it_was = newest.is_some_and(|newest| newest.resource_version() == machine.resource_version());
        let settled = !is_as_it_was || write(context, &decided).await;
        if !settled {
            tokio::time::sleep(RETRY).await;
        }
        self.ends(decided, settled);
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn uid(machine: &VirtualMachine) -> String {
    machine.uid().unwrap_or_default()
}

/// Writes a wait and tells the machine's story. Says whether that is settled; otherwise it is to be tried again.
async fn write(context: &Arc<Context>, (machine, outcome): &Decided) -> bool {
    let name = full_name(&**machine);
    let api = context.api(&machine.namespace().unwrap_or_default());
    let status = status(machine, outcome, context.clock.now());
    let writing = apply_status_unless_changed(context, &context.caches.machines, &api, machine, &SHARE, &status);
    match tokio::time::timeout(WRITE_DEADLINE, writing).await {
        Ok(Ok(())) => {
            if let Some(news) = news(machine, outcome, Duration::ZERO) {
                tell(context, &context.caches.machines, &**machine, "Placing", news).await;
            }
            return true;
        }
        Ok(Err(error)) if error.is_conflict() => {
            debug!(object = %name, "changed meanwhile; not told");
            return true;
        }
        Ok(Err(error)) => report(context, &name, &error),
        Err(_) => debug!(object = %name, "its wait was not told: no answer in time"),
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::plan::Wait;
    use super::super::status::Outcome;
    use super::super::testing::machine;
    use super::*;

    fn waits(name: &str, reason: &'static str) -> Decided {
        (Arc::new(machine(name, 0)), Outcome::Waits(Wait::new(reason, "")))
    }

    fn what(decided: Option<Decided>) -> String {
        let Some((machine, Outcome::Waits(wait))) = decided else { return "nothing".into() };
        format!("{} {}", machine.name_any(), wait.reason)
    }

    #[test]
    fn what_is_decided_while_a_machine_is_told_of_is_told_after_it() {
        let telling = Telling::default();
        telling.tell(vec![waits("one", "AddressPending"), waits("two", "AddressPending")]);
        let first = telling.take().unwrap();
        telling.tell(vec![waits("one", "Unschedulable"), waits("two", "Unschedulable")]);
        assert_eq!(what(telling.take()), "two Unschedulable", "nobody waits for the first");
        assert_eq!(what(telling.take()), "nothing");
        // It changed meanwhile: a conflict, so what is newer is all that is ever told of it.
        telling.ends(first, true);
        assert_eq!(what(telling.take()), "one Unschedulable");
    }

    #[test]
    fn what_could_not_be_told_is_tried_again_unless_something_newer_is_known() {
        let telling = Telling::default();
        telling.tell(vec![waits("one", "AddressPending")]);
        let first = telling.take().unwrap();
        telling.ends(first, false);
        let again = telling.take().unwrap();
        assert_eq!(what(Some(again.clone())), "one AddressPending");
        telling.tell(vec![waits("one", "Unschedulable")]);
        telling.ends(again, false);
        assert_eq!(what(telling.take()), "one Unschedulable");
        assert_eq!(what(telling.take()), "nothing");
    }
}
