//! A whole site: objects and hosts. It can be put to sleep, copied, and woken with another operator.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cascina::api::HypervisorClass;
use cascina::clock::Clock;
use cascina::controllers::context::{Caches, Context, Events};
use cascina::controllers::fleet::Fleet;
use cascina::metrics::Metrics;
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::apiserver::{ApiServer, Resource, Store, resource};
use crate::faults::Faults;
use crate::host::connect;
use crate::images::{NAMES, images};
use crate::invariants::CLUSTER;
use crate::world::World;

/// A site at rest: plain data.
#[derive(Clone, Debug)]
pub struct Datacentre {
    /// The objects.
    pub store: Store,
    /// The hosts.
    pub world: World,
    /// The time.
    pub now: Timestamp,
}

/// A site in which time passes.
#[derive(Clone)]
pub struct Live {
    /// The API server.
    pub api: ApiServer,
    /// The hosts.
    pub world: Arc<Mutex<World>>,
    /// The time.
    pub clock: Clock,
}

/// A kind of ours.
pub fn ours(plural: &str) -> Resource {
    resource("cascina.dev", plural)
}

impl Datacentre {
    /// Three workers with pools of their own and two service hosts that share one; images and a flavour, no farm.
    pub fn new() -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut site = Self { store: Store::new(now), world: World::new(now), now };
        let secret = json!({
            "metadata": {"name": "libvirt-client"}, "type": "kubernetes.io/tls",
            "data": {"ca.crt": "Y2E=", "tls.crt": "Y3J0", "tls.key": "a2V5"},
        });
        site.store.create(&resource("", "secrets"), "cascina-system", secret, "admin", now).unwrap();
        for name in ["worker-1", "worker-2", "worker-3"] {
            site.add_host(name, HypervisorClass::Worker, name);
        }
        for name in ["service-1", "service-2"] {
            site.add_host(name, HypervisorClass::Service, "shared");
        }
        for name in NAMES {
            site.create("images", "", name, images().spec(name));
        }
        site.create("flavours", "", "small", json!({"cpus": 1, "memory": "512Mi", "rootDisk": "3Gi"}));
        site.create("flavours", "", "router", json!({"cpus": 1, "memory": "256Mi"}));
        site.create("flavours", "", "large", json!({"cpus": 2, "memory": "1Gi", "rootDisk": "3Gi", "dataDisk": "1Gi"}));
        let tenant = json!({"metadata": {"name": "tenant"}});
        site.store.create(&resource("", "namespaces"), "", tenant, "admin", now).unwrap();
        site
    }

    /// A host and its object.
    pub fn add_host(&mut self, name: &str, class: HypervisorClass, pool: &str) {
        self.world.add_host(name, class, pool);
        let public = (class == HypervisorClass::Service).then(|| json!({"bridge": "br-public"}));
        let shared = (class == HypervisorClass::Service).then_some(pool);
        let spec = json!({
            "uri": format!("qemu+tls://{name}/system"), "credentialsSecretRef": {"name": "libvirt-client"},
            "class": class, "networks": {"private": {"bridge": "br-private"}, "public": public},
            "storage": {"pool": "cascina", "shared": shared},
        });
        self.create("hypervisors", "", name, spec);
    }

    /// An object of ours.
    pub fn create(&mut self, plural: &str, namespace: &str, name: &str, spec: Value) {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        self.store.create(&ours(plural), namespace, object, "admin", self.now).unwrap();
    }

    /// Lets time pass, in the runtime that this is called in.
    pub fn wake(self) -> Live {
        let clock = Clock::simulated(self.now);
        Live { api: ApiServer::new(self.store, clock), world: Arc::new(Mutex::new(self.world)), clock }
    }
}

impl Live {
    /// The site as it is now.
    pub fn asleep(&self) -> Datacentre {
        let store = self.api.with(|store, _| store.clone());
        Datacentre { store, world: self.world(|world| world.clone()), now: self.clock.now() }
    }

    /// Looks at the hosts, or does something to them.
    pub fn world<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// When anything last changed.
    pub fn last_change(&self) -> Timestamp {
        self.api.with(|store, _| store.last_change).max(self.world(|world| world.last_change))
    }

    /// An operator, from its start until it is dropped.
    pub async fn operate(self, faults: Arc<Faults>) {
        let client = self.api.client(&faults);
        self.operate_through(client, faults).await;
    }

    /// The same, which takes the lead so long after its start.
    pub async fn operate_after(self, standby: Duration, faults: Arc<Faults>) {
        let client = self.api.client(&faults);
        self.lead_after(standby, client, faults).await;
    }

    /// An operator that asks another API server.
    pub async fn operate_through(self, client: Client, faults: Arc<Faults>) {
        self.lead_after(Duration::ZERO, client, faults).await;
    }

    async fn lead_after(self, standby: Duration, client: Client, faults: Arc<Faults>) {
        let metrics = Arc::new(Metrics::default());
        let (caches, filling) = Caches::new(&client, &metrics);
        let mut background = JoinSet::new();
        for fill in filling {
            background.spawn(fill);
        }
        let proves_isolation = self.world(|world| world.proves_isolation);
        let (_site, site) = watch::channel(Arc::new(images().site(proves_isolation)));
        let context = Arc::new(Context {
            events: Events::new(client.clone(), "simulated".into()),
            client,
            writes: Default::default(),
            site,
            fleet: Arc::new(Fleet::new(self.clock, CLUSTER)),
            caches,
            connect: connect(&self.world, &faults, self.clock),
            clock: self.clock,
            metrics,
            namespace: "cascina-system".into(),
            cluster: CLUSTER.into(),
            runtime_dir: std::env::temp_dir(),
        });
        context.caches.ready().await;
        tokio::time::sleep(standby).await;
        let nothing = self.world(|world| world.mirror_is_away).then(|| images().nothing());
        let store = nothing.as_ref().map_or_else(|| images().store(), |(_, store)| Arc::clone(store));
        cascina::controllers::run(context, store, CancellationToken::new()).await;
    }
}
