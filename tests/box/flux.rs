//! Flux's own controllers bring a directory of a git repository into the box and keep it so: what is committed is applied,
//! what drifts is put back, what is removed is pruned, and nothing of it happens while it is suspended.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use cascina::api::Flavour;
use jiff::Timestamp;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cluster::dynamic;
use crate::support::soak::{measured, since};
use crate::support::{BOOT, Finally, SMALL, SOON, Tenant, condition, is_ready, the_box_alone};

const SOURCES: &str = "source.toolkit.fluxcd.io/v1";
const KUSTOMIZATIONS: &str = "kustomize.toolkit.fluxcd.io/v1";

/// Flux looks this often whether all is as it applied it.
const INTERVAL: Duration = Duration::from_secs(10);

/// A directory of files in git, from which the server of the box is given what is committed.
struct Repository {
    files: tempfile::TempDir,
    served: PathBuf,
}

impl Repository {
    fn new(served: PathBuf) -> Self {
        let repository = Self { files: tempfile::tempdir().unwrap(), served };
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository.git(&["init", "--quiet", "--initial-branch=main", "--bare", repository.served.to_str().unwrap()]);
        repository
    }

    #[track_caller]
    fn git(&self, arguments: &[&str]) -> String {
        let who = ["-c", "user.name=anna", "-c", "user.email=anna@example.org"];
        let output = Command::new("git").args(who).args(arguments).current_dir(self.files.path()).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn write(&self, name: &str, object: &Value) {
        std::fs::write(self.files.path().join(name), serde_yaml::to_string(object).unwrap()).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.files.path().join(name)).unwrap();
    }

    /// Commits all files as they are now; the revision, as Flux names it.
    fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
        self.git(&["push", "--quiet", self.served.to_str().unwrap(), "main"]);
        format!("main@sha1:{}", self.git(&["rev-parse", "HEAD"]).trim())
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.served);
    }
}

/// The farm of the first example, small.
fn farm(namespace: &str, replicas: u8) -> Value {
    json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualFarm",
        "metadata": {"name": "farm", "namespace": namespace},
        "spec": {
            "quota": {"instances": 4},
            "admins": [{"kind": "User", "name": "anna"}],
            "groups": [{"name": "node", "replicas": replicas, "flavour": namespace, "image": "appliance"}],
        },
    })
}

