//! The rules that hold a NIC to its address and its farm, as data, and the libvirt filter that carries them.
//!
//! Two constant sets; what differs between NICs are the parameters that [`parameters`] gives. They list what passes and
//! end with a rule that drops everything else both ways: tagged frames, IPv6, STP, LLDP, multicast need no rule of
//! their own. The farm is told by five bytes of MAC address, judged on the sender's port *and* on the receiver's, so that
//! a port whose rules are missing harms only itself. All rules stand in libvirt's root chain, which the kernel runs
//! before the bridge learns addresses: a forged frame teaches it nothing.
//!
//! Directions are the guest's: `Out` is what the guest sends. An accept ends the judgement of a frame; a lower priority
//! is judged earlier. Each rule costs time at every start of a guest (about 40 ms on a slow host, one NIC at a time),
//! so they are few.

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::FarmNetwork;
use crate::xml::{BadText, Element};

/// What the names of all our filters start with.
pub const FILTER_PREFIX: &str = "cascina-";

/// Which set of filter rules a NIC gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleSet {
    /// A machine of a farm.
    Machine,
    /// The farm's side of a router.
    Router,
}

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

const BROADCAST: (&str, &str) = ("dstmacaddr", "ff:ff:ff:ff:ff:ff");
const TO_FARM: (&str, &str) = ("dstmacaddr", "$FARMMAC");
const TO_FARM_MASK: (&str, &str) = ("dstmacmask", "ff:ff:ff:ff:ff:00");
const FROM_FARM: (&str, &str) = ("srcmacaddr", "$FARMMAC");
const FROM_FARM_MASK: (&str, &str) = ("srcmacmask", "ff:ff:ff:ff:ff:00");
const OWN_IP: (&str, &str) = ("srcipaddr", "$IP");
const OWN_ARP_MAC: (&str, &str) = ("arpsrcmacaddr", "$MAC");
const OWN_ARP_IP: (&str, &str) = ("arpsrcipaddr", "$IP");

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
const FORGED_SENDER: Rule =
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
const DHCP_ANSWER: Rule =
    drop(Direction::Out, -855, frames(Protocol::Ip, &[("protocol", "udp"), ("dstportstart", "68")]));
/// Groups and whoever is called by all of them: VRRP would take over the gateway. Their MAC addresses are in no list, but
/// such a packet can be sent to a neighbour's, or to everybody's.
const MULTICAST: Rule =
    drop(Direction::Out, -854, frames(Protocol::Ip, &[("dstipaddr", "224.0.0.0"), ("dstipmask", "4")]));
const IP_TO_FARM: Rule = accept(Direction::Out, -850, frames(Protocol::Ip, &[TO_FARM, TO_FARM_MASK, OWN_IP]));
const IP_TO_ALL: Rule = accept(Direction::Out, -849, frames(Protocol::Ip, &[BROADCAST, OWN_IP]));
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
const FORGED_MACHINE: Rule =
    drop(Direction::Out, -848, frames(Protocol::Ip, &[("srcipaddr", "$FARMNET"), ("srcipmask", "24")]));
/// What a router brings from outside the farm.
const ROUTED: Rule = accept(Direction::Out, -847, frames(Protocol::Ip, &[TO_FARM, TO_FARM_MASK]));
const ARP_FROM_FARM: Rule =
    accept(Direction::In, -903, frames(Protocol::Mac, &[FROM_FARM, FROM_FARM_MASK, ("protocolid", "arp")]));
const IP_FROM_FARM: Rule =
    accept(Direction::In, -820, frames(Protocol::Mac, &[FROM_FARM, FROM_FARM_MASK, ("protocolid", "ipv4")]));
const NOTHING_ELSE: Rule = Rule { action: Action::Drop, direction: Direction::Both, priority: 1000, frames: None };

