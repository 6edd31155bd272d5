//! The loop around every controller: what wakes it, pausing, pauses after errors, counting.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kube::ResourceExt;
use kube::core::object::HasStatus;
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::ObjectRef;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info_span, warn};

use super::cache::{Cache, Cached};
use super::context::Context;
use super::error::Error;
use super::turns::Turns;
use super::writes::tell_pause;
use crate::api::{PAUSED_ANNOTATION, is_annotated};

/// The longest pause after errors.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The shortest pause after errors.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);

/// Errors in a row, by object.
#[derive(Default)]
struct Failures(Mutex<HashMap<String, u32>>);

impl Failures {
    fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The pause after one more error: doubled each time.
    fn pause(&self, name: &str) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(name.to_owned()).or_default();
        let pause = SHORTEST_PAUSE.saturating_mul(1 << (*count).min(7)).min(LONGEST_PAUSE);
        *count = count.saturating_add(1);
        pause
    }
}

/// Runs a controller until `shutdown`: it reconciles each object of the cache when it changes and when one of the
/// `triggers` names it, never one object twice at the same time. What triggers it within `gather` counts once. So many
/// are reconciled at a time as the site allows, of each namespace in turns. Paused objects are left alone.
pub async fn run<K, F, R>(
    context: Arc<Context>,
    cache: &Arc<Cache<K>>,
    triggers: BoxStream<'static, ObjectRef<K>>,
    gather: Duration,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
    reconcile: F,
) where
    K: Cached + HasStatus<Status: Serialize>,
    F: Fn(Arc<K>, Arc<Context>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let leave_alone = |_, _| std::future::ready(Ok(Action::await_change()));
    run_and_hold(context, cache, triggers, gather, shutdown, reconcile, leave_alone).await;
}

/// The same, with something that is done for paused objects: what somebody decided for safety's sake, which an annotation is
/// not to hold up.
pub async fn run_and_hold<K, F, R, H, S>(
    context: Arc<Context>,
    cache: &Arc<Cache<K>>,
    triggers: BoxStream<'static, ObjectRef<K>>,
    gather: Duration,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
    reconcile: F,
    while_paused: H,
) where
    K: Cached + HasStatus<Status: Serialize>,
    F: Fn(Arc<K>, Arc<Context>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Action, Error>> + Send + 'static,
    H: Fn(Arc<K>, Arc<Context>) -> S + Clone + Send + Sync + 'static,
    S: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let failures = Arc::new(Failures::default());
    let turns = Turns::new(usize::from(context.site().limits.reconciles_in_flight.max(1)));
    let stopping = CancellationToken::new();
    let kind = K::kind(&());
    let newest = Arc::clone(cache);
    let counted = {
        let (failures, stopping) = (Arc::clone(&failures), stopping.clone());
        move |object: Arc<K>, context: Arc<Context>| {
            let (failures, reconcile, while_paused) = (Arc::clone(&failures), reconcile.clone(), while_paused.clone());
            let (newest, turns, stopping) = (Arc::clone(&newest), Arc::clone(&turns), stopping.clone());
            let name = full_name(&*object);
            let span = info_span!("reconcile", kind = %K::kind(&()), object = %name);
            async move {
                let _turn = tokio::select! {
                    turn = turns.take(object.meta().namespace.as_deref().unwrap_or_default()) => turn,
                    () = stopping.cancelled() => return Ok(Action::await_change()),
                };
                let object = newest.latest(&object).unwrap_or(object);
                let work = async {
                    if is_annotated(&*object, PAUSED_ANNOTATION) {
                        let held = while_paused(Arc::clone(&object), Arc::clone(&context)).await;
                        tell_pause(&context, &*object, true).await?;
                        return held;
                    }
                    tell_pause(&context, &*object, false).await?;
                    let begin = Instant::now();
                    let outcome = reconcile(Arc::clone(&object), Arc::clone(&context)).await;
                    context.metrics.reconcile::<K>(begin.elapsed(), outcome.as_ref().err().map(Error::reason));
                    if outcome.is_ok() {
                        failures.forget(&name);
                    }
                    outcome
                };
                // Thousands may wait for their turn: what they need afterwards is made afterwards, on the heap.
                Box::pin(work).await
            }
            .instrument(span)
        }
    };
    let policy = move |object: Arc<K>, error: &Error, _: Arc<Context>| {
        let name = full_name(&*object);
        if error.is_conflict() {
            debug!(kind = %K::kind(&()), object = %name, "changed meanwhile; looking again");
            return Action::requeue(Duration::from_millis(50));
        }
        let pause = failures.pause(&name);
        warn!(kind = %K::kind(&()), object = %name, %error, pause_seconds = pause.as_secs_f64(), "reconcile failed");
        Action::requeue(pause)
    };
    let shutdown = async move {
        shutdown.await;
        stopping.cancel();
    };
    Controller::for_shared_stream(cache.all_then_changes(), cache.store())
        .with_config(Config::default())
        .reconcile_on(gathered(triggers, gather))
        .graceful_shutdown_on(shutdown)
        .run(counted, policy, context)
        .for_each(|outcome| {
            if let Err(error) = outcome {
                debug!(%kind, %error, "controller");
            }
            std::future::ready(())
        })
        .await;
}

/// At most so many triggers are gathered.
const GATHERED: usize = 4096;

/// What comes within so long of the first, each once. The library's own debounce begins anew with each trigger: among
/// hundreds of machines that start, a farm would never get its turn.
fn gathered<K>(triggers: BoxStream<'static, ObjectRef<K>>, gather: Duration) -> BoxStream<'static, ObjectRef<K>>
where
    K: Cached,
{
    if gather.is_zero() {
        return triggers;
    }
    let chunks = tokio_stream::StreamExt::chunks_timeout(triggers, GATHERED, gather);
    chunks.flat_map(|chunk| stream::iter(chunk.into_iter().collect::<HashSet<_>>())).boxed()
}

/// Namespace and name, as logs have them.
pub fn full_name(object: &impl ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::VirtualFarm;

    #[tokio::test(start_paused = true)]
    async fn a_trigger_among_many_gets_its_turn_and_each_counts_once() {
        let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(Duration::from_millis(10)));
        let often = ticks.map(|_| ObjectRef::<VirtualFarm>::new("farm")).boxed();
        let begin = Instant::now();
        let turns: Vec<_> = gathered(often, Duration::from_millis(50)).take(4).map(|_| begin.elapsed()).collect().await;
        assert!(turns[0] <= Duration::from_millis(60), "{turns:?}");
        assert!(turns[3] >= Duration::from_millis(180) && turns[3] <= Duration::from_millis(240), "{turns:?}");
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_start_again_after_success() {
        let failures = Failures::default();
        let pauses: Vec<_> = (0..10).map(|_| failures.pause("one")).collect();
        assert_eq!(pauses[0], SHORTEST_PAUSE);
        assert_eq!(pauses[1], SHORTEST_PAUSE * 2);
        assert_eq!(pauses[9], LONGEST_PAUSE);
        failures.forget("one");
        assert_eq!(failures.pause("one"), SHORTEST_PAUSE);
    }
}
