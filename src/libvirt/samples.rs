//! Domains with nothing unusual about them.

use uuid::Uuid;

use super::domain_xml::{Paths, volumes};
use super::spec::{
    ConsoleLog, DataDisk, DomainRole, DomainSpec, DomainUuid, Firmware, Kernel, Nic, OwnershipTag, RootDisk,
};
use crate::api::{Bytes, DiskFormat, Virtualization};
use crate::network::{Hold, MacAddress};

pub(super) fn spec() -> DomainSpec {
    let uuid = Uuid::from_u128(0x1234);
    let address = "172.16.1.10".parse().unwrap();
    DomainSpec {
        uuid: DomainUuid(uuid),
        title: "physics/worker-1".to_owned(),
        role: DomainRole::Machine,
        tag: OwnershipTag {
            cluster: "6f2c".to_owned(),
            namespace: "physics".to_owned(),
            name: "worker-1".to_owned(),
            uid: uuid,
            epoch: 3,
            spec_hash: "abcdef".to_owned(),
        },
        virtualization: Virtualization::Emulated,
        cpus: 2,
        memory: Bytes::mebi(512),
        firmware: Firmware::Disk,
        root: Some(RootDisk { volume: "root".into(), base: "base".into(), base_format: DiskFormat::Qcow2 }),
        data: Some(DataDisk { volume: "data".into() }),
        seed: Some("seed".into()),
        nics: vec![Nic {
            bridge: "br0".into(),
            mac: MacAddress::of(address),
            hold: Hold::Machine(address),
            bandwidth: None,
        }],
        shared_storage: false,
        console: ConsoleLog::Pty,
        watchdog: false,
    }
}

pub(super) fn paths(spec: &DomainSpec) -> Paths {
    volumes(spec).into_iter().map(|name| (name.to_owned(), ["/pool/", name].concat())).collect()
}

pub(super) fn with_kernel() -> DomainSpec {
    let kernel = Kernel { kernel: "vmlinuz".into(), initrd: Some("initrd".into()), cmdline: "root=/dev/vda".into() };
    DomainSpec { firmware: Firmware::Kernel(kernel), root: None, data: None, seed: None, ..spec() }
}
