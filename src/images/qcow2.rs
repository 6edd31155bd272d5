//! The header and the tables of a qcow2 file, after QEMU's `docs/interop/qcow2.txt`.

use std::collections::BTreeSet;
use std::io::{Read, Seek};

use super::Rejection;
use super::header::{DiskFacts, DiskLimits, Probe};

/// Bits of `incompatible_features`.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// Bit of `autoclear_features`: the external data file is raw.
const RAW_EXTERNAL_DATA: u64 = 1 << 1;

/// Types of header extensions.
const END_OF_EXTENSIONS: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTERNAL_DATA_NAME: u32 = 0x4441_5441;
const ENCRYPTION_HEADER: u32 = 0x0537_be77;
const BITMAPS: u32 = 0x2385_2875;

/// Length of a header of version 2, and the least of version 3.
const LENGTH_2: u64 = 72;
const LENGTH_3: u64 = 104;

/// The largest tables that QEMU itself opens.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// The offset in an entry of the L1, L2 and refcount tables.
const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const REFCOUNT_OFFSET: u64 = !0x1ff;
const COMPRESSED: u64 = 1 << 62;

/// The fields of a header that matter here. Nothing in it has been judged.
struct Header {
    backing_offset: u64,
    backing_size: u32,
    cluster_bits: u32,
    virtual_size: u64,
    encryption: u32,
    l1_entries: u32,
    l1_offset: u64,
    refcount_offset: u64,
    refcount_clusters: u32,
    snapshots: u32,
    incompatible: u64,
    autoclear: u64,
    refcount_order: u32,
    length: u64,
    compression: u8,
}

/// Reads numbers at fixed places; what lies behind the end reads as `None`.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> Option<u32> {
        self.0.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.0.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let fields = Fields(bytes);
        let mut header = Self {
            backing_offset: fields.u64(8)?,
            backing_size: fields.u32(16)?,
            cluster_bits: fields.u32(20)?,
            virtual_size: fields.u64(24)?,
            encryption: fields.u32(32)?,
            l1_entries: fields.u32(36)?,
            l1_offset: fields.u64(40)?,
            refcount_offset: fields.u64(48)?,
            refcount_clusters: fields.u32(56)?,
            snapshots: fields.u32(60)?,
            incompatible: 0,
            autoclear: 0,
            refcount_order: 4,
            length: LENGTH_2,
            compression: 0,
        };
        let _snapshots_offset = fields.u64(64)?;
        if fields.u32(4)? >= 3 {
            header.incompatible = fields.u64(72)?;
            header.autoclear = fields.u64(88)?;
            header.refcount_order = fields.u32(96)?;
            header.length = fields.u32(100)?.into();
            if header.length > LENGTH_3 {
                header.compression = *bytes.get(104)?;
            }
        }
        Some(header)
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Judges each field by itself.
    fn check(&self) -> Result<(), Rejection> {
        let wrong = |field, value, problem| Err(Rejection::Header { field, value, problem });
        if self.backing_offset != 0 || self.backing_size != 0 {
            return Err(Rejection::BackingFile);
        }
        if self.incompatible & EXTERNAL_DATA != 0 || self.autoclear & RAW_EXTERNAL_DATA != 0 {
            return Err(Rejection::ExternalData);
        }
        if self.encryption != 0 {
            return Err(Rejection::Encrypted);
        }
        if self.snapshots != 0 {
            return Err(Rejection::Snapshots(self.snapshots));
        }
        if self.incompatible & CORRUPT != 0 {
            return Err(Rejection::MarkedCorrupt);
        }
        if self.incompatible & DIRTY != 0 {
            return Err(Rejection::Dirty);
        }
        let unknown = self.incompatible & !(COMPRESSION_TYPE | EXTENDED_L2);
        if unknown != 0 {
            return Err(Rejection::UnknownFeatures(unknown));
        }
        if !(9..=21).contains(&self.cluster_bits) {
            return wrong("cluster_bits", self.cluster_bits.into(), "9 to 21 is allowed");
        }
        if self.incompatible & EXTENDED_L2 != 0 && self.cluster_bits < 14 {
            return wrong("cluster_bits", self.cluster_bits.into(), "extended L2 entries need at least 14");
        }
        if self.refcount_order > 6 {
            return wrong("refcount_order", self.refcount_order.into(), "at most 6 is allowed");
        }
        if self.length > self.cluster() || !self.length.is_multiple_of(8) || self.length < self.least_length() {
            return wrong("header_length", self.length, "a multiple of 8 from 104 to the cluster size is allowed");
        }
        match (self.incompatible & COMPRESSION_TYPE != 0, self.compression) {
            (false, 0) | (true, 1) => Ok(()),
            (_, kind) => {
                wrong("compression_type", kind.into(), "zlib (0) or zstd (1, with its feature bit) is allowed")
            }
        }
    }

    /// Version 2 has a fixed length; a version 3 that claims to be shorter than 104 is wrong.
    fn least_length(&self) -> u64 {
        if self.length == LENGTH_2 { LENGTH_2 } else { LENGTH_3 }
    }

    fn l2_entries(&self) -> u64 {
        self.cluster() / if self.incompatible & EXTENDED_L2 != 0 { 16 } else { 8 }
    }

    /// An offset of a table or a cluster must be one of a whole cluster behind the header.
    fn aligned(&self, field: &'static str, offset: u64) -> Result<(), Rejection> {
        if offset == 0 || !offset.is_multiple_of(self.cluster()) {
            return Err(Rejection::Header {
                field,
                value: offset,
                problem: "it must begin a cluster behind the header",
            });
        }
        Ok(())
    }
}

