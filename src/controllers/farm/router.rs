//! The farm's router: whether there is one, as the farm's spec says, and which address it has. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use kube::{Resource, ResourceExt};

use super::observe::View;
use super::plan::Step;
use crate::api::conditions::{READY, State, find};
use crate::api::{FARM_LABEL, FINALIZER, VRouter, VRouterSpec, VirtualFarm, VirtualMachine};
use crate::controllers::ledger::is_member;
use crate::controllers::ownership::{adopt, is_controlled};
use crate::controllers::placement::plan::Wait;
use crate::network::{FarmNetwork, RouterSeat};

/// Condition of a farm that has a router: it does its work.
pub const ROUTER_READY: &str = "RouterReady";

/// What happens to the router of a farm with this network, and what a person has to look at.
#[must_use]
pub fn plan_router(view: &View, network: FarmNetwork) -> (Vec<Step>, Vec<Wait>) {
    let (mut steps, mut troubles) = (Vec::new(), Vec::new());
    let wanted = view.farm.spec.router.is_some();
    match &view.router {
        None if wanted => steps.push(Step::MakeRouter(Box::new(make(&view.farm)))),
        None => {}
        Some(router) if wanted && is_left(router, &view.farm) && router.metadata.deletion_timestamp.is_none() => {
            let mut adopted = VRouter { spec: spec(&view.farm), ..(**router).clone() };
            adopt(&mut adopted, &*view.farm);
            steps.push(Step::ChangeRouter(Box::new(adopted)));
        }
        Some(router) if !is_router_of(router, &view.farm) => troubles.extend(wanted.then(|| {
            let name = router.name_any();
            let problem =
                format!("somebody else made a VRouter {name}, which is the name of the farm's own: delete it");
            Wait::new("NameTaken", problem)
        })),
        Some(router) if router.metadata.deletion_timestamp.is_some() => {}
        Some(router) if !wanted => steps.push(Step::DeleteRouter(Arc::clone(router))),
        Some(router) => steps.extend(changed(router, &view.farm).map(|router| Step::ChangeRouter(Box::new(router)))),
    }
    let routers = view.own_routers();
    steps.extend(routers.iter().filter(|machine| is_there(machine)).filter_map(bind));
    let waits = |machine: &&Arc<VirtualMachine>| !view.hosts_are_unread && !has_address(machine) && is_there(machine);
    for machine in routers.iter().filter(waits) {
        match address(view, network, machine) {
            Ok(address) => steps.extend(address.map(|address| Step::GiveAddress(Arc::clone(machine), address))),
            Err(wait) => troubles.push(wait),
        }
    }
    (steps, troubles)
}

/// What a version of the operator gave that didn't write down in whose name.
fn bind(machine: &Arc<VirtualMachine>) -> Option<Step> {
    let status = machine.status.as_ref().filter(|status| status.farm_uid.is_none())?;
    Some(Step::GiveAddress(Arc::clone(machine), status.address.as_ref()?.parse().ok()?))
}

/// Whether a machine was given an address.
pub(super) fn has_address(machine: &VirtualMachine) -> bool {
    machine.status.as_ref().is_some_and(|status| status.address.is_some())
}

fn is_there(machine: &VirtualMachine) -> bool {
    machine.metadata.deletion_timestamp.is_none()
}

/// The address that a router gets now. While an earlier one may still run with it, or with the gateway's and without knowing of
/// this one, nobody does.
fn address(view: &View, network: FarmNetwork, machine: &VirtualMachine) -> Result<Option<Ipv4Addr>, Wait> {
    let seat = machine.router().map(|role| role.seat).unwrap_or_default();
    let address = network.router_address(seat);
    let alone = network.router_address(RouterSeat::Only);
    let forbidden: Vec<_> = match seat {
        RouterSeat::Only => {
            RouterSeat::PAIR.map(|other| network.router_address(other)).into_iter().chain([alone]).collect()
        }
        RouterSeat::First | RouterSeat::Second => vec![address, alone],
    };
    if forbidden.iter().any(|forbidden| view.left_behind.contains(forbidden)) {
        let problem = "the farm's last router may still run on a host: if that is lost, annotate it with \
                       cascina.dev/fenced once it is surely off";
        return Err(Wait::new("GatewayLeftBehind", problem));
    }
    let is_taken = |other: &&Arc<VirtualMachine>| {
        let theirs = other.status.as_ref().and_then(|status| status.address.as_ref()?.parse::<Ipv4Addr>().ok());
        theirs == Some(address)
    };
    if let Some(other) = view.own_machines().iter().find(is_taken) {
        let other = other.name_any();
        let problem = format!(
            "machine {other} has {address}, which one of two routers needs: delete it, or give the farm one router"
        );
        return Err(Wait::new("RouterAddressTaken", problem));
    }
    // Whoever is alone has to be: of a pair that leaves one may have the gateway's address.
    let routers = view.own_routers();
    let in_the_way = |other: &&Arc<VirtualMachine>| has_address(other) && (seat == RouterSeat::Only || is_taken(other));
    Ok(routers.iter().find(in_the_way).is_none().then_some(address))
}

