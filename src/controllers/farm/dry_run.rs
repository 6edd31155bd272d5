//! What would be done with every machine of a farm: pure, from the same plans that act.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::addresses::give;
use super::observe::View;
use super::plan::plan_groups;
use super::status::NETWORK_READY;
use crate::api::conditions::{State, stamp};
use crate::api::{GroupUpdate, GroupUpdateStrategy, PlannedMachine, VirtualFarm, VirtualMachine};
use crate::controllers::placement::decide::decide;
use crate::controllers::placement::observe::{World, key};
use crate::controllers::placement::status::Outcome;
use crate::network::FarmNetwork;

/// What would be done, where each machine would go and what would wait, if nothing else changed. Updates are shown as
/// a whole, not step by step.
#[must_use]
pub fn rehearse(view: &View, world: World) -> Vec<PlannedMachine> {
    let view = at_once(view);
    let mut actions: BTreeMap<String, &str> =
        view.own_machines().iter().map(|machine| (machine.name_any(), "Keep")).collect();
    let mut gone = Vec::new();
    let mut new = Vec::new();
    let mut taken = Vec::new();
    for group in plan_groups(&view) {
        for (machines, action) in [(group.remove, "Delete"), (group.replace, "Replace")] {
            for machine in machines {
                actions.insert(machine.name_any(), action);
                new.extend((action == "Replace").then(|| renewed(&view, &machine)).flatten());
                gone.push(machine.uid());
            }
        }
        for machine in group.create {
            actions.insert(machine.name_any(), "Create");
            new.push(machine);
        }
        taken.extend(group.taken);
    }
    // Whoever comes after so many finds no address, whatever becomes of the others: that needs no rehearsal.
    let in_vain = new.split_off(new.len().min(FarmNetwork::ADDRESSES));
    let mut places = places(&view, world, &gone, new);
    for machine in in_vain {
        places.insert(machine.name_any(), (None, Some("AddressesExhausted: no address would be left".into())));
    }
    for name in taken {
        places.insert(name.clone(), (None, Some("NameTaken: a machine of somebody else has this name".into())));
        actions.insert(name, "Create");
    }
    let planned = actions.into_iter().map(|(name, action)| {
        let (hypervisor, waits) = places.remove(&name).unwrap_or_default();
        let (hypervisor, waits) = if action == "Delete" { (None, None) } else { (hypervisor, waits) };
        PlannedMachine { name, action: action.to_owned(), hypervisor, waits }
    });
    planned.collect()
}

/// The same farm with updates that happen all at once.
fn at_once(view: &View) -> View {
    let mut farm = (*view.farm).clone();
    for group in &mut farm.spec.groups {
        if group.update.strategy == GroupUpdateStrategy::Recreate {
            group.update = GroupUpdate { max_unavailable: group.replicas, max_surge: 0, ..group.update.clone() };
        }
    }
    View {
        farm: Arc::new(farm),
        machines: view.machines.clone(),
        network: view.network.clone(),
        promised: view.promised.clone(),
        left_behind: view.left_behind.clone(),
        hosts_are_unread: view.hosts_are_unread,
        budget: view.budget.clone(),
        parts: view.parts.clone(),
        router: view.router.clone(),
    }
}

/// The machine that would be made in the place of an outdated one.
fn renewed(view: &View, machine: &VirtualMachine) -> Option<VirtualMachine> {
    let farm = view.farm.name_any();
    let name = machine.name_any();
    let (group, index) = super::groups::seat(&farm, &name)?;
    let group = view.farm.spec.groups.iter().find(|known| known.name == group)?;
    Some(super::groups::make(&view.farm, group, index))
}

type Place = (Option<String>, Option<String>);

/// Where every machine of the farm would be, or what it would wait for.
fn places(view: &View, mut world: World, gone: &[Option<String>], new: Vec<VirtualMachine>) -> BTreeMap<String, Place> {
    world.machines.retain(|machine| !gone.contains(&machine.uid()));
    let first = jiff::Timestamp::MAX.as_second() - FarmNetwork::ADDRESSES as i64;
    world.machines.extend(new.into_iter().zip(first..).map(|(machine, born)| Arc::new(as_if_made(machine, born))));
    world.farms.insert(key(&*view.farm), Arc::new(as_if_ready(view)));
    let ours = |machine: &VirtualMachine| {
        machine.spec.farm == view.farm.name_any() && machine.namespace() == view.farm.namespace()
    };
    if let Ok(network) = &view.network {
        let own: Vec<_> = world.machines.iter().filter(|machine| ours(machine)).cloned().collect();
        for (machine, address) in give(*network, &own, &view.promised, &view.kept_back(*network)).gifts {
            for known in world.machines.iter_mut().filter(|known| known.uid() == machine.uid()) {
                Arc::make_mut(known).status.get_or_insert_default().address = Some(address.to_string());
            }
        }
    }
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for machine in world.machines.iter().filter(|machine| ours(machine)) {
        let host = machine.status.as_ref().and_then(|status| status.hypervisor.clone());
        places.insert(machine.name_any(), (host, None));
    }
    for (machine, outcome) in decide(&world).into_iter().filter(|(machine, _)| ours(machine)) {
        let place = match outcome {
            Outcome::Placed { host, .. } => (Some(host), None),
            Outcome::Waits(wait) => (None, Some(format!("{}: {}", wait.reason, wait.message))),
            Outcome::Rests(_) | Outcome::Stranded(_) | Outcome::Stays => continue,
        };
        places.insert(machine.name_any(), place);
    }
    places
}

/// New machines come last in line, in the order in which they are made, and are told apart by a uid of their own.
fn as_if_made(mut machine: VirtualMachine, second: i64) -> VirtualMachine {
    machine.metadata.uid = Some(format!("planned-{}", machine.name_any()));
    machine.metadata.creation_timestamp = jiff::Timestamp::from_second(second).ok().map(Time);
    machine
}

fn as_if_ready(view: &View) -> VirtualFarm {
    let mut farm = (*view.farm).clone();
    let status = farm.status.get_or_insert_default();
    let state = match &view.network {
        Ok(network) => {
            status.network = Some(network.to_string());
            // Whoever gets no address in the rehearsal found none left.
            status.addresses_available = Some(0);
            State::yes(NETWORK_READY, "DryRun", "")
        }
        Err(wait) => State::no(NETWORK_READY, wait.reason, wait.message.clone()),
    };
    status.conditions = stamp(vec![state], &[], None, jiff::Timestamp::UNIX_EPOCH);
    farm
}
