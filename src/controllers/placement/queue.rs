//! In which order requests are served: a namespace that has little is not made to wait by one that asks for much.
//!
//! The next turn is that of the namespace whose share of the site is the smallest, counting what it was given a moment
//! ago; the share is the larger one of its share of all CPUs and of all memory. Of namespaces that have as much, the one
//! with the oldest request is first. Within a namespace the higher priority goes first, then the older request, then the
//! name: priorities are written by tenants, and mean nothing beyond their own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;

use super::plan::{Amount, Budget, HostOffer, Request, share};

/// Requests that wait for their turn.
pub struct Queue<'a> {
    lines: BTreeMap<&'a str, Line<'a>>,
    turns: BTreeSet<(u64, Timestamp, &'a str)>,
    site: Amount,
}

/// The requests of one namespace, and what it has.
#[derive(Default)]
struct Line<'a> {
    requests: VecDeque<&'a Request>,
    has: Amount,
}

impl<'a> Queue<'a> {
    /// All requests, with what their namespaces have already.
    pub fn new(pending: &'a [Request], hosts: &[HostOffer], farms: &'a [Budget]) -> Self {
        let mut site = Amount::default();
        hosts.iter().for_each(|host| site += host.allocatable);
        let mut sorted: Vec<_> = pending.iter().collect();
        sorted.sort_by_key(|request| (Reverse(request.priority), request.created, &request.machine));
        let mut lines: BTreeMap<&str, Line<'_>> = BTreeMap::new();
        for request in sorted {
            lines.entry(&request.machine.0).or_default().requests.push_back(request);
        }
        for farm in farms {
            if let Some(line) = lines.get_mut(farm.farm.0.as_str()) {
                line.has += farm.used;
            }
        }
        let mut queue = Self { lines, turns: BTreeSet::new(), site };
        let namespaces: Vec<_> = queue.lines.keys().copied().collect();
        namespaces.into_iter().for_each(|namespace| queue.stand_in_line(namespace));
        queue
    }

    /// Serves every request in its turn; `serve` says whether it was given what it asks for.
    pub fn serve(mut self, mut serve: impl FnMut(&'a Request) -> bool) {
        while let Some((_, _, namespace)) = self.turns.pop_first() {
            let Some(line) = self.lines.get_mut(namespace) else { continue };
            let Some(request) = line.requests.pop_front() else { continue };
            if serve(request) {
                line.has += request.needs;
            }
            self.stand_in_line(namespace);
        }
    }

    fn stand_in_line(&mut self, namespace: &'a str) {
        let Some(line) = self.lines.get(namespace) else { return };
        if let Some(first) = line.requests.front() {
            self.turns.insert((dominant_share(line.has, self.site), first.created, namespace));
        }
    }
}

fn dominant_share(part: Amount, site: Amount) -> u64 {
    let cpus = share(part.cpus.unsigned_abs(), site.cpus.unsigned_abs());
    cpus.max(share(part.memory.get(), site.memory.get()))
}
