//! A farm with two machines, the outside with two people, and between them the router.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::Path;
use std::process::{Command, Output};

use cascina::network::router::{Forward, PublicPort, PublicSide, Router, RouterMachine, Transport};
use cascina::network::{FarmNetwork, HostNumber, MacAddress, RouterSeat};

use super::appliance::Appliance;
use crate::namespaces::{add, ip, try_ip};
use crate::turn::{Beside, Turn, turn};

/// The farm's gateway, and its machines.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 7, 1);
pub const LOGIN: Ipv4Addr = Ipv4Addr::new(172, 16, 7, 10);
pub const WORKER: Ipv4Addr = Ipv4Addr::new(172, 16, 7, 2);

/// The router's own public address, and one more.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);
pub const ELASTIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 21);

/// Who is outside: the way on, which is also a friend, and a stranger.
pub const FRIEND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// What is behind the way on: a name server, a web server, and somebody's management network. A name that leads to one of
/// the networks for documentation is no answer to dnsmasq.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
pub const WEB_SERVER: Ipv4Addr = Ipv4Addr::new(198, 19, 77, 80);
pub const MANAGEMENT: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);

/// Another farm: its gateway, its only machine, its router's public address.
pub const OTHER_GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 9, 1);
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(172, 16, 9, 5);
pub const OTHER_PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 30);

/// Namespaces, bridges and cables. They go with it.
pub struct Place {
    prefix: String,
    /// The router.
    pub router: Appliance,
    turn: Turn,
}

/// Who is there besides the routers' host, and with which address.
const ENDS: [(&str, Ipv4Addr); 5] =
    [("login", LOGIN), ("worker", WORKER), ("remote", REMOTE), ("friend", FRIEND), ("stranger", STRANGER)];

/// The bridge of an address.
fn bridge_of(address: Ipv4Addr) -> &'static str {
    match address.octets() {
        [172, 16, 7, _] => "farm",
        [172, 16, 9, _] => "other",
        _ => "public",
    }
}

impl Place {
    /// Builds all, and boots a router that was told nothing yet.
    pub fn build() -> Self {
        Self::build_around([GATEWAY, PUBLIC])
    }

    /// The same, with a router that is one of two.
    pub fn build_for_two() -> Self {
        Self::build_around([farm().router_address(RouterSeat::First), PUBLIC])
    }

    fn build_around(cards: [Ipv4Addr; 2]) -> Self {
        let (_gate, turn) = turn(Beside::Nobody);
        let prefix = format!("cascina{}-router", turn.index);
        forget(&prefix);
        for name in ENDS.iter().map(|(name, _)| *name).chain(["host"]) {
            add(&format!("{prefix}-{name}"));
            ip(&format!("-n {prefix}-{name} link set lo up"));
        }
        for bridge in ["farm", "other", "public"] {
            ip(&format!("-n {prefix}-host link add br-{bridge} type bridge forward_delay 0 mcast_snooping 0"));
            ip(&format!("-n {prefix}-host link set br-{bridge} up"));
        }
        for (name, address) in ENDS {
            ip(&format!("-n {prefix}-host link add {name} type veth peer name eth0 netns {prefix}-{name}"));
            ip(&format!("-n {prefix}-host link set {name} master br-{} up", bridge_of(address)));
            ip(&format!("-n {prefix}-{name} link set eth0 address {} up", MacAddress::of(address)));
            ip(&format!("-n {prefix}-{name} address add {address}/24 dev eth0"));
        }
        ip(&format!("-n {prefix}-remote route add default via {OTHER_GATEWAY}"));
        for machine in ["login", "worker"] {
            ip(&format!("-n {prefix}-{machine} route add default via {GATEWAY}"));
        }
        for behind in [NAME_SERVER, WEB_SERVER, MANAGEMENT] {
            ip(&format!("-n {prefix}-friend address add {behind}/32 dev lo"));
        }
        let router = boot(&prefix, &turn.state, cards);
        Self { prefix, router, turn }
    }

    /// The router of the farm's two that sits there.
    pub fn boot_one_of_two(&self, seat: RouterSeat) -> Appliance {
        boot(&self.prefix, &self.turn.state, [farm().router_address(seat), PUBLIC])
    }

