//! How the flavour that a machine names differs from the one that it has. Pure.

use crate::api::{Bandwidth, Bytes, Flavour, PinnedFlavour, VirtualMachineStatus};
use crate::controllers::placement::standing::{pin_flavour, root_disk, with_disks_of};

/// What the spec asks for and only the next admission gives.
pub fn outdated(flavour: &Flavour, status: &VirtualMachineStatus) -> Option<String> {
    let pinned = status.flavour.as_ref()?;
    let now = with_disks_of(pin_flavour(flavour), pinned);
    (now != *pinned)
        .then(|| format!("flavour {} instead of {}; halt it and start it again", in_words(&now), in_words(pinned)))
}

/// What of the flavour no start gives: disks are made once, for the host that a machine has.
pub fn kept_disks(flavour: &Flavour, status: &VirtualMachineStatus) -> Option<String> {
    let pinned = status.flavour.as_ref().filter(|_| status.hypervisor.is_some())?;
    let now = pin_flavour(flavour);
    let disks = |flavour: &PinnedFlavour| {
        let image = status.image.as_ref().and_then(|image| image.disk.as_ref());
        let root = image.map(|image| format!("a root disk of {}", root_disk(flavour, image)));
        let data = flavour.data_disk.map(|size| format!("a data disk of {size}"));
        let disks: Vec<_> = root.into_iter().chain(data).collect();
        if disks.is_empty() { "none".to_owned() } else { disks.join(" and ") }
    };
    let (has, gives) = (disks(pinned), disks(&now));
    (has != gives).then(|| {
        let name = &now.name;
        format!("it keeps the disks that it has, {has}; what flavour {name} says, {gives}, is for new machines only")
    })
}

fn in_words(flavour: &PinnedFlavour) -> String {
    let limit = |what: &str, rate: Option<Bytes>| rate.map(|rate| format!(", {what} {rate}/s")).unwrap_or_default();
    let Bandwidth { outbound, inbound, burst } = flavour.bandwidth.unwrap_or_default();
    let burst = burst.map(|burst| format!(", burst {burst}")).unwrap_or_default();
    let limits = [limit("sends", outbound), limit("receives", inbound), burst].concat();
    format!("{} ({} CPUs, {}{limits})", flavour.name, flavour.cpus, flavour.memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DiskFormat, PinnedDisk};
    use crate::controllers::placement::testing::{flavour, machine, running_on};

    /// A machine of `m1.tiny`, which has an image with a disk of this size.
    fn made_with(root: Option<u32>, data: Option<u32>) -> VirtualMachineStatus {
        let mut status = running_on(machine("one", 0), "worker-1", 1, "512Mi").status.unwrap();
        let pinned = status.flavour.as_mut().unwrap();
        (pinned.root_disk, pinned.data_disk) = (root.map(Bytes::gibi), data.map(Bytes::gibi));
        let disk = PinnedDisk { volume: "img".into(), format: DiskFormat::Qcow2, virtual_size: Bytes::gibi(2) };
        status.image.as_mut().unwrap().disk = Some(disk);
        status
    }

    #[test]
    fn disks_that_no_start_changes_are_told() {
        let mut tiny = flavour("m1.tiny", 1, "512Mi");
        assert_eq!(kept_disks(&tiny, &made_with(Some(3), None)), None);
        tiny.spec.data_disk = Some(Bytes::gibi(50));
        let told = kept_disks(&tiny, &made_with(None, None)).unwrap();
        assert_eq!(
            told,
            "it keeps the disks that it has, a root disk of 2Gi; what flavour m1.tiny says, a root disk of 3Gi and a data \
             disk of 50Gi, is for new machines only"
        );
        assert_eq!(outdated(&tiny, &made_with(None, None)), None, "no restart brings it");
    }

    #[test]
    fn a_machine_without_a_host_or_a_disk_keeps_none() {
        let mut tiny = flavour("m1.tiny", 1, "512Mi");
        let mut without = made_with(Some(7), None);
        without.image.as_mut().unwrap().disk = None;
        assert_eq!(kept_disks(&tiny, &without), None, "the size of a root disk that there isn't says nothing");
        tiny.spec.data_disk = Some(Bytes::gibi(50));
        assert!(kept_disks(&tiny, &without).unwrap().starts_with("it keeps the disks that it has, none;"));
        without.hypervisor = None;
        assert_eq!(kept_disks(&tiny, &without), None);
    }

    #[test]
    fn cpus_memory_and_limits_of_another_flavour_come_with_the_next_start() {
        let mut large = flavour("m1.large", 6, "8Gi");
        large.spec.data_disk = Some(Bytes::gibi(50));
        large.spec.bandwidth = Some(Bandwidth { outbound: Some(Bytes::mebi(32)), inbound: None, burst: None });
        assert_eq!(
            outdated(&large, &made_with(Some(3), None)).unwrap(),
            "flavour m1.large (6 CPUs, 8Gi, sends 32Mi/s) instead of m1.tiny (1 CPUs, 512Mi); halt it and start it again"
        );
    }
}
