//! The operator as a process: options, logs, the site's configuration, leadership, the controllers, the HTTP page.

mod door;
mod leader;
mod server;
mod site_file;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::clock::Clock;
use crate::controllers;
use crate::controllers::context::{Caches, Context, Events};
use crate::controllers::fleet::Fleet;
use crate::images::ImageStore;
use crate::libvirt::{self, end_process};
use crate::metrics::Metrics;
use server::Health;

/// An API server that doesn't answer when we start is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Options of `cascina run`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The site's configuration, YAML; read again when it changes.
    #[arg(long, env = "CASCINA_SITE_CONFIG")]
    site_config: Option<PathBuf>,
    /// Directory for fetched images.
    #[arg(long, env = "CASCINA_CACHE_DIR", default_value = "/var/cache/cascina")]
    cache_dir: PathBuf,
    /// Private directory for client certificates, best in memory.
    #[arg(long, env = "CASCINA_RUNTIME_DIR", default_value = "/run/cascina")]
    runtime_dir: PathBuf,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    #[arg(long, env = "CASCINA_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Namespace of the operator: its Lease and the Secrets of hypervisors are there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "cascina-system")]
    namespace: String,
    /// Name of this instance, the same after a restart.
    #[arg(long, env = "POD_NAME", default_value = "cascina")]
    identity: String,
    /// How logs are written.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Runs the operator until it is told to stop, or loses the lead.
///
/// # Errors
/// What keeps it from starting, and the loss of the lead.
pub fn run(options: Options) -> Result<()> {
    start_logging(options.log_format);
    // Only the first call in a process counts; a later one finds the provider there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Calls to hosts block: each host may hold a few threads, and a hung one holds them for long.
        .max_blocking_threads(2048)
        .build()?;
    let outcome = runtime.block_on(operate(options));
    // Such a thread isn't waited for either: who lost the lead has to be gone.
    runtime.shutdown_background();
    outcome
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_runtime=warn"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

async fn operate(options: Options) -> Result<()> {
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    let client = Client::try_default().await.context("no way to the Kubernetes API")?;
    // A connection of its own: what the controllers ask for is never in the way of the Lease.
    let leases = Client::try_default().await.context("no way to the Kubernetes API")?;
    let site = site_file::watch(options.site_config.clone(), stop.clone()).await?;
    let metrics = Arc::new(Metrics::default());

    let mut background = JoinSet::new();
    let (caches, filling) = Caches::new(&client, &metrics);
    for fill in filling {
        background.spawn(fill);
    }
    let health = Arc::new(Health::default());
    let listener =
        tokio::net::TcpListener::bind(options.listen).await.with_context(|| format!("--listen {}", options.listen))?;
    background.spawn(server::serve(listener, Arc::clone(&metrics), Arc::clone(&caches.machines), Arc::clone(&health)));

    let cluster = tokio::select! {
        identity = cluster_identity(&client) => identity?,
        () = stop.cancelled() => return Ok(()),
    };
    let context = Arc::new(Context {
        events: Events::new(client.clone(), options.identity.clone()),
        client,
        writes: Default::default(),
        site,
        fleet: Arc::new(Fleet::new(Clock::Wall, &cluster)),
        cluster,
        caches,
        connect: libvirt::connect(),
        clock: Clock::Wall,
        metrics,
        namespace: options.namespace.clone(),
        runtime_dir: options.runtime_dir.clone(),
    });
    tokio::select! {
        () = context.caches.ready() => {}
        () = stop.cancelled() => return Ok(()),
    }
    health.set_ready();
    info!("caches are filled; waiting for the lead");

    let Some(lead) = leader::wait_for_lead(leases, &options, &stop).await? else { return Ok(()) };
    context.metrics.set_leader(true);
    info!("leading");
    let store = Arc::new(ImageStore::open(&options.cache_dir, &context.site().images).await?);
    let working = controllers::run(Arc::clone(&context), store, stop.clone());
    let outcome = tokio::select! {
        () = working => Ok(()),
        () = lead.lost() => Err(anyhow::anyhow!("lost the lead; another instance may work now")),
    };
    context.metrics.set_leader(false);
    if outcome.is_ok() {
        lead.release().await;
    }
    outcome
}

/// The uid of `kube-system`, by which domains of several clusters on one host are told apart. An API server that is away
/// is waited for: who keeps us would let us start again after pauses that grow.
async fn cluster_identity(client: &Client) -> Result<String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = loop {
        match namespaces.get("kube-system").await {
            Ok(system) => break system,
            // That it refuses may be a part of its start too.
            Err(error) => {
                warn!(%error, "the namespace kube-system can't be read; asking again");
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    };
    system.uid().context("the namespace kube-system has no uid")
}

async fn stop_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("signals can't be listened to; stop the process by killing it");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("asked to stop");
    stop.cancel();
    // What doesn't end by itself in this time isn't waited for: every step can be repeated.
    tokio::time::sleep(Duration::from_secs(20)).await;
    warn!("work did not end in time");
    end_process(false);
}
