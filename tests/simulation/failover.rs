//! A standby that has waited for long takes the lead. It knows the objects, and has read no host.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::apiserver::{Write, resource};
use crate::datacentre::{Datacentre, Live, ours};
use crate::drive::runtime;
use crate::faults::{Faults, Odds};
use crate::flows::{empty, with_farm};

/// How long the other one led.
const WAITED: Duration = Duration::from_secs(60);

impl Live {
    /// The objects of the farm go and its guests stay, as if somebody had taken every finalizer off; and no host lists its copies,
    /// as before a version that did.
    fn forget_the_farm(&self) {
        let nobody = json!({"metadata": {"finalizers": null}});
        let names = ["farm-nodes-0", "farm-nodes-1", "farm-nodes-2"].map(|name| ("virtualmachines", name));
        for (plural, name) in names.into_iter().chain([("virtualfarms", "farm")]) {
            self.patch(plural, "tenant", name, &nobody);
            self.delete(plural, "tenant", name);
        }
        self.api.with(|store, now| {
            let write = Write { manager: "cascina-hypervisor", status: true, now };
            for host in store.list(&ours("hypervisors"), "") {
                let name = host["metadata"]["name"].as_str().unwrap();
                store.merge(&ours("hypervisors"), "", name, &json!({"status": {"copies": null}}), &write).unwrap();
            }
        });
    }

    /// How many Warnings of this reason there are.
    fn warnings(&self, reason: &str) -> usize {
        let events = self.api.with(|store, _| store.list(&resource("events.k8s.io", "events"), ""));
        events.iter().filter(|event| event["type"] == "Warning" && event["reason"] == reason).count()
    }

    fn machines(&self) -> Vec<Arc<Value>> {
        self.api.with(|store, _| store.list(&ours("virtualmachines"), ""))
    }
}

#[test]
fn an_old_standby_gives_nothing_before_it_has_read_the_hosts() {
    let (site, runtime) = (with_farm().clone(), runtime());
    runtime.block_on(async {
        let live = site.wake();
        live.forget_the_farm();
        live.world(|world| world.hosts.values_mut().for_each(|host| host.slow = Duration::from_secs(3)));
        let faults = Arc::new(Faults::new(1, None, Odds::default()));
        tokio::spawn(live.clone().operate_after(WAITED, faults));
        tokio::time::sleep(WAITED).await;
        live.create_farm(2);
        for _ in 0..240 {
            live.check_sharing();
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        assert_eq!(live.world(|world| world.violations.found.clone()), Vec::<String>::new());
        let machines = live.machines();
        let running = machines.iter().filter(|machine| machine["status"]["phase"] == "Running");
        assert_eq!(running.count(), 2, "and it works: {machines:?}");
    });
    runtime.shutdown_background();
}

#[test]
fn an_old_standby_says_of_no_machine_that_its_host_is_silent() {
    let (site, runtime) = (with_farm().clone(), runtime());
    runtime.block_on(async {
        let live = site.wake();
        live.world(|world| world.hosts.values_mut().for_each(|host| host.slow = Duration::from_secs(3)));
        let faults = Arc::new(Faults::new(1, None, Odds::default()));
        tokio::spawn(live.clone().operate_after(WAITED, faults));
        for _ in 0..400 {
            let phases: Vec<_> = live.machines().iter().map(|machine| machine["status"]["phase"].clone()).collect();
            assert_eq!(phases, ["Running"; 3], "at {}", live.clock.now());
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    });
    runtime.shutdown_background();
}

/// One operator's life of so many seconds, and how many Warnings of failed scheduling there are at its end.
fn live(site: Datacentre, seconds: u64, begin: fn(&Live)) -> (Datacentre, usize) {
    let runtime = runtime();
    let ended = runtime.block_on(async {
        let live = site.wake();
        let faults = Arc::new(Faults::new(1, None, Odds::default()));
        tokio::spawn(live.clone().operate(faults));
        begin(&live);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        (live.asleep(), live.warnings("FailedScheduling"))
    });
    runtime.shutdown_background();
    ended
}

#[test]
fn what_lasts_is_told_by_the_next_one_that_leads() {
    let wait = |live: &Live| {
        let group = json!({"name": "nodes", "replicas": 1, "flavour": "unheard-of", "image": "one"});
        live.create("virtualfarms", "tenant", "farm", json!({"groups": [group]}));
    };
    let (site, told) = live(empty().clone(), 10, wait);
    assert_eq!(told, 0, "it may be over soon");
    let (site, told) = live(site, 20, |_| ());
    assert_eq!(told, 1);
    let (_, told) = live(site.clone(), 10, |_| ());
    assert_eq!(told, 1);
    let over = |live: &Live| live.create("flavours", "", "unheard-of", json!({"cpus": 1, "memory": "512Mi"}));
    let (_, told) = live(site, 20, over);
    assert_eq!(told, 1, "what is over is not told again");
}
