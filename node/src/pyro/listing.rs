//! Lists, and other results that are large: made in one piece that any thread can do, because they may take a
//! while.

use hearth_raft::Replica;
use hearth_storage::{
    Answer, Bounds, Entry, Filter, ListRefusal, Name, Pattern, PatternError, Query, Refusal, Steps,
    StoreError, Tags, entries,
};
use hearth_wire::{Exception, Family, NamingErrorKind, PyroClass, Uri, Value};

use super::presence::Presence;
use crate::logging::excerpt;

/// Bytes of a list that is put together where it was asked for, about.
pub(super) const INLINE_LEN_MAX: usize = 64 << 10;

/// Steps for the name server's own name, beside those for all others.
const OWN_STEP_COUNT: u64 = 10_000_000;

/// A result to be made: everything that it needs, so that any thread can do it.
#[derive(Debug)]
pub(super) struct Listing {
    pub replica: Replica,
    pub selection: Selection,
    pub with_tags: bool,
    /// The name server's own entry, which the registry does not hold.
    pub own: (Name, Entry),
    pub family: Family,
    /// Bytes that it may hold, about.
    pub len_max: usize,
}

/// Which entries a list holds, as far as the arguments say it.
#[derive(Debug)]
pub(super) enum Selection {
    Filter(Filter),
    /// A pattern that is not yet compiled.
    Regex(String),
    /// The one of this name, which is there, and not as an item of a dict: what a look-up returns.
    One {
        name: Name,
        ns_port: u16,
    },
}

/// A result, as far as it is to be made before it is written.
#[derive(Debug)]
pub(super) enum Made {
    /// All of it.
    Value(Value),
    /// A dict, by its items.
    Dict(Items),
}

impl Made {
    /// All of it.
    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Value(value) => value,
            Self::Dict(items) => Value::Dict(items.collect()),
        }
    }
}

/// The items of a list. Each is made when it is its turn, and until then takes little more than its bytes.
#[derive(Debug)]
pub(super) struct Items {
    /// Always first, as in the originals; the others come in the order in which they were created.
    own: Option<(Name, Entry)>,
    entries: entries::IntoIter,
    with_tags: bool,
    family: Family,
}

impl Items {
    /// About how long the dict is on the wire, and seldom less.
    pub(super) fn len_hint(&self) -> usize {
        self.entries.packed_len()
    }
}

impl Iterator for Items {
    type Item = (Value, Value);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, entry) = self.own.take().or_else(|| self.entries.next())?;
        let uri = Value::Str(entry.uri);
        let value = if self.with_tags {
            Value::Tuple(vec![uri, tag_collection(entry.tags, self.family)])
        } else {
            uri
        };
        Some((Value::Str(name), value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.own.is_some()) + self.entries.len();
        (left, Some(left))
    }
}

impl ExactSizeIterator for Items {}

impl Listing {
    /// Whether names are tried on a pattern.
    pub(super) const fn has_pattern(&self) -> bool {
        matches!(self.selection, Selection::Regex(_))
    }

    /// Makes the list if it is short enough for a reactor thread.
    ///
    /// # Errors
    /// As [`Self::make_within`].
    pub(super) fn make_if_short(&self, presence: &Presence) -> Result<Option<Value>, Exception> {
        match self.make_within(INLINE_LEN_MAX, presence)? {
            Ok(list) => Ok(Some(list.into_value())),
            Err(ListRefusal::TooLong { .. }) => Ok(None),
            Err(refusal) => Err(list_refusal(refusal)),
        }
    }

