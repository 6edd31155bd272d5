//! What there is of a host: its objects, its Secret, its last survey.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};
use sha2::{Digest, Sha256};
use tracing::warn;
use uuid::Uuid;

use super::certificates::is_expiring;
use super::copies::Owners;
use super::loss::leaves;
use super::orphans::Sweep;
use super::owners::{absent, owners};
use super::plan::{Placed, Refusal, View, expected_mark};
use super::pool::PoolMates;
use super::sweep::sweep;
use crate::api::{Hypervisor, Image, MachineCopy, ObjectName, VirtualMachine};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::fleet::{Expected, FleetHost};
use crate::controllers::isolation::kept_back;
use crate::controllers::ledger::is_farm_gone;
use crate::controllers::placement::standing::{held, is_removed};
use crate::controllers::runner::full_name;
use crate::images::{is_image_volume, volumes_of};
use crate::libvirt::{Certificates, Credentials, HostConfig, HostError, Survey};

/// An image's volume goes when nothing has needed it for so long: a machine may be about to be made from it.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// A host's Secret is read again after so long: a host is looked at much more often than its credentials change.
const CREDENTIALS_FOR: Duration = Duration::from_secs(30);

/// The certificates of a host are looked at again after so long.
const CERTIFICATES_FOR: Duration = Duration::from_secs(3600);

/// And after so long while one of them is about to end, to notice that it was renewed.
const EXPIRING_FOR: Duration = Duration::from_secs(50);

/// Looks at everything that the plan needs; connects to the host on the way.
///
/// # Errors
/// The API server can't be asked. A host that can't be asked is part of what is seen.
pub async fn observe(context: &Arc<Context>, hypervisor: &Hypervisor) -> Result<(View, Option<Arc<FleetHost>>), Error> {
    let connected = match duplicate_of(context, hypervisor) {
        Some(other) => Err(Refusal::new(
            "DuplicateUri",
            format!("spec.uri: Hypervisor {other} has it already; two objects for one host would book it twice"),
        )),
        None => connect(context, hypervisor).await?,
    };
    let (host, refusal) = match connected {
        Ok(host) => (Some(host), None),
        Err(refusal) => (None, Some(refusal)),
    };
    let placed = placed(context, hypervisor).await;
    if let Some(host) = &host {
        let mark = expected_mark(hypervisor, placed.is_empty());
        host.expect(Expected { identity: identity(hypervisor), pool_mark: mark.map(|mark| mark.volume.clone()) });
    }
    let mut seen = host.as_ref().map(|host| host.view());
    let owners = match (&host, &mut seen) {
        (Some(host), Some(seen)) => owners(context, hypervisor, host, seen).await,
        _ => Owners::default(),
    };
    let survey = seen.as_ref().and_then(|seen| seen.survey.present().map(Arc::clone));
    let refusal = refusal.or_else(|| same_machine(context, hypervisor, survey.as_deref()));
    let refusal = refusal.or_else(|| replaced(seen.as_ref()?.error.as_ref()?));
    let stays = hypervisor.metadata.deletion_timestamp.is_none() && refusal.is_none();
    let sweep = match (&host, &survey) {
        (Some(host), Some(survey)) if stays => {
            let farmless = placed.iter().filter(|placed| placed.farm_is_gone).map(|placed| placed.name.clone());
            Sweep { farmless: farmless.collect(), ..sweep(context, hypervisor, host, survey).await? }
        }
        _ => Sweep::default(),
    };
    let certificates = match &host {
        Some(host) if survey.is_some() => read_certificates(host, context.clock.now()).await,
        _ => Certificates::default(),
    };
    let view = View {
        refusal,
        cached_images: survey.as_deref().map_or_else(Vec::new, |survey| cached(&context.caches.images.list(), survey)),
        idle_volumes: if sweep.orphans.owners().is_empty() {
            idle_volumes(context, host.as_deref(), survey.as_deref()).await?
        } else {
            // A machine that may be restored needs the image below its disk.
            BTreeSet::new()
        },
        placed,
        absent: absent(context, hypervisor),
        pool_is_shared: shares_its_pool(context, hypervisor),
        pool_mates: PoolMates::of(context, hypervisor),
        most_are_silent: most_are_silent(context, hypervisor),
        owners,
        sweep,
        certificates,
        rules_are_renewed: host.as_ref().is_some_and(|host| host.rules_are_renewed()),
        kept_back: kept_back(&context.site()),
        seen,
    };
    Ok((view, host))
}

