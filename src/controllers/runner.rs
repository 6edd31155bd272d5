//! The loop around every controller: what wakes it, pausing, pauses after errors, counting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::ResourceExt;
use kube::core::NamespaceResourceScope;
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::ObjectRef;
use serde::Serialize;
use tokio::time::Instant;
use tracing::{Instrument, debug, info_span, warn};

use super::cache::{Cache, Cached};
use super::context::Context;
use super::error::Error;
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
/// `triggers` names it, never one object twice at the same time. Changes within `debounce` of each other count as one.
pub async fn run<K, F, R>(
    context: Arc<Context>,
    cache: &Arc<Cache<K>>,
    triggers: BoxStream<'static, ObjectRef<K>>,
    debounce: Duration,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
    reconcile: F,
) where
    K: Cached + Serialize,
    F: Fn(Arc<K>, Arc<Context>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let failures = Arc::new(Failures::default());
    let kind = K::kind(&());
    let newest = Arc::clone(cache);
    let counted = {
        let failures = Arc::clone(&failures);
        move |object: Arc<K>, context: Arc<Context>| {
            let (failures, reconcile) = (Arc::clone(&failures), reconcile.clone());
            let object = newest.latest(&object).unwrap_or(object);
            let name = full_name(&*object);
            let span = info_span!("reconcile", kind = %K::kind(&()), object = %name);
            async move {
                let paused = is_annotated(&*object, PAUSED_ANNOTATION);
                tell_pause(&context, &*object, paused).await?;
                if paused {
                    return Ok(Action::await_change());
                }
                let begin = Instant::now();
                let outcome = reconcile(object, Arc::clone(&context)).await;
                context.metrics.reconcile::<K>(begin.elapsed(), outcome.as_ref().err().map(Error::reason));
                if outcome.is_ok() {
                    failures.forget(&name);
                }
                outcome
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
    let limits = context.site().limits.reconciles_in_flight;
    Controller::for_shared_stream(cache.all_then_changes(), cache.store())
        .with_config(Config::default().concurrency(limits).debounce(debounce))
        .reconcile_on(triggers)
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

fn full_name(object: &impl ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

/// The objects of one namespace that a predicate picks, as references that wake their controllers.
pub fn references<K>(cache: &Cache<K>, namespace: &str, pick: impl Fn(&K) -> bool) -> Vec<ObjectRef<K>>
where
    K: Cached + kube::Resource<Scope = NamespaceResourceScope>,
{
    cache
        .list()
        .iter()
        .filter(|object| object.namespace().as_deref() == Some(namespace) && pick(object))
        .map(|object| ObjectRef::from_obj(&**object))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
