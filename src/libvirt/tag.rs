//! The ownership tag: an element of ours in the metadata of a domain.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::sys;

use super::error::Failure;
use super::spec::{DomainRole, DomainUuid, OwnershipTag};
use crate::xml::Element;

/// XML namespace of the tag.
pub(super) const NAMESPACE: &str = "https://cascina.dev/libvirt/v1";
/// What the names of all our domains start with.
pub(super) const DOMAIN_PREFIX: &str = "casc-";

/// A longer element is none that we wrote, in bytes: four texts, each an object's name at most.
const LONGEST: usize = 4096;
/// How long tags are believed without reading them again: somebody else may have changed them.
const BELIEVED_FOR: Duration = Duration::from_mins(1);

/// The element that the tag of a domain is: another one for each role, so that none is taken for another's.
const fn element_name(role: DomainRole) -> &'static str {
    match role {
        DomainRole::Machine => "casc:machine",
        DomainRole::Canary => "casc:canary",
    }
}

/// The tag as it stands in a domain's `<metadata>`.
pub(super) fn element(role: DomainRole, tag: &OwnershipTag) -> Element {
    Element::new(element_name(role))
        .attribute("xmlns:casc", NAMESPACE)
        .attribute("cluster", &tag.cluster)
        .attribute("namespace", &tag.namespace)
        .attribute("name", &tag.name)
        .attribute("uid", tag.uid.hyphenated())
        .attribute("epoch", tag.epoch)
        .attribute("specHash", &tag.spec_hash)
}

/// What a domain is for, and whose it is.
pub(super) type Tag = (DomainRole, OwnershipTag);

/// Reads a tag. libvirt gives the element back without its prefix. `None`: this is no tag.
pub(super) fn parse(xml: &str) -> Option<Tag> {
    if xml.len() > LONGEST {
        return None;
    }
    let mut reader = Reader::from_str(xml);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) | Event::Empty(start) => return Some((role(&start)?, of_element(&start)?)),
            Event::Eof => return None,
            _ => {}
        }
    }
}

fn role(element: &BytesStart<'_>) -> Option<DomainRole> {
    let name = element.local_name();
    [DomainRole::Machine, DomainRole::Canary]
        .into_iter()
        .find(|role| element_name(*role).strip_prefix("casc:") == Some(name.as_ref()))
}

fn of_element(element: &BytesStart<'_>) -> Option<OwnershipTag> {
    let get = |name: &str| {
        let attribute = element.try_get_attribute(name).ok().flatten()?;
        attribute.normalized_value(XmlVersion::Implicit1_0).ok().map(std::borrow::Cow::into_owned)
    };
    Some(OwnershipTag {
        cluster: get("cluster")?,
        namespace: get("namespace")?,
        name: get("name")?,
        uid: get("uid")?.parse::<Uuid>().ok()?,
        epoch: get("epoch")?.parse().ok()?,
        spec_hash: get("specHash")?,
    })
}

