//! Tunnels: what `wg syncconf` reads (wg(8)).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Router, VpnPeer};

/// Seconds after which a silent end says something, so that firewalls on the way keep the tunnel open.
const KEEPALIVE: u8 = 25;

/// Text that is no key. It is not repeated: it may be a private one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no WireGuard key: 32 bytes in base64, 44 characters, as wg genkey and wg pubkey write them")]
pub struct BadKey;

/// A key that only its router knows.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey([u8; 32]);

/// The key by which others know a router.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

fn bytes(text: &str) -> Result<[u8; 32], BadKey> {
    STANDARD.decode(text).map_err(|_| BadKey)?.try_into().map_err(|_| BadKey)
}

impl FromStr for PrivateKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        bytes(text).map(Self)
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        bytes(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PrivateKey(…)")
    }
}

/// Empty without tunnels.
pub(super) fn document(router: &Router) -> String {
    let Some(vpn) = &router.vpn else { return String::new() };
    let head = format!("[Interface]\nPrivateKey = {}\nListenPort = {}\n", STANDARD.encode(vpn.key.0), vpn.port);
    let peers = vpn.peers.iter().map(|(key, VpnPeer { endpoint, networks })| {
        let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
        let endpoint = endpoint.map(|endpoint| format!("Endpoint = {endpoint}\n")).unwrap_or_default();
        format!(
            "\n[Peer]\nPublicKey = {key}\n{endpoint}AllowedIPs = {}\nPersistentKeepalive = {KEEPALIVE}\n",
            networks.join(", ")
        )
    });
    std::iter::once(head).chain(peers).collect()
}
