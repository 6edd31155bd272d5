//! The only door to libvirt. Everything outside this module speaks to a [`Host`].

mod agent;
mod agent_turns;
mod certificates;
mod config;
mod credentials;
mod domain_xml;
mod domains;
mod error;
mod events;
mod filters;
mod form;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod host;
mod libvirt_host;
mod link;
mod nics;
mod process;
mod reading;
#[cfg(any(test, fuzzing))]
mod samples;
mod spec;
mod stats;
mod survey;
mod tag;
mod unstick;
mod upload;
mod volumes;

pub use crate::network::RuleSet;
pub use certificates::Certificates;
pub use config::{CallObserver, ConfigError, Credentials, HostConfig, Unobserved};
pub use domain_xml::{SEED_DEVICE, is_name as is_domain_name, name as domain_name};
pub use form::{DomainForm, Forms, NicForm};
pub use host::{
    Connect, DomainRun, GuestCommand, GuestOutput, Host, HostError, HostEvent, HostFacts, LONGEST_GUEST_INPUT,
    PoolSpace, Progress, Result, StopReason, Survey, SurveyedDomain,
};
pub use libvirt_host::{LibvirtHost, connect};
pub use process::end_process;
pub use spec::{
    ConsoleLog, DataDisk, DomainRole, DomainSpec, DomainUuid, Firmware, Kernel, Nic, OwnershipTag, RootDisk, VolumeSpec,
};
pub use volumes::POOL_MARK;
