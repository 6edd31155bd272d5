//! What was last seen on every host, and what was begun there since: kept while a host doesn't answer, and through a new
//! connection to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::holding::Holding;
use crate::api::{Bytes, Hypervisor};
use crate::libvirt::Survey;

/// That a machine was seen to be gone is remembered so long: by then nothing else speaks of it any more.
const REMEMBERED: Duration = Duration::from_secs(300);

/// What was last seen on every host.
#[derive(Debug)]
pub struct Sightings {
    cluster: String,
    hosts: Mutex<BTreeMap<String, Sighting>>,
}

/// What is known of one host. By the uid of each machine.
#[derive(Debug, Default)]
struct Sighting {
    seen: BTreeMap<String, Arc<Holding>>,
    begun: BTreeMap<String, Begun>,
    released: BTreeMap<String, Timestamp>,
    /// What the host's status lists, read once for each of its versions.
    listed: Option<(String, Listed)>,
}

impl Sighting {
    /// The size of a machine's disks, as far as it is known.
    fn disks_of(&self, uid: &str) -> Bytes {
        let begun = self.begun.get(uid).map(|begun| &begun.holding);
        let known = self.seen.get(uid).into_iter().chain(begun);
        known.map(|holding| holding.amount.storage).max().unwrap_or_default()
    }
}

/// What a host's status lists, and whether each was given up.
type Listed = Arc<[(bool, Arc<Holding>)]>;

/// A machine that is being made, or was made since the host was last read.
#[derive(Debug)]
struct Begun {
    holding: Arc<Holding>,
    ended: Option<Timestamp>,
}

impl Sightings {
    /// Nothing was seen yet. Domains of other clusters aren't looked at.
    #[must_use]
    pub fn new(cluster: impl Into<String>) -> Self {
        Self { cluster: cluster.into(), hosts: Mutex::default() }
    }

    /// A host was read; what was done after `begun` may be missing in what it said. How large its disks are no domain tells:
    /// they are as large as they were said to be when it was made.
    pub fn saw(&self, host: &str, survey: &Survey, begun: Timestamp) {
        let holdings =
            survey.domains.iter().filter_map(|(uuid, domain)| Holding::of_domain(*uuid, domain, &self.cluster));
        let mut hosts = self.lock();
        let sighting = hosts.entry(host.to_owned()).or_default();
        let seen = holdings.map(|mut holding| {
            holding.amount.storage = sighting.disks_of(&holding.uid);
            (holding.uid.clone(), Arc::new(holding))
        });
        let seen: BTreeMap<_, _> = seen.collect();
        sighting.begun.retain(|_, known| known.ended.is_none_or(|ended| ended >= begun));
        let lately = |time: Timestamp| Duration::try_from(begun.duration_since(time)).unwrap_or_default() < REMEMBERED;
        sighting.released.retain(|uid, time| seen.contains_key(uid) || lately(*time));
        sighting.seen = seen;
    }

    /// A machine is about to be made there: from here on it counts, whatever becomes of its object.
    pub fn begins(&self, host: &str, holding: Holding) {
        let mut hosts = self.lock();
        let begun = &mut hosts.entry(host.to_owned()).or_default().begun;
        begun.insert(holding.uid.clone(), Begun { holding: Arc::new(holding), ended: None });
    }

    /// What was begun has ended, however it did: the next look tells.
    pub fn ends(&self, host: &str, uid: &str, now: Timestamp) {
        if let Some(begun) = self.lock().get_mut(host).and_then(|sighting| sighting.begun.get_mut(uid)) {
            begun.ended = Some(now);
        }
    }

    /// A machine was looked for there and nothing of it is left. Its uid is never given again.
    pub fn releases(&self, host: &str, uid: &str, now: Timestamp) {
        let mut hosts = self.lock();
        let sighting = hosts.entry(host.to_owned()).or_default();
        sighting.begun.remove(uid);
        sighting.released.insert(uid.to_owned(), now);
    }

    /// A host was let go: nobody speaks of what is on it any more.
    pub fn forget(&self, host: &str) {
        self.lock().remove(host);
    }

    /// What a host's status lists and buries.
    pub fn listed(&self, host: &Hypervisor) -> Listed {
        let version = [host.uid(), host.resource_version()].map(Option::unwrap_or_default).join("/");
        let mut hosts = self.lock();
        let known = &mut hosts.entry(host.name_any()).or_default().listed;
        if let Some((_, listed)) = known.as_ref().filter(|(read, _)| *read == version) {
            return Arc::clone(listed);
        }
        let copies = host.status.iter().flat_map(|status| &status.copies).map(|copy| (false, copy));
        let tombstones = host.status.iter().flat_map(|status| &status.tombstones).map(|stone| (true, &stone.copy));
        let listed =
            tombstones.chain(copies).map(|(is_given_up, copy)| (is_given_up, Arc::new(Holding::of_copy(copy))));
        let listed: Listed = listed.collect();
        *known = Some((version, Arc::clone(&listed)));
        listed
    }

