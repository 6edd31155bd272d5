//! The example farms: machines find each other within a farm and nobody else.

use cascina::api::VirtualMachine;
use kube::ResourceExt;
use serde_json::json;

use crate::support::libvirt::{address_of, epoch_of, host_of};
use crate::support::{BOOT, Tenant, TheBox, is_ready, the_box};

/// Applies the examples; what is there already stays.
pub fn apply_examples(the_box: &TheBox) {
    let file = crate::cluster::file("examples/first-farm.yaml");
    the_box.cluster.must("kubectl", &["apply", "-f", file.to_str().unwrap()]);
}

/// The two quick machines of an example farm, Ready.
pub async fn nodes(the_box: &TheBox, farm: &str) -> Vec<VirtualMachine> {
    let machines = kube::Api::<VirtualMachine>::namespaced(the_box.cluster.client.clone(), farm);
    let mut nodes = Vec::new();
    for index in 0..2 {
        nodes.push(the_box.until(&machines, &format!("{farm}-node-{index}"), "Ready", BOOT, is_ready).await);
    }
    nodes
}

/// Whether one guest reaches another; `tries` pings of a second each.
fn pings(the_box: &TheBox, from: &VirtualMachine, to: &VirtualMachine, tries: &str) -> bool {
    let (host, uid) = (host_of(from), from.uid().unwrap());
    let ping = ["ping", "-c", tries, "-W", "1", &address_of(to)];
    the_box.try_script("agent", &[&[host.as_str(), uid.as_str()], ping.as_slice()].concat()).status.success()
}

#[tokio::test]
#[ignore = "needs a box"]
async fn machines_of_one_farm_reach_each_other_and_no_other_farm() {
    let the_box = the_box().await;
    apply_examples(&the_box);
    let (ours, theirs) = (nodes(&the_box, "farm-a").await, nodes(&the_box, "farm-b").await);
    assert_ne!(host_of(&ours[0]), host_of(&ours[1]), "a group is spread over hosts");
    assert_ne!(host_of(&theirs[0]), host_of(&theirs[1]), "a group is spread over hosts");

    for farm in [&ours, &theirs] {
        assert!(pings(&the_box, &farm[0], &farm[1], "3"), "across hosts, one way");
        assert!(pings(&the_box, &farm[1], &farm[0], "3"), "across hosts, the other way");
    }
    // On one host as well as across hosts, and even with a way to the other farm's addresses.
    for one in &ours {
        let route = "ip route replace 172.16.0.0/16 dev $(ls /sys/class/net | grep -vx lo | head -1)";
        the_box.script("agent", &[&host_of(one), &one.uid().unwrap(), "sh", "-c", route]);
        for other in &theirs {
            let places = format!("{} to {}", host_of(one), host_of(other));
            assert!(!pings(&the_box, one, other, "2"), "{places}: farms must not reach each other");
        }
    }
    let same_host = ours.iter().any(|one| theirs.iter().any(|other| host_of(one) == host_of(other)));
    assert!(same_host, "two of them share a host, so that was tried too");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_domain_is_what_its_object_says_and_nothing_that_a_user_wrote() {
    let the_box = the_box().await;
    apply_examples(&the_box);
    let cluster =
        the_box.cluster.stdout("kubectl", &["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]);
    for machine in nodes(&the_box, "farm-a").await {
        let (uid, name) = (machine.uid().unwrap(), machine.name_any());
        assert_eq!(the_box.hosts_with(&uid), [host_of(&machine)], "one domain, on its host, with the object's uid");
        let xml = the_box.domain_xml(&machine).replace('"', "'");
        let must = [
            format!("<uuid>{uid}</uuid>"),
            format!("<name>casc-{uid}</name>"),
            format!("<title>farm-a/{name}</title>"),
            format!("cluster='{cluster}'"),
            format!("uid='{uid}'"),
            format!("epoch='{}'", epoch_of(&machine)),
            "<filterref filter='cascina-machine-".to_owned(),
            format!("<parameter name='IP' value='{}'/>", address_of(&machine)),
            "<parameter name='CTRL_IP_LEARNING' value='none'/>".to_owned(),
        ];
        for part in must {
            assert!(xml.contains(&part), "{part} is missing in\n{xml}");
        }
        // Files are named by uid and checksum; neither the tenant's nor the machine's name is a path.
        let quoted = xml.split(['\'', '>', '<']);
        for path in quoted.filter(|text| text.starts_with("/var/lib/cascina/")) {
            let file = path.rsplit('/').next().unwrap();
            assert!(file.starts_with(&format!("{uid}-")) || file.starts_with("img-"), "{path}");
        }
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_dry_run_shows_the_plan_and_makes_nothing() {
    let the_box = the_box().await;
    let tenant: Tenant<'_> = the_box.tenant("dry-run").await;
    let groups = json!([
        {"name": "node", "replicas": 2, "flavour": crate::support::SMALL, "image": "appliance"},
        {"name": "late", "replicas": 1, "flavour": "e2e-no-such-flavour", "image": "appliance"},
    ]);
    let metadata = json!({"name": "farm", "annotations": {"cascina.dev/dry-run": "true"}});
    tenant.makes("VirtualFarm", json!({"metadata": metadata, "spec": {"groups": groups}})).await;
    let farm = the_box
        .until(&tenant.farms(), "farm", "shows its plan", BOOT, |farm| {
            farm.status.as_ref().is_some_and(|status| status.plan.len() == 3)
        })
        .await;
    let status = farm.status.unwrap();
    let hosts: Vec<_> = status.plan.iter().filter_map(|machine| machine.hypervisor.as_deref()).collect();
    assert!(hosts.contains(&"worker-1") && hosts.contains(&"worker-2"), "the group would be spread: {:?}", status.plan);
    let late = status.plan.iter().find(|machine| machine.name == "farm-late-0").unwrap();
    assert!(late.waits.as_ref().is_some_and(|waits| waits.contains("e2e-no-such-flavour")), "{late:?}");
    assert!(status.plan.iter().all(|machine| machine.action == "Create"), "{:?}", status.plan);
    assert_eq!(status.network, None, "a dry run takes no network");
    let machines = tenant.machines().list(&Default::default()).await.unwrap().items;
    assert!(machines.is_empty(), "nothing is made: {machines:?}");

    let patch = json!({"metadata": {"annotations": {"cascina.dev/dry-run": null}}});
    tenant.farms().patch("farm", &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    tenant.until("farm-node-0", "is made once it is no dry run any more", BOOT, is_ready).await;
}
