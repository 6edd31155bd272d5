//! All the decisions about a machine: no I/O, no clock of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::drift;
use super::recipe::{Recipe, Refusal};
use super::situation::{Clock, DriftKind, Failure, Placement, Plan, Step, View, Want};
use crate::api::{DriftPolicy, Phase, Readiness, RunStrategy};
use crate::controllers::observed::Observed;
use crate::libvirt::{DomainRun, StopReason, SurveyedDomain};

/// A machine that ran at least this long did not fail to start.
const RAN_WELL: Duration = Duration::from_secs(60);

/// The longest pause between starts that fail.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A guest that boots is asked at first this often whether it answers.
const BOOT_POLL: Duration = Duration::from_millis(500);

/// And at last this often.
const LAZY_POLL: Duration = Duration::from_secs(5);

/// What was refused may be corrected in a Secret or ConfigMap, which nobody watches: it is read again this often.
const REFUSED: Duration = Duration::from_secs(10);

/// A guest that an I/O error paused is resumed this often.
const RESUME_EVERY: Duration = Duration::from_secs(10);

/// And looked at so soon after that.
const RESUMED: Duration = Duration::from_secs(1);

/// A clock that is behind is tried to be set this often.
const CLOCK_EVERY: Duration = Duration::from_secs(10);

/// A guest that shuts down is looked at this often.
const STOP_POLL: Duration = Duration::from_secs(1);

/// Reason of a machine whose domain vanished, where that is only reported.
pub const UNDEFINED: &str = DriftKind::Undefined.reason();

/// Seconds after which it is asked again.
const ASK_AGAIN: u64 = 10;

/// Reason of a machine that goes without its host.
pub const LEFT_BEHIND: &str = "LeftBehind";

/// Reason of a machine of which nothing is left on its host.
pub const GONE: &str = "Gone";

/// What to do about a machine.
pub fn plan(want: &Want, seen: &View, now: Timestamp) -> Plan {
    if want.deleted {
        return tear_down(seen);
    }
    let mut plan = drift::correct(decide(want, seen, now), want, seen);
    if let Some(refusal) = seen.farm_gone.as_ref().filter(|_| seen.domain.present().is_some_and(is_active)) {
        plan.standing.ready = false;
        (plan.standing.reason, plan.standing.message) = (refusal.reason.clone(), refusal.message.clone());
    }
    plan
}

fn decide(want: &Want, seen: &View, now: Timestamp) -> Plan {
    match (&seen.placement, &seen.domain) {
        (Placement::Nowhere, _) => wait_for_placement(want, seen),
        (_, Observed::Unknown { why, .. }) => {
            let phase = if seen.history.phase < Phase::Booting { seen.history.phase } else { Phase::Unknown };
            let prospects = seen.host.prospects.as_ref().map(|prospects| format!("; {prospects}"));
            let message = format!("nothing is known of it: {why}{}", prospects.unwrap_or_default());
            let mut plan = Plan::stay(phase, "HostUnreachable", message)
                .failed(seen.history.failure.clone())
                .again(Duration::from_secs(5));
            plan.clock = seen.history.clock;
            plan
        }
        (_, Observed::Present(domain)) if domain.tag.is_none() => Plan::stay(
            Phase::Failed,
            "ForeignDomain",
            format!("the domain {:?} has this machine's UUID and isn't ours; remove it from the host", domain.name),
        ),
        (Placement::Resting, Observed::Present(domain)) if is_active(domain) => stop(want, seen, now),
        (Placement::Resting, _) => rest(want, seen),
        (Placement::Admitted, Observed::Absent) => {
            if seen.wishes {
                absent(want, seen, now)
            } else {
                rest(want, seen)
            }
        }
        (Placement::Admitted, Observed::Present(domain)) => match domain.run {
            DomainRun::Off(reason) => off(want, seen, domain, reason, now),
            DomainRun::Running | DomainRun::Paused | DomainRun::PausedByIoError | DomainRun::ShuttingDown => {
                running(want, seen, domain, now)
            }
        },
    }
}

