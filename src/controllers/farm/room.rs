//! What a farm has room for: pure. It makes no machine that could only wait, for an address or for its quota: objects
//! that do nothing would cost everybody else, and there could be thousands of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::addresses::Addresses;
use super::observe::View;
use crate::api::{Bytes, Flavour, Image, VirtualMachine, VirtualMachineSpec};
use crate::controllers::context::Context;
use crate::controllers::placement::plan::{Amount, Budget, Wait};
use crate::controllers::placement::standing::{has_disks, holds_reservation, needs, pin_flavour, wishes_to_run};
use crate::network::FarmNetwork;

/// What machines are made from, by name: only what the farm asks for.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Sizes.
    pub flavours: BTreeMap<String, Arc<Flavour>>,
    /// Images.
    pub images: BTreeMap<String, Arc<Image>>,
}

impl Parts {
    /// What these are made from, by the names of their flavours and images.
    pub fn of<'a>(context: &Context, made_from: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let caches = &context.caches;
        let mut parts = Self::default();
        for (flavour, image) in made_from.collect::<BTreeSet<_>>() {
            parts.flavours.extend(caches.flavours.get("", flavour).map(|known| (flavour.to_owned(), known)));
            parts.images.extend(caches.images.get("", image).map(|known| (image.to_owned(), known)));
        }
        parts
    }

    /// What a machine takes while it runs, as far as that is known: what isn't there asks for nothing yet.
    fn needs(&self, spec: &VirtualMachineSpec) -> Amount {
        let Some(flavour) = self.flavours.get(&spec.flavour) else { return Amount::default() };
        let image = self.images.get(&spec.image).and_then(|image| {
            let size = image.status.as_ref().and_then(|status| status.virtual_size).unwrap_or(Bytes::ZERO);
            crate::images::pin(&spec.image, &image.spec, size).ok()
        });
        needs(&pin_flavour(flavour), image.as_ref())
    }
}

/// Machines that aren't made, because they could only wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// How many.
    pub machines: usize,
    /// What the first of them would wait for.
    pub wait: Wait,
}

/// What is left of a farm's addresses and of its quota.
pub struct Room<'a> {
    parts: &'a Parts,
    network: FarmNetwork,
    addresses: usize,
    budget: Budget,
    held_back: Option<HeldBack>,
}

impl<'a> Room<'a> {
    /// What is left when every machine that is there has what it asks for.
    pub fn of(view: &'a View, network: FarmNetwork, addresses: &Addresses) -> Self {
        let left = FarmNetwork::ADDRESSES.saturating_sub(addresses.used);
        let left = if addresses.without.is_empty() { left } else { 0 };
        let mut budget = view.budget.clone();
        for machine in view.own_machines().iter().filter(|machine| is_still_to_run(machine)) {
            let asked = view.parts.needs(&machine.spec);
            budget.instances += 1;
            // One that has a host has its disks, whatever its flavour says now.
            let storage = if has_disks(machine) { Bytes::ZERO } else { asked.storage };
            budget.used += Amount { storage, ..asked };
        }
        Self { parts: &view.parts, network, addresses: left, budget, held_back: None }
    }

    /// Whether there is room for one machine more, which then is taken; else it is counted as held back.
    pub fn admits(&mut self, machine: &VirtualMachine) -> bool {
        let taken = self.take(machine);
        if let Err(wait) = taken {
            let held_back = self.held_back.get_or_insert(HeldBack { machines: 0, wait });
            held_back.machines += 1;
            return false;
        }
        true
    }

    fn take(&mut self, machine: &VirtualMachine) -> Result<(), Wait> {
        if self.addresses == 0 {
            return Err(Wait::new("AddressesExhausted", format!("no address is left in {}", self.network)));
        }
        if wishes_to_run(machine) {
            let asked = self.parts.needs(&machine.spec);
            self.budget.admits(asked)?;
            self.budget.instances += 1;
            self.budget.used += asked;
        }
        self.addresses -= 1;
        Ok(())
    }

    /// What was held back.
    pub fn held_back(self) -> Option<HeldBack> {
        self.held_back
    }
}

/// Whether a machine will hold a reservation and doesn't yet.
fn is_still_to_run(machine: &VirtualMachine) -> bool {
    machine.metadata.deletion_timestamp.is_none() && !holds_reservation(machine) && wishes_to_run(machine)
}

impl HeldBack {
    /// In words.
    #[must_use]
    pub fn message(&self) -> String {
        let machines =
            if self.machines == 1 { "1 machine is".into() } else { format!("{} machines are", self.machines) };
        format!("{machines} held back until there is room: {}", self.wait.message)
    }
}
