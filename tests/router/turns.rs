//! Two routers of one farm, one of which works at a time.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cascina::network::router::Router;
use cascina::network::{FarmNetwork, MacAddress, RouterSeat};
use etherparse::{IpNumber, PacketBuilder};
use pnet_datalink::{Channel, Config};
use serde_json::json;

use super::appliance::Appliance;
use super::cuts::cut_and_heal;
use super::dns::{addresses, serve};
use super::place::{
    ELASTIC, GATEWAY, LOGIN, OTHER_PUBLIC, PUBLIC, Place, REMOTE, WEB_SERVER, number, told, told_other,
};
use super::serves::dhcp;
use super::talk::{greet, greeting, in_namespace};
use super::vpn::{keys, vpn};
use crate::namespaces::ip;

/// Pings go so often.
const EVERY: Duration = Duration::from_millis(100);

/// A farm may be without a router for so long.
const FAILOVER: Duration = Duration::from_secs(3);

/// Emulated, and with its processors shared, a router may take so long to find that it is alone.
const TURN: Duration = Duration::from_secs(30);

/// The number of VRRP among IP's protocols.
const VRRP: u8 = 112;

pub fn leads(router: &Appliance) -> bool {
    router.status()["leads"] == true
}

fn hand(router: &Appliance, told: &Router) {
    let answer = router.hand(told).0;
    assert_eq!((&answer["hash"], &answer["error"]), (&json!(told.documents().hash().to_string()), &json!(null)));
}

#[track_caller]
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < TURN, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
    begin.elapsed()
}

/// Pings that go on for so many of them.
pub fn pings(place: &Place, to: &str, count: u32) -> Child {
    let every = EVERY.as_secs_f64().to_string();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &place.of("login"), "busybox", "ping", "-i", &every, "-W", "1"]);
    command.args(["-c", &count.to_string(), to]).stdout(Stdio::piped()).spawn().unwrap()
}

/// The longest time without an answer to any of them.
pub fn silence(pings: Child, count: u32) -> Duration {
    let output = String::from_utf8(pings.wait_with_output().unwrap().stdout).unwrap();
    let numbers = output.lines().filter_map(|line| line.split("seq=").nth(1)?.split_whitespace().next()?.parse().ok());
    let answered: BTreeSet<u32> = numbers.chain([count]).collect();
    let gaps = answered.iter().zip(answered.iter().skip(1)).map(|(one, next)| next - one);
    EVERY * gaps.max().expect("some are answered")
}

