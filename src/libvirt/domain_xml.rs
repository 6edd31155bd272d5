//! A domain as libvirt takes it.
//!
//! This is the security boundary towards the host: whoever chooses a path here reads that file. Paths come from libvirt
//! (it knows where a volume lies), names and user text go through [`Element`], which escapes them.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::spec::{ConsoleLog, DomainRole, DomainSpec, DomainUuid, Firmware, Kernel, Nic};
use super::tag::{self, DOMAIN_PREFIX};
use crate::api::{Bandwidth, Bytes, DiskFormat, Virtualization};
use crate::text::printable;
use crate::xml::Element;

/// Where the volumes of the pool lie, by name, as libvirt told it.
pub(super) type Paths = BTreeMap<String, String>;

/// A title is a namespace and a name, 63 and 253 bytes at most.
const LONGEST_TITLE: usize = 320;

/// The disk that is a machine's seed, as its guest sees it.
pub const SEED_DEVICE: &str = "vdc";

/// Of the CPU, beside at least 100 of everybody else: the least that old and new control groups both know.
const LOWEST_SHARE: u32 = 2;

/// Seconds between two readings of a guest's memory use.
const BALLOON_PERIOD: u32 = 10;

/// A volume that isn't in the pool.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("volume {0} isn't in the pool")]
pub(super) struct NoSuchVolume(pub(super) String);

/// The name of a domain.
#[must_use]
pub fn name(uuid: DomainUuid) -> String {
    [DOMAIN_PREFIX, &uuid.to_string()].concat()
}

/// Whether a domain is called as ours are.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.starts_with(DOMAIN_PREFIX)
}

/// The name of a NIC's device on the host: follows from its address, so that measurements can be told apart. libvirt
/// would take a name that starts with `vnet` for its own.
pub(super) fn device(nic: &Nic) -> String {
    format!("c{:08x}", u32::from(nic.hold.address()))
}

/// The volumes that a domain uses.
pub(super) fn volumes(spec: &DomainSpec) -> Vec<&str> {
    let mut volumes = Vec::new();
    if let Some(root) = &spec.root {
        volumes.extend([root.volume.as_str(), root.base.as_str()]);
    }
    volumes.extend(spec.data.iter().map(|data| data.volume.as_str()));
    volumes.extend(spec.seed.as_deref());
    if let Firmware::Kernel(kernel) = &spec.firmware {
        volumes.push(&kernel.kernel);
        volumes.extend(kernel.initrd.as_deref());
    }
    volumes
}

/// The domain.
pub(super) fn document(spec: &DomainSpec, paths: &Paths) -> Result<Element, NoSuchVolume> {
    let (kind, cpu) = match spec.virtualization {
        Virtualization::Kvm => ("kvm", Element::new("cpu").attribute("mode", "host-model")),
        Virtualization::Emulated => ("qemu", Element::new("cpu").attribute("mode", "maximum")),
    };
    Ok(Element::new("domain")
        .attribute("type", kind)
        .child(leaf("name", name(spec.uuid)))
        .child(leaf("uuid", spec.uuid))
        .child(leaf("title", printable(&spec.title, LONGEST_TITLE)))
        .child(Element::new("metadata").child(tag::element(spec.role, &spec.tag)))
        .child(leaf("memory", spec.memory.kibibytes()).attribute("unit", "KiB"))
        .child(Element::new("memoryBacking").child(Element::new("nosharepages")))
        .child(leaf("vcpu", spec.cpus.max(1)).attribute("placement", "static"))
        .children(cpu_share(spec))
        .child(boot(&spec.firmware, paths)?)
        .child(Element::new("features").children([Element::new("acpi"), Element::new("apic")]))
        .child(cpu)
        .child(Element::new("clock").attribute("offset", "utc"))
        .child(leaf("on_poweroff", "destroy"))
        .child(leaf("on_reboot", "restart"))
        .child(leaf("on_crash", "destroy"))
        .child(devices(spec, paths)?))
}

/// A canary gives way to every machine. In a laboratory that emulates there are mostly no control groups, without which
/// libvirt refuses shares.
fn cpu_share(spec: &DomainSpec) -> Option<Element> {
    let gives_way = spec.role == DomainRole::Canary && spec.virtualization == Virtualization::Kvm;
    gives_way.then(|| Element::new("cputune").child(leaf("shares", LOWEST_SHARE)))
}

