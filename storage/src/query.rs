//! Every question to the registry, and its answers.

use crate::entries::Entries;
use crate::list::ListRefusal;
use crate::model::{Entry, Name};
use crate::pattern::Pattern;

/// Which entries a list holds.
#[derive(Debug, Clone)]
pub enum Filter {
    /// All of them.
    All,
    /// Names that start with one of these.
    Prefix(Vec<String>),
    /// Names that the pattern matches at their start.
    Regex(Pattern),
    /// Entries with all of these tags; all entries when there is none.
    TagsAll(Vec<String>),
    /// Entries with at least one of these tags; no entry when there is none.
    TagsAny(Vec<String>),
}

/// A question.
#[derive(Debug, Clone)]
pub enum Query {
    /// How many entries there are.
    Count,
    /// What a name stands for.
    Lookup(Name),
    /// The entries that a filter lets through.
    List(Filter),
}

/// An answer; each kind of query has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Query::Count`].
    Count(u64),
    /// To [`Query::Lookup`].
    Entry(Option<Entry>),
    /// To [`Query::List`], in the order of creation; by name where that is the same.
    Entries(Entries),
    /// To [`Query::List`] that met a bound.
    Refused(ListRefusal),
}
