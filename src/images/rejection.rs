//! Why a disk image is refused.

use std::io;

use crate::api::{Bytes, DiskFormat};

use super::FileFormat;

/// Why a disk image is refused. Every message says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// It could not be read: nothing is known of it.
    #[error("the file can't be read: {0}")]
    Io(#[from] io::Error),
    /// It is something else than the Image says.
    #[error("declared as {}, but the file is {found}: {}", .declared.as_str(), advice(*.found))]
    Format {
        /// What the Image says.
        declared: DiskFormat,
        /// What the file shows.
        found: FileFormat,
    },
    /// A kernel or an initramfs that is none.
    #[error("given as kernel or initramfs, but the file is {found}: give the file itself")]
    NoKernel {
        /// What the file shows.
        found: FileFormat,
    },
    /// It holds nothing.
    #[error("the file is empty")]
    Empty,
    /// A raw disk that ends within a sector.
    #[error("{size} bytes are no whole number of 512-byte sectors: the file is truncated, or it is no disk")]
    PartialSector {
        /// Its size.
        size: u64,
    },
    /// Plain sectors on which nothing begins.
    #[error(
        "declared as raw, but it has no partition table, boot sector or file system, so it is no disk: if it is packed or \
         encoded in a way that isn't known here, unpack it and give the checksum of what comes out"
    )]
    NoDisk,
    /// Larger than the site admits.
    #[error(
        "the disk has a virtual size of {size} ({} bytes), the site admits {limit}: shrink it, or ask for a higher images.maxVirtualSize",
        .size.get()
    )]
    TooLarge {
        /// As a guest sees it.
        size: Bytes,
        /// What is admitted.
        limit: Bytes,
    },
    /// Refers to another file.
    #[error("it has a backing file: flatten it with `qemu-img convert -O qcow2`")]
    BackingFile,
    /// Keeps its data in another file.
    #[error("it keeps its data in an external file: flatten it with `qemu-img convert -O qcow2`")]
    ExternalData,
    /// Is encrypted.
    #[error("it is encrypted: make a plain copy with `qemu-img convert -O qcow2`")]
    Encrypted,
    /// Has internal snapshots.
    #[error("it has {0} internal snapshots: flatten it with `qemu-img convert -O qcow2`")]
    Snapshots(u32),
    /// Has dirty bitmaps.
    #[error("it has persistent bitmaps: flatten it with `qemu-img convert -O qcow2`")]
    Bitmaps,
    /// Was not closed.
    #[error("it was not closed properly (marked dirty): repair it with `qemu-img check -r all`")]
    Dirty,
    /// Is marked as corrupt.
    #[error("it is marked as corrupt: repair it with `qemu-img check -r all`")]
    MarkedCorrupt,
    /// Uses something that isn't known here.
    #[error(
        "it uses features that aren't known (incompatible bits {0:#x}): make a copy with `qemu-img convert -O qcow2`"
    )]
    UnknownFeatures(u64),
    /// A field of the header makes no sense.
    #[error("its header is wrong: {field} is {value}, {problem}: make it anew with `qemu-img convert -O qcow2`")]
    Header {
        /// The field's name in QEMU's specification.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it should be.
        problem: &'static str,
    },
    /// Something lies behind the end of the file.
    #[error("truncated: {what} lies at byte {offset}, the file ends at {size}: fetch or make it anew")]
    Truncated {
        /// What lies there.
        what: &'static str,
        /// Where it should lie.
        offset: u64,
        /// Size of the file.
        size: u64,
    },
    /// One table stands for two parts of the disk.
    #[error("two parts of the disk share the table at byte {offset}: repair it with `qemu-img check -r all`")]
    SharedTable {
        /// Where the table lies.
        offset: u64,
    },
    /// QEMU's own tool doesn't agree.
    #[error("qemu-img refuses it: {0}")]
    SecondOpinion(String),
}

fn advice(found: FileFormat) -> &'static str {
    match found {
        FileFormat::Packed(_) => "unpack it and give the checksum of what comes out",
        FileFormat::Html => "the source answered with a web page, give the address of the file itself",
        FileFormat::Markup(_) => "the source answered with something to read, give the address of the file itself",
        FileFormat::Program => "give the disk that it is on, or give it as kernel",
        FileFormat::Iso => {
            "it boots from a CD drive only, give the image of a disk, as most distributions have for clouds"
        }
        FileFormat::Qcow2 | FileFormat::Plain => "declare that format if it is what you mean",
        FileFormat::Luks => "make a plain copy with `qemu-img convert`",
        _ => "convert it with `qemu-img convert -O qcow2`",
    }
}

impl Rejection {
    /// Whether the file itself is refused, as opposed to not having been read.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        !matches!(self, Self::Io(_))
    }

    /// One CamelCase word for conditions and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Io(_) => "CacheUnreadable",
            Self::Format { .. } | Self::NoKernel { .. } | Self::NoDisk => "WrongFormat",
            Self::TooLarge { .. } => "TooLarge",
            Self::BackingFile => "BackingFile",
            Self::ExternalData => "ExternalData",
            Self::Encrypted => "Encrypted",
            Self::Snapshots(_) => "InternalSnapshots",
            Self::Bitmaps => "Bitmaps",
            Self::UnknownFeatures(_) => "UnknownFeatures",
            Self::Empty | Self::PartialSector { .. } | Self::Truncated { .. } => "Truncated",
            Self::Dirty | Self::MarkedCorrupt | Self::Header { .. } | Self::SharedTable { .. } => "Corrupt",
            Self::SecondOpinion(_) => "RefusedByQemu",
        }
    }
}
