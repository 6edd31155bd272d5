//! Whether plain sectors are a disk: something on them has to say where a boot program, partitions or files begin.

/// Where a disk shows to be one, and by which bytes.
const SIGNATURES: [(usize, &[u8]); 10] = [
    // A boot sector: partitions of a PC, FAT, NTFS.
    (510, &[0x55, 0xaa]),
    // A table of partitions with UUIDs, behind a sector of 512 or 4096 bytes.
    (512, b"EFI PART"),
    (4096, b"EFI PART"),
    // File systems that fill a disk without a table: ext2 to ext4, XFS, Btrfs, SquashFS, EROFS, F2FS.
    (1080, &[0x53, 0xef]),
    (0, b"XFSB"),
    (65_600, b"_BHRfS_M"),
    (0, b"hsqs"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    (1024, &[0x10, 0x20, 0xf5, 0xf2]),
    // Volumes of LVM.
    (512, b"LABELONE"),
];

/// Whether a file's first bytes are those of a disk.
pub(super) fn looks_like_a_disk(head: &[u8]) -> bool {
    let at = |offset: usize, signature: &[u8]| head.get(offset..).is_some_and(|bytes| bytes.starts_with(signature));
    SIGNATURES.iter().any(|(offset, signature)| at(*offset, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_shows_where_something_begins_on_it() {
        for (offset, signature) in SIGNATURES {
            let mut head = vec![0; 80 << 10];
            head[offset..offset + signature.len()].copy_from_slice(signature);
            assert!(looks_like_a_disk(&head), "{offset}");
            assert!(!looks_like_a_disk(&head[..offset + signature.len() - 1]), "{offset}");
        }
        assert!(!looks_like_a_disk(&[0; 4096]) && !looks_like_a_disk(b"") && !looks_like_a_disk(&[7; 1 << 20]));
    }
}
