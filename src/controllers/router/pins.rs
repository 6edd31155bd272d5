//! Which farms a farm means by the names of its peers, as they were when they were first seen. That tells which farms there are, also
//! such as never answered: so it stands in a Secret of the operator's namespace, where no tenant can read it, and not in a status.
//! It is the farm's, and outlives its router.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::memory::Memory;
use super::secrets::{remove, secrets, write};
use crate::api::{PeerConsent, VirtualFarm};
use crate::controllers::context::Context;
use crate::controllers::error::Error;

/// The list, as JSON.
const PEERS: &str = "peers";

/// Whose it is, for people.
const FARM_ANNOTATION: &str = "cascina.dev/farm";

/// What the farm of this uid means.
///
/// # Errors
/// What the API server says.
pub async fn known(context: &Context, memory: &Memory, farm: &str) -> Result<Vec<PeerConsent>, Error> {
    if let Some(known) = memory.pins(farm) {
        return Ok(known);
    }
    let found = secrets(context).get_opt(&name(farm)).await?;
    let pins = found.as_ref().map(read).transpose()?.unwrap_or_default();
    memory.remember_pins(farm, pins.clone());
    Ok(pins)
}

/// A list that can't be read is an error, and no empty one: with that, whoever has a name now would be who was meant.
fn read(secret: &Secret) -> Result<Vec<PeerConsent>, Error> {
    let list = secret.data.as_ref().and_then(|data| data.get(PEERS));
    Ok(list.map_or_else(|| Ok(Vec::new()), |list| serde_json::from_slice(&list.0))?)
}

/// From here on this is what a farm means.
///
/// # Errors
/// What the API server says; a refusal if somebody else wrote it right now.
pub async fn keep(context: &Context, memory: &Memory, farm: &VirtualFarm, pins: &[PeerConsent]) -> Result<(), Error> {
    let Some(uid) = farm.uid() else { return Ok(()) };
    if known(context, memory, &uid).await? == pins {
        return Ok(());
    }
    // What was asked for and not answered is looked up anew.
    memory.forget_pins(&uid);
    let secrets = secrets(context);
    let found = secrets.get_opt(&name(&uid)).await?;
    let data = BTreeMap::from([(PEERS.to_owned(), ByteString(serde_json::to_vec(pins)?))]);
    write(&secrets, name(&uid), (FARM_ANNOTATION, farm), found, data).await?;
    memory.remember_pins(&uid, pins.to_vec());
    Ok(())
}

/// Forgets what a farm meant that is gone.
///
/// # Errors
/// What the API server says.
pub async fn forget(context: &Context, farm: &VirtualFarm) -> Result<(), Error> {
    let Some(uid) = farm.uid() else { return Ok(()) };
    remove(context, &name(&uid)).await
}

fn name(farm: &str) -> String {
    format!("vrouter-peers-{farm}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_can_not_be_read_is_no_empty_list() {
        let secret = |list: &str| Secret {
            data: Some(BTreeMap::from([(PEERS.to_owned(), ByteString(list.as_bytes().to_vec()))])),
            ..Secret::default()
        };
        assert_eq!(read(&Secret::default()).unwrap(), []);
        assert_eq!(read(&secret("[]")).unwrap(), []);
        assert!(read(&secret("[{")).is_err());
    }
}
