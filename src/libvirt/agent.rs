//! The QEMU guest agent: a program in the guest, which may answer anything or nothing.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use virt::domain::Domain;

use super::error::Failure;
use super::host::{GuestCommand, GuestOutput, LONGEST_GUEST_INPUT};

/// Seconds that an agent has for an answer, and before that for libvirt's greeting.
const PATIENCE: i32 = 2;
/// Seconds that setting a clock may take.
const CLOCK: i32 = 8;
/// Longer answers are not looked at.
const LONGEST_ANSWER: usize = 64 * 1024;

/// A command that was begun in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process(i64);

/// How a command in a guest stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It runs.
    Runs,
    /// It ended.
    Ended(GuestOutput),
}

/// An answer that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the guest's agent answered something that makes no sense")
    }
}

/// Whether the agent of a running domain answers now.
pub(super) fn answers(domain: &Domain) -> Result<bool, Failure> {
    let answer = ask(domain, r#"{"execute":"guest-ping"}"#)?;
    Ok(answer.is_some_and(|answer| is_pong(&answer)))
}

/// Sets the guest's clock, and whether the agent says that it did. The guest's own clock chip, which it may have and which
/// shows the host's time, is set as well, by a program of the guest that waits for a full second.
pub(super) fn set_clock(domain: &Domain) -> Result<bool, Failure> {
    let nanoseconds = jiff::Timestamp::now().as_microsecond().saturating_mul(1000);
    let question = json!({"execute": "guest-set-time", "arguments": {"time": nanoseconds}});
    let answer = ask_within(domain, &question.to_string(), CLOCK)?;
    Ok(answer.is_some_and(|answer| is_pong(&answer)))
}

/// Whether this is an agent's answer to a ping, or to another command that returns nothing.
pub(super) fn is_pong(answer: &str) -> bool {
    read::<Map<String, Value>>(answer).is_ok()
}

/// Begins a command; `None`: no agent answers.
pub(super) fn begin(domain: &Domain, command: &GuestCommand) -> Result<Option<Process>, Failure> {
    if command.input.len() > LONGEST_GUEST_INPUT {
        return Err(Failure::Refused(format!(
            "{} would read {} bytes, an agent takes {LONGEST_GUEST_INPUT}",
            command.program,
            command.input.len()
        )));
    }
    ask(domain, &beginning(command))?.map(|answer| process(&answer)).transpose().map_err(senseless)
}

/// How a command that was begun stands; `None`: no agent answers.
pub(super) fn look(domain: &Domain, process: Process) -> Result<Option<Standing>, Failure> {
    let question = json!({"execute": "guest-exec-status", "arguments": {"pid": process.0}});
    ask(domain, &question.to_string())?.map(|answer| standing(&answer)).transpose().map_err(senseless)
}

/// Asks the guest to shut down, if anybody listens. An agent that obeys doesn't answer, and libvirt's own call would
/// wait for a minute whether it does.
pub(super) fn shut_down(domain: &Domain) -> Result<(), Failure> {
    if answers(domain)? {
        ask(domain, r#"{"execute":"guest-shutdown"}"#)?;
    }
    Ok(())
}

/// What an agent said. A guest can make libvirt fail in any way it likes, also in ways that look like those of a
/// connection that broke: an answer too long to be handed on is one. So as long as the connection lives, it was the
/// guest.
fn ask(domain: &Domain, question: &str) -> Result<Option<String>, Failure> {
    ask_within(domain, question, PATIENCE)
}

fn ask_within(domain: &Domain, question: &str, seconds: i32) -> Result<Option<String>, Failure> {
    greet_within(domain, PATIENCE);
    match domain.qemu_agent_command(question, seconds, 0).map_err(Failure::from) {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) => match domain.connect().and_then(|connection| connection.is_alive()) {
            Ok(true) => Ok(None),
            Ok(false) | Err(_) => Err(failure),
        },
    }
}

/// Limits how long libvirt waits for an agent to greet back. Where it can't be limited it is five seconds.
fn greet_within(domain: &Domain, seconds: i32) {
    // SAFETY: the domain is valid as long as it is borrowed, and nothing else is handed over.
    unsafe { virt::sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) };
}

fn senseless(answer: NoAnswer) -> Failure {
    Failure::Refused(answer.to_string())
}

fn beginning(command: &GuestCommand) -> String {
    let mut arguments = Map::new();
    arguments.insert("path".to_owned(), command.program.as_str().into());
    arguments.insert("arg".to_owned(), command.arguments.as_slice().into());
    arguments.insert("capture-output".to_owned(), true.into());
    if !command.input.is_empty() {
        arguments.insert("input-data".to_owned(), STANDARD.encode(&command.input).into());
    }
    json!({"execute": "guest-exec", "arguments": arguments}).to_string()
}

