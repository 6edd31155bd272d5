//! All the decisions about an image: no I/O, no clock of its own.

use jiff::Timestamp;

use super::jobs::JobState;
use crate::api::conditions::whole_seconds;
use crate::api::{Bytes, ImageHost, ImageHostState, ImagePhase};
use crate::images::{ImageVolume, ImageVolumes};

/// What was seen of an image.
#[derive(Clone, Debug)]
pub struct View {
    /// Its volumes.
    pub volumes: ImageVolumes,
    /// How the fetch of each volume stands, in the order of the volumes.
    pub fetches: Vec<(ImageVolume, Option<JobState>)>,
    /// The pools that shall have a copy.
    pub targets: Vec<Target>,
    /// Machines that were made from it.
    pub users: Vec<String>,
    /// It is being deleted.
    pub deleted: bool,
    /// What its status says of these very contents, if it says that they are verified.
    pub known: Option<Known>,
    /// Of the hosts that answer, whether one has all of it, and whether one doesn't.
    pub copies: Copies,
}

/// Verified by an earlier process. The checksums say what is meant, so copies on hosts stay what they are when the source goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Size of the files.
    pub size: Option<Bytes>,
    /// Size of the disk as a guest sees it.
    pub virtual_size: Option<Bytes>,
    /// Why the files couldn't be had when they were last asked for.
    pub unavailable: Option<Trouble>,
}

/// Which of the hosts that answer have an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// One has all of it.
    pub some: bool,
    /// One lacks some of it.
    pub lacking: bool,
}

/// What is wrong, as a condition says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Whether a host without a copy can get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supply {
    /// It can, or none asks for it.
    Open,
    /// The files are being fetched once more.
    Refetching,
    /// They can't be had.
    Unavailable(Trouble),
}

/// A pool that shall have a copy: one host's own, or one that several hosts share.
#[derive(Clone, Debug)]
pub struct Target {
    /// The hosts that see the pool.
    pub hosts: Vec<String>,
    /// The one of them that takes the upload; absent: none answers.
    pub through: Option<String>,
    /// When that host's last survey was begun: it shows what was uploaded before.
    pub surveyed: Option<Timestamp>,
    /// Each volume, whether it is complete there, and how its upload stands.
    pub volumes: Vec<TargetVolume>,
}

/// A volume in a pool.
#[derive(Clone, Debug)]
pub struct TargetVolume {
    /// The volume.
    pub volume: ImageVolume,
    /// It is there, whole.
    pub complete: bool,
    /// How its upload stands.
    pub upload: Option<JobState>,
}

/// One thing to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fetch the volume's file.
    Fetch(ImageVolume),
    /// Upload it to a host.
    Upload(ImageVolume, String),
}

/// What to do and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to begin.
    pub steps: Vec<Step>,
    /// How far it is.
    pub phase: ImagePhase,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
    /// How far each host is.
    pub hosts: Vec<ImageHost>,
    /// What is being moved, in words.
    pub progress: Option<String>,
    /// Size of the files.
    pub size: Option<Bytes>,
    /// Size of the disk as a guest sees it.
    pub virtual_size: Option<Bytes>,
    /// Whether further copies can be made of what is verified.
    pub supply: Supply,
    /// Something is under way or waits for its time.
    pub busy: bool,
}

/// What to do about an image.
pub fn plan(seen: &View, now: Timestamp) -> Plan {
    let mut plan = Plan {
        steps: Vec::new(),
        phase: ImagePhase::Ready,
        reason: "Verified".into(),
        message: "fetched and verified".into(),
        hosts: Vec::new(),
        progress: None,
        size: None,
        virtual_size: None,
        supply: Supply::Open,
        busy: false,
    };
    if !seen.deleted {
        let in_store = fetch(&mut plan, seen, now);
        for target in &seen.targets {
            spread(&mut plan, target, in_store, now);
        }
    }
    plan
}

