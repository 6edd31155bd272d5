//! What a tenant writes into the metadata of his objects changes nothing about who is on which wire.

use cascina::api::{VirtualFarm, VirtualMachine};
use kube::ResourceExt;
use serde_json::json;

use crate::support::libvirt::{address_of, host_of};
use crate::support::{SOON, Tenant, is_ready, reason, the_box};

fn nodes() -> serde_json::Value {
    json!({"groups": [{"name": "node", "replicas": 1, "flavour": "e2e-small", "image": "appliance"}]})
}

/// Takes the owners, or the finalizers, of an object away, or gives it an owner that never was.
fn writes(tenant: &Tenant<'_>, kind: &str, name: &str, metadata: serde_json::Value) {
    let patch = json!({"metadata": metadata}).to_string();
    let patch = ["-n", &tenant.namespace, "patch", kind, name, "--type", "merge", "-p", &patch];
    tenant.the_box.cluster.must("kubectl", &patch);
}

fn network(farm: &VirtualFarm) -> String {
    farm.status.as_ref().and_then(|status| status.network.clone()).expect("a farm that is given has one")
}

/// Whether every cable of a machine that runs is pulled.
fn is_cut_off(tenant: &Tenant<'_>, machine: &VirtualMachine) -> bool {
    let xml = tenant.the_box.virsh(&host_of(machine), &["dumpxml", &machine.uid().unwrap()]);
    xml.contains("<interface ") && xml.matches("<interface ").count() == xml.matches("<link state='down'/>").count()
}

#[tokio::test]
#[ignore = "needs a box"]
async fn the_network_of_a_machine_whose_farm_is_gone_is_given_to_nobody_and_it_is_cut_off() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("left").await;
    let farm = tenant.given_farm("farm", nodes()).await;
    let left = tenant.ready("farm-node-0").await;
    assert!(!is_cut_off(&tenant, &left));

    // Without its labels it isn't taken back as one that lost its owner.
    writes(&tenant, "virtualmachine", "farm-node-0", json!({"ownerReferences": null, "labels": null}));
    // The garbage collector deletes for him what he may not.
    let nobody = json!([{
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualFarm", "name": "nobody", "uid": uuid::Uuid::new_v4(),
    }]);
    writes(&tenant, "virtualfarm", "farm", json!({"ownerReferences": nobody}));
    let goes = |farm: &VirtualFarm| farm.metadata.deletion_timestamp.is_some();
    the_box.until(&tenant.farms(), "farm", "is being deleted", SOON, goes).await;
    writes(&tenant, "virtualfarm", "farm", json!({"finalizers": null}));
    the_box.until_gone(&tenant.farms(), "farm", SOON).await;

    let neighbour = the_box.tenant("neighbour").await;
    let theirs = neighbour.given_farm("farm", nodes()).await;
    assert_ne!(network(&theirs), network(&farm), "{} is on the wire", address_of(&left));
    the_box
        .eventually("the machine to be cut off", SOON, async || {
            is_cut_off(&tenant, &left).then_some(()).ok_or_else(|| "its cable is plugged in".to_owned())
        })
        .await;
    let told = tenant.until("farm-node-0", "FarmGone", SOON, |machine| reason(machine, "Ready").0 == "FarmGone").await;
    assert!(!is_ready(&told));
    let hypervisors = the_box.all::<cascina::api::Hypervisor>();
    let tells = |host: &cascina::api::Hypervisor| reason(host, "Orphans").1.contains(&tenant.namespace);
    the_box.until(&hypervisors, &host_of(&left), "tells of it", SOON, tells).await;
    neighbour.ready("farm-node-0").await;

    tenant.deletes("farm-node-0").await;
    the_box.until_gone(&tenant.machines(), "farm-node-0", SOON).await;
}
