//! Whose an object is, by its ownerReferences.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use crate::api::{FINALIZER, has_our_finalizer};

/// Whether somebody controls an object that its maker might adopt. A reference to an earlier object of the maker's own kind and
/// name controls nothing: that one is gone, as after a restore from a backup, or the maker couldn't have its name.
pub fn is_controlled<O>(object: &impl ResourceExt, maker: &O) -> bool
where
    O: Resource<DynamicType = ()>,
{
    object.owner_references().iter().any(|owner| owner.controller == Some(true) && !is_earlier(owner, maker))
}

fn is_earlier<O>(owner: &OwnerReference, maker: &O) -> bool
where
    O: Resource<DynamicType = ()>,
{
    owner.kind == O::kind(&())
        && owner.api_version == O::api_version(&())
        && Some(&owner.name) == maker.meta().name.as_ref()
        && Some(&owner.uid) != maker.meta().uid.as_ref()
}

/// Makes an object that nobody controls its maker's own, with our finalizer on it.
pub fn adopt<O>(object: &mut impl ResourceExt, maker: &O)
where
    O: Resource<DynamicType = ()>,
{
    let owners = object.owner_references_mut();
    owners.retain(|owner| !is_earlier(owner, maker));
    owners.extend(maker.controller_owner_ref(&()));
    if !has_our_finalizer(object) {
        object.finalizers_mut().push(FINALIZER.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{VRouter, VRouterSpec, VirtualMachine};
    use crate::controllers::placement::testing::{farm, machine};

    fn owned(kind: &str, name: &str, uid: &str) -> VirtualMachine {
        let mut machine = machine("one", 0);
        let owner = OwnerReference {
            api_version: "cascina.dev/v1alpha1".into(),
            kind: kind.into(),
            name: name.into(),
            uid: uid.into(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        machine.metadata.owner_references = Some(vec![owner]);
        machine
    }

    #[test]
    fn only_what_nobody_controls_is_adopted() {
        let farm = farm("farm-a");
        let name = farm.name_any();
        assert!(!is_controlled(&machine("one", 0), &farm));
        assert!(!is_controlled(&owned("VirtualFarm", &name, "uid-of-yesterday"), &farm));
        assert!(is_controlled(&owned("VirtualFarm", &name, &farm.uid().unwrap()), &farm), "it is the farm's already");
        assert!(is_controlled(&owned("VirtualFarm", "another", "uid-of-yesterday"), &farm));
        assert!(is_controlled(&owned("VRouter", &name, "uid-of-yesterday"), &farm));
        let spec = VRouterSpec { farm: name.clone(), public_ip: None, elastic_ip: None, template: Default::default() };
        let mut router = VRouter::new(&name, spec);
        router.metadata.uid = Some("uid-of-router".into());
        let mut restored = owned("VRouter", &name, "uid-of-yesterday");
        restored.metadata.finalizers = None;
        assert!(!is_controlled(&restored, &router));
        adopt(&mut restored, &router);
        let owners = restored.owner_references();
        assert_eq!((owners.len(), owners[0].uid.as_str(), owners[0].controller), (1, "uid-of-router", Some(true)));
        assert_eq!(restored.finalizers(), [FINALIZER]);
    }
}