fn wait_for_placement(want: &Want, seen: &View) -> Plan {
    if want.run == RunStrategy::Halted {
        return halted("spec.runStrategy is Halted; it never ran, and has no disks yet");
    }
    match &seen.waits {
        Some(refusal) => Plan::because(Phase::Pending, refusal),
        None => Plan::stay(Phase::Pending, "NotPlaced", "waits for its address and a host"),
    }
}

fn is_active(domain: &SurveyedDomain) -> bool {
    !matches!(domain.run, DomainRun::Off(_))
}

/// It is off, as somebody wants it.
fn halted(message: &str) -> Plan {
    Plan::stay(Phase::Stopped, "Halted", message).fulfilled()
}

/// It is off and stays so.
fn rest(want: &Want, seen: &View) -> Plan {
    match want.run {
        RunStrategy::Halted => halted("stopped by spec.runStrategy: Halted"),
        RunStrategy::Always => {
            let waits = seen.waits.clone();
            let refusal = waits.unwrap_or_else(|| Refusal::new("NotAdmitted", "waits for room on its host"));
            Plan::because(Phase::Pending, &refusal)
        }
        RunStrategy::RerunOnFailure | RunStrategy::Once => over(seen.history.phase == Phase::Failed),
    }
}

/// It came to the end that its strategy knows.
fn over(failed: bool) -> Plan {
    if failed {
        return Plan::stay(Phase::Failed, "Failed", "failed, and spec.runStrategy doesn't start it again");
    }
    Plan::stay(Phase::Stopped, "Finished", "the guest shut itself down").fulfilled()
}

/// Its domain isn't there: it was never made here, or somebody removed it.
fn absent(want: &Want, seen: &View, now: Timestamp) -> Plan {
    if seen.history.started.is_none() && !seen.history.vanished {
        return make(seen, now);
    }
    if want.drift == DriftPolicy::Report {
        let message = "its domain was removed from the host and the Hypervisor's driftPolicy is Report: halt the machine and start it again, or delete it";
        return Plan::stay(Phase::Failed, UNDEFINED, message);
    }
    ended(want, seen, StopReason::Destroyed, "its domain was removed from the host", now)
}

/// Everything that it needs, then its start.
fn make(seen: &View, now: Timestamp) -> Plan {
    if let Some(refusal) = &seen.host.closed {
        return Plan::because(Phase::Scheduled, refusal)
            .failed(seen.history.failure.clone())
            .again(Duration::from_secs(1));
    }
    if let Some(failure) = seen.history.failure.as_ref().filter(|failure| failure.retry_after > now) {
        return back_off(failure, now);
    }
    let recipe = match &seen.recipe {
        Ok(recipe) => recipe,
        Err(refusal) => return Plan::because(Phase::Scheduled, refusal).again(REFUSED),
    };
    let Observed::Present(volumes) = &seen.volumes else {
        return Plan::stay(Phase::Scheduled, "HostUnreachable", "the host's volumes can't be read")
            .again(Duration::from_secs(5));
    };
    if recipe.image_volumes.iter().any(|volume| !volumes.contains(volume)) {
        let (reason, progress) = match &seen.image_progress {
            None => ("ImageNotOnHost", "not begun"),
            Some(Ok(progress)) => ("ImageNotOnHost", progress.as_str()),
            Some(Err(failure)) => ("UploadFailed", failure.as_str()),
        };
        return Plan::stay(Phase::Scheduled, reason, format!("the image's copy on the host: {progress}"))
            .again(Duration::from_secs(2));
    }
    let lost = drift::lost_disks(recipe, seen);
    if !lost.is_empty() {
        let advice = DriftKind::DiskDeleted.advice(DriftPolicy::Repair);
        let message = format!("volume {} is gone from the host's pool: {advice}", lost.join(", "));
        return Plan::stay(Phase::Failed, DriftKind::DiskDeleted.reason(), message).again(LAZY_POLL);
    }
    let missing: Vec<_> = recipe.volumes.iter().filter(|volume| !volumes.contains(volume.name())).collect();
    if !missing.is_empty() && seen.disks_made {
        return Plan::stay(seen.history.phase, "Looking", "waits for a look at the host's volumes").again(BOOT_POLL);
    }
    let mut steps = filters(recipe);
    steps.extend(missing.into_iter().cloned().map(Step::EnsureVolume));
    if recipe.seed.as_ref().is_some_and(|seed| !volumes.contains(&seed.name)) {
        steps.push(Step::WriteSeed);
    }
    if !seen.domain.present().is_some_and(|domain| drift::is_defined_as_wanted(domain, recipe)) {
        steps.push(Step::Define);
    }
    steps.push(Step::Start);
    steps.extend(stale_seeds(recipe, volumes).map(Step::DeleteVolume));
    Plan::stay(Phase::Provisioning, "Provisioning", "its volumes and its domain are being made")
        .doing(steps)
        .failed(seen.history.failure.clone())
        .again(BOOT_POLL)
}

