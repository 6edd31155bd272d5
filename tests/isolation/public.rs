//! Routers that were taken over, in the public network: they speak under their own addresses only.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use cascina::network::MacAddress;
use cascina::network::filters::{Hold, RuleSet};
use etherparse::{EtherType, IpNumber};

use super::ears::{Ear, Heard, Mark};
use super::frames::{self, BROADCAST, EVERYWHERE, Mac};
use super::site::Site;
use crate::namespaces::{add, ip, try_ip};

/// The host, and its public bridge.
const HOST: &str = "service-1";
const BRIDGE: &str = "br-public";

/// The networks' gateway, a router with two addresses, a router with one.
const ADDRESSES: [&[[u8; 4]]; 3] = [&[[192, 0, 2, 1]], &[[192, 0, 2, 20], [192, 0, 2, 21]], &[[192, 0, 2, 30]]];
const GATEWAY: usize = 0;
const ATTACKER: usize = 1;
const NEIGHBOUR: usize = 2;

/// Runs with this number more are of the frames that follow a trick.
const LAST: u32 = 1_000;

/// A frame that passes is there within this time, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(5);

/// A namespace at a port of the public bridge.
struct End {
    addresses: BTreeSet<Ipv4Addr>,
    mac: Mac,
    namespace: String,
    port: String,
    ear: Ear,
}

impl End {
    fn new(site: &Site, number: usize) -> Self {
        let addresses: Vec<_> = ADDRESSES[number].iter().copied().map(Ipv4Addr::from).collect();
        let mac = MacAddress::of(addresses[0]);
        let (namespace, port) =
            (format!("{}-public-{number}", site.prefix), format!("p{:08x}", u32::from(addresses[0])));
        let host = site.namespace(HOST);
        site.forget(&host, &port, &namespace);
        add(&namespace);
        ip(&format!("-n {host} link add {port} type veth peer name eth0 netns {namespace}"));
        ip(&format!("-n {namespace} link set eth0 address {mac} up"));
        for address in &addresses {
            ip(&format!("-n {namespace} address add {address}/24 dev eth0"));
        }
        ip(&format!("-n {host} link set {port} master {BRIDGE} up"));
        let ear = Ear::open(&namespace, "eth0", Some(mac.octets()));
        Self { addresses: addresses.into_iter().collect(), mac: mac.octets(), namespace, port, ear }
    }

    fn first(&self) -> Ipv4Addr {
        *self.addresses.first().unwrap()
    }

    fn binding(&self) -> String {
        let Self { port, addresses, mac, .. } = self;
        let elastic = addresses.iter().copied().skip(1).collect();
        let hold = Hold::Public { own: self.first(), elastic };
        let parameters: String = hold
            .parameters()
            .into_iter()
            .map(|(name, value)| format!("<parameter name='{name}' value='{value}'/>"))
            .collect();
        format!(
            "<filterbinding><owner><name>{port}</name><uuid>00000000-0000-4000-8000-0000{:08x}</uuid></owner>\
             <portdev name='{port}'/><mac address='{}'/><filterref filter='{}'>{parameters}</filterref></filterbinding>",
            u32::from(self.first()),
            frames::text(*mac),
            RuleSet::Public.filter_name()
        )
    }
}

/// The public network of one host.
struct Public {
    site: Site,
    ends: [End; 3],
    bridge: Ear,
    files: tempfile::TempDir,
}

impl Public {
    fn build(site: Site) -> Self {
        site.must("host", &["start", HOST]);
        site.must("operator", &["stop"]);
        let ends = [GATEWAY, ATTACKER, NEIGHBOUR].map(|number| End::new(&site, number));
        let bridge = Ear::open(&site.namespace(HOST), BRIDGE, None);
        Self { site, ends, bridge, files: tempfile::tempdir().unwrap() }
    }

