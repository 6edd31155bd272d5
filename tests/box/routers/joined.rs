//! Farms of one cloud joined by tunnels between their routers.

use std::time::Instant;

use cascina::api::{VRouter, VirtualMachine};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::pings;
use crate::support::libvirt::address_of;
use crate::support::soak::{measured, since};
use crate::support::{BOOT, SOON, Tenant, is_ready, reason, the_box};

const TUNNEL: &str = "farms joined";

async fn changes(tenant: &Tenant<'_>, farm: &str, vpn: Value) {
    let patch = Patch::Merge(json!({"spec": {"router": {"vpn": vpn}}}));
    tenant.farms().patch(farm, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a box"]
async fn farms_are_joined_if_both_say_so_and_no_third_one_is() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("joined").await;
    let routers: Api<VRouter> = Api::namespaced(the_box.cluster.client.clone(), &tenant.namespace);
    for farm in ["one", "two", "three"] {
        tenant.given_farm(farm, json!({"router": {}})).await;
        tenant.asks_for(&format!("machine-{farm}"), json!({"farm": farm})).await;
    }
    let mut machines = Vec::new();
    for farm in ["one", "two", "three"] {
        machines.push(tenant.ready(&format!("machine-{farm}")).await);
        the_box.until(&routers, farm, "works", BOOT, is_ready).await;
    }
    let [one, two, three] = &machines[..] else { unreachable!() };
    let other = |farm: &str| json!([{"name": "other", "peerRef": {"namespace": tenant.namespace, "name": farm}}]);
    changes(&tenant, "one", json!({"peers": other("two")})).await;
    let alone = |router: &VRouter| reason(router, "PeersJoined").0 == "NoConsent";
    the_box.until(&routers, "one", "waits for the other's consent", SOON, alone).await;
    assert!(!pings(&the_box, one, &address_of(two)), "one farm alone joins nobody");

    changes(&tenant, "two", json!({"peers": other("one")})).await;
    let begin = Instant::now();
    let joined = |router: &VRouter| reason(router, "PeersJoined").0 == "Joined";
    for farm in ["one", "two"] {
        the_box.until(&routers, farm, "is joined", SOON, joined).await;
    }
    measured(TUNNEL, "told to be joined after", since(begin));
    assert!(pings(&the_box, one, &address_of(two)), "one reaches the other");
    assert!(pings(&the_box, two, &address_of(one)), "and the other way");
    for target in [one, two] {
        assert!(!pings(&the_box, three, &address_of(target)), "a third farm reaches nobody");
    }
    nobody_reads_the_key(&tenant, &routers).await;
    a_new_key_costs_a_moment(&tenant, &routers, one, two).await;

    changes(&tenant, "two", Value::Null).await;
    the_box.until(&routers, "one", "is alone again", SOON, alone).await;
    assert!(!pings(&the_box, one, &address_of(two)), "what one takes back ends for both");
    let gone = |router: &VRouter| router.status.as_ref().is_some_and(|status| status.vpn.is_none());
    the_box.until(&routers, "two", "has no key any more", SOON, gone).await;
}

/// The private key is in the operator's namespace; the status shows the other half.
async fn nobody_reads_the_key(tenant: &Tenant<'_>, routers: &Api<VRouter>) {
    let cluster = &tenant.the_box.cluster;
    let router = routers.get("one").await.unwrap();
    let name = format!("vrouter-{}", router.uid().unwrap());
    let key = cluster
        .stdout("kubectl", &["get", "secret", &name, "-n", "cascina-system", "-o", "jsonpath={.data.privateKey}"]);
    assert!(!key.is_empty(), "the key is in a Secret");
    let everything = cluster.stdout(
        "kubectl",
        &["get", "secrets,events,virtualfarms,vrouters,virtualmachines", "-n", &tenant.namespace, "-o", "yaml"],
    );
    let log = tenant.the_box.operator_log(1, 100_000);
    let plain = String::from_utf8(base64_of(&key)).unwrap();
    for text in [&everything, &log] {
        assert!(!text.contains(&plain) && !text.contains(&key), "the private key stands where it mustn't");
    }
}

fn base64_of(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

/// While pings go every 100 ms one router gets another key: how many are lost.
async fn a_new_key_costs_a_moment(
    tenant: &Tenant<'_>,
    routers: &Api<VRouter>,
    one: &VirtualMachine,
    two: &VirtualMachine,
) {
    let key = |router: &VRouter| router.status.as_ref().and_then(|status| status.vpn.as_ref()?.public_key.clone());
    let before = key(&routers.get("one").await.unwrap());
    let log = "/tmp/pings";
    let ping = format!("ping -i 0.1 -c 150 -W 1 {} > {log} 2>&1 &", address_of(two));
    assert!(tenant.inside(one, &["sh", "-c", &ping]).0);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let patch = Patch::Merge(json!({"spec": {"router": {"vpn": {"keyGeneration": 2}}}}));
    tenant.farms().patch("one", &PatchParams::default(), &patch).await.unwrap();
    let changed = |router: &VRouter| key(router) != before && reason(router, "PeersJoined").0 == "Joined";
    let begin = Instant::now();
    tenant.the_box.until(routers, "one", "works by another key", SOON, changed).await;
    measured(TUNNEL, "key changed after", since(begin));
    let end = tenant.the_box.eventually("the last ping", BOOT, async || {
        let text = String::from_utf8_lossy(&tenant.file_inside(one, log)).into_owned();
        text.contains("round-trip").then_some(text.clone()).ok_or(text)
    });
    let text = end.await;
    let number = |word: &str| {
        let (before, _) = text.split_once(word).unwrap();
        before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u32>().unwrap()
    };
    let lost = number(" packets transmitted") - number(" packets received");
    let longest = text.rsplit('/').next().unwrap();
    measured(TUNNEL, "pings lost of 150, ten a second, while a key changed", lost);
    measured(TUNNEL, "longest wait for an answer meanwhile", longest.trim());
    assert!(lost < 50, "{text}");
}
