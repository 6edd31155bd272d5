//! What routers of farms are made from, and where they lead.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};

use super::SiteError;
use crate::network::AddressRange;

/// The largest packet that every network carries (RFC 1122), and the largest that cards of guests take.
const MTU: std::ops::RangeInclusive<u16> = 576..=9000;

/// What routers of farms are made from, and where they lead.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Routers {
    /// Name of the Image that routers boot from: kernel and initramfs, no disk.
    pub image: String,
    /// Name of their Flavour.
    pub flavour: String,
    /// The network outside that routers stand in; absent: farms have no way out and none in.
    pub public: Option<PublicNetwork>,
    /// Networks that no farm reaches through its router. Those of farms and of the hosts' self-test never are.
    pub denied_networks: Vec<Ipv4Net>,
    /// Parts of the denied networks that farms do reach.
    pub admitted_networks: Vec<Ipv4Net>,
    /// The largest packet of farms' networks, in bytes, which routers tell by DHCP.
    pub mtu: u16,
    /// A router whose agent doesn't answer for so long is made anew.
    #[serde(with = "duration")]
    pub restart_after: Duration,
}

/// The network outside, and which of its addresses routers may have.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublicNetwork {
    /// The network.
    pub network: Ipv4Net,
    /// The way on from there.
    pub gateway: Ipv4Addr,
    /// The addresses that routers may have, singly or as `first-last`.
    #[serde(default)]
    pub addresses: Vec<AddressRange>,
}

impl Default for Routers {
    fn default() -> Self {
        let private = |a, b, prefix| Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), prefix);
        Self {
            image: "router".into(),
            flavour: "router".into(),
            public: None,
            denied_networks: vec![
                private(10, 0, 8),
                private(100, 64, 10),
                private(169, 254, 16),
                private(172, 16, 12),
                private(192, 168, 16),
            ],
            admitted_networks: Vec::new(),
            mtu: 1500,
            restart_after: Duration::from_secs(60),
        }
    }
}

impl Routers {
    /// `others`: networks that the public one must not overlap, with their fields.
    pub(super) fn check(&self, others: [(&str, Ipv4Net); 2]) -> Result<(), SiteError> {
        let refuse = |field, problem: String| Err(SiteError::Value { field, problem });
        if !MTU.contains(&self.mtu) {
            return refuse("routers.mtu", format!("must be from {} to {}", MTU.start(), MTU.end()));
        }
        let Some(PublicNetwork { network, gateway, addresses }) = &self.public else { return Ok(()) };
        if *network != network.trunc() || network.prefix_len() > 30 {
            return refuse("routers.public.network", "must be a network with room for a router".into());
        }
        if let Some((field, _)) = others.iter().find(|(_, other)| other.contains(network) || network.contains(other)) {
            return refuse("routers.public.network", format!("overlaps {field}"));
        }
        let is_host = |address: Ipv4Addr| {
            network.contains(&address) && address != network.network() && address != network.broadcast()
        };
        if !is_host(*gateway) {
            return refuse("routers.public.gateway", format!("must be an address in {network}"));
        }
        for range in addresses {
            if !is_host(range.first()) || !is_host(range.last()) {
                return refuse("routers.public.addresses", format!("{range} is not in {network}"));
            }
            if range.contains(*gateway) {
                return refuse("routers.public.addresses", format!("{range} contains the gateway"));
            }
        }
        Ok(())
    }
}
