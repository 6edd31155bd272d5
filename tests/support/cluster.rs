//! The API server of a box, for tests.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use axum::http::Request;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DeleteParams, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::turn::{Beside, Turn, turn};

/// An API server with Cascina's kinds.
pub struct Cluster {
    /// As its administrator.
    pub client: Client,
    /// The box that it is in.
    pub turn: Turn,
    config: Config,
    kubeconfig: PathBuf,
}

/// As long as it lives the box's operator is stopped.
pub struct WithoutOperator<'a>(&'a Cluster);

impl Drop for WithoutOperator<'_> {
    fn drop(&mut self) {
        let _ = self.0.turn.script("operator").arg("start").status();
    }
}

/// The API server of the running box, beside other tests of tenants.
pub async fn cluster() -> Cluster {
    let (_gate, turn) = turn(Beside::Others);
    reach(turn).await
}

/// The same for this test alone.
pub async fn cluster_alone() -> Cluster {
    let (_gate, turn) = turn(Beside::Nobody);
    reach(turn).await
}

/// The API server, in this turn.
pub async fn reach(turn: Turn) -> Cluster {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let path = turn.state.join("kubeconfig");
    let kubeconfig = Kubeconfig::read_from(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Cluster { client: Client::try_from(config.clone()).unwrap(), turn, config, kubeconfig: path }
}

impl Cluster {
    /// The API server as somebody else sees it.
    pub fn as_user(&self, user: &str, groups: &[&str]) -> Client {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.to_owned());
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        config.auth_info.impersonate_groups = Some(groups);
        Client::try_from(config).unwrap()
    }

    /// Stops the operator for a while, so that nobody but the test writes.
    pub fn without_operator(&self) -> WithoutOperator<'_> {
        assert!(self.turn.script("operator").arg("stop").status().unwrap().success());
        WithoutOperator(self)
    }

    /// Runs `kubectl` or `helm` on this API server: whether it succeeded, and all that it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(self.turn.state.join("bin").join(program))
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// The same, and it must succeed.
    #[track_caller]
    pub fn must(&self, program: &str, arguments: &[&str]) -> String {
        let (good, said) = self.run(program, arguments);
        assert!(good, "{program} {arguments:?}: {said}");
        said
    }

    /// Standard output alone of a command that must succeed.
    #[track_caller]
    pub fn stdout(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(self.turn.state.join("bin").join(program))
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .output()
            .unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes sure that a namespace is there.
    pub async fn namespace(&self, name: &str) {
        self.namespace_with(name, json!({})).await;
    }

    /// The same, with labels.
    pub async fn namespace_with(&self, name: &str, labels: Value) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap();
        eventually("an earlier namespace to go", async || {
            let before = namespaces.get_opt(name).await.unwrap();
            before.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_none())
        })
        .await;
        match namespaces.create(&PostParams::default(), &namespace).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("namespace {name}: {error}"),
        }
        // Objects can be made in it once it has its service account.
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), name);
        eventually("the namespace's service account", async || accounts.get("default").await.is_ok()).await;
    }

    /// Removes a namespace, in the background.
    pub async fn forget_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(name, &DeleteParams::background()).await;
    }

    /// One of Cascina's kinds, without its type.
    pub fn kind(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        dynamic(&self.client, "cascina.dev/v1alpha1", kind, namespace)
    }

    /// A request that the typed client has no words for.
    pub async fn raw(&self, method: &str, path: &str, accept: &str, body: &Value) -> Result<Value, kube::Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", accept)
            .header("content-type", "application/json")
            .body(if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() })
            .unwrap();
        self.client.request(request).await
    }
}

/// Objects of any kind through this client; cluster-scoped kinds ignore the namespace.
pub fn dynamic(client: &Client, api_version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    if scope(kind) == Scope::Cluster {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    }
}

/// Where objects of a kind live, of those that the tests use.
pub fn scope(kind: &str) -> Scope {
    match kind {
        "Hypervisor" | "Image" | "Flavour" | "Namespace" | "ClusterRole" | "ClusterRoleBinding" => Scope::Cluster,
        _ => Scope::Namespaced,
    }
}

/// The documents of a YAML stream.
pub fn documents(yaml: &str) -> Vec<Value> {
    use serde::Deserialize;
    serde_yaml::Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

/// A file of the repository. Where that is, is asked at run time: checkouts may share what was built.
pub fn file(path: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join(path)
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The YAML files of a folder of the repository, in order.
pub fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(file(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} has no YAML files");
    files
}

/// Waits until something is so; gives up after twenty seconds.
pub async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so().await {
        assert!(Instant::now() < end, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a merge patch (RFC 7396) makes of a document.
pub fn merged(mut document: Value, patch: &Value) -> Value {
    let Some(fields) = patch.as_object() else { return patch.clone() };
    if !document.is_object() {
        document = json!({});
    }
    let object = document.as_object_mut().unwrap();
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            let before = object.remove(name).unwrap_or(Value::Null);
            object.insert(name.clone(), merged(before, value));
        }
    }
    document
}
