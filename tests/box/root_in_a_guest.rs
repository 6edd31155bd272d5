//! The worst of what root in a guest can do to its neighbours, tried by a machine of one farm on real cards: what
//! `tests/isolation` does for every attack on cables of its own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use cascina::api::{Phase, VirtualMachine};
use cascina::network::MacAddress;
use kube::ResourceExt;
use serde_json::json;

use crate::ears::{Ear, Heard, Mark};
use crate::farms::{apply_examples, nodes};
use crate::frames::{self, BROADCAST, Mac, Speaker};
use crate::support::libvirt::{address_of, host_of};
use crate::support::soak::measured;
use crate::support::{BOOT, Finally, TheBox, is_ready, the_box_alone};

/// How often each frame is sent.
const TIMES: usize = 50;

/// Bridges keep frames to this address to themselves, and learn from them where the sender is.
const LINK_LOCAL: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
const LLDP: u16 = 0x88cc;

/// A machine of the box, its card seen from its host.
struct Guest {
    host: String,
    uid: String,
    mac: Mac,
    address: Ipv4Addr,
    /// Its port of the bridge.
    port: String,
    ear: Ear,
}

impl Guest {
    fn of(the_box: &TheBox, machine: &VirtualMachine) -> Self {
        let (host, address) = (host_of(machine), address_of(machine).parse().unwrap());
        let cards = the_box.virsh(&host, &["domiflist", &machine.uid().unwrap()]);
        let card = cards.lines().find(|card| card.contains("br-private")).expect("a card");
        let port = card.split_whitespace().next().unwrap().to_owned();
        let ear = Ear::open(&the_box.network_of(&host), &port, None);
        Self { ear, port, host, uid: machine.uid().unwrap(), mac: MacAddress::of(address).octets(), address }
    }

    fn speaker(&self) -> Speaker {
        (self.mac, self.address)
    }

    /// A command in the guest, as root, and what it wrote.
    fn runs(&self, the_box: &TheBox, command: &[&str]) -> String {
        the_box.script("agent", &[&[self.host.as_str(), self.uid.as_str()], command].concat())
    }

    fn sends(&self, the_box: &TheBox, frame: &[u8]) {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let card = "$(ls /sys/class/net | grep -vx lo | head -1)";
        self.runs(the_box, &["sh", "-c", &format!("cascina-canary send {card} {hex} {TIMES}")]);
    }
}

/// Behind which port a host's bridge believes each address to be.
fn places(the_box: &TheBox, host: &str) -> BTreeMap<String, String> {
    let arguments = ["-n", &the_box.network_of(host), "fdb", "show", "br", "br-private"];
    let output = Command::new("bridge").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    let words = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let learnt = words.filter(|words| words.get(1) == Some(&"dev") && !words.contains(&"permanent"));
    learnt.map(|words| (words[0].to_owned(), words[2].to_owned())).collect()
}

/// What an attacker sends, and who must not hear it.
struct Attack<'a> {
    name: &'static str,
    frames: Vec<Vec<u8>>,
    victims: Vec<&'a Guest>,
}

/// The attacks of a machine whose neighbour in the farm is `peer`, while `strangers` belong to another farm.
fn attacks<'a>(me: &Guest, peer: &'a Guest, strangers: &'a [Guest]) -> Vec<Attack<'a>> {
    let udp = |mac, from, to: &Guest| frames::ip(mac, to.mac, &frames::udp(from, to.address, (4000, 4000)));
    let each = |frame: &dyn Fn(&Guest) -> Vec<u8>| strangers.iter().map(frame).collect::<Vec<_>>();
    // To all of the farm it may speak.
    let to_all = frames::ip(me.mac, BROADCAST, &frames::udp(me.address, Ipv4Addr::BROADCAST, (4000, 4000)));
    let gateway = (me.mac, frames::neighbour(me.address, 1));
    let all = || strangers.iter().chain([peer]).collect::<Vec<_>>();
    vec![
        Attack {
            name: "MAC address stolen by a frame",
            frames: each(&|victim| udp(victim.mac, victim.address, peer)),
            victims: all(),
        },
        Attack {
            name: "MAC address stolen by a link-local frame",
            frames: each(&|victim| frames::ethernet(victim.mac, LINK_LOCAL, LLDP, b"chassis and port, and no more")),
            victims: all(),
        },
        Attack {
            name: "frames to the other farm",
            frames: [each(&|victim| udp(me.mac, me.address, victim)), vec![to_all]].concat(),
            victims: strangers.iter().collect(),
        },
        Attack {
            name: "gateway claimed by ARP",
            frames: vec![frames::arp_answer(me.mac, peer.mac, gateway, peer.speaker())],
            victims: all(),
        },
        Attack {
            name: "addresses given by DHCP",
            frames: vec![frames::ip(me.mac, peer.mac, &frames::udp(me.address, peer.address, (67, 68)))],
            victims: all(),
        },
    ]
}

