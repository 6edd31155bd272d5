//! The ownership tag: an element of ours in the metadata of a domain.

use uuid::Uuid;

use super::spec::{DomainRole, OwnershipTag};
use crate::xml::Element;

/// XML namespace of the tag.
pub(super) const NAMESPACE: &str = "https://cascina.dev/libvirt/v1";
/// What the names of all our domains start with.
pub(super) const DOMAIN_PREFIX: &str = "casc-";

/// A longer element is none that we wrote, in bytes: four texts, each an object's name at most.
const LONGEST: usize = 4096;

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

/// The tag in a domain's document, under whatever prefix. `None`: there is none.
pub(super) fn of_document(domain: &Element) -> Option<Tag> {
    domain.find("metadata")?.inside().find_map(parse)
}

fn parse(element: &Element) -> Option<Tag> {
    let is_of = |role: &DomainRole| element_name(*role).strip_prefix("casc:") == Some(element.local_name());
    let role = [DomainRole::Machine, DomainRole::Canary].into_iter().find(is_of)?;
    let is_ours = element.namespaces().any(|namespace| namespace == NAMESPACE);
    let get = |name: &str| element.get(name).map(str::to_owned);
    if !is_ours || element.attributes_len() > LONGEST {
        return None;
    }
    let tag = OwnershipTag {
        cluster: get("cluster")?,
        namespace: get("namespace")?,
        name: get("name")?,
        uid: get("uid")?.parse::<Uuid>().ok()?,
        epoch: get("epoch")?.parse().ok()?,
        spec_hash: get("specHash")?,
    };
    Some((role, tag))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::network::words::words;
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

    fn read(tag: &str) -> Option<Tag> {
        of_document(&Element::parse(&["<domain><metadata>", tag, "</metadata></domain>"].concat())?)
    }

    proptest! {
        #[test]
        fn a_tag_is_read_back_as_it_was_written(tag in any_tag()) {
            for role in [DomainRole::Machine, DomainRole::Canary] {
                let xml = element(role, &tag).to_xml().unwrap();
                prop_assert_eq!(read(&xml), Some((role, tag.clone())));
                let other = xml.replace("casc:", "other:").replace("xmlns:casc", "xmlns:other");
                prop_assert_eq!(read(&other), Some((role, tag.clone())));
            }
        }

        #[test]
        fn reading_never_panics(xml in "\\PC{0,80}", inside in "\\PC{0,80}") {
            let _ = read(&xml);
            let _ = read(&["<casc:machine xmlns:casc='", NAMESPACE, "' ", &inside, "/>"].concat());
        }
    }

    #[test]
    fn a_name_that_is_a_word_to_libvirt_is_a_name() {
        for word in words().into_values().flat_map(|reader| reader.words) {
            let uid = Uuid::from_u128(1);
            let [namespace, name] = [word.clone(), word.clone()];
            let tag = OwnershipTag { cluster: word, namespace, name, uid, epoch: 1, spec_hash: String::new() };
            let xml = element(DomainRole::Machine, &tag).to_xml().unwrap();
            assert_eq!(read(&xml), Some((DomainRole::Machine, tag)));
        }
    }

    #[test]
    fn what_lacks_a_field_or_is_another_programs_is_no_tag() {
        for xml in ["", "<machine/>", "<other cluster='a'/>", "<a><machine/></a>", "<machine uid='x' epoch='1'/>"] {
            assert_eq!(read(xml), None, "{xml}");
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
        let read = |cluster| parse(&element(DomainRole::Machine, &tag(cluster)));
        assert!(read("c".repeat(1000)).is_some());
        assert!(read("c".repeat(4 << 20)).is_none());
    }

    #[test]
    fn a_tag_of_another_program_is_no_tag() {
        let tag = "<x:machine xmlns:x='https://example.org' cluster='a' namespace='b' name='c' \
                   uid='00000000-0000-0000-0000-000000000001' epoch='1' specHash='d'/>";
        assert_eq!(read(tag), None);
        assert!(read(&tag.replace("https://example.org", NAMESPACE)).is_some());
    }
}
