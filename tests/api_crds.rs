//! The kinds on a real API server: what it refuses, what it keeps, what it shows.

#[path = "support/cluster.rs"]
mod support;
#[path = "support/turn.rs"]
mod turn;

use std::collections::BTreeSet;

use cascina::api::{VRouterSpec, VirtualFarm};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::core::response::Status;
use serde::Deserialize;
use serde_json::{Value, json};

use support::{Cluster, cluster, documents, eventually, merged, read, yaml_files};

#[derive(Deserialize)]
struct Cases {
    valid: std::collections::BTreeMap<String, Value>,
    refused: Vec<Refused>,
    changes: Vec<Change>,
    unknown: Vec<Unknown>,
}

#[derive(Deserialize)]
struct Refused {
    kind: String,
    with: Value,
    field: String,
    says: String,
}

#[derive(Deserialize)]
struct Change {
    kind: String,
    #[serde(default)]
    first: Value,
    then: Value,
    field: String,
    says: String,
}

#[derive(Deserialize)]
struct Unknown {
    kind: String,
    with: Value,
    field: String,
}

impl Cases {
    fn read() -> Self {
        serde_yaml::from_str(&read("tests/api/refused.yaml")).unwrap()
    }

    /// The valid object of a kind, changed; paused, so that an operator that runs beside leaves it alone.
    fn object(&self, kind: &str, name: &str, patch: &Value) -> Value {
        let object = json!({
            "apiVersion": "cascina.dev/v1alpha1",
            "kind": kind,
            "metadata": { "name": name, "annotations": { "cascina.dev/paused": "true" } },
        });
        let object = merged(object, &self.valid[kind]);
        if patch.is_null() { object } else { merged(object, &unfolded(patch)) }
    }
}

