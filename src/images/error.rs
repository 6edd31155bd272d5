//! Why an image is not in the store.

use std::io;

use crate::api::Bytes;

use super::{BadChecksum, Checksum, Rejection};

/// Why an image is not in the store. URLs in messages come without their query, which may hold a token.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The Image's checksum isn't one.
    #[error("checksum: {0}")]
    Checksum(#[from] BadChecksum),
    /// The URL can't be used.
    #[error("url {url}: {problem}")]
    Url {
        /// The URL, without query.
        url: String,
        /// What is wrong and what to do.
        problem: &'static str,
    },
    /// The source is at an address that the site doesn't admit.
    #[error("{url}: {address} is not a public address; images.allowPrivateSources of the site admits private ones")]
    PrivateAddress {
        /// The URL, without query.
        url: String,
        /// What it led to.
        address: String,
    },
    /// The file lies outside of the allowed directories, or is no file.
    #[error("{url}: {problem}")]
    File {
        /// The URL.
        url: String,
        /// What is wrong and what to do.
        problem: &'static str,
    },
    /// More redirects than are followed, or one that makes no sense.
    #[error("{url}: {problem}")]
    Redirect {
        /// The URL that was asked last, without query.
        url: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The source could not be reached, or broke off.
    #[error("{url}: {message}")]
    Unreachable {
        /// The URL, without query.
        url: String,
        /// What happened.
        message: String,
    },
    /// The source answered with something else than the file.
    #[error("{url}: the source answered {status}")]
    Status {
        /// The URL, without query.
        url: String,
        /// Number and words, `404 Not Found`.
        status: String,
    },
    /// The source is too slow.
    #[error("{url}: {bytes} bytes in {seconds} s, the site asks for {least} bytes a second (images.minSpeed)")]
    TooSlow {
        /// The URL, without query.
        url: String,
        /// What came within the window.
        bytes: u64,
        /// Length of the window.
        seconds: u64,
        /// The least that is accepted.
        least: u64,
    },
    /// The body ended early.
    #[error("{url}: ended after {done} of {total} bytes")]
    Truncated {
        /// The URL, without query.
        url: String,
        /// What came.
        done: u64,
        /// What was announced.
        total: u64,
    },
    /// Larger than the site admits.
    #[error("{url}: larger than the {limit} that the site admits (images.maxDownload)")]
    TooLarge {
        /// The URL, without query.
        url: String,
        /// What is admitted.
        limit: Bytes,
    },
    /// Not the file that the Image means.
    #[error(
        "{url}: expected {expected}, got {actual} ({size} bytes): the file has changed, or the checksum is of another"
    )]
    Mismatch {
        /// The URL, without query.
        url: String,
        /// What the Image says.
        expected: Checksum,
        /// What came.
        actual: Checksum,
        /// Its size.
        size: u64,
    },
    /// The disk was judged and refused.
    #[error("refused: {0}")]
    Rejected(#[from] Rejection),
    /// No space is left for the file.
    #[error("no space left in the operator's image store {path}: give it a larger volume")]
    NoSpace {
        /// The store's directory.
        path: String,
    },
    /// The store can't be used.
    #[error("image store {path}: {source}")]
    Store {
        /// File or directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// `qemu-img` didn't end in time.
    #[error("qemu-img: {0}")]
    Examination(String),
    /// A task of ours ended early: the operator is shutting down.
    #[error("interrupted")]
    Interrupted,
}

/// When trying again may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    /// When the Image's spec or the site's configuration changes.
    None,
    /// When there is another file at that address, such as after a mirror has finished.
    OtherFile,
    /// When some time has passed.
    Time,
}

impl ImageError {
    /// An error of the store's own files.
    pub(super) fn store(path: &std::path::Path, source: io::Error) -> Self {
        let path = path.display().to_string();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::NoSpace { path }
            }
            _ => Self::Store { path, source },
        }
    }

    /// When trying again may help.
    #[must_use]
    pub const fn hope(&self) -> Hope {
        match self {
            Self::Checksum(_) | Self::Url { .. } => Hope::None,
            Self::PrivateAddress { .. } | Self::TooLarge { .. } | Self::Mismatch { .. } => Hope::OtherFile,
            // The file is the one that is meant: it will be refused again.
            Self::Rejected(rejection) if rejection.is_permanent() => Hope::None,
            Self::Rejected(_)
            | Self::File { .. }
            | Self::Redirect { .. }
            | Self::Unreachable { .. }
            | Self::Status { .. }
            | Self::TooSlow { .. }
            | Self::Truncated { .. }
            | Self::NoSpace { .. }
            | Self::Store { .. }
            | Self::Examination(_)
            | Self::Interrupted => Hope::Time,
        }
    }

    /// Whether the very file that is meant was looked at and refused: what it was taken for before counts no more. All else
    /// is about the way to it.
    #[must_use]
    pub const fn is_of_contents(&self) -> bool {
        matches!(self, Self::Rejected(rejection) if rejection.is_permanent())
    }

    /// One CamelCase word for conditions and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Checksum(_) => "InvalidChecksum",
            Self::Url { .. } => "InvalidUrl",
            Self::PrivateAddress { .. } => "PrivateAddress",
            Self::File { .. } => "FileNotAvailable",
            Self::Redirect { .. } => "BadRedirect",
            Self::Unreachable { .. } => "SourceUnreachable",
            Self::Status { .. } => "SourceRefused",
            Self::TooSlow { .. } => "SourceTooSlow",
            Self::Truncated { .. } => "SourceTruncated",
            Self::TooLarge { .. } => "TooLarge",
            Self::Mismatch { .. } => "ChecksumMismatch",
            Self::Rejected(rejection) => rejection.reason(),
            Self::NoSpace { .. } => "NoSpace",
            Self::Store { .. } => "StoreFailed",
            Self::Examination(_) => "ExaminationFailed",
            Self::Interrupted => "Interrupted",
        }
    }
}
