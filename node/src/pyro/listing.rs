//! Lists of entries: made in one piece that any thread can do, because they may take a while.

use hearth_raft::Replica;
use hearth_storage::{
    Answer, Entry, Filter, Name, Pattern, PatternError, Query, Refusal, StoreError, Tags,
};
use hearth_wire::{Exception, Family, Value};

/// A list to be made: everything that it needs, so that any thread can do it.
#[derive(Debug)]
pub(super) struct Listing {
    pub replica: Replica,
    pub selection: Selection,
    pub with_tags: bool,
    /// The name server's own entry, which the registry does not hold.
    pub own: (Name, Entry),
    pub family: Family,
}

/// Which entries a list holds, as far as the arguments say it.
#[derive(Debug)]
pub(super) enum Selection {
    Filter(Filter),
    /// A pattern that is not yet compiled.
    Regex(String),
}

impl Listing {
    /// Makes the list. Takes time in proportion to it, or to what its pattern must be tried on.
    ///
    /// # Errors
    /// `NamingError` and what else a pattern can raise.
    pub(super) fn make(self) -> Result<Value, Exception> {
        let filter = match self.selection {
            Selection::Filter(filter) => filter,
            Selection::Regex(text) => {
                Filter::Regex(Pattern::parse(&text).map_err(pattern_refusal)?)
            }
        };
        let holds_own = lets_through(&filter, &self.own)?;
        let query = Query::List(filter);
        let mut entries = match self.replica.answer(&query).map_err(store_failure)? {
            Answer::Entries(entries) => entries,
            Answer::Refused(refusal) => return Err(list_refusal(&refusal)),
            other => return Err(unexpected(&other)),
        };
        if holds_own {
            let index = entries.partition_point(|(name, _)| *name < self.own.0);
            entries.insert(index, self.own);
        }
        let items = entries.into_iter().map(|(name, entry)| {
            let uri = Value::Str(entry.uri);
            let value = if self.with_tags {
                Value::Tuple(vec![uri, tag_collection(entry.tags, self.family)])
            } else {
                uri
            };
            (Value::Str(name), value)
        });
        Ok(Value::Dict(items.collect()))
    }
}

/// Whether the name server's own entry, which the registry does not hold, passes a filter.
fn lets_through(filter: &Filter, (name, entry): &(Name, Entry)) -> Result<bool, Exception> {
    Ok(match filter {
        Filter::All => true,
        Filter::Prefix(prefixes) => prefixes.iter().any(|prefix| name.starts_with(prefix)),
        Filter::Regex(pattern) => pattern.matches(name).map_err(pattern_refusal)?,
        Filter::TagsAll(tags) => tags.iter().all(|tag| entry.tags.contains(tag)),
        Filter::TagsAny(tags) => tags.iter().any(|tag| entry.tags.contains(tag)),
    })
}

/// Tags as a family's clients see them.
pub(super) fn tag_collection(tags: Tags, family: Family) -> Value {
    let tags = tags.into_iter().map(Value::Str).collect();
    match family {
        Family::Pyro4 => Value::List(tags),
        Family::Pyro5 => Value::Set(tags),
    }
}

pub(super) fn pattern_refusal(error: PatternError) -> Exception {
    match error {
        PatternError::RepetitionTooLarge => Exception::builtin("OverflowError", error.to_string()),
        PatternError::TooDeep => Exception::builtin("RecursionError", error.to_string()),
        other => invalid_regex(&other.to_string()),
    }
}

pub(super) fn list_refusal(refusal: &Refusal) -> Exception {
    match refusal {
        Refusal::Pattern(text) => invalid_regex(text),
        other => Exception::naming(format!("refused: {other:?}")),
    }
}

pub(super) fn invalid_regex(text: &str) -> Exception {
    Exception::naming(format!("invalid regex: {text}"))
}

pub(super) fn store_failure(error: StoreError) -> Exception {
    tracing::error!(%error, "the store cannot answer");
    Exception::naming(format!("the store cannot answer: {error}"))
}

pub(super) fn unexpected(answer: &Answer) -> Exception {
    tracing::error!(?answer, "an answer of the wrong kind");
    Exception::naming("the store gave an answer of the wrong kind")
}
