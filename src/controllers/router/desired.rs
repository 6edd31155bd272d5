//! What a router is to do, from the objects alone: pure.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::Ipv4Net;
use kube::ResourceExt;

use super::addresses::Addresses;
use super::peers::{Neighbour, PORT, Tunnels, kept, tunnels};
use crate::api::site::Site;
use crate::api::{
    EgressAction as Action, EgressRule as Rule, GROUP_LABEL, PortForward, PortProtocol, VRouter, VirtualFarm,
    VirtualMachine,
};
use crate::controllers::cache::Key;
use crate::controllers::machine::recipe::{dns_servers, domain_of};
use crate::controllers::placement::observe::claim;
use crate::controllers::placement::plan::Wait;
use crate::network::router::{
    EgressAction, EgressRule, Forward, PrivateKey, PublicKey, PublicPort, PublicSide, Router, RouterMachine, Transport,
};
use crate::network::{BadName, DomainName, FarmNetwork, HostNumber, ZoneName};

/// The objects that a router's files are made from.
pub struct Ingredients<'a> {
    /// The farm.
    pub farm: &'a VirtualFarm,
    /// Its network.
    pub network: FarmNetwork,
    /// Its router.
    pub router: &'a VRouter,
    /// Its machines.
    pub machines: &'a [Arc<VirtualMachine>],
    /// The router's public addresses.
    pub addresses: &'a Addresses,
    /// What the site says.
    pub site: &'a Site,
    /// Its own key, if it has tunnels.
    pub key: Option<&'a PrivateKey>,
    /// Routers of this cloud that name this farm as the other end of a tunnel.
    pub neighbours: &'a BTreeMap<Key, Neighbour>,
}

/// What a router is to do.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Everything that can be had.
    pub router: Router,
    /// What of the spec can't, and why.
    pub waits: Vec<Wait>,
    /// What the other ends of its tunnels are called.
    pub peers: BTreeMap<PublicKey, String>,
    /// Which of them can't be had, and why.
    pub peer_waits: Vec<Wait>,
}

/// What a router is to do.
///
/// # Errors
/// What has to be changed first: without it nothing can be told at all.
pub fn desired(from: &Ingredients<'_>) -> Result<Desired, Wait> {
    let site = from.site;
    let domain = domain_of(from.farm, site).map_err(|error| Wait::new("InvalidDomain", error.to_string()))?;
    let dns = dns_servers(from.farm, site).map_err(|refusal| Wait::new("InvalidDns", refusal.message))?;
    let mut waits = Vec::new();
    let places = Places::of(from, &domain, &mut waits);
    let public = from.addresses.own().zip(site.routers.public.as_ref()).map(|(address, public)| PublicSide {
        address,
        prefix: public.network.prefix_len(),
        gateway: public.gateway,
    });
    let tunnels = tunnels_of(from, &dns, public.is_some());
    let mut forwards = BTreeMap::new();
    for forward in &from.router.spec.template.forwards {
        match places
            .forward(forward)
            .and_then(|(port, forward)| is_free(port, tunnels.as_ref()).map(|()| (port, forward)))
        {
            Ok((port, forward)) => drop(forwards.insert(port, forward)),
            Err(wait) => waits.push(wait),
        }
    }
    let elastic = places.elastic(from, &mut waits);
    let mut egress = Vec::new();
    for rule in &from.router.spec.template.egress {
        match egress_rule(rule) {
            Some(rule) => egress.push(rule),
            // One that can't be read may have been meant to deny: better nothing is told than too little.
            None => return Err(Wait::new("InvalidEgress", format!("egress: {:?} can't be read", rule.cidr))),
        }
    }
    let always_denied = [site.farm_networks, site.isolation.networks];
    let router = Router {
        farm: from.network,
        paired: from.router.spec.template.replicas > 1,
        domain,
        mtu: site.routers.mtu,
        machines: places.machines,
        dns: dns.into_iter().collect(),
        // Without a public address there is nothing to be reached at.
        forwards: if public.is_some() { forwards } else { BTreeMap::new() },
        elastic: if public.is_some() { elastic } else { BTreeMap::new() },
        public,
        egress,
        denied: site.routers.denied_networks.iter().copied().chain(always_denied).map(|net| net.trunc()).collect(),
        admitted: site.routers.admitted_networks.iter().map(Ipv4Net::trunc).collect(),
        vpn: tunnels.as_ref().map(|tunnels| tunnels.vpn.clone()),
    };
    let (peers, mut peer_waits) = tunnels.map(|tunnels| (tunnels.names, tunnels.waits)).unwrap_or_default();
    if from.router.spec.template.vpn.is_some() && router.vpn.is_none() {
        peer_waits.push(Wait::new("NoPublicNetwork", "tunnels need a public address"));
    }
    Ok(Desired { router, waits, peers, peer_waits })
}

/// The router's tunnels, if it has a place where the others find it.
fn tunnels_of(from: &Ingredients<'_>, dns: &[Ipv4Addr], is_public: bool) -> Option<Tunnels> {
    from.router.spec.template.vpn.as_ref().filter(|_| is_public)?;
    Some(tunnels(from.router, from.key?.clone(), kept(from.network, dns, from.site), from.neighbours, from.site))
}

