//! How a machine is made: its domain, its volumes and its seed, from the objects alone.

use std::net::Ipv4Addr;

use uuid::Uuid;

use crate::api::{
    Hypervisor, PinnedFlavour, PinnedImage, VirtualFarm, VirtualMachine, VirtualMachineStatus, Watchdog, site::Site,
};
use crate::controllers::ledger::FARM_GONE;
use crate::controllers::placement::standing::root_disk;
use crate::guest::{self, BadSshKey, Guest, GuestError, GuestNic, Seed, SeedForm, SshKeys, UserDataText};
use crate::libvirt::{
    ConsoleLog, DataDisk, DomainRole, DomainSpec, DomainUuid, Firmware, Kernel, Nic, OwnershipTag, RootDisk, VolumeSpec,
};
use crate::network::{BadName, DomainName, FarmNetwork, Hold, MacAddress};

/// All that is made on the host for a machine.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The domain.
    pub domain: DomainSpec,
    /// Its disks.
    pub volumes: Vec<VolumeSpec>,
    /// What its guest is told at its start; a router is told by its agent.
    pub seed: Option<SeedVolume>,
    /// The image's volumes, which have to be there first.
    pub image_volumes: Vec<String>,
    /// Keys that the guest isn't given, because they aren't any.
    pub bad_keys: Vec<BadSshKey>,
}

/// What a guest is told at its start.
#[derive(Clone, Debug)]
pub struct SeedVolume {
    /// Name of the volume.
    pub name: String,
    /// What stands in it.
    pub content: Seed,
}

/// Why a machine can't be made until somebody changes an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One CamelCase word.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal with a reason of its own.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

