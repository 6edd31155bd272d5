//! The gate: our own reader of disk headers. Nothing opens a disk image before it has passed here, because `qemu-img`
//! and libvirt follow what a header names: backing files, data files, descriptors.

use std::io::{Read, Seek, SeekFrom};

use crate::api::{Bytes, DiskFormat};

use super::disk::looks_like_a_disk;
use super::format::{HEAD, TAIL, detect};
use super::{FileFormat, Rejection, qcow2};

/// What the gate admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// The largest disk, as a guest sees it.
    pub max_virtual_size: Bytes,
}

/// What is known of a disk that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFacts {
    /// Its size as a guest sees it.
    pub virtual_size: Bytes,
}

impl DiskLimits {
    /// Refuses a disk that is larger than admitted.
    pub(super) fn check(self, size: u64) -> Result<DiskFacts, Rejection> {
        let virtual_size = Bytes::new(size);
        if size > self.max_virtual_size.get() {
            return Err(Rejection::TooLarge { size: virtual_size, limit: self.max_virtual_size });
        }
        Ok(DiskFacts { virtual_size })
    }
}

/// Reads a disk image's header and tables and judges it. Reads at most the file's size, holds a few MiB.
///
/// # Errors
/// Says what is wrong and what to do.
pub fn inspect(
    reader: &mut (impl Read + Seek),
    declared: DiskFormat,
    limits: DiskLimits,
) -> Result<DiskFacts, Rejection> {
    let mut file = Probe::new(reader)?;
    let found = file.format()?;
    if !found.is(declared) {
        return Err(Rejection::Format { declared, found });
    }
    match declared {
        DiskFormat::Qcow2 => qcow2::inspect(&mut file, limits),
        DiskFormat::Raw if !file.size.is_multiple_of(512) => Err(Rejection::PartialSector { size: file.size }),
        DiskFormat::Raw if !looks_like_a_disk(&file.up_to(0, HEAD)?) => Err(Rejection::NoDisk),
        DiskFormat::Raw => limits.check(file.size),
    }
}

/// Judges a kernel or an initramfs: it may be anything but a disk. Hosts look into whatever lies in their pools, and
/// would follow what a disk's header names.
///
/// # Errors
/// Says what it is.
pub fn inspect_blob(reader: &mut (impl Read + Seek)) -> Result<(), Rejection> {
    match Probe::new(reader)?.format()? {
        FileFormat::Plain | FileFormat::Packed(_) | FileFormat::Program => Ok(()),
        found => Err(Rejection::NoKernel { found }),
    }
}

/// A file that is read in bounded pieces, never behind its end.
pub(super) struct Probe<'a, R> {
    reader: &'a mut R,
    pub(super) size: u64,
}

impl<'a, R: Read + Seek> Probe<'a, R> {
    pub(super) fn new(reader: &'a mut R) -> Result<Self, Rejection> {
        let size = reader.seek(SeekFrom::End(0))?;
        Ok(Self { reader, size })
    }

    /// What the file shows to be.
    fn format(&mut self) -> Result<FileFormat, Rejection> {
        if self.size == 0 {
            return Err(Rejection::Empty);
        }
        let head = self.up_to(0, HEAD)?;
        let tail = self.up_to(self.size.saturating_sub(TAIL as u64), TAIL)?;
        Ok(detect(&head, &tail))
    }

    /// Up to `length` bytes from `offset`; fewer where the file ends.
    pub(super) fn up_to(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, Rejection> {
        self.reader.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        self.reader.take(length as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Refuses what isn't wholly inside the file.
    pub(super) fn holds(&self, what: &'static str, offset: u64, length: u64) -> Result<(), Rejection> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Rejection::Truncated { what, offset, size: self.size }),
        }
    }

    /// A table of big-endian numbers that must lie inside the file. The caller bounds `count`.
    pub(super) fn table(&mut self, what: &'static str, offset: u64, count: u64) -> Result<Vec<u64>, Rejection> {
        let length = count.saturating_mul(8);
        self.holds(what, offset, length)?;
        let truncated = Rejection::Truncated { what, offset, size: self.size };
        let Ok(length) = usize::try_from(length) else { return Err(truncated) };
        let bytes = self.up_to(offset, length)?;
        if bytes.len() != length {
            return Err(truncated);
        }
        Ok(bytes.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
pub(super) mod tests;
