//! The ways out of a farm and into it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cascina::network::router::{EgressAction, EgressRule, PublicPort, Transport};

use super::place::{
    ELASTIC, FRIEND, LOGIN, MANAGEMENT, PUBLIC, Place, STRANGER, WEB_SERVER, WORKER, number, port, told,
};
use super::talk::{call, greet, greeting, is_alive};

fn services(place: &Place) {
    greet(&place.of("login"), "login", 22);
    greet(&place.of("worker"), "worker", 22);
    greet(&place.of("worker"), "worker", 8080);
    greet(&place.of("friend"), "friend", 80);
    greet(&place.of("stranger"), "stranger", 80);
}

#[test]
#[ignore = "needs a box"]
fn machines_reach_the_outside_and_are_reached_by_what_is_forwarded_and_nothing_else() {
    let place = Place::build();
    let mut router = told();
    place.router.works_by(&router);
    services(&place);
    let [login, worker, friend, stranger] = ["login", "worker", "friend", "stranger"].map(|name| place.of(name));

    assert_eq!(greeting(&login, WEB_SERVER, 80).as_deref(), Some("friend 198.51.100.20"), "seen as the farm's address");
    assert_eq!(greeting(&friend, PUBLIC, 2222).as_deref(), Some("login 198.51.100.1"));
    assert_eq!(greeting(&stranger, PUBLIC, 2222), None, "only the friend may");
    assert_eq!(greeting(&stranger, PUBLIC, 80).as_deref(), Some("worker 198.51.100.2"));
    assert_eq!(
        greeting(&login, PUBLIC, 80).as_deref(),
        Some("worker 172.16.7.1"),
        "by the public address, from inside"
    );
    assert_eq!(greeting(&login, MANAGEMENT, 80), None, "no farm reaches where hosts are");
    assert!(place.router.counted("forward-tcp-80") > 4 && place.router.counted("denied") > 0);
    let status = place.router.status();
    assert!(status["counters"]["to-outside"][1].as_u64().unwrap() > 100, "{status}");

    // What a farm forbids itself is refused at once; what is admitted of the denied networks is reached.
    let rule = |to: &str, ports: &[u16], action| EgressRule {
        to: to.parse().unwrap(),
        ports: Some((Transport::Tcp, ports.iter().map(|number| port(*number)).collect::<BTreeSet<_>>())),
        action,
    };
    router.egress = vec![
        rule("198.19.77.80/32", &[80], EgressAction::Deny),
        rule("0.0.0.0/0", &[80, 443], EgressAction::Allow),
        EgressRule { to: "0.0.0.0/0".parse().unwrap(), ports: None, action: EgressAction::Deny },
    ];
    router.admitted = [format!("{MANAGEMENT}/32").parse().unwrap()].into();
    place.router.works_by(&router);
    assert_eq!(greeting(&login, WEB_SERVER, 80), None);
    assert!(greeting(&login, STRANGER, 80).is_some() && greeting(&login, MANAGEMENT, 80).is_some());
    assert_eq!(greeting(&login, FRIEND, 8080), None);

    // A forward that is taken back ends what came through it, and nothing else.
    let (mut ssh, _) = call(&friend, PUBLIC, 2222).unwrap();
    let (mut web, _) = call(&friend, PUBLIC, 80).unwrap();
    assert!(is_alive(&mut ssh) && is_alive(&mut web));
    router.forwards.remove(&PublicPort { transport: Transport::Tcp, port: port(2222) });
    place.router.works_by(&router);
    assert!(is_alive(&mut web), "the other goes on");
    assert!(!is_alive(&mut ssh), "it ended with its forward");
    assert_eq!(greeting(&friend, PUBLIC, 2222), None);
    let remembered = |port: &str| place.router.run("conntrack", &["-L", "-p", "tcp", "--dport", port], b"");
    assert_eq!(remembered("2222"), "", "a sender that goes on would keep it");
    assert!(remembered("80").contains("mark="));
    assert_eq!(greeting(&worker, LOGIN, 22).as_deref(), Some("login 172.16.7.2"), "within the farm nothing changed");
}

#[test]
#[ignore = "needs a box"]
fn an_elastic_address_moves_from_one_machine_to_another() {
    let place = Place::build();
    let mut router = told();
    router.elastic = [(ELASTIC, number(LOGIN))].into();
    place.router.works_by(&router);
    services(&place);
    let [login, friend, stranger] = ["login", "friend", "stranger"].map(|name| place.of(name));
    assert_eq!(greeting(&friend, ELASTIC, 22).as_deref(), Some("login 198.51.100.1"));
    assert_eq!(
        greeting(&login, WEB_SERVER, 80).as_deref(),
        Some("friend 198.51.100.21"),
        "it leaves by its own address"
    );
    let (mut stood, _) = call(&friend, ELASTIC, 22).unwrap();

    let moved = AtomicBool::new(false);
    let took = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut begin, mut failed) = (None, 0);
            for _ in 0..600 {
                if moved.load(Ordering::Relaxed) && begin.is_none() {
                    begin = Some(Instant::now());
                }
                match (begin, greeting(&stranger, ELASTIC, 22)) {
                    (Some(begin), Some(who)) if who.starts_with("worker") => return (begin.elapsed(), failed),
                    (_, None) => failed += 1,
                    _ => {}
                }
                thread::sleep(Duration::from_millis(100));
            }
            panic!("it never moves");
        });
        thread::sleep(Duration::from_millis(500));
        *router.elastic.values_mut().next().unwrap() = number(WORKER);
        moved.store(true, Ordering::Relaxed);
        place.router.hand(&router);
        watch.join().unwrap()
    });
    println!("an elastic address leads elsewhere after {:.2} s, {} calls failed", took.0.as_secs_f64(), took.1);
    assert!(!is_alive(&mut stood), "what stood to the machine before ended");
    assert_eq!(greeting(&login, WEB_SERVER, 80).as_deref(), Some("friend 198.51.100.20"));

    router.elastic.clear();
    place.router.works_by(&router);
    assert_eq!(greeting(&friend, ELASTIC, 22), None, "nobody has it any more");
    assert_eq!(greeting(&friend, PUBLIC, 80).as_deref(), Some("worker 198.51.100.1"));
}
