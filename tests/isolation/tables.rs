//! The bridges' MAC tables: every change is watched, since a theft may last no longer than the victim's next frame.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use super::frames;
use super::guests::Guest;
use super::site::{HOSTS, Site, UPLINK};

/// A table learnt a thing that isn't so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lies {
    /// Addresses of guests that were moved to a port which isn't theirs.
    pub stolen: usize,
    /// Addresses of nobody on ports of guests.
    pub invented: usize,
}

/// Watches the tables of the hosts' bridges and of the switch between them.
pub struct Tables {
    lies: Arc<Mutex<Lies>>,
    watchers: Vec<Child>,
}

/// Where a bridge should believe that each guest is.
type Truth = HashMap<String, String>;

impl Tables {
    /// Watches from now on.
    pub fn watch(site: &Site, guests: &[Guest]) -> Self {
        let lies = Arc::<Mutex<Lies>>::default();
        let beyond = |host: &str| format!("{host}-p");
        let mut bridges: Vec<(String, Truth)> = HOSTS
            .iter()
            .map(|host| {
                let port = |guest: &Guest| if guest.host == *host { guest.port.clone() } else { UPLINK.to_owned() };
                (site.namespace(host), truth(guests, port))
            })
            .collect();
        bridges.push((site.namespace("switch"), truth(guests, |guest| beyond(guest.host))));
        let watchers = bridges.into_iter().map(|(namespace, truth)| watcher(&namespace, truth, lies.clone())).collect();
        Self { lies, watchers }
    }

    /// What was learnt wrongly since the last call.
    pub fn lies(&self) -> Lies {
        std::mem::take(&mut *self.lies.lock().unwrap())
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        for watcher in &mut self.watchers {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
    }
}

fn truth(guests: &[Guest], port: impl Fn(&Guest) -> String) -> Truth {
    guests.iter().map(|guest| (frames::text(guest.mac), port(guest))).collect()
}

fn watcher(namespace: &str, truth: Truth, lies: Arc<Mutex<Lies>>) -> Child {
    let mut command = Command::new("bridge");
    let mut child = command.args(["-n", namespace, "monitor", "fdb"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            judge(&line, &truth, &mut lies.lock().unwrap());
        }
    });
    child
}

/// A line such as `02:00:ac:10:f1:0a dev cac10f10a master br-private`; the ends of entries are told as `Deleted …`.
fn judge(line: &str, truth: &Truth, lies: &mut Lies) {
    let mut words = line.split_whitespace();
    let (Some(mac), Some("dev"), Some(port)) = (words.next(), words.next(), words.next()) else { return };
    if !line.contains(" master ") || line.contains("permanent") {
        return;
    }
    match truth.get(mac) {
        Some(true_port) => lies.stolen += usize::from(true_port != port),
        None => lies.invented += usize::from(truth.values().any(|guests| guests == port && guests != UPLINK)),
    }
}