    /// Whether a machine was seen to be gone from a host.
    #[must_use]
    pub fn is_released(&self, host: &str, uid: &str) -> bool {
        self.lock().get(host).is_some_and(|sighting| sighting.released.contains_key(uid))
    }

    /// The size of a machine's disks on a host, as far as it is known.
    #[must_use]
    pub fn disks_of(&self, host: &str, uid: &str) -> Bytes {
        self.lock().get(host).map(|sighting| sighting.disks_of(uid)).unwrap_or_default()
    }

    /// What may be on each host.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Arc<Holding>)> {
        let hosts = self.lock();
        let of_host = |(host, sighting): (&String, &Sighting)| {
            let begun = sighting.begun.iter().map(|(uid, begun)| (uid, &begun.holding));
            let there = sighting.seen.iter().chain(begun).filter(|(uid, _)| !sighting.released.contains_key(*uid));
            there.map(|(_, holding)| (host.clone(), Arc::clone(holding))).collect::<Vec<_>>()
        };
        hosts.iter().flat_map(of_host).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Sighting>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{domain, holding};
    use super::*;
    use crate::libvirt::{DomainRun, StopReason};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn uids(sightings: &Sightings) -> Vec<u128> {
        let number = |uid: &String| uid.parse::<uuid::Uuid>().unwrap().as_u128();
        sightings.all().iter().map(|(_, holding)| number(&holding.uid)).collect()
    }

    fn having(numbers: &[u128]) -> Survey {
        let mut survey = Survey::default();
        survey.domains.extend(numbers.iter().map(|number| domain(*number, "us", &["172.16.1.2"])));
        survey
    }

    #[test]
    fn what_was_seen_counts_until_a_later_look_misses_it() {
        let sightings = Sightings::new("us");
        sightings.saw("worker-1", &having(&[1, 2]), at(0));
        assert_eq!(uids(&sightings), [1, 2]);
        sightings.saw("worker-2", &having(&[3]), at(5));
        assert_eq!(uids(&sightings), [1, 2, 3], "another host says nothing of this one");
        sightings.saw("worker-1", &having(&[2]), at(10));
        assert_eq!(uids(&sightings), [2, 3]);
        sightings.forget("worker-1");
        assert_eq!(uids(&sightings), [3]);
    }

    #[test]
    fn what_is_begun_counts_until_a_look_that_began_after_its_end() {
        let sightings = Sightings::new("us");
        let begun = holding(7, &["172.16.1.7"]);
        let uid = begun.uid.clone();
        sightings.begins("worker-1", begun);
        sightings.saw("worker-1", &having(&[]), at(5));
        assert_eq!(uids(&sightings), [7], "it isn't there yet");
        sightings.ends("worker-1", &uid, at(8));
        sightings.saw("worker-1", &having(&[]), at(7));
        assert_eq!(uids(&sightings), [7], "the look began before it was made");
        sightings.saw("worker-1", &having(&[]), at(9));
        assert_eq!(uids(&sightings), Vec::<u128>::new());
    }

    #[test]
    fn disks_are_as_large_as_they_were_when_the_machine_was_made_as_long_as_its_domain_is_seen() {
        let sightings = Sightings::new("us");
        let mut begun = holding(7, &["172.16.1.7"]);
        begun.amount.storage = Bytes::gibi(20);
        let uid = begun.uid.clone();
        let storage = || sightings.all().iter().map(|(_, holding)| holding.amount.storage).max();
        sightings.begins("worker-1", begun);
        sightings.ends("worker-1", &uid, at(8));
        sightings.saw("worker-1", &having(&[7]), at(9));
        sightings.saw("worker-1", &having(&[7]), at(19));
        assert_eq!(storage(), Some(Bytes::gibi(20)));
        let mut off = having(&[7]);
        off.domains.values_mut().for_each(|domain| domain.run = DomainRun::Off(StopReason::Shutdown));
        sightings.saw("worker-1", &off, at(29));
        let amount = sightings.all()[0].1.amount;
        assert_eq!((amount.cpus, amount.storage), (0, Bytes::gibi(20)), "one that is off has its disks");
        sightings.saw("worker-1", &having(&[]), at(39));
        assert_eq!(storage(), None);
    }

    #[test]
    fn what_was_released_is_gone_before_the_next_look() {
        let sightings = Sightings::new("us");
        sightings.saw("worker-1", &having(&[1]), at(0));
        let uid = sightings.all()[0].1.uid.clone();
        sightings.releases("worker-1", &uid, at(3));
        assert_eq!(uids(&sightings), Vec::<u128>::new());
        sightings.saw("worker-1", &having(&[1]), at(2));
        assert_eq!(uids(&sightings), Vec::<u128>::new(), "an old look brings nothing back");
    }

    #[test]
    fn domains_of_others_hold_nothing_of_ours() {
        let sightings = Sightings::new("us");
        let mut survey = Survey::default();
        survey.domains.extend([domain(1, "them", &["172.16.1.2"])]);
        sightings.saw("worker-1", &survey, at(0));
        assert_eq!(uids(&sightings), Vec::<u128>::new());
    }
}
