//! What is forbidden while it goes on.

use cascina::network::router::{EgressAction, EgressRule, PublicPort, Transport};

use super::place::{ELASTIC, FRIEND, MANAGEMENT, PUBLIC, Place, STRANGER, WEB_SERVER, WORKER, number, port, told};
use super::talk::{Datagrams, call, greet, greeting, is_alive};

const CHAT: u16 = 5000;

#[test]
#[ignore = "needs a box"]
fn what_becomes_denied_ends_also_where_it_stands() {
    let place = Place::build();
    let mut router = told();
    router.denied.clear();
    router.elastic = [(ELASTIC, number(WORKER))].into();
    place.router.works_by(&router);
    let [login, worker, friend, stranger] = ["login", "worker", "friend", "stranger"].map(|name| place.of(name));
    greet(&friend, "friend", 80);
    greet(&friend, "friend", 8080);
    greet(&stranger, "stranger", 80);
    greet(&login, "login", 22);
    greet(&worker, "worker", 8080);

    let stream = |from: &str, to, port| call(from, to, port).unwrap_or_else(|| panic!("{from} {to}:{port}")).0;
    let mut page = stream(&login, WEB_SERVER, 80);
    let mut other_port = stream(&login, WEB_SERVER, 8080);
    let mut office = stream(&login, MANAGEMENT, 80);
    let mut of_elastic = stream(&worker, MANAGEMENT, 80);
    let mut elsewhere = stream(&login, STRANGER, 80);
    let mut came_in = stream(&friend, PUBLIC, 2222);
    let mut came_to_elastic = stream(&friend, ELASTIC, 8080);
    let chat = Datagrams::between(&login, &friend, WEB_SERVER, CHAT);
    let office_chat = Datagrams::between(&login, &friend, MANAGEMENT, CHAT);
    let chat_elsewhere = Datagrams::between(&login, &stranger, STRANGER, CHAT);
    assert!(chat.arrive() && chat.come_back() && office_chat.arrive() && office_chat.come_back());

    // The site denies a network, and the friend's own, from where somebody came in.
    router.denied = ["10.0.0.0/8", "172.16.0.0/12"].map(|network| network.parse().unwrap()).into();
    router.denied.insert(format!("{FRIEND}/32").parse().unwrap());
    place.router.works_by(&router);
    assert!(!is_alive(&mut office) && !is_alive(&mut of_elastic), "connections end");
    assert!(!office_chat.come_back(), "what is sent on its own account doesn't come in");
    assert!(!office_chat.arrive());
    assert!(is_alive(&mut came_in) && is_alive(&mut came_to_elastic), "who came in by a way in gets answers");
    assert!(is_alive(&mut page) && is_alive(&mut other_port) && is_alive(&mut elsewhere));
    assert!(chat.arrive() && chat.come_back());

    // The farm denies itself one port of TCP, and then datagrams.
    let rule = |ports, action| EgressRule { to: format!("{WEB_SERVER}/32").parse().unwrap(), ports, action };
    let tcp = Some((Transport::Tcp, [port(80)].into()));
    router.egress = vec![rule(tcp, EgressAction::Deny)];
    place.router.works_by(&router);
    assert!(!is_alive(&mut page));
    assert!(is_alive(&mut other_port) && chat.arrive() && chat.come_back(), "other ports and datagrams go on");
    router.egress.push(rule(None, EgressAction::Deny));
    place.router.works_by(&router);
    assert!(!chat.come_back() && !chat.arrive() && !is_alive(&mut other_port));
    assert!(is_alive(&mut elsewhere) && chat_elsewhere.arrive() && chat_elsewhere.come_back(), "nothing else ended");

    // What is admitted again is open to what comes new.
    router.egress.clear();
    place.router.works_by(&router);
    assert!(greeting(&login, WEB_SERVER, 80).is_some() && chat.arrive());

    // Who may come no more through a forward.
    let entrance = PublicPort { transport: Transport::Tcp, port: port(2222) };
    let sources = |router: &mut cascina::network::router::Router, sources: &[&str]| {
        router.forwards.get_mut(&entrance).unwrap().sources =
            sources.iter().map(|source| source.parse().unwrap()).collect();
    };
    sources(&mut router, &["198.51.100.0/24", "198.51.100.1/32"]);
    place.router.works_by(&router);
    let mut of_stranger = stream(&stranger, PUBLIC, 2222);
    assert!(is_alive(&mut came_in), "who still may is not disturbed");
    sources(&mut router, &["198.51.100.2/32"]);
    place.router.works_by(&router);
    assert!(!is_alive(&mut came_in) && is_alive(&mut of_stranger) && is_alive(&mut came_to_elastic));
}
