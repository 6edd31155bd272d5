//! Which pair of networks a host's canary has. A pair is taken as long as any host's status says so, or a canary that was last
//! seen on any host has it: one whose host's object was taken away runs on, and one of an object that was made again is still
//! there when the new one begins.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use kube::{Api, ResourceExt};
use uuid::Uuid;

use super::evidence::Memory;
use super::recipe::{Stage, canary_uuid};
use super::status::SHARE;
use crate::api::{Hypervisor, HypervisorStatus, Isolation};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::ledger::Ledger;
use crate::controllers::writes::apply_status;
use crate::libvirt::{DomainUuid, Survey};
use crate::network::FarmNetwork;

/// Who has which slots, seen from one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The slot that it has.
    pub own: Option<i32>,
    /// Its canary is surely not there: it can have another slot, and nothing runs with the first.
    pub is_bare: bool,
    /// Those that older hosts have.
    pub older: BTreeSet<i32>,
    /// Those that younger hosts have.
    pub younger: BTreeSet<i32>,
    /// The networks that others' cards are in, as hosts were last seen.
    pub seen: BTreeSet<FarmNetwork>,
}

/// The slot of a host: the one that it has, unless an older host has it or another's canary got there first; else the lowest
/// that nobody has.
#[must_use]
pub fn choose(claims: &Claims, networks: Ipv4Net) -> i32 {
    let is_seen =
        |slot| Stage::of_slot(networks, slot).is_some_and(|stage| !claims.seen.is_disjoint(&stage.networks()));
    let stays = |slot: &i32| *slot >= 0 && !claims.older.contains(slot) && !(claims.is_bare && is_seen(*slot));
    let is_free = |slot: &i32| !claims.older.contains(slot) && !claims.younger.contains(slot) && !is_seen(*slot);
    claims.own.filter(stays).or_else(|| (0..).find(is_free)).unwrap_or(i32::MAX)
}

/// The host's slot, which no other host has: written down before anything is made with it. `None`: hosts aren't all read
/// yet, and nothing new is given before.
pub async fn slot(
    context: &Context,
    hypervisor: &Hypervisor,
    memory: &Memory,
    survey: Option<&Survey>,
) -> Result<Option<i32>, Error> {
    let _alone = memory.slots.lock().await;
    let newest = context.caches.hypervisors.latest(hypervisor).filter(|newest| newest.uid() == hypervisor.uid());
    let Some(hypervisor) = newest else { return Ok(None) };
    let networks = context.site().isolation.networks;
    let mut claims = claims(context, &hypervisor, survey);
    if !claims.is_bare && claims.own == Some(choose(&claims, networks)) {
        return Ok(claims.own);
    }
    let ledger = Ledger::look(context);
    let own = uuid(&context.cluster, &hypervisor).to_string();
    claims.seen = ledger.others(|holding| holding.uid == own).map(|(_, address)| FarmNetwork::of(address)).collect();
    let slot = choose(&claims, networks);
    if claims.own == Some(slot) {
        return Ok(Some(slot));
    }
    if ledger.is_unread() {
        return Ok(None);
    }
    let before = hypervisor.status.clone().unwrap_or_default();
    let isolation = Isolation { slot, ..before.isolation.unwrap_or_default() };
    let after = HypervisorStatus { isolation: Some(isolation), ..before };
    let api: Api<Hypervisor> = context.cluster_api();
    apply_status(context, &context.caches.hypervisors, &api, &hypervisor, &SHARE, &after).await?;
    Ok(Some(slot))
}

/// What the objects and its own host say.
fn claims(context: &Context, hypervisor: &Hypervisor, survey: Option<&Survey>) -> Claims {
    let hypervisors = context.caches.hypervisors.list();
    let others = hypervisors.iter().filter(|other| other.uid() != hypervisor.uid());
    let (older, younger): (Vec<_>, Vec<_>) = others.partition(|other| rank(other) < rank(hypervisor));
    let own = uuid(&context.cluster, hypervisor);
    Claims {
        own: slot_of(hypervisor),
        is_bare: survey.is_some_and(|survey| !survey.domains.contains_key(&own)),
        older: older.iter().filter_map(|other| slot_of(other)).collect(),
        younger: younger.iter().filter_map(|other| slot_of(other)).collect(),
        seen: BTreeSet::new(),
    }
}

/// The UUID of a host's canary.
pub fn uuid(cluster: &str, hypervisor: &Hypervisor) -> DomainUuid {
    let uid: Uuid = hypervisor.uid().and_then(|uid| uid.parse().ok()).unwrap_or_default();
    canary_uuid(cluster, uid)
}

/// The slot that a host's status says it has.
pub fn slot_of(hypervisor: &Hypervisor) -> Option<i32> {
    hypervisor.status.as_ref()?.isolation.as_ref().map(|isolation| isolation.slot)
}

fn rank(hypervisor: &Hypervisor) -> (Option<jiff::Timestamp>, String) {
    (hypervisor.metadata.creation_timestamp.as_ref().map(|time| time.0), hypervisor.name_any())
}

/// Canaries of ours on a host whose Hypervisor is another's that isn't there any more, mostly an earlier object of this host:
/// nobody else ever removes them. They keep nothing.
#[must_use]
pub fn strays(survey: &Survey, cluster: &str, is_known: impl Fn(&str) -> bool) -> Vec<DomainUuid> {
    let is_stray = |uuid: &DomainUuid, uid: Uuid| canary_uuid(cluster, uid) == *uuid && !is_known(&uid.to_string());
    let tagged = survey.domains.iter().filter_map(|(uuid, domain)| Some((uuid, domain.canary.as_ref()?)));
    let ours = tagged.filter(|(uuid, tag)| tag.cluster == cluster && is_stray(uuid, tag.uid));
    ours.map(|(uuid, _)| *uuid).collect()
}
