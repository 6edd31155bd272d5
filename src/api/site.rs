//! The site's configuration: one typed YAML document, from the chart's values.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};

use super::{Bytes, Quota, zone_names};
use crate::network::DomainName;
pub use routers::{PublicNetwork, Routers};

mod routers;

/// No wait or interval of a site is longer: a time that far ahead is a slip, and clocks can't count to any time there is.
const LONGEST: Duration = Duration::from_hours(720);

/// Settings that hold for the whole site. Every field has a default; an unknown field is an error.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Site {
    /// Farms get a free /24 of this network.
    pub farm_networks: Ipv4Net,
    /// Domain below which farms without one of their own are named.
    pub dns_domain: String,
    /// DNS servers of machines whose farm names none.
    pub dns: Vec<Ipv4Addr>,
    /// Quota of farms that give none.
    pub default_quota: Option<Quota>,
    /// Where images may come from and how large they may be.
    pub images: ImageLimits,
    /// How often and how long.
    pub timings: Timings,
    /// How much at once.
    pub limits: Limits,
    /// How hosts prove that farms are kept apart.
    pub isolation: Isolation,
    /// What routers of farms are made from, and where they lead.
    pub routers: Routers,
}

/// Where images may come from and how large they may be.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ImageLimits {
    /// `file://` sources must lie below one of these directories; none: no `file://`.
    pub file_roots: Vec<PathBuf>,
    /// Admits http sources and addresses of private, loopback and link-local networks.
    pub allow_private_sources: bool,
    /// The largest file that is fetched.
    pub max_download: Bytes,
    /// The largest disk, as a guest sees it.
    pub max_virtual_size: Bytes,
    /// A fetch slower than this, over a minute, is given up; bytes per second.
    pub min_speed: Bytes,
}

/// How often and how long, as `5s` or `1m30s`; 720 hours at most.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Timings {
    /// A host is read this often.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// A call to a host that takes longer has failed.
    #[serde(with = "duration")]
    pub call_deadline: Duration,
    /// A host that doesn't answer for so long is `Unreachable`.
    #[serde(with = "duration")]
    pub unreachable_after: Duration,
    /// A host that has been `Unreachable` for so long is given up: its Worker machines are made anew elsewhere. `0s`: they
    /// never are, unless somebody says that the host is off.
    #[serde(with = "duration")]
    pub evict_after: Duration,
    /// A machine that is deleted and whose host doesn't answer is let go after so long; what is left of it is removed when
    /// the host returns.
    #[serde(with = "duration")]
    pub deletion_deadline: Duration,
    /// A machine that doesn't answer so long after its start is reported.
    #[serde(with = "duration")]
    pub boot_deadline: Duration,
    /// A guest gets so long to shut down before it is switched off.
    #[serde(with = "duration")]
    pub shutdown_grace: Duration,
}

/// How much at once.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Domains starting at the same time on one host; libvirt installs filters one after another.
    pub starts_in_flight: usize,
    /// Calls in flight on one connection to a host; libvirtd serves five.
    pub calls_in_flight: usize,
    /// Uploads of images at the same time.
    pub uploads_in_flight: usize,
    /// Objects of one kind reconciled at the same time.
    pub reconciles_in_flight: u16,
}

/// How hosts prove that farms are kept apart: a small guest on each host attacks its own neighbours, again and again.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Isolation {
    /// Whether a host has to pass before it gets machines.
    pub self_test: SelfTest,
    /// Name of the Image that the guest boots from: the appliance, kept on every host (`cache: {policy: All}`).
    pub image: String,
    /// The guests get addresses of these networks, two /24 for each host.
    pub networks: Ipv4Net,
    /// The attacks are repeated this often. A host counts as verified for three intervals after it last passed.
    #[serde(with = "duration")]
    pub interval: Duration,
}

/// Whether a host has to prove that it keeps farms apart.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SelfTest {
    /// A host that hasn't proved it gets no new machines.
    #[default]
    Required,
    /// Nothing is proved, and every host gets machines. For laboratories.
    Disabled,
}

