//! One machine floods: what its neighbours lose, with and without a limit on what it sends. The cable between the hosts
//! carries 40 Mbit/s, with a card's queue before it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::frames::{self, BROADCAST, EVERYWHERE};
use super::guests::Guest;
use super::policing::Policer;
use super::site::{Farms, Site, UPLINK};
use crate::namespaces::{in_namespace, ip, try_ip};

/// The flooder, a neighbour in its farm and one in the other, all on one host, and whom the neighbours talk to on the
/// other host.
const FLOODER: usize = 0;
const NEIGHBOURS: [(usize, usize); 2] = [(1, 2), (4, 5)];

/// The limit of the machine that floods, in thousands of bytes a second: a fifth of the cable.
const LIMIT: u32 = 1_000;

/// A neighbour asks this often, for so long.
const ASK_EVERY: Duration = Duration::from_millis(5);
const QUESTIONS: usize = 500;

/// Bytes of a question: as large as those of a flood, since a small one may still fit where a large one is dropped.
const SIZE: usize = 1400;

/// Of a hundred packets a neighbour may lose so many.
const BEARABLE: f64 = 5.0;

/// A flood: its name, and the frame that is sent as fast as the kernel takes it.
type Flood = (&'static str, fn(&Farms) -> Vec<u8>);

const FLOODS: [Flood; 4] = [
    ("large frames to the other host", |farms| to(farms, 2, SIZE)),
    ("large frames to a neighbour", |farms| to(farms, 1, SIZE)),
    ("large broadcasts", |farms| broadcast(farms, SIZE)),
    ("small broadcasts", |farms| broadcast(farms, 18)),
];

fn to(farms: &Farms, guest: usize, size: usize) -> Vec<u8> {
    let (from, to) = (&farms.guests[FLOODER], &farms.guests[guest]);
    frames::ip(from.mac, to.mac, &frames::udp_of(from.address, to.address, (9, 9), &vec![0; size]))
}

fn broadcast(farms: &Farms, size: usize) -> Vec<u8> {
    let from = &farms.guests[FLOODER];
    frames::ip(from.mac, BROADCAST, &frames::udp_of(from.address, EVERYWHERE, (9, 9), &vec![0; size]))
}

/// What neighbours lose, in percent, while the flooder sends this frame; and how many it sent in a second.
fn flooded(farms: &Farms, frame: &[u8]) -> ([f64; 2], usize) {
    let over = AtomicBool::new(false);
    let sent = AtomicUsize::new(0);
    let losses = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                farms.guests[FLOODER].ear.send(frame);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        let talks = NEIGHBOURS.map(|(asks, answers)| talk(&farms.guests[asks], &farms.guests[answers]));
        let losses = talks.map(|talk| talk.join().unwrap());
        over.store(true, Ordering::Relaxed);
        losses
    });
    let seconds = ASK_EVERY.as_secs_f64() * QUESTIONS as f64;
    (losses, (sent.into_inner() as f64 / seconds) as usize)
}

/// One kernel asks another over UDP; the share of questions without an answer, in percent.
fn talk(asks: &Guest, answers: &Guest) -> thread::JoinHandle<f64> {
    let over = Arc::<AtomicBool>::default();
    let ended = over.clone();
    let (tell, told) = mpsc::channel();
    let its = SocketAddr::from((answers.address, 0));
    in_namespace(&answers.namespace, move || {
        let socket = UdpSocket::bind(its).unwrap();
        tell.send(socket.local_addr().unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut word = [0; SIZE];
        while !ended.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut word) {
                let _ = socket.send_to(&word[..length], from);
            }
        }
    });
    let address = told.recv().unwrap();
    let own = SocketAddr::from((asks.address, 0));
    in_namespace(&asks.namespace, move || {
        thread::sleep(Duration::from_millis(300));
        let socket = UdpSocket::bind(own).unwrap();
        socket.connect(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut word = [0; SIZE];
        let mut answered = 0;
        let mut collect = || {
            while socket.recv(&mut word).is_ok() {
                answered += 1;
            }
        };
        for _ in 0..QUESTIONS {
            let _ = socket.send(&[7; SIZE]);
            thread::sleep(ASK_EVERY);
            collect();
        }
        thread::sleep(Duration::from_millis(500));
        collect();
        over.store(true, Ordering::Relaxed);
        100.0 * (QUESTIONS - answered) as f64 / QUESTIONS as f64
    })
}

/// The cable of the host in this namespace, as slow as a flood can fill it.
struct SlowCable(String);

impl SlowCable {
    fn of(host: String) -> Self {
        ip(&format!("netns exec {host} tc qdisc replace dev {UPLINK} root tbf rate 40mbit burst 32kb limit 64kb"));
        Self(host)
    }
}

impl Drop for SlowCable {
    fn drop(&mut self) {
        let _ = try_ip(&format!("netns exec {} tc qdisc del dev {UPLINK} root", self.0));
    }
}

#[test]
#[ignore = "needs a box"]
fn a_flooding_machine_costs_its_neighbours_little() {
    let site = Site::find();
    let farms = Farms::build(site);
    let host = farms.site.namespace(farms.guests[FLOODER].host);
    let _cable = SlowCable::of(host);
    farms.bind(&farms.guests);
    farms.settle();
    let floods = FLOODS.map(|(name, frame)| (name, frame(&farms)));
    let policer = Policer::of(&farms, &farms.guests[FLOODER]);
    farms.settle();
    let without = floods.each_ref().map(|(_, frame)| flooded(&farms, frame));
    policer.police(LIMIT);
    let with = floods.each_ref().map(|(_, frame)| {
        let before = policer.dropped();
        (flooded(&farms, frame), policer.dropped() - before)
    });

    println!("the limit, {LIMIT} kB/s, is kept by {}", policer.says());
    println!(
        "| flood | frames/s | lost by a neighbour in the farm, in another | with a limit: frames/s | policing dropped | in the farm, in another |"
    );
    println!("|---|---|---|---|---|---|");
    for (((name, _), (lost, sent)), ((limited, limited_sent), dropped)) in floods.iter().zip(without).zip(with) {
        let [mine, other] = lost;
        let [limited_mine, limited_other] = limited;
        println!(
            "| {name} | {sent} | {mine:.1} %, {other:.1} % | {limited_sent} | {dropped} | {limited_mine:.1} %, {limited_other:.1} % |"
        );
    }
    assert!(without[0].0.iter().all(|lost| *lost > BEARABLE), "the flood was none: {without:?}");
    // Small frames stay below a limit in bytes.
    for ((name, frame), (_, dropped)) in floods.iter().zip(&with) {
        assert!(frame.len() < SIZE || *dropped > 0, "{name} were not policed");
    }
    for ((lost, _), _) in with {
        assert!(lost.iter().all(|lost| *lost < BEARABLE), "neighbours lost {lost:?} %");
    }
}