const MACHINE: &[Rule] = &[
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
const ROUTER: &[Rule] = &[
    FORGED_SENDER,
    ARP_TO_FARM,
    ARP_TO_ALL,
    ANNOUNCEMENT,
    IP_TO_FARM,
    IP_TO_ALL,
    FORGED_MACHINE,
    ROUTED,
    ARP_FROM_FARM,
    IP_FROM_FARM,
    NOTHING_ELSE,
];

/// The priorities that the rule which drops everything else may have: it is the last with either.
const LAST: [&str; 2] = ["1000", "999"];

/// A filter's XML with a mark that changes nothing: its last rule has the other priority.
#[must_use]
pub fn mark(xml: &str) -> String {
    let [usual, marked] = LAST;
    with_priority(xml, usual, marked)
}

/// A filter's XML without that mark.
#[must_use]
pub fn unmark(xml: &str) -> String {
    let [usual, marked] = LAST;
    with_priority(xml, marked, usual)
}

fn with_priority(xml: &str, before: &str, after: &str) -> String {
    let written = |quote: &str, priority: &str| ["priority=", quote, priority, quote].concat();
    ["'", "\""].iter().fold(xml.to_owned(), |xml, quote| xml.replace(&written(quote, before), &written(quote, after)))
}

impl RuleSet {
    /// Both sets.
    pub const ALL: [Self; 2] = [Self::Machine, Self::Router];

    /// Its rules, in the order in which they are judged.
    #[must_use]
    pub const fn rules(self) -> &'static [Rule] {
        match self {
            Self::Machine => MACHINE,
            Self::Router => ROUTER,
        }
    }

    /// The name of its filter. It ends with a hash of the rules, so that what is defined by this name need not be read.
    #[must_use]
    pub fn filter_name(self) -> String {
        let hash = self.digest().iter().take(6).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
        format!("{FILTER_PREFIX}{}-{hash:012x}", self.kind())
    }

    /// Whether a filter of this name is, or was, this set in some version.
    #[must_use]
    pub fn is_version(self, name: &str) -> bool {
        let rest = name.strip_prefix(FILTER_PREFIX).and_then(|rest| rest.strip_prefix(self.kind()));
        rest.is_some_and(|rest| rest.starts_with('-'))
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Router => "router",
        }
    }

    /// The filter as libvirt takes it. Its UUID follows from its rules: defining it twice changes nothing.
    ///
    /// # Errors
    /// None: the rules are constants without control characters.
    pub fn filter_xml(self) -> Result<String, BadText> {
        let mut uuid = [0; 16];
        uuid.iter_mut().zip(self.digest()).for_each(|(byte, digest)| *byte = digest);
        self.filter_xml_as(&self.filter_name(), uuid::Builder::from_custom_bytes(uuid).into_uuid())
    }

    /// These rules under the name and the UUID of a filter of another version, which the cards of running guests have.
    ///
    /// # Errors
    /// The name has control characters.
    pub fn filter_xml_as(self, name: &str, uuid: Uuid) -> Result<String, BadText> {
        Element::new("filter")
            .attribute("name", name)
            .attribute("chain", "root")
            .child(Element::new("uuid").text(uuid))
            .children(self.rules().iter().map(Rule::element))
            .to_xml()
    }

    /// Of the rules, which are constants; every look at a card asks for it.
    fn digest(self) -> [u8; 32] {
        static MACHINE_DIGEST: OnceLock<[u8; 32]> = OnceLock::new();
        static ROUTER_DIGEST: OnceLock<[u8; 32]> = OnceLock::new();
        let known = match self {
            Self::Machine => &MACHINE_DIGEST,
            Self::Router => &ROUTER_DIGEST,
        };
        *known.get_or_init(|| {
            let mut digest = Sha256::new();
            for rule in self.rules() {
                digest.update(rule.element().to_xml().unwrap_or_default());
            }
            digest.finalize().into()
        })
    }
}

