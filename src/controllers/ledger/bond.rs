//! Which farm a machine is bound to: the one that gave it its address, and no other of that name.

use std::net::Ipv4Addr;

use kube::ResourceExt;
use kube::core::DeserializeGuard;

use crate::api::{VirtualFarm, VirtualMachine};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::network::FarmNetwork;

/// Reason of a machine whose farm is gone.
pub const FARM_GONE: &str = "FarmGone";

/// Whether a machine is one of a farm's: it names it, and neither is bound to another farm that had this name, nor has an address
/// that this one can't have given.
#[must_use]
pub fn is_member(machine: &VirtualMachine, farm: &VirtualFarm) -> bool {
    let named = machine.metadata.namespace == farm.metadata.namespace && machine.spec.farm == farm.name_any();
    let bound = || match bond(machine) {
        Some(uid) => Some(uid) == farm.metadata.uid.as_deref(),
        None => may_have_given(farm, machine),
    };
    named && bound()
}

/// Of a machine that got its address before that was written down: whether it may be from this farm. A farm has one network for
/// its whole life.
fn may_have_given(farm: &VirtualFarm, machine: &VirtualMachine) -> bool {
    let address = machine.status.as_ref().and_then(|status| status.address.as_ref()?.parse::<Ipv4Addr>().ok());
    let network = farm.status.as_ref().and_then(|status| status.network.as_ref()?.parse::<FarmNetwork>().ok());
    address.zip(network).is_none_or(|(address, network)| FarmNetwork::of(address) == network)
}

fn bond(machine: &VirtualMachine) -> Option<&str> {
    machine.status.as_ref()?.farm_uid.as_deref()
}

/// Whether the farm that a machine has its address from surely isn't there any more. That it isn't in a list says
/// nothing: the watch told of its deletion, or the API server itself is asked, for the machine, too, so that what an
/// old backup has forgotten isn't taken for deleted.
///
/// # Errors
/// The API server can't be asked.
pub async fn is_farm_gone(context: &Context, machine: &VirtualMachine) -> Result<bool, Error> {
    let namespace = machine.namespace().unwrap_or_default();
    let known = context.caches.farms.get(&namespace, &machine.spec.farm);
    let has_address = machine.status.as_ref().is_some_and(|status| status.address.is_some());
    if !has_address || known.is_some_and(|farm| is_member(machine, &farm)) {
        return Ok(false);
    }
    if bond(machine).is_some_and(|uid| context.caches.farms.was_deleted(uid)) {
        return Ok(true);
    }
    let farm = context.api::<DeserializeGuard<VirtualFarm>>(&namespace).get_opt(&machine.spec.farm).await?;
    let newest = context.api::<DeserializeGuard<VirtualMachine>>(&namespace).get_opt(&machine.name_any()).await?;
    Ok(has_lost(machine, newest, farm))
}

/// Whether a machine has lost its farm, by what the API server says of both. What can't be read, in another version's form maybe,
/// is there all the same, and its uid can be read.
fn has_lost(
    machine: &VirtualMachine,
    newest: Option<DeserializeGuard<VirtualMachine>>,
    farm: Option<DeserializeGuard<VirtualFarm>>,
) -> bool {
    let newest = newest.and_then(|newest| newest.0.ok()).filter(|newest| newest.uid() == machine.uid());
    newest.is_some_and(|newest| match farm {
        None => true,
        Some(DeserializeGuard(Ok(farm))) => !is_member(&newest, &farm),
        Some(DeserializeGuard(Err(unreadable))) => {
            bond(&newest).is_some_and(|uid| Some(uid) != unreadable.metadata.uid.as_deref())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::placement::testing::{farm, machine};

    #[test]
    fn a_farm_that_is_made_again_under_the_name_is_another() {
        let first = farm("farm-a");
        let mut again = farm("farm-a");
        again.metadata.uid = Some("uid-of-the-second".into());
        let mut bound = machine("one", 0);
        assert!(is_member(&bound, &first) && is_member(&bound, &again), "no farm gave it an address yet");
        bound.status.as_mut().unwrap().farm_uid = first.metadata.uid.clone();
        assert!(is_member(&bound, &first) && !is_member(&bound, &again));
        let mut elsewhere = first.clone();
        elsewhere.metadata.namespace = Some("other".into());
        assert!(!is_member(&bound, &elsewhere));
    }
    fn in_network(network: &str) -> VirtualFarm {
        let mut farm = farm("farm-a");
        farm.status.get_or_insert_default().network = Some(network.into());
        farm
    }

    /// A machine from before it was written down which farm gave it its address.
    fn unbound(address: &str) -> VirtualMachine {
        let mut machine = machine("one", 0);
        machine.status.get_or_insert_default().address = Some(address.into());
        machine
    }

    #[test]
    fn an_address_of_another_network_is_from_another_farm() {
        let machine = unbound("172.16.1.2");
        assert!(is_member(&machine, &in_network("172.16.1.0/24")));
        assert!(!is_member(&machine, &in_network("172.16.2.0/24")), "a farm that was made again under the name");
        let mut without = in_network("");
        without.status.as_mut().unwrap().network = None;
        assert!(is_member(&machine, &without), "nobody knows yet");
        let mut bound = machine.clone();
        bound.status.as_mut().unwrap().farm_uid = without.metadata.uid.clone();
        assert!(is_member(&bound, &in_network("172.16.2.0/24")), "it is written down");
        let there = |machine: &VirtualMachine| Some(DeserializeGuard(Ok(machine.clone())));
        assert!(has_lost(&machine, there(&machine), Some(DeserializeGuard(Ok(in_network("172.16.2.0/24"))))));
    }

    #[test]
    fn a_farm_that_can_not_be_read_is_there() {
        let unreadable = |uid: Option<&str>| {
            let farm = serde_json::json!({"metadata": {"name": "farm-a", "uid": uid}, "spec": {"groups": "many"}});
            let guard: DeserializeGuard<VirtualFarm> = serde_json::from_value(farm).unwrap();
            assert!(guard.0.is_err());
            Some(guard)
        };
        let mut bound = unbound("172.16.1.2");
        let uid = farm("farm-a").metadata.uid;
        bound.status.as_mut().unwrap().farm_uid = uid.clone();
        let there = |machine: &VirtualMachine| Some(DeserializeGuard(Ok(machine.clone())));
        assert!(!has_lost(&bound, there(&bound), unreadable(uid.as_deref())));
        assert!(has_lost(&bound, there(&bound), unreadable(Some("another"))), "one that was made again");
        let unbound = unbound("172.16.1.2");
        assert!(!has_lost(&unbound, there(&unbound), unreadable(Some("another"))), "nobody knows");
        assert!(has_lost(&bound, there(&bound), None));
        assert!(!has_lost(&bound, None, None), "an old backup has forgotten both");
    }
}
