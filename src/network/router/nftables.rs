//! NAT and firewall: what nft(8) reads, one transaction that replaces the table as a whole.
//!
//! Each forward and each elastic address has a number, by which the kernel marks the connections that came through it. A
//! packet whose connection bears a number that is no longer in force is dropped: what is taken back ends at once, also where
//! a connection stands. The numbers follow from what they stand for, so that a change ends nothing else. Who may come
//! through a forward, and where machines may go, is asked of every packet and not of the first alone, by what its connection
//! was begun with: so it holds for both directions, and for what began before it was said.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};

use super::interfaces::MOST_CONNECTIONS;
use super::{EgressAction, EgressRule, FARM_CARD, Forward, PUBLIC_CARD, PublicPort, PublicSide, Router, VPN_CARD};
use crate::network::RouterSeat;

/// Of all connections that the kernel remembers, one machine may have an eighth.
const MOST_OF_ONE: u32 = MOST_CONNECTIONS / 8;

/// The number of a forward or an elastic address.
type Mark = u32;

pub(super) fn document(router: &Router) -> String {
    let entrances = Entrances::of(router);
    let mut table = Table::default();
    table.declare(router, &entrances);
    table.chain("early", "type filter hook prerouting priority raw; policy accept;", early(router));
    table.chain("arriving", "type nat hook prerouting priority dstnat; policy accept;", arriving(router, &entrances));
    table.chain("leaving", "type nat hook postrouting priority srcnat; policy accept;", leaving(router));
    table.chain("input", "type filter hook input priority filter; policy drop;", input(router));
    table.chain("forward", "type filter hook forward priority filter; policy drop;", forward(router, &entrances));
    table.chain("egress", "", egress(router, &OUT));
    table.chain("answers", "", egress(router, &BACK));
    table.chain("refused", "", refused());
    table.written()
}

/// All ways in, each with its number.
struct Entrances {
    forwards: BTreeMap<PublicPort, Mark>,
    elastic: BTreeMap<Ipv4Addr, Mark>,
}

impl Entrances {
    fn of(router: &Router) -> Self {
        let mut taken = BTreeSet::new();
        let forwards = router.forwards.iter().map(|(entrance, forward)| {
            let target = router.farm.address_of(forward.target);
            let meaning = format!("{} {target} {}", counter_of(*entrance), forward.port);
            (*entrance, mark(&meaning, &mut taken))
        });
        let forwards = forwards.collect();
        let elastic = router.elastic.iter().map(|(address, machine)| {
            let meaning = format!("{} {}", counter_of_elastic(*address), router.farm.address_of(*machine));
            (*address, mark(&meaning, &mut taken))
        });
        Self { elastic: elastic.collect(), forwards }
    }

    /// The ways in that not everybody may come through, and who may.
    fn limited<'a>(&self, router: &'a Router) -> Vec<(Mark, &'a BTreeSet<Ipv4Net>)> {
        let sources = router.forwards.values().map(|forward| &forward.sources);
        let limited = self.forwards.values().copied().zip(sources);
        limited.filter(|(_, sources)| !sources.is_empty()).collect()
    }

    /// The number of each way in, and the name of its counter.
    fn counters(&self) -> impl Iterator<Item = (Mark, String)> {
        let forwards = self.forwards.iter().map(|(entrance, mark)| (*mark, counter_of(*entrance)));
        forwards.chain(self.elastic.iter().map(|(address, mark)| (*mark, counter_of_elastic(*address))))
    }
}

/// A number other than 0 that nothing else has.
fn mark(meaning: &str, taken: &mut BTreeSet<Mark>) -> Mark {
    let digest = Sha256::digest(meaning);
    let mut mark = digest.iter().take(4).fold(0, |mark, byte| mark << 8 | Mark::from(*byte)).max(1);
    while !taken.insert(mark) {
        mark = mark.wrapping_add(1).max(1);
    }
    mark
}

fn counter_of(PublicPort { transport, port }: PublicPort) -> String {
    format!("forward-{}-{port}", transport.name())
}

