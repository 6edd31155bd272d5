//! What people get wrong about farms and machines: each is told, nothing else suffers, and a correction is enough.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{BOOT, SMALL, SOON, condition, is_ready, reason, the_box};

#[tokio::test]
#[ignore = "needs a box"]
async fn a_farm_with_an_impossible_network_is_refused_by_the_api() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("bad-farms").await;
    let refused = [
        ("172.16.0.0/16", "prefix of 24"),
        ("172.16.9.0/25", "prefix of 24"),
        ("172.16.9.7/24", "prefix of 24"),
        ("fd00::/24", "prefix of 24"),
        ("farm", "prefix of 24"),
        ("172.16.9.0/24; rm -rf /", "Too long"),
    ];
    for (cidr, says) in refused {
        let farm = json!({"metadata": {"name": "never"}, "spec": {"network": {"cidr": cidr}}});
        let error = tenant.creates("VirtualFarm", "cascina.dev/v1alpha1", farm).await.expect_err(cidr);
        assert!(error.contains(says), "{cidr}: {error}");
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_farm_whose_network_is_taken_or_elsewhere_says_so_and_starts_nothing() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("overlaps").await;
    let first = tenant.given_farm("farm", json!({"network": {"cidr": "172.16.201.0/24"}})).await;
    assert_eq!(first.status.unwrap().network.as_deref(), Some("172.16.201.0/24"));
    let groups = json!([{"name": "node", "replicas": 1, "flavour": SMALL, "image": "appliance"}]);
    for (name, cidr, why, says) in [
        ("second", "172.16.201.0/24", "NetworkOverlaps", "/farm"),
        ("abroad", "10.1.2.0/24", "OutsidePool", "172.16.0.0/16"),
    ] {
        let spec = json!({"network": {"cidr": cidr}, "groups": groups});
        tenant.makes("VirtualFarm", json!({"metadata": {"name": name}, "spec": spec})).await;
        let farm = the_box
            .until(&tenant.farms(), name, "says what is wrong", SOON, |farm| reason(farm, "NetworkReady").0 == why)
            .await;
        let (_, message) = reason(&farm, "NetworkReady");
        assert!(message.contains(cidr) && message.contains(says), "{message}");
        assert!(!is_ready(&farm) && condition(&farm, "Ready").unwrap().message.contains(cidr), "Ready says it too");
    }
    let machines = tenant.machines().list(&Default::default()).await.unwrap().items;
    assert!(machines.is_empty(), "a farm without a network makes no machine: {machines:?}");
    let first = tenant.farms().get("farm").await.unwrap();
    assert!(is_ready(&first), "the first farm keeps its network: {:?}", condition(&first, "Ready"));
}

#[tokio::test]
#[ignore = "needs a box"]
async fn an_unknown_flavour_or_image_is_waited_for_and_named() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("unknown").await;
    tenant.given_farm("farm", json!({})).await;
    let mark = tenant.namespace.clone();
    let flavour = format!("{mark}-flavour");
    let image = format!("{mark}-image");
    tenant.asks_for("no-flavour", json!({"flavour": flavour, "readiness": "None"})).await;
    tenant.asks_for("no-image", json!({"image": image, "readiness": "None"})).await;
    for (machine, why, missing) in [("no-flavour", "FlavourNotFound", &flavour), ("no-image", "ImageNotFound", &image)]
    {
        let waits = tenant.until(machine, "waits", SOON, |machine| reason(machine, "Scheduled").0 == why).await;
        assert!(reason(&waits, "Scheduled").1.contains(missing.as_str()), "{:?}", reason(&waits, "Scheduled"));
        // The column that `kubectl get cvm` shows says it as well.
        let shown = tenant.until(machine, "shows it", SOON, |machine| reason(machine, "Ready").0 == why).await;
        assert_eq!(shown.status.unwrap().phase, Some(cascina::api::Phase::Pending));
    }

    let begin = Instant::now();
    tenant.makes("Flavour", json!({"metadata": {"name": flavour}, "spec": {"cpus": 1, "memory": "192Mi"}})).await;
    let scheduled = |machine: &cascina::api::VirtualMachine| reason(machine, "Scheduled").0 == "Placed";
    tenant.until("no-flavour", "starts by itself", SOON, scheduled).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
    // An image has to be fetched and verified first; it is the appliance under another name, so it is quickly there.
    let known: cascina::api::Image = the_box.all().get("appliance").await.unwrap();
    let spec = serde_json::to_value(&known.spec).unwrap();
    tenant.makes("Image", json!({"metadata": {"name": image}, "spec": spec})).await;
    tenant.until("no-image", "starts by itself", SOON, scheduled).await;
    for machine in ["no-flavour", "no-image"] {
        tenant.until(machine, "runs", BOOT, is_ready).await;
        tenant.deletes(machine).await;
        the_box.until_gone(&tenant.machines(), machine, SOON).await;
    }
}