/// Judges a file that begins with the magic of qcow2.
pub(super) fn inspect<R: Read + Seek>(file: &mut Probe<'_, R>, limits: DiskLimits) -> Result<DiskFacts, Rejection> {
    let truncated = Rejection::Truncated { what: "the header", offset: 0, size: file.size };
    let start = file.up_to(0, 112)?;
    let header = Header::read(&start).ok_or(truncated)?;
    if Fields(&start).u32(4) == Some(3) && header.length < LENGTH_3 {
        let problem = "at least 104 is needed";
        return Err(Rejection::Header { field: "header_length", value: header.length, problem });
    }
    header.check()?;
    file.holds("the header", 0, header.length)?;
    check_extensions(file, &header)?;
    if header.virtual_size == 0 {
        return Err(Rejection::Header { field: "size", value: 0, problem: "a disk needs some" });
    }
    let facts = limits.check(header.virtual_size)?;
    check_refcounts(file, &header)?;
    check_mapping(file, &header)?;
    Ok(facts)
}

/// Walks the header extensions. Unknown ones may be ignored, says the specification.
fn check_extensions<R: Read + Seek>(file: &mut Probe<'_, R>, header: &Header) -> Result<(), Rejection> {
    let Ok(cluster) = usize::try_from(header.cluster()) else { return Ok(()) };
    let bytes = file.up_to(0, cluster)?;
    let fields = Fields(&bytes);
    let mut at = usize::try_from(header.length).unwrap_or(cluster);
    loop {
        // Without an end marker the extensions end with the cluster.
        let (Some(kind), Some(length)) = (fields.u32(at), fields.u32(at.saturating_add(4))) else { return Ok(()) };
        match kind {
            END_OF_EXTENSIONS => return Ok(()),
            BACKING_FORMAT => return Err(Rejection::BackingFile),
            EXTERNAL_DATA_NAME => return Err(Rejection::ExternalData),
            ENCRYPTION_HEADER => return Err(Rejection::Encrypted),
            BITMAPS => return Err(Rejection::Bitmaps),
            _ => {}
        }
        let end = usize::try_from(length).ok().and_then(|length| (at + 8).checked_add(length));
        match end.and_then(|end| end.checked_next_multiple_of(8)) {
            Some(end) if end <= cluster => at = end,
            _ => {
                let problem = "a header extension runs out of the first cluster";
                return Err(Rejection::Header { field: "header extension length", value: length.into(), problem });
            }
        }
    }
}

/// The refcount table and its blocks lie inside the file.
fn check_refcounts<R: Read + Seek>(file: &mut Probe<'_, R>, header: &Header) -> Result<(), Rejection> {
    let clusters = u64::from(header.refcount_clusters);
    if clusters == 0 || clusters > MAX_REFCOUNT_TABLE_BYTES / header.cluster() {
        let problem = "one cluster to 8 MiB is allowed";
        return Err(Rejection::Header { field: "refcount_table_clusters", value: clusters, problem });
    }
    header.aligned("refcount_table_offset", header.refcount_offset)?;
    let entries = clusters * header.cluster() / 8;
    for entry in file.table("the refcount table", header.refcount_offset, entries)? {
        let block = entry & REFCOUNT_OFFSET;
        if block != 0 {
            header.aligned("refcount block offset", block)?;
            file.holds("a refcount block", block, header.cluster())?;
        }
    }
    Ok(())
}

/// The L1 table, the L2 tables and every cluster that they refer to lie inside the file.
fn check_mapping<R: Read + Seek>(file: &mut Probe<'_, R>, header: &Header) -> Result<(), Rejection> {
    let l1_entries = u64::from(header.l1_entries);
    let wrong = |problem| Err(Rejection::Header { field: "l1_size", value: l1_entries, problem });
    if l1_entries > MAX_L1_BYTES / 8 {
        return wrong("more than 32 MiB");
    }
    if l1_entries < header.virtual_size.div_ceil(header.cluster() * header.l2_entries()) {
        return wrong("too few for the disk's size");
    }
    header.aligned("l1_table_offset", header.l1_offset)?;
    let l1 = file.table("the L1 table", header.l1_offset, l1_entries)?;
    let mut seen = BTreeSet::new();
    for l2_offset in l1.into_iter().map(|entry| entry & L1_OFFSET).filter(|offset| *offset != 0) {
        header.aligned("L2 table offset", l2_offset)?;
        // Each table is read once, so that many entries for one table can't make us read for ever.
        if !seen.insert(l2_offset) {
            return Err(Rejection::SharedTable { offset: l2_offset });
        }
        let table = file.table("an L2 table", l2_offset, header.cluster() / 8)?;
        let step = if header.incompatible & EXTENDED_L2 != 0 { 2 } else { 1 };
        for entry in table.into_iter().step_by(step) {
            check_cluster(file, header, entry)?;
        }
    }
    Ok(())
}

/// A cluster begins inside the file; the last of a file may be cut, QEMU reads zeros there. Of a compressed cluster the
/// last sector begins inside.
fn check_cluster<R: Read + Seek>(file: &Probe<'_, R>, header: &Header, entry: u64) -> Result<(), Rejection> {
    if entry & COMPRESSED != 0 {
        let offset_bits = 62 - (header.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let further_sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
        return file.holds("a compressed cluster", (offset & !511) + further_sectors * 512, 1);
    }
    match entry & L1_OFFSET {
        0 => Ok(()),
        offset => {
            header.aligned("cluster offset", offset)?;
            file.holds("a data cluster", offset, 1)
        }
    }
}
