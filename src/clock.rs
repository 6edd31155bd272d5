//! What time it is. Controllers ask a clock and not the machine, so that a simulation can have a time of its own.

use jiff::Timestamp;
use tokio::time::Instant;

/// Tells the time.
#[derive(Clone, Copy, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    Wall,
    /// Goes on from a moment together with the runtime's timers, which a test pauses and advances.
    Simulated {
        /// When it began, on the runtime's timer.
        began: Instant,
        /// What time it was then.
        at: Timestamp,
    },
}

impl Clock {
    /// A clock that follows the timers of the runtime that it is made in.
    #[must_use]
    pub fn simulated(at: Timestamp) -> Self {
        Self::Simulated { began: Instant::now(), at }
    }

    /// The time now.
    #[must_use]
    pub fn now(self) -> Timestamp {
        match self {
            Self::Wall => Timestamp::now(),
            Self::Simulated { began, at } => at.checked_add(began.elapsed()).unwrap_or(Timestamp::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_follows_the_timers() {
        let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let passed = clock.now().duration_since(Timestamp::UNIX_EPOCH);
        assert_eq!(passed.as_secs(), 3600);
        assert!(Clock::Wall.now() > Timestamp::UNIX_EPOCH);
    }
}
