//! What is told of a router as events: pure.

use super::status::{ADDRESSES_READY, CONFIG_APPLIED, PEERS_JOINED, REDUNDANT, TARGETS_FOUND};
use crate::api::conditions::{READY, find, is_true};
use crate::api::{VRouter, VRouterStatus};
use crate::controllers::news::News;
use crate::controllers::placement::plan::Wait;

/// What is new in a status, told as events.
#[must_use]
pub fn news(before: Option<&VRouterStatus>, after: &VRouterStatus) -> Vec<News> {
    let default = VRouterStatus::default();
    let before = before.unwrap_or(&default);
    let mut news = Vec::new();
    let hash = |status: &VRouterStatus| status.config.as_ref().map(|config| config.hash.clone());
    let applied = find(&after.conditions, CONFIG_APPLIED).filter(|applied| applied.status == "True");
    if let Some(applied) = applied.filter(|_| hash(before) != hash(after)) {
        news.push(News::normal(CONFIG_APPLIED, &applied.message));
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
            news.extend((!known).then(|| News::if_it_lasts(kind, &bad.reason, &bad.message)));
        }
    }
    news
}

/// Of two machines the other one works now. Whether one is left to take the next turn is told besides.
fn turn(before: &VRouterStatus, after: &VRouterStatus) -> Option<News> {
    let (was, is) = (before.machine.as_ref()?, after.machine.as_ref()?);
    let turned = before.standby.as_ref().is_some_and(|standby| standby.machine == *is);
    turned.then(|| News::normal("TurnTaken", format!("{is} works in place of {was}")))
}

/// Why one of its machines is made anew, which happens by itself, whatever failed. What doesn't get well by that is told of the
/// router.
#[must_use]
pub fn of_deletion(why: &Wait) -> News {
    News::normal(why.reason.to_owned(), why.message.clone())
}

/// What a person has to act on if it lasts, by the status alone.
#[must_use]
pub fn lasting(router: &VRouter) -> Vec<News> {
    let told = router.status.as_ref().map(|status| news(None, status)).unwrap_or_default();
    told.into_iter().filter(News::has_to_last).collect()
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
