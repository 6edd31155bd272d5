//! Whose agent is asked when. An agent that doesn't answer costs seconds, and tenants decide how many of these there are:
//! they get turns of their own, so that guests that do answer don't wait behind them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::spec::DomainUuid;

/// Agents that are asked at once, of those that answered when last asked, and of all others.
const AT_ONCE: usize = 2;
/// An agent that didn't answer is waited for no longer than this: it is asked again soon anyway.
const SHORT_WAIT: Duration = Duration::from_millis(500);

/// The turns of a host's agents.
#[derive(Debug)]
pub(super) struct AgentTurns {
    answering: Arc<Semaphore>,
    silent: Arc<Semaphore>,
    answered: Mutex<HashSet<DomainUuid>>,
}

impl Default for AgentTurns {
    fn default() -> Self {
        let turns = || Arc::new(Semaphore::new(AT_ONCE));
        Self { answering: turns(), silent: turns(), answered: Mutex::default() }
    }
}

impl AgentTurns {
    /// A turn to ask this agent; `None`: it was silent, and the turns of the silent are all taken.
    pub(super) async fn turn(&self, uuid: DomainUuid) -> Option<OwnedSemaphorePermit> {
        let known = self.answered.lock().unwrap_or_else(PoisonError::into_inner).contains(&uuid);
        if known {
            return self.answering.clone().acquire_owned().await.ok();
        }
        timeout(SHORT_WAIT, self.silent.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Remembers whether it answered.
    pub(super) fn note(&self, uuid: DomainUuid, answered: bool) {
        let mut known = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            known.insert(uuid);
        } else {
            known.remove(&uuid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[tokio::test(start_paused = true)]
    async fn the_silent_wait_for_each_other_and_nobody_waits_for_them() {
        let turns = AgentTurns::default();
        let [honest, quiet] = [1, 2].map(|number| DomainUuid(Uuid::from_u128(number)));
        turns.note(honest, true);
        let _hanging = [turns.turn(quiet).await.unwrap(), turns.turn(quiet).await.unwrap()];
        assert!(turns.turn(quiet).await.is_none());
        let asked = turns.turn(honest).await;
        assert!(asked.is_some());

        turns.note(honest, false);
        assert!(turns.turn(honest).await.is_none(), "it fell silent");
        turns.note(honest, true);
        assert!(turns.turn(honest).await.is_some(), "it answers again");
    }
}
