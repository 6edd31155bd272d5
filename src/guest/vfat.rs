//! A small FAT file system in memory.

use std::io::{Cursor, Write};

use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider, format_volume};

/// Size of the image: FAT12 with room for all keys that the API admits.
const SIZE: usize = 1 << 20;

/// What the files may have together, with room for the file system's own tables and the tails of clusters.
pub(super) const CAPACITY: usize = SIZE - (64 << 10);

/// The label that NoCloud looks for, padded as FAT has it.
const LABEL: [u8; 11] = *b"CIDATA     ";

/// Serial number of the volume: any, but always the same.
const VOLUME_ID: u32 = 0xca5c_14a0;

/// The first day of FAT, so that the same files are always the same bytes.
#[derive(Debug)]
struct NoClock;

impl TimeProvider for NoClock {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// An image with these files in its root. The files must fit into [`CAPACITY`].
pub(super) fn image(files: &[(&str, &[u8])]) -> std::io::Result<Vec<u8>> {
    let mut image = vec![0; SIZE];
    let format = FormatVolumeOptions::new()
        .fat_type(FatType::Fat12)
        .bytes_per_cluster(512)
        .max_root_dir_entries(64)
        .volume_id(VOLUME_ID)
        .volume_label(LABEL);
    format_volume(Cursor::new(&mut image), format)?;
    let disk = FileSystem::new(Cursor::new(&mut image), FsOptions::new().time_provider(&NoClock))?;
    for (name, content) in files {
        let root = disk.root_dir();
        let mut file = root.create_file(name)?;
        file.write_all(content)?;
        file.flush()?;
    }
    disk.unmount()?;
    Ok(image)
}
