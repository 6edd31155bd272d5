//! The charts as packages: lint, values, what they render.

#[path = "support/cluster.rs"]
mod support;
#[path = "support/turn.rs"]
mod turn;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use cascina::api::site::Site;
use serde_json::{Value, json};

use support::{Cluster, cluster, documents, file, read, yaml_files};

const CHARTS: [&str; 2] = ["charts/cascina-crds", "charts/cascina"];

#[tokio::test]
#[ignore = "needs a box"]
async fn charts_are_clean_and_packages_hold_files() {
    let cluster = cluster().await;
    let directory = tempfile::tempdir().unwrap();
    let destination = directory.path().to_str().unwrap();
    for chart in CHARTS {
        cluster.must("helm", &["lint", "--strict", "--quiet", file(chart).to_str().unwrap()]);
        cluster.must("helm", &["package", "--destination", destination, file(chart).to_str().unwrap()]);
    }
    // Definitions come through a link: the package must hold what it points to.
    let package = directory.path().join("cascina-crds-0.1.0.tgz");
    let rendered = documents(&cluster.stdout("helm", &["template", "test", package.to_str().unwrap()]));
    assert_eq!(rendered.len(), yaml_files("crds").len());
}

#[tokio::test]
#[ignore = "needs a box"]
async fn definitions_of_the_chart_are_those_of_the_repository_and_stay() {
    let cluster = cluster().await;
    let chart = file("charts/cascina-crds");
    let mut rendered = documents(&cluster.stdout("helm", &["template", "test", chart.to_str().unwrap()]));
    for definition in &mut rendered {
        let metadata = definition["metadata"].as_object_mut().unwrap();
        let annotations = metadata.remove("annotations").unwrap();
        assert_eq!(annotations["helm.sh/resource-policy"], "keep");
    }
    for path in yaml_files("crds") {
        let definition = documents(&std::fs::read_to_string(&path).unwrap()).remove(0);
        assert!(rendered.contains(&definition), "{} isn't in the chart as it is", path.display());
    }
}

#[tokio::test]
#[ignore = "needs a box"]
async fn values_that_make_no_sense_are_refused() {
    let cluster = cluster().await;
    let chart = file("charts/cascina");
    for (value, says) in [
        ("replica=1", "additional properties 'replica' not allowed"),
        ("replicas=-1", "minimum: got -1, want 0"),
        ("replicas=two", "got string, want integer"),
        ("image.digest=x", "additional properties 'digest' not allowed"),
        ("image.pullPolicy=Sometimes", "must be one of"),
        ("site.dnsDomian=x", "additional properties 'dnsDomian' not allowed"),
        ("site.farmNetworks=10.0.0.0/25", "does not match pattern"),
        ("site.dnsDomain=farms.local", "at '/site/dnsDomain': 'not' failed"),
        ("site.dnsDomain=10.0.0.1", "at '/site/dnsDomain': 'not' failed"),
        ("site.dns={2001:db8::1}", "does not match pattern"),
        ("site.timings.heartbeat=5", "got number, want string"),
        ("site.timings.heartbeat=5 seconds", "does not match pattern"),
        ("site.isolation.selfTest=Sometimes", "must be one of"),
        ("site.isolation.networks=198.18.0.0/24", "does not match pattern"),
        ("site.routers.mtu=9001", "maximum: got 9,001, want 9,000"),
        ("site.routers.public.network=198.51.100.0/24", "missing property 'gateway'"),
        ("site.routers.deniedNetworks={10.0.0.0}", "does not match pattern"),
        ("site.limits.callsInFlight=0", "minimum: got 0, want 1"),
        ("site.images.maxDownload=lots", "does not match pattern"),
        ("site.images.fileRoots={images}", "does not match pattern"),
        ("site.defaultQuota.machines=3", "additional properties 'machines' not allowed"),
        ("flavours.m1.cpus=1", "missing property 'memory'"),
        ("logs.format=xml", "must be one of"),
        ("networkPolicy.from=everybody", "got string, want array"),
        ("networkPolicy.egress=nowhere", "want array"),
        ("userDataRefs.enabled=maybe", "got string, want boolean"),
        ("metrics.serviceMonitor.enabled=true,metrics.service.enabled=false", "needs metrics.service.enabled"),
    ] {
        let (good, said) = cluster.run("helm", &["template", "test", chart.to_str().unwrap(), "--set", value]);
        assert!(!good, "{value} was taken");
        assert!(said.contains(says), "{value}: {said}");
    }
}

