//! What is told of a router: pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::addresses::Verdict;
use super::observe::View;
use super::plan::{Plan, Seat};
use super::talk::Heard;
use super::tunnels;
use crate::api::conditions::{READY, State, stamp, whole_seconds};
use crate::api::{AppliedConfig, Standby, VRouter, VRouterStatus};
use crate::controllers::farm::some_of;
use crate::controllers::placement::plan::Wait;
use crate::controllers::writes::Share;
use crate::network::router::Hash;

/// A shorter silence says nothing: a guest that is switched off is told of a moment later.
const SILENCE: Duration = Duration::from_secs(5);

/// Name of the field manager.
pub const MANAGER: &str = "cascina-router";

/// Condition: the router has the public addresses that it should have.
pub(super) const ADDRESSES_READY: &str = "AddressesReady";

/// Condition: the router works by what the objects say now.
pub(super) const CONFIG_APPLIED: &str = "ConfigApplied";

/// Condition of a router with two machines: the one whose turn it isn't would do as well.
pub(super) const REDUNDANT: &str = "Redundant";

/// Condition: everything that the spec names is there.
pub(super) const TARGETS_FOUND: &str = "TargetsFound";

/// Condition of a router with tunnels: all other ends have lately proved who they are.
pub(super) const PEERS_JOINED: &str = "PeersJoined";

/// Condition of a router that could ask for names outside and knows nobody whom.
pub(super) const NAMES_OUTSIDE: &str = "NamesOutside";

/// What is written of a router's status when addresses are given.
pub const ADDRESS_SHARE: Share =
    Share { manager: "cascina-router-addresses", fields: &["publicIP", "elasticIP"], conditions: &[] };

/// What else is written of it.
pub const SHARE: Share = Share {
    manager: MANAGER,
    fields: &["observedGeneration", "machine", "config", "standby", "vpn", "consents"],
    conditions: &[
        READY,
        ADDRESSES_READY,
        CONFIG_APPLIED,
        REDUNDANT,
        TARGETS_FOUND,
        NAMES_OUTSIDE,
        PEERS_JOINED,
        "Deleting",
    ],
};

/// What is written of the status of its machine.
pub const ROLE_SHARE: Share = Share { manager: MANAGER, fields: &["router"], conditions: &[] };

/// The status of a router after what was heard now of the machines that have its seats.
#[must_use]
pub fn status(view: &View, plan: &Plan, heard: &[Option<Heard>], now: Timestamp) -> VRouterStatus {
    let router = &view.router;
    let before = router.status.clone().unwrap_or_default();
    let standings = standings(view, plan, heard, now);
    let leader = leader(&standings, before.machine.as_deref());
    let mut states = vec![ready(plan, leader)];
    if router.metadata.deletion_timestamp.is_some() {
        states.extend(plan.wait.as_ref().map(|wait| State::yes("Deleting", wait.reason, wait.message.clone())));
    } else {
        states.push(addresses_ready(view));
        states.push(config_applied(plan, leader));
        states.extend(redundant(view, &standings, leader));
        states.extend(targets_found(view));
        states.extend(names_outside(view));
    }
    let heard = leader.and_then(|leader| leader.heard);
    let vpn = tunnels::vpn(view, &before, heard, leader.and_then(|leader| leader.wanted));
    states.extend(tunnels::joined(view, heard, now));
    let left = || view.ours().next().map(|one| one.machine.name_any());
    let standby = standings.iter().find(|one| leader.is_some_and(|leader| leader.name != one.name));
    VRouterStatus {
        vpn,
        consents: view.consents.clone(),
        observed_generation: router.metadata.generation,
        machine: leader.map(|leader| leader.name.to_owned()).or_else(left),
        config: leader.map_or(before.config, |leader| leader.config.clone()),
        standby: standby.map(|one| Standby { machine: one.name.to_owned(), config: one.config.clone() }),
        conditions: stamp(states, &before.conditions, router.metadata.generation, now),
        ..VRouterStatus::default()
    }
}

/// How one of the router's machines stands.
struct Standing<'a> {
    name: &'a str,
    /// What it said now.
    heard: Option<&'a Heard>,
    /// By what it is to work.
    wanted: Option<Hash>,
    /// Why it doesn't.
    trouble: Option<Wait>,
    /// Whether it is its turn.
    leads: bool,
    /// What it works by: what it said now, or last.
    config: Option<AppliedConfig>,
    /// Its host.
    host: Option<&'a str>,
}

