//! What is told of an object as events, and whom it concerns. A Warning is something that a person has to act on.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::core::object::HasStatus;
use serde::Serialize;

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

    /// The state of a condition that a person has to act on, unless it is over by itself.
    pub fn if_it_lasts(condition: &'static str, reason: impl Into<String>, note: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { attention: Attention::if_it_lasts(condition, reason.clone()), reason, note: note.into() }
    }
}

/// Tells what is new of an object: now, or when it has lasted. What waits for that is forgotten with the operator; the
/// object's condition shows it all the same.
pub async fn tell<K>(context: &Arc<Context>, cache: &Arc<Cache<K>>, object: &K, action: &'static str, news: News)
where
    K: Cached + HasStatus<Status: Serialize>,
{
    let about = object.object_ref(&());
    let News { attention, reason, note } = news;
    let lasting = match attention {
        Attention::Nobody => return context.events.normal(about, &reason, action, note).await,
        Attention::Somebody => return context.events.warning(about, &reason, action, note).await,
        Attention::IfItLasts(lasting) => lasting,
    };
    let (context, cache) = (Arc::clone(context), Arc::clone(cache));
    let (namespace, name, uid) = (object.namespace().unwrap_or_default(), object.name_any(), object.uid());
    tokio::spawn(async move {
        tokio::time::sleep(lasting.grace).await;
        let newest = cache.get(&namespace, &name).filter(|newest| newest.uid() == uid);
        if newest.is_some_and(|newest| shows(&*newest, &lasting)) {
            context.events.warning(about, &reason, action, note).await;
        }
    });
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
