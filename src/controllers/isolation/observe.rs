//! What there is of a host's canary: its image, its networks, itself.

use std::sync::Arc;

use kube::ResourceExt;

use super::evidence::Memory;
use super::plan::{Obstacle, View};
use super::recipe::{Stage, canary};
use super::slots::{slot, slot_of, strays, uuid};
use crate::api::site::{SelfTest, Site};
use crate::api::{CachePolicy, Hypervisor, Image, PinnedImage};
use crate::controllers::context::Context;
use crate::controllers::error::Error;
use crate::controllers::fleet::FleetHost;
use crate::controllers::ledger::HOSTS_UNREAD;
use crate::controllers::observed::Observed;
use crate::images::pin;
use crate::libvirt::{DomainSpec, Survey};

/// What was seen, and the host on which it was seen.
pub struct Observation {
    /// What was seen.
    pub view: View,
    /// The host, where it is connected.
    pub host: Option<Arc<FleetHost>>,
}

/// Looks at everything that the plan needs; gives the host networks on the way.
///
/// # Errors
/// The API server can't be asked. A host that can't be asked is part of what is seen.
pub async fn observe(context: &Context, hypervisor: &Hypervisor, memory: &Memory) -> Result<Observation, Error> {
    let site = context.site();
    let now = context.clock.now();
    let wanted = is_wanted(context, &site, hypervisor);
    let uuid = uuid(&context.cluster, hypervisor);

    let host = context.fleet.get(&hypervisor.name_any());
    let looked = host.as_ref().map(|host| host.view());
    let survey = looked.as_ref().map_or_else(
        || Observed::Unknown { why: "the host is not connected".to_owned(), since: now },
        |seen| seen.survey.clone(),
    );
    let silent = looked.as_ref().is_some_and(|seen| seen.error.is_some());
    let canary = match (&host, &survey) {
        (Some(host), Observed::Present(_)) => match host.host.domain(uuid).await {
            Ok(domain) => domain.map_or(Observed::Absent, Observed::Present),
            Err(error) => Observed::Unknown { why: error.to_string(), since: now },
        },
        (_, unknown) => Observed::Unknown { why: why_unknown(unknown), since: now },
    };
    let seen = survey.present().map(|survey| &**survey);
    let given = if wanted { slot(context, hypervisor, memory, seen).await? } else { None };
    // What isn't given, or isn't wanted any more, may still be in use, on a host that says nothing.
    let slot = given.or_else(|| slot_of(hypervisor).filter(|_| !canary.is_absent()));
    let mut evidence = memory.recall(hypervisor, now);
    // A host that hasn't been read yet since the operator's start says nothing against what was known before.
    if silent || canary.present().is_some() || canary.is_absent() {
        evidence.look(&canary, now);
    }
    let stage = slot.and_then(|slot| Stage::of_slot(site.isolation.networks, slot));
    let recipe = match given {
        None if wanted => Err(Obstacle::new(HOSTS_UNREAD, "every host is looked at once before a network is given")),
        _ => recipe(context, &site, hypervisor, stage, seen),
    };
    let own = hypervisor.uid();
    let is_known = |uid: &str| own.as_deref() == Some(uid) || context.caches.hypervisors.has_uid(uid);
    let strays = seen.map(|survey| strays(survey, &context.cluster, is_known)).unwrap_or_default();
    let interval = site.isolation.interval;
    Ok(Observation { view: View { wanted, interval, uuid, slot, stage, recipe, canary, strays, evidence }, host })
}

fn why_unknown(survey: &Observed<Arc<Survey>>) -> String {
    match survey {
        Observed::Unknown { why, .. } => why.clone(),
        Observed::Absent | Observed::Present(_) => "not looked at".to_owned(),
    }
}

/// A host that goes keeps its canary as long as it has machines.
fn is_wanted(context: &Context, site: &Site, hypervisor: &Hypervisor) -> bool {
    let name = hypervisor.name_any();
    let goes = hypervisor.metadata.deletion_timestamp.is_some();
    let has_machines = || !context.caches.machines_on(&name).is_empty();
    site.isolation.self_test == SelfTest::Required && (!goes || has_machines())
}

fn recipe(
    context: &Context,
    site: &Site,
    hypervisor: &Hypervisor,
    stage: Option<Stage>,
    survey: Option<&Survey>,
) -> Result<DomainSpec, Obstacle> {
    let networks = site.isolation.networks;
    let few =
        || Obstacle::new("NoNetwork", format!("site.isolation.networks: {networks} has no two /24 left for this host"));
    let stage = stage.ok_or_else(few)?;
    let image = image(context, &site.isolation.image)?;
    let here = |volume: &str| survey.is_some_and(|survey| survey.volumes.contains(volume));
    let pinned = pin(&site.isolation.image, &image.spec, crate::api::Bytes::ZERO)
        .map_err(|error| Obstacle::new("ImageUnsuitable", format!("image {}: {error}", image.name_any())))?;
    if !pinned.volumes().all(here) {
        return Err(missing(&image));
    }
    canary(&context.cluster, hypervisor, stage, &pinned).ok_or_else(|| unsuitable(&pinned))
}

fn image(context: &Context, name: &str) -> Result<Arc<Image>, Obstacle> {
    let image = context.caches.images.get("", name).filter(|image| image.metadata.deletion_timestamp.is_none());
    image.ok_or_else(|| {
        let message =
            format!("there is no Image {name}: make one of the appliance, or name another in site.isolation.image");
        Obstacle::new("ImageMissing", message)
    })
}

fn missing(image: &Image) -> Obstacle {
    let name = image.name_any();
    let cache = &image.spec.cache;
    let message = if cache.policy == CachePolicy::All && cache.selector.is_none() {
        format!("waits for image {name} to be on this host")
    } else {
        format!(
            "image {name} is not on this host: kubectl patch image {name} --type merge -p \
             '{{\"spec\":{{\"cache\":{{\"policy\":\"All\",\"selector\":null}}}}}}'"
        )
    };
    Obstacle::new("ImageMissing", message)
}

fn unsuitable(image: &PinnedImage) -> Obstacle {
    let message =
        format!("image {} has no kernel: canaries boot from the appliance's kernel and initramfs", image.name);
    Obstacle::new("ImageUnsuitable", message)
}
