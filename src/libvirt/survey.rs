//! Reading a host: everything at once, or one domain. Runs on a thread that may block.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use quick_xml::Reader;
use quick_xml::events::Event;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;

use super::domains;
use super::error::Failure;
use super::host::{DomainRun, HostFacts, PoolSpace, Survey, SurveyedDomain};
use super::link::Session;
use super::spec::{DomainRole, DomainUuid, OwnershipTag};
use super::stats::{self, DomainStats};
use super::tag::{self, Tag, TagCache};
use super::volumes::{self, Place};
use crate::api::Bytes;
use crate::network::filters::FILTER_PREFIX;
use crate::text::printable;

/// The longest text that is taken from a host's description of itself, in bytes.
const LONGEST_TEXT: usize = 100;
/// The longest name of a file on a host; libvirt itself would send megabytes.
const LONGEST_NAME: usize = 255;

/// What was read before and is still good.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Tags of domains.
    pub(super) tags: TagCache,
    /// What the host is, and the connection over which it was read: on another one it may be another machine.
    facts: Mutex<Option<(u64, HostFacts)>>,
}

/// Reads everything.
pub(super) fn read(session: &Session, place: &Place, known: &Known) -> Result<Survey, Failure> {
    let connection = session.connection();
    let facts = known_facts(session, known)?;
    let domains = domains(connection, &known.tags)?;
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
        let (tag, canary) = by_role(tag::read(&domain, &name)?);
        Ok(SurveyedDomain { name, run, tag, canary, memory, cpus })
    };
    match read() {
        Err(failure) if failure.is(ErrorNumber::NoDomain) => Ok(None),
        read => read.map(Some),
    }
}

fn domains(connection: &Connect, cache: &TagCache) -> Result<BTreeMap<DomainUuid, SurveyedDomain>, Failure> {
    let remembered = cache.remembered();
    let mut tags = HashMap::new();
    let mut domains = BTreeMap::new();
    for record in stats::read_all(connection)? {
        let uuid = DomainUuid(record.uuid);
        let tag = match remembered.get(uuid) {
            Some(tag) => tag.clone(),
            None => match domains::find(connection, uuid)? {
                Some(domain) => tag::read(&domain, &record.name)?,
                None => continue,
            },
        };
        let Some(domain) = surveyed(connection, record, tag.clone())? else { continue };
        tags.insert(uuid, tag);
        domains.insert(uuid, domain);
    }
    cache.keep(&remembered, tags);
    Ok(domains)
}

/// What a record tells, completed by asking where libvirt left something out; `None`: the domain is gone.
fn surveyed(connection: &Connect, record: DomainStats, tag: Option<Tag>) -> Result<Option<SurveyedDomain>, Failure> {
    let DomainStats { uuid, name, state, cpus, memory } = record;
    let name = printable(&name, LONGEST_NAME);
    match (state, cpus, memory) {
        (Some((state, reason)), Some(cpus), Some(memory)) => {
            let (tag, canary) = by_role(tag);
            Ok(Some(SurveyedDomain { name, run: stats::run(state, reason), tag, canary, memory, cpus }))
        }
        _ => domain(connection, DomainUuid(uuid)),
    }
}

/// The tag of a machine and that of a canary, of which a domain has one or none.
fn by_role(tag: Option<Tag>) -> (Option<OwnershipTag>, Option<OwnershipTag>) {
    match tag {
        Some((DomainRole::Machine, tag)) => (Some(tag), None),
        Some((DomainRole::Canary, tag)) => (None, Some(tag)),
        None => (None, None),
    }
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
        if name.len() <= LONGEST_NAME {
            names.insert(name);
        }
    }
    Ok(split_incomplete(names))
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
    let cpu_model = text_at(&capabilities, &["capabilities", "host", "cpu", "model"])
        .unwrap_or_else(|| printable(&node.model, LONGEST_TEXT));
    Ok(HostFacts {
        uuid: text_at(&capabilities, &["capabilities", "host", "uuid"]).and_then(|uuid| uuid.parse::<Uuid>().ok()),
        libvirt_version: version(connection.lib_version()?),
        qemu_version: version(connection.hyp_version()?),
        cpu_model,
        cpus: i32::try_from(node.cpus).unwrap_or(i32::MAX),
        memory: stats::kibibytes(node.memory),
    })
}

/// libvirt's way to write a version as a number.
fn version(number: u32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}

/// The text of the first element at this path of a document, made fit for an object.
pub(super) fn text_at(xml: &str, path: &[&str]) -> Option<String> {
    let mut reader = Reader::from_str(xml);
    // How deep the reader is, and how many of the elements around it are those of the path.
    let (mut depth, mut matched) = (0, 0);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                if matched == depth && path.get(depth) == Some(&start.name().as_ref()) {
                    matched += 1;
                }
                depth += 1;
            }
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                matched = matched.min(depth);
            }
            Event::Text(text) if depth == path.len() && matched == depth => {
                return Some(printable(text.xml10_content().trim(), LONGEST_TEXT));
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_marked_volume_is_incomplete_and_the_mark_is_no_volume() {
        let names = ["a", "b", "b.incomplete", "c.incomplete"].map(str::to_owned).into();
        let (complete, incomplete) = split_incomplete(names);
        assert_eq!(complete, ["a".to_owned()].into());
        assert_eq!(incomplete, ["b".to_owned(), "c".to_owned()].into());
    }

    #[test]
    fn capabilities_are_read_by_path() {
        let xml = "<capabilities><host><uuid> u </uuid><cpu><arch>x</arch><model>m</model></cpu></host></capabilities>";
        assert_eq!(text_at(xml, &["capabilities", "host", "uuid"]).as_deref(), Some("u"));
        assert_eq!(text_at(xml, &["capabilities", "host", "cpu", "model"]).as_deref(), Some("m"));
        assert_eq!(text_at(xml, &["capabilities", "cpu"]), None);
        let elsewhere = "<a><x><b>1</b></x><b>2</b></a>";
        assert_eq!(text_at(elsewhere, &["a", "b"]).as_deref(), Some("2"));
        assert_eq!(version(9_000_000), "9.0.0");
        assert_eq!(version(7_002_022), "7.2.22");
    }

    proptest! {
        #[test]
        fn reading_never_panics(xml in "\\PC{0,80}") {
            let _ = text_at(&xml, &["a", "b"]);
        }
    }
}
