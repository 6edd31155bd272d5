//! What a farm's router is told: the files it works by, a pure function of the farm, its machines and the site.
//!
//! Everything in a [`Router`] is a number or a checked name, and a machine is told by its number in the farm, so no file can
//! hold what somebody smuggled into a name, and no router can be told to send a packet into another farm. Names of machines
//! and groups stand in one file, that of their addresses (hosts(5)), which has no words that they could be.

mod dnsmasq;
mod documents;
mod interfaces;
mod keepalived;
mod nftables;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;

use ipnet::Ipv4Net;

use super::{DomainName, FarmNetwork, HostNumber, ZoneName};
pub use documents::{DocumentName, Documents, Hash, pieces};
pub use wireguard::{BadKey, PrivateKey, PublicKey};

/// The name of the card, within the router, that is in the farm.
pub const FARM_CARD: &str = "farm";
/// The name of the card that is in the public network.
pub const PUBLIC_CARD: &str = "public";
/// The name of the tunnel to other farms.
pub const VPN_CARD: &str = "vpn";

/// All that a router works by.
#[derive(Clone, Debug)]
pub struct Router {
    /// The farm's network, whose gateway it is.
    pub farm: FarmNetwork,
    /// It is one of two: both are told the same, and one at a time has the gateway's address and the public ones.
    pub paired: bool,
    /// The farm's DNS domain.
    pub domain: DomainName,
    /// The largest packet of the farm's network, in bytes.
    pub mtu: u16,
    /// The farm's machines: each gets its address by DHCP and a name in DNS.
    pub machines: BTreeMap<HostNumber, RouterMachine>,
    /// DNS servers that are asked about all other names.
    pub dns: BTreeSet<Ipv4Addr>,
    /// Its place in the public network; none: the farm has no way out.
    pub public: Option<PublicSide>,
    /// What of the farm can be reached at the public address.
    pub forwards: BTreeMap<PublicPort, Forward>,
    /// Public addresses that belong to one machine each.
    pub elastic: BTreeMap<Ipv4Addr, HostNumber>,
    /// Where machines may go, in order; what no rule speaks of is admitted.
    pub egress: Vec<EgressRule>,
    /// Networks that no farm reaches, whatever its own rules say: those of hosts and of other farms among them.
    pub denied: BTreeSet<Ipv4Net>,
    /// Parts of the denied networks that farms do reach.
    pub admitted: BTreeSet<Ipv4Net>,
    /// Tunnels to other farms.
    pub vpn: Option<Vpn>,
}

/// A machine as its router knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterMachine {
    /// Its name in the zone; none: the one that it has can't be one.
    pub name: Option<ZoneName>,
    /// Its group, whose name stands for all its machines.
    pub group: Option<ZoneName>,
}

/// A router's place in the public network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicSide {
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// The way on.
    pub gateway: Ipv4Addr,
}

/// What carries ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its name in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the public address. A router has each of them once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicPort {
    /// What carries it.
    pub transport: Transport,
    /// Its number.
    pub port: NonZeroU16,
}

/// Where a port of the public address leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The machine.
    pub target: HostNumber,
    /// The port there.
    pub port: NonZeroU16,
    /// Who may come; none given: everybody.
    pub sources: BTreeSet<Ipv4Net>,
}

/// Whether packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressAction {
    /// They do.
    Allow,
    /// They are refused, and the sender is told.
    Deny,
}

/// What becomes of packets that machines send to the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    /// Where to.
    pub to: Ipv4Net,
    /// To which ports; none given: all, and what has no ports.
    pub ports: Option<(Transport, BTreeSet<NonZeroU16>)>,
    /// What becomes of them.
    pub action: EgressAction,
}

/// Tunnels to other farms.
#[derive(Clone, Debug)]
pub struct Vpn {
    /// The router's own key.
    pub key: PrivateKey,
    /// The port at which others find it.
    pub port: NonZeroU16,
    /// The others.
    pub peers: BTreeMap<PublicKey, VpnPeer>,
}

/// The other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VpnPeer {
    /// Where it is; none: it finds us.
    pub endpoint: Option<SocketAddrV4>,
    /// The networks behind it.
    pub networks: BTreeSet<Ipv4Net>,
}

impl Router {
    /// The files of the router.
    #[must_use]
    pub fn documents(&self) -> Documents {
        Documents::new([
            (DocumentName::Interfaces, interfaces::document(self)),
            (DocumentName::Dnsmasq, dnsmasq::configuration(self)),
            (DocumentName::Hosts, dnsmasq::hosts(self)),
            (DocumentName::Reservations, dnsmasq::reservations(self)),
            (DocumentName::Nftables, nftables::document(self)),
            (DocumentName::Wireguard, wireguard::document(self)),
            (DocumentName::Sysctl, interfaces::sysctl()),
            (DocumentName::Keepalived, keepalived::document(self)),
        ])
    }

    /// The names of all counters of the router.
    #[must_use]
    pub fn counters(&self) -> BTreeSet<String> {
        nftables::counters(self)
    }

    /// The public addresses, the router's own first, as they stand on its card.
    fn public_addresses(&self) -> impl Iterator<Item = Ipv4Net> {
        let own = self.public.map(|public| Ipv4Net::new_assert(public.address, public.prefix));
        let elastic = self.elastic.keys().filter(move |address| own.is_some_and(|own| own.addr() != **address));
        own.into_iter().chain(elastic.map(|address| Ipv4Net::from(*address)))
    }

    /// The networks of all other farms that tunnels lead to.
    fn remote_networks(&self) -> BTreeSet<Ipv4Net> {
        self.vpn.iter().flat_map(|vpn| vpn.peers.values()).flat_map(|peer| &peer.networks).copied().collect()
    }
}
