//! Sizes, written as Kubernetes quantities.

use std::borrow::Cow;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

use kube_quantity::ParsedQuantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A size in bytes, in YAML a Kubernetes quantity: `512Mi`, `20G`, `1073741824`.
///
/// Written back in its shortest exact binary form (`1536Mi`). Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(i64);

const SUFFIXES: [(&str, i64); 5] =
    [("Pi", 1 << 50), ("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];

/// What the schema accepts; the API server refuses the rest before the operator sees it.
const PATTERN: &str = r"^[0-9]+(\.[0-9]{1,9})?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$";

impl Bytes {
    /// No bytes at all.
    pub const ZERO: Self = Self(0);

    /// So many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        if bytes > i64::MAX as u64 { Self(i64::MAX) } else { Self(bytes as i64) }
    }

    /// So many mebibytes.
    #[must_use]
    pub const fn mebi(mebibytes: u32) -> Self {
        Self((mebibytes as i64) << 20)
    }

    /// So many gibibytes.
    #[must_use]
    pub const fn gibi(gibibytes: u32) -> Self {
        Self((gibibytes as i64) << 30)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.unsigned_abs()
    }

    /// The number of kibibytes, rounded up: libvirt's unit of memory.
    #[must_use]
    pub const fn kibibytes(self) -> u64 {
        self.get().div_ceil(1024)
    }

    /// Rounded up to whole mebibytes, for people.
    #[must_use]
    pub const fn whole_mebibytes(self) -> Self {
        Self::new(self.get().div_ceil(1 << 20) << 20)
    }

    /// What is left after taking `other` away, at least nothing.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0))
    }

    /// This size times a factor, such as an overcommit ratio.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self((self.0 as f64 * factor.max(0.0)) as i64)
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Bytes {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SUFFIXES.iter().find(|(_, unit)| self.0 != 0 && self.0 % unit == 0) {
            Some((suffix, unit)) => write!(formatter, "{}{suffix}", self.0 / unit),
            None => write!(formatter, "{}", self.0),
        }
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || format!("{text:?} is not a size such as 512Mi or 20Gi");
        let bytes = ParsedQuantity::try_from(text).ok().and_then(|parsed| parsed.to_bytes_f64()).ok_or_else(refuse)?;
        // A part of a byte counts as a byte, as in Kubernetes.
        if bytes < 0.0 { Err(refuse()) } else { Ok(Self(bytes.ceil() as i64)) }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(Self::new(bytes)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            // A string must match the pattern, a number the minimum.
            "pattern": PATTERN,
            "maxLength": 32,
            "minimum": 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [("512Mi", 512 << 20), ("2.6Gi", 2_791_728_743), ("20G", 20_000_000_000), ("7", 7)] {
            assert_eq!(text.parse::<Bytes>().unwrap().get(), bytes, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "-1Gi", "one", "1Gii", "1 Gi"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_and_read_back_is_the_same(bytes in 0u64..(1 << 50)) {
            prop_assert_eq!(Bytes::new(bytes).to_string().parse::<Bytes>().unwrap().get(), bytes);
        }
    }
}
