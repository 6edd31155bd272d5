//! How far a fetch is, readable while it runs.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::api::Bytes;

/// How far a fetch is. Shared between who fetches and who reports.
#[derive(Debug, Default)]
pub struct FetchProgress {
    done: AtomicU64,
    /// 0: not known.
    total: AtomicU64,
    began: Mutex<Option<Instant>>,
}

/// How far a fetch was at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgressReport {
    /// Bytes so far.
    pub done: Bytes,
    /// Bytes in all, where the source says.
    pub total: Option<Bytes>,
    /// Time since it began.
    pub elapsed: Duration,
}

impl FetchProgress {
    /// Begins again from nothing.
    pub(super) fn begin(&self, total: Option<u64>) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total.unwrap_or_default(), Ordering::Relaxed);
        *self.began.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How far it is now.
    #[must_use]
    pub fn report(&self) -> ProgressReport {
        let began = *self.began.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let total = self.total.load(Ordering::Relaxed);
        ProgressReport {
            done: Bytes::new(self.done.load(Ordering::Relaxed)),
            total: (total > 0).then(|| Bytes::new(total)),
            elapsed: began.map(|began| began.elapsed()).unwrap_or_default(),
        }
    }
}

impl ProgressReport {
    /// Share of the whole, 0 to 100.
    #[must_use]
    pub fn percent(&self) -> Option<u64> {
        let total = self.total?.get().max(1);
        Some((u128::from(self.done.get()) * 100 / u128::from(total)).min(100) as u64)
    }

    /// Bytes per second since it began.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        let milliseconds = self.elapsed.as_millis();
        (milliseconds > 0).then(|| (u128::from(self.done.get()) * 1000 / milliseconds) as u64)
    }

    /// Time left at that rate.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let rate = self.rate().filter(|rate| *rate > 0)?;
        Some(Duration::from_secs(self.total?.saturating_sub(self.done).get().div_ceil(rate)))
    }
}

/// `43% of 216.0 MiB, 12.3 MiB/s, 10s left`, without what isn't known.
impl fmt::Display for ProgressReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.percent(), self.total) {
            (Some(percent), Some(total)) => write!(formatter, "{percent}% of {}", Mebi(total.get()))?,
            _ => write!(formatter, "{}", Mebi(self.done.get()))?,
        }
        if let Some(rate) = self.rate() {
            write!(formatter, ", {}/s", Mebi(rate))?;
        }
        if let Some(left) = self.left() {
            write!(formatter, ", {}s left", left.as_secs())?;
        }
        Ok(())
    }
}

/// Bytes in mebibytes with one decimal.
struct Mebi(u64);

impl fmt::Display for Mebi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (u128::from(self.0) * 10) >> 20;
        write!(formatter, "{}.{} MiB", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_share_rate_and_time_left() {
        let report = |done, total, seconds| ProgressReport {
            done: Bytes::mebi(done),
            total,
            elapsed: Duration::from_secs(seconds),
        };
        assert_eq!(report(50, Some(Bytes::mebi(200)), 10).to_string(), "25% of 200.0 MiB, 5.0 MiB/s, 30s left");
        assert_eq!(report(50, None, 10).to_string(), "50.0 MiB, 5.0 MiB/s");
        assert_eq!(report(0, None, 0).to_string(), "0.0 MiB");
        assert_eq!(report(300, Some(Bytes::mebi(200)), 1).percent(), Some(100));
    }
}
