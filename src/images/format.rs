//! What a file is, by its first and last bytes: never by its name, and never by what it should be.

use std::fmt;

use crate::api::DiskFormat;

use super::disk::looks_like_a_disk;

/// A format that a file shows by its magic bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileFormat {
    /// No magic that is known: plain sectors, or anything else.
    Plain,
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
    /// QEMU copy-on-write, another version.
    OtherQcow(u32),
    /// VMware's disk or its text description, which can name any file of the host.
    Vmdk,
    /// VirtualBox.
    Vdi,
    /// Hyper-V.
    Vhdx,
    /// Virtual PC, as dynamic disk or by its footer.
    Vhd,
    /// QEMU enhanced disk.
    Qed,
    /// An encrypted disk.
    Luks,
    /// Parallels.
    Parallels,
    /// Bochs.
    Bochs,
    /// Compressed loop device.
    Cloop,
    /// Apple disk image.
    Dmg,
    /// A compressed file or an archive, and the tool that opens it.
    Packed(&'static str),
    /// A web page, usually of an error or a login.
    Html,
    /// Another text for machines, usually of an error.
    Markup(&'static str),
    /// A program, a library or a kernel.
    Program,
    /// The image of a CD.
    Iso,
}

impl fmt::Display for FileFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Plain => "raw",
            Self::Qcow2 => "qcow2",
            Self::OtherQcow(version) => return write!(formatter, "qcow version {version}"),
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vhd",
            Self::Qed => "qed",
            Self::Luks => "luks",
            Self::Parallels => "parallels",
            Self::Bochs => "bochs",
            Self::Cloop => "cloop",
            Self::Dmg => "dmg",
            Self::Packed(tool) => tool,
            Self::Html => "HTML",
            Self::Markup(language) => language,
            Self::Program => "a program",
            Self::Iso => "the image of a CD (ISO 9660)",
        };
        formatter.write_str(name)
    }
}

impl FileFormat {
    /// Whether a file of this format may be declared as that.
    pub(super) fn is(self, declared: DiskFormat) -> bool {
        matches!((self, declared), (Self::Qcow2, DiskFormat::Qcow2) | (Self::Plain, DiskFormat::Raw))
    }
}

/// How many of a file's first bytes are looked at.
pub(super) const HEAD: usize = 68 << 10;

/// How many of its last bytes are looked at.
pub(super) const TAIL: usize = 512;

const MAGICS: [(usize, &[u8], FileFormat); 29] = [
    (0, b"KDMV", FileFormat::Vmdk),
    (0, b"COWD", FileFormat::Vmdk),
    (0x40, &[0x7f, 0x10, 0xda, 0xbe], FileFormat::Vdi),
    (0, b"vhdxfile", FileFormat::Vhdx),
    (0, b"conectix", FileFormat::Vhd),
    (0, b"QED\0", FileFormat::Qed),
    (0, b"LUKS\xba\xbe", FileFormat::Luks),
    (0, b"WithoutFreeSpace", FileFormat::Parallels),
    (0, b"WithouFreSpacExt", FileFormat::Parallels),
    (0, b"Bochs Virtual HD Image", FileFormat::Bochs),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", FileFormat::Cloop),
    (0, b"\x1f\x8b", FileFormat::Packed("gzip")),
    (0, b"\xfd7zXZ\0", FileFormat::Packed("xz")),
    (0, b"\x28\xb5\x2f\xfd", FileFormat::Packed("zstd")),
    (0, b"BZh", FileFormat::Packed("bzip2")),
    (0, b"PK\x03\x04", FileFormat::Packed("unzip")),
    (0, b"7z\xbc\xaf\x27\x1c", FileFormat::Packed("7z")),
    (0, b"\x04\x22\x4d\x18", FileFormat::Packed("lz4")),
    (0, b"LZIP", FileFormat::Packed("lzip")),
    (0, b"\x89LZO", FileFormat::Packed("lzop")),
    (0, b"Rar!\x1a\x07", FileFormat::Packed("unrar")),
    (0, b"070701", FileFormat::Packed("cpio")),
    (0, b"070707", FileFormat::Packed("cpio")),
    (0, b"!<arch>\n", FileFormat::Packed("ar")),
    // Also an OVA, which is a tar with a disk in it.
    (257, b"ustar", FileFormat::Packed("tar")),
    (0, b"\x7fELF", FileFormat::Program),
    (0, b"%PDF-", FileFormat::Markup("PDF")),
    (0, b"{\"", FileFormat::Markup("JSON")),
    (0, b"<?xml", FileFormat::Markup("XML")),
];

