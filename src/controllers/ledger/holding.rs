//! What one copy of a machine holds. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use kube::ResourceExt;

use crate::api::{Bytes, MachineCopy, Resources, VirtualMachine};
use crate::controllers::cache::Key;
use crate::controllers::placement::standing::needs;
use crate::libvirt::{DomainForm, DomainRun, DomainSpec, DomainUuid, NicForm, SurveyedDomain};
use crate::network::{MacAddress, RuleSet};

/// What a machine uses, what a host has, what a farm has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Virtual CPUs.
    pub cpus: i64,
    /// Memory.
    pub memory: Bytes,
    /// Disks.
    pub storage: Bytes,
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.cpus += other.cpus;
        self.memory += other.memory;
        self.storage += other.storage;
    }
}

impl From<Resources> for Amount {
    fn from(Resources { cpu, memory, storage }: Resources) -> Self {
        Self { cpus: cpu.into(), memory, storage }
    }
}

impl From<Amount> for Resources {
    fn from(Amount { cpus, memory, storage }: Amount) -> Self {
        Self { cpu: i32::try_from(cpus).unwrap_or(i32::MAX), memory, storage }
    }
}

/// What a copy of a machine on a host holds, whether or not the machine's object is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// `metadata.uid` of the machine.
    pub uid: String,
    /// Its namespace and name.
    pub machine: Key,
    /// Name of its farm, where that is known: a domain knows only its address.
    pub farm: Option<String>,
    /// The addresses on its cards, in the farm's network and in the public one.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// What it takes from its host; of a domain without the size of its disks, which it doesn't tell.
    pub amount: Amount,
    /// It is a router, which no quota counts.
    pub is_router: bool,
}

impl Holding {
    /// What a domain holds by the cards that it has, or has at its next start; `None`: it isn't ours. One that somebody
    /// copied from ours is counted, too, and so is a canary: their cards are as real.
    #[must_use]
    pub fn of_domain(uuid: DomainUuid, domain: &SurveyedDomain, cluster: &str) -> Option<Self> {
        let tags = [&domain.tag, &domain.copied_tag, &domain.canary];
        let tag = tags.into_iter().flatten().next().filter(|tag| tag.cluster == cluster)?;
        let forms = domain.forms.as_deref();
        let cards =
            || forms.into_iter().flat_map(|forms| [&forms.running, &forms.defined]).flatten().flat_map(cards_of);
        // What a canary needs is kept back on every host.
        let counts = !matches!(domain.run, DomainRun::Off(_)) && domain.canary.is_none();
        let amount = Amount { cpus: domain.cpus.into(), memory: domain.memory, storage: Bytes::ZERO };
        Some(Self {
            uid: uuid.to_string(),
            machine: (tag.namespace.clone(), tag.name.clone()),
            farm: None,
            addresses: cards().flat_map(addresses_of).collect(),
            amount: if counts { amount } else { Amount::default() },
            is_router: cards().any(is_routers),
        })
    }

    /// What a canary will hold that is about to be made.
    #[must_use]
    pub fn of_canary(canary: &DomainSpec) -> Self {
        Self {
            uid: canary.uuid.to_string(),
            machine: (canary.tag.namespace.clone(), canary.tag.name.clone()),
            farm: None,
            addresses: canary.nics.iter().map(|card| card.hold.address()).collect(),
            amount: Amount::default(),
            is_router: false,
        }
    }

    /// What a machine holds on its host by its object; `None`: it has no uid.
    #[must_use]
    pub fn of_object(machine: &VirtualMachine) -> Option<Self> {
        let status = machine.status.clone().unwrap_or_default();
        let public_ips = machine.router().into_iter().flat_map(|role| &role.public_ips);
        let amount = status.flavour.as_ref().map(|flavour| needs(flavour, status.image.as_ref()));
        Some(Self {
            uid: machine.uid()?,
            machine: (machine.namespace().unwrap_or_default(), machine.name_any()),
            farm: Some(machine.spec.farm.clone()),
            addresses: status.address.iter().chain(public_ips).filter_map(|address| address.parse().ok()).collect(),
            amount: amount.unwrap_or_default(),
            is_router: machine.router().is_some(),
        })
    }

    /// What is left of it on a host that is off: its disks, where others have the pool in which they lie.
    #[must_use]
    pub fn disks(&self) -> Self {
        let amount = Amount { storage: self.amount.storage, ..Amount::default() };
        Self { addresses: BTreeSet::new(), amount, ..self.clone() }
    }

    /// What a copy holds that a host's status lists, or buries.
    #[must_use]
    pub fn of_copy(copy: &MachineCopy) -> Self {
        let addresses = copy.address.iter().chain(&copy.public_ips);
        Self {
            uid: copy.uid.clone(),
            machine: (copy.namespace.clone(), copy.name.clone()),
            farm: copy.farm.clone(),
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
            amount: copy.holds.unwrap_or_default().into(),
            is_router: copy.router,
        }
    }
}

fn cards_of(form: &DomainForm) -> &[NicForm] {
    &form.nics
}

/// The addresses that a card may speak under: the one that its MAC address is made from, and those of its filter.
fn addresses_of(card: &NicForm) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let own = card.mac.parse::<MacAddress>().ok().and_then(MacAddress::address);
    let of_filter = card.parameters.iter().filter(|(name, _)| name == "IP").filter_map(|(_, value)| value.parse().ok());
    own.into_iter().chain(of_filter)
}

fn is_routers(card: &NicForm) -> bool {
    let is_version = |filter: &String| [RuleSet::Router, RuleSet::Public].iter().any(|rules| rules.is_version(filter));
    card.filter.as_ref().is_some_and(is_version)
}
