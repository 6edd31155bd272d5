//! XML documents as data, written in one place by an XML writer and read by a parser. Nothing in Cascina makes XML with
//! `format!`.

mod reader;

use std::borrow::Cow;
use std::fmt::Display;
use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

/// An element with its attributes, its text and its children, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    name: Cow<'static, str>,
    attributes: Vec<(Cow<'static, str>, String)>,
    text: Option<String>,
    children: Vec<Element>,
}

/// Text that must not stand in a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text in <{element}> has a character that XML can't carry or that is a control character")]
pub struct BadText {
    /// The element in which the text stands.
    pub element: String,
}

impl Element {
    /// An element without anything in it.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), attributes: Vec::new(), text: None, children: Vec::new() }
    }

    /// With a further attribute.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<Cow<'static, str>>, value: impl Display) -> Self {
        self.attributes.push((name.into(), value.to_string()));
        self
    }

    /// With this text.
    #[must_use]
    pub fn text(mut self, text: impl Display) -> Self {
        self.text = Some(text.to_string());
        self
    }

    /// With a further child.
    #[must_use]
    pub fn child(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }

    /// With these further children.
    #[must_use]
    pub fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.children.extend(children);
        self
    }

    /// The document.
    ///
    /// # Errors
    /// Control characters and what XML 1.0 has no way to write are refused: a parser would change or reject them.
    pub fn to_xml(&self) -> Result<String, BadText> {
        self.check()?;
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        // Writing to memory can't fail, and what was written came from `str`.
        let written = self.write(&mut writer).map(|()| writer.into_inner()).unwrap_or_default();
        Ok(String::from_utf8_lossy(&written).into_owned())
    }

    fn check(&self) -> Result<(), BadText> {
        let mut texts = self.attributes.iter().map(|(_, value)| value).chain(&self.text);
        if texts.any(|text| text.contains(is_forbidden)) {
            return Err(BadText { element: self.name.clone().into_owned() });
        }
        self.children.iter().try_for_each(Element::check)
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
        let attributes = self.attributes.iter().map(|(name, value)| (name.as_ref(), value.as_str()));
        let start = BytesStart::new(self.name.as_ref()).with_attributes(attributes);
        if self.text.is_none() && self.children.is_empty() {
            return writer.write_event(Event::Empty(start));
        }
        writer.write_event(Event::Start(start))?;
        if let Some(text) = &self.text {
            writer.write_event(Event::Text(BytesText::new(text)))?;
        }
        for child in &self.children {
            child.write(writer)?;
        }
        writer.write_event(Event::End(BytesEnd::new(self.name.as_ref())))
    }
}

#[cfg(any(test, fuzzing))]
impl Element {
    /// The names of the elements and attributes, without what they hold.
    pub(crate) fn shape(&self) -> Element {
        let mut shape = Element::new(self.name.clone());
        shape.attributes = self.attributes.iter().map(|(name, _)| (name.clone(), String::new())).collect();
        shape.children = self.children.iter().map(Element::shape).collect();
        shape
    }
}

fn is_forbidden(character: char) -> bool {
    character.is_control() || matches!(character, '\u{FFFE}' | '\u{FFFF}')
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::text::printable;
    use proptest::prelude::*;

    /// Reads a document back.
    pub(crate) fn parse(xml: &str) -> Element {
        Element::parse(xml).unwrap()
    }

    #[test]
    fn control_characters_are_refused_wherever_they_stand() {
        for text in ["a\0b", "a\nb", "\u{7f}", "\u{ffff}", "\u{85}"] {
            let inside = Element::new("a").child(Element::new("b").text(text));
            assert_eq!(inside.to_xml(), Err(BadText { element: "b".to_owned() }), "{text:?}");
            assert!(Element::new("a").attribute("b", text).to_xml().is_err(), "{text:?}");
            assert!(Element::new("a").text(printable(text, 9)).to_xml().is_ok(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_stays_text(value in "\\PC{0,40}", text in "\\PC{1,40}") {
            let (value, text) = (printable(&value, 200), printable(&text, 200));
            let element = Element::new("a").attribute("b", value).child(Element::new("c").text(text));
            prop_assert_eq!(parse(&element.to_xml().unwrap()), element);
        }
    }
}
