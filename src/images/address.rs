//! Which addresses a fetch may speak with. A URL, a redirect or a name server must not lead the operator to the cloud's
//! metadata service, to the API server or into the site's own networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Which addresses are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Only those of the public internet.
    Public,
    /// Private, loopback and link-local networks too; never a metadata service.
    Private,
    /// Public ones and this one, for tests against a local server.
    #[cfg(test)]
    PublicAnd(IpAddr),
}

/// Metadata services of clouds: nobody keeps images there, and what they answer are credentials.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

impl Reach {
    /// Whether a connection to this address may be made.
    pub(super) fn admits(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match self {
            Self::Public => is_public(address),
            Self::Private => {
                let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
                !METADATA.contains(&address) && !address.is_multicast() && !address.is_unspecified() && !broadcast
            }
            #[cfg(test)]
            Self::PublicAnd(exempt) => address == exempt || is_public(address),
        }
    }

    /// Whether plain http is admitted.
    pub(super) const fn admits_http(self) -> bool {
        !matches!(self, Self::Public)
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// After IANA's registry of special-purpose addresses.
fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..]
    )
}

/// Of IPv6 only what is given out to the internet, without what tunnels into IPv4.
fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // NAT64: stands for an IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Teredo and other protocol assignments, documentation, 6to4.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// A name whose addresses aren't admitted.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a public address")]
pub(super) struct NotAdmitted(pub(super) IpAddr);

/// Looks names up and gives only admitted addresses. The connection is made to what was judged here, so a name that
/// changes its addresses in between gains nothing.
pub(super) struct Resolver(pub(super) Reach);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let refused = found.iter().find(|address| !reach.admits(address.ip())).map(SocketAddr::ip);
            let admitted: Vec<SocketAddr> = found.into_iter().filter(|address| reach.admits(address.ip())).collect();
            match refused {
                Some(address) if admitted.is_empty() => Err(NotAdmitted(address).into()),
                _ => Ok(Box::new(admitted.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_internet_is_public() {
        for text in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.7.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a00:1::",
            "2001::1",
            "::10.0.0.1",
        ] {
            assert!(!Reach::Public.admits(text.parse().unwrap()), "{text}");
        }
        for text in ["1.1.1.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(Reach::Public.admits(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_metadata_service_is_never_a_source() {
        for text in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "0.0.0.0", "::", "224.0.0.1"] {
            assert!(!Reach::Private.admits(text.parse().unwrap()), "{text}");
        }
        for text in ["127.0.0.1", "10.1.2.3", "169.254.1.1", "fe80::1", "1.1.1.1"] {
            assert!(Reach::Private.admits(text.parse().unwrap()), "{text}");
        }
    }
}
