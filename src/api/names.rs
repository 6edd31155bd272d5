//! Names of other objects, as they may become part of a request.

use std::fmt;
use std::str::FromStr;

/// Pattern of the name of an object: a DNS subdomain (RFC 1123), as Kubernetes demands of every kind that is referred to here.
pub(super) const OBJECT_NAME: &str = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$";

/// Pattern of a name that is one DNS label: namespaces, farms, machines.
pub(super) const LABEL: &str = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";

/// Pattern of a key in a Secret or ConfigMap, as Kubernetes demands it of their data.
pub(super) const DATA_KEY: &str = r"^[A-Za-z0-9._-]+$";

/// Pattern of the name of a user, a group or a service account: Kubernetes admits any text, here it has no white space around it
/// and no control characters in it.
pub(super) const SUBJECT_NAME: &str = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$";

/// The longest name of an object, in bytes.
const LONGEST: usize = 253;

/// The name of an object: nothing that could be another segment of a path, a query, or a step upwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName(String);

/// Text that is no name of an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} can't be the name of an object: use at most 253 of a-z, 0-9, - and ., a letter or digit at either end of each part"
)]
pub struct BadObjectName(String);

impl ObjectName {
    /// As it stands in a request.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectName {
    type Err = BadObjectName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_part = |part: &str| {
            let ends = part.bytes().next().is_some_and(is_plain) && part.bytes().next_back().is_some_and(is_plain);
            ends && part.bytes().all(|byte| is_plain(byte) || byte == b'-')
        };
        if text.len() <= LONGEST && text.split('.').all(is_part) {
            return Ok(Self(text.to_owned()));
        }
        Err(BadObjectName(text.chars().take(80).collect()))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_names_objects_is_taken() {
        for name in ["a", "client", "m1.small", "a-b.c-9", &"a".repeat(LONGEST)] {
            assert_eq!(name.parse::<ObjectName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn what_would_be_another_request_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "../../cascina-system/secrets/libvirt-client",
            "a/status",
            "a/../b",
            "a%2fb",
            "%2e%2e",
            "a?watch=true",
            "a#b",
            "a b",
            "a\nb",
            "A",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a.",
            "é",
            &"a".repeat(LONGEST + 1),
        ] {
            assert!(text.parse::<ObjectName>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_one_segment_of_a_path_and_itself_there(text in "[a-z0-9A-Z./%?#&;:@\\\\ é-]{0,12}") {
            if let Ok(name) = text.parse::<ObjectName>() {
                let url = url::Url::parse(&format!("https://host/secrets/{name}")).unwrap();
                prop_assert_eq!(url.path(), format!("/secrets/{text}"));
                prop_assert!(url.query().is_none() && url.fragment().is_none());
            }
        }
    }
}
