//! Secrets that routers and their farms have in the operator's namespace, where no tenant reads them.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Resource, ResourceExt};

use super::status::MANAGER;
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::placement::observe::key;

/// Those of the operator's namespace.
pub fn secrets(context: &Context) -> Api<Secret> {
    context.api(&context.namespace)
}

/// Writes a Secret in place of what is there, if that is still as it was looked at. Its `annotation` says to people whose it is.
///
/// # Errors
/// What the API server says; a refusal if somebody else wrote it right now.
pub async fn write<K: Resource<DynamicType = ()>>(
    secrets: &Api<Secret>,
    name: String,
    (annotation, owner): (&str, &K),
    found: Option<Secret>,
    data: BTreeMap<String, ByteString>,
) -> Result<(), Error> {
    let (namespace, of) = key(owner);
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some(BTreeMap::from([(annotation.to_owned(), format!("{namespace}/{of}"))])),
            resource_version: found.as_ref().and_then(ResourceExt::resource_version),
            ..ObjectMeta::default()
        },
        data: Some(data),
        type_: Some("cascina.dev/wireguard".into()),
        ..Secret::default()
    };
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    match found {
        Some(_) => secrets.replace(&name, &params, &secret).await?,
        None => secrets.create(&params, &secret).await?,
    };
    Ok(())
}

/// Removes a Secret, if it is there.
///
/// # Errors
/// What the API server says.
pub async fn remove(context: &Context, name: &str) -> Result<(), Error> {
    match secrets(context).delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}
