//! The SHA-256 of a file, by which it is known everywhere.

use std::fmt;
use std::str::FromStr;

/// A SHA-256, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum([u8; 32]);

/// Text that is no checksum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a checksum: expected sha256: and 64 hexadecimal digits, as sha256sum prints them")]
pub struct BadChecksum;

impl Checksum {
    /// From the bytes of a finished hash.
    #[must_use]
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The 64 digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first 16 digits: enough to name a volume.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads the digits alone.
    pub(super) fn from_hex(text: &str) -> Result<Self, BadChecksum> {
        if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadChecksum);
        }
        let mut digest = [0; 32];
        for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
            let digits = text.get(at..at + 2).ok_or(BadChecksum)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| BadChecksum)?;
        }
        Ok(Self(digest))
    }

    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Checksum {
    type Err = BadChecksum;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_hex(text.strip_prefix("sha256:").ok_or(BadChecksum)?)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_checksum_is_refused() {
        let digits = "0".repeat(64);
        for text in ["", "sha256:", &digits, &["md5:", &digits].concat(), &["sha256:", &digits, "0"].concat()] {
            assert!(text.parse::<Checksum>().is_err(), "{text}");
        }
        assert!(["sha256:", &"G".repeat(64)].concat().parse::<Checksum>().is_err());
        assert!(["sha256:", &"é".repeat(32)].concat().parse::<Checksum>().is_err());
    }

    proptest! {
        #[test]
        fn written_and_read_back_is_the_same(digest: [u8; 32]) {
            let checksum = Checksum::new(digest);
            prop_assert_eq!(checksum.to_string().parse::<Checksum>().unwrap(), checksum);
            prop_assert!(checksum.hex().starts_with(&checksum.short()));
        }
    }
}
