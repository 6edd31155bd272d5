//! Hostile frames every two milliseconds while rules are replaced, libvirtd ends, and somebody empties the tables.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cascina::network::MacAddress;
use cascina::network::filters::{self, RuleSet};

use super::ears::{Heard, Mark};
use super::frames;
use super::guests::Guest;
use super::site::{Farms, Site};
use super::traffic::flowing;
use crate::namespaces::ip;

/// What the attacker of each farm sends in turn.
const TRICKS: [&str; 4] = ["across farms", "forged MAC", "forged IP", "ARP claim"];

/// The attackers: one in each farm, on different hosts.
const ATTACKERS: [usize; 2] = [0, 6];

/// The host to which things happen.
const SHAKEN: &str = "worker-1";

/// The machines' filter as if an earlier version of Cascina had made it.
const EARLIER: &str = "cascina-machine-0000000000e1";

/// What came of a change.
struct Leaks {
    sent: usize,
    /// Frames that arrived somewhere, for each of [`TRICKS`].
    arrived: [usize; 4],
    lost: usize,
    due: usize,
    seconds: f64,
}

impl Leaks {
    fn line(&self, change: &str) -> String {
        let [across, mac, ip, arp] = self.arrived;
        let Self { sent, lost, due, seconds, .. } = self;
        format!("| {change} | {seconds:.1} s | {across} | {mac} | {ip} | {arp} | {sent} | {lost} of {due} |")
    }
}

