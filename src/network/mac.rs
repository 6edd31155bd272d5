//! MAC addresses that are made from IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A MAC address. Machines have `02:00` and the four bytes of their address, so that the machines of a /24 share
/// a prefix of five bytes, which is what the filters isolate farms by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

/// Text that is no MAC address.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a MAC address such as 02:00:ac:10:01:0a")]
pub struct BadMac(String);

impl MacAddress {
    /// The MAC address of a machine.
    #[must_use]
    pub const fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x00, a, b, c, d])
    }

    /// The address that a machine with this MAC address has; `None`: it is no machine's.
    #[must_use]
    pub const fn address(self) -> Option<Ipv4Addr> {
        match self.0 {
            [0x02, 0x00, a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d)),
            _ => None,
        }
    }

    /// Its six bytes.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadMac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(bad)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mac_address_is_made_from_the_address() {
        assert_eq!(MacAddress::of(Ipv4Addr::new(172, 16, 1, 10)).to_string(), "02:00:ac:10:01:0a");
    }

    #[test]
    fn a_card_of_another_program_has_no_address() {
        assert_eq!("52:54:00:12:34:56".parse::<MacAddress>().unwrap().address(), None);
    }

    proptest! {
        #[test]
        fn written_and_read_back_is_the_same(address: [u8; 4]) {
            let mac = MacAddress::of(address.into());
            prop_assert_eq!(mac.address(), Some(address.into()));
            prop_assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
        }

        #[test]
        fn reading_never_panics(text in ".{0,40}") {
            let _ = text.parse::<MacAddress>();
        }
    }
}
