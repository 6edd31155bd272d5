//! User-data: the owner's own text.

use super::GuestError;

/// What guests get when nothing is given: some readers of cloud-init complain about an empty file.
pub(super) const NOTHING: &str = "#cloud-config\n{}\n";

/// User-data that is within the limits: at most 16 KiB of UTF-8 without NUL. Not interpreted.
#[derive(Clone, PartialEq, Eq)]
pub struct UserDataText(String);

impl UserDataText {
    /// The largest user-data, in bytes.
    pub const LIMIT: usize = 16 << 10;

    /// Checks the limits.
    ///
    /// # Errors
    /// Names the limit and the actual size, or where it stops being text.
    pub fn parse(bytes: &[u8]) -> Result<Self, GuestError> {
        if bytes.len() > Self::LIMIT {
            return Err(GuestError::UserDataTooLarge { limit: Self::LIMIT, actual: bytes.len() });
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| GuestError::UserDataNotUtf8 { position: error.valid_up_to() })?;
        match text.find('\0') {
            Some(position) => Err(GuestError::UserDataNul { position }),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The text, as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says how long it is, not what it says: user-data may hold secrets.
impl std::fmt::Debug for UserDataText {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "UserDataText({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_in_bytes_and_the_message_says_both_sizes() {
        assert!(UserDataText::parse(&vec![b'a'; UserDataText::LIMIT]).is_ok());
        let message = UserDataText::parse("é".repeat(8193).as_bytes()).unwrap_err().to_string();
        assert!(message.contains("16386") && message.contains("16384"), "{message}");
    }

    #[test]
    fn only_text_is_user_data() {
        let message = UserDataText::parse(b"abc\xff").unwrap_err().to_string();
        assert!(message.contains("byte 3"), "{message}");
        let message = UserDataText::parse(b"a\0").unwrap_err().to_string();
        assert!(message.contains("NUL at byte 1"), "{message}");
    }

    #[test]
    fn debug_output_keeps_secrets() {
        assert_eq!(format!("{:?}", UserDataText::parse(b"password").unwrap()), "UserDataText(8 bytes)");
    }
}
