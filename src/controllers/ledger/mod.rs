//! What is taken: by objects, and by what hosts have or may have, whoever owns it.
//!
//! An object is a wish and a promise; a domain is on the wire. Somebody who clears an `ownerReference`, takes a finalizer
//! off or deletes a farm changes the first and not the second. So an address, a network, a public address and a share of
//! a host or of a quota are free only when neither an object nor a domain of ours has them: a domain on any host that was
//! ever read, as it was last seen there; a machine that is being made; a copy that was given up on a host that is lost.
//! That a host doesn't answer, or hasn't been read yet, frees nothing.

mod bond;
mod holding;
#[cfg(test)]
mod laws;
#[cfg(test)]
pub mod samples;
mod sightings;

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use kube::ResourceExt;

use super::cache::Cache;
use super::context::Context;
use super::placement::standing::is_removed;
use crate::api::conditions::{FENCED, is_true};
use crate::api::{Hypervisor, HypervisorPhase, VirtualMachine};
pub use bond::{FARM_GONE, is_farm_gone, is_member};
pub use holding::{Amount, Holding};
pub use sightings::Sightings;

/// Something that a host has, or may have.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the host.
    pub host: String,
    /// What it holds.
    pub holding: Arc<Holding>,
    /// It was given up: its machine's object says nothing of it.
    pub is_given_up: bool,
    /// Its host is off: nothing of it is left but disks that lie in a pool of others, and no quota counts it.
    pub is_off: bool,
}

/// All that hosts have, or may have.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
    /// A host that answered before this instance took the lead hasn't been read since.
    unread: bool,
}

/// Reason of what waits until every host has been read once.
pub const HOSTS_UNREAD: &str = "HostsUnread";

impl Ledger {
    /// What is known now.
    #[must_use]
    pub fn look(context: &Context) -> Self {
        let hypervisors = context.caches.hypervisors.list();
        // Of the others no more is known than their statuses list.
        let answered = |host: &&Arc<Hypervisor>| {
            let phase = host.status.as_ref().map(|status| status.phase).unwrap_or_default();
            !matches!(phase, HypervisorPhase::Unreachable | HypervisorPhase::Rejected) && !is_fenced(host)
        };
        let unread = hypervisors.iter().filter(answered).any(|host| context.fleet.is_unread(&host.name_any()));
        Self { unread, ..Self::of(&hypervisors, context.fleet.sightings()) }
    }

    /// Whether something may be on a host of which nobody knows yet: then nothing new is given.
    #[must_use]
    pub const fn is_unread(&self) -> bool {
        self.unread
    }

    /// What these hosts have, or may have; of those that somebody says to be off only the disks that lie in a pool which
    /// others have, too.
    #[must_use]
    pub fn of(hypervisors: &[Arc<Hypervisor>], sightings: &Sightings) -> Self {
        let off: BTreeSet<_> = hypervisors.iter().filter(|host| is_fenced(host)).map(|host| host.name_any()).collect();
        let counts = |host: &&Arc<Hypervisor>| !is_fenced(host) || host.spec.storage.shared.is_some();
        let listed = hypervisors.iter().filter(counts).flat_map(|host| {
            let (name, is_off) = (host.name_any(), is_fenced(host));
            let entries = sightings.listed(host);
            entries
                .iter()
                .filter(|(_, holding)| !sightings.is_released(&name, &holding.uid))
                .map(|(is_given_up, holding)| Entry {
                    host: name.clone(),
                    holding: if is_off { Arc::new(holding.disks()) } else { Arc::clone(holding) },
                    is_given_up: *is_given_up,
                    is_off,
                })
                .collect::<Vec<_>>()
        });
        let seen = sightings.all().into_iter().filter(|(host, _)| !off.contains(host));
        let seen = seen.map(|(host, holding)| Entry { host, holding, is_given_up: false, is_off: false });
        Self { entries: listed.chain(seen).collect(), unread: false }
    }

    /// The copies for which no object counts any more, each once: of machines that have none, or one that says that it holds
    /// nothing.
    #[must_use]
    pub fn remains(&self, machines: &Cache<VirtualMachine>) -> Vec<Entry> {
        self.uncounted(|holding| {
            let (namespace, name) = &holding.machine;
            let known = machines.get(namespace, name).filter(|known| known.uid().as_ref() == Some(&holding.uid));
            known.map_or_else(|| machines.has_uid(&holding.uid), |known| !is_removed(&known))
        })
    }

    /// Each with the most that anybody says of its disks, whose sizes no domain tells.
    fn uncounted(&self, counts: impl Fn(&Holding) -> bool) -> Vec<Entry> {
        let mut remains: Vec<Entry> = Vec::new();
        let mut known = HashMap::new();
        for entry in self.entries.iter().filter(|entry| !counts(&entry.holding)) {
            let index = *known.entry((&entry.host, &entry.holding.uid)).or_insert(remains.len());
            match remains.get_mut(index) {
                None => remains.push(entry.clone()),
                Some(first) if first.holding.amount.storage < entry.holding.amount.storage => {
                    Arc::make_mut(&mut first.holding).amount.storage = entry.holding.amount.storage;
                }
                Some(_) => {}
            }
        }
        remains
    }

    /// Everything.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The addresses on cards of machines that aren't one's own, and who has each. What was given up is nobody's own.
    pub fn others(&self, is_own: impl Fn(&Holding) -> bool) -> impl Iterator<Item = (&Entry, Ipv4Addr)> {
        let others = self.entries.iter().filter(move |entry| entry.is_given_up || !is_own(&entry.holding));
        others.flat_map(|entry| entry.holding.addresses.iter().map(move |address| (entry, *address)))
    }
}

impl Entry {
    /// For people: which machine, on which host.
    #[must_use]
    pub fn name(&self) -> String {
        let (namespace, name) = &self.holding.machine;
        format!("machine {namespace}/{name} on {}", self.host)
    }
}

/// Whether somebody says that a host is off, and it didn't answer since.
#[must_use]
pub fn is_fenced(host: &Hypervisor) -> bool {
    host.status.as_ref().is_some_and(|status| is_true(&status.conditions, FENCED))
}
