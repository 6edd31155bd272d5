//! What every controller shares.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::cache::{Cache, Cached, Index, KeepLabels};
use super::fleet::Fleet;
use super::turns::{Turn, Turns};
use super::vanish::{PAUSE, is_mass};
use crate::api::site::Site;
use crate::api::{Flavour, Hypervisor, Image, VRouter, VirtualFarm, VirtualMachine};
use crate::clock::Clock;
use crate::libvirt::Connect;
use crate::metrics::Metrics;
use crate::text::printable;

/// The longest note of an event, in bytes: the API server takes 1024.
const LONGEST_NOTE: usize = 1000;

/// Writes to the API server at the same time, besides those of placement: fewer than it takes to fill the operator's
/// queues there, so that one that comes is answered soon.
const WRITES_IN_FLIGHT: usize = 32;

/// Events that are written at the same time.
const EVENTS_IN_FLIGHT: usize = 8;

/// The turns in which the controllers write to the API server.
pub struct WriteTurns(Arc<Turns>);

impl Default for WriteTurns {
    fn default() -> Self {
        Self(Turns::new(WRITES_IN_FLIGHT))
    }
}

impl WriteTurns {
    /// Waits until it is the turn of the object's namespace.
    pub async fn take(&self, object: &impl Resource) -> Turn {
        self.0.take(object.meta().namespace.as_deref().unwrap_or_default()).await
    }
}

/// What every controller shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// In whose turn it is written to.
    pub writes: WriteTurns,
    /// The site's configuration, as it is now.
    pub site: watch::Receiver<Arc<Site>>,
    /// The hosts.
    pub fleet: Arc<Fleet>,
    /// The objects.
    pub caches: Caches,
    /// What is told to people.
    pub events: Events,
    /// How a host is reached.
    pub connect: Connect,
    /// What time it is.
    pub clock: Clock,
    /// What is told to Prometheus.
    pub metrics: Arc<Metrics>,
    /// Namespace of the operator: where Secrets of hypervisors are.
    pub namespace: String,
    /// Identity of the Kubernetes cluster: the uid of its `kube-system` namespace.
    pub cluster: String,
    /// Private directory for client certificates, best in memory.
    pub runtime_dir: PathBuf,
}

impl Context {
    /// The site's configuration, as it is now.
    pub fn site(&self) -> Arc<Site> {
        Arc::clone(&self.site.borrow())
    }

    /// The API of a cluster-scoped kind.
    pub fn cluster_api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    /// The API of a namespaced kind.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// Every kind that controllers look at.
pub struct Caches {
    /// Hosts.
    pub hypervisors: Arc<Cache<Hypervisor>>,
    /// Images.
    pub images: Arc<Cache<Image>>,
    /// Sizes of machines.
    pub flavours: Arc<Cache<Flavour>>,
    /// Farms.
    pub farms: Arc<Cache<VirtualFarm>>,
    /// Machines.
    pub machines: Arc<Cache<VirtualMachine>>,
    /// Routers of farms.
    pub routers: Arc<Cache<VRouter>>,
}

impl Caches {
    /// Empty caches of every kind, and the tasks that fill them as long as they run.
    #[must_use]
    pub fn new(client: &Client, metrics: &Arc<Metrics>) -> (Self, Vec<BoxFuture<'static, ()>>) {
        type Filling = Vec<BoxFuture<'static, ()>>;
        fn of<K: Cached>(
            client: &Client,
            metrics: &Arc<Metrics>,
            index: Index<K>,
            labels: KeepLabels,
            filling: &mut Filling,
        ) -> Arc<Cache<K>> {
            let (cache, fill) = Cache::new(Api::all(client.clone()), Arc::clone(metrics), index, labels);
            filling.push(Box::pin(fill));
            cache
        }
        let mut filling = Vec::new();
        let caches = Self {
            // Machines and images select hosts by any label.
            hypervisors: of(client, metrics, |_| Vec::new(), KeepLabels::All, &mut filling),
            images: of(client, metrics, |_| Vec::new(), KeepLabels::Ours, &mut filling),
            flavours: of(client, metrics, |_| Vec::new(), KeepLabels::Ours, &mut filling),
            farms: of(client, metrics, |_| Vec::new(), KeepLabels::Ours, &mut filling),
            machines: of(client, metrics, host_and_farm, KeepLabels::Ours, &mut filling),
            routers: of(client, metrics, |_| Vec::new(), KeepLabels::Ours, &mut filling),
        };
        (caches, filling)
    }

