//! The running box, its hosts, and what is done to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use cascina::libvirt::{Credentials, HostConfig, LibvirtHost};
use tempfile::TempDir;

use crate::turn::{Beside, Turn, turn};

pub struct TheBox {
    /// Its state, name and index.
    pub turn: Turn,
    /// Gone with it.
    pub runtime: TempDir,
}

/// The running box, for this test alone: the tests share hosts, and some of them hang a host.
pub async fn the_box() -> TheBox {
    let (_gate, turn) = turn(Beside::Nobody);
    TheBox { turn, runtime: tempfile::tempdir().unwrap() }
}

impl TheBox {
    pub fn config(&self, name: &str, identity: &str) -> HostConfig {
        let last = BTreeMap::from([("worker-1", 11), ("worker-2", 12), ("service-1", 21), ("service-2", 22)])[name];
        let pki = self.turn.state.join("pki").join(identity);
        let credentials = Credentials::Tls {
            ca: fs::read(pki.join("cacert.pem")).unwrap(),
            certificate: fs::read(pki.join("clientcert.pem")).unwrap(),
            key: fs::read(pki.join("clientkey.pem")).unwrap(),
        };
        let uri = format!("qemu+tls://198.18.{}.{last}/system", self.turn.index);
        let mut config = HostConfig::new(name, uri, credentials, "cascina", self.runtime.path());
        config.shared = name.starts_with("service");
        config
    }

    pub fn host(&self, name: &str) -> LibvirtHost {
        LibvirtHost::new(self.config(name, "operator")).unwrap()
    }

    pub fn power(&self, verb: &str, name: &str) {
        self.script("host", &[verb, name]);
    }

    /// A script in `box/` of the repository that the box belongs to. It works on namespaces, so it runs in the network
    /// that the runner of the tests came from, where that is known (`CASCINA_BOX_OUTSIDE=/proc/PID/ns/net`).
    pub fn script(&self, name: &str, arguments: &[&str]) -> String {
        let mut command = self.turn.script(name);
        if let Ok(outside) = std::env::var("CASCINA_BOX_OUTSIDE") {
            let inner = command;
            command = Command::new("nsenter");
            command.arg(format!("--net={outside}")).arg(inner.get_program()).args(inner.get_args());
            command.env("BOX", &self.turn.name);
        }
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "box/{name} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Freezes a host until what is returned is dropped.
    pub fn hang<'a>(&'a self, name: &'a str) -> Hung<'a> {
        let hung = Hung(self, name);
        let is_hung = |line: &str| line.starts_with(name) && line.ends_with("hung");
        // Signals reach the threads one after the other.
        for _ in 0..10 {
            self.power("hang", name);
            std::thread::sleep(Duration::from_millis(200));
            if self.script("host", &["list"]).lines().any(is_hung) {
                return hung;
            }
        }
        panic!("{name} doesn't hang")
    }

    pub fn file(&self, length: usize) -> PathBuf {
        let path = self.runtime.path().join("upload");
        fs::write(&path, (0..=250).cycle().take(length).collect::<Vec<u8>>()).unwrap();
        path
    }
}

pub struct Hung<'a>(&'a TheBox, &'a str);

impl Drop for Hung<'_> {
    fn drop(&mut self) {
        let verb = if std::thread::panicking() { "start" } else { "resume" };
        self.0.power(verb, self.1);
    }
}

/// Says how long something took: the numbers stand in the report of a test run.
pub async fn timed<T>(what: &str, call: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let result = call.await;
    println!("{:>7.3} s  {what}", started.elapsed().as_secs_f64());
    result
}