/// Before every start, whatever a survey told: an idle host's filters are removed, perhaps since it was read.
fn filters(recipe: &Recipe) -> Vec<Step> {
    let sets: BTreeSet<_> = recipe.domain.nics.iter().map(|nic| nic.hold.rules()).collect();
    sets.into_iter().map(Step::EnsureFilter).collect()
}

/// Seeds of this machine that the domain doesn't use any more.
fn stale_seeds<'a>(recipe: &'a Recipe, volumes: &'a BTreeSet<String>) -> impl Iterator<Item = String> + 'a {
    let prefix = format!("{}-seed-", recipe.domain.uuid);
    let current = recipe.seed.as_ref().map(|seed| &seed.name);
    volumes.iter().filter(move |name| name.starts_with(&prefix) && Some(*name) != current).cloned()
}

/// It is off: by whom, and shall it be on?
fn off(want: &Want, seen: &View, domain: &SurveyedDomain, reason: StopReason, now: Timestamp) -> Plan {
    if !seen.wishes {
        return rest(want, seen);
    }
    let ours = seen.recipe.as_ref().ok().map(|recipe| recipe.domain.tag.epoch);
    let this_start = domain.tag.as_ref().map(|tag| tag.epoch) == ours;
    if this_start && seen.history.phase == Phase::Stopped {
        return Plan::stay(Phase::Stopped, "Restarting", "waits to be admitted again").again(Duration::from_secs(1));
    }
    if matches!(reason, StopReason::NotStarted | StopReason::Saved) || !this_start {
        let mut plan = make(seen, now);
        // A host that is shut down may save its guests. Such a guest goes on where it was, and so does its clock.
        plan.clock = (this_start && seen.history.started.is_some()).then_some(Clock::Behind);
        return plan;
    }
    let what = match reason {
        StopReason::Shutdown => "the guest shut itself down",
        StopReason::Destroyed => "it was switched off on the host",
        StopReason::Crashed | StopReason::NotStarted | StopReason::Saved => "the guest or QEMU crashed",
    };
    ended(want, seen, reason, what, now)
}

/// It ran and doesn't any more.
fn ended(want: &Want, seen: &View, reason: StopReason, what: &str, now: Timestamp) -> Plan {
    if want.run == RunStrategy::Halted {
        return rest(want, seen);
    }
    if let Some(phase) = end_of(want.run, reason) {
        return over(phase == Phase::Failed);
    }
    match new_failure(seen, what, now) {
        None => make(seen, now),
        Some(failure) if failure.count == 0 => make(seen, now).failed(None),
        Some(failure) => back_off(&failure, now),
    }
}

/// The phase in which a run of this strategy ends for good; none: it is started again.
const fn end_of(run: RunStrategy, reason: StopReason) -> Option<Phase> {
    match (run, reason) {
        (RunStrategy::Once | RunStrategy::RerunOnFailure, StopReason::Shutdown) => Some(Phase::Stopped),
        (RunStrategy::Once, StopReason::Destroyed | StopReason::Crashed) => Some(Phase::Failed),
        _ => None,
    }
}

/// The failure that this end of a run is, unless it is counted already.
fn new_failure(seen: &View, what: &str, now: Timestamp) -> Option<Failure> {
    let started = seen.history.started?;
    let counted = seen.history.failure.as_ref().is_some_and(|failure| failure.retry_after >= started);
    if counted {
        return None;
    }
    let ran = Duration::try_from(now.duration_since(started)).unwrap_or_default();
    let before = seen.history.failure.as_ref().map_or(0, |failure| failure.count);
    let count = if ran >= RAN_WELL { 0 } else { before.saturating_add(1) };
    let retry_after = now.checked_add(pause(count)).unwrap_or(now);
    Some(Failure { count, retry_after, message: format!("{what} {} s after its start", ran.as_secs()) })
}

