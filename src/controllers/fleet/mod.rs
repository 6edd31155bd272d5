//! The hosts that the operator is connected to, each read at every heartbeat.

mod host;
mod news;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use super::observed::Observed;
use super::vanish::Claims;
use crate::clock::Clock;
use crate::libvirt::Host;
pub use host::{Expected, FleetHost, HostView};
pub use news::Change;
use news::take_in;

/// How many changes a slow listener may lag behind.
const BACKLOG: usize = 4096;

/// After a start, connections are opened within this time; a host without one later has none.
const OPENING: Duration = Duration::from_secs(10);

/// What the objects say that a host of this name should have.
type ClaimsOf = Box<dyn Fn(&str, Timestamp) -> Claims + Send + Sync>;

/// All connected hosts.
pub struct Fleet {
    clock: Clock,
    claims: OnceLock<ClaimsOf>,
    began: Instant,
    hosts: RwLock<BTreeMap<String, Arc<FleetHost>>>,
    changes: broadcast::Sender<Change>,
}

impl Fleet {
    /// No hosts yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            claims: OnceLock::new(),
            began: Instant::now(),
            hosts: RwLock::default(),
            changes: broadcast::Sender::new(BACKLOG),
        }
    }

    /// From here on an answer of a host in which much is missing of what objects claim is doubted.
    pub fn guard_with(&self, claims: impl Fn(&str, Timestamp) -> Claims + Send + Sync + 'static) {
        // Only the first counts; there is no second.
        let _ = self.claims.set(Box::new(claims));
    }

    /// What objects say that there was on a host before this time.
    fn claims(&self, host: &str, before: Timestamp) -> Claims {
        self.claims.get().map(|claims| claims(host, before)).unwrap_or_default()
    }

    /// The host of a `Hypervisor`, where there is a connection.
    pub fn get(&self, name: &str) -> Option<Arc<FleetHost>> {
        self.hosts.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Whether it is too early to say anything about a host: it hasn't been read for the first time, or it doesn't
    /// answer and did less than `patience` ago. A libvirtd that restarts is silent for a while, and its machines run on.
    pub fn is_quiet(&self, name: &str, patience: Duration) -> bool {
        let Some(host) = self.get(name) else { return self.began.elapsed() < OPENING };
        let view = host.view();
        let recent = |contact: Timestamp| {
            Duration::try_from(self.clock.now().duration_since(contact)).unwrap_or_default() < patience
        };
        view.survey.present().is_none() && (view.error.is_none() || view.last_contact.is_some_and(recent))
    }

    /// The host of a `Hypervisor`, if its connection was made from this and nothing else.
    pub fn get_made_from(&self, name: &str, fingerprint: &str) -> Option<Arc<FleetHost>> {
        self.get(name).filter(|known| known.fingerprint == fingerprint)
    }

    /// Takes in a host, in place of an earlier one of that name, and begins to read it.
    pub fn connect(
        self: &Arc<Self>,
        name: &str,
        fingerprint: &str,
        heartbeat: Duration,
        host: Arc<dyn Host>,
    ) -> Arc<FleetHost> {
        let fresh = Arc::new(FleetHost {
            name: name.to_owned(),
            host,
            fingerprint: fingerprint.to_owned(),
            expected: Mutex::default(),
            view: RwLock::new(HostView {
                survey: Observed::Unknown { why: "not read yet".into(), since: self.clock.now() },
                last_contact: None,
                surveyed: None,
                error: None,
                doubt: None,
                answering_since: None,
            }),
            wake: Notify::new(),
            poller: RwLock::new(None),
            making: tokio::sync::RwLock::new(()),
            idle: Mutex::default(),
            orphaned: Mutex::default(),
            gone: Mutex::default(),
            guard: Mutex::default(),
            certificates: Mutex::default(),
            resumed: Mutex::default(),
            rules_renewed: AtomicBool::new(false),
            checked: Mutex::default(),
        });
        let polling = tokio::spawn(poll(Arc::downgrade(&fresh), Arc::downgrade(self), heartbeat));
        *fresh.poller.write().unwrap_or_else(PoisonError::into_inner) = Some(polling.abort_handle());
        self.hosts.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(&fresh));
        fresh
    }

    /// Lets go of a host.
    pub fn disconnect(&self, name: &str) {
        self.hosts.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// What happens on the hosts from now on. A listener that lags is told of every host instead.
    pub fn changes(self: &Arc<Self>) -> impl Stream<Item = Change> + Send + 'static {
        let fleet = Arc::clone(self);
        let receiver = self.changes.subscribe();
        stream::unfold((fleet, receiver), |(fleet, mut receiver)| async move {
            match receiver.recv().await {
                Ok(change) => Some((vec![change], (fleet, receiver))),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let all =
                        fleet.hosts.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect::<Vec<_>>();
                    Some((all.into_iter().map(Change::Reach).collect(), (fleet, receiver)))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .flat_map(stream::iter)
    }
}

async fn poll(host: std::sync::Weak<FleetHost>, fleet: std::sync::Weak<Fleet>, heartbeat: Duration) {
    loop {
        let Some(host) = host.upgrade() else { return };
        let Some(begun) = fleet.upgrade().map(|fleet| fleet.clock.now()) else { return };
        let answer = host.survey().await;
        let Some(fleet) = fleet.upgrade() else { return };
        let claims = fleet.claims(&host.name, begun);
        let changes = take_in(&host, answer, &claims, begun, fleet.clock.now());
        for change in changes {
            // Nobody listening is fine.
            let _ = fleet.changes.send(change);
        }
        drop(fleet);
        let woken = host.wake.notified();
        // A timeout is the next heartbeat, a wake-up an early one: either way the host is read again.
        let _ = tokio::time::timeout(heartbeat, woken).await;
    }
}
