//! The charts on a real API server: installed, upgraded and uninstalled; and who may do what under their roles.
//!
//! Both charts are installed as copies under other names (and the definitions under another group), so that an installation
//! that is in use isn't touched.

#[path = "chart_rbac/bounds.rs"]
mod bounds;
#[path = "support/cluster.rs"]
mod support;
#[path = "support/turn.rs"]
mod turn;

use std::path::Path;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use bounds::{refused, the_operator_changes_only_what_is_its_own, what_others_stamp_is_no_change_of_the_operators};
use support::{Cluster, cluster, documents, dynamic, eventually, file, merged};

const NAME: &str = "chart-test";
const TENANT: &str = "chart-tenant";
const GROUP: &str = "chart-test.example.org";
const SHORT_NAMES: [&str; 6] = ["hv", "img", "fl", "vfarm", "cvm", "vr"];

/// A copy of a chart, links followed, with words of its text files replaced.
fn copied(chart: &str, to: &Path, words: &[(&str, &str)]) -> String {
    fn copy(from: &Path, to: &Path, words: &[(&str, &str)]) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &target, words);
            } else {
                let mut text = std::fs::read_to_string(&path).unwrap();
                for (old, new) in words {
                    text = text.replace(old, new);
                }
                std::fs::write(target, text).unwrap();
            }
        }
    }
    let target = to.join(Path::new(chart).file_name().unwrap());
    copy(&file(chart), &target, words);
    target.to_str().unwrap().to_owned()
}