impl From<GuestError> for Refusal {
    fn from(error: GuestError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

/// The objects that a machine is made from.
pub struct Ingredients<'a> {
    /// The machine.
    pub machine: &'a VirtualMachine,
    /// Its farm.
    pub farm: &'a VirtualFarm,
    /// Its host.
    pub hypervisor: &'a Hypervisor,
    /// What the site says.
    pub site: &'a Site,
    /// What its owner gave for the guest.
    pub user_data: Option<UserDataText>,
    /// Identity of the Kubernetes cluster.
    pub cluster: &'a str,
}

/// How the machine is made. One whose guest runs and was told the same in an earlier form of seeds is as it should be: its
/// recipe has that form, until its next start.
///
/// # Errors
/// What has to be changed before it can be.
pub fn recipe(from: &Ingredients<'_>, running: Option<&OwnershipTag>) -> Result<Recipe, Refusal> {
    let newest = in_form(from, SeedForm::EachBoot)?;
    match running.filter(|running| running.spec_hash != newest.domain.tag.spec_hash) {
        None => Ok(newest),
        Some(running) => {
            let first = in_form(from, SeedForm::First)?;
            Ok(if first.domain.tag.spec_hash == running.spec_hash { first } else { newest })
        }
    }
}

/// How the machine is made with a seed of this form.
pub(super) fn in_form(from: &Ingredients<'_>, form: SeedForm) -> Result<Recipe, Refusal> {
    let uid = uid(from.machine)?;
    let status = from.machine.status.as_ref().ok_or_else(|| Refusal::new("NotPlaced", "has no status yet"))?;
    let pinned = |what: &str| Refusal::new("NotPlaced", format!("placement has not pinned the {what} yet"));
    let flavour = status.flavour.as_ref().ok_or_else(|| pinned("flavour"))?;
    let image = status.image.as_ref().ok_or_else(|| pinned("image"))?;
    let epoch = status.epoch.ok_or_else(|| pinned("epoch"))?;

    let nics = nics(from.machine, from.farm, from.hypervisor)?;
    let keys = ssh_keys(from);
    let seed = if from.machine.router().is_some() {
        is_the_sites_router(from, flavour, image)?;
        None
    } else {
        Some(seed(&guest(from, uid, address_in_farm(status, from.farm)?, keys.good)?, form)?)
    };
    let (root, data, volumes) = disks(uid, flavour, image);
    let (namespace, name) = names(from.machine);
    let mut domain = DomainSpec {
        uuid: DomainUuid(uid),
        title: format!("{namespace}/{name}"),
        role: DomainRole::Machine,
        tag: OwnershipTag { cluster: from.cluster.to_owned(), namespace, name, uid, epoch, spec_hash: String::new() },
        virtualization: from.hypervisor.spec.virtualization,
        cpus: flavour.cpus,
        memory: flavour.memory,
        firmware: firmware(image),
        root,
        data,
        seed: seed.as_ref().map(|seed| seed.name.clone()),
        nics,
        shared_storage: from.hypervisor.spec.storage.shared.is_some(),
        console: ConsoleLog::Pty,
        watchdog: from.machine.router().is_some() || from.machine.spec.watchdog == Watchdog::PowerOff,
    };
    domain.tag.spec_hash = domain.content_hash();
    let image_volumes = image.volumes().map(str::to_owned).collect();
    Ok(Recipe { domain, volumes, seed, image_volumes, bad_keys: keys.bad })
}

/// The machine's network cards, which depend on less than the rest of it: in the farm, and a router's in the public network.
///
/// # Errors
/// What they wait for.
pub fn nics(machine: &VirtualMachine, farm: &VirtualFarm, hypervisor: &Hypervisor) -> Result<Vec<Nic>, Refusal> {
    let status = machine.status.as_ref().ok_or_else(|| Refusal::new("NotPlaced", "has no status yet"))?;
    let bandwidth = status.flavour.as_ref().and_then(|flavour| flavour.bandwidth);
    let networks = &hypervisor.spec.networks;
    let card = |bridge: &str, hold: Hold| Nic {
        bridge: bridge.to_owned(),
        mac: MacAddress::of(hold.address()),
        hold,
        bandwidth,
    };
    let address = address_in_farm(status, farm)?;
    let Some(role) = &status.router else { return Ok(vec![card(&networks.private.bridge, Hold::Machine(address))]) };
    let mut nics = vec![card(&networks.private.bridge, Hold::Router(address))];
    if let Some(hold) = public_hold(&role.public_ips)? {
        let public = networks.public.as_ref().ok_or_else(|| {
            let name = hypervisor.metadata.name.as_deref().unwrap_or_default();
            Refusal::new("NoPublicNetwork", format!("{name} has no public bridge: give it spec.networks.public"))
        })?;
        nics.push(card(&public.bridge, hold));
    }
    Ok(nics)
}

/// What a router's public card is held to: its own address, which comes first, and the others.
fn public_hold(addresses: &[String]) -> Result<Option<Hold>, Refusal> {
    let parse = |text: &String| {
        text.parse().map_err(|_| Refusal::new("WrongAddress", format!("status.router: {text:?} is no address")))
    };
    let mut addresses = addresses.iter().map(parse);
    let Some(own) = addresses.next() else { return Ok(None) };
    Ok(Some(Hold::Public { own: own?, elastic: addresses.collect::<Result<_, _>>()? }))
}

/// A router sends in the name of everybody outside. So it is what the site says, whatever a tenant wrote into its spec.
fn is_the_sites_router(from: &Ingredients<'_>, flavour: &PinnedFlavour, image: &PinnedImage) -> Result<(), Refusal> {
    let routers = &from.site.routers;
    let refuse = |what: String| Err(Refusal::new("NotTheSitesRouter", what));
    if image.name != routers.image || flavour.name != routers.flavour {
        return refuse(format!(
            "the site's routers have the image {} and the flavour {}, not {} and {}",
            routers.image, routers.flavour, image.name, flavour.name
        ));
    }
    if image.disk.is_some() || image.kernel.is_none() || flavour.data_disk.is_some() {
        return refuse("a router has a kernel and no disk: see site.routers".to_owned());
    }
    Ok(())
}

/// Where the volumes of a host's machines lie: two hosts with the same place see the same volumes, and another machine
/// that was accepted in place of a host has none of them.
pub fn disks_home(hypervisor: &Hypervisor) -> String {
    if let Some(shared) = &hypervisor.spec.storage.shared {
        return format!("shared/{shared}");
    }
    let name = hypervisor.metadata.name.as_deref().unwrap_or_default();
    let first = hypervisor.status.as_ref().and_then(|status| status.host_uuid.as_deref());
    [name, hypervisor.spec.host_uuid.as_deref().or(first).unwrap_or_default()].join("/")
}

/// The prefix of the names of all volumes of a machine.
pub fn volume_prefix(uid: Uuid) -> String {
    format!("{uid}-")
}

/// The machine's uid, which names everything of it on the host.
pub fn uid(machine: &VirtualMachine) -> Result<Uuid, Refusal> {
    let uid = machine.metadata.uid.as_deref().and_then(|uid| uid.parse().ok());
    uid.ok_or_else(|| Refusal::new("NoUid", "the object has no uid that is a UUID"))
}

/// The machine's address, which is one of its farm's; a router's follows from its seat.
fn address_in_farm(status: &VirtualMachineStatus, farm: &VirtualFarm) -> Result<Ipv4Addr, Refusal> {
    let name = farm.metadata.name.as_deref().unwrap_or_default();
    if status.farm_uid.is_some() && status.farm_uid != farm.metadata.uid {
        let message = format!("the farm {name} that it was made in is gone, this one is another: delete the machine");
        return Err(Refusal::new(FARM_GONE, message));
    }
    let not_ready = || Refusal::new("NetworkNotReady", "the farm has no network or the machine no address yet");
    let network = farm.status.as_ref().and_then(|status| status.network.as_deref()).ok_or_else(not_ready)?;
    let network: FarmNetwork = network.parse().map_err(|_| not_ready())?;
    let address: Ipv4Addr = status.address.as_deref().and_then(|text| text.parse().ok()).ok_or_else(not_ready)?;
    let is_right = match &status.router {
        Some(role) => address == network.router_address(role.seat),
        None => network.is_machine_address(address),
    };
    if !is_right {
        let message = format!("the address {address} is not one of the farm's network {network}; delete the machine");
        return Err(Refusal::new("WrongAddress", message));
    }
    Ok(address)
}

fn seed(guest: &Guest, form: SeedForm) -> Result<SeedVolume, Refusal> {
    let content = guest::seed(guest, form)?;
    Ok(SeedVolume { name: guest::seed_volume(guest.instance_id, &content.hash), content })
}

/// The farm's keys and the machine's own. Nobody logs in to a router.
fn ssh_keys(from: &Ingredients<'_>) -> SshKeys {
    if from.machine.router().is_some() {
        return SshKeys::default();
    }
    guest::read_ssh_keys("the farm's spec.sshKeys", &from.farm.spec.ssh_keys)
        .and(guest::read_ssh_keys("spec.sshKeys", &from.machine.spec.ssh_keys))
}

fn guest(
    from: &Ingredients<'_>,
    uid: Uuid,
    address: Ipv4Addr,
    ssh_keys: Vec<guest::PublicKey>,
) -> Result<Guest, Refusal> {
    let (_, name) = names(from.machine);
    let gateway = from.farm.spec.router.is_some().then(|| FarmNetwork::of(address).gateway());
    // A router asks the farm's servers itself.
    let dns = match gateway {
        Some(gateway) => vec![gateway],
        None => dns_servers(from.farm, from.site)?,
    };
    Ok(Guest {
        instance_id: uid,
        hostname: name.parse().map_err(GuestError::from)?,
        domain: domain_of(from.farm, from.site).map_err(GuestError::from)?,
        nic: GuestNic { mac: MacAddress::of(address), address, prefix: 24, gateway },
        dns,
        ssh_keys,
        user_data: from.user_data.clone(),
    })
}

/// The farm's DNS domain.
///
/// # Errors
/// It is none.
pub fn domain_of(farm: &VirtualFarm, site: &Site) -> Result<DomainName, BadName> {
    let given = farm.spec.network.as_ref().and_then(|network| network.domain.as_deref());
    match given {
        Some(domain) => domain.parse(),
        None => [farm.metadata.name.as_deref().unwrap_or_default(), site.dns_domain.as_str()].join(".").parse(),
    }
}

/// The DNS servers that a farm asks: its own, else the site's.
///
/// # Errors
/// One of its own isn't an address.
pub fn dns_servers(farm: &VirtualFarm, site: &Site) -> Result<Vec<Ipv4Addr>, Refusal> {
    let own = farm.spec.network.as_ref().map(|network| network.dns.as_slice()).unwrap_or_default();
    if own.is_empty() {
        return Ok(site.dns.clone());
    }
    let parse = |server: &String| {
        server.parse().map_err(|_| Refusal::new("InvalidDns", format!("spec.network.dns: {server:?} is no address")))
    };
    own.iter().map(parse).collect()
}

/// The root disk, the data disk, and the volumes that they are.
pub fn disks(
    uid: Uuid,
    flavour: &PinnedFlavour,
    image: &PinnedImage,
) -> (Option<RootDisk>, Option<DataDisk>, Vec<VolumeSpec>) {
    let mut volumes = Vec::new();
    let root = image.disk.as_ref().map(|disk| {
        let volume = format!("{uid}-root.qcow2");
        volumes.push(VolumeSpec::Overlay {
            name: volume.clone(),
            base: disk.volume.clone(),
            base_format: disk.format,
            size: root_disk(flavour, disk),
        });
        RootDisk { volume, base: disk.volume.clone(), base_format: disk.format }
    });
    let data = flavour.data_disk.map(|size| {
        let volume = format!("{uid}-data.qcow2");
        volumes.push(VolumeSpec::Blank { name: volume.clone(), size });
        DataDisk { volume }
    });
    (root, data, volumes)
}

fn firmware(image: &PinnedImage) -> Firmware {
    match &image.kernel {
        None => Firmware::Disk,
        Some(kernel) => Firmware::Kernel(Kernel {
            kernel: kernel.kernel.clone(),
            initrd: kernel.initrd.clone(),
            cmdline: kernel.cmdline.clone(),
        }),
    }
}

fn names(machine: &VirtualMachine) -> (String, String) {
    (machine.metadata.namespace.clone().unwrap_or_default(), machine.metadata.name.clone().unwrap_or_default())
}