    /// Holds both routers' ports; the gateway is somebody else's.
    fn bind(&self) {
        let file = |name: &str, content: &str| {
            let path = self.files.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let define = format!("nwfilter-define {}", file("filter", &RuleSet::Public.filter_xml().unwrap()));
        let routers = [ATTACKER, NEIGHBOUR].map(|number| &self.ends[number]);
        let bind = routers.map(|end| format!("nwfilter-binding-create {}", file(&end.port, &end.binding())));
        // One after the other: of several, only how the last one ends is told.
        [&[define], bind.as_slice()].concat().into_iter().for_each(|command| drop(self.site.virsh(HOST, &[command])));
    }

    /// Where a frame of the attacker was heard, and whether the bridge believes that somebody else is where it came from.
    fn heard(&self, frame: &[u8], run: u32) -> (usize, bool) {
        let me = &self.ends[ATTACKER];
        let mark = Mark { sender: u16::try_from(ATTACKER).unwrap(), run };
        me.ear.send(&frames::marked(frame, &mark.bytes()));
        // Behind it goes a frame that everybody hears: who has heard that has heard all that was sent before.
        let last = Mark { run: run + LAST, ..mark };
        let own = frames::arp_answer(me.mac, BROADCAST, (me.mac, me.first()), (BROADCAST, me.first()));
        me.ear.send(&frames::marked(&own, &last.bytes()));
        let ears = [&self.ends[GATEWAY].ear, &self.ends[NEIGHBOUR].ear, &self.bridge];
        let end = Instant::now() + PATIENCE;
        while ears.iter().any(|ear| ear.heard(Heard::Marked(last)) == 0) {
            assert!(Instant::now() < end, "a router's own announcement isn't heard after trick {run}");
            thread::sleep(Duration::from_millis(5));
        }
        let table = ip(&format!("netns exec {} bridge fdb show br {BRIDGE}", self.site.namespace(HOST)));
        let port = &self.ends[ATTACKER].port;
        let others = [GATEWAY, NEIGHBOUR].map(|number| frames::text(self.ends[number].mac));
        let stolen = table
            .lines()
            .any(|line| line.contains(port.as_str()) && others.iter().any(|mac| line.starts_with(mac.as_str())));
        (ears.iter().filter(|ear| ear.heard(Heard::Marked(mark)) > 0).count(), stolen)
    }

    /// Puts the table right again.
    fn settle(&self) {
        for end in &self.ends {
            end.ear.send(&frames::announcement(end.mac, end.mac));
        }
        thread::sleep(Duration::from_millis(60));
    }

    fn ping(&self, from: usize, source: Ipv4Addr, to: Ipv4Addr) -> bool {
        let ping = format!("netns exec {} busybox ping -c 1 -W 2 -I {source} {to}", self.ends[from].namespace);
        try_ip(&ping).status.success()
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        let bindings =
            [ATTACKER, NEIGHBOUR].map(|number| format!("nwfilter-binding-delete {}", self.ends[number].port));
        let filter = format!("nwfilter-undefine {}", RuleSet::Public.filter_name());
        self.site.script("virsh", &[HOST, &[bindings.as_slice(), &[filter]].concat().join("; ")]);
        for end in &self.ends {
            self.site.forget(&self.site.namespace(HOST), &end.port, &end.namespace);
        }
        self.site.script("operator", &["start"]);
    }
}

/// What a router that was taken over tries.
fn tricks(me: &End, gateway: &End, neighbour: &End) -> Vec<(&'static str, Vec<u8>)> {
    let udp =
        |mac: Mac, source: Ipv4Addr, to: &End| frames::ip(mac, to.mac, &frames::udp(source, to.first(), (4000, 4000)));
    let free = frames::neighbour(me.first(), 99);
    let claim = |address: Ipv4Addr| frames::arp_answer(me.mac, BROADCAST, (me.mac, address), (BROADCAST, address));
    let many = frames::packet(me.first(), [224, 0, 0, 18].into(), IpNumber(112), &[0x21, 1, 255, 1, 0, 1, 0, 0]);
    let ordinary = udp(me.mac, me.first(), gateway);
    vec![
        ("another's MAC address", udp(neighbour.mac, me.first(), gateway)),
        ("the gateway's MAC address", udp(gateway.mac, gateway.first(), neighbour)),
        ("another router's address as source", udp(me.mac, neighbour.first(), gateway)),
        ("a free address as source", udp(me.mac, free, gateway)),
        ("ARP claim of another router's address", claim(neighbour.first())),
        ("ARP claim of the gateway", claim(gateway.first())),
        ("ARP claim of a free address", claim(free)),
        ("DHCP answers", frames::ip(me.mac, BROADCAST, &frames::udp(me.first(), EVERYWHERE, (67, 68)))),
        ("VRRP, by the gateway's MAC", frames::ip(me.mac, gateway.mac, &many)),
        ("VLAN tag", frames::tagged(&ordinary, 0x8100, 5)),
        ("IPv6", frames::ethernet(me.mac, gateway.mac, EtherType::IPV6.0, &[0x60; 60])),
        ("spanning tree", frames::llc(me.mac, [1, 0x80, 0xc2, 0, 0, 0], &[0x42; 46])),
    ]
}

#[test]
#[ignore = "needs a box"]
fn a_router_that_was_taken_over_is_nobody_else_in_the_public_network() {
    let site = Site::find();
    let public = Public::build(site);
    let [gateway, me, neighbour] = &public.ends;
    let tricks = tricks(me, gateway, neighbour);
    let all = |first: u32| -> Vec<(usize, bool)> {
        let tried = (first..).zip(&tricks).map(|(run, (_, frame))| {
            public.settle();
            public.heard(frame, run)
        });
        tried.collect()
    };
    let without = all(1);
    public.bind();
    let with = all(101);
    println!("| trick of a router | without filter | with filter |\n|---|---|---|");
    let words =
        |(heard, stolen): (usize, bool)| format!("heard by {heard}{}", if stolen { ", MAC stolen" } else { "" });
    for (((name, _), without), with) in tricks.iter().zip(&without).zip(&with) {
        println!("| {name} | {} | {} |", words(*without), words(*with));
    }
    public.settle();
    for address in &me.addresses {
        assert!(public.ping(ATTACKER, *address, gateway.first()), "{address} is its own");
        assert!(public.ping(ATTACKER, *address, neighbour.first()));
        assert!(public.ping(GATEWAY, gateway.first(), *address), "and is called");
    }
    assert!(with.iter().all(|done| *done == (0, false)), "{with:?}");
    // A bridge keeps frames of the spanning tree to itself.
    assert!(without.iter().take(11).all(|(heard, _)| *heard > 0), "{without:?}");
}
