//! What is told of a router as events: pure.

use super::status::{ADDRESSES_READY, CONFIG_APPLIED, PEERS_JOINED, REDUNDANT, TARGETS_FOUND};
use crate::api::VRouterStatus;
use crate::api::conditions::{READY, find, is_true};

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
    news.extend(turn(before, after).filter(|_| works(after)));
    for kind in [READY, ADDRESSES_READY, REDUNDANT, TARGETS_FOUND, PEERS_JOINED] {
        // While a farm is made, much isn't there yet.
        let comes_later = [REDUNDANT, TARGETS_FOUND, PEERS_JOINED].contains(&kind);
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

/// Of two machines the other one works now.
fn turn(before: &VRouterStatus, after: &VRouterStatus) -> Option<News> {
    let (was, is) = (before.machine.as_ref()?, after.machine.as_ref()?);
    let turned = before.standby.as_ref().is_some_and(|standby| standby.machine == *is);
    turned.then(|| News { warning: true, reason: "TurnTaken".into(), note: format!("{is} works in place of {was}") })
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
