//! What placement knows: all objects that it decides over, at one moment.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::hosts::{empty_offer, share_pools, sizes_of_pools};
use super::plan::{Amount, Budget, HostOffer, IMAGE_FETCHING, Place, Request, Role, Supply, Wait};
use super::standing::{held, holds_reservation, needs, pin_flavour, with_disks_of};
use crate::api::conditions::{READY, SOURCE_UNAVAILABLE, find};
use crate::api::{
    Flavour, GROUP_LABEL, Hypervisor, HypervisorPhase, Image, ImagePhase, PinnedFlavour, PinnedImage, Quota,
    ROUTER_LABEL, VirtualFarm, VirtualMachine, VirtualMachineSpec,
};
use crate::controllers::cache::Key;
use crate::controllers::context::Context;
use crate::controllers::fleet::Fleet;
use crate::controllers::isolation::admits_machines;
use crate::controllers::ledger::{Entry, FARM_GONE, Holding, Ledger, is_fenced, is_member};
use crate::network::FarmNetwork;

/// While hosts that are known are looked at for the first time, it is asked this often whether that is done.
const READING: Duration = Duration::from_millis(200);

/// The first look at a host takes at most so long.
const SETTLING: Duration = Duration::from_secs(15);

/// All objects that placement decides over. Plain data: a dry run changes it and asks what would happen.
#[derive(Clone, Default)]
pub struct World {
    /// Machines.
    pub machines: Vec<Arc<VirtualMachine>>,
    /// Hosts.
    pub hypervisors: Vec<Arc<Hypervisor>>,
    /// Images by name.
    pub images: BTreeMap<String, Arc<Image>>,
    /// Flavours by name.
    pub flavours: BTreeMap<String, Arc<Flavour>>,
    /// Farms by namespace and name.
    pub farms: BTreeMap<Key, Arc<VirtualFarm>>,
    /// Quota of farms that give none.
    pub default_quota: Option<Quota>,
    /// Image and flavour of routers.
    pub routers: RouterParts,
    /// Placements that are given up on hosts that are silent now: the epoch, by the machine's uid.
    pub given_up: BTreeMap<String, i64>,
    /// What hosts have, or may have, of machines whose objects are gone.
    pub remains: Vec<Entry>,
    /// More may be on hosts that weren't looked at yet.
    pub hosts_are_unread: bool,
}

/// What the site's routers are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterParts {
    /// Name of their image.
    pub image: String,
    /// Name of their flavour.
    pub flavour: String,
}

impl RouterParts {
    /// A router isn't counted against its farm's quota, so it is what the site says and nothing else.
    fn admits(&self, machine: &VirtualMachine) -> Result<(), Wait> {
        let Self { image, flavour } = self;
        let VirtualMachineSpec { image: its_image, flavour: its_flavour, .. } = &machine.spec;
        if its_image == image && its_flavour == flavour {
            return Ok(());
        }
        let message = format!(
            "the site's routers have the image {image} and the flavour {flavour}, not {its_image} and {its_flavour}: delete it"
        );
        Err(Wait::new("NotTheSitesRouter", message))
    }
}

/// A request and what the machine is to be made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What is asked.
    pub request: Request,
    /// The flavour to pin.
    pub flavour: PinnedFlavour,
    /// The image to pin.
    pub image: PinnedImage,
}

/// Which machine of a farm every address belongs to.
#[derive(Default)]
pub struct Claims<'a>(HashMap<Claim<'a>, &'a VirtualMachine>);

/// Namespace and farm, and an address in it.
type Claim<'a> = ((&'a str, &'a str), &'a str);

impl Claims<'_> {
    /// Which machine of the farm of `machine` an address belongs to.
    #[must_use]
    pub fn owner(&self, machine: &VirtualMachine, address: &str) -> Option<&VirtualMachine> {
        self.0.get(&(farm_of(machine), address)).copied()
    }
}

