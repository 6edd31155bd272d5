//! Steps become transfers, and nothing else.

use std::sync::Arc;

use super::jobs::{JobKey, JobState, Jobs};
use super::plan::{Step, View};
use crate::controllers::fleet::Fleet;

/// Begins the transfers; each is found under its key from then on.
pub fn act(jobs: &Arc<Jobs>, fleet: &Fleet, image: &str, seen: &View, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Fetch(volume) => {
                let key = JobKey { image: image.to_owned(), volume: volume.name.clone(), host: None };
                jobs.fetch(key, volume.clone());
            }
            Step::Upload(volume, host) => {
                let stored = seen.fetches.iter().find_map(|(fetched, state)| match state {
                    Some(JobState::Fetched(stored)) if fetched == volume => Some(stored.clone()),
                    _ => None,
                });
                if let (Some(stored), Some(connected)) = (stored, fleet.get(host)) {
                    let key = JobKey { image: image.to_owned(), volume: volume.name.clone(), host: Some(host.clone()) };
                    jobs.upload(key, volume.clone(), stored, connected);
                }
            }
        }
    }
}
