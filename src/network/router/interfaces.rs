//! The router's cards and the kernel's settings.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::{PublicSide, Router};
use crate::network::MacAddress;

/// Connections that the kernel remembers; each takes about 320 bytes of the router's memory.
pub(super) const MOST_CONNECTIONS: u32 = 131_072;

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

#[derive(Serialize)]
struct Card {
    mac: String,
    mtu: u16,
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<Ipv4Addr>,
}

#[derive(Serialize)]
struct Tunnel {
    mtu: u16,
    routes: BTreeSet<Ipv4Net>,
}

pub(super) fn document(router: &Router) -> String {
    let gateway = router.farm.gateway();
    let interfaces = Interfaces {
        farm: Card {
            mac: MacAddress::of(gateway).to_string(),
            mtu: router.mtu,
            addresses: vec![format!("{gateway}/24")],
            gateway: None,
        },
        public: router.public.map(|public| public_card(router, public)),
        vpn: router
            .vpn
            .as_ref()
            .map(|_| Tunnel { mtu: router.mtu.saturating_sub(TUNNEL_OVERHEAD), routes: router.remote_networks() }),
    };
    // Texts and numbers by names that are texts: there is nothing that could fail.
    let mut text = serde_json::to_string_pretty(&interfaces).unwrap_or_default();
    text.push('\n');
    text
}

fn public_card(router: &Router, public: PublicSide) -> Card {
    let elastic = router.elastic.keys().filter(|address| **address != public.address);
    let own = format!("{}/{}", public.address, public.prefix);
    Card {
        mac: MacAddress::of(public.address).to_string(),
        mtu: 1500,
        addresses: std::iter::once(own).chain(elastic.map(|address| format!("{address}/32"))).collect(),
        gateway: Some(public.gateway),
    }
}

pub(super) fn sysctl() -> String {
    SETTINGS.iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
}
