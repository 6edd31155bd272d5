//! Who may do what in a farm's namespace: role bindings to roles that the chart ships.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject as RbacSubject};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::observe::{Memory, lock};
use super::status::MANAGER;
use crate::api::{FARM_LABEL, Subject, SubjectKind, VirtualFarm};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::ownership::is_controlled;
use crate::controllers::placement::observe::key;
use crate::controllers::placement::plan::Wait;

/// Bindings are looked at this often even if nothing about the farm changed.
const INTERVAL: Duration = Duration::from_secs(300);

/// A role binding that a farm wants, or doesn't.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// Its name.
    pub name: String,
    /// The ClusterRole, which holds in the farm's namespace only.
    pub role: &'static str,
    /// Who; nobody: there shall be no such binding.
    pub subjects: Vec<RbacSubject>,
}

/// The role bindings of a farm: pure.
#[must_use]
pub fn bindings(farm: &VirtualFarm) -> [Binding; 2] {
    let binding = |role, suffix: &str, subjects: &[Subject]| Binding {
        name: format!("cascina-{}-{suffix}", farm.name_any()),
        role,
        subjects: subjects.iter().map(rbac_subject).collect(),
    };
    [
        binding("cascina-farm-admin", "admins", &farm.spec.admins),
        binding("cascina-farm-user", "users", &farm.spec.users),
    ]
}

fn rbac_subject(subject: &Subject) -> RbacSubject {
    let (kind, api_group) = match subject.kind {
        SubjectKind::User => ("User", Some("rbac.authorization.k8s.io".to_owned())),
        SubjectKind::Group => ("Group", Some("rbac.authorization.k8s.io".to_owned())),
        SubjectKind::ServiceAccount => ("ServiceAccount", None),
    };
    RbacSubject { kind: kind.into(), name: subject.name.clone(), namespace: subject.namespace.clone(), api_group }
}

/// How far the role bindings are made what a farm wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Access is given and taken away.
    Whole,
    /// Access is taken away, and given to nobody: the farm is paused, rehearsed, or on its way out.
    TakeAway,
}

/// What happens to a role binding.
#[derive(Debug, PartialEq)]
enum Change {
    None,
    Remove,
    Bind(Vec<RbacSubject>),
}

