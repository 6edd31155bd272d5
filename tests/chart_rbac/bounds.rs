//! What the chart's policy keeps the operator's own account from.

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::{Cluster, dynamic, eventually, merged};
use crate::{NAME, controller, from, kind, machine, operator, paused};

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
        json!({"metadata": {"labels": {"a": "b"}}}),
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
