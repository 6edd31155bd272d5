//! Addresses, MAC addresses and filter rules: pure.

mod farm_network;
pub mod filters;
mod mac;

pub use farm_network::{FarmNetwork, NotAFarmNetwork, free_network, numbered_network};
pub use filters::RuleSet;
pub use mac::{BadMac, MacAddress};
