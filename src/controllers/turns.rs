//! So many at a time, and a turn for each tenant: who has thousands of things to do delays nobody who has one.
//!
//! A semaphore serves those who wait in the order in which they came, so the one thing of one tenant would wait for all
//! that another asked for before. Here each line, mostly a namespace, has its own queue, and a place that becomes free
//! goes to the lines one after another.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// Places that lines take in turns.
pub struct Turns(Mutex<State>);

struct State {
    free: usize,
    /// Who waits, by line. A line in which nobody waits isn't here.
    lines: BTreeMap<String, VecDeque<oneshot::Sender<Turn>>>,
    /// The lines in which somebody waits, the next one first.
    order: VecDeque<String>,
}

/// A place that is taken until this is dropped.
pub struct Turn(Arc<Turns>);

impl Turns {
    /// So many places, all of them free.
    #[must_use]
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: places, lines: BTreeMap::new(), order: VecDeque::new() })))
    }

    /// Waits for a place in this line's turn. Who stops waiting leaves the line.
    pub async fn take(self: &Arc<Self>, line: &str) -> Turn {
        let Some(waiting) = self.join(line) else { return Turn(Arc::clone(self)) };
        match waiting.await {
            Ok(turn) => turn,
            // The sender is only ever used up: it lives in the line as long as its receiver does.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes a free place, or stands in line for one.
    fn join(&self, line: &str) -> Option<oneshot::Receiver<Turn>> {
        let mut state = self.lock();
        if state.free > 0 {
            state.free -= 1;
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        if !state.lines.contains_key(line) {
            state.order.push_back(line.to_owned());
        }
        state.lines.entry(line.to_owned()).or_default().push_back(sender);
        Some(receiver)
    }

    /// Gives a place on to whoever is next.
    fn pass_on(self: &Arc<Self>) {
        let next = self.lock().next();
        if let Some(next) = next {
            // Who left right now drops the turn, which passes it on.
            drop(next.send(Turn(Arc::clone(self))));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who has the next turn; nobody: there is one place more.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        while let Some(line) = self.order.pop_front() {
            let Some(mut waiting) = self.lines.remove(&line) else { continue };
            let next = std::iter::from_fn(|| waiting.pop_front()).find(|one| !one.is_closed());
            if !waiting.is_empty() {
                self.lines.insert(line.clone(), waiting);
                self.order.push_back(line);
            }
            if next.is_some() {
                return next;
            }
        }
        self.free += 1;
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

/// The same things in another order: one of each line, then the second of each. Those of one line stay in their order.
pub fn in_turns<T, L: Ord>(things: Vec<T>, line: impl Fn(&T) -> L) -> Vec<T> {
    let mut seen: BTreeMap<L, usize> = BTreeMap::new();
    let mut ranked: Vec<_> = things
        .into_iter()
        .map(|thing| {
            let rank = seen.entry(line(&thing)).or_default();
            *rank += 1;
            (*rank, thing)
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, thing)| thing).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Starts something that takes its turn, and notes its name when it has it.
    fn start(turns: &Arc<Turns>, line: &'static str, served: &Arc<Mutex<Vec<&'static str>>>) {
        let (turns, served) = (Arc::clone(turns), Arc::clone(served));
        tokio::spawn(async move {
            let _turn = turns.take(line).await;
            served.lock().unwrap().push(line);
            tokio::time::sleep(Duration::from_millis(10)).await;
        });
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_a_few_is_served_before_the_rest_of_many() {
        let (turns, served) = (Turns::new(1), Arc::<Mutex<Vec<&str>>>::default());
        (0..100).for_each(|_| start(&turns, "many", &served));
        tokio::time::sleep(Duration::from_millis(5)).await;
        (0..2).for_each(|_| start(&turns, "few", &served));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let served = served.lock().unwrap();
        assert_eq!(served.len(), 102);
        assert!(served[..5].iter().filter(|line| **line == "few").count() == 2, "{:?}", &served[..8]);
        assert_eq!(turns.lock().free, 1, "and in the end the place is free");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_costs_nobody_a_turn() {
        let (turns, served) = (Turns::new(1), Arc::<Mutex<Vec<&str>>>::default());
        let first = turns.take("a").await;
        for _ in 0..50 {
            let gone = tokio::time::timeout(Duration::from_millis(1), turns.take("b")).await;
            assert!(gone.is_err());
        }
        start(&turns, "c", &served);
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(first);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(*served.lock().unwrap(), ["c"]);
        assert_eq!(turns.lock().free, 1);
        assert!(turns.lock().lines.is_empty());
    }

    #[test]
    fn lines_alternate_and_keep_their_own_order() {
        let mixed = vec![("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("b", 2)];
        let turns = in_turns(mixed, |(line, _)| *line);
        assert_eq!(turns, [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3)]);
    }
}
