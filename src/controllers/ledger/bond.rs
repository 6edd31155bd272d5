//! Which farm a machine is bound to: the one that gave it its address, and no other of that name.

use std::net::Ipv4Addr;

use kube::ResourceExt;

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
    let farm = context.api::<VirtualFarm>(&namespace).get_opt(&machine.spec.farm).await?;
    let newest = context.api::<VirtualMachine>(&namespace).get_opt(&machine.name_any()).await?;
    let newest = newest.filter(|newest| newest.uid() == machine.uid());
    Ok(newest.is_some_and(|newest| farm.is_none_or(|farm| !is_member(&newest, &farm))))
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
    }
}
