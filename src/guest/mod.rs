//! What goes into a guest: its NoCloud seed. Pure, and the same bytes for the same input.

mod cloud_config;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(any(test, fuzzing))]
pub mod sample;
mod seed;
mod ssh_keys;
mod user_data;
mod vendor_data;
mod vfat;

use std::net::Ipv4Addr;

use uuid::Uuid;

use crate::network::{BadName, DomainName, Hostname, MacAddress};

pub use seed::{Seed, SeedForm, SeedHash, Told, seed, seed_volume, told_anew};
pub use ssh_key::PublicKey;
pub use ssh_keys::{BadSshKey, SshKeys, read_ssh_keys};
pub use user_data::UserDataText;

/// All that a guest is told about itself.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The machine's uid: a guest takes another one for its first boot.
    pub instance_id: Uuid,
    /// Its host name.
    pub hostname: Hostname,
    /// The domain of its farm: completes its name and is searched for others.
    pub domain: DomainName,
    /// Its network card.
    pub nic: GuestNic,
    /// DNS servers.
    pub dns: Vec<Ipv4Addr>,
    /// Keys that may log in, as the image's default user and as root.
    pub ssh_keys: Vec<PublicKey>,
    /// What the machine's owner gave, handed through byte for byte.
    pub user_data: Option<UserDataText>,
}

/// The network card of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestNic {
    /// By which the guest finds it.
    pub mac: MacAddress,
    /// Its only address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix, 24 in a farm.
    pub prefix: u8,
    /// The way out, where there is one.
    pub gateway: Option<Ipv4Addr>,
}

/// Why a guest can't be given its seed. None of these gets better by trying again: somebody must change an object.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// User-data beyond the limit.
    #[error("userData: {actual} bytes, the limit is {limit} (16 KiB): fetch the rest from within the guest")]
    UserDataTooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The actual size in bytes.
        actual: usize,
    },
    /// User-data that is no text.
    #[error("userData: not UTF-8 at byte {position}: give text, binary files can be base64 in write_files")]
    UserDataNotUtf8 {
        /// Where the first wrong byte is.
        position: usize,
    },
    /// User-data with a NUL.
    #[error("userData: a NUL at byte {position}: give text")]
    UserDataNul {
        /// Where the NUL is.
        position: usize,
    },
    /// A host name or domain that isn't one.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The files don't fit.
    #[error("the seed's files have {actual} bytes, {limit} fit: give fewer SSH keys")]
    SeedTooLarge {
        /// What fits.
        limit: usize,
        /// What there is.
        actual: usize,
    },
    /// A file of the seed couldn't be encoded: an error in Cascina.
    #[error("the seed's {file} can't be encoded: {message}")]
    Encoding {
        /// Name of the file.
        file: &'static str,
        /// What the encoder said.
        message: String,
    },
}

impl GuestError {
    /// One CamelCase word for conditions and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UserDataTooLarge { .. } | Self::UserDataNotUtf8 { .. } | Self::UserDataNul { .. } => {
                "InvalidUserData"
            }
            Self::Name(_) => "InvalidName",
            Self::SeedTooLarge { .. } => "SeedTooLarge",
            Self::Encoding { .. } => "SeedEncoding",
        }
    }
}