fn leaf(name: &'static str, text: impl Display) -> Element {
    Element::new(name).text(text)
}

fn typed(name: &'static str, kind: &str) -> Element {
    Element::new(name).attribute("type", kind)
}

fn path<'a>(volume: &str, paths: &'a Paths) -> Result<&'a str, NoSuchVolume> {
    paths.get(volume).map(String::as_str).ok_or_else(|| NoSuchVolume(volume.to_owned()))
}

fn boot(firmware: &Firmware, paths: &Paths) -> Result<Element, NoSuchVolume> {
    let machine = leaf("type", "hvm").attribute("arch", "x86_64").attribute("machine", "q35");
    let os = Element::new("os").child(machine);
    let Firmware::Kernel(Kernel { kernel, initrd, cmdline }) = firmware else { return Ok(os) };
    let os = os.child(leaf("kernel", path(kernel, paths)?));
    let os = match initrd {
        Some(initrd) => os.child(leaf("initrd", path(initrd, paths)?)),
        None => os,
    };
    Ok(os.child(leaf("cmdline", cmdline)))
}

fn devices(spec: &DomainSpec, paths: &Paths) -> Result<Element, NoSuchVolume> {
    let serial = match spec.console {
        ConsoleLog::Pty => typed("serial", "pty"),
    };
    let agent = Element::new("target").attribute("type", "virtio").attribute("name", "org.qemu.guest_agent.0");
    let random = leaf("backend", "/dev/urandom").attribute("model", "random");
    let memory_use = Element::new("stats").attribute("period", BALLOON_PERIOD);
    Ok(Element::new("devices")
        .children(disks(spec, paths)?)
        .children(spec.nics.iter().map(interface))
        .child(typed("controller", "usb").attribute("model", "none"))
        .child(serial)
        .child(typed("channel", "unix").child(agent))
        .child(Element::new("rng").attribute("model", "virtio").child(random))
        .child(Element::new("memballoon").attribute("model", "virtio").child(memory_use))
        .child(Element::new("panic").attribute("model", "isa"))
        .children(spec.watchdog.then(watchdog)))
}

/// It does nothing before the guest opens it. What follows is what follows a crash.
fn watchdog() -> Element {
    Element::new("watchdog").attribute("model", "i6300esb").attribute("action", "poweroff")
}

/// A disk: what it is on the host, and what the guest sees.
struct Disk<'a> {
    volume: &'a str,
    format: &'a str,
    base: Option<(&'a str, DiskFormat)>,
    cache: &'a str,
    target: &'a str,
    serial: &'a str,
}

fn disks(spec: &DomainSpec, paths: &Paths) -> Result<Vec<Element>, NoSuchVolume> {
    let cache = |local| if spec.shared_storage { "none" } else { local };
    let mut disks = Vec::new();
    if let Some(root) = &spec.root {
        let base = Some((root.base.as_str(), root.base_format));
        let cache = cache("writethrough");
        let disk = Disk { volume: &root.volume, format: "qcow2", base, cache, target: "vda", serial: "root" };
        disks.push(disk.element(paths)?.child(Element::new("boot").attribute("order", 1)));
    }
    if let Some(data) = &spec.data {
        let cache = cache("writeback");
        let disk = Disk { volume: &data.volume, format: "qcow2", base: None, cache, target: "vdb", serial: "data" };
        disks.push(disk.element(paths)?);
    }
    if let Some(volume) = &spec.seed {
        let cache = cache("writeback");
        let disk = Disk { volume, format: "raw", base: None, cache, target: SEED_DEVICE, serial: "seed" };
        disks.push(disk.element(paths)?.child(Element::new("readonly")));
    }
    Ok(disks)
}

impl Disk<'_> {
    /// The chain behind the disk is complete and ends with an empty `<backingStore/>`: nothing is probed on the host.
    fn element(&self, paths: &Paths) -> Result<Element, NoSuchVolume> {
        let driver = Element::new("driver")
            .attribute("name", "qemu")
            .attribute("type", self.format)
            .attribute("cache", self.cache)
            .attribute("error_policy", "stop");
        let end = Element::new("backingStore");
        let behind = match self.base {
            Some((base, format)) => typed("backingStore", "file")
                .child(typed("format", format_name(format)))
                .child(Element::new("source").attribute("file", path(base, paths)?))
                .child(end),
            None => end,
        };
        Ok(typed("disk", "file")
            .attribute("device", "disk")
            .child(driver)
            .child(Element::new("source").attribute("file", path(self.volume, paths)?))
            .child(behind)
            .child(Element::new("target").attribute("dev", self.target).attribute("bus", "virtio"))
            .child(leaf("serial", self.serial)))
    }
}

