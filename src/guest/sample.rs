//! A guest with nothing unusual about it.

use std::net::Ipv4Addr;

use uuid::Uuid;

use super::{Guest, GuestNic};
use crate::network::MacAddress;

/// It, for tests.
pub fn guest() -> Guest {
    let address = Ipv4Addr::new(172, 16, 7, 10);
    let gateway = Ipv4Addr::new(172, 16, 7, 1);
    Guest {
        instance_id: Uuid::from_u128(0x6f0c_6a5e_0000_4000_8000_0000_0000_000a),
        hostname: "worker-1".parse().unwrap(),
        domain: "atlas.cascina.internal".parse().unwrap(),
        nic: GuestNic { mac: MacAddress::of(address), address, prefix: 24, gateway: Some(gateway) },
        dns: vec![gateway],
        ssh_keys: Vec::new(),
        user_data: None,
    }
}
