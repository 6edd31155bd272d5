//! What the chart's policy keeps the operator's own account from.

use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::support::{Cluster, dynamic, eventually, merged};
use crate::{NAME, TENANT, controller, from, kind, machine, operator, paused};

/// Whether the API server refuses a request with these words; a policy becomes active shortly after it was installed.
pub async fn refused<T>(says: &str, mut request: impl AsyncFnMut() -> kube::Result<T>) {
    eventually(&format!("a refusal that says {says:?}"), async || match request().await {
        Ok(_) => false,
        Err(error) => {
            assert!(error.to_string().contains(says), "{says:?} isn't in: {error}");
            true
        }
    })
    .await;
}

/// Its account may patch whole objects by RBAC; the policy holds it to finalizers of what people wrote, and to what its farms made.
pub async fn the_operator_changes_only_what_is_its_own(cluster: &Cluster, farm: &DynamicObject) {
    let (user, groups) = operator();
    let operator = cluster.as_user(&user, &groups);
    let merge = PatchParams::default();
    let farms = kind(&operator, "VirtualFarm");
    for change in [
        json!({"spec": {"admins": [{"kind": "User", "name": "chart-eve"}]}}),
        json!({"metadata": {"annotations": {"cascina.dev/paused": null}}}),
        json!({"metadata": {"labels": {"cascina.dev/farm": "chart-farm"}}}),
        json!({"metadata": {"ownerReferences": [controller(farm)]}}),
    ] {
        refused("nothing but finalizers", async || farms.patch("chart-farm", &merge, &Patch::Merge(&change)).await)
            .await;
    }
    for finalizers in [json!(["cascina.dev/cleanup"]), json!([])] {
        let change = json!({"metadata": {"finalizers": finalizers}});
        farms.patch("chart-farm", &merge, &Patch::Merge(&change)).await.expect("finalizers are its own");
    }

    let theirs = kind(&cluster.client, "VirtualMachine");
    theirs.create(&PostParams::default(), &from(paused(machine("chart-theirs")))).await.unwrap();
    let machines = kind(&operator, "VirtualMachine");
    let halted = json!({"spec": {"runStrategy": "Halted"}});
    let owned = json!({"metadata": {"ownerReferences": [controller(farm)]}});
    let only = "only what a farm or its router controls";
    for change in [&halted, &owned] {
        refused(only, async || machines.patch("chart-theirs", &merge, &Patch::Merge(change)).await).await;
    }
    refused(only, async || machines.delete("chart-theirs", &DeleteParams::default()).await).await;
    refused(only, async || machines.create(&PostParams::default(), &from(machine("chart-free"))).await).await;
    let finalizers = json!({"metadata": {"finalizers": ["cascina.dev/cleanup"]}});
    machines.patch("chart-theirs", &merge, &Patch::Merge(&finalizers)).await.expect("finalizers are its own");
    theirs.patch("chart-theirs", &merge, &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await.unwrap();
    theirs.delete("chart-theirs", &DeleteParams::default()).await.unwrap();

    machines
        .create(&PostParams::default(), &from(merged(paused(machine("chart-made")), &owned)))
        .await
        .expect("a farm's machine");
    machines.patch("chart-made", &merge, &Patch::Merge(&halted)).await.expect("it changes with its group");
    machines.delete("chart-made", &DeleteParams::default()).await.expect("and goes with it");

    a_router_is_its_own_by_its_status(cluster, &operator).await;

    let secrets = dynamic(&operator, "v1", "Secret", NAME);
    let secret = |kind: &str| {
        let metadata = json!({"name": "chart-key"});
        from(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind}))
    };
    refused("no Secrets but the keys of routers", async || {
        secrets.create(&PostParams { dry_run: true, ..PostParams::default() }, &secret("Opaque")).await
    })
    .await;
    secrets.create(&PostParams::default(), &secret("cascina.dev/wireguard")).await.expect("a router's key");
    secrets.delete("chart-key", &DeleteParams::default()).await.expect("which goes with it");
    let credentials = dynamic(&cluster.client, "v1", "Secret", NAME);
    credentials.create(&PostParams::default(), &secret("Opaque")).await.unwrap();
    refused("no Secrets but the keys of routers", async || secrets.delete("chart-key", &DeleteParams::default()).await)
        .await;
}

