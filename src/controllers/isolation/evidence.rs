//! What is remembered of a host's tests from one look to the next.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::act::{Deeds, Outcome};
use super::status::{TELL_EVERY, is_verified};
use super::verdict::{Check, Verdict};
use crate::api::Hypervisor;
use crate::controllers::observed::Observed;
use crate::libvirt::{DomainRun, SurveyedDomain};

/// What a host's tests showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Since when the canary has been seen to run.
    pub began: Option<Timestamp>,
    /// When its agent last answered.
    pub answered: Option<Timestamp>,
    /// When it was last asked to attack, and answered.
    pub tried: Option<Timestamp>,
    /// When every attack last failed, with nothing since that makes it doubtful.
    pub held: Option<Timestamp>,
    /// What succeeded at the last try that told anything.
    pub leaks: BTreeSet<Check>,
    /// When filters were last put back.
    pub repaired: Option<Timestamp>,
    /// Why the last try told nothing.
    pub trouble: Option<String>,
}

impl Evidence {
    /// What an earlier process wrote down. It told a time that was at most [`TELL_EVERY`] old.
    fn recall(hypervisor: &Hypervisor, now: Timestamp) -> Self {
        let status = hypervisor.status.clone().unwrap_or_default();
        let verified = is_verified(&status);
        let isolation = status.isolation.unwrap_or_default();
        let held = isolation.last_verified.filter(|_| verified);
        let held = held.and_then(|held| held.0.checked_add(TELL_EVERY).ok()).map(|held| held.min(now));
        let leaks = isolation.leaks.iter().filter_map(|name| Check::named(name)).collect();
        Self { held, leaks, ..Self::default() }
    }

    /// What a look at the canary leaves of what was known: a host that says nothing may be rebooted meanwhile, with
    /// another bridge, and a canary that doesn't run proves nothing. That something leaked stays true until it doesn't.
    pub fn look(&mut self, canary: &Observed<SurveyedDomain>, now: Timestamp) {
        let runs = canary.present().is_some_and(|domain| domain.run == DomainRun::Running);
        match canary {
            Observed::Present(_) if runs => drop(self.began.get_or_insert(now)),
            Observed::Unknown { .. } => self.held = None,
            Observed::Absent | Observed::Present(_) => self.forget_canary(),
        }
    }

    /// What is left without the canary that showed it.
    fn forget_canary(&mut self) {
        let leaks = std::mem::take(&mut self.leaks);
        *self = Self { leaks, repaired: self.repaired, trouble: self.trouble.take(), ..Self::default() };
    }

    /// Takes in what was done; whether filters that were put back hold now.
    pub fn learn(&mut self, deeds: &Deeds, now: Timestamp) -> bool {
        if let Some(error) = &deeds.error {
            self.trouble = Some(error.to_string());
        }
        if deeds.made {
            self.forget_canary();
        }
        if deeds.refreshed {
            self.repaired = Some(now);
        }
        match &deeds.outcome {
            None => return false,
            Some(Outcome::NoAnswer) => return false,
            Some(Outcome::Judged(Verdict::Held)) => {
                (self.held, self.trouble) = (Some(now), None);
                self.leaks.clear();
            }
            Some(Outcome::Judged(Verdict::Leaked(attacks))) => {
                (self.held, self.trouble) = (None, None);
                self.leaks.clone_from(attacks);
            }
            Some(Outcome::Judged(Verdict::Inconclusive(why))) => self.trouble = Some(why.clone()),
        }
        (self.tried, self.answered) = (Some(now), Some(now));
        deeds.refreshed && self.leaks.iter().all(|leak| !leak.is_for_filters())
    }
}

/// So long ago; `None`: never.
pub fn age(time: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    time.map(|time| Duration::try_from(now.duration_since(time)).unwrap_or_default())
}

/// The evidence of all hosts, by uid.
#[derive(Default)]
pub struct Memory {
    hosts: Mutex<HashMap<String, Evidence>>,
    /// Held while a host gets its networks, so that no two get the same.
    pub slots: tokio::sync::Mutex<()>,
}

impl Memory {
    /// What is known of a host.
    pub fn recall(&self, hypervisor: &Hypervisor, now: Timestamp) -> Evidence {
        let known = self.lock().get(&key(hypervisor)).cloned();
        known.unwrap_or_else(|| Evidence::recall(hypervisor, now))
    }

    /// Keeps what is known now.
    pub fn keep(&self, hypervisor: &Hypervisor, evidence: Evidence) {
        self.lock().insert(key(hypervisor), evidence);
    }

    /// The host is gone.
    pub fn forget(&self, hypervisor: &Hypervisor) {
        self.lock().remove(&key(hypervisor));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Evidence>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(hypervisor: &Hypervisor) -> String {
    hypervisor.uid().unwrap_or_default()
}
