//! What is told of a farm: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;

use super::groups::{Health, health, is_left, is_made_by};
use super::observe::View;
use super::plan::{Plan, some_of};
use super::router::{self, ROUTER_READY, router_ready};
use crate::api::conditions::{READY, State, find, stamp};
use crate::api::{PlannedMachine, QuotaUse, VirtualFarmStatus, VirtualMachine, keeps_dependents};
use crate::controllers::placement::plan::{QUOTA_EXCEEDED, Wait};
use crate::controllers::placement::standing::SCHEDULED;
use crate::controllers::ssh_keys::{SSH_KEYS_VALID, ssh_keys_valid};
use crate::controllers::writes::Share;
use crate::guest::read_ssh_keys;
use crate::network::FarmNetwork;

/// Name of the field manager.
pub const MANAGER: &str = "cascina-farm";

/// Condition: the farm has a network.
pub const NETWORK_READY: &str = "NetworkReady";

/// Condition: machines aren't made, because they could only wait.
pub const HELD_BACK: &str = "HeldBack";

/// What the farm's controller writes of a farm's status.
pub const SHARE: Share = Share {
    manager: MANAGER,
    fields: &[
        "observedGeneration",
        "network",
        "gateway",
        "publicIP",
        "addressesUsed",
        "addressesAvailable",
        "quotaUsed",
        "machines",
        "heldBack",
        "phases",
        "plan",
    ],
    conditions: &[READY, NETWORK_READY, ROUTER_READY, QUOTA_EXCEEDED, HELD_BACK, SSH_KEYS_VALID, "Deleting"],
};

/// What the farm's controller writes of a machine's status.
pub const ADDRESS_SHARE: Share = Share { manager: MANAGER, fields: &["address", "mac", "farmUID"], conditions: &[] };

/// The status of a farm that is at work.
#[must_use]
pub fn status(view: &View, plan: &Plan, now: Timestamp) -> VirtualFarmStatus {
    let network = match &view.network {
        Ok(network) => State::yes(NETWORK_READY, "Assigned", network.to_string()),
        Err(wait) => State::no(NETWORK_READY, wait.reason, wait.message.clone()),
    };
    let quota = [quota_exceeded(view, plan), held_back(plan)];
    let keys = ssh_keys_valid(&read_ssh_keys("spec.sshKeys", &view.farm.spec.ssh_keys).bad);
    let states = [ready(view, plan), network].into_iter().chain(router_ready(view)).chain(quota).chain(keys);
    build(view, plan, states.collect(), now)
}

/// The status of a dry run: what would be done, and nothing else new.
#[must_use]
pub fn dry_run_status(view: &View, planned: Vec<PlannedMachine>, now: Timestamp) -> VirtualFarmStatus {
    let has_network = view.farm.status.as_ref().is_some_and(|status| status.network.is_some());
    let network = match &view.network {
        Ok(network) if has_network => State::yes(NETWORK_READY, "Assigned", network.to_string()),
        Ok(network) => State::no(NETWORK_READY, "DryRun", format!("it would get {network}")),
        Err(wait) => State::no(NETWORK_READY, wait.reason, wait.message.clone()),
    };
    let count = |action: &str| planned.iter().filter(|machine| machine.action == action).count();
    let waiting = planned.iter().filter(|machine| machine.waits.is_some()).count();
    let message = format!(
        "nothing is done while the annotation cascina.dev/dry-run stands; machines: {} to create, {} to keep, {} to \
         replace, {} to delete; {waiting} would wait",
        count("Create"),
        count("Keep"),
        count("Replace"),
        count("Delete"),
    );
    let states = vec![State::no(READY, "DryRun", message), network, quota_exceeded(view, &Plan::default())];
    let mut status = build(view, &Plan::default(), states, now);
    let before = view.farm.status.clone().unwrap_or_default();
    (status.network, status.gateway) = (before.network, before.gateway);
    (status.addresses_used, status.addresses_available) = (before.addresses_used, before.addresses_available);
    status.plan = planned;
    // The schema has a bound, and so has what one can read.
    status.plan.truncate(FarmNetwork::ADDRESSES);
    status
}

