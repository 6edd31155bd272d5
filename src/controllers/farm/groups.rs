//! Which machines a group makes, changes and deletes: pure.
//!
//! A group of `replicas` machines has the lowest free indexes. A machine that is on its way out keeps its place in the
//! group until it is gone, so that the one made for it has the same name. Whether a machine is what the group wants is
//! read off its spec, not off a hash alone: a new version of the operator that hashes otherwise replaces nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use crate::api::conditions::{READY, find, is_true};
use crate::api::{
    FARM_LABEL, FINALIZER, GROUP_LABEL, GroupUpdateStrategy, MachineGroup, Phase, TEMPLATE_ANNOTATION, VirtualFarm,
    VirtualMachine, VirtualMachineSpec,
};
use crate::controllers::ledger::is_member;
use crate::controllers::ownership::{adopt, is_controlled};
use crate::controllers::placement::standing::wishes_to_run;

/// What happens to the machines of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupPlan {
    /// To be made.
    pub create: Vec<VirtualMachine>,
    /// To be written back, changed in place.
    pub update: Vec<VirtualMachine>,
    /// Not wanted any more.
    pub remove: Vec<Arc<VirtualMachine>>,
    /// To be made anew.
    pub replace: Vec<Arc<VirtualMachine>>,
    /// Made from an older template, replaced later.
    pub outdated: Vec<String>,
    /// Made from an older template, replaced when somebody deletes them, as the group's strategy has it.
    pub left_alone: Vec<String>,
    /// Names that machines of somebody else have.
    pub taken: Vec<String>,
}

/// How a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Not as it should be.
    Unavailable,
    /// Nobody can tell: it is neither counted as available nor deleted for being not.
    Unknown,
    /// As it should be.
    Available,
}

/// How a machine does: available is what is Ready, or stopped by wish. What a status says of an earlier generation of its
/// spec says nothing of this one.
#[must_use]
pub fn health(machine: &VirtualMachine) -> Health {
    let Some(status) = &machine.status else { return Health::Unavailable };
    let Some(ready) = find(&status.conditions, READY) else { return Health::Unavailable };
    let is_of_earlier = status.observed_generation != machine.metadata.generation;
    if status.phase == Some(Phase::Unknown) || ready.status == "Unknown" || (ready.status == "True" && is_of_earlier) {
        Health::Unknown
    } else if is_true(&status.conditions, READY) || (status.phase == Some(Phase::Stopped) && !wishes_to_run(machine)) {
        Health::Available
    } else {
        Health::Unavailable
    }
}

/// Whether the farm made this machine.
#[must_use]
pub fn is_made_by(machine: &VirtualMachine, farm: &VirtualFarm) -> bool {
    let ours = |owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
        owner.controller == Some(true) && Some(&owner.uid) == farm.metadata.uid.as_ref()
    };
    machine.owner_references().iter().any(ours)
}

/// Whether nobody controls a machine that the farm made once: its farm was deleted without it, or both were restored
/// from a backup.
#[must_use]
pub fn is_left(machine: &VirtualMachine, farm: &VirtualFarm) -> bool {
    let name = machine.name_any();
    let farm_name = farm.name_any();
    let labels = machine.labels();
    let is_of_group =
        seat(&farm_name, &name).is_some_and(|(group, _)| labels.get(GROUP_LABEL).is_some_and(|of| of == group));
    is_of_group
        && !is_controlled(machine, farm)
        && is_member(machine, farm)
        && labels.get(FARM_LABEL) == Some(&farm_name)
}

/// Group and index of a machine that a farm made.
#[must_use]
pub fn seat<'a>(farm: &str, machine: &'a str) -> Option<(&'a str, i32)> {
    let (group, index) = machine.strip_prefix(farm)?.strip_prefix('-')?.rsplit_once('-')?;
    // "01" or "+1" is no index of ours.
    let number: i32 = index.parse().ok()?;
    (number.to_string() == index && number >= 0).then_some((group, number))
}