#[test]
fn default_values_are_the_default_site() {
    let values: Value = serde_yaml::from_str(&read("charts/cascina/values.yaml")).unwrap();
    let site = Site::parse(&serde_yaml::to_string(&values["site"]).unwrap()).unwrap();
    assert_eq!(site, Site::default(), "charts/cascina/values.yaml says something else than src/api/site.rs");
}

#[test]
fn schema_and_values_know_every_setting_of_the_site() {
    fn names(value: &Value, path: &str, into: &mut BTreeSet<String>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            names(value, &path, into);
            into.insert(path);
        }
    }
    fn properties(schema: &Value, path: &str, into: &mut BTreeSet<String>) {
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            properties(schema, &path, into);
            into.insert(path);
        }
    }
    let (mut code, mut values, mut schema) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    names(&serde_json::to_value(Site::default()).unwrap(), "site", &mut code);
    let text: Value = serde_yaml::from_str(&read("charts/cascina/values.yaml")).unwrap();
    names(&text["site"], "site", &mut values);
    let text: Value = serde_json::from_str(&read("charts/cascina/values.schema.json")).unwrap();
    properties(&text["properties"]["site"], "site", &mut schema);
    assert_eq!(code, values, "src/api/site.rs and values.yaml");
    assert_eq!(code, schema, "src/api/site.rs and values.schema.json");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn the_operator_reads_the_site_that_helm_writes() {
    let cluster = cluster().await;
    let chart = file("charts/cascina");
    let changed = "site.timings.heartbeat=1m30s,site.defaultQuota.memory=16Gi,site.dns={192.0.2.1}";
    let chart = ["template", "test", chart.to_str().unwrap(), "--set", changed];
    let rendered = documents(&cluster.stdout("helm", &chart));
    let map = rendered.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let site = Site::parse(map["data"]["site.yaml"].as_str().unwrap()).unwrap();
    assert_eq!(site.dns, ["192.0.2.1".parse::<std::net::Ipv4Addr>().unwrap()]);
    assert_eq!(site.default_quota.unwrap().memory, Some(cascina::api::Bytes::gibi(16)));
    assert_eq!(site.timings.heartbeat.as_secs(), 90);
}

/// What the chart renders from these values, for a release and namespace whose names are numbers to YAML.
fn rendered(cluster: &Cluster, chart: &Path, values: &Value) -> Vec<Value> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    // JSON is YAML, with every string in quotes.
    file.write_all(values.to_string().as_bytes()).unwrap();
    let arguments = ["template", "1e3", chart.to_str().unwrap(), "-n", "123", "-f", file.path().to_str().unwrap()];
    documents(&cluster.stdout("helm", &arguments))
}

/// Where in an object the name of that release or of its namespace became a number.
fn numbers_for_names(value: &Value, path: &str) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            fields.iter().flat_map(|(name, value)| numbers_for_names(value, &format!("{path}.{name}"))).collect()
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.flat_map(|(index, value)| numbers_for_names(value, &format!("{path}[{index}]"))).collect()
        }
        Value::Number(number) if number.as_u64() == Some(123) || number.is_f64() && number.as_f64() == Some(1e3) => {
            vec![format!("{path}: {number}")]
        }
        _ => Vec::new(),
    }
}

fn the<'a>(kind: &str, rendered: &'a [Value]) -> &'a Value {
    rendered.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[tokio::test]
