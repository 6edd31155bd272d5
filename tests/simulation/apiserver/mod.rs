//! A Kubernetes API server in memory: as much of one as the operator asks for, and loud about the rest.

mod apply;
mod garbage;
mod kind;
mod refusal;
mod route;
mod schema;
mod store;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::{Method, Request, Response};
use cascina::clock::Clock;
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch as channel;

use crate::faults::{Call, Faults};
#[allow(unused_imports, reason = "the bench uses a part")]
pub use kind::{Change, Resource, Write, resource};
pub use refusal::Refusal;
use route::Route;
pub use store::Store;

/// The server. Clones are the same server.
#[derive(Clone)]
pub struct ApiServer {
    store: Arc<Mutex<Store>>,
    /// Tells watches of every change.
    changed: channel::Sender<u64>,
    clock: Clock,
}

impl ApiServer {
    /// A server with these objects.
    pub fn new(store: Store, clock: Clock) -> Self {
        let changed = channel::Sender::new(store.version);
        Self { store: Arc::new(Mutex::new(store)), changed, clock }
    }

    /// A client whose calls suffer these faults.
    pub fn client(&self, faults: &Arc<Faults>) -> Client {
        let (server, faults) = (self.clone(), Arc::clone(faults));
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (server, faults) = (server.clone(), Arc::clone(&faults));
            async move { server.serve(request, &faults).await }
        });
        Client::new(service, "default")
    }

    /// Looks at the objects, or changes them as somebody who isn't the operator.
    pub fn with<T>(&self, work: impl FnOnce(&mut Store, Timestamp) -> T) -> T {
        let mut store = self.lock();
        let before = store.version;
        let done = work(&mut store, self.clock.now());
        if store.version != before {
            self.changed.send_replace(store.version);
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request that suffers these faults.
    pub async fn serve<B>(&self, request: Request<B>, faults: &Arc<Faults>) -> Result<Response<Body>, std::io::Error>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let route = Route::of(&parts.uri);
        let body = to_bytes(Body::new(body), usize::MAX).await.map_err(std::io::Error::other)?;
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
        if route.flag("watch") {
            faults.answer_watch()?;
            return Ok(watch::open(self, &route, faults));
        }
        let kind = parts.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let call = Call::kubernetes(&parts.method, &route.resource.1, &route.subresource);
        let answer = faults.kubernetes(call, || self.answer(&parts.method, &route, &kind, body, faults)).await?;
        Ok(match answer {
            Ok(object) => respond(200, &object),
            Err(refusal) => respond(refusal.code, &refusal.status()),
        })
    }

    fn answer(
        &self,
        method: &Method,
        route: &Route,
        content: &str,
        body: Value,
        faults: &Faults,
    ) -> Result<Value, Refusal> {
        let Route { resource: of, namespace, name, subresource, .. } = route;
        let text = |name: &str| route.query.get(name).cloned().unwrap_or_default();
        let manager = text("fieldManager");
        self.with(|store, now| {
            let write = Write { manager: &manager, status: subresource == "status", now };
            assert!(subresource.is_empty() || write.status, "no subresource {subresource:?} in the simulation");
            let object = match (method.as_str(), name.is_empty(), content) {
                ("GET", true, _) => return Ok(faults.list(store, of, namespace, now)),
                ("GET", false, _) => store.get(of, namespace, name).ok_or_else(|| Refusal::not_found(&of.1, name))?,
                ("POST", true, _) => store.create(of, namespace, body, &manager, now)?,
                ("PUT", false, _) => store.replace(of, namespace, name, body, &write)?,
                ("PATCH", false, "application/apply-patch+yaml") => {
                    store.apply(of, namespace, name, body, text("force") == "true", &write)?
                }
                ("PATCH", false, "application/merge-patch+json") => store.merge(of, namespace, name, &body, &write)?,
                ("DELETE", false, _) => match store.delete(of, namespace, name, &body["preconditions"], now)? {
                    Some(left) => left,
                    None => return Ok(json!({"apiVersion": "v1", "kind": "Status", "status": "Success"})),
                },
                other => panic!("the simulated API server does no {other:?} of {of:?}: teach it"),
            };
            Ok((*object).clone())
        })
    }
}

fn respond(code: u16, answer: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.to_string()));
    *response.status_mut() = axum::http::StatusCode::from_u16(code).unwrap();
    response
}
