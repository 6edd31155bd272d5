//! What networks share, and what is left of them.

use ipnet::Ipv4Net;

/// Whether two networks share an address.
#[must_use]
pub fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(other) || other.contains(one)
}

/// Networks that hold every address of a network but those of the holes.
#[must_use]
pub fn without<'a>(network: Ipv4Net, holes: impl IntoIterator<Item = &'a Ipv4Net> + Clone) -> Vec<Ipv4Net> {
    if holes.clone().into_iter().any(|hole| hole.contains(&network)) {
        return Vec::new();
    }
    let inside: Vec<_> = holes.into_iter().filter(|hole| network.contains(*hole)).collect();
    if inside.is_empty() {
        return vec![network];
    }
    // A network with a hole in it is no single address, so it has halves.
    let halves = network.subnets(network.prefix_len().saturating_add(1)).into_iter().flatten();
    halves.flat_map(|half| without(half, inside.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_net() -> impl Strategy<Value = Ipv4Net> {
        // Few bits, so that many overlap.
        (0..=255_u32, 0..=8_u8)
            .prop_map(|(bits, prefix)| Ipv4Net::new((10 << 24 | bits << 16).into(), 8 + prefix).unwrap().trunc())
    }

    #[test]
    fn what_is_left_of_a_network_is_around_the_hole() {
        let holes = ["10.1.2.0/24".parse().unwrap()];
        let left = without("10.1.0.0/21".parse().unwrap(), &holes);
        let left: Vec<_> = left.iter().map(ToString::to_string).collect();
        assert_eq!(left, ["10.1.0.0/23", "10.1.3.0/24", "10.1.4.0/22"]);
    }

    proptest! {
        #[test]
        fn every_address_is_in_a_hole_or_left(network in any_net(), holes in prop::collection::vec(any_net(), 0..5)) {
            let left = without(network, &holes);
            for bits in 0..=255_u32 {
                let address: std::net::Ipv4Addr = (10 << 24 | bits << 16 | 7).into();
                let is_hole = holes.iter().any(|hole| hole.contains(&address));
                let times = left.iter().filter(|part| part.contains(&address)).count();
                prop_assert_eq!(times, usize::from(network.contains(&address) && !is_hole), "{}", address);
            }
        }
    }
}
