//! The hosts that the operator is connected to, each read at every heartbeat.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::observed::Observed;
use super::vanish::{Claims, Guard, Verdict};
use crate::clock::Clock;
use crate::libvirt::{Certificates, DomainUuid, Host, HostError, OwnershipTag, Survey};

/// How many changes a slow listener may lag behind.
const BACKLOG: usize = 4096;

/// What was done to a guest longer ago is forgotten.
const LATELY: Duration = Duration::from_secs(60);

/// What was last seen of a host.
#[derive(Clone, Debug)]
pub struct HostView {
    /// The last survey; `Unknown` as long as the host doesn't answer.
    pub survey: Observed<Arc<Survey>>,
    /// When it last answered.
    pub last_contact: Option<Timestamp>,
    /// When the survey was begun: what was done since may be missing in it.
    pub surveyed: Option<Timestamp>,
    /// What the last try ended with, where it failed.
    pub error: Option<HostError>,
    /// Why what it answered isn't believed yet.
    pub doubt: Option<String>,
    /// Since when it has answered without a break.
    pub answering_since: Option<Timestamp>,
}

/// Something happened on a host.
#[derive(Clone, Debug)]
pub enum Change {
    /// It answers, or doesn't any more.
    Reach(String),
    /// Its volumes, filters or canary are others.
    Stock(String),
    /// A domain of ours appeared, disappeared, started or stopped.
    Domain(String, OwnershipTag),
}

/// A connected host.
pub struct FleetHost {
    /// Name of its `Hypervisor`.
    pub name: String,
    /// The way to it.
    pub host: Arc<dyn Host>,
    /// What the connection was made from; another one means to connect anew.
    fingerprint: String,
    /// What it has to be.
    expected: Mutex<Expected>,
    view: RwLock<HostView>,
    wake: Notify,
    poller: RwLock<Option<AbortHandle>>,
    /// Held for reading while a machine is being made, for writing while unused filters are removed.
    pub making: tokio::sync::RwLock<()>,
    /// Image volumes that nothing needs, and since when.
    idle: Mutex<BTreeMap<String, Timestamp>>,
    /// What belongs to no object, and since when.
    orphaned: Mutex<BTreeMap<String, Timestamp>>,
    /// Machines that the API server was asked for and doesn't have.
    gone: Mutex<BTreeSet<Uuid>>,
    /// What is thought of answers in which much is missing.
    guard: Mutex<Guard>,
    /// The ends of its certificates, and when they were read.
    certificates: Mutex<Option<(Timestamp, Certificates)>>,
    /// Guests that were resumed lately, and when.
    resumed: Mutex<BTreeMap<DomainUuid, Timestamp>>,
    /// Whether the filters there have the rules of this version.
    rules_renewed: AtomicBool,
    /// When what the connection is made from was last looked at, and the generation of the `Hypervisor` then.
    checked: Mutex<Option<(i64, Instant)>>,
}

impl FleetHost {
    /// What was last seen.
    pub fn view(&self) -> HostView {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what it has to be: what another one answers doesn't count.
    pub fn expect(&self, expected: Expected) {
        let mut known = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != expected {
            *known = expected;
            self.refresh();
        }
    }

    /// Reads it now.
    ///
    /// # Errors
    /// What it said, or that another machine or another pool is in its place.
    pub async fn survey(&self) -> Result<Survey, HostError> {
        let survey = self.host.survey().await?;
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).judge(survey)
    }

    /// Of the volumes that nothing needs now, those that nothing has needed for so long.
    pub fn idle_for(&self, unused: &BTreeSet<String>, long: Duration, now: Timestamp) -> BTreeSet<String> {
        lasting(&self.idle, unused, long, now)
    }

    /// Of what belongs to no object now, what hasn't for so long.
    pub fn orphaned_for(&self, found: &BTreeSet<String>, long: Duration, now: Timestamp) -> BTreeSet<String> {
        lasting(&self.orphaned, found, long, now)
    }

