//! The hosts that the operator is connected to, each read at every heartbeat.

mod host;
mod news;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument, info_span};

use super::ledger::Sightings;
use super::observed::Observed;
use super::vanish::Claims;
use crate::clock::Clock;
use crate::libvirt::{DomainUuid, Host, HostEvent};
pub use host::{Expected, FleetHost, HostView};
pub use news::Change;
use news::take_in;

/// How many changes a slow listener may lag behind.
const BACKLOG: usize = 4096;

/// After the lead was taken, connections are opened within this time; a host without one later has none.
const OPENING: Duration = Duration::from_secs(10);

/// A host that tells much is not read more often than this.
const PACE: Duration = Duration::from_millis(200);

/// What the objects say that a host of this name should have.
type ClaimsOf = Box<dyn Fn(&str, Timestamp) -> Claims + Send + Sync>;

/// All connected hosts.
pub struct Fleet {
    clock: Clock,
    claims: OnceLock<ClaimsOf>,
    /// When this instance took the lead. A standby waits for it for days, and reads no host meanwhile.
    led: OnceLock<Instant>,
    hosts: RwLock<BTreeMap<String, Arc<FleetHost>>>,
    changes: broadcast::Sender<Change>,
    sightings: Sightings,
}

impl Fleet {
    /// No hosts yet; `cluster` is the one whose domains are ours.
    #[must_use]
    pub fn new(clock: Clock, cluster: &str) -> Self {
        Self {
            clock,
            sightings: Sightings::new(cluster),
            claims: OnceLock::new(),
            led: OnceLock::new(),
            hosts: RwLock::default(),
            changes: broadcast::Sender::new(BACKLOG),
        }
    }

    /// From here on this instance leads, and connects to hosts.
    pub fn lead(&self) {
        // Only the first counts; who loses the lead ends.
        let _ = self.led.set(Instant::now());
    }

    /// Whether first connections may still be missing.
    fn is_opening(&self) -> bool {
        self.led.get().is_none_or(|led| led.elapsed() < OPENING)
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

    /// What was last seen on every host, also on one that doesn't answer.
    pub const fn sightings(&self) -> &Sightings {
        &self.sightings
    }

    /// Whether it is too early to say anything about a host: it hasn't been read for the first time, or it doesn't
    /// answer and did less than `patience` ago. A libvirtd that restarts is silent for a while, and its machines run on.
    pub fn is_quiet(&self, name: &str, patience: Duration) -> bool {
        let Some(host) = self.get(name) else { return self.is_opening() };
        let view = host.view();
        let recent = |contact: Timestamp| {
            Duration::try_from(self.clock.now().duration_since(contact)).unwrap_or_default() < patience
        };
        view.survey.present().is_none() && (view.error.is_none() || view.last_contact.is_some_and(recent))
    }

    /// Whether a host hasn't been read since this instance took the lead, and still may be within the time that first
    /// connections take: until then nobody knows what is on it beside what its status lists.
    pub fn is_unread(&self, name: &str) -> bool {
        let is_read = |host: Arc<FleetHost>| {
            let view = host.view();
            view.last_contact.is_some() || view.error.is_some()
        };
        self.is_opening() && !self.get(name).is_some_and(is_read)
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
        let span = info_span!("poll", kind = "Hypervisor", object = %name);
        let polling = poll(Arc::downgrade(&fresh), Arc::downgrade(self), heartbeat).instrument(span);
        let polling = tokio::spawn(polling);
        *fresh.poller.write().unwrap_or_else(PoisonError::into_inner) = Some(polling.abort_handle());
        self.hosts.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(&fresh));
        fresh
    }

    /// Lets go of a host. What was last seen there stays known.
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
        let answers = answer.is_ok();
        let Some(fleet) = fleet.upgrade() else { return };
        let claims = fleet.claims(&host.name, begun);
        let changes = take_in(&host, answer, &claims, begun, fleet.clock.now());
        // What isn't believed isn't taken in.
        if let Observed::Present(survey) = host.view().survey {
            fleet.sightings.saw(&host.name, &survey, begun);
        }
        for change in changes {
            // Nobody listening is fine.
            let _ = fleet.changes.send(change);
        }
        let changes = fleet.changes.clone();
        drop(fleet);
        // One that doesn't answer isn't asked to tell: it would hold up its own return.
        let events = stream::unfold((), |()| async { Some((host.host.event().await, ())) });
        let events = if answers { events.boxed() } else { stream::pending().boxed() };
        // No survey tells of agents: the machine asks its own.
        let agent = |uuid| {
            if let Some(change) = host.change_of(uuid) {
                let _ = changes.send(change);
            }
        };
        // A timeout is the next heartbeat, a wake-up an early one: either way the host is read again.
        let _ = timeout(heartbeat, woken(&host.wake, events, agent)).await;
    }
}

/// Ends when there is a reason to read a host before the next heartbeat. Of an agent that came or went is told: once, since it is
/// the guest that decides how often that happens.
async fn woken(wake: &Notify, mut events: impl Stream<Item = HostEvent> + Unpin, agent: impl Fn(DomainUuid)) {
    let told = async {
        let soon = Instant::now() + PACE;
        let mut agents = HashSet::new();
        loop {
            match events.next().await {
                Some(HostEvent::Agent(uuid)) if agents.insert(uuid) => agent(uuid),
                Some(HostEvent::Agent(_)) => {}
                Some(HostEvent::Domain(_)) => break,
                None => std::future::pending().await,
            }
        }
        sleep_until(soon).await;
    };
    tokio::select! {
        () = wake.notified() => {}
        () = told => {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use uuid::Uuid;

    #[tokio::test(start_paused = true)]
    async fn a_standby_counts_the_time_from_when_it_takes_the_lead() {
        let fleet = Fleet::new(Clock::Wall, "us");
        let patience = Duration::from_secs(30);
        let is_too_early = || [fleet.is_unread("worker-1"), fleet.is_quiet("worker-1", patience)];
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(is_too_early(), [true, true], "who doesn't lead has read nothing");
        fleet.lead();
        assert_eq!(is_too_early(), [true, true]);
        tokio::time::advance(OPENING / 2).await;
        fleet.lead();
        tokio::time::advance(OPENING / 2).await;
        assert_eq!(is_too_early(), [false, false], "a host without a connection by now has none");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_read_early_for_a_domain_and_not_for_an_agent() {
        let [one, other] = [1, 2].map(|number| DomainUuid(Uuid::from_u128(number)));
        let (wake, asked, begin) = (Notify::new(), RefCell::new(Vec::new()), Instant::now());
        let told = |events: &[HostEvent]| stream::iter(events.to_vec()).chain(stream::pending());
        let agents = [one, other, one].map(HostEvent::Agent);
        let agent = |uuid| asked.borrow_mut().push(uuid);
        assert!(timeout(Duration::from_secs(5), woken(&wake, told(&agents), agent)).await.is_err());
        assert_eq!(*asked.borrow(), [one, other], "each is asked once");

        let begin_of_domain = begin.elapsed();
        woken(&wake, told(&[HostEvent::Domain(one)]), agent).await;
        assert_eq!(begin.elapsed() - begin_of_domain, PACE);
        wake.notify_one();
        woken(&wake, told(&[]), agent).await;
        assert_eq!(begin.elapsed() - begin_of_domain, PACE, "whoever asks for it gets it at once");
    }
}
