//! The examples as a GitOps tool treats them: applied, compared, removed, in any order.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use cascina::api::{Flavour, Hypervisor, Image, VRouter, VirtualFarm, VirtualMachine};
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::farms::{apply_examples, nodes};
use crate::support::{BOOT, EXAMPLES, HOSTS, SMALL, SOON, TheBox, is_ready, reason, the_box, the_box_alone};

fn farms(the_box: &TheBox, namespace: &str) -> Api<VirtualFarm> {
    Api::namespaced(the_box.cluster.client.clone(), namespace)
}

async fn uids(the_box: &TheBox) -> Vec<String> {
    let machines: Vec<VirtualMachine> = the_box.all().list(&Default::default()).await.unwrap().items;
    let examples = |machine: &&VirtualMachine| EXAMPLES.contains(&machine.namespace().unwrap().as_str());
    machines.iter().filter(examples).map(|machine| machine.uid().unwrap()).collect()
}

/// The example's documents with the slow machine left out, first or last document first.
fn quick_examples(reversed: bool) -> tempfile::NamedTempFile {
    let mut documents = crate::cluster::documents(&crate::cluster::read("examples/first-farm.yaml"));
    for document in &mut documents {
        if let Some(Value::Array(groups)) = document.pointer_mut("/spec/groups") {
            groups.retain(|group| group["image"] == "appliance");
        }
    }
    if reversed {
        documents.reverse();
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for document in documents {
        writeln!(file, "---\n{}", serde_yaml::to_string(&document).unwrap()).unwrap();
    }
    file
}

async fn nothing_is_left(the_box: &TheBox, uids: &[String]) {
    the_box.nothing_left_of(uids).await;
    the_box
        .eventually("filters to be gone", Duration::from_secs(30), async || {
            let left: Vec<_> = HOSTS.iter().flat_map(|host| the_box.filters(host)).collect();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        })
        .await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn once_ready_the_examples_differ_from_nothing() {
    let the_box = the_box_alone().await;
    apply_examples(&the_box);
    for farm in EXAMPLES {
        let ready = the_box.until(&farms(&the_box, farm), farm, "Ready", BOOT, is_ready).await;
        println!("{farm}: {} machines Ready", ready.status.unwrap().machines.unwrap());
    }
    let file = crate::cluster::file("examples/first-farm.yaml");
    let (same, said) = the_box.cluster.run("kubectl", &["diff", "-f", file.to_str().unwrap()]);
    assert!(same && said.trim().is_empty(), "{said}");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn removed_in_any_order_the_examples_leave_nothing() {
    let the_box = the_box_alone().await;
    let kubectl = |arguments: &[&str]| the_box.cluster.must("kubectl", arguments);
    apply_examples(&the_box);
    nodes(&the_box, "farm-a").await;

    // As the file stands: flavours, a namespace and all in it, its farm.
    let before = uids(&the_box).await;
    let file = crate::cluster::file("examples/first-farm.yaml");
    kubectl(&["delete", "-f", file.to_str().unwrap(), "--timeout=120s"]);
    nothing_is_left(&the_box, &before).await;

    // Applied the other way round they become Ready all the same; now the farms go first.
    let reversed = quick_examples(true);
    // A namespace has to be there before what is in it, or kubectl itself refuses: a second run repairs that.
    the_box
        .eventually("kubectl to have applied every document", BOOT, async || {
            let (good, said) = the_box.cluster.run("kubectl", &["apply", "-f", reversed.path().to_str().unwrap()]);
            if good { Ok(()) } else { Err(said) }
        })
        .await;
    for farm in EXAMPLES {
        the_box.until(&farms(&the_box, farm), farm, "Ready", BOOT, is_ready).await;
    }
    let before = uids(&the_box).await;
    kubectl(&["delete", "-f", reversed.path().to_str().unwrap(), "--timeout=120s"]);
    nothing_is_left(&the_box, &before).await;

    // Machines first: their farm makes them anew, and then it goes, too.
    kubectl(&["apply", "-f", quick_examples(false).path().to_str().unwrap()]);
    nodes(&the_box, "farm-b").await;
    let mut before = uids(&the_box).await;
    kubectl(&["delete", "virtualmachines", "--all", "-n", "farm-b", "--wait=false"]);
    before.extend(uids(&the_box).await);
    kubectl(&["delete", "-f", quick_examples(false).path().to_str().unwrap(), "--timeout=120s"]);
    before.extend(uids(&the_box).await);
    nothing_is_left(&the_box, &before).await;
}

/// The health rules that the documentation has for Argo CD, a file `KIND.lua` each.
fn argo_rules() -> tempfile::TempDir {
    let page = std::fs::read_to_string(crate::cluster::file("docs/gitops.md")).unwrap();
    let block = page.split("```yaml\n").find(|block| block.starts_with("apiVersion: v1\nkind: ConfigMap")).unwrap();
    let map: Value = serde_yaml::from_str(block.split("```").next().unwrap()).unwrap();
    let rules = tempfile::tempdir().unwrap();
    for (name, rule) in map["data"].as_object().unwrap() {
        let kind = name.rsplit('_').next().unwrap();
        std::fs::write(rules.path().join(format!("{kind}.lua")), rule.as_str().unwrap()).unwrap();
    }
    rules
}

/// How kstatus and Argo CD read objects: kind and name, the one's word and the other's.
fn read_by_tools(the_box: &TheBox, objects: &[Value]) -> Vec<(String, String, String)> {
    let program = the_box.script("health/build", &[]);
    let rules = argo_rules();
    let mut reading =
        Command::new(program.trim()).arg(rules.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    reading.stdin.take().unwrap().write_all(list.to_string().as_bytes()).unwrap();
    let output = reading.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    let verdicts = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    verdicts
        .map(|one| {
            let name = format!("{} {}", text(&one["kind"]), text(&one["name"]));
            (name, text(&one["kstatus"]), text(&one["argo"]))
        })
        .collect()
}

fn as_values(objects: impl IntoIterator<Item = impl serde::Serialize>) -> Vec<Value> {
    objects.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
}

#[tokio::test]
#[ignore = "needs a box"]
async fn tools_that_wait_read_what_is_as_it_was_wanted_as_done() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("gitops").await;
    tenant.given_farm("farm", json!({"router": {}})).await;
    tenant.asks_for("halted", json!({"runStrategy": "Halted"})).await;
    tenant.given_machine("runs", json!({})).await;
    the_box.until(&tenant.farms(), "farm", "Ready", BOOT, is_ready).await;
    tenant.until("halted", "Ready though it never ran", SOON, is_ready).await;
    let client = || the_box.cluster.client.clone();
    let routers: Api<VRouter> = Api::namespaced(client(), &tenant.namespace);
    let mut objects = as_values(tenant.machines().list(&Default::default()).await.unwrap());
    objects.extend(as_values(tenant.farms().list(&Default::default()).await.unwrap()));
    objects.extend(as_values(routers.list(&Default::default()).await.unwrap()));
    objects.extend(as_values(Api::<Hypervisor>::all(client()).list(&Default::default()).await.unwrap()));
    objects.extend(as_values([Api::<Image>::all(client()).get("appliance").await.unwrap()]));
    objects.extend(as_values(Api::<Flavour>::all(client()).list(&Default::default()).await.unwrap()));
    let read = read_by_tools(&the_box, &objects);
    let waits: Vec<_> = read.iter().filter(|(_, kstatus, argo)| kstatus != "Current" || argo != "Healthy").collect();
    assert!(read.len() > 5 + HOSTS.len() && waits.is_empty(), "{waits:?}");

    // What waits reads as under way, from the moment in which it is made.
    tenant.asks_for("waits", json!({"flavour": "e2e-no-such-flavour"})).await;
    let made = tenant.machines().get("waits").await.unwrap();
    let told = tenant.until("waits", "waits", SOON, |machine| reason(machine, "Ready").0 == "FlavourNotFound").await;
    for machine in [made, told] {
        let read = read_by_tools(&the_box, &as_values([machine]));
        assert_eq!((read[0].1.as_str(), read[0].2.as_str()), ("InProgress", "Progressing"));
    }
}

/// An object as a backup brings it back: without uid, owners and status.
fn from_backup(object: &impl serde::Serialize) -> Value {
    let mut object = serde_json::to_value(object).unwrap();
    let known = object["metadata"].clone();
    object["metadata"] = json!({
        "name": known["name"], "namespace": known["namespace"],
        "labels": known["labels"], "annotations": known["annotations"],
    });
    object.as_object_mut().unwrap().remove("status");
    object
}

#[tokio::test]
#[ignore = "needs a box"]
async fn a_farm_deleted_without_its_machines_waits_and_what_a_backup_brings_back_is_its_own() {
    let the_box = the_box().await;
    let tenant = the_box.tenant("kept").await;
    let group = json!({"name": "node", "replicas": 1, "flavour": SMALL, "image": "appliance", "readiness": "None"});
    let admins = json!([{"kind": "User", "name": "anna"}]);
    tenant.given_farm("farm", json!({"router": {}, "groups": [group], "admins": admins})).await;
    let ready = the_box.until(&tenant.farms(), "farm", "Ready", BOOT, is_ready).await;
    let node = tenant.machines().get("farm-node-0").await.unwrap();
    let client = || the_box.cluster.client.clone();
    let routers: Api<VRouter> = Api::namespaced(client(), &tenant.namespace);
    let bindings: Api<RoleBinding> = Api::namespaced(client(), &tenant.namespace);
    let backup = [
        from_backup(&node),
        from_backup(&tenant.machines().get("farm-router-0").await.unwrap()),
        from_backup(&routers.get("farm").await.unwrap()),
        from_backup(&bindings.get("cascina-farm-admins").await.unwrap()),
        from_backup(&ready),
    ];
    let kubectl =
        |arguments: &[&str]| the_box.cluster.must("kubectl", &[&["-n", tenant.namespace.as_str()], arguments].concat());
    kubectl(&["delete", "vfarm", "farm", "--cascade=orphan", "--wait=false"]);
    let waits = the_box
        .until(&tenant.farms(), "farm", "waits", SOON, |farm| reason(farm, "Deleting").0 == "MachinesKept")
        .await;
    assert!(reason(&waits, "Deleting").1.contains("virtualmachine/farm-node-0"), "{:?}", reason(&waits, "Deleting"));
    let kept = tenant.machines().get("farm-node-0").await.unwrap();
    assert_eq!(
        (kept.uid(), kept.metadata.deletion_timestamp, kept.metadata.owner_references),
        (node.uid(), None, None)
    );
    assert!(the_box.hosts_with(&node.uid().unwrap()).len() == 1, "its domain is where it was");

    kubectl(&["delete", "vrouter/farm", "cvm/farm-node-0", "rolebinding/cascina-farm-admins", "--timeout=120s"]);
    the_box.until_gone(&tenant.farms(), "farm", SOON).await;
    for object in backup {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{object}").unwrap();
        kubectl(&["create", "-f", file.path().to_str().unwrap()]);
    }
    let again = the_box.until(&tenant.farms(), "farm", "Ready again", BOOT, is_ready).await;
    let owner = |references: Option<Vec<OwnerReference>>| references.unwrap_or_default().pop().map(|owner| owner.uid);
    let node = tenant.machines().get("farm-node-0").await.unwrap();
    assert_eq!(owner(node.metadata.owner_references), again.uid());
    let router = routers.get("farm").await.unwrap();
    assert_eq!(owner(router.metadata.owner_references.clone()), again.uid());
    let machine = tenant.machines().get("farm-router-0").await.unwrap();
    assert_eq!(owner(machine.metadata.owner_references), router.uid());
    assert_eq!(owner(bindings.get("cascina-farm-admins").await.unwrap().metadata.owner_references), again.uid());
}
