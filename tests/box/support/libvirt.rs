//! What libvirt and the hosts' disks show, asked beside the operator.

use std::collections::BTreeSet;
use std::time::Duration;

use cascina::api::VirtualMachine;
use kube::ResourceExt;
use quick_xml::Reader;
use quick_xml::events::Event;

use super::{HOSTS, TheBox};

/// The host that a machine was placed on.
pub fn host_of(machine: &VirtualMachine) -> String {
    machine.status.as_ref().and_then(|status| status.hypervisor.clone()).expect("it has a host")
}

/// Its address.
pub fn address_of(machine: &VirtualMachine) -> String {
    machine.status.as_ref().and_then(|status| status.address.clone()).expect("it has an address")
}

/// Its epoch.
pub fn epoch_of(machine: &VirtualMachine) -> i64 {
    machine.status.as_ref().and_then(|status| status.epoch).expect("it was admitted")
}

impl TheBox {
    /// `virsh` on a host; it must succeed.
    #[track_caller]
    pub fn virsh(&self, host: &str, arguments: &[&str]) -> String {
        self.script("virsh", &[&[host], arguments].concat())
    }

    /// The UUIDs of the domains on a host, running or not, but for the operator's canary.
    #[track_caller]
    pub fn domains(&self, host: &str) -> BTreeSet<String> {
        let all = self.virsh(host, &["list", "--all", "--uuid"]);
        let canaries = self.canaries(host);
        all.split_whitespace().map(str::to_owned).filter(|uuid| !canaries.contains(uuid)).collect()
    }

    /// The UUIDs of the canaries on a host.
    #[track_caller]
    pub fn canaries(&self, host: &str) -> BTreeSet<String> {
        let table = self.virsh(host, &["list", "--all", "--title"]);
        let rows = table.lines().filter(|row| row.trim_end().ends_with("cascina canary"));
        rows.filter_map(|row| row.split_whitespace().find_map(|word| word.strip_prefix("casc-")))
            .map(str::to_owned)
            .collect()
    }

    /// The hosts that have a domain with this UUID.
    pub fn hosts_with(&self, uuid: &str) -> Vec<&'static str> {
        HOSTS.into_iter().filter(|host| self.domains(host).contains(uuid)).collect()
    }

    /// The definition of a machine's domain.
    #[track_caller]
    pub fn domain_xml(&self, machine: &VirtualMachine) -> String {
        self.virsh(&host_of(machine), &["dumpxml", "--inactive", &machine.uid().unwrap()])
    }

    /// The names of the files in a host's pool, as they lie on its disk.
    pub fn volumes(&self, host: &str) -> BTreeSet<String> {
        let pool = if host.starts_with("service") { "hosts/service-pool".into() } else { format!("hosts/{host}/pool") };
        let files = std::fs::read_dir(self.state.join(pool)).unwrap();
        files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// What is left on the hosts of things with these uids: domains and volumes.
    pub fn left_of(&self, uids: &[String]) -> Vec<String> {
        let mut left = Vec::new();
        for host in HOSTS {
            let domains = self.domains(host);
            left.extend(uids.iter().filter(|uid| domains.contains(*uid)).map(|uid| format!("{host}: domain {uid}")));
            let volumes = self.volumes(host).into_iter();
            let ours = volumes.filter(|volume| uids.iter().any(|uid| volume.starts_with(uid.as_str())));
            left.extend(ours.map(|volume| format!("{host}: volume {volume}")));
        }
        left
    }

    /// Waits until nothing is left on any host of things with these uids.
    pub async fn nothing_left_of(&self, uids: &[String]) {
        self.eventually("domains and volumes to be gone", Duration::from_secs(30), async || {
            let left = self.left_of(uids);
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        })
        .await;
    }

    /// Our filters on a host, but for those that its canary has.
    #[track_caller]
    pub fn filters(&self, host: &str) -> Vec<String> {
        let canaries: Vec<_> = self.canaries(host).iter().map(|uuid| self.virsh(host, &["dumpxml", uuid])).collect();
        let list = self.virsh(host, &["nwfilter-list"]);
        let ours = list.split_whitespace().filter(|word| word.starts_with("cascina-"));
        ours.filter(|name| !canaries.iter().any(|canary| canary.contains(*name))).map(str::to_owned).collect()
    }

    /// Ends QEMU of a machine as a crash would.
    pub fn kill_guest(&self, machine: &VirtualMachine) {
        let name = format!("guest=casc-{}", machine.uid().unwrap());
        let killed = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let path = entry.ok()?.path();
            let command = std::fs::read_to_string(path.join("cmdline")).ok()?;
            let pid = path.file_name()?.to_str()?.parse::<u32>().ok()?;
            let program = std::fs::read_to_string(path.join("comm")).ok()?;
            (program.starts_with("qemu") && command.contains(&name)).then_some(pid)
        });
        let killed: Vec<_> = killed.collect();
        assert_eq!(killed.len(), 1, "one QEMU runs {name}");
        let status = std::process::Command::new("kill").args(["-KILL", &killed[0].to_string()]).status().unwrap();
        assert!(status.success());
    }
}

/// The elements of a document with the names of their attributes, without any value: what text must not change.
pub fn structure(xml: &str) -> Vec<String> {
    let mut reader = Reader::from_str(xml);
    let mut lines = Vec::new();
    let mut depth = 0_usize;
    loop {
        let (element, nested) = match reader.read_event().unwrap() {
            Event::Start(element) => (element, true),
            Event::Empty(element) => (element, false),
            Event::End(_) => {
                depth -= 1;
                continue;
            }
            Event::Eof => return lines,
            _ => continue,
        };
        let attributes = element.attributes().map(|attribute| format!("{:?}", attribute.unwrap().key.as_ref()));
        let attributes = attributes.collect::<Vec<_>>().join(" ");
        lines.push(format!("{}{:?} {attributes}", "  ".repeat(depth), element.name().as_ref()));
        depth += usize::from(nested);
    }
}
