//! Steps become calls, and nothing else.

use super::recipe::Recipe;
use super::situation::{Step, View};
use crate::controllers::fleet::FleetHost;
use crate::libvirt::{DomainUuid, HostError};

/// Does the steps in order; stops at the first that fails.
///
/// # Errors
/// What the host said.
pub async fn act(host: &FleetHost, uuid: DomainUuid, seen: &View, steps: &[Step]) -> Result<(), HostError> {
    // While a machine is being made, filters that nothing uses yet must stay.
    let _making = host.making.read().await;
    for step in steps {
        tracing::debug!(host = %host.name, ?step, "step");
        step_on(host, uuid, seen, step).await?;
    }
    host.refresh();
    Ok(())
}

async fn step_on(host: &FleetHost, uuid: DomainUuid, seen: &View, step: &Step) -> Result<(), HostError> {
    let port = &host.host;
    match step {
        Step::EnsureFilter(rules) => port.ensure_filter(*rules).await,
        Step::EnsureVolume(volume) => port.create_volume(volume).await,
        Step::WriteSeed => {
            let recipe = required(seen)?;
            port.write_volume(&recipe.seed, &recipe.seed_content).await
        }
        Step::Define => port.define(&required(seen)?.domain).await,
        Step::Start => port.start(uuid).await,
        Step::Resume => port.resume(uuid).await,
        Step::Shutdown => port.shutdown(uuid).await,
        Step::Destroy => port.destroy(uuid).await,
        Step::Undefine => port.undefine(uuid).await,
        Step::DeleteVolume(name) => port.delete_volume(name).await,
        Step::MendNics => port.mend_nics(uuid, seen.nic.as_slice()).await,
    }
}

fn required(seen: &View) -> Result<&Recipe, HostError> {
    let refused = |message: &str| HostError::Refused { operation: "prepare", message: message.to_owned() };
    seen.recipe.as_ref().map_err(|refusal| refused(&refusal.message))
}