#[ignore = "needs a box"]
async fn whatever_text_a_value_is_it_stays_that_text() {
    let cluster = cluster().await;
    for text in ["true", "null", "1e3", "0x10", "a: b", "\"x\"", "'", "- a", "#a", "{{ .Release.Name }}", "{a", "* a"] {
        let values = json!({
            "priorityClassName": text, "image": {"repository": text, "tag": text}, "imagePullSecrets": [{"name": text}],
            "cache": {"existingClaim": text}, "logs": {"filter": text}, "serviceAccount": {"annotations": {"a": text}},
            "podAnnotations": {"a": text}, "podLabels": {"a": text}, "nodeSelector": {"a": text},
            "tolerations": [{"key": text}], "metrics": {"serviceMonitor": {"enabled": true, "labels": {"a": text}}},
            "flavours": {"1e3": {"cpus": 1, "memory": "1Gi"}}, "site": {"images": {"fileRoots": [format!("/{text}")]}},
        });
        let rendered = rendered(&cluster, &file("charts/cascina"), &values);
        let deployment = the("Deployment", &rendered);
        let pod = &deployment["spec"]["template"];
        let container = &pod["spec"]["containers"][0];
        let of_env = |name: &str| {
            let all = container["env"].as_array().unwrap();
            all.iter().find(|variable| variable["name"] == name).unwrap()["value"].clone()
        };
        for (what, found) in [
            ("priorityClassName", &pod["spec"]["priorityClassName"]),
            ("imagePullSecrets", &pod["spec"]["imagePullSecrets"][0]["name"]),
            ("nodeSelector", &pod["spec"]["nodeSelector"]["a"]),
            ("tolerations", &pod["spec"]["tolerations"][0]["key"]),
            ("podAnnotations", &pod["metadata"]["annotations"]["a"]),
            ("podLabels", &pod["metadata"]["labels"]["a"]),
            ("logs.filter", &of_env("RUST_LOG")),
            ("cache.existingClaim", &pod["spec"]["volumes"][2]["persistentVolumeClaim"]["claimName"]),
            ("serviceAccount.annotations", &the("ServiceAccount", &rendered)["metadata"]["annotations"]["a"]),
            ("serviceMonitor.labels", &the("ServiceMonitor", &rendered)["metadata"]["labels"]["a"]),
        ] {
            assert_eq!(found, text, "{what}");
        }
        assert_eq!(container["image"], format!("{text}:{text}"));
        let site = Site::parse(the("ConfigMap", &rendered)["data"]["site.yaml"].as_str().unwrap()).unwrap();
        assert_eq!(site.images.file_roots, [PathBuf::from(format!("/{text}"))]);
        assert!(rendered.iter().any(|object| object["kind"] == "Flavour" && object["metadata"]["name"] == "1e3"));
        for object in &rendered {
            assert_eq!(numbers_for_names(object, ""), Vec::<String>::new(), "{}", object["kind"]);
            assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/instance"], "1e3", "{object}");
            assert!(object["metadata"].get("namespace").is_none_or(|namespace| namespace == "123"), "{object}");
        }
    }
}

/// Series of routers name their farm's namespace, which Prometheus would otherwise replace by the operator's.
#[tokio::test]
#[ignore = "needs a box"]
async fn labels_of_metrics_stay_as_they_are_told() {
    let cluster = cluster().await;
    let values = json!({"metrics": {"serviceMonitor": {"enabled": true}}});
    let rendered = rendered(&cluster, &file("charts/cascina"), &values);
    assert_eq!(the("ServiceMonitor", &rendered)["spec"]["endpoints"][0]["honorLabels"], true);
}

