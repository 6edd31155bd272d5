//! DHCP and DNS: what dnsmasq(8) reads. Only the two files about machines change with machines, and dnsmasq takes those
//! without being started anew.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{DocumentName, FARM_CARD, Router};
use crate::network::{MacAddress, SPECIAL, without};

/// Where the router keeps its files.
const FOLDER: &str = "/run/router/current";

/// Seconds for which others may remember a machine's name.
const TIME_TO_LIVE: u32 = 5;

pub(super) fn configuration(router: &Router) -> String {
    let gateway = router.farm.gateway();
    let domain = &router.domain;
    let [a, b, c, _] = router.farm.network().octets();
    let mut lines: Vec<String> = [
        // The farm only: nobody outside gets an answer.
        format!("interface={FARM_CARD}"),
        "except-interface=lo".to_owned(),
        "bind-interfaces".to_owned(),
        "user=dnsmasq".to_owned(),
        "group=dnsmasq".to_owned(),
        "pid-file=/run/dnsmasq/pid".to_owned(),
        "log-facility=-".to_owned(),
        "no-resolv".to_owned(),
        "no-hosts".to_owned(),
        "no-poll".to_owned(),
        format!("domain={domain}"),
        format!("local=/{domain}/"),
        format!("local=/{c}.{b}.{a}.in-addr.arpa/"),
        "domain-needed".to_owned(),
        "bogus-priv".to_owned(),
        format!("local-ttl={TIME_TO_LIVE}"),
        "cache-size=10000".to_owned(),
        "dns-forward-max=1024".to_owned(),
        "edns-packet-max=1232".to_owned(),
        file("addn-hosts", DocumentName::Hosts),
        file("dhcp-hostsfile", DocumentName::Reservations),
        "dhcp-leasefile=/run/dnsmasq/leases".to_owned(),
        "dhcp-authoritative".to_owned(),
        "dhcp-lease-max=512".to_owned(),
        // Whom the farm doesn't know gets no address: the filter of its card would let it use none.
        format!("dhcp-range={},static,255.255.255.0,1h", router.farm.network()),
        "dhcp-ignore=tag:!known".to_owned(),
        // A machine has the name that the farm gives it, whatever it calls itself.
        "dhcp-ignore-names".to_owned(),
        format!("dhcp-option=option:router,{gateway}"),
        format!("dhcp-option=option:dns-server,{gateway}"),
        format!("dhcp-option=option:domain-search,{domain}"),
        format!("dhcp-option=option:mtu,{}", router.mtu),
    ]
    .into();
    lines.extend(router.dns.iter().map(|server| format!("server={server}")));
    // Backwards too: the names of private addresses are asked of nobody else.
    let asked = router.admitted.iter().flat_map(|network| router.dns.iter().map(move |server| (network, server)));
    lines.extend(asked.map(|(network, server)| format!("rev-server={network},{server}")));
    lines.extend(INSIDE_IPV6.iter().map(|network| format!("bogus-nxdomain={network}")));
    lines.extend(inside(router).iter().map(|network| format!("bogus-nxdomain={network}")));
    written(lines)
}

/// Networks that are somebody's inside, or documentation's: those that dnsmasq's own `stop-dns-rebind` knows, and that of
/// providers (RFC 6598).
const INSIDE: [Ipv4Net; 7] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24),
];

/// The same of IPv6, of which a farm has nothing: nobody, loopback, IPv4 in disguise, unique local, link-local, site-local.
const INSIDE_IPV6: [&str; 5] = ["::/127", "::ffff:0:0/96", "fc00::/7", "fe80::/10", "fec0::/10"];

/// Where no name outside may lead: an answer that is an address inside would take people's browsers past the firewall.
/// `stop-dns-rebind` knows exceptions for names only, so the networks stand here, without those that the farm reaches by
/// number: what the site admits, and what is behind its tunnels. The farm itself is inside whatever these are.
fn inside(router: &Router) -> Vec<Ipv4Net> {
    let behind = router.remote_networks();
    let reached = || router.admitted.iter().chain(&behind);
    let kept = INSIDE.iter().chain(&router.denied).flat_map(|network| without(network.trunc(), reached()));
    let never = SPECIAL.iter().map(|(network, _)| *network).chain([router.farm.into()]);
    Ipv4Net::aggregate(&kept.chain(never).collect())
}

fn file(option: &str, document: DocumentName) -> String {
    format!("{option}={FOLDER}/{}", document.file())
}

/// The names of all machines. The first name of an address is the one that a reverse question gets.
pub(super) fn hosts(router: &Router) -> String {
    let domain = &router.domain;
    let gateway = router.farm.gateway();
    let mut lines = vec![format!("{gateway} gateway.{domain} gateway")];
    for (number, machine) in &router.machines {
        if let Some(name) = &machine.name {
            lines.push(format!("{} {name}.{domain} {name}", router.farm.address_of(*number)));
        }
    }
    let names: BTreeSet<_> = router.machines.values().filter_map(|machine| machine.name.as_ref()).collect();
    for (number, machine) in &router.machines {
        // A machine that is called like a group has the name for itself.
        if let Some(group) = machine.group.as_ref().filter(|group| !names.contains(group)) {
            lines.push(format!("{} {group}.{domain}", router.farm.address_of(*number)));
        }
    }
    written(lines)
}

/// The addresses of all machines. No name stands here, where dnsmasq would take `ignore` or `10m` for a word: it tells each
/// machine the name that belongs to its address in [`hosts`].
pub(super) fn reservations(router: &Router) -> String {
    let addresses = router.machines.keys().map(|number| router.farm.address_of(*number));
    written(addresses.map(|address| format!("{},{address}", MacAddress::of(address))))
}

fn written(lines: impl IntoIterator<Item = String>) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text
}
