//! What a hostile root in a guest sends, one entry for each trick. The numbers are those of the table in
//! `docs/security.md`.

use std::net::Ipv4Addr;

use cascina::network::MacAddress;
use etherparse::{EtherType, IpNumber};

use super::frames::{self, BROADCAST, EVERYWHERE, Mac, NOBODY, RARP, UNKNOWN};
use super::guests::Guest;

/// One trick.
pub struct Attack {
    /// Its row in the table of attacks.
    pub row: u8,
    /// What it is, for the printed table.
    pub name: &'static str,
    /// Whom it must not reach.
    pub victims: Victims,
    /// Who is not allowed to send this.
    pub attackers: Attackers,
    /// What it does where no filter holds the attacker.
    pub alone: Alone,
    /// The frames, as this guest among these others sends them.
    pub frames: fn(&Scene<'_>) -> Vec<Vec<u8>>,
}

/// Whom a trick must not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    /// Nobody, not even the host's bridge.
    Anybody,
    /// The other farm: its own may hear it.
    OtherFarm,
}

/// Whose trick it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attackers {
    /// Neither machines nor routers may.
    All,
    /// A router may: that's what it is for.
    Machines,
}

/// What a trick does without filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// It reaches somebody.
    Arrives,
    /// It changes a MAC table, whether or not it reaches anybody.
    Learnt,
    /// It goes nowhere: the kernel's bridge drops or keeps such frames by itself.
    Nowhere,
}

/// Who is there.
pub struct Scene<'a> {
    pub me: &'a Guest,
    /// The machines of my farm, on this host and on the other.
    pub peers: Vec<&'a Guest>,
    /// My router; if I am one, a machine of my farm.
    pub router: &'a Guest,
    /// The machines and the router of the other farm, on this host and on the other.
    pub strangers: Vec<&'a Guest>,
    /// The address of my host's bridge.
    pub bridge: Mac,
}

impl Scene<'_> {
    /// The last machine of the other farm.
    fn stranger(&self) -> &Guest {
        self.strangers[0]
    }

    fn everyone(&self) -> impl Iterator<Item = &Guest> {
        self.peers.iter().chain(&self.strangers).copied()
    }

    /// A packet with this source to everybody by name, and to all at once.
    fn with_source(&self, source: Ipv4Addr) -> Vec<Vec<u8>> {
        let by_name = self.everyone().map(|to| udp(self.me.mac, source, to));
        by_name.chain([frames::ip(self.me.mac, BROADCAST, &frames::udp(source, EVERYWHERE, (4000, 4000)))]).collect()
    }

    /// A packet of mine with this protocol to an address of many, by their MAC address, to all, and to one.
    fn to_many(&self, protocol: IpNumber, to: [u8; 4]) -> Vec<Vec<u8>> {
        let [_, b, c, d] = to;
        let group = [0x01, 0x00, 0x5e, b & 0x7f, c, d];
        let packet = frames::packet(self.me.address, to.into(), protocol, &[0x21, 1, 255, 1, 0, 1, 0, 0]);
        [group, BROADCAST, self.peers[0].mac].map(|mac| frames::ip(self.me.mac, mac, &packet)).into()
    }

    /// An ordinary frame to my first peer.
    fn ordinary(&self) -> Vec<u8> {
        udp(self.me.mac, self.me.address, self.peers[0])
    }

    fn raw(&self, to: Mac, kind: u16) -> Vec<u8> {
        frames::ethernet(self.me.mac, to, kind, &[0x11; 46])
    }

    fn llc(&self, to: Mac, head: &[u8]) -> Vec<u8> {
        frames::llc(self.me.mac, to, &[head, &[0x22; 43]].concat())
    }
}

fn udp(mac: Mac, source: Ipv4Addr, to: &Guest) -> Vec<u8> {
    frames::ip(mac, to.mac, &frames::udp(source, to.address, (4000, 4000)))
}

fn sibling(me: &Guest, last: u8) -> (Mac, Ipv4Addr) {
    let address = frames::neighbour(me.address, last);
    (MacAddress::of(address).octets(), address)
}

const fn attack(row: u8, name: &'static str, alone: Alone, frames: fn(&Scene<'_>) -> Vec<Vec<u8>>) -> Attack {
    Attack { row, name, victims: Victims::Anybody, attackers: Attackers::All, alone, frames }
}

