//! Steps become calls, and nothing else.

use super::recipe::Recipe;
use super::situation::{Step, View};
use crate::api::VirtualMachine;
use crate::controllers::fleet::FleetHost;
use crate::libvirt::{DomainUuid, HostError};

/// Whether steps were done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of them.
    Done,
    /// Not all: what they were planned for isn't so any more.
    Overtaken,
}

/// Does the steps in order; stops at the first that fails, and before one that isn't wanted any more.
///
/// # Errors
/// What the host said.
pub async fn act(
    host: &FleetHost,
    uuid: DomainUuid,
    seen: &View,
    steps: &[Step],
    is_overtaken: impl Fn() -> bool,
) -> Result<Outcome, HostError> {
    // While a machine is being made, filters that nothing uses yet must stay.
    let _making = host.making.read().await;
    for step in steps {
        // Hosts are slow, and a placement is given up without asking whoever works on it.
        if is_overtaken() {
            tracing::info!(host = %host.name, machine = %uuid, ?step, "overtaken by another placement or a deletion");
            return Ok(Outcome::Overtaken);
        }
        tracing::debug!(host = %host.name, ?step, "step");
        step_on(host, uuid, seen, step).await?;
    }
    host.refresh();
    Ok(Outcome::Done)
}

/// Whether steps that were planned for a machine are none of this one, the newest that is known of it.
pub fn is_overtaken(planned: &VirtualMachine, newest: Option<&VirtualMachine>) -> bool {
    let placement = |machine: &VirtualMachine| {
        let status = machine.status.as_ref();
        status.map(|status| (status.hypervisor.clone(), status.epoch)).unwrap_or_default()
    };
    let is_deleted = |machine: &VirtualMachine| machine.metadata.deletion_timestamp.is_some();
    newest.is_none_or(|newest| {
        newest.metadata.uid != planned.metadata.uid
            || is_deleted(newest) != is_deleted(planned)
            || placement(newest) != placement(planned)
    })
}

async fn step_on(host: &FleetHost, uuid: DomainUuid, seen: &View, step: &Step) -> Result<(), HostError> {
    let port = &host.host;
    match step {
        Step::EnsureFilter(rules) => port.ensure_filter(*rules).await,
        Step::EnsureVolume(volume) => port.create_volume(volume).await,
        Step::WriteSeed => {
            let recipe = required(seen)?;
            let Some(seed) = &recipe.seed else { return Ok(()) };
            let content = seed.content.image().map_err(|error| refused(error.to_string()))?;
            port.write_volume(&seed.name, &content).await
        }
        Step::Define => port.define(&required(seen)?.domain).await,
        Step::Start => port.start(uuid).await,
        Step::Resume => port.resume(uuid).await,
        Step::SetClock => match port.set_clock(uuid).await? {
            true => Ok(()),
            false => {
                let message = "the guest's agent doesn't set its clock".to_owned();
                Err(HostError::Refused { operation: "set_clock", message })
            }
        },
        Step::Shutdown => port.shutdown(uuid).await,
        Step::Destroy => port.destroy(uuid).await,
        Step::Undefine => port.undefine(uuid).await,
        Step::DeleteVolume(name) => port.delete_volume(name).await,
        Step::MendNics => port.mend_nics(uuid, &seen.nics).await,
    }
}

fn required(seen: &View) -> Result<&Recipe, HostError> {
    seen.recipe.as_ref().map_err(|refusal| refused(refusal.message.clone()))
}

const fn refused(message: String) -> HostError {
    HostError::Refused { operation: "prepare", message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::placement::testing::{machine, running_on};
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn another_placement_a_deletion_or_another_object_overtakes_what_was_planned() {
        let planned = running_on(machine("a", 0), "worker-1", 1, "1Gi");
        let changed = |change: &dyn Fn(&mut VirtualMachine)| {
            let mut newest = planned.clone();
            change(&mut newest);
            is_overtaken(&planned, Some(&newest))
        };
        assert!(!changed(&|newest| newest.metadata.resource_version = Some("later".into())));
        assert!(changed(&|newest| newest.status.as_mut().unwrap().epoch = Some(99)));
        assert!(changed(&|newest| newest.status.as_mut().unwrap().hypervisor = None));
        assert!(changed(&|newest| newest.metadata.uid = Some("another".into())));
        assert!(changed(&|newest| newest.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH))));
        assert!(is_overtaken(&planned, None));
    }
}