    /// The machines that have this host.
    #[must_use]
    pub fn machines_on(&self, host: &str) -> Vec<Arc<VirtualMachine>> {
        self.machines.filed_under(host)
    }

    /// The machines that name this farm.
    #[must_use]
    pub fn machines_of(&self, namespace: &str, farm: &str) -> Vec<Arc<VirtualMachine>> {
        self.machines.filed_under(&farm_entry(namespace, farm))
    }

    /// Waits until every kind has been listed in full: before that nothing may be concluded from an absence.
    pub async fn ready(&self) {
        tokio::join!(
            self.hypervisors.ready(),
            self.images.ready(),
            self.flavours.ready(),
            self.farms.ready(),
            self.machines.ready(),
            self.routers.ready(),
        );
        if self.machines_are_missing() {
            warn!("farms speak of many more machines than were listed; they are listed again");
            tokio::time::sleep(PAUSE).await;
            self.machines.list_again().await;
        }
    }

    /// Whether many of the machines that farms count in their statuses aren't there: what was listed first can't be held
    /// against what was known before.
    fn machines_are_missing(&self) -> bool {
        let used = |farm: &Arc<VirtualFarm>| farm.status.as_ref()?.quota_used.as_ref().map(|used| used.instances);
        let counted: i32 = self.farms.list().iter().filter_map(used).sum();
        let counted = usize::try_from(counted).unwrap_or_default();
        is_mass(counted.saturating_sub(self.machines.count()), counted)
    }
}

/// The host that a machine has, and its farm. No name of a host has a slash in it.
fn host_and_farm(machine: &VirtualMachine) -> Vec<String> {
    let host = machine.status.as_ref().and_then(|status| status.hypervisor.clone());
    let namespace = machine.metadata.namespace.as_deref().unwrap_or_default();
    host.into_iter().chain([farm_entry(namespace, &machine.spec.farm)]).collect()
}

fn farm_entry(namespace: &str, farm: &str) -> String {
    [namespace, farm].join("/")
}

/// Tells the story of an object in `kubectl describe`.
pub struct Events {
    recorder: Recorder,
    turns: Arc<Turns>,
}

impl Events {
    /// Events in the name of this instance of the operator.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "cascina.dev/operator".into(), instance: Some(instance) };
        Self { recorder: Recorder::new(client, reporter), turns: Turns::new(EVENTS_IN_FLIGHT) }
    }

    /// Something went as it should.
    pub async fn normal(&self, about: ObjectReference, reason: &str, action: &str, note: String) {
        self.publish(about, EventType::Normal, reason, action, note).await;
    }

    /// Something needs a person's attention, or explains a wait.
    pub async fn warning(&self, about: ObjectReference, reason: &str, action: &str, note: String) {
        self.publish(about, EventType::Warning, reason, action, note).await;
    }

    async fn publish(&self, about: ObjectReference, type_: EventType, reason: &str, action: &str, note: String) {
        let note = Some(printable(&note, LONGEST_NOTE));
        let event = Event { type_, reason: reason.into(), note, action: action.into(), secondary: None };
        let _turn = self.turns.take(about.namespace.as_deref().unwrap_or_default()).await;
        // An event that is lost (a namespace that is going away, say) changes nothing about the work.
        if let Err(error) = self.recorder.publish(&event, &about).await {
            debug!(%error, reason, "event not recorded");
        }
    }
}
