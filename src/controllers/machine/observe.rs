//! What there is of a machine: in its objects, on its host, in its guest.

use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::core::NamespaceResourceScope;
use serde::de::DeserializeOwned;

use super::flavour::{kept_disks, outdated};
use super::host::host_standing;
use super::plan::UNDEFINED;
use super::recipe::{self, Ingredients, Recipe, Refusal};
use super::situation::{Clock, Failure, History, Placement, View};
use super::status::CLOCK_SET;
use crate::api::{
    ImageHostState, KeyRef, ObjectName, Phase, UserData, VirtualMachine, VirtualMachineStatus, conditions,
};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::fleet::FleetHost;
use crate::controllers::ledger::{FARM_GONE, is_farm_gone};
use crate::controllers::observed::Observed;
use crate::controllers::placement::standing::wishes_to_run;
use crate::guest::UserDataText;
use crate::libvirt::{DomainRun, DomainUuid, OwnershipTag, Survey, SurveyedDomain};

/// What was seen, and the host on which it was seen.
pub struct Observation {
    /// What was seen.
    pub view: View,
    /// The machine's host, where it has one that is connected.
    pub host: Option<Arc<FleetHost>>,
}

/// Looks at everything that the plan needs.
///
/// # Errors
/// The API server can't be asked. A host that can't be asked is part of what is seen.
pub async fn observe(context: &Context, machine: &VirtualMachine) -> Result<Observation, Error> {
    let deleted = machine.metadata.deletion_timestamp.is_some();
    let status = machine.status.clone().unwrap_or_default();
    let host = status.hypervisor.as_deref().and_then(|name| context.fleet.get(name));
    let uuid = recipe::uid(machine).map(DomainUuid);
    let now = || context.clock.now();
    let (survey, begun) = look_at_host(host.as_deref(), deleted, status.hypervisor.as_deref(), now).await;
    let mut domain = match (&host, &survey, &uuid) {
        (Some(host), Observed::Present(survey), Ok(uuid)) => look_at_domain(host, survey, *uuid, deleted, now).await,
        (_, unknown, _) => unknown.clone().map(|_| ()).map_absent_to_unknown(now()),
    };
    let agent = match (&host, domain.present(), &uuid) {
        (Some(host), Some(domain), Ok(uuid)) if domain.run == DomainRun::Running && domain.tag.is_some() => {
            host.host.agent_answers(*uuid).await.ok()
        }
        _ => None,
    };
    let history = history(&status);
    if let (Some(false), true, Some(host), Ok(uuid)) = (agent, history.answered, &host, &uuid) {
        // An agent that answered before and doesn't now may have ended with its guest since the domain was read.
        domain = host_domain(host, *uuid, now).await;
    }
    let hypervisor = context.caches.hypervisors.get("", status.hypervisor.as_deref().unwrap_or_default());
    let farm = context.caches.farms.get(&machine.namespace().unwrap_or_default(), &machine.spec.farm);
    let flavour = context.caches.flavours.get("", &machine.spec.flavour);
    let disks_home = hypervisor.as_deref().map(recipe::disks_home);
    let running = domain.present().filter(|domain| !matches!(domain.run, DomainRun::Off(_)));
    let recipe = if deleted {
        Err(Refusal::new("Deleting", "it is being deleted"))
    } else {
        make_recipe(context, machine, running.and_then(|domain| domain.tag.as_ref())).await?
    };
    let view = View {
        volume_prefix: uuid.as_ref().map_or_else(|_| "none-".to_owned(), |uuid| recipe::volume_prefix(uuid.0)),
        placement: placement(&status),
        wishes: wishes_to_run(machine),
        waits: waits(&status),
        host: status
            .hypervisor
            .as_deref()
            .and_then(|name| context.caches.hypervisors.get("", name))
            .map(|hypervisor| host_standing(machine, &hypervisor, &context.site().timings))
            .unwrap_or_default(),
        domain,
        volumes: survey.clone().map(|survey| match deleted {
            // What was never finished goes with the rest.
            true => &survey.volumes | &survey.incomplete_volumes,
            false => survey.volumes.clone(),
        }),
        volumes_are_fresh: is_fresh(begun, &status),
        disks_made: disks_home.is_some() && status.disks_on == disks_home,
        disks_home,
        nics: farm
            .zip(hypervisor)
            .and_then(|(farm, host)| recipe::nics(machine, &farm, &host).ok())
            .unwrap_or_default(),
        farm_gone: farm_gone(context, machine).await?,
        recipe,
        image_progress: image_progress(context, &status),
        outdated: flavour.as_deref().and_then(|flavour| outdated(flavour, &status)),
        kept_disks: flavour.as_deref().and_then(|flavour| kept_disks(flavour, &status)),
        agent,
        resumed: host.as_ref().zip(uuid.as_ref().ok()).and_then(|(host, uuid)| host.last_resumed(*uuid)),
        history,
    };
    Ok(Observation { view, host })
}

