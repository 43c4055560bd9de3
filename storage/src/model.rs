//! The contents of the registry: names and their entries.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A logical name: any Unicode text, including the empty one. Names are compared and ordered by code point.
pub type Name = String;

/// Metadata tags of an entry, the key words of Pyro's yellow pages.
pub type Tags = BTreeSet<String>;

/// Extra records of the state: key → value.
pub type Extras = BTreeMap<Vec<u8>, Vec<u8>>;

/// The position of a change in the order of all changes, written `81552.3`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Revision {
    /// Index of the log entry that contains the change.
    pub index: u64,
    /// Position of its command in that log entry, from 0.
    pub position: u32,
}

impl Revision {
    /// Returns the revision of the command at `position` in the log entry at `index`.
    pub const fn new(index: u64, position: u32) -> Self {
        Self { index, position }
    }

    /// Returns the last revision that the log entry at `index` can give. It is the revision of a state that has
    /// applied this entry and no later one.
    pub const fn end_of(index: u64) -> Self {
        Self::new(index, u32::MAX)
    }

    /// Returns the first revision after this one; `None` after the last one.
    pub(crate) fn next(self) -> Option<Self> {
        match self.position.checked_add(1) {
            Some(position) => Some(Self { position, ..self }),
            None => Some(Self::new(self.index.checked_add(1)?, 0)),
        }
    }

    /// Returns the bytes, which sort as revisions do: index u64, position u32, big-endian.
    pub(crate) fn to_be_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.index.to_be_bytes());
        bytes[8..].copy_from_slice(&self.position.to_be_bytes());
        bytes
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.position)
    }
}

/// The error for a text that is not a revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid revision {text:?}: expected INDEX.POSITION, for example 81552.3")]
pub struct RevisionError {
    text: String,
}

impl FromStr for Revision {
    type Err = RevisionError;

    fn from_str(text: &str) -> Result<Self, RevisionError> {
        let parse = || {
            let (index, position) = text.split_once('.')?;
            // The standard library accepts a sign, which a revision does not have.
            let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
            (digits(index) && digits(position)).then_some(())?;
            let parsed: Result<_, ParseIntError> = index
                .parse()
                .and_then(|index| Ok(Self::new(index, position.parse()?)));
            parsed.ok()
        };
        parse().ok_or_else(|| RevisionError {
            text: text.chars().take(40).collect(),
        })
    }
}

/// The registration of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The URI text as it was registered, not normalised.
    pub uri: String,
    /// The metadata tags.
    pub tags: Tags,
    /// The revision of the last change.
    pub revision: Revision,
    /// The revision at which the name was first registered since it last did not exist. (Under
    /// [rules](crate::rules) 1, and in a data directory of format 1: the revision of the last change.)
    pub created: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_written_and_read() {
        let revision = Revision::new(81_552, 3);
        assert_eq!(revision.to_string(), "81552.3");
        assert_eq!("81552.3".parse(), Ok(revision));
        for text in ["", "1", "1.", ".1", "+1.2", "1.-2", "1.2.3", "1.4294967296"] {
            assert!(text.parse::<Revision>().is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_sort_as_revisions_do() {
        let sorted = [(0, 0), (0, 1), (1, 0), (1, u32::MAX), (256, 0)];
        let sorted = sorted.map(|(index, position)| Revision::new(index, position));
        assert!(sorted.is_sorted());
        assert!(sorted.map(Revision::to_be_bytes).is_sorted());
    }
}
