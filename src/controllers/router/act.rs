//! Steps become calls, and nothing else.

use kube::ResourceExt;

use super::plan::Step;
use super::status::{MANAGER, ROLE_SHARE};
use crate::api::{VirtualMachine, VirtualMachineStatus};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::objects::{Objects, is_namespace_terminating};
use crate::controllers::writes::apply_status_unless_changed;

/// Does the steps in order; stops at the first that fails.
///
/// # Errors
/// What the API server says.
pub async fn act(context: &Context, namespace: &str, steps: &[Step]) -> Result<(), Error> {
    let cache = &context.caches.machines;
    let machines = Objects::<VirtualMachine> { context, cache, api: context.api(namespace), manager: MANAGER };
    for step in steps {
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
                apply_status_unless_changed(context, cache, &machines.api, &machine, &ROLE_SHARE, &status).await?;
            }
            Step::Delete(machine, _) => machines.delete(machine).await?,
        }
    }
    Ok(())
}
