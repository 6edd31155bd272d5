//! What is told of a host's isolation. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use super::evidence::age;
use super::plan::{View, is_verified as holds};
use super::verdict::Check;
use crate::api::conditions::{self, State};
use crate::api::{Hypervisor, HypervisorStatus, Isolation};
use crate::controllers::news::{Attention, News};
use crate::controllers::observed::Observed;
use crate::controllers::writes::Share;
use crate::libvirt::DomainRun;

/// The condition of a host that keeps farms apart.
pub const ISOLATION_VERIFIED: &str = "IsolationVerified";

/// Its reason where nothing is proved, by choice of the site.
pub const DISABLED: &str = "Disabled";

/// What of the status the controller writes.
pub const SHARE: Share =
    Share { manager: "cascina-isolation", fields: &["isolation"], conditions: &[ISOLATION_VERIFIED] };

/// While all is well, the time of the last good run is told this often.
pub const TELL_EVERY: Duration = Duration::from_secs(60);

/// Whether a status says that the host is verified.
#[must_use]
pub fn is_verified(status: &HypervisorStatus) -> bool {
    conditions::is_true(&status.conditions, ISOLATION_VERIFIED)
}

/// Whether new machines may be placed on a host, as far as its isolation is concerned.
#[must_use]
pub fn admits_machines(status: &HypervisorStatus) -> bool {
    let verified = conditions::find(&status.conditions, ISOLATION_VERIFIED);
    verified.is_some_and(|verified| verified.status == "True" || verified.reason == DISABLED)
}

/// The controller's share of the status.
pub fn status(hypervisor: &Hypervisor, seen: &View, now: Timestamp) -> HypervisorStatus {
    let before = hypervisor.status.clone().unwrap_or_default();
    let generation = hypervisor.metadata.generation;
    let told = before.isolation.as_ref().and_then(|isolation| isolation.last_verified.as_ref()).map(|time| time.0);
    let isolation = seen.slot.map(|slot| Isolation {
        slot,
        last_verified: last_verified(told, seen.evidence.held).map(Time),
        leaks: seen.evidence.leaks.iter().map(|leak| leak.name().to_owned()).collect(),
    });
    let states = vec![state(hypervisor, seen, now)];
    HypervisorStatus { isolation, conditions: conditions::stamp(states, &before.conditions, generation, now), ..before }
}

/// A newer time is told when the last one told is old enough: not every run is worth a write.
fn last_verified(told: Option<Timestamp>, held: Option<Timestamp>) -> Option<Timestamp> {
    match (told, held) {
        (Some(told), Some(held)) if age(Some(told), held)? < TELL_EVERY => Some(told),
        (told, held) => held.map(conditions::whole_seconds).or(told),
    }
}

fn state(hypervisor: &Hypervisor, seen: &View, now: Timestamp) -> State {
    let kind = ISOLATION_VERIFIED;
    let evidence = &seen.evidence;
    if !seen.wanted {
        return State::unknown(kind, DISABLED, "site.isolation.selfTest is Disabled: nothing is proved");
    }
    if !evidence.leaks.is_empty() {
        let (reason, message) = leaked(hypervisor, &evidence.leaks.iter().copied().collect::<Vec<_>>());
        return State::no(kind, reason, message);
    }
    if holds(seen, now) {
        let message = format!("honest frames arrive, {} attacks don't", Check::ALL.len() - 1);
        return State::yes(kind, "Verified", message);
    }
    let (reason, message) = unproved(seen);
    State::unknown(kind, reason, message)
}

/// What succeeded, and the command that mends it.
fn leaked(hypervisor: &Hypervisor, leaks: &[Check]) -> (&'static str, String) {
    let names: Vec<_> = leaks.iter().map(|leak| leak.name()).collect();
    let names = names.join(", ");
    if leaks.iter().any(|leak| leak.is_for_filters()) {
        let message = format!(
            "these attacks succeed: {names}. libvirt's filters are not in place, and putting them back is tried; if it stays so, \
             look at `ebtables-nft -t nat -L` on the host and restart libvirtd there"
        );
        return ("FramesLeaked", message);
    }
    let bridge = &hypervisor.spec.networks.private.bridge;
    let message = format!(
        "a guest can take over MAC addresses by link-local frames ({names}); on the host: ip link set {bridge} type bridge \
         no_linklocal_learn 1"
    );
    ("MacTableStolen", message)
}

/// Why nothing is known.
fn unproved(seen: &View) -> (&'static str, String) {
    let trouble = || seen.evidence.trouble.clone();
    match (&seen.canary, &seen.recipe) {
        (Observed::Unknown { why, .. }, _) => ("HostUnknown", why.clone()),
        (Observed::Present(domain), _) if domain.canary.is_none() => {
            let message =
                format!("domain {} is not the operator's, but has the uuid of its canary: undefine it", domain.name);
            ("ForeignDomain", message)
        }
        (Observed::Present(domain), _) if domain.run == DomainRun::Running => match seen.evidence.answered {
            None => ("CanaryBooting", "the canary's agent doesn't answer yet".to_owned()),
            Some(_) => ("NotRun", trouble().unwrap_or_else(|| "the canary's agent doesn't answer any more".to_owned())),
        },
        (_, Err(obstacle)) => (obstacle.reason, obstacle.message.clone()),
        (_, Ok(_)) => ("CanaryBooting", trouble().unwrap_or_else(|| "the canary is being started".to_owned())),
    }
}

/// What is worth an event in the step from the old status to the new.
pub fn news(hypervisor: &Hypervisor, after: &HypervisorStatus, repaired: bool) -> Vec<News> {
    let name = hypervisor.name_any();
    let before = hypervisor.status.as_ref().and_then(|status| conditions::find(&status.conditions, ISOLATION_VERIFIED));
    let mut news = Vec::new();
    if repaired {
        let note = format!("{name}: filters were not in place; they were put back and hold now");
        news.push(News::warning("FiltersPutBack", note));
    }
    let Some(now) = conditions::find(&after.conditions, ISOLATION_VERIFIED) else { return news };
    let was_true = before.is_some_and(|before| before.status == "True");
    let changed = before.is_none_or(|before| before.status != now.status || before.reason != now.reason);
    let worth_telling = now.status != "Unknown" || (was_true && now.reason != DISABLED);
    if changed && worth_telling {
        let note = format!("{name}: {}", now.message);
        news.push(match now.status.as_str() {
            "True" => News::normal(&now.reason, note),
            "False" => News::warning(&now.reason, note),
            // A canary that is started anew answers again in a moment.
            _ => unknown(now, note),
        });
    }
    news
}

/// What a person has to act on if it lasts, by the status alone: a host whose canary boots, or that is silent, was not proved to
/// hold before, or is told of as such.
pub fn lasting(hypervisor: &Hypervisor) -> Option<News> {
    let now = conditions::find(&hypervisor.status.as_ref()?.conditions, ISOLATION_VERIFIED)?;
    let is_told = now.status == "Unknown" && ![DISABLED, "CanaryBooting", "HostUnknown"].contains(&now.reason.as_str());
    is_told.then(|| unknown(now, format!("{}: {}", hypervisor.name_any(), now.message)))
}

fn unknown(now: &Condition, note: String) -> News {
    News {
        attention: Attention::if_it_lasts(ISOLATION_VERIFIED, &now.reason),
        reason: format!("Isolation{}", now.reason),
        note,
    }
}
