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

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use kube::ResourceExt;

use super::context::Context;
use crate::api::Hypervisor;
use crate::api::conditions::{FENCED, is_true};
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
}

/// All that hosts have, or may have.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Vec<Entry>);

impl Ledger {
    /// What is known now.
    #[must_use]
    pub fn look(context: &Context) -> Self {
        Self::of(&context.caches.hypervisors.list(), context.fleet.sightings())
    }

    /// What these hosts have, or may have, but for those that somebody says to be off.
    #[must_use]
    pub fn of(hypervisors: &[Arc<Hypervisor>], sightings: &Sightings) -> Self {
        let off: BTreeSet<_> = hypervisors.iter().filter(|host| is_fenced(host)).map(|host| host.name_any()).collect();
        let given_up = hypervisors.iter().filter(|host| !is_fenced(host)).flat_map(|host| {
            let tombstones = host.status.iter().flat_map(|status| &status.tombstones);
            let holdings = tombstones.map(|tombstone| Arc::new(Holding::of_tombstone(tombstone)));
            holdings.map(|holding| Entry { host: host.name_any(), holding, is_given_up: true })
        });
        let seen = sightings.all().into_iter().filter(|(host, _)| !off.contains(host));
        let seen = seen.map(|(host, holding)| Entry { host, holding, is_given_up: false });
        Self(given_up.chain(seen).collect())
    }

    /// Everything.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    /// The addresses on cards of machines that aren't one's own, and who has each. What was given up is nobody's own.
    pub fn others(&self, is_own: impl Fn(&Holding) -> bool) -> impl Iterator<Item = (&Entry, Ipv4Addr)> {
        let others = self.0.iter().filter(move |entry| entry.is_given_up || !is_own(&entry.holding));
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
