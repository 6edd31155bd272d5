//! The private keys of routers: each in a Secret of the operator's namespace, where no tenant can read it.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::memory::Memory;
use super::secrets;
use crate::api::VRouter;
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::network::router::PrivateKey;

/// The key itself, as wg(8) writes it.
const KEY: &str = "privateKey";

/// Which of the keys that the router had it is.
const GENERATION: &str = "keyGeneration";

/// Whose it is, for people.
const ROUTER_ANNOTATION: &str = "cascina.dev/router";

/// The router's key of this generation: the one that there is, or a new one.
///
/// # Errors
/// What the API server says; a refusal if somebody else made one right now, which the next look finds.
pub async fn ensure(
    context: &Context,
    memory: &Memory,
    router: &VRouter,
    generation: i32,
) -> Result<Option<PrivateKey>, Error> {
    let Some(uid) = router.uid() else { return Ok(None) };
    if let Some(known) = memory.key(&uid, generation) {
        return Ok(Some(known));
    }
    let secrets = secrets::secrets(context);
    let found = secrets.get_opt(&name(&uid)).await?;
    let key = match found.as_ref().and_then(|secret| read(secret, generation)) {
        Some(key) => key,
        None => write(&secrets, router, found, generation).await?,
    };
    memory.remember_key(uid, generation, key.clone());
    Ok(Some(key))
}

fn read(secret: &Secret, generation: i32) -> Option<PrivateKey> {
    let data = secret.data.as_ref()?;
    let text = |name: &str| std::str::from_utf8(&data.get(name)?.0).ok();
    (text(GENERATION)? == generation.to_string()).then(|| text(KEY)?.parse().ok()).flatten()
}

/// A new key in place of what is there, if that is still as it was looked at.
async fn write(
    secrets: &Api<Secret>,
    router: &VRouter,
    found: Option<Secret>,
    generation: i32,
) -> Result<PrivateKey, Error> {
    let new = PrivateKey::random();
    let data = [(KEY, new.reveal()), (GENERATION, generation.to_string())];
    let data = data.map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes())));
    let uid = router.uid().unwrap_or_default();
    secrets::write(secrets, name(&uid), (ROUTER_ANNOTATION, router), found, data.into()).await?;
    Ok(new)
}

/// Removes the router's key, if it has one.
///
/// # Errors
/// What the API server says.
pub async fn remove(context: &Context, memory: &Memory, router: &VRouter) -> Result<(), Error> {
    let Some(uid) = router.uid() else { return Ok(()) };
    memory.forget_key(&uid);
    secrets::remove(context, &name(&uid)).await
}

fn name(uid: &str) -> String {
    format!("vrouter-{uid}")
}