/// Every file has to be in the store and judged before any host gets one. Returns whether all are.
///
/// What an earlier process verified is fetched again only when some host lacks it, and only its own contents can be held against
/// it: a source that is gone, or has another file by now, keeps further copies from being made and no more.
fn fetch(plan: &mut Plan, seen: &View, now: Timestamp) -> bool {
    let wanted = seen.known.is_none() || seen.copies.lacking;
    let mut sizes = Vec::new();
    let mut unavailable = None;
    for (volume, state) in &seen.fetches {
        match state {
            None if wanted => plan.steps.push(Step::Fetch(volume.clone())),
            None | Some(JobState::Uploaded(_)) => {}
            Some(JobState::Running(report)) => plan.progress = Some(format!("fetching {}: {report}", volume.name)),
            Some(JobState::Fetched(stored)) => {
                sizes.push(stored.size);
                plan.virtual_size = stored.virtual_size.or(plan.virtual_size);
            }
            Some(JobState::Failed { reason, message, refused, judged, retry_after }) => {
                let again = retry_after.map(|time| format!("; fetched again at {}", whole_seconds(time)));
                let message = [message.as_str(), again.as_deref().unwrap_or_default()].concat();
                if seen.known.is_none() || *judged {
                    plan.phase = if *refused { ImagePhase::Rejected } else { ImagePhase::Failed };
                    (*reason).clone_into(&mut plan.reason);
                    plan.message = message;
                    plan.busy |= !refused;
                } else {
                    unavailable = Some(Trouble { reason: (*reason).to_owned(), message });
                }
                if wanted && retry_after.is_some_and(|time| time <= now) {
                    plan.steps.push(Step::Fetch(volume.clone()));
                }
            }
        }
    }
    let in_store = sizes.len() == seen.fetches.len();
    let failed = matches!(plan.phase, ImagePhase::Rejected | ImagePhase::Failed);
    if in_store {
        plan.size = Some(sizes.into_iter().sum());
    } else if let Some(known) = seen.known.as_ref().filter(|_| !failed) {
        rely(plan, known, unavailable, seen.copies);
    } else if !failed {
        plan.phase = ImagePhase::Fetching;
        plan.reason = "Fetching".into();
        plan.message = plan.progress.clone().unwrap_or_else(|| "being fetched and verified".into());
        plan.busy = true;
    }
    in_store
}

/// The files aren't in the store, but they were, and hosts may have them.
fn rely(plan: &mut Plan, known: &Known, unavailable: Option<Trouble>, copies: Copies) {
    (plan.size, plan.virtual_size) = (known.size, known.virtual_size);
    plan.progress = None;
    plan.busy = copies.lacking;
    if !copies.lacking {
        return;
    }
    // While it is tried again, what was wrong stays so.
    let Some(trouble) = unavailable.or_else(|| known.unavailable.clone()) else {
        plan.supply = Supply::Refetching;
        return;
    };
    if !copies.some {
        plan.phase = ImagePhase::Failed;
        plan.reason.clone_from(&trouble.reason);
        plan.message.clone_from(&trouble.message);
    }
    plan.supply = Supply::Unavailable(trouble);
}

/// One pool gets its copy.
fn spread(plan: &mut Plan, target: &Target, in_store: bool, now: Timestamp) {
    let missing: Vec<_> = target.volumes.iter().filter(|volume| !volume.complete).collect();
    let mut told = ImageHost { state: ImageHostState::Waiting, ..ImageHost::default() };
    match (&target.through, missing.is_empty(), in_store) {
        (_, true, _) => told.state = ImageHostState::Ready,
        (None, false, _) => told.message = Some("the host doesn't answer".into()),
        (Some(_), false, false) => {
            told.message = Some(match &plan.supply {
                Supply::Unavailable(trouble) => trouble.message.clone(),
                Supply::Refetching => "being fetched once more".into(),
                Supply::Open => plan.message.clone(),
            });
        }
        (Some(through), false, true) => {
            plan.busy = true;
            for wanted in missing {
                upload(plan, &mut told, wanted, (through, target.surveyed), now);
            }
        }
    }
    plan.hosts.extend(target.hosts.iter().map(|name| ImageHost { name: name.clone(), ..told.clone() }));
}

