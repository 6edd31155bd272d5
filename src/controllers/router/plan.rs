//! What a router does next: pure.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::fate::fate;
use super::memory::Replica;
use super::observe::View;
use crate::api::site::Routers;
use crate::api::{
    FARM_LABEL, FINALIZER, HypervisorClass, ROUTER_LABEL, RouterRole, VRouter, VirtualMachine, VirtualMachineSpec,
};
use crate::controllers::placement::plan::Wait;
use crate::libvirt::DomainUuid;
use crate::network::RouterSeat;
use crate::network::router::Documents;

/// One call to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The machine is made.
    Create(Box<VirtualMachine>),
    /// What somebody changed of its spec is put back.
    PutBack(Box<VirtualMachine>),
    /// The machine is told that it is a router, which one, and with which addresses.
    Appoint(Arc<VirtualMachine>, RouterRole),
    /// The machine is deleted, and made anew when it is gone.
    Delete(Arc<VirtualMachine>, Wait),
}

/// What a router does next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// What it waits for as a whole.
    pub wait: Option<Wait>,
    /// What becomes of each of its machines.
    pub seats: Vec<Seat>,
    /// Nothing of it is left: its object may go.
    pub release: bool,
}

/// What becomes of one of the router's machines.
#[derive(Clone, Debug, PartialEq)]
pub struct Seat {
    /// Name of the machine.
    pub name: String,
    /// Why it doesn't work.
    pub wait: Option<Wait>,
    /// What it is told, and in which domain on which host it is.
    pub tell: Option<Telling>,
}

/// What a router is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Telling {
    /// The machine.
    pub machine: Arc<VirtualMachine>,
    /// Name of its host.
    pub host: String,
    /// Its domain.
    pub uuid: DomainUuid,
    /// When that was last started: what it said before counts no more.
    pub started: Option<Timestamp>,
    /// Its files, which are those of all machines of the router.
    pub documents: Arc<Documents>,
}

impl Plan {
    fn waits(wait: Wait) -> Self {
        Self { wait: Some(wait), ..Self::default() }
    }
}

/// The name of the machine that has a seat.
#[must_use]
pub fn machine_name(router: &str, seat: RouterSeat) -> String {
    match seat {
        RouterSeat::Only | RouterSeat::First => format!("{router}-router-0"),
        RouterSeat::Second => format!("{router}-router-1"),
    }
}

/// What a router does next.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    if view.router.metadata.deletion_timestamp.is_some() {
        return tear_down(view);
    }
    if let Some(wait) = orphaned(view) {
        return Plan::waits(wait);
    }
    if let (Some(Err(wait)), None) = (&view.addresses.own, view.addresses.own()) {
        return Plan::waits(wait.clone());
    }
    let mut plan = Plan::default();
    let documents = view.desired.as_ref().ok().map(|desired| Arc::new(desired.router.documents()));
    for seat in view.seats() {
        let (steps, seat) = fate(view, *seat, documents.as_ref(), now);
        plan.steps.extend(steps);
        plan.seats.push(seat);
    }
    let surplus = view.ours().filter(|one| plan.seats.iter().all(|seat| seat.name != one.machine.name_any()));
    let why = || Wait::new("MachineSurplus", "its farm has one router now");
    plan.steps.extend(surplus.filter_map(|one| delete(one, why())));
    plan
}

impl View {
    /// What the router's machines are to be.
    #[must_use]
    pub fn seats(&self) -> &'static [RouterSeat] {
        self.router.spec.template.seats()
    }

    /// The machines that the router made.
    pub fn ours(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|one| is_its_machine(&one.machine, &self.router))
    }
}

fn delete(replica: &Replica, why: Wait) -> Option<Step> {
    let stays = replica.machine.metadata.deletion_timestamp.is_none();
    stays.then(|| Step::Delete(Arc::clone(&replica.machine), why))
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

fn tear_down(view: &View) -> Plan {
    let names: Vec<_> = view.ours().map(|one| one.machine.name_any()).collect();
    if let Some(copy) = view.copies.first().filter(|_| names.is_empty()) {
        let message = format!("{copy} may still run though its object is gone");
        return Plan::waits(Wait::new("MachinePresent", message));
    }
    if names.is_empty() {
        return Plan { release: true, ..Plan::waits(Wait::new("Deleting", "nothing is left of it")) };
    }
    let are = if names.len() == 1 { "is" } else { "are" };
    let message = format!("machine {} {are} on the way out", names.join(" and "));
    let steps = view.ours().filter_map(|one| delete(one, Wait::new("Deleting", "its router is being deleted")));
    Plan { steps: steps.collect(), ..Plan::waits(Wait::new("MachinePresent", message)) }
}

/// Whether a machine is one of a router's: it has the name and the farm of one, and the router made it, or appointed it. That it
/// made it stands in metadata, which a tenant can write; that it appointed it in the status, which nobody else can.
#[must_use]
pub fn is_its_machine(machine: &VirtualMachine, router: &VRouter) -> bool {
    let named = || RouterSeat::PAIR.iter().any(|seat| machine.name_any() == machine_name(&router.name_any(), *seat));
    let of_farm = machine.metadata.namespace == router.metadata.namespace && machine.spec.farm == router.spec.farm;
    of_farm && named() && (machine.router().is_some() || is_owned_by(machine, router))
}

/// Whether a machine goes with its router.
#[must_use]
pub fn is_owned_by(machine: &VirtualMachine, router: &VRouter) -> bool {
    let mut owners = machine.owner_references().iter();
    owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == router.metadata.uid.as_ref())
}

/// A machine that a router is. Its label keeps the farm from giving it an address like any other; our finalizer is on it from
/// the beginning.
pub(super) fn make(router: &VRouter, name: &str, routers: &Routers) -> VirtualMachine {
    let mut machine = VirtualMachine::new(
        name,
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
            watchdog: Default::default(),
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
