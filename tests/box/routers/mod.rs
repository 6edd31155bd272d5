//! A farm's router as its users meet it: the way out, the ways in, and what becomes of both when the router dies.

mod joined;
mod outside;
mod pair;
mod ssh;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use cascina::api::{Phase, VRouter, VirtualFarm, VirtualMachine};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::support::libvirt::{address_of, host_of};
use crate::support::soak::{measured, since};
use crate::support::{BOOT, Finally, SOON, Tenant, TheBox, condition, is_ready, reason, the_box, the_box_alone};
use outside::{NAME, Outside};

const ROUTER: &str = "farm's router";

/// What busybox's DHCP client was told, on one line.
const DHCP: &str = "printf '#!/bin/sh\\n[ \"$1\" = bound ] && echo lease $ip $hostname $domain $router $dns $mtu\\n' > /tmp/lease && \
                    chmod +x /tmp/lease && udhcpc -i $(ls /sys/class/net | grep -vx lo | head -1) -O mtu -n -q -f -s /tmp/lease";

/// A tenant with a farm that has a router.
struct Routed<'a> {
    tenant: Tenant<'a>,
    outside: Outside,
}

impl Routed<'_> {
    fn routers(&self) -> Api<VRouter> {
        Api::namespaced(self.tenant.the_box.cluster.client.clone(), &self.tenant.namespace)
    }

    /// Waits until the router works by the farm's spec of now.
    async fn router(&self) -> VRouter {
        let farm = self.tenant.farms().get("farm").await.unwrap();
        let follows = |router: &VRouter| {
            let current = router.status.as_ref().and_then(|status| status.observed_generation);
            let same = farm.spec.router.as_ref() == Some(&router.spec.template)
                && farm.spec.elastic_ip == router.spec.elastic_ip;
            is_ready(router) && same && current == router.metadata.generation
        };
        self.tenant.the_box.until(&self.routers(), "farm", "works by its spec", BOOT, follows).await
    }

    async fn changes(&self, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.tenant.farms().patch("farm", &PatchParams::default(), &patch).await.unwrap();
    }

    /// What a shell in a guest says.
    fn says(&self, machine: &VirtualMachine, command: &str) -> String {
        String::from_utf8(self.tenant.inside(machine, &["sh", "-c", command]).1).unwrap()
    }

    /// Waits until a page says this; asked every 100 ms.
    fn until_page(&self, address: Ipv4Addr, port: u16, says: &str) {
        assert!(self.outside.says(address, port, says, BOOT), "{address}:{port} never says {says}");
    }

    /// Waits until there is no page any more.
    async fn until_no_page(&self, address: Ipv4Addr, port: u16) {
        let gone = async || self.outside.page(address, port).map_or(Ok(()), |page| Err(format!("it says {page}")));
        self.tenant.the_box.eventually(&format!("nobody at {address}:{port}"), BOOT, gone).await;
    }
}

fn pings(the_box: &TheBox, from: &VirtualMachine, to: &str) -> bool {
    let (host, uid) = (host_of(from), from.uid().unwrap());
    the_box.try_script("agent", &[&host, &uid, "ping", "-c", "2", "-W", "1", to]).status.success()
}

async fn routed(the_box: &TheBox) -> Routed<'_> {
    let outside = Outside::serves(the_box);
    let tenant = the_box.tenant("routed").await;
    let router = json!({"forwards": [
        {"port": 2222, "targetRef": {"name": "one"}, "targetPort": 7},
        {"port": 2223, "targetRef": {"name": "one"}, "targetPort": 7, "sourceRanges": ["203.0.113.0/24"]},
    ]});
    let network = json!({"domain": "routed.test", "dns": [outside.address]});
    tenant.given_farm("farm", json!({"router": router, "network": network})).await;
    Routed { tenant, outside }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_farm_has_a_way_out_and_ways_in_and_its_router_may_die() {
    let the_box = the_box_alone().await;
    let farm = routed(&the_box).await;
    for name in ["one", "two"] {
        farm.tenant.asks_for(name, json!({})).await;
    }
    let (one, two) = (farm.tenant.ready("one").await, farm.tenant.ready("two").await);
    for machine in [&one, &two] {
        farm.says(machine, "hostname > /etc/hostname; httpd -p 7 -h /etc");
    }
    let router = farm.router().await;
    let own: Ipv4Addr = router.status.as_ref().and_then(|status| status.public_ip.clone()).unwrap().parse().unwrap();

    the_way_out(&farm, &one, &two, own);
    the_ways_in(&farm, own).await;
    what_can_not_be_had(&farm, own).await;
    it_tells_what_it_counted(&farm).await;
    names_follow_machines(&farm, &one).await;
    a_captured_router_reaches_nobody(&farm, &one).await;
    a_router_that_dies_comes_back(&farm, &one, &two, own).await;
    a_router_that_falls_silent_is_made_anew(&farm, own).await;
    it_goes_with_its_farm(&farm).await;
}

