//! Credentials as the private files that libvirt and ssh insist on, and the URI that leads to them.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use url::Url;
use uuid::Uuid;

use super::config::{ConfigError, Credentials, HostConfig};

/// Takes the place of `ssh`, because libvirt can't name a `known_hosts`. A host that falls silent ends the connection.
const SSH: &str = r#"#!/bin/sh
here=${0%/*}
exec ssh -F none -i "$here/key" -o IdentitiesOnly=yes -o BatchMode=yes -o ForwardAgent=no \
  -o StrictHostKeyChecking=yes -o UserKnownHostsFile="$here/known_hosts" -o GlobalKnownHostsFile=none \
  -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=5 "$@"
"#;

/// The way to a host. Its files are removed when it is dropped.
#[derive(Debug)]
pub(super) struct Door {
    uri: String,
    host: String,
    port: Option<u16>,
    directory: Option<PathBuf>,
    opening: Arc<Mutex<()>>,
}

impl Door {
    /// Checks the configuration and writes the credentials, readable by us only.
    pub(super) fn new(config: &HostConfig) -> Result<Self, ConfigError> {
        if !config.uri.chars().all(|character| character.is_ascii_alphanumeric() || "+:/@._-[]".contains(character)) {
            return Err(ConfigError::Uri);
        }
        let uri = Url::parse(&config.uri).map_err(|_| ConfigError::Uri)?;
        let host = uri.host_str().filter(|host| !host.is_empty()).ok_or(ConfigError::Uri)?.to_owned();
        let plain = uri.path() == "/system" && uri.query().is_none() && uri.fragment().is_none();
        if !plain || uri.password().is_some() {
            return Err(ConfigError::Uri);
        }
        let (default_port, files): (_, Vec<(&str, u32, &[u8])>) = match (uri.scheme(), &config.credentials) {
            ("qemu+tls", Credentials::Tls { ca, certificate, key }) => (
                16514,
                vec![("cacert.pem", 0o600, ca), ("clientcert.pem", 0o600, certificate), ("clientkey.pem", 0o600, key)],
            ),
            ("qemu+ssh", Credentials::Ssh { key, known_hosts }) => {
                (22, vec![("key", 0o600, key), ("known_hosts", 0o600, known_hosts), ("ssh", 0o700, SSH.as_bytes())])
            }
            ("qemu+tcp", _) if !config.insecure => return Err(ConfigError::Insecure),
            ("qemu+tcp", _) => (16509, Vec::new()),
            ("qemu+tls" | "qemu+ssh", _) => return Err(ConfigError::Credentials),
            _ => return Err(ConfigError::Uri),
        };
        let port = (uri.scheme() != "qemu+ssh").then(|| uri.port().unwrap_or(default_port));
        let mut door = Self { uri: config.uri.clone(), host, port, directory: None, opening: Arc::default() };
        if !files.is_empty() {
            let directory = private_directory(&config.runtime_dir)?;
            let path = directory.display().to_string();
            door.directory = Some(directory.clone());
            for (name, mode, content) in files {
                let path = directory.join(name);
                write_private(&path, mode, content).map_err(|source| ConfigError::Write { path, source })?;
            }
            let parameters = if uri.scheme() == "qemu+tls" {
                ["?no_tty=1&pkipath=", &path].concat()
            } else {
                ["?no_tty=1&keyfile=", &path, "/key&command=", &path, "/ssh"].concat()
            };
            door.uri.push_str(&parameters);
        }
        Ok(door)
    }

    /// The URI for libvirt.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// A turn to go through: who does can tell which sockets came by it.
    pub(super) async fn opening(&self) -> OwnedMutexGuard<()> {
        self.opening.clone().lock_owned().await
    }

    /// Where libvirt's own socket leads; empty for ssh, which has its own watch, and when the name isn't known. Asks the
    /// resolver, so it may block.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        self.port.and_then(|port| (host, port).to_socket_addrs().ok()).into_iter().flatten().collect()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory
            && let Err(error) = fs::remove_dir_all(directory)
        {
            tracing::warn!(directory = %directory.display(), %error, "credentials stay on disk");
        }
    }
}

fn private_directory(parent: &Path) -> Result<PathBuf, ConfigError> {
    let safe = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    if !parent.to_str().is_some_and(|path| path.chars().all(safe)) {
        return Err(ConfigError::RuntimeDir(parent.to_owned()));
    }
    let path = parent.join(format!("host-{}", Uuid::new_v4().simple()));
    let made = DirBuilder::new().mode(0o700).create(&path);
    made.map(|()| path.clone()).map_err(|source| ConfigError::Write { path, source })
}

fn write_private(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn config(uri: &str, credentials: Credentials, directory: &Path) -> HostConfig {
        HostConfig::new("test", uri, credentials, "pool", directory)
    }

    fn tls() -> Credentials {
        Credentials::Tls { ca: b"ca".to_vec(), certificate: b"certificate".to_vec(), key: b"key".to_vec() }
    }

    #[test]
    fn credentials_are_ours_alone_and_vanish() {
        let parent = tempfile::tempdir().unwrap();
        let door = Door::new(&config("qemu+tls://10.0.0.1/system", tls(), parent.path())).unwrap();
        let directory = door.directory.clone().unwrap();
        assert_eq!(door.uri(), format!("qemu+tls://10.0.0.1/system?no_tty=1&pkipath={}", directory.display()));
        assert_eq!(door.addresses(), ["10.0.0.1:16514".parse().unwrap()]);
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        let key = directory.join("clientkey.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&key).unwrap(), b"key");
        drop(door);
        assert!(!directory.exists());
    }

    #[test]
    fn only_our_own_uris_pass() {
        let parent = tempfile::tempdir().unwrap();
        for uri in [
            "qemu+tls://host/system?pkipath=/tmp",
            "qemu+tls://host/session",
            "qemu+tls:///system",
            "qemu+unix:///system",
            "test:///default",
            "qemu+ext://host/system",
            "qemu+tls://user:secret@host/system",
            "qemu+tls://host\0/system",
            "qemu+tls://ho\nst/system",
            "qemu+tls://ho%00st/system",
            "",
        ] {
            assert!(Door::new(&config(uri, tls(), parent.path())).is_err(), "{uri}");
        }
        let tcp = config("qemu+tcp://host/system", Credentials::None, parent.path());
        assert!(matches!(Door::new(&tcp), Err(ConfigError::Insecure)));
        assert!(Door::new(&HostConfig { insecure: true, ..tcp }).is_ok());
        let mixed = config("qemu+ssh://root@host/system", tls(), parent.path());
        assert!(matches!(Door::new(&mixed), Err(ConfigError::Credentials)));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_that_libvirt_could_misread_is_refused() {
        let odd = Path::new("/tmp/a&b=c");
        assert!(matches!(Door::new(&config("qemu+tls://host/system", tls(), odd)), Err(ConfigError::RuntimeDir(_))));
    }

    proptest! {
        /// Whatever a URI says, libvirt is told of our files and of no others, and of no command but ours.
        #[test]
        fn a_uri_brings_no_parameters(
            host in "[a-z]{1,9}|[a-z0-9.:@/?&=%#;+_\\[\\]-]{0,30}|\\PC{0,20}",
            end in "(/system)?([?&;#][a-z]{1,7}=[a-z/]{1,9}){0,2}(/system)?", kind in prop::sample::select(vec!["tls", "ssh", "tcp", "ext", "libssh2"]),
        ) {
            let parent = tempfile::tempdir().unwrap();
            let credentials = match kind {
                "tls" => tls(),
                "ssh" => Credentials::Ssh { key: b"key".to_vec(), known_hosts: Vec::new() },
                _ => Credentials::None,
            };
            let uri = format!("qemu+{kind}://{host}{end}");
            let config = HostConfig { insecure: true, ..config(&uri, credentials, parent.path()) };
            let Ok(door) = Door::new(&config) else { return Ok(()) };
            let told = Url::parse(door.uri()).unwrap();
            prop_assert_eq!((told.path(), told.fragment(), told.password()), ("/system", None, None));
            let names: Vec<_> = told.query_pairs().map(|(name, _)| name.into_owned()).collect();
            let expected: &[&str] = match kind {
                "tls" => &["no_tty", "pkipath"],
                "ssh" => &["no_tty", "keyfile", "command"],
                _ => &[],
            };
            prop_assert_eq!(names, expected);
            let inside = |value: &str| value == "1" || value.starts_with(parent.path().to_str().unwrap());
            prop_assert!(told.query_pairs().all(|(_, value)| inside(&value)), "{}", told);
        }
    }
}