/// The machine of a router that lost its owner and its labels, as by an administrator's hand or by `--cascade=orphan`. The operator
/// knows it by its status, which nobody else writes, and has to be able to mend and to delete it, or its farm waits for ever.
async fn a_router_is_its_own_by_its_status(cluster: &Cluster, operator: &Client) {
    let merge = PatchParams::default();
    let theirs = kind(&cluster.client, "VirtualMachine");
    let machines = kind(operator, "VirtualMachine");
    let appointed = json!({"status": {"router": {"seat": "Only"}}});
    for name in ["chart-farm-router-0", "chart-two"] {
        theirs.create(&PostParams::default(), &from(paused(machine(name)))).await.unwrap();
        machines.patch_status(name, &merge, &Patch::Merge(&appointed)).await.expect("statuses are its own");
    }
    let halted = json!({"spec": {"runStrategy": "Halted"}});
    let only = "only what a farm or its router controls";
    // Whoever has the operator's account can't make a router of any machine.
    refused(only, async || machines.patch("chart-two", &merge, &Patch::Merge(&halted)).await).await;
    refused(only, async || machines.delete("chart-two", &DeleteParams::default()).await).await;
    theirs.delete("chart-two", &DeleteParams::default()).await.unwrap();
    machines.patch("chart-farm-router-0", &merge, &Patch::Merge(&halted)).await.expect("its spec is put back");
    machines.delete("chart-farm-router-0", &DeleteParams::default()).await.expect("and it goes with its router");
}

/// A mutating webhook stamps what the operator writes, and policies see it with that stamp.
pub async fn what_others_stamp_is_no_change_of_the_operators(cluster: &Cluster) {
    let (user, groups) = operator();
    let operator = cluster.as_user(&user, &groups);
    let of_the_cluster = |kind: &str| -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        Api::all_with(cluster.client.clone(), &ApiResource::from_gvk(&kind))
    };
    let stamps = of_the_cluster("MutatingAdmissionPolicy");
    let bound = of_the_cluster("MutatingAdmissionPolicyBinding");
    let stamp = "{'example.org/stamped': oldObject.metadata.resourceVersion}";
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": "chart-stamp"},
        "spec": {
            "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["cascina.dev"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["*"],
            }]},
            "matchConditions": [{"name": "of-the-tenant", "expression": format!("request.namespace == '{TENANT}'")}],
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": format!(
                "Object{{metadata: Object.metadata{{labels: {stamp}, annotations: {stamp}}}}}"
            )}}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "chart-stamp"}, "spec": {"policyName": "chart-stamp"},
    });
    let _ = stamps.delete("chart-stamp", &DeleteParams::default()).await;
    let _ = bound.delete("chart-stamp", &DeleteParams::default()).await;
    stamps.create(&PostParams::default(), &from(policy)).await.unwrap();
    bound.create(&PostParams::default(), &from(binding)).await.unwrap();

    let merge = PatchParams::default();
    let theirs = kind(&cluster.client, "VirtualMachine");
    theirs.create(&PostParams::default(), &from(paused(machine("chart-stamped")))).await.unwrap();
    let touched = json!({"metadata": {"annotations": {"example.org/touched": "true"}}});
    eventually("the stamp", async || {
        let answer = theirs.patch("chart-stamped", &merge, &Patch::Merge(&touched)).await.unwrap();
        answer.metadata.labels.is_some_and(|labels| labels.contains_key("example.org/stamped"))
    })
    .await;
    for (kind_of, name) in [("VirtualFarm", "chart-farm"), ("VirtualMachine", "chart-stamped")] {
        let objects = kind(&operator, kind_of);
        for finalizers in [json!(["cascina.dev/cleanup"]), json!(null)] {
            let change = json!({"metadata": {"finalizers": finalizers}});
            objects.patch(name, &merge, &Patch::Merge(&change)).await.expect("a stamp comes along with it");
        }
        for metadata in [
            json!({"annotations": {"cascina.dev/paused": null}}),
            json!({"annotations": {"cascina.dev/more": "true"}}),
            json!({"labels": {"cascina.dev/farm": "another"}}),
        ] {
            let change = json!({"metadata": metadata});
            objects
                .patch(name, &merge, &Patch::Merge(&change))
                .await
                .expect_err("what is the site's isn't the operator's");
        }
    }
    theirs.delete("chart-stamped", &DeleteParams::default()).await.unwrap();
    bound.delete("chart-stamp", &DeleteParams::default()).await.unwrap();
    stamps.delete("chart-stamp", &DeleteParams::default()).await.unwrap();
}
