//! All the decisions about a host's canary: no I/O, no clock of its own.

use std::time::Duration;

use jiff::Timestamp;

use super::evidence::{Evidence, age};
use super::recipe::Stage;
use crate::controllers::observed::Observed;
use crate::libvirt::{DomainRun, DomainSpec, DomainUuid, SurveyedDomain};

/// A host counts as verified for so many intervals.
const GOOD_FOR: u32 = 3;
/// A canary whose agent says nothing for so long is started anew.
const SILENT_FOR: Duration = Duration::from_secs(180);
/// A canary that boots is asked this often.
const BOOTING: Duration = Duration::from_secs(1);
/// What is waited for wakes the controller; nothing else has to be looked at.
const WAITING: Duration = Duration::from_secs(30);

/// Why there can be no canary until somebody changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// One CamelCase word.
    pub reason: &'static str,
    /// What is missing and the command that mends it.
    pub message: String,
}

impl Obstacle {
    /// An obstacle.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What was seen of a host's canary.
#[derive(Clone, Debug)]
pub struct View {
    /// Whether there shall be one.
    pub wanted: bool,
    /// The attacks are repeated this often.
    pub interval: Duration,
    /// Its UUID.
    pub uuid: DomainUuid,
    /// Which pair of networks is its.
    pub slot: Option<i32>,
    /// Its networks.
    pub stage: Option<Stage>,
    /// How it is made.
    pub recipe: Result<DomainSpec, Obstacle>,
    /// Itself.
    pub canary: Observed<SurveyedDomain>,
    /// Canaries on the host of Hypervisors that aren't there any more.
    pub strays: Vec<DomainUuid>,
    /// What is known of the host's isolation.
    pub evidence: Evidence,
}

/// One thing to do on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Define the filter of machines.
    EnsureFilter,
    /// Define the canary.
    Define,
    /// Start it.
    Start,
    /// Switch it off.
    Destroy,
    /// Remove its definition.
    Undefine,
    /// Put all filters back in place.
    RefreshFilters,
    /// Let it attack itself.
    Attack,
    /// Switch off and undefine a canary that is nobody's any more.
    RemoveStray(DomainUuid),
}

/// What to do, in this order; each step may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// What to do about a host's canary.
pub fn plan(seen: &View, now: Timestamp) -> Plan {
    let strays = seen.strays.iter().copied().map(Step::RemoveStray);
    Plan { steps: strays.chain(steps(seen, now)).collect() }
}

fn steps(seen: &View, now: Timestamp) -> Vec<Step> {
    use Step::{Attack, Define, Destroy, EnsureFilter, RefreshFilters, Start, Undefine};
    let make = [EnsureFilter, Define, Start];
    match &seen.canary {
        Observed::Unknown { .. } => Vec::new(),
        // Somebody else's domain with this UUID.
        Observed::Present(domain) if domain.canary.is_none() => Vec::new(),
        Observed::Present(_) if !seen.wanted => vec![Destroy, Undefine],
        Observed::Absent if seen.wanted && seen.recipe.is_ok() => make.into(),
        Observed::Absent => Vec::new(),
        Observed::Present(domain) if is_outdated(seen, domain) => [vec![Destroy, Undefine], make.into()].concat(),
        Observed::Present(domain) => match domain.run {
            DomainRun::Off(_) if seen.recipe.is_ok() => make.into(),
            DomainRun::Off(_) => Vec::new(),
            DomainRun::Paused | DomainRun::PausedByIoError | DomainRun::ShuttingDown => vec![Destroy],
            DomainRun::Running if is_mute(&seen.evidence, now) => vec![Destroy],
            DomainRun::Running if needs_repair(seen, now) => vec![RefreshFilters, Attack],
            DomainRun::Running if until_due(seen, now).is_zero() => vec![Attack],
            DomainRun::Running => Vec::new(),
        },
    }
}

/// Whether it was made from something else: another image, other rules, other networks.
fn is_outdated(seen: &View, domain: &SurveyedDomain) -> bool {
    let made = domain.canary.as_ref().map(|tag| &tag.spec_hash);
    seen.recipe.as_ref().is_ok_and(|recipe| made != Some(&recipe.tag.spec_hash))
}

fn is_mute(evidence: &Evidence, now: Timestamp) -> bool {
    age(evidence.answered.max(evidence.began), now).is_some_and(|silence| silence >= SILENT_FOR)
}

/// Something leaked that filters stop: they are put back at once, and then once an interval as long as it leaks.
fn needs_repair(seen: &View, now: Timestamp) -> bool {
    let leaks = seen.evidence.leaks.iter().any(|leak| leak.is_for_filters());
    leaks && age(seen.evidence.repaired, now).is_none_or(|age| age >= seen.interval)
}

fn until_due(seen: &View, now: Timestamp) -> Duration {
    age(seen.evidence.tried, now).map_or(Duration::ZERO, |age| seen.interval.saturating_sub(age))
}

/// Whether the host is verified now.
pub fn is_verified(seen: &View, now: Timestamp) -> bool {
    let fresh = age(seen.evidence.held, now).is_some_and(|age| age < seen.interval * GOOD_FOR);
    seen.evidence.leaks.is_empty() && fresh
}

/// When to look again, if nothing happens before.
pub fn pause(seen: &View, now: Timestamp) -> Duration {
    let runs = seen.canary.present().is_some_and(|domain| domain.run == DomainRun::Running);
    if !seen.wanted || !runs {
        let is_soon = seen.canary.present().is_some() || seen.wanted && seen.slot.is_none();
        return if is_soon { BOOTING } else { WAITING };
    }
    if needs_repair(seen, now) {
        return Duration::ZERO;
    }
    until_due(seen, now).max(if seen.evidence.tried.is_some() { Duration::ZERO } else { BOOTING })
}
