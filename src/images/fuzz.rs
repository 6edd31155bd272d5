//! Whatever a file of an image begins with, the gate says yes or no, after reading little, and yes to no trap.

use std::io::{Cursor, Read, Result, Seek, SeekFrom};

use super::address::Reach;
use super::source::Source;
use super::{DiskLimits, inspect, inspect_blob};
use crate::api::{Bytes, DiskFormat};

/// What the gate may read more than the file once: its first and last bytes, its header, its first cluster.
const READ_AGAIN: usize = 4 << 20;

const LIMITS: DiskLimits = DiskLimits { max_virtual_size: Bytes::gibi(512) };

/// A file that counts what is read of it.
struct Counted<'a> {
    file: Cursor<&'a [u8]>,
    read: usize,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.file.read(buffer)?;
        self.read += read;
        Ok(read)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, position: SeekFrom) -> Result<u64> {
        self.file.seek(position)
    }
}

/// The header and the tables of a disk.
pub(crate) fn disk(data: &[u8]) {
    let mut file = Counted { file: Cursor::new(data), read: 0 };
    let _ = inspect_blob(&mut file);
    for format in [DiskFormat::Raw, DiskFormat::Qcow2] {
        let Ok(facts) = inspect(&mut file, format, LIMITS) else { continue };
        assert!(facts.virtual_size > Bytes::ZERO && facts.virtual_size <= LIMITS.max_virtual_size);
        let is_qcow2 = data.starts_with(b"QFI\xfb");
        assert_eq!(is_qcow2, format == DiskFormat::Qcow2);
        if is_qcow2 {
            assert_eq!(data[8..20], [0; 12], "a backing file");
            let is_old = data[7] == 2;
            assert!(is_old || data[79] & 0b111 == 0, "an external data file, or not sound");
            assert_eq!(data[60..64], [0; 4], "snapshots");
        }
    }
    assert!(file.read <= data.len() + READ_AGAIN, "{} bytes of {}", file.read, data.len());
}

/// The address of an image.
pub(crate) fn source(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Source::parse(&text, Reach::Public) {
        Ok(Source::Web(url)) => {
            assert_eq!(url.scheme(), "https");
            assert!(url.username().is_empty() && url.password().is_none());
            assert!(!matches!(url.host_str(), None | Some("127.0.0.1" | "169.254.169.254" | "[::1]")));
        }
        Ok(Source::File { path, .. }) => assert!(path.is_absolute()),
        Err(error) => assert!(error.to_string().len() < 2000),
    }
}