    /// The router of the other farm.
    pub fn other_router(&self) -> Appliance {
        boot(&self.prefix, &self.turn.state, [OTHER_GATEWAY, OTHER_PUBLIC])
    }

    /// Takes the card of one of the farm's two routers off the farm's bridge.
    pub fn cut_off(&self, seat: RouterSeat) {
        ip(&format!("-n {}-host link set {} nomaster", self.prefix, farm_tap(farm().router_address(seat))));
    }

    /// Puts it back.
    pub fn heal(&self, seat: RouterSeat) {
        ip(&format!("-n {}-host link set {} master br-farm", self.prefix, farm_tap(farm().router_address(seat))));
    }

    /// The namespace of one of them.
    pub fn of(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// A command as one of them.
    pub fn run(&self, name: &str, command: &[&str]) -> Output {
        Command::new("ip").args(["netns", "exec", &self.of(name)]).args(command).output().unwrap()
    }
}

/// The host's end of the card that a router has in its farm.
fn farm_tap(router: Ipv4Addr) -> String {
    format!("farm{:08x}", u32::from(router))
}

/// A router with a card on the bridge of each of these addresses.
fn boot(prefix: &str, state: &Path, addresses: [Ipv4Addr; 2]) -> Appliance {
    let [own, _] = addresses;
    let cards = addresses.map(|address| {
        let tap = if address == own { farm_tap(own) } else { format!("pub{:08x}", u32::from(own)) };
        // One of an earlier router is there still.
        let _ = try_ip(&format!("-n {prefix}-host tuntap add {tap} mode tap"));
        ip(&format!("-n {prefix}-host link set {tap} master br-{} up", bridge_of(address)));
        (tap, MacAddress::of(address))
    });
    Appliance::boot(state, &format!("{prefix}-host"), &cards)
}

impl Drop for Place {
    fn drop(&mut self) {
        forget(&self.prefix);
    }
}

fn forget(prefix: &str) {
    for name in ENDS.iter().map(|(name, _)| *name).chain(["host"]) {
        let _ = try_ip(&format!("netns delete {prefix}-{name}"));
    }
}

pub fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

pub fn number(address: Ipv4Addr) -> HostNumber {
    farm().number_of(address).unwrap()
}

fn farm() -> FarmNetwork {
    FarmNetwork::of(GATEWAY)
}

/// What the other router is told at first.
pub fn told_other() -> Router {
    Router {
        farm: FarmNetwork::of(OTHER_GATEWAY),
        domain: "other.example".parse().unwrap(),
        machines: BTreeMap::new(),
        public: Some(PublicSide { address: OTHER_PUBLIC, prefix: 24, gateway: FRIEND }),
        forwards: BTreeMap::new(),
        ..told()
    }
}

/// What the router of the place is told at first: ssh to one machine for the friend only, a web page of the other for
/// everybody.
pub fn told() -> Router {
    let machine = |name: &str| RouterMachine { name: name.parse().ok(), group: "nodes".parse().ok() };
    let forward = |target, inside: u16, sources: &[&str]| Forward {
        target: number(target),
        port: port(inside),
        sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
    };
    let entrance = |number| PublicPort { transport: Transport::Tcp, port: port(number) };
    Router {
        farm: farm(),
        paired: false,
        domain: "farm.example".parse().unwrap(),
        mtu: 1500,
        machines: [(number(LOGIN), machine("login")), (number(WORKER), machine("worker"))].into(),
        dns: [NAME_SERVER].into(),
        public: Some(PublicSide { address: PUBLIC, prefix: 24, gateway: FRIEND }),
        forwards: [
            (entrance(2222), forward(LOGIN, 22, &["198.51.100.1/32"])),
            (entrance(80), forward(WORKER, 8080, &[])),
        ]
        .into(),
        elastic: BTreeMap::new(),
        egress: Vec::new(),
        denied: ["10.0.0.0/8", "172.16.0.0/12"].map(|network| network.parse().unwrap()).into(),
        admitted: [].into(),
        vpn: None,
    }
}
