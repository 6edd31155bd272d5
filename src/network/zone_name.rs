//! Names that a farm's zone gives to its machines and groups: those that mean nothing else to who reads them.

use std::fmt;
use std::str::FromStr;

use super::names::{BadName, DomainName, Hostname, refuse};

/// What names of every zone mean to resolvers and to hosts that ask, whoever answers to them, and where that stands. None
/// of them is a machine's.
pub const TAKEN: [(&str, &str); 12] = [
    // The router's own record.
    ("gateway", "cascina: src/network/router/dnsmasq.rs"),
    // The name of who asks.
    ("localhost", "RFC 6761, section 6.3"),
    ("localhost4", "hosts(5) of Fedora"),
    ("localhost6", "hosts(5) of Fedora"),
    ("ip6-localhost", "hosts(5) of Debian"),
    ("ip6-loopback", "hosts(5) of Debian"),
    ("ip6-localnet", "hosts(5) of Debian"),
    ("ip6-mcastprefix", "hosts(5) of Debian"),
    ("ip6-allnodes", "hosts(5) of Debian"),
    ("ip6-allrouters", "hosts(5) of Debian"),
    // Who has these names in a zone tells its browsers where their proxy is, and its hosts where IPv6 is.
    ("wpad", "draft-ietf-wrec-wpad-01, section 4.4"),
    ("isatap", "RFC 5214, section 8.3.2"),
];

/// What C libraries read as an address: inet_aton(3) takes `11` for 0.0.0.11 and `0x7f000001` for 127.0.0.1.
pub const NUMBERS: &str = "[0-9]+|0x[0-9a-f]*";

/// A name that the zone gives to a machine or a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneName(Hostname);

/// Whether C libraries read a name as an address, as [`NUMBERS`] says it.
#[must_use]
pub fn is_number(text: &str) -> bool {
    let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits || text.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl FromStr for ZoneName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name: Hostname = text.parse()?;
        if is_number(text) {
            return Err(refuse("name in a zone", text, "it is read as an address; add a letter"));
        }
        if TAKEN.iter().any(|(taken, _)| *taken == text) {
            return Err(refuse("name in a zone", text, "it means somebody else in every zone; take another"));
        }
        Ok(Self(name))
    }
}

impl ZoneName {
    /// Whether it and its domain are no longer than DNS takes together.
    #[must_use]
    pub fn fits_into(&self, domain: &DomainName) -> bool {
        self.0.fits_into(domain)
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::network::words::words;

    /// Every word that any program which reads our files knows, and what else could be one.
    fn names() -> Vec<String> {
        let numbers = ["0", "11", "0x", "0x1f", "007", "1e3", "0xg", "172-16-7-1", "1a", "a1"].map(str::to_owned);
        words().into_values().flat_map(|reader| reader.words).chain(numbers).collect()
    }

    #[test]
    fn what_everybody_takes_for_somebody_else_is_no_machine() {
        for name in &words()["resolvers"].words {
            assert!(name.parse::<ZoneName>().is_err(), "{name}");
        }
        for name in ["ignore", "infinite", "10m", "accept", "worker-1", "gateways"] {
            assert_eq!(name.parse::<ZoneName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn no_library_reads_a_name_as_an_address() {
        const READ: &str = "import socket, sys\n\
            for line in sys.stdin:\n\
            \x20   try: socket.inet_aton(line.strip()); print(line.strip())\n\
            \x20   except OSError: pass";
        let mut python = Command::new("python3");
        python.args(["-c", READ]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = python.spawn() else { return eprintln!("skipped: needs python3") };
        child.stdin.take().unwrap().write_all(names().join("\n").as_bytes()).unwrap();
        let addresses = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert!(addresses.lines().count() > 3, "it reads some: {addresses}");
        for name in addresses.lines() {
            assert!(name.parse::<ZoneName>().is_err(), "{name}");
        }
    }
}
