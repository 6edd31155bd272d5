//! Addresses in a row, as an administrator writes them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// IPv4 addresses from a first to a last, such as `198.51.100.20-198.51.100.99`, or one alone.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// Text that is no range of addresses.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither an IPv4 address nor two joined by a dash, such as 198.51.100.20-198.51.100.99")]
pub struct NotARange(String);

impl AddressRange {
    /// Its first address.
    #[must_use]
    pub const fn first(self) -> Ipv4Addr {
        self.first
    }

    /// Its last address.
    #[must_use]
    pub const fn last(self) -> Ipv4Addr {
        self.last
    }

    /// Its addresses, lowest first.
    pub fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        (u32::from(self.first)..=u32::from(self.last)).map(Ipv4Addr::from)
    }

    /// Whether an address is one of these.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }
}

impl FromStr for AddressRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotARange(text.chars().take(80).collect());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parse = |text: &str| text.trim().parse::<Ipv4Addr>().map_err(|_| wrong());
        let (first, last) = (parse(first)?, parse(last)?);
        if first > last {
            return Err(wrong());
        }
        Ok(Self { first, last })
    }
}

impl TryFrom<String> for AddressRange {
    type Error = NotARange;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.first)?;
        if self.first < self.last { write!(formatter, "-{}", self.last) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_addresses_or_one() {
        let range: AddressRange = "198.51.100.20-198.51.100.22".parse().unwrap();
        let addresses: Vec<_> = range.addresses().map(|address| address.octets()[3]).collect();
        assert_eq!(addresses, [20, 21, 22]);
        assert_eq!(range.to_string(), "198.51.100.20-198.51.100.22");
        assert_eq!("198.51.100.20".parse::<AddressRange>().unwrap().to_string(), "198.51.100.20");
        assert!(range.contains(range.last()) && !range.contains("198.51.100.23".parse().unwrap()));
    }

    #[test]
    fn anything_else_is_none() {
        for text in ["", "-", "198.51.100.22-198.51.100.20", "198.51.100.0/24", "198.51.100.20-", "2001:db8::1"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
