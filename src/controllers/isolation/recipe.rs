//! How a canary is made, from the objects alone.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use kube::ResourceExt;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::verdict::Nonce;
use crate::api::site::{SelfTest, Site};
use crate::api::{Bytes, Hypervisor, PinnedImage};
use crate::libvirt::{
    ConsoleLog, DomainRole, DomainSpec, DomainUuid, Firmware, GuestCommand, Kernel, Nic, OwnershipTag,
};
use crate::network::{FarmNetwork, Hold, MacAddress, numbered_network};

/// A canary's memory.
const MEMORY: Bytes = Bytes::mebi(128);
/// The program in the canary that attacks.
const PROGRAM: &str = "cascina-canary";
/// It is done in less than a second, in four when nothing arrives, and an emulated host has much else to do.
const WITHIN: Duration = Duration::from_secs(15);

/// What a host keeps back for its canary. It has a CPU too, but gives it up to whoever asks.
#[must_use]
pub fn kept_back(site: &Site) -> Bytes {
    match site.isolation.self_test {
        SelfTest::Required => MEMORY,
        SelfTest::Disabled => Bytes::ZERO,
    }
}

/// The UUID of a host's canary, the same always.
#[must_use]
pub fn canary_uuid(cluster: &str, hypervisor: Uuid) -> DomainUuid {
    let digest = Sha256::new().chain_update("canary").chain_update(cluster).chain_update(hypervisor).finalize();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(byte, digest)| *byte = digest);
    DomainUuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// The two farms that a host's canary plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    inside: FarmNetwork,
    outside: FarmNetwork,
}

impl Stage {
    /// The networks of a slot; `None`: there are fewer.
    #[must_use]
    pub fn of_slot(networks: Ipv4Net, slot: i32) -> Option<Self> {
        let first = usize::try_from(slot).ok()?.checked_mul(2)?;
        Some(Self { inside: numbered_network(networks, first)?, outside: numbered_network(networks, first + 1)? })
    }

    /// Both networks.
    pub fn networks(self) -> BTreeSet<FarmNetwork> {
        [self.inside, self.outside].into()
    }

    /// The cards in the order in which the canary's program wants them: attacker, victim, peer, outsider.
    fn cards(self) -> impl Iterator<Item = Ipv4Addr> {
        self.inside.machine_addresses().take(3).chain(self.outside.machine_addresses().take(1))
    }

    /// The command by which a canary attacks itself.
    #[must_use]
    pub fn attack(self, nonce: Nonce) -> GuestCommand {
        let cards = self.cards().map(|address| address.to_string());
        let arguments = ["run".to_owned(), nonce.to_string()].into_iter().chain(cards).collect();
        GuestCommand { program: PROGRAM.to_owned(), arguments, input: Vec::new(), within: WITHIN }
    }
}

/// The canary of a host; `None`: the image has no kernel, or the object no uid.
#[must_use]
pub fn canary(cluster: &str, hypervisor: &Hypervisor, stage: Stage, image: &PinnedImage) -> Option<DomainSpec> {
    let uid: Uuid = hypervisor.uid()?.parse().ok()?;
    let kernel = image.kernel.as_ref()?;
    let spec = &hypervisor.spec;
    let card = |address| Nic {
        bridge: spec.networks.private.bridge.clone(),
        mac: MacAddress::of(address),
        hold: Hold::Machine(address),
        bandwidth: None,
    };
    let mut domain = DomainSpec {
        uuid: canary_uuid(cluster, uid),
        title: "cascina canary".to_owned(),
        role: DomainRole::Canary,
        tag: OwnershipTag {
            cluster: cluster.to_owned(),
            namespace: String::new(),
            name: hypervisor.name_any(),
            uid,
            epoch: 0,
            spec_hash: String::new(),
        },
        virtualization: spec.virtualization,
        cpus: 1,
        memory: MEMORY,
        firmware: Firmware::Kernel(Kernel {
            kernel: kernel.kernel.clone(),
            initrd: kernel.initrd.clone(),
            cmdline: kernel.cmdline.clone(),
        }),
        root: None,
        data: None,
        seed: None,
        nics: stage.cards().map(card).collect(),
        shared_storage: spec.storage.shared.is_some(),
        console: ConsoleLog::Pty,
        watchdog: false,
    };
    domain.tag.spec_hash = domain.content_hash();
    Some(domain)
}
