//! Carries out the steps of a plan.

use std::sync::Arc;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource, ResourceExt};
use tracing::debug;

use super::observe::{Memory, View};
use super::plan::{Plan, Step, some_of};
use super::status::{ADDRESS_SHARE, MANAGER};
use crate::api::{VRouter, VirtualFarm, VirtualMachine, VirtualMachineStatus};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::objects::{Objects, is_name_taken, is_namespace_terminating};
use crate::controllers::placement::observe::key;
use crate::controllers::writes::apply_status_unless_changed;
use crate::network::MacAddress;

/// Writes at the same time.
const WRITES_IN_FLIGHT: usize = 16;

/// What has come of a plan.
#[derive(Default)]
pub struct Done {
    created: Vec<String>,
    deleted: Vec<String>,
    /// Whether an object turned out to be other than it was known to be.
    pub surprised: bool,
    /// The first thing that went wrong; the rest of the plan was carried out all the same.
    pub error: Option<Error>,
}

/// Carries out all steps, whatever becomes of single ones.
pub async fn carry_out(context: &Context, memory: &Memory, view: &View, plan: Plan) -> Done {
    let farm = key(&*view.farm);
    for step in &plan.steps {
        if let Step::GiveAddress(machine, address) = step {
            memory.promise(&farm, machine, *address);
        }
    }
    let writes = Writes::of_farm(context, &view.farm);
    let outcomes: Vec<_> = stream::iter(plan.steps)
        .map(|step| async { (writes.take(&step).await, step) })
        .buffer_unordered(WRITES_IN_FLIGHT)
        .collect()
        .await;
    let mut done = Done::default();
    for (outcome, step) in outcomes {
        match (outcome, step) {
            (Ok(()), Step::Create(machine)) => done.created.push(machine.name_any()),
            (Ok(()), Step::Delete(machine)) => done.deleted.push(machine.name_any()),
            (Ok(()), _) => {}
            (Err(error), _) if error.is_conflict() => done.surprised = true,
            (Err(Error::Kubernetes(error)), _) if is_namespace_terminating(&error) => {
                debug!("the namespace is being deleted")
            }
            (Err(error), _) => done.error = done.error.or(Some(error)),
        }
    }
    done
}

/// What a farm writes besides statuses.
struct Writes<'a> {
    machines: Objects<'a, VirtualMachine>,
    routers: Objects<'a, VRouter>,
    farm_uid: Option<String>,
}

impl<'a> Writes<'a> {
    fn of_farm(context: &'a Context, farm: &VirtualFarm) -> Self {
        let namespace = &farm.namespace().unwrap_or_default();
        let caches = &context.caches;
        Self {
            machines: Objects { context, cache: &caches.machines, api: context.api(namespace), manager: MANAGER },
            routers: Objects { context, cache: &caches.routers, api: context.api(namespace), manager: MANAGER },
            farm_uid: farm.uid(),
        }
    }

    async fn take(&self, step: &Step) -> Result<(), Error> {
        match step {
            Step::GiveAddress(machine, address) => {
                let status = VirtualMachineStatus {
                    address: Some(address.to_string()),
                    mac: Some(MacAddress::of(*address).to_string()),
                    farm_uid: self.farm_uid.clone(),
                    ..VirtualMachineStatus::default()
                };
                let Objects { context, cache, api, .. } = &self.machines;
                let _turn = context.writes.take(&**machine).await;
                apply_status_unless_changed(context, cache, api, machine, &ADDRESS_SHARE, &status).await?;
            }
            Step::Create(machine) => {
                if let Err(error) = self.machines.create(machine).await {
                    self.learn(machine, &error).await?;
                    return Err(error.into());
                }
            }
            Step::Update(machine) => self.machines.change(machine).await?,
            Step::Delete(machine) => self.machines.delete(machine).await?,
            Step::MakeRouter(router) => self.routers.create(router).await?,
            Step::ChangeRouter(router) => self.routers.change(router).await?,
            Step::DeleteRouter(router) => self.routers.delete(router).await?,
        }
        Ok(())
    }

    /// A machine of that name is there though nobody told of it: without a look at it, it would be made again and again.
    async fn learn(&self, machine: &VirtualMachine, error: &kube::Error) -> Result<(), Error> {
        if is_name_taken(error)
            && let Some(known) = self.machines.api.get_opt(&machine.name_any()).await?
        {
            self.machines.cache.absorb(known);
        }
        Ok(())
    }
}

impl Done {
    /// Tells the farm's story: one event for all machines made, one for all deleted.
    pub async fn tell(&self, context: &Arc<Context>, about: &ObjectReference) {
        for (reason, action, verb, names) in [
            ("MachinesCreated", "Creating", "made", &self.created),
            ("MachinesDeleted", "Deleting", "deleted", &self.deleted),
        ] {
            if !names.is_empty() {
                let mut names = names.clone();
                names.sort();
                let note = format!("{verb} {}: {}", counted(names.len()), some_of(&names, ", "));
                context.events.normal(about.clone(), reason, action, note).await;
            }
        }
    }
}

fn counted(machines: usize) -> String {
    if machines == 1 { "1 machine".into() } else { format!("{machines} machines") }
}

/// A reference for events.
pub fn about(farm: &crate::api::VirtualFarm) -> ObjectReference {
    farm.object_ref(&())
}
