//! What there is of an image: how its transfers stand, which pools have it, who uses it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use super::jobs::{JobKey, JobState, Jobs};
use super::plan::{Copies, Known, Target, TargetVolume, Trouble, View};
use crate::api::conditions::SOURCE_UNAVAILABLE;
use crate::api::{Bytes, CachePolicy, Hypervisor, Image, ImagePhase, VirtualMachine, conditions};
use crate::controllers::context::Context;
use crate::controllers::placement::standing::is_removed;
use crate::images::{BadChecksum, ImageVolumes, volumes_of};
use crate::libvirt::Survey;

/// Looks at everything that the plan needs.
///
/// # Errors
/// A checksum isn't one; the API server lets none through.
pub fn observe(context: &Context, jobs: &Jobs, image: &Image) -> Result<View, BadChecksum> {
    let name = image.name_any();
    let volumes = volumes_of(&image.spec)?;
    let machines = context.caches.machines.list();
    let users: Vec<_> = machines.iter().filter(|machine| pins(machine, &name)).collect();
    let wanted_on = users.iter().filter(|machine| pins_revision(machine, &volumes.revision));
    let wanted_on: HashSet<_> = wanted_on.filter_map(|machine| host_of(machine)).collect();
    let mut pools: BTreeMap<String, Vec<Arc<Hypervisor>>> = BTreeMap::new();
    for hypervisor in context.caches.hypervisors.list() {
        let placed = wanted_on.contains(hypervisor.name_any().as_str());
        if hypervisor.metadata.deletion_timestamp.is_none() && (placed || keeps(image, &hypervisor)) {
            let pool = hypervisor
                .spec
                .storage
                .shared
                .as_ref()
                .map_or_else(|| format!("host/{}", hypervisor.name_any()), |shared| format!("shared/{shared}"));
            pools.entry(pool).or_default().push(hypervisor);
        }
    }
    let fetches = volumes.iter().map(|volume| {
        let key = JobKey { image: name.clone(), volume: volume.name.clone(), host: None };
        (volume.clone(), jobs.state(&key, volume))
    });
    Ok(View {
        fetches: fetches.collect(),
        targets: pools.into_values().map(|hosts| target(context, jobs, &name, &volumes, &hosts)).collect(),
        users: users.iter().map(|machine| full_name(machine)).collect(),
        deleted: image.metadata.deletion_timestamp.is_some(),
        known: known(image, &volumes.revision, context.site().images.max_virtual_size),
        copies: copies(context, &volumes),
        volumes,
    })
}

/// What the status says, if it says that these contents were verified: they are Ready, or no host was left that has them when their
/// source was gone. A revision stands for checksums and formats, so another spec has another one; a disk that is too large for the
/// site by now is judged anew.
fn known(image: &Image, revision: &str, largest: Bytes) -> Option<Known> {
    let status = image.status.as_ref()?;
    let trouble = conditions::find(&status.conditions, SOURCE_UNAVAILABLE);
    let verified = status.phase == ImagePhase::Ready || trouble.is_some();
    if !verified || status.revision.as_deref() != Some(revision) || status.virtual_size > Some(largest) {
        return None;
    }
    let unavailable = trouble.filter(|trouble| trouble.status == "True");
    Some(Known {
        size: status.size,
        virtual_size: status.virtual_size,
        unavailable: unavailable
            .map(|trouble| Trouble { reason: trouble.reason.clone(), message: trouble.message.clone() }),
    })
}

/// Which of the hosts that answer have all of it. Any may be asked for a machine, those that keep no copy yet, too.
fn copies(context: &Context, volumes: &ImageVolumes) -> Copies {
    let mut copies = Copies::default();
    for hypervisor in context.caches.hypervisors.list() {
        let Some(host) = context.fleet.get(&hypervisor.name_any()) else { continue };
        let Some(survey) = host.view().survey.present().cloned() else { continue };
        let whole = volumes.iter().all(|volume| survey.volumes.contains(&volume.name));
        copies.some |= whole;
        copies.lacking |= !whole;
    }
    copies
}

/// Whether the host keeps a copy before a machine asks for it.
fn keeps(image: &Image, hypervisor: &Hypervisor) -> bool {
    let cache = &image.spec.cache;
    let selected = cache.selector.as_ref().is_none_or(|selector| {
        Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(hypervisor.labels()))
    });
    cache.policy == CachePolicy::All && selected
}

fn target(context: &Context, jobs: &Jobs, image: &str, volumes: &ImageVolumes, hosts: &[Arc<Hypervisor>]) -> Target {
    let surveys: BTreeMap<String, Arc<Survey>> = hosts
        .iter()
        .filter_map(|host| {
            let survey = context.fleet.get(&host.name_any())?.view().survey.present().cloned()?;
            Some((host.name_any(), survey))
        })
        .collect();
    // The one with an upload under way goes on; else the first that answers and is not refused.
    let usable = |host: &&Arc<Hypervisor>| {
        let ready = host.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, "Ready"));
        ready && surveys.contains_key(&host.name_any())
    };
    let state = |host: &str, volume: &crate::images::ImageVolume| {
        let key = JobKey { image: image.to_owned(), volume: volume.name.clone(), host: Some(host.to_owned()) };
        jobs.state(&key, volume)
    };
    let busy = |host: &&Arc<Hypervisor>| {
        volumes.iter().any(|volume| matches!(state(&host.name_any(), volume), Some(JobState::Running(_))))
    };
    let through = hosts.iter().filter(usable).find(busy).or_else(|| hosts.iter().find(usable));
    let through = through.map(|host| host.name_any());
    let surveyed = through.as_ref().and_then(|host| context.fleet.get(host)?.view().surveyed);
    let volumes = volumes.iter().map(|volume| TargetVolume {
        complete: surveys.values().any(|survey| survey.volumes.contains(&volume.name)),
        upload: through.as_deref().and_then(|host| state(host, volume)),
        volume: volume.clone(),
    });
    Target { volumes: volumes.collect(), hosts: hosts.iter().map(|host| host.name_any()).collect(), through, surveyed }
}

fn pins(machine: &VirtualMachine, image: &str) -> bool {
    let pinned = machine.status.as_ref().and_then(|status| status.image.as_ref());
    pinned.is_some_and(|pinned| pinned.name == image) && !is_removed(machine)
}

fn pins_revision(machine: &VirtualMachine, revision: &str) -> bool {
    let pinned = machine.status.as_ref().and_then(|status| status.image.as_ref());
    pinned.is_some_and(|pinned| pinned.revision == revision)
}

fn host_of(machine: &VirtualMachine) -> Option<&str> {
    machine.status.as_ref().and_then(|status| status.hypervisor.as_deref())
}

fn full_name(machine: &VirtualMachine) -> String {
    format!("{}/{}", machine.namespace().unwrap_or_default(), machine.name_any())
}