/// Whether the farm made this router.
#[must_use]
pub fn is_router_of(router: &VRouter, farm: &VirtualFarm) -> bool {
    let mut owners = router.owner_references().iter();
    owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == farm.metadata.uid.as_ref())
}

/// Whether nobody controls a router that the farm made once.
#[must_use]
pub fn is_left(router: &VRouter, farm: &VirtualFarm) -> bool {
    !is_controlled(router, farm)
        && router.spec.farm == farm.name_any()
        && router.labels().get(FARM_LABEL) == Some(&farm.name_any())
}

/// The router that a farm wants. Our finalizer is on it from the beginning.
fn make(farm: &VirtualFarm) -> VRouter {
    let mut router = VRouter::new(&farm.name_any(), spec(farm));
    router.metadata.namespace = farm.namespace();
    router.metadata.owner_references = farm.controller_owner_ref(&()).map(|owner| vec![owner]);
    router.metadata.finalizers = Some(vec![FINALIZER.into()]);
    router.labels_mut().insert(FARM_LABEL.into(), farm.name_any());
    router
}

fn spec(farm: &VirtualFarm) -> VRouterSpec {
    VRouterSpec {
        farm: farm.name_any(),
        public_ip: farm.spec.public_ip.clone(),
        elastic_ip: farm.spec.elastic_ip.clone(),
        template: farm.spec.router.clone().unwrap_or_default(),
    }
}

fn changed(router: &Arc<VRouter>, farm: &VirtualFarm) -> Option<VRouter> {
    let wanted = spec(farm);
    (router.spec != wanted).then(|| VRouter { spec: wanted, ..(**router).clone() })
}

/// Whether the router does its work; `None`: the farm wants none.
#[must_use]
pub fn router_ready(view: &View) -> Option<State> {
    view.farm.spec.router.as_ref()?;
    let ours = view.router.as_ref().filter(|router| is_router_of(router, &view.farm));
    let ready = ours.and_then(|router| find(&router.status.as_ref()?.conditions, READY));
    let is_of_earlier = ours.is_some_and(|router| {
        router.status.as_ref().and_then(|status| status.observed_generation) != router.metadata.generation
    });
    Some(match ready {
        None => State::no(ROUTER_READY, "Making", "the router is being made"),
        Some(ready) if ready.status == "True" && is_of_earlier => {
            State::no(ROUTER_READY, "Pending", "it is yet to be told what the farm says now")
        }
        Some(ready) if ready.status == "True" => State::yes(ROUTER_READY, ready.reason.clone(), ready.message.clone()),
        Some(ready) => State::no(ROUTER_READY, ready.reason.clone(), ready.message.clone()),
    })
}

impl View {
    /// Addresses that no machine is given: those that may be in use on hosts, and those of two routers.
    #[must_use]
    pub fn kept_back(&self, network: FarmNetwork) -> BTreeSet<Ipv4Addr> {
        let seats = self.farm.spec.router.iter().flat_map(|router| router.seats());
        let routers = seats.map(|seat| network.router_address(*seat));
        routers.chain(self.left_behind.iter().copied()).collect()
    }

    /// The machines that are the farm's routers, and those on their way out.
    #[must_use]
    pub fn own_routers(&self) -> Vec<Arc<VirtualMachine>> {
        let is_ours = |machine: &&Arc<VirtualMachine>| is_member(machine, &self.farm) && machine.router().is_some();
        self.machines.iter().filter(is_ours).cloned().collect()
    }
}