/// Whom a farm finds in its namespace when it looks for the machines of a group.
#[derive(Clone, Copy)]
pub struct Found<'a> {
    /// The machines of the group that it made.
    pub members: &'a BTreeMap<i32, Arc<VirtualMachine>>,
    /// Those that it made once and that nobody controls.
    pub left: &'a BTreeMap<i32, Arc<VirtualMachine>>,
    /// The names of all machines.
    pub names: &'a BTreeSet<String>,
}

/// What happens to the machines of one group.
#[must_use]
pub fn plan_group(farm: &VirtualFarm, group: &MachineGroup, found: Found<'_>) -> GroupPlan {
    let Found { members, left, names } = found;
    let mut plan = GroupPlan::default();
    let mut live: BTreeMap<_, _> =
        members.iter().filter(|(_, machine)| machine.metadata.deletion_timestamp.is_none()).collect();
    let template = template_hash(group);
    let outdated = |machine: &VirtualMachine| change(machine, group, &template) == Change::Anew;
    let rolls = group.update.strategy == GroupUpdateStrategy::Recreate;
    let stale = live.values().filter(|machine| outdated(machine)).count();
    let replicas = usize::try_from(group.replicas).unwrap_or_default();
    let surge = usize::try_from(group.update.max_surge).unwrap_or_default();
    let wanted = replicas + if rolls { surge.min(stale) } else { 0 };

    let mut dispensable: Vec<_> = live.iter().map(|(index, machine)| (health(machine), Reverse(**index))).collect();
    dispensable.sort();
    for (_, Reverse(index)) in dispensable.into_iter().take(live.len().saturating_sub(wanted)) {
        plan.remove.extend(live.remove(&index).cloned());
    }
    if rolls && stale > 0 {
        let missing = usize::try_from(group.update.max_unavailable).unwrap_or_default();
        plan.replace = replaced(&live, replicas.saturating_sub(missing), outdated);
    }
    let stays = |machine: &Arc<VirtualMachine>| !plan.replace.iter().any(|replaced| Arc::ptr_eq(replaced, machine));
    for machine in live.values().filter(|machine| stays(machine)) {
        plan.update.extend(changed_in_place(machine, group, &template));
        let waits = match group.update.strategy {
            GroupUpdateStrategy::OnDelete => &mut plan.left_alone,
            GroupUpdateStrategy::Drain | GroupUpdateStrategy::Recreate => &mut plan.outdated,
        };
        waits.extend(outdated(machine).then(|| machine.name_any()));
    }
    let mut vacant = wanted.saturating_sub(members.len());
    for index in (0..).filter(|index| !members.contains_key(index)) {
        if vacant == 0 {
            break;
        }
        vacant -= 1;
        let ours = left.get(&index).filter(|machine| change(machine, group, &template) != Change::Anew);
        if let Some(machine) = ours.filter(|machine| is_of_template(machine, &template)) {
            plan.update.push(adopted(machine, farm));
            continue;
        }
        let machine = make(farm, group, index);
        let name = machine.name_any();
        if names.contains(&name) { plan.taken.push(name) } else { plan.create.push(machine) }
    }
    plan
}

