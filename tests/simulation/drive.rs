//! Drives a site through what somebody does to it, with operators that die and start again, until it is quiet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::datacentre::{Datacentre, Live, ours};
use crate::faults::{Call, Faults, Odds, Stop};

/// A dead operator is back after this time.
const RESTART: Duration = Duration::from_secs(3);

/// A site in which nothing has changed for so long is quiet: longer than the pauses of controllers that wait.
const QUIET: Duration = Duration::from_secs(75);

/// A start that failed again and again is tried again after at most five minutes.
const LONGEST_PAUSE: Duration = Duration::from_secs(310);

/// A site that isn't quiet after this time never will be.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Something that happens to the site, so long after the one before.
#[derive(Clone, Copy)]
pub struct Act {
    /// How long after the one before.
    pub after: Duration,
    /// What happens, to the site or to the operator's way to it.
    pub work: fn(&Live, &Faults),
}

/// What a drive came to.
pub struct Driven {
    /// The site at its end.
    pub site: Datacentre,
    /// How many calls the first operator had made when the last change was seen.
    pub calls: u64,
    /// The calls of the first operator, by sort.
    pub by_call: BTreeMap<Call, u64>,
    /// The call at which the first operator died, if it did.
    pub died_at: Option<String>,
    /// How many operators there were.
    pub lives: u64,
    /// How long it took until the last change.
    pub took: Duration,
}

/// A runtime whose time stands still but for the timers that are waited for.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// Drives a site; the first operator may be stopped at a call.
pub fn drive(start: &Datacentre, acts: &[Act], stop: Option<Stop>) -> Driven {
    drive_by_chance(start, acts, stop, Odds::default(), 0)
}

/// Drives a site; operators die and calls go wrong by chance.
pub fn drive_by_chance(start: &Datacentre, acts: &[Act], stop: Option<Stop>, odds: Odds, seed: u64) -> Driven {
    let begin = start.now;
    let mut driven = Driven::at(start);
    let mut done = 0;
    for life in 0.. {
        let faults = Arc::new(Faults::new(seed + life, stop.filter(|_| life == 0), odds));
        let ended = live(&mut driven.site, &faults, None, acts, &mut done, begin);
        if life == 0 {
            driven.calls = ended.unwrap_or_else(|| faults.calls());
            driven.by_call = faults.by_call();
            driven.died_at = ended.is_none().then(|| faults.last_call());
        }
        if ended.is_some() {
            break;
        }
        driven.site.now += RESTART;
        driven.lives += 1;
    }
    driven.finish(begin)
}

/// Drives a site with two operators at once: the second one doesn't know that it doesn't lead.
pub fn drive_with_rival(start: &Datacentre, acts: &[Act]) -> Driven {
    let mut driven = Driven::at(start);
    let way = |seed| Arc::new(Faults::new(seed, None, Odds::default()));
    let (faults, rival) = (way(1), way(2));
    let ended = live(&mut driven.site, &faults, Some(&rival), acts, &mut 0, start.now);
    driven.calls = ended.unwrap_or_default();
    driven.finish(start.now)
}

/// One life of an operator, to its death or to a quiet site; then how many calls it had made at the last change.
fn live(
    site: &mut Datacentre,
    faults: &Arc<Faults>,
    rival: Option<&Arc<Faults>>,
    acts: &[Act],
    done: &mut usize,
    begin: Timestamp,
) -> Option<u64> {
    let runtime = runtime();
    let ended = runtime.block_on(async {
        let live = site.clone().wake();
        let operator = tokio::spawn(live.clone().operate(Arc::clone(faults)));
        if let Some(rival) = rival {
            tokio::spawn(live.clone().operate(Arc::clone(rival)));
        }
        let ended = tokio::select! {
            biased;
            () = faults.dead.cancelled() => None,
            calls = play(&live, acts, done, begin, faults) => Some(calls),
            ended = operator => panic!("the operator ended: {ended:?}"),
        };
        *site = live.asleep();
        ended
    });
    // The operator dies with its runtime, whatever it is doing.
    runtime.shutdown_background();
    ended
}

impl Driven {
    fn at(start: &Datacentre) -> Self {
        Self { site: start.clone(), calls: 0, by_call: BTreeMap::new(), died_at: None, lives: 1, took: Duration::ZERO }
    }

    fn finish(mut self, begin: Timestamp) -> Self {
        let last = self.site.store.last_change.max(self.site.world.last_change);
        self.took = Duration::try_from(last.duration_since(begin)).unwrap_or_default();
        self
    }
}

/// Does the acts that are left, each at its time, and waits for quiet. Gives how many calls the operator had made when
/// the last change was seen.
async fn play(live: &Live, acts: &[Act], done: &mut usize, begin: Timestamp, faults: &Faults) -> u64 {
    let (mut calls, mut seen) = (0, live.last_change());
    loop {
        let now = live.clock.now();
        let due = acts.iter().take(*done + 1).map(|act| act.after).sum::<Duration>();
        if let Some(act) = acts.get(*done).filter(|_| begin + due <= now) {
            (act.work)(live, faults);
            *done += 1;
            continue;
        }
        live.api.with(|store, now| store.collect_garbage(now));
        live.check_sharing();
        let last = live.last_change().max(if *done == acts.len() { begin + due } else { now });
        if last != seen {
            (calls, seen) = (faults.calls(), last);
        }
        let silence = Duration::try_from(now.duration_since(last)).unwrap_or_default();
        if silence >= QUIET && (silence >= LONGEST_PAUSE || !backs_off(live)) {
            return calls;
        }
        let late = Duration::try_from(now.duration_since(begin)).unwrap_or_default() > PATIENCE;
        assert!(!late, "never quiet: {:?}", recent(live));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Whether a machine waits for its next try.
fn backs_off(live: &Live) -> bool {
    let backs_off = |machine: &Value| ready(machine).is_some_and(|ready| ready["reason"] == "BackOff");
    live.api.with(|store, _| store.list(&ours("virtualmachines"), "").iter().any(|machine| backs_off(machine)))
}

fn ready(object: &Value) -> Option<&Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready")
}

/// What changed last, for a person to look at.
fn recent(live: &Live) -> Vec<String> {
    live.api.with(|store, _| {
        let changes = store.kinds.values().filter(|kind| kind.kind != "Event").flat_map(|kind| &kind.changes);
        let mut changes: Vec<_> = changes.collect();
        changes.sort_by_key(|change| change.version);
        let told = |change: &&crate::apiserver::Change| {
            format!("{} {} {} {}", change.at, change.kind, change.object["metadata"]["name"], change.object["status"])
        };
        changes.iter().rev().take(6).map(told).collect()
    })
}