impl World {
    /// The newest that is known, our own writes included.
    #[must_use]
    pub fn look(context: &Context) -> Self {
        let caches = &context.caches;
        let hypervisors = caches.hypervisors.list();
        let site = context.site();
        let ledger = Ledger::look(context);
        Self {
            given_up: given_up(&context.fleet, &hypervisors),
            remains: ledger.remains(&caches.machines),
            hosts_are_unread: ledger.is_unread(),
            machines: caches.machines.list(),
            hypervisors,
            images: caches.images.list().into_iter().map(|image| (image.name_any(), image)).collect(),
            flavours: caches.flavours.list().into_iter().map(|flavour| (flavour.name_any(), flavour)).collect(),
            farms: caches.farms.list().into_iter().map(|farm| (key(&*farm), farm)).collect(),
            default_quota: site.default_quota,
            routers: RouterParts { image: site.routers.image.clone(), flavour: site.routers.flavour.clone() },
        }
    }

    /// While hosts that have just been added are being looked at for the first time, and prove their isolation for the
    /// first time: how long that may still take.
    /// Placing at once would put everything on the first that answers.
    #[must_use]
    pub fn settling(&self, now: Timestamp) -> Option<Duration> {
        let young = |hypervisor: &Arc<Hypervisor>| {
            let unseen = hypervisor.status.as_ref().is_none_or(|status| match status.phase {
                HypervisorPhase::Pending => true,
                HypervisorPhase::Ready => !admits_machines(status),
                _ => false,
            });
            let created = hypervisor.metadata.creation_timestamp.as_ref().filter(|_| unseen)?;
            let age = Duration::try_from(now.duration_since(created.0)).unwrap_or_default();
            SETTLING.checked_sub(age).filter(|left| !left.is_zero())
        };
        if self.hosts_are_unread {
            return Some(READING);
        }
        self.hypervisors.iter().filter_map(young).max()
    }

    /// Whether the machine's placement is given up: it may be made anew on another host.
    #[must_use]
    pub fn is_given_up(&self, machine: &VirtualMachine) -> bool {
        let epoch = machine.status.as_ref().and_then(|status| status.epoch).unwrap_or_default();
        let given_up = machine.metadata.uid.as_ref().and_then(|uid| self.given_up.get(uid));
        given_up.is_some_and(|given_up| *given_up >= epoch)
    }

    /// What every host offers.
    #[must_use]
    pub fn offers(&self) -> Vec<HostOffer> {
        let mut offers: Vec<_> = self.hypervisors.iter().map(|hypervisor| empty_offer(hypervisor)).collect();
        let indexes: BTreeMap<_, _> =
            offers.iter().enumerate().map(|(index, offer)| (offer.name.clone(), index)).collect();
        for machine in &self.machines {
            let host = machine.status.as_ref().and_then(|status| status.hypervisor.as_ref());
            let Some(offer) = host.and_then(|host| indexes.get(host)).and_then(|index| offers.get_mut(*index)) else {
                continue;
            };
            offer.allocated += held(machine);
            if machine.router().is_some() {
                offer.routed.insert(farm_key(machine));
            }
            if let Some(group) = group_of(machine) {
                *offer.groups.entry((farm_key(machine), group)).or_default() += 1;
            }
        }
        for entry in &self.remains {
            if let Some(offer) = indexes.get(&entry.host).and_then(|index| offers.get_mut(*index)) {
                offer.allocated += entry.holding.amount;
            }
        }
        share_pools(&mut offers, &sizes_of_pools(self.hypervisors.iter().map(AsRef::as_ref)));
        offers
    }

    /// What every farm may use and uses.
    #[must_use]
    pub fn budgets(&self) -> Vec<Budget> {
        let mut used: HashMap<(&str, &str), (i64, Amount)> = HashMap::new();
        for machine in self.machines.iter().filter(|machine| machine.router().is_none()) {
            let (instances, amount) = used.entry(farm_of(machine)).or_default();
            *instances += i64::from(holds_reservation(machine));
            *amount += held(machine);
        }
        for entry in self.remains.iter().filter(|entry| !entry.holding.is_router && !entry.is_off) {
            let Some((namespace, farm)) = self.farm_of(&entry.holding) else { continue };
            let (instances, amount) = used.entry((namespace, farm)).or_default();
            *instances += 1;
            *amount += entry.holding.amount;
        }
        let mut budgets = Vec::with_capacity(self.farms.len());
        for (key, farm) in &self.farms {
            let (instances, used) = used.get(&(key.0.as_str(), key.1.as_str())).copied().unwrap_or_default();
            budgets.push(Budget { farm: key.clone(), quota: quota_of(farm, self.default_quota), instances, used });
        }
        budgets
    }

