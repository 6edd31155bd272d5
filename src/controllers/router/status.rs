//! What is told of a router: pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::addresses::Verdict;
use super::observe::View;
use super::plan::{Plan, machine_name};
use super::talk::Heard;
use super::tunnels;
use crate::api::conditions::{READY, State, find, is_true, stamp, whole_seconds};
use crate::api::{AppliedConfig, VRouter, VRouterStatus};
use crate::controllers::farm::some_of;
use crate::controllers::placement::plan::Wait;
use crate::controllers::writes::Share;
use crate::network::router::Hash;

/// A shorter silence says nothing: a guest that is switched off is told of a moment later.
const SILENCE: Duration = Duration::from_secs(5);

/// Name of the field manager.
pub const MANAGER: &str = "cascina-router";

/// Condition: the router has the public addresses that it should have.
const ADDRESSES_READY: &str = "AddressesReady";

/// Condition: the router works by what the objects say now.
const CONFIG_APPLIED: &str = "ConfigApplied";

/// Condition: everything that the spec names is there.
const TARGETS_FOUND: &str = "TargetsFound";

/// Condition of a router with tunnels: all other ends have lately proved who they are.
pub(super) const PEERS_JOINED: &str = "PeersJoined";

/// What is written of a router's status when addresses are given.
pub const ADDRESS_SHARE: Share =
    Share { manager: "cascina-router-addresses", fields: &["publicIP", "elasticIP"], conditions: &[] };

/// What else is written of it.
pub const SHARE: Share = Share {
    manager: MANAGER,
    fields: &["observedGeneration", "machine", "config", "vpn"],
    conditions: &[READY, ADDRESSES_READY, CONFIG_APPLIED, TARGETS_FOUND, PEERS_JOINED, "Deleting"],
};

/// What is written of the status of its machine.
pub const ROLE_SHARE: Share = Share { manager: MANAGER, fields: &["router"], conditions: &[] };

/// The status of a router after what was heard of it now.
#[must_use]
pub fn status(view: &View, plan: &Plan, heard: Option<&Heard>, now: Timestamp) -> VRouterStatus {
    let router = &view.router;
    let before = router.status.clone().unwrap_or_default();
    let wanted = plan.tell.as_ref().map(|tell| tell.documents.hash());
    let config = config(router, &before, heard, wanted, now);
    let trouble = trouble(view, heard, wanted, now);
    let mut states = vec![ready(plan, trouble.as_ref())];
    if router.metadata.deletion_timestamp.is_some() {
        states.extend(plan.wait.as_ref().map(|wait| State::yes("Deleting", wait.reason, wait.message.clone())));
    } else {
        states.push(addresses_ready(view));
        states.push(config_applied(plan, trouble, wanted, config.as_ref()));
        states.extend(targets_found(view));
    }
    let vpn = tunnels::vpn(view, &before, heard, wanted);
    states.extend(tunnels::joined(view, heard, now));
    VRouterStatus {
        vpn,
        observed_generation: router.metadata.generation,
        machine: view.machine.as_ref().map(|_| machine_name(&router.name_any())),
        config,
        conditions: stamp(states, &before.conditions, router.metadata.generation, now),
        ..VRouterStatus::default()
    }
}

/// What it works by: what it said now, or last.
fn config(
    router: &VRouter,
    before: &VRouterStatus,
    heard: Option<&Heard>,
    wanted: Option<Hash>,
    now: Timestamp,
) -> Option<AppliedConfig> {
    let Some(Heard::InForce(working)) = heard.filter(|_| wanted.is_some()) else { return before.config.clone() };
    let hash = working.hash.to_string();
    let generation = router.metadata.generation.unwrap_or_default();
    let known = before.config.as_ref().filter(|config| config.hash == hash);
    let time = known.map_or_else(|| Time(whole_seconds(now)), |config| config.time.clone());
    Some(AppliedConfig { generation, hash, time })
}

fn ready(plan: &Plan, trouble: Option<&Wait>) -> State {
    match plan.wait.as_ref().or(trouble) {
        Some(wait) => State::no(READY, wait.reason, wait.message.clone()),
        None => State::yes(READY, "Routing", "it works by what its farm says"),
    }
}

/// Why it doesn't work by what it should.
fn trouble(view: &View, heard: Option<&Heard>, wanted: Option<Hash>, now: Timestamp) -> Option<Wait> {
    let silent = view.silent_since.map(|since| Duration::try_from(now.duration_since(since)).unwrap_or_default());
    match heard {
        Some(Heard::Nothing) if silent.is_none_or(|silent| silent < SILENCE) => {
            Some(Wait::new("Pending", "it is being told what to do"))
        }
        Some(Heard::InForce(working)) if Some(working.hash) == wanted => None,
        Some(Heard::InForce(_)) | None => Some(Wait::new("Pending", "it is being told what to do")),
        Some(Heard::Nothing) => {
            Some(Wait::new("RouterSilent", "its agent doesn't answer; what it was told last goes on"))
        }
        Some(Heard::Refuses(why)) => Some(Wait::new("Refused", format!("it refuses what it is told: {why}"))),
    }
}

