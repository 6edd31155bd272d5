//! What the controllers ask of a host, and what it answers. [`super::LibvirtHost`] does it over libvirt RPC.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::certificates::Certificates;
use super::config::{ConfigError, HostConfig};
use super::form::Forms;
use super::spec::{DomainSpec, DomainUuid, Nic, OwnershipTag, VolumeSpec};
use crate::api::{Bytes, DiskFormat};
use crate::network::RuleSet;

/// Makes the way to a host. Opens nothing yet: the first call does.
pub type Connect = Arc<dyn Fn(HostConfig) -> std::result::Result<Arc<dyn Host>, ConfigError> + Send + Sync>;

/// What a call to a host gives.
pub type Result<T> = std::result::Result<T, HostError>;

/// Why a call to a host failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostError {
    /// No connection, or it broke during the call: nothing is known of the outcome.
    #[error("{operation}: host can't be reached: {message}")]
    Unreachable {
        /// The call.
        operation: &'static str,
        /// What libvirt said.
        message: String,
    },
    /// No answer in time: nothing is known of the outcome.
    #[error("{operation}: no answer within {} s", .after.as_secs())]
    Deadline {
        /// The call.
        operation: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The thing is in use and stays.
    #[error("{operation}: in use: {message}")]
    InUse {
        /// The call.
        operation: &'static str,
        /// What libvirt said.
        message: String,
    },
    /// No space is left in the pool.
    #[error("{operation}: no space left in the storage pool: {message}")]
    NoSpace {
        /// The call.
        operation: &'static str,
        /// What libvirt said.
        message: String,
    },
    /// Another machine answers than the one that is meant: nothing that it says counts.
    #[error("another machine answers there: its host UUID is {found}, not {expected}")]
    Replaced {
        /// The identity of the machine that is meant.
        expected: Uuid,
        /// The identity of the one that answers.
        found: Uuid,
    },
    /// The pool isn't the one that is meant: nothing that it holds or lacks counts.
    #[error(
        "the storage pool lacks the volume {mark} that it is known by: its storage isn't mounted; if what was on it is \
         lost for good, accept the pool by virsh vol-create-as POOL {mark} 0"
    )]
    StorageMissing {
        /// The volume by which it is known.
        mark: String,
    },
    /// The host refused.
    #[error("{operation}: {message}")]
    Refused {
        /// The call.
        operation: &'static str,
        /// What libvirt said.
        message: String,
    },
}

impl HostError {
    /// One CamelCase word for conditions and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "HostUnreachable",
            Self::Deadline { .. } => "HostTimeout",
            Self::InUse { .. } => "InUse",
            Self::NoSpace { .. } => "NoSpace",
            Self::Replaced { .. } => "HostReplaced",
            Self::StorageMissing { .. } => "StorageMissing",
            Self::Refused { .. } => "HostRefused",
        }
    }

    /// Whether the host may be gone, as opposed to having said no.
    #[must_use]
    pub const fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Deadline { .. })
    }
}

/// What a host tells by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// A domain stopped, was paused, goes on or isn't defined any more.
    Domain(DomainUuid),
    /// The agent of its guest came or went.
    Agent(DomainUuid),
}

/// What a host is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The machine's identity from its firmware, as libvirt's capabilities tell it.
    pub uuid: Option<Uuid>,
    /// Version of libvirt, `9.0.0`.
    pub libvirt_version: String,
    /// Version of QEMU, `7.2.22`.
    pub qemu_version: String,
    /// Model of the CPU.
    pub cpu_model: String,
    /// CPUs.
    pub cpus: i32,
    /// Memory.
    pub memory: Bytes,
}

/// Space of the host's storage pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolSpace {
    /// All.
    pub capacity: Bytes,
    /// Free.
    pub available: Bytes,
}

/// All that one bulk read of a host tells.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// What the host is.
    pub facts: HostFacts,
    /// Every domain on the host, also those that aren't ours.
    pub domains: BTreeMap<DomainUuid, SurveyedDomain>,
    /// Names of the complete volumes in our pool.
    pub volumes: BTreeSet<String>,
    /// Names of volumes whose content is not all there: being written now, or left by a writer that died.
    pub incomplete_volumes: BTreeSet<String>,
    /// Names of the filters that start with `cascina-`.
    pub filters: BTreeSet<String>,
    /// Space of our pool.
    pub space: PoolSpace,
}

/// A domain as a survey saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurveyedDomain {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub run: DomainRun,
    /// The machine that it is; absent: not ours, or its tag can't be read, or no machine.
    pub tag: Option<OwnershipTag>,
    /// The `Hypervisor` whose isolation it tests.
    pub canary: Option<OwnershipTag>,
    /// A tag of ours that names another domain: somebody copied it.
    pub copied_tag: Option<OwnershipTag>,
    /// Memory it was given.
    pub memory: Bytes,
    /// Virtual CPUs it was given.
    pub cpus: i32,
    /// What it consists of; absent: not looked at. A survey may tell of a change up to half a minute late.
    pub forms: Option<Arc<Forms>>,
}

/// Whether a domain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainRun {
    /// The guest executes.
    Running,
    /// QEMU is there, the guest doesn't execute (suspended, migrating).
    Paused,
    /// QEMU stopped the guest because reading or writing one of its disks failed. Nothing is lost: what failed is done
    /// again when it is resumed.
    PausedByIoError,
    /// The guest is shutting down.
    ShuttingDown,
    /// No QEMU, and why.
    Off(StopReason),
}

