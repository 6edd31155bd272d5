//! What is told of a router's tunnels: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::desired::Desired;
use super::observe::View;
use super::peers::PORT;
use super::status::PEERS_JOINED;
use super::talk::{Heard, Peer, Working};
use crate::api::conditions::State;
use crate::api::{Bytes, PeerStatus, VRouterStatus, VpnStatus};
use crate::controllers::farm::some_of;
use crate::metrics::CountedPeer;
use crate::network::router::{Hash, PublicKey};

/// The other end of a tunnel that is used proves every two minutes who it is, and a packet that keeps it open every 25
/// seconds is use; after three minutes it counts no more (WireGuard's `REJECT_AFTER_TIME`).
const LATELY: Duration = Duration::from_secs(180);

/// What others have to know of a router, and what it knows of them; `None`: it has no tunnels. A new key is told when the router
/// works by it, not before: then the others can use it.
#[must_use]
pub fn vpn(view: &View, before: &VRouterStatus, heard: Option<&Heard>, wanted: Option<Hash>) -> Option<VpnStatus> {
    let template = view.router.spec.template.vpn.as_ref()?;
    let before = before.vpn.clone().unwrap_or_default();
    let Ok(desired) = &view.desired else { return Some(before) };
    let (Some(vpn), Some(Heard::InForce(working))) = (&desired.router.vpn, heard) else { return Some(before) };
    if Some(working.hash) != wanted {
        return Some(before);
    }
    let peer = |name: &String| {
        let known = before.peers.iter().find(|known| known.name == *name);
        let key = desired.peers.iter().find(|(_, of)| *of == name).map(|(key, _)| key.to_string())?;
        let Some(seen) = working.peers.get(&key) else { return known.cloned() };
        let last_handshake = to_the_minute(seen.handshake).map(Time);
        // Counters are as of the last handshake: a status that changed with every packet would be written all the time.
        let same = known.filter(|known| known.last_handshake == last_handshake);
        Some(same.cloned().unwrap_or_else(|| PeerStatus {
            name: name.clone(),
            last_handshake,
            received: Bytes::new(seen.received),
            sent: Bytes::new(seen.sent),
        }))
    };
    Some(VpnStatus {
        public_key: Some(vpn.key.public().to_string()),
        endpoint: view.addresses.own().map(|address| format!("{address}:{PORT}")),
        peers: template.peers.iter().filter_map(|other| peer(&other.name)).collect(),
    })
}

/// What a router counted of the other ends, by what they are called.
#[must_use]
pub fn counted(desired: &Desired, working: &Working) -> BTreeMap<String, CountedPeer> {
    let of = |(key, name): (&PublicKey, &String)| {
        let Peer { handshake, received, sent } = *working.peers.get(&key.to_string())?;
        Some((name.clone(), CountedPeer { handshake, received, sent }))
    };
    desired.peers.iter().filter_map(of).collect()
}

fn to_the_minute(handshake: i64) -> Option<Timestamp> {
    (handshake > 0).then(|| Timestamp::from_second(handshake - handshake % 60).ok()).flatten()
}

/// Whether every other end is there; `None`: there is none to be.
#[must_use]
pub fn joined(view: &View, heard: Option<&Heard>, now: Timestamp) -> Option<State> {
    let desired = view.desired.as_ref().ok()?;
    let wanted = view.router.spec.template.vpn.as_ref().map_or(0, |vpn| vpn.peers.len());
    if wanted == 0 {
        return None;
    }
    if let Some(first) = desired.peer_waits.first() {
        let messages: Vec<_> = desired.peer_waits.iter().map(|wait| wait.message.clone()).collect();
        return Some(State::no(PEERS_JOINED, first.reason, some_of(&messages, "; ")));
    }
    let Some(Heard::InForce(working)) = heard else {
        return Some(State::unknown(PEERS_JOINED, "Pending", "the router doesn't say"));
    };
    let is_there = |peer: &Peer| {
        let handshake = Timestamp::from_second(peer.handshake).unwrap_or_default();
        Duration::try_from(now.duration_since(handshake)).unwrap_or_default() < LATELY
    };
    let away = desired.peers.iter().filter(|(key, _)| !working.peers.get(&key.to_string()).is_some_and(is_there));
    let away: Vec<_> = away.map(|(_, name)| name.clone()).collect();
    if away.is_empty() {
        return Some(State::yes(PEERS_JOINED, "Joined", format!("{wanted} of {wanted}")));
    }
    let message = format!("no handshake within three minutes: {}", some_of(&away, ", "));
    Some(State::no(PEERS_JOINED, "NoHandshake", message))
}