/// The ends of the host's certificates, from memory for an hour, for a minute if one of them is near.
async fn read_certificates(host: &FleetHost, now: Timestamp) -> Certificates {
    if let Some(known) = host.known_certificates(CERTIFICATES_FOR, now)
        && (!is_expiring(&known, now) || host.known_certificates(EXPIRING_FOR, now).is_some())
    {
        return known;
    }
    let certificates = host.host.certificates().await;
    host.note_certificates(certificates, now);
    certificates
}

/// Whether more than half of the hosts of its class would be silent with it.
fn most_are_silent(context: &Context, hypervisor: &Hypervisor) -> bool {
    let hypervisors = context.caches.hypervisors.list();
    let alike = || hypervisors.iter().filter(|other| other.spec.class == hypervisor.spec.class);
    let is_silent = |other: &&Arc<Hypervisor>| {
        let since = other.status.as_ref().and_then(|status| status.unreachable_since.as_ref());
        other.uid() == hypervisor.uid() || since.is_some()
    };
    alike().filter(is_silent).count() * 2 > alike().count()
}

/// Whether a Hypervisor that stays sees the same volumes.
fn shares_its_pool(context: &Context, hypervisor: &Hypervisor) -> bool {
    let Some(shared) = &hypervisor.spec.storage.shared else { return false };
    context.caches.hypervisors.list().iter().any(|other| {
        let stays = other.uid() != hypervisor.uid() && other.metadata.deletion_timestamp.is_none();
        stays && other.spec.storage.shared.as_ref() == Some(shared)
    })
}

/// The older Hypervisor with the same URI.
fn duplicate_of(context: &Context, hypervisor: &Hypervisor) -> Option<String> {
    let others = context.caches.hypervisors.list();
    let twin = others.iter().find(|other| other.spec.uri == hypervisor.spec.uri && is_older(other, hypervisor))?;
    Some(twin.name_any())
}

/// The older Hypervisor that turned out to be the same machine.
fn same_machine(context: &Context, hypervisor: &Hypervisor, survey: Option<&Survey>) -> Option<Refusal> {
    let uuid = survey?.facts.uuid?.to_string();
    let others = context.caches.hypervisors.list();
    let twin = others.iter().find(|other| {
        let theirs = other.status.as_ref().and_then(|status| status.host_uuid.as_deref());
        theirs == Some(uuid.as_str()) && is_older(other, hypervisor)
    })?;
    let message = format!(
        "host UUID {uuid} is that of Hypervisor {}: one machine under two addresses, or host_uuid in libvirtd.conf is not unique",
        twin.name_any()
    );
    Some(Refusal::new("DuplicateHost", message))
}

/// Which machine has to answer: the one that the spec names, else the one that answered first.
fn identity(hypervisor: &Hypervisor) -> Option<Uuid> {
    let first = hypervisor.status.as_ref().and_then(|status| status.host_uuid.as_ref());
    hypervisor.spec.host_uuid.as_ref().or(first)?.parse().ok()
}

/// Another machine answers: it isn't touched, and what was on the right one is as on a host that doesn't answer.
fn replaced(error: &HostError) -> Option<Refusal> {
    let HostError::Replaced { found, .. } = error else { return None };
    let message = format!(
        "{error}; if the machine was replaced for good, set spec.hostUuid: {found}, and what was on the old one is made anew; else mend the address in spec.uri"
    );
    Some(Refusal::new("HostReplaced", message))
}

fn is_older(other: &Hypervisor, than: &Hypervisor) -> bool {
    let rank = |object: &Hypervisor| {
        (object.metadata.creation_timestamp.as_ref().map(|time| time.0), object.metadata.name.clone())
    };
    other.uid() != than.uid() && rank(other) < rank(than)
}

