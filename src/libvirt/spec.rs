//! What is made on a host: domains, their cards and disks, volumes. Plain data.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::api::{Bandwidth, Bytes, DiskFormat, Virtualization};
use crate::network::{Hold, MacAddress};

/// The UUID of a domain: its `VirtualMachine`'s `metadata.uid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DomainUuid(pub Uuid);

impl fmt::Display for DomainUuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(formatter)
    }
}

/// Whose domain this is: stands in the domain's metadata, under our namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnershipTag {
    /// Identity of the Kubernetes cluster (uid of its `kube-system` namespace).
    pub cluster: String,
    /// Namespace of the `VirtualMachine`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, the same as the domain's UUID.
    pub uid: Uuid,
    /// Counts placements: of two copies the one with the lower epoch is not the machine any more.
    pub epoch: i64,
    /// Hash of what the domain was made from; another hash means a restart would change something.
    pub spec_hash: String,
}

/// What a domain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DomainRole {
    /// A `VirtualMachine`.
    Machine,
    /// The guest of the operator's own that tests the isolation of its host. Its tag speaks of the `Hypervisor`: no
    /// namespace, the epoch is 0.
    Canary,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nic {
    /// The host's bridge.
    pub bridge: String,
    /// Its MAC address.
    pub mac: MacAddress,
    /// What it is held to.
    pub hold: Hold,
    /// What it carries at most.
    pub bandwidth: Option<Bandwidth>,
}

/// A volume to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSpec {
    /// A qcow2 overlay over a base volume of the same pool.
    Overlay {
        /// Name of the new volume.
        name: String,
        /// Name of the base volume.
        base: String,
        /// Format of the base volume.
        base_format: DiskFormat,
        /// Size that the guest sees.
        size: Bytes,
    },
    /// An empty qcow2.
    Blank {
        /// Name of the new volume.
        name: String,
        /// Size that the guest sees.
        size: Bytes,
    },
}

impl VolumeSpec {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Overlay { name, .. } | Self::Blank { name, .. } => name,
        }
    }
}

/// The root disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RootDisk {
    /// Name of the overlay volume.
    pub volume: String,
    /// Name of the base volume behind it.
    pub base: String,
    /// Format of the base volume.
    pub base_format: DiskFormat,
}

/// A further disk of a domain, qcow2 without a base.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DataDisk {
    /// Name of the volume.
    pub volume: String,
}

/// A kernel to boot directly.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Name of the kernel's volume.
    pub kernel: String,
    /// Name of the initramfs's volume.
    pub initrd: Option<String>,
    /// Kernel command line.
    pub cmdline: String,
}

/// What a domain boots with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// From the root disk.
    Disk,
    /// A kernel given from outside.
    Kernel(Kernel),
}

/// Where the guest's serial console goes on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConsoleLog {
    /// A pseudo-terminal, for `virsh console`.
    Pty,
}

/// A domain to define. Names and user text in it reach XML only through a typed writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSpec {
    /// Its UUID; its name is `casc-<uuid>`.
    pub uuid: DomainUuid,
    /// For people: `namespace/name`.
    pub title: String,
    /// What it is for.
    pub role: DomainRole,
    /// Whose it is.
    pub tag: OwnershipTag,
    /// KVM or emulation.
    pub virtualization: Virtualization,
    /// Virtual CPUs.
    pub cpus: i32,
    /// Memory.
    pub memory: Bytes,
    /// What it boots with.
    pub firmware: Firmware,
    /// Root disk.
    pub root: Option<RootDisk>,
    /// Data disk.
    pub data: Option<DataDisk>,
    /// Name of the seed volume, raw and read-only.
    pub seed: Option<String>,
    /// Network cards.
    pub nics: Vec<Nic>,
    /// Whether the pool is shared: caching is off then, as live migration needs it.
    pub shared_storage: bool,
    /// Serial console.
    pub console: ConsoleLog,
    /// Whether a watchdog switches it off when its guest, once it has begun to feed it, stops doing so.
    pub watchdog: bool,
}

impl DomainSpec {
    /// Hash of what makes a running domain differ from a restarted one: everything but the tag itself, and what running
    /// domains get too, which is the version of the filters' rules and the addresses that come and go.
    #[must_use]
    pub fn content_hash(&self) -> String {
        let Self {
            uuid: _,
            title: _,
            role: _,
            tag: _,
            virtualization,
            cpus,
            memory,
            firmware,
            root,
            data,
            seed,
            nics,
            shared_storage,
            console,
            watchdog,
        } = self;
        let nics: Vec<_> = nics.iter().map(|nic| Nic { hold: nic.hold.constant(), ..nic.clone() }).collect();
        let parts = format!(
            "{virtualization:?} {cpus} {memory:?} {firmware:?} {root:?} {data:?} {seed:?} {nics:?} {shared_storage} {console:?}"
        );
        // A router gets one with whatever start comes next: a farm isn't to lose its way out for that.
        let is_router = self.nics.iter().any(|nic| matches!(nic.hold, Hold::Router(_)));
        let watchdog = if *watchdog && !is_router { " watchdog" } else { "" };
        let digest = Sha256::digest([&parts, watchdog].concat());
        digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}