/// Where tunnels end no forward begins.
fn is_free(port: PublicPort, tunnels: Option<&Tunnels>) -> Result<(), Wait> {
    let taken = tunnels.is_some() && port == PublicPort { transport: Transport::Udp, port: PORT };
    if taken {
        return Err(Wait::new("PortTaken", format!("forward udp/{PORT}: this is where tunnels end")));
    }
    Ok(())
}

/// The machines of a farm that have a place in its network.
struct Places {
    network: FarmNetwork,
    machines: BTreeMap<HostNumber, RouterMachine>,
    by_name: BTreeMap<String, HostNumber>,
}

impl Places {
    /// Of two machines that claim an address it belongs to the one that placement believes.
    fn of(from: &Ingredients<'_>, domain: &DomainName, waits: &mut Vec<Wait>) -> Self {
        let network = from.network;
        let mut places = Self { network, machines: BTreeMap::new(), by_name: BTreeMap::new() };
        let mut rightful: Vec<_> = from.machines.iter().collect();
        rightful.sort_by_cached_key(|machine| claim(machine));
        for machine in rightful {
            let Some(number) = number_of(machine, network) else { continue };
            let Entry::Vacant(place) = places.machines.entry(number) else { continue };
            let name = machine.name_any();
            let zone_name = zone_name(&name, domain);
            if let Err(problem) = &zone_name {
                let problem = format!("machine {name} has its address and no name: {problem}");
                waits.push(Wait::new("InvalidName", problem));
            }
            // A label is anybody's: one that is no name is no group.
            let group = machine.labels().get(GROUP_LABEL).and_then(|group| group.parse().ok());
            place.insert(RouterMachine { name: zone_name.ok(), group });
            places.by_name.insert(name, number);
        }
        places
    }

    fn forward(&self, forward: &PortForward) -> Result<(PublicPort, Forward), Wait> {
        let transport = transport(forward.protocol);
        let which = format!("forward {}/{}", transport.name(), forward.port);
        let wait = |reason, problem: String| Wait::new(reason, format!("{which}: {problem}"));
        let port = |port: i32| {
            let number = u16::try_from(port).ok().and_then(NonZeroU16::new);
            number.ok_or_else(|| wait("InvalidPort", format!("{port} is no port")))
        };
        let target = match (&forward.target_ref, &forward.address) {
            (Some(machine), None) => self.machine(&machine.name).map_err(|problem| wait("TargetNotFound", problem))?,
            (None, Some(address)) => {
                let number = address.parse().ok().and_then(|address| self.network.number_of(address));
                let outside = || format!("{address} is no machine's address in the farm's network {}", self.network);
                number.ok_or_else(|| wait("TargetOutsideFarm", outside()))?
            }
            _ => return Err(wait("InvalidTarget", "give exactly one of targetRef and address".into())),
        };
        let source = |text: &String| {
            let net: Result<Ipv4Net, _> = text.parse();
            net.map(|net| net.trunc()).map_err(|_| wait("InvalidSource", format!("{text:?} is no IPv4 network")))
        };
        let sources = forward.source_ranges.iter().map(source).collect::<Result<BTreeSet<_>, _>>()?;
        let entrance = PublicPort { transport, port: port(forward.port)? };
        Ok((entrance, Forward { target, port: port(forward.target_port.unwrap_or(forward.port))?, sources }))
    }

    fn elastic(&self, from: &Ingredients<'_>, waits: &mut Vec<Wait>) -> BTreeMap<Ipv4Addr, HostNumber> {
        let wanted = from.router.spec.elastic_ip.as_ref().zip(from.addresses.elastic());
        let found = wanted.and_then(|(elastic, address)| match self.machine(&elastic.target) {
            Ok(number) => Some((address, number)),
            Err(problem) => {
                waits.push(Wait::new("TargetNotFound", format!("elasticIP: {problem}")));
                None
            }
        });
        found.into_iter().collect()
    }

    fn machine(&self, name: &str) -> Result<HostNumber, String> {
        let found = self.by_name.get(name).copied();
        found.ok_or_else(|| format!("no machine {name} has an address in this farm yet"))
    }
}

/// The name that a machine has in its farm's zone.
fn zone_name(name: &str, domain: &DomainName) -> Result<ZoneName, String> {
    let name: ZoneName = name.parse().map_err(|error: BadName| error.to_string())?;
    if name.fits_into(domain) {
        return Ok(name);
    }
    Err(format!("below {domain} it is longer than the 253 characters that DNS takes: give it a shorter one"))
}

fn number_of(machine: &VirtualMachine, network: FarmNetwork) -> Option<HostNumber> {
    network.number_of(machine.status.as_ref()?.address.as_ref()?.parse().ok()?)
}

const fn transport(protocol: PortProtocol) -> Transport {
    match protocol {
        PortProtocol::Tcp => Transport::Tcp,
        PortProtocol::Udp => Transport::Udp,
    }
}

fn egress_rule(rule: &Rule) -> Option<EgressRule> {
    let port = |port: &i32| u16::try_from(*port).ok().and_then(NonZeroU16::new);
    let ports = rule.ports.iter().map(port).collect::<Option<BTreeSet<_>>>()?;
    Some(EgressRule {
        to: rule.cidr.parse::<Ipv4Net>().ok()?.trunc(),
        ports: (!ports.is_empty()).then(|| (transport(rule.protocol.unwrap_or_default()), ports)),
        action: match rule.action {
            Action::Allow => EgressAction::Allow,
            Action::Deny => EgressAction::Deny,
        },
    })
}