/// The connection to the host, made anew when anything that it is made from has changed.
async fn connect(context: &Arc<Context>, hypervisor: &Hypervisor) -> Result<Result<Arc<FleetHost>, Refusal>, Error> {
    let name = hypervisor.name_any();
    let generation = hypervisor.metadata.generation.unwrap_or_default();
    if let Some(known) = context.fleet.get(&name).filter(|known| known.is_checked(generation, CREDENTIALS_FOR)) {
        return Ok(Ok(known));
    }
    let credentials = match credentials(context, hypervisor).await? {
        Ok(credentials) => credentials,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let site = context.site();
    let config = HostConfig {
        insecure: hypervisor.spec.insecure,
        shared: hypervisor.spec.storage.shared.is_some(),
        call_deadline: site.timings.call_deadline,
        calls_in_flight: site.limits.calls_in_flight,
        starts_in_flight: site.limits.starts_in_flight,
        observer: Arc::clone(&context.metrics) as Arc<_>,
        ..HostConfig::new(
            name.clone(),
            hypervisor.spec.uri.clone(),
            credentials,
            hypervisor.spec.storage.pool.clone(),
            context.runtime_dir.clone(),
        )
    };
    let heartbeat = site.timings.heartbeat;
    let fingerprint = fingerprint(&config, heartbeat);
    let host = match context.fleet.get_made_from(&name, &fingerprint) {
        Some(known) => known,
        None => match (context.connect)(config) {
            Ok(host) => context.fleet.connect(&name, &fingerprint, heartbeat, host),
            Err(error) => return Ok(Err(Refusal::new("InvalidConfiguration", error.to_string()))),
        },
    };
    host.note_checked(generation);
    Ok(Ok(host))
}

async fn credentials(context: &Context, hypervisor: &Hypervisor) -> Result<Result<Credentials, Refusal>, Error> {
    let Some(reference) = &hypervisor.spec.credentials_secret_ref else { return Ok(Ok(Credentials::None)) };
    let name = match reference.name.parse::<ObjectName>() {
        Ok(name) => name,
        Err(error) => {
            let message = format!("spec.credentialsSecretRef.name: {error}");
            return Ok(Err(Refusal::new("InvalidConfiguration", message)));
        }
    };
    let secrets: Api<Secret> = context.api(&context.namespace);
    let Some(secret) = secrets.get_opt(name.as_str()).await? else {
        let message = format!(
            "spec.credentialsSecretRef: Secret {:?} is not there in namespace {}",
            reference.name, context.namespace
        );
        return Ok(Err(Refusal::new("SecretNotFound", message)));
    };
    let mut data = secret.data.unwrap_or_default();
    let wanted: &[&str] = if hypervisor.spec.uri.starts_with("qemu+ssh:") {
        &["ssh-privatekey", "known_hosts"]
    } else {
        &["ca.crt", "tls.crt", "tls.key"]
    };
    let mut found = Vec::new();
    for key in wanted {
        match data.remove(*key) {
            Some(ByteString(value)) => found.push(value),
            None => {
                let message = format!(
                    "spec.credentialsSecretRef: Secret {:?} has no {key}; it needs {}",
                    reference.name,
                    wanted.join(", ")
                );
                return Ok(Err(Refusal::new("SecretIncomplete", message)));
            }
        }
    }
    let mut found = found.into_iter();
    Ok(Ok(match (found.next(), found.next(), found.next()) {
        (Some(ca), Some(certificate), Some(key)) => Credentials::Tls { ca, certificate, key },
        (Some(key), Some(known_hosts), None) => Credentials::Ssh { key, known_hosts },
        _ => Credentials::None,
    }))
}

fn fingerprint(config: &HostConfig, heartbeat: Duration) -> String {
    let mut hash = Sha256::new();
    hash.update(format!(
        "{:?}",
        (&config.uri, &config.pool, config.shared, config.insecure, config.call_deadline, heartbeat)
    ));
    hash.update(format!("{:?}", (config.calls_in_flight, config.starts_in_flight)));
    let secrets: &[&[u8]] = match &config.credentials {
        Credentials::Tls { ca, certificate, key } => &[ca, certificate, key],
        Credentials::Ssh { key, known_hosts } => &[key, known_hosts],
        Credentials::None => &[],
    };
    for secret in secrets {
        hash.update(Sha256::digest(secret));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Revisions of images all of whose volumes are complete on the host.
fn cached(images: &[Arc<Image>], survey: &Survey) -> Vec<String> {
    let complete = |image: &Arc<Image>| {
        let volumes = volumes_of(&image.spec).ok()?;
        let here = volumes.iter().all(|volume| survey.volumes.contains(&volume.name));
        here.then_some(volumes.revision)
    };
    let mut revisions: Vec<_> = images.iter().filter_map(complete).collect();
    revisions.sort();
    revisions.dedup();
    revisions
}

/// Image volumes on the host that no image and no machine has needed for a while: those of revisions and images that
/// went. The pool belongs to this cluster alone.
async fn idle_volumes(
    context: &Context,
    host: Option<&FleetHost>,
    survey: Option<&Survey>,
) -> Result<BTreeSet<String>, Error> {
    let (Some(host), Some(survey)) = (host, survey) else { return Ok(BTreeSet::new()) };
    let images = context.caches.images.list();
    let of_images = images.iter().filter_map(|image| volumes_of(&image.spec).ok());
    let needed: BTreeSet<String> =
        of_images.flat_map(|volumes| volumes.iter().map(|volume| volume.name.clone()).collect::<Vec<_>>()).collect();
    let there = survey.volumes.iter().chain(&survey.incomplete_volumes);
    let unused = there.filter(|name| is_image_volume(name) && !needed.contains(*name));
    let mut unused: BTreeSet<_> = unused.cloned().collect();
    if !unused.is_empty() {
        for machine in context.caches.machines.list() {
            let pinned = machine.status.as_ref().and_then(|status| status.image.as_ref());
            for volume in pinned.iter().flat_map(|image| image.volumes()) {
                unused.remove(volume);
            }
        }
    }
    let mut idle = host.idle_for(&unused, IDLE_FOR, context.clock.now());
    if !idle.is_empty() {
        // The API server itself has the last word: a list that lacks an image would empty every host of it.
        let images: Api<DeserializeGuard<Image>> = context.cluster_api();
        let listed = images.list(&ListParams::default()).await?;
        keep_needed(listed.items, &mut idle);
    }
    Ok(idle)
}

/// Keeps what these images need. Of one that can't be read nobody knows what it needs: then everything is kept.
fn keep_needed(images: Vec<DeserializeGuard<Image>>, idle: &mut BTreeSet<String>) {
    for image in images {
        match image.0.map(|image| volumes_of(&image.spec)) {
            Ok(Ok(volumes)) => idle.retain(|name| volumes.iter().all(|volume| volume.name != *name)),
            Ok(Err(_)) => {}
            Err(_) => idle.clear(),
        }
    }
}

/// The machines that have this host. A farm that can't be asked for isn't gone: one machine's must not stop its host.
async fn placed(context: &Context, hypervisor: &Hypervisor) -> Vec<Placed> {
    let machines = context.caches.machines_on(&hypervisor.name_any());
    let mut placed = Vec::with_capacity(machines.len());
    for machine in machines.iter().filter(|machine| !is_removed(machine)) {
        let farm_is_gone = is_farm_gone(context, machine).await.unwrap_or_else(|error| {
            warn!(machine = %full_name(&**machine), %error, "its farm can't be asked for");
            false
        });
        placed.extend(placed_on(machine, hypervisor).map(|placed| Placed { farm_is_gone, ..placed }));
    }
    placed
}

fn placed_on(machine: &VirtualMachine, hypervisor: &Hypervisor) -> Option<Placed> {
    let status = machine.status.as_ref()?;
    let held = held(machine);
    let deleted = machine.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let (namespace, name) = (machine.namespace().unwrap_or_default(), machine.name_any());
    Some(Placed {
        name: format!("{namespace}/{name}"),
        leaves: leaves(machine, hypervisor),
        deleted,
        copy: MachineCopy {
            uid: machine.uid()?,
            namespace,
            name,
            farm: Some(machine.spec.farm.clone()),
            epoch: status.epoch.unwrap_or_default(),
            address: status.address.clone(),
            public_ips: machine.router().map(|role| role.public_ips.clone()).unwrap_or_default(),
            router: machine.router().is_some(),
            holds: Some(held.into()),
            kept: false,
        },
        farm_is_gone: false,
        holds: held.into(),
    })
}
