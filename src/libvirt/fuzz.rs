//! Whatever people write, it is text in what is sent to hosts. Whatever hosts and guests answer, it is read or it isn't.

use super::domain_xml::document;
use super::form::DomainForm;
use super::samples::{paths, with_kernel};
use super::spec::{DomainRole, DomainSpec, Firmware, OwnershipTag};
use super::{agent, tag, volumes};
use crate::api::{Bytes, DiskFormat};
use crate::fuzz::texts;
use crate::text::is_hidden;
use crate::xml::Element;

/// Title, tag, command line, bridge and paths of a domain: it is refused, or it has the elements and attributes of any
/// other domain, and these texts in their places.
pub(crate) fn domain(data: &[u8]) {
    let all: Vec<_> = texts(data).map(|text| text.into_owned()).collect();
    let text = |index: usize| all.get(index).cloned().unwrap_or_default();
    let plain = with_kernel();
    let mut hostile = DomainSpec { title: text(0), ..plain.clone() };
    (hostile.tag.namespace, hostile.tag.name) = (text(1), text(2));
    (hostile.tag.cluster, hostile.tag.spec_hash) = (text(3), text(4));
    hostile.nics[0].bridge = text(5);
    if let Firmware::Kernel(kernel) = &mut hostile.firmware {
        kernel.cmdline = text(6);
    }
    let mut places = paths(&hostile);
    places.insert("vmlinuz".to_owned(), text(7));
    let Ok(written) = document(&hostile, &places).unwrap().to_xml() else {
        assert!(all.iter().any(|text| text.contains(is_hidden)), "refused without a reason: {all:?}");
        return;
    };
    assert!(all.iter().skip(1).take(7).all(|text| !text.contains(char::is_control)), "control characters: {written:?}");
    let read = parse(&written);
    let usual = parse(&document(&plain, &paths(&plain)).unwrap().to_xml().unwrap());
    assert_eq!(read.shape(), usual.shape());
    let machine = read.find("metadata/casc:machine").unwrap();
    assert_eq!(machine.get("namespace"), Some(text(1).as_str()));
    assert_eq!(machine.get("name"), Some(text(2).as_str()));
    assert_eq!(machine.get("cluster"), Some(text(3).as_str()));
    assert_eq!(read.find("devices/interface/source").unwrap().get("bridge"), Some(text(5).as_str()));
    assert_eq!(read.find("os/cmdline").unwrap().content(), text(6));
    assert_eq!(read.find("os/kernel").unwrap().content(), text(7));
    volume(&text(7), &text(5));
}

/// A volume's name and the path of its base.
fn volume(name: &str, path: &str) {
    let document = |name, path| volumes::qcow2(name, Bytes::gibi(1), Some((path, DiskFormat::Raw))).to_xml();
    let Ok(written) = document(name, path) else { return };
    let read: Element = parse(&written);
    assert_eq!(read.shape(), parse(&document("name", "/path").unwrap()).shape());
    assert_eq!(read.find("name").unwrap().content(), name);
    assert_eq!(read.find("backingStore/path").unwrap().content(), path);
}

/// What a host tells of a domain: its form, bounded and fit to be shown, and its tag, which says the same when it is
/// written and read again.
pub(crate) fn host_answers(data: &[u8]) {
    let Some(domain) = Element::parse(&String::from_utf8_lossy(data)) else { return };
    let form = DomainForm::read(&domain);
    assert!(form.disks.len() <= 32 && form.nics.len() <= 32 && form.kernel.len() <= 3);
    let shown = form.kernel.iter().chain(form.disks.keys()).chain(form.disks.values());
    let shown =
        shown.chain(form.nics.iter().flat_map(|nic| nic.parameters.iter().map(|(_, value)| value).chain(&nic.filter)));
    for text in shown {
        assert!(text.len() <= 4096 && !text.contains(is_hidden), "{text:?}");
    }
    let Some((role, read)) = tag::of_document(&domain) else { return };
    // One with control characters in it is none of ours, and is never written back.
    if let Ok(written) = metadata(role, &read).to_xml() {
        let again = Element::parse(&written).and_then(|domain| tag::of_document(&domain));
        assert_eq!(again, Some((role, read)));
    }
}

fn metadata(role: DomainRole, tag: &OwnershipTag) -> Element {
    Element::new("domain").child(Element::new("metadata").child(tag::element(role, tag)))
}

fn parse(document: &str) -> Element {
    Element::parse(document).unwrap()
}

/// What a guest's agent answers.
pub(crate) fn agent_answers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = agent::is_pong(&text);
    let _ = agent::process(&text);
    if let Ok(agent::Standing::Ended(output)) = agent::standing(&text) {
        assert!(output.output.len() + output.errors.len() <= text.len());
    }
    // The same as what a command wrote, which is where most of the length is.
    let _ = agent::standing(&[r#"{"return":{"exited":true,"out-data":""#, &text, r#""}}"#].concat());
}
