//! Tunnels: what `wg syncconf` reads (wg(8)).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x25519_dalek::StaticSecret;

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

impl PrivateKey {
    /// A new key, from the system's random numbers.
    #[must_use]
    pub fn random() -> Self {
        Self(StaticSecret::random().to_bytes())
    }

    /// The key by which others know the router that has this one.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&StaticSecret::from(self.0)).to_bytes())
    }

    /// The key itself, as wg(8) writes it: for a Secret or the router, and for nothing else.
    #[must_use]
    pub fn reveal(&self) -> String {
        STANDARD.encode(self.0)
    }
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
    let head = format!("[Interface]\nPrivateKey = {}\nListenPort = {}\n", vpn.key.reveal(), vpn.port);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_is_the_one_that_wg_makes() {
        // The first pair of RFC 7748, section 6.1.
        let private: PrivateKey = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse().unwrap();
        assert_eq!(private.public().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        assert_ne!(PrivateKey::random(), PrivateKey::random());
        let new = PrivateKey::random();
        assert_eq!(new.reveal().parse::<PrivateKey>().unwrap(), new);
    }
}
