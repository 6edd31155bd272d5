//! Two hosts of the box, from outside: their namespaces, bridges and libvirt.

use std::process::Output;
use std::thread;
use std::time::Duration;

use cascina::network::filters::RuleSet;

use super::ears::Ear;
use super::frames;
use super::guests::{Guest, PLACES};
use super::tables::Tables;
use crate::namespaces::{ip, try_ip};
use crate::turn::{Beside, Turn, turn};

/// The farms' bridge on every host of the box, and on it the port towards the switch.
pub const BRIDGE: &str = "br-private";
pub const UPLINK: &str = "private";

/// The hosts that the farms are on.
pub const HOSTS: [&str; 2] = ["worker-1", "worker-2"];

/// The box, or as much of it as two farms need.
pub struct Site {
    /// What the names of its namespaces start with.
    pub prefix: String,
    /// The box that it is in.
    pub turn: Turn,
}

impl Site {
    /// The running box, for this test alone: attackers and victims are on its hosts' bridges, and seconds are asserted.
    pub fn find() -> Self {
        let (_gate, turn) = turn(Beside::Nobody);
        let site = Self { prefix: format!("cascina{}", turn.index), turn };
        site.must("host", &[&["start"], &HOSTS[..]].concat());
        site
    }

    /// The namespace of a host.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// A script of `box/`.
    pub fn script(&self, name: &str, arguments: &[&str]) -> Output {
        self.turn.script(name).args(arguments).output().unwrap()
    }

    /// The same, and it must succeed.
    #[track_caller]
    pub fn must(&self, name: &str, arguments: &[&str]) -> String {
        succeeded(&format!("box/{name} {arguments:?}"), &self.script(name, arguments))
    }

    /// Removes a guest's cable and namespace, if they are there. A namespace goes late, when its last socket is closed; a
    /// cable goes at once.
    pub fn forget(&self, host: &str, port: &str, namespace: &str) {
        let _ = try_ip(&format!("-n {host} link delete {port}"));
        let _ = try_ip(&format!("netns delete {namespace}"));
    }

    /// Whether link-local frames teach a bridge something.
    pub fn learn_link_local(&self, learn: bool) {
        for host in HOSTS {
            let off = u8::from(!learn);
            ip(&format!("-n {} link set {BRIDGE} type bridge no_linklocal_learn {off}", self.namespace(host)));
        }
    }

    /// Commands of `virsh` on a host, in one connection.
    #[track_caller]
    pub fn virsh(&self, host: &str, commands: &[String]) -> String {
        self.must("virsh", &[host, &commands.join("; ")])
    }
}

fn succeeded(what: &str, output: &Output) -> String {
    let said = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{what}: {said}");
    said
}

/// Two farms on two hosts.
pub struct Farms {
    pub site: Site,
    pub guests: Vec<Guest>,
    /// What enters a bridge at all is heard there, in the order of [`HOSTS`].
    pub bridges: Vec<Ear>,
    pub tables: Tables,
    files: tempfile::TempDir,
}

impl Farms {
    /// Builds them, without any filter. No operator sees to the hosts meanwhile: it would put filters back that a test
    /// takes away, and take away those that no machine needs.
    pub fn build(site: Site) -> Self {
        site.must("operator", &["stop"]);
        let guests: Vec<_> =
            PLACES.iter().enumerate().map(|(number, place)| Guest::new(&site, number, place)).collect();
        let bridges = HOSTS.iter().map(|host| Ear::open(&site.namespace(host), BRIDGE, None)).collect();
        let tables = Tables::watch(&site, &guests);
        let files = tempfile::tempdir().unwrap();
        let farms = Self { site, guests, bridges, tables, files };
        farms.define(RuleSet::ALL.map(|rules| (rules.filter_name(), rules.filter_xml().unwrap())).as_slice());
        farms
    }

    /// Defines filters on both hosts.
    pub fn define(&self, filters: &[(String, String)]) {
        let commands: Vec<_> =
            filters.iter().map(|(name, xml)| format!("nwfilter-define {}", self.file(name, xml))).collect();
        HOSTS.iter().for_each(|host| drop(self.site.virsh(host, &commands)));
    }

    /// Binds the ports of these guests to the operator's filters, both hosts at once.
    pub fn bind(&self, guests: &[Guest]) {
        self.bind_to(guests, RuleSet::filter_name);
    }

    /// The same with filters of other names.
    pub fn bind_to(&self, guests: &[Guest], filter: impl Fn(RuleSet) -> String + Sync) {
        let filter = &filter;
        thread::scope(|scope| {
            for host in HOSTS {
                let there = guests.iter().filter(|guest| guest.host == host);
                let commands: Vec<_> = there
                    .map(|guest| {
                        let binding = guest.binding(&filter(guest.rules));
                        format!("nwfilter-binding-create {}", self.file(&guest.port, &binding))
                    })
                    .collect();
                if !commands.is_empty() {
                    scope.spawn(move || self.site.virsh(host, &commands));
                }
            }
        });
    }

    /// Undoes what earlier attacks taught bridges and guests.
    pub fn settle(&self) {
        for guest in &self.guests {
            ip(&format!("-n {} neighbour flush all", guest.namespace));
            guest.ear.send(&frames::announcement(guest.mac, guest.mac));
        }
        thread::sleep(Duration::from_millis(100));
    }

    /// A file with this content.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Farms {
    /// The bindings first, while their ports are there.
    fn drop(&mut self) {
        let filters = RuleSet::ALL.map(|rules| format!("nwfilter-undefine {}", rules.filter_name()));
        let (site, guests) = (&self.site, &self.guests);
        thread::scope(|scope| {
            for host in HOSTS {
                let there = guests.iter().filter(|guest| guest.host == host);
                let bindings = there.map(|guest| format!("nwfilter-binding-delete {}", guest.port));
                let commands: Vec<_> = bindings.chain(filters.clone()).collect();
                scope.spawn(move || site.script("virsh", &[host, &commands.join("; ")]));
            }
        });
        for guest in &self.guests {
            self.site.forget(&self.site.namespace(guest.host), &guest.port, &guest.namespace);
        }
        self.site.learn_link_local(false);
        self.site.script("operator", &["start"]);
    }
}