/// A volume goes to a host, which was surveyed at a time.
fn upload(
    plan: &mut Plan,
    told: &mut ImageHost,
    wanted: &TargetVolume,
    (through, surveyed): (&str, Option<Timestamp>),
    now: Timestamp,
) {
    let again = Step::Upload(wanted.volume.clone(), through.to_owned());
    match &wanted.upload {
        None | Some(JobState::Fetched(_)) => plan.steps.push(again),
        // Somebody removed the volume from the host since, or the host was left and is back.
        Some(JobState::Uploaded(at)) if surveyed > Some(*at) => plan.steps.push(again),
        Some(JobState::Uploaded(_)) => told.message = Some("waits for the host's next survey".into()),
        Some(JobState::Running(report)) => {
            told.state = ImageHostState::Uploading;
            told.percent = report.percent().and_then(|percent| i32::try_from(percent).ok());
            told.message = Some(report.to_string());
            plan.progress = Some(format!("{through}: {report}"));
        }
        Some(JobState::Failed { message, retry_after, .. }) => {
            told.state = ImageHostState::Failed;
            told.message = Some(message.clone());
            if retry_after.is_some_and(|time| time <= now) {
                plan.steps.push(again);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{CachePolicy, DiskFormat, DiskImage, ImageCache, ImageSource, ImageSpec};
    use crate::images::{Stored, volumes_of};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn volumes() -> ImageVolumes {
        volumes_of(&ImageSpec {
            disk: Some(DiskImage {
                source: ImageSource { url: "https://images.example.org/disk".into() },
                checksum: format!("sha256:{}", "a".repeat(64)),
                format: DiskFormat::Qcow2,
            }),
            kernel: None,
            cache: ImageCache { policy: CachePolicy::All, selector: None },
        })
        .unwrap()
    }

    fn stored() -> JobState {
        JobState::Fetched(Stored { path: "/store/a".into(), size: Bytes::mebi(1), virtual_size: Some(Bytes::gibi(2)) })
    }

    fn failed(refused: bool, retry_after: i64) -> JobState {
        JobState::Failed {
            reason: "Bad",
            message: "no good".into(),
            refused,
            judged: false,
            retry_after: Some(at(retry_after)),
        }
    }

    fn refused_for_good() -> JobState {
        JobState::Failed { reason: "Bad", message: "no good".into(), refused: true, judged: true, retry_after: None }
    }

    fn seen(fetch: Option<JobState>, complete: bool, upload: Option<JobState>) -> View {
        let volumes = volumes();
        let disk = volumes.disk.clone().unwrap();
        View {
            fetches: vec![(disk.clone(), fetch)],
            targets: vec![Target {
                hosts: vec!["service-1".into(), "service-2".into()],
                through: Some("service-1".into()),
                surveyed: None,
                volumes: vec![TargetVolume { volume: disk, complete, upload }],
            }],
            volumes,
            users: Vec::new(),
            deleted: false,
            known: None,
            copies: Copies { some: complete, lacking: !complete },
        }
    }

    #[test]
    fn a_wrong_file_is_fetched_again_when_its_time_has_come() {
        let waits = plan(&seen(Some(failed(true, 60)), false, None), at(59));
        assert_eq!((waits.steps.len(), waits.phase, waits.busy), (0, ImagePhase::Rejected, false));
        assert_eq!(waits.message, "no good; fetched again at 1970-01-01T00:01:00Z");
        let again = plan(&seen(Some(failed(true, 60)), false, None), at(60));
        assert!(matches!(again.steps.as_slice(), [Step::Fetch(_)]));
    }

    #[test]
    fn nothing_is_uploaded_before_it_is_verified() {
        let fresh = plan(&seen(None, false, None), at(0));
        assert!(matches!(fresh.steps.as_slice(), [Step::Fetch(_)]));
        assert_eq!(fresh.phase, ImagePhase::Fetching);
        let rejected = plan(&seen(Some(refused_for_good()), false, None), at(100));
        assert_eq!((rejected.steps.len(), rejected.phase), (0, ImagePhase::Rejected));
        assert_eq!(rejected.message, "no good");
    }

    fn verified(fetch: Option<JobState>, copies: Copies) -> View {
        let known = Known { size: Some(Bytes::mebi(1)), virtual_size: Some(Bytes::gibi(2)), unavailable: None };
        View { known: Some(known), copies, ..seen(fetch, false, None) }
    }

    const ONE_LACKS: Copies = Copies { some: true, lacking: true };

    #[test]
    fn what_an_earlier_process_verified_stays_ready_and_is_not_uploaded_before_this_one_has_looked() {
        let looking = plan(&verified(None, ONE_LACKS), at(0));
        assert_eq!((looking.phase, looking.size), (ImagePhase::Ready, Some(Bytes::mebi(1))));
        assert!(matches!(looking.steps.as_slice(), [Step::Fetch(_)]));
        assert_eq!(looking.supply, Supply::Refetching);
        assert_eq!(plan(&verified(Some(refused_for_good()), ONE_LACKS), at(0)).phase, ImagePhase::Rejected);
    }

    #[test]
    fn what_is_verified_stays_ready_without_its_source_as_long_as_a_host_has_it() {
        let trouble =
            Trouble { reason: "Bad".into(), message: "no good; fetched again at 1970-01-01T00:01:00Z".into() };
        for other_file in [false, true] {
            let mut away = verified(Some(failed(other_file, 60)), ONE_LACKS);
            let waits = plan(&away, at(59));
            assert_eq!((waits.phase, waits.reason.as_str()), (ImagePhase::Ready, "Verified"), "{other_file}");
            assert_eq!((&waits.supply, waits.size), (&Supply::Unavailable(trouble.clone()), Some(Bytes::mebi(1))));
            assert!(waits.steps.is_empty() && waits.busy);
            assert_eq!(waits.hosts[0].message.as_ref(), Some(&trouble.message));
            assert!(matches!(plan(&away, at(60)).steps.as_slice(), [Step::Fetch(_)]));
            away.copies.some = false;
            let gone = plan(&away, at(59));
            assert_eq!((gone.phase, gone.reason.as_str(), gone.size), (ImagePhase::Failed, "Bad", waits.size));
            assert_eq!(gone.supply, waits.supply, "which is how the next look knows that it was verified");
        }
    }

    #[test]
    fn what_was_wrong_with_a_source_stays_so_while_it_is_tried_again() {
        let mut seen = verified(None, ONE_LACKS);
        let trouble = Trouble { reason: "Bad".into(), message: "no good".into() };
        seen.known.as_mut().unwrap().unavailable = Some(trouble.clone());
        assert_eq!(plan(&seen, at(0)).supply, Supply::Unavailable(trouble));
        seen.fetches[0].1 = Some(stored());
        assert_eq!(plan(&seen, at(0)).supply, Supply::Open);
    }

    #[test]
    fn what_is_verified_is_not_fetched_again_while_every_host_that_answers_has_it() {
        for copies in [Copies { some: true, lacking: false }, Copies::default()] {
            for state in [None, Some(failed(false, 0)), Some(failed(true, 0))] {
                let rests = plan(&verified(state, copies), at(60));
                assert_eq!((rests.steps.len(), rests.phase, rests.busy), (0, ImagePhase::Ready, false));
                assert_eq!(rests.supply, Supply::Open);
            }
        }
    }

    #[test]
    fn a_verified_image_goes_once_into_a_shared_pool() {
        let plan = plan(&seen(Some(stored()), false, None), at(0));
        assert!(matches!(plan.steps.as_slice(), [Step::Upload(_, host)] if host == "service-1"));
        assert_eq!(plan.hosts.len(), 2, "both hosts of the pool are told of");
        assert_eq!((plan.size, plan.virtual_size), (Some(Bytes::mebi(1)), Some(Bytes::gibi(2))));
    }

    #[test]
    fn what_failed_is_tried_again_when_its_time_has_come() {
        assert_eq!(plan(&seen(Some(failed(false, 10)), false, None), at(9)).steps.len(), 0);
        assert_eq!(plan(&seen(Some(failed(false, 10)), false, None), at(10)).steps.len(), 1);
        assert_eq!(plan(&seen(Some(stored()), false, Some(failed(false, 10))), at(9)).steps.len(), 0);
        assert_eq!(plan(&seen(Some(stored()), false, Some(failed(false, 10))), at(10)).steps.len(), 1);
    }

    #[test]
    fn a_copy_that_somebody_removed_is_brought_again() {
        let mut seen = seen(Some(stored()), false, Some(JobState::Uploaded(at(10))));
        let uploads = |seen: &View| plan(seen, at(11)).steps.len();
        assert_eq!(uploads(&seen), 0, "no survey yet");
        seen.targets[0].surveyed = Some(at(10));
        assert_eq!(uploads(&seen), 0, "the survey may have been begun before the upload's end");
        seen.targets[0].surveyed = Some(at(11));
        assert_eq!(uploads(&seen), 1);
    }

    #[test]
    fn a_complete_copy_leaves_nothing_to_do() {
        let plan = plan(&seen(Some(stored()), true, None), at(0));
        assert!(plan.steps.is_empty() && !plan.busy);
        assert!(plan.hosts.iter().all(|host| host.state == ImageHostState::Ready));
    }
}
