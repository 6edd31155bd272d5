//! Host names and domains that may stand in the files of guests and routers.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A DNS-1123 label, at most 63 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(String);

/// DNS-1123 labels joined by dots, at most 253 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(String);

/// Text that is no such name.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} can't be a {kind}: {problem}")]
pub struct BadName {
    kind: &'static str,
    /// Shortened.
    name: String,
    problem: &'static str,
}

/// The longest name that DNS takes, as it is written.
const LONGEST: usize = 253;

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `on` or `2026-01-31`: cloud-init's YAML reader is of version 1.1 and makes a truth value or a date of it, where our
/// writer of version 1.2 sees no need for quotes. Numbers, `true` and `null` are quoted.
fn is_misread(text: &str) -> bool {
    let digit_or_dash =
        |(at, byte): (usize, u8)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() };
    matches!(text, "yes" | "no" | "on" | "off") || (text.len() == 10 && text.bytes().enumerate().all(digit_or_dash))
}

pub(super) fn refuse(kind: &'static str, name: &str, problem: &'static str) -> BadName {
    BadName { kind, name: name.chars().take(80).collect(), problem }
}

impl FromStr for Hostname {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_label(text) {
            return Err(refuse("host name", text, "use at most 63 of a-z, 0-9 and -, not - at either end"));
        }
        if is_misread(text) {
            return Err(refuse("host name", text, "guests read it as a date or a truth value; add a letter"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for DomainName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > LONGEST || !text.split('.').all(is_label) {
            return Err(refuse("domain", text, "use names of a-z, 0-9 and - joined by dots, 253 characters in all"));
        }
        if is_misread(text) {
            return Err(refuse("domain", text, "guests read it as a date or a truth value; add a letter"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Hostname {
    /// Whether it and its domain are no longer than DNS takes together (RFC 1035, section 2.3.4).
    #[must_use]
    pub fn fits_into(&self, domain: &DomainName) -> bool {
        self.0.len() + 1 + domain.0.len() <= LONGEST
    }

    /// The name with its domain.
    #[must_use]
    pub fn in_domain(&self, domain: &DomainName) -> String {
        [self.0.as_str(), domain.0.as_str()].join(".")
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for Hostname {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Serialize for DomainName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(64);
        for text in
            ["", "-a", "a-", "A", "a.b", "a\nruncmd: [reboot]", "a b", "ä", "2026-01-31", "on", "no", long.as_str()]
        {
            assert!(text.parse::<Hostname>().is_err(), "{text}");
        }
        for text in ["", ".", "a.", ".a", "a..b", "a.B", "a b.c", "a.b\n", "yes", "2026-01-31"] {
            assert!(text.parse::<DomainName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_and_its_domain_are_no_longer_than_dns_takes() {
        let name: Hostname = "n".repeat(63).parse().unwrap();
        let domain = |length: usize| -> DomainName {
            let labels = [60, 60, 60, length - 183].map(|length| "d".repeat(length));
            labels.join(".").parse().unwrap()
        };
        assert!(name.fits_into(&domain(189)) && !name.fits_into(&domain(190)));
        assert_eq!(name.in_domain(&domain(189)).len(), 253);
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in ".{0,80}") {
            let _ = text.parse::<Hostname>();
            let _ = text.parse::<DomainName>();
        }
    }
}
