//! Good traffic: it flows while the attacks run, and every frame of it is counted where it must arrive.

use std::fmt::Write;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::ears::{Ear, Heard, Mark};
use super::frames::{self, BROADCAST, EVERYWHERE, UNKNOWN};
use super::guests::Guest;
use super::site::Farms;
use crate::namespaces::in_namespace;

/// How often each flow sends a frame.
const EVERY: Duration = Duration::from_millis(25);

/// Flows have numbers of their own, far from those of attacks.
const FIRST_FLOW: u32 = 1 << 30;

/// One kind of good frames.
struct Flow<'a> {
    name: &'static str,
    from: &'a Guest,
    frame: Vec<u8>,
    arrivals: Vec<(&'a Ear, Heard)>,
}

/// What became of the good traffic.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Arrivals that were due.
    pub due: usize,
    /// Those that didn't come, and of what kind they were.
    pub lost: usize,
    pub report: String,
}

/// Lets good traffic flow in both farms while `during` runs.
pub fn flowing<T>(farms: &Farms, during: impl FnOnce() -> T) -> (T, Tally) {
    let flows: Vec<_> = (0..2).flat_map(|farm| flows(farms, farm)).collect();
    let before: Vec<Vec<usize>> = flows.iter().map(Flow::heard).collect();
    let sent = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let (tell, told) = mpsc::channel();
    let talks: Vec<_> = (0..2).map(|farm| Talk::start(farms, farm)).collect();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                flows.iter().for_each(|flow| flow.from.ear.send(&flow.frame));
                sent.fetch_add(1, Ordering::Relaxed);
                thread::sleep(EVERY);
            }
            tell.send(()).unwrap();
        });
        let result = during();
        over.store(true, Ordering::Relaxed);
        told.recv().unwrap();
        result
    });
    thread::sleep(Duration::from_millis(300));
    let sent = sent.into_inner();
    let mut tally = Tally::default();
    for (flow, before) in flows.iter().zip(before) {
        let heard = flow.heard().into_iter().zip(before).map(|(now, before)| now - before);
        for (number, heard) in heard.enumerate() {
            tally.count(flow.name, number, sent, heard);
        }
    }
    for talk in talks {
        let (said, answered) = talk.end();
        tally.count("TCP", 0, said, answered);
    }
    (result, tally)
}

impl Tally {
    fn count(&mut self, name: &str, number: usize, due: usize, came: usize) {
        self.due += due;
        self.lost += due.saturating_sub(came);
        if came != due {
            let _ = write!(self.report, "{name} at {number}: {came} of {due}; ");
        }
    }
}

impl Flow<'_> {
    fn heard(&self) -> Vec<usize> {
        self.arrivals.iter().map(|(ear, what)| ear.heard(*what)).collect()
    }
}

/// The flows of a farm: its guests ask, answer, and announce themselves.
fn flows(farms: &Farms, farm: usize) -> Vec<Flow<'_>> {
    let guests: Vec<_> = farms.guests.iter().filter(|guest| guest.farm == farm).collect();
    let [a, b, c, router] = guests[..] else { unreachable!("four guests in each farm") };
    let outside = [198, 51, 100, 7].into();
    let everybody_but = |sender: &Guest| -> Vec<&Ear> {
        guests.iter().filter(|guest| guest.number != sender.number).map(|guest| &guest.ear).collect()
    };
    let question = frames::arp_question(a.speaker(), c.address);
    let probe = frames::arp_question((b.mac, UNKNOWN), b.address);
    let discover = frames::ip(c.mac, BROADCAST, &frames::udp(UNKNOWN, EVERYWHERE, (68, 67)));
    let offer = frames::ip(router.mac, c.mac, &frames::udp(router.address, c.address, (67, 68)));
    let inwards = frames::ip(router.mac, a.mac, &frames::udp(outside, a.address, (443, 4001)));
    let outwards = frames::ip(a.mac, router.mac, &frames::udp(a.address, outside, (4001, 443)));
    let moved = frames::announcement(b.mac, b.mac);
    let drafts = [
        ("ARP question", a, Content::Frame(question), everybody_but(a)),
        ("address probe", b, Content::Frame(probe), everybody_but(b)),
        ("DHCP question", c, Content::Frame(discover), everybody_but(c)),
        ("DHCP answer", router, Content::Frame(offer), vec![&c.ear]),
        ("ping to one", a, Content::Ping(b), vec![&b.ear, &a.ear]),
        ("ping to another", a, Content::Ping(c), vec![&c.ear, &a.ear]),
        ("ping to the router", b, Content::Ping(router), vec![&router.ear, &b.ear]),
        ("from outside", router, Content::Frame(inwards), vec![&a.ear]),
        ("to outside", a, Content::Frame(outwards), vec![&router.ear]),
        ("migration announced", b, Content::Frame(moved), farms.bridges.iter().collect()),
    ];
    let first = FIRST_FLOW + 100 * u32::try_from(farm).unwrap();
    let numbered = (first..).zip(drafts);
    let mut flows: Vec<_> =
        numbered.map(|(run, (name, from, content, to))| flow(name, from, run, &content, &to)).collect();
    flows[0].arrivals.push((&a.ear, Heard::ArpAnswer(c.mac)));
    flows
}

/// What a flow sends.
enum Content<'a> {
    /// This frame, with the mark behind it.
    Frame(Vec<u8>),
    /// A question to a kernel, which answers with the mark.
    Ping(&'a Guest),
}

fn flow<'a>(name: &'static str, from: &'a Guest, run: u32, content: &Content<'_>, to: &[&'a Ear]) -> Flow<'a> {
    let mark = Mark { sender: u16::try_from(from.number).unwrap(), run };
    let frame = match content {
        Content::Frame(frame) => frames::marked(frame, &mark.bytes()),
        Content::Ping(to) => frames::ip(from.mac, to.mac, &frames::echo(from.address, to.address, &mark.bytes())),
    };
    Flow { name, from, frame, arrivals: to.iter().map(|ear| (*ear, Heard::Marked(mark))).collect() }
}

/// Two kernels that talk over TCP: one says a word every now and then, the other repeats it.
struct Talk {
    over: Arc<AtomicBool>,
    said: thread::JoinHandle<(usize, usize)>,
}

impl Talk {
    fn start(farms: &Farms, farm: usize) -> Self {
        let guests: Vec<_> = farms.guests.iter().filter(|guest| guest.farm == farm).collect();
        let (listener, caller) = (guests[2], guests[0]);
        let address = SocketAddr::from((listener.address, 4002));
        let (ready, listens) = mpsc::channel();
        in_namespace(&listener.namespace, move || {
            let listener = TcpListener::bind(address).unwrap();
            ready.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut word = [0; 16];
            while stream.read_exact(&mut word).is_ok() && stream.write_all(&word).is_ok() {}
        });
        listens.recv().unwrap();
        let over = Arc::<AtomicBool>::default();
        let end = over.clone();
        let said = in_namespace(&caller.namespace, move || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            let (mut said, mut answered) = (0, 0);
            while !end.load(Ordering::Relaxed) {
                said += 1;
                let mut word = [7; 16];
                let heard = stream.write_all(&word).and_then(|()| stream.read_exact(&mut word));
                answered += usize::from(heard.is_ok());
                thread::sleep(EVERY);
            }
            (said, answered)
        });
        Self { over, said }
    }

    fn end(self) -> (usize, usize) {
        self.over.store(true, Ordering::Relaxed);
        self.said.join().unwrap()
    }
}
