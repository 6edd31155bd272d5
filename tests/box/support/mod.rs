//! What the tests of the box share: the box itself, tenants that vanish with their test, waiting, reading metrics.

pub mod census;
pub mod libvirt;
pub mod metrics;
pub mod soak;
pub mod tenant;
pub mod wait;

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use cascina::api::{Flavour, Hypervisor, HypervisorPhase, Image, Maintenance};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, reach};
use crate::turn::{Beside, turn};
pub use tenant::Tenant;
pub use wait::{condition, is_ready, reason};

/// A guest may take so long to answer: emulated, on two cores that the whole box shares.
pub const BOOT: Duration = Duration::from_secs(150);

/// What needs no guest takes at most so long.
pub const SOON: Duration = Duration::from_secs(30);

/// The hosts of a box.
pub const HOSTS: [&str; 4] = ["worker-1", "worker-2", "service-1", "service-2"];

/// A size that fits an appliance; the box has room for many.
pub const SMALL: &str = "e2e-small";

/// The namespaces of the first example.
pub const EXAMPLES: [&str; 2] = ["farm-a", "farm-b"];

/// The running box.
pub struct TheBox {
    /// Its API server.
    pub cluster: Cluster,
    /// Where everything of it lies.
    pub state: PathBuf,
}

/// The running box, whole: every host answers and is open, one operator works. Other tests of tenants run in it too, so
/// this is for one that disturbs no host and no operator, and asserts no seconds.
pub async fn the_box() -> TheBox {
    whole(Beside::Others).await
}

/// The running box, whole, and for this test alone: without the examples too, which others use and leave for those that
/// come after them.
pub async fn the_box_alone() -> TheBox {
    let the_box = whole(Beside::Nobody).await;
    let examples = [&["delete", "namespace", "--ignore-not-found", "--timeout=120s"], EXAMPLES.as_slice()].concat();
    the_box.cluster.must("kubectl", &examples);
    the_box
}

async fn whole(beside: Beside) -> TheBox {
    let (_gate, turn) = turn(beside);
    let cluster = reach(turn).await;
    let the_box = TheBox { state: cluster.turn.state.clone(), cluster };
    the_box.mend().await;
    the_box
}

impl TheBox {
    /// Starts what an earlier test, or a person, left stopped.
    async fn mend(&self) {
        self.script("operator", &["stop", "2"]);
        self.script("operator", &["start"]);
        self.has_flavour(SMALL, json!({"cpus": 1, "memory": "192Mi"})).await;
        if !self.hosts_are_well().await {
            self.script("network", &["heal"]);
            for host in HOSTS {
                self.script("host", &["resume", host]);
            }
            self.script("host", &[&["start"], HOSTS.as_slice()].concat());
            self.script("site", &["--apply"]);
        }
        self.eventually("every host to be Ready and every image on its hosts", BOOT, async || {
            let images: Vec<Image> = self.all().list(&Default::default()).await.unwrap().items;
            let ready = |name: &str| {
                let image = images.iter().find(|image| image.name_any() == name)?;
                Some(is_ready(image) && image.status.as_ref()?.ready.as_deref() == Some("4/4"))
            };
            let images_are_well = ["appliance", "debian"].iter().all(|name| ready(name) == Some(true));
            let well = images_are_well && self.hosts_are_well().await;
            well.then_some(()).ok_or_else(|| self.cluster.run("kubectl", &["get", "hv,img"]).1)
        })
        .await;
    }

    async fn hosts_are_well(&self) -> bool {
        let hosts: Vec<Hypervisor> = self.all().list(&Default::default()).await.unwrap().items;
        let well = |name: &&str| {
            let host = hosts.iter().find(|host| host.name_any() == **name);
            let phase = host.and_then(|host| host.status.as_ref()).map(|status| status.phase);
            let verified =
                host.and_then(|host| condition(host, "IsolationVerified")).is_some_and(|it| it.status == "True");
            phase == Some(HypervisorPhase::Ready) && host.is_some_and(is_ready) && verified
        };
        HOSTS.iter().all(well)
    }

    /// A script of `box/`; it must succeed.
    #[track_caller]
    pub fn script(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.try_script(name, arguments);
        let said = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
        assert!(output.status.success(), "box/{name} {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A script of `box/`, and how it ended.
    pub fn try_script(&self, name: &str, arguments: &[&str]) -> Output {
        self.cluster.turn.script(name).args(arguments).output().unwrap_or_else(|error| panic!("box/{name}: {error}"))
    }

    /// Objects of a kind, in all namespaces.
    pub fn all<K: kube::Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.cluster.client.clone())
    }

    /// A flavour as it shall be.
    pub async fn has_flavour(&self, name: &str, spec: Value) {
        let flavours: Api<Flavour> = self.all();
        let flavour = json!({
            "apiVersion": "cascina.dev/v1alpha1", "kind": "Flavour", "metadata": {"name": name}, "spec": spec,
        });
        flavours.patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(flavour)).await.unwrap();
    }

    /// Closes or opens a host.
    pub async fn maintain(&self, host: &str, maintenance: Maintenance) {
        let hosts: Api<Hypervisor> = self.all();
        let patch = json!({"spec": {"maintenance": maintenance}});
        hosts.patch(host, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// A namespace of the box: a host's, or `outside`.
    pub fn network_of(&self, name: &str) -> String {
        format!("cascina{}-{name}", self.cluster.turn.index)
    }

    /// The last lines that an instance of the operator wrote.
    pub fn operator_log(&self, instance: u8, lines: usize) -> String {
        let log = std::fs::read_to_string(self.state.join(format!("log/operator-{instance}.log"))).unwrap_or_default();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// A page of the operator.
    #[track_caller]
    pub fn page(&self, path: &str, instance: &str) -> String {
        self.script("operator", &["get", path, instance])
    }
}

/// Does something when the test ends, however it ends.
pub struct Finally<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
