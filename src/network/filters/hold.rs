//! What a card is held to.

use std::collections::BTreeSet;
use std::iter::once;
use std::net::Ipv4Addr;

use super::RuleSet;
use crate::network::FarmNetwork;

/// What a card is held to: by which rules, and with which parameters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// A machine: its address, and with it its farm.
    Machine(Ipv4Addr),
    /// The farm's side of its router: its address. One of two speaks under the gateway's too, when its turn has come.
    Router(Ipv4Addr),
    /// The public side of a router.
    Public {
        /// The router's own address.
        own: Ipv4Addr,
        /// Others that it answers to.
        elastic: BTreeSet<Ipv4Addr>,
    },
}

impl Hold {
    /// The rules.
    #[must_use]
    pub const fn rules(&self) -> RuleSet {
        match self {
            Self::Machine(_) => RuleSet::Machine,
            Self::Router(_) => RuleSet::Router,
            Self::Public { .. } => RuleSet::Public,
        }
    }

    /// The address that the card is known by.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        match self {
            Self::Machine(address) | Self::Router(address) | Self::Public { own: address, .. } => *address,
        }
    }

    /// Whether what it is held to may change while it runs: the addresses that a router answers to come and go.
    #[must_use]
    pub const fn changes_while_it_runs(&self) -> bool {
        matches!(self, Self::Public { .. })
    }

    /// What of it never changes while it runs.
    #[must_use]
    pub fn constant(&self) -> Self {
        match self {
            Self::Machine(_) | Self::Router(_) => self.clone(),
            Self::Public { own, .. } => Self::Public { own: *own, elastic: BTreeSet::new() },
        }
    }

    /// The parameters that the rules speak of, besides `MAC`, which libvirt sets itself. libvirt goes through a name that is
    /// given more than once.
    ///
    /// libvirt must not learn the address by listening (`CTRL_IP_LEARNING`): it would believe a guest's first packet.
    #[must_use]
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        let in_farm =
            |farm: FarmNetwork| [("FARMMAC", farm.mac_prefix().to_string()), ("FARMNET", farm.network().to_string())];
        let (farm, others) = match self {
            Self::Machine(address) => (Some(FarmNetwork::of(*address)), BTreeSet::new()),
            Self::Router(address) => {
                let farm = FarmNetwork::of(*address);
                (Some(farm), BTreeSet::from([farm.gateway()]))
            }
            Self::Public { elastic, .. } => (None, elastic.clone()),
        };
        let own = self.address();
        let addresses = once(own).chain(others.into_iter().filter(move |other| *other != own));
        once(("CTRL_IP_LEARNING", "none".to_owned()))
            .chain(farm.into_iter().flat_map(in_farm))
            .chain(addresses.map(|address| ("IP", address.to_string())))
            .collect()
    }
}
