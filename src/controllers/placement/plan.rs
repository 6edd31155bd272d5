//! Which machine goes where: one pure, deterministic function of what asks and what is offered.
//!
//! Namespaces take turns, the one with the smallest share of the site first; within a namespace requests are served in
//! order of priority, then age, then name (`queue`). One that has to wait doesn't hold up smaller ones behind it, so a
//! large machine may wait long at a busy site; among equals of a namespace the oldest is always first.
//!
//! A host is chosen by, in this order: fewest machines of the same group (what a group is for should survive the loss
//! of a host), the image already there (gigabytes need not travel), the lowest share of memory, then of CPUs, in use
//! afterwards (spread), and the name.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

pub use super::budget::{Budget, QUOTA_EXCEEDED};
use super::causes::{Cause, Causes};
use super::queue::Queue;
use crate::api::{Bytes, HypervisorClass};
use crate::controllers::cache::Key;
pub use crate::controllers::ledger::Amount;

/// A machine that wishes to run and has all it needs except a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The machine.
    pub machine: Key,
    /// Its farm.
    pub farm: Key,
    /// Its group in the farm.
    pub group: Option<String>,
    /// Higher is served first, among those of its namespace.
    pub priority: i32,
    /// Older is served first.
    pub created: Timestamp,
    /// What it uses while it runs.
    pub needs: Amount,
    /// The revision of its image.
    pub revision: String,
    /// Which hosts can have that image.
    pub supply: Supply,
    /// Where it may go.
    pub place: Place,
    /// What it is in its farm.
    pub role: Role,
}

/// Which hosts can have an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Supply {
    /// All: it is sent to where a machine is placed.
    #[default]
    All,
    /// All, once the operator has fetched it again, or only those with a copy, should that fail.
    Coming,
    /// Those with a copy.
    Copies,
}

/// What a machine is in its farm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// One of its machines.
    #[default]
    Machine,
    /// Its router, which its quota doesn't count.
    Router {
        /// It has a card in the public network.
        public: bool,
    },
}

/// Where a machine may go.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// To any host of this class that has these labels.
    Any {
        /// Class of the host.
        class: HypervisorClass,
        /// Labels of the host.
        selector: BTreeMap<String, String>,
    },
    /// Back to the host that has its disks.
    Home {
        /// Name of the host.
        host: String,
        /// Size of those disks: the host's and the farm's accounts contain it already.
        storage: Bytes,
    },
    /// Away from a host that is lost, to any other of this class that has these labels.
    Away {
        /// Class of the host.
        class: HypervisorClass,
        /// Labels of the host.
        selector: BTreeMap<String, String>,
        /// The shared pool that has its disks; absent: it gets new ones.
        pool: Option<String>,
        /// What of it the farm's accounts contain already.
        held: Amount,
        /// It holds its reservation: it is one of the farm's instances.
        counted: bool,
    },
}

/// Whether a host takes machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Openness {
    /// It does.
    Open,
    /// Somebody keeps new machines away.
    Cordoned,
    /// Left alone by the operator, so nobody proves its isolation.
    Paused,
    /// It doesn't answer.
    Unreachable,
    /// It isn't ready, or is being removed.
    NotReady,
    /// It hasn't lately proved that it keeps farms apart.
    Unverified,
}

/// A host and what it offers.
#[derive(Clone, Debug, PartialEq)]
pub struct HostOffer {
    /// Name of the `Hypervisor`.
    pub name: String,
    /// What it is for.
    pub class: HypervisorClass,
    /// The pool that it shares with others.
    pub pool: Option<String>,
    /// Whether it is in the public network.
    pub public: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes machines.
    pub openness: Openness,
    /// What may be promised; of a pool that it shares, all of it.
    pub allocatable: Amount,
    /// What is promised; of a pool that it shares, to machines of all its hosts.
    pub allocated: Amount,
    /// Revisions of images that are complete here.
    pub cached: BTreeSet<String>,
    /// How many machines of each group of each farm are here.
    pub groups: BTreeMap<(Key, String), usize>,
    /// Farms that have a router here.
    pub routed: BTreeSet<Key>,
}

/// Why a machine waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// One CamelCase word.
    pub reason: &'static str,
    /// A sentence that a person can act on.
    pub message: String,
}

impl Wait {
    /// Waits for this reason.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What was decided for one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The machine.
    pub machine: Key,
    /// The host, or why it waits.
    pub verdict: Result<String, Wait>,
}

/// Reason of machines whose image is on its way to the operator.
pub const IMAGE_FETCHING: &str = "ImageFetching";

