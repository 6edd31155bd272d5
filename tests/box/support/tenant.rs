//! A namespace for one test, with a farm and machines in it, gone when the test ends.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cascina::api::{VirtualFarm, VirtualMachine};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::wait::is_ready;
use super::{BOOT, SMALL, SOON, TheBox};
use crate::cluster::{dynamic, merged};

/// A namespace and all that a test makes; it goes with the test, also with one that fails.
pub struct Tenant<'a> {
    /// The box.
    pub the_box: &'a TheBox,
    /// Name of the namespace.
    pub namespace: String,
    kubectl: std::path::PathBuf,
    kubeconfig: std::path::PathBuf,
    others: std::cell::RefCell<Vec<(String, String)>>,
}

impl TheBox {
    /// A namespace for this test alone.
    pub async fn tenant(&self, test: &str) -> Tenant<'_> {
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let namespace = format!("e2e-{test}-{}", &mark[..6]);
        self.cluster.namespace(&namespace).await;
        Tenant {
            the_box: self,
            namespace,
            kubectl: self.state.join("bin/kubectl"),
            kubeconfig: self.state.join("kubeconfig"),
            others: Default::default(),
        }
    }
}

impl Tenant<'_> {
    /// The tenant's machines.
    pub fn machines(&self) -> Api<VirtualMachine> {
        Api::namespaced(self.the_box.cluster.client.clone(), &self.namespace)
    }

    /// The tenant's farms.
    pub fn farms(&self) -> Api<VirtualFarm> {
        Api::namespaced(self.the_box.cluster.client.clone(), &self.namespace)
    }

    /// Makes an object of any kind; what is cluster-scoped goes with the test as well.
    pub async fn creates(&self, kind: &str, api_version: &str, object: Value) -> Result<DynamicObject, String> {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let object = merged(json!({"apiVersion": api_version, "kind": kind}), &object);
        let api = dynamic(&self.the_box.cluster.client, api_version, kind, &self.namespace);
        self.others.borrow_mut().push((kind.to_owned(), name));
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.map_err(|error| error.to_string())
    }

    /// Makes an object of ours.
    pub async fn makes(&self, kind: &str, object: Value) -> DynamicObject {
        self.creates(kind, "cascina.dev/v1alpha1", object).await.unwrap()
    }

    /// A farm with this spec and a network.
    pub async fn given_farm(&self, name: &str, spec: Value) -> VirtualFarm {
        self.makes("VirtualFarm", json!({"metadata": {"name": name}, "spec": spec})).await;
        self.the_box
            .until(&self.farms(), name, "has a network", SOON, |farm| {
                farm.status.as_ref().is_some_and(|status| status.network.is_some())
            })
            .await
    }

    /// Asks for an appliance in the farm `farm`, changed by `spec`.
    pub async fn asks_for(&self, name: &str, spec: Value) -> VirtualMachine {
        let spec = merged(json!({"farm": "farm", "flavour": SMALL, "image": "appliance"}), &spec);
        let machine = json!({
            "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": spec,
        });
        self.machines().create(&PostParams::default(), &serde_json::from_value(machine).unwrap()).await.unwrap()
    }

    /// Waits until a machine is Ready.
    pub async fn ready(&self, name: &str) -> VirtualMachine {
        self.until(name, "Ready", BOOT, is_ready).await
    }

    /// Waits until a machine is as it shall be.
    #[track_caller]
    pub fn until<'a, F: Fn(&VirtualMachine) -> bool>(
        &'a self,
        name: &str,
        what: &str,
        within: Duration,
        holds: F,
    ) -> impl Future<Output = VirtualMachine> + use<'a, F> {
        self.the_box.until(&self.machines(), name, what, within, holds)
    }

    /// A machine that runs: with a farm of its own if the tenant has none yet.
    pub async fn given_machine(&self, name: &str, spec: Value) -> VirtualMachine {
        if self.farms().get_opt("farm").await.unwrap().is_none() {
            self.given_farm("farm", json!({})).await;
        }
        self.asks_for(name, spec).await;
        self.ready(name).await
    }

    /// Changes the spec of a machine.
    pub async fn changes(&self, name: &str, spec: Value) {
        let patch = json!({"spec": spec});
        self.machines().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Deletes a machine.
    pub async fn deletes(&self, name: &str) {
        self.machines().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Runs a command in the guest of a machine, as root: whether it succeeded, and what it wrote.
    pub fn inside(&self, machine: &VirtualMachine, command: &[&str]) -> (bool, Vec<u8>) {
        let host = super::libvirt::host_of(machine);
        let uid = machine.uid().unwrap();
        let output = self.the_box.try_script("agent", &[&[host.as_str(), uid.as_str()], command].concat());
        (output.status.success(), output.stdout)
    }

    /// A file of the guest, byte for byte.
    pub fn file_inside(&self, machine: &VirtualMachine, path: &str) -> Vec<u8> {
        let (found, bytes) = self.inside(machine, &["cat", path]);
        assert!(found, "the guest has no {path}");
        bytes
    }

    fn kubectl(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(&self.kubectl);
        let output = command.args(arguments).env("KUBECONFIG", &self.kubeconfig).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Tenant<'_> {
    /// Everything goes; the next test begins when nothing of it takes room on a host any more.
    fn drop(&mut self) {
        self.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
        let list = ["get", "virtualfarms,vrouters,virtualmachines", "-n", &self.namespace, "-o", "name"];
        let end = Instant::now() + Duration::from_secs(60);
        while self.kubectl(&list).is_none_or(|left| !left.is_empty()) {
            if Instant::now() > end {
                eprintln!("what is in namespace {} doesn't go", self.namespace);
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        for (kind, name) in self.others.borrow().iter() {
            if matches!(kind.as_str(), "Image" | "Flavour" | "Hypervisor") {
                self.kubectl(&["delete", kind, name, "--timeout=30s", "--ignore-not-found"]);
            }
        }
    }
}
