//! What wakes machines besides their own changes.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use crate::api::{Phase, VirtualFarm, VirtualMachine};
use crate::controllers::cache::reference;
use crate::controllers::context::Context;
use crate::controllers::fleet::Change;

/// A machine's host, its farm, its flavour.
pub fn triggers(context: &Arc<Context>) -> stream::BoxStream<'static, ObjectRef<VirtualMachine>> {
    let machines = Arc::clone(&context.caches.machines);
    let on_hosts = context.fleet.changes().flat_map(move |change| {
        stream::iter(match change {
            Change::Domain(_, tag) => vec![reference(&tag.namespace, &tag.name)],
            Change::Reach(host) => in_phases(&machines.filed_under(&host), |_| true),
            Change::Stock(host) => in_phases(&machines.filed_under(&host), |phase| phase <= Phase::Scheduled),
        })
    });
    let shared = Arc::clone(context);
    let farms = Arc::clone(&context.caches.farms);
    let of_farms = context.caches.farms.changes().scan(HashMap::new(), move |known, farm| {
        let namespace = farm.namespace().unwrap_or_default();
        let is_there = farm.uid().is_some_and(|uid| farms.has_uid(&uid));
        let after = (is_there, what_machines_get(&farm));
        let before = known.insert((namespace.clone(), farm.name_any()), after.clone());
        let concerned = if before == Some(after) {
            Vec::new()
        } else {
            in_phases(&shared.caches.machines_of(&namespace, &farm.name_any()), |_| true)
        };
        std::future::ready(Some(stream::iter(concerned)))
    });
    let machines = Arc::clone(&context.caches.machines);
    let of_flavours = context.caches.flavours.changes().flat_map(move |flavour| {
        let uses = |machine: &&Arc<VirtualMachine>| machine.spec.flavour == flavour.name_any();
        stream::iter(
            machines.list().iter().filter(uses).map(|machine| ObjectRef::from_obj(&**machine)).collect::<Vec<_>>(),
        )
    });
    stream::select_all([on_hosts.boxed(), of_farms.flatten().boxed(), of_flavours.boxed()]).boxed()
}

/// What of a farm its machines are made from. The rest of its status changes with every step of every machine.
fn what_machines_get(farm: &VirtualFarm) -> impl Clone + PartialEq + use<> {
    let network = farm.status.as_ref().and_then(|status| status.network.clone());
    (farm.uid(), farm.metadata.generation, farm.metadata.deletion_timestamp.is_some(), network)
}

/// The machines in certain phases.
fn in_phases(machines: &[Arc<VirtualMachine>], phases: impl Fn(Phase) -> bool) -> Vec<ObjectRef<VirtualMachine>> {
    let concerned = |machine: &&Arc<VirtualMachine>| {
        phases(machine.status.as_ref().and_then(|status| status.phase).unwrap_or_default())
    };
    machines.iter().filter(concerned).map(|machine| ObjectRef::from_obj(&**machine)).collect()
}