/// Of outdated machines those that may go now: the ones that don't work anyway, and of the others so many that `floor`
/// machines stay available, highest indexes first.
fn replaced(
    live: &BTreeMap<&i32, &Arc<VirtualMachine>>,
    floor: usize,
    outdated: impl Fn(&VirtualMachine) -> bool,
) -> Vec<Arc<VirtualMachine>> {
    let of_health = |wanted: Health| live.values().rev().filter(move |machine| health(machine) == wanted);
    let spare = of_health(Health::Available).count().saturating_sub(floor);
    let broken = of_health(Health::Unavailable).filter(|machine| outdated(machine));
    let working = of_health(Health::Available).filter(|machine| outdated(machine)).take(spare);
    broken.chain(working).map(|machine| Arc::clone(machine)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    InPlace,
    Anew,
}

/// What has to change for a machine to be what its group wants.
fn change(machine: &VirtualMachine, group: &MachineGroup, template: &String) -> Change {
    let spec = &machine.spec;
    let made_so = spec.image == group.image && spec.class == group.class;
    let same = made_so && spec.flavour == group.flavour && spec.user_data == group.user_data;
    let of_this_template = is_of_template(machine, template);
    match (same, of_this_template) {
        (true, true) if runs_so(machine, group) => Change::None,
        // The template is the one that it was made from: somebody edited the machine.
        (false, true) if made_so => Change::InPlace,
        (true, _) => Change::InPlace,
        (false, _) => Change::Anew,
    }
}

/// Whether it was made from this template, by what stands on it.
fn is_of_template(machine: &VirtualMachine, template: &String) -> bool {
    machine.annotations().get(TEMPLATE_ANNOTATION) == Some(template)
}

/// A machine that nobody controls, as the farm's own.
fn adopted(machine: &VirtualMachine, farm: &VirtualFarm) -> VirtualMachine {
    let mut adopted = machine.clone();
    adopt(&mut adopted, farm);
    adopted
}

fn runs_so(machine: &VirtualMachine, group: &MachineGroup) -> bool {
    let spec = &machine.spec;
    spec.run_strategy == group.run_strategy && spec.readiness == group.readiness && spec.watchdog == group.watchdog
}

/// The machine as it should be, where that can be had without making it anew.
fn changed_in_place(machine: &VirtualMachine, group: &MachineGroup, template: &String) -> Option<VirtualMachine> {
    let change = change(machine, group, template);
    if change != Change::InPlace && runs_so(machine, group) {
        return None;
    }
    let mut changed = machine.clone();
    changed.spec.run_strategy = group.run_strategy;
    changed.spec.readiness = group.readiness;
    changed.spec.watchdog = group.watchdog;
    if change == Change::InPlace {
        changed.spec.flavour.clone_from(&group.flavour);
        changed.spec.user_data.clone_from(&group.user_data);
        changed.annotations_mut().insert(TEMPLATE_ANNOTATION.into(), template.clone());
    }
    Some(changed)
}

/// A machine of a group. Our finalizer is on it from the beginning, which saves a write and leaves no moment without.
#[must_use]
pub fn make(farm: &VirtualFarm, group: &MachineGroup, index: i32) -> VirtualMachine {
    let name = format!("{}-{}-{index}", farm.name_any(), group.name);
    let mut machine = VirtualMachine::new(
        &name,
        VirtualMachineSpec {
            farm: farm.name_any(),
            flavour: group.flavour.clone(),
            image: group.image.clone(),
            class: group.class,
            hypervisor_selector: BTreeMap::new(),
            user_data: group.user_data.clone(),
            ssh_keys: Vec::new(),
            run_strategy: group.run_strategy,
            priority: 0,
            eviction_strategy: Default::default(),
            readiness: group.readiness,
            watchdog: group.watchdog,
        },
    );
    machine.metadata.namespace = farm.namespace();
    machine.metadata.owner_references = farm.controller_owner_ref(&()).map(|owner| vec![owner]);
    machine.metadata.finalizers = Some(vec![FINALIZER.into()]);
    machine.labels_mut().insert(FARM_LABEL.into(), farm.name_any());
    machine.labels_mut().insert(GROUP_LABEL.into(), group.name.clone());
    machine.annotations_mut().insert(TEMPLATE_ANNOTATION.into(), template_hash(group));
    machine
}

/// Of what a machine can't change without being made anew.
fn template_hash(group: &MachineGroup) -> String {
    let template = serde_json::json!([group.flavour, group.image, group.class, group.user_data]);
    let hash = Sha256::digest(template.to_string().as_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
