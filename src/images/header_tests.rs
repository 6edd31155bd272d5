use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::images::FileFormat;

const LIMITS: DiskLimits = DiskLimits { max_virtual_size: Bytes::gibi(512) };

const CLUSTER: usize = 512;

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A small version 3: header, refcount table, refcount block, L1 table, L2 table, a data and a compressed cluster.
pub(in crate::images) fn valid() -> Vec<u8> {
    let mut file = vec![0; 7 * CLUSTER];
    put(&mut file, 0, b"QFI\xfb\0\0\0\x03");
    put(&mut file, 20, &9_u32.to_be_bytes());
    put(&mut file, 24, &(64_u64 << 10).to_be_bytes());
    put(&mut file, 36, &2_u32.to_be_bytes());
    put(&mut file, 40, &(3 * CLUSTER as u64).to_be_bytes());
    put(&mut file, 48, &(CLUSTER as u64).to_be_bytes());
    put(&mut file, 56, &1_u32.to_be_bytes());
    put(&mut file, 96, &4_u32.to_be_bytes());
    put(&mut file, 100, &104_u32.to_be_bytes());
    // A feature name table, then the end.
    put(&mut file, 104, &[0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 48]);
    put(&mut file, CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..7 {
        put(&mut file, 2 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    put(&mut file, 3 * CLUSTER, &((1 << 63) | (4 * CLUSTER as u64)).to_be_bytes());
    put(&mut file, 4 * CLUSTER, &((1 << 63) | (5 * CLUSTER as u64)).to_be_bytes());
    put(&mut file, 4 * CLUSTER + 8, &((1 << 62) | (6 * CLUSTER as u64)).to_be_bytes());
    file
}

fn judge(file: &[u8], declared: DiskFormat) -> Result<DiskFacts, Rejection> {
    inspect(&mut Cursor::new(file), declared, LIMITS)
}

fn reason_with(at: usize, bytes: &[u8]) -> &'static str {
    let mut file = valid();
    put(&mut file, at, bytes);
    judge(&file, DiskFormat::Qcow2).map_or_else(|rejection| rejection.reason(), |_| "Accepted")
}

#[test]
fn a_sound_file_is_accepted() {
    assert_eq!(judge(&valid(), DiskFormat::Qcow2).unwrap().virtual_size, Bytes::new(64 << 10));
    assert_eq!(judge(&disk(1024), DiskFormat::Raw).unwrap().virtual_size, Bytes::new(1024));
}

/// Sectors that begin with a boot sector.
fn disk(size: usize) -> Vec<u8> {
    let mut file = vec![0; size];
    put(&mut file, 510, &[0x55, 0xaa]);
    file
}

#[test]
fn what_is_no_disk_is_refused_with_the_remedy() {
    let refused = |at: usize, bytes: &[u8]| {
        let mut file = vec![0; 80 << 10];
        put(&mut file, at, bytes);
        let rejection = judge(&file, DiskFormat::Raw).unwrap_err();
        assert_eq!(rejection.reason(), "WrongFormat");
        rejection.to_string()
    };
    let tar = refused(257, b"ustar");
    assert_eq!(tar, "declared as raw, but the file is tar: unpack it and give the checksum of what comes out");
    assert!(refused(0x8001, b"CD001").contains("boots from a CD drive only"));
    assert!(refused(0, b"\x7fELF").contains("give the disk that it is on"));
    assert!(refused(0, b"<?xml version='1.0'?>").contains("give the address of the file itself"));
    assert!(refused(0, b"page not found").contains("it is no disk"), "text that says nothing of itself");
    assert!(refused(0, &[0]).contains("it is no disk"), "nothing at all");
    // Kernels are programs.
    inspect_blob(&mut Cursor::new(b"\x7fELF\x02")).unwrap();
}

#[test]
fn each_trick_in_a_header_is_refused() {
    let four = |value: u32| value.to_be_bytes();
    let eight = |value: u64| value.to_be_bytes();
    for (at, bytes, reason) in [
        (8, &eight(0x200)[..], "BackingFile"),
        (16, &four(11), "BackingFile"),
        (104, &four(0xe279_2aca), "BackingFile"),
        (72, &eight(4), "ExternalData"),
        (88, &eight(2), "ExternalData"),
        (104, &four(0x4441_5441), "ExternalData"),
        (32, &four(1), "Encrypted"),
        (32, &four(2), "Encrypted"),
        (104, &four(0x0537_be77), "Encrypted"),
        (104, &four(0x2385_2875), "Bitmaps"),
        (60, &four(1), "InternalSnapshots"),
        (72, &eight(1), "Corrupt"),
        (72, &eight(2), "Corrupt"),
        (72, &eight(32), "UnknownFeatures"),
        (72, &eight(1 << 63), "UnknownFeatures"),
        (72, &eight(8), "Corrupt"),
        (72, &eight(16), "Corrupt"),
        (4, &four(1), "WrongFormat"),
        (4, &four(4), "WrongFormat"),
        (20, &four(8), "Corrupt"),
        (20, &four(22), "Corrupt"),
        (20, &four(u32::MAX), "Corrupt"),
        (24, &eight(0), "Corrupt"),
        (24, &eight(60 << 40), "TooLarge"),
        (24, &eight(u64::MAX), "TooLarge"),
        (24, &eight(1 << 30), "Corrupt"),
        (36, &four(0), "Corrupt"),
        (36, &four(1000), "Truncated"),
        (36, &four(u32::MAX), "Corrupt"),
        (40, &eight(0), "Corrupt"),
        (40, &eight(7 * 512), "Truncated"),
        (40, &eight(3 * 512 + 8), "Corrupt"),
        (40, &eight(u64::MAX - 511), "Truncated"),
        (48, &eight(0), "Corrupt"),
        (48, &eight(7 * 512), "Truncated"),
        (56, &four(0), "Corrupt"),
        (56, &four(9), "Truncated"),
        (56, &four(u32::MAX), "Corrupt"),
        (96, &four(7), "Corrupt"),
        (100, &four(72), "Corrupt"),
        (100, &four(103), "Corrupt"),
        (100, &four(520), "Corrupt"),
        (100, &four(u32::MAX), "Corrupt"),
        (108, &four(u32::MAX), "Corrupt"),
        (108, &four(u32::MAX - 7), "Corrupt"),
        // Entries of tables.
        (512, &eight(7 * 512), "Truncated"),
        (3 * 512, &eight(7 * 512), "Truncated"),
        (3 * 512 + 8, &eight(4 * 512), "Corrupt"),
        (4 * 512 + 16, &eight(7 * 512), "Truncated"),
        (4 * 512 + 16, &eight((1 << 62) | (7 * 512)), "Truncated"),
        (4 * 512 + 16, &eight((1 << 62) | (1 << 61) | (6 * 512)), "Truncated"),
        (0, b"QFI\xfb\0\0\0\x02", "Accepted"),
    ] {
        assert_eq!(reason_with(at, bytes), reason, "{bytes:?} at {at}");
    }
}

#[test]
fn a_file_of_another_format_than_declared_is_refused() {
    for (head, found) in [
        (&b"QFI\xfb\0\0\0\x03"[..], FileFormat::Qcow2),
        (b"KDMV", FileFormat::Vmdk),
        (b"# Disk DescriptorFile\nversion=1\nRW 2048 FLAT \"/etc/shadow\" 0\n", FileFormat::Vmdk),
        (b"\x1f\x8b\x08", FileFormat::Packed("gzip")),
    ] {
        let mut file = vec![0; 4096];
        put(&mut file, 0, head);
        match judge(&file, DiskFormat::Raw) {
            Err(Rejection::Format { found: told, .. }) => assert_eq!(told, found),
            other => panic!("{other:?}"),
        }
    }
    let message = judge(&[0; 4096], DiskFormat::Qcow2).unwrap_err().to_string();
    assert_eq!(message, "declared as qcow2, but the file is raw: declare that format if it is what you mean");
    assert_eq!(judge(&[0; 1000], DiskFormat::Raw).unwrap_err().reason(), "Truncated");
    assert_eq!(judge(&[], DiskFormat::Raw).unwrap_err().reason(), "Truncated");
}

#[test]
fn a_file_cut_at_any_place_before_its_last_cluster_is_refused() {
    let file = valid();
    for length in 0..=6 * CLUSTER {
        assert!(judge(&file[..length], DiskFormat::Qcow2).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn judging_never_panics(
        changes in prop::collection::vec((0_usize..7 * CLUSTER, any::<u8>()), 1..8),
        fields in prop::collection::vec((0_usize..28, prop::sample::select(vec![0, 1, 9, 21, 72, 104, 1 << 16, u32::MAX, 1 << 31])), 0..4),
        length in 0_usize..=7 * CLUSTER,
        raw: bool,
    ) {
        let mut file = valid();
        for (field, value) in fields {
            put(&mut file, 4 * field, &u32::to_be_bytes(value));
        }
        for (at, byte) in changes {
            file[at] = byte;
        }
        let _ = judge(&file[..length], if raw { DiskFormat::Raw } else { DiskFormat::Qcow2 });
    }
}

fn qemu_img(folder: &Path, arguments: &[&str]) -> bool {
    Command::new("qemu-img").args(arguments).current_dir(folder).output().is_ok_and(|output| output.status.success())
}

fn judge_file(path: &Path, declared: DiskFormat) -> Result<DiskFacts, Rejection> {
    inspect(&mut std::fs::File::open(path).unwrap(), declared, LIMITS)
}

/// A folder with a raw file of some content, where `qemu-img` is installed.
fn workshop() -> Option<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir().unwrap();
    if !qemu_img(folder.path(), &["--version"]) {
        return None;
    }
    let mut content = vec![0; 9 << 20];
    let mut state = 1_u32;
    for byte in content.iter_mut().skip(1 << 20).take(5 << 20) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 28) as u8;
    }
    let path = folder.path().join("content.raw");
    std::fs::write(&path, content).unwrap();
    Some((folder, path))
}

/// What `qemu-img` sees in a file: the size, and the names of other files.
fn told_by_qemu(path: &Path) -> Option<(u64, Vec<String>)> {
    let limits = ["--cpu=5", "--as=2147483648", "--fsize=0", "--", "qemu-img"];
    let mut command = Command::new("prlimit");
    command.args(limits).args(["info", "--force-share", "-f", "qcow2", "--output", "json"]).arg(path);
    let output = command.output().ok().filter(|output| output.status.success())?;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let specific = &told["format-specific"]["data"];
    let others = [&told["backing-filename"], &told["full-backing-filename"], &specific["data-file"]];
    let others = others.into_iter().filter(|name| !name.is_null()).map(ToString::to_string).collect();
    Some((told["virtual-size"].as_u64().unwrap(), others))
}

/// Whatever our reader lets through, QEMU's own sees the same disk, or nothing at all.
#[test]
fn qemu_sees_no_other_file_in_what_is_accepted() {
    let Some((folder, _)) = workshop() else { return };
    let path = folder.path().join("changed");
    let places = prop_oneof![4 => 8_usize..28, 4 => 60..112_usize, 1 => 512..7 * CLUSTER];
    let values = prop_oneof![Just(0_u8), Just(1), Just(2), Just(4), Just(8), Just(104), Just(112), any::<u8>()];
    // What would be believed of a backing file or a data file comes in several bytes.
    let whole = prop::sample::select(vec![
        vec![],
        vec![],
        vec![(14, 1), (19, 8)],
        vec![(14, 1), (19, 8), (256, b'/')],
        vec![(79, 4)],
    ]);
    let changes = (prop::collection::vec((places, values), 1..5), whole);
    let mut runner = TestRunner::deterministic();
    let (mut accepted, mut agreed) = (0, 0);
    for _ in 0..20_000 {
        let mut file = valid();
        let (changes, whole) = changes.new_tree(&mut runner).unwrap().current();
        for (at, byte) in changes.into_iter().chain(whole) {
            file[at] = byte;
        }
        let Ok(facts) = judge(&file, DiskFormat::Qcow2) else { continue };
        accepted += 1;
        std::fs::write(&path, &file).unwrap();
        if let Some((size, others)) = told_by_qemu(&path) {
            assert!(others.is_empty(), "{others:?}");
            assert_eq!(size, facts.virtual_size.get().next_multiple_of(512));
            agreed += 1;
        }
        if accepted == 150 {
            break;
        }
    }
    println!("{accepted} of the changed files were accepted, qemu-img opened {agreed} of these");
    assert!(accepted >= 100 && agreed >= 50, "{accepted}, {agreed}");
}

#[test]
fn what_qemu_makes_is_accepted_and_half_of_it_is_not() {
    let Some((folder, _)) = workshop() else { return };
    for (compressed, options) in [
        (false, "compat=0.10"),
        (false, "compat=1.1"),
        (false, "lazy_refcounts=on"),
        (false, "cluster_size=512"),
        (false, "cluster_size=2M"),
        (false, "extended_l2=on,cluster_size=128k"),
        (false, "preallocation=metadata"),
        (false, "preallocation=full"),
        (false, "refcount_bits=64"),
        (false, "refcount_bits=1"),
        (true, "compat=1.1"),
        (true, "compat=0.10,cluster_size=4k"),
        (true, "compression_type=zstd"),
        (true, "extended_l2=on"),
    ] {
        let flags: &[&str] = if compressed { &["convert", "-c"] } else { &["convert"] };
        let arguments = [flags, &["-f", "raw", "-O", "qcow2", "-o", options, "content.raw", "made"]].concat();
        assert!(qemu_img(folder.path(), &arguments), "{options}");
        let made = folder.path().join("made");
        let facts = judge_file(&made, DiskFormat::Qcow2).unwrap_or_else(|error| panic!("{options}: {error}"));
        assert_eq!(facts.virtual_size, Bytes::mebi(9), "{options}");
        assert_eq!(judge_file(&made, DiskFormat::Raw).unwrap_err().reason(), "WrongFormat");
        let whole = std::fs::read(&made).unwrap();
        let kept = if options.contains("512") { 90 } else { 70 };
        for percent in [1, 10, 50, kept] {
            let part = &whole[..whole.len() * percent / 100];
            let reason = judge(part, DiskFormat::Qcow2).map_err(|error| error.reason());
            assert_eq!(reason, Err("Truncated"), "{options} {percent}%");
        }
    }
    for size in ["1", "512", "100M", "511G"] {
        assert!(qemu_img(folder.path(), &["create", "-f", "qcow2", "empty", size]));
        judge_file(&folder.path().join("empty"), DiskFormat::Qcow2).unwrap();
    }
}

#[test]
fn what_qemu_makes_for_other_purposes_is_refused() {
    let Some((folder, _)) = workshop() else { return };
    let path = folder.path().join("made");
    for (arguments, reason) in [
        (&["create", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "made", "1G"][..], "BackingFile"),
        (&["create", "-f", "qcow2", "-o", "data_file=other.raw", "made", "1M"], "ExternalData"),
        (&["create", "-f", "qcow2", "-o", "data_file=o.raw,data_file_raw=on", "made", "1M"], "ExternalData"),
        (&["create", "-f", "qcow2", "made", "60T"], "TooLarge"),
        (
            &[
                "create",
                "-f",
                "qcow2",
                "--object",
                "secret,id=s,data=abc",
                "-o",
                "encrypt.format=luks,encrypt.key-secret=s",
                "made",
                "1M",
            ],
            "Encrypted",
        ),
    ] {
        if qemu_img(folder.path(), arguments) {
            assert_eq!(judge_file(&path, DiskFormat::Qcow2).unwrap_err().reason(), reason, "{arguments:?}");
        }
        let _ = std::fs::remove_file(&path);
    }
    for (arguments, reason) in [
        (&["snapshot", "-c", "first", "made"][..], "InternalSnapshots"),
        (&["bitmap", "--add", "made", "first"], "Bitmaps"),
    ] {
        assert!(qemu_img(folder.path(), &["create", "-f", "qcow2", "made", "1M"]));
        assert!(qemu_img(folder.path(), arguments));
        assert_eq!(judge_file(&path, DiskFormat::Qcow2).unwrap_err().reason(), reason);
    }
    for options in [
        &["vmdk"][..],
        &["vmdk", "-o", "subformat=monolithicFlat"],
        &["vmdk", "-o", "subformat=streamOptimized"],
        &["vdi"],
        &["vhdx"],
        &["vpc"],
        &["vpc", "-o", "subformat=fixed"],
        &["qed"],
        &["parallels"],
        &["qcow"],
    ] {
        let arguments = [&["convert", "-f", "raw", "-O"], options, &["content.raw", "made"]].concat();
        if qemu_img(folder.path(), &arguments) {
            for declared in [DiskFormat::Raw, DiskFormat::Qcow2] {
                assert_eq!(judge_file(&path, declared).unwrap_err().reason(), "WrongFormat", "{options:?}");
            }
        }
    }
}
