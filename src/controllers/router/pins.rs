//! Which farms a farm means by the names of its peers, as they were when they were first seen. That tells which farms there are, also
//! such as never answered: so it stands in a Secret of the operator's namespace, where no tenant can read it, and not in a status.
//! It is the farm's, and outlives its router.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};

use super::memory::Memory;
use super::status::MANAGER;
use crate::api::{PeerConsent, VirtualFarm};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::placement::observe::key;

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
    let pins = found.as_ref().and_then(read).unwrap_or_default();
    memory.remember_pins(farm, pins.clone());
    Ok(pins)
}

fn read(secret: &Secret) -> Option<Vec<PeerConsent>> {
    serde_json::from_slice(&secret.data.as_ref()?.get(PEERS)?.0).ok()
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
    let (namespace, of) = key(farm);
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name(&uid)),
            annotations: Some(BTreeMap::from([(FARM_ANNOTATION.to_owned(), format!("{namespace}/{of}"))])),
            resource_version: found.as_ref().and_then(ResourceExt::resource_version),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(PEERS.to_owned(), ByteString(serde_json::to_vec(pins)?))])),
        type_: Some("cascina.dev/wireguard".into()),
        ..Secret::default()
    };
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    match found {
        Some(_) => secrets.replace(&name(&uid), &params, &secret).await?,
        None => secrets.create(&params, &secret).await?,
    };
    memory.remember_pins(&uid, pins.to_vec());
    Ok(())
}

/// Forgets what a farm meant that is gone.
///
/// # Errors
/// What the API server says.
pub async fn forget(context: &Context, farm: &VirtualFarm) -> Result<(), Error> {
    let Some(uid) = farm.uid() else { return Ok(()) };
    match secrets(context).delete(&name(&uid), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

fn secrets(context: &Context) -> Api<Secret> {
    context.api(&context.namespace)
}

fn name(farm: &str) -> String {
    format!("vrouter-peers-{farm}")
}