/// What a farm on its way out waits for.
fn deletion_waits(view: &View, present: &[Arc<VirtualMachine>]) -> Wait {
    if keeps_dependents(&*view.farm) {
        let problem = "it was deleted with --cascade=orphan: its machines are being parted from it, and nothing of them is touched";
        return Wait::new("Orphaning", problem);
    }
    let is_ours = |machine: &&Arc<VirtualMachine>| is_made_by(machine, &view.farm) || machine.router().is_some();
    let names = |of_kind: &dyn Fn(&&Arc<VirtualMachine>) -> bool| {
        present.iter().filter(of_kind).map(|machine| machine.name_any()).collect::<Vec<_>>()
    };
    let kept = names(&|machine| is_left(machine, &view.farm)).into_iter().map(|name| format!("virtualmachine/{name}"));
    let mut kept: Vec<_> = kept.collect();
    let kept_router = view.router.iter().filter(|router| router::is_left(router, &view.farm));
    kept.extend(kept_router.map(|router| format!("vrouter/{}", router.name_any())));
    if !kept.is_empty() {
        let namespace = view.farm.namespace().unwrap_or_default();
        let problem = format!(
            "it was deleted with --cascade=orphan, and what it made can't be without its network: all of it runs on, and \
             the farm goes when somebody has deleted (kubectl delete -n {namespace}) {}",
            some_of(&kept, " ")
        );
        return Wait::new("MachinesKept", problem);
    }
    let (ours, others) = (names(&is_ours), names(&|machine| !is_ours(machine)));
    let mut waits = Vec::new();
    if !ours.is_empty() {
        waits.push(format!("machines on their way out: {}", some_of(&ours, ", ")));
    }
    if !others.is_empty() {
        waits.push(format!("machines that somebody else made, who has to delete them: {}", some_of(&others, ", ")));
    }
    if waits.is_empty() {
        waits.push("the router is on its way out".to_owned());
    }
    Wait::new("MachinesPresent", waits.join("; "))
}

/// The status of a farm on its way out, which waits for `present`.
#[must_use]
pub fn deleting_status(view: &View, present: &[Arc<VirtualMachine>], now: Timestamp) -> VirtualFarmStatus {
    let Wait { reason, message } = deletion_waits(view, present);
    let states = vec![State::no(READY, "Deleting", message.clone()), State::yes("Deleting", reason, message)];
    let before = view.farm.status.clone().unwrap_or_default();
    let mut status = build(view, &Plan::default(), states, now);
    // A network that is in use by machines is never dropped from view.
    (status.network, status.gateway) = (before.network, before.gateway);
    (status.addresses_used, status.addresses_available) = (before.addresses_used, before.addresses_available);
    status.conditions.extend(find(&before.conditions, NETWORK_READY).cloned());
    status
}

fn build(view: &View, plan: &Plan, states: Vec<State>, now: Timestamp) -> VirtualFarmStatus {
    let before = view.farm.status.clone().unwrap_or_default();
    let generation = view.farm.metadata.generation;
    let network = view.network.as_ref().ok();
    let machines = view.own_machines();
    let used = network.map(|_| plan.addresses_used);
    VirtualFarmStatus {
        observed_generation: generation,
        // A refused farm that had a network keeps it in view: machines may have addresses in it.
        network: network.map(FarmNetwork::to_string).or(before.network),
        gateway: network.map(|network| network.gateway().to_string()).or(before.gateway),
        public_ip: view.router.as_ref().and_then(|router| router.status.as_ref()?.public_ip.clone()),
        addresses_used: used.map(small),
        addresses_available: used.map(|used| small(FarmNetwork::ADDRESSES.saturating_sub(used))),
        quota_used: Some(quota_used(view)),
        machines: Some(format!("{}/{}", count_ready(&machines), expected(view, &machines))),
        held_back: plan.held_back.as_ref().map(|held_back| small(held_back.machines)),
        phases: phases(&machines),
        plan: Vec::new(),
        conditions: stamp(states, &before.conditions, generation, now),
    }
}

/// Ready: the network is there, and every machine of every group is there, up to date and well.
fn ready(view: &View, plan: &Plan) -> State {
    if let Err(wait) = &view.network {
        return State::no(READY, wait.reason, wait.message.clone());
    }
    if let Some(Wait { reason, message }) = plan.troubles.first() {
        return State::no(READY, *reason, message.clone());
    }
    let made: Vec<_> = view.machines.iter().filter(|machine| is_made_by(machine, &view.farm)).collect();
    let wanted = wanted(view);
    let well = made.iter().filter(|machine| is_well(machine)).count();
    let ill = made.iter().find(|machine| !is_well(machine)).map(|machine| what_ails(machine));
    if well < wanted || made.len() != wanted {
        let held_back = plan.held_back.as_ref().map(|held_back| format!("; {}", held_back.message()));
        let reason = if ill.is_none() && held_back.is_some() { "MachinesHeldBack" } else { "MachinesNotReady" };
        let why = [ill.map(|ill| format!("; {ill}")), held_back].map(Option::unwrap_or_default).concat();
        return State::no(READY, reason, format!("{} of {wanted} ready{why}", well.min(wanted)));
    }
    if !plan.outdated.is_empty() {
        let problem = format!("made from an older template: {}", some_of(&plan.outdated, ", "));
        return State::no(READY, "MachinesOutdated", problem);
    }
    if let Some(router) = router_ready(view).filter(|router| router.status != "True") {
        return State::no(READY, "RouterNotReady", format!("{}: {}", router.reason, router.message));
    }
    let left_alone = &plan.left_alone;
    let left_alone = (!left_alone.is_empty())
        .then(|| format!("; made from an older template until somebody deletes them: {}", some_of(left_alone, ", ")));
    State::yes(READY, "MachinesReady", format!("{well} of {wanted} ready{}", left_alone.unwrap_or_default()))
}

