//! What is needed to speak with a host.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a host is reached and how hard it may be worked.
#[derive(Clone)]
pub struct HostConfig {
    /// Name of the `Hypervisor`; stands in metrics and logs.
    pub name: String,
    /// `qemu+tls://HOST/system`, `qemu+ssh://USER@HOST/system` or `qemu+tcp://HOST/system`, without parameters.
    pub uri: String,
    /// What proves us to the host and the host to us.
    pub credentials: Credentials,
    /// Admits `qemu+tcp`.
    pub insecure: bool,
    /// Name of the storage pool.
    pub pool: String,
    /// Whether other hosts write into the pool too: it is read anew before each survey then.
    pub shared: bool,
    /// A directory of this process in which credentials may lie as files while the host is in use; letters, digits and
    /// `/._-` only.
    pub runtime_dir: PathBuf,
    /// How long opening a connection may take.
    pub connect_deadline: Duration,
    /// How long an ordinary call may take, and how long an upload may stand still. A start may take four times as long:
    /// libvirt puts filters in place one guest at a time.
    pub call_deadline: Duration,
    /// Calls at once that read, and that write; each has a connection of its own meanwhile.
    pub calls_in_flight: usize,
    /// Starts at once; with the uploads one less than the calls at most, so that a stop always gets its turn.
    pub starts_in_flight: usize,
    /// Told of every call.
    pub observer: Arc<dyn CallObserver>,
}

impl HostConfig {
    /// A configuration with the usual limits, for a pool of the host's own.
    pub fn new(
        name: impl Into<String>,
        uri: impl Into<String>,
        credentials: Credentials,
        pool: impl Into<String>,
        runtime_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            uri: uri.into(),
            credentials,
            insecure: false,
            pool: pool.into(),
            shared: false,
            runtime_dir: runtime_dir.into(),
            connect_deadline: Duration::from_secs(10),
            call_deadline: Duration::from_secs(30),
            calls_in_flight: 4,
            starts_in_flight: 4,
            observer: Arc::new(Unobserved),
        }
    }
}

/// What proves us to a host and the host to us.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// For `qemu+tls`: PEM.
    Tls {
        /// The authorities that host certificates must come from.
        ca: Vec<u8>,
        /// Our certificate.
        certificate: Vec<u8>,
        /// Its key.
        key: Vec<u8>,
    },
    /// For `qemu+ssh`.
    Ssh {
        /// Our private key, as OpenSSH reads it.
        key: Vec<u8>,
        /// The keys that hosts must have, as OpenSSH's `known_hosts`.
        known_hosts: Vec<u8>,
    },
    /// For `qemu+tcp`.
    None,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tls { .. } => "Tls",
            Self::Ssh { .. } => "Ssh",
            Self::None => "None",
        })
    }
}

/// Told of every call to a host when it ends.
pub trait CallObserver: Send + Sync + 'static {
    /// `outcome` is `"ok"` or [`super::HostError::reason`]; `seconds` includes waiting for the call's turn.
    fn observe(&self, host: &str, operation: &'static str, seconds: f64, outcome: &'static str);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl CallObserver for Unobserved {
    fn observe(&self, _: &str, _: &'static str, _: f64, _: &'static str) {}
}

/// A configuration that can't be worked with; trying again changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The URI is none of ours.
    #[error("the URI must look like qemu+tls://HOST/system, qemu+ssh://USER@HOST/system or qemu+tcp://HOST/system")]
    Uri,
    /// The credentials are of another kind than the URI needs.
    #[error("the URI and the credentials don't fit: qemu+tls needs a certificate, qemu+ssh a key and known_hosts")]
    Credentials,
    /// `qemu+tcp` without leave.
    #[error("qemu+tcp gives everybody on the network root on the host: only with `insecure`")]
    Insecure,
    /// The directory's path has characters that libvirt could misread.
    #[error("the path of the runtime directory may have letters, digits and /._- only: {}", .0.display())]
    RuntimeDir(PathBuf),
    /// The credentials can't be laid down as files.
    #[error("credentials can't be written to {}: {source}", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