/// Reason of machines that wait because no host takes them.
pub const UNSCHEDULABLE: &str = "Unschedulable";

/// Decides for every request; decisions come in the order in which requests are served, and each counts for those
/// after it.
#[must_use]
pub fn place(pending: &[Request], hosts: &[HostOffer], farms: &[Budget]) -> Vec<Decision> {
    let queue = Queue::new(pending, hosts, farms);
    let mut hosts = hosts.to_vec();
    let mut farms: BTreeMap<_, _> = farms.iter().map(|budget| (budget.farm.clone(), budget.clone())).collect();
    let mut refusals = BTreeMap::new();
    let mut decisions = Vec::with_capacity(pending.len());
    queue.serve(|request| {
        let verdict = admit(request, &mut hosts, farms.get_mut(&request.farm), &mut refusals);
        let served = verdict.is_ok();
        decisions.push(Decision { machine: request.machine.clone(), verdict });
        served
    });
    decisions
}

/// What was asked of all hosts, and that none of them has. What is left only shrinks while requests are served, so who
/// asks the same is told the same: thousands of machines alike are compared with the hosts once.
type Refusals<'a> = BTreeMap<Asked<'a>, Wait>;

/// What a machine that may go to any host asks for.
type Asked<'a> = (HypervisorClass, &'a BTreeMap<String, String>, (i64, Bytes, Bytes));

/// Quota first, then a host; only when both say yes is anything booked.
fn admit<'a>(
    request: &'a Request,
    hosts: &mut [HostOffer],
    budget: Option<&mut Budget>,
    refusals: &mut Refusals<'a>,
) -> Result<String, Wait> {
    let charge = request.charge();
    if let (Some(budget), Some(charge)) = (&budget, charge) {
        budget.admits(charge)?;
    }
    let asked = request.asked();
    if let Some(refusal) = asked.as_ref().and_then(|asked| refusals.get(asked)) {
        return Err(refusal.clone());
    }
    let (host, mates) = match choose(request, hosts) {
        Ok(chosen) => chosen,
        Err(wait) => {
            refusals.extend(asked.map(|asked| (asked, wait.clone())));
            return Err(wait);
        }
    };
    let added = request.added();
    host.allocated += added;
    mates.for_each(|mate| mate.allocated.storage += added.storage);
    if let Some(group) = request.group_key() {
        *host.groups.entry(group).or_default() += 1;
    }
    if request.is_router() {
        host.routed.insert(request.farm.clone());
    }
    if let (Some(budget), Some(charge)) = (budget, charge) {
        budget.instances += 1;
        budget.used += charge;
    }
    Ok(host.name.clone())
}

/// The host for a machine, and the others that have its pool.
fn choose<'a>(
    request: &Request,
    hosts: &'a mut [HostOffer],
) -> Result<(&'a mut HostOffer, impl Iterator<Item = &'a mut HostOffer> + use<'a>), Wait> {
    let mut causes = Causes::default();
    let mut best = None;
    let group = request.group_key();
    for (index, host) in hosts.iter().enumerate() {
        match host.refuses(request) {
            Some(cause) => causes.count(cause),
            None => best = best.into_iter().chain([(host.rank(request, group.as_ref()), index)]).min(),
        }
    }
    let best = best.map(|(_, index)| index);
    let parts = best.and_then(|index| hosts.split_at_mut_checked(index));
    let chosen = parts.and_then(|(before, from)| Some((before, from.split_first_mut()?)));
    let (before, (host, after)) = chosen.ok_or_else(|| Wait::new(UNSCHEDULABLE, request.explain(&causes)))?;
    if request.supply == Supply::Coming && !host.has_image(request) {
        let message = "its image is fetched once more: the host where it would be best has no copy";
        return Err(Wait::new(IMAGE_FETCHING, message));
    }
    let pool = host.pool.clone();
    let mates = before.iter_mut().chain(after).filter(move |other| pool.is_some() && other.pool == pool);
    Ok((host, mates))
}