/// Why a domain is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Never started since it was defined, or the host was restarted.
    NotStarted,
    /// The guest shut itself down.
    Shutdown,
    /// Its memory was saved, and the next start goes on with that.
    Saved,
    /// Switched off from outside.
    Destroyed,
    /// QEMU or the guest crashed, or the start failed.
    Crashed,
}

/// A command for a guest of our own.
#[derive(Clone, PartialEq, Eq)]
pub struct GuestCommand {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it reads, at most [`LONGEST_GUEST_INPUT`].
    pub input: Vec<u8>,
    /// It has to end within this time.
    pub within: Duration,
}

/// What it reads is not shown: it may hold a key.
impl fmt::Debug for GuestCommand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, arguments, input, within } = self;
        let shown = (program, arguments, input.len(), within);
        formatter.debug_tuple("GuestCommand").field(&shown).finish()
    }
}

/// More than this, in bytes, can't be given to a command in a guest. libvirt 9 sends again from the start what didn't fit into
/// the agent's socket at once (about 208 KiB, and a third more in base64), and the agent waits for the end of nonsense:
/// measured, 128 KiB arrive in 0.2 s and 192 KiB never.
pub const LONGEST_GUEST_INPUT: usize = 96 << 10;

/// What a command in a guest came to: bounded in size, otherwise whatever the guest chose to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestOutput {
    /// Its exit code; absent if a signal ended it.
    pub exit_code: Option<i32>,
    /// What it wrote to standard output.
    pub output: Vec<u8>,
    /// What it wrote to standard error.
    pub errors: Vec<u8>,
}

/// How far an upload is; read while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that were accepted by the host.
    done: AtomicU64,
}

impl Progress {
    /// Adds bytes.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// A hypervisor, as the controllers see it.
///
/// Every call is idempotent: making what is there and removing what is gone succeed. Calls have deadlines; a call that
/// ends with [`HostError::Unreachable`] or [`HostError::Deadline`] may still have happened.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Reads everything at once.
    async fn survey(&self) -> Result<Survey>;

    /// Reads one domain, past every cache; `None`: it is surely not there.
    async fn domain(&self, uuid: DomainUuid) -> Result<Option<SurveyedDomain>>;

    /// Defines the filter of a rule set under its versioned name.
    async fn ensure_filter(&self, rules: RuleSet) -> Result<()>;

    /// Makes libvirt put the rules of all our filters back in place for every card that has one, whatever became of them.
    async fn refresh_filters(&self) -> Result<()>;

    /// Puts cards that have a filter of ours, of whatever version, behind the rules of this one, without a gap. Returns
    /// the names of the filters that had other rules.
    async fn renew_filters(&self) -> Result<Vec<String>>;

    /// Removes a filter; [`HostError::InUse`] while a domain refers to it.
    async fn delete_filter(&self, name: &str) -> Result<()>;

    /// Makes a volume unless one of that name is there.
    async fn create_volume(&self, volume: &VolumeSpec) -> Result<()>;

    /// Makes a raw volume with this content; a volume of that name is replaced.
    async fn write_volume(&self, name: &str, content: &[u8]) -> Result<()>;

    /// Uploads a file as a volume, byte for byte; a volume of that name is replaced. An upload that doesn't end leaves
    /// no volume behind, if the host still answers.
    async fn upload_volume(&self, name: &str, format: DiskFormat, file: &Path, progress: &Progress) -> Result<()>;

    /// Removes a volume.
    async fn delete_volume(&self, name: &str) -> Result<()>;

    /// Defines a domain under its name. One that runs goes on as it is, and has to have the same tag.
    async fn define(&self, domain: &DomainSpec) -> Result<()>;

    /// Puts the cards of a domain that runs back to what they should be, and cuts off cards that it shouldn't have.
    async fn mend_nics(&self, uuid: DomainUuid, nics: &[Nic]) -> Result<()>;

    /// Starts a domain that is off.
    async fn start(&self, uuid: DomainUuid) -> Result<()>;

    /// Lets a guest go on that an I/O error stopped; any other is left alone.
    async fn resume(&self, uuid: DomainUuid) -> Result<()>;

    /// Asks the guest to shut down: by its agent where it answers, and by ACPI.
    async fn shutdown(&self, uuid: DomainUuid) -> Result<()>;

    /// Switches a domain off.
    async fn destroy(&self, uuid: DomainUuid) -> Result<()>;

    /// Removes the definition of a domain that is off.
    async fn undefine(&self, uuid: DomainUuid) -> Result<()>;

    /// The space that volumes take; those that aren't there take none.
    async fn allocation(&self, volumes: &[String]) -> Result<Bytes>;

    /// When the certificates between us and the host end. A host that is reached without has none.
    async fn certificates(&self) -> Certificates {
        Certificates::default()
    }

    /// What the host tells next, as a reason to look: it may tell too much, and what it told while nobody waited may be
    /// lost. One that tells nothing is waited for without end.
    async fn event(&self) -> HostEvent {
        std::future::pending().await
    }

    /// Whether the guest's agent answers now.
    async fn agent_answers(&self, uuid: DomainUuid) -> Result<bool>;

    /// Sets the guest's clock to the time by its agent, and says whether that was done. A guest whose vCPUs stood still goes
    /// on at the time at which they stopped.
    async fn set_clock(&self, uuid: DomainUuid) -> Result<bool>;

    /// Runs a command in a guest of the operator's own, by its agent; `None`: no agent answers. Not for machines of
    /// tenants: a guest may say anything, and nothing that matters may rest on it.
    async fn run_in_guest(&self, uuid: DomainUuid, command: &GuestCommand) -> Result<Option<GuestOutput>>;
}