#[tokio::test]
#[ignore = "needs a box"]
async fn only_the_pages_are_reached_and_egress_is_the_sites_to_say() {
    let cluster = cluster().await;
    let chart = file("charts/cascina");
    let policy = |values: Value| the("NetworkPolicy", &rendered(&cluster, &chart, &values))["spec"].clone();
    let open = policy(json!({}));
    assert_eq!(open["policyTypes"], json!(["Ingress"]));
    assert_eq!(open["ingress"], json!([{"ports": [{"port": "http", "protocol": "TCP"}]}]));
    let monitoring = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]);
    let closed = policy(json!({"networkPolicy": {"from": monitoring, "egress": []}}));
    assert_eq!(closed["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!((&closed["ingress"][0]["from"], &closed["egress"]), (&monitoring, &json!([])));
    let without = rendered(&cluster, &chart, &json!({"networkPolicy": {"enabled": false}}));
    assert!(without.iter().all(|object| object["kind"] != "NetworkPolicy"));
    // The API server's own judgement, with nothing made.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let made = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "chart"}, "spec": closed});
    file.write_all(made.to_string().as_bytes()).unwrap();
    cluster.must("kubectl", &["create", "--dry-run=server", "-n", "default", "-f", file.path().to_str().unwrap()]);
}

#[tokio::test]
#[ignore = "needs a box"]
async fn its_values_work_when_it_is_the_dependency_of_another_chart() {
    let cluster = cluster().await;
    let directory = tempfile::tempdir().unwrap();
    let charts = directory.path().join("charts");
    std::fs::create_dir(&charts).unwrap();
    let chart = file("charts/cascina");
    cluster.must("helm", &["package", "--destination", charts.to_str().unwrap(), chart.to_str().unwrap()]);
    let dependency =
        json!({"name": "cascina", "version": "0.1.0", "alias": "operator", "condition": "operator.enabled"});
    let parent = json!({"apiVersion": "v2", "name": "site", "version": "1.0.0", "dependencies": [dependency]});
    std::fs::write(directory.path().join("Chart.yaml"), parent.to_string()).unwrap();
    let values = |enabled: bool| {
        json!({
            "global": {"imageRegistry": "registry.example.org"},
            "operator": {
                "enabled": enabled, "priorityClassName": "system-cluster-critical",
                "site": {"defaultQuota": {"instances": 5}, "dnsDomain": "farms.example.org"},
                "flavours": {"m1.tiny": {"enabled": false}, "m1.own": {"cpus": 2, "memory": "2Gi"}},
            },
        })
    };
    // Its defaults are the parent's own file: what is null there Helm takes for what isn't said.
    std::fs::write(directory.path().join("values.yaml"), values(true).to_string()).unwrap();
    let with = rendered(&cluster, directory.path(), &json!({}));
    let flavours: BTreeSet<_> = with
        .iter()
        .filter(|object| object["kind"] == "Flavour")
        .map(|object| object["metadata"]["name"].clone().to_string())
        .collect();
    assert_eq!(
        flavours,
        ["m1.large", "m1.medium", "m1.own", "m1.small", "router"].map(|name| format!("{name:?}")).into()
    );
    let site = Site::parse(the("ConfigMap", &with)["data"]["site.yaml"].as_str().unwrap()).unwrap();
    assert_eq!((site.default_quota.unwrap().instances, site.dns_domain.as_str()), (Some(5), "farms.example.org"));
    assert_eq!(the("Deployment", &with)["spec"]["template"]["spec"]["priorityClassName"], "system-cluster-critical");
    // Tenants are bound to roles of fixed names, whatever the chart is called there.
    assert!(with.iter().any(|object| object["metadata"]["name"] == "cascina-farm-admin"));
    assert!(rendered(&cluster, directory.path(), &values(false)).is_empty(), "the parent says that it isn't wanted");
}

#[tokio::test]
#[ignore = "needs a box"]
async fn pods_have_no_more_than_they_need() {
    let cluster = cluster().await;
    let chart = file("charts/cascina");
    let rendered = documents(&cluster.stdout("helm", &["template", "test", chart.to_str().unwrap()]));
    let deployment = rendered.iter().find(|object| object["kind"] == "Deployment").unwrap();
    // The strictest of Kubernetes' own standards: the API server itself judges, in a namespace that enforces it.
    const NAMESPACE: &str = "chart-restricted";
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    cluster.namespace_with(NAMESPACE, labels).await;
    let mut pod = deployment["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "operator".into();
    pod["spec"]["serviceAccountName"] = "default".into();
    let pods = support::dynamic(&cluster.client, "v1", "Pod", NAMESPACE);
    let dry_run = kube::api::PostParams { dry_run: true, ..Default::default() };
    pods.create(&dry_run, &serde_json::from_value(pod).unwrap()).await.unwrap();
    cluster.forget_namespace(NAMESPACE).await;
}
