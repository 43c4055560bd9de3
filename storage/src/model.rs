//! What the registry holds: names, and what they stand for.

use std::collections::BTreeSet;

/// A logical name: any Unicode text, empty included; compared and ordered by code point.
pub type Name = String;

/// Metadata tags of an entry, the yellow pages' key words.
pub type Tags = BTreeSet<String>;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The URI as the text that was registered, not normalised.
    pub uri: String,
    /// Its metadata tags.
    pub tags: Tags,
    /// Index of the log entry that last changed it.
    pub revision: u64,
}