    /// The farm whose quota a machine counts against that has no object any more: a domain knows only its address.
    fn farm_of<'a>(&'a self, holding: &'a Holding) -> Option<(&'a str, &'a str)> {
        let namespace = holding.machine.0.as_str();
        if let Some(farm) = &holding.farm {
            return Some((namespace, farm));
        }
        let of_farm = |farm: &VirtualFarm| {
            let network = farm.status.as_ref()?.network.as_ref()?.parse::<FarmNetwork>().ok()?;
            Some(holding.addresses.iter().any(|address| FarmNetwork::of(*address) == network))
        };
        let mut of_namespace = self.farms.iter().filter(|((of, _), _)| of == namespace);
        of_namespace.find(|(_, farm)| of_farm(farm) == Some(true)).map(|((namespace, name), _)| (&**namespace, &**name))
    }

    /// Which machine every address belongs to.
    #[must_use]
    pub fn claims(&self) -> Claims<'_> {
        let mut claims = Claims::default();
        for machine in &self.machines {
            if let Some(address) = machine.status.as_ref().and_then(|status| status.address.as_deref()) {
                let owner = claims.0.entry((farm_of(machine), address)).or_insert(machine);
                if !std::ptr::eq(*owner, &**machine) && claim(machine) < claim(owner) {
                    *owner = machine;
                }
            }
        }
        claims
    }

    /// What a machine asks for, or what is missing before it can ask.
    ///
    /// # Errors
    /// What it waits for.
    pub fn candidate(&self, machine: &VirtualMachine, claims: &Claims<'_>) -> Result<Candidate, Wait> {
        self.admits_address(machine, claims)?;
        let role = match machine.router() {
            Some(role) => {
                self.routers.admits(machine)?;
                Role::Router { public: !role.public_ips.is_empty() }
            }
            None => Role::Machine,
        };
        let place = self.place_of(machine);
        let flavour = self.flavour_of(machine, &place)?;
        let image = self.image_of(machine, &place)?;
        fits_image(&flavour, &image)?;
        let request = Request {
            machine: key(machine),
            farm: farm_key(machine),
            group: group_of(machine),
            priority: machine.spec.priority,
            created: machine.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0),
            needs: needs(&flavour, Some(&image)),
            revision: image.revision.clone(),
            supply: self.supply_of(&image, &place),
            place,
            role,
        };
        Ok(Candidate { request, flavour, image })
    }

    fn place_of(&self, machine: &VirtualMachine) -> Place {
        let (class, selector) = (machine.spec.class, machine.spec.hypervisor_selector.clone());
        let Some(host) = machine.status.as_ref().and_then(|status| status.hypervisor.clone()) else {
            return Place::Any { class, selector };
        };
        if !self.is_given_up(machine) {
            return Place::Home { host, storage: held(machine).storage };
        }
        let lost = self.hypervisors.iter().find(|hypervisor| hypervisor.metadata.name.as_ref() == Some(&host));
        let pool = lost.and_then(|lost| lost.spec.storage.shared.clone());
        Place::Away { class, selector, pool, held: held(machine), counted: holds_reservation(machine) }
    }

    /// The flavour of now, with the disks that the machine has where it goes; one that is only moved keeps its own.
    fn flavour_of(&self, machine: &VirtualMachine, place: &Place) -> Result<PinnedFlavour, Wait> {
        let pinned = machine.status.as_ref().and_then(|status| status.flavour.as_ref());
        if let Some(own) = pinned.filter(|_| holds_reservation(machine)) {
            return Ok(own.clone());
        }
        let name = &machine.spec.flavour;
        let found = self.flavours.get(name).map(|flavour| pin_flavour(flavour));
        let flavour = found.ok_or_else(|| Wait::new("FlavourNotFound", format!("there is no Flavour {name}")))?;
        Ok(match (place, pinned) {
            (Place::Home { .. } | Place::Away { pool: Some(_), .. }, Some(made)) => with_disks_of(flavour, made),
            (Place::Any { .. } | Place::Away { pool: None, .. }, _) | (_, None) => flavour,
        })
    }

    /// The image that its disk was made from; for new disks the one of now, if that one can't be had any more.
    fn image_of(&self, machine: &VirtualMachine, place: &Place) -> Result<PinnedImage, Wait> {
        let status = machine.status.as_ref().filter(|status| status.hypervisor.is_some());
        match (status.and_then(|status| status.image.clone()), place) {
            (Some(pinned), Place::Away { pool: None, .. }) if !self.is_current(&pinned) => {
                self.usable_image(&machine.spec.image)
            }
            (Some(pinned), _) => Ok(pinned),
            (None, _) => self.usable_image(&machine.spec.image),
        }
    }

    /// Whether hosts that lack its image can be given one. Where its disks are the image is, too.
    fn supply_of(&self, image: &PinnedImage, place: &Place) -> Supply {
        if matches!(place, Place::Home { .. } | Place::Away { pool: Some(_), .. }) || !self.is_current(image) {
            return Supply::All;
        }
        let status = self.images.get(&image.name).and_then(|image| image.status.as_ref());
        match status.and_then(|status| find(&status.conditions, SOURCE_UNAVAILABLE)) {
            None => Supply::All,
            Some(condition) if condition.status == "True" => Supply::Copies,
            Some(_) => Supply::Coming,
        }
    }

    fn is_current(&self, pinned: &PinnedImage) -> bool {
        let status = self.images.get(&pinned.name).and_then(|image| image.status.as_ref());
        status.is_some_and(|status| status.revision.as_ref() == Some(&pinned.revision))
    }

    /// The farm is there and gave the machine an address that is its alone.
    fn admits_address(&self, machine: &VirtualMachine, claims: &Claims<'_>) -> Result<(), Wait> {
        let farm_name = &machine.spec.farm;
        let farm = self.farms.get(&farm_key(machine)).ok_or_else(|| {
            Wait::new("FarmNotFound", format!("there is no VirtualFarm {farm_name} in this namespace"))
        })?;
        if farm.metadata.deletion_timestamp.is_some() {
            return Err(Wait::new("FarmDeleting", format!("farm {farm_name} is being deleted")));
        }
        if !is_member(machine, farm) {
            let message = format!("the farm {farm_name} that it was made in is gone, this one is another: delete it");
            return Err(Wait::new(FARM_GONE, message));
        }
        let status = farm.status.clone().unwrap_or_default();
        let network = status.network.as_deref().and_then(|network| network.parse::<FarmNetwork>().ok());
        let ready = find(&status.conditions, "NetworkReady");
        let refused = ready.filter(|condition| condition.status == "False");
        let (Some(network), None) = (network, refused) else {
            let why = refused.map_or_else(|| "not yet made".into(), |why| format!("{}: {}", why.reason, why.message));
            return Err(Wait::new("NetworkNotReady", format!("network of farm {farm_name}: {why}")));
        };
        let Some(address) = machine.status.as_ref().and_then(|status| status.address.as_deref()) else {
            return Err(if is_router_to_be(machine) {
                let message = format!(
                    "its label {ROUTER_LABEL} says that it is to be a router, and its VRouter is yet to say so; if \
                     there is none, remove the label"
                );
                Wait::new("RouterPending", message)
            } else if status.addresses_available == Some(0) {
                Wait::new("AddressesExhausted", format!("farm {farm_name} has no address left in {network}"))
            } else {
                Wait::new("AddressPending", format!("farm {farm_name} gives it an address"))
            });
        };
        let is_right = |address: Ipv4Addr| match machine.router() {
            Some(role) => address == network.router_address(role.seat),
            None => network.is_machine_address(address),
        };
        if !address.parse::<Ipv4Addr>().is_ok_and(is_right) {
            let problem =
                format!("{address} is no address of {network}: remove it from the status or delete the machine");
            return Err(Wait::new("AddressConflict", problem));
        }
        match claims.owner(machine, address) {
            Some(owner) if owner.metadata.uid != machine.metadata.uid => Err(Wait::new(
                "AddressConflict",
                format!("{address} belongs to machine {}: delete one of the two", owner.name_any()),
            )),
            _ => Ok(()),
        }
    }

    fn usable_image(&self, name: &str) -> Result<PinnedImage, Wait> {
        let found = self.images.get(name).filter(|image| image.metadata.deletion_timestamp.is_none());
        let image = found.ok_or_else(|| Wait::new("ImageNotFound", format!("there is no Image {name}")))?;
        let status = image.status.clone().unwrap_or_default();
        let current = status.observed_generation == image.metadata.generation;
        if status.phase == ImagePhase::Ready && current {
            let pinned = crate::images::pin(name, &image.spec, status.virtual_size.unwrap_or_default());
            return pinned.map_err(|error| Wait::new("ImageNotReady", format!("image {name}: {error}")));
        }
        let refused = matches!(status.phase, ImagePhase::Rejected | ImagePhase::Failed);
        let reason = if current && refused { "ImageNotReady" } else { IMAGE_FETCHING };
        let phase = if current { format!("{:?}", status.phase) } else { "being read anew".into() };
        let why = find(&status.conditions, READY).map(|ready| ready.message.as_str()).filter(|why| !why.is_empty());
        let message =
            why.map_or_else(|| format!("image {name}: {phase}"), |why| format!("image {name}: {phase}: {why}"));
        Err(Wait::new(reason, message))
    }
}