pub(super) fn process(answer: &str) -> Result<Process, NoAnswer> {
    #[derive(Deserialize)]
    struct Begun {
        pid: i64,
    }
    read::<Begun>(answer).map(|begun| Process(begun.pid))
}

pub(super) fn standing(answer: &str) -> Result<Standing, NoAnswer> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Status {
        exited: bool,
        exitcode: Option<i32>,
        #[serde(default)]
        out_data: String,
        #[serde(default)]
        err_data: String,
    }
    let status: Status = read(answer)?;
    if !status.exited {
        return Ok(Standing::Runs);
    }
    let text = |data: &str| STANDARD.decode(data).map_err(|_| NoAnswer);
    Ok(Standing::Ended(GuestOutput {
        exit_code: status.exitcode,
        output: text(&status.out_data)?,
        errors: text(&status.err_data)?,
    }))
}

/// What an agent returned, if it is of this form and not too long.
fn read<T: DeserializeOwned>(answer: &str) -> Result<T, NoAnswer> {
    #[derive(Deserialize)]
    struct Answer<T> {
        #[serde(rename = "return")]
        returned: T,
    }
    if answer.len() > LONGEST_ANSWER {
        return Err(NoAnswer);
    }
    serde_json::from_str::<Answer<T>>(answer).map(|answer| answer.returned).map_err(|_| NoAnswer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn only_an_agents_answer_is_an_answer() {
        assert!(is_pong(r#"{"return":{}}"#));
        for other in ["", "{}", r#"{"error":{"class":"x"}}"#, r#"{"return":1}"#, "[[[["] {
            assert!(!is_pong(other), "{other}");
        }
        assert!(!is_pong(&[r#"{"return":{"a":""#, &"x".repeat(LONGEST_ANSWER), r#""}}"#].concat()));
    }

    #[test]
    fn a_command_is_data_and_never_a_line_for_a_shell() {
        let arguments = vec!["run".to_owned(), "\"; reboot".to_owned()];
        let mut command =
            GuestCommand { program: "canary".to_owned(), arguments, input: Vec::new(), within: Duration::from_secs(1) };
        let question: Value = serde_json::from_str(&beginning(&command)).unwrap();
        assert_eq!(question["arguments"]["arg"], json!(["run", "\"; reboot"]));
        assert_eq!(question["arguments"]["path"], json!("canary"));
        assert_eq!(question["arguments"].get("input-data"), None);
        command.input = b"'; reboot\n".to_vec();
        let question: Value = serde_json::from_str(&beginning(&command)).unwrap();
        assert_eq!(question["arguments"]["input-data"], json!(STANDARD.encode("'; reboot\n")));
        command.input = b"PrivateKey".to_vec();
        let shown = format!("{command:?}");
        assert!(shown.contains("canary") && !shown.contains("80, 114") && !shown.contains("Private"), "{shown}");
    }

    #[test]
    fn a_command_runs_and_ends() {
        assert_eq!(process(r#"{"return":{"pid":7}}"#), Ok(Process(7)));
        assert_eq!(standing(r#"{"return":{"exited":false}}"#), Ok(Standing::Runs));
        let ended =
            r#"{"return":{"exited":true,"exitcode":1,"out-data":"aGk=","err-data":"bm8=","out-truncated":true}}"#;
        let output = GuestOutput { exit_code: Some(1), output: b"hi".to_vec(), errors: b"no".to_vec() };
        assert_eq!(standing(ended), Ok(Standing::Ended(output)));
        let killed = GuestOutput::default();
        assert_eq!(standing(r#"{"return":{"exited":true,"signal":9}}"#), Ok(Standing::Ended(killed)));
    }

    #[test]
    fn an_agent_that_lies_is_told_so() {
        for answer in [
            r#"{"return":{"exited":true,"exitcode":0,"out-data":"not base64!"}}"#,
            r#"{"return":{"exited":"yes"}}"#,
            r#"{"return":{"exited":true,"exitcode":99999999999}}"#,
            "",
        ] {
            assert_eq!(standing(answer), Err(NoAnswer), "{answer}");
        }
        let huge = [r#"{"return":{"exited":true,"out-data":""#, &"A".repeat(LONGEST_ANSWER), r#""}}"#].concat();
        assert_eq!(standing(&huge), Err(NoAnswer));
        assert_eq!(process(r#"{"return":{"pid":"1"}}"#), Err(NoAnswer));
    }

    proptest! {
        #[test]
        fn reading_never_panics(answer in "\\PC{0,80}") {
            let _ = standing(&answer);
            let _ = process(&answer);
            let _ = standing(&[r#"{"return":{"exited":true,"out-data":""#, &answer, r#""}}"#].concat());
        }
    }
}