#[tokio::test]
#[ignore = "needs a box"]
async fn uninstalling_keeps_definitions_and_objects() {
    let cluster = cluster().await;
    let directory = tempfile::tempdir().unwrap();
    let mut words = vec![("cascina.dev".to_owned(), GROUP.to_owned()), ("    - cascina\n".to_owned(), String::new())];
    // Short names are the cluster's: those of the real kinds stay theirs.
    words.extend(SHORT_NAMES.map(|name| (format!("    - {name}\n"), format!("    - chart-{name}\n"))));
    let words: Vec<_> = words.iter().map(|(old, new)| (old.as_str(), new.as_str())).collect();
    let chart = copied("charts/cascina-crds", directory.path(), &words);
    let namespace = "chart-crds";
    cluster.namespace(namespace).await;
    // Those of an earlier run may still be on their way out.
    cluster.run("kubectl", &["wait", "crd", "--for=delete", "--timeout=60s", &format!("virtualmachines.{GROUP}")]);
    let install = ["upgrade", "--install", "chart-test-crds", &chart, "-n", namespace, "--wait", "--timeout", "60s"];
    cluster.must("helm", &install);

    let flavours = dynamic(&cluster.client, &format!("{GROUP}/v1alpha1"), "Flavour", "");
    let flavour = json!({
        "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "Flavour",
        "metadata": {"name": "chart-kept"}, "spec": {"cpus": 1, "memory": "1Gi"},
    });
    let apply = PatchParams::apply("chart-test");
    eventually("the new kind", async || flavours.patch("chart-kept", &apply, &Patch::Apply(&flavour)).await.is_ok())
        .await;

    // An upgrade changes definitions, which Helm's own crds/ directory never would.
    let path = Path::new(&chart).join("files/flavours.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("maximum: 512.0", "maximum: 1024.0")).unwrap();
    cluster.must("helm", &install);
    let large = json!({"spec": {"cpus": 1000}});
    eventually("the changed schema", async || {
        flavours.patch("chart-kept", &PatchParams::default(), &Patch::Merge(&large)).await.is_ok()
    })
    .await;

    let said = cluster.must("helm", &["uninstall", "chart-test-crds", "-n", namespace]);
    assert!(said.contains("flavours.chart-test.example.org"), "Helm doesn't say what it keeps: {said}");
    assert_eq!(flavours.get("chart-kept").await.unwrap().data["spec"]["cpus"], 1000);

    // And the next installation takes them over again.
    cluster.must("helm", &install);
    cluster.must("helm", &["uninstall", "chart-test-crds", "-n", namespace]);

    let rendered = documents(&cluster.stdout("helm", &["template", "x", &chart]));
    let names: Vec<_> = rendered.iter().map(|definition| definition["metadata"]["name"].as_str().unwrap()).collect();
    cluster.must("kubectl", &[&["delete", "crd", "--timeout=60s"], names.as_slice()].concat());
    cluster.forget_namespace(namespace).await;
}

/// Installs a copy of the operator's chart, with nobody running, and a tenant's namespace.
async fn installed(cluster: &Cluster, directory: &Path) -> String {
    let words = [
        ("cascina\n{{- end }}", "chart-test\n{{- end }}"),
        ("m1.", "chart-m1."),
        ("  router: {cpus", "  chart-router: {cpus"),
    ];
    let chart = copied("charts/cascina", directory, &words);
    cluster.namespace(NAME).await;
    cluster.namespace(TENANT).await;
    cluster
        .must("helm", &["upgrade", "--install", NAME, &chart, "-n", NAME, "--set", "replicas=0", "--take-ownership"]);
    chart
}

async fn uninstalled(cluster: &Cluster) {
    cluster.must("helm", &["uninstall", NAME, "-n", NAME]);
    for flavour in ["chart-m1.tiny", "chart-m1.small", "chart-m1.medium", "chart-m1.large", "chart-router"] {
        let _ = cluster.kind("Flavour", "").delete(flavour, &DeleteParams::default()).await;
    }
    cluster.forget_namespace(TENANT).await;
    cluster.forget_namespace(NAME).await;
}

/// One installation serves the checks below, one after the other.
#[tokio::test]
#[ignore = "needs a box"]
async fn the_operator_and_the_tenants_may_do_what_they_must_and_no_more() {
    let cluster = cluster().await;
    let directory = tempfile::tempdir().unwrap();
    let chart = installed(&cluster, directory.path()).await;

    the_operator_has_its_rights_and_no_others(&cluster).await;
    user_data_references_are_opt_in(&cluster, &chart).await;
    let made = kind(&cluster.client, "VirtualFarm");
    let made = made
        .patch("chart-farm", &PatchParams::apply("chart-test").force(), &Patch::Apply(paused(farm())))
        .await
        .unwrap();
    the_operator_binds_two_roles_and_no_other(&cluster, &made).await;
    the_operator_changes_only_what_is_its_own(&cluster, &made).await;
    what_others_stamp_is_no_change_of_the_operators(&cluster).await;
    a_farm_admin_changes_machines_but_not_the_quota(&cluster).await;
    a_farm_user_only_looks(&cluster).await;
    everybody_reads_the_catalogue(&cluster).await;
    the_operators_requests_have_queues_of_their_own_and_its_lease_comes_first(&cluster).await;
    a_tenant_makes_no_more_objects_than_the_resource_quota_says(&cluster).await;
    changed_settings_arrive_and_flavours_stay(&cluster, &chart).await;

    uninstalled(&cluster).await;
}

/// The API server says of each answer by which FlowSchema it was queued.
async fn the_operators_requests_have_queues_of_their_own_and_its_lease_comes_first(cluster: &Cluster) {
    let uid =
        |schema: &str| cluster.stdout("kubectl", &["get", "flowschema", schema, "-o", "jsonpath={.metadata.uid}"]);
    let (user, groups) = operator();
    let mut who = vec![format!("--as={user}")];
    who.extend(groups.map(|group| format!("--as-group={group}")));
    let queued_by = |what: &[&str]| {
        let arguments: Vec<_> =
            who.iter().map(String::as_str).chain(["get", "-v=8"]).chain(what.iter().copied()).collect();
        let said = cluster.run("kubectl", &arguments).1.to_lowercase();
        let header = said.split("x-kubernetes-pf-flowschema-uid").nth(1).unwrap_or_default().to_owned();
        header.trim_start_matches([':', '=', '"', ' ', '[']).chars().take(36).collect::<String>()
    };
    let (lead, rest) = (uid(&format!("{NAME}-lead")), uid(&format!("{NAME}-operator")));
    // A schema takes a moment to be in force.
    eventually("the Lease to be first", async || queued_by(&["lease", "cascina-operator", "-n", NAME]) == lead).await;
    eventually("machines to have a queue", async || queued_by(&["virtualmachines", "-n", TENANT]) == rest).await;
    eventually("hosts to have a queue", async || queued_by(&["hypervisors"]) == rest).await;
}

async fn a_tenant_makes_no_more_objects_than_the_resource_quota_says(cluster: &Cluster) {
    let quota = std::fs::read_to_string(file("examples/site/resource-quota.yaml")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let few = directory.path().join("quota.yaml");
    std::fs::write(&few, quota.replace("virtualmachines.cascina.dev: \"300\"", "virtualmachines.cascina.dev: \"2\""))
        .unwrap();
    cluster
        .must("kubectl", &["apply", "-n", TENANT, "-f", file("examples/site/resource-quota.yaml").to_str().unwrap()]);
    cluster.must("kubectl", &["apply", "-n", TENANT, "-f", few.to_str().unwrap()]);
    eventually("the quota to be counted", async || {
        let used = "jsonpath={.status.used.count/virtualmachines\\.cascina\\.dev}";
        !cluster.stdout("kubectl", &["get", "resourcequota", "cascina", "-n", TENANT, "-o", used]).is_empty()
    })
    .await;
    let machines = cluster.kind("VirtualMachine", TENANT);
    let mut refusal = None;
    for index in 0..3 {
        let machine = json!({
            "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine",
            "metadata": {"name": format!("counted-{index}"), "namespace": TENANT},
            "spec": {"farm": "none", "flavour": "none", "image": "none", "runStrategy": "Halted"},
        });
        let made = machines.create(&PostParams::default(), &serde_json::from_value(machine).unwrap()).await;
        refusal = refusal.or(made.err());
    }
    let Some(kube::Error::Api(refusal)) = refusal else { panic!("all were made: {refusal:?}") };
    assert!(refusal.message.contains("exceeded quota: cascina"), "{}", refusal.message);
    cluster.must("kubectl", &["delete", "resourcequota", "cascina", "-n", TENANT]);
    let _ = machines.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
}

/// Asks the API server whether somebody may do something.
async fn may(cluster: &Cluster, user: &str, groups: &[&str], verb: &str, what: &str, namespace: &str) -> bool {
    // GROUP/RESOURCE[/SUBRESOURCE][:NAME]
    let (what, name) = what.split_once(':').unwrap_or((what, ""));
    let mut parts = what.split('/');
    let (group, resource, subresource) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap_or(""));
    let review = json!({
        "spec": {
            "user": user, "groups": groups,
            "resourceAttributes": {
                "group": group, "resource": resource, "subresource": subresource,
                "verb": verb, "namespace": namespace, "name": name,
            },
        },
    });
    let review: SubjectAccessReview = serde_json::from_value(json_with(review, "metadata", json!({}))).unwrap();
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client.clone());
    reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
}

