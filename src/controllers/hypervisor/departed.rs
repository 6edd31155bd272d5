//! Which copies a host has, or may have, and which of them are nobody's any more. Pure.
//!
//! What has the host is written into its status. So the API server itself says which machines it once knew: one that stands
//! there, and of which it has no object now, was deleted, whoever took its finalizer off and whether or not anybody watched.
//! Of a backup that is older than a machine its host's status is as old, and doesn't name it: what such a backup has
//! forgotten is told, and left alone. So is what has no object though one of its name is there and nobody saw it being deleted: a
//! backup brings objects back under new uids, and whoever restores them looks for the disks of before.

use std::collections::BTreeSet;

use super::copies::{Owners, tags, volumes};
use super::plan::Placed;
use crate::api::{MachineCopy, Tombstone};
use crate::controllers::ledger::Holding;
use crate::libvirt::{DomainUuid, OwnershipTag, Survey};

/// The copies of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residents {
    /// Those that stay, or of which nobody knows.
    pub copies: Vec<MachineCopy>,
    /// Those whose machines were deleted.
    pub departed: Vec<MachineCopy>,
}

/// What stands on a host and what is to go from it. `absent`: copies that its status lists and no machine that has it accounts
/// for; without a survey they stay.
#[must_use]
pub fn residents(
    placed: &[Placed],
    absent: &[MachineCopy],
    survey: Option<&Survey>,
    owners: &Owners,
    tombstones: &[Tombstone],
) -> Residents {
    let mut residents =
        Residents { copies: placed.iter().map(|placed| placed.copy.clone()).collect(), ..Residents::default() };
    let Some(survey) = survey else {
        residents.copies.extend(absent.iter().cloned());
        return residents;
    };
    let is_buried = |uid: &str| tombstones.iter().any(|known| known.copy.uid == uid);
    for copy in absent.iter().filter(|copy| !is_buried(&copy.uid)) {
        let tag = tags(survey).find(|tag| tag.uid.to_string() == copy.uid);
        let is_left = tag.is_some() || volumes(&copy.uid, survey, owners).next().is_some();
        // No epoch of a machine that was deleted is meant to stay.
        let newest = tag.map_or(copy.epoch, |tag| tag.epoch.max(copy.epoch));
        match owners.find(&copy.uid) {
            _ if !is_left => {}
            None if was_deleted(copy, owners) || is_known(copy) && !is_kept(copy, owners) => {
                residents.departed.push(MachineCopy { epoch: newest, ..copy.clone() });
            }
            None if is_known(copy) => residents.copies.push(MachineCopy { kept: true, ..copy.clone() }),
            _ => residents.copies.push(copy.clone()),
        }
    }
    let listed: BTreeSet<_> = residents.copies.iter().chain(&residents.departed).map(|copy| copy.uid.clone()).collect();
    for tag in tags(survey).filter(|tag| tag.cluster == owners.cluster) {
        let uid = tag.uid.to_string();
        if listed.contains(&uid) || is_buried(&uid) || owners.find(&uid).is_some() {
            continue;
        }
        let copy = of_domain(tag, survey, owners);
        let list = if was_deleted(&copy, owners) { &mut residents.departed } else { &mut residents.copies };
        list.push(copy);
    }
    residents
}

/// Whether it was written down from the machine's object.
const fn is_known(copy: &MachineCopy) -> bool {
    copy.farm.is_some()
}

/// Whether another machine has its name, or had it once: that this one goes, too, says nothing of the disks of the first.
fn is_kept(copy: &MachineCopy, owners: &Owners) -> bool {
    copy.kept || copy.uid.parse().is_ok_and(|uid| owners.replaced.contains(&uid))
}

fn was_deleted(copy: &MachineCopy, owners: &Owners) -> bool {
    copy.uid.parse().is_ok_and(|uid| owners.deleted.contains(&uid))
}

/// A domain of which no object is known, with its disks as far as they are.
fn of_domain(tag: &OwnershipTag, survey: &Survey, owners: &Owners) -> MachineCopy {
    let uuid = DomainUuid(tag.uid);
    let mut holding = survey.domains.get(&uuid).and_then(|domain| Holding::of_domain(uuid, domain, &tag.cluster));
    if let Some(holding) = &mut holding {
        holding.amount.storage = owners.disks.get(&tag.uid).copied().unwrap_or_default();
    }
    let addresses = holding.iter().flat_map(|holding| &holding.addresses).map(ToString::to_string);
    let mut addresses = addresses.take(MOST_ADDRESSES);
    MachineCopy {
        uid: tag.uid.to_string(),
        namespace: tag.namespace.clone(),
        name: tag.name.clone(),
        farm: None,
        epoch: tag.epoch,
        address: addresses.next(),
        public_ips: addresses.collect(),
        router: holding.as_ref().is_some_and(|holding| holding.is_router),
        holds: holding.as_ref().map(|holding| holding.amount.into()),
        kept: false,
    }
}

/// The schema has a bound.
const MOST_ADDRESSES: usize = 17;
