//! What libvirt has a kernel do for `<outbound>` of a tap: what comes in beyond a rate is dropped before the bridge sees it.
//!
//! A kernel without policing is lent one: a guest with Debian's kernel in the machine's cable, which passes on what it hears
//! and polices it on its way.

use std::net::Ipv4Addr;

use cascina::network::MacAddress;
use serde_json::Value;

use super::guests::Guest;
use super::site::{BRIDGE, Farms, Site};
use crate::emulated::Emulated;
use crate::namespaces::{add, ip, try_ip};

/// The two cards of the guest in the cable, and the addresses that theirs are made of; they speak for nobody.
const CARDS: [(&str, Ipv4Addr); 2] = [("inner", Ipv4Addr::new(192, 0, 2, 1)), ("outer", Ipv4Addr::new(192, 0, 2, 2))];

/// Where what a machine sends can be policed.
pub struct Policer {
    /// Holds the port on the bridge, or what is in the machine's cable.
    namespace: String,
    /// What the machine's frames come in by.
    port: String,
    /// The guest in its cable.
    lent: Option<Emulated>,
}

impl Policer {
    /// The port of a bound guest, or a guest in its cable. Nothing is policed yet.
    pub fn of(farms: &Farms, guest: &Guest) -> Self {
        let here = Self { namespace: farms.site.namespace(guest.host), port: guest.port.clone(), lent: None };
        let tc = |command: &str| try_ip(&format!("netns exec {} tc {command}", here.namespace)).status.success();
        let can = commands(&here.port, 1).iter().all(|command| tc(command));
        assert!(tc(&format!("qdisc del dev {} ingress", here.port)), "the kernel keeps its rules");
        if can {
            return here;
        }
        farms.site.virsh(guest.host, &[format!("nwfilter-binding-delete {}", guest.port)]);
        let (lent, namespace) = in_cable(&farms.site, guest);
        farms.bind(std::slice::from_ref(guest));
        Self { namespace, port: "eth0".to_owned(), lent: Some(lent) }
    }

    /// Polices from now on, at so many thousands of bytes a second.
    pub fn police(&self, rate: u32) {
        for command in commands(&self.port, rate) {
            self.tc(&command);
        }
    }

    /// Frames that were dropped since.
    pub fn dropped(&self) -> u64 {
        let said = self.tc(&format!("-s -j filter show dev {} parent ffff:", self.port));
        let filters: Value = serde_json::from_str(&said).unwrap();
        let found = filters.as_array().unwrap().iter().find_map(|filter| filter["dropped"].as_u64());
        found.unwrap_or_else(|| panic!("nothing is policed: {said}"))
    }

    /// Whose kernel it is, in words.
    pub fn says(&self) -> &'static str {
        match self.lent {
            None => "the host's kernel",
            Some(_) => "Debian's kernel in the cable, since the host's has no policing",
        }
    }

    fn tc(&self, command: &str) -> String {
        match &self.lent {
            None => ip(&format!("netns exec {} tc {command}", self.namespace)),
            Some(lent) => lent.run("tc", &command.split(' ').collect::<Vec<_>>(), b""),
        }
    }
}

impl Drop for Policer {
    fn drop(&mut self) {
        if let Some(lent) = self.lent.take() {
            drop(lent);
            let _ = try_ip(&format!("netns delete {}", self.namespace));
        }
    }
}

/// As libvirt calls `tc` (`virNetDevBandwidthSet`).
fn commands(port: &str, rate: u32) -> [String; 2] {
    let police = format!("police rate {rate}kbps burst 244kb mtu 64kb drop flowid :1");
    [
        format!("qdisc add dev {port} ingress"),
        format!("filter add dev {port} parent ffff: protocol all u32 match u32 0 0 {police}"),
    ]
}

/// Lends a machine's cable a guest that bridges, and gives the namespace of what is between. The port on the host's bridge
/// has its name again, but no binding.
fn in_cable(site: &Site, guest: &Guest) -> (Emulated, String) {
    let (host, port) = (site.namespace(guest.host), &guest.port);
    let namespace = format!("{}-cable", site.prefix);
    let _ = try_ip(&format!("netns delete {namespace}"));
    add(&namespace);
    ip(&format!("-n {host} link set {port} netns {namespace} name to-inner"));
    ip(&format!("-n {namespace} link add to-outer type veth peer name {port} netns {host}"));
    ip(&format!("-n {host} link set {port} master {BRIDGE} up"));
    let cards = CARDS.map(|(card, address)| {
        ip(&format!("-n {namespace} tuntap add {card} mode tap"));
        ip(&format!("-n {namespace} link add br-{card} type bridge forward_delay 0 mcast_snooping 0"));
        for device in [format!("to-{card}"), card.to_owned()] {
            ip(&format!("-n {namespace} link set {device} master br-{card} up"));
        }
        ip(&format!("-n {namespace} link set br-{card} up"));
        (card.to_owned(), MacAddress::of(address))
    });
    let lent = Emulated::boot(&site.turn.state, "appliance", &namespace, &cards);
    let run = |line: &str| lent.run("ip", &line.split(' ').collect::<Vec<_>>(), b"");
    lent.run("modprobe", &["-a", "bridge", "sch_ingress", "cls_u32", "act_police"], b"");
    run("link add cable type bridge forward_delay 0 mcast_snooping 0");
    for device in ["eth0", "eth1", "cable"] {
        run(&format!("link set {device} up"));
    }
    for device in ["eth0", "eth1"] {
        run(&format!("link set {device} master cable"));
    }
    (lent, namespace)
}
