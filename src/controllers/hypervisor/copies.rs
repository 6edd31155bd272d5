//! Whose the domains of ours on a host are, and what of them is to be removed. Pure.
//!
//! Epochs only grow. So of two copies of a machine the one with the lower epoch is surely over, and one with a higher
//! epoch than the machine's object knows comes from a time that the object has forgotten: from before a backup was
//! restored. The first is removed; the second is never touched.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::plan::Step;
use crate::api::{Bytes, MachineCopy, Tombstone};
use crate::libvirt::{DomainUuid, OwnershipTag, Survey};
use crate::network::FarmNetwork;

/// Where the object of a machine says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its host.
    pub host: Option<String>,
    /// Its placement.
    pub epoch: i64,
    /// It is being deleted.
    pub deleted: bool,
}

/// The machines that domains and tombstones of a host speak of.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// Name of the host.
    pub here: String,
    /// Identity of the Kubernetes cluster.
    pub cluster: String,
    /// The pool is one that other hosts have, too.
    pub pool_is_shared: bool,
    /// Machines that were seen to be deleted.
    pub deleted: BTreeSet<Uuid>,
    /// The sizes of the disks of those that have no object, as far as they are known: no domain tells them.
    pub disks: BTreeMap<Uuid, Bytes>,
    /// By uid; a machine that isn't in here has no object.
    pub machines: BTreeMap<Uuid, Whereabouts>,
    /// Machines without an object whose name another machine has.
    pub replaced: BTreeSet<Uuid>,
    /// The networks that farms have, by namespace and name of the farm.
    pub networks: BTreeMap<(String, String), FarmNetwork>,
}

/// How a domain of ours stands to its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The machine is placed here: its own controller sees to it.
    AtHome,
    /// Of a placement that is over.
    Stale,
    /// Of a placement that the machine's object doesn't know.
    Newer,
    /// There is no such machine.
    Unclaimed,
}

/// A domain of ours on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What its tag says.
    pub tag: OwnershipTag,
    /// How it stands to its machine.
    pub standing: Standing,
}

impl Copy {
    /// The machine, for people.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.tag.namespace, self.tag.name)
    }
}

impl Owners {
    pub(super) fn find(&self, uid: &str) -> Option<&Whereabouts> {
        self.machines.get(&uid.parse().ok()?)
    }

    /// Whether the farm that gave a copy its address is gone. Of a copy without an object no more is known of it than its name, and
    /// that its network was the one of this address.
    #[must_use]
    pub fn is_farmless(&self, copy: &MachineCopy) -> bool {
        let Some(address) = copy.address.as_ref().and_then(|address| address.parse().ok()) else { return false };
        let farm = copy.farm.as_ref().map(|farm| (copy.namespace.clone(), farm.clone()));
        farm.and_then(|farm| self.networks.get(&farm)) != Some(&FarmNetwork::of(address))
    }

    /// Whether a machine was given up here, and then stayed after all.
    #[must_use]
    pub fn stayed(&self, tombstone: &Tombstone) -> bool {
        self.find(&tombstone.copy.uid).is_some_and(|machine| {
            machine.host.as_ref() == Some(&self.here) && machine.epoch <= tombstone.copy.epoch && !machine.deleted
        })
    }

    /// Whether the machine's own controller sees to what is here.
    fn is_home(&self, uid: &str) -> bool {
        self.find(uid).is_some_and(|machine| machine.host.as_ref().is_none_or(|host| *host == self.here))
    }

    /// Whether volumes of the machine in this host's pool are in use elsewhere.
    fn shares_volumes(&self, uid: &str) -> bool {
        self.pool_is_shared && self.find(uid).is_some()
    }

    fn standing(&self, tag: &OwnershipTag, tombstones: &[Tombstone]) -> Standing {
        let Some(machine) = self.machines.get(&tag.uid) else {
            let uid = tag.uid.to_string();
            let given_up = tombstones.iter().any(|known| known.copy.uid == uid && known.copy.epoch >= tag.epoch);
            return if given_up { Standing::Stale } else { Standing::Unclaimed };
        };
        match &machine.host {
            Some(host) if *host == self.here && tag.epoch <= machine.epoch => Standing::AtHome,
            Some(host) if *host != self.here && tag.epoch < machine.epoch => Standing::Stale,
            _ => Standing::Newer,
        }
    }
}

/// The domains of ours on a host.
#[must_use]
pub fn copies(survey: &Survey, owners: &Owners, tombstones: &[Tombstone]) -> Vec<Copy> {
    let ours = tags(survey).filter(|tag| tag.cluster == owners.cluster);
    ours.map(|tag| Copy { standing: owners.standing(tag, tombstones), tag: tag.clone() }).collect()
}

/// The tags of domains that are what their tags say.
pub fn tags(survey: &Survey) -> impl Iterator<Item = &OwnershipTag> {
    let tagged = survey.domains.iter().filter_map(|(uuid, domain)| Some((uuid, domain.tag.as_ref()?)));
    tagged.filter(|(uuid, tag)| uuid.0 == tag.uid).map(|(_, tag)| tag)
}

/// Whether a host still has something of a copy that was given up.
#[must_use]
pub fn is_left(tombstone: &Tombstone, survey: &Survey, owners: &Owners) -> bool {
    match tags(survey).find(|tag| tag.uid.to_string() == tombstone.copy.uid) {
        Some(tag) => tag.epoch <= tombstone.copy.epoch,
        None => volumes(&tombstone.copy.uid, survey, owners).next().is_some(),
    }
}

/// The volumes of a machine that only this host's copy can be using. Those that a domain which isn't ours may use stay.
pub(super) fn volumes<'a>(
    uid: &str,
    survey: &'a Survey,
    owners: &Owners,
) -> impl Iterator<Item = &'a String> + use<'a> {
    let uuid = uid.parse::<Uuid>().ok();
    let domain = uuid.and_then(|uuid| survey.domains.get(&DomainUuid(uuid)));
    let in_use = uuid.is_none() || owners.shares_volumes(uid) || domain.is_some_and(|domain| domain.tag.is_none());
    let prefix = format!("{uid}-");
    let there = survey.volumes.iter().chain(&survey.incomplete_volumes);
    there.filter(move |name| !in_use && name.starts_with(&prefix))
}

/// What is to be done so that nothing is left of stale copies: domains first.
#[must_use]
pub fn removals(survey: &Survey, copies: &[Copy], tombstones: &[Tombstone], owners: &Owners) -> Vec<Step> {
    let stale: Vec<_> = copies.iter().filter(|copy| copy.standing == Standing::Stale).collect();
    let mut steps: Vec<_> = stale.iter().map(|copy| Step::RemoveCopy(copy.tag.clone())).collect();
    let given_up = tombstones.iter().map(|tombstone| tombstone.copy.uid.clone());
    let mut uids: Vec<_> = given_up.filter(|uid| !owners.is_home(uid)).collect();
    uids.extend(stale.iter().map(|copy| copy.tag.uid.to_string()));
    uids.sort();
    uids.dedup();
    // A copy of a placement that nobody knows has its volumes there, too.
    uids.retain(|uid| !copies.iter().any(|copy| copy.standing != Standing::Stale && copy.tag.uid.to_string() == *uid));
    for uid in uids {
        steps.extend(volumes(&uid, survey, owners).cloned().map(Step::DeleteVolume));
    }
    steps
}
