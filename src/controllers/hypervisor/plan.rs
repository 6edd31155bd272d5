//! All the decisions about a host: no I/O, no clock of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::copies::{Copy, Owners, Standing, copies, removals};
use super::departed::{Residents, residents};
use super::loss::{Leaves, Loss, Patience, loss, phase_of_fenced};
use super::orphans::Sweep;
use super::pool::PoolMates;
use crate::api::conditions::whole_seconds;
use crate::api::{
    Bytes, Capacity, Hypervisor, HypervisorPhase, MachineCopy, Maintenance, PoolMark, Resources, SWEEP_ANNOTATION,
    Tombstone,
};
use crate::controllers::fleet::HostView;
use crate::controllers::observed::Observed;
use crate::images::is_image_volume;
use crate::libvirt::{Certificates, DomainUuid, HostFacts, OwnershipTag, POOL_MARK, PoolSpace, RuleSet, Survey};

/// Why a host isn't taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One CamelCase word.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A machine that has this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its namespace and name.
    pub name: String,
    /// What it holds of the host.
    pub holds: Resources,
    /// What it has there.
    pub copy: MachineCopy,
    /// The farm that gave it its address is gone: it must not be on the wire.
    pub farm_is_gone: bool,
    /// When it was deleted.
    pub deleted: Option<Timestamp>,
    /// When it may be made anew elsewhere.
    pub leaves: Leaves,
}

/// What was seen of a host.
#[derive(Clone, Debug)]
pub struct View {
    /// Why it isn't taken.
    pub refusal: Option<Refusal>,
    /// What the last surveys told; absent without a connection.
    pub seen: Option<HostView>,
    /// Revisions of images that are complete on it.
    pub cached_images: Vec<String>,
    /// Volumes of images that nothing needs any more.
    pub idle_volumes: BTreeSet<String>,
    /// The machines that have it.
    pub placed: Vec<Placed>,
    /// Copies that the status lists and no machine that has the host accounts for.
    pub absent: Vec<MachineCopy>,
    /// Another host has the same pool: what lies in it is in use.
    pub pool_is_shared: bool,
    /// What the others that have its pool say of it.
    pub pool_mates: PoolMates,
    /// Whose the domains on it are.
    pub owners: Owners,
    /// Most hosts of its class are silent: rather we than they are cut off.
    pub most_are_silent: bool,
    /// What on it belongs to no object.
    pub sweep: Sweep,
    /// When the certificates between it and us end.
    pub certificates: Certificates,
    /// The filters there got the rules of this version.
    pub rules_are_renewed: bool,
    /// Memory that its canary has.
    pub kept_back: Bytes,
}

/// One thing to do on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put a volume into the pool by which it is known again.
    MarkPool(String),
    /// Remove a filter that no domain uses.
    DeleteFilter(String),
    /// Remove an image's volume that nothing needs here any more.
    DeleteVolume(String),
    /// Switch off and undefine a copy of a placement that is over.
    RemoveCopy(OwnershipTag),
    /// Pull the cables of a machine that belongs to no network any more.
    CutOff(DomainUuid),
}

/// Whether the host answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It does.
    Answers,
    /// It hasn't for a moment, which says nothing yet.
    Quiet(String),
    /// It does, and what it says isn't believed yet.
    Doubted(String),
    /// It doesn't.
    Lost {
        /// One CamelCase word.
        reason: &'static str,
        /// What libvirt said.
        message: String,
        /// It said nothing at all, as opposed to no.
        silent: bool,
    },
}

/// What to do and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub steps: Vec<Step>,
    /// Whom to cut off the network, before anything else.
    pub cut_offs: Vec<Step>,
    /// What to remove of stale copies, before anything else happens on the host.
    pub removals: Vec<Step>,
    /// Whether guests are to be put behind the rules of this version.
    pub renews_rules: bool,
    /// The domains of ours that are on it.
    pub copies: Vec<Copy>,
    /// What its status lists from now on.
    pub residents: Vec<MachineCopy>,
    /// What follows from its silence, and the tombstones.
    pub loss: Loss,
    /// What the host is doing.
    pub phase: HypervisorPhase,
    /// Whether it answers; absent without a connection.
    pub reach: Option<Reach>,
    /// While it is being deleted: what is waited for.
    pub waits: Option<Refusal>,
    /// Nothing of ours is left on it, or nothing can be done about it: the object may go.
    pub release: bool,
    /// Something on it may or may not belong to an object.
    pub is_unsure: bool,
}