fn is_well(machine: &VirtualMachine) -> bool {
    machine.metadata.deletion_timestamp.is_none() && health(machine) == Health::Available
}

/// Why a machine isn't ready, in the words of its own conditions.
fn what_ails(machine: &VirtualMachine) -> String {
    let name = machine.name_any();
    let status = machine.status.clone().unwrap_or_default();
    if machine.metadata.deletion_timestamp.is_some() {
        let waits = find(&status.conditions, "Deleting").map(|waits| format!(": {}", waits.message));
        return format!("{name}: being deleted{}", waits.unwrap_or_default());
    }
    let ready = find(&status.conditions, READY);
    if ready.is_some_and(|ready| ready.status == "True") {
        return format!("{name}: its spec was changed, and that is yet to be looked at");
    }
    let waits = find(&status.conditions, SCHEDULED).filter(|scheduled| scheduled.status == "False");
    match waits.or(ready) {
        Some(why) if why.message.is_empty() => format!("{name}: {}", why.reason),
        Some(why) => format!("{name}: {}: {}", why.reason, why.message),
        None => format!("{name}: {:?}", status.phase.unwrap_or_default()),
    }
}

/// Whether machines aren't made because they could only wait, how many, and for what.
fn held_back(plan: &Plan) -> State {
    match &plan.held_back {
        Some(held_back) => State::yes(HELD_BACK, held_back.wait.reason, held_back.message()),
        None => State::no(HELD_BACK, "NothingHeldBack", ""),
    }
}

fn quota_exceeded(view: &View, plan: &Plan) -> State {
    let kind = QUOTA_EXCEEDED;
    let held_back = plan.held_back.as_ref().filter(|held_back| held_back.wait.reason == QUOTA_EXCEEDED);
    let machines = view.own_machines();
    let waiting = machines.iter().find_map(|machine| {
        let scheduled = find(&machine.status.as_ref()?.conditions, SCHEDULED)?;
        (scheduled.reason == QUOTA_EXCEEDED).then(|| format!("{} waits: {}", machine.name_any(), scheduled.message))
    });
    match (waiting, view.budget.excess(), held_back) {
        (Some(waiting), _, _) => State::yes(kind, "MachinesWait", waiting),
        (None, Some(excess), _) => {
            State::yes(kind, "QuotaLowered", format!("in use: {excess}; what runs stays, nothing new starts"))
        }
        (None, None, Some(held_back)) => State::yes(kind, "MachinesHeldBack", held_back.message()),
        (None, None, None) => State::no(kind, "WithinQuota", ""),
    }
}

fn quota_used(view: &View) -> QuotaUse {
    let used = view.budget.used;
    QuotaUse {
        instances: i32::try_from(view.budget.instances).unwrap_or(i32::MAX),
        cpus: i32::try_from(used.cpus).unwrap_or(i32::MAX),
        memory: used.memory,
        storage: used.storage,
    }
}

fn wanted(view: &View) -> usize {
    view.farm.spec.groups.iter().map(|group| usize::try_from(group.replicas).unwrap_or_default()).sum()
}

/// Machines that there are or should be.
fn expected(view: &View, machines: &[Arc<VirtualMachine>]) -> usize {
    let made = machines.iter().filter(|machine| is_made_by(machine, &view.farm)).count();
    let wanted = if view.farm.metadata.deletion_timestamp.is_some() { 0 } else { wanted(view) };
    machines.len() - made + made.max(wanted)
}

fn count_ready(machines: &[Arc<VirtualMachine>]) -> usize {
    let ready = |machine: &&Arc<VirtualMachine>| {
        machine.status.as_ref().is_some_and(|status| crate::api::conditions::is_true(&status.conditions, READY))
    };
    machines.iter().filter(ready).count()
}

fn phases(machines: &[Arc<VirtualMachine>]) -> BTreeMap<String, i32> {
    let mut phases = BTreeMap::new();
    for machine in machines {
        let phase = machine.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
        *phases.entry(format!("{phase:?}")).or_default() += 1;
    }
    phases
}

fn small(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Whether the difference between two statuses is worth a write at once: more than counters that move while machines
/// start.
#[must_use]
pub fn is_urgent(before: &VirtualFarmStatus, after: &VirtualFarmStatus) -> bool {
    let gist = |status: &VirtualFarmStatus| {
        let conditions = status.conditions.iter();
        let mut conditions: Vec<_> =
            conditions.map(|one| (one.type_.clone(), one.status.clone(), one.reason.clone())).collect();
        conditions.sort();
        let addresses = (status.network.clone(), status.public_ip.clone());
        (status.observed_generation, addresses, status.plan.clone(), conditions)
    };
    gist(before) != gist(after)
}
