//! Hosts prove that they keep farms apart: what happens when one stops doing so, and when it does again.

use std::time::{Duration, Instant};

use cascina::api::{Hypervisor, VirtualMachine};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use crate::support::libvirt::{address_of, host_of};
use crate::support::{BOOT, Finally, SOON, Tenant, TheBox, condition, is_ready, reason, the_box_alone};

const HOST: &str = "worker-1";
/// What is promised: within this time it is noticed that a host doesn't keep farms apart any more.
const NOTICED: Duration = Duration::from_secs(60);

fn verified(host: &Hypervisor) -> (String, String) {
    condition(host, "IsolationVerified").map(|told| (told.status, told.reason)).unwrap_or_default()
}

async fn until_told(the_box: &TheBox, status: &str, why: &str, within: Duration) -> Hypervisor {
    let hosts = the_box.all::<Hypervisor>();
    let said = (status.to_owned(), why.to_owned());
    the_box.until(&hosts, HOST, &format!("{status} {why}"), within, |host| verified(host) == said).await
}

fn learn_from_link_local(the_box: &TheBox, learn: bool) {
    let value = if learn { "0" } else { "1" };
    let set = ["ip", "link", "set", "br-private", "type", "bridge", "no_linklocal_learn", value];
    the_box.script("host", &[&["enter", HOST], set.as_slice()].concat());
}

/// A machine goes to the host of these tests.
async fn asks(tenant: &Tenant<'_>, name: &str) {
    let selector = ["label", "--overwrite", "hypervisor", HOST, &format!("e2e/host={HOST}")].map(str::to_owned);
    tenant.the_box.cluster.must("kubectl", &selector.each_ref().map(String::as_str));
    tenant.asks_for(name, json!({"hypervisorSelector": {"e2e/host": HOST}})).await;
}