impl Tenant<'_> {
    fn kustomizations(&self) -> Api<DynamicObject> {
        dynamic(&self.the_box.cluster.client, KUSTOMIZATIONS, "Kustomization", &self.namespace)
    }

    /// Flux follows the repository that the box's server has under the name of the namespace.
    async fn is_followed(&self) {
        let repository = json!({"metadata": {"name": "site"}, "spec": {
            "interval": "5s", "ref": {"branch": "main"}, "url": format!("http://127.0.0.1:9418/{}", self.namespace),
        }});
        self.creates("GitRepository", SOURCES, repository).await.unwrap();
        let kustomization = json!({"metadata": {"name": "site"}, "spec": {
            "interval": "10s", "retryInterval": "10s", "timeout": "5m", "wait": true, "prune": true, "path": "./",
            "sourceRef": {"kind": "GitRepository", "name": "site"},
        }});
        self.creates("Kustomization", KUSTOMIZATIONS, kustomization).await.unwrap();
    }

    async fn suspended(&self, suspend: bool) {
        let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
        self.kustomizations().patch("site", &PatchParams::default(), &patch).await.unwrap();
    }

    /// Waits until Flux tells that all is as this revision says.
    async fn applied(&self, revision: &str) -> DynamicObject {
        self.the_box
            .eventually(&format!("Flux to have applied {revision}"), BOOT * 2, async || {
                let told = self.kustomizations().get("site").await.map_err(|error| error.to_string())?;
                let done = is_ready(&told) && told.data["status"]["lastAppliedRevision"] == revision;
                if done { Ok(told) } else { Err(serde_yaml::to_string(&told.data["status"]).unwrap()) }
            })
            .await
    }

    /// The farm has this many machines in its group by its spec, and as many Ready ones, and `alone` is Ready.
    async fn is_whole(&self, replicas: i32) -> Result<(), String> {
        let farm = self.farms().get("farm").await.map_err(|error| error.to_string())?;
        let machines = self.machines().list(&Default::default()).await.unwrap().items;
        let mut ready: Vec<_> = machines.iter().filter(is_ready).map(ResourceExt::name_any).collect();
        ready.sort();
        let wanted = farm.spec.groups[0].replicas;
        let expected = ["alone".to_owned()].into_iter().chain((0..replicas).map(|index| format!("farm-node-{index}")));
        let whole =
            is_ready(&farm) && wanted == replicas && machines.len() == ready.len() && expected.eq(ready.clone());
        if whole { Ok(()) } else { Err(format!("of {wanted} and `alone` there are {ready:?}: {:?}", farm.status)) }
    }

    /// A person changes a field of an object that Flux applied.
    fn person_changes(&self, object: &str, field: &str, value: i32) {
        let patch = json!([{"op": "replace", "path": field, "value": value}]).to_string();
        let patch = ["-n", self.namespace.as_str(), "patch", object, "--type", "json", "-p", patch.as_str()];
        self.the_box.cluster.must("kubectl", &patch);
    }

    /// Every write to the farm and its machines so far, as far as it left a trace: who wrote, when, and what of it there was.
    async fn writes(&self) -> Vec<String> {
        let mut writes = Vec::new();
        writes.extend(self.farms().list(&Default::default()).await.unwrap().items.iter().map(written));
        writes.extend(self.machines().list(&Default::default()).await.unwrap().items.iter().map(written));
        writes
    }

    /// How often Flux has looked and found all as it applied it, since the revision came.
    async fn looks(&self) -> i64 {
        let told = self.kustomizations().get("site").await.unwrap();
        told.data.pointer("/status/history/0/totalReconciliations").and_then(Value::as_i64).unwrap_or_default()
    }

    /// Waits until nobody writes any more while Flux looks three times. If one undid what the other one does, there would be
    /// a write at every look.
    async fn rests(&self) {
        self.the_box
            .eventually("Flux and the operator to leave everything as it is", INTERVAL * 12, async || {
                let (before, looks, begin) = (self.writes().await, self.looks().await, Instant::now());
                while self.looks().await < looks + 3 {
                    if begin.elapsed() > INTERVAL * 9 {
                        return Err("Flux doesn't look".into());
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                let after = self.writes().await;
                if before == after { Ok(()) } else { Err(format!("{before:#?}\n--- became\n{after:#?}")) }
            })
            .await;
    }
}

fn written(object: &impl Resource<DynamicType = ()>) -> String {
    let meta = object.meta();
    let traces = meta.managed_fields.iter().flatten();
    let traces = traces.map(|trace| {
        let time = trace.time.as_ref().map(|time| time.0.to_string());
        format!(
            "{}/{}: {}",
            trace.manager.as_deref().unwrap(),
            trace.subresource.as_deref().unwrap_or("object"),
            time.unwrap()
        )
    });
    let traces: Vec<_> = traces.collect();
    format!("{} generation {:?} version {:?} {traces:?}", object.name_any(), meta.generation, meta.resource_version)
}

/// Who has a say in the spec of an object.
fn managers(object: &impl Resource<DynamicType = ()>) -> Vec<&str> {
    let managers = object.meta().managed_fields.iter().flatten();
    let of_spec = managers.filter(|one| one.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some()));
    of_spec.filter_map(|one| one.manager.as_deref()).collect()
}

fn ready_since(object: &impl Serialize) -> Timestamp {
    condition(object, "Ready").unwrap().last_transition_time.0
}