/// Attacks while something changes, and half a second before and after.
fn shaken(farms: &Farms, first_run: u32, change: impl FnOnce()) -> Leaks {
    let over = AtomicBool::new(false);
    let sent = AtomicUsize::new(0);
    let (seconds, tally) = flowing(farms, || {
        thread::scope(|scope| {
            for attacker in ATTACKERS {
                let frames = hostile(farms, attacker, first_run);
                let ear = &farms.guests[attacker].ear;
                let (over, sent) = (&over, &sent);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        for frame in &frames {
                            ear.send(frame);
                            sent.fetch_add(1, Ordering::Relaxed);
                            thread::sleep(Duration::from_millis(2));
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(500));
            let started = Instant::now();
            change();
            let seconds = started.elapsed().as_secs_f64();
            thread::sleep(Duration::from_millis(500));
            over.store(true, Ordering::Relaxed);
            seconds
        })
    });
    let mut arrived = [0; 4];
    for (run, arrived) in (first_run..).zip(&mut arrived) {
        let heard = |guest: &Guest, sender: usize| {
            let mark = Mark { sender: u16::try_from(sender).unwrap(), run };
            if guest.number == sender { 0 } else { guest.ear.heard(Heard::Marked(mark)) }
        };
        *arrived = farms.guests.iter().flat_map(|guest| ATTACKERS.map(|sender| heard(guest, sender))).sum();
    }
    Leaks { sent: sent.into_inner(), arrived, lost: tally.lost, due: tally.due, seconds }
}

/// A frame of each of [`TRICKS`]. The first is the attacker's own in all but its destination, so that only the farms'
/// border is left to stop it.
fn hostile(farms: &Farms, attacker: usize, first_run: u32) -> Vec<Vec<u8>> {
    let me = &farms.guests[attacker];
    let others = || farms.guests.iter().filter(|guest| guest.rules == RuleSet::Machine && guest.number != attacker);
    let (Some(peer), Some(stranger)) =
        (others().find(|guest| guest.farm == me.farm), others().find(|guest| guest.farm != me.farm))
    else {
        unreachable!("both farms have machines")
    };
    let udp = |mac, from, to: &Guest| frames::ip(mac, to.mac, &frames::udp(from, to.address, (4000, 4000)));
    let unused = MacAddress::of(frames::neighbour(me.address, 0x77)).octets();
    let claim = (me.mac, frames::neighbour(me.address, 1));
    let tricks = [
        udp(me.mac, me.address, stranger),
        udp(unused, me.address, peer),
        udp(me.mac, frames::neighbour(me.address, 99), peer),
        frames::arp_answer(me.mac, peer.mac, claim, peer.speaker()),
    ];
    let marks = (first_run..).map(|run| Mark { sender: u16::try_from(attacker).unwrap(), run });
    tricks.iter().zip(marks).map(|(frame, mark)| frames::marked(frame, &mark.bytes())).collect()
}

impl Farms {
    /// Writes the machines' rules in one of two ways that mean the same, so that libvirt puts them in place anew: what
    /// `renew_filters` and `refresh_filters` of the operator do.
    fn refresh(&self, marked: bool) {
        self.site.virsh(SHAKEN, &[self.definition(marked)]);
    }

    fn definition(&self, marked: bool) -> String {
        let xml = earlier_filter();
        let xml = if marked { filters::mark(&xml) } else { xml };
        format!("nwfilter-define {}", self.file(EARLIER, &xml))
    }

    fn libvirtd(&self, signal: &str) {
        let namespace = self.site.namespace(SHAKEN);
        let pids = ip(&format!("netns pids {namespace}"));
        let is_libvirtd = |pid: &&str| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "libvirtd")
        };
        for pid in pids.split_whitespace().filter(is_libvirtd) {
            Command::new("kill").args([signal, pid]).status().unwrap();
        }
    }

    fn until_libvirtd_answers(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.site.script("virsh", &[SHAKEN, "nwfilter-binding-list"]).status.success() {
            assert!(Instant::now() < end, "libvirtd of {SHAKEN} doesn't come back");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn ebtables(&self, line: &str) {
        ip(&format!("netns exec {} ebtables {line}", self.site.namespace(SHAKEN)));
    }
}

/// The rules of this version under the earlier one's name.
fn earlier_filter() -> String {
    RuleSet::Machine.filter_xml_as(EARLIER, uuid::Uuid::from_u128(0xe1)).unwrap()
}

/// The rules that the earlier version had: one less, which stops none of [`TRICKS`].
fn earlier_rules() -> String {
    let xml = earlier_filter();
    let is_dhcp_answer = |rule: &&str| rule.contains("priority=\"-855\"") || rule.contains("priority='-855'");
    let Some(rule) = xml.split_inclusive("</rule>").find(is_dhcp_answer) else { unreachable!("no rule {xml}") };
    xml.replace(rule, "")
}

#[test]
#[ignore = "needs a box"]
fn nothing_leaks_while_rules_and_daemons_change() {
    let site = Site::find();
    let farms = Farms::build(site);
    farms.define(&[(EARLIER.to_owned(), earlier_rules())]);
    farms.bind_to(&farms.guests, |rules| match rules {
        RuleSet::Machine => EARLIER.to_owned(),
        RuleSet::Router | RuleSet::Public => rules.filter_name(),
    });
    farms.settle();
    let mut run = 1000;
    let mut shake = |name: &str, change: &dyn Fn(&Farms)| {
        run += 10;
        let leaks = shaken(&farms, run, || change(&farms));
        println!("{}", leaks.line(name));
        leaks
    };
    println!("| change | took | {} | sent | good frames lost |", TRICKS.join(" | "));
    println!("|---|---|---|---|---|---|---|---|");

    let unshaken = [
        shake("an earlier version's rules renewed", &|farms| farms.refresh(false)),
        shake("rules written anew, twice", &|farms| {
            farms.refresh(true);
            farms.refresh(false);
        }),
        shake("libvirtd ended and started", &|farms| {
            farms.libvirtd("-TERM");
            thread::sleep(Duration::from_millis(300));
            farms.until_libvirtd_answers();
        }),
        shake("libvirtd killed while rules are written", &|farms| {
            thread::scope(|scope| {
                scope.spawn(|| farms.site.script("virsh", &[SHAKEN, &farms.definition(true)]));
                thread::sleep(Duration::from_millis(700));
                farms.libvirtd("-KILL");
            });
            farms.until_libvirtd_answers();
        }),
    ];
    let emptied = shake("tables emptied by hand, repaired after a second", &|farms| {
        farms.ebtables("-t nat -F PREROUTING");
        thread::sleep(Duration::from_secs(1));
        farms.refresh(true);
        farms.refresh(false);
    });
    let after = shake("nothing, after the repair", &|_| {});

    for leaks in unshaken.iter().chain([&after]) {
        assert!(leaks.sent > 100, "hardly attacked");
        assert_eq!(leaks.arrived, [0; 4], "frames leaked of {TRICKS:?}");
        assert_eq!(leaks.lost, 0, "good frames lost");
    }
    assert_eq!(emptied.arrived[0], 0, "frames crossed farms");
    assert!(emptied.arrived[1..].iter().all(|leaked| *leaked > 0), "the attacks were none: {:?}", emptied.arrived);
}
