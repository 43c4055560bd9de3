//! What the registry holds: names, and what they stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A logical name: any Unicode text, empty included; compared and ordered by code point.
pub type Name = String;

/// Metadata tags of an entry, the yellow pages' key words.
pub type Tags = BTreeSet<String>;

/// Extra records of the state: key → value.
pub type Extras = BTreeMap<Vec<u8>, Vec<u8>>;

/// The place of a change in the order of all changes, written `81552.3`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Revision {
    /// Index of the log entry that brought the change.
    pub index: u64,
    /// Position of its command in that log entry, from 0.
    pub position: u32,
}

impl Revision {
    /// The revision of the command at `position` in the log entry at `index`.
    pub const fn new(index: u64, position: u32) -> Self {
        Self { index, position }
    }

    /// The last revision that the log entry at `index` can give: what a state that has applied it, and
    /// nothing behind it, is of.
    pub const fn end_of(index: u64) -> Self {
        Self::new(index, u32::MAX)
    }

    /// The first revision behind it; `None` behind the last one.
    pub(crate) fn next(self) -> Option<Self> {
        match self.position.checked_add(1) {
            Some(position) => Some(Self { position, ..self }),
            None => Some(Self::new(self.index.checked_add(1)?, 0)),
        }
    }

    /// Its bytes, which sort as revisions do: index u64, position u32, big-endian.
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

/// A text that is no revision.
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
            // The standard library takes a sign, which a revision has not.
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

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The URI as the text that was registered, not normalised.
    pub uri: String,
    /// Its metadata tags.
    pub tags: Tags,
    /// The revision of its last change.
    pub revision: Revision,
    /// The revision at which the name was registered first since it was not there. (Under
    /// [rules](crate::rules) 1, and from a data folder of format 1: of its last change.)
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
