//! Steps become calls, and nothing else.

use kube::ResourceExt;

use super::plan::Step;
use super::status::{MANAGER, ROLE_SHARE};
use crate::api::{VirtualMachine, VirtualMachineStatus};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::objects::{Objects, is_namespace_terminating};
use crate::controllers::writes::apply_status_unless_changed;

/// What has come of the steps.
#[derive(Debug, Default)]
pub struct Done {
    /// Those that were done.
    pub steps: Vec<Step>,
    /// The first thing that went wrong; the other steps were tried all the same: of two machines one must not wait for ever for
    /// what fails with the other.
    pub error: Option<Error>,
}

/// Does the steps in order, whatever becomes of single ones.
pub async fn act(context: &Context, namespace: &str, steps: &[Step]) -> Done {
    let cache = &context.caches.machines;
    let machines = Objects::<VirtualMachine> { context, cache, api: context.api(namespace), manager: MANAGER };
    let mut done = Done::default();
    for step in steps {
        match step_on(&machines, step).await {
            Ok(()) => done.steps.push(step.clone()),
            Err(error) => done.error = done.error.or(Some(error)),
        }
    }
    done
}

async fn step_on(machines: &Objects<'_, VirtualMachine>, step: &Step) -> Result<(), Error> {
    let Objects { context, cache, api, .. } = machines;
    match step {
        Step::Create(machine) => match machines.create(machine).await {
            Err(error) if is_namespace_terminating(&error) => {
                tracing::debug!(machine = machine.name_any(), "the namespace is being deleted");
            }
            outcome => outcome?,
        },
        Step::PutBack(machine) => machines.change(machine).await?,
        Step::Appoint(machine, role) => {
            let status = VirtualMachineStatus { router: Some(role.clone()), ..VirtualMachineStatus::default() };
            // What a step before changed of the machine is no reason to look again.
            let machine = cache.latest(machine).unwrap_or_else(|| machine.clone());
            apply_status_unless_changed(context, cache, api, &machine, &ROLE_SHARE, &status).await?;
        }
        Step::Delete(machine, _) => machines.delete(machine).await?,
    }
    Ok(())
}
