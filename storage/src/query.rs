//! Queries to the registry, and their answers.

use crate::entries::Entries;
use crate::list::ListRefusal;
use crate::model::{Entry, Name};
use crate::pattern::Pattern;

/// A selection of the entries for a list.
#[derive(Debug, Clone)]
pub enum Filter {
    /// All entries.
    All,
    /// Entries whose name starts with one of these prefixes.
    Prefix(Vec<String>),
    /// Entries whose name the pattern matches at its start.
    Regex(Pattern),
    /// Entries with all of these tags; all entries if there are no tags.
    TagsAll(Vec<String>),
    /// Entries with at least one of these tags; no entries if there are no tags.
    TagsAny(Vec<String>),
}

/// A query.
#[derive(Debug, Clone)]
pub enum Query {
    /// The number of entries.
    Count,
    /// The entry of a name.
    Lookup(Name),
    /// The entries that a filter selects.
    List(Filter),
}

/// An answer. Each kind of query has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The answer to [`Query::Count`].
    Count(u64),
    /// The answer to [`Query::Lookup`]; `None` if the name does not exist.
    Entry(Option<Entry>),
    /// The answer to [`Query::List`], in the order of creation; by name where that is the same.
    Entries(Entries),
    /// The answer to a [`Query::List`] that exceeded a bound.
    Refused(ListRefusal),
}
