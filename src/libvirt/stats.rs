//! The states of all domains in one call. The `virt` crate hands the records on without reading or freeing them.

use std::ffi::CStr;
use std::os::raw::c_int;
use std::{ptr, slice};

use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;
use virt::sys;

use super::error::Failure;
use super::host::{DomainRun, StopReason};
use crate::api::Bytes;

/// What one record tells of a domain. Numbers are absent where libvirt left them out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DomainStats {
    /// Its UUID.
    pub(super) uuid: Uuid,
    /// Its name.
    pub(super) name: String,
    /// libvirt's `virDomainState` and its reason.
    pub(super) state: Option<(i32, i32)>,
    /// Virtual CPUs.
    pub(super) cpus: Option<i32>,
    /// Memory.
    pub(super) memory: Option<Bytes>,
}

/// Reads state, virtual CPUs and memory of every domain, without waiting for a QEMU that hangs.
pub(super) fn read_all(connection: &Connect) -> Result<Vec<DomainStats>, Failure> {
    let wanted = sys::VIR_DOMAIN_STATS_STATE | sys::VIR_DOMAIN_STATS_VCPU | sys::VIR_DOMAIN_STATS_BALLOON;
    let mut records = ptr::null_mut();
    // SAFETY: the connection is open as long as it is borrowed; libvirt fills in a list that is ours to free.
    let count = unsafe {
        sys::virConnectGetAllDomainStats(
            connection.as_ptr(),
            wanted,
            &raw mut records,
            sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
        )
    };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error().into()) };
    if records.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: libvirt made the list with `count` valid records; it lives until it is freed below, and what is read from
    // it is copied.
    let all = unsafe { slice::from_raw_parts(records, count) }
        .iter()
        .filter_map(|record| unsafe { record.as_ref() })
        .map(|record| unsafe { read(record) })
        .collect();
    // SAFETY: the list is libvirt's, freed once, and nothing refers to it any more.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(all)
}

/// SAFETY: the record must be one that libvirt made and that isn't freed yet.
unsafe fn read(record: &sys::virDomainStatsRecord) -> DomainStats {
    let mut read = DomainStats::default();
    let mut uuid = [0; 16];
    // SAFETY: the domain of a record is valid; its UUID has 16 bytes; its name lives as long as it.
    unsafe {
        if sys::virDomainGetUUID(record.dom, uuid.as_mut_ptr()) == 0 {
            read.uuid = Uuid::from_bytes(uuid);
        }
        let name = sys::virDomainGetName(record.dom);
        if !name.is_null() {
            read.name = CStr::from_ptr(name).to_string_lossy().into_owned();
        }
    }
    let count = usize::try_from(record.nparams).unwrap_or_default();
    if record.params.is_null() {
        return read;
    }
    let mut state = (None, None);
    // SAFETY: a record has `nparams` parameters.
    for parameter in unsafe { slice::from_raw_parts(record.params, count) } {
        // SAFETY: names are C strings of at most 80 bytes; a number is read as the kind that the parameter says it is.
        let (name, value) = unsafe { (CStr::from_ptr(parameter.field.as_ptr()), number(parameter)) };
        match name.to_bytes() {
            b"state.state" => state.0 = value.and_then(|value| i32::try_from(value).ok()),
            b"state.reason" => state.1 = value.and_then(|value| i32::try_from(value).ok()),
            b"vcpu.current" => read.cpus = value.and_then(|value| i32::try_from(value).ok()),
            b"balloon.maximum" => read.memory = value.map(kibibytes),
            _ => {}
        }
    }
    read.state = state.0.map(|number| (number, state.1.unwrap_or_default()));
    read
}

/// SAFETY: the parameter must come from libvirt, so that its type tells which number it holds.
unsafe fn number(parameter: &sys::virTypedParameter) -> Option<u64> {
    let kind = u32::try_from(parameter.type_ as c_int).ok()?;
    // SAFETY: the field that is read is the one that the type names.
    unsafe {
        match kind {
            sys::VIR_TYPED_PARAM_INT => u64::try_from(parameter.value.i).ok(),
            sys::VIR_TYPED_PARAM_UINT => Some(u64::from(parameter.value.ui)),
            sys::VIR_TYPED_PARAM_ULLONG => Some(parameter.value.ul),
            _ => None,
        }
    }
}

/// libvirt's unit of memory.
pub(super) fn kibibytes(count: u64) -> Bytes {
    Bytes::new(count.saturating_mul(1024))
}

/// What libvirt's state of a domain and its reason mean.
pub(super) fn run(state: i32, reason: i32) -> DomainRun {
    match u32::try_from(state).unwrap_or(sys::VIR_DOMAIN_NOSTATE) {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => DomainRun::Running,
        sys::VIR_DOMAIN_PAUSED if u32::try_from(reason) == Ok(sys::VIR_DOMAIN_PAUSED_IOERROR) => {
            DomainRun::PausedByIoError
        }
        sys::VIR_DOMAIN_SHUTDOWN => DomainRun::ShuttingDown,
        sys::VIR_DOMAIN_SHUTOFF => DomainRun::Off(stop_reason(reason)),
        // Paused, asleep, or crashed and kept: QEMU is there. So it may be where libvirt itself doesn't know.
        _ => DomainRun::Paused,
    }
}

fn stop_reason(reason: i32) -> StopReason {
    match u32::try_from(reason).unwrap_or(sys::VIR_DOMAIN_SHUTOFF_UNKNOWN) {
        sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => StopReason::Shutdown,
        sys::VIR_DOMAIN_SHUTOFF_DESTROYED | sys::VIR_DOMAIN_SHUTOFF_MIGRATED => StopReason::Destroyed,
        sys::VIR_DOMAIN_SHUTOFF_CRASHED | sys::VIR_DOMAIN_SHUTOFF_FAILED | sys::VIR_DOMAIN_SHUTOFF_DAEMON => {
            StopReason::Crashed
        }
        sys::VIR_DOMAIN_SHUTOFF_SAVED => StopReason::Saved,
        _ => StopReason::NotStarted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_drivers_domain_is_read() {
        super::super::link::initialise().unwrap();
        let connection = Connect::open(Some("test:///default")).unwrap();
        let all = read_all(&connection).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].name, "test");
        let (state, reason) = all[0].state.unwrap();
        assert_eq!(run(state, reason), DomainRun::Running);
    }

    #[test]
    fn what_libvirt_does_not_know_is_not_off() {
        for state in [-1, 0, 3, 6, 7, 99] {
            assert_eq!(run(state, 0), DomainRun::Paused, "{state}");
        }
        assert_eq!([run(3, 1), run(3, 5)], [DomainRun::Paused, DomainRun::PausedByIoError]);
        assert_eq!(run(5, 1), DomainRun::Off(StopReason::Shutdown));
        assert_eq!(run(5, 3), DomainRun::Off(StopReason::Crashed));
        assert_eq!(run(5, 5), DomainRun::Off(StopReason::Saved));
        assert_eq!(run(5, 0), DomainRun::Off(StopReason::NotStarted));
    }
}
