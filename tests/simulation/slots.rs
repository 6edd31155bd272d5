//! Hosts that prove their isolation: no two canaries are ever in one network, whatever becomes of the hosts' objects.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use cascina::api::HypervisorClass;
use cascina::libvirt::DomainRole;
use serde_json::{Value, json};

use crate::datacentre::{Datacentre, Live, ours};
use crate::drive::{Act, drive};
use crate::faults::{Faults, Stop};
use crate::flows::{act, empty};
use crate::soak::{share, soaks};

/// A site whose five hosts are verified, at rest.
fn verified() -> &'static Datacentre {
    static SITE: OnceLock<Datacentre> = OnceLock::new();
    SITE.get_or_init(|| {
        let mut site = empty().clone();
        site.world.proves_isolation = true;
        settled(&site, &[], &["service-1", "service-2", "worker-1", "worker-2", "worker-3"])
    })
}

/// What comes of it; at the end each of these hosts is verified, has one canary, and shares its networks with nobody.
fn settled(start: &Datacentre, acts: &[Act], hosts: &[&str]) -> Datacentre {
    let site = drive(start, acts, None).site;
    assert_eq!(site.world.violations.found, Vec::<String>::new());
    for host in hosts {
        let object = site.store.get(&ours("hypervisors"), "", host).unwrap();
        let conditions = object["status"]["conditions"].as_array().unwrap();
        let verified = conditions.iter().find(|condition| condition["type"] == "IsolationVerified").unwrap();
        assert_eq!(verified["status"], "True", "{host}: {verified}");
        assert_eq!(canaries(&site, host).len(), 1, "{host}");
    }
    let slots = slots(&site);
    let mut distinct: Vec<_> = slots.values().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), slots.len(), "{slots:?}");
    site
}

/// The addresses of the canaries on a host.
fn canaries(site: &Datacentre, host: &str) -> Vec<String> {
    let canaries = site.world.hosts[host].domains.values().filter(|domain| domain.spec.role == DomainRole::Canary);
    canaries.map(|canary| canary.spec.nics[0].hold.address().to_string()).collect()
}

fn slots(site: &Datacentre) -> BTreeMap<String, i64> {
    let hypervisors = site.store.list(&ours("hypervisors"), "");
    let slot = |host: &Value| host["status"]["isolation"]["slot"].as_i64();
    hypervisors.iter().filter_map(|host| Some((host["metadata"]["name"].to_string(), slot(host)?))).collect()
}

/// A host's object goes past its finalizer.
fn strip(live: &Live, host: &str) {
    live.delete("hypervisors", "", host);
    live.patch("hypervisors", "", host, &json!({"metadata": {"finalizers": null}}));
}

fn link(live: &Live, host: &str, linked: bool) {
    live.world(|world| world.host(host).linked = linked);
}

/// A host's object, and where it is new the host.
fn make(live: &Live, host: &str) {
    live.world(|world| {
        if !world.hosts.contains_key(host) {
            world.add_host(host, HypervisorClass::Worker, host);
        }
    });
    let spec = json!({
        "uri": format!("qemu+tls://{host}/system"), "credentialsSecretRef": {"name": "libvirt-client"},
        "class": "Worker", "networks": {"private": {"bridge": "br-private"}}, "storage": {"pool": "cascina"},
    });
    live.create("hypervisors", "", host, spec);
}

#[test]
fn a_host_that_is_made_again_has_one_canary_and_no_other_gets_the_networks_of_the_old_one() {
    let again = act(5, |live, _| {
        strip(live, "worker-1");
        make(live, "worker-1");
        make(live, "worker-4");
    });
    settled(verified(), &[again], &["worker-1", "worker-2", "worker-4"]);
}

/// The canary of a host that is cut off, and has no object any more, runs on.
const LEAVES_A_CANARY: [Act; 2] = [
    act(5, |live, _| {
        link(live, "worker-1", false);
        strip(live, "worker-1");
    }),
    act(20, |live, _| make(live, "worker-4")),
];

#[test]
fn networks_of_a_canary_that_was_last_seen_stay_taken_while_its_host_is_silent() {
    let site = settled(verified(), &LEAVES_A_CANARY, &["worker-2", "worker-4"]);
    let left = canaries(&site, "worker-1");
    assert_eq!(left.len(), 1);
    assert_ne!(canaries(&site, "worker-4"), left);
    let back = act(0, |live, _| {
        link(live, "worker-1", true);
        make(live, "worker-1");
    });
    settled(&site, &[back], &["worker-1", "worker-4"]);
}

/// Two hosts that are made at once, with an operator that dies at any call meanwhile.
#[test]
fn hosts_that_are_made_at_once_never_meet_wherever_the_operator_dies() {
    let acts = [act(1, |live: &Live, _: &Faults| {
        make(live, "worker-4");
        make(live, "worker-5");
    })];
    let calls = drive(verified(), &acts, None).calls;
    let stops: Vec<_> = (1..=calls).flat_map(|call| [Stop::Before(call), Stop::After(call)]).collect();
    let stops = if soaks() { stops } else { share(stops, 60) };
    for stop in stops {
        let site = drive(verified(), &acts, Some(stop)).site;
        assert_eq!(site.world.violations.found, Vec::<String>::new(), "{stop:?}");
        for host in ["worker-4", "worker-5"] {
            assert_eq!(canaries(&site, host).len(), 1, "{host}, {stop:?}");
        }
    }
}