impl Plan {
    /// Whether what is left of placements that are over has to go before the host takes machines. What is removed while it
    /// answers is in nobody's way.
    pub fn is_swept_first(&self) -> bool {
        let departed = |uid: &str| self.loss.tombstones.iter().any(|one| one.departed && one.copy.uid == uid);
        let stale = self.copies.iter().filter(|copy| copy.standing == Standing::Stale);
        self.loss.tombstones.iter().any(|one| !one.departed)
            || stale.into_iter().any(|copy| !departed(&copy.tag.uid.to_string()))
    }
}

/// What to do about a host.
pub fn plan(hypervisor: &Hypervisor, seen: &View, patience: &Patience, now: Timestamp) -> Plan {
    let reach = seen.seen.as_ref().map(|view| reach(view, patience.unreachable_after, now));
    let survey = seen.seen.as_ref().and_then(|view| view.survey.present()).map(|survey| &**survey);
    let loss = loss(hypervisor, seen, reach.as_ref(), patience, now);
    let phase = phase_of_fenced(phase(hypervisor, seen, reach.as_ref()), loss.fence);
    let mut plan = Plan {
        steps: Vec::new(),
        cut_offs: Vec::new(),
        removals: Vec::new(),
        renews_rules: false,
        copies: Vec::new(),
        residents: Vec::new(),
        loss,
        phase,
        reach,
        waits: None,
        release: false,
        is_unsure: seen.sweep.is_unsure,
    };
    let believed = survey.filter(|_| seen.refusal.is_none());
    plan.residents = bury_departed(&mut plan.loss, seen, believed, now);
    if let Some(survey) = believed {
        plan.copies = copies(survey, &seen.owners, &plan.loss.tombstones);
        plan.removals = removals(survey, &plan.copies, &plan.loss.tombstones, &seen.owners);
        plan.renews_rules = renews_rules(seen, survey);
        plan.cut_offs = cut_offs(seen, &plan.residents, survey);
    }
    if hypervisor.metadata.deletion_timestamp.is_some() {
        leave(&mut plan, hypervisor, seen, survey);
    } else if let Some(survey) = survey.filter(|_| seen.refusal.is_none()) {
        let idle = seen.idle_volumes.iter().cloned().map(Step::DeleteVolume);
        let consent = hypervisor.annotations().get(SWEEP_ANNOTATION).map(String::as_str);
        let orphans = seen.sweep.removals(hypervisor.spec.drift_policy, consent);
        plan.steps = mark_pool(hypervisor, survey)
            .into_iter()
            .chain(unused_filters(survey))
            .chain(idle)
            .chain(orphans)
            .collect();
    }
    plan
}

/// What the host's status lists from now on; what was deleted gets a tombstone, if there is room.
fn bury_departed(loss: &mut Loss, seen: &View, survey: Option<&Survey>, now: Timestamp) -> Vec<MachineCopy> {
    let Residents { mut copies, departed } =
        residents(&seen.placed, &seen.absent, survey, &seen.owners, &loss.tombstones);
    for copy in departed {
        let tombstone = Tombstone { copy: copy.clone(), departed: true, since: Time(whole_seconds(now)) };
        copies.extend((!loss.add(tombstone)).then_some(copy));
    }
    copies
}