impl Default for Isolation {
    fn default() -> Self {
        Self {
            self_test: SelfTest::Required,
            image: "appliance".into(),
            networks: Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
            interval: Duration::from_secs(20),
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Self {
            farm_networks: Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 16),
            dns_domain: "cascina.internal".into(),
            dns: Vec::new(),
            default_quota: None,
            images: ImageLimits::default(),
            timings: Timings::default(),
            limits: Limits::default(),
            isolation: Isolation::default(),
            routers: Routers::default(),
        }
    }
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            file_roots: Vec::new(),
            allow_private_sources: false,
            max_download: Bytes::gibi(64),
            max_virtual_size: Bytes::gibi(512),
            min_speed: Bytes::new(16 << 10),
        }
    }
}

impl Default for Timings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            heartbeat: seconds(5),
            call_deadline: seconds(20),
            unreachable_after: seconds(40),
            evict_after: seconds(300),
            deletion_deadline: seconds(120),
            boot_deadline: seconds(600),
            shutdown_grace: seconds(60),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { starts_in_flight: 4, calls_in_flight: 4, uploads_in_flight: 2, reconciles_in_flight: 128 }
    }
}

/// Why a site's configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// It is not the YAML of a [`Site`].
    #[error("site configuration: {0}")]
    Syntax(#[from] serde_yaml::Error),
    /// A value makes no sense.
    #[error("site configuration: {field}: {problem}")]
    Value {
        /// Path of the field.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl Site {
    /// Reads and checks the document; an empty one is the default site.
    ///
    /// # Errors
    /// Names the field and what to do.
    pub fn parse(yaml: &str) -> Result<Self, SiteError> {
        let site: Self = if yaml.trim().is_empty() { Self::default() } else { serde_yaml::from_str(yaml)? };
        site.check()?;
        Ok(site)
    }

    fn check(&self) -> Result<(), SiteError> {
        let refuse = |field, problem: &str| Err(SiteError::Value { field, problem: problem.to_owned() });
        if self.farm_networks.prefix_len() > 24 {
            return refuse("farmNetworks", "must have room for a /24");
        }
        if self.farm_networks != self.farm_networks.trunc() {
            return refuse("farmNetworks", "has bits set behind its prefix");
        }
        if let Err(error) = self.dns_domain.parse::<DomainName>() {
            return refuse("dnsDomain", &error.to_string());
        }
        if self.dns_domain.len() > LONGEST_DOMAIN {
            return refuse("dnsDomain", "at most 148 characters: names of machines and farms stand before it");
        }
        if zone_names::is_kept(&self.dns_domain) {
            return refuse(
                "dnsDomain",
                "resolvers ask nobody about a domain that ends so (they read an address, or it is local to them)",
            );
        }
        let networks = self.isolation.networks;
        if networks != networks.trunc() || networks.prefix_len() > 23 {
            return refuse("isolation.networks", "must be a network with room for two /24");
        }
        if networks.contains(&self.farm_networks) || self.farm_networks.contains(&networks) {
            return refuse(
                "isolation.networks",
                "overlaps farmNetworks: the guests that test would be members of a farm",
            );
        }
        self.routers.check([("farmNetworks", self.farm_networks), ("isolation.networks", networks)])?;
        if self.images.file_roots.iter().any(|root| !root.is_absolute()) {
            return refuse("images.fileRoots", "every root must be an absolute path");
        }
        if self.limits.calls_in_flight == 0 || self.limits.starts_in_flight == 0 || self.limits.uploads_in_flight == 0 {
            return refuse("limits", "every limit must be at least 1");
        }
        let timings = &self.timings;
        let at_least_1s = Duration::from_secs(1)..=LONGEST;
        let from_0s = Duration::ZERO..=LONGEST;
        for (field, duration, allowed) in [
            ("timings.heartbeat", timings.heartbeat, &at_least_1s),
            ("timings.callDeadline", timings.call_deadline, &at_least_1s),
            ("timings.unreachableAfter", timings.unreachable_after, &at_least_1s),
            ("timings.bootDeadline", timings.boot_deadline, &at_least_1s),
            ("isolation.interval", self.isolation.interval, &at_least_1s),
            ("routers.restartAfter", self.routers.restart_after, &at_least_1s),
            ("timings.shutdownGrace", timings.shutdown_grace, &from_0s),
            ("timings.evictAfter", timings.evict_after, &from_0s),
            ("timings.deletionDeadline", timings.deletion_deadline, &from_0s),
        ] {
            if !allowed.contains(&duration) {
                return refuse(field, &format!("must be from {:?} to 720h", allowed.start()));
            }
        }
        Ok(())
    }
}

/// What DNS takes (253), less a machine's name (63), a farm's (40) and two dots.
const LONGEST_DOMAIN: usize = 148;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_document_is_the_default_site() {
        assert_eq!(Site::parse("").unwrap(), Site::default());
    }

    #[test]
    fn a_document_changes_what_it_names() {
        let site = Site::parse("timings: {heartbeat: 1m30s}\nimages: {maxVirtualSize: 1Ti}\n").unwrap();
        assert_eq!(site.timings.heartbeat, Duration::from_secs(90));
        assert_eq!(site.images.max_virtual_size, Bytes::gibi(1024));
    }

    #[test]
    fn a_bad_document_names_the_field() {
        for (yaml, field) in [
            ("farmNetworks: 10.0.0.0/25", "farmNetworks"),
            ("farmNetworks: 10.0.0.1/16", "farmNetworks"),
            ("heartbeat: 5s", "heartbeat"),
            ("dnsDomain: ''", "dnsDomain"),
            ("dnsDomain: Example.org", "dnsDomain"),
            ("dnsDomain: local", "dnsDomain"),
            ("dnsDomain: farms.localhost", "dnsDomain"),
            ("dnsDomain: 10.0.0.1", "dnsDomain"),
            ("dnsDomain: farms.0x1f", "dnsDomain"),
            ("timings: {heartbeat: 0s}", "timings.heartbeat"),
            ("timings: {evictAfter: -1m}", "timings.evictAfter"),
            ("timings: {evictAfter: 721h}", "timings.evictAfter"),
            ("timings: {evictAfter: 99999999999999999999h}", "timings.evictAfter"),
            ("images: {fileRoots: [images]}", "images.fileRoots"),
            ("limits: {callsInFlight: 0}", "limits"),
            ("isolation: {networks: 198.18.0.0/24}", "isolation.networks"),
            ("isolation: {networks: 172.16.4.0/22}", "isolation.networks"),
            ("isolation: {interval: 100ms}", "isolation.interval"),
            ("isolation: {selfTest: Sometimes}", "isolation"),
            ("routers: {mtu: 9001}", "routers.mtu"),
            ("routers: {restartAfter: 0s}", "routers.restartAfter"),
            ("routers: {public: {network: 198.51.100.1/24, gateway: 198.51.100.1}}", "routers.public.network"),
            ("routers: {public: {network: 198.51.100.0/31, gateway: 198.51.100.1}}", "routers.public.network"),
            ("routers: {public: {network: 172.16.9.0/24, gateway: 172.16.9.1}}", "routers.public.network"),
            ("routers: {public: {network: 198.51.100.0/24, gateway: 198.51.101.1}}", "routers.public.gateway"),
            ("routers: {public: {network: 198.51.100.0/24}}", "gateway"),
            (
                "routers: {public: {network: 198.51.100.0/24, gateway: 198.51.100.1, addresses: [198.51.100.1]}}",
                "routers.public.addresses",
            ),
            (
                "routers: {public: {network: 198.51.100.0/24, gateway: 198.51.100.1, addresses: [198.51.99.9]}}",
                "routers.public.addresses",
            ),
            (
                "routers: {public: {network: 198.51.100.0/24, gateway: 198.51.100.1, addresses: [198.51.100.255]}}",
                "routers.public.addresses",
            ),
            ("routers: {public: {network: 198.51.100.0/24, gateway: 198.51.100.1, addresses: [few]}}", "few"),
        ] {
            let message = Site::parse(yaml).unwrap_err().to_string();
            assert!(message.contains(field), "{yaml}: {message}");
        }
    }

    #[test]
    fn the_domain_leaves_room_for_the_names_before_it() {
        let of_length = |length: usize| {
            let domain = ["a".repeat(60), "b".repeat(60), "c".repeat(length.saturating_sub(122))].join(".");
            assert_eq!(domain.len(), length);
            Site::parse(&format!("dnsDomain: {domain}"))
        };
        assert!(of_length(148).is_ok() && of_length(149).is_err());
    }
}