/// Its hypervisor's controller pulls its cables; here it is only told.
async fn farm_gone(context: &Context, machine: &VirtualMachine) -> Result<Option<Refusal>, Error> {
    let farm = &machine.spec.farm;
    let message = format!(
        "the farm {farm} that gave it its address is gone, so its network cards are cut off: save what you need from its \
         console, then delete it"
    );
    Ok(is_farm_gone(context, machine).await?.then(|| Refusal::new(FARM_GONE, message)))
}

/// The host's survey and when it was begun: the last one, or for what deletes a fresh one.
async fn look_at_host(
    host: Option<&FleetHost>,
    fresh: bool,
    name: Option<&str>,
    now: impl Fn() -> Timestamp,
) -> (Observed<Arc<Survey>>, Option<Timestamp>) {
    let Some(host) = host else {
        let name = name.unwrap_or("none");
        return (Observed::Unknown { why: format!("hypervisor {name} is not connected"), since: now() }, None);
    };
    let last = host.view();
    if !fresh || last.survey.present().is_none() {
        return (last.survey, last.surveyed);
    }
    let begun = now();
    match host.survey().await {
        Ok(survey) => (Observed::Present(Arc::new(survey)), Some(begun)),
        Err(error) => (Observed::Unknown { why: error.to_string(), since: now() }, None),
    }
}

/// Whether a survey that was begun then tells of everything that the last start made.
fn is_fresh(begun: Option<Timestamp>, status: &VirtualMachineStatus) -> bool {
    let boots = status.phase_transitions.iter().filter(|transition| transition.phase == Phase::Booting);
    let last_boot = boots.map(|transition| transition.time).max();
    begun.is_some_and(|begun| last_boot.is_none_or(|boot| begun > boot))
}

async fn look_at_domain(
    host: &FleetHost,
    survey: &Survey,
    uuid: DomainUuid,
    fresh_survey: bool,
    now: impl Fn() -> Timestamp,
) -> Observed<SurveyedDomain> {
    if fresh_survey {
        return survey.domains.get(&uuid).cloned().map_or(Observed::Absent, Observed::Present);
    }
    host_domain(host, uuid, now).await
}

/// The domain as its host has it now.
async fn host_domain(host: &FleetHost, uuid: DomainUuid, now: impl Fn() -> Timestamp) -> Observed<SurveyedDomain> {
    match host.host.domain(uuid).await {
        Ok(Some(domain)) => Observed::Present(domain),
        Ok(None) => Observed::Absent,
        Err(error) => Observed::Unknown { why: error.to_string(), since: now() },
    }
}

impl Observed<()> {
    /// A host that wasn't looked at says nothing about a domain.
    fn map_absent_to_unknown<T>(self, now: Timestamp) -> Observed<T> {
        match self {
            Observed::Unknown { why, since } => Observed::Unknown { why, since },
            Observed::Absent | Observed::Present(()) => Observed::Unknown { why: "not looked at".into(), since: now },
        }
    }
}

fn placement(status: &VirtualMachineStatus) -> Placement {
    match status.hypervisor {
        None => Placement::Nowhere,
        Some(_) if conditions::is_true(&status.conditions, "Scheduled") => Placement::Admitted,
        Some(_) => Placement::Resting,
    }
}

fn waits(status: &VirtualMachineStatus) -> Option<Refusal> {
    conditions::find(&status.conditions, "Scheduled")
        .filter(|scheduled| scheduled.status != "True")
        .map(|scheduled| Refusal::new(&scheduled.reason, scheduled.message.clone()))
}

/// What its status says that it went through.
pub fn history(status: &VirtualMachineStatus) -> History {
    let phase = status.phase.unwrap_or_default();
    let at_rest = |phase: Phase| matches!(phase, Phase::Pending | Phase::Scheduled | Phase::Stopped | Phase::Failed);
    let mut history = History { phase, ..History::default() };
    for transition in &status.phase_transitions {
        match transition.phase {
            Phase::Booting => {
                history.started = Some(transition.time);
                history.answered = false;
            }
            Phase::Running => history.answered = true,
            Phase::Stopping => history.stop_asked = Some(transition.time),
            phase if at_rest(phase) => {
                history.started = None;
                history.answered = false;
            }
            _ => {}
        }
    }
    if phase != Phase::Stopping {
        history.stop_asked = None;
    }
    history.vanished =
        conditions::find(&status.conditions, conditions::READY).is_some_and(|ready| ready.reason == UNDEFINED);
    history.clock = conditions::find(&status.conditions, CLOCK_SET).map(|_| Clock::Behind);
    history.failure = status.start_failure.as_ref().map(|failure| Failure {
        count: failure.count,
        retry_after: failure.retry_after.0,
        message: failure.message.clone(),
    });
    history
}

