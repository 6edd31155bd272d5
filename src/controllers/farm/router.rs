//! The farm's router: whether there is one, as the farm's spec says, and which address it has. Pure.

use std::sync::Arc;

use kube::{Resource, ResourceExt};

use super::observe::View;
use super::plan::Step;
use crate::api::conditions::{READY, State, find};
use crate::api::{FARM_LABEL, FINALIZER, VRouter, VRouterSpec, VirtualFarm, VirtualMachine};
use crate::controllers::placement::plan::Wait;
use crate::network::FarmNetwork;

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
    match seat(view, network) {
        Ok(gift) => steps.extend(gift.map(|machine| Step::GiveAddress(machine, network.gateway()))),
        Err(wait) => troubles.push(wait),
    }
    (steps, troubles)
}

/// The router's machine that gets the gateway's address now. While an earlier one may still run with it, nobody does.
fn seat(view: &View, network: FarmNetwork) -> Result<Option<Arc<VirtualMachine>>, Wait> {
    let routers = view.own_routers();
    let has_address =
        |machine: &&Arc<VirtualMachine>| machine.status.as_ref().is_some_and(|status| status.address.is_some());
    let waits = routers.iter().find(|machine| !has_address(machine) && machine.metadata.deletion_timestamp.is_none());
    match waits {
        Some(_) if view.left_behind.contains(&network.gateway()) => {
            let problem = "the farm's last router may still run on a host that is lost: annotate the host with \
                           cascina.dev/fenced once it is surely off";
            Err(Wait::new("GatewayLeftBehind", problem))
        }
        Some(machine) if !routers.iter().any(|other| has_address(&other)) => Ok(Some(Arc::clone(machine))),
        _ => Ok(None),
    }
}

/// Whether the farm made this router.
#[must_use]
pub fn is_router_of(router: &VRouter, farm: &VirtualFarm) -> bool {
    let mut owners = router.owner_references().iter();
    owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == farm.metadata.uid.as_ref())
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
    Some(match ready {
        None => State::no(ROUTER_READY, "Making", "the router is being made"),
        Some(ready) if ready.status == "True" => State::yes(ROUTER_READY, ready.reason.clone(), ready.message.clone()),
        Some(ready) => State::no(ROUTER_READY, ready.reason.clone(), ready.message.clone()),
    })
}

impl View {
    /// The machines that are the farm's router: one, and another on its way out.
    #[must_use]
    pub fn own_routers(&self) -> Vec<Arc<VirtualMachine>> {
        let name = self.farm.name_any();
        let is_ours = |machine: &&Arc<VirtualMachine>| machine.spec.farm == name && machine.router().is_some();
        self.machines.iter().filter(is_ours).cloned().collect()
    }
}