/// Whether the host answers: silence counts once it lasts, or when it never spoke.
fn reach(view: &HostView, unreachable_after: Duration, now: Timestamp) -> Reach {
    let Observed::Unknown { why, since } = &view.survey else { return Reach::Answers };
    let silent = Duration::try_from(now.duration_since(view.last_contact.unwrap_or(*since))).unwrap_or_default();
    if let Some(doubt) = &view.doubt {
        return Reach::Doubted(doubt.clone());
    }
    match &view.error {
        None => Reach::Quiet(why.clone()),
        Some(_) if view.last_contact.is_some() && silent < unreachable_after => Reach::Quiet(why.clone()),
        Some(error) => Reach::Lost { reason: error.reason(), message: why.clone(), silent: error.is_silence() },
    }
}

fn phase(hypervisor: &Hypervisor, seen: &View, reach: Option<&Reach>) -> HypervisorPhase {
    let before = hypervisor.status.as_ref().map(|status| status.phase).unwrap_or_default();
    match (&seen.refusal, reach) {
        (Some(_), _) => HypervisorPhase::Rejected,
        (None, Some(Reach::Lost { .. })) => HypervisorPhase::Unreachable,
        (None, Some(Reach::Quiet(_) | Reach::Doubted(_)) | None) => before,
        (None, Some(Reach::Answers)) if hypervisor.spec.maintenance == Maintenance::None => HypervisorPhase::Ready,
        (None, Some(Reach::Answers)) => HypervisorPhase::Maintenance,
    }
}

/// By which volume the pool of the spec is known again, if it is.
pub fn pool_mark(hypervisor: &Hypervisor) -> Option<&PoolMark> {
    let mark = hypervisor.status.as_ref()?.pool_mark.as_ref()?;
    (mark.pool == hypervisor.spec.storage.pool).then_some(mark)
}

/// The volume that has to be there for the pool to count as mounted. A host that is left takes it along, so that it is
/// missing says nothing then.
pub fn expected_mark(hypervisor: &Hypervisor, is_empty: bool) -> Option<&PoolMark> {
    let is_left = is_empty && hypervisor.metadata.deletion_timestamp.is_some();
    pool_mark(hypervisor).filter(|_| !is_left)
}

/// A volume by which a pool could be known.
pub fn found_mark(survey: &Survey) -> Option<&String> {
    survey.volumes.iter().find(|name| name.starts_with(POOL_MARK))
}

/// A pool that isn't known and has no mark gets one. The next look finds it, and those that share the pool find it too.
fn mark_pool(hypervisor: &Hypervisor, survey: &Survey) -> Option<Step> {
    if pool_mark(hypervisor).is_some() || found_mark(survey).is_some() {
        return None;
    }
    hypervisor.metadata.uid.as_ref().map(|uid| Step::MarkPool([POOL_MARK, uid].concat()))
}

/// Guests whose farm is gone and whose cables aren't pulled yet. That is done here and not by the machine's controller,
/// which a tenant can pause. They run on: what is in them isn't lost, and nobody hears them.
fn cut_offs(seen: &View, residents: &[MachineCopy], survey: &Survey) -> Vec<Step> {
    let of_objects = seen.placed.iter().filter(|placed| placed.farm_is_gone).map(|placed| &placed.copy);
    let kept = residents.iter().filter(|copy| copy.kept && seen.owners.is_farmless(copy));
    let uuids = of_objects.chain(kept).filter_map(|copy| copy.uid.parse().ok()).map(DomainUuid);
    let is_on_the_wire = |uuid: &DomainUuid| {
        let domain = survey.domains.get(uuid).filter(|domain| domain.tag.is_some());
        let running = domain.and_then(|domain| domain.forms.as_ref()?.running.as_ref());
        running.is_some_and(|form| form.nics.iter().any(|card| !card.is_cut))
    };
    uuids.filter(is_on_the_wire).map(Step::CutOff).collect()
}

/// Guests may run since before the operator's start, behind the rules of another version.
fn renews_rules(seen: &View, survey: &Survey) -> bool {
    let guests = survey.domains.values().any(|domain| domain.tag.is_some() || domain.canary.is_some());
    guests && !seen.rules_are_renewed
}

