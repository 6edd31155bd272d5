//! What a farm does next: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use kube::ResourceExt;

use super::addresses::{Addresses, Gift, give};
use super::groups::{Found, GroupPlan, is_left, is_made_by, plan_group, seat};
use super::observe::View;
use super::room::{HeldBack, Room};
use super::router::{has_address, is_router_of, plan_router};
use crate::api::{MachineGroup, VRouter, VirtualMachine, keeps_dependents};
use crate::controllers::ledger::is_member;
use crate::controllers::placement::observe::is_router_to_be;
use crate::controllers::placement::plan::Wait;

/// One call to the API server; each may fail, or be repeated, without harm to the others.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A machine gets its address.
    GiveAddress(Arc<VirtualMachine>, Ipv4Addr),
    /// A machine of a group is made.
    Create(Box<VirtualMachine>),
    /// A machine of a group is changed in place.
    Update(Box<VirtualMachine>),
    /// A machine of a group is deleted.
    Delete(Arc<VirtualMachine>),
    /// The router is made.
    MakeRouter(Box<VRouter>),
    /// The router is changed.
    ChangeRouter(Box<VRouter>),
    /// The router is deleted.
    DeleteRouter(Arc<VRouter>),
}

/// What a farm does next, and what is to be told about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// What a person has to look at.
    pub troubles: Vec<Wait>,
    /// Machines made from an older template that are replaced later.
    pub outdated: Vec<String>,
    /// Machines made from an older template that stay until somebody deletes them.
    pub left_alone: Vec<String>,
    /// Addresses in use.
    pub addresses_used: usize,
    /// Machines of groups that aren't made, because they could only wait.
    pub held_back: Option<HeldBack>,
}

/// Everything that a farm with a network does next. Without a network nothing is made.
#[must_use]
pub fn plan(view: &View) -> Plan {
    if view.farm.metadata.deletion_timestamp.is_some() {
        return tear_down(view);
    }
    let mut plan = Plan::default();
    let Ok(network) = &view.network else { return plan };
    let addresses = give(*network, &view.own_machines(), &view.promised, &view.kept_back(*network));
    plan.addresses_used = addresses.used;
    let may_give = |gift: &&Gift| !view.hosts_are_unread || has_address(&gift.0);
    plan.steps.extend(
        addresses
            .gifts
            .iter()
            .filter(may_give)
            .map(|(machine, address)| Step::GiveAddress(Arc::clone(machine), *address)),
    );
    let mut taken = Vec::new();
    let mut room = Room::of(view, *network, &addresses);
    for group in plan_groups(view) {
        plan.steps.extend(group.remove.into_iter().chain(group.replace).map(Step::Delete));
        plan.steps.extend(group.update.into_iter().map(|machine| Step::Update(Box::new(machine))));
        let admitted = group.create.into_iter().filter(|machine| room.admits(machine));
        plan.steps.extend(admitted.map(|machine| Step::Create(Box::new(machine))));
        plan.outdated.extend(group.outdated);
        plan.left_alone.extend(group.left_alone);
        taken.extend(group.taken);
    }
    plan.held_back = room.held_back();
    plan.troubles = troubles(&addresses, &taken);
    let (steps, waits) = plan_router(view, *network);
    plan.steps.extend(steps);
    plan.troubles.extend(waits);
    plan
}

/// What happens to the machines of every group, and of groups that aren't wanted any more.
pub fn plan_groups(view: &View) -> Vec<GroupPlan> {
    let mut members = view.members();
    let names: BTreeSet<_> = view.machines.iter().map(|machine| machine.name_any()).collect();
    let mut left = view.left();
    let group_plan = |group: &MachineGroup| {
        let [members, left] = [&mut members, &mut left].map(|of| of.remove(&group.name).unwrap_or_default());
        plan_group(&view.farm, group, Found { members: &members, left: &left, names: &names })
    };
    let mut plans: Vec<_> = view.farm.spec.groups.iter().map(group_plan).collect();
    let unwanted = members.into_values().flat_map(BTreeMap::into_values);
    let remove = unwanted.filter(|machine| machine.metadata.deletion_timestamp.is_none()).collect();
    plans.push(GroupPlan { remove, ..GroupPlan::default() });
    plans
}