fn counter_of_elastic(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("elastic-{a}-{b}-{c}-{d}")
}

/// The names of all counters of a router.
pub(super) fn counters(router: &Router) -> BTreeSet<String> {
    let entrances = Entrances::of(router);
    let ways_in = entrances.counters().map(|(_, name)| name);
    COUNTERS.into_iter().map(str::to_owned).chain(ways_in).collect()
}

/// Counters that every router has: questions that it answers, what passes to the outside and back, what was kept from passing.
const COUNTERS: [&str; 9] =
    ["denied", "dhcp", "dns", "ended", "from-outside", "limited", "spoofed", "to-outside", "vpn"];

/// The table, line by line.
#[derive(Default)]
struct Table(Vec<String>);

impl Table {
    fn declare(&mut self, router: &Router, entrances: &Entrances) {
        let marks: BTreeMap<_, _> = entrances.counters().collect();
        let names = COUNTERS.iter().copied().chain(marks.values().map(String::as_str));
        self.0.extend(names.map(|name| format!("\tcounter {name} {{ }}")));
        self.set("entrances", "type mark;", marks.keys().map(|mark| format!("{mark:#x}")));
        let counted = marks.iter().map(|(mark, name)| format!("{mark:#x} : \"{name}\""));
        self.elements("map counters_of_entrances", "type mark : counter;", counted);
        let limited = entrances.limited(router);
        self.set("limited_entrances", "type mark;", limited.iter().map(|(mark, _)| format!("{mark:#x}")));
        let sources = limited.iter().flat_map(|(mark, sources)| {
            // The kernel takes no element twice, and no part of one.
            let sources = Ipv4Net::aggregate(&sources.iter().copied().collect());
            sources.into_iter().map(move |source| format!("{mark:#x} . {source}"))
        });
        self.set("sources_of_entrances", "type mark . ipv4_addr; flags interval;", sources);
        self.set("denied", "type ipv4_addr; flags interval; auto-merge;", &router.denied);
        self.set("admitted", "type ipv4_addr; flags interval; auto-merge;", &router.admitted);
        self.set("behind_vpn", "type ipv4_addr; flags interval; auto-merge;", router.remote_networks());
        self.elements("set machines", "type ipv4_addr; flags dynamic; size 256;", std::iter::empty::<String>());
    }

    fn set(&mut self, name: &str, kind: &str, elements: impl IntoIterator<Item = impl Display>) {
        self.elements(&format!("set {name}"), kind, elements);
    }

    fn elements(&mut self, head: &str, kind: &str, elements: impl IntoIterator<Item = impl Display>) {
        self.0.push(format!("\t{head} {{"));
        self.0.push(format!("\t\t{kind}"));
        let elements: Vec<_> = elements.into_iter().map(|element| element.to_string()).collect();
        if !elements.is_empty() {
            self.0.push(format!("\t\telements = {{ {} }}", elements.join(", ")));
        }
        self.0.push("\t}".to_owned());
    }

    fn chain(&mut self, name: &str, kind: &str, rules: Vec<String>) {
        self.0.push(format!("\tchain {name} {{"));
        let kind = Some(kind.to_owned()).filter(|kind| !kind.is_empty());
        self.0.extend(kind.into_iter().chain(rules).map(|rule| format!("\t\t{rule}")));
        self.0.push("\t}".to_owned());
    }

    fn written(self) -> String {
        // Named before it is deleted, so that there is something to delete the first time too.
        let head = ["table inet cascina", "delete table inet cascina", "table inet cascina {"].map(str::to_owned);
        let lines = head.into_iter().chain(self.0).chain(["}".to_owned()]);
        lines.flat_map(|line| [line, "\n".to_owned()]).collect()
    }
}