async fn waits_for_proof(tenant: &Tenant<'_>, name: &str) {
    tenant
        .until(name, "waits for a verified host", SOON, |machine| {
            reason(machine, "Scheduled").1.contains("1 not verified for isolation")
        })
        .await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_bridge_that_a_guest_can_rob_gets_no_new_machines_and_keeps_those_it_has() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("robbed").await;
    tenant.given_farm("farm", json!({})).await;
    asks(&tenant, "old").await;
    let old = tenant.ready("old").await;

    let _mended = Finally(|| learn_from_link_local(&the_box, false));
    learn_from_link_local(&the_box, true);
    let begin = Instant::now();
    let host = until_told(&the_box, "False", "MacTableStolen", NOTICED).await;
    println!("noticed after {:.1} s", begin.elapsed().as_secs_f64());
    let (_, message) = reason(&host, "IsolationVerified");
    assert!(message.ends_with("ip link set br-private type bridge no_linklocal_learn 1"), "{message}");
    assert_eq!(host.status.unwrap().isolation.unwrap().leaks, ["steal-by-link-local"]);

    asks(&tenant, "new").await;
    waits_for_proof(&tenant, "new").await;
    let still = tenant.machines().get("old").await.unwrap();
    assert!(is_ready(&still), "a machine that runs is left alone");
    assert_eq!(still.status.unwrap().epoch, old.status.unwrap().epoch);

    learn_from_link_local(&the_box, false);
    let begin = Instant::now();
    until_told(&the_box, "True", "Verified", NOTICED).await;
    println!("mended and proved after {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!(host_of(&tenant.ready("new").await), HOST);
}

/// So many frames are forged; fewer than that arrive of other traffic meanwhile.
const SENT: u64 = 200;

/// What arrives at a machine while another one sends it frames from a MAC address that isn't its own.
fn forged(tenant: &Tenant<'_>, attacker: &VirtualMachine, victim: &VirtualMachine) -> u64 {
    let arrived = || {
        let count = tenant.file_inside(victim, "/sys/class/net/eth0/statistics/rx_packets");
        String::from_utf8(count).unwrap().trim().parse::<u64>().unwrap()
    };
    let before = arrived();
    let (from, to, count) = (address_of(attacker), address_of(victim), SENT.to_string());
    let (sent, _) = tenant.inside(attacker, &["cascina-canary", "attack", "mac-spoof", "eth0", &from, &to, &count]);
    assert!(sent, "the attack itself works");
    arrived() - before
}

#[tokio::test]
#[ignore = "needs a box"]
async fn filters_that_somebody_flushed_are_noticed_and_put_back() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("flushed").await;
    tenant.given_farm("farm", json!({})).await;
    for name in ["attacker", "victim"] {
        asks(&tenant, name).await;
    }
    let (attacker, victim) = (tenant.ready("attacker").await, tenant.ready("victim").await);
    assert!(forged(&tenant, &attacker, &victim) < SENT, "filters stop a tenant's forged frames");
    let repairs = || the_box.metrics().sum("cascina_isolation_repairs_total", &[("host", HOST)]);

    let (mut repaired, mut begin, mut tries) = (repairs(), Instant::now(), 0);
    loop {
        the_box.script("host", &["enter", HOST, "ebtables", "-t", "nat", "-F"]);
        if forged(&tenant, &attacker, &victim) >= SENT {
            break;
        }
        // The operator was faster than the attack.
        tries += 1;
        assert!(tries < 3, "without filters forged frames arrive");
        (repaired, begin) = (repairs(), Instant::now());
    }
    the_box
        .eventually("the operator to put the filters back", NOTICED, async || {
            if repairs() > repaired { Ok(()) } else { Err("not yet".into()) }
        })
        .await;
    println!("noticed and put back after {:.1} s", begin.elapsed().as_secs_f64());
    until_told(&the_box, "True", "Verified", SOON).await;
    println!("proved after {:.1} s", begin.elapsed().as_secs_f64());
    assert!(forged(&tenant, &attacker, &victim) < SENT, "filters stop a tenant's forged frames again");
    for (name, why) in [("leaks", "FramesLeaked"), ("repair", "FiltersPutBack")] {
        let events = the_box.events("", HOST).await;
        assert!(events.iter().any(|(reason, _)| reason == why), "{name}: {events:?}");
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_host_that_rebooted_proves_itself_before_it_gets_machines() {
    let the_box = the_box_alone().await;
    let tenant = the_box.tenant("reboot").await;
    tenant.given_farm("farm", json!({})).await;
    let _started = Finally(|| drop(the_box.try_script("host", &["start", HOST])));
    the_box.script("host", &["stop", HOST]);
    until_told(&the_box, "Unknown", "HostUnknown", SOON).await;
    asks(&tenant, "new").await;
    the_box.script("host", &["start", HOST]);
    let begin = Instant::now();
    let host = until_told(&the_box, "True", "Verified", BOOT).await;
    println!("proved {:.1} s after power came back", begin.elapsed().as_secs_f64());
    let machine = tenant.ready("new").await;
    let scheduled = condition(&machine, "Scheduled").unwrap().last_transition_time;
    let proved = condition(&host, "IsolationVerified").unwrap().last_transition_time;
    assert!(scheduled >= proved, "not before the proof");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_hypervisor_that_is_deleted_takes_its_canary_along() {
    let the_box = the_box_alone().await;
    let _whole = Finally(|| drop(the_box.try_script("site", &["--apply"])));
    assert_eq!(the_box.canaries(HOST).len(), 1);
    let hosts = the_box.all::<Hypervisor>();
    let before = hosts.get(HOST).await.unwrap();
    hosts.delete(HOST, &DeleteParams::default()).await.unwrap();
    the_box.until_gone(&hosts, HOST, SOON).await;
    assert_eq!(the_box.canaries(HOST).len(), 0);
    assert_eq!(the_box.filters(HOST), Vec::<String>::new());
    the_box.script("site", &["--apply"]);
    let after = until_told(&the_box, "True", "Verified", BOOT).await;
    assert_ne!(after.uid(), before.uid());
    let slots = hosts.list(&Default::default()).await.unwrap().items.into_iter();
    let mut slots: Vec<_> = slots.filter_map(|host| Some(host.status?.isolation?.slot)).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2, 3], "the slot that became free is used again");
}