    /// Machines that the API server was asked for and doesn't have. A uid is never given twice.
    pub fn confirmed_gone(&self) -> BTreeSet<Uuid> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The API server doesn't have these.
    pub fn confirm_gone(&self, machines: impl IntoIterator<Item = Uuid>) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).extend(machines);
    }

    /// The ends of its certificates, if they were read within `long` and since it last came back.
    pub fn known_certificates(&self, long: Duration, now: Timestamp) -> Option<Certificates> {
        let (read, certificates) = (*self.certificates.lock().unwrap_or_else(PoisonError::into_inner))?;
        let age = Duration::try_from(now.duration_since(read)).unwrap_or_default();
        let came_back = self.view().answering_since.is_some_and(|since| since > read);
        (age < long && !came_back).then_some(certificates)
    }

    /// The ends of its certificates were read.
    pub fn note_certificates(&self, certificates: Certificates, now: Timestamp) {
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, certificates));
    }

    /// When a guest was last resumed, if that was lately.
    pub fn last_resumed(&self, uuid: DomainUuid) -> Option<Timestamp> {
        self.resumed.lock().unwrap_or_else(PoisonError::into_inner).get(&uuid).copied()
    }

    /// A guest is being resumed now.
    pub fn note_resumed(&self, uuid: DomainUuid, now: Timestamp) {
        let mut resumed = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = |time: Timestamp| Duration::try_from(now.duration_since(time)).unwrap_or_default() < LATELY;
        resumed.retain(|_, time| lately(*time));
        resumed.insert(uuid, now);
    }

    /// Whether the filters there got the rules of this version, since the operator began.
    pub fn rules_are_renewed(&self) -> bool {
        self.rules_renewed.load(Ordering::Relaxed)
    }

    /// They did.
    pub fn note_rules_renewed(&self) {
        self.rules_renewed.store(true, Ordering::Relaxed);
    }

    /// Whether what the connection is made from was looked at less than `long` ago, for this generation of the spec.
    pub fn is_checked(&self, generation: i64, long: Duration) -> bool {
        let checked = *self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.is_some_and(|(known, time)| known == generation && time.elapsed() < long)
    }

    /// What the connection is made from was looked at now.
    pub fn note_checked(&self, generation: i64) {
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = Some((generation, Instant::now()));
    }

    /// Reads the host at once instead of at the next heartbeat.
    pub fn refresh(&self) {
        self.wake.notify_one();
    }
}

/// Of the names that there are now, those that have been there for so long.
fn lasting(
    since: &Mutex<BTreeMap<String, Timestamp>>,
    names: &BTreeSet<String>,
    long: Duration,
    now: Timestamp,
) -> BTreeSet<String> {
    let mut since = since.lock().unwrap_or_else(PoisonError::into_inner);
    since.retain(|name, _| names.contains(name));
    for name in names {
        since.entry(name.clone()).or_insert(now);
    }
    let ripe = |since: Timestamp| Duration::try_from(now.duration_since(since)).unwrap_or_default() >= long;
    since.iter().filter(|(_, since)| ripe(**since)).map(|(name, _)| name.clone()).collect()
}

/// What a host has to be for its answers to count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Which machine; absent: whichever answers first.
    pub identity: Option<Uuid>,
    /// The volume that is in its pool; absent: whichever pool is there first.
    pub pool_mark: Option<String>,
}

impl Expected {
    /// What a machine says counts if it is the one that is meant, with the storage that is meant. A machine without an
    /// identity can't be told from another.
    fn judge(&self, survey: Survey) -> Result<Survey, HostError> {
        match (self.identity, survey.facts.uuid) {
            (Some(expected), Some(found)) if expected != found => return Err(HostError::Replaced { expected, found }),
            _ => {}
        }
        match &self.pool_mark {
            Some(mark) if !survey.volumes.contains(mark) => Err(HostError::StorageMissing { mark: mark.clone() }),
            _ => Ok(survey),
        }
    }
}

impl Drop for FleetHost {
    fn drop(&mut self) {
        if let Some(poller) = self.poller.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            poller.abort();
        }
    }
}

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

fn take_in(
    host: &FleetHost,
    answer: Result<Survey, HostError>,
    claims: &Claims,
    begun: Timestamp,
    now: Timestamp,
) -> Vec<Change> {
    let mut view = host.view.write().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(survey) => {
            let (missing, of) = claims.missing_in(&survey);
            let verdict = host.guard.lock().unwrap_or_else(PoisonError::into_inner).judge(missing, of, now);
            if let Verdict::Doubted { first } = verdict {
                let why = format!("{missing} of {of} things that machines have on it are missing in one answer");
                view.survey = Observed::Unknown { why: why.clone(), since: now };
                view.last_contact = Some(now);
                view.error = None;
                view.doubt = Some(why);
                return if first { vec![Change::Reach(host.name.clone())] } else { Vec::new() };
            }
            let survey = Arc::new(survey);
            let changes = differences(&host.name, view.survey.present().map(|before| &**before), &survey);
            *view = HostView {
                survey: Observed::Present(survey),
                last_contact: Some(now),
                surveyed: Some(begun),
                error: None,
                doubt: None,
                answering_since: view.answering_since.or(Some(now)),
            };
            changes
        }
        Err(error) => {
            let since = match &view.survey {
                Observed::Unknown { since, .. } => *since,
                Observed::Absent | Observed::Present(_) => now,
            };
            let news = view.error.as_ref().map(HostError::reason) != Some(error.reason());
            view.survey = Observed::Unknown { why: error.to_string(), since };
            view.error = Some(error);
            view.doubt = None;
            view.answering_since = None;
            if news { vec![Change::Reach(host.name.clone())] } else { Vec::new() }
        }
    }
}