fn standings<'a>(view: &View, plan: &'a Plan, heard: &'a [Option<Heard>], now: Timestamp) -> Vec<Standing<'a>> {
    let alone = plan.seats.len() == 1;
    let standing = |(seat, heard): (&'a Seat, &'a Option<Heard>)| {
        let heard = heard.as_ref();
        let wanted = seat.tell.as_ref().map(|tell| tell.documents.hash());
        let silent = view.ours().find(|one| one.machine.name_any() == seat.name).and_then(|one| one.silent_since);
        let silent = silent.map(|since| Duration::try_from(now.duration_since(since)).unwrap_or_default());
        Standing {
            name: &seat.name,
            heard,
            wanted,
            trouble: seat.wait.clone().or_else(|| trouble(heard, wanted, silent)),
            leads: alone || matches!(heard, Some(Heard::InForce(working)) if working.leads == Some(true)),
            config: config(&view.router, &seat.name, heard, wanted, now),
            host: seat.tell.as_ref().map(|tell| tell.host.as_str()),
        }
    };
    plan.seats.iter().zip(heard).map(standing).collect()
}

/// The one whose turn it is, or was last. Of two that both have it, it is the one that had it before: the other is cut off from
/// the farm, and knows no better.
fn leader<'a>(standings: &'a [Standing<'a>], before: Option<&str>) -> Option<&'a Standing<'a>> {
    let had_it = |one: &&Standing<'_>| Some(one.name) == before;
    let leads = || standings.iter().filter(|one| one.leads);
    let leader = leads().find(had_it).or_else(|| leads().next());
    leader.or_else(|| standings.iter().find(had_it)).or_else(|| standings.first())
}

/// What a machine works by.
fn config(
    router: &VRouter,
    machine: &str,
    heard: Option<&Heard>,
    wanted: Option<Hash>,
    now: Timestamp,
) -> Option<AppliedConfig> {
    let known = known_config(router, machine);
    let Some(Heard::InForce(working)) = heard.filter(|_| wanted.is_some()) else { return known };
    let hash = working.hash.to_string();
    let generation = router.metadata.generation.unwrap_or_default();
    let same = known.filter(|config| config.hash == hash);
    let time = same.map_or_else(|| Time(whole_seconds(now)), |config| config.time);
    Some(AppliedConfig { generation, hash, time })
}

/// What a machine was last known to work by.
fn known_config(router: &VRouter, machine: &str) -> Option<AppliedConfig> {
    let before = router.status.as_ref()?;
    if before.machine.as_deref() == Some(machine) {
        return before.config.clone();
    }
    before.standby.as_ref().filter(|standby| standby.machine == machine)?.config.clone()
}

fn ready(plan: &Plan, leader: Option<&Standing<'_>>) -> State {
    let no = |wait: &Wait| State::no(READY, wait.reason, wait.message.clone());
    match (&plan.wait, leader) {
        (Some(wait), _) => no(wait),
        (None, None) => State::no(READY, "Pending", "its machine is being made"),
        (None, Some(leader)) => match &leader.trouble {
            Some(wait) => no(wait),
            None if leader.leads => State::yes(READY, "Routing", "it works by what its farm says"),
            None => State::no(READY, "Pending", "its two machines agree whose turn it is"),
        },
    }
}

/// Whether the other of two machines would do as well; `None`: there is to be one.
fn redundant(view: &View, standings: &[Standing<'_>], leader: Option<&Standing<'_>>) -> Option<State> {
    if view.seats().len() < 2 {
        return None;
    }
    let no = |wait: Wait| Some(State::no(REDUNDANT, wait.reason, wait.message));
    let Some(leader) = leader else { return no(Wait::new("Pending", "its machines are being made")) };
    let standby = standings.iter().find(|one| one.name != leader.name)?;
    if let Some(wait) = &standby.trouble {
        return no(wait.clone());
    }
    if standby.leads {
        let [one, other] = [leader, standby].map(|one| one.host.unwrap_or("its host"));
        let problem = format!(
            "both of its machines work: they don't hear each other; the farm's network between {one} and {other} is cut"
        );
        return no(Wait::new("BothLead", problem));
    }
    let host = standby.host.unwrap_or("its host");
    Some(State::yes(REDUNDANT, "StandbyReady", format!("{} on {host} takes its turn if need be", standby.name)))
}

/// Why a machine doesn't work by what it should; `silent`: for how long its agent hasn't answered.
fn trouble(heard: Option<&Heard>, wanted: Option<Hash>, silent: Option<Duration>) -> Option<Wait> {
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

fn config_applied(plan: &Plan, leader: Option<&Standing<'_>>) -> State {
    let wait = plan.wait.clone().or_else(|| leader.and_then(|leader| leader.trouble.clone()));
    match (wait, leader.and_then(|leader| leader.config.as_ref())) {
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

/// That names outside are answered by nobody; of a router that can ask, or has nobody to ask anyway, nothing is told.
fn names_outside(view: &View) -> Option<State> {
    let router = &view.desired.as_ref().ok()?.router;
    (router.public.is_some() && router.dns.is_empty()).then(|| {
        let message = "no DNS server is given, so machines find no name outside their farm: set site.dns, or network.dns of the farm";
        State::no(NAMES_OUTSIDE, "NoDnsServer", message)
    })
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
