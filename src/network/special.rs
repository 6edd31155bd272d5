//! Networks of IPv4 that lead to nobody (RFC 6890).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

const fn network(a: u8, b: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), prefix)
}

/// Networks that lead to nobody, each with what it is: no router carries a packet there.
pub const SPECIAL: [(Ipv4Net, &str); 5] = [
    (network(0, 0, 8), "this host"),
    (network(127, 0, 8), "loopback"),
    (network(169, 254, 16), "link-local"),
    (network(224, 0, 4), "multicast"),
    (network(240, 0, 4), "reserved, and broadcast"),
];
