//! What somebody who may write farms and machines can't do with their metadata, and what goes on all the same: the policy of the
//! chart, with the operator and Kubernetes' garbage collector at work under it.

use std::time::Duration;

use cascina::api::VirtualFarm;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{dynamic, merged};
use crate::support::{SOON, Tenant, the_box};

const ANNA: &str = "e2e-anna";

/// Anna's view of the API server: she is an admin of the farm, and nothing else.
fn anna(tenant: &Tenant<'_>) -> Client {
    tenant.the_box.cluster.as_user(ANNA, &["system:authenticated"])
}

fn ours(client: &Client, kind: &str, namespace: &str) -> Api<DynamicObject> {
    dynamic(client, "cascina.dev/v1alpha1", kind, namespace)
}

fn machine(name: &str) -> Value {
    json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name},
        "spec": {"farm": "farm", "flavour": "nano", "image": "appliance", "runStrategy": "Halted"},
    })
}

fn owner(kind: &str, api_version: &str, name: &str, uid: &str, controls: bool) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": controls, "blockOwnerDeletion": controls})
}

/// A farm of Anna's, and Anna's right to it, arrived.
async fn given_a_farm_of_anna(tenant: &Tenant<'_>) -> VirtualFarm {
    tenant.given_farm("farm", json!({"admins": [{"kind": "User", "name": ANNA}]})).await;
    let machines = ours(&anna(tenant), "VirtualMachine", &tenant.namespace);
    let arrived = async || machines.list(&Default::default()).await.map(drop).map_err(|error| error.to_string());
    tenant.the_box.eventually("Anna's right to her farm", SOON, arrived).await;
    tenant.farms().get("farm").await.unwrap()
}