/// Where the image of a CD shows to be one. One that begins with a boot sector is a disk as well.
const ISO: (usize, &[u8]) = (0x8001, b"CD001");

/// Tells the format from a file's first [`HEAD`] and last [`TAIL`] bytes, or what there is of them.
pub(super) fn detect(head: &[u8], tail: &[u8]) -> FileFormat {
    if let Some(rest) = head.strip_prefix(b"QFI\xfb") {
        return match rest.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) {
            Some(2 | 3) => FileFormat::Qcow2,
            version => FileFormat::OtherQcow(version.unwrap_or_default()),
        };
    }
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|bytes| bytes.starts_with(magic));
    if let Some((_, _, format)) = MAGICS.iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return *format;
    }
    if at(ISO.0, ISO.1) && !looks_like_a_disk(head) {
        return FileFormat::Iso;
    }
    if tail.starts_with(b"conectix") {
        return FileFormat::Vhd;
    }
    if tail.starts_with(b"koly") {
        return FileFormat::Dmg;
    }
    text_format(head)
}

/// Formats that are text. A VMDK description counts from its first line that is neither blank nor a comment, as QEMU
/// has it, so leading comments hide nothing.
fn text_format(head: &[u8]) -> FileFormat {
    let text = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    for line in text {
        let line = line.to_ascii_lowercase();
        if line.starts_with(b"# disk descriptorfile") || line.starts_with(b"version=") {
            return FileFormat::Vmdk;
        }
        if line.starts_with(b"<!doctype html") || line.starts_with(b"<html") {
            return FileFormat::Html;
        }
        if !line.is_empty() && !line.starts_with(b"#") {
            break;
        }
    }
    FileFormat::Plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn magic_bytes_tell_the_format() {
        for (head, format) in [
            (b"QFI\xfb\0\0\0\x02".as_slice(), FileFormat::Qcow2),
            (b"QFI\xfb\0\0\0\x03", FileFormat::Qcow2),
            (b"QFI\xfb\0\0\0\x01", FileFormat::OtherQcow(1)),
            (b"QFI\xfb", FileFormat::OtherQcow(0)),
            (b"KDMV\x01", FileFormat::Vmdk),
            (b"# Disk DescriptorFile\nversion=1\n", FileFormat::Vmdk),
            (b"\n  \n# hello\n#\r\nVersion=3\n", FileFormat::Vmdk),
            (b"<!DOCTYPE html><html>", FileFormat::Html),
            (b"\x1f\x8b\x08", FileFormat::Packed("gzip")),
            (b"\x7fELF\x02\x01", FileFormat::Program),
            (b"<?xml version=\"1.0\"?><Error>", FileFormat::Markup("XML")),
            (b"{\"error\": \"not found\"}", FileFormat::Markup("JSON")),
            (b"", FileFormat::Plain),
            (b"\xeb\x63\x90", FileFormat::Plain),
            (b"# a script\necho version=1\n", FileFormat::Plain),
        ] {
            assert_eq!(detect(head, b""), format, "{head:?}");
        }
        assert_eq!(detect(b"\xeb\x63\x90", b"conectix"), FileFormat::Vhd);
        let mut vdi = [0; 0x50];
        vdi[0x40..0x44].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
        assert_eq!(detect(&vdi, b""), FileFormat::Vdi);
        let mut tar = [0; 512];
        tar[..8].copy_from_slice(b"disk.raw");
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(detect(&tar, b""), FileFormat::Packed("tar"));
        let mut iso = vec![0; HEAD];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        assert_eq!(detect(&iso, b""), FileFormat::Iso);
        iso[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(detect(&iso, b""), FileFormat::Plain, "it is a disk as well");
    }

    proptest! {
        #[test]
        fn detecting_never_panics(head in prop::collection::vec(any::<u8>(), 0..200), tail: Vec<u8>) {
            detect(&head, &tail);
        }
    }
}