async fn make_recipe(
    context: &Context,
    machine: &VirtualMachine,
    running: Option<&OwnershipTag>,
) -> Result<Result<Recipe, Refusal>, Error> {
    let namespace = machine.namespace().unwrap_or_default();
    let Some(farm) = context.caches.farms.get(&namespace, &machine.spec.farm) else {
        return Ok(Err(Refusal::new("FarmNotFound", format!("VirtualFarm {:?} is not there", machine.spec.farm))));
    };
    let name = machine.status.as_ref().and_then(|status| status.hypervisor.as_deref()).unwrap_or_default();
    let Some(hypervisor) = context.caches.hypervisors.get("", name) else {
        return Ok(Err(Refusal::new("HypervisorNotFound", format!("Hypervisor {name:?} is not there"))));
    };
    // A router has no seed, whatever somebody wrote into its spec.
    let source = machine.spec.user_data.as_ref().filter(|_| machine.router().is_none());
    let user_data = match read_user_data(context, &namespace, source).await? {
        Ok(user_data) => user_data,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let site = context.site();
    let ingredients = Ingredients {
        machine,
        farm: &farm,
        hypervisor: &hypervisor,
        site: &site,
        user_data,
        cluster: &context.cluster,
    };
    Ok(recipe::recipe(&ingredients, running))
}

async fn read_user_data(
    context: &Context,
    namespace: &str,
    source: Option<&UserData>,
) -> Result<Result<Option<UserDataText>, Refusal>, Error> {
    let Some(source) = source else { return Ok(Ok(None)) };
    let bytes = if let Some(text) = &source.inline {
        Ok(text.clone().into_bytes())
    } else if let Some(key) = &source.secret_ref {
        read_object::<Secret>(context, namespace, key).await?.and_then(|secret| {
            let data = secret.map(|secret| secret.data.unwrap_or_default());
            value("Secret", key, data.map(|mut data| data.remove(&key.key).map(|value| value.0)))
        })
    } else if let Some(key) = &source.config_map_ref {
        read_object::<ConfigMap>(context, namespace, key).await?.and_then(|map| {
            let data = map.map(|map| {
                let binary = map.binary_data.unwrap_or_default().remove(&key.key).map(|value| value.0);
                binary.or_else(|| map.data.unwrap_or_default().remove(&key.key).map(String::into_bytes))
            });
            value("ConfigMap", key, data)
        })
    } else {
        Err(Refusal::new("InvalidUserData", "userData: give one of inline, secretRef, configMapRef"))
    };
    Ok(bytes.and_then(|bytes| UserDataText::parse(&bytes).map(Some).map_err(Refusal::from)))
}

/// The Secret or ConfigMap that user-data comes from. The chart may leave the operator without the right to read what tenants
/// keep there.
async fn read_object<K>(context: &Context, namespace: &str, key: &KeyRef) -> Result<Result<Option<K>, Refusal>, Error>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let kind = K::kind(&());
    let name = match key.name.parse::<ObjectName>() {
        Ok(name) => name,
        Err(error) => return Ok(Err(Refusal::new("InvalidUserData", format!("userData: {kind} {error}")))),
    };
    match context.api::<K>(namespace).get_opt(name.as_str()).await {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Err(Refusal::new(
            "UserDataForbidden",
            format!(
                "userData: the operator may not read a {kind} here; give it inline, or set userDataRefs.enabled of the chart"
            ),
        ))),
        read => Ok(Ok(read?)),
    }
}

fn value(kind: &str, key: &KeyRef, found: Option<Option<Vec<u8>>>) -> Result<Vec<u8>, Refusal> {
    match found {
        None => Err(Refusal::new("UserDataNotFound", format!("userData: {kind} {:?} is not there", key.name))),
        Some(None) => {
            Err(Refusal::new("UserDataNotFound", format!("userData: {kind} {:?} has no key {:?}", key.name, key.key)))
        }
        Some(Some(bytes)) => Ok(bytes),
    }
}

/// How far the image is on the machine's host, in words.
fn image_progress(context: &Context, status: &VirtualMachineStatus) -> Option<Result<String, String>> {
    let pinned = status.image.as_ref()?;
    let image = context.caches.images.get("", &pinned.name)?;
    let hosts = &image.status.as_ref()?.hosts;
    let host = hosts.iter().find(|host| Some(&host.name) == status.hypervisor.as_ref())?;
    let detail = match (host.state, host.percent, &host.message) {
        (ImageHostState::Uploading, Some(percent), _) => format!("{percent} % uploaded"),
        (_, _, Some(message)) => message.clone(),
        (state, _, None) => format!("{state:?}"),
    };
    let words = format!("image {}: {detail}", pinned.name);
    Some(if host.state == ImageHostState::Failed { Err(words) } else { Ok(words) })
}