fn json_with(mut object: Value, field: &str, value: Value) -> Value {
    object[field] = value;
    object
}

/// The operator's service account, without what everybody may do who can log in.
fn operator() -> (String, [&'static str; 2]) {
    let user = format!("system:serviceaccount:{NAME}:{NAME}");
    (user, ["system:serviceaccounts", "system:serviceaccounts:chart-test"])
}

const EVERY_VERB: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// What the operator may do with a resource in a namespace: these verbs and none else.
async fn verbs(cluster: &Cluster, what: &str, namespace: &str) -> String {
    let (user, groups) = operator();
    let mut allowed = Vec::new();
    for verb in EVERY_VERB.into_iter().chain(["bind", "escalate", "impersonate"]) {
        if may(cluster, &user, &groups, verb, what, namespace).await {
            allowed.push(verb);
        }
    }
    allowed.join(" ")
}

async fn the_operator_has_its_rights_and_no_others(cluster: &Cluster) {
    for (what, namespace, expected) in [
        ("cascina.dev/hypervisors", "", "list watch patch"),
        ("cascina.dev/hypervisors/status", "", "patch"),
        ("cascina.dev/images", "", "list watch patch"),
        ("cascina.dev/images/status", "", "patch"),
        ("cascina.dev/flavours", "", "list watch"),
        ("cascina.dev/virtualfarms", TENANT, "list watch patch"),
        ("cascina.dev/virtualfarms/status", TENANT, "patch"),
        ("cascina.dev/virtualmachines", TENANT, "get list watch create patch delete"),
        ("cascina.dev/virtualmachines/status", TENANT, "patch"),
        ("cascina.dev/vrouters", TENANT, "list watch create patch delete"),
        ("cascina.dev/vrouters/status", TENANT, "patch"),
        ("rbac.authorization.k8s.io/rolebindings", TENANT, "get create patch delete"),
        ("rbac.authorization.k8s.io/roles", TENANT, ""),
        ("rbac.authorization.k8s.io/clusterroles", "", ""),
        ("rbac.authorization.k8s.io/clusterroles:chart-test-farm-admin", "", "bind"),
        ("rbac.authorization.k8s.io/clusterroles:chart-test-farm-user", "", "bind"),
        ("rbac.authorization.k8s.io/clusterroles:cluster-admin", "", ""),
        ("rbac.authorization.k8s.io/clusterroles:chart-test-operator", "", ""),
        ("rbac.authorization.k8s.io/clusterrolebindings", "", ""),
        ("events.k8s.io/events", TENANT, "create patch"),
        ("/events", TENANT, ""),
        ("/namespaces:kube-system", "kube-system", "get"),
        ("/namespaces", "", ""),
        ("/namespaces:default", "default", ""),
        ("/secrets", NAME, "get create update delete"),
        ("/secrets", TENANT, ""),
        ("/secrets", "kube-system", ""),
        ("/configmaps", NAME, ""),
        ("/configmaps", TENANT, ""),
        ("/serviceaccounts", NAME, ""),
        ("/serviceaccounts/token", NAME, ""),
        ("/users", "", ""),
        ("/pods", NAME, ""),
        ("/pods", TENANT, ""),
        ("/pods/exec", TENANT, ""),
        ("/nodes", "", ""),
        ("/persistentvolumes", "", ""),
        ("apps/deployments", NAME, ""),
        ("coordination.k8s.io/leases", NAME, "create"),
        ("coordination.k8s.io/leases:cascina-operator", NAME, "get create patch"),
        ("coordination.k8s.io/leases:another", NAME, "create"),
        ("coordination.k8s.io/leases", "kube-system", ""),
        ("apiextensions.k8s.io/customresourcedefinitions", "", ""),
        ("admissionregistration.k8s.io/validatingadmissionpolicies", "", ""),
        ("certificates.k8s.io/certificatesigningrequests", "", ""),
    ] {
        assert_eq!(verbs(cluster, what, namespace).await, expected, "{what} in {namespace:?}");
    }
}

async fn user_data_references_are_opt_in(cluster: &Cluster, chart: &str) {
    let set = |value: &str| {
        let value = format!("userDataRefs.enabled={value}");
        cluster.must("helm", &["upgrade", NAME, chart, "-n", NAME, "--set", "replicas=0", "--set", &value]);
    };
    set("true");
    eventually("the right to arrive", async || verbs(cluster, "/secrets", TENANT).await == "get").await;
    assert_eq!(verbs(cluster, "/configmaps", TENANT).await, "get");
    set("false");
    eventually("the right to go", async || verbs(cluster, "/secrets", TENANT).await.is_empty()).await;
}

fn binding(name: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": TENANT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}

/// The same, as a farm's own.
fn binding_of(farm: &DynamicObject, name: &str, role: &str, user: &str) -> Value {
    merged(binding(name, role, user), &json!({"metadata": {"ownerReferences": [controller(farm)]}}))
}

/// An ownerReference that says that a farm controls an object.
fn controller(farm: &DynamicObject) -> Value {
    json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualFarm", "name": farm.name_any(), "uid": farm.uid(),
        "controller": true,
    })
}

