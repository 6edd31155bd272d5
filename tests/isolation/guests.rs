//! A guest is a network namespace with a stack of its own. Its cable ends at a port of its host's farm bridge, which
//! libvirt's bindings hold as they hold the tap of a machine.

use std::net::Ipv4Addr;

use cascina::network::MacAddress;
use cascina::network::filters::{Hold, RuleSet};

use super::ears::Ear;
use super::frames::{Mac, Speaker};
use super::site::{BRIDGE, Site};
use crate::namespaces::{add, ip};

/// Where a guest is and what it is.
pub struct Place {
    /// Which of the two farms.
    pub farm: usize,
    /// Last byte of its address.
    pub last: u8,
    /// The host that it is on.
    pub host: &'static str,
    /// The rules that hold it.
    pub rules: RuleSet,
}

const fn machine(farm: usize, last: u8, host: &'static str) -> Place {
    Place { farm, last, host, rules: RuleSet::Machine }
}

const fn router(farm: usize, last: u8, host: &'static str) -> Place {
    Place { farm, last, host, rules: RuleSet::Router }
}

/// In each farm two machines share a host, and one is on the other.
pub const PLACES: [Place; 8] = [
    machine(0, 10, "worker-1"),
    machine(0, 11, "worker-1"),
    machine(0, 12, "worker-2"),
    router(0, 1, "worker-2"),
    machine(1, 10, "worker-1"),
    machine(1, 11, "worker-2"),
    machine(1, 12, "worker-2"),
    // One of two: it may speak under the gateway's address besides.
    router(1, 253, "worker-1"),
];

/// A network namespace that plays a guest.
pub struct Guest {
    /// Its place in [`PLACES`].
    pub number: usize,
    pub farm: usize,
    pub address: Ipv4Addr,
    pub mac: Mac,
    pub host: &'static str,
    pub rules: RuleSet,
    pub namespace: String,
    /// Its port on the host's bridge.
    pub port: String,
    /// Its card.
    pub ear: Ear,
}

impl Guest {
    /// Makes the namespace, the cable and the stack.
    pub fn new(site: &Site, number: usize, place: &Place) -> Self {
        let address = farm_address(place.farm, place.last);
        let mac = MacAddress::of(address);
        let namespace = format!("{}-guest-{number}", site.prefix);
        let port = format!("c{:08x}", u32::from(address));
        let host = site.namespace(place.host);
        site.forget(&host, &port, &namespace);
        add(&namespace);
        ip(&format!("-n {host} link add {port} type veth peer name eth0 netns {namespace}"));
        ip(&format!("-n {namespace} link set eth0 address {mac} up"));
        ip(&format!("-n {namespace} address add {address}/24 dev eth0"));
        ip(&format!("-n {host} link set {port} master {BRIDGE} up"));
        let ear = Ear::open(&namespace, "eth0", Some(mac.octets()));
        let Place { farm, host, rules, .. } = *place;
        Self { number, farm, address, mac: mac.octets(), host, rules, namespace, port, ear }
    }

    /// Who it is, to ARP.
    pub fn speaker(&self) -> Speaker {
        (self.mac, self.address)
    }

    /// The binding that holds its port to a filter.
    pub fn binding(&self, filter: &str) -> String {
        let Self { port, number, address, .. } = self;
        let mac = MacAddress::of(*address);
        let hold = match self.rules {
            RuleSet::Router => Hold::Router(*address),
            _ => Hold::Machine(*address),
        };
        let parameters = hold.parameters().into_iter();
        let parameters: String =
            parameters.map(|(name, value)| format!("<parameter name='{name}' value='{value}'/>")).collect();
        format!(
            "<filterbinding><owner><name>{port}</name><uuid>00000000-0000-4000-8000-{number:012}</uuid></owner>\
             <portdev name='{port}'/><mac address='{mac}'/>\
             <filterref filter='{filter}'>{parameters}</filterref></filterbinding>"
        )
    }
}

/// An address in one of the two farms, which lie where the box's operator begins last.
pub fn farm_address(farm: usize, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 241 + u8::try_from(farm).unwrap(), last)
}
