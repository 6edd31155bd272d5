//! Looks up whose the domains on a host are.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kube::ResourceExt;
use kube::core::DeserializeGuard;
use tracing::warn;
use uuid::Uuid;

use super::copies::{Owners, Standing, Whereabouts, copies, tags};
use crate::api::{Hypervisor, MachineCopy, ObjectName, VirtualFarm, VirtualMachine};
use crate::controllers::context::Context;
use crate::controllers::fleet::{FleetHost, HostView};
use crate::controllers::observed::Observed;
use crate::controllers::placement::observe::key;
use crate::controllers::placement::standing::is_removed;

/// Whose the domains on the host are. What seems not to belong there is asked of the API server by name, and then the
/// host is read once more: a machine that goes is gone from its host first, and from the API server last.
pub async fn owners(context: &Context, hypervisor: &Hypervisor, host: &FleetHost, seen: &mut HostView) -> Owners {
    let mut owners = Owners {
        here: hypervisor.name_any(),
        cluster: context.cluster.clone(),
        pool_is_shared: hypervisor.spec.storage.shared.is_some(),
        ..Owners::default()
    };
    let Observed::Present(survey) = &seen.survey else { return owners };
    let tombstones = hypervisor.status.as_ref().map(|status| status.tombstones.as_slice()).unwrap_or_default();
    let ours = tags(survey).filter(|tag| tag.cluster == context.cluster);
    let mut asked: BTreeMap<_, _> = ours.map(|tag| (tag.uid, (tag.namespace.clone(), tag.name.clone()))).collect();
    for tombstone in tombstones {
        if let Ok(uid) = tombstone.copy.uid.parse::<Uuid>() {
            asked.insert(uid, (tombstone.copy.namespace.clone(), tombstone.copy.name.clone()));
        }
    }
    let absent = absent(context, hypervisor);
    for copy in &absent {
        if let Ok(uid) = copy.uid.parse::<Uuid>() {
            asked.insert(uid, (copy.namespace.clone(), copy.name.clone()));
        }
    }
    for (uid, (namespace, name)) in &asked {
        match whereabouts(context, &owners.here, *uid, namespace, name).await {
            Found::Itself(whereabouts) => drop(owners.machines.insert(*uid, whereabouts)),
            Found::Another => drop(owners.replaced.insert(*uid)),
            Found::Nothing => {}
        }
    }
    let gone = asked.keys().filter(|uid| !owners.machines.contains_key(uid));
    let sightings = context.fleet.sightings();
    owners.disks = gone.map(|uid| (*uid, sightings.disks_of(&owners.here, &uid.to_string()))).collect();
    let doubtful = copies(survey, &owners, tombstones).iter().any(|copy| copy.standing != Standing::AtHome);
    let was_deleted = |uid: &&Uuid| context.caches.machines.was_deleted(&uid.to_string());
    owners.deleted = asked.keys().filter(was_deleted).copied().collect();
    let farms = if absent.is_empty() { Vec::new() } else { context.caches.farms.list() };
    let network = |farm: &VirtualFarm| farm.status.as_ref()?.network.as_ref()?.parse().ok();
    owners.networks = farms.iter().filter_map(|farm| Some((key(&**farm), network(farm)?))).collect();
    if doubtful || !tombstones.is_empty() || !absent.is_empty() {
        seen.survey = match host.survey().await {
            Ok(survey) => Observed::Present(Arc::new(survey)),
            Err(error) => Observed::Unknown { why: error.to_string(), since: context.clock.now() },
        };
        // What came in the meantime wasn't asked for, and is looked at next time.
        if let Observed::Present(survey) = &seen.survey {
            for tag in tags(survey).filter(|tag| !asked.contains_key(&tag.uid)) {
                let here = Whereabouts { host: Some(owners.here.clone()), epoch: tag.epoch, deleted: false };
                owners.machines.insert(tag.uid, here);
            }
        }
    }
    owners
}