/// The machines that the farm made go, and its router; it stays until every machine that has an address of it is gone.
/// Those that somebody wants kept without it are left alone: the farm waits, since they can't be without its network.
fn tear_down(view: &View) -> Plan {
    if keeps_dependents(&*view.farm) {
        return Plan::default();
    }
    let stays = |machine: &&Arc<VirtualMachine>| machine.metadata.deletion_timestamp.is_none();
    let made = view.machines.iter().filter(|machine| is_made_by(machine, &view.farm));
    let router = view
        .router
        .iter()
        .filter(|router| is_router_of(router, &view.farm) && router.metadata.deletion_timestamp.is_none());
    let routers = router.cloned().map(Step::DeleteRouter);
    Plan { steps: made.filter(stays).cloned().map(Step::Delete).chain(routers).collect(), ..Plan::default() }
}

fn troubles(addresses: &Addresses, taken: &[String]) -> Vec<Wait> {
    let mut troubles = Vec::new();
    if !addresses.conflicts.is_empty() {
        troubles.push(Wait::new("AddressConflict", some_of(&addresses.conflicts, "; ")));
    }
    if !taken.is_empty() {
        let names = some_of(taken, ", ");
        let problem = format!("somebody else's machines have the names {names}: delete them or rename the group");
        troubles.push(Wait::new("NameTaken", problem));
    }
    if !addresses.without.is_empty() {
        let problem = format!("no address is left for {}", some_of(&addresses.without, ", "));
        troubles.push(Wait::new("AddressesExhausted", problem));
    }
    troubles
}

/// The first few of a list, for a message.
#[must_use]
pub fn some_of(list: &[String], between: &str) -> String {
    const SHOWN: usize = 5;
    let shown = list.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(between);
    match list.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown}{between}and {more} more"),
    }
}

impl View {
    /// The machines that belong to the farm, whoever made them; one that another farm of this name gave its address isn't one
    /// of them, nor is its router, which is a machine too. One that was promised an address was none when that was decided.
    #[must_use]
    pub fn own_machines(&self) -> Vec<Arc<VirtualMachine>> {
        let is_promised = |machine: &VirtualMachine| machine.uid().is_some_and(|uid| self.promised.contains_key(&uid));
        let is_router = |machine: &VirtualMachine| {
            machine.router().is_some() || (is_router_to_be(machine) && !is_promised(machine))
        };
        let is_ours = |machine: &&Arc<VirtualMachine>| is_member(machine, &self.farm) && !is_router(machine);
        self.machines.iter().filter(is_ours).cloned().collect()
    }

    /// The machines that the farm made, by group and index.
    fn members(&self) -> Members {
        self.by_seat(|machine| is_made_by(machine, &self.farm))
    }

    /// The machines that the farm made once and that nobody controls now, by group and index.
    fn left(&self) -> Members {
        let stays = |machine: &VirtualMachine| machine.metadata.deletion_timestamp.is_none();
        self.by_seat(|machine| is_left(machine, &self.farm) && stays(machine))
    }

    fn by_seat(&self, is_one: impl Fn(&VirtualMachine) -> bool) -> Members {
        let farm = self.farm.name_any();
        let mut members = Members::new();
        for machine in self.machines.iter().filter(|machine| is_one(machine)) {
            if let Some((group, index)) = seat(&farm, &machine.name_any()) {
                members.entry(group.to_owned()).or_default().insert(index, Arc::clone(machine));
            }
        }
        members
    }
}

/// Machines by group and index.
type Members = BTreeMap<String, BTreeMap<i32, Arc<VirtualMachine>>>;
