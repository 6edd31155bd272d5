//! One script of writes against the API server in memory and a real one: both say the same.

use std::sync::Arc;

use cascina::clock::Clock;
use jiff::Timestamp;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::apiserver::{ApiServer, Store};
use crate::cluster::cluster_alone;
use crate::faults::{Faults, Odds};

/// What was done, and what came of it.
type Record = Vec<(&'static str, Value)>;

#[tokio::test]
#[ignore = "needs a box"]
async fn the_simulated_api_server_answers_as_a_real_one() {
    let real = cluster_alone().await;
    let _alone = real.without_operator();
    let now = Timestamp::now();
    let store = Store::new(now);
    let faults = Arc::new(Faults::new(0, None, Odds::default()));
    let server = ApiServer::new(store, Clock::Wall);
    let collect = || {
        server.with(|store, now| store.collect_garbage(now));
    };
    // A real cluster does that by itself.
    let (real, simulated) = (script(&real.client, &|| ()).await, script(&server.client(&faults), &collect).await);
    for ((step, real), (_, simulated)) in real.iter().zip(&simulated) {
        assert_eq!(simulated, real, "{step}: simulated (left) and real (right)");
    }
    println!("{} steps alike", real.len());
}

async fn script(client: &Client, collect: &dyn Fn()) -> Record {
    let namespace = format!("likeness-{}", fastrand::u32(..));
    make_namespace(client, &namespace).await;
    let machines: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &machine());
    let mut record = Record::new();
    creation(&machines, &mut record).await;
    shares(&machines, &mut record).await;
    preconditions(&machines, &mut record).await;
    deletion(&machines, &mut record).await;
    garbage(&machines, collect, &mut record).await;
    record
}

async fn make_namespace(client: &Client, name: &str) {
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
}

async fn creation(machines: &Api<DynamicObject>, record: &mut Record) {
    let new = object(&json!({"metadata": {"name": "one", "finalizers": ["cascina.dev/cleanup"]}, "spec": spec()}));
    record.push(("create", told(machines.create(&PostParams::default(), &new).await)));
    record.push(("create again", told(machines.create(&PostParams::default(), &new).await)));
    record.push(("get what isn't there", told(machines.get("none").await)));
}

async fn shares(machines: &Api<DynamicObject>, record: &mut Record) {
    let ready = json!({"type": "Ready", "status": "True", "reason": "A", "message": "", "lastTransitionTime": "2027-01-01T00:00:00Z"});
    let scheduled = json!({"type": "Scheduled", "status": "True", "reason": "B", "message": "", "lastTransitionTime": "2027-01-01T00:00:00Z"});
    let failure = json!({"count": 1, "retryAfter": "2027-01-01T00:00:00Z", "message": "no"});
    for (step, manager, force, status) in [
        ("a share", "a", true, json!({"phase": "Pending", "startFailure": failure, "conditions": [ready]})),
        ("another share", "b", true, json!({"bootSeconds": 3, "conditions": [scheduled]})),
        ("the same share again", "b", true, json!({"bootSeconds": 3, "conditions": [scheduled]})),
        ("a share without what it had", "a", true, json!({"phase": "Running"})),
        ("a field of another, not by force", "b", false, json!({"phase": "Failed"})),
        ("a field of another, by force", "b", true, json!({"phase": "Failed", "conditions": [scheduled]})),
        ("nothing any more", "b", true, json!({})),
    ] {
        let before = version(machines).await;
        let params = PatchParams { force, ..PatchParams::apply(manager) };
        let patch = json!({"apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine", "status": status});
        record.push((step, told(machines.patch_status("one", &params, &Patch::Apply(&patch)).await)));
        record.push((step, json!({"is a change": version(machines).await != before})));
    }
}

async fn preconditions(machines: &Api<DynamicObject>, record: &mut Record) {
    let params = PatchParams::apply("a").force();
    let patch = |metadata: Value| json!({"apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine", "metadata": metadata, "status": {"phase": "Stopped"}});
    for (step, metadata) in [
        ("apply for another uid", json!({"uid": "00000000-0000-4000-8000-000000000000"})),
        ("apply for another version", json!({"resourceVersion": "1"})),
    ] {
        record.push((step, told(machines.patch_status("one", &params, &Patch::Apply(patch(metadata))).await)));
    }
    record.push((
        "apply to nothing",
        told(machines.patch_status("none", &params, &Patch::Apply(patch(json!({})))).await),
    ));
    let finalizers = json!({"metadata": {"resourceVersion": "1", "finalizers": ["a/b"]}});
    let merge = PatchParams::default();
    record.push(("merge for another version", told(machines.patch("one", &merge, &Patch::Merge(&finalizers)).await)));
    let finalizers = json!({"metadata": {"finalizers": ["cascina.dev/cleanup", "a/b"]}, "status": {"phase": "Failed"}});
    record.push(("merge", told(machines.patch("one", &merge, &Patch::Merge(&finalizers)).await)));
    let mut edited = machines.get("one").await.unwrap();
    edited.data["spec"]["flavour"] = "large".into();
    record.push(("replace", told(machines.replace("one", &PostParams::default(), &edited).await)));
    record.push(("replace an old version", told(machines.replace("one", &PostParams::default(), &edited).await)));
}

