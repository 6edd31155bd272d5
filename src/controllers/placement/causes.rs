//! Why hosts can't take a machine, counted for people.

use std::collections::BTreeMap;
use std::fmt;

use crate::api::{Bytes, HypervisorClass};

/// Why a host can't take a machine.
///
/// Amounts are those that the machine asks for, not what is missing of them: so the message of a machine that waits
/// stays the same while others come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Another class than the machine's.
    Class(HypervisorClass),
    /// Without the labels that the machine selects by.
    Selector,
    /// Not in the public network, where the machine has a card.
    Private,
    /// Has the farm's other router: one host's end is not to be both's.
    OtherRouter,
    /// Has no copy of the image, whose files can't be had.
    NoCopy,
    /// Not the host that has the machine's disks.
    Elsewhere,
    /// Somebody keeps new machines away.
    Cordoned,
    /// The operator is told to leave it alone.
    Paused,
    /// Doesn't answer.
    Unreachable,
    /// Isn't ready.
    NotReady,
    /// Hasn't lately proved that it keeps farms apart.
    Unverified,
    /// So many CPUs aren't free.
    Cpus(i64),
    /// So much memory isn't free.
    Memory(Bytes),
    /// So much space isn't free.
    Storage(Bytes),
}

impl Cause {
    fn text(self, hosts: usize) -> String {
        let lacks = if hosts == 1 { "lacks" } else { "lack" };
        match self {
            Self::Class(class) => format!("of class {class:?}"),
            Self::Selector => "not selected by hypervisorSelector".into(),
            Self::Private => "without a public network".into(),
            Self::OtherRouter => "with the farm's other router".into(),
            Self::NoCopy => "without its image, of which no more copies can be made".into(),
            Self::Elsewhere => "without its disks".into(),
            Self::Cordoned => "cordoned".into(),
            Self::Paused => "paused".into(),
            Self::Unreachable => "unreachable".into(),
            Self::NotReady => "not ready".into(),
            Self::Unverified => "not verified for isolation".into(),
            Self::Cpus(1) => format!("{lacks} 1 CPU"),
            Self::Cpus(count) => format!("{lacks} {count} CPUs"),
            Self::Memory(size) => format!("{lacks} {size} memory"),
            Self::Storage(size) => format!("{lacks} {size} storage"),
        }
    }
}

/// How many hosts can't take a machine, by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Causes(BTreeMap<Cause, usize>);

impl Causes {
    /// One host more.
    pub fn count(&mut self, cause: Cause) {
        *self.0.entry(cause).or_default() += 1;
    }

    /// The same for a machine that can only go to one host.
    #[must_use]
    pub fn of_home(&self, host: &str) -> String {
        match self.0.keys().find(|cause| **cause != Cause::Elsewhere) {
            Some(cause @ (Cause::Cpus(_) | Cause::Memory(_) | Cause::Storage(_))) => {
                format!("its disks are on {host}, which {}", cause.text(1))
            }
            Some(cause) => format!("its disks are on {host}, which is {}", cause.text(1)),
            None => format!("its disks are on {host}, and there is no hypervisor of that name any more"),
        }
    }
}

impl fmt::Display for Causes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: usize = self.0.values().sum();
        if all == 0 {
            return formatter.write_str("no hypervisors");
        }
        let mut counted: Vec<_> = self.0.iter().map(|(cause, hosts)| (*hosts, cause.text(*hosts))).collect();
        counted.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        let counted: Vec<_> = counted.into_iter().map(|(hosts, text)| format!("{hosts} {text}")).collect();
        write!(formatter, "0/{all} hypervisors: {}", counted.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn causes(list: &[Cause]) -> Causes {
        let mut causes = Causes::default();
        list.iter().for_each(|cause| causes.count(*cause));
        causes
    }

    #[test]
    fn causes_are_counted_most_frequent_first() {
        let all = causes(&[Cause::Unreachable, Cause::Cordoned, Cause::Memory(Bytes::mebi(512)), Cause::Cordoned]);
        assert_eq!(all.to_string(), "0/4 hypervisors: 2 cordoned, 1 lacks 512Mi memory, 1 unreachable");
        let more = causes(&[Cause::Cpus(2), Cause::Cpus(2), Cause::Class(HypervisorClass::Service), Cause::Selector]);
        assert_eq!(
            more.to_string(),
            "0/4 hypervisors: 2 lack 2 CPUs, 1 not selected by hypervisorSelector, 1 of class Service"
        );
        assert_eq!(causes(&[]).to_string(), "no hypervisors");
    }

    #[test]
    fn a_machine_that_has_disks_is_told_about_its_host() {
        let full = causes(&[Cause::Elsewhere, Cause::Storage(Bytes::gibi(3))]);
        assert_eq!(full.of_home("worker-1"), "its disks are on worker-1, which lacks 3Gi storage");
        let closed = causes(&[Cause::Elsewhere, Cause::Cordoned]);
        assert_eq!(closed.of_home("worker-1"), "its disks are on worker-1, which is cordoned");
        assert!(causes(&[Cause::Elsewhere]).of_home("worker-1").contains("any more"));
    }
}
