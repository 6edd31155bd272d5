//! What is told of a host that was lost, or said to be, and of what it brings back. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::copies::Standing;
use super::loss::Fence;
use super::plan::Plan;
use crate::api::conditions::{self, FENCED, State};
use crate::api::{FENCED_ANNOTATION, Hypervisor, HypervisorStatus, Tombstone};
use crate::controllers::news::News;

/// Condition of a host with copies of machines that don't belong there.
pub const STRAY_COPIES: &str = "StrayCopies";

/// How many machines a message names.
const NAMED: usize = 5;

/// How the statement that the host is off is taken back.
pub fn unfence(hypervisor: &Hypervisor) -> String {
    format!("to open it again: kubectl annotate hypervisor {} {FENCED_ANNOTATION}-", hypervisor.name_any())
}

/// What became of the statement that the host is off.
pub fn fenced(hypervisor: &Hypervisor, fence: Fence) -> State {
    match fence {
        Fence::Holds => State::yes(FENCED, "Annotated", "somebody said that it is off: its machines may run elsewhere"),
        Fence::Answered => State::no(
            FENCED,
            "HostAnswered",
            format!(
                "it answered while it was said to be off, so that isn't believed any more; {}",
                unfence(hypervisor)
            ),
        ),
    }
}

/// The machines whose copies are being removed, or wait for that.
fn remains(plan: &Plan) -> Vec<String> {
    let stale = plan.copies.iter().filter(|copy| copy.standing == Standing::Stale).map(|copy| copy.name());
    let mut names: Vec<_> = stale.chain(plan.loss.tombstones.iter().map(full_name)).collect();
    names.sort();
    names.dedup();
    names
}

/// What is done before the host takes machines.
pub fn removing(plan: &Plan) -> String {
    format!("first what is left there of {} is removed", named(&remains(plan)))
}

/// Copies that don't belong on the host: those that are being removed, and those that nobody may touch.
pub fn stray_copies(plan: &Plan) -> Option<State> {
    let of = |standing: Standing| {
        let copies = plan.copies.iter().filter(move |copy| copy.standing == standing);
        copies.map(|copy| format!("{} ({}, epoch {})", copy.name(), copy.tag.uid, copy.tag.epoch)).collect::<Vec<_>>()
    };
    let (newer, unclaimed) = (of(Standing::Newer), of(Standing::Unclaimed));
    if !newer.is_empty() {
        let message = format!(
            "{} placed here later than the API server knows, as after an old backup; left alone: {}",
            count(&newer),
            named(&newer)
        );
        return Some(State::yes(STRAY_COPIES, "Newer", message));
    }
    if !unclaimed.is_empty() {
        let message = format!(
            "{} here and not in the API; restore their objects, or virsh destroy and undefine them: {}",
            count(&unclaimed),
            named(&unclaimed)
        );
        return Some(State::yes(STRAY_COPIES, "Unclaimed", message));
    }
    (!plan.removals.is_empty()).then(|| State::yes(STRAY_COPIES, "Removing", removing(plan)))
}

fn count(machines: &[String]) -> String {
    if machines.len() == 1 { "1 machine is".into() } else { format!("{} machines are", machines.len()) }
}

fn named(machines: &[String]) -> String {
    let names = machines.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match machines.len().saturating_sub(NAMED) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

fn full_name(tombstone: &Tombstone) -> String {
    format!("{}/{}", tombstone.copy.namespace, tombstone.copy.name)
}

/// What stays behind on a host that is let go.
pub fn left_behind(plan: &Plan) -> Option<String> {
    let remains = remains(plan);
    (!remains.is_empty())
        .then(|| format!("let go; should it return, what is left there nobody knows of: {}", named(&remains)))
}

/// What is worth an event of what is given up on the host and what turns up there.
pub fn losses(hypervisor: &Hypervisor, plan: &Plan, after: &HypervisorStatus) -> Vec<News> {
    let before = hypervisor.status.as_ref().map(|status| status.tombstones.as_slice()).unwrap_or_default();
    let fresh = after.tombstones.iter().filter(|tombstone| !before.contains(tombstone));
    let (departed, fresh): (Vec<_>, Vec<_>) = fresh.partition(|tombstone| tombstone.departed);
    let [departed, fresh] = [departed, fresh].map(|list| list.into_iter().map(full_name).collect::<Vec<_>>());
    let gone = before.len() > after.tombstones.len();
    let mut news = Vec::new();
    if !departed.is_empty() {
        let message =
            format!("their objects went past their finalizers, so they are removed here: {}", named(&departed));
        news.push(News::normal("RemovingDeparted", message));
    }
    if !fresh.is_empty() {
        let message = format!("given up here, to be removed when the host returns: {}", named(&fresh));
        news.push(News::normal("GivenUp", message));
    }
    if plan.loss.without > 0 && !fresh.is_empty() {
        let message =
            format!("{} machines more have to wait for the host: it has too many tombstones", plan.loss.without);
        news.push(News::warning("TooManyTombstones", message));
    }
    if gone {
        news.push(News::normal("StaleCopiesRemoved", "nothing is left here of machines that were given up"));
    }
    let stray = |conditions: &[Condition]| conditions::find(conditions, STRAY_COPIES).map(|stray| stray.reason.clone());
    let known = stray(hypervisor.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default());
    if let Some(found) =
        conditions::find(&after.conditions, STRAY_COPIES).filter(|found| Some(&found.reason) != known.as_ref())
    {
        let reason = format!("{}Copies", found.reason);
        let removing = found.reason == "Removing";
        let of_kind = if removing { News::normal } else { News::warning };
        news.push(of_kind(reason, found.message.clone()));
    }
    news
}
