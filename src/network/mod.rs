//! Addresses, MAC addresses and filter rules: pure.

mod farm_network;
pub mod filters;
mod mac;
mod names;
pub mod router;

pub use farm_network::{FarmNetwork, HostNumber, NotAFarmNetwork, free_network, numbered_network};
pub use filters::{Hold, RuleSet};
pub use mac::{BadMac, MacAddress};
pub use names::{BadName, DomainName, Hostname};