/// The copies that the status lists and no machine that has the host accounts for, but for those that were seen to be gone.
pub fn absent(context: &Context, hypervisor: &Hypervisor) -> Vec<MachineCopy> {
    let name = hypervisor.name_any();
    let here = context.caches.machines_on(&name);
    let here: HashSet<_> = here.iter().filter_map(|machine| machine.metadata.uid.as_deref()).collect();
    let listed = hypervisor.status.iter().flat_map(|status| &status.copies);
    let released = |copy: &MachineCopy| context.fleet.sightings().is_released(&name, &copy.uid);
    listed.filter(|copy| !here.contains(copy.uid.as_str()) && !released(copy)).cloned().collect()
}

/// What has a machine's name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The machine, which says where it is.
    Itself(Whereabouts),
    /// Another machine.
    Another,
    /// Nothing; or the machine's object, which says that it holds nothing.
    Nothing,
}

/// Where a machine's object says that it is, if there is one: from memory for one that is placed here.
async fn whereabouts(context: &Context, here: &str, uid: Uuid, namespace: &str, name: &str) -> Found {
    let is_it = |machine: &VirtualMachine| machine.metadata.uid.as_deref() == Some(uid.to_string().as_str());
    let is_there = |machine: &VirtualMachine| is_it(machine) && !is_removed(machine);
    let known = context.caches.machines.get(namespace, name).filter(|machine| is_there(machine));
    let known = known.as_deref().map(whereabouts_of).filter(|known| known.host.as_deref() == Some(here));
    // The names come from a host: they must not lead elsewhere in the API.
    let (Ok(namespace), Ok(name), None) = (namespace.parse::<ObjectName>(), name.parse::<ObjectName>(), &known) else {
        return known.map_or(Found::Nothing, Found::Itself);
    };
    match context.api::<DeserializeGuard<VirtualMachine>>(namespace.as_str()).get_opt(name.as_str()).await {
        Ok(newest) => said_of(uid, newest, here),
        Err(error) => {
            warn!(host = here, machine = %uid, %error, "it can't be asked for");
            Found::Itself(somewhere(here))
        }
    }
}

/// What an object says of this machine.
fn said_of(uid: Uuid, newest: Option<DeserializeGuard<VirtualMachine>>, here: &str) -> Found {
    match newest {
        None => Found::Nothing,
        Some(newest) if newest.uid() != Some(uid.to_string()) => Found::Another,
        Some(DeserializeGuard(Ok(newest))) if is_removed(&newest) => Found::Nothing,
        Some(DeserializeGuard(Ok(newest))) => Found::Itself(whereabouts_of(&newest)),
        Some(DeserializeGuard(Err(_))) => Found::Itself(somewhere(here)),
    }
}

/// Of a machine that can't be read nothing is removed from its host, as if it were at home there, and none of its placements is
/// over. It stops nobody else.
fn somewhere(here: &str) -> Whereabouts {
    Whereabouts { host: Some(here.to_owned()), epoch: i64::MAX, deleted: false }
}

fn whereabouts_of(machine: &VirtualMachine) -> Whereabouts {
    let status = machine.status.as_ref();
    Whereabouts {
        host: status.and_then(|status| status.hypervisor.clone()),
        epoch: status.and_then(|status| status.epoch).unwrap_or_default(),
        deleted: machine.metadata.deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_can_not_be_read_is_there_and_left_alone() {
        let uid = Uuid::from_u128(7);
        let said = |uid_there: Uuid, epoch: serde_json::Value| {
            let spec = serde_json::json!({"farm": "farm-a", "flavour": "small", "image": "one"});
            let status = serde_json::json!({"hypervisor": "worker-2", "epoch": epoch});
            let machine = serde_json::json!({
                "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine",
                "metadata": {"namespace": "tenant", "name": "one", "uid": uid_there}, "spec": spec, "status": status,
            });
            said_of(uid, Some(serde_json::from_value(machine).unwrap()), "worker-1")
        };
        let elsewhere = Whereabouts { host: Some("worker-2".into()), epoch: 3, deleted: false };
        assert_eq!(said(uid, 3.into()), Found::Itself(elsewhere));
        assert_eq!(said(uid, "three".into()), Found::Itself(somewhere("worker-1")));
        assert_eq!(said(Uuid::from_u128(8), "three".into()), Found::Another);
        assert_eq!(said_of(uid, None, "worker-1"), Found::Nothing);
    }
}
