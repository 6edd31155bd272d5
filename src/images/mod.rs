//! Images on their way to hosts: fetched under limits, hashed, judged by our own reader of disk headers, and kept in a
//! store of the operator's that is named by contents. Nothing else opens a disk image before it has passed here.

mod checksum;
mod format;
mod header;
mod qcow2;
mod rejection;
mod volumes;

pub use checksum::{BadChecksum, Checksum};
pub use format::FileFormat;
pub use header::{DiskFacts, DiskLimits, inspect, inspect_blob};
pub use rejection::Rejection;
pub use volumes::{FileKind, ImageVolume, ImageVolumes, is_image_volume, pin, volumes_of};
