//! The largest farm there is.

use cascina::network::FarmNetwork;
use cascina::network::router::{Forward, PublicPort, Router, RouterMachine, Transport};
use std::time::Instant;

use super::dns::addresses;
use super::place::{GATEWAY, LOGIN, Place, WORKER, number, port, told};

fn largest() -> Router {
    let mut router = told();
    for address in FarmNetwork::of(GATEWAY).machine_addresses() {
        let name = format!("farm-workers-{}", address.octets()[3]).parse().ok();
        let machine = RouterMachine { name, group: "workers".parse().ok() };
        router.machines.entry(number(address)).or_insert(machine);
    }
    router.forwards = (1..=1000)
        .map(|entrance| {
            let source = format!("203.0.{}.0/24", entrance % 256).parse().unwrap();
            let forward = Forward { target: number(LOGIN), port: port(22), sources: [source].into() };
            (PublicPort { transport: Transport::Tcp, port: port(entrance) }, forward)
        })
        .collect();
    router
}

#[test]
#[ignore = "needs a box"]
fn a_router_of_253_machines_and_1000_forwards_works_and_takes_one_change_alone() {
    let place = Place::build();
    println!("| what | files, KiB | rendered in, ms | push, s | apply, s |\n|---|---|---|---|---|");
    rendered_and_put_in_force(&place, "2 machines, 3 forwards", &told());
    let mut router = largest();
    rendered_and_put_in_force(&place, "253 machines, 1,000 forwards", &router);
    let login = place.of("login");
    assert_eq!(addresses(&login, GATEWAY, "farm-workers-200.farm.example").map(|found| found.len()), Some(1));

    router.machines.get_mut(&number(WORKER)).unwrap().name = "renamed".parse().ok();
    let known = place.router.status()["documents"].as_object().unwrap().clone();
    let known = known.into_iter().map(|(name, hash)| (name, hash.as_str().unwrap().to_owned())).collect();
    let sent: serde_json::Value = serde_json::from_str(&router.documents().bundle(&known)).unwrap();
    let sent = sent["documents"].as_object().unwrap();
    let sent: Vec<_> =
        sent.iter().filter(|(_, it)| it.get("content").is_some()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(sent, ["dnsmasq.hosts"]);
    let one = place.router.works_by(&router);
    assert_eq!(addresses(&login, GATEWAY, "renamed.farm.example"), Some(vec![WORKER]));
    println!("| of these one name changed | | | {one} |");
}

/// Prints how large the files are and how long each step takes.
fn rendered_and_put_in_force(place: &Place, what: &str, router: &Router) {
    let begin = Instant::now();
    let bytes = router.documents().bundle(&Default::default()).len();
    let rendered = begin.elapsed().as_secs_f64() * 1000.0;
    let took = place.router.works_by(router);
    println!("| {what} | {} | {rendered:.1} | {took} |", bytes >> 10);
}
