//! What is told of an object as events, and whom it concerns. A Warning is something that a person has to act on.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt;
use kube::core::object::HasStatus;
use serde::Serialize;
use tokio::time::Instant;

use super::cache::{Cache, Cached};
use super::context::Context;

/// What is over by itself within this time was part of a normal start.
pub const GRACE: Duration = Duration::from_secs(15);

/// Whom something concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Nobody: things go as they should. A Normal event.
    Nobody,
    /// A person, now. A Warning.
    Somebody,
    /// A person, unless it is over by then. A Warning, later.
    IfItLasts(Lasting),
}

/// What has to last before it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// Type of the condition that shows it.
    pub condition: &'static str,
    /// The reason that the condition has as long as it lasts.
    pub reason: String,
    /// How long it has to last.
    pub grace: Duration,
}

impl Attention {
    /// A person's, unless the condition has another reason after [`GRACE`].
    pub fn if_it_lasts(condition: &'static str, reason: impl Into<String>) -> Self {
        Self::IfItLasts(Lasting { condition, reason: reason.into(), grace: GRACE })
    }
}

/// One line of an object's story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whom it concerns.
    pub attention: Attention,
    /// One CamelCase word.
    pub reason: String,
    /// What happened, and what to do.
    pub note: String,
}

impl News {
    /// Something went as it should.
    pub fn normal(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self { attention: Attention::Nobody, reason: reason.into(), note: note.into() }
    }

    /// Something that a person has to act on.
    pub fn warning(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self { attention: Attention::Somebody, reason: reason.into(), note: note.into() }
    }

    /// Whether it concerns a person only if it lasts.
    #[must_use]
    pub fn has_to_last(&self) -> bool {
        self.grace().is_some()
    }

    fn grace(&self) -> Option<Duration> {
        match &self.attention {
            Attention::IfItLasts(lasting) => Some(lasting.grace),
            Attention::Nobody | Attention::Somebody => None,
        }
    }

    /// The state of a condition that a person has to act on, unless it is over by itself.
    pub fn if_it_lasts(condition: &'static str, reason: impl Into<String>, note: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { attention: Attention::if_it_lasts(condition, reason.clone()), reason, note: note.into() }
    }
}

/// Tells what is new of an object: now, or when it has lasted. What waits for that is forgotten with the operator; the one
/// that leads next looks for it ([`remind`]).
pub async fn tell<K>(context: &Arc<Context>, cache: &Arc<Cache<K>>, object: &K, action: &'static str, news: News)
where
    K: Cached + HasStatus<Status: Serialize>,
{
    let about = object.object_ref(&());
    match &news.attention {
        Attention::Nobody => context.events.normal(about, &news.reason, action, news.note).await,
        Attention::Somebody => context.events.warning(about, &news.reason, action, news.note).await,
        Attention::IfItLasts(lasting) => {
            let (context, cache, grace) = (Arc::clone(context), Arc::clone(cache), lasting.grace);
            let object = known_by(object);
            tokio::spawn(async move {
                tokio::time::sleep(grace).await;
                tell_what_lasted(&context, &cache, &object, action, news).await;
            });
        }
    }
}

/// Looks once, when this instance has taken the lead, for what was about to be told by the one before: every object's `lasting`
/// news are told if they still hold when they would have lasted from now on. One after another: a site may have thousands.
pub fn remind<K, N>(
    context: &Arc<Context>,
    cache: &Arc<Cache<K>>,
    action: &'static str,
    lasting: impl Fn(&K) -> N + Send + 'static,
) where
    K: Cached + HasStatus<Status: Serialize>,
    N: IntoIterator<Item = News>,
{
    let (context, cache, led) = (Arc::clone(context), Arc::clone(cache), Instant::now());
    let objects = cache.list();
    let news = objects.iter().flat_map(|object| lasting(object).into_iter().map(|news| (known_by(&**object), news)));
    let mut news: Vec<_> = news.filter_map(|(object, news)| Some((news.grace()?, object, news))).collect();
    news.sort_by_key(|(grace, ..)| *grace);
    tokio::spawn(async move {
        for (grace, object, news) in news {
            tokio::time::sleep_until(led + grace).await;
            tell_what_lasted(&context, &cache, &object, action, news).await;
        }
    });
}

/// By what an object is found again, and referred to in an event.
type KnownBy = (String, String, ObjectReference);

fn known_by<K: Cached>(object: &K) -> KnownBy {
    (object.namespace().unwrap_or_default(), object.name_any(), object.object_ref(&()))
}

async fn tell_what_lasted<K>(
    context: &Context,
    cache: &Cache<K>,
    (namespace, name, about): &KnownBy,
    action: &'static str,
    news: News,
) where
    K: Cached + HasStatus<Status: Serialize>,
{
    let Attention::IfItLasts(lasting) = &news.attention else { return };
    let newest = cache.get(namespace, name).filter(|newest| newest.uid() == about.uid);
    if newest.is_some_and(|newest| shows(&*newest, lasting)) {
        context.events.warning(about.clone(), &news.reason, action, news.note).await;
    }
}

/// Whether an object still shows what has to last.
fn shows<K: HasStatus<Status: Serialize>>(object: &K, lasting: &Lasting) -> bool {
    let status = serde_json::to_value(object.status()).unwrap_or_default();
    let conditions = status.get("conditions").and_then(serde_json::Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition.get("type").is_some_and(|kind| kind == lasting.condition)
            && condition.get("reason").is_some_and(|reason| *reason == *lasting.reason)
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::conditions::{READY, State, stamp};
    use crate::api::{VirtualMachine, VirtualMachineStatus};
    use crate::controllers::placement::testing::machine;

    fn with_reason(reason: &str) -> VirtualMachine {
        let conditions = stamp(vec![State::no(READY, reason, "")], &[], None, Timestamp::UNIX_EPOCH);
        VirtualMachine {
            status: Some(VirtualMachineStatus { conditions, ..VirtualMachineStatus::default() }),
            ..machine("one", 0)
        }
    }

    #[test]
    fn a_wait_lasts_as_long_as_its_condition_has_its_reason() {
        let lasting = Lasting { condition: READY, reason: "Paused".into(), grace: GRACE };
        assert!(shows(&with_reason("Paused"), &lasting));
        assert!(!shows(&with_reason("AgentConnected"), &lasting));
        assert!(!shows(&machine("one", 0), &lasting), "an object that nobody has looked at shows nothing");
    }
}
