//! All the decisions about a host: no I/O, no clock of its own.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::{Capacity, Hypervisor, HypervisorPhase, Maintenance, Resources};
use crate::controllers::fleet::HostView;
use crate::controllers::observed::Observed;
use crate::images::is_image_volume;
use crate::libvirt::{HostFacts, PoolSpace, Survey};

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
    pub idle_volumes: Vec<String>,
    /// The machines that have it.
    pub placed: Vec<Placed>,
    /// Another host has the same pool: what lies in it is in use.
    pub pool_is_shared: bool,
}

/// One thing to do on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Remove a filter that no domain uses.
    DeleteFilter(String),
    /// Remove an image's volume that nothing needs here any more.
    DeleteVolume(String),
}

/// Whether the host answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It does.
    Answers,
    /// It hasn't for a moment, which says nothing yet.
    Quiet(String),
    /// It doesn't.
    Lost {
        /// One CamelCase word.
        reason: &'static str,
        /// What libvirt said.
        message: String,
    },
}

/// What to do and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub steps: Vec<Step>,
    /// What the host is doing.
    pub phase: HypervisorPhase,
    /// Whether it answers; absent without a connection.
    pub reach: Option<Reach>,
    /// While it is being deleted: what is waited for.
    pub waits: Option<Refusal>,
    /// Nothing of ours is left on it, or nothing can be done about it: the object may go.
    pub release: bool,
}

/// What to do about a host.
pub fn plan(hypervisor: &Hypervisor, seen: &View, unreachable_after: Duration, now: Timestamp) -> Plan {
    let reach = seen.seen.as_ref().map(|view| reach(view, unreachable_after, now));
    let survey = seen.seen.as_ref().and_then(|view| view.survey.present());
    let mut plan =
        Plan { steps: Vec::new(), phase: phase(hypervisor, seen, reach.as_ref()), reach, waits: None, release: false };
    if hypervisor.metadata.deletion_timestamp.is_some() {
        leave(&mut plan, seen, survey.map(|survey| &**survey));
    } else if let Some(survey) = survey.filter(|_| seen.refusal.is_none()) {
        let idle = seen.idle_volumes.iter().cloned().map(Step::DeleteVolume);
        plan.steps = unused_filters(survey).chain(idle).collect();
    }
    plan
}

/// Whether the host answers: silence counts once it lasts, or when it never spoke.
fn reach(view: &HostView, unreachable_after: Duration, now: Timestamp) -> Reach {
    let Observed::Unknown { why, since } = &view.survey else { return Reach::Answers };
    let silent = Duration::try_from(now.duration_since(view.last_contact.unwrap_or(*since))).unwrap_or_default();
    match &view.error {
        None => Reach::Quiet(why.clone()),
        Some(_) if view.last_contact.is_some() && silent < unreachable_after => Reach::Quiet(why.clone()),
        Some(error) => Reach::Lost { reason: error.reason(), message: why.clone() },
    }
}

fn phase(hypervisor: &Hypervisor, seen: &View, reach: Option<&Reach>) -> HypervisorPhase {
    let before = hypervisor.status.as_ref().map(|status| status.phase).unwrap_or_default();
    match (&seen.refusal, reach) {
        (Some(_), _) => HypervisorPhase::Rejected,
        (None, Some(Reach::Lost { .. })) => HypervisorPhase::Unreachable,
        (None, Some(Reach::Quiet(_)) | None) => before,
        (None, Some(Reach::Answers)) if hypervisor.spec.maintenance == Maintenance::None => HypervisorPhase::Ready,
        (None, Some(Reach::Answers)) => HypervisorPhase::Maintenance,
    }
}

/// Filters on a host on which no domain of ours is.
fn unused_filters(survey: &Survey) -> impl Iterator<Item = Step> + '_ {
    let used = survey.domains.values().any(|domain| domain.tag.is_some() || domain.canary.is_some());
    survey.filters.iter().filter(move |_| !used).cloned().map(Step::DeleteFilter)
}