async fn the_operator_binds_two_roles_and_no_other(cluster: &Cluster, farm: &DynamicObject) {
    let (user, groups) = operator();
    let bindings = dynamic(&cluster.as_user(&user, &groups), "rbac.authorization.k8s.io/v1", "RoleBinding", TENANT);
    let apply = PatchParams::apply("chart-test").force();
    let dry_run = PatchParams { dry_run: true, ..apply.clone() };
    refused("only RoleBindings that a farm controls", async || {
        let unowned = binding("unowned", "chart-test-farm-admin", "chart-anna");
        bindings.patch("unowned", &dry_run, &Patch::Apply(unowned)).await
    })
    .await;
    for (name, role, user) in
        [("admins", "chart-test-farm-admin", "chart-anna"), ("users", "chart-test-farm-user", "chart-bruno")]
    {
        bindings.patch(name, &apply, &Patch::Apply(binding_of(farm, name, role, user))).await.unwrap();
    }
    for role in ["cluster-admin", "admin", "edit", "view", "chart-test-operator"] {
        let escape = binding_of(farm, "escape", role, "chart-anna");
        let said = bindings.patch("escape", &apply, &Patch::Apply(escape)).await.expect_err(role).to_string();
        assert!(said.contains("attempting to grant") || said.contains("forbidden"), "{role}: {said}");
    }
    // Nor does it come into a binding that somebody else made.
    let theirs = dynamic(&cluster.client, "rbac.authorization.k8s.io/v1", "RoleBinding", TENANT);
    theirs.patch("theirs", &apply, &Patch::Apply(binding("theirs", "admin", "chart-owner"))).await.unwrap();
    let answer = bindings.patch("theirs", &apply, &Patch::Apply(binding("theirs", "admin", "chart-anna"))).await;
    assert!(answer.is_err(), "the operator put somebody into a binding of the role admin");
    let answer = bindings.delete("theirs", &DeleteParams::default()).await;
    assert!(answer.is_err(), "the operator deleted a binding that no farm controls");
}

