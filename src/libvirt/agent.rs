//! The QEMU guest agent: a program in the guest, which may answer anything or nothing.

use virt::domain::Domain;
use virt::error::ErrorNumber;

use super::error::Failure;

/// Seconds that an agent has for an answer. libvirt first waits up to five more for it to listen.
const PATIENCE: i32 = 2;
/// Longer answers are not looked at.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Whether the agent of a running domain answers now.
pub(super) fn answers(domain: &Domain) -> Result<bool, Failure> {
    let no_answer = [
        ErrorNumber::AgentUnresponsive,
        ErrorNumber::AgentUnsynced,
        ErrorNumber::AgentCommandTimeout,
        ErrorNumber::AgentCommandFailed,
        // There is no agent's channel, or another job holds it, or the domain went off.
        ErrorNumber::ArgumentUnsupported,
        ErrorNumber::OperationTimeout,
        ErrorNumber::OperationInvalid,
        ErrorNumber::NoDomain,
    ];
    match domain.qemu_agent_command(r#"{"execute":"guest-ping"}"#, PATIENCE, 0).map_err(Failure::from) {
        Ok(answer) => Ok(is_pong(&answer)),
        Err(failure) if failure.is_any(&no_answer) => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn is_pong(answer: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Pong {
        #[serde(rename = "return")]
        _empty: serde_json::Map<String, serde_json::Value>,
    }
    answer.len() <= LONGEST_ANSWER && serde_json::from_str::<Pong>(answer).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agents_answer_is_an_answer() {
        assert!(is_pong(r#"{"return":{}}"#));
        for other in ["", "{}", r#"{"error":{"class":"x"}}"#, r#"{"return":1}"#, "[[[["] {
            assert!(!is_pong(other), "{other}");
        }
        assert!(!is_pong(&[r#"{"return":{"a":""#, &"x".repeat(LONGEST_ANSWER), r#""}}"#].concat()));
    }
}
