//! What of a domain's document is held against what the domain was made from: what makes it this machine, behind these
//! filters, on these disks. What libvirt adds by itself is left out.

use std::collections::{BTreeMap, BTreeSet};

use super::domain_xml::{self, Paths};
use super::spec::{DomainSpec, Nic};
use crate::text::printable;
use crate::xml::Element;

/// The longest text that is taken from a document: the host may say anything, and some of it is shown to people.
const LONGEST_TEXT: usize = 200;

/// A command line is compared, and not shown.
const LONGEST_COMMAND_LINE: usize = 4096;

/// More disks, cards or parameters than this say nothing more.
const MOST: usize = 32;

/// Ways into the host that no machine has.
const STRANGE_DEVICES: [&str; 7] = ["hostdev", "filesystem", "shmem", "redirdev", "vsock", "tpm", "smartcard"];

/// What a domain consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainForm {
    /// Virtual CPUs.
    pub cpus: u64,
    /// Memory in MiB, rounded up as libvirt does.
    pub mebibytes: u64,
    /// The kernel, the initramfs and the command line, where it is booted with them.
    pub kernel: Vec<String>,
    /// Disks: the device in the guest and the name of the volume.
    pub disks: BTreeMap<String, String>,
    /// Network cards.
    pub nics: Vec<NicForm>,
    /// Devices that no machine has.
    pub strange: BTreeSet<String>,
    /// Whether it has a watchdog that switches it off.
    pub watchdog: bool,
}

/// What a network card consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicForm {
    /// Its MAC address.
    pub mac: String,
    /// The bridge that it is at.
    pub bridge: Option<String>,
    /// The filter that it is behind.
    pub filter: Option<String>,
    /// The filter's parameters, some of which may be given more than once.
    pub parameters: BTreeSet<(String, String)>,
    /// Whether its cable is pulled.
    pub is_cut: bool,
}

/// How a domain is now, and how it is after its next start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// As it runs; absent: it is off.
    pub running: Option<DomainForm>,
    /// As it is defined; absent: its definition is gone, and it is with it once it is off.
    pub defined: Option<DomainForm>,
}

impl DomainForm {
    /// The form of a domain that is made from this.
    #[must_use]
    pub fn of(spec: &DomainSpec) -> Self {
        let paths: Paths =
            domain_xml::volumes(spec).into_iter().map(|name| (name.to_owned(), name.to_owned())).collect();
        // Every volume has a path here, so there is a document.
        domain_xml::document(spec, &paths).map(|document| Self::read(&document)).unwrap_or_default()
    }

    /// The form of a domain with this document.
    pub(super) fn read(domain: &Element) -> Self {
        let cpus = domain.get_at("vcpu", "current").or_else(|| Some(domain.find("vcpu")?.content()));
        let memory = domain.find("memory").map(Element::content).unwrap_or_default();
        let kernel = ["os/kernel", "os/initrd"].map(|path| domain.find(path).map(|file| file_name(file.content())));
        let cmdline = domain.find("os/cmdline").map(|line| printable(line.content(), LONGEST_COMMAND_LINE));
        let devices: Vec<_> = domain.find("devices").into_iter().flat_map(Element::inside).collect();
        let of_kind =
            |kind: &'static str| devices.iter().copied().filter(move |device| device.local_name() == kind).take(MOST);
        let strange = STRANGE_DEVICES.into_iter().filter(|kind| of_kind(kind).next().is_some());
        Self {
            cpus: cpus.and_then(|text| text.trim().parse().ok()).unwrap_or_default(),
            mebibytes: memory.trim().parse::<u64>().unwrap_or_default().div_ceil(1024),
            kernel: kernel.into_iter().chain([cmdline.filter(|line| !line.is_empty())]).flatten().collect(),
            disks: of_kind("disk").map(disk).collect(),
            nics: of_kind("interface").map(NicForm::read).collect(),
            strange: strange.map(str::to_owned).collect(),
            watchdog: of_kind("watchdog").any(|watchdog| watchdog.get("action") == Some("poweroff")),
        }
    }
}

impl NicForm {
    /// The form of a card that is made from this.
    #[must_use]
    pub fn of(nic: &Nic) -> Self {
        Self::read(&domain_xml::interface(nic))
    }

    pub(super) fn read(interface: &Element) -> Self {
        let parameters = interface.find("filterref").into_iter().flat_map(|filter| filter.every("parameter"));
        let text = |path, attribute| interface.get_at(path, attribute).map(|text| printable(text, LONGEST_TEXT));
        Self {
            mac: text("mac", "address").unwrap_or_default().to_lowercase(),
            bridge: text("source", "bridge"),
            filter: text("filterref", "filter"),
            parameters: parameters
                .take(MOST)
                .filter_map(|parameter| {
                    let text = |attribute| Some(printable(parameter.get(attribute)?, LONGEST_TEXT));
                    Some((text("name")?, text("value")?))
                })
                .collect(),
            is_cut: interface.get_at("link", "state") == Some("down"),
        }
    }
}

/// The device in the guest, and the volume: the last part of its path, since pools lie anywhere.
fn disk(disk: &Element) -> (String, String) {
    let source = disk.find("source");
    let place =
        source.and_then(|source| source.get("file").or_else(|| source.get("dev")).or_else(|| source.get("volume")));
    (printable(disk.get_at("target", "dev").unwrap_or_default(), LONGEST_TEXT), file_name(place.unwrap_or_default()))
}

fn file_name(path: &str) -> String {
    printable(path.rsplit('/').next().unwrap_or_default(), LONGEST_TEXT)
}
