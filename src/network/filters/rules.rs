//! What a rule is, and which rules each set has.

use crate::xml::Element;

/// One rule of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What happens to a frame that matches.
    pub action: Action,
    /// Which way the frame goes.
    pub direction: Direction,
    /// Lower ones are judged earlier.
    pub priority: i16,
    /// The frames that match; none given: all.
    pub frames: Option<Frames>,
}

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It passes, no further rule is asked.
    Accept,
    /// It is gone.
    Drop,
}

/// Which way a frame goes, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest receives it.
    In,
    /// The guest sends it.
    Out,
    /// Either.
    Both,
}

/// Frames of a protocol whose fields all have these values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// libvirt's name of the protocol.
    pub protocol: Protocol,
    /// Turned round: frames whose field has another value.
    pub other_than: bool,
    /// libvirt's names of the fields and their values; `$` marks a parameter of the NIC.
    pub fields: &'static [(&'static str, &'static str)],
}

/// What libvirt can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Any Ethernet frame.
    Mac,
    /// ARP.
    Arp,
    /// RARP, which QEMU sends for a guest that has moved.
    Rarp,
    /// IPv4.
    Ip,
}

pub(super) const BROADCAST: (&str, &str) = ("dstmacaddr", "ff:ff:ff:ff:ff:ff");
pub(super) const TO_FARM: (&str, &str) = ("dstmacaddr", "$FARMMAC");
pub(super) const TO_FARM_MASK: (&str, &str) = ("dstmacmask", "ff:ff:ff:ff:ff:00");
pub(super) const FROM_FARM: (&str, &str) = ("srcmacaddr", "$FARMMAC");
pub(super) const FROM_FARM_MASK: (&str, &str) = ("srcmacmask", "ff:ff:ff:ff:ff:00");
pub(super) const OWN_IP: (&str, &str) = ("srcipaddr", "$IP");
pub(super) const OWN_ARP_MAC: (&str, &str) = ("arpsrcmacaddr", "$MAC");
pub(super) const OWN_ARP_IP: (&str, &str) = ("arpsrcipaddr", "$IP");

const fn accept(direction: Direction, priority: i16, frames: Frames) -> Rule {
    Rule { action: Action::Accept, direction, priority, frames: Some(frames) }
}

const fn drop(direction: Direction, priority: i16, frames: Frames) -> Rule {
    Rule { action: Action::Drop, direction, priority, frames: Some(frames) }
}

const fn frames(protocol: Protocol, fields: &'static [(&'static str, &'static str)]) -> Frames {
    Frames { protocol, other_than: false, fields }
}

/// Another sender than the NIC itself.
pub(super) const FORGED_SENDER: Rule =
    drop(Direction::Out, -950, Frames { protocol: Protocol::Mac, other_than: true, fields: &[("srcmacaddr", "$MAC")] });
const ARP_TO_FARM: Rule =
    accept(Direction::Out, -905, frames(Protocol::Arp, &[TO_FARM, TO_FARM_MASK, OWN_ARP_MAC, OWN_ARP_IP]));
const ARP_TO_ALL: Rule = accept(Direction::Out, -904, frames(Protocol::Arp, &[BROADCAST, OWN_ARP_MAC, OWN_ARP_IP]));
/// "Is my address free?", asked before a guest takes its address.
const ARP_PROBE: Rule = accept(
    Direction::Out,
    -903,
    frames(Protocol::Arp, &[BROADCAST, ("opcode", "Request"), OWN_ARP_MAC, ("arpsrcipaddr", "0.0.0.0")]),
);
/// Tells the switches where a migrated guest is now.
const ANNOUNCEMENT: Rule = accept(Direction::Out, -900, frames(Protocol::Rarp, &[BROADCAST, OWN_ARP_MAC]));
/// A DHCP server's answer, from whatever port: clients take it by its destination.
pub(super) const DHCP_ANSWER: Rule =
    drop(Direction::Out, -855, frames(Protocol::Ip, &[("protocol", "udp"), ("dstportstart", "68")]));
/// Groups and whoever is called by all of them: VRRP would take over the gateway. Their MAC addresses are in no list, but
/// such a packet can be sent to a neighbour's, or to everybody's.
pub(super) const MULTICAST: Rule =
    drop(Direction::Out, -854, frames(Protocol::Ip, &[("dstipaddr", "224.0.0.0"), ("dstipmask", "4")]));
pub(super) const IP_TO_FARM: Rule =
    accept(Direction::Out, -850, frames(Protocol::Ip, &[TO_FARM, TO_FARM_MASK, OWN_IP]));
pub(super) const IP_TO_ALL: Rule = accept(Direction::Out, -849, frames(Protocol::Ip, &[BROADCAST, OWN_IP]));
const DHCP_QUESTION: Rule = accept(
    Direction::Out,
    -848,
    frames(
        Protocol::Ip,
        &[
            BROADCAST,
            ("srcipaddr", "0.0.0.0"),
            ("dstipaddr", "255.255.255.255"),
            ("protocol", "udp"),
            ("srcportstart", "68"),
            ("dstportstart", "67"),
        ],
    ),
);
/// A machine of the farm as sender, forged by its router.
pub(super) const FORGED_MACHINE: Rule =
    drop(Direction::Out, -848, frames(Protocol::Ip, &[("srcipaddr", "$FARMNET"), ("srcipmask", "24")]));