/// `{repeat: TEXT, times: N}` stands for a long text.
fn unfolded(value: &Value) -> Value {
    match value {
        Value::Object(fields) => match (fields.get("repeat"), fields.get("times")) {
            (Some(Value::String(text)), Some(times)) => text.repeat(times.as_u64().unwrap() as usize).into(),
            _ => fields
                .iter()
                .map(|(name, value)| (name.clone(), unfolded(value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        },
        Value::Array(items) => items.iter().map(unfolded).collect(),
        other => other.clone(),
    }
}

fn typed(object: &Value) -> DynamicObject {
    serde_json::from_value(object.clone()).unwrap()
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

/// The refusal, as field and message pairs.
fn causes(error: kube::Error) -> Vec<(String, String)> {
    let kube::Error::Api(status) = error else { panic!("no answer: {error}") };
    let Status { details, message, .. } = *status;
    let causes = details.map(|details| details.causes).unwrap_or_default();
    assert!(!causes.is_empty(), "refused without causes: {message}");
    causes.into_iter().map(|cause| (cause.field, cause.message)).collect()
}

fn assert_says(causes: &[(String, String)], field: &str, says: &str, context: &Value) {
    // The API server writes the top as "<nil>" or as nothing.
    let same = |found: &str| found == field || (field.is_empty() && found == "<nil>");
    assert!(
        causes.iter().any(|(found, message)| same(found) && message.contains(says)),
        "{context}: expected {field:?} to say {says:?}, got {causes:#?}"
    );
}

#[tokio::test]
#[ignore = "needs a box"]
async fn what_is_wrong_is_refused_with_words() {
    let cluster = cluster().await;
    const NAMESPACE: &str = "chart-refused";
    cluster.namespace(NAMESPACE).await;
    let cases = Cases::read();
    for kind in cases.valid.keys() {
        let object = typed(&cases.object(kind, "chart-valid", &Value::Null));
        cluster
            .kind(kind, NAMESPACE)
            .create(&dry_run(), &object)
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
    for Refused { kind, with, field, says } in &cases.refused {
        let object = typed(&cases.object(kind, "chart-refused", with));
        let Err(error) = cluster.kind(kind, NAMESPACE).create(&dry_run(), &object).await else {
            panic!("{kind} {with} was taken");
        };
        assert_says(&causes(error), field, says, with);
    }
    cluster.forget_namespace(NAMESPACE).await;
}

/// Lists that are there and empty, and whatever else the operator leaves out or adds when it makes objects of a farm.
#[tokio::test]
#[ignore = "needs a box"]
async fn what_a_farm_may_say_may_be_said_of_what_it_makes() {
    let cluster = cluster().await;
    const NAMESPACE: &str = "chart-children";
    cluster.namespace(NAMESPACE).await;
    let egress = |rule: Value| json!({"router": {"egress": [rule]}});
    let peer = json!({"name": "far", "peerRef": {"namespace": "other", "name": "farm-b"}, "networks": []});
    let [flavour, image] = ["f", "i"].map(|letter| letter.repeat(253));
    let group = json!({"name": "a", "flavour": flavour, "image": image, "userData": {"inline": ""}});
    for spec in [
        json!({"router": {}, "groups": [], "sshKeys": [], "admins": [], "users": []}),
        json!({"router": {"forwards": [], "egress": [], "vpn": {"peers": []}}}),
        json!({"router": {"replicas": 2}, "publicIP": "198.51.100.20", "elasticIP": {"target": "m".repeat(63)}}),
        egress(json!({"cidr": "10.0.0.0/8", "ports": [], "action": "Deny"})),
        egress(json!({"cidr": "10.0.0.0/8", "ports": [53], "protocol": "UDP", "action": "Allow"})),
        json!({"router": {"forwards": [{"port": 22, "address": "172.16.200.2", "sourceRanges": []}]}}),
        json!({"router": {"vpn": {"peers": [peer]}}}),
        json!({"groups": [group]}),
    ] {
        let object = |kind: &str, name: &str, spec: Value| {
            let metadata = json!({"name": name, "annotations": {"cascina.dev/paused": "true"}});
            typed(&json!({"apiVersion": "cascina.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}))
        };
        let admitted = async |kind: &str, object: &DynamicObject| {
            let answer = cluster.kind(kind, NAMESPACE).create(&dry_run(), object).await;
            answer.unwrap_or_else(|error| panic!("{spec}: {kind}: {error}"))
        };
        let name = "f".repeat(40);
        let farm = admitted("VirtualFarm", &object("VirtualFarm", &name, spec.clone())).await;
        let farm: VirtualFarm = serde_json::from_value(serde_json::to_value(&farm).unwrap()).unwrap();
        if let Some(template) = farm.spec.router {
            let router = VRouterSpec {
                farm: name.clone(),
                public_ip: farm.spec.public_ip,
                elastic_ip: farm.spec.elastic_ip,
                template,
            };
            admitted("VRouter", &object("VRouter", &name, serde_json::to_value(router).unwrap())).await;
        }
        for group in farm.spec.groups {
            let machine = json!({
                "farm": name, "flavour": group.flavour, "image": group.image, "class": group.class,
                "runStrategy": group.run_strategy, "readiness": group.readiness, "userData": group.user_data,
            });
            let machine = object("VirtualMachine", &format!("{name}-{}-1023", group.name), machine);
            admitted("VirtualMachine", &machine).await;
        }
    }
    cluster.forget_namespace(NAMESPACE).await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn what_can_not_change_is_refused_with_words() {
    let cluster = cluster().await;
    const NAMESPACE: &str = "chart-changes";
    cluster.namespace(NAMESPACE).await;
    let cases = Cases::read();
    for (index, Change { kind, first, then, field, says }) in cases.changes.iter().enumerate() {
        let name = format!("chart-change-{index}");
        let api = cluster.kind(kind, NAMESPACE);
        let _ = api.delete(&name, &DeleteParams::default()).await;
        eventually("the object of an earlier run to go", async || api.get_opt(&name).await.unwrap().is_none()).await;
        api.create(&PostParams::default(), &typed(&cases.object(kind, &name, first))).await.unwrap();
        let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
        let answer = api.patch(&name, &parameters, &Patch::Merge(then)).await;
        api.delete(&name, &DeleteParams::default()).await.unwrap();
        let Err(error) = answer else { panic!("{kind} {then} was taken") };
        assert_says(&causes(error), field, says, then);
    }
    cluster.forget_namespace(NAMESPACE).await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn fields_that_are_not_there_are_refused_or_dropped() {
    let cluster = cluster().await;
    const NAMESPACE: &str = "chart-unknown";
    cluster.namespace(NAMESPACE).await;
    let cases = Cases::read();
    for Unknown { kind, with, field } in &cases.unknown {
        let object = cases.object(kind, "chart-unknown", with);
        let api = cluster.kind(kind, NAMESPACE);
        let path = format!("{}?dryRun=All&fieldValidation=Strict", api.resource_url());
        let error = cluster.raw("POST", &path, "application/json", &object).await.unwrap_err().to_string();
        assert!(error.contains(&format!("unknown field \"{field}\"")), "{kind} {with}: {error}");

        let kept = api.create(&dry_run(), &typed(&object)).await.unwrap();
        let pointer = format!("/{}", field.replace('.', "/"));
        assert_eq!(kept.data.pointer(&pointer), None, "{kind} kept {field}");

        let parameters = PatchParams {
            dry_run: true,
            field_validation: Some(ValidationDirective::Ignore),
            ..PatchParams::apply("chart-test")
        };
        let applied = api.patch("chart-unknown", &parameters, &Patch::Apply(&object)).await;
        assert!(applied.is_err(), "{kind} {with}: server-side apply took what it doesn't know");
    }
    cluster.forget_namespace(NAMESPACE).await;
}

/// Every rule and every pattern of every spec, as (kind, where, message); the message of a pattern is empty.
fn demands() -> BTreeSet<(String, String, String)> {
    fn walk(kind: &str, path: &str, schema: &Value, demands: &mut BTreeSet<(String, String, String)>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().unwrap_or_else(|| panic!("{kind} {path}: a rule without a message"));
            demands.insert((kind.to_owned(), path.to_owned(), message.to_owned()));
        }
        if schema["pattern"].is_string() {
            demands.insert((kind.to_owned(), path.to_owned(), String::new()));
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            if path.is_empty() && name == "status" {
                continue;
            }
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            walk(kind, &path, field, demands);
        }
        if schema["items"].is_object() {
            walk(kind, &format!("{path}[]"), &schema["items"], demands);
        }
    }
    let mut demands = BTreeSet::new();
    for definition in cascina::api::custom_resource_definitions() {
        let definition = serde_json::to_value(definition).unwrap();
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        walk(&kind, "", &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut demands);
    }
    demands
}

#[test]
fn every_rule_and_pattern_has_a_case() {
    let cases = Cases::read();
    let refused = cases.refused.iter().map(|case| (&case.kind, &case.field, &case.says));
    let changes = cases.changes.iter().map(|case| (&case.kind, &case.field, &case.says));
    let covered: Vec<_> = refused
        .chain(changes)
        .map(|(kind, field, says)| {
            let digits = |character: char| character.is_ascii_digit();
            (kind, field.split('[').map(|part| part.trim_start_matches(digits)).collect::<Vec<_>>().join("["), says)
        })
        .collect();
    let missing: Vec<_> = demands()
        .into_iter()
        .filter(|(kind, path, message)| {
            let is_pattern = message.is_empty();
            // The same type stands in several places: its rules are proven once, wherever that is; patterns everywhere.
            !covered.iter().any(|(case_kind, field, says)| {
                if is_pattern {
                    *case_kind == kind && field == path && says.contains("should match")
                } else {
                    message.contains(says.as_str())
                }
            })
        })
        .collect();
    assert!(missing.is_empty(), "no case in tests/api/refused.yaml refuses these: {missing:#?}");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn examples_are_taken_as_they_are_written() {
    let cluster = cluster().await;
    const NAMESPACE: &str = "chart-examples";
    cluster.namespace(NAMESPACE).await;
    for path in yaml_files("examples").into_iter().chain(yaml_files("examples/site")) {
        for mut example in documents(&std::fs::read_to_string(&path).unwrap()) {
            let kind = example["kind"].as_str().unwrap().to_owned();
            if example["metadata"]["namespace"].is_string() {
                example["metadata"]["namespace"] = NAMESPACE.into();
            }
            let api_version = example["apiVersion"].as_str().unwrap();
            let api = support::dynamic(&cluster.client, api_version, &kind, NAMESPACE);
            let name = example["metadata"]["name"].as_str().unwrap().to_owned();
            let parameters = PatchParams {
                dry_run: true,
                field_validation: Some(ValidationDirective::Strict),
                ..PatchParams::apply("chart-test").force()
            };
            let taken = api.patch(&name, &parameters, &Patch::Apply(&example)).await;
            let taken = taken.unwrap_or_else(|error| panic!("{}: {kind} {name}: {error}", path.display()));
            let taken = serde_json::to_value(taken).unwrap();
            // Otherwise `kubectl diff` would never be empty.
            let changed = rewritten(&example, &taken, "");
            assert!(changed.is_empty(), "{}: {kind} {name}: rewritten by the API server: {changed:?}", path.display());
        }
    }
    cluster.forget_namespace(NAMESPACE).await;
}

/// Where `kept` says something else than `written`; what was added doesn't count.
fn rewritten(written: &Value, kept: &Value, path: &str) -> Vec<String> {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => written
            .iter()
            .flat_map(|(name, value)| {
                rewritten(value, kept.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}"))
            })
            .collect(),
        (Value::Array(written), Value::Array(kept)) if written.len() == kept.len() => written
            .iter()
            .zip(kept)
            .enumerate()
            .flat_map(|(index, (written, kept))| rewritten(written, kept, &format!("{path}[{index}]")))
            .collect(),
        (written, kept) if written == kept => vec![],
        _ => vec![format!("{path}: {written} became {kept}")],
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn columns_answer_what_and_why() {
    let cluster = cluster().await;
    for (kind, columns) in [
        ("Hypervisor", "Name CLASS PHASE CPU-ALLOC MEM-ALLOC MACHINES LIBVIRT QEMU REASON URI AGE"),
        ("Image", "Name PHASE REVISION SIZE HOSTS PROGRESS REASON AGE"),
        ("Flavour", "Name CPUS MEMORY ROOT-DISK DATA-DISK OUTBOUND INBOUND AGE"),
        ("VirtualFarm", "Name NETWORK PUBLIC-IP MACHINES READY REASON AGE MESSAGE"),
        ("VirtualMachine", "Name PHASE HYPERVISOR ADDRESS READY REASON AGE IMAGE FLAVOUR MAC BOOT-SECONDS MESSAGE"),
        ("VRouter", "Name FARM PUBLIC-IP ELASTIC-IP READY REASON AGE MESSAGE"),
    ] {
        let path = format!("{}?limit=1", cluster.kind(kind, "default").resource_url());
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let table = cluster.raw("GET", &path, table, &Value::Null).await.unwrap();
        let shown: Vec<_> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| column["name"].as_str().unwrap())
            .collect();
        assert_eq!(shown.join(" "), columns, "{kind}");
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn short_names_and_the_category_work() {
    let cluster = cluster().await;
    for name in ["hv", "img", "fl", "vfarm", "cvm", "vr", "cascina"] {
        cluster.must("kubectl", &["get", name, "-n", "default", "--request-timeout=20s"]);
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn status_is_written_apart_from_spec() {
    let cluster = cluster().await;
    let (api, name) = machine(&cluster, "chart-status").await;
    let both = json!({"spec": {"priority": 5}, "status": {"phase": "Running"}});
    let written = api.patch(&name, &PatchParams::default(), &Patch::Merge(&both)).await.unwrap();
    assert_eq!(written.data["spec"]["priority"], 5);
    assert_eq!(written.data.pointer("/status/phase"), None, "status came in by the front door");
    let generation = written.metadata.generation;

    let both = json!({"spec": {"priority": 7}, "status": {"phase": "Running"}});
    let written = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&both)).await.unwrap();
    assert_eq!(written.data["status"]["phase"], "Running");
    assert_eq!(written.data["spec"]["priority"], 5, "spec came in by the back door");
    assert_eq!(written.metadata.generation, generation, "status isn't a new generation");

    let wrong = json!({"status": {"phase": "Dreaming"}});
    let error = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&wrong)).await.unwrap_err();
    assert!(error.to_string().contains("supported values"), "{error}");
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    cluster.forget_namespace(&name).await;
}

#[tokio::test]
#[ignore = "needs a box"]
async fn managers_share_the_conditions_of_one_object() {
    let cluster = cluster().await;
    let (api, name) = machine(&cluster, "chart-conditions").await;
    let share = |kinds: &[&str]| {
        let conditions: Vec<_> = kinds
            .iter()
            .map(|kind| {
                json!({"type": kind, "status": "True", "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        json!({
            "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine",
            "metadata": {"name": name}, "status": {"conditions": conditions},
        })
    };
    let write = async |manager: &str, kinds: &[&str]| {
        let parameters = PatchParams::apply(manager);
        let written = api.patch_status(&name, &parameters, &Patch::Apply(share(kinds))).await.unwrap();
        let conditions = written.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let mut kinds: Vec<_> = conditions.iter().map(|one| one["type"].as_str().unwrap().to_owned()).collect();
        // The object is paused, and an operator that runs shows it as a manager of its own.
        kinds.retain(|kind| kind != "Paused");
        kinds.sort();
        kinds.join(" ")
    };
    assert_eq!(write("chart-one", &["Scheduled"]).await, "Scheduled");
    assert_eq!(write("chart-two", &["Ready", "Provisioned"]).await, "Provisioned Ready Scheduled");
    assert_eq!(write("chart-two", &["Ready"]).await, "Ready Scheduled", "a manager takes away what is its own");
    assert_eq!(write("chart-one", &[]).await, "Ready", "and nothing else");
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    cluster.forget_namespace(&name).await;
}

/// A machine in a namespace of its own, of the same name.
async fn machine(cluster: &Cluster, name: &str) -> (kube::Api<DynamicObject>, String) {
    cluster.namespace(name).await;
    let api = cluster.kind("VirtualMachine", name);
    let _ = api.delete(name, &DeleteParams::default()).await;
    eventually("the machine of an earlier run to go", async || api.get_opt(name).await.unwrap().is_none()).await;
    let object = Cases::read().object("VirtualMachine", name, &Value::Null);
    api.create(&PostParams::default(), &typed(&object)).await.unwrap();
    (api, name.to_owned())
}

#[test]
fn committed_definitions_are_what_the_types_say() {
    let mut committed: Vec<_> =
        yaml_files("crds").into_iter().flat_map(|path| documents(&std::fs::read_to_string(path).unwrap())).collect();
    let mut generated: Vec<_> = cascina::api::custom_resource_definitions()
        .into_iter()
        // Through YAML, as they are printed: so that 64 and 64.0 are the same.
        .flat_map(|definition| documents(&serde_yaml::to_string(&definition).unwrap()))
        .collect();
    let name = |definition: &Value| definition["metadata"]["name"].as_str().unwrap().to_owned();
    committed.sort_by_key(name);
    generated.sort_by_key(name);
    for (committed, generated) in committed.iter().zip(&generated) {
        assert!(committed == generated, "{} differs: run crds/generate", name(generated));
    }
    assert_eq!(committed.len(), generated.len(), "run crds/generate");
}

/// The operator leaves empty lists out of what it makes, so a farm with one is to be judged as what is made of it.
#[test]
fn an_empty_list_is_judged_as_one_that_is_not_there() {
    fn rules(schema: &Value, path: &str, found: &mut Vec<String>) {
        let lists = schema["properties"].as_object().into_iter().flatten().filter(|(_, field)| {
            field["type"] == "array" || (field["type"] == "object" && field["additionalProperties"].is_object())
        });
        let lists: Vec<_> = lists.map(|(name, _)| name.as_str()).collect();
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let rule = rule["rule"].as_str().unwrap();
            for list in &lists {
                for (at, asked) in rule.match_indices(&format!("has(self.{list})")) {
                    let (before, after) = (&rule[..at], &rule[at + asked.len()..]);
                    let counted = after.starts_with(&format!(" && self.{list}.size() > 0"));
                    // Of none all is true, and their sum is nothing.
                    let of_each = ["all", "map"].iter().any(|of| after.starts_with(&format!(" || self.{list}.{of}(")));
                    if !(counted || before.ends_with('!') && of_each) {
                        found.push(format!("{path}: {rule}"));
                    }
                }
            }
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            rules(field, &format!("{path}.{name}"), found);
        }
        for inner in [&schema["items"], &schema["additionalProperties"]] {
            if inner.is_object() {
                rules(inner, &format!("{path}[]"), found);
            }
        }
    }
    let mut found = Vec::new();
    for definition in cascina::api::custom_resource_definitions() {
        let definition = serde_json::to_value(&definition).unwrap();
        for version in definition["spec"]["versions"].as_array().unwrap() {
            let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
            rules(&version["schema"]["openAPIV3Schema"], kind, &mut found);
        }
    }
    assert_eq!(found, Vec::<String>::new(), "ask for its size too: has(self.x) && self.x.size() > 0");
}

#[test]
fn numbers_have_formats_that_kubernetes_knows() {
    let known = ["int32", "int64", "float", "double", "date-time", "byte"];
    for definition in cascina::api::custom_resource_definitions() {
        let text = serde_yaml::to_string(&definition).unwrap();
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("format: ")) {
            assert!(known.contains(&line), "{:?}: format {line}", definition.metadata.name);
        }
    }
}