/// Filters on a host on which no machine is. Its canary keeps the one that it has; those of earlier versions go.
fn unused_filters(survey: &Survey) -> impl Iterator<Item = Step> + '_ {
    let machines = survey.domains.values().any(|domain| domain.tag.is_some());
    let canary = survey.domains.values().any(|domain| domain.canary.is_some());
    let kept = canary.then(|| RuleSet::Machine.filter_name());
    let unused = survey.filters.iter().filter(move |name| !machines && Some(*name) != kept.as_ref());
    unused.cloned().map(Step::DeleteFilter)
}

/// The host goes: not while machines have it, and not before our files are gone from it.
fn leave(plan: &mut Plan, hypervisor: &Hypervisor, seen: &View, survey: Option<&Survey>) {
    if !seen.placed.is_empty() {
        let names: Vec<_> = seen.placed.iter().take(5).map(|placed| placed.name.as_str()).collect();
        let message = format!("{} machines have it; delete them first: {}", seen.placed.len(), names.join(", "));
        plan.waits = Some(Refusal::new("MachinesPresent", message));
        return;
    }
    match (survey, &plan.reach) {
        // What lies on a host that was refused belongs to the Hypervisor that has it.
        _ if seen.refusal.is_some() => plan.release = true,
        (Some(survey), _) => {
            let is_ours = |name: &str| is_image_volume(name) || name.starts_with(POOL_MARK);
            let ours = |name: &&String| is_ours(name) && !seen.pool_is_shared;
            let images = survey.volumes.iter().filter(ours).cloned().map(Step::DeleteVolume);
            plan.steps = unused_filters(survey).chain(images).collect();
            plan.release = plan.steps.is_empty() && plan.removals.is_empty() && !has_canary(hypervisor, survey);
            let message = "canary, filters, image copies and what is left of machines are being removed from it";
            plan.waits = Some(Refusal::new("Cleaning", message));
        }
        (None, Some(Reach::Quiet(why) | Reach::Doubted(why))) => {
            plan.waits = Some(Refusal::new("WaitingForHost", why.clone()))
        }
        // What it keeps nobody speaks of any more, or somebody has to see to who can reach it: no reason to hold the object.
        (None, Some(Reach::Lost { .. } | Reach::Answers) | None) => plan.release = true,
    }
}

/// Whether the guest that tests its isolation is still there.
fn has_canary(hypervisor: &Hypervisor, survey: &Survey) -> bool {
    let uid = hypervisor.metadata.uid.as_deref();
    let mut canaries = survey.domains.values().filter_map(|domain| domain.canary.as_ref());
    canaries.any(|canary| Some(canary.uid.to_string().as_str()) == uid)
}

/// What is there: what libvirt says, where the spec doesn't say otherwise.
pub fn capacity(overrides: Option<&Capacity>, facts: &HostFacts, space: PoolSpace) -> Resources {
    Resources {
        cpu: overrides.and_then(|capacity| capacity.cpu).unwrap_or(facts.cpus),
        memory: overrides.and_then(|capacity| capacity.memory).unwrap_or(facts.memory),
        storage: overrides.and_then(|capacity| capacity.storage).unwrap_or(space.capacity),
    }
}

/// What may be promised: capacity less what is kept back for the host and its canary, times overcommit. Storage is never
/// overcommitted.
pub fn allocatable(hypervisor: &Hypervisor, capacity: Resources, canary: Bytes) -> Resources {
    let reserved = hypervisor.spec.reserved.unwrap_or_default();
    let overcommit = hypervisor.spec.overcommit;
    let cpus = f64::from((capacity.cpu - reserved.cpu.unwrap_or(0)).max(0)) * overcommit.cpu;
    Resources {
        cpu: cpus as i32,
        memory: capacity.memory.saturating_sub(reserved.memory.unwrap_or_default() + canary).scaled(overcommit.memory),
        storage: capacity.storage.saturating_sub(reserved.storage.unwrap_or_default()),
    }
}

/// What is promised.
pub fn allocated(placed: &[Placed]) -> Resources {
    placed.iter().fold(Resources::default(), |sum, placed| Resources {
        cpu: sum.cpu.saturating_add(placed.holds.cpu),
        memory: sum.memory + placed.holds.memory,
        storage: sum.storage + placed.holds.storage,
    })
}
