//! Transfers that run in the background: fetches to the operator's store and uploads to hosts. All of them can be
//! begun again; nothing here has to survive the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, stream};
use jiff::Timestamp;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

use crate::api::Bytes;
use crate::clock::Clock;
use crate::controllers::fleet::FleetHost;
use crate::images::{FetchProgress, Hope, ImageStore, ImageVolume, ProgressReport, Stored};
use crate::libvirt::Progress;
use crate::text::printable;

/// The first pause after a failure; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// What a source or a host says is cut there, in bytes.
const LONGEST_MESSAGE: usize = 1000;

/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The first pause before a file that was the wrong one is fetched again; doubled each time.
const FIRST_REFETCH: Duration = Duration::from_secs(60);

/// The longest pause before that.
const LONGEST_REFETCH: Duration = Duration::from_secs(3600);

/// What a transfer is of: the image's name, the volume's, and for an upload the host's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobKey {
    /// Name of the image.
    pub image: String,
    /// Name of the volume.
    pub volume: String,
    /// Name of the host; absent: a fetch.
    pub host: Option<String>,
}

/// How a transfer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Under way, or waiting for its turn.
    Running(ProgressReport),
    /// Fetched.
    Fetched(Stored),
    /// Uploaded at this time; the host's next survey shows it.
    Uploaded(Timestamp),
    /// Failed.
    Failed {
        /// One CamelCase word.
        reason: &'static str,
        /// What happened.
        message: String,
        /// It is what was found that is refused.
        refused: bool,
        /// And what was found is the very file that is meant.
        judged: bool,
        /// When it is tried again; absent: not before the spec changes.
        retry_after: Option<Timestamp>,
    },
}

/// Why a transfer came to nothing.
struct Failure {
    reason: &'static str,
    message: String,
    hope: Hope,
    judged: bool,
}

struct Job {
    /// What the volume is made of; another one under this name is another job.
    volume: ImageVolume,
    running: Option<Running>,
    state: Option<JobState>,
    failures: u32,
}

struct Running {
    progress: JobProgress,
    began: Instant,
    task: AbortHandle,
}

enum JobProgress {
    Fetch(Arc<FetchProgress>),
    Upload(Arc<Progress>, Bytes),
}

/// All transfers.
pub struct Jobs {
    store: Arc<ImageStore>,
    clock: Clock,
    jobs: Mutex<HashMap<JobKey, Job>>,
    turns: Arc<Semaphore>,
    ended: broadcast::Sender<String>,
}

impl Jobs {
    /// No transfers yet; so many at once later.
    pub fn new(store: Arc<ImageStore>, clock: Clock, at_once: usize) -> Self {
        Self {
            store,
            clock,
            jobs: Mutex::default(),
            turns: Arc::new(Semaphore::new(at_once)),
            ended: broadcast::Sender::new(256),
        }
    }

    /// The operator's store.
    pub const fn store(&self) -> &Arc<ImageStore> {
        &self.store
    }

    /// Names of images of which a transfer ended.
    pub fn ended(&self) -> impl Stream<Item = String> + Send + 'static {
        stream::unfold(self.ended.subscribe(), |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(image) => return Some((image, receiver)),
                    // What was missed is found by the periodic look.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
    }

