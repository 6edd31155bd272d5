//! Reading a host: everything at once, or one domain. Runs on a thread that may block.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use super::domains;
use super::error::Failure;
use super::host::{DomainRun, HostFacts, PoolSpace, Survey, SurveyedDomain};
use super::link::Session;
use super::reading::{Reading, Readings};
use super::spec::{DomainRole, DomainUuid};
use super::stats::{self, DomainStats};
use super::volumes::{self, POOL_MARK, Place};
use crate::api::Bytes;
use crate::network::filters::FILTER_PREFIX;
use crate::text::printable;
use crate::xml::Element;

/// The longest text that is taken from a host's description of itself, in bytes.
const LONGEST_TEXT: usize = 100;
/// The longest name of a file on a host; libvirt itself would send megabytes.
const LONGEST_NAME: usize = 255;

/// What was read before and is still good.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What the documents of domains tell.
    pub(super) readings: Readings,
    /// What the host is, and the connection over which it was read: on another one it may be another machine.
    facts: Mutex<Option<(u64, HostFacts)>>,
}

/// Reads everything.
pub(super) fn read(session: &Session, place: &Place, known: &Known) -> Result<Survey, Failure> {
    let connection = session.connection();
    let facts = known_facts(session, known)?;
    let domains = domains(connection, &known.readings)?;
    let pool = place.open(connection)?;
    if place.shared {
        volumes::refresh(&pool)?;
    }
    let (volumes, incomplete_volumes) = volume_names(&pool)?;
    let filters = filter_names(connection)?;
    let info = pool.info()?;
    let space = PoolSpace { capacity: Bytes::new(info.capacity), available: Bytes::new(info.available) };
    Ok(Survey { facts, domains, volumes, incomplete_volumes, filters, space })
}

/// Reads one domain, past every cache.
pub(super) fn domain(connection: &Connect, uuid: DomainUuid) -> Result<Option<SurveyedDomain>, Failure> {
    let Some(domain) = domains::find(connection, uuid)? else { return Ok(None) };
    let read = || -> Result<SurveyedDomain, Failure> {
        let name = printable(&domain.name()?, LONGEST_NAME);
        let (cpus, memory) = size(&domain)?;
        let run = state(&domain)?;
        Ok(surveyed(uuid, name, run, (cpus, memory), Reading::of(&domain)?))
    };
    match read() {
        Err(failure) if failure.is(ErrorNumber::NoDomain) => Ok(None),
        read => read.map(Some),
    }
}

fn domains(connection: &Connect, readings: &Readings) -> Result<BTreeMap<DomainUuid, SurveyedDomain>, Failure> {
    let remembered = readings.remembered();
    let mut read = HashMap::new();
    let mut domains = BTreeMap::new();
    for record in stats::read_all(connection)? {
        let uuid = DomainUuid(record.uuid);
        let DomainStats { name, state: Some((state, reason)), cpus: Some(cpus), memory: Some(memory), .. } = record
        else {
            // libvirt left something out: the domain is asked itself.
            domains.extend(domain(connection, uuid)?.map(|domain| (uuid, domain)));
            continue;
        };
        let name = printable(&name, LONGEST_NAME);
        let run = stats::run(state, reason);
        let reading = match remembered.get(uuid, !matches!(run, DomainRun::Off(_))) {
            Some(reading) => reading.clone(),
            None => match reading(connection, uuid)? {
                Some(reading) => reading,
                None => continue,
            },
        };
        read.insert(uuid, reading.clone());
        domains.insert(uuid, surveyed(uuid, name, run, (cpus, memory), reading));
    }
    readings.keep(&remembered, read);
    Ok(domains)
}

fn reading(connection: &Connect, uuid: DomainUuid) -> Result<Option<Reading>, Failure> {
    let Some(domain) = domains::find(connection, uuid)? else { return Ok(None) };
    match Reading::of(&domain) {
        Err(failure) if failure.is(ErrorNumber::NoDomain) => Ok(None),
        read => read.map(Some),
    }
}

/// A machine's tag belongs to the domain whose UUID is its uid; in another domain it is a copy.
fn surveyed(
    uuid: DomainUuid,
    name: String,
    run: DomainRun,
    (cpus, memory): (i32, Bytes),
    reading: Reading,
) -> SurveyedDomain {
    let Reading { tag, forms } = reading;
    let (tag, canary, copied_tag) = match tag {
        Some((DomainRole::Machine, tag)) if tag.uid == uuid.0 => (Some(tag), None, None),
        Some((DomainRole::Machine, copy)) => (None, None, Some(copy)),
        Some((DomainRole::Canary, tag)) => (None, Some(tag), None),
        None => (None, None, None),
    };
    SurveyedDomain { name, run, tag, canary, copied_tag, memory, cpus, forms: Some(forms) }
}

