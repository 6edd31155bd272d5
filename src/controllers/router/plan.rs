//! What a router does next: pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::observe::View;
use crate::api::conditions::{READY, find, is_true};
use crate::api::site::Routers;
use crate::api::{
    FARM_LABEL, FINALIZER, HypervisorClass, Phase, ROUTER_LABEL, RouterRole, VRouter, VirtualMachine,
    VirtualMachineSpec,
};
use crate::controllers::placement::plan::Wait;
use crate::controllers::placement::standing::SCHEDULED;
use crate::libvirt::DomainUuid;
use crate::network::router::Documents;

/// One call to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The machine is made.
    Create(Box<VirtualMachine>),
    /// What somebody changed of its spec is put back.
    PutBack(Box<VirtualMachine>),
    /// The machine is told that it is the router, with these addresses.
    Appoint(Arc<VirtualMachine>, RouterRole),
    /// The machine is deleted, and made anew when it is gone.
    Delete(Arc<VirtualMachine>, Wait),
}

/// What a router does next.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// What it waits for.
    pub wait: Option<Wait>,
    /// What it is told, and in which domain on which host it is.
    pub tell: Option<Telling>,
    /// Nothing of it is left: its object may go.
    pub release: bool,
}

/// What a router is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Telling {
    /// Name of its host.
    pub host: String,
    /// Its domain.
    pub uuid: DomainUuid,
    /// When that was last started: what it said before counts no more.
    pub started: Option<Timestamp>,
    /// Its files.
    pub documents: Documents,
}

impl Plan {
    fn waits(reason: &'static str, message: impl Into<String>) -> Self {
        Self { steps: Vec::new(), wait: Some(Wait::new(reason, message)), tell: None, release: false }
    }

    fn doing(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

/// The name of the machine that a router is.
#[must_use]
pub fn machine_name(router: &str) -> String {
    format!("{router}-router-0")
}

/// What a router does next.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let name = machine_name(&view.router.name_any());
    let ours = view.machine.as_ref().filter(|machine| is_made_by(machine, &view.router));
    if view.router.metadata.deletion_timestamp.is_some() {
        return tear_down(ours);
    }
    if let Some(wait) = orphaned(view) {
        return Plan { wait: Some(wait), ..Plan::waits("", "") };
    }
    if let (Some(Err(wait)), None) = (&view.addresses.own, view.addresses.own()) {
        return Plan { wait: Some(wait.clone()), ..Plan::waits("", "") };
    }
    let wanted = make(&view.router, &view.site.routers);
    match (&view.machine, ours) {
        (None, _) => {
            Plan::waits("MachineMissing", format!("machine {name} is being made")).doing(Step::Create(Box::new(wanted)))
        }
        (Some(_), None) => Plan::waits("NameTaken", format!("somebody else made a machine {name}: delete it")),
        (Some(_), Some(machine)) if machine.metadata.deletion_timestamp.is_some() => {
            Plan::waits("MachineLeaving", format!("machine {name} is on its way out, another comes after it"))
        }
        (Some(_), Some(machine)) => keep(view, machine, &wanted, now),
    }
}

/// Why a router isn't a farm's.
fn orphaned(view: &View) -> Option<Wait> {
    let Some(farm) = &view.farm else {
        let problem = format!("there is no VirtualFarm {} in this namespace", view.router.spec.farm);
        return Some(Wait::new("FarmNotFound", problem));
    };
    let is_of_farm = view
        .router
        .owner_references()
        .iter()
        .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == farm.metadata.uid.as_ref());
    (!is_of_farm).then(|| {
        let problem = "a farm's router is made by its farm: delete this one and give the farm a spec.router";
        Wait::new("NotMadeByFarm", problem)
    })
}

fn tear_down(machine: Option<&Arc<VirtualMachine>>) -> Plan {
    let Some(machine) = machine else {
        return Plan { release: true, ..Plan::waits("Deleting", "nothing is left of it") };
    };
    let plan = Plan::waits("MachinePresent", format!("machine {} is on its way out", machine.name_any()));
    if machine.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    plan.doing(Step::Delete(Arc::clone(machine), Wait::new("Deleting", "its router is being deleted")))
}

/// The machine is there: it stays, or another takes its place.
fn keep(view: &View, machine: &Arc<VirtualMachine>, wanted: &VirtualMachine, now: Timestamp) -> Plan {
    if let Some(why) = replaced(view, machine, wanted, now) {
        let plan = Plan::waits(why.reason, why.message.clone());
        return plan.doing(Step::Delete(Arc::clone(machine), why));
    }
    let mut steps = Vec::new();
    if machine.spec != wanted.spec {
        let spec = wanted.spec.clone();
        steps.push(Step::PutBack(Box::new(VirtualMachine { spec, ..(**machine).clone() })));
    }
    let role = RouterRole { public_ips: view.addresses.all().map(|address| address.to_string()).collect() };
    if machine.router() != Some(&role) {
        steps.push(Step::Appoint(Arc::clone(machine), role));
    }
    let tell = telling(view, machine);
    let wait = what_ails(machine).or_else(|| view.desired.as_ref().err().cloned());
    Plan { steps, wait, tell, release: false }
}

