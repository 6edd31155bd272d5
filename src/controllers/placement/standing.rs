//! How a machine stands towards its reservation: what placement and others read off the object itself.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::plan::Amount;
use crate::api::conditions::{find, is_true};
use crate::api::{
    Bytes, Flavour, PAUSED_ANNOTATION, Phase, PinnedDisk, PinnedFlavour, PinnedImage, RunStrategy, VirtualMachine,
    VirtualMachineStatus, has_our_finalizer, is_annotated,
};

/// Condition of a machine that holds CPUs, memory and quota and may run.
pub const SCHEDULED: &str = "Scheduled";

/// Reason of machines that shall not run.
pub const HALTED: &str = "Halted";

/// Reason of machines that ran and are done.
pub const FINISHED: &str = "Finished";

/// Reason of machines on their way out of which nothing is left but the object, which finalizers of others keep.
pub const REMOVED: &str = "Removed";

/// How a machine stands towards its reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody may touch it: paused, on its way out, or its controller hasn't taken it on yet.
    LeftAlone,
    /// It holds its reservation.
    Holds,
    /// It wishes to run and holds nothing.
    Wants,
    /// It doesn't wish to run; the reason says why. What it holds is given back.
    Rests(&'static str),
}

/// How a machine stands towards its reservation.
#[must_use]
pub fn standing(machine: &VirtualMachine) -> Standing {
    if !has_our_finalizer(machine)
        || machine.metadata.deletion_timestamp.is_some()
        || is_annotated(machine, PAUSED_ANNOTATION)
    {
        return Standing::LeftAlone;
    }
    let phase = machine.status.as_ref().and_then(|status| status.phase);
    match (holds_reservation(machine), rests(machine)) {
        (true, Some(reason)) if phase == Some(Phase::Stopped) || reason == FINISHED => Standing::Rests(reason),
        // Halted and called back before anybody took its reservation: it is admitted anew, with the flavour of now.
        (true, None) if phase == Some(Phase::Stopped) && machine.status.as_ref().is_some_and(has_finished) => {
            Standing::Rests(HALTED)
        }
        (true, _) => Standing::Holds,
        (false, Some(reason)) => Standing::Rests(reason),
        (false, None) => Standing::Wants,
    }
}

/// Whether nothing is left of a machine but its object. Its controller says so in the status, which nobody else may write,
/// before it takes our finalizer off: that the finalizer isn't there proves nothing.
#[must_use]
pub fn is_removed(machine: &VirtualMachine) -> bool {
    let told = machine.status.as_ref().and_then(|status| find(&status.conditions, "Deleting"));
    machine.metadata.deletion_timestamp.is_some()
        && !has_our_finalizer(machine)
        && told.is_some_and(|told| told.reason == REMOVED)
}

/// Whether a machine holds CPUs, memory and quota: it may run, and on its host only.
#[must_use]
pub fn holds_reservation(machine: &VirtualMachine) -> bool {
    if is_removed(machine) {
        return false;
    }
    machine.status.as_ref().is_some_and(|status| status.hypervisor.is_some() && is_true(&status.conditions, SCHEDULED))
}

/// Whether a machine wishes to run.
#[must_use]
pub fn wishes_to_run(machine: &VirtualMachine) -> bool {
    rests(machine).is_none()
}

fn rests(machine: &VirtualMachine) -> Option<&'static str> {
    match machine.spec.run_strategy {
        RunStrategy::Always => None,
        RunStrategy::Halted => Some(HALTED),
        RunStrategy::RerunOnFailure | RunStrategy::Once => {
            machine.status.as_ref().is_some_and(has_finished).then_some(FINISHED)
        }
    }
}

/// Whether it ran since it was last admitted and has come to an end. A machine that was halted by wish, or
/// that waits, has not finished.
fn has_finished(status: &VirtualMachineStatus) -> bool {
    let ended = matches!(status.phase, Some(Phase::Stopped | Phase::Failed)) && status.hypervisor.is_some();
    match find(&status.conditions, SCHEDULED) {
        Some(scheduled) if scheduled.status == "True" => ended && ran_since(status, scheduled),
        Some(scheduled) => scheduled.reason == FINISHED,
        None => ended,
    }
}

/// A machine that is admitted again is `Stopped` until its controller notices: only an end after the admission counts.
/// Conditions have whole seconds, so within the second of the admission a phase in between must tell.
fn ran_since(status: &VirtualMachineStatus, scheduled: &Condition) -> bool {
    let admitted = scheduled.last_transition_time.0;
    let next_second = Timestamp::from_second(admitted.as_second().saturating_add(1)).unwrap_or(admitted);
    let transitions = &status.phase_transitions;
    let ended_later = transitions.last().is_none_or(|last| last.time >= next_second);
    ended_later || transitions.iter().any(|step| is_active(step.phase) && step.time >= admitted)
}

const fn is_active(phase: Phase) -> bool {
    matches!(phase, Phase::Scheduled | Phase::Provisioning | Phase::Booting | Phase::Running)
}

/// Whether a machine has disks, or may have: they are made for the host that it has.
#[must_use]
pub fn has_disks(machine: &VirtualMachine) -> bool {
    machine.status.as_ref().is_some_and(|status| status.hypervisor.is_some())
}

/// What a machine takes from its host and its farm's quota: CPUs and memory while it holds its reservation, disks as
/// long as it has a host.
#[must_use]
pub fn held(machine: &VirtualMachine) -> Amount {
    let there = |status: &&VirtualMachineStatus| status.hypervisor.is_some() && !is_removed(machine);
    let Some(status) = machine.status.as_ref().filter(there) else {
        return Amount::default();
    };
    let needs = status.flavour.as_ref().map(|flavour| needs(flavour, status.image.as_ref())).unwrap_or_default();
    if holds_reservation(machine) { needs } else { Amount { storage: needs.storage, ..Amount::default() } }
}

/// What a machine of this flavour and image takes while it runs.
#[must_use]
pub fn needs(flavour: &PinnedFlavour, image: Option<&PinnedImage>) -> Amount {
    Amount { cpus: flavour.cpus.into(), memory: flavour.memory, storage: storage(flavour, image) }
}

/// The size of a machine's disks: the root disk, where the image has one, and the data disk.
#[must_use]
pub fn storage(flavour: &PinnedFlavour, image: Option<&PinnedImage>) -> Bytes {
    let disk = image.and_then(|image| image.disk.as_ref());
    disk.map_or(Bytes::ZERO, |disk| root_disk(flavour, disk)) + flavour.data_disk.unwrap_or_default()
}

/// The size of a root disk over this image, as it is made and as it counts.
#[must_use]
pub fn root_disk(flavour: &PinnedFlavour, image: &PinnedDisk) -> Bytes {
    flavour.root_disk.unwrap_or_default().max(image.virtual_size)
}

/// A flavour with the disks that a machine has already, which are made once and count as they are: volumes that exist
/// neither grow nor shrink, and none is added or left out.
#[must_use]
pub fn with_disks_of(flavour: PinnedFlavour, made: &PinnedFlavour) -> PinnedFlavour {
    PinnedFlavour { root_disk: made.root_disk, data_disk: made.data_disk, ..flavour }
}

/// A flavour as it is now.
#[must_use]
pub fn pin_flavour(flavour: &Flavour) -> PinnedFlavour {
    PinnedFlavour {
        name: flavour.name_any(),
        cpus: flavour.spec.cpus,
        memory: flavour.spec.memory,
        root_disk: flavour.spec.root_disk,
        data_disk: flavour.spec.data_disk,
        bandwidth: flavour.spec.bandwidth,
    }
}
