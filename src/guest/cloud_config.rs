//! The YAML files of a seed, written from typed data only.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Serialize;
use uuid::Uuid;

use super::{Guest, GuestError};
use crate::network::{DomainName, Hostname};

/// The first line by which cloud-init knows its configuration.
pub(super) const HEADER: &str = "#cloud-config\n";

/// The name of the guest's network card.
const NIC: &str = "eth0";

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct MetaData<'a> {
    instance_id: Uuid,
    local_hostname: &'a Hostname,
    /// Keys that may log in whatever the user-data says: cloud-init adds its own to these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    public_keys: Vec<String>,
}

#[derive(Serialize)]
struct NetworkConfig<'a> {
    version: u8,
    ethernets: BTreeMap<&'static str, Ethernet<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Ethernet<'a> {
    r#match: Match,
    set_name: &'static str,
    dhcp4: bool,
    dhcp6: bool,
    addresses: [String; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<[Route; 1]>,
    nameservers: Nameservers<'a>,
}

#[derive(Serialize)]
struct Match {
    macaddress: String,
}

#[derive(Serialize)]
struct Route {
    /// Written as a prefix: not every renderer knows the word `default`.
    to: &'static str,
    via: Ipv4Addr,
}

#[derive(Serialize)]
struct Nameservers<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    addresses: &'a [Ipv4Addr],
    search: [&'a DomainName; 1],
}

pub(super) fn yaml(file: &'static str, document: &impl Serialize) -> Result<String, GuestError> {
    serde_yaml::to_string(document).map_err(|error| GuestError::Encoding { file, message: error.to_string() })
}

/// The guest's keys in OpenSSH's form, for a file of the seed.
pub(super) fn openssh(file: &'static str, guest: &Guest) -> Result<Vec<String>, GuestError> {
    let line = |key: &ssh_key::PublicKey| {
        key.to_openssh().map_err(|error| GuestError::Encoding { file, message: error.to_string() })
    };
    guest.ssh_keys.iter().map(line).collect()
}

pub(super) fn meta_data(guest: &Guest) -> Result<String, GuestError> {
    let public_keys = openssh("meta-data", guest)?;
    yaml("meta-data", &MetaData { instance_id: guest.instance_id, local_hostname: &guest.hostname, public_keys })
}

/// As seeds of the first form have it: without keys.
pub(super) fn first_meta_data(guest: &Guest) -> Result<String, GuestError> {
    let public_keys = Vec::new();
    yaml("meta-data", &MetaData { instance_id: guest.instance_id, local_hostname: &guest.hostname, public_keys })
}

pub(super) fn network_config(guest: &Guest) -> Result<String, GuestError> {
    let nic = guest.nic;
    let ethernet = Ethernet {
        r#match: Match { macaddress: nic.mac.to_string() },
        set_name: NIC,
        dhcp4: false,
        dhcp6: false,
        addresses: [[nic.address.to_string(), nic.prefix.to_string()].join("/")],
        routes: nic.gateway.map(|via| [Route { to: "0.0.0.0/0", via }]),
        nameservers: Nameservers { addresses: &guest.dns, search: [&guest.domain] },
    };
    yaml("network-config", &NetworkConfig { version: 2, ethernets: BTreeMap::from([(NIC, ethernet)]) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::fuzz::documents;
    use crate::guest::read_ssh_keys;
    use crate::guest::sample::guest;
    use crate::network::words::words;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use serde_yaml::Value;
    use std::io::Write;
    use std::process::{Command, Stdio};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn read(text: &str) -> Value {
        serde_yaml::from_str(text).unwrap()
    }

    fn keys_of(document: &Value) -> Vec<&str> {
        document.as_mapping().unwrap().keys().map(|key| key.as_str().unwrap()).collect()
    }

    #[test]
    fn the_files_read_as_people_expect() {
        let mut guest = guest();
        guest.ssh_keys = read_ssh_keys("sshKeys", &[[KEY, "ann@lab"].join(" ")]).good;
        insta::assert_snapshot!(meta_data(&guest).unwrap(), @r"
        instance-id: 6f0c6a5e-0000-4000-8000-00000000000a
        local-hostname: worker-1
        public-keys:
        - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti ann@lab
        ");
        insta::assert_snapshot!(network_config(&guest).unwrap(), @r"
        version: 2
        ethernets:
          eth0:
            match:
              macaddress: 02:00:ac:10:07:0a
            set-name: eth0
            dhcp4: false
            dhcp6: false
            addresses:
            - 172.16.7.10/24
            routes:
            - to: 0.0.0.0/0
              via: 172.16.7.1
            nameservers:
              addresses:
              - 172.16.7.1
              search:
              - atlas.cascina.internal
        ");
    }

    #[test]
    fn without_gateway_and_servers_there_are_no_such_lines() {
        let mut guest = guest();
        guest.nic.gateway = None;
        guest.dns.clear();
        let ethernet = &read(&network_config(&guest).unwrap())["ethernets"]["eth0"];
        assert!(ethernet.get("routes").is_none());
        assert_eq!(keys_of(&ethernet["nameservers"]), ["search"]);
    }

    /// cloud-init reads YAML 1.1 with `PyYAML`, which takes more for numbers, dates and truth values than our writer.
    #[test]
    fn cloud_inits_own_reader_finds_what_was_meant() {
        const READ: &str = "import json, sys, yaml\n\
            documents = json.load(sys.stdin)\n\
            json.dump([yaml.safe_load(document) for document in documents], sys.stdout, default=repr)";
        let mut runner = TestRunner::deterministic();
        let label = "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?|[0-9]{1,4}|0[xbo]?[0-7]{1,3}|[0-9]e-?[0-9]|[0-9]{4}-[0-9]{2}-[0-9]{2}|y|n|null|true|yes|on";
        let labels = prop::collection::vec(label, 2..5);
        let comment = "\\PC{0,30}|[:#&*!|>'\"%@`{}\\[\\], -]{1,20}|[0-9]{1,3}:[0-9]{2}|~|=|<<";
        let (mut written, mut meant) = (Vec::new(), Vec::new());
        for _ in 0..400 {
            let (labels, comment) = (&labels, &comment).new_tree(&mut runner).unwrap().current();
            let mut guest = guest();
            let (Ok(name), Ok(domain)) = (labels[0].parse(), labels[1..].join(".").parse()) else { continue };
            (guest.hostname, guest.domain) = (name, domain);
            guest.ssh_keys = read_ssh_keys("", &[[KEY, &comment].join(" ")]).good;
            for (document, value) in documents(&guest) {
                written.push(document);
                meant.push(value);
            }
        }
        for word in words().into_values().flat_map(|reader| reader.words) {
            let mut guest = guest();
            let (Ok(name), Ok(domain)) = (word.parse(), [&*word, "example"].join(".").parse()) else { continue };
            (guest.hostname, guest.domain) = (name, domain);
            for (document, value) in documents(&guest) {
                written.push(document);
                meant.push(value);
            }
        }
        let mut python = Command::new("python3");
        python.args(["-c", READ]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let Ok(mut child) = python.spawn() else { return eprintln!("skipped: needs python3") };
        // It reads everything before it writes; without PyYAML it reads nothing.
        let _ = child.stdin.take().unwrap().write_all(serde_json::to_string(&written).unwrap().as_bytes());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named 'yaml'") {
            return eprintln!("skipped: needs PyYAML");
        }
        let read: Vec<serde_json::Value> =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert!(read.len() > 300);
        for (at, read) in read.iter().enumerate() {
            assert_eq!(*read, meant[at], "{}", written[at]);
        }
    }

    proptest! {
        /// Whatever the names are, they are read back as these names and add no key.
        #[test]
        fn names_stay_in_their_fields(
            hostname in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?|yes|no|on|off|null|true|0x1f|0777|1e3|0b1|0o7|y|n",
            domain in "[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?([.][a-z0-9]{1,5}){0,3}|yes|1[.]5e-3|1[.]5|12|null",
        ) {
            let mut guest = guest();
            let (Ok(name), Ok(search)) = (hostname.parse::<Hostname>(), domain.parse::<DomainName>()) else {
                return Ok(());
            };
            (guest.hostname, guest.domain) = (name, search);
            let document = read(&meta_data(&guest).unwrap());
            prop_assert_eq!(keys_of(&document), ["instance-id", "local-hostname"]);
            prop_assert_eq!(document["local-hostname"].as_str(), Some(hostname.as_str()));
            let document = read(&network_config(&guest).unwrap());
            prop_assert_eq!(document["ethernets"]["eth0"]["nameservers"]["search"][0].as_str(), Some(domain.as_str()));
        }

        /// Whatever a key's comment is, it stays in the key's line.
        #[test]
        fn comments_stay_in_their_keys(comments in prop::collection::vec("[ -~]{0,40}|\\PC{0,20}|[:#&*!|>'\"%@`{}\\[\\], -]{1,20}", 1..4)) {
            let mut guest = guest();
            let lines: Vec<_> = comments.iter().map(|comment| [KEY, comment].join(" ")).collect();
            guest.ssh_keys = read_ssh_keys("", &lines).good;
            let document = read(&meta_data(&guest).unwrap());
            let written: Vec<String> = document.get("public-keys").map_or_else(Vec::new, |keys| {
                keys.as_sequence().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect()
            });
            prop_assert_eq!(written, openssh("meta-data", &guest).unwrap());
            prop_assert!(keys_of(&document).iter().all(|key| ["instance-id", "local-hostname", "public-keys"].contains(key)));
        }
    }
}
