//! Routers for tests: one with everything, and any at all.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;

pub(super) fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

pub(super) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

pub(super) fn number(router: &Router, last: u8) -> HostNumber {
    let [a, b, c, _] = router.farm.network().octets();
    router.farm.number_of(Ipv4Addr::new(a, b, c, last)).unwrap()
}

/// A farm that nobody sees, without machines.
pub(super) fn bare() -> Router {
    Router {
        farm: "172.16.7.0/24".parse().unwrap(),
        paired: false,
        domain: "farm-a.example".parse().unwrap(),
        mtu: 1500,
        machines: BTreeMap::new(),
        dns: BTreeSet::new(),
        public: None,
        forwards: BTreeMap::new(),
        elastic: BTreeMap::new(),
        egress: Vec::new(),
        denied: BTreeSet::new(),
        admitted: BTreeSet::new(),
        vpn: None,
    }
}

/// A farm with all that there is.
pub(super) fn full() -> Router {
    let mut router = bare();
    let machine = |name: &str, group: Option<&str>| RouterMachine {
        name: Some(name.parse().unwrap()),
        group: group.map(|group| group.parse().unwrap()),
    };
    router.machines = [
        (number(&router, 2), machine("farm-a-workers-0", Some("workers"))),
        (number(&router, 3), machine("farm-a-workers-1", Some("workers"))),
        (number(&router, 10), machine("login", None)),
    ]
    .into();
    router.dns = [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)].into();
    let gateway = Ipv4Addr::new(198, 51, 100, 1);
    router.public = Some(PublicSide { address: Ipv4Addr::new(198, 51, 100, 20), prefix: 24, gateway });
    let (login, worker) = (number(&router, 10), number(&router, 2));
    let to = |target, port, sources: &[&str]| Forward {
        target,
        port,
        sources: sources.iter().map(|source| net(source)).collect(),
    };
    let entrance = |transport, number| PublicPort { transport, port: port(number) };
    router.forwards = [
        (entrance(Transport::Tcp, 2222), to(login, port(22), &["192.0.2.0/24", "203.0.113.7/32"])),
        (entrance(Transport::Tcp, 80), to(worker, port(8080), &[])),
        (entrance(Transport::Udp, 1194), to(login, port(1194), &[])),
    ]
    .into();
    router.elastic = [(Ipv4Addr::new(198, 51, 100, 21), login)].into();
    router.egress = vec![
        EgressRule {
            to: net("203.0.113.0/24"),
            ports: Some((Transport::Tcp, [port(443), port(80)].into())),
            action: EgressAction::Allow,
        },
        EgressRule { to: net("203.0.113.0/24"), ports: None, action: EgressAction::Deny },
    ];
    router.denied = [net("10.0.0.0/8"), net("169.254.0.0/16"), net("172.16.0.0/12")].into();
    router.admitted = [net("10.1.2.0/24")].into();
    let peer = VpnPeer {
        endpoint: Some(SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 30), 51820)),
        networks: [net("172.16.9.0/24")].into(),
    };
    router.vpn = Some(Vpn {
        key: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse().unwrap(),
        port: port(51820),
        peers: [("ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=".parse().unwrap(), peer)].into(),
    });
    router
}

fn any_net() -> impl Strategy<Value = Ipv4Net> {
    (any::<u32>(), 0..=32u8).prop_map(|(address, prefix)| Ipv4Net::new(address.into(), prefix).unwrap().trunc())
}

fn any_port() -> impl Strategy<Value = NonZeroU16> {
    any::<NonZeroU16>()
}

fn any_transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)]
}

fn any_number() -> impl Strategy<Value = HostNumber> {
    (2..=254u8).prop_map(|last| number(&bare(), last))
}

fn any_name() -> impl Strategy<Value = ZoneName> {
    "[a-z][a-z0-9-]{0,20}[a-z]".prop_map(|name| name.parse().unwrap_or_else(|_| "other".parse().unwrap()))
}

fn any_machine() -> impl Strategy<Value = RouterMachine> {
    (option::of(any_name()), option::of(any_name())).prop_map(|(name, group)| RouterMachine { name, group })
}

fn any_forward() -> impl Strategy<Value = (PublicPort, Forward)> {
    (any_transport(), any_port(), any_number(), any_port(), btree_set(any_net(), 0..4)).prop_map(
        |(transport, entrance, target, port, sources)| {
            (PublicPort { transport, port: entrance }, Forward { target, port, sources })
        },
    )
}

fn any_egress() -> impl Strategy<Value = EgressRule> {
    let action = prop_oneof![Just(EgressAction::Allow), Just(EgressAction::Deny)];
    (any_net(), option::of((any_transport(), btree_set(any_port(), 1..4))), action)
        .prop_map(|(to, ports, action)| EgressRule { to, ports, action })
}

fn any_vpn() -> impl Strategy<Value = Vpn> {
    let peer = (option::of(any::<(u32, u16)>()), btree_set(any_net(), 1..4)).prop_map(|(endpoint, networks)| VpnPeer {
        endpoint: endpoint.map(|(address, port)| SocketAddrV4::new(address.into(), port)),
        networks,
    });
    (any::<[u8; 32]>(), any_port(), btree_map(any::<[u8; 32]>(), peer, 0..4)).prop_map(|(key, port, peers)| {
        let text = |bytes: [u8; 32]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        let peers = peers.into_iter().map(|(key, peer)| (text(key).parse().unwrap(), peer)).collect();
        Vpn { key: text(key).parse().unwrap(), port, peers }
    })
}

/// Any router.
pub(super) fn any_router() -> impl Strategy<Value = Router> {
    let public = option::of((any::<u32>(), 1..=30u8, any::<u32>()).prop_map(|(address, prefix, gateway)| PublicSide {
        address: address.into(),
        prefix,
        gateway: gateway.into(),
    }));
    let site = (btree_set(any::<u32>(), 0..3), btree_set(any_net(), 0..4), btree_set(any_net(), 0..4));
    let farm = (btree_map(any_number(), any_machine(), 0..20), option::of(any_vpn()));
    let ways = (vec(any_forward(), 0..20), btree_map(any::<u32>(), any_number(), 0..4), vec(any_egress(), 0..6));
    (any::<bool>(), public, site, farm, ways).prop_map(
        |(paired, public, (dns, denied, admitted), (machines, vpn), (forwards, elastic, egress))| Router {
            paired,
            public,
            dns: dns.into_iter().map(Ipv4Addr::from).collect(),
            denied,
            admitted,
            machines,
            vpn,
            forwards: forwards.into_iter().collect(),
            elastic: elastic.into_iter().map(|(address, machine)| (address.into(), machine)).collect(),
            egress,
            ..bare()
        },
    )
}
