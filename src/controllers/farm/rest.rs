//! How much of the operator dry runs may take: pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// A dry run is followed by a rest of so many times as long, of all dry runs of its namespace: a tenant who changes much and
/// often takes no more than a twentieth of a core.
const REST: u32 = 19;

/// And of so long at least: what changes meanwhile is looked at together.
const PAUSE: Duration = Duration::from_millis(500);

/// One whose end nobody told of holds up the others for so long.
const LONGEST: Duration = Duration::from_secs(10);

/// Before when no dry run is made again, by namespace.
#[derive(Default)]
pub struct Rests(HashMap<String, Instant>);

impl Rests {
    /// Lets a dry run begin, as the only one of its namespace.
    ///
    /// # Errors
    /// How long the namespace rests.
    pub fn begin(&mut self, namespace: &str, now: Instant) -> Result<(), Duration> {
        self.0.retain(|_, until| *until > now);
        match self.0.get(namespace) {
            Some(until) => Err(until.saturating_duration_since(now)),
            None => {
                self.0.insert(namespace.to_owned(), now + LONGEST);
                Ok(())
            }
        }
    }

    /// A dry run that began then has ended.
    pub fn end(&mut self, namespace: &str, began: Instant, now: Instant) {
        let rest = (now.saturating_duration_since(began) * REST).max(PAUSE);
        self.0.insert(namespace.to_owned(), now + rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// How many dry runs of so long a namespace gets within so long, if it always wants more.
    fn most_of(took: Duration, within: Duration) -> u32 {
        let (mut rests, begin) = (Rests::default(), Instant::now());
        let (mut now, mut made) = (begin, 0);
        while now < begin + within {
            match rests.begin("greedy", now) {
                Ok(()) => {
                    let other = rests.begin("greedy", now);
                    assert_eq!(other, Err(LONGEST), "a second one beside it");
                    rests.end("greedy", now, now + took);
                    (now, made) = (now + took, made + 1);
                }
                Err(left) => {
                    assert!(rests.begin("greedy", now + left - MILLISECOND).is_err());
                    now += left;
                }
            }
        }
        made
    }

    #[test]
    fn dry_runs_of_a_namespace_take_a_twentieth_of_a_core_together() {
        for milliseconds in [100, 250, 2000] {
            let (took, within) = (MILLISECOND * milliseconds, Duration::from_secs(400));
            assert_eq!(took * most_of(took, within) * 20, within, "{took:?} each");
        }
    }

    #[test]
    fn small_ones_are_made_twice_a_second_at_most() {
        let made = most_of(MILLISECOND, Duration::from_secs(501));
        assert_eq!(made, 1000);
    }

    #[test]
    fn nobody_rests_for_another_namespace_or_for_ever() {
        let (mut rests, now) = (Rests::default(), Instant::now());
        assert_eq!(rests.begin("greedy", now), Ok(()));
        assert_eq!(rests.begin("modest", now), Ok(()));
        assert_eq!(rests.begin("greedy", now + LONGEST), Ok(()), "the first was never heard of again");
    }
}
