//! Watches: every change of a kind from a version on, as long as the disturbances let it through.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use futures::stream;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::kind::Resource;
use super::refusal::Refusal;
use super::route::Route;
use super::{ApiServer, respond};
use crate::faults::Faults;

/// A watch without news gets a bookmark this often.
const BOOKMARK: Duration = Duration::from_secs(60);

struct Watch {
    server: ApiServer,
    faults: Arc<Faults>,
    of: Resource,
    namespace: String,
    /// Told up to here.
    version: u64,
    ends: Instant,
    expiries: u64,
    over: bool,
}

/// Answers a request for a watch.
pub fn open(server: &ApiServer, route: &Route, faults: &Arc<Faults>) -> Response<Body> {
    let number = |name: &str| route.query.get(name).and_then(|text| text.parse::<u64>().ok());
    let version = number("resourceVersion").expect("a watch begins at a version");
    let forgotten = server.with(|store, _| store.kinds.get(&route.resource).map_or(0, |kind| kind.forgotten));
    if version < forgotten {
        let refusal = Refusal::expired(version, forgotten);
        return respond(refusal.code, &refusal.status());
    }
    let watch = Watch {
        server: server.clone(),
        of: route.resource.clone(),
        namespace: route.namespace.clone(),
        version: version.saturating_sub(faults.replayed()),
        ends: Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(290)),
        expiries: faults.expiries(),
        faults: Arc::clone(faults),
        over: false,
    };
    Response::new(Body::from_stream(stream::unfold(watch, next)))
}

async fn next(mut watch: Watch) -> Option<(Result<String, std::io::Error>, Watch)> {
    if watch.over {
        return None;
    }
    let mut changed = watch.server.changed.subscribe();
    let mut disturbed = watch.faults.disturbed();
    let bookmark = Instant::now() + BOOKMARK;
    loop {
        if watch.faults.is_away() {
            watch.over = true;
            return Some((Err(std::io::ErrorKind::UnexpectedEof.into()), watch));
        }
        if watch.faults.expiries() != watch.expiries {
            watch.over = true;
            let status = Refusal::expired(watch.version, watch.version).status();
            return Some((Ok(format!("{}\n", json!({"type": "ERROR", "object": status}))), watch));
        }
        if let Some(lines) = watch.news() {
            return Some((Ok(lines), watch));
        }
        let now = Instant::now();
        if now >= watch.ends {
            return None;
        }
        if now >= bookmark {
            let line = watch.bookmark();
            return Some((Ok(line), watch));
        }
        let later = watch.faults.lag().map_or(bookmark, |_| now + Duration::from_millis(100));
        tokio::select! {
            biased;
            _ = changed.changed() => {}
            _ = disturbed.changed() => {}
            () = sleep_until(bookmark.min(watch.ends).min(later)) => {}
        }
    }
}

impl Watch {
    /// What happened since the last look, as lines.
    fn news(&mut self) -> Option<String> {
        if self.faults.is_deaf() {
            return None;
        }
        let lag = self.faults.lag().unwrap_or_default();
        let mut lines = String::new();
        let version = self.server.with(|store, now| {
            let changes = store.kinds.get(&self.of).into_iter().flat_map(|kind| {
                let first = kind.changes.partition_point(|change| change.version <= self.version);
                kind.changes.range(first..)
            });
            let mut told = self.version;
            for change in changes.take_while(|change| change.at + lag <= now) {
                told = change.version;
                let here = self.namespace.is_empty() || change.object["metadata"]["namespace"] == self.namespace;
                if here {
                    lines.push_str(&json!({"type": change.kind, "object": &*change.object}).to_string());
                    lines.push('\n');
                }
            }
            told
        });
        self.version = version;
        (!lines.is_empty()).then_some(lines)
    }

    fn bookmark(&self) -> String {
        let (api_version, kind) = self.server.with(|store, _| {
            let kind = &store.kinds[&self.of];
            (kind.api_version.clone(), kind.kind.clone())
        });
        let object = json!({
            "apiVersion": api_version, "kind": kind, "metadata": {"resourceVersion": self.version.to_string()},
        });
        format!("{}\n", json!({"type": "BOOKMARK", "object": object}))
    }
}