/// Makes the role bindings what the farm wants. Tells of those that somebody else made under our names.
///
/// # Errors
/// What the API server says of one of them; the other one is looked at all the same.
pub async fn ensure(
    context: &Context,
    memory: &Memory,
    farm: &VirtualFarm,
    extent: Extent,
) -> Result<Option<Wait>, Error> {
    let wanted = bindings(farm);
    let mut hasher = DefaultHasher::new();
    (format!("{wanted:?}{:?}", farm.uid()), extent).hash(&mut hasher);
    let fingerprint = hasher.finish();
    let known = lock(&memory.bindings).get(&key(farm)).copied();
    if known.is_some_and(|(known, looked)| known == fingerprint && looked.elapsed() < INTERVAL) {
        return Ok(None);
    }
    let api: Api<RoleBinding> = context.api(&farm.namespace().unwrap_or_default());
    let (mut taken, mut failed) = (None, None);
    for binding in &wanted {
        match ensure_one(context, &api, farm, binding, extent).await {
            Ok(wait) => taken = taken.or(wait),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if taken.is_none() {
        lock(&memory.bindings).insert(key(farm), (fingerprint, Instant::now()));
    }
    Ok(taken)
}

async fn ensure_one(
    context: &Context,
    api: &Api<RoleBinding>,
    farm: &VirtualFarm,
    binding: &Binding,
    extent: Extent,
) -> Result<Option<Wait>, Error> {
    let existing = api.get_opt(&binding.name).await?;
    if extent == Extent::Whole
        && let Some(left) = existing.as_ref().filter(|existing| is_left(existing, farm, binding))
    {
        // First it is the farm's, then it may go.
        apply(context, api, farm, binding).await?;
        if let Some(ours) = api.get_opt(&left.name_any()).await?.filter(|_| binding.subjects.is_empty()) {
            remove(context, api, &ours).await?;
        }
        return Ok(None);
    }
    if existing.as_ref().is_some_and(|existing| !is_ours(existing, farm)) {
        let problem = format!("RoleBinding {} is somebody else's: delete or rename it", binding.name);
        return Ok((extent == Extent::Whole).then(|| Wait::new("RoleBindingTaken", problem)));
    }
    let bound = existing.as_ref().map(|existing| existing.subjects.clone().unwrap_or_default());
    match (change(bound.as_deref(), &binding.subjects, extent), existing) {
        (Change::Remove, Some(existing)) => remove(context, api, &existing).await?,
        (Change::Bind(subjects), _) => apply(context, api, farm, &Binding { subjects, ..binding.clone() }).await?,
        (Change::Remove | Change::None, _) => {}
    }
    Ok(None)
}

/// What happens to a binding of these subjects: pure.
fn change(bound: Option<&[RbacSubject]>, wanted: &[RbacSubject], extent: Extent) -> Change {
    let stay = |bound: &[RbacSubject]| bound.iter().filter(|subject| wanted.contains(subject)).cloned().collect();
    let subjects: Vec<_> = match extent {
        Extent::Whole => wanted.to_vec(),
        Extent::TakeAway => bound.map(stay).unwrap_or_default(),
    };
    match bound {
        None if subjects.is_empty() => Change::None,
        Some(_) if subjects.is_empty() => Change::Remove,
        Some(bound) if bound == subjects => Change::None,
        _ => Change::Bind(subjects),
    }
}

fn is_ours(existing: &RoleBinding, farm: &VirtualFarm) -> bool {
    existing.owner_references().iter().any(|owner| Some(&owner.uid) == farm.metadata.uid.as_ref())
}

/// Whether the farm made this binding once, and nobody controls it now: after a restore from a backup.
fn is_left(existing: &RoleBinding, farm: &VirtualFarm, binding: &Binding) -> bool {
    let labelled = existing.labels().get(FARM_LABEL) == Some(&farm.name_any());
    labelled && existing.role_ref.name == binding.role && !is_ours(existing, farm) && !is_controlled(existing, farm)
}

async fn apply(context: &Context, api: &Api<RoleBinding>, farm: &VirtualFarm, binding: &Binding) -> Result<(), Error> {
    let role = RoleRef {
        api_group: "rbac.authorization.k8s.io".into(),
        kind: "ClusterRole".into(),
        name: binding.role.into(),
    };
    let patch = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {
            "name": binding.name,
            "labels": { FARM_LABEL: farm.name_any() },
            "ownerReferences": [farm.controller_owner_ref(&())],
        },
        "roleRef": role,
        "subjects": binding.subjects,
    });
    context.metrics.write::<RoleBinding>("object");
    api.patch(&binding.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await?;
    Ok(())
}

async fn remove(context: &Context, api: &Api<RoleBinding>, binding: &RoleBinding) -> Result<(), Error> {
    let exactly = Preconditions { uid: binding.uid(), resource_version: binding.resource_version() };
    context.metrics.write::<RoleBinding>("object");
    match api.delete(&binding.name_any(), &DeleteParams::default().preconditions(exactly)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::farm;
    use super::*;

    fn users(names: &[&str]) -> Vec<RbacSubject> {
        let user = |name: &&str| Subject { kind: SubjectKind::User, name: (*name).into(), namespace: None };
        names.iter().map(user).map(|user| rbac_subject(&user)).collect()
    }

    /// What happens to a binding of these users, if there is one, when those are wanted.
    fn changed(bound: Option<&[&str]>, wanted: &[&str], extent: Extent) -> Change {
        change(bound.map(users).as_deref(), &users(wanted), extent)
    }

    #[test]
    fn access_is_given_and_taken_away() {
        let changed = |bound: Option<&[&str]>, wanted: &[&str]| changed(bound, wanted, Extent::Whole);
        assert_eq!(changed(None, &[]), Change::None);
        assert_eq!(changed(None, &["ada"]), Change::Bind(users(&["ada"])));
        assert_eq!(changed(Some(&["ada"]), &["ada"]), Change::None);
        assert_eq!(changed(Some(&["ada"]), &["bruno"]), Change::Bind(users(&["bruno"])));
        assert_eq!(changed(Some(&["ada"]), &[]), Change::Remove);
        assert_eq!(changed(Some(&[]), &[]), Change::Remove);
    }

    #[test]
    fn of_a_farm_that_is_left_alone_access_is_only_taken_away() {
        let changed = |bound: Option<&[&str]>, wanted: &[&str]| changed(bound, wanted, Extent::TakeAway);
        assert_eq!(changed(None, &["ada"]), Change::None, "giving may wait");
        assert_eq!(changed(Some(&["ada"]), &["ada", "bruno"]), Change::None);
        assert_eq!(changed(Some(&["ada", "bruno"]), &["bruno"]), Change::Bind(users(&["bruno"])));
        assert_eq!(changed(Some(&["ada"]), &["bruno"]), Change::Remove);
    }

    #[test]
    fn people_are_bound_to_the_roles_that_the_chart_ships() {
        let mut farm = farm();
        farm.spec.admins = vec![Subject { kind: SubjectKind::User, name: "ada".into(), namespace: None }];
        farm.spec.users =
            vec![Subject { kind: SubjectKind::ServiceAccount, name: "robot".into(), namespace: Some("ci".into()) }];
        let [admins, users] = bindings(&farm);
        assert_eq!((admins.name.as_str(), admins.role), ("cascina-farm-a-admins", "cascina-farm-admin"));
        assert_eq!(admins.subjects[0].api_group.as_deref(), Some("rbac.authorization.k8s.io"));
        assert_eq!((users.name.as_str(), users.role), ("cascina-farm-a-users", "cascina-farm-user"));
        assert_eq!(users.subjects[0].api_group, None, "a ServiceAccount is of the core group, and read back without");
    }
}