#[tokio::test]
#[ignore = "needs a box"]
async fn root_in_a_guest_reaches_nobody_and_takes_nobodys_place() {
    let the_box = the_box_alone().await;
    apply_examples(&the_box);
    let [ours, theirs] = [nodes(&the_box, "farm-a").await, nodes(&the_box, "farm-b").await]
        .map(|machines| machines.iter().map(|machine| Guest::of(&the_box, machine)).collect::<Vec<_>>());
    let [a, b] = &theirs[..] else { unreachable!("two machines") };
    // The bridges know everybody; from here on the victims say nothing, so that a stolen place would stay stolen.
    a.runs(&the_box, &["ping", "-c", "2", "-W", "2", &b.address.to_string()]);
    let hosts: Vec<_> = theirs.iter().map(|guest| guest.host.clone()).collect();
    let before: Vec<_> = hosts.iter().map(|host| places(&the_box, host)).collect();

    println!("| attack | left the guest | arrived |\n|---|---|---|");
    let mut run = 0;
    for (me, peer) in [(&ours[0], &ours[1]), (&ours[1], &ours[0])] {
        for Attack { name, frames, victims } in attacks(me, peer, &theirs) {
            run += 1;
            let mark = Mark { sender: 0, run };
            let sent = frames.len() * TIMES;
            let target = me.address.to_string();
            let ping = ["ping", "-c", "10", "-i", "0.2", "-W", "2", target.as_str()];
            let good = thread::scope(|scope| {
                let good = scope.spawn(|| peer.runs(&the_box, &ping));
                frames.iter().for_each(|frame| me.sends(&the_box, &frames::marked(frame, &mark.bytes())));
                good.join().unwrap()
            });
            let heard = |guest: &Guest| guest.ear.heard(Heard::Marked(mark));
            let arrived: usize = victims.into_iter().map(heard).sum();
            println!("| {name}, from {} | {} of {sent} | {arrived} |", me.host, heard(me));
            assert_eq!(heard(me), sent, "{name}: the guest didn't even send it");
            assert_eq!(arrived, 0, "{name}: frames arrived");
            assert!(good.contains(" 0% packet loss"), "{name}: good packets were lost: {good}");
        }
    }
    for (host, before) in hosts.iter().zip(before) {
        let now = places(&the_box, host);
        for victim in &theirs {
            let mac = frames::text(victim.mac);
            let expected = if *host == victim.host { victim.port.as_str() } else { "private" };
            assert_eq!(before.get(&mac).map(String::as_str), Some(expected), "{mac} on {host}, before");
            assert_eq!(now.get(&mac), before.get(&mac), "{mac} on {host}: its place was stolen");
        }
    }
}

/// A script that sends these frames again and again, from the guest's first second on, for two minutes. The line that it
/// leaves behind is how often.
fn flood(frames: &[Vec<u8>]) -> String {
    let hex = |frame: &Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let sends: String = frames.iter().map(|frame| format!("cascina-canary send $card {} 5\n", hex(frame))).collect();
    format!(
        "#!/bin/sh\ncard=$(ls /sys/class/net | grep -vx lo | head -1)\n(rounds=0\nend=$(($(date +%s) + 120))\n\
         while [ $(date +%s) -lt $end ]; do\n{sends}rounds=$((rounds + 1))\necho $rounds >/run/rounds\nsleep 0.05\ndone) &\n"
    )
}

#[tokio::test]
#[ignore = "needs a box, and the time of make soak"]
async fn soak_a_guest_that_attacks_from_the_first_second_of_its_hosts_reaches_nobody() {
    let the_box = the_box_alone().await;
    for host in ["worker-1", "worker-2"] {
        the_box.cluster.must("kubectl", &["label", "--overwrite", "hypervisor", host, &format!("e2e/host={host}")]);
    }
    let (attackers, others) = (the_box.tenant("boot").await, the_box.tenant("beside").await);
    let on = |host: &str| json!({"hypervisorSelector": {"e2e/host": host}});
    let attacker = attackers.given_machine("attacker", on("worker-1")).await;
    let victim = others.given_machine("victim", on("worker-2")).await;
    let me = Guest::of(&the_box, &attacker);
    let it = Guest::of(&the_box, &victim);
    let mark = Mark { sender: 0, run: 1_000_000 };
    let neighbour = frames::neighbour(it.address, 77);
    let udp = |mac, from| frames::ip(mac, it.mac, &frames::udp(from, it.address, (4000, 4000)));
    // Once as itself, and once as a neighbour of the victim, which only rules on its own card stop.
    let sent = [udp(me.mac, me.address), udp(MacAddress::of(neighbour).octets(), neighbour)]
        .map(|frame| frames::marked(&frame, &mark.bytes()));
    attackers.changes("attacker", json!({"userData": {"inline": flood(&sent)}})).await;

    the_box.script("host", &["stop", "worker-1"]);
    let _started = Finally(|| drop(the_box.try_script("host", &["start", "worker-1"])));
    the_box.script("host", &["start", "worker-1"]);
    let again = attackers.until("attacker", "attacks", BOOT, |machine| {
        let transitions = &machine.status.as_ref().unwrap().phase_transitions;
        is_ready(machine) && transitions.iter().filter(|one| one.phase == Phase::Booting).count() > 1
    });
    let again = again.await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let rounds = String::from_utf8(attackers.file_inside(&again, "/run/rounds")).unwrap();
    let rounds: usize = rounds.trim().parse().unwrap();
    let arrived = it.ear.heard(Heard::Marked(mark));
    measured("host booted", "frames that a guest sends from its first second, to another farm", rounds * 10);
    measured("host booted", "of them arrived", arrived);
    assert!(rounds > 10, "hardly attacked");
    assert_eq!(arrived, 0, "frames crossed farms");
}
