//! Addresses, MAC addresses and filter rules: pure.

mod address_range;
mod farm_network;
pub mod filters;
mod mac;
mod names;
pub mod router;
mod special;
mod subnets;
#[cfg(test)]
#[path = "../../tests/support/words.rs"]
pub(crate) mod words;
mod zone_name;

pub use address_range::{AddressRange, NotARange};
pub use farm_network::{FarmNetwork, HostNumber, NotAFarmNetwork, RouterSeat, free_network, numbered_network};
pub use filters::{Hold, RuleSet};
pub use mac::{BadMac, MacAddress};
pub use names::{BadName, DomainName, Hostname};
pub use special::SPECIAL;
pub use subnets::{overlap, without};
pub use zone_name::{NUMBERS, TAKEN, ZoneName, is_number};
