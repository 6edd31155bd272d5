//! Addresses, MAC addresses and filter rules: pure.

mod farm_network;
mod mac;

pub use farm_network::{FarmNetwork, NotAFarmNetwork, free_network};
pub use mac::{BadMac, MacAddress};