fn from(object: Value) -> DynamicObject {
    serde_json::from_value(object).unwrap()
}

fn farm() -> Value {
    json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualFarm",
        "metadata": {"name": "chart-farm"},
        "spec": {
            "quota": {"instances": 2},
            "router": {},
            "elasticIP": {"target": "chart-one"},
            "groups": [{"name": "node", "flavour": "nano", "image": "appliance"}],
        },
    })
}

fn machine(name: &str) -> Value {
    json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {"farm": "chart-farm", "flavour": "nano", "image": "appliance"},
    })
}

/// The same, left alone by the operator of the box: only the site may say so.
fn paused(object: Value) -> Value {
    merged(object, &json!({"metadata": {"annotations": {"cascina.dev/paused": "true"}}}))
}

fn kind(client: &Client, kind: &str) -> Api<kube::api::DynamicObject> {
    dynamic(client, "cascina.dev/v1alpha1", kind, TENANT)
}

async fn a_farm_admin_changes_machines_but_not_the_quota(cluster: &Cluster) {
    let anna = cluster.as_user("chart-anna", &["system:authenticated"]);
    let farms = kind(&anna, "VirtualFarm");

    let scale = json!({"spec": {"groups": [{"name": "node", "flavour": "nano", "image": "appliance", "replicas": 2}]}});
    eventually("the binding", async || {
        farms.patch("chart-farm", &PatchParams::default(), &Patch::Merge(&scale)).await.is_ok()
    })
    .await;
    let ways_in = json!({"spec": {
        "router": {"forwards": [{"port": 80, "targetRef": {"name": "chart-one"}}]},
        "elasticIP": {"target": "chart-two"},
    }});
    farms.patch("chart-farm", &PatchParams::default(), &Patch::Merge(&ways_in)).await.expect("ways in are the farm's");
    for change in [
        json!({"spec": {"publicIP": "198.51.100.20"}}),
        json!({"spec": {"elasticIP": null}}),
        json!({"spec": {"elasticIP": {"address": "198.51.100.20"}}}),
        json!({"spec": {"elasticIP": null, "router": null}}),
        json!({"spec": {"router": {"replicas": 2}}}),
        json!({"spec": {"quota": {"instances": 200}}}),
        json!({"spec": {"quota": null}}),
        json!({"spec": {"network": {"domain": "bank.example"}}}),
    ] {
        // The policy becomes active shortly after it was installed.
        let mut said = String::new();
        eventually("the policy", async || {
            let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
            match farms.patch("chart-farm", &dry_run, &Patch::Merge(&change)).await {
                Ok(_) => false,
                Err(error) => {
                    said = error.to_string();
                    true
                }
            }
        })
        .await;
        assert!(said.contains("needs the verb govern on virtualfarms"), "{change}: {said}");
    }
    let more = json!({"spec": {"quota": {"instances": 4}}});
    let site = kind(&cluster.client, "VirtualFarm");
    site.patch("chart-farm", &PatchParams::default(), &Patch::Merge(&more)).await.expect("the site may");

    let machines = kind(&anna, "VirtualMachine");
    machines.create(&PostParams::default(), &from(machine("chart-one"))).await.unwrap();
    let halt = json!({"spec": {"runStrategy": "Halted"}});
    machines.patch("chart-one", &PatchParams::default(), &Patch::Merge(&halt)).await.unwrap();
    let forged = json!({"status": {"address": "172.16.0.9"}});
    assert!(machines.patch_status("chart-one", &PatchParams::default(), &Patch::Merge(&forged)).await.is_err());
    machines.delete("chart-one", &DeleteParams::default()).await.unwrap();

    let may_not = [
        ("create", "cascina.dev/virtualfarms"),
        ("delete", "cascina.dev/virtualfarms"),
        ("patch", "cascina.dev/virtualfarms/status"),
        ("govern", "cascina.dev/virtualfarms"),
        ("operate", "cascina.dev/virtualfarms"),
        ("create", "cascina.dev/vrouters"),
        ("patch", "cascina.dev/vrouters"),
        ("patch", "cascina.dev/vrouters/status"),
        ("patch", "cascina.dev/virtualmachines/status"),
        ("get", "/secrets"),
        ("list", "/secrets"),
        ("get", "/configmaps"),
        ("create", "rbac.authorization.k8s.io/rolebindings"),
        ("create", "/pods"),
    ];
    for (verb, what) in may_not {
        assert!(!may(cluster, "chart-anna", &[], verb, what, TENANT).await, "{verb} {what}");
    }
    for what in ["cascina.dev/hypervisors", "cascina.dev/virtualfarms", "cascina.dev/virtualmachines"] {
        assert!(!may(cluster, "chart-anna", &[], "list", what, "").await, "list {what} everywhere");
    }
    assert!(may(cluster, "chart-anna", &[], "list", "/events", TENANT).await);
}