    /// How a transfer stands; absent: never begun.
    pub fn state(&self, key: &JobKey, volume: &ImageVolume) -> Option<JobState> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let job = jobs.get(key).filter(|job| job.volume == *volume)?;
        match &job.running {
            Some(running) => Some(JobState::Running(running.report())),
            None => job.state.clone(),
        }
    }

    /// Begins a fetch.
    pub fn fetch(self: &Arc<Self>, key: JobKey, volume: ImageVolume) {
        let progress = Arc::new(FetchProgress::default());
        let (jobs, wanted, reported) = (Arc::clone(self), volume.clone(), Arc::clone(&progress));
        self.begin(key, volume, JobProgress::Fetch(progress), async move {
            match jobs.store.ensure(&wanted, &reported).await {
                Ok(stored) => Ok(JobState::Fetched(stored)),
                Err(error) => Err(Failure {
                    reason: error.reason(),
                    message: error.to_string(),
                    hope: error.hope(),
                    judged: error.is_of_contents(),
                }),
            }
        });
    }

    /// Begins an upload of a file in the store.
    pub fn upload(self: &Arc<Self>, key: JobKey, volume: ImageVolume, stored: Stored, host: Arc<FleetHost>) {
        let progress = Arc::new(Progress::default());
        let (wanted, reported, turns) = (volume.clone(), Arc::clone(&progress), Arc::clone(&self.turns));
        let clock = self.clock;
        self.begin(key, volume, JobProgress::Upload(progress, stored.size), async move {
            // The semaphore is never closed; without a turn the upload still works.
            let _turn = turns.acquire_owned().await.ok();
            let uploading = async {
                // What another host of a shared pool brought there meanwhile must not be written again under machines.
                if host.host.survey().await?.volumes.contains(&wanted.name) {
                    return Ok(());
                }
                host.host.upload_volume(&wanted.name, wanted.format(), &stored.path, &reported).await
            };
            let outcome = uploading.await;
            host.refresh();
            match outcome {
                Ok(()) => Ok(JobState::Uploaded(clock.now())),
                Err(error) => {
                    Err(Failure { reason: error.reason(), message: error.to_string(), hope: Hope::Time, judged: false })
                }
            }
        });
    }

    /// Forgets everything about an image and ends what runs for it.
    pub fn forget(&self, image: &str) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|key, job| {
            let keep = key.image != image;
            if !keep && let Some(running) = job.running.take() {
                running.task.abort();
            }
            keep
        });
    }

    /// Forgets what failed, so that it is tried again: under other limits it may succeed.
    pub fn forget_failures(&self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, job| job.running.is_some() || !matches!(job.state, Some(JobState::Failed { .. })));
    }

    fn begin(
        self: &Arc<Self>,
        key: JobKey,
        volume: ImageVolume,
        progress: JobProgress,
        work: impl Future<Output = Result<JobState, Failure>> + Send + 'static,
    ) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let before = jobs.remove(&key).filter(|job| job.volume == volume);
        if let Some(running) = before.as_ref().and_then(|job| job.running.as_ref())
            && !running.task.is_finished()
        {
            jobs.extend(before.map(|job| (key, job)));
            return;
        }
        let failures = before.map_or(0, |job| job.failures);
        let (this, ended) = (Arc::clone(self), key.clone());
        // What libraries log meanwhile says of which image it is.
        let host = key.host.as_deref();
        let span = info_span!("transfer", kind = "Image", object = %key.image, volume = %key.volume, host);
        let transfer = async move {
            let outcome = work.await;
            this.end(&ended, outcome);
        };
        let task = tokio::spawn(transfer.instrument(span));
        let running = Running { progress, began: Instant::now(), task: task.abort_handle() };
        jobs.insert(key, Job { volume, running: Some(running), state: None, failures });
    }

    fn end(&self, key: &JobKey, outcome: Result<JobState, Failure>) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(job) = jobs.get_mut(key) else { return };
        job.running = None;
        job.state = Some(match outcome {
            Ok(state) => {
                job.failures = 0;
                state
            }
            Err(Failure { reason, message, hope, judged }) => {
                let retry_after = pause(hope, job.failures).and_then(|pause| self.clock.now().checked_add(pause).ok());
                job.failures = job.failures.saturating_add(1);
                let message = printable(&message, LONGEST_MESSAGE);
                JobState::Failed { reason, message, refused: hope != Hope::Time, judged, retry_after }
            }
        });
        drop(jobs);
        // Nobody listening is fine.
        let _ = self.ended.send(key.image.clone());
    }
}

/// The pause before the next try after so many that failed.
fn pause(hope: Hope, failures: u32) -> Option<Duration> {
    let (first, longest) = match hope {
        Hope::None => return None,
        Hope::OtherFile => (FIRST_REFETCH, LONGEST_REFETCH),
        Hope::Time => (FIRST_PAUSE, LONGEST_PAUSE),
    };
    Some(first.saturating_mul(1 << failures.min(6)).min(longest))
}

impl Running {
    fn report(&self) -> ProgressReport {
        match &self.progress {
            JobProgress::Fetch(progress) => progress.report(),
            JobProgress::Upload(progress, total) => {
                ProgressReport { done: Bytes::new(progress.done()), total: Some(*total), elapsed: self.began.elapsed() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_the_wrong_one_is_fetched_again_with_growing_pauses() {
        let pauses = |hope| [0, 1, 5, 6, 99].map(|failures| pause(hope, failures).map(|pause| pause.as_secs()));
        assert_eq!(pauses(Hope::OtherFile), [Some(60), Some(120), Some(1920), Some(3600), Some(3600)]);
        assert_eq!(pauses(Hope::Time), [Some(5), Some(10), Some(160), Some(300), Some(300)]);
        assert_eq!(pauses(Hope::None), [None; 5]);
    }
}