    /// Makes the list if its names, URIs and tags have at most `len_max` bytes, about. Takes time in proportion
    /// to it, or to what its pattern must be tried on; ends early when the client has gone.
    ///
    /// # Errors
    /// `NamingError` and what else a pattern can raise.
    pub(super) fn make_within(
        &self,
        len_max: usize,
        presence: &Presence,
    ) -> Result<Result<Made, ListRefusal>, Exception> {
        if presence.is_gone() {
            return Ok(Err(ListRefusal::GivenUp));
        }
        let pattern;
        let filter = match &self.selection {
            Selection::Filter(filter) => filter,
            Selection::Regex(text) => {
                pattern = Filter::Regex(Pattern::parse(text).map_err(pattern_refusal)?);
                &pattern
            }
            Selection::One { name, ns_port } => return self.one(name, *ns_port, len_max),
        };
        let holds_own = lets_through(filter, &self.own)?;
        let bounds = Bounds {
            len_max,
            steps: Steps::default(),
            is_given_up: &|| presence.is_gone(),
        };
        let entries = match self.replica.list(filter, bounds).map_err(store_failure)? {
            Answer::Entries(entries) => entries,
            Answer::Refused(refusal) => return Ok(Err(refusal)),
            other => return Err(unexpected(&other)),
        };
        Ok(Ok(Made::Dict(Items {
            own: holds_own.then(|| self.own.clone()),
            entries: entries.into_iter(),
            with_tags: self.with_tags,
            family: self.family,
        })))
    }

    fn one(
        &self,
        name: &str,
        ns_port: u16,
        len_max: usize,
    ) -> Result<Result<Made, ListRefusal>, Exception> {
        let answer = self.replica.answer(&Query::Lookup(name.to_owned()));
        let Answer::Entry(Some(entry)) = answer.map_err(store_failure)? else {
            return Err(unknown_name(name));
        };
        if entry_len(&entry) > len_max {
            return Ok(Err(ListRefusal::TooLong { len_max, count: 1 }));
        }
        looked_up(entry, self.with_tags, self.family, ns_port)
            .map(Made::Value)
            .map(Ok)
    }
}

/// Bytes of an entry's texts.
pub(super) fn entry_len(entry: &Entry) -> usize {
    entry.uri.len() + entry.tags.iter().map(String::len).sum::<usize>()
}

/// What a look-up of an entry returns.
pub(super) fn looked_up(
    entry: Entry,
    with_tags: bool,
    family: Family,
    ns_port: u16,
) -> Result<Value, Exception> {
    let uri = Uri::parse(&entry.uri, ns_port)
        .map_err(|error| Exception::pyro(PyroClass::PyroError, error.to_string()))?;
    let uri = Value::Uri(Box::new(uri));
    Ok(if with_tags {
        Value::Tuple(vec![uri, tag_collection(entry.tags, family)])
    } else {
        uri
    })
}

pub(super) fn unknown_name(name: &str) -> Exception {
    Exception::naming_of(NamingErrorKind::UnknownName, name)
}

/// Whether the name server's own entry, which the registry does not hold, passes a filter.
fn lets_through(filter: &Filter, (name, entry): &(Name, Entry)) -> Result<bool, Exception> {
    Ok(match filter {
        Filter::All => true,
        Filter::Prefix(prefixes) => prefixes.iter().any(|prefix| name.starts_with(prefix)),
        Filter::Regex(pattern) => pattern
            .search(Steps::new(OWN_STEP_COUNT))
            .matches(name)
            .map_err(pattern_refusal)?,
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

/// The exception for a list that met a bound.
pub(super) fn list_refusal(refusal: ListRefusal) -> Exception {
    match refusal {
        ListRefusal::Pattern(error) => pattern_refusal(error),
        ListRefusal::TooLong { len_max, count } => Exception::naming(format!(
            "list too long (the first {count} names have more than {len_max} bytes with their URIs and \
             metadata); ask for parts of it, by prefix for example"
        )),
        other => Exception::naming_of(NamingErrorKind::Refused, other),
    }
}

/// The exception for a removal that was refused where it was applied.
pub(super) fn removal_refusal(refusal: &Refusal) -> Exception {
    match refusal {
        Refusal::Pattern(text) => invalid_regex(text),
        other => Exception::naming_of(NamingErrorKind::Refused, format!("{other:?}")),
    }
}

pub(super) fn invalid_regex(text: &str) -> Exception {
    Exception::naming_of(NamingErrorKind::InvalidRegex, text)
}

pub(super) fn store_failure(error: StoreError) -> Exception {
    tracing::error!(%error, "the store cannot answer");
    Exception::naming(format!("the store cannot answer: {error}"))
}

pub(super) fn unexpected(answer: &Answer) -> Exception {
    let answer = format!("{answer:?}");
    tracing::error!(answer = &*excerpt(&answer), "an answer of the wrong kind");
    Exception::naming("the store gave an answer of the wrong kind")
}
