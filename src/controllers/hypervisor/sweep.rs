//! Looks for what on a host belongs to no object, twice and at the API server itself before anything is concluded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use uuid::Uuid;

use super::orphans::{Orphans, Sweep, find};
use crate::api::{Bytes, Hypervisor, VirtualMachine};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::fleet::FleetHost;
use crate::controllers::ledger::is_fenced;
use crate::libvirt::{Forms, Survey};

/// What belongs to no object for so long isn't on its way in or out.
const GRACE: Duration = Duration::from_secs(20);

/// More volumes than these aren't measured.
const MEASURED: usize = 64;

/// Looks for what on a host belongs to no object.
///
/// # Errors
/// The API server can't be asked.
pub async fn sweep(
    context: &Context,
    hypervisor: &Hypervisor,
    host: &FleetHost,
    survey: &Survey,
) -> Result<Sweep, Error> {
    let pool = hosts_of_pool(context, hypervisor);
    // What was given up on one host has its disks in the pool of all of them, and may run there still.
    let given_up = pool.iter().filter_map(|host| host.status.as_ref()).flat_map(|status| &status.tombstones);
    let given_up = uids(given_up.map(|tombstone| Some(tombstone.copy.uid.clone())));
    let is_known = |uid: Uuid| given_up.contains(&uid) || context.caches.machines.has_uid(&uid.to_string());
    let found = find(survey, &context.cluster, speaks_for_its_pool(&pool, hypervisor), is_known);
    let names = found.names();
    let ripe = host.orphaned_for(&names, GRACE, context.clock.now());
    let mut orphans = found.only(&ripe);
    let unconfirmed: BTreeSet<_> = orphans.owners().difference(&host.confirmed_gone()).copied().collect();
    if !unconfirmed.is_empty() {
        let machines: Api<VirtualMachine> = Api::all(context.client.clone());
        // Without a resource version the API server asks its storage, and not a cache.
        let listed = machines.list_metadata(&ListParams::default()).await?;
        let there = uids(listed.items.iter().map(ResourceExt::uid));
        host.confirm_gone(unconfirmed.difference(&there).copied());
        orphans = orphans.without(&there);
    }
    let measured: Vec<_> = orphans.volumes.keys().take(MEASURED).cloned().collect();
    let bytes = if measured.is_empty() {
        Bytes::ZERO
    } else {
        // What they take is good to know; that it isn't known keeps nothing from being told.
        host.host.allocation(&measured).await.unwrap_or_default()
    };
    let was_deleted = |owner: &Uuid| context.caches.machines.was_deleted(&owner.to_string());
    Ok(Sweep {
        deleted: orphans.owners().into_iter().filter(was_deleted).collect(),
        used: used_volumes(context, &pool, &orphans),
        is_unsure: ripe.len() < names.len(),
        farmless: BTreeSet::new(),
        bytes,
        orphans,
    })
}

fn uids(uids: impl Iterator<Item = Option<String>>) -> BTreeSet<Uuid> {
    uids.filter_map(|uid| uid?.parse().ok()).collect()
}

/// The hosts that see the pool of one, itself among them, by name.
fn hosts_of_pool(context: &Context, hypervisor: &Hypervisor) -> Vec<Arc<Hypervisor>> {
    let shared = &hypervisor.spec.storage.shared;
    let sees_it = |other: &Hypervisor| shared.is_some() && other.spec.storage.shared == *shared;
    let mut hosts = context.caches.hypervisors.list();
    hosts.retain(|other| other.uid() == hypervisor.uid() || sees_it(other));
    hosts
}

/// Of the hosts that see a pool one tells of it.
fn speaks_for_its_pool(pool: &[Arc<Hypervisor>], hypervisor: &Hypervisor) -> bool {
    let first = pool.iter().find(|other| other.metadata.deletion_timestamp.is_none());
    hypervisor.spec.storage.shared.is_none() || first.is_some_and(|first| first.uid() == hypervisor.uid())
}

/// The volumes that domains of hosts with this pool have, those of the owners left out; all, while it isn't known what
/// runs on one of these hosts.
fn used_volumes(context: &Context, pool: &[Arc<Hypervisor>], orphans: &Orphans) -> BTreeSet<String> {
    let owners = orphans.owners();
    let mut used = BTreeSet::new();
    for host in pool {
        let view = context.fleet.get(&host.name_any()).map(|host| host.view());
        let Some(survey) = view.as_ref().and_then(|view| view.survey.present()) else {
            if is_fenced(host) {
                continue;
            }
            return orphans.volumes.keys().cloned().collect();
        };
        for (_, domain) in survey.domains.iter().filter(|(uuid, _)| !owners.contains(&uuid.0)) {
            let forms = domain.forms.iter().flat_map(|forms: &Arc<Forms>| [&forms.running, &forms.defined]);
            used.extend(forms.flatten().flat_map(|form| form.disks.values().cloned()));
        }
    }
    used
}
