//! Two machines of one router: one works, and when it is gone the other does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cascina::api::{VRouter, VirtualMachine};
use kube::ResourceExt;
use serde_json::json;

use super::{Routed, routed};
use crate::support::libvirt::host_of;
use crate::support::soak::{measured, since};
use crate::support::{BOOT, SOON, is_ready, reason, the_box_alone};

const PAIR: &str = "two routers";

/// A farm is without a router for longer than this only if the other one doesn't take its turn.
const TURN: Duration = Duration::from_secs(6);

/// Pings from inside, ten a second.
struct Pings<'a> {
    farm: &'a Routed<'a>,
    machine: &'a VirtualMachine,
    count: u32,
}

impl<'a> Pings<'a> {
    fn begin(farm: &'a Routed<'a>, machine: &'a VirtualMachine, seconds: u32) -> Self {
        let count = seconds * 10;
        let to = farm.outside.address;
        let ping = format!(
            "(ping -i 0.1 -c {count} -W 1 {to} >/tmp/pings; echo over >>/tmp/pings) </dev/null >/dev/null 2>&1 &"
        );
        farm.says(machine, &ping);
        Self { farm, machine, count }
    }

    /// The longest time without an answer.
    async fn silence(self) -> Duration {
        let tenant = &self.farm.tenant;
        let text = tenant.the_box.eventually("the last ping", BOOT, async || {
            let text = String::from_utf8_lossy(&tenant.file_inside(self.machine, "/tmp/pings")).into_owned();
            text.ends_with("over\n").then_some(text.clone()).ok_or(text)
        });
        let text = text.await;
        let number = |line: &str| line.split("seq=").nth(1)?.split_whitespace().next()?.parse::<u32>().ok();
        let answered: Vec<_> = text.lines().filter_map(number).chain([self.count]).collect();
        let longest = answered.iter().zip(answered.iter().skip(1)).map(|(one, next)| next - one).max();
        Duration::from_millis(100) * longest.expect("some are answered")
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Whose turn it is, and who waits.
fn turns(router: &VRouter) -> (String, String) {
    let status = router.status.clone().unwrap_or_default();
    (status.machine.unwrap_or_default(), status.standby.map(|standby| standby.machine).unwrap_or_default())
}

async fn until_redundant(farm: &Routed<'_>) -> VRouter {
    let redundant = |router: &VRouter| is_ready(router) && reason(router, "Redundant").0 == "StandbyReady";
    farm.tenant.the_box.until(&farm.routers(), "farm", "has a router to spare", BOOT, redundant).await
}

#[tokio::test]
#[ignore = "needs a box"]
async fn of_two_routers_the_other_takes_its_turn() {
    let the_box = the_box_alone().await;
    let farm = routed(&the_box).await;
    farm.tenant.asks_for("one", json!({})).await;
    let one = farm.tenant.ready("one").await;
    farm.says(&one, "hostname > /etc/hostname; httpd -p 7 -h /etc");
    let own = farm.router().await.status.unwrap().public_ip.unwrap().parse().unwrap();
    farm.until_page(own, 2222, "one");

    // A farm that has one gets the other.
    let begin = Instant::now();
    let pings = Pings::begin(&farm, &one, 40);
    farm.changes(json!({"router": {"replicas": 2}})).await;
    let router = until_redundant(&farm).await;
    measured(PAIR, "the second one there, and the first made anew as one of two", since(begin));
    measured(PAIR, "longest wait for an answer from outside meanwhile", seconds(pings.silence().await));
    let status = router.status.clone().unwrap();
    assert_eq!(
        status.config.map(|config| config.hash),
        status.standby.and_then(|other| other.config).map(|it| it.hash)
    );
    let (leader, standby) = turns(&router);
    let machines = [farm.tenant.ready(&leader).await, farm.tenant.ready(&standby).await];
    let [host, other_host] = machines.each_ref().map(host_of);
    assert_ne!(host, other_host, "one host's end is not both's");

    // Who works is gone, without a word.
    let pings = Pings::begin(&farm, &one, 30);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let over = AtomicBool::new(false);
    let outside = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                if farm.outside.page(own, 2222).as_deref() == Some("one") {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                thread::sleep(Duration::from_millis(100));
            }
            longest.max(last.elapsed())
        });
        thread::sleep(Duration::from_secs(1));
        the_box.kill_guest(&machines[0]);
        thread::sleep(Duration::from_secs(12));
        over.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    let turned = |router: &VRouter| turns(router).0 == standby;
    let router = the_box.until(&farm.routers(), "farm", "tells that the other works", SOON, turned).await;
    assert!(is_ready(&router), "its farm is served");
    let inside = pings.silence().await;
    measured(PAIR, "longest wait for an answer from outside when the one that works was killed", seconds(inside));
    measured(PAIR, "longest time without a page by a forward meanwhile", seconds(outside));
    assert!(inside < TURN && outside < TURN, "{inside:?} {outside:?}");
    let events = the_box.events(&farm.tenant.namespace, "farm").await;
    assert!(events.iter().any(|(reason, _)| reason == "TurnTaken"), "{events:?}");

    // It comes back, and interrupts nothing.
    let router = until_redundant(&farm).await;
    assert_eq!(turns(&router), (standby, leader));
    farm.until_page(own, 2222, "one");

    farm.changes(json!({"router": {"replicas": 1}})).await;
    let alone = |router: &VRouter| is_ready(router) && turns(router) == ("farm-router-0".into(), String::new());
    the_box.until(&farm.routers(), "farm", "is one again", BOOT, alone).await;
    farm.until_page(own, 2222, "one");
    the_box.until_gone(&farm.tenant.machines(), "farm-router-1", SOON).await;
    let uids = machines.map(|machine| machine.uid().unwrap());
    farm.tenant.farms().delete("farm", &Default::default()).await.unwrap();
    farm.tenant.deletes("one").await;
    the_box.until_gone(&farm.routers(), "farm", SOON).await;
    the_box.nothing_left_of(&uids).await;
    the_box.all_is_accounted_for().await;
}
