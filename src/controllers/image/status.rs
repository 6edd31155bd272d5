//! What is told of an image. Pure.

use jiff::Timestamp;

use super::plan::{Plan, Supply, View};
use crate::api::conditions::{self, READY, SOURCE_UNAVAILABLE, State};
use crate::api::{Bytes, Image, ImageHost, ImageHostState, ImagePhase, ImageStatus};
use crate::controllers::news::News;
use crate::controllers::writes::Share;

/// What of the status the controller writes.
pub const SHARE: Share = Share {
    manager: "cascina-image",
    fields: &["observedGeneration", "phase", "revision", "size", "virtualSize", "ready", "progress", "hosts"],
    conditions: &[READY, SOURCE_UNAVAILABLE, "Deleting"],
};

/// How many hosts the status lists.
const LISTED: usize = 64;

/// The controller's share of the status.
pub fn status(image: &Image, seen: &View, plan: &Plan, now: Timestamp) -> ImageStatus {
    let before = image.status.clone().unwrap_or_default();
    let generation = image.metadata.generation;
    let ready = plan.hosts.iter().filter(|host| host.state == ImageHostState::Ready).count();
    let mut states = vec![match plan.phase {
        ImagePhase::Ready => State::yes(READY, plan.reason.clone(), plan.message.clone()),
        _ => State::no(READY, plan.reason.clone(), plan.message.clone()),
    }];
    match &plan.supply {
        Supply::Open => {}
        Supply::Refetching => {
            let message =
                "the operator has its files no more and fetches them; until then only hosts that have a copy use it";
            states.push(State::unknown(SOURCE_UNAVAILABLE, "Fetching", message));
        }
        Supply::Unavailable(trouble) => {
            states.push(State::yes(SOURCE_UNAVAILABLE, trouble.reason.clone(), trouble.message.clone()));
        }
    }
    if seen.deleted {
        let users = seen.users.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("{} machines were made from it and need it: {users}", seen.users.len());
        states.push(State::yes("Deleting", "InUse", message));
    }
    ImageStatus {
        observed_generation: generation,
        phase: plan.phase,
        revision: Some(seen.volumes.revision.clone()),
        size: plan.size.map(Bytes::whole_mebibytes),
        virtual_size: plan.virtual_size,
        ready: Some(format!("{ready}/{}", plan.hosts.len())),
        progress: plan.progress.clone(),
        hosts: listed(&plan.hosts),
        conditions: conditions::stamp(states, &before.conditions, generation, now),
    }
}

/// The hosts that fit, those not ready first.
fn listed(hosts: &[ImageHost]) -> Vec<ImageHost> {
    let mut hosts = hosts.to_vec();
    hosts.sort_by_key(|host| (host.state == ImageHostState::Ready, host.name.clone()));
    hosts.truncate(LISTED);
    hosts
}

/// What a person has to act on if it lasts, by the status alone.
pub fn lasting(image: &Image) -> Option<News> {
    news(&Image { status: None, ..image.clone() }, image.status.as_ref()?).filter(News::has_to_last)
}

/// What is worth an event in the step from the old status to the new.
pub fn news(image: &Image, after: &ImageStatus) -> Option<News> {
    let before = image.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let became = |kind| {
        let new = conditions::find(&after.conditions, kind)?;
        let old = conditions::find(before, kind);
        (!old.is_some_and(|old| old.status == new.status && old.reason == new.reason)).then_some(new)
    };
    let Some(ready) = became(READY) else {
        let trouble = became(SOURCE_UNAVAILABLE).filter(|trouble| trouble.status == "True")?;
        return Some(News::if_it_lasts(SOURCE_UNAVAILABLE, &trouble.reason, &trouble.message));
    };
    Some(match after.phase {
        ImagePhase::Rejected => News::warning(&ready.reason, &ready.message),
        // A source that can't be read is tried again in seconds.
        ImagePhase::Failed => News::if_it_lasts(READY, &ready.reason, &ready.message),
        ImagePhase::Pending | ImagePhase::Fetching | ImagePhase::Ready => News::normal(&ready.reason, &ready.message),
    })
}
