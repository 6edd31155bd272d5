//! What a farm may use and what it uses.

use super::plan::{Amount, Wait};
use crate::api::{Bytes, Quota};
use crate::controllers::cache::Key;

/// Reason of machines that wait because their farm has used up its quota.
pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";

/// What a farm may use and what it uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// The farm.
    pub farm: Key,
    /// What it may use.
    pub quota: Quota,
    /// How many machines hold a reservation.
    pub instances: i64,
    /// What they use together.
    pub used: Amount,
}

impl Budget {
    /// Whether one machine more is within the quota. What isn't asked for may be above it: quotas are lowered.
    ///
    /// # Errors
    /// What would be above its limit.
    pub fn admits(&self, asked: Amount) -> Result<(), Wait> {
        let mut over = Vec::new();
        let mut check = |what: &str, limit: Option<i64>, used: i64, asked: i64, show: fn(i64) -> String| {
            if let Some(limit) = limit.filter(|limit| asked > 0 && used.saturating_add(asked) > *limit) {
                over.push(format!("{what} {} of {} used, needs {} more", show(used), show(limit), show(asked)));
            }
        };
        let bytes = |bytes: Bytes| i64::try_from(bytes.get()).unwrap_or(i64::MAX);
        let size = |bytes: i64| Bytes::new(bytes.unsigned_abs()).to_string();
        let (quota, used) = (&self.quota, &self.used);
        check("instances", quota.instances.map(i64::from), self.instances, 1, |count| count.to_string());
        check("cpus", quota.cpus.map(i64::from), used.cpus, asked.cpus, |count| count.to_string());
        check("memory", quota.memory.map(bytes), bytes(used.memory), bytes(asked.memory), size);
        check("storage", quota.storage.map(bytes), bytes(used.storage), bytes(asked.storage), size);
        if over.is_empty() {
            return Ok(());
        }
        Err(Wait::new(QUOTA_EXCEEDED, format!("{}: {}", self.farm.1, over.join("; "))))
    }

    /// By how much more than its quota the farm uses, after the quota was lowered; `None`: it doesn't.
    #[must_use]
    pub fn excess(&self) -> Option<String> {
        let (quota, used) = (&self.quota, &self.used);
        let mut over = Vec::new();
        over.extend(
            quota
                .instances
                .filter(|limit| self.instances > i64::from(*limit))
                .map(|limit| format!("instances {} of {limit}", self.instances)),
        );
        over.extend(
            quota
                .cpus
                .filter(|limit| used.cpus > i64::from(*limit))
                .map(|limit| format!("cpus {} of {limit}", used.cpus)),
        );
        over.extend(
            quota.memory.filter(|limit| used.memory > *limit).map(|limit| format!("memory {} of {limit}", used.memory)),
        );
        over.extend(
            quota
                .storage
                .filter(|limit| used.storage > *limit)
                .map(|limit| format!("storage {} of {limit}", used.storage)),
        );
        (!over.is_empty()).then(|| over.join(", "))
    }
}
