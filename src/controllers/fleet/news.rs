//! What an answer of a host changes: in what is known of it, and for whom.

use std::sync::{Arc, PoisonError};

use jiff::Timestamp;

use super::{FleetHost, HostView};
use crate::controllers::observed::Observed;
use crate::controllers::vanish::{Claims, Verdict};
use crate::libvirt::{DomainUuid, HostError, OwnershipTag, Survey};

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

/// Takes an answer in, if it is believed, and tells what it changes.
pub(super) fn take_in(
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
    use uuid::Uuid;

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
