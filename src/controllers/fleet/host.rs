//! One host that the operator is connected to, and what is remembered of it between looks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::Change;
use crate::controllers::observed::Observed;
use crate::controllers::vanish::Guard;
use crate::libvirt::{Certificates, DomainUuid, Host, HostError, Survey};

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

/// A connected host.
pub struct FleetHost {
    /// Name of its `Hypervisor`.
    pub name: String,
    /// The way to it.
    pub host: Arc<dyn Host>,
    /// What the connection was made from; another one means to connect anew.
    pub(super) fingerprint: String,
    /// What it has to be.
    pub(super) expected: Mutex<Expected>,
    pub(super) view: RwLock<HostView>,
    pub(super) wake: Notify,
    pub(super) poller: RwLock<Option<AbortHandle>>,
    /// Held for reading while a machine is being made, for writing while unused filters are removed.
    pub making: tokio::sync::RwLock<()>,
    /// Image volumes that nothing needs, and since when.
    pub(super) idle: Mutex<BTreeMap<String, Timestamp>>,
    /// What belongs to no object, and since when.
    pub(super) orphaned: Mutex<BTreeMap<String, Timestamp>>,
    /// Machines that the API server was asked for and doesn't have.
    pub(super) gone: Mutex<BTreeSet<Uuid>>,
    /// What is thought of answers in which much is missing.
    pub(super) guard: Mutex<Guard>,
    /// The ends of its certificates, and when they were read.
    pub(super) certificates: Mutex<Option<(Timestamp, Certificates)>>,
    /// Guests that were resumed lately, and when.
    pub(super) resumed: Mutex<BTreeMap<DomainUuid, Timestamp>>,
    /// Whether the filters there have the rules of this version.
    pub(super) rules_renewed: AtomicBool,
    /// When what the connection is made from was last looked at, and the generation of the `Hypervisor` then.
    pub(super) checked: Mutex<Option<(i64, Instant)>>,
}

impl FleetHost {
    /// What was last seen.
    pub fn view(&self) -> HostView {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something happened to a domain of ours, as far as that is known.
    pub(super) fn change_of(&self, uuid: DomainUuid) -> Option<Change> {
        let survey = self.view().survey;
        let tag = survey.present()?.domains.get(&uuid)?.tag.clone()?;
        Some(Change::Domain(self.name.clone(), tag))
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
