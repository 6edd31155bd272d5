//! Whatever people write about a guest, it comes out of its seed as it went in, and nothing else does.

use std::io::{Cursor, Read};
use std::sync::OnceLock;

use fatfs::{FileSystem, FsOptions};
use serde_json::{Value, json};

use super::{Guest, SeedForm, UserDataText, cloud_config, read_ssh_keys, sample, seed, vendor_data};
use crate::fuzz::texts;
use crate::network::{DomainName, Hostname};

/// What the comment of a key is put behind.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

/// A file of a seed's image.
pub(super) fn file(image: &[u8], name: &str) -> Vec<u8> {
    let mut image = image.to_vec();
    let disk = FileSystem::new(Cursor::new(&mut image), FsOptions::new()).unwrap();
    let mut content = Vec::new();
    disk.root_dir().open_file(name).unwrap().read_to_end(&mut content).unwrap();
    content
}

/// A host name, a domain, comments of keys: in the files that a guest reads they are these names and keys.
pub(crate) fn names_and_keys(data: &[u8]) {
    let mut texts = texts(data);
    let mut guest = sample::guest();
    let name = texts.next().unwrap_or_default();
    if let Ok(hostname) = name.parse::<Hostname>() {
        guest.hostname = hostname;
    }
    let name = texts.next().unwrap_or_default();
    if let Ok(domain) = name.parse::<DomainName>() {
        guest.domain = domain;
    }
    for text in texts.take(8) {
        for line in [text.to_string(), [KEY, " ", &text].concat()] {
            guest.ssh_keys.extend(read_ssh_keys("sshKeys", &[line]).good);
        }
    }
    for (written, meant) in documents(&guest) {
        assert_eq!(serde_yaml::from_str::<Value>(&written).unwrap(), meant);
    }
}

/// The files of a guest, and what every reader of YAML has to find in them.
pub(super) fn documents(guest: &Guest) -> [(String, Value); 4] {
    let lines: Vec<_> = guest.ssh_keys.iter().map(|key| key.to_openssh().unwrap()).collect();
    let mut meta_data = json!({
        "instance-id": guest.instance_id.to_string(),
        "local-hostname": guest.hostname.to_string(),
    });
    let mut first_vendor_data = json!({
        "fqdn": format!("{}.{}", guest.hostname, guest.domain),
        "manage_etc_hosts": "localhost",
        "disable_root": false,
        "ssh_pwauth": false,
    });
    if !lines.is_empty() {
        meta_data["public-keys"] = lines.clone().into();
        first_vendor_data["ssh_authorized_keys"] = lines.clone().into();
    }
    let vendor_data = vendor_data::vendor_data(guest).unwrap();
    let settings = serde_yaml::from_str::<Value>(&vendor_data).unwrap()[0]["content"].as_str().unwrap().to_owned();
    let meant = json!([
        {"type": "text/cloud-config", "content": settings},
        {"type": "text/cloud-boothook", "content": vendor_data::with_keys(&lines)},
    ]);
    let network_config = json!({"version": 2, "ethernets": {"eth0": {
        "match": {"macaddress": guest.nic.mac.to_string()},
        "set-name": "eth0",
        "dhcp4": false,
        "dhcp6": false,
        "addresses": [format!("{}/{}", guest.nic.address, guest.nic.prefix)],
        "routes": [{"to": "0.0.0.0/0", "via": guest.nic.gateway}],
        "nameservers": {"addresses": guest.dns, "search": [guest.domain.to_string()]},
    }}});
    [
        (cloud_config::meta_data(guest).unwrap(), meta_data),
        (vendor_data::first_vendor_data(guest).unwrap(), first_vendor_data),
        (vendor_data, meant),
        (cloud_config::network_config(guest).unwrap(), network_config),
    ]
}

/// User-data is refused, or it is in the image byte for byte and changes no other file.
pub(crate) fn user_data(data: &[u8]) {
    static PLAIN: OnceLock<Vec<u8>> = OnceLock::new();
    let Ok(text) = UserDataText::parse(data) else {
        let is_text = std::str::from_utf8(data).is_ok_and(|text| !text.contains('\0'));
        assert!(!is_text || data.len() > UserDataText::LIMIT, "it was refused without a reason");
        return;
    };
    let plain = PLAIN.get_or_init(|| seed(&sample::guest(), SeedForm::EachBoot).unwrap().image().unwrap());
    let mut guest = sample::guest();
    guest.user_data = Some(text);
    let made = seed(&guest, SeedForm::EachBoot).unwrap().image().unwrap();
    assert_eq!(made.len(), plain.len());
    let given = if data.is_empty() { super::user_data::NOTHING.as_bytes() } else { data };
    assert_eq!(file(&made, "user-data"), given);
    for name in ["meta-data", "vendor-data", "network-config"] {
        assert_eq!(file(&made, name), file(plain, name), "{name}");
    }
}