#[tokio::test]
#[ignore = "needs a box"]
async fn soak_flux_applies_puts_back_prunes_and_leaves_alone_what_is_suspended() {
    let the_box = the_box_alone().await;
    let _stop = Finally(|| {
        // They go with their namespace as long as somebody is there who takes their finalizers away.
        let wait = ["wait", "--for=delete", "kustomizations,gitrepositories", "-A", "--all", "--timeout=60s"];
        the_box.cluster.run("kubectl", &wait);
        the_box.script("gitops", &["stop"]);
    });
    the_box.script("gitops", &["start"]);
    let tenant = the_box.tenant("flux").await;
    let repository = Repository::new(the_box.state.join("run/gitops/repositories").join(&tenant.namespace));
    let namespace = tenant.namespace.as_str();

    // Applied: done when every machine is Ready, and not before.
    let cascina = |kind: &str, metadata: Value, spec: Value| json!({"apiVersion": "cascina.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
    let alone = json!({"farm": "farm", "flavour": SMALL, "image": "appliance", "priority": 10});
    repository
        .write("flavour.yaml", &cascina("Flavour", json!({"name": namespace}), json!({"cpus": 1, "memory": "192Mi"})));
    repository.write("farm.yaml", &farm(namespace, 1));
    let metadata = json!({"name": "alone", "namespace": namespace});
    repository.write("alone.yaml", &cascina("VirtualMachine", metadata, alone));
    let revision = repository.commit("A farm with a node, and a machine beside it");
    tenant.is_followed().await;
    let begin = Instant::now();
    the_box.until(&tenant.farms(), "farm", "is applied", BOOT, |_| true).await;
    assert!(
        !is_ready(&tenant.kustomizations().get("site").await.unwrap()),
        "Flux waits for what it has only just applied"
    );
    let told = tenant.applied(&revision).await;
    tenant.is_whole(1).await.unwrap();
    measured("Flux", "a commit is applied and all of it Ready after", since(begin));
    let farm_now = tenant.farms().get("farm").await.unwrap();
    let alone = tenant.machines().get("alone").await.unwrap();
    let node = tenant.machines().get("farm-node-0").await.unwrap();
    let last = [ready_since(&farm_now), ready_since(&alone), ready_since(&node)].into_iter().max().unwrap();
    assert!(ready_since(&told) >= last, "Flux says it is done at {}, and {last} is when it was", ready_since(&told));
    tenant.rests().await;

    // Drifted: put back, once, and then everybody rests. The operator has no say in a spec, and now nobody else has.
    tenant.person_changes("virtualfarm/farm", "/spec/groups/0/replicas", 2);
    tenant.person_changes("virtualmachine/alone", "/spec/priority", 20);
    let begin = Instant::now();
    the_box.until(&tenant.farms(), "farm", "is put back", BOOT, |farm| farm.spec.groups[0].replicas == 1).await;
    tenant.until("alone", "is put back", BOOT, |machine| machine.spec.priority == 10).await;
    measured("Flux", "what a person changed is put back after", since(begin));
    the_box.eventually("all to be as before", BOOT, async || tenant.is_whole(1).await).await;
    tenant.applied(&revision).await;
    tenant.rests().await;
    assert_eq!(managers(&tenant.farms().get("farm").await.unwrap()), ["kustomize-controller"]);
    assert_eq!(managers(&tenant.machines().get("alone").await.unwrap()), ["kustomize-controller"]);
    let unharmed = tenant.machines().get("alone").await.unwrap();
    let boots = |machine: &cascina::api::VirtualMachine| machine.status.as_ref().unwrap().phase_transitions.clone();
    assert_eq!((unharmed.uid(), boots(&unharmed)), (alone.uid(), boots(&alone)), "it went on running");

    // Changed in git.
    repository.write("farm.yaml", &farm(namespace, 2));
    let revision = repository.commit("One more node");
    tenant.applied(&revision).await;
    tenant.is_whole(2).await.unwrap();

    // Suspended: a person's change stays, until it is resumed.
    tenant.suspended(true).await;
    tenant.person_changes("virtualfarm/farm", "/spec/groups/0/replicas", 1);
    the_box.eventually("the farm to be as the person wants it", BOOT, async || tenant.is_whole(1).await).await;
    tokio::time::sleep(INTERVAL * 3).await;
    tenant.is_whole(1).await.unwrap();
    tenant.suspended(false).await;
    the_box.eventually("the farm to be as git has it", BOOT, async || tenant.is_whole(2).await).await;
    tenant.applied(&revision).await;

    // Pruned: what was removed in git, then all of it.
    let nodes = tenant.machines().list(&Default::default()).await.unwrap().items;
    repository.remove("alone.yaml");
    let revision = repository.commit("No machine beside the farm");
    tenant.applied(&revision).await;
    the_box.until_gone(&tenant.machines(), "alone", BOOT).await;
    the_box.nothing_left_of(&[alone.uid().unwrap()]).await;
    the_box.until(&tenant.farms(), "farm", "is still Ready", SOON, is_ready).await;
    let begin = Instant::now();
    tenant.kustomizations().delete("site", &DeleteParams::default()).await.unwrap();
    the_box.until_gone(&tenant.farms(), "farm", BOOT).await;
    the_box.until_gone(&the_box.all::<Flavour>(), namespace, SOON).await;
    the_box.nothing_left_of(&nodes.iter().map(|node| node.uid().unwrap()).collect::<Vec<_>>()).await;
    measured("Flux", "with its Kustomization everything is gone after", since(begin));
    the_box
        .eventually("the Kustomization to be gone", SOON, async || {
            let left = tenant.kustomizations().get_opt("site").await.unwrap();
            left.map_or(Ok(()), |left| Err(serde_yaml::to_string(&left).unwrap()))
        })
        .await;
    the_box.all_is_accounted_for().await;
}