/// A guest that knows nothing is told everything by DHCP; its farm's names and those of the world are answered; what it sends
/// out comes from the public address; hosts and other farms are out of reach.
fn the_way_out(farm: &Routed<'_>, one: &VirtualMachine, two: &VirtualMachine, own: Ipv4Addr) {
    let (outside, gateway) = (farm.outside.address, gateway_of(one));
    let lease = farm.says(one, DHCP);
    let told = format!("lease {} one routed.test {gateway} {gateway} 1500", address_of(one));
    assert!(lease.contains(&told), "{lease}");
    for (name, address) in [("two", address_of(two)), ("two.routed.test", address_of(two)), (NAME, outside.to_string())]
    {
        let answer = farm.says(one, &format!("nslookup {name}"));
        assert!(answer.contains(&format!("Address: {address}")), "{name}: {answer}");
    }
    let back = farm.says(one, &format!("nslookup {}", address_of(two)));
    assert!(back.contains("name = two.routed.test"), "{back}");
    let seen_as = farm.says(one, &format!("wget -q -T 5 -O - http://{NAME}:8080/"));
    assert_eq!(seen_as, own.to_string(), "outside sees the router's address");
    let managed =
        farm.says(one, &format!("ping -c 2 -W 1 198.18.{}.1 >/dev/null && echo reached", outside.octets()[2]));
    assert_eq!(managed, "", "the hosts' own network is nobody's way");
}

fn gateway_of(machine: &VirtualMachine) -> Ipv4Addr {
    let [a, b, c, _] = address_of(machine).parse::<Ipv4Addr>().unwrap().octets();
    Ipv4Addr::new(a, b, c, 1)
}

/// A forward leads to its machine, for those who may come; an elastic address to the one that it belongs to now.
async fn the_ways_in(farm: &Routed<'_>, own: Ipv4Addr) {
    let outside = &farm.outside;
    assert_eq!(outside.page(own, 2222).as_deref(), Some("one"));
    assert_eq!(outside.page(own, 2223), None, "only others may come this way");
    assert_eq!(outside.page(own, 7), None, "nothing else is open");

    farm.changes(json!({"elasticIP": {"target": "one"}})).await;
    let begin = Instant::now();
    let router = farm.router().await;
    let elastic: Ipv4Addr = router.status.unwrap().elastic_ip.unwrap().parse().unwrap();
    assert_ne!(elastic, own);
    farm.until_page(elastic, 7, "one");
    measured(ROUTER, "new elastic address answers after", since(begin));
    farm.changes(json!({"elasticIP": {"target": "two"}})).await;
    let begin = Instant::now();
    farm.until_page(elastic, 7, "two");
    measured(ROUTER, "elastic address moved to another machine after", since(begin));
    assert_eq!(outside.page(own, 2222).as_deref(), Some("one"), "forwards stay as they are");
    farm.changes(json!({"elasticIP": null})).await;
    let begin = Instant::now();
    farm.until_no_page(elastic, 7).await;
    measured(ROUTER, "elastic address gone after", since(begin));
    let given_back = |router: &VRouter| router.status.as_ref().is_some_and(|status| status.elastic_ip.is_none());
    farm.tenant.the_box.until(&farm.routers(), "farm", "gave its elastic address back", SOON, given_back).await;
}

/// What doesn't lead anywhere waits and says why; the rest works on. An address is one router's.
async fn what_can_not_be_had(farm: &Routed<'_>, own: Ipv4Addr) {
    let the_box = farm.tenant.the_box;
    let router = json!({"forwards": [
        {"port": 2222, "targetRef": {"name": "one"}, "targetPort": 7},
        {"port": 81, "targetRef": {"name": "nobody"}},
        {"port": 82, "address": "192.0.2.1"},
    ]});
    farm.changes(json!({"router": router})).await;
    let router = farm.router().await;
    let (why, message) = reason(&router, "TargetsFound");
    assert_eq!(why, "TargetNotFound");
    assert!(
        message.contains("forward tcp/81: no machine nobody") && message.contains("tcp/82: 192.0.2.1 is no"),
        "{message}"
    );
    assert_eq!(farm.outside.page(own, 2222).as_deref(), Some("one"));

    farm.tenant.given_farm("second", json!({"router": {}, "publicIP": own})).await;
    let refused = |router: &VRouter| reason(router, "Ready").0 == "AddressTaken";
    let second = the_box.until(&farm.routers(), "second", "is refused the address", SOON, refused).await;
    assert!(reason(&second, "Ready").1.contains(&format!("{own} belongs to router {}/farm", farm.tenant.namespace)));
    let told = |farm: &VirtualFarm| condition(farm, "RouterReady").is_some_and(|it| it.reason == "AddressTaken");
    the_box.until(&farm.tenant.farms(), "second", "says so", SOON, told).await;
    farm.tenant.farms().delete("second", &Default::default()).await.unwrap();
}