/// What is given up on hosts of which nothing is known now. One that answers again has its machines still, whatever was
/// written before; one that can't even be asked is believed to be off if somebody says so.
fn given_up(fleet: &Fleet, hypervisors: &[Arc<Hypervisor>]) -> BTreeMap<String, i64> {
    let is_silent = |hypervisor: &Hypervisor| match fleet.get(&hypervisor.name_any()) {
        Some(host) => {
            let view = host.view();
            view.survey.present().is_none() && view.error.is_some()
        }
        None => is_fenced(hypervisor),
    };
    let lost = hypervisors.iter().filter_map(|hypervisor| {
        let tombstones = &hypervisor.status.as_ref()?.tombstones;
        (!tombstones.is_empty() && is_silent(hypervisor)).then_some(tombstones)
    });
    lost.flatten().map(|tombstone| (tombstone.copy.uid.clone(), tombstone.copy.epoch)).collect()
}

/// Of machines that claim one address it belongs to one that may already run with it, then to the oldest.
pub fn claim(machine: &VirtualMachine) -> (bool, Option<Timestamp>, String) {
    let created = machine.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (!holds_reservation(machine), created, machine.name_any())
}

/// What a farm may use: an absent field is no limit.
#[must_use]
pub fn quota_of(farm: &VirtualFarm, default: Option<Quota>) -> Quota {
    farm.spec.quota.or(default).unwrap_or_default()
}

