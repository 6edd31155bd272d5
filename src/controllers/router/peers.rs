//! The other ends of a router's tunnels, from the objects alone: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;

use ipnet::Ipv4Net;

use super::consents::is_meant;
use crate::api::site::Site;
use crate::api::{FarmPeer, VRouter};
use crate::controllers::cache::Key;
use crate::controllers::placement::plan::Wait;
use crate::network::router::{PrivateKey, PublicKey, Vpn, VpnPeer};
use crate::network::{FarmNetwork, SPECIAL, overlap};

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

/// A network that the farm reaches without a tunnel, or not at all, and what it is.
pub type Kept = (Ipv4Net, String);

/// Where no tunnel may lead: its route is narrower than the way out, and would take from the farm what is there.
#[must_use]
pub fn kept(own: FarmNetwork, dns: &[Ipv4Addr], site: &Site) -> Vec<Kept> {
    let one = |network: Ipv4Net, what: &str| (network.trunc(), what.to_owned());
    let farm = one(own.into(), "this farm's own network");
    let public =
        site.routers.public.as_ref().map(|public| one(public.network, "the site's public network, the way out"));
    let special = SPECIAL.iter().map(|(network, what)| one(*network, &format!("{what} addresses")));
    // A server of the farm's own may well be behind a tunnel.
    let dns = dns.iter().filter(|server| site.dns.contains(server));
    let dns = dns.map(|server| one(Ipv4Net::from(*server), "a DNS server of the site's, which its router asks"));
    let admitted = site.routers.admitted_networks.iter().map(|network| one(*network, "to which the site admits farms"));
    std::iter::once(farm).chain(public).chain(special).chain(dns).chain(admitted).collect()
}

/// Where the other end says that it is.
fn endpoint_of(peer: &FarmPeer, neighbours: &BTreeMap<Key, Neighbour>) -> Option<SocketAddrV4> {
    match &peer.peer_ref {
        Some(named) => neighbours.get(&(named.namespace.clone(), named.name.clone()))?.endpoint,
        None => peer.endpoint.as_ref()?.parse().ok(),
    }
}

/// The tunnels of a router; `neighbours` are the routers of this cloud that consent, `kept` what no tunnel may lead to.
#[must_use]
pub fn tunnels(
    router: &VRouter,
    key: PrivateKey,
    kept: Vec<Kept>,
    neighbours: &BTreeMap<Key, Neighbour>,
    site: &Site,
) -> Tunnels {
    let vpn = Vpn { key, port: PORT, peers: BTreeMap::new() };
    let mut tunnels = Tunnels { vpn, names: BTreeMap::new(), waits: Vec::new() };
    let peers = || router.spec.template.vpn.iter().flat_map(|vpn| &vpn.peers);
    let mut taken = kept;
    // To the other end itself the way is outside, or its tunnel would lead into itself.
    let endpoints = peers().filter_map(|peer| Some((peer, endpoint_of(peer, neighbours)?)));
    taken.extend(endpoints.map(|(peer, at)| (Ipv4Net::from(*at.ip()), format!("where peer {} is", peer.name))));
    for peer in peers() {
        let other = other_end(router, peer, neighbours, site).and_then(|(key, other)| {
            is_new(&tunnels, key)?;
            is_apart(&other.networks, &taken)?;
            Ok((key, other))
        });
        match other {
            Ok((key, other)) => {
                taken.extend(other.networks.iter().map(|network| (*network, format!("behind peer {}", peer.name))));
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
    let nobody = endpoint.and_then(|at| SPECIAL.iter().find(|(network, _)| network.contains(at.ip())));
    if let Some((network, what)) = nobody {
        return Err(Wait::new(
            "InvalidPeer",
            format!("endpoint: nobody is in {network} ({what}); give its public address"),
        ));
    }
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

fn is_apart(networks: &BTreeSet<Ipv4Net>, taken: &[Kept]) -> Result<(), Wait> {
    let clash =
        networks.iter().find_map(|network| Some((network, taken.iter().find(|(other, _)| overlap(network, other))?)));
    match clash {
        Some((network, (other, what))) => {
            let problem = format!("{network} overlaps {other} ({what}); name only networks that are behind the peer");
            Err(Wait::new("NetworksOverlap", problem))
        }
        None => Ok(()),
    }
}