/// An attack that reaches somebody where no filter is.
const fn arrives(row: u8, name: &'static str, frames: fn(&Scene<'_>) -> Vec<Vec<u8>>) -> Attack {
    attack(row, name, Alone::Arrives, frames)
}

/// The same, of what a router may do.
const fn of_machines(row: u8, name: &'static str, frames: fn(&Scene<'_>) -> Vec<Vec<u8>>) -> Attack {
    Attack { attackers: Attackers::Machines, ..arrives(row, name, frames) }
}

/// The same, of what its own farm may hear.
const fn across(row: u8, name: &'static str, frames: fn(&Scene<'_>) -> Vec<Vec<u8>>) -> Attack {
    Attack { victims: Victims::OtherFarm, ..arrives(row, name, frames) }
}

const LINK_LOCAL: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
const ARP: u16 = EtherType::ARP.0;
const IPV6: u16 = EtherType::IPV6.0;

/// All tricks on layers 2 to 4.
pub const ATTACKS: &[Attack] = &[
    arrives(1, "unknown sender MAC, of my farm", |scene| {
        let (mac, _) = sibling(scene.me, 0x77);
        scene.everyone().map(|to| udp(mac, scene.me.address, to)).collect()
    }),
    arrives(2, "sender MAC of another farm", |scene| {
        scene.everyone().map(|to| udp(scene.stranger().mac, scene.stranger().address, to)).collect()
    }),
    attack(3, "MAC table theft by a broadcast frame", Alone::Learnt, |scene| {
        let steal = |victim: &Guest| udp(victim.mac, victim.address, scene.me);
        let aloud = |victim: &Guest| frames::arp_question(victim.speaker(), scene.me.address);
        scene.everyone().flat_map(|victim| [steal(victim), aloud(victim)]).collect()
    }),
    attack(4, "MAC table theft by a link-local frame", Alone::Learnt, |scene| {
        scene.everyone().map(|victim| frames::ethernet(victim.mac, LINK_LOCAL, 0x88cc, &[0; 46])).collect()
    }),
    attack(5, "MAC table flooded with random senders", Alone::Learnt, |scene| {
        let random = |number: u8| [0x02, 0x66, 0x66, scene.me.mac[4], scene.me.mac[5], number];
        (0..64).map(|number| udp(random(number), scene.me.address, scene.peers[0])).collect()
    }),
    across(6, "IP to another farm by its MAC", |scene| {
        scene.strangers.iter().map(|to| udp(scene.me.mac, scene.me.address, to)).collect()
    }),
    across(6, "ARP to another farm by its MAC", |scene| {
        let ask = |to: &&Guest| {
            frames::ethernet(scene.me.mac, to.mac, ARP, &frames::arp_body(1, scene.me.speaker(), (NOBODY, to.address)))
        };
        scene.strangers.iter().map(ask).collect()
    }),
    across(7, "IP broadcast", |scene| {
        [EVERYWHERE, sibling(scene.me, 255).1]
            .map(|to| frames::ip(scene.me.mac, BROADCAST, &frames::udp(scene.me.address, to, (4000, 4000))))
            .into()
    }),
    across(7, "ARP broadcast", |scene| {
        scene.everyone().map(|to| frames::arp_question(scene.me.speaker(), to.address)).collect()
    }),
    arrives(7, "Wake-on-LAN", |scene| vec![scene.raw(BROADCAST, EtherType::WAKE_ON_LAN.0)]),
    arrives(8, "ARP claim of the gateway's address", |scene| {
        let claim = (scene.me.mac, scene.router.address);
        let tell = |to: &Guest| frames::arp_answer(scene.me.mac, to.mac, claim, to.speaker());
        let aloud = frames::arp_answer(scene.me.mac, BROADCAST, claim, claim);
        scene.peers.iter().map(|to| tell(to)).chain([aloud, frames::arp_question(claim, claim.1)]).collect()
    }),
    arrives(8, "ARP claim of a neighbour's address", |scene| {
        let claim = (scene.me.mac, scene.peers[0].address);
        let tell = |to: &Guest| frames::arp_answer(scene.me.mac, to.mac, claim, to.speaker());
        scene.everyone().map(tell).chain([frames::arp_question(claim, claim.1)]).collect()
    }),
    arrives(8, "answer to a neighbour's address probe", |scene| {
        let wanted = (scene.me.mac, scene.peers[0].address);
        vec![frames::arp_answer(scene.me.mac, scene.peers[0].mac, wanted, (scene.peers[0].mac, UNKNOWN))]
    }),
    arrives(9, "ARP with a neighbour's MAC inside", |scene| {
        let lie = (scene.peers[0].mac, scene.me.address);
        let aloud = frames::ethernet(scene.me.mac, BROADCAST, ARP, &frames::arp_body(1, lie, lie));
        let tell = |to: &Guest| frames::arp_answer(scene.me.mac, to.mac, lie, to.speaker());
        scene.everyone().map(tell).chain([aloud]).collect()
    }),
    arrives(10, "IP of a neighbour", |scene| scene.with_source(scene.peers[0].address)),
    arrives(10, "IP of nobody in the farm", |scene| scene.with_source(sibling(scene.me, 99).1)),
    of_machines(10, "IP of another farm", |scene| scene.with_source(scene.stranger().address)),
    of_machines(11, "IP of the metadata service", |scene| scene.with_source([169, 254, 169, 254].into())),
    of_machines(11, "IP of nobody, 0.0.0.0", |scene| scene.with_source(UNKNOWN)),
    of_machines(11, "IP of many, 224.0.0.1", |scene| scene.with_source([224, 0, 0, 1].into())),
    of_machines(11, "IP of all, 255.255.255.255", |scene| scene.with_source(EVERYWHERE)),
    of_machines(11, "IP of the loopback", |scene| scene.with_source([127, 0, 0, 1].into())),
    of_machines(12, "offer of a DHCP server of mine", |scene| {
        let offer = |to: &Guest| frames::ip(scene.me.mac, to.mac, &frames::udp(scene.me.address, to.address, (67, 68)));
        let all = frames::udp(scene.me.address, EVERYWHERE, (67, 68));
        scene.everyone().map(offer).chain([frames::ip(scene.me.mac, BROADCAST, &all)]).collect()
    }),
    of_machines(12, "DHCP offer from another port", |scene| {
        let offer = frames::udp(scene.me.address, EVERYWHERE, (4000, 68));
        vec![frames::ip(scene.me.mac, BROADCAST, &offer)]
    }),
    of_machines(12, "DHCP offer as the real server", |scene| {
        let offer = frames::udp(scene.router.address, EVERYWHERE, (67, 68));
        vec![frames::ip(scene.me.mac, BROADCAST, &offer), frames::ip(scene.router.mac, BROADCAST, &offer)]
    }),
    of_machines(12, "DHCP offer in the shape of a question", |scene| {
        vec![frames::ip(scene.me.mac, BROADCAST, &frames::udp(UNKNOWN, EVERYWHERE, (68, 68)))]
    }),
    arrives(14, "IPv6 router advertisement", |scene| {
        let advertisement = |to: Mac| frames::ethernet(scene.me.mac, to, IPV6, &ipv6(58, [134, 0]));
        [[0x33, 0x33, 0, 0, 0, 1], BROADCAST, scene.peers[0].mac].map(advertisement).into()
    }),
    arrives(14, "IPv6 neighbour advertisement", |scene| {
        scene.everyone().map(|to| frames::ethernet(scene.me.mac, to.mac, IPV6, &ipv6(58, [136, 0]))).collect()
    }),
    arrives(14, "DHCPv6 server", |scene| {
        scene.everyone().map(|to| frames::ethernet(scene.me.mac, to.mac, IPV6, &ipv6(17, [2, 35]))).collect()
    }),
    across(14, "IPv6 in IPv4 to another farm", |scene| {
        let tunnel = |to: &&Guest| frames::packet(scene.me.address, to.address, IpNumber::IPV6, &ipv6(58, [134, 0]));
        scene.strangers.iter().map(|to| frames::ip(scene.me.mac, to.mac, &tunnel(to))).collect()
    }),
    arrives(15, "IP with a VLAN tag", |scene| vec![frames::tagged(&scene.ordinary(), 0x8100, 5)]),
    arrives(15, "ARP with a VLAN tag", |scene| {
        vec![frames::tagged(&frames::arp_question(scene.me.speaker(), scene.peers[0].address), 0x8100, 5)]
    }),
    arrives(15, "IP with two tags, 802.1ad", |scene| {
        vec![frames::tagged(&frames::tagged(&scene.ordinary(), 0x8100, 5), 0x88a8, 6)]
    }),
    arrives(16, "IP and ARP with a priority tag, VLAN 0", |scene| {
        let question = frames::arp_question(scene.me.speaker(), scene.peers[0].address);
        vec![frames::tagged(&scene.ordinary(), 0x8100, 0), frames::tagged(&question, 0x8100, 0)]
    }),
    arrives(17, "spanning tree, root claim", |scene| vec![scene.llc([0x01, 0x80, 0xc2, 0, 0, 0], &[0x42, 0x42, 0x03])]),
    attack(17, "LACP", Alone::Nowhere, |scene| vec![scene.raw([0x01, 0x80, 0xc2, 0, 0, 2], 0x8809)]),
    arrives(17, "CDP", |scene| {
        vec![scene.llc([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc], &[0xaa, 0xaa, 0x03, 0x00, 0x00, 0x0c, 0x20, 0x00])]
    }),
    arrives(17, "PPPoE discovery", |scene| vec![scene.raw(BROADCAST, 0x8863)]),
    arrives(17, "IPX", |scene| vec![scene.llc(BROADCAST, &[0xff, 0xff])]),
    arrives(17, "IP and ARP within LLC and SNAP", |scene| {
        let snap = |kind: u8| [0xaa, 0xaa, 0x03, 0, 0, 0, 0x08, kind];
        vec![scene.llc(scene.peers[0].mac, &snap(0x00)), scene.llc(BROADCAST, &snap(0x06))]
    }),
    arrives(18, "second fragment with a neighbour's IP", |scene| {
        let (from, to) = (scene.peers[0], scene.router);
        let fragment = frames::fragment(from.address, to.address, IpNumber::UDP, &[0; 24], 1, false);
        vec![frames::ip(scene.me.mac, to.mac, &fragment)]
    }),
    of_machines(18, "DHCP offer in tiny fragments", |scene| {
        let offer = frames::datagram(scene.me.address, EVERYWHERE, (67, 68), &[0; 16]);
        let first = frames::fragment(scene.me.address, EVERYWHERE, IpNumber::UDP, &offer[..8], 0, true);
        vec![frames::ip(scene.me.mac, BROADCAST, &first)]
    }),
    of_machines(19, "multicast ping", |scene| scene.to_many(IpNumber::ICMP, [224, 0, 0, 1])),
    of_machines(19, "IGMP join", |scene| scene.to_many(IpNumber::IGMP, [224, 0, 0, 22])),
    of_machines(19, "mDNS", |scene| scene.to_many(IpNumber::UDP, [224, 0, 0, 251])),
    of_machines(20, "VRRP, take-over of the gateway", |scene| scene.to_many(IpNumber(112), [224, 0, 0, 18])),
    arrives(22, "the host by its bridge's MAC", |scene| {
        let to = sibling(scene.me, 254).1;
        vec![frames::ip(scene.me.mac, scene.bridge, &frames::udp(scene.me.address, to, (4000, 22)))]
    }),
    arrives(22, "the host by IPv6", |scene| {
        vec![frames::ethernet(scene.me.mac, scene.bridge, IPV6, &ipv6(58, [128, 0]))]
    }),
    of_machines(25, "answer of a metadata service", |scene| {
        let claim = (scene.me.mac, Ipv4Addr::new(169, 254, 169, 254));
        let answer = |to: &Guest| frames::arp_answer(scene.me.mac, to.mac, claim, to.speaker());
        scene.peers.iter().map(|to| answer(to)).collect()
    }),
    of_machines(28, "IP of a public address", |scene| scene.with_source([198, 19, 0, 50].into())),
    attack(29, "forged announcement of a migrated neighbour", Alone::Learnt, |scene| {
        scene.everyone().map(|victim| frames::announcement(victim.mac, victim.mac)).collect()
    }),
    arrives(29, "announcement with a neighbour's MAC inside", |scene| {
        scene.everyone().map(|victim| frames::announcement(scene.me.mac, victim.mac)).collect()
    }),
    arrives(29, "RARP answer to a neighbour", |scene| {
        let lie = frames::arp_body(4, scene.me.speaker(), (scene.peers[0].mac, sibling(scene.me, 99).1));
        vec![frames::ethernet(scene.me.mac, scene.peers[0].mac, RARP, &lie)]
    }),
];

/// An IPv6 packet in bytes, with a next header and what it begins with.
fn ipv6(next: u8, head: [u8; 2]) -> Vec<u8> {
    let address = |last: u8| [[0xfe, 0x80].as_slice(), &[0; 13], &[last]].concat();
    [&[0x60, 0, 0, 0, 0, 24, next, 255][..], &address(1), &address(2), &head, &[0; 22]].concat()
}
