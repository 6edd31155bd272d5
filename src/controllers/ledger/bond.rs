//! Which farm a machine is bound to: the one that gave it its address, and no other of that name.

use kube::ResourceExt;

use crate::api::{VirtualFarm, VirtualMachine};
use crate::controllers::context::Context;
use crate::controllers::error::Error;

/// Reason of a machine whose farm is gone.
pub const FARM_GONE: &str = "FarmGone";

/// Whether a machine is one of a farm's: it names it, and isn't bound to another farm that had this name.
#[must_use]
pub fn is_member(machine: &VirtualMachine, farm: &VirtualFarm) -> bool {
    let named = machine.metadata.namespace == farm.metadata.namespace && machine.spec.farm == farm.name_any();
    named && bond(machine).is_none_or(|uid| Some(uid) == farm.metadata.uid.as_deref())
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
}