/// Prometheus is told of every way in and out, by farm.
async fn it_tells_what_it_counted(farm: &Routed<'_>) {
    let of = [("namespace", farm.tenant.namespace.as_str()), ("farm", "farm")];
    let counted = |name: &str, counter: &str| {
        let labels = [of.as_slice(), &[("counter", counter)]].concat();
        farm.tenant.the_box.metrics().sum(&format!("cascina_router_{name}_total"), &labels)
    };
    farm.tenant
        .the_box
        .eventually("what the router counted", Duration::from_secs(60), async || {
            let missing = ["dns", "dhcp", "to-outside", "from-outside", "forward-tcp-2222"];
            let missing: Vec<_> = missing.into_iter().filter(|name| counted("packets", name) < 1.0).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("nothing of {missing:?}")) }
        })
        .await;
    assert!(counted("bytes", "from-outside") > 100.0);
    assert!(farm.tenant.the_box.metrics().sum("cascina_router_connections_limit", &of) > 1_000.0);
}

/// The name of a new machine is known about as soon as the machine has its address.
async fn names_follow_machines(farm: &Routed<'_>, one: &VirtualMachine) {
    farm.tenant.asks_for("three", json!({"runStrategy": "Halted"})).await;
    let has_address = |machine: &VirtualMachine| machine.status.as_ref().is_some_and(|status| status.address.is_some());
    let three = farm.tenant.until("three", "has an address", SOON, has_address).await;
    let begin = Instant::now();
    farm.tenant
        .the_box
        .eventually("the name of a new machine", SOON, async || {
            let answer = farm.says(one, "nslookup three.routed.test");
            if answer.contains(&format!("Address: {}", address_of(&three))) { Ok(()) } else { Err(answer) }
        })
        .await;
    measured(ROUTER, "name of a new machine answered after (with a look of 0.5 s)", since(begin));
}

/// Root in the router itself: other farms, the hosts and the operator's cluster stay out of reach, by whatever address.
async fn a_captured_router_reaches_nobody(farm: &Routed<'_>, one: &VirtualMachine) {
    let the_box = farm.tenant.the_box;
    farm.tenant.given_farm("neighbour", json!({})).await;
    farm.tenant.asks_for("other", json!({"farm": "neighbour", "class": "Service"})).await;
    let other = farm.tenant.ready("other").await;
    let captured = farm.tenant.machines().get("farm-router-0").await.unwrap();
    assert!(pings(the_box, &captured, &address_of(one)), "its own farm it does reach");
    assert!(pings(the_box, &captured, &farm.outside.address.to_string()), "and the outside");
    let [a, b, c, _] = address_of(&other).parse::<Ipv4Addr>().unwrap().octets();
    let management = format!("198.18.{}.0/24", farm.outside.address.octets()[2]);
    // Without its own firewall, and with every way and address that root can think of.
    let run = |command: &str| farm.tenant.inside(&captured, &["sh", "-c", command]);
    let tricks = format!(
        "nft flush ruleset; ip address add {a}.{b}.{c}.1/24 dev farm; ip address add {a}.{b}.{c}.250/24 dev farm; \
         ip route add {management} dev farm; ip route add 10.0.0.0/8 dev public"
    );
    assert!(run(&tricks).0);
    for target in [address_of(&other), management.replace(".0/24", ".1"), management.replace(".0/24", ".11")] {
        assert!(!pings(the_box, &captured, &target), "a captured router reaches {target}");
    }
    let cluster = format!("timeout 2 nc {} 16443 </dev/null", management.replace(".0/24", ".1"));
    assert!(!run(&cluster).0, "a captured router reaches the cluster");
    farm.tenant.deletes("other").await;
    farm.tenant.farms().delete("neighbour", &Default::default()).await.unwrap();
}

