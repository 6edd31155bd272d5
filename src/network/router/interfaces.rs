//! The router's cards and the kernel's settings.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::Router;
use crate::network::{MacAddress, RouterSeat};

/// Connections that the kernel remembers; each takes about 320 bytes of the router's memory.
pub(super) const MOST_CONNECTIONS: u32 = 131_072;

/// The largest packet of the network outside.
const PUBLIC_MTU: u16 = 1500;

/// WireGuard's own share of a packet, over IPv4.
const TUNNEL_OVERHEAD: u16 = 60;

/// The kernel's settings, in the form of sysctl.conf(5). That packets are forwarded at all stands in none of them: the
/// router turns that on when everything else is in place.
const SETTINGS: [(&str, u32); 12] = [
    ("net.ipv4.conf.all.accept_redirects", 0),
    ("net.ipv4.conf.all.accept_source_route", 0),
    ("net.ipv4.conf.all.log_martians", 0),
    ("net.ipv4.conf.all.rp_filter", 1),
    ("net.ipv4.conf.all.send_redirects", 0),
    ("net.ipv4.conf.default.rp_filter", 1),
    ("net.ipv4.icmp_echo_ignore_broadcasts", 1),
    ("net.ipv4.tcp_syncookies", 1),
    ("net.ipv6.conf.all.disable_ipv6", 1),
    ("net.netfilter.nf_conntrack_max", MOST_CONNECTIONS),
    ("net.netfilter.nf_conntrack_tcp_timeout_established", 86_400),
    ("net.netfilter.nf_conntrack_tcp_loose", 0),
];

#[derive(Serialize)]
struct Interfaces {
    farm: Card,
    #[serde(skip_serializing_if = "Option::is_none")]
    public: Option<Card>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vpn: Option<Tunnel>,
}

/// A card. Of two routers, which are told the same, each knows its own by the MAC address.
#[derive(Serialize)]
struct Card {
    mtu: u16,
    cards: Vec<OwnCard>,
    /// Those that come and go with the turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shared: Vec<Ipv4Net>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<Ipv4Addr>,
}

#[derive(Serialize)]
struct OwnCard {
    mac: String,
    addresses: Vec<Ipv4Net>,
}

#[derive(Serialize)]
struct Tunnel {
    mtu: u16,
    routes: BTreeSet<Ipv4Net>,
}

pub(super) fn document(router: &Router) -> String {
    // Its packets leave by the public card, wherever those in them come from.
    let mtu = router.mtu.min(PUBLIC_MTU).saturating_sub(TUNNEL_OVERHEAD);
    let tunnel = |_| Tunnel { mtu, routes: router.remote_networks() };
    let interfaces =
        Interfaces { farm: farm_card(router), public: public_card(router), vpn: router.vpn.as_ref().map(tunnel) };
    // Texts and numbers by names that are texts: there is nothing that could fail.
    let mut text = serde_json::to_string_pretty(&interfaces).unwrap_or_default();
    text.push('\n');
    text
}

fn farm_card(router: &Router) -> Card {
    let own = |seat: RouterSeat| {
        let address = router.farm.router_address(seat);
        OwnCard { mac: MacAddress::of(address).to_string(), addresses: vec![Ipv4Net::new_assert(address, 24)] }
    };
    let seats: &[RouterSeat] = if router.paired { &RouterSeat::PAIR } else { &[RouterSeat::Only] };
    let gateway = router.paired.then(|| Ipv4Net::new_assert(router.farm.gateway(), 24));
    Card {
        mtu: router.mtu,
        cards: seats.iter().copied().map(own).collect(),
        shared: gateway.into_iter().collect(),
        gateway: None,
    }
}

/// Both of two have the same card here, as the virtual router of RFC 9568 has one MAC address wherever it is. Only the one
/// whose turn it is has an address, and sends.
fn public_card(router: &Router) -> Option<Card> {
    let public = router.public?;
    let (shared, own): (Vec<_>, Vec<_>) = router.public_addresses().partition(|_| router.paired);
    Some(Card {
        mtu: PUBLIC_MTU,
        cards: vec![OwnCard { mac: MacAddress::of(public.address).to_string(), addresses: own }],
        shared,
        gateway: (!router.paired).then_some(public.gateway),
    })
}

pub(super) fn sysctl() -> String {
    SETTINGS.iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
}