/// Whether a domain runs.
pub(super) fn state(domain: &Domain) -> Result<DomainRun, Failure> {
    let (mut state, mut reason) = (0, 0);
    // SAFETY: the domain is valid as long as it is borrowed; libvirt writes two integers. (The crate's own function
    // panics on a state that it doesn't know.)
    let got = unsafe { virt::sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) };
    if got < 0 { Err(virt::error::Error::last_error().into()) } else { Ok(stats::run(state, reason)) }
}

fn size(domain: &Domain) -> Result<(i32, Bytes), Failure> {
    let info = domain.info()?;
    Ok((i32::try_from(info.nr_virt_cpu).unwrap_or(i32::MAX), stats::kibibytes(info.max_mem)))
}

fn volume_names(pool: &StoragePool) -> Result<(BTreeSet<String>, BTreeSet<String>), Failure> {
    let mut names = BTreeSet::new();
    for volume in pool.list_all_volumes(0)? {
        let name = volume.name()?;
        if name.len() <= LONGEST_NAME && (!name.starts_with(POOL_MARK) || is_there(&volume)?) {
            names.insert(name);
        }
    }
    Ok(split_incomplete(names))
}

/// Whether a volume is there now: libvirt lists what it saw when it last read the pool, and a mount may be gone since.
fn is_there(volume: &StorageVol) -> Result<bool, Failure> {
    match volume.info().map_err(Failure::from) {
        Err(failure) if failure.is_silence() => Err(failure),
        info => Ok(info.is_ok()),
    }
}

/// Complete volumes, and those beside which a mark lies.
fn split_incomplete(names: BTreeSet<String>) -> (BTreeSet<String>, BTreeSet<String>) {
    let incomplete: BTreeSet<_> =
        names.iter().filter_map(|name| name.strip_suffix(volumes::INCOMPLETE)).map(str::to_owned).collect();
    let is_complete = |name: &String| !name.ends_with(volumes::INCOMPLETE) && !incomplete.contains(name);
    (names.into_iter().filter(is_complete).collect(), incomplete)
}

fn filter_names(connection: &Connect) -> Result<BTreeSet<String>, Failure> {
    let mut names = BTreeSet::new();
    for filter in connection.list_all_nw_filters(0)? {
        let name = filter.name()?;
        if name.starts_with(FILTER_PREFIX) && name.len() <= LONGEST_NAME {
            names.insert(name);
        }
    }
    Ok(names)
}

fn known_facts(session: &Session, known: &Known) -> Result<HostFacts, Failure> {
    let stored = known.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some((number, facts)) = stored
        && number == session.number()
    {
        return Ok(facts);
    }
    let facts = facts(session.connection())?;
    *known.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some((session.number(), facts.clone()));
    Ok(facts)
}

fn facts(connection: &Connect) -> Result<HostFacts, Failure> {
    let node = connection.node_info()?;
    let capabilities = connection.capabilities()?;
    let capabilities = Element::parse(&capabilities);
    let text = |path| {
        let element = capabilities.as_ref()?.find(path);
        element.map(|element| printable(element.content().trim(), LONGEST_TEXT))
    };
    Ok(HostFacts {
        uuid: text("host/uuid").and_then(|uuid| uuid.parse::<Uuid>().ok()),
        libvirt_version: version(connection.lib_version()?),
        qemu_version: version(connection.hyp_version()?),
        cpu_model: text("host/cpu/model").unwrap_or_else(|| printable(&node.model, LONGEST_TEXT)),
        cpus: i32::try_from(node.cpus).unwrap_or(i32::MAX),
        memory: stats::kibibytes(node.memory),
    })
}

/// libvirt's way to write a version as a number.
fn version(number: u32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}

#[cfg(test)]
mod tests {
    use super::super::spec::OwnershipTag;
    use super::*;

    #[test]
    fn a_marked_volume_is_incomplete_and_the_mark_is_no_volume() {
        let names = ["a", "b", "b.incomplete", "c.incomplete"].map(str::to_owned).into();
        let (complete, incomplete) = split_incomplete(names);
        assert_eq!(complete, ["a".to_owned()].into());
        assert_eq!(incomplete, ["b".to_owned(), "c".to_owned()].into());
    }

    #[test]
    fn a_version_is_told_apart_from_its_number() {
        assert_eq!(version(9_000_000), "9.0.0");
        assert_eq!(version(7_002_022), "7.2.22");
    }

    #[test]
    fn a_tag_that_names_another_domain_is_a_copy() {
        let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let tag = OwnershipTag {
            cluster: "c".into(),
            namespace: "n".into(),
            name: "m".into(),
            uid: own,
            epoch: 1,
            spec_hash: String::new(),
        };
        let at = |uuid| {
            let reading = Reading { tag: Some((DomainRole::Machine, tag.clone())), ..Reading::default() };
            surveyed(DomainUuid(uuid), String::new(), DomainRun::Running, (1, Bytes::ZERO), reading)
        };
        assert_eq!((at(own).tag, at(own).copied_tag), (Some(tag.clone()), None));
        assert_eq!((at(other).tag, at(other).copied_tag), (None, Some(tag.clone())));
    }
}