/// While it is away its farm talks on; the ways in are back soon after.
async fn a_router_that_dies_comes_back(farm: &Routed<'_>, one: &VirtualMachine, two: &VirtualMachine, own: Ipv4Addr) {
    let the_box = farm.tenant.the_box;
    let machine = farm.tenant.machines().get("farm-router-0").await.unwrap();
    let ran_well = Duration::from_secs(61);
    let age = |machine: &VirtualMachine| {
        let started = machine.status.as_ref().and_then(|status| status.phase_transitions.last().map(|last| last.time));
        started
            .and_then(|started| Duration::try_from(jiff::Timestamp::now().duration_since(started)).ok())
            .unwrap_or_default()
    };
    // One that dies young is started again only after a pause, as any machine is.
    tokio::time::sleep(ran_well.saturating_sub(age(&machine))).await;
    the_box.kill_guest(&machine);
    let begin = Instant::now();
    assert!(pings(the_box, one, &address_of(two)), "machines of the farm reach each other");
    farm.until_page(own, 2222, "one");
    let back = begin.elapsed();
    measured(ROUTER, "forward back after its QEMU was killed", since(begin));
    let boot = boot_of(&farm.tenant.ready("farm-router-0").await);
    measured(
        ROUTER,
        "of which from the making of its guest to the answer of its agent",
        format!("{:.1} s", boot.as_secs_f64()),
    );
    assert!(back <= boot + Duration::from_secs(5), "{back:?}, of which {boot:?} are the guest's");
    farm.router().await;
}

/// From the call that makes the guest to the answer of its agent, at the last start.
fn boot_of(machine: &VirtualMachine) -> Duration {
    let transitions = machine.status.as_ref().map(|status| status.phase_transitions.as_slice()).unwrap_or_default();
    let last = |phase| transitions.iter().rev().find(|transition| transition.phase == phase).map(|found| found.time);
    let (made, answered) = last(Phase::Provisioning).zip(last(Phase::Running)).unwrap();
    answered.duration_since(made).try_into().unwrap()
}

/// Its guest runs and hears nobody: nobody knows what it does, so another takes its place.
async fn a_router_that_falls_silent_is_made_anew(farm: &Routed<'_>, own: Ipv4Addr) {
    let the_box = farm.tenant.the_box;
    let machine = farm.tenant.machines().get("farm-router-0").await.unwrap();
    let _ = farm.tenant.inside(&machine, &["sh", "-c", "(sleep 1; killall -STOP qemu-ga) >/dev/null 2>&1 &"]);
    let begin = Instant::now();
    let silent = |router: &VRouter| reason(router, "Ready").0 == "RouterSilent";
    the_box.until(&farm.routers(), "farm", "is said to be silent", BOOT, silent).await;
    measured(ROUTER, "silence told after", since(begin));
    assert_eq!(farm.outside.page(own, 2222).as_deref(), Some("one"), "what it was told last goes on");
    let another = |found: &VirtualMachine| found.uid() != machine.uid() && is_ready(found);
    farm.tenant.until("farm-router-0", "is another", BOOT, another).await;
    farm.until_page(own, 2222, "one");
    measured(ROUTER, "made anew and forwards again, after its agent fell silent", since(begin));
    farm.router().await;
}

async fn it_goes_with_its_farm(farm: &Routed<'_>) {
    let the_box = farm.tenant.the_box;
    let uid = farm.tenant.machines().get("farm-router-0").await.unwrap().uid().unwrap();
    farm.tenant.farms().delete("farm", &Default::default()).await.unwrap();
    for name in ["one", "two", "three"] {
        farm.tenant.deletes(name).await;
    }
    the_box.until_gone(&farm.routers(), "farm", SOON).await;
    the_box.until_gone(&farm.tenant.farms(), "farm", SOON).await;
    the_box.nothing_left_of(&[uid]).await;
    the_box.all_is_accounted_for().await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn the_example_works_as_it_stands() {
    let the_box = the_box().await;
    let file = crate::cluster::file("examples/farm-with-router.yaml");
    the_box.cluster.must("kubectl", &["apply", "-f", file.to_str().unwrap()]);
    let _removed =
        Finally(|| drop(the_box.cluster.run("kubectl", &["delete", "namespace", "farm-c", "--timeout=60s"])));
    let client = || the_box.cluster.client.clone();
    let farms: Api<VirtualFarm> = Api::namespaced(client(), "farm-c");
    let farm = the_box.until(&farms, "farm-c", "Ready", BOOT, is_ready).await;
    let router = Api::<VRouter>::namespaced(client(), "farm-c").get("farm-c").await.unwrap();
    let outside = Outside::serves(&the_box);
    for (name, address) in [
        ("farm-c-web-0", farm.status.unwrap().public_ip.unwrap()),
        ("farm-c-web-1", router.status.unwrap().elastic_ip.unwrap()),
    ] {
        let machine = Api::<VirtualMachine>::namespaced(client(), "farm-c").get(name).await.unwrap();
        let serve = ["sh", "-c", "hostname > /etc/hostname; httpd -p 80 -h /etc"];
        the_box.script("agent", &[&[host_of(&machine).as_str(), &machine.uid().unwrap()], serve.as_slice()].concat());
        assert_eq!(outside.page(address.parse().unwrap(), 80).as_deref(), Some(name));
    }
}