/// libvirt's name of a disk format.
pub(super) const fn format_name(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Raw => "raw",
    }
}

/// A network card.
pub(super) fn interface(nic: &Nic) -> Element {
    let parameters = nic.hold.parameters().into_iter();
    let parameters =
        parameters.map(|(name, value)| Element::new("parameter").attribute("name", name).attribute("value", value));
    let filter = Element::new("filterref").attribute("filter", nic.hold.rules().filter_name()).children(parameters);
    typed("interface", "bridge")
        .child(Element::new("mac").attribute("address", nic.mac))
        .child(Element::new("source").attribute("bridge", &nic.bridge))
        .child(Element::new("target").attribute("dev", device(nic)))
        .child(typed("model", "virtio"))
        .child(filter)
        .children(nic.bandwidth.as_ref().map(bandwidth))
}

/// What passes at once, at least: the largest packet that a guest hands over.
const LEAST_BURST: Bytes = Bytes::new(64 << 10);

/// The limits of a card, in libvirt's units: thousands of bytes a second, and bursts of kibibytes. A burst is always
/// given: libvirt's own is what passes in a second.
fn bandwidth(limits: &Bandwidth) -> Element {
    let limit = |direction, rate: Option<Bytes>| {
        let rate = rate?;
        let burst = limits.burst.unwrap_or(Bytes::new(rate.get() / 10)).max(LEAST_BURST);
        let average = rate.get().div_ceil(1000);
        Some(Element::new(direction).attribute("average", average).attribute("burst", burst.kibibytes()))
    };
    let directions = [limit("inbound", limits.inbound), limit("outbound", limits.outbound)];
    Element::new("bandwidth").children(directions.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::super::samples::{paths, spec, with_kernel};
    use super::super::tag::tests::any_tag;
    use super::*;
    use crate::network::Hold;
    use crate::xml::tests::parse;
    use proptest::prelude::*;
    use virt::connect::Connect;

    fn xml(spec: &DomainSpec) -> String {
        document(spec, &paths(spec)).unwrap().to_xml().unwrap()
    }

    #[test]
    fn a_worker() {
        insta::assert_snapshot!(xml(&spec()));
    }

    #[test]
    fn a_router_on_shared_storage() {
        let mut router = DomainSpec { virtualization: Virtualization::Kvm, shared_storage: true, ..with_kernel() };
        router.nics[0].hold = Hold::Router("172.16.1.1".parse().unwrap());
        insta::assert_snapshot!(xml(&router));
    }

    #[test]
    fn a_canary_is_told_from_machines_and_gives_way_to_them() {
        let canary = DomainSpec { role: DomainRole::Canary, ..with_kernel() };
        let read = parse(&xml(&canary));
        assert!(read.find("metadata/casc:machine").is_none());
        assert_eq!(read.find("metadata/casc:canary").unwrap().get("uid"), Some(canary.tag.uid.to_string().as_str()));
        assert!(read.find("cputune").is_none(), "an emulated host may have no control groups");
        let read = parse(&xml(&DomainSpec { virtualization: Virtualization::Kvm, ..canary }));
        assert_eq!(read.find("cputune/shares").unwrap().content(), "2");
    }

    #[test]
    fn a_watchdog_is_there_when_asked_for_and_asks_no_router_for_a_restart() {
        let action = |spec: &DomainSpec| {
            parse(&xml(spec)).find("devices/watchdog").and_then(|watchdog| Some(watchdog.get("action")?.to_owned()))
        };
        let watched = DomainSpec { watchdog: true, ..spec() };
        assert_eq!((action(&spec()), action(&watched)), (None, Some("poweroff".to_owned())));
        assert_ne!(watched.content_hash(), spec().content_hash());
        let mut router = with_kernel();
        router.nics[0].hold = Hold::Router("172.16.1.1".parse().unwrap());
        let watched = DomainSpec { watchdog: true, ..router.clone() };
        assert_eq!(watched.content_hash(), router.content_hash());
    }

    #[test]
    fn shared_storage_is_not_cached() {
        let shared = xml(&DomainSpec { shared_storage: true, ..spec() });
        assert_eq!(shared.matches("cache=\"none\"").count(), 3);
    }

    #[test]
    fn limits_are_in_libvirts_units() {
        let limits = |outbound, inbound, burst| {
            let some = |bytes| (bytes > 0).then_some(Bytes::new(bytes));
            let bandwidth = Bandwidth { outbound: some(outbound), inbound: some(inbound), burst: some(burst) };
            let nic = Nic { bandwidth: Some(bandwidth), ..spec().nics[0].clone() };
            let limits = parse(&interface(&nic).to_xml().unwrap());
            let limit = |path: &str, name| limits.find(path).and_then(|limit| Some(limit.get(name)?.to_owned()));
            ["bandwidth/outbound", "bandwidth/inbound"].map(|path| {
                limit(path, "average").zip(limit(path, "burst")).map(|(rate, burst)| format!("{rate} {burst}"))
            })
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(limits(125_000_000, 0, 0), [some("125000 12208"), None]);
        assert_eq!(limits(10_000, 12_500, 1 << 20), [some("10 1024"), some("13 1024")]);
        assert_eq!(limits(10_000, 0, 0), [some("10 64"), None], "a large packet passes");
        assert_eq!(limits(10_000, 0, 1), [some("10 64"), None]);
    }

    #[test]
    fn a_missing_volume_is_named() {
        for name in ["root", "base", "data", "seed"] {
            let mut paths = paths(&spec());
            paths.remove(name);
            assert_eq!(document(&spec(), &paths), Err(NoSuchVolume(name.to_owned())));
        }
    }

    #[test]
    fn a_device_name_fits_and_is_not_libvirts() {
        let device = device(&spec().nics[0]);
        assert_eq!(device, "cac10010a");
        assert!(device.len() <= 15);
    }

    #[test]
    fn control_characters_in_a_command_line_are_refused() {
        let mut spec = with_kernel();
        if let Firmware::Kernel(kernel) = &mut spec.firmware {
            kernel.cmdline = "quiet\ninit=/bin/sh".to_owned();
        }
        assert!(document(&spec, &paths(&spec)).unwrap().to_xml().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The reader that counts is libvirt's, and what it hands back.
        #[test]
        fn libvirt_reads_what_was_written(tag in any_tag(), title in "\\PC{1,60}|[<>&'\"\\]\\[!-]{1,20}") {
            super::super::link::initialise().unwrap();
            let connection = Connect::open(Some("test:///default")).unwrap();
            let title = printable(&title, LONGEST_TITLE);
            let written = Element::new("domain")
                .attribute("type", "test")
                .child(leaf("name", "fuzzed"))
                .child(leaf("title", &title))
                .child(Element::new("metadata").child(tag::element(DomainRole::Machine, &tag)))
                .child(leaf("memory", 1024))
                .child(Element::new("os").child(leaf("type", "hvm")));
            let domain = connection.define_domain_xml(&written.to_xml().unwrap()).unwrap();
            let read = parse(&domain.xml_desc(0).unwrap());
            let back = tag::of_document(&read);
            domain.undefine().unwrap();
            prop_assert_eq!(read.find("title").unwrap().content(), title);
            prop_assert_eq!(back, Some((DomainRole::Machine, tag)));
        }
    }

    proptest! {
        #[test]
        fn whatever_people_write_stays_text(tag in any_tag(), title in "\\PC{1,60}", cmdline in "\\PC{1,60}") {
            let plain = with_kernel();
            let mut hostile = DomainSpec { title: title.clone(), tag: tag.clone(), ..plain.clone() };
            let cmdline = printable(&cmdline, 300);
            if let Firmware::Kernel(kernel) = &mut hostile.firmware {
                kernel.cmdline.clone_from(&cmdline);
            }
            let read = parse(&xml(&hostile));
            prop_assert_eq!(read.shape(), parse(&xml(&plain)).shape());
            prop_assert_eq!(read.find("title").unwrap().content(), printable(&title, LONGEST_TITLE));
            prop_assert_eq!(read.find("os/cmdline").unwrap().content(), cmdline);
            let machine = read.find("metadata/casc:machine").unwrap();
            prop_assert_eq!(machine.get("namespace"), Some(tag.namespace.as_str()));
            prop_assert_eq!(machine.get("name"), Some(tag.name.as_str()));
        }
    }
}