#[test]
#[ignore = "needs a box"]
fn of_two_routers_one_works_and_the_other_takes_its_turn() {
    let place = Place::build_for_two();
    let (first, second) = (&place.router, place.boot_one_of_two(RouterSeat::Second));
    let other = place.other_router();
    serve(&place.of("friend"));
    greet(&place.of("friend"), "friend", 80);
    greet(&place.of("login"), "login", 22);
    greet(&place.of("remote"), "remote", 22);
    let ((private, public), (their_private, their_public)) = (keys(first), keys(&other));
    let mut router = Router { paired: true, ..told() };
    router.vpn = Some(vpn(&private, &their_public, OTHER_PUBLIC, &["172.16.9.0/24"]));
    let mut theirs = told_other();
    theirs.vpn = Some(vpn(&their_private, &public, PUBLIC, &["172.16.7.0/24"]));
    hand(&other, &theirs);

    hand(first, &router);
    let took = eventually("the first leads alone", || leads(first));
    println!("a router without another takes its turn {:.1} s after it was told", took.as_secs_f64());
    hand(&second, &router);
    let login = place.of("login");
    eventually("a machine gets out", || greeting(&login, WEB_SERVER, 80).is_some());
    assert_eq!(greeting(&login, WEB_SERVER, 80).as_deref(), Some(&*format!("friend {PUBLIC}")));
    eventually("names are answered", || addresses(&login, GATEWAY, "login.farm.example") == Some(vec![LOGIN]));
    eventually("the tunnel is there", || greeting(&login, REMOTE, 22).is_some());
    assert_eq!((leads(first), leads(&second)), (true, false), "the first keeps its turn");
    assert_eq!(second.status()["serves"], false, "the other serves no names");
    assert_eq!(first.status()["hash"], second.status()["hash"]);
    let quiet = second.run("ip", &["-4", "-brief", "address"], b"");
    assert!(!quiet.contains("172.16.7.1/") && !quiet.contains("198.51.100"), "{quiet}");

    // The first is gone, without a word.
    let count = 200;
    let [out, through] = [WEB_SERVER, REMOTE].map(|to| pings(&place, &to.to_string(), count));
    std::thread::sleep(Duration::from_secs(2));
    first.kill();
    eventually("the second leads", || leads(&second));
    let (out, through) = (silence(out, count), silence(through, count));
    println!(
        "the router was killed: {:.1} s without an answer from outside, {:.1} s from the other farm",
        out.as_secs_f64(),
        through.as_secs_f64()
    );
    assert!(out <= FAILOVER, "{out:?}");
    eventually("names are answered again", || addresses(&login, GATEWAY, "login.farm.example") == Some(vec![LOGIN]));
    let worker = place.of("worker");
    ip(&format!("-n {worker} address flush dev eth0"));
    let lease = dhcp(&place, "worker").expect("a lease");
    assert!(lease.contains("ip=172.16.7.2\n") && lease.contains("router=172.16.7.1\n"), "{lease}");
    assert_eq!(greeting(&place.of("friend"), PUBLIC, 2222).as_deref(), Some("login 198.51.100.1"));

    // What changes is changed where it works.
    router.elastic = [(ELASTIC, number(LOGIN))].into();
    hand(&second, &router);
    eventually("the elastic address answers", || {
        greeting(&place.of("stranger"), ELASTIC, 22).as_deref() == Some("login 198.51.100.2")
    });

    // A machine of the farm claims to be a router with more right: who isn't believed, unless it could send as one. The
    // filter of its card sees to that, and there are none here.
    let [victim, first_address] = [RouterSeat::Second, RouterSeat::First].map(router_address);
    for sender in [LOGIN, first_address] {
        let stays = (0..20).all(|_| {
            claim(&place, sender, victim);
            std::thread::sleep(Duration::from_millis(50));
            leads(&second)
        });
        assert_eq!(stays, sender == LOGIN, "{sender}");
    }
    eventually("the second leads again", || leads(&second));

    // The first comes back, and interrupts nothing.
    let count = 250;
    let watch = pings(&place, &WEB_SERVER.to_string(), count);
    let first = place.boot_one_of_two(RouterSeat::First);
    hand(&first, &router);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((leads(&first), leads(&second)), (false, true));
    let silent = silence(watch, count);
    println!("the router came back: {:.1} s without an answer at most", silent.as_secs_f64());
    assert!(silent <= Duration::from_secs(1), "{silent:?}");

    cut_and_heal(&place, &first, &second);
}

fn router_address(seat: RouterSeat) -> Ipv4Addr {
    FarmNetwork::of(GATEWAY).router_address(seat)
}

/// Sends from a machine what a router says whose turn it is whatever others say (VRRP version 3, RFC 9568, section 5.1).
fn claim(place: &Place, from: Ipv4Addr, to: Ipv4Addr) {
    let mut body = vec![0x31, 1, 255, 1, 0, 50, 0, 0];
    body.extend(GATEWAY.octets());
    let length = u16::try_from(body.len()).unwrap();
    let pseudo_header = [&from.octets()[..], &to.octets(), &[0, VRRP], &length.to_be_bytes()].concat();
    let words = [&pseudo_header[..], &body].concat();
    let sum: u32 = words.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    body[6..8].copy_from_slice(&(!folded).to_be_bytes());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(MacAddress::of(LOGIN).octets(), MacAddress::of(to).octets())
        .ipv4(from.octets(), to.octets(), 255)
        .write(&mut frame, IpNumber(VRRP), &body)
        .unwrap();
    in_namespace(&place.of("login"), move || {
        let cards = pnet_datalink::interfaces();
        let card = cards.iter().find(|card| card.name == "eth0").unwrap();
        let Ok(Channel::Ethernet(mut sender, _)) = pnet_datalink::channel(card, Config::default()) else {
            panic!("no raw socket");
        };
        sender.send_to(&frame, None).unwrap().unwrap();
    });
}