async fn deletion(machines: &Api<DynamicObject>, record: &mut Record) {
    let other = Preconditions { uid: Some("00000000-0000-4000-8000-000000000000".into()), resource_version: None };
    let deleted = machines.delete("one", &DeleteParams::default().preconditions(other)).await;
    record.push(("delete for another uid", told(deleted.map(|answer| answer.left().unwrap()))));
    for step in ["delete", "delete again"] {
        let deleted = machines.delete("one", &DeleteParams::default()).await;
        record.push((step, told(deleted.map(|answer| answer.left().unwrap()))));
    }
    let none = json!({"metadata": {"finalizers": null}});
    record.push(("let go", told(machines.patch("one", &PatchParams::default(), &Patch::Merge(&none)).await)));
    record.push(("get what is gone", told(machines.get("one").await)));
    record.push((
        "delete what is gone",
        told(machines.delete("one", &DeleteParams::default()).await.map(|answer| answer.left().unwrap())),
    ));
}

/// An owner is a uid: one of that name and another uid is none, and who has no owner left is deleted, by the garbage collector.
async fn garbage(machines: &Api<DynamicObject>, collect: &dyn Fn(), record: &mut Record) {
    let make = async |name: &str, owners: Value| {
        let metadata = json!({"name": name, "finalizers": ["cascina.dev/cleanup"], "ownerReferences": owners});
        machines.create(&PostParams::default(), &object(&json!({"metadata": metadata, "spec": spec()}))).await.unwrap()
    };
    let owner = |name: &str, uid: &str| json!({"apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine", "name": name, "uid": uid});
    let owned = make("owner", json!([])).await.metadata.uid.unwrap_or_default();
    let nobody = || owner("nobody", "00000000-0000-4000-8000-00000000dead");
    let another = || owner("owner", "00000000-0000-4000-8000-00000000beef");
    make("of-nobody", json!([nobody()])).await;
    make("of-another", json!([another()])).await;
    make("of-two", json!([owner("owner", &owned), nobody()])).await;
    let is_going = async |name: &str| machines.get(name).await.unwrap().metadata.deletion_timestamp.is_some();
    for _ in 0..60 {
        collect();
        if is_going("of-nobody").await && is_going("of-another").await {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    for name in ["owner", "of-nobody", "of-another", "of-two"] {
        record.push(("garbage", json!({name: is_going(name).await})));
        let none = json!({"metadata": {"finalizers": null}});
        machines.patch(name, &PatchParams::default(), &Patch::Merge(&none)).await.unwrap();
    }
}

async fn version(machines: &Api<DynamicObject>) -> Option<String> {
    machines.get("one").await.unwrap().metadata.resource_version
}

/// An answer without what differs between two servers.
fn told(answer: kube::Result<DynamicObject>) -> Value {
    match answer {
        Ok(object) => json!({
            "generation": object.metadata.generation, "finalizers": object.metadata.finalizers,
            "deleted": object.metadata.deletion_timestamp.is_some(),
            "spec": object.data["spec"], "status": sorted(object.data["status"].clone()),
        }),
        Err(kube::Error::Api(status)) => json!({"code": status.code, "reason": status.reason}),
        Err(other) => panic!("no answer: {other}"),
    }
}

fn sorted(mut status: Value) -> Value {
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.sort_by_key(|condition| condition["type"].to_string());
    }
    status
}

fn object(of: &Value) -> DynamicObject {
    let mut object = of.clone();
    object["apiVersion"] = "cascina.dev/v1alpha1".into();
    object["kind"] = "VirtualMachine".into();
    serde_json::from_value(object).unwrap()
}

fn spec() -> Value {
    json!({"farm": "farm", "flavour": "small", "image": "one"})
}

fn machine() -> ApiResource {
    ApiResource::erase::<cascina::api::VirtualMachine>(&())
}