fn fits_image(flavour: &PinnedFlavour, image: &PinnedImage) -> Result<(), Wait> {
    match (flavour.root_disk, &image.disk) {
        (Some(root), Some(disk)) if root < disk.virtual_size => Err(Wait::new(
            "FlavourTooSmall",
            format!(
                "image {} has a disk of {}, flavour {} gives a root disk of {root}",
                image.name, disk.virtual_size, flavour.name
            ),
        )),
        _ => Ok(()),
    }
}

fn group_of(machine: &VirtualMachine) -> Option<String> {
    machine.labels().get(GROUP_LABEL).cloned()
}

/// Whether a machine is to be a router and isn't yet: it gets no address like any other. A label is anybody's, so one that has
/// an address already is a machine like any other, whatever it is called.
#[must_use]
pub fn is_router_to_be(machine: &VirtualMachine) -> bool {
    let has_address = machine.status.as_ref().is_some_and(|status| status.address.is_some());
    machine.labels().contains_key(ROUTER_LABEL) && machine.router().is_none() && !has_address
}

/// Namespace and name of a machine's farm.
#[must_use]
pub fn farm_key(machine: &VirtualMachine) -> Key {
    let (namespace, name) = farm_of(machine);
    (namespace.to_owned(), name.to_owned())
}

fn farm_of(machine: &VirtualMachine) -> (&str, &str) {
    (machine.metadata.namespace.as_deref().unwrap_or_default(), &machine.spec.farm)
}

/// Namespace and name.
pub fn key(object: &impl ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}
