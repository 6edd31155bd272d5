//! Names that are words to a program that the router is made of.

use std::collections::BTreeSet;

use cascina::network::router::{Router, RouterMachine};
use cascina::network::{FarmNetwork, MacAddress, ZoneName};

use super::dns::addresses;
use super::place::{GATEWAY, Place, number, told};
use super::serves::dhcp;
use crate::namespaces::ip;
use crate::words::words;

#[test]
#[ignore = "needs a box"]
fn a_machine_gets_its_lease_and_its_name_whatever_word_that_is() {
    let place = Place::build();
    let words = words();
    let all: BTreeSet<ZoneName> =
        words.values().flat_map(|reader| &reader.words).flat_map(|word| word.parse()).collect();
    let named = |name: &ZoneName| RouterMachine { name: Some(name.clone()), group: None };
    let named: Vec<_> =
        FarmNetwork::of(GATEWAY).machine_addresses().zip(&all).map(|(at, name)| (at, named(name))).collect();
    assert_eq!(named.len(), all.len(), "there is an address for each");
    let machines = named.iter().map(|(address, machine)| (number(*address), machine.clone())).collect();
    let router = Router { machines, domain: "ignore.infinite".parse().unwrap(), ..told() };
    place.router.works_by(&router);

    let (login, worker) = (place.of("login"), place.of("worker"));
    for (address, machine) in &named {
        let name = machine.name.as_ref().unwrap();
        assert_eq!(addresses(&login, GATEWAY, &format!("{name}.ignore.infinite")), Some(vec![*address]), "{name}");
    }
    for (address, machine) in &named {
        let name = machine.name.as_ref().unwrap().to_string();
        if words["dnsmasq"].words.contains(&name) {
            ip(&format!("-n {worker} address flush dev eth0"));
            ip(&format!("-n {worker} link set eth0 address {}", MacAddress::of(*address)));
            let lease = dhcp(&place, "worker").unwrap_or_else(|| panic!("{name} gets no lease"));
            for line in [format!("ip={address}"), format!("hostname={name}"), "lease=3600".to_owned()] {
                assert!(lease.lines().any(|told| told == line), "{line}: {lease}");
            }
        }
    }
}