/// What a router brings from outside the farm.
pub(super) const ROUTED: Rule = accept(Direction::Out, -847, frames(Protocol::Ip, &[TO_FARM, TO_FARM_MASK]));
const ARP_FROM_FARM: Rule =
    accept(Direction::In, -903, frames(Protocol::Mac, &[FROM_FARM, FROM_FARM_MASK, ("protocolid", "arp")]));
const IP_FROM_FARM: Rule =
    accept(Direction::In, -820, frames(Protocol::Mac, &[FROM_FARM, FROM_FARM_MASK, ("protocolid", "ipv4")]));
/// Any of several addresses: an iterator of its own (`[@1]`) goes through them, where libvirt would step through them and the
/// other parameters of the rule side by side.
const ANY_OWN_IP: (&str, &str) = ("srcipaddr", "$IP[@1]");
pub(super) const ANY_OWN_ARP_IP: (&str, &str) = ("arpsrcipaddr", "$IP[@1]");
/// To anybody, under any of its addresses.
const ARP_AS_ITSELF: Rule = accept(Direction::Out, -905, frames(Protocol::Arp, &[OWN_ARP_MAC, ANY_OWN_ARP_IP]));
/// What a router sends under its own address or the gateway's.
const ROUTER_ARP_TO_FARM: Rule =
    accept(Direction::Out, -905, frames(Protocol::Arp, &[TO_FARM, TO_FARM_MASK, OWN_ARP_MAC, ANY_OWN_ARP_IP]));
const ROUTER_ARP_TO_ALL: Rule =
    accept(Direction::Out, -904, frames(Protocol::Arp, &[BROADCAST, OWN_ARP_MAC, ANY_OWN_ARP_IP]));
const ROUTER_IP_TO_FARM: Rule =
    accept(Direction::Out, -850, frames(Protocol::Ip, &[TO_FARM, TO_FARM_MASK, ANY_OWN_IP]));
pub(super) const ROUTER_IP_TO_ALL: Rule = accept(Direction::Out, -849, frames(Protocol::Ip, &[BROADCAST, ANY_OWN_IP]));
pub(super) const IP_AS_ITSELF: Rule = accept(Direction::Out, -850, frames(Protocol::Ip, &[OWN_IP]));
const ARP_FROM_ALL: Rule = accept(Direction::In, -903, frames(Protocol::Mac, &[("protocolid", "arp")]));
const IP_FROM_ALL: Rule = accept(Direction::In, -820, frames(Protocol::Mac, &[("protocolid", "ipv4")]));
pub(super) const NOTHING_ELSE: Rule =
    Rule { action: Action::Drop, direction: Direction::Both, priority: 1000, frames: None };

/// Those of a machine's card.
pub(super) const MACHINE: &[Rule] = &[
    FORGED_SENDER,
    ARP_TO_FARM,
    ARP_TO_ALL,
    ARP_PROBE,
    ANNOUNCEMENT,
    DHCP_ANSWER,
    MULTICAST,
    IP_TO_FARM,
    IP_TO_ALL,
    DHCP_QUESTION,
    ARP_FROM_FARM,
    IP_FROM_FARM,
    NOTHING_ELSE,
];

/// A router sends what it was sent from outside, so any source but another machine's passes. Traffic that it turns back
/// into the farm (a machine that calls its neighbour by the public address) must leave with the router's own address.
pub(super) const ROUTER: &[Rule] = &[
    FORGED_SENDER,
    ROUTER_ARP_TO_FARM,
    ROUTER_ARP_TO_ALL,
    ANNOUNCEMENT,
    ROUTER_IP_TO_FARM,
    ROUTER_IP_TO_ALL,
    FORGED_MACHINE,
    ROUTED,
    ARP_FROM_FARM,
    IP_FROM_FARM,
    NOTHING_ELSE,
];

/// The public network is nobody's farm: a router hears all there that is IPv4, and speaks under its own addresses only.
/// It answers no DHCP there and calls no group.
pub(super) const PUBLIC: &[Rule] = &[
    FORGED_SENDER,
    ARP_AS_ITSELF,
    ANNOUNCEMENT,
    DHCP_ANSWER,
    MULTICAST,
    IP_AS_ITSELF,
    ARP_FROM_ALL,
    IP_FROM_ALL,
    NOTHING_ELSE,
];

impl Rule {
    /// As it stands in a filter.
    pub(super) fn element(&self) -> Element {
        Element::new("rule")
            .attribute("action", self.action.name())
            .attribute("direction", self.direction.name())
            .attribute("priority", self.priority)
            .children(self.frames.map(|frames| frames.element()))
    }
}

impl Frames {
    fn element(&self) -> Element {
        let protocol = Element::new(self.protocol.name());
        let protocol = if self.other_than { protocol.attribute("match", "no") } else { protocol };
        self.fields.iter().fold(protocol, |element, (name, value)| element.attribute(*name, value))
    }
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        }
    }
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "inout",
        }
    }
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Mac => "mac",
            Self::Arp => "arp",
            Self::Rarp => "rarp",
            Self::Ip => "ip",
        }
    }
}