/// The host goes: not while machines have it, and not before our files are gone from it.
fn leave(plan: &mut Plan, seen: &View, survey: Option<&Survey>) {
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
            let ours = |name: &&String| is_image_volume(name) && !seen.pool_is_shared;
            let images = survey.volumes.iter().filter(ours).cloned().map(Step::DeleteVolume);
            plan.steps = unused_filters(survey).chain(images).collect();
            plan.release = plan.steps.is_empty();
            plan.waits = Some(Refusal::new("Cleaning", "filters and image copies are being removed from it"));
        }
        (None, Some(Reach::Quiet(why))) => plan.waits = Some(Refusal::new("WaitingForHost", why.clone())),
        // What it keeps are copies of images and filters that nothing uses: no reason to hold the object.
        (None, Some(Reach::Lost { .. } | Reach::Answers) | None) => plan.release = true,
    }
}

/// What is there: what libvirt says, where the spec doesn't say otherwise.
pub fn capacity(overrides: Option<&Capacity>, facts: &HostFacts, space: PoolSpace) -> Resources {
    Resources {
        cpu: overrides.and_then(|capacity| capacity.cpu).unwrap_or(facts.cpus),
        memory: overrides.and_then(|capacity| capacity.memory).unwrap_or(facts.memory),
        storage: overrides.and_then(|capacity| capacity.storage).unwrap_or(space.capacity),
    }
}

