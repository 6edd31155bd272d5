//! Steps become calls, and nothing else.

use super::plan::Step;
use crate::controllers::fleet::FleetHost;
use crate::libvirt::HostError;

/// Does the steps; what is in use after all stays.
///
/// # Errors
/// What the host said.
pub async fn act(host: &FleetHost, steps: &[Step]) -> Result<(), HostError> {
    // A machine that is being made may need a filter before its domain is there: then it waits until the next look.
    let Ok(_alone) = host.making.try_write() else { return Ok(()) };
    for step in steps {
        let outcome = match step {
            Step::DeleteFilter(name) => host.host.delete_filter(name).await,
            Step::DeleteVolume(name) => host.host.delete_volume(name).await,
        };
        match outcome {
            Ok(()) | Err(HostError::InUse { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    host.refresh();
    Ok(())
}
