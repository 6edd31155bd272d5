//! The only door to libvirt. Everything outside this module speaks to a [`Host`].

mod host;

pub use host::{
    ConsoleLog, DataDisk, DomainRun, DomainSpec, DomainUuid, Firmware, Host, HostError, HostFacts, Kernel, Nic,
    OwnershipTag, PoolSpace, Progress, Result, RootDisk, StopReason, Survey, SurveyedDomain, VolumeSpec,
};

pub use crate::network::RuleSet;