/// What may be promised: capacity less what is kept back, times overcommit. Storage is never overcommitted.
pub fn allocatable(hypervisor: &Hypervisor, capacity: Resources) -> Resources {
    let reserved = hypervisor.spec.reserved.unwrap_or_default();
    let overcommit = hypervisor.spec.overcommit;
    let cpus = f64::from((capacity.cpu - reserved.cpu.unwrap_or(0)).max(0)) * overcommit.cpu;
    Resources {
        cpu: cpus as i32,
        memory: capacity.memory.saturating_sub(reserved.memory.unwrap_or_default()).scaled(overcommit.memory),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Bytes, HypervisorNetwork, HypervisorNetworks, HypervisorSpec, HypervisorStorage, Overcommit};
    use crate::libvirt::HostError;
    use std::sync::Arc;

    const AFTER: Duration = Duration::from_secs(40);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn hypervisor() -> Hypervisor {
        let mut hypervisor = Hypervisor::new(
            "worker-1",
            HypervisorSpec {
                uri: "qemu+tls://one/system".into(),
                host_uuid: None,
                credentials_secret_ref: None,
                insecure: false,
                class: crate::api::HypervisorClass::Worker,
                virtualization: crate::api::Virtualization::Kvm,
                networks: HypervisorNetworks { private: HypervisorNetwork { bridge: "br0".into() }, public: None },
                storage: HypervisorStorage { pool: "cascina".into(), shared: None },
                capacity: None,
                reserved: None,
                overcommit: Overcommit::default(),
                migration_address: None,
                maintenance: Maintenance::None,
            },
        );
        hypervisor.status = Some(crate::api::HypervisorStatus { phase: HypervisorPhase::Ready, ..Default::default() });
        hypervisor
    }

    fn answering(survey: Survey) -> HostView {
        HostView { survey: Observed::Present(Arc::new(survey)), last_contact: Some(at(100)), error: None }
    }

    fn silent(last_contact: Option<i64>) -> HostView {
        HostView {
            survey: Observed::Unknown { why: "no route".into(), since: at(101) },
            last_contact: last_contact.map(at),
            error: Some(HostError::Unreachable { operation: "survey", message: "no route".into() }),
        }
    }

    fn view(seen: HostView) -> View {
        View {
            refusal: None,
            seen: Some(seen),
            cached_images: Vec::new(),
            idle_volumes: Vec::new(),
            placed: Vec::new(),
            pool_is_shared: false,
        }
    }

    fn placed() -> Placed {
        Placed {
            name: "farm-a/one".into(),
            holds: Resources { cpu: 1, memory: Bytes::mebi(256), storage: Bytes::ZERO },
        }
    }

    fn with_leftovers() -> Survey {
        let mut survey = Survey::default();
        survey.filters.insert("cascina-machine-000000000000".into());
        survey.volumes.insert("img-0123456789abcdef.qcow2".into());
        survey.volumes.insert("somebody-elses.qcow2".into());
        survey
    }

    #[test]
    fn a_short_silence_is_not_a_loss_and_a_long_one_is() {
        let hypervisor = hypervisor();
        let short = plan(&hypervisor, &view(silent(Some(100))), AFTER, at(120));
        assert_eq!(short.phase, HypervisorPhase::Ready);
        assert!(matches!(short.reach, Some(Reach::Quiet(_))));
        let long = plan(&hypervisor, &view(silent(Some(100))), AFTER, at(141));
        assert_eq!(long.phase, HypervisorPhase::Unreachable);
        let never = plan(&hypervisor, &view(silent(None)), AFTER, at(102));
        assert_eq!(never.phase, HypervisorPhase::Unreachable, "a host that never spoke isn't waited for");
    }

    #[test]
    fn a_refused_host_is_rejected_even_while_it_answers() {
        let mut view = view(answering(Survey::default()));
        view.refusal = Some(Refusal::new("DuplicateUri", "two"));
        assert_eq!(plan(&hypervisor(), &view, AFTER, at(100)).phase, HypervisorPhase::Rejected);
    }

    #[test]
    fn filters_go_when_no_domain_of_ours_is_left_and_volumes_stay() {
        let steps = plan(&hypervisor(), &view(answering(with_leftovers())), AFTER, at(100)).steps;
        assert_eq!(steps, [Step::DeleteFilter("cascina-machine-000000000000".into())]);
    }

    #[test]
    fn a_host_with_machines_is_not_let_go() {
        let mut hypervisor = hypervisor();
        hypervisor.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100)));
        let mut view = view(answering(with_leftovers()));
        view.placed.push(placed());
        let waiting = plan(&hypervisor, &view, AFTER, at(101));
        assert!(!waiting.release && waiting.steps.is_empty());
        assert_eq!(waiting.waits.unwrap().reason, "MachinesPresent");
        view.placed.clear();
        let cleaning = plan(&hypervisor, &view, AFTER, at(101));
        assert_eq!(cleaning.steps.len(), 2, "our filter and our image, nobody else's volume");
        assert!(!cleaning.release);
        view.seen = Some(answering(Survey::default()));
        assert!(plan(&hypervisor, &view, AFTER, at(101)).release);
        view.seen = Some(silent(None));
        assert!(plan(&hypervisor, &view, AFTER, at(200)).release, "a dead host without machines holds nobody");
    }

    #[test]
    fn a_host_that_goes_takes_nothing_from_the_one_that_has_the_same_machine_or_pool() {
        let mut hypervisor = hypervisor();
        let mut view = view(answering(with_leftovers()));
        view.refusal = Some(Refusal::new("DuplicateHost", "one machine under two addresses"));
        assert!(plan(&hypervisor, &view, AFTER, at(101)).steps.is_empty(), "refused, it tidies nothing");
        hypervisor.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100)));
        let twin = plan(&hypervisor, &view, AFTER, at(101));
        assert!(twin.steps.is_empty() && twin.release);
        view.refusal = None;
        view.pool_is_shared = true;
        let steps = plan(&hypervisor, &view, AFTER, at(101)).steps;
        assert_eq!(steps, [Step::DeleteFilter("cascina-machine-000000000000".into())], "images stay in a shared pool");
    }

    #[test]
    fn what_may_be_promised_is_less_what_is_kept_back_times_overcommit() {
        let mut hypervisor = hypervisor();
        hypervisor.spec.reserved = Some(Capacity { cpu: Some(1), memory: Some(Bytes::gibi(1)), storage: None });
        hypervisor.spec.overcommit = Overcommit { cpu: 2.0, memory: 1.0 };
        let there = Resources { cpu: 4, memory: Bytes::gibi(4), storage: Bytes::gibi(10) };
        let given = allocatable(&hypervisor, there);
        assert_eq!((given.cpu, given.memory, given.storage), (6, Bytes::gibi(3), Bytes::gibi(10)));
    }
}