fn addresses_ready(view: &View) -> State {
    let verdicts = [&view.addresses.own, &view.addresses.elastic];
    let refused = verdicts.into_iter().flatten().find_map(|verdict: &Verdict| verdict.as_ref().err());
    if let Some(wait) = refused {
        return State::no(ADDRESSES_READY, wait.reason, wait.message.clone());
    }
    let given: Vec<_> = view.addresses.all().map(|address| address.to_string()).collect();
    if given.is_empty() {
        return State::yes(ADDRESSES_READY, "NoneNeeded", "the farm has no way out: the site has no public network");
    }
    State::yes(ADDRESSES_READY, "Assigned", given.join(", "))
}

fn config_applied(plan: &Plan, trouble: Option<Wait>, wanted: Option<Hash>, config: Option<&AppliedConfig>) -> State {
    if wanted.is_none() {
        let wait = plan.wait.clone().unwrap_or_else(|| Wait::new("Pending", "its machine doesn't run"));
        return State::no(CONFIG_APPLIED, wait.reason, wait.message);
    }
    match (trouble, config) {
        (None, Some(config)) => {
            let message = format!(
                "generation {} by hash {} since {}",
                config.generation,
                config.hash.get(..12).unwrap_or(&config.hash),
                config.time.0
            );
            State::yes(CONFIG_APPLIED, "Applied", message)
        }
        (None, None) => State::no(CONFIG_APPLIED, "Pending", "it is being told what to do"),
        (Some(wait), _) if wait.reason == "RouterSilent" => State::unknown(CONFIG_APPLIED, wait.reason, wait.message),
        (Some(wait), _) => State::no(CONFIG_APPLIED, wait.reason, wait.message),
    }
}

/// Whether every forward and the elastic address lead somewhere; the rest works without those that don't.
fn targets_found(view: &View) -> Option<State> {
    let waits = &view.desired.as_ref().ok()?.waits;
    Some(match waits.first() {
        None => State::yes(TARGETS_FOUND, "AllFound", "everything leads where it should"),
        Some(first) => {
            let messages: Vec<_> = waits.iter().map(|wait| wait.message.clone()).collect();
            State::no(TARGETS_FOUND, first.reason, some_of(&messages, "; "))
        }
    })
}

/// One line of a router's story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether a person should look.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: String,
    /// What happened.
    pub note: String,
}

/// What is new in a status, told as events.
#[must_use]
pub fn news(before: Option<&VRouterStatus>, after: &VRouterStatus) -> Vec<News> {
    let default = VRouterStatus::default();
    let before = before.unwrap_or(&default);
    let mut news = Vec::new();
    let hash = |status: &VRouterStatus| status.config.as_ref().map(|config| config.hash.clone());
    let applied = find(&after.conditions, CONFIG_APPLIED).filter(|applied| applied.status == "True");
    if let Some(applied) = applied.filter(|_| hash(before) != hash(after)) {
        news.push(News { warning: false, reason: CONFIG_APPLIED.into(), note: applied.message.clone() });
    }
    let works = |status: &VRouterStatus| is_true(&status.conditions, READY);
    for kind in [READY, ADDRESSES_READY, TARGETS_FOUND, PEERS_JOINED] {
        // While a farm is made, much isn't there yet.
        let comes_later = kind == TARGETS_FOUND || kind == PEERS_JOINED;
        if comes_later && !works(after) {
            continue;
        }
        let begins = comes_later && !works(before);
        let reason = |status: &VRouterStatus| find(&status.conditions, kind).map(|state| state.reason.clone());
        let bad = find(&after.conditions, kind).filter(|state| state.status != "True" && is_notable(&state.reason));
        if let Some(bad) = bad.filter(|_| begins || reason(before) != reason(after)) {
            let known = news.iter().any(|known: &News| known.reason == bad.reason);
            news.extend((!known).then(|| News {
                warning: true,
                reason: bad.reason.clone(),
                note: bad.message.clone(),
            }));
        }
    }
    news
}

/// Waits that are over by themselves are no news.
fn is_notable(reason: &str) -> bool {
    ![
        "Pending",
        "NoHandshake",
        "PeerNotReady",
        "MachineMissing",
        "MachineLeaving",
        "MachineNotReady",
        "MachinePresent",
        "NetworkNotReady",
    ]
    .contains(&reason)
}