/// The pause before the next start after so many that failed: 10 s, doubled each time, at most 5 minutes.
pub fn pause(count: i32) -> Duration {
    match u32::try_from(count) {
        Err(_) | Ok(0) => Duration::ZERO,
        Ok(count) => Duration::from_secs(10).saturating_mul(1 << (count - 1).min(8)).min(LONGEST_PAUSE),
    }
}

fn back_off(failure: &Failure, now: Timestamp) -> Plan {
    let left = Duration::try_from(failure.retry_after.duration_since(now)).unwrap_or_default();
    let message =
        format!("{}; start {} failed, the next is tried at {}", failure.message, failure.count, failure.retry_after);
    Plan::stay(Phase::Pending, "BackOff", message).failed(Some(failure.clone())).again(left)
}

/// It is on: shall it be, does it answer, is it what the spec says?
fn running(want: &Want, seen: &View, domain: &SurveyedDomain, now: Timestamp) -> Plan {
    let ours = seen.recipe.as_ref().ok().map(|recipe| recipe.domain.tag.epoch);
    let theirs = domain.tag.as_ref().map(|tag| tag.epoch);
    if let (Some(ours), Some(theirs)) = (ours, theirs)
        && theirs < ours
    {
        return Plan::stay(Phase::Provisioning, "StaleCopy", "a copy from an earlier placement is being switched off")
            .doing([Step::Destroy])
            .again(BOOT_POLL);
    }
    if want.run == RunStrategy::Halted {
        return stop(want, seen, now);
    }
    let ran = seen.history.started.map(|started| Duration::try_from(now.duration_since(started)).unwrap_or_default());
    let failure = seen.history.failure.clone().filter(|_| ran.is_none_or(|ran| ran < RAN_WELL));
    let mut plan = match domain.run {
        DomainRun::Paused => Plan::stay(
            Phase::Running,
            "Paused",
            "the guest is paused: somebody suspended it on its host; virsh resume there lets it go on",
        )
        .again(Duration::from_secs(5)),
        DomainRun::PausedByIoError => paused_by_io_error(seen, now),
        DomainRun::ShuttingDown => {
            Plan::stay(Phase::Stopping, "ShuttingDown", "the guest is shutting down").again(BOOT_POLL)
        }
        DomainRun::Running | DomainRun::Off(_) => answering(want, seen, ran),
    };
    plan.standing.failure = failure;
    keep_time(plan, seen, domain.run)
}

/// The clock of a guest whose vCPUs stand still stands still with them. That is written down before they may go on, and the
/// clock set when they do, as soon as somebody in the guest listens.
fn keep_time(mut plan: Plan, seen: &View, run: DomainRun) -> Plan {
    let stands_still = matches!(run, DomainRun::Paused | DomainRun::PausedByIoError);
    plan.clock = if stands_still { Some(Clock::StandsStill) } else { seen.history.clock.map(|_| Clock::Behind) };
    if plan.clock == Some(Clock::Behind) && run == DomainRun::Running {
        plan.again = plan.again.min(CLOCK_EVERY);
        if seen.agent == Some(true) {
            return plan.doing([Step::SetClock]);
        }
    }
    plan
}

/// Nobody tells when there is space again, and a guest that goes on too early is stopped again and loses nothing: so it
/// is tried now and then.
fn paused_by_io_error(seen: &View, now: Timestamp) -> Plan {
    let plan = Plan::stay(
        Phase::Running,
        "PausedByIOError",
        "its host's storage is full or fails, so QEMU paused the guest: free space in the pool or mend the storage; \
         the guest then goes on by itself",
    );
    if seen.history.clock.is_none() {
        return plan.again(Duration::ZERO);
    }
    let since = |time: Timestamp| Duration::try_from(now.duration_since(time)).unwrap_or_default();
    match seen.resumed.map(since).filter(|since| *since < RESUME_EVERY) {
        Some(since) => plan.again(RESUME_EVERY.saturating_sub(since)),
        None => plan.doing([Step::Resume]).again(RESUMED),
    }
}

