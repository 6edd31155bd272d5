//! What becomes of one of a router's machines: pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::memory::Replica;
use super::observe::View;
use super::plan::{Seat, Step, Telling, is_its_machine, is_owned_by, machine_name, make};
use crate::api::conditions::{READY, find, is_true};
use crate::api::{Phase, RouterRole, VirtualMachine};
use crate::controllers::ownership::{adopt, is_controlled};
use crate::controllers::placement::plan::Wait;
use crate::controllers::placement::standing::SCHEDULED;
use crate::libvirt::DomainUuid;
use crate::network::RouterSeat;
use crate::network::router::Documents;

/// What becomes of the machine that has this seat, or is to have it.
pub fn fate(view: &View, seat: RouterSeat, documents: Option<&Arc<Documents>>, now: Timestamp) -> (Vec<Step>, Seat) {
    let name = machine_name(&view.router.name_any(), seat);
    let waits =
        |reason, message: String| Seat { name: name.clone(), wait: Some(Wait::new(reason, message)), tell: None };
    let Some(replica) = view.replica(&name) else {
        let machine = make(&view.router, &name, &view.site.routers);
        return (
            vec![Step::Create(Box::new(machine))],
            waits("MachineMissing", format!("machine {name} is being made")),
        );
    };
    let machine = &replica.machine;
    if is_left(machine, view) {
        let mut adopted = (**machine).clone();
        adopt(&mut adopted, &*view.router);
        let message = format!("machine {name} is becoming the router's again");
        return (vec![Step::PutBack(Box::new(adopted))], waits("MachineMissing", message));
    }
    if !is_its_machine(machine, &view.router) {
        return (Vec::new(), waits("NameTaken", format!("somebody else made a machine {name}: delete it")));
    }
    if machine.metadata.deletion_timestamp.is_some() {
        let message = format!("machine {name} is on its way out, another comes after it");
        return (Vec::new(), waits("MachineLeaving", message));
    }
    let changed = outdated(view, seat, replica);
    let may_go = || is_spare(view, seat, replica, documents);
    let why = broken(view, replica, now).or_else(|| changed.clone().filter(|_| may_go()));
    if let Some(why) = why {
        let seat = waits(why.reason, why.message.clone());
        return (vec![Step::Delete(Arc::clone(machine), why)], seat);
    }
    let mut steps = Vec::new();
    if changed.is_none() {
        steps.extend(corrections(view, seat, machine));
    }
    let (tell, held) = match telling(view, seat, machine, documents) {
        Ok(tell) => (tell, None),
        Err(wait) => (None, Some(wait)),
    };
    let wait = what_ails(machine)
        .or(held)
        .or_else(|| changed.filter(|_| tell.is_none()))
        .or_else(|| view.desired.as_ref().err().cloned());
    (steps, Seat { name, wait, tell })
}

/// Whether a router of this name made the machine once, just as this one would, and nobody controls it now.
fn is_left(machine: &VirtualMachine, view: &View) -> bool {
    let wanted = make(&view.router, &machine.name_any(), &view.site.routers);
    let same = machine.spec == wanted.spec
        && wanted.labels().iter().all(|label| machine.labels().get(label.0) == Some(label.1));
    let there = machine.metadata.deletion_timestamp.is_none();
    // One that was appointed is known by its status, and its owner is put back.
    same && there && machine.router().is_none() && !is_controlled(machine, &*view.router)
}

impl View {
    /// What is known of the machine of this name.
    fn replica(&self, name: &str) -> Option<&Replica> {
        self.replicas.iter().find(|one| one.machine.name_any() == name)
    }
}

/// What is put right while the machine goes on.
fn corrections(view: &View, seat: RouterSeat, machine: &Arc<VirtualMachine>) -> Vec<Step> {
    let mut steps = Vec::new();
    let wanted = make(&view.router, &machine.name_any(), &view.site.routers);
    if machine.spec != wanted.spec || !is_owned_by(machine, &view.router) {
        let mut put_back = VirtualMachine { spec: wanted.spec, ..(**machine).clone() };
        put_back.metadata.owner_references = wanted.metadata.owner_references;
        steps.push(Step::PutBack(Box::new(put_back)));
    }
    let role = RouterRole { seat, public_ips: view.addresses.all().map(|address| address.to_string()).collect() };
    if machine.router() != Some(&role) {
        steps.push(Step::Appoint(Arc::clone(machine), role));
    }
    steps
}

