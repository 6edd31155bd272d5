//! `/metrics`, `/livez` and `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::door;
use crate::api::VirtualMachine;
use crate::controllers::cache::Cache;
use crate::metrics::Metrics;

/// How long the blocking pool may take to run one empty task before the process counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Whether the process can do its work.
#[derive(Default)]
pub struct Health {
    ready: AtomicBool,
}

impl Health {
    /// The caches are filled: from now on it can work, or take over.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }
}

struct Page {
    metrics: Arc<Metrics>,
    machines: Arc<Cache<VirtualMachine>>,
    health: Arc<Health>,
}

/// Serves the pages as long as the process lives.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    machines: Arc<Cache<VirtualMachine>>,
    health: Arc<Health>,
) {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(Arc::new(Page { metrics, machines, health }));
    door::serve(listener, router, door::Limits::default()).await;
}

async fn show_metrics(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let phase = |machine: &VirtualMachine| machine.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
    page.metrics.set_machines(page.machines.list().iter().map(|machine| phase(machine)));
    let content_type = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match page.metrics.encode() {
        Ok(text) => (StatusCode::OK, content_type, text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Alive: tasks are polled (or this would not answer) and the pool for calls to hosts has a free thread.
async fn live() -> impl IntoResponse {
    match tokio::time::timeout(STUCK_AFTER, tokio::task::spawn_blocking(|| ())).await {
        Ok(Ok(())) => (StatusCode::OK, "ok"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "no thread is free for calls to hosts"),
    }
}

async fn ready(State(page): State<Arc<Page>>) -> impl IntoResponse {
    if page.health.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the caches are not filled yet: is the API server there, are the CRDs installed?",
        )
    }
}