fn answering(want: &Want, seen: &View, ran: Option<Duration>) -> Plan {
    let answers = seen.agent == Some(true);
    if answers || want.readiness == Readiness::None {
        let message = if answers { "the guest's agent answers" } else { "the domain runs" };
        let reason = if answers { "AgentConnected" } else { "DomainRunning" };
        return Plan::stay(Phase::Running, reason, message).fulfilled();
    }
    if seen.history.answered {
        return Plan::stay(Phase::Running, "AgentLost", "the guest's agent doesn't answer any more")
            .again(Duration::from_secs(5));
    }
    match ran {
        Some(ran) if ran > want.boot_deadline => {
            let message = format!(
                "no answer of the guest's agent {} s after the start: look at its console; an image without agent needs readiness: None",
                ran.as_secs()
            );
            Plan::stay(Phase::Booting, "BootTimeout", message).again(Duration::from_secs(5))
        }
        _ => {
            // The longer it takes, the less a moment matters: an answer is late by a tenth at most.
            let pause = ran.unwrap_or_default() / 10;
            Plan::stay(Phase::Booting, "Booting", "waits for the guest's agent")
                .again(pause.clamp(BOOT_POLL, LAZY_POLL))
        }
    }
}

/// On the way off: asked first, switched off when its time is over. A guest that was booting heard nothing, so it is
/// asked again now and then.
fn stop(want: &Want, seen: &View, now: Timestamp) -> Plan {
    let plan = Plan::stay(Phase::Stopping, "Stopping", "the guest is asked to shut down").again(STOP_POLL);
    let Some(asked) = seen.history.stop_asked else { return plan.doing([Step::Shutdown]) };
    let waited = Duration::try_from(now.duration_since(asked)).unwrap_or_default();
    if waited >= want.shutdown_grace {
        plan.doing([Step::Destroy])
    } else if waited.as_secs() % ASK_AGAIN == ASK_AGAIN - 1 {
        plan.doing([Step::Shutdown])
    } else {
        plan
    }
}

/// Everything of it goes; its object last.
fn tear_down(seen: &View) -> Plan {
    if seen.placement == Placement::Nowhere {
        let mut plan = Plan::stay(seen.history.phase, "Deleting", "nothing of it is on any host");
        plan.release = true;
        return plan;
    }
    let (domain, volumes) = match (&seen.domain, &seen.volumes) {
        (Observed::Unknown { .. }, _) | (_, Observed::Unknown { .. }) if seen.host.given_up => {
            let message = "its host doesn't answer; what is left of it there is removed when the host returns";
            let mut plan = Plan::stay(Phase::Unknown, LEFT_BEHIND, message);
            plan.release = true;
            return plan;
        }
        (Observed::Unknown { why, .. }, _) | (_, Observed::Unknown { why, .. }) => {
            let prospects = seen.host.prospects.as_ref().map(|prospects| format!("; {prospects}"));
            return Plan::stay(
                Phase::Unknown,
                "WaitingForHost",
                format!("its host has to answer before it can be removed: {why}{}", prospects.unwrap_or_default()),
            )
            .again(Duration::from_secs(2));
        }
        (domain, Observed::Present(volumes)) => (domain.present(), Some(volumes)),
        (domain, Observed::Absent) => (domain.present(), None),
    };
    if domain.is_some_and(|domain| domain.tag.is_none()) {
        let mut plan = Plan::stay(Phase::Failed, "ForeignDomain", "the domain on the host isn't ours and stays");
        plan.release = true;
        return plan;
    }
    let mut steps = Vec::new();
    if let Some(domain) = domain {
        if is_active(domain) {
            steps.push(Step::Destroy);
        }
        steps.push(Step::Undefine);
    }
    let ours = |name: &&String| name.starts_with(&seen.volume_prefix);
    steps.extend(volumes.into_iter().flatten().filter(ours).cloned().map(Step::DeleteVolume));
    if steps.is_empty() {
        let mut plan = Plan::stay(Phase::Stopping, GONE, "nothing of it is left on its host");
        plan.release = true;
        return plan;
    }
    Plan::stay(Phase::Stopping, "Removing", "its domain and its volumes are being removed")
        .doing(steps)
        .again(Duration::from_millis(200))
}