/// The operator may read what a tenant refers to only where a Role says so.
async fn lets_the_operator_read(tenant: &crate::support::Tenant<'_>) {
    let rules = json!([{"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["get"]}]);
    let metadata = json!({"name": "user-data", "namespace": tenant.namespace});
    let rbac = "rbac.authorization.k8s.io/v1";
    tenant.creates("Role", rbac, json!({"metadata": metadata, "rules": rules})).await.unwrap();
    let operator = json!([{"kind": "ServiceAccount", "name": "cascina", "namespace": "cascina-system"}]);
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "user-data"});
    tenant
        .creates("RoleBinding", rbac, json!({"metadata": metadata, "subjects": operator, "roleRef": role}))
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "needs a box"]
async fn user_data_that_no_guest_could_read_is_refused_until_it_is_corrected() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("user-data").await;
    tenant.given_farm("farm", json!({})).await;
    lets_the_operator_read(&tenant).await;
    let name = |name: &str| json!({"name": name, "namespace": tenant.namespace});
    tenant
        .creates("ConfigMap", "v1", json!({"metadata": name("large"), "data": {"userData": "#".repeat(16385)}}))
        .await
        .unwrap();
    // Latin-1, the usual accident.
    tenant
        .creates("ConfigMap", "v1", json!({"metadata": name("latin"), "binaryData": {"userData": "Y2Fm6Q=="}}))
        .await
        .unwrap();
    tenant.creates("Secret", "v1", json!({"metadata": name("latin"), "data": {"motd": "Y2Fm6Q=="}})).await.unwrap();

    let inline = json!({"metadata": name("inline"), "spec": {
        "farm": "farm", "flavour": SMALL, "image": "appliance", "userData": {"inline": "#".repeat(16385)},
    }});
    let error = tenant.creates("VirtualMachine", "cascina.dev/v1alpha1", inline).await.expect_err("over 16 KiB");
    assert!(error.contains("Too long"), "{error}");

    let table = [
        ("large", json!({"configMapRef": {"name": "large"}}), "InvalidUserData", "16385"),
        ("latin-map", json!({"configMapRef": {"name": "latin"}}), "InvalidUserData", "UTF-8"),
        ("latin-secret", json!({"secretRef": {"name": "latin", "key": "motd"}}), "InvalidUserData", "UTF-8"),
        ("no-such-key", json!({"secretRef": {"name": "latin"}}), "UserDataNotFound", "no key"),
        ("no-such-map", json!({"configMapRef": {"name": "absent"}}), "UserDataNotFound", "absent"),
    ];
    for (machine, user_data, ..) in &table {
        tenant.asks_for(machine, json!({"userData": user_data, "readiness": "None"})).await;
    }
    for (machine, _, why, says) in &table {
        let refused = tenant.until(machine, "is refused", SOON, |machine| reason(machine, "Ready").0 == *why).await;
        let (_, message) = reason(&refused, "Ready");
        assert!(message.contains(says), "{machine}: {message}");
        assert!(the_box.hosts_with(refused.metadata.uid.as_ref().unwrap()).is_empty(), "{machine} has no domain");
    }
    tenant
        .creates("ConfigMap", "v1", json!({"metadata": name("absent"), "data": {"userData": "#cloud-config\n{}\n"}}))
        .await
        .unwrap();
    tenant.until("no-such-map", "runs once its user-data is there", BOOT, is_ready).await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn user_data_that_the_operator_may_not_read_is_told() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("forbidden").await;
    tenant.given_farm("farm", json!({})).await;
    tenant
        .creates(
            "ConfigMap",
            "v1",
            json!({"metadata": {"name": "mine", "namespace": tenant.namespace}, "data": {"userData": "#cloud-config\n{}\n"}}),
        )
        .await
        .unwrap();
    tenant.asks_for("guest", json!({"userData": {"configMapRef": {"name": "mine"}}, "readiness": "None"})).await;
    let told = |machine: &cascina::api::VirtualMachine| {
        let (_, message) = reason(machine, "Ready");
        message.contains("configmaps") || message.contains("ConfigMap")
    };
    tenant.until("guest", "says that it can't be read", SOON, told).await;
    lets_the_operator_read(&tenant).await;
    tenant.until("guest", "runs once it can", BOOT, is_ready).await;
}
