//! How a router is told what to do, by the agent of its guest. What it answers is believed about itself and about nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;
use tracing::debug;

use crate::libvirt::{DomainUuid, GuestCommand, GuestOutput, Host, HostError};
use crate::metrics::Counted;
use crate::network::router::{Documents, Hash, pieces};
use crate::text::printable;

/// The program in the router that takes files and puts them in force.
const PROGRAM: &str = "cascina-router";

/// A router that doesn't answer a question within this time is asked again later.
const QUESTION: Duration = Duration::from_secs(10);

/// Checking and putting in force what a farm of 253 machines and 1,000 forwards needs takes a second on a fast host.
const APPLY: Duration = Duration::from_secs(60);

/// The longest text of a router that is told on, in bytes.
const LONGEST: usize = 300;

/// Hashes of files, by their names, as a router tells them.
pub type Hashes = BTreeMap<String, String>;

/// What a router was heard to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Its agent doesn't answer.
    Nothing,
    /// It works by these files.
    InForce(Working),
    /// It refuses a file, and works as before.
    Refuses(String),
}

/// What a router works by, and what it counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Working {
    /// The hash of its files.
    pub hash: Hash,
    /// Whether it is its turn; `None`: it is alone.
    pub leads: Option<bool>,
    /// The other ends of its tunnels, by their keys.
    pub peers: BTreeMap<String, Peer>,
}

/// The other end of a tunnel.
#[derive(Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Peer {
    /// When it last proved who it is, in seconds since 1970; 0: never.
    pub handshake: i64,
    /// Bytes that came from it.
    pub received: u64,
    /// Bytes that went to it.
    pub sent: u64,
}

/// What a router says of itself; more than this isn't read.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct State {
    hash: String,
    documents: Hashes,
    leads: Option<bool>,
    peers: BTreeMap<String, Peer>,
    /// What its clock shows, in seconds since 1970; 0: it is of an older image, and doesn't say.
    now: i64,
}

impl State {
    /// Its peers, with times by the clock that shows `now`: a guest's own may stand anywhere.
    fn peers_by(self, now: Timestamp) -> BTreeMap<String, Peer> {
        let ahead = self.now.saturating_sub(now.as_second());
        let is_right = self.now == 0 || ahead.unsigned_abs() <= CLOCKS_DIFFER;
        let by_ours = |peer: Peer| match peer.handshake {
            _ if is_right => peer,
            0 => peer,
            time => Peer { handshake: time.saturating_sub(ahead).max(1), ..peer },
        };
        self.peers.into_iter().map(|(key, peer)| (key, by_ours(peer))).collect()
    }
}

/// Seconds that two clocks may differ because the answer took its time.
const CLOCKS_DIFFER: u64 = 10;

/// What became of a bundle.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct Applied {
    hash: String,
    leads: Option<bool>,
    missing: Vec<String>,
    file: String,
    error: String,
}

/// What a router counted, or a part of it.
#[derive(Deserialize, Debug, Default)]
#[serde(default, rename_all = "camelCase")]
struct Page {
    connections: u64,
    most_connections: u64,
    counters: BTreeMap<String, [u64; 2]>,
    next: u32,
}

/// A thousand forwards and what else there is to count are three pages.
const MOST_PAGES: usize = 4;

/// The router in a domain.
pub struct Guest<'a> {
    /// Its host.
    pub host: &'a dyn Host,
    /// Its domain.
    pub uuid: DomainUuid,
}

