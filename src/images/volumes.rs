//! How an image's volumes are called on hosts: derived from the contents, never remembered. Pure.

use sha2::{Digest, Sha256};

use crate::api::{Bytes, DiskFormat, ImageSource, ImageSpec, PinnedDisk, PinnedImage, PinnedKernel};

use super::{BadChecksum, Checksum};

/// What a file of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A disk, which has to pass the gate.
    Disk(DiskFormat),
    /// A kernel or an initramfs: known by its checksum, and no disk in disguise.
    Blob,
}

/// A volume that hosts shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageVolume {
    /// Its name: `img-<16 digits>.qcow2`, `.raw`, `.kernel` or `.initrd`.
    pub name: String,
    /// Where its file comes from.
    pub source: ImageSource,
    /// The file's checksum.
    pub checksum: Checksum,
    /// What it is.
    pub kind: FileKind,
}

impl ImageVolume {
    fn new(source: &ImageSource, checksum: Checksum, kind: FileKind, ending: &str) -> Self {
        let name = format!("img-{}.{ending}", checksum.short());
        Self { name, source: source.clone(), checksum, kind }
    }

    /// The format that a host stores it in.
    #[must_use]
    pub const fn format(&self) -> DiskFormat {
        match self.kind {
            FileKind::Disk(format) => format,
            FileKind::Blob => DiskFormat::Raw,
        }
    }
}

/// All volumes of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageVolumes {
    /// Short name of these contents.
    pub revision: String,
    /// The disk.
    pub disk: Option<ImageVolume>,
    /// The kernel.
    pub kernel: Option<ImageVolume>,
    /// The initramfs.
    pub initrd: Option<ImageVolume>,
}

impl ImageVolumes {
    /// Those that there are.
    pub fn iter(&self) -> impl Iterator<Item = &ImageVolume> {
        self.disk.iter().chain(&self.kernel).chain(&self.initrd)
    }
}

/// The volumes of an image.
///
/// # Errors
/// When a checksum isn't one; the API server lets none through.
pub fn volumes_of(spec: &ImageSpec) -> Result<ImageVolumes, BadChecksum> {
    let disk = spec.disk.as_ref().map(|disk| {
        let kind = FileKind::Disk(disk.format);
        disk.checksum.parse().map(|checksum| ImageVolume::new(&disk.source, checksum, kind, disk.format.as_str()))
    });
    let blob = |file: &crate::api::VerifiedSource, ending| {
        file.checksum.parse().map(|checksum| ImageVolume::new(&file.source, checksum, FileKind::Blob, ending))
    };
    let kernel = spec.kernel.as_ref().map(|kernel| blob(&kernel.kernel, "kernel"));
    let initrd = spec.kernel.as_ref().and_then(|kernel| kernel.initrd.as_ref()).map(|initrd| blob(initrd, "initrd"));
    let cmdline = spec.kernel.as_ref().map(|kernel| kernel.cmdline.as_str());
    let mut volumes = ImageVolumes {
        revision: String::new(),
        disk: disk.transpose()?,
        kernel: kernel.transpose()?,
        initrd: initrd.transpose()?,
    };
    volumes.revision = revision(&volumes, cmdline);
    Ok(volumes)
}