/// Why another machine has to take this one's place at once.
fn broken(view: &View, replica: &Replica, now: Timestamp) -> Option<Wait> {
    let machine = &replica.machine;
    let name = machine.name_any();
    let network = view.desired.as_ref().ok().map(|desired| desired.router.farm);
    let rightful = network.zip(machine.router()).map(|(network, role)| network.router_address(role.seat).to_string());
    let address = machine.status.as_ref().and_then(|status| status.address.clone());
    if address.is_some() && rightful.is_some() && address != rightful {
        return Some(Wait::new("WrongAddress", format!("machine {name} has an address that isn't a router's")));
    }
    let silent = replica.silent_since.map(|since| Duration::try_from(now.duration_since(since)).unwrap_or_default());
    let patience = view.site.routers.restart_after;
    silent.filter(|silent| *silent >= patience).map(|silent| {
        let message =
            format!("the agent of machine {name} hasn't answered for {} s: it is made anew", silent.as_secs());
        Wait::new("RouterSilent", message)
    })
}

/// Why another machine has to take this one's place when that can be.
fn outdated(view: &View, seat: RouterSeat, replica: &Replica) -> Option<Wait> {
    let machine = &replica.machine;
    let name = machine.name_any();
    let wanted = make(&view.router, &name, &view.site.routers);
    if machine.spec.image != wanted.spec.image || machine.spec.class != wanted.spec.class {
        return Some(Wait::new("MachineOutdated", format!("machine {name} isn't what the site's routers are now")));
    }
    let role = machine.router()?;
    let status = machine.status.as_ref()?;
    if role.seat != seat && status.address.is_some() {
        let how = if seat == RouterSeat::Only { "alone" } else { "one of two" };
        return Some(Wait::new("ReplicasChanged", format!("machine {name} makes way for one that is {how}")));
    }
    let own = view.addresses.own().map(|address| address.to_string());
    if role.public_ips.first() != own.as_ref() && status.hypervisor.is_some() {
        let address = own.unwrap_or_else(|| "none".to_owned());
        let message = format!("machine {name} makes way for one with the public address {address}");
        return Some(Wait::new("PublicAddressChanged", message));
    }
    None
}

/// Whether the farm has another router while this one is made anew, or never had one. Of two that have to go, the one whose
/// turn it is goes last.
fn is_spare(view: &View, seat: RouterSeat, replica: &Replica, documents: Option<&Arc<Documents>>) -> bool {
    if seat == RouterSeat::Only {
        return true;
    }
    let name = replica.machine.name_any();
    let Some((other, others_seat)) = view.seats().iter().find_map(|other| {
        let others_name = machine_name(&view.router.name_any(), *other);
        let found = view.ours().find(|one| one.machine.name_any() == others_name && others_name != name);
        Some((found?, *other))
    }) else {
        return false;
    };
    let stands = other.machine.metadata.deletion_timestamp.is_none()
        && other.machine.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY));
    // One that is alone has the gateway's address for itself: the others are told what to do when it is gone. And of one that has
    // to go too, perhaps because it has no card for what it would be told, no more is asked than that it runs.
    let was_alone = replica.machine.router().is_some_and(|role| role.seat == RouterSeat::Only);
    let goes_too = outdated(view, others_seat, other).is_some();
    let works = was_alone || goes_too || documents.is_some_and(|documents| other.works_by(documents));
    let goes_first =
        !goes_too || if other.leads() == replica.leads() { seat == RouterSeat::Second } else { other.leads() };
    stands && works && goes_first
}

/// What the machine is told, if it runs and has its seat.
///
/// # Errors
/// Why it is told nothing although it runs.
fn telling(
    view: &View,
    seat: RouterSeat,
    machine: &Arc<VirtualMachine>,
    documents: Option<&Arc<Documents>>,
) -> Result<Option<Telling>, Wait> {
    let alone = |one: &Replica| one.machine.router().is_some_and(|role| role.seat == RouterSeat::Only);
    if seat != RouterSeat::Only && view.ours().any(alone) {
        return Err(Wait::new("MachineLeaving", "the router that was alone makes way first"));
    }
    // One whose card is made for another public address goes on by what it has until it is replaced.
    let own = view.addresses.own().map(|address| address.to_string());
    let sits = machine.router().is_some_and(|role| role.seat == seat && role.public_ips.first() == own.as_ref());
    let status = machine.status.as_ref().filter(|status| sits && status.phase == Some(Phase::Running));
    let uuid = machine.metadata.uid.as_ref().and_then(|uid| uid.parse().ok());
    let (Some(status), Some(uuid), Some(documents)) = (status, uuid, documents) else { return Ok(None) };
    let boots = status.phase_transitions.iter().filter(|transition| transition.phase == Phase::Booting);
    Ok(status.hypervisor.clone().map(|host| Telling {
        machine: Arc::clone(machine),
        host,
        uuid: DomainUuid(uuid),
        started: boots.map(|transition| transition.time).max(),
        documents: Arc::clone(documents),
    }))
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