impl Guest<'_> {
    /// Makes the router work by these documents; those that it has are not sent. `has` are the hashes of those that it has by
    /// all that is known, where others are; it is asked if that isn't known, or turns out to be wrong.
    ///
    /// # Errors
    /// The host can't be asked. Whatever the guest says is part of what is heard.
    pub async fn bring_to(
        &self,
        documents: &Documents,
        has: Option<Hashes>,
        now: impl Fn() -> Timestamp,
    ) -> Result<Heard, HostError> {
        if let Some(has) = has
            && let Sent::Heard(heard) = self.send(documents, &has).await?
        {
            return Ok(heard);
        }
        let Some(answer) = self.run(["state"], &[], QUESTION).await? else { return Ok(Heard::Nothing) };
        let Some(state) = read::<State>(&answer) else { return Ok(nonsense("state", &answer)) };
        let wanted = documents.hash();
        if state.hash == wanted.to_string() {
            return Ok(Heard::InForce(Working { hash: wanted, leads: state.leads, peers: state.peers_by(now()) }));
        }
        match self.send(documents, &state.documents).await? {
            Sent::Missing => match self.send(documents, &Hashes::new()).await? {
                Sent::Missing => Ok(Heard::Refuses("it misses files that it was sent".to_owned())),
                Sent::Heard(heard) => Ok(heard),
            },
            Sent::Heard(heard) => Ok(heard),
        }
    }

    /// What the router counted, of the counters that it has by what it was told; `None`: it doesn't say.
    ///
    /// # Errors
    /// The host can't be asked.
    pub async fn count(&self, counters: &BTreeSet<String>) -> Result<Option<Counted>, HostError> {
        let (mut counted, mut next) = (Counted::default(), 0);
        for _ in 0..MOST_PAGES {
            let Some(answer) = self.run(["count", &next.to_string()], &[], QUESTION).await? else { return Ok(None) };
            let Some(page) = read::<Page>(&answer) else { return Ok(None) };
            (counted.connections, counted.most_connections) = (page.connections, page.most_connections);
            // A guest can make up names, and every name is a line for Prometheus.
            counted.counters.extend(page.counters.into_iter().filter(|(name, _)| counters.contains(name)));
            next = page.next;
            if next == 0 {
                break;
            }
        }
        Ok(Some(counted))
    }

    async fn send(&self, documents: &Documents, known: &Hashes) -> Result<Sent, HostError> {
        for (place, piece) in pieces(&documents.bundle(known)) {
            let Some(answer) = self.run(["take", &place.to_string()], piece, QUESTION).await? else {
                return Ok(Sent::Heard(Heard::Nothing));
            };
            if answer.exit_code != Some(0) {
                return Ok(Sent::Heard(nonsense("take", &answer)));
            }
        }
        let Some(answer) = self.run(["apply"], &[], APPLY).await? else { return Ok(Sent::Heard(Heard::Nothing)) };
        let Some(applied) = read::<Applied>(&answer) else { return Ok(Sent::Heard(nonsense("apply", &answer))) };
        let wanted = documents.hash();
        if !applied.missing.is_empty() {
            return Ok(Sent::Missing);
        }
        if applied.error.is_empty() && applied.hash == wanted.to_string() {
            let working = Working { hash: wanted, leads: applied.leads, peers: BTreeMap::new() };
            return Ok(Sent::Heard(Heard::InForce(working)));
        }
        let problem = [applied.file, applied.error].join(": ");
        Ok(Sent::Heard(Heard::Refuses(printable(&problem, LONGEST))))
    }

    async fn run<const N: usize>(
        &self,
        arguments: [&str; N],
        input: &[u8],
        within: Duration,
    ) -> Result<Option<GuestOutput>, HostError> {
        let command = GuestCommand {
            program: PROGRAM.to_owned(),
            arguments: arguments.map(str::to_owned).to_vec(),
            input: input.to_vec(),
            within,
        };
        let begun = Instant::now();
        let outcome = self.host.run_in_guest(self.uuid, &command).await;
        debug!(domain = %self.uuid, ?arguments, seconds = begun.elapsed().as_secs_f64(), "asked a router");
        match outcome {
            // A guest that is slow or talks nonsense is no trouble of the host's.
            Err(error) if !error.is_silence() => {
                Ok(Some(GuestOutput { errors: error.to_string().into_bytes(), ..GuestOutput::default() }))
            }
            outcome => outcome,
        }
    }
}

enum Sent {
    Missing,
    Heard(Heard),
}

fn read<T: for<'de> Deserialize<'de>>(answer: &GuestOutput) -> Option<T> {
    (answer.exit_code == Some(0)).then(|| serde_json::from_slice(&answer.output).ok()).flatten()
}

fn nonsense(question: &str, answer: &GuestOutput) -> Heard {
    let said = String::from_utf8_lossy(&answer.errors);
    Heard::Refuses(printable(&format!("cascina-router {question}: {}", said.trim()), LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_guest_are_told_by_our_clock_whatever_its_own_shows() {
        let told = |guests_now: i64, handshake| {
            let peer = Peer { handshake, received: 1, sent: 2 };
            let state =
                State { now: guests_now, peers: BTreeMap::from([("key".to_owned(), peer)]), ..State::default() };
            let peers = state.peers_by(Timestamp::from_second(10_000).unwrap());
            assert_eq!((peers["key"].received, peers["key"].sent), (1, 2));
            peers["key"].handshake
        };
        assert_eq!(told(9_998, 9_900), 9_900, "an answer takes its time");
        assert_eq!(told(7_000, 6_900), 9_900, "it stood still for 3,000 s");
        assert_eq!(told(0, 9_900), 9_900, "an older image doesn't say");
        assert_eq!(told(7_000, 0), 0, "never is never");
        assert!(told(i64::MAX, 1) > 0 && told(i64::MIN, 1) > 0, "a guest may say anything");
    }
}