/// The parameters of a NIC that the rules speak of, besides `MAC`, which libvirt sets itself.
///
/// libvirt must not learn the address by listening (`CTRL_IP_LEARNING`): it would believe a guest's first packet.
#[must_use]
pub fn parameters(address: Ipv4Addr, farm: FarmNetwork) -> [(&'static str, String); 4] {
    [
        ("CTRL_IP_LEARNING", "none".to_owned()),
        ("FARMMAC", farm.mac_prefix().to_string()),
        ("FARMNET", farm.network().to_string()),
        ("IP", address.to_string()),
    ]
}

impl Rule {
    fn element(&self) -> Element {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::tests::parse;
    use uuid::Uuid;

    fn accepted(rules: &[Rule], direction: Direction) -> impl Iterator<Item = Frames> {
        rules
            .iter()
            .filter(move |rule| rule.action == Action::Accept && rule.direction == direction)
            .filter_map(|rule| rule.frames)
    }

    #[test]
    fn the_last_rule_drops_everything_both_ways() {
        for set in RuleSet::ALL {
            let (last, others) = set.rules().split_last().unwrap();
            assert_eq!(*last, NOTHING_ELSE);
            assert!(others.iter().all(|rule| rule.frames.is_some() && rule.priority < last.priority));
            assert!(others.is_sorted_by_key(|rule| (rule.direction == Direction::In, rule.priority)), "{set:?}");
        }
    }

    #[test]
    fn a_forged_sender_is_judged_before_anything_passes() {
        for set in RuleSet::ALL {
            let first = set.rules().iter().min_by_key(|rule| rule.priority).unwrap();
            assert_eq!(*first, FORGED_SENDER);
        }
    }

    #[test]
    fn whatever_passes_comes_from_the_farm_or_goes_to_it_or_to_all() {
        for set in RuleSet::ALL {
            for frames in accepted(set.rules(), Direction::In) {
                assert!(frames.fields.starts_with(&[FROM_FARM, FROM_FARM_MASK]), "{frames:?}");
            }
            for frames in accepted(set.rules(), Direction::Out) {
                let to_farm = frames.fields.starts_with(&[TO_FARM, TO_FARM_MASK]);
                assert!(to_farm || frames.fields.starts_with(&[BROADCAST]), "{frames:?}");
                assert!(frames.protocol != Protocol::Mac && !frames.other_than, "{frames:?}");
            }
            assert!(accepted(set.rules(), Direction::Both).next().is_none());
        }
    }

    #[test]
    fn arp_speaks_only_for_its_sender() {
        for set in RuleSet::ALL {
            for frames in accepted(set.rules(), Direction::Out).filter(|frames| frames.protocol == Protocol::Arp) {
                assert!(frames.fields.contains(&OWN_ARP_MAC), "{frames:?}");
                let probe = frames.fields.contains(&("arpsrcipaddr", "0.0.0.0"));
                assert!(frames.fields.contains(&OWN_ARP_IP) || probe, "{frames:?}");
            }
        }
    }

    #[test]
    fn a_machine_sends_ip_only_as_itself_and_answers_no_dhcp() {
        for frames in accepted(MACHINE, Direction::Out).filter(|frames| frames.protocol == Protocol::Ip) {
            let question = frames.fields.contains(&("srcipaddr", "0.0.0.0"));
            assert!(frames.fields.contains(&OWN_IP) || question, "{frames:?}");
        }
        let answers = MACHINE.iter().position(|rule| *rule == DHCP_ANSWER).unwrap();
        let ip = MACHINE.iter().position(|rule| *rule == IP_TO_FARM).unwrap();
        assert!(answers < ip);
        assert!(!ROUTER.contains(&DHCP_ANSWER));
    }

    #[test]
    fn a_machine_calls_no_group_by_whatever_mac() {
        let place = |rule| MACHINE.iter().position(|other| *other == rule).unwrap();
        assert!(place(MULTICAST) < place(IP_TO_FARM) && place(MULTICAST) < place(IP_TO_ALL));
    }

    #[test]
    fn a_router_forges_no_machine() {
        let place = |rule| ROUTER.iter().position(|other| *other == rule).unwrap();
        assert!(place(FORGED_MACHINE) < place(ROUTED) && place(FORGED_MACHINE) > place(IP_TO_ALL));
    }

    #[test]
    fn filters_have_their_own_names_and_uuids() {
        let filter = |set: RuleSet| parse(&set.filter_xml().unwrap());
        let uuid = |set: RuleSet| filter(set).find("uuid").unwrap().content().parse::<Uuid>().unwrap();
        assert_ne!(RuleSet::Machine.filter_name(), RuleSet::Router.filter_name());
        assert_ne!(uuid(RuleSet::Machine), uuid(RuleSet::Router));
        assert_eq!(filter(RuleSet::Machine).get("name"), Some(RuleSet::Machine.filter_name().as_str()));
    }

    #[test]
    fn the_machine_filter() {
        insta::assert_snapshot!(RuleSet::Machine.filter_xml().unwrap());
    }

    #[test]
    fn the_router_filter() {
        insta::assert_snapshot!(RuleSet::Router.filter_xml().unwrap());
    }
}