/// Why another machine has to take this one's place.
fn replaced(view: &View, machine: &VirtualMachine, wanted: &VirtualMachine, now: Timestamp) -> Option<Wait> {
    let name = machine.name_any();
    if machine.spec.image != wanted.spec.image || machine.spec.class != wanted.spec.class {
        return Some(Wait::new("MachineOutdated", format!("machine {name} isn't what the site's routers are now")));
    }
    let own = view.addresses.own().map(|address| address.to_string());
    let has = machine.router().map(|role| role.public_ips.first().cloned());
    if has.is_some_and(|has| has != own) && is_placed(machine) {
        let address = own.unwrap_or_else(|| "none".to_owned());
        return Some(Wait::new(
            "PublicAddressChanged",
            format!("machine {name} makes way for one with the public address {address}"),
        ));
    }
    let gateway = view.desired.as_ref().ok().map(|desired| desired.router.farm.gateway().to_string());
    let address = machine.status.as_ref().and_then(|status| status.address.clone());
    if address.is_some() && gateway.is_some() && address != gateway {
        return Some(Wait::new("WrongAddress", format!("machine {name} has an address that isn't the gateway's")));
    }
    let silent = view.silent_since.map(|since| Duration::try_from(now.duration_since(since)).unwrap_or_default());
    let patience = view.site.routers.restart_after;
    silent.filter(|silent| *silent >= patience).map(|silent| {
        let message =
            format!("the agent of machine {name} hasn't answered for {} s: it is made anew", silent.as_secs());
        Wait::new("RouterSilent", message)
    })
}

fn is_placed(machine: &VirtualMachine) -> bool {
    machine.status.as_ref().is_some_and(|status| status.hypervisor.is_some())
}

/// Its machine runs, so it is told what to do.
fn telling(view: &View, machine: &VirtualMachine) -> Option<Telling> {
    let status = machine.status.as_ref()?;
    let runs = status.phase == Some(Phase::Running);
    let uuid = machine.metadata.uid.as_ref()?.parse().ok()?;
    let desired = view.desired.as_ref().ok().filter(|_| runs)?;
    let boots = status.phase_transitions.iter().filter(|transition| transition.phase == Phase::Booting);
    Some(Telling {
        host: status.hypervisor.clone()?,
        uuid: DomainUuid(uuid),
        started: boots.map(|transition| transition.time).max(),
        documents: desired.router.documents(),
    })
}

/// Why its machine isn't ready, in the words of its own conditions.
fn what_ails(machine: &VirtualMachine) -> Option<Wait> {
    let status = machine.status.clone().unwrap_or_default();
    if is_true(&status.conditions, READY) {
        return None;
    }
    let waits = find(&status.conditions, SCHEDULED).filter(|scheduled| scheduled.status == "False");
    let why = waits.or_else(|| find(&status.conditions, READY));
    let why = why.map_or_else(|| "just made".to_owned(), |why| format!("{}: {}", why.reason, why.message));
    Some(Wait::new("MachineNotReady", format!("machine {}: {why}", machine.name_any())))
}

/// Whether a router made this machine.
#[must_use]
pub fn is_made_by(machine: &VirtualMachine, router: &VRouter) -> bool {
    let mut owners = machine.owner_references().iter();
    owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == router.metadata.uid.as_ref())
}

/// The machine that a router is. Its label keeps the farm from giving it an address like any other; our finalizer is on it from
/// the beginning.
fn make(router: &VRouter, routers: &Routers) -> VirtualMachine {
    let mut machine = VirtualMachine::new(
        &machine_name(&router.name_any()),
        VirtualMachineSpec {
            farm: router.spec.farm.clone(),
            flavour: routers.flavour.clone(),
            image: routers.image.clone(),
            class: HypervisorClass::Service,
            hypervisor_selector: Default::default(),
            user_data: None,
            ssh_keys: Vec::new(),
            run_strategy: Default::default(),
            priority: PRIORITY,
            eviction_strategy: Default::default(),
            readiness: Default::default(),
        },
    );
    machine.metadata.namespace = router.namespace();
    machine.metadata.owner_references = router.controller_owner_ref(&()).map(|owner| vec![owner]);
    machine.metadata.finalizers = Some(vec![FINALIZER.into()]);
    machine.labels_mut().insert(FARM_LABEL.into(), router.spec.farm.clone());
    machine.labels_mut().insert(ROUTER_LABEL.into(), router.name_any());
    machine
}

/// Before any machine of the farms: without it they are alone.
const PRIORITY: i32 = 1000;