/// Senders that can't be where a packet comes from.
fn early(router: &Router) -> Vec<String> {
    let farm = router.farm;
    vec![
        "meta nfproto ipv6 drop".to_owned(),
        // 0.0.0.0 asks for an address.
        format!(r#"iifname "{FARM_CARD}" ip saddr != {{ {farm}, 0.0.0.0 }} counter name "spoofed" drop"#),
        format!(
            r#"iifname {{ "{PUBLIC_CARD}", "{VPN_CARD}" }} ip saddr {{ {farm}, 127.0.0.0/8, 0.0.0.0/8 }} counter name "spoofed" drop"#
        ),
    ]
}

/// Where connections to public addresses lead; also those of the farm's own machines.
fn arriving(router: &Router, entrances: &Entrances) -> Vec<String> {
    let Some(public) = router.public else { return Vec::new() };
    let forwards = router.forwards.iter().zip(entrances.forwards.values());
    let forwards = forwards.map(|((entrance, forward), mark)| forwarded(router, public, *entrance, forward, *mark));
    let elastic = router.elastic.iter().zip(entrances.elastic.values()).map(|((address, machine), mark)| {
        let target = router.farm.address_of(*machine);
        format!(r#"{} ip daddr {address} ct mark set {mark:#x} dnat ip to {target}"#, from_both())
    });
    forwards.chain(elastic).collect()
}

/// From either card, not from a tunnel.
fn from_both() -> String {
    format!(r#"iifname {{ "{FARM_CARD}", "{PUBLIC_CARD}" }}"#)
}

fn forwarded(router: &Router, public: PublicSide, entrance: PublicPort, forward: &Forward, mark: Mark) -> String {
    let PublicPort { transport, port } = entrance;
    let sources = among("ip saddr ", &forward.sources);
    let target = router.farm.address_of(forward.target);
    format!(
        "{} ip daddr {} {} dport {port} {sources}ct mark set {mark:#x} dnat ip to {target}:{}",
        from_both(),
        public.address,
        transport.name(),
        forward.port
    )
}

/// A condition with a space behind it; nothing for no elements.
fn among(field: &str, elements: &BTreeSet<impl Display>) -> String {
    if elements.is_empty() {
        return String::new();
    }
    let elements: Vec<_> = elements.iter().map(ToString::to_string).collect();
    format!("{field}{{ {} }} ", elements.join(", "))
}

/// Under which address connections leave.
fn leaving(router: &Router) -> Vec<String> {
    let Some(public) = router.public else { return Vec::new() };
    let (farm, gateway) = (router.farm, router.farm.gateway());
    // A machine that calls its neighbour by the public address: the answer has to come back here.
    let turned = format!(r#"oifname "{FARM_CARD}" ip saddr {farm} ct status dnat snat ip to {gateway}"#);
    let elastic = router.elastic.iter().map(|(address, machine)| {
        format!(r#"oifname "{PUBLIC_CARD}" ip saddr {} snat ip to {address}"#, farm.address_of(*machine))
    });
    let all = format!(r#"oifname "{PUBLIC_CARD}" ip saddr {farm} snat ip to {}"#, public.address);
    std::iter::once(turned).chain(elastic).chain([all]).collect()
}

/// What the router itself takes.
fn input(router: &Router) -> Vec<String> {
    let mut rules = vec![r#"iifname "lo" accept"#.to_owned()];
    if router.paired {
        let [one, other] = RouterSeat::PAIR.map(|seat| router.farm.router_address(seat));
        rules.push(format!(r#"iifname "{FARM_CARD}" ip saddr {{ {one}, {other} }} ip protocol 112 accept"#));
    }
    rules.extend([
        format!(r#"iifname "{FARM_CARD}" udp dport 53 counter name "dns""#),
        format!(r#"iifname "{FARM_CARD}" tcp dport 53 tcp flags syn counter name "dns""#),
        format!(r#"iifname "{FARM_CARD}" udp dport 67 counter name "dhcp""#),
        "ct state established,related accept".to_owned(),
        "ct state invalid drop".to_owned(),
        format!(r#"iifname "{FARM_CARD}" udp dport {{ 53, 67 }} accept"#),
        format!(r#"iifname "{FARM_CARD}" tcp dport 53 accept"#),
        "icmp type echo-request limit rate 50/second burst 50 packets accept".to_owned(),
    ]);
    if let Some(vpn) = &router.vpn {
        rules.push(format!(r#"iifname "{PUBLIC_CARD}" udp dport {} accept"#, vpn.port));
    }
    rules
}

/// What passes through the router.
fn forward(router: &Router, entrances: &Entrances) -> Vec<String> {
    let farm = router.farm;
    let mut rules = vec![
        r#"ct mark != 0 ct mark != @entrances counter name "ended" drop"#.to_owned(),
        r#"ct mark @limited_entrances ct mark . ct original ip saddr != @sources_of_entrances counter name "ended" drop"#
            .to_owned(),
        "ct mark != 0 counter name ct mark map @counters_of_entrances".to_owned(),
        format!(r#"iifname "{FARM_CARD}" oifname "{PUBLIC_CARD}" counter name "to-outside""#),
        format!(r#"iifname "{PUBLIC_CARD}" oifname "{FARM_CARD}" counter name "from-outside""#),
        format!(r#"iifname "{VPN_CARD}" counter name "vpn""#),
        format!(r#"oifname "{VPN_CARD}" counter name "vpn""#),
        // A tunnel's packets are smaller than those of the networks at its ends.
        "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu".to_owned(),
        // What a machine began towards the outside is judged anew with each packet; what others began by its way in. Errors
        // on the way, which are related, come from anywhere.
        format!(
            r#"iifname "{FARM_CARD}" oifname "{PUBLIC_CARD}" ct state established ct original ip saddr {farm} goto egress"#
        ),
        format!(
            r#"iifname "{PUBLIC_CARD}" oifname "{FARM_CARD}" ct state established ct original ip saddr {farm} goto answers"#
        ),
        "ct state established,related accept".to_owned(),
        "ct state invalid drop".to_owned(),
        format!(
            r#"iifname "{FARM_CARD}" add @machines {{ ip saddr ct count over {MOST_OF_ONE} }} counter name "limited" drop"#
        ),
        format!(r#"{} oifname "{FARM_CARD}" ct status dnat accept"#, from_both()),
        format!(r#"iifname "{FARM_CARD}" oifname "{VPN_CARD}" ip daddr @behind_vpn accept"#),
        format!(r#"iifname "{VPN_CARD}" oifname "{FARM_CARD}" ip saddr @behind_vpn accept"#),
    ];
    // What a machine with an address of its own sends ends with that address too.
    rules.extend(router.elastic.iter().zip(entrances.elastic.values()).map(|((_, machine), mark)| {
        let machine = router.farm.address_of(*machine);
        format!(r#"iifname "{FARM_CARD}" oifname "{PUBLIC_CARD}" ip saddr {machine} ct mark set {mark:#x}"#)
    }));
    rules.push(format!(r#"iifname "{FARM_CARD}" oifname "{PUBLIC_CARD}" goto egress"#));
    rules
}

/// What of a packet tells whom its machine called.
struct Called {
    address: &'static str,
    port: &'static str,
}

const OUT: Called = Called { address: "ip daddr", port: "dport" };

const BACK: Called = Called { address: "ip saddr", port: "sport" };

/// Where machines may go, and whose answers pass.
fn egress(router: &Router, Called { address, port }: &Called) -> Vec<String> {
    let denied = format!("{address} @denied {address} != @admitted goto refused");
    let rules = router.egress.iter().map(|EgressRule { to, ports, action }| {
        let ports = match ports {
            Some((transport, ports)) => among(&format!("{} {port} ", transport.name()), ports),
            None => String::new(),
        };
        let verdict = match action {
            EgressAction::Allow => "accept",
            EgressAction::Deny => "goto refused",
        };
        format!("{address} {to} {ports}{verdict}")
    });
    std::iter::once(denied).chain(rules).chain(["accept".to_owned()]).collect()
}

/// The machine is told; who is outside is not.
fn refused() -> Vec<String> {
    vec![
        r#"counter name "denied""#.to_owned(),
        format!(r#"iifname "{PUBLIC_CARD}" drop"#),
        "meta l4proto tcp ct state established reject with tcp reset".to_owned(),
        "reject with icmp type admin-prohibited".to_owned(),
    ]
}
