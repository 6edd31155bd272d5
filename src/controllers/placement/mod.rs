//! Placement: one serial loop that gives machines their hosts.
//!
//! The condition `Scheduled` of a machine means that it holds its reservation (CPUs and memory on its host, and its
//! share of the farm's quota) and may run. A pass looks at all objects, decides for every machine that wishes to run
//! (`decide`, `plan`), and writes; the next begins when all writes have ended, so nothing is promised twice. Every
//! write is for one version of the machine, so that of two instances that both believe to lead only one can place it.
//! Only what promises or gives back is written here, and for a bounded time, each namespace in turns. That a machine
//! waits promises nothing: that is told beside the loop (`tell`), and nobody waits for it.
//!
//! A machine that is halted gives CPUs, memory and quota back as soon as its controller says `Stopped`; its host stays
//! its host, because its disks are there, and their space stays reserved.

mod act;
mod budget;
mod causes;
pub mod decide;
#[cfg(test)]
mod disk_tests;
mod hosts;
#[cfg(test)]
mod laws;
pub mod observe;
pub mod plan;
mod queue;
pub mod standing;
pub mod status;
mod tell;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, select_all};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;
use tracing::debug;

use self::act::{Doubts, Written};
use self::decide::{Decided, decide};
use self::observe::World;
use self::standing::{Standing, standing};
use self::status::{Outcome, leaves, news, patience_left, status, waiting_since};
use self::tell::Telling;
use super::cache::{Cache, Cached};
use super::context::Context;
use super::news::{News, remind, tell};
use crate::api::{VirtualMachine, VirtualMachineStatus};

/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// A look is followed by a rest of so many times as long: at a site where something changes all the time, looking takes no more
/// than a fifth of a core, as long as a look takes no more than 75 ms.
const REST: u32 = 4;

/// No rest is longer than this, however long the look took: who asks for a machine waits for the rest and the next look.
const LONGEST_REST: Duration = Duration::from_millis(300);

/// Everything is looked at this often even if nothing changes.
const INTERVAL: Duration = Duration::from_secs(30);

/// The pause before writes that failed are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the loop remembers from pass to pass. Nothing of it is needed for correctness after a restart.
#[derive(Default)]
struct Memory {
    doubts: Doubts,
    /// When each waiting machine was first seen to wait, to the millisecond.
    waiting: HashMap<String, Timestamp>,
    /// Whether a pass has been made.
    warm: bool,
    /// How long the last look took, deciding included.
    looked: Duration,
}

/// Places machines until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    let telling = Telling::default();
    remind(&context, &context.caches.machines, "Placing", status::lasting);
    tokio::select! {
        () = shutdown => {}
        () = place_all(&context, &telling) => {}
        () = telling.run(&context) => {}
    }
}

async fn place_all(context: &Arc<Context>, telling: &Telling) {
    let mut wakes = wakes(context);
    let mut memory = Memory::default();
    loop {
        let pause = pass(context, &mut memory, telling).await;
        // The end of a pause and a change mean the same: look again.
        let _ = tokio::time::timeout(pause, wakes.next()).await;
        tokio::time::sleep((memory.looked * REST).clamp(DEBOUNCE, LONGEST_REST)).await;
        while wakes.next().now_or_never().flatten().is_some() {}
    }
}

/// Something of each change that may let a machine be placed.
fn wakes(context: &Arc<Context>) -> BoxStream<'static, ()> {
    let caches = &context.caches;
    let site = futures::stream::unfold(context.site.clone(), |mut site| async move {
        site.changed().await.ok()?;
        Some(((), site))
    });
    select_all([
        changes(&caches.machines),
        changes(&caches.hypervisors),
        changes(&caches.images),
        changes(&caches.flavours),
        changes(&caches.farms),
        site.boxed(),
    ])
    .boxed()
}

fn changes<K: Cached>(cache: &Arc<Cache<K>>) -> BoxStream<'static, ()> {
    cache.changes().map(|_| ()).boxed()
}

