//! The other ends of a router's tunnels, from the objects alone: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::num::NonZeroU16;

use ipnet::Ipv4Net;

use super::consents::is_meant;
use crate::api::site::Site;
use crate::api::{FarmPeer, VRouter};
use crate::controllers::cache::Key;
use crate::controllers::placement::plan::Wait;
use crate::network::FarmNetwork;
use crate::network::router::{PrivateKey, PublicKey, Vpn, VpnPeer};

/// The port at which routers find each other.
pub const PORT: NonZeroU16 = NonZeroU16::MIN.saturating_add(51_819);

/// A router of this cloud, as others know it.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// `metadata.uid` of its farm.
    pub farm_uid: String,
    /// The network of its farm.
    pub network: Option<FarmNetwork>,
    /// The key that it works by.
    pub key: Option<PublicKey>,
    /// Where it is.
    pub endpoint: Option<SocketAddrV4>,
}

/// What a router is told of its tunnels.
#[derive(Clone, Debug)]
pub struct Tunnels {
    /// Its own end and all others that can be had.
    pub vpn: Vpn,
    /// What the others are called.
    pub names: BTreeMap<PublicKey, String>,
    /// Which can't be had, and why.
    pub waits: Vec<Wait>,
}

/// The tunnels of a router; `neighbours` are those of this cloud that consent.
#[must_use]
pub fn tunnels(
    router: &VRouter,
    key: PrivateKey,
    own: FarmNetwork,
    neighbours: &BTreeMap<Key, Neighbour>,
    site: &Site,
) -> Tunnels {
    let vpn = Vpn { key, port: PORT, peers: BTreeMap::new() };
    let mut tunnels = Tunnels { vpn, names: BTreeMap::new(), waits: Vec::new() };
    let mut taken: Vec<(Ipv4Net, String)> = vec![(own.into(), "this farm".to_owned())];
    for peer in router.spec.template.vpn.iter().flat_map(|vpn| &vpn.peers) {
        let other = other_end(router, peer, neighbours, site).and_then(|(key, other)| {
            is_new(&tunnels, key)?;
            is_apart(&other.networks, &taken)?;
            Ok((key, other))
        });
        match other {
            Ok((key, other)) => {
                taken.extend(other.networks.iter().map(|network| (*network, format!("peer {}", peer.name))));
                tunnels.names.insert(key, peer.name.clone());
                tunnels.vpn.peers.insert(key, other);
            }
            Err(Wait { reason, message }) => {
                tunnels.waits.push(Wait::new(reason, format!("peer {}: {message}", peer.name)));
            }
        }
    }
    tunnels
}

fn other_end(
    router: &VRouter,
    peer: &FarmPeer,
    neighbours: &BTreeMap<Key, Neighbour>,
    site: &Site,
) -> Result<(PublicKey, VpnPeer), Wait> {
    let Some(named) = &peer.peer_ref else { return far_end(peer, site) };
    let farm = (named.namespace.clone(), named.name.clone());
    // Whether there is such a farm is nobody's business who isn't named by it.
    let neighbour = neighbours.get(&farm).ok_or_else(|| {
        let (namespace, name) = farm;
        Wait::new("NoConsent", format!("no farm {namespace}/{name} names this one as its peer"))
    })?;
    is_meant(router, peer, named, &neighbour.farm_uid)?;
    match (neighbour.network, neighbour.key, neighbour.endpoint) {
        (Some(network), Some(key), Some(endpoint)) => {
            Ok((key, VpnPeer { endpoint: Some(endpoint), networks: [network.into()].into() }))
        }
        _ => Err(Wait::new("PeerNotReady", "its router is being made")),
    }
}

/// The router of another cloud. It is not to be somebody inside: a router asks nobody who is denied to its farm.
fn far_end(peer: &FarmPeer, site: &Site) -> Result<(PublicKey, VpnPeer), Wait> {
    let invalid = |field: &str| Wait::new("InvalidPeer", format!("{field} can't be read"));
    let key = peer.public_key.as_ref().and_then(|key| key.parse().ok()).ok_or_else(|| invalid("publicKey"))?;
    let endpoint: Option<SocketAddrV4> =
        peer.endpoint.as_ref().map(|text| text.parse().map_err(|_| invalid("endpoint"))).transpose()?;
    let network = |text: &String| text.parse::<Ipv4Net>().map(|net| net.trunc()).map_err(|_| invalid("networks"));
    let networks = peer.networks.iter().map(network).collect::<Result<BTreeSet<_>, _>>()?;
    let contains = |nets: &[Ipv4Net], at: SocketAddrV4| nets.iter().any(|net| net.contains(at.ip()));
    let inside = [site.farm_networks, site.isolation.networks];
    let is_denied = |at: &SocketAddrV4| {
        let denied = contains(&site.routers.denied_networks, *at) || contains(&inside, *at);
        denied && !contains(&site.routers.admitted_networks, *at)
    };
    match endpoint.filter(is_denied) {
        Some(at) => {
            Err(Wait::new("EndpointDenied", format!("{} is in a network that the site denies to farms", at.ip())))
        }
        None => Ok((key, VpnPeer { endpoint, networks })),
    }
}

fn is_new(tunnels: &Tunnels, key: PublicKey) -> Result<(), Wait> {
    match tunnels.names.get(&key) {
        Some(other) => Err(Wait::new("InvalidPeer", format!("has the same key as peer {other}"))),
        None if tunnels.vpn.key.public() == key => Err(Wait::new("InvalidPeer", "has this farm's own key")),
        None => Ok(()),
    }
}

fn is_apart(networks: &BTreeSet<Ipv4Net>, taken: &[(Ipv4Net, String)]) -> Result<(), Wait> {
    let overlap = |one: &Ipv4Net, other: &Ipv4Net| one.contains(other) || other.contains(one);
    let clash =
        networks.iter().find_map(|network| Some((network, taken.iter().find(|(other, _)| overlap(network, other))?)));
    match clash {
        Some((network, (other, whose))) => {
            Err(Wait::new("NetworksOverlap", format!("{network} overlaps {other} of {whose}")))
        }
        None => Ok(()),
    }
}