/// Twelve digits over checksums, format and command line. Where it comes from doesn't count.
fn revision(volumes: &ImageVolumes, cmdline: Option<&str>) -> String {
    let mut hash = Sha256::new();
    for volume in [&volumes.disk, &volumes.kernel, &volumes.initrd] {
        match volume {
            Some(volume) => {
                hash.update([1]);
                hash.update(volume.checksum.bytes());
                hash.update([u8::from(volume.format() == DiskFormat::Qcow2)]);
            }
            None => hash.update([0]),
        }
    }
    hash.update(cmdline.unwrap_or_default());
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// What a machine remembers of the image that it is made from. `virtual_size` is the disk's, from the gate.
///
/// # Errors
/// When a checksum isn't one.
pub fn pin(name: &str, spec: &ImageSpec, virtual_size: Bytes) -> Result<PinnedImage, BadChecksum> {
    let volumes = volumes_of(spec)?;
    let cmdline = spec.kernel.as_ref().map(|kernel| kernel.cmdline.clone()).unwrap_or_default();
    Ok(PinnedImage {
        name: name.to_owned(),
        revision: volumes.revision,
        disk: volumes.disk.map(|disk| PinnedDisk { format: disk.format(), volume: disk.name, virtual_size }),
        kernel: volumes.kernel.map(|kernel| PinnedKernel {
            kernel: kernel.name,
            initrd: volumes.initrd.map(|initrd| initrd.name),
            cmdline,
        }),
    })
}

/// Whether a volume of a host is of the kind that images have: others are never
/// touched when images are cleaned up.
#[must_use]
pub fn is_image_volume(name: &str) -> bool {
    name.strip_prefix("img-").and_then(|rest| rest.split_once('.')).is_some_and(|(digits, ending)| {
        digits.len() == 16
            && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && matches!(ending, "qcow2" | "raw" | "kernel" | "initrd")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DiskImage, ImageCache, KernelImage, VerifiedSource};

    fn source(name: &str) -> ImageSource {
        ImageSource { url: ["https://images.example.org/", name].concat() }
    }

    fn checksum(digit: char) -> String {
        ["sha256:", &digit.to_string().repeat(64)].concat()
    }

    fn spec() -> ImageSpec {
        ImageSpec {
            disk: Some(DiskImage { source: source("disk"), checksum: checksum('a'), format: DiskFormat::Qcow2 }),
            kernel: Some(KernelImage {
                kernel: VerifiedSource { source: source("vmlinuz"), checksum: checksum('b') },
                initrd: Some(VerifiedSource { source: source("initrd"), checksum: checksum('c') }),
                cmdline: "console=ttyS0".into(),
            }),
            cache: ImageCache::default(),
        }
    }

    #[test]
    fn volumes_are_named_by_what_they_hold() {
        let volumes = volumes_of(&spec()).unwrap();
        let names: Vec<_> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["img-aaaaaaaaaaaaaaaa.qcow2", "img-bbbbbbbbbbbbbbbb.kernel", "img-cccccccccccccccc.initrd"]);
        assert_eq!(volumes.revision, "3a2437f468ca");
        assert!(volumes.iter().all(|volume| is_image_volume(&volume.name)));
        for name in ["img-a.qcow2", "img-aaaaaaaaaaaaaaaa.img", "x-img-aaaaaaaaaaaaaaaa.raw", "img-aaaaaaaaaaaaaaaa"] {
            assert!(!is_image_volume(name), "{name}");
        }
    }

    #[test]
    fn a_revision_is_of_contents_not_of_places() {
        let revision = |change: fn(&mut ImageSpec)| {
            let mut spec = spec();
            change(&mut spec);
            volumes_of(&spec).unwrap().revision
        };
        let same = revision(|_| ());
        assert_eq!(same, revision(|spec| spec.disk.as_mut().unwrap().source = source("mirror")));
        let changed = [
            revision(|spec| spec.disk.as_mut().unwrap().checksum = checksum('d')),
            revision(|spec| spec.disk.as_mut().unwrap().format = DiskFormat::Raw),
            revision(|spec| spec.kernel.as_mut().unwrap().cmdline.push_str(" quiet")),
            revision(|spec| spec.kernel.as_mut().unwrap().initrd = None),
            revision(|spec| spec.kernel = None),
            revision(|spec| spec.disk = None),
        ];
        let all: std::collections::BTreeSet<_> = changed.iter().chain([&same]).collect();
        assert_eq!(all.len(), 7);
    }

    #[test]
    fn a_machine_pins_names_and_sizes() {
        let pinned = pin("debian", &spec(), Bytes::gibi(3)).unwrap();
        assert_eq!(pinned.disk.unwrap().virtual_size, Bytes::gibi(3));
        assert_eq!(pinned.kernel.unwrap().initrd.as_deref(), Some("img-cccccccccccccccc.initrd"));
        let mut broken = spec();
        broken.disk.as_mut().unwrap().checksum = "sha256:abc".into();
        assert!(pin("debian", &broken, Bytes::ZERO).is_err());
    }
}
