//! Against the router, from both sides.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use super::dns::{addresses, serve};
use super::place::{GATEWAY, LOGIN, PUBLIC, Place, WEB_SERVER, WORKER, told};
use super::talk::{greet, greeting, in_namespace};

/// Ports that answer, of many asked.
fn scan(namespace: &str, to: Ipv4Addr) -> Vec<u16> {
    in_namespace(namespace, move || {
        let threads: Vec<_> = (1..=2400_u16)
            .collect::<Vec<_>>()
            .chunks(25)
            .map(<[u16]>::to_vec)
            .map(|ports| {
                std::thread::spawn(move || {
                    let open = |port: &u16| {
                        let to = SocketAddr::from((to, *port));
                        TcpStream::connect_timeout(&to, Duration::from_millis(150)).is_ok()
                    };
                    ports.into_iter().filter(open).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// More refused connections than these show that a machine's limit holds.
const REFUSED: u64 = 1_000;
/// A flood that arrives nowhere ends after so many rounds.
const FLOODS: usize = 8;

/// A datagram from each of these sockets to each of 8,000 ports, at the pace of an emulated card; how many were sent.
fn flood(sockets: &[UdpSocket]) -> usize {
    let mut sent = 0;
    for port in 1..=8_000_u16 {
        sent += sockets.iter().filter(|socket| socket.send_to(b"x", (WEB_SERVER, port)).is_ok()).count();
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

#[test]
#[ignore = "needs a box"]
fn a_scan_finds_what_was_forwarded_and_a_flood_leaves_others_their_way() {
    let place = Place::build();
    place.router.works_by(&told());
    serve(&place.of("friend"));
    greet(&place.of("login"), "login", 22);
    greet(&place.of("worker"), "worker", 8080);
    greet(&place.of("friend"), "friend", 80);
    let [login, worker, friend, stranger] = ["login", "worker", "friend", "stranger"].map(|name| place.of(name));

    assert_eq!(scan(&stranger, PUBLIC), [80], "from outside, by a stranger");
    assert_eq!(scan(&friend, PUBLIC), [80, 2222], "from outside, by who may come");
    assert_eq!(scan(&worker, GATEWAY), [53], "from inside: DNS only");
    let around = |farm: &str| {
        place.run("stranger", &["ip", "route", "replace", farm, "via", "198.51.100.20"]);
        greeting(&stranger, LOGIN, 22)
    };
    assert_eq!(around("172.16.7.0/24"), None, "the farm's own addresses lead nowhere from outside");

    // Forged senders, from either side.
    let before = place.router.counted("spoofed");
    place.run("worker", &["ip", "address", "add", "172.16.9.9/32", "dev", "lo"]);
    place.run("worker", &["busybox", "ping", "-c", "3", "-W", "1", "-I", "172.16.9.9", "198.19.77.80"]);
    place.run("stranger", &["ip", "address", "add", "172.16.7.200/32", "dev", "lo"]);
    place.run("stranger", &["busybox", "ping", "-c", "3", "-W", "1", "-I", "172.16.7.200", "198.51.100.20"]);
    assert_eq!(place.router.counted("spoofed") - before, 6);

    // One machine opens as many connections as it can; its neighbour and the names go on. How many of a flood an emulated card
    // takes is up to the processors, so it goes on until enough of them arrived, one by one or again.
    let sockets =
        in_namespace(&worker, || -> Vec<_> { (0..8).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect() });
    let (mut sent, mut status) = (0, Value::Null);
    for _ in 0..FLOODS {
        sent += flood(&sockets);
        status = place.router.status();
        if place.router.counted("limited") > REFUSED {
            break;
        }
    }
    println!(
        "{sent} connections of one machine: {} of {} remembered, {} refused",
        status["connections"], status["mostConnections"], status["counters"]["limited"][0]
    );
    assert!(place.router.counted("limited") > REFUSED, "{status}");
    assert!(status["connections"].as_u64().unwrap() < 17_000);
    assert_eq!(greeting(&login, WEB_SERVER, 80).as_deref(), Some("friend 198.51.100.20"), "its neighbour goes on");
    assert_eq!(greeting(&friend, PUBLIC, 2222).as_deref(), Some("login 198.51.100.1"));
    assert_eq!(addresses(&login, GATEWAY, "worker.farm.example"), Some(vec![WORKER]));
}
