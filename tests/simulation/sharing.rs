//! Who has what, by objects and by domains together: no two farms may ever have the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use cascina::libvirt::{DomainUuid, Nic, RuleSet};
use cascina::network::{FarmNetwork, Hold};
use serde_json::Value;

use crate::datacentre::{Live, ours};
use crate::world::{Domain, World, is_active};

/// What somebody has, and who that is: a farm, or for a single address a machine.
#[derive(Default)]
struct Holders(BTreeMap<String, BTreeSet<String>>);

impl Holders {
    fn add(&mut self, what: String, who: &str) {
        self.0.entry(what).or_default().insert(who.to_owned());
    }

    fn shared(&self) -> impl Iterator<Item = String> + '_ {
        let shared = self.0.iter().filter(|(_, who)| who.len() > 1);
        shared.map(|(what, who)| format!("{what} belongs to {}", who.iter().cloned().collect::<Vec<_>>().join(" and ")))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn address(value: &Value) -> Option<Ipv4Addr> {
    value.as_str()?.parse().ok()
}

fn farm_of(object: &Value) -> String {
    format!("{}/{}", text(&object["metadata"]["namespace"]), text(&object["spec"]["farm"]))
}

impl Live {
    /// Looks whether two have the same, or a farm more guests than its quota admits.
    pub fn check_sharing(&self) {
        let [farms, machines, routers] = ["virtualfarms", "virtualmachines", "vrouters"]
            .map(|plural| self.api.with(|store, _| store.list(&ours(plural), "")));
        self.world(|world| {
            for machine in &machines {
                let uid = text(&machine["metadata"]["uid"]);
                world.farms.insert(uid, farm_of(machine));
            }
            let mut holders = Holders::default();
            for farm in &farms {
                let name = format!("{}/{}", text(&farm["metadata"]["namespace"]), text(&farm["metadata"]["name"]));
                if let Some(network) = farm["status"]["network"].as_str() {
                    holders.add(format!("network {network}"), &name);
                }
                let guests = world.guests_of(&name);
                let most = farm["spec"]["quota"]["instances"].as_u64().unwrap_or(u64::MAX);
                if guests.len() as u64 > most {
                    world.violated(format!("{name} has {} instead of {most} guests", guests.join(", ")));
                }
            }
            for router in &routers {
                for public in ["publicIP", "elasticIP"].iter().filter_map(|field| address(&router["status"][*field])) {
                    holders.add(format!("public {public}"), &farm_of(router));
                }
            }
            for machine in &machines {
                let (uid, farm) = (text(&machine["metadata"]["uid"]), farm_of(machine));
                if let Some(address) = address(&machine["status"]["address"]) {
                    holders.add(format!("network {}", FarmNetwork::of(address)), &farm);
                    holders.add(format!("address {address}"), &uid);
                }
                let public = machine["status"]["router"]["publicIPs"].as_array();
                for public in public.into_iter().flatten().filter_map(address) {
                    holders.add(format!("public {public}"), &farm);
                }
            }
            world.cards(&mut holders);
            let shared: Vec<_> = holders.shared().collect();
            for shared in shared {
                world.violated(shared);
            }
        });
    }
}

impl World {
    fn active(&self) -> impl Iterator<Item = (&DomainUuid, &Domain)> {
        let powered = self.hosts.values().filter(|host| host.powered);
        powered.flat_map(|host| &host.domains).filter(|(_, domain)| is_active(domain.run))
    }

    /// The guests of a farm that run, its routers left out.
    fn guests_of(&self, farm: &str) -> Vec<String> {
        let is_router = |domain: &Domain| domain.spec.nics.iter().any(|card| card.hold.rules() != RuleSet::Machine);
        let guests = self.active().filter(|(uuid, domain)| {
            self.farms.get(&uuid.to_string()).is_some_and(|of| of == farm) && !is_router(domain)
        });
        guests.map(|(uuid, domain)| format!("{} ({uuid})", domain.spec.title)).collect()
    }

    fn cards(&self, holders: &mut Holders) {
        for (uuid, domain) in self.active() {
            let Some(farm) = self.farms.get(&uuid.to_string()) else { continue };
            for Nic { hold, .. } in &domain.spec.nics {
                match hold {
                    Hold::Machine(address) | Hold::Router(address) => {
                        holders.add(format!("network {}", FarmNetwork::of(*address)), farm);
                        holders.add(format!("address {address}"), &uuid.to_string());
                    }
                    Hold::Public { own, elastic } => {
                        for public in elastic.iter().chain([own]) {
                            holders.add(format!("public {public}"), farm);
                        }
                    }
                }
            }
        }
    }

    /// To be called right before a domain starts: nobody else who runs has its address in its farm. The public address is that
    /// of both routers of a farm.
    pub fn check_addresses(&mut self, starts: DomainUuid, domain: &Domain) {
        let in_farm = |domain: &Domain| {
            let cards = domain.spec.nics.iter().filter(|card| card.hold.rules() != RuleSet::Public);
            cards.map(|card| card.hold.address()).collect::<BTreeSet<_>>()
        };
        let addresses = in_farm(domain);
        let shares = |other: &Domain| !in_farm(other).is_disjoint(&addresses);
        let others = self.active().filter(|(uuid, other)| **uuid != starts && shares(other));
        let others: Vec<_> = others.map(|(uuid, other)| format!("{} ({uuid})", other.spec.title)).collect();
        for other in others {
            self.violated(format!("{} starts with an address that {other} has", domain.spec.title));
        }
    }
}