/// Reads the tag of a domain.
pub(super) fn read(domain: &Domain, name: &str) -> Result<Option<Tag>, Failure> {
    if !name.starts_with(DOMAIN_PREFIX) {
        return Ok(None);
    }
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or_default();
    match domain.metadata(kind, Some(NAMESPACE), 0).map_err(Failure::from) {
        Ok(xml) => Ok(parse(&xml)),
        Err(failure) if failure.is_any(&[ErrorNumber::NoDomainMetadata, ErrorNumber::NoDomain]) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The tags that were read before, so that a survey needs no call per domain.
#[derive(Debug, Default)]
pub(super) struct TagCache(Mutex<Tags>);

#[derive(Debug, Default)]
struct Tags {
    known: HashMap<DomainUuid, Option<Tag>>,
    since: Option<Instant>,
    changes: u64,
}

/// The cache as it was when a survey began; put back what was read only if no tag was changed meanwhile.
#[derive(Debug)]
pub(super) struct Remembered {
    known: HashMap<DomainUuid, Option<Tag>>,
    changes: u64,
}

impl Remembered {
    /// What was read of a domain, if it was: its tag, or that it has none.
    pub(super) fn get(&self, uuid: DomainUuid) -> Option<&Option<Tag>> {
        self.known.get(&uuid)
    }
}

impl TagCache {
    /// What may still be believed.
    pub(super) fn remembered(&self) -> Remembered {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.since.is_none_or(|since| since.elapsed() >= BELIEVED_FOR) {
            tags.known.clear();
            tags.since = Some(Instant::now());
        }
        Remembered { known: tags.known.clone(), changes: tags.changes }
    }

    /// Keeps what a survey read.
    pub(super) fn keep(&self, before: &Remembered, known: HashMap<DomainUuid, Option<Tag>>) {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.changes == before.changes {
            tags.known = known;
        }
    }

    /// Forgets a domain whose definition changes. To be called before and after the change.
    pub(super) fn forget(&self, uuid: DomainUuid) {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tags.known.remove(&uuid);
        tags.changes += 1;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::text::printable;
    use proptest::prelude::*;

    prop_compose! {
        pub(crate) fn any_tag()(
            cluster in "\\PC{0,40}", namespace in "\\PC{0,40}", name in "\\PC{0,40}",
            uid: u128, epoch: i64, spec_hash in "\\PC{0,40}",
        ) -> OwnershipTag {
            let [cluster, namespace, name, spec_hash] =
                [cluster, namespace, name, spec_hash].map(|text| printable(&text, 200));
            OwnershipTag { cluster, namespace, name, uid: Uuid::from_u128(uid), epoch, spec_hash }
        }
    }

    proptest! {
        #[test]
        fn a_tag_is_read_back_as_it_was_written(tag in any_tag()) {
            for role in [DomainRole::Machine, DomainRole::Canary] {
                let xml = element(role, &tag).to_xml().unwrap();
                prop_assert_eq!(parse(&xml), Some((role, tag.clone())));
                prop_assert_eq!(parse(&xml.replacen("<casc:", "<", 1)), Some((role, tag.clone())));
            }
        }

        #[test]
        fn reading_never_panics(xml in "\\PC{0,80}", inside in "\\PC{0,80}") {
            let _ = parse(&xml);
            let _ = parse(&["<machine ", &inside, "/>"].concat());
            let _ = parse(&["<machine cluster='", &inside, "' uid='", &xml, "'/>"].concat());
        }
    }

    #[test]
    fn what_lacks_a_field_is_no_tag() {
        for xml in ["", "<machine/>", "<other cluster='a'/>", "<a><machine/></a>", "<machine uid='x' epoch='1'/>"] {
            assert_eq!(parse(xml), None, "{xml}");
        }
    }

    #[test]
    fn a_tag_of_megabytes_is_no_tag() {
        let tag = |cluster: String| OwnershipTag {
            cluster,
            namespace: "physics".to_owned(),
            name: "n".repeat(253),
            uid: Uuid::nil(),
            epoch: 1,
            spec_hash: String::new(),
        };
        let read = |cluster| parse(&element(DomainRole::Machine, &tag(cluster)).to_xml().unwrap());
        assert!(read("c".repeat(1000)).is_some());
        assert!(read("c".repeat(4 << 20)).is_none());
    }

    #[test]
    fn a_survey_that_overlaps_a_definition_keeps_nothing() {
        let cache = TagCache::default();
        let uuid = DomainUuid(Uuid::from_u128(1));
        let before = cache.remembered();
        cache.forget(uuid);
        cache.keep(&before, HashMap::from([(uuid, None)]));
        assert_eq!(cache.remembered().get(uuid), None);
        let before = cache.remembered();
        cache.keep(&before, HashMap::from([(uuid, None)]));
        assert_eq!(cache.remembered().get(uuid), Some(&None));
    }
}