/// Looks, decides, writes. Returns when to look again at the latest.
async fn pass(context: &Arc<Context>, memory: &mut Memory, telling: &Telling) -> Duration {
    let begin = Instant::now();
    let now = context.clock.now();
    let mut world = World::look(context);
    let mut work = memory.doubts.count_in(&mut world, now);
    let mut waits = Vec::new();
    let mut pause = INTERVAL;
    memory.note_waiting(&world, now);
    let settling = world.settling(now);
    pause = pause.min(settling.unwrap_or(INTERVAL));
    for decided in settling.map_or_else(|| decide(&world), |_| Vec::new()) {
        match patience_left(&decided.0, &decided.1, now) {
            Some(left) => pause = pause.min(left),
            None if !changes_something(&decided, now) => {}
            None if decided.1.is_only_told() => waits.push(decided),
            None => work.push(decided),
        }
    }
    telling.tell(waits);
    memory.looked = begin.elapsed();
    let busy = !work.is_empty();
    let mut told = Vec::new();
    for (decided, written) in act::write_all(context, work, now).await {
        if matches!(written, Written::Yes | Written::No) {
            memory.doubts.settle(&decided);
        }
        match written {
            Written::Yes => {
                if leaves(&decided.0, &decided.1).is_some() {
                    context.metrics.evicted();
                }
                told.extend(memory.tell(&decided, context.clock.now()));
            }
            Written::No => pause = pause.min(RETRY),
            Written::Perhaps => {
                pause = pause.min(RETRY);
                memory.doubts.remember(decided);
            }
            Written::NotYet => pause = Duration::ZERO,
        }
    }
    if busy {
        debug!(milliseconds = begin.elapsed().as_millis(), "placement pass");
    }
    tokio::spawn(publish(Arc::clone(context), told));
    pause
}

fn changes_something((machine, outcome): &Decided, now: Timestamp) -> bool {
    machine.status.as_ref() != Some(&merged(machine, outcome, now))
}

/// The status as it would stand after the write, the conditions of others included.
fn merged(machine: &VirtualMachine, outcome: &Outcome, now: Timestamp) -> VirtualMachineStatus {
    let mut after = status(machine, outcome, now);
    let before = machine.status.iter().flat_map(|status| &status.conditions);
    let ours = std::mem::take(&mut after.conditions);
    after.conditions =
        before.map(|known| ours.iter().find(|new| new.type_ == known.type_).unwrap_or(known).clone()).collect();
    let new = ours.into_iter().filter(|new| !after.conditions.iter().any(|known| known.type_ == new.type_));
    let new: Vec<_> = new.collect();
    after.conditions.extend(new);
    after
}

type Note = (Arc<VirtualMachine>, News);

impl Memory {
    fn note_waiting(&mut self, world: &World, now: Timestamp) {
        let waits = |machine: &&Arc<VirtualMachine>| standing(machine) == Standing::Wants;
        let mut waiting = HashMap::new();
        for machine in world.machines.iter().filter(waits) {
            let Some(uid) = machine.uid() else { continue };
            let known = self.waiting.get(&uid).copied();
            let told = waiting_since(machine).unwrap_or(now);
            // After a start the objects know better, later the loop does: their times have whole seconds.
            let since = known.unwrap_or(if self.warm && now.duration_since(told).as_secs() < 2 { now } else { told });
            waiting.insert(uid, since);
        }
        self.waiting = waiting;
        self.warm = true;
    }

    fn tell(&self, (machine, outcome): &Decided, now: Timestamp) -> Option<Note> {
        let since = machine.uid().and_then(|uid| self.waiting.get(&uid).copied());
        let waited = since.map(|since| now.duration_since(since));
        let waited = waited.and_then(|waited| Duration::try_from(waited).ok()).unwrap_or_default();
        news(machine, outcome, waited).map(|news| (Arc::clone(machine), news))
    }
}

/// Events, beside the loop: placing the next machine doesn't wait for the story of the last.
async fn publish(context: Arc<Context>, told: Vec<Note>) {
    for (machine, news) in told {
        tell(&context, &context.caches.machines, &*machine, "Placing", news).await;
    }
}