impl Request {
    /// What it asks of any host alike; none, if where it may go depends on more than that.
    fn asked(&self) -> Option<Asked<'_>> {
        let Amount { cpus, memory, storage } = self.needs;
        match &self.place {
            Place::Any { class, selector } if !self.is_router() && self.supply == Supply::All => {
                Some((*class, selector, (cpus, memory, storage)))
            }
            Place::Any { .. } | Place::Home { .. } | Place::Away { .. } => None,
        }
    }

    /// What its admission adds to the host's account: disks that are there already are in it, and so are those in the pool
    /// of a lost host that shares it.
    fn added(&self) -> Amount {
        let there = match &self.place {
            Place::Any { .. } | Place::Away { pool: None, .. } => Bytes::ZERO,
            Place::Home { storage, .. } => *storage,
            Place::Away { pool: Some(_), held, .. } => held.storage,
        };
        Amount { storage: self.needs.storage.saturating_sub(there), ..self.needs }
    }

    /// What its admission adds to the farm's account; none, if that contains the machine already, or never will.
    fn charge(&self) -> Option<Amount> {
        if self.is_router() {
            return None;
        }
        match &self.place {
            Place::Any { .. } | Place::Home { .. } => Some(self.added()),
            Place::Away { counted: true, .. } => None,
            Place::Away { held, .. } => {
                Some(Amount { storage: self.needs.storage.saturating_sub(held.storage), ..self.needs })
            }
        }
    }

    fn is_router(&self) -> bool {
        matches!(self.role, Role::Router { .. })
    }

    fn group_key(&self) -> Option<(Key, String)> {
        // A machine that goes home is counted there already.
        let comes = !matches!(self.place, Place::Home { .. });
        comes.then(|| Some((self.farm.clone(), self.group.clone()?))).flatten()
    }

    fn explain(&self, causes: &Causes) -> String {
        match &self.place {
            Place::Any { .. } | Place::Away { .. } => causes.to_string(),
            Place::Home { host, .. } => causes.of_home(host),
        }
    }
}

impl HostOffer {
    /// Why it can't take the machine, if it can't.
    fn refuses(&self, request: &Request) -> Option<Cause> {
        match &request.place {
            Place::Any { class, .. } | Place::Away { class, .. } if *class != self.class => {
                return Some(Cause::Class(self.class));
            }
            Place::Any { selector, .. } | Place::Away { selector, .. } if !self.is_selected(selector) => {
                return Some(Cause::Selector);
            }
            Place::Home { host, .. } if *host != self.name => return Some(Cause::Elsewhere),
            Place::Away { pool: Some(pool), .. } if self.pool.as_ref() != Some(pool) => return Some(Cause::Elsewhere),
            Place::Any { .. } | Place::Home { .. } | Place::Away { .. } => {}
        }
        if request.role == (Role::Router { public: true }) && !self.public {
            return Some(Cause::Private);
        }
        let goes_home = matches!(request.place, Place::Home { .. });
        if request.supply == Supply::Copies && !goes_home && !self.has_image(request) {
            return Some(Cause::NoCopy);
        }
        if request.is_router() && !goes_home && self.routed.contains(&request.farm) {
            return Some(Cause::OtherRouter);
        }
        match self.openness {
            Openness::Open => self.lacks(request.added()),
            Openness::Cordoned => Some(Cause::Cordoned),
            Openness::Paused => Some(Cause::Paused),
            Openness::Unreachable => Some(Cause::Unreachable),
            Openness::NotReady => Some(Cause::NotReady),
            Openness::Unverified => Some(Cause::Unverified),
        }
    }

    fn has_image(&self, request: &Request) -> bool {
        self.cached.contains(&request.revision)
    }

    fn is_selected(&self, selector: &BTreeMap<String, String>) -> bool {
        selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// What is asked for and not free. What isn't asked for may be overbooked without harm: a host may have shrunk.
    fn lacks(&self, asked: Amount) -> Option<Cause> {
        let (all, gone) = (self.allocatable, self.allocated);
        if asked.cpus > 0 && gone.cpus + asked.cpus > all.cpus {
            Some(Cause::Cpus(asked.cpus))
        } else if asked.memory > Bytes::ZERO && gone.memory + asked.memory > all.memory {
            Some(Cause::Memory(asked.memory))
        } else if asked.storage > Bytes::ZERO && gone.storage + asked.storage > all.storage {
            Some(Cause::Storage(asked.storage))
        } else {
            None
        }
    }

    /// Lower is better.
    fn rank(&self, request: &Request, group: Option<&(Key, String)>) -> (usize, bool, u64, u64, &str) {
        let alike = group.and_then(|group| self.groups.get(group).copied()).unwrap_or_default();
        let missing = !self.has_image(request);
        let mut after = self.allocated;
        after += request.needs;
        let memory = share(after.memory.get(), self.allocatable.memory.get());
        let cpus = share(after.cpus.unsigned_abs(), self.allocatable.cpus.unsigned_abs());
        (alike, missing, memory, cpus, &self.name)
    }
}

/// Parts of a million, so that comparing them is exact.
pub(super) fn share(part: u64, whole: u64) -> u64 {
    let share = u128::from(part) * 1_000_000 / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}
