//! A machine that boots nothing, made by hand.

use std::net::Ipv4Addr;

use cascina::api::{Bytes, DiskFormat, Virtualization};
use cascina::libvirt::{
    ConsoleLog, DataDisk, DomainRole, DomainSpec, DomainUuid, Firmware, Host, LibvirtHost, Nic, OwnershipTag, RootDisk,
    VolumeSpec,
};
use cascina::network::{Hold, MacAddress};
use uuid::Uuid;

/// A machine that boots nothing, with the names of its volumes.
pub fn machine(name: &str, octet: u8) -> DomainSpec {
    let uuid = Uuid::new_v4();
    let address = Ipv4Addr::new(172, 31, 250, octet);
    DomainSpec {
        uuid: DomainUuid(uuid),
        title: format!("test/{name} <&'\">"),
        role: DomainRole::Machine,
        tag: OwnershipTag {
            cluster: "test-cluster".to_owned(),
            namespace: "test".to_owned(),
            name: name.to_owned(),
            uid: uuid,
            epoch: 1,
            spec_hash: "abc".to_owned(),
        },
        virtualization: Virtualization::Emulated,
        cpus: 1,
        memory: Bytes::mebi(64),
        firmware: Firmware::Disk,
        root: Some(RootDisk {
            volume: format!("test-{uuid}-root.qcow2"),
            base: format!("test-{uuid}-base.qcow2"),
            base_format: DiskFormat::Qcow2,
        }),
        data: Some(DataDisk { volume: format!("test-{uuid}-data.qcow2") }),
        seed: Some(format!("test-{uuid}-seed.img")),
        nics: vec![Nic {
            bridge: "br-private".to_owned(),
            mac: MacAddress::of(address),
            hold: Hold::Machine(address),
            bandwidth: None,
        }],
        shared_storage: false,
        console: ConsoleLog::Pty,
        watchdog: false,
    }
}

pub async fn make_volumes(host: &LibvirtHost, spec: &DomainSpec) {
    let root = spec.root.clone().unwrap();
    let base = VolumeSpec::Blank { name: root.base.clone(), size: Bytes::mebi(16) };
    let overlay = VolumeSpec::Overlay {
        name: root.volume,
        base: root.base,
        base_format: root.base_format,
        size: Bytes::mebi(32),
    };
    let data = VolumeSpec::Blank { name: spec.data.clone().unwrap().volume, size: Bytes::gibi(1) };
    for volume in [base, overlay, data] {
        host.create_volume(&volume).await.unwrap();
        host.create_volume(&volume).await.unwrap();
    }
    host.write_volume(spec.seed.as_deref().unwrap(), &[7; 4096]).await.unwrap();
}

fn volumes(spec: &DomainSpec) -> Vec<String> {
    let mut volumes: Vec<_> = spec.root.iter().flat_map(|root| [root.volume.clone(), root.base.clone()]).collect();
    volumes.extend(spec.data.iter().map(|data| data.volume.clone()));
    volumes.extend(spec.seed.clone());
    if let Firmware::Kernel(kernel) = &spec.firmware {
        volumes.push(kernel.kernel.clone());
        volumes.extend(kernel.initrd.clone());
    }
    volumes
}

pub async fn remove(host: &LibvirtHost, spec: &DomainSpec) {
    for _ in 0..2 {
        host.destroy(spec.uuid).await.unwrap();
        host.undefine(spec.uuid).await.unwrap();
        for volume in volumes(spec) {
            host.delete_volume(&volume).await.unwrap();
        }
    }
}
