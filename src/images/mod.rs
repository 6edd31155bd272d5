//! Images on their way to hosts: fetched under limits, hashed, judged by our own reader of disk headers, and kept in a
//! store of the operator's that is named by contents. Nothing else opens a disk image before it has passed here.

mod address;
mod checksum;
mod disk;
mod error;
mod fetch;
mod file;
mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod header;
mod opinion;
mod progress;
mod qcow2;
mod rejection;
mod source;
mod store;
mod volumes;
mod web;

pub use checksum::{BadChecksum, Checksum};
pub use error::{Hope, ImageError};
pub use format::FileFormat;
pub use header::{DiskFacts, DiskLimits, inspect, inspect_blob};
pub use progress::{FetchProgress, ProgressReport};
pub use rejection::Rejection;
pub use store::{ImageStore, Stored};
pub use volumes::{FileKind, ImageVolume, ImageVolumes, is_image_volume, pin, volumes_of};