async fn a_farm_user_only_looks(cluster: &Cluster) {
    for what in ["cascina.dev/virtualfarms", "cascina.dev/virtualmachines", "cascina.dev/vrouters", "/events"] {
        for verb in EVERY_VERB {
            let expected = matches!(verb, "get" | "list" | "watch");
            assert_eq!(may(cluster, "chart-bruno", &[], verb, what, TENANT).await, expected, "{verb} {what}");
        }
    }
}

async fn everybody_reads_the_catalogue(cluster: &Cluster) {
    for what in ["cascina.dev/flavours", "cascina.dev/images"] {
        assert!(may(cluster, "chart-carla", &["system:authenticated"], "list", what, "").await, "{what}");
        assert!(!may(cluster, "chart-carla", &["system:authenticated"], "patch", what, "").await, "{what}");
    }
    // The chart of the box may be there too: only this chart's binding is asked for.
    let bindings = dynamic(&cluster.client, "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "");
    let bound = bindings.get("chart-test-catalogue-reader").await.unwrap();
    assert_eq!(bound.data["subjects"][0]["name"], "system:authenticated");
}

async fn changed_settings_arrive_and_flavours_stay(cluster: &Cluster, chart: &str) {
    let change = ["upgrade", NAME, chart, "-n", NAME, "--set", "replicas=0,site.dnsDomain=farms.example.org"];
    cluster.must("helm", &change);
    let maps = dynamic(&cluster.client, "v1", "ConfigMap", NAME);
    let site = maps.get("chart-test-site").await.unwrap();
    let site = site.data["data"]["site.yaml"].as_str().unwrap().to_owned();
    assert!(site.contains("dnsDomain: farms.example.org"), "{site}");

    cluster.must("helm", &["uninstall", NAME, "-n", NAME]);
    let flavours = cluster.kind("Flavour", "").list(&ListParams::default()).await.unwrap();
    let left =
        flavours.items.iter().filter(|flavour| flavour.metadata.name.as_ref().unwrap().starts_with("chart-")).count();
    assert_eq!(left, 5, "flavours that machines may refer to went with the chart");
    assert!(kind(&cluster.client, "VirtualFarm").get("chart-farm").await.is_ok(), "a farm went with the chart");
    // A new installation takes them over.
    cluster.must("helm", &["upgrade", "--install", NAME, chart, "-n", NAME, "--set", "replicas=0"]);
    kind(&cluster.client, "VirtualFarm").delete("chart-farm", &DeleteParams::default()).await.unwrap();
}
