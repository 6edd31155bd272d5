//! The files of a router, and the hashes by which they are told apart.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Bytes that a router is handed at once.
const LARGEST_PIECE: usize = 64 << 10;

/// A file of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentName {
    /// Cards, addresses and routes.
    Interfaces,
    /// DNS and DHCP, but for the machines.
    Dnsmasq,
    /// The machines' names.
    Hosts,
    /// The machines' addresses.
    Reservations,
    /// NAT and firewall.
    Nftables,
    /// Tunnels. It holds the router's private key.
    Wireguard,
    /// The kernel's settings.
    Sysctl,
    /// Whose turn it is, of two routers.
    Keepalived,
}

impl DocumentName {
    /// The name of the file.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::Interfaces => "interfaces.json",
            Self::Dnsmasq => "dnsmasq.conf",
            Self::Hosts => "dnsmasq.hosts",
            Self::Reservations => "dnsmasq.reservations",
            Self::Nftables => "nftables.conf",
            Self::Wireguard => "wireguard.conf",
            Self::Sysctl => "sysctl.conf",
            Self::Keepalived => "keepalived.conf",
        }
    }
}

impl Serialize for DocumentName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.file())
    }
}

/// A SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    fn of(content: &str) -> Self {
        Self(Sha256::digest(content).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// What a router is handed: the hash of every file, and the contents of those that it doesn't have.
#[derive(Serialize)]
struct Bundle<'a> {
    hash: Hash,
    documents: BTreeMap<DocumentName, Document<'a>>,
}

#[derive(Serialize)]
struct Document<'a> {
    hash: Hash,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

/// All files of a router.
#[derive(Clone, PartialEq, Eq)]
pub struct Documents(BTreeMap<DocumentName, String>);

impl Documents {
    pub(super) fn new(documents: impl IntoIterator<Item = (DocumentName, String)>) -> Self {
        Self(documents.into_iter().collect())
    }

    /// A file's content.
    #[must_use]
    pub fn content(&self, name: DocumentName) -> &str {
        self.0.get(&name).map_or("", String::as_str)
    }

    /// The names and contents of all files.
    pub fn iter(&self) -> impl Iterator<Item = (DocumentName, &str)> {
        self.0.iter().map(|(name, content)| (*name, content.as_str()))
    }

    /// The hash of each file.
    #[must_use]
    pub fn hashes(&self) -> BTreeMap<DocumentName, Hash> {
        self.0.iter().map(|(name, content)| (*name, Hash::of(content))).collect()
    }

    /// The one hash of all files: that of the lines `sha256sum` would write of them, in the order of their names.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut lines: Vec<_> = self.hashes().iter().map(|(name, hash)| format!("{hash}  {}\n", name.file())).collect();
        lines.sort_by(|one, other| one.get(64..).cmp(&other.get(64..)));
        Hash::of(&lines.concat())
    }

    /// The JSON by which a router that has some of the files gets the others.
    #[must_use]
    pub fn bundle(&self, known: &BTreeMap<String, String>) -> String {
        let has =
            |name: DocumentName, hash: Hash| known.get(name.file()).is_some_and(|known| *known == hash.to_string());
        let documents = self.hashes().into_iter().map(|(name, hash)| {
            let content = (!has(name, hash)).then(|| self.content(name));
            (name, Document { hash, content })
        });
        let bundle = Bundle { hash: self.hash(), documents: documents.collect() };
        // Texts by names that are texts: there is nothing that could fail.
        serde_json::to_string(&bundle).unwrap_or_default()
    }
}

/// A bundle in pieces that an agent takes, each with the place that it has in the whole.
pub fn pieces(bundle: &str) -> impl Iterator<Item = (usize, &[u8])> {
    bundle.as_bytes().chunks(LARGEST_PIECE).scan(0, |place, piece| {
        let here = *place;
        *place += piece.len();
        Some((here, piece))
    })
}

/// Contents are not shown: one of them holds a private key.
impl fmt::Debug for Documents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.hashes().iter().map(|(name, hash)| (name.file(), hash))).finish()
    }
}
