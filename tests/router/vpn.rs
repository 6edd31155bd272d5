//! Two farms joined by a tunnel between their routers.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cascina::network::router::{PublicKey, Vpn, VpnPeer};
use ipnet::Ipv4Net;

use super::appliance::Appliance;
use super::place::{LOGIN, OTHER_PUBLIC, PUBLIC, Place, REMOTE, WORKER, port, told, told_other};
use super::talk::{greet, greeting};

const PORT: u16 = 51820;

/// A pair of keys, made where wg is: private and public.
pub fn keys(router: &Appliance) -> (String, String) {
    let private = router.run("wg", &["genkey"], b"").trim().to_owned();
    let public = router.run("wg", &["pubkey"], private.as_bytes()).trim().to_owned();
    (private, public)
}

pub fn vpn(private: &str, peer: &str, at: std::net::Ipv4Addr, networks: &[&str]) -> Vpn {
    let networks = networks.iter().map(|network| network.parse::<Ipv4Net>().unwrap()).collect();
    let peer: (PublicKey, _) =
        (peer.parse().unwrap(), VpnPeer { endpoint: Some(SocketAddrV4::new(at, PORT)), networks });
    Vpn { key: private.parse().unwrap(), port: port(PORT), peers: BTreeMap::from([peer]) }
}

#[test]
#[ignore = "needs a box"]
fn farms_are_joined_by_their_routers_and_by_right_keys_only() {
    let place = Place::build();
    let (here, there) = (&place.router, &place.other_router());
    let (mut one, mut other) = (told(), told_other());
    let ((private, public), (their_private, their_public)) = (keys(here), keys(there));
    let (_, wrong) = keys(there);
    let [login, remote, stranger] = ["login", "remote", "stranger"].map(|name| place.of(name));
    greet(&login, "login", 22);
    greet(&remote, "remote", 22);

    one.vpn = Some(vpn(&private, &wrong, OTHER_PUBLIC, &["172.16.9.0/24"]));
    other.vpn = Some(vpn(&their_private, &public, PUBLIC, &["172.16.7.0/24"]));
    here.works_by(&one);
    there.works_by(&other);
    assert_eq!(greeting(&login, REMOTE, 22), None, "the key is somebody else's");
    assert_eq!(here.status()["peers"][&wrong]["handshake"], 0);

    one.vpn = Some(vpn(&private, &their_public, OTHER_PUBLIC, &["172.16.9.0/24"]));
    here.works_by(&one);
    assert_eq!(greeting(&login, REMOTE, 22).as_deref(), Some(&*format!("remote {LOGIN}")), "as itself");
    assert_eq!(greeting(&remote, LOGIN, 22).as_deref(), Some(&*format!("login {REMOTE}")));
    let peer = here.status()["peers"][&their_public].clone();
    assert!(peer["handshake"].as_i64().unwrap() > 0 && peer["received"].as_i64().unwrap() > 100, "{peer}");
    assert_eq!(greeting(&stranger, REMOTE, 22), None, "who is no peer has no way");

    // New keys on one side, known on the other at the same time: how long nobody gets through.
    let (new_private, new_public) = keys(there);
    one.vpn = Some(vpn(&private, &new_public, OTHER_PUBLIC, &["172.16.9.0/24"]));
    other.vpn = Some(vpn(&new_private, &public, PUBLIC, &["172.16.7.0/24"]));
    let over = AtomicBool::new(false);
    let longest = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                let ping = ["busybox", "ping", "-c", "1", "-W", "1", &REMOTE.to_string()];
                if place.run("login", &ping).status.success() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                thread::sleep(Duration::from_millis(50));
            }
            longest.max(last.elapsed())
        });
        thread::sleep(Duration::from_secs(1));
        // First who has the new key, then who has to know it: the other way round, the first call would be lost, and the next comes
        // five seconds later.
        there.hand(&other);
        here.hand(&one);
        thread::sleep(Duration::from_secs(3));
        over.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    println!("a key was exchanged; the longest time without an answer: {:.2} s", longest.as_secs_f64());
    assert!(here.status()["peers"][&new_public]["handshake"].as_i64().unwrap() > 0);

    // What isn't behind the peer isn't reached through it, and without the peer nothing is.
    other.vpn = Some(vpn(&new_private, &public, PUBLIC, &[&format!("{WORKER}/32")]));
    there.works_by(&other);
    assert_eq!(greeting(&login, REMOTE, 22), None, "only the worker may speak");
    one.vpn = None;
    here.works_by(&one);
    assert_eq!(here.status()["peers"], serde_json::Value::Null);
    assert!(!here.run("ip", &["link"], b"").contains("vpn"));
}
