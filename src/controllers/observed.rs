//! What is known about the outside has three values, so that code which deletes can't be written against ignorance.

use jiff::Timestamp;

/// What a look at the outside told. Only `Absent` is a fact that something isn't there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    /// Nobody could look.
    Unknown {
        /// Why not.
        why: String,
        /// Since when.
        since: Timestamp,
    },
    /// It surely isn't there.
    Absent,
    /// It is there.
    Present(T),
}

impl<T> Observed<T> {
    /// The thing, if it was seen.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(thing) => Some(thing),
            Self::Unknown { .. } | Self::Absent => None,
        }
    }

    /// Whether it surely isn't there.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The same about something made from the thing.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Observed<U> {
        match self {
            Self::Unknown { why, since } => Observed::Unknown { why, since },
            Self::Absent => Observed::Absent,
            Self::Present(thing) => Observed::Present(make(thing)),
        }
    }
}
