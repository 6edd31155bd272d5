//! Carries out the steps of a plan.

use std::sync::Arc;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use tracing::debug;

use super::observe::{Memory, View};
use super::plan::{Plan, Step, some_of};
use super::status::{ADDRESS_SHARE, MANAGER};
use crate::api::{VirtualMachine, VirtualMachineStatus};
use crate::controllers::cache::Cache;
use crate::controllers::context::Context;
use crate::controllers::error::Error;
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
    let api: Api<VirtualMachine> = context.api(&farm.0);
    let outcomes: Vec<_> = stream::iter(plan.steps)
        .map(|step| {
            let api = api.clone();
            async move { (take(context, &api, &step).await, step) }
        })
        .buffer_unordered(WRITES_IN_FLIGHT)
        .collect()
        .await;
    let mut done = Done::default();
    for (outcome, step) in outcomes {
        match (outcome, step) {
            (Ok(()), Step::Create(machine)) => done.created.push(machine.name_any()),
            (Ok(()), Step::Delete(machine)) => done.deleted.push(machine.name_any()),
            (Ok(()), Step::GiveAddress(..) | Step::Update(_)) => {}
            (Err(error), _) if error.is_conflict() => done.surprised = true,
            (Err(error), _) if is_namespace_terminating(&error) => debug!("the namespace is being deleted"),
            (Err(error), _) => done.error = done.error.or(Some(error)),
        }
    }
    done
}

async fn take(context: &Context, api: &Api<VirtualMachine>, step: &Step) -> Result<(), Error> {
    let cache = &context.caches.machines;
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    match step {
        Step::GiveAddress(machine, address) => {
            let status = VirtualMachineStatus {
                address: Some(address.to_string()),
                mac: Some(MacAddress::of(*address).to_string()),
                ..VirtualMachineStatus::default()
            };
            apply_status_unless_changed(context, cache, api, machine, &ADDRESS_SHARE, &status).await?;
        }
        // A create, not an apply: an apply would take over a machine that somebody makes under this name right now.
        Step::Create(machine) => {
            context.metrics.write::<VirtualMachine>("object");
            match api.create(&params, machine).await {
                Ok(made) => cache.absorb(made),
                Err(error) => {
                    learn(api, machine, cache, &error).await?;
                    return Err(error.into());
                }
            }
        }
        // With the version that it was planned from: a change by somebody else in between is not undone.
        Step::Update(machine) => {
            context.metrics.write::<VirtualMachine>("object");
            cache.absorb(api.replace(&machine.name_any(), &params, machine).await?);
        }
        Step::Delete(machine) => delete(context, api, machine).await?,
    }
    Ok(())
}

/// A machine of that name is there though nobody told of it: without a look at it, it would be made again and again.
async fn learn(
    api: &Api<VirtualMachine>,
    machine: &VirtualMachine,
    cache: &Cache<VirtualMachine>,
    error: &kube::Error,
) -> Result<(), Error> {
    if matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
        && let Some(known) = api.get_opt(&machine.name_any()).await?
    {
        cache.absorb(known);
    }
    Ok(())
}

async fn delete(context: &Context, api: &Api<VirtualMachine>, machine: &VirtualMachine) -> Result<(), Error> {
    let exactly = Preconditions { uid: machine.uid(), resource_version: None };
    context.metrics.write::<VirtualMachine>("object");
    match api.delete(&machine.name_any(), &DeleteParams::default().preconditions(exactly)).await {
        Ok(answer) => {
            // The machine as it is now, with a deletion timestamp, unless it is gone already.
            if let Some(machine) = answer.left() {
                context.caches.machines.absorb(machine);
            }
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_namespace_terminating(error: &Error) -> bool {
    let Error::Kubernetes(kube::Error::Api(status)) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
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
