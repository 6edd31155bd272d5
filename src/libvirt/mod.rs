//! The only door to libvirt. Everything outside this module speaks to a [`Host`].

mod agent;
mod config;
mod credentials;
mod domain_xml;
mod domains;
mod error;
mod filters;
mod host;
mod libvirt_host;
mod link;
mod stats;
mod survey;
mod tag;
mod unstick;
mod upload;
mod volumes;

pub use crate::network::RuleSet;
pub use config::{CallObserver, ConfigError, Credentials, HostConfig, Unobserved};
pub use host::{
    ConsoleLog, DataDisk, DomainRun, DomainSpec, DomainUuid, Firmware, Host, HostError, HostFacts, Kernel, Nic,
    OwnershipTag, PoolSpace, Progress, Result, RootDisk, StopReason, Survey, SurveyedDomain, VolumeSpec,
};
pub use libvirt_host::LibvirtHost;
