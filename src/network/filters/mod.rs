//! The rules that hold a NIC to its address and its farm, as data, and the libvirt filter that carries them.
//!
//! Three constant sets; what differs between NICs are the parameters, which follow from what a NIC is held
//! to ([`Hold`]). The sets list what passes and
//! end with a rule that drops everything else both ways: tagged frames, IPv6, STP, LLDP, multicast need no rule of
//! their own. The farm is told by five bytes of MAC address, judged on the sender's port *and* on the receiver's, so that
//! a port whose rules are missing harms only itself. All rules stand in libvirt's root chain, which the kernel runs
//! before the bridge learns addresses: a forged frame teaches it nothing.
//!
//! Directions are the guest's: `Out` is what the guest sends. An accept ends the judgement of a frame; a lower priority
//! is judged earlier. Each rule costs time at every start of a guest (about 40 ms on a slow host, one NIC at a time),
//! so they are few.

mod hold;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::xml::{BadText, Element};
pub use hold::Hold;
pub use rules::{Action, Direction, Frames, Protocol, Rule};
use rules::{MACHINE, PUBLIC, ROUTER};

/// What the names of all our filters start with.
pub const FILTER_PREFIX: &str = "cascina-";

/// Which set of filter rules a NIC gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleSet {
    /// A machine of a farm.
    Machine,
    /// The farm's side of a router.
    Router,
    /// The public side of a router.
    Public,
}

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
    /// All sets.
    pub const ALL: [Self; 3] = [Self::Machine, Self::Router, Self::Public];

    /// Its rules, in the order in which they are judged.
    #[must_use]
    pub const fn rules(self) -> &'static [Rule] {
        match self {
            Self::Machine => MACHINE,
            Self::Router => ROUTER,
            Self::Public => PUBLIC,
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
            Self::Public => "public",
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
        static PUBLIC_DIGEST: OnceLock<[u8; 32]> = OnceLock::new();
        let known = match self {
            Self::Machine => &MACHINE_DIGEST,
            Self::Router => &ROUTER_DIGEST,
            Self::Public => &PUBLIC_DIGEST,
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
