//! DHCP and DNS.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::dns::{addresses, name_of, serve};
use super::place::{ELASTIC, GATEWAY, LOGIN, MANAGEMENT, NAME_SERVER, PUBLIC, Place, WEB_SERVER, WORKER, told};
use super::talk::{greet, greeting};
use crate::emulated::MEMORY;
use crate::namespaces::ip;

#[test]
#[ignore = "needs a box"]
fn a_router_is_small_and_soon_there_and_lets_nothing_pass_before_it_is_told() {
    let place = Place::build();
    let router = &place.router;
    println!("kernel and initramfs: {} KiB; agent after {:.1} s", router.size >> 10, router.answered.as_secs_f64());
    assert!(router.size <= 40_000_000, "{} bytes", router.size);
    greet(&place.of("friend"), "friend", 80);
    assert_eq!(router.status()["hash"], json!(null));
    assert_eq!(greeting(&place.of("login"), WEB_SERVER, 80), None, "it was told nothing");
    let refused = router.run("cascina-router", &["apply"], b"");
    assert!(refused.contains("bundle"), "{refused}");
    assert_eq!(router.run("cat", &["/proc/sys/net/ipv4/ip_forward"], b"").trim(), "0");

    let took = router.works_by(&told());
    let used = router.run("free", &[], b"");
    let used: u32 = used.lines().nth(1).unwrap().split_whitespace().nth(2).unwrap().parse().unwrap();
    println!("works after {:.1} s more, in {} of {MEMORY} MiB", (took.push + took.apply).as_secs_f64(), used >> 10);
    assert!(greeting(&place.of("login"), WEB_SERVER, 80).is_some());
}

#[test]
#[ignore = "needs a box"]
fn machines_get_their_addresses_and_names_and_what_is_asked_of_others_is_asked_outside() {
    let place = Place::build();
    let mut router = told();
    place.router.works_by(&router);
    serve(&place.of("friend"));

    // A machine without an address of its own asks for one; another card gets none.
    let worker = place.of("worker");
    ip(&format!("-n {worker} address flush dev eth0"));
    let lease = dhcp(&place, "worker").expect("a lease");
    for word in
        ["ip=172.16.7.2", "router=172.16.7.1", "dns=172.16.7.1", "domain=farm.example", "mtu=1500", "hostname=worker"]
    {
        assert!(lease.lines().any(|line| line == word), "{word}: {lease}");
    }
    ip(&format!("-n {worker} link set eth0 address 02:00:ac:10:07:99"));
    assert_eq!(dhcp(&place, "worker"), None, "nobody knows this card");
    ip(&format!("-n {worker} link set eth0 address 02:00:ac:10:07:02"));
    ip(&format!("-n {worker} address add {WORKER}/24 dev eth0"));

    let login = place.of("login");
    let asked = |name: &str| addresses(&login, GATEWAY, name);
    assert_eq!(asked("worker.farm.example"), Some(vec![WORKER]));
    assert_eq!(asked("nodes.farm.example"), Some(vec![WORKER, LOGIN]), "a group is all its machines");
    assert_eq!(asked("nobody.farm.example"), Some(vec![]));
    assert_eq!(asked(&format!("{CLAIMED}.farm.example")), Some(vec![]), "nobody gives himself a name");
    assert_eq!(asked("www.example.org"), Some(vec![WEB_SERVER]));
    assert_eq!(asked("rebind.example.org"), Some(vec![]), "a name outside is no address inside");
    assert_eq!(name_of(&login, GATEWAY, WORKER).as_deref(), Some("worker.farm.example"));
    for outside in ["friend", "stranger"] {
        for address in [PUBLIC, ELASTIC] {
            assert_eq!(addresses(&place.of(outside), address, "www.example.org"), None, "no open resolver");
        }
    }
    assert_eq!(addresses(&place.of("friend"), NAME_SERVER, "a.example"), Some(vec![WEB_SERVER]), "this one answers");

    // Another machine: its name is there within two seconds, without anything being started anew.
    let pid = || place.router.run("pidof", &["dnsmasq"], b"");
    let before = pid();
    let new = Ipv4Addr::new(172, 16, 7, 77);
    let machine = router.machines[&super::place::number(LOGIN)].clone();
    router.machines.insert(
        super::place::number(new),
        cascina::network::router::RouterMachine { name: "new".parse().ok(), ..machine },
    );
    let begin = Instant::now();
    place.router.hand(&router);
    while asked("new.farm.example") != Some(vec![new]) {
        assert!(begin.elapsed() < Duration::from_secs(10), "the name doesn't come");
    }
    println!("a new machine's name is answered {:.2} s after it was handed over", begin.elapsed().as_secs_f64());
    assert_eq!(pid(), before);

    // A name leads to an address inside if the farm gets there by number: here the site admits one network of those that it
    // denies.
    assert_eq!(asked("10-9-8-7.example.org"), Some(vec![]));
    router.admitted = ["10.9.8.0/24".parse().unwrap()].into();
    place.router.works_by(&router);
    assert_eq!(asked("10-9-8-7.example.org"), Some(vec![MANAGEMENT]));
    for inside in ["10-9-7-7", "10-9-9-7", "172-16-7-10", "192-168-1-1", "127-0-0-1", "169-254-169-254"] {
        assert_eq!(asked(&format!("{inside}.example.org")), Some(vec![]), "{inside}");
    }
}

/// What a DHCP client calls itself, whatever its farm calls it.
const CLAIMED: &str = "somebody";

/// What a DHCP client is given, one `name=value` a line.
pub fn dhcp(place: &Place, name: &str) -> Option<String> {
    let script = "#!/bin/sh\n[ \"$1\" = bound ] && env\nexit 0\n";
    let file = tempfile::Builder::new().prefix("lease").tempdir().unwrap();
    let path = file.path().join("told");
    std::fs::write(&path, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).unwrap();
    let path = path.to_str().unwrap();
    let claimed = format!("hostname:{CLAIMED}");
    let client = ["env", "-i", "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "4", "-T", "1"];
    let ask = [&client[..], &["-O", "mtu", "-x", &claimed, "-s", path]].concat();
    let output = place.run(name, &ask);
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}
