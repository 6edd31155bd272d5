//! Standard `metav1.Condition` lists: read, set, compared.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::text::printable;

/// Condition of a host that somebody says is off.
pub const FENCED: &str = "Fenced";

/// Condition of an image that is verified and of which no further copies can be made: `True`, because its files can't be had;
/// `Unknown`, while they are fetched once more.
pub const SOURCE_UNAVAILABLE: &str = "SourceUnavailable";

/// The first condition of every kind.
pub const READY: &str = "Ready";

/// The longest message that a condition carries, in bytes.
const MAX_MESSAGE: usize = 1024;

/// The state of a condition before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Type of the condition.
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence that a person can act on.
    pub message: String,
}

impl State {
    /// It is so.
    pub fn yes(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, status: "True", reason: reason.into(), message: message.into() }
    }

    /// It is not so.
    pub fn no(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, status: "False", reason: reason.into(), message: message.into() }
    }

    /// Nobody knows.
    pub fn unknown(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, status: "Unknown", reason: reason.into(), message: message.into() }
    }
}

/// Conditions with times: a condition whose status is the same as in `before` keeps its time.
#[must_use]
pub fn stamp(states: Vec<State>, before: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    states
        .into_iter()
        .map(|state| {
            let since = find(before, state.kind)
                .filter(|old| old.status == state.status)
                .map_or(Time(whole_seconds(now)), |old| old.last_transition_time.clone());
            Condition {
                type_: state.kind.to_owned(),
                status: state.status.to_owned(),
                reason: state.reason,
                message: printable(&state.message, MAX_MESSAGE),
                last_transition_time: since,
                observed_generation: generation,
            }
        })
        .collect()
}

/// The condition of a type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition is there and `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// Kubernetes writes times of conditions in whole seconds; the same here, so that a round trip changes nothing.
#[must_use]
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let first = stamp(vec![State::no(READY, "Booting", "")], &[], Some(1), at(10));
        let same = stamp(vec![State::no(READY, "Slow", "still")], &first, Some(1), at(20));
        assert_eq!(same[0].last_transition_time, Time(at(10)));
        assert_eq!(same[0].reason, "Slow");
        let changed = stamp(vec![State::yes(READY, "Answers", "")], &same, Some(2), at(30));
        assert_eq!(changed[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn a_message_of_a_host_is_short_and_printable() {
        let said = ["refused:\n\u{1b}[2J", &"é".repeat(2_000)].concat();
        let told = stamp(vec![State::no(READY, "HostRefused", said)], &[], None, at(0));
        let message = &told[0].message;
        assert!(message.len() <= MAX_MESSAGE && message.starts_with("refused: \u{fffd}[2Jé") && message.ends_with('…'));
    }
}