/// The length of a UUID as the names of volumes begin with it.
const UUID_LENGTH: usize = 36;

/// What a listener has to know of the step from one survey to the next.
fn differences(name: &str, before: Option<&Survey>, now: &Survey) -> Vec<Change> {
    let Some(before) = before else { return vec![Change::Reach(name.to_owned())] };
    let mut changes = Vec::new();
    let changed = |uuid: &DomainUuid| before.domains.get(uuid) != now.domains.get(uuid);
    let uuids = before.domains.keys().chain(now.domains.keys().filter(|uuid| !before.domains.contains_key(uuid)));
    for uuid in uuids.filter(|uuid| changed(uuid)) {
        let domain = now.domains.get(uuid).or_else(|| before.domains.get(uuid));
        if let Some(tag) = domain.and_then(|domain| domain.tag.clone()) {
            changes.push(Change::Domain(name.to_owned(), tag));
        }
    }
    let lost = before.volumes.difference(&now.volumes).filter_map(|volume| owner_of(volume, now));
    changes.extend(lost.map(|tag| Change::Domain(name.to_owned(), tag.clone())));
    let canaries = |survey: &Survey| {
        let ours = survey.domains.iter().filter(|(_, domain)| domain.canary.is_some());
        ours.map(|(uuid, domain)| (*uuid, domain.run)).collect::<Vec<_>>()
    };
    if canaries(before) != canaries(now)
        || before.volumes != now.volumes
        || before.filters != now.filters
        || before.facts != now.facts
    {
        changes.push(Change::Stock(name.to_owned()));
    }
    changes
}

/// The machine on the host that a volume is named after.
fn owner_of<'a>(volume: &str, survey: &'a Survey) -> Option<&'a OwnershipTag> {
    let uuid = volume.get(..UUID_LENGTH)?.parse().ok()?;
    survey.domains.get(&DomainUuid(uuid))?.tag.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Bytes;
    use crate::libvirt::{DomainRun, SurveyedDomain};

    #[test]
    fn what_another_machine_says_does_not_count() {
        let [meant, other] = [1, 2].map(Uuid::from_u128);
        let said_by = |uuid| {
            let mut survey = Survey::default();
            survey.facts.uuid = uuid;
            survey
        };
        let judge = |identity, survey| Expected { identity, pool_mark: None }.judge(survey);
        let refused = judge(Some(meant), said_by(Some(other))).unwrap_err();
        assert_eq!(refused.reason(), "HostReplaced");
        assert!(!refused.is_silence(), "it isn't lost because somebody else has its address");
        assert!(judge(Some(meant), said_by(Some(meant))).is_ok());
        assert!(judge(None, said_by(Some(other))).is_ok(), "the first to answer is the one");
        assert!(judge(Some(meant), said_by(None)).is_ok());
    }

    #[test]
    fn a_pool_without_its_mark_says_nothing() {
        let marked = Expected { identity: None, pool_mark: Some("cascina-pool-a".into()) };
        let refused = marked.judge(Survey::default()).unwrap_err();
        assert_eq!(refused.reason(), "StorageMissing");
        assert!(!refused.is_silence(), "its guests may well run");
        let survey = Survey { volumes: ["cascina-pool-a".to_owned()].into(), ..Survey::default() };
        assert!(marked.judge(survey).is_ok());
        assert!(Expected::default().judge(Survey::default()).is_ok());
    }

    #[test]
    fn a_machine_hears_that_a_volume_of_it_is_gone() {
        let uid = Uuid::from_u128(1);
        let tag = OwnershipTag {
            cluster: String::new(),
            namespace: "farm".into(),
            name: "one".into(),
            uid,
            epoch: 1,
            spec_hash: String::new(),
        };
        let domain = SurveyedDomain {
            name: String::new(),
            run: DomainRun::Running,
            tag: Some(tag.clone()),
            canary: None,
            copied_tag: None,
            memory: Bytes::ZERO,
            cpus: 1,
            forms: None,
        };
        let now = Survey { domains: [(DomainUuid(uid), domain)].into(), ..Survey::default() };
        let before = |volume: String| Survey { volumes: [volume].into(), ..now.clone() };
        let told = |before: &Survey| {
            let changes = differences("worker-1", Some(before), &now);
            changes.iter().any(|change| matches!(change, Change::Domain(_, told) if *told == tag))
        };
        assert!(told(&before(format!("{uid}-data.qcow2"))));
        assert!(!told(&before("somebody-elses.qcow2".into())) && !told(&now));
    }
}
