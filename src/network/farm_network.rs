//! The network of a farm: an IPv4 /24.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::MacAddress;

/// An IPv4 /24. The gateway has `.1`; machines have `.2` to `.254`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FarmNetwork(Ipv4Net);

/// The number of a machine in its farm: the last byte of its address, 2 to 254.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostNumber(u8);

/// Which of its farm's routers a machine is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouterSeat {
    /// The only one: the gateway's address is its own.
    #[default]
    Only,
    /// The first of two, which have an address each, and the gateway's in turn.
    First,
    /// The second of two.
    Second,
}

impl RouterSeat {
    /// Both of two.
    pub const PAIR: [Self; 2] = [Self::First, Self::Second];
}

/// Text that is no farm network.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an IPv4 /24 such as 172.16.7.0/24")]
pub struct NotAFarmNetwork(String);

impl FarmNetwork {
    /// How many machines fit.
    pub const ADDRESSES: usize = 253;

    /// The network that a machine's address is of.
    #[must_use]
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        Self(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), 24))
    }

    /// The address of the network itself.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.0.network()
    }

    /// The gateway's address.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.host(1)
    }

    /// The address that a router has for itself: of two the last ones of the network, which no machine is given then.
    #[must_use]
    pub fn router_address(self, seat: RouterSeat) -> Ipv4Addr {
        match seat {
            RouterSeat::Only => self.gateway(),
            RouterSeat::First => self.host(253),
            RouterSeat::Second => self.host(254),
        }
    }

    /// The address with the last byte `host`.
    #[must_use]
    fn host(self, host: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.0.network().octets();
        Ipv4Addr::new(a, b, c, host)
    }

    /// The number of a machine; `None`: no machine of this farm may have the address.
    #[must_use]
    pub fn number_of(self, address: Ipv4Addr) -> Option<HostNumber> {
        let [.., number] = address.octets();
        self.is_machine_address(address).then_some(HostNumber(number))
    }

    /// The address of the machine with this number.
    #[must_use]
    pub fn address_of(self, HostNumber(number): HostNumber) -> Ipv4Addr {
        self.host(number)
    }

    /// The addresses that machines may have, lowest first.
    pub fn machine_addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        (2..=254).map(move |host| self.host(host))
    }

    /// Whether a machine may have this address.
    #[must_use]
    pub fn is_machine_address(self, address: Ipv4Addr) -> bool {
        self.0.contains(&address) && (2..=254).contains(&address.octets()[3])
    }

    /// The lowest address that nobody has.
    #[must_use]
    pub fn free_address(self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        self.machine_addresses().find(|address| !taken.contains(address))
    }

    /// The first five bytes of its machines' MAC addresses, with a zero last: what the filters compare under the mask
    /// `ff:ff:ff:ff:ff:00`.
    #[must_use]
    pub fn mac_prefix(self) -> MacAddress {
        MacAddress::of(self.0.network())
    }

    /// Whether this is one of the site's networks.
    #[must_use]
    pub fn is_within(self, pool: Ipv4Net) -> bool {
        pool.contains(&self.0)
    }
}

/// The lowest /24 of the pool that no farm has. The first is left out: routers of other software like to live there.
#[must_use]
pub fn free_network(pool: Ipv4Net, taken: &BTreeSet<FarmNetwork>) -> Option<FarmNetwork> {
    let skipped = usize::from(pool.prefix_len() < 24);
    pool.subnets(24).ok()?.skip(skipped).map(FarmNetwork).find(|network| !taken.contains(network))
}

/// The /24 of a pool with this number.
#[must_use]
pub fn numbered_network(pool: Ipv4Net, number: usize) -> Option<FarmNetwork> {
    pool.subnets(24).ok()?.nth(number).map(FarmNetwork)
}

impl From<FarmNetwork> for Ipv4Net {
    fn from(network: FarmNetwork) -> Self {
        network.0
    }
}

impl fmt::Display for FarmNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for FarmNetwork {
    type Err = NotAFarmNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Ipv4Net>()
            .ok()
            .filter(|network| network.prefix_len() == 24 && *network == network.trunc())
            .map(Self)
            .ok_or_else(|| NotAFarmNetwork(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> FarmNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn only_a_whole_24_is_a_farm_network() {
        for text in ["172.16.1.1/24", "172.16.0.0/16", "172.16.1.0/25", "fd00::/64", "172.16.1.0", ""] {
            assert!(text.parse::<FarmNetwork>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_start_behind_the_gateway_and_end_before_the_broadcast() {
        let farm = network("172.16.7.0/24");
        assert_eq!(farm.gateway(), Ipv4Addr::new(172, 16, 7, 1));
        assert_eq!(farm.machine_addresses().count(), FarmNetwork::ADDRESSES);
        let all = farm.machine_addresses().collect();
        assert_eq!(farm.free_address(&all), None);
        assert!(!farm.is_machine_address(farm.gateway()));
        assert!(!farm.is_machine_address(Ipv4Addr::new(172, 16, 7, 255)));
        assert_eq!(farm.mac_prefix().to_string(), "02:00:ac:10:07:00");
        for address in farm.machine_addresses() {
            assert_eq!(farm.address_of(farm.number_of(address).unwrap()), address);
            assert_eq!(network("172.16.8.0/24").number_of(address), None, "of another farm");
        }
        assert_eq!(farm.number_of(farm.gateway()), None);
    }

    #[test]
    fn the_lowest_free_network_is_given() {
        let pool = "172.16.0.0/16".parse().unwrap();
        let taken = BTreeSet::from([network("172.16.1.0/24"), network("172.16.3.0/24")]);
        assert_eq!(free_network(pool, &taken), Some(network("172.16.2.0/24")));
        assert_eq!(numbered_network(pool, 3), Some(network("172.16.3.0/24")));
        assert_eq!(numbered_network(pool, 256), None);
        let one = "10.1.2.0/24".parse().unwrap();
        assert_eq!(free_network(one, &BTreeSet::new()), Some(network("10.1.2.0/24")));
        assert_eq!(free_network(one, &BTreeSet::from([network("10.1.2.0/24")])), None);
    }
}
