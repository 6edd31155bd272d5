//! What is wanted of a machine, what was seen of it, and what a plan is made of.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::host::HostStanding;
use super::plan::GONE;
use super::recipe::{Recipe, Refusal};
use crate::api::{DriftPolicy, Phase, Readiness, RunStrategy};
use crate::controllers::observed::Observed;
use crate::libvirt::{Nic, RuleSet, SurveyedDomain, VolumeSpec};

/// A machine on which nothing happens is looked at this often.
const STEADY: Duration = Duration::from_secs(60);

/// What somebody wants of a machine.
#[derive(Clone, Debug)]
pub struct Want {
    /// It is being deleted.
    pub deleted: bool,
    /// When it shall run.
    pub run: RunStrategy,
    /// What makes it Ready.
    pub readiness: Readiness,
    /// A boot that takes longer is reported.
    pub boot_deadline: Duration,
    /// A guest gets so long to shut down.
    pub shutdown_grace: Duration,
    /// What is done about what somebody changed by hand on its host.
    pub drift: DriftPolicy,
}

/// Whether placement lets it run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It has no host.
    Nowhere,
    /// It has a host, where its disks are, and no reservation.
    Resting,
    /// It has a host and a reservation.
    Admitted,
}

/// What was seen of a machine.
#[derive(Clone, Debug)]
pub struct View {
    /// What the names of all its volumes start with.
    pub volume_prefix: String,
    /// Where it was placed.
    pub placement: Placement,
    /// Whether it wishes to run, given its strategy and what it went through.
    pub wishes: bool,
    /// Why placement lets it wait.
    pub waits: Option<Refusal>,
    /// What its host means for it.
    pub host: HostStanding,
    /// The domain on its host.
    pub domain: Observed<SurveyedDomain>,
    /// The volumes on its host.
    pub volumes: Observed<BTreeSet<String>>,
    /// Whether the volumes were looked at after all that was made for it since its last start.
    pub volumes_are_fresh: bool,
    /// Where its disks are, if they are made: a host or a shared storage.
    pub disks_home: Option<String>,
    /// Whether its disks were made there before.
    pub disks_made: bool,
    /// Its network cards, as they should be; none: nobody can tell.
    pub nics: Vec<Nic>,
    /// Why it is cut off the network while it runs.
    pub farm_gone: Option<Refusal>,
    /// How it is made.
    pub recipe: Result<Recipe, Refusal>,
    /// How far its image is on its host, in words; or why it doesn't get there for now.
    pub image_progress: Option<Result<String, String>>,
    /// The spec asks for something that only the next admission can give.
    pub outdated: Option<String>,
    /// What its flavour says of disks, and no admission gives.
    pub kept_disks: Option<String>,
    /// Whether its agent answers, where it was asked.
    pub agent: Option<bool>,
    /// When it was last resumed after an I/O error, if that was lately.
    pub resumed: Option<Timestamp>,
    /// What it went through.
    pub history: History,
}

/// What a machine went through, from its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The phase that its status shows.
    pub phase: Phase,
    /// When its domain was last started, since it was last placed.
    pub started: Option<Timestamp>,
    /// When it was last asked to shut down, if it is shutting down.
    pub stop_asked: Option<Timestamp>,
    /// Whether the guest answered since it was last started.
    pub answered: bool,
    /// Starts that failed in a row.
    pub failure: Option<Failure>,
    /// Its domain vanished, and nothing is done about that before somebody halts it.
    pub vanished: bool,
    /// What was last said of its guest's clock.
    pub clock: Option<Clock>,
}

/// Starts that failed in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How many.
    pub count: i32,
    /// The next one isn't before this time.
    pub retry_after: Timestamp,
    /// What the last one said.
    pub message: String,
}

/// One thing to do on the host. Each may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Define the filter of a rule set.
    EnsureFilter(RuleSet),
    /// Make a disk.
    EnsureVolume(VolumeSpec),
    /// Write the seed volume.
    WriteSeed,
    /// Define the domain.
    Define,
    /// Start it.
    Start,
    /// Let it go on after an I/O error.
    Resume,
    /// Set its guest's clock, which stood still.
    SetClock,
    /// Ask the guest to shut down.
    Shutdown,
    /// Switch it off.
    Destroy,
    /// Remove its definition.
    Undefine,
    /// Remove a volume.
    DeleteVolume(String),
    /// Put the cards of a domain that runs back to what they should be.
    MendNics,
}

/// Something on the host that is other than it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Its kind.
    pub kind: DriftKind,
    /// What is different, in words.
    pub what: String,
}

impl Drift {
    pub(super) fn new(kind: DriftKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }
}

/// What can be other than it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriftKind {
    /// A disk is gone, and what was on it.
    DiskDeleted,
    /// The card may send what it mustn't, or receive it.
    NetworkCard,
    /// The card's cable is pulled.
    CableCut,
    /// Something else of the domain that runs.
    Device,
    /// The domain runs without a definition.
    Undefined,
    /// The domain has another name.
    Renamed,
    /// What it would be started with next.
    Definition,
    /// The seed is gone; it can be written again.
    SeedDeleted,
}

/// What the status shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it is Ready: as its spec wants it, which may be off.
    pub ready: bool,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
    /// Starts that failed in a row.
    pub failure: Option<Failure>,
}

/// What to do and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do, in this order.
    pub steps: Vec<Step>,
    /// What to say.
    pub standing: Standing,
    /// When to look again at the latest.
    pub again: Duration,
    /// Nothing of the machine is left outside: its object may go.
    pub release: bool,
    /// What is other than it was made, the worst first.
    pub drifts: Vec<Drift>,
    /// What puts that right.
    pub repairs: Vec<Step>,
    /// Why that failed.
    pub repair_failure: Option<String>,
    /// What is to be said of the guest's clock, if anything is.
    pub clock: Option<Clock>,
}

/// How the clock of a guest stands whose vCPUs stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// They still do, and it with them.
    StandsStill,
    /// It is behind until it is set.
    Behind,
}

impl Plan {
    /// Whether a machine that is let go has nothing on any host: one whose host doesn't answer may run there.
    pub fn leaves_nothing(&self, placement: &Placement) -> bool {
        self.standing.reason == GONE || *placement == Placement::Nowhere
    }

    /// Nothing to do; the standing says why.
    pub(super) fn stay(phase: Phase, reason: &str, message: impl Into<String>) -> Self {
        let standing =
            Standing { phase, ready: false, reason: reason.to_owned(), message: message.into(), failure: None };
        Self {
            steps: Vec::new(),
            standing,
            again: STEADY,
            release: false,
            drifts: Vec::new(),
            repairs: Vec::new(),
            repair_failure: None,
            clock: None,
        }
    }

    pub(super) fn because(phase: Phase, refusal: &Refusal) -> Self {
        Self::stay(phase, &refusal.reason, refusal.message.clone())
    }

    /// There is nothing left to do or to wait for: it is as its spec wants it.
    pub(super) fn fulfilled(mut self) -> Self {
        self.standing.ready = true;
        self
    }

    pub(super) fn doing(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.steps.extend(steps);
        self
    }

    pub(super) fn again(mut self, after: Duration) -> Self {
        self.again = after.clamp(Duration::from_millis(100), STEADY);
        self
    }

    pub(super) fn failed(mut self, failure: Option<Failure>) -> Self {
        self.standing.failure = failure;
        self
    }
}
