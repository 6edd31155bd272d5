//! Documents of others as [`Element`]s. What they hold is theirs to choose: nothing in it makes reading panic or run deep.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::Element;

/// Documents of libvirt are a dozen levels deep.
const DEEPEST: usize = 64;

/// A longer document is none of a domain or a host, in bytes.
const LONGEST: usize = 1 << 20;

impl Element {
    /// Reads a document; whitespace between elements is dropped. `None`: it is none, or is long or nested beyond reason.
    #[must_use]
    pub fn parse(xml: &str) -> Option<Self> {
        if xml.len() > LONGEST {
            return None;
        }
        let mut reader = Reader::from_str(xml);
        let mut open = vec![Self::new("document")];
        loop {
            match reader.read_event().ok()? {
                Event::Start(_) if open.len() > DEEPEST => return None,
                Event::Start(start) => open.push(opened(&start)?),
                Event::Empty(start) => open.last_mut()?.children.push(opened(&start)?),
                Event::Text(text) => open.last_mut()?.add_text(&text.xml10_content()),
                Event::CData(text) => open.last_mut()?.add_text(&text.xml10_content()),
                Event::GeneralRef(reference) => {
                    let text = match reference.resolve_char_ref().ok()? {
                        Some(character) => character.to_string(),
                        None => quick_xml::escape::resolve_predefined_entity(&reference.xml10_content())?.to_owned(),
                    };
                    open.last_mut()?.add_text(&text);
                }
                Event::End(_) => {
                    let mut closed = open.pop()?;
                    if !closed.children.is_empty() {
                        closed.text = closed.text.filter(|text| !text.trim().is_empty());
                    }
                    open.last_mut()?.children.push(closed);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let document = open.pop().filter(|_| open.is_empty())?;
        let mut roots = document.children.into_iter();
        roots.next().filter(|_| roots.next().is_none())
    }

    /// Its name, without the prefix of a namespace.
    #[must_use]
    pub fn local_name(&self) -> &str {
        self.name.rsplit(':').next().unwrap_or_default()
    }

    /// The namespaces that it declares.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        let declarations = self.attributes.iter().filter(|(name, _)| name == "xmlns" || name.starts_with("xmlns:"));
        declarations.map(|(_, value)| value.as_str())
    }

    /// The elements in it.
    pub fn inside(&self) -> impl Iterator<Item = &Self> {
        self.children.iter()
    }

    /// The elements of this name in it.
    pub fn every<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first element at this path below it, `devices/disk`.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&Self> {
        path.split('/').try_fold(self, |element, name| element.children.iter().find(|child| child.name == name))
    }

    /// The length of the values of all its attributes, in bytes.
    #[must_use]
    pub fn attributes_len(&self) -> usize {
        self.attributes.iter().map(|(_, value)| value.len()).sum()
    }

    /// The value of an attribute.
    #[must_use]
    pub fn get(&self, attribute: &str) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| name == attribute).map(|(_, value)| value.as_str())
    }

    /// The text in it.
    #[must_use]
    pub fn content(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }

    /// The value of an attribute of the first element at this path below it.
    #[must_use]
    pub fn get_at(&self, path: &str, attribute: &str) -> Option<&str> {
        self.find(path)?.get(attribute)
    }

    /// With this child in place of those of its name.
    #[must_use]
    pub fn replacing(mut self, child: Self) -> Self {
        self.children.retain(|old| old.name != child.name);
        self.child(child)
    }

    fn add_text(&mut self, text: &str) {
        self.text.get_or_insert_default().push_str(text);
    }
}

fn opened(start: &BytesStart<'_>) -> Option<Element> {
    let mut element = Element::new(start.name().as_ref().to_owned());
    for attribute in start.attributes() {
        let attribute = attribute.ok()?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?;
        element = element.attribute(attribute.key.as_ref().to_owned(), value);
    }
    Some(element)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_document_is_nothing() {
        for xml in ["", "text", "<a>", "<a/><b/>", "<a b='1' b='2'/>", "<a>&unknown;</a>", "</a>"] {
            assert_eq!(Element::parse(xml), None, "{xml}");
        }
        assert!(
            Element::parse(&["<a>".repeat(1_000), "</a>".repeat(1_000)].concat()).is_none(),
            "nested beyond reason"
        );
    }

    #[test]
    fn what_is_longer_than_any_definition_is_nothing() {
        assert!(Element::parse(&["<a>", &"x".repeat(LONGEST), "</a>"].concat()).is_none());
    }

    #[test]
    fn elements_are_found_by_path_and_replaced_by_name() {
        let read = Element::parse("<a><b c='1'>x<d/></b><b/></a>").unwrap();
        assert_eq!(read.get_at("b", "c"), Some("1"));
        assert_eq!(read.find("b").unwrap().content(), "x");
        assert_eq!(read.every("b").count(), 2);
        assert_eq!(read.replacing(Element::new("b")).every("b").count(), 1);
    }

    proptest! {
        #[test]
        fn reading_never_panics(xml in "\\PC{0,80}", inside in "\\PC{0,80}") {
            let _ = Element::parse(&xml);
            let _ = Element::parse(&["<a b='", &inside, "'>", &xml, "</a>"].concat());
        }
    }
}