fn refusal<T>(answer: kube::Result<T>, what: &Value) -> String {
    match answer {
        Ok(_) => panic!("{what} was admitted"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_tenant_changes_no_finalizer_owner_or_annotation_that_the_site_stands_on() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("metadata").await;
    let farm = given_a_farm_of_anna(&tenant).await;
    let as_anna = anna(&tenant);
    let machines = ours(&as_anna, "VirtualMachine", &tenant.namespace);
    machines.create(&PostParams::default(), &serde_json::from_value(machine("one")).unwrap()).await.unwrap();
    tenant.until("one", "has the operator's finalizer", SOON, |machine| !machine.finalizers().is_empty()).await;

    let gone = "11111111-2222-3333-4444-555555555555";
    let by_nobody = owner("VirtualFarm", "cascina.dev/v1alpha1", "gone", gone, false);
    let by_a_thing = owner("ConfigMap", "v1", "gone", gone, false);
    let by_her_farm = owner("VirtualFarm", "cascina.dev/v1alpha1", "farm", &farm.uid().unwrap(), true);
    let changes = [
        (json!({"finalizers": null}), "metadata.finalizers"),
        (json!({"finalizers": []}), "metadata.finalizers"),
        (json!({"finalizers": ["example.org/mine"]}), "metadata.finalizers"),
        (json!({"finalizers": ["cascina.dev/cleanup", "cascina.dev/more"]}), "metadata.finalizers"),
        (json!({"finalizers": ["cascina.dev/cleanup", "orphan"]}), "metadata.finalizers"),
        (json!({"ownerReferences": [by_nobody]}), "metadata.ownerReferences"),
        (json!({"ownerReferences": [by_a_thing]}), "metadata.ownerReferences"),
        (json!({"ownerReferences": [by_her_farm]}), "metadata.ownerReferences"),
        (json!({"annotations": {"cascina.dev/paused": "true"}}), "metadata.annotations"),
        (json!({"annotations": {"cascina.dev/paused": "false"}}), "metadata.annotations"),
        (json!({"annotations": {"cascina.dev/dry-run": "true"}}), "metadata.annotations"),
        (json!({"annotations": {"cascina.dev/template-hash": "00"}}), "metadata.annotations"),
    ];
    for (kind, name) in [("VirtualFarm", "farm"), ("VirtualMachine", "one")] {
        let objects = ours(&as_anna, kind, &tenant.namespace);
        for (metadata, says) in &changes {
            let patch = json!({"metadata": metadata});
            let said = refusal(objects.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await, &patch);
            assert!(said.contains(says) && said.contains("needs the verb govern"), "{kind} {metadata}: {said}");
        }
        // A manifest that is put in place of the object leaves out what the operator wrote.
        let mut bare = objects.get(name).await.unwrap();
        bare.metadata.finalizers = None;
        let said = refusal(objects.replace(name, &PostParams::default(), &bare).await, &json!("replace"));
        assert!(said.contains("use kubectl apply"), "{kind}: {said}");
        // What others stand on is theirs, and lets nobody's machines stay.
        let others = json!({"metadata": {"finalizers": ["cascina.dev/cleanup", "example.org/mine"]}});
        objects.patch(name, &PatchParams::default(), &Patch::Merge(&others)).await.expect("a finalizer of hers");
        let none = json!({"metadata": {"finalizers": ["cascina.dev/cleanup"]}});
        objects.patch(name, &PatchParams::default(), &Patch::Merge(&none)).await.expect("and without it");
        // What is hers she changes.
        let hers = json!({"metadata": {"annotations": {"example.org/note": "mine"}, "labels": {"team": "blue"}}});
        objects
            .patch(name, &PatchParams::default(), &Patch::Merge(&hers))
            .await
            .expect("her own labels and annotations");
    }

    for (metadata, says) in &changes[3..] {
        let made = merged(machine("two"), &json!({"metadata": metadata}));
        let made = serde_json::from_value(made).unwrap();
        let said = refusal(machines.create(&PostParams::default(), &made).await, metadata);
        assert!(said.contains(says), "create with {metadata}: {said}");
        let mut nameless = made;
        nameless.metadata.name = None;
        nameless.metadata.generate_name = Some("two-".into());
        let said = refusal(machines.create(&PostParams::default(), &nameless).await, metadata);
        assert!(said.contains(says), "create by generateName with {metadata}: {said}");
    }
    let apply = PatchParams::apply("cascina-farm").force();
    let applied = merged(machine("two"), &json!({"metadata": {"ownerReferences": [by_her_farm]}}));
    let said = refusal(machines.patch("two", &apply, &Patch::Apply(&applied)).await, &applied);
    assert!(said.contains("metadata.ownerReferences"), "{said}");

    // A status carries no metadata in, whoever writes it.
    let forged =
        json!({"metadata": {"finalizers": null, "ownerReferences": [by_nobody]}, "status": {"phase": "Stopped"}});
    tenant.machines().patch_status("one", &PatchParams::default(), &Patch::Merge(&forged)).await.unwrap();
    let one = tenant.machines().get("one").await.unwrap();
    assert!(!one.finalizers().is_empty() && one.owner_references().is_empty(), "{:?}", one.metadata);

    // She deletes what is hers in each of Kubernetes' ways.
    for (name, how) in [
        ("one", DeleteParams::foreground()),
        ("three", DeleteParams::background()),
        ("four", DeleteParams { propagation_policy: Some(kube::api::PropagationPolicy::Orphan), ..Default::default() }),
    ] {
        if name != "one" {
            machines.create(&PostParams::default(), &serde_json::from_value(machine(name)).unwrap()).await.unwrap();
        }
        machines.delete(name, &how).await.unwrap();
        let gone = async || match tenant.machines().get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(left) => Err(format!("{:?}", left.metadata.finalizers)),
        };
        the_box.eventually("a deleted machine to be gone", SOON, gone).await;
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn the_machine_of_a_router_is_no_machine_that_a_tenant_sizes() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("router-spec").await;
    given_a_farm_of_anna(&tenant).await;
    let router = json!({"metadata": {"name": "by-hand", "annotations": {"cascina.dev/paused": "true"}}, "spec": {"farm": "farm"}});
    let router = tenant.makes("VRouter", router).await;
    let by_router = owner("VRouter", "cascina.dev/v1alpha1", "by-hand", &router.uid().unwrap(), true);
    let metadata = json!({"ownerReferences": [by_router], "annotations": {"cascina.dev/paused": "true"}});
    let made = merged(machine("by-hand-router-0"), &json!({"metadata": metadata}));
    tenant.machines().create(&PostParams::default(), &serde_json::from_value(made).unwrap()).await.unwrap();

    let machines = ours(&anna(&tenant), "VirtualMachine", &tenant.namespace);
    for spec in [
        json!({"flavour": "m1.large"}),
        json!({"sshKeys": [crate::hostile_text::KEY]}),
        json!({"userData": {"inline": "a"}}),
    ] {
        let patch = json!({"spec": spec});
        let answer = machines.patch("by-hand-router-0", &PatchParams::default(), &Patch::Merge(&patch)).await;
        assert!(refusal(answer, &patch).contains("which no quota counts"), "{spec}");
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn who_governs_a_farm_may_pause_and_rehearse_it() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("governor").await;
    given_a_farm_of_anna(&tenant).await;
    let role = json!({"metadata": {"name": "governor"}, "rules": [
        {"apiGroups": ["cascina.dev"], "resources": ["virtualfarms"], "verbs": ["govern"], "resourceNames": ["farm"]},
    ]});
    tenant.creates("Role", "rbac.authorization.k8s.io/v1", role).await.unwrap();
    let binding = json!({
        "metadata": {"name": "governor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "governor"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": ANNA}],
    });
    tenant.creates("RoleBinding", "rbac.authorization.k8s.io/v1", binding).await.unwrap();
    let farms = ours(&anna(&tenant), "VirtualFarm", &tenant.namespace);
    let rehearsed = json!({"metadata": {"annotations": {"cascina.dev/dry-run": "true"}}});
    let allowed = async || {
        let answer = farms.patch("farm", &PatchParams::default(), &Patch::Merge(&rehearsed)).await;
        answer.map(drop).map_err(|error| error.to_string())
    };
    the_box.eventually("the right to govern", SOON, allowed).await;
    let machines = ours(&anna(&tenant), "VirtualMachine", &tenant.namespace);
    let paused = merged(machine("one"), &json!({"metadata": {"annotations": {"cascina.dev/paused": "true"}}}));
    machines.create(&PostParams::default(), &serde_json::from_value(paused).unwrap()).await.expect("also its machines");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn the_garbage_collector_works_under_the_policy() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("garbage").await;
    given_a_farm_of_anna(&tenant).await;
    let maps = dynamic(&the_box.cluster.client, "v1", "ConfigMap", &tenant.namespace);
    let mut owners = Vec::new();
    for name in ["orphaning", "background", "foreground", "stays"] {
        let map = json!({"metadata": {"name": name}});
        let map = tenant.creates("ConfigMap", "v1", map).await.unwrap();
        owners.push(owner("ConfigMap", "v1", name, &map.uid().unwrap(), name == "foreground"));
    }
    let [orphaning, background, foreground, stays] = owners.try_into().unwrap();
    for (name, owners) in [
        ("orphaned", json!([orphaning])),
        ("shared", json!([background, stays])),
        ("collected", json!([background])),
        ("blocking", json!([foreground])),
    ] {
        let owned = merged(machine(name), &json!({"metadata": {"ownerReferences": owners}}));
        tenant.machines().create(&PostParams::default(), &serde_json::from_value(owned).unwrap()).await.unwrap();
    }
    let orphan = DeleteParams { propagation_policy: Some(kube::api::PropagationPolicy::Orphan), ..Default::default() };
    for (name, how) in
        [("orphaning", orphan), ("background", DeleteParams::background()), ("foreground", DeleteParams::foreground())]
    {
        maps.delete(name, &how).await.unwrap();
    }
    let collected = async || {
        let machines = tenant.machines().list(&Default::default()).await.unwrap().items;
        let mut left: Vec<_> =
            machines.iter().map(|machine| (machine.name_any(), machine.owner_references().len())).collect();
        left.sort();
        let maps = maps.list(&Default::default()).await.unwrap().items;
        let waiting: Vec<_> =
            maps.iter().map(ResourceExt::name_any).filter(|name| name != "kube-root-ca.crt").collect();
        let expected = [("orphaned".to_owned(), 0), ("shared".to_owned(), 1)];
        (left == expected && waiting == ["stays"]).then_some(()).ok_or_else(|| format!("{left:?} {waiting:?}"))
    };
    the_box.eventually("the garbage collector's work", Duration::from_secs(60), collected).await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn removed_admins_lose_their_access_though_the_farm_is_paused_or_rehearsed() {
    let the_box = the_box().await;
    for annotation in ["cascina.dev/dry-run", "cascina.dev/paused"] {
        let tenant = the_box.tenant("revoked").await;
        given_a_farm_of_anna(&tenant).await;
        let (bruno, held) = ("e2e-bruno", json!({"metadata": {"annotations": {annotation: "true"}}}));
        tenant.farms().patch("farm", &PatchParams::default(), &Patch::Merge(&held)).await.unwrap();
        let replaced = json!({"spec": {"admins": [{"kind": "User", "name": bruno}]}});
        tenant.farms().patch("farm", &PatchParams::default(), &Patch::Merge(&replaced)).await.unwrap();

        let sees = async |user: &str| {
            let client = the_box.cluster.as_user(user, &["system:authenticated"]);
            ours(&client, "VirtualMachine", &tenant.namespace).list(&Default::default()).await.is_ok()
        };
        let taken_away =
            async || if sees(ANNA).await { Err(format!("with {annotation} she still sees it")) } else { Ok(()) };
        the_box.eventually("Anna's access to be taken away", SOON, taken_away).await;
        assert!(!sees(bruno).await, "{annotation}: giving waits");

        let released = json!({"metadata": {"annotations": {annotation: null}}});
        tenant.farms().patch("farm", &PatchParams::default(), &Patch::Merge(&released)).await.unwrap();
        let given =
            async || if sees(bruno).await { Ok(()) } else { Err(format!("without {annotation} he sees nothing")) };
        the_box.eventually("Bruno's access", SOON, given).await;
    }
}
