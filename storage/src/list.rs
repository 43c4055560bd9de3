//! Lists of entries within bounds: their length, the cost of their pattern, and whether a client still waits
//! for them.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;

use crate::entries::{Entries, Texts};
use crate::error::StoreError;
use crate::model::{Name, Revision};
use crate::pattern::{Pattern, PatternError, Search, Steps};
use crate::query::Filter;
use crate::removal::minimal_prefixes;
use crate::store::{NameCursor, StoredEntry, View};

/// Number of names that are visited between two checks of [`Bounds::is_given_up`].
const TURN_NAME_COUNT: u32 = 256;

/// Approximate bytes that a serializer adds to each text.
const TEXT_OVERHEAD: usize = 4;

/// Limits on the cost of a list.
pub struct Bounds<'a> {
    /// Maximum number of bytes of names, URIs and tags, approximately as they are sent. A list that exceeds it
    /// is refused at once, so it is never in memory as a whole.
    pub len_max: usize,
    /// Budget of steps for the pattern.
    pub steps: Steps,
    /// Returns true once no client waits for the list any more.
    pub is_given_up: &'a dyn Fn() -> bool,
}

impl Default for Bounds<'_> {
    /// No limit on the length, and the default budget of steps of one call.
    fn default() -> Self {
        Self {
            len_max: usize::MAX,
            steps: Steps::default(),
            is_given_up: &|| false,
        }
    }
}

impl fmt::Debug for Bounds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounds")
            .field("len_max", &self.len_max)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// The reason why a list was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListRefusal {
    /// The pattern exceeds its budget of steps or another bound.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The list exceeds its maximum length.
    #[error("its names have more than {len_max} bytes, the first {count} of them alone")]
    TooLong {
        /// [`Bounds::len_max`].
        len_max: usize,
        /// Number of names at which the limit was exceeded.
        count: usize,
    },
    /// No client waits for the list any more.
    #[error("nobody waits for it any more")]
    GivenUp,
}

/// Returns the entries that `filter` selects, in the order of their creation.
pub(crate) fn entries(
    view: &dyn View,
    filter: &Filter,
    bounds: Bounds<'_>,
) -> Result<Result<Entries, ListRefusal>, StoreError> {
    let mut list = List::new(bounds);
    match filter {
        Filter::All => list.take_prefix(view, "")?,
        Filter::Prefix(prefixes) => {
            for prefix in minimal_prefixes(prefixes) {
                list.take_prefix(view, prefix)?;
            }
        }
        Filter::Regex(pattern) => {
            let mut search = list.search(pattern);
            view.entries(pattern.literal_prefix(), "", &mut |name, entry| {
                list.visit(|list| match search.matches(name) {
                    Ok(true) => list.take(name, &entry),
                    Ok(false) => Ok(()),
                    Err(error) => {
                        list.refusal = Some(error.into());
                        Ok(())
                    }
                })
            })?;
        }
        Filter::TagsAll(tags) => match distinct(tags).as_slice() {
            [] => list.take_prefix(view, "")?,
            tags => for_each_with_all(view, tags, |name| list.take_tagged(view, name))?,
        },
        Filter::TagsAny(tags) => {
            let mut names = BTreeSet::new();
            'tags: for tag in distinct(tags) {
                let mut cursor = view.tagged(tag)?;
                while let Some(name) = cursor.next()? {
                    if list.visit(|list| list.take_name(&name))?.is_break() {
                        break 'tags;
                    }
                    names.insert(name);
                }
            }
            // The names were counted while they were collected, and a name with several tags several times.
            (list.len, list.count) = (0, 0);
            for name in names {
                if list.take_tagged(view, name)?.is_break() {
                    break;
                }
            }
        }
    }
    Ok(list.finish())
}

/// Implements [`crate::Registry::matching`].
pub(crate) fn matching(
    view: &dyn View,
    pattern: &Pattern,
    since: Option<Revision>,
    bounds: Bounds<'_>,
) -> Result<Result<Vec<Name>, ListRefusal>, StoreError> {
    let mut list = List::new(bounds);
    let mut search = list.search(pattern);
    let mut names = Vec::new();
    let prefix = pattern.literal_prefix();
    let mut visit = |name: &str| {
        list.visit(|list| match search.matches(name) {
            Ok(true) => {
                names.push(name.to_owned());
                list.take_name(name)
            }
            Ok(false) => Ok(()),
            Err(error) => {
                list.refusal = Some(error.into());
                Ok(())
            }
        })
    };
    match since {
        None => view.entries(prefix, "", &mut |name, _| visit(name))?,
        Some(since) => view.created_since(since, &mut |_, name| {
            if name.starts_with(prefix) {
                visit(name)
            } else {
                Ok(ControlFlow::Continue(()))
            }
        })?,
    }
    Ok(match list.refusal {
        Some(refusal) => Err(refusal),
        None => Ok(names),
    })
}

/// A list under construction.
struct List<'a> {
    bounds: Bounds<'a>,
    found: Entries,
    /// Number of names taken.
    count: usize,
    /// Approximate bytes of the names and entries taken.
    len: usize,
    visited_count: u32,
    refusal: Option<ListRefusal>,
}

impl<'a> List<'a> {
    fn new(bounds: Bounds<'a>) -> Self {
        Self {
            bounds,
            found: Entries::default(),
            count: 0,
            len: 0,
            visited_count: 0,
            refusal: None,
        }
    }

    /// Begins a search with `pattern` within the list's budget of steps.
    fn search<'p>(&self, pattern: &'p Pattern) -> Search<'p> {
        pattern.search(self.bounds.steps.clone())
    }

    /// Looks at one name. Returns `Break` once the list is refused.
    fn visit(
        &mut self,
        look: impl FnOnce(&mut Self) -> Result<(), StoreError>,
    ) -> Result<ControlFlow<()>, StoreError> {
        self.visited_count += 1;
        if self.visited_count.is_multiple_of(TURN_NAME_COUNT) && (self.bounds.is_given_up)() {
            self.refusal = Some(ListRefusal::GivenUp);
        }
        if self.refusal.is_none() {
            look(self)?;
        }
        Ok(match self.refusal {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        })
    }

    /// Counts a name.
    fn take_name(&mut self, name: &str) -> Result<(), StoreError> {
        self.count += 1;
        self.grow(text_len(name));
        Ok(())
    }

    fn grow(&mut self, len: usize) {
        self.len = self.len.saturating_add(len);
        let len_max = self.bounds.len_max;
        if self.len > len_max {
            // The list is refused, so the entries found so far are of no use any more.
            self.found = Entries::default();
            let count = self.count;
            self.refusal = Some(ListRefusal::TooLong { len_max, count });
        }
    }

    fn take(&mut self, name: &str, entry: &StoredEntry<'_>) -> Result<(), StoreError> {
        let texts = self.found.push_stored(name, entry)?;
        self.count(texts);
        Ok(())
    }

    /// Counts an entry.
    fn count(&mut self, texts: Texts) {
        self.count += 1;
        self.grow(texts.len + texts.count * TEXT_OVERHEAD);
    }

    fn take_prefix(&mut self, view: &dyn View, prefix: &str) -> Result<(), StoreError> {
        if self.refusal.is_some() {
            return Ok(());
        }
        view.entries(prefix, "", &mut |name, entry| {
            self.visit(|list| list.take(name, &entry))
        })
    }

    /// Adds the entry of a name from the tag index.
    fn take_tagged(&mut self, view: &dyn View, name: Name) -> Result<ControlFlow<()>, StoreError> {
        self.visit(|list| {
            let Some(entry) = view.entry(&name)? else {
                return Err(StoreError::corrupt(
                    "the index by tag",
                    format!("it holds {name:?}, which is no entry"),
                ));
            };
            let texts = list.found.push(&name, &entry);
            list.count(texts);
            Ok(())
        })
    }

    fn finish(mut self) -> Result<Entries, ListRefusal> {
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        // Any order that is the same on every node would do. This is the order of Pyro's memory store.
        self.found.sort();
        Ok(self.found)
    }
}

fn text_len(text: &str) -> usize {
    text.len() + TEXT_OVERHEAD
}

fn distinct(tags: &[String]) -> Vec<&str> {
    let set: BTreeSet<&str> = tags.iter().map(String::as_str).collect();
    set.into_iter().collect()
}

/// Calls `visit` with each name that has all of `tags`, until it returns `Break`. The cursors leapfrog: each
/// one seeks to the name at which another one stands, so that the rarest tag bounds the work.
fn for_each_with_all(
    view: &dyn View,
    tags: &[&str],
    mut visit: impl FnMut(Name) -> Result<ControlFlow<()>, StoreError>,
) -> Result<(), StoreError> {
    let mut cursors = Vec::with_capacity(tags.len());
    for tag in tags {
        cursors.push(view.tagged(tag)?);
    }
    let Some((first, others)) = cursors.split_first_mut() else {
        return Ok(());
    };
    let mut candidate = first.next()?;
    while let Some(name) = candidate {
        candidate = match first_missing(others, &name)? {
            Missing::Nowhere => {
                if visit(name)?.is_break() {
                    return Ok(());
                }
                first.next()?
            }
            Missing::Next(later) => first.seek(&later)?,
            Missing::End => None,
        };
    }
    Ok(())
}

/// The result of a search for a name in several cursors.
enum Missing {
    /// All cursors have the name.
    Nowhere,
    /// One of the cursors does not have the name; this is the next name that it has.
    Next(Name),
    /// One of the cursors has no more names.
    End,
}

fn first_missing(
    cursors: &mut [Box<dyn NameCursor + '_>],
    name: &str,
) -> Result<Missing, StoreError> {
    for cursor in cursors {
        match cursor.seek(name)? {
            None => return Ok(Missing::End),
            Some(found) if found != name => return Ok(Missing::Next(found)),
            Some(_) => {}
        }
    }
    Ok(Missing::Nowhere)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::*;
    use crate::{Answer, Command, IfTaken, Location, Registry, RocksOptions, RocksStore};

    /// A registry of `name.0`, `name.1`, …, each with the tag `t`.
    fn registry(count: u64) -> Registry {
        let store = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
        let registry = Registry::new(Arc::new(store));
        let mut change = registry.begin().unwrap();
        for number in 0..count {
            let command = Command::Register {
                name: format!("name.{number}"),
                uri: "PYRO:o@h:1".to_owned(),
                tags: ["t".to_owned()].into(),
                if_taken: IfTaken::Replace,
            };
            change
                .apply(Revision::new(number + 1, 0), &command)
                .unwrap();
        }
        registry.commit(change).unwrap();
        registry
    }

    fn filters() -> Vec<Filter> {
        vec![
            Filter::All,
            Filter::Prefix(vec!["name.".to_owned(), "x".to_owned()]),
            Filter::Regex(Pattern::parse("name.*[0-9]").unwrap()),
            Filter::TagsAll(vec!["t".to_owned()]),
            Filter::TagsAny(vec!["t".to_owned(), "u".to_owned()]),
        ]
    }

    #[test]
    fn a_list_ends_at_its_bound_of_bytes() {
        let registry = registry(1000);
        for filter in filters() {
            let list = |len_max| {
                let bounds = Bounds {
                    len_max,
                    ..Bounds::default()
                };
                registry.list(&filter, bounds).unwrap()
            };
            let Answer::Entries(entries) = list(40_000) else {
                panic!("{filter:?}");
            };
            assert_eq!(entries.len(), 1000, "{filter:?}");
            let mut bound = 10_000;
            while let Answer::Refused(refusal) = list(bound) {
                let ListRefusal::TooLong { len_max, count } = refusal else {
                    panic!("{filter:?}: {refusal}");
                };
                assert_eq!(len_max, bound);
                assert!((100..=1000).contains(&count), "{filter:?}: {count}");
                bound += 1000;
            }
            assert!(bound > 10_000, "{filter:?}");
        }
    }

    #[test]
    fn a_list_that_nobody_waits_for_ends_soon() {
        let registry = registry(2000);
        for filter in filters() {
            let looks = Cell::new(0);
            let is_given_up = || {
                looks.set(looks.get() + 1);
                looks.get() > 2
            };
            let bounds = Bounds {
                is_given_up: &is_given_up,
                ..Bounds::default()
            };
            let answer = registry.list(&filter, bounds).unwrap();
            assert_eq!(answer, Answer::Refused(ListRefusal::GivenUp), "{filter:?}");
            assert_eq!(looks.get(), 3, "{filter:?}");
        }
    }

    #[test]
    fn all_names_of_a_list_share_its_steps() {
        let registry = registry(1000);
        let pattern = Pattern::parse(r"name\.(\d*)*\1x").unwrap();
        let bounds = || Bounds {
            steps: Steps::new(100_000),
            ..Bounds::default()
        };
        let filter = Filter::Regex(pattern.clone());
        let answer = registry.list(&filter, bounds()).unwrap();
        assert!(
            matches!(&answer, Answer::Refused(ListRefusal::Pattern(error)) if error.to_string().contains("100000 steps")),
            "{answer:?}"
        );
        let matching = registry.matching(&pattern, None, bounds()).unwrap();
        assert!(
            matches!(matching, Err(ListRefusal::Pattern(_))),
            "{matching:?}"
        );
    }

    #[test]
    fn what_a_pattern_matches_is_found_again_for_what_came_since() {
        let registry = registry(300);
        let pattern = Pattern::parse("name.*7$").unwrap();
        let matching = |since| {
            registry
                .matching(&pattern, since, Bounds::default())
                .unwrap()
                .unwrap()
        };
        assert_eq!(matching(None).len(), 30);
        let bounds = Bounds {
            len_max: 100,
            ..Bounds::default()
        };
        let too_long = registry.matching(&pattern, None, bounds).unwrap();
        assert!(
            matches!(too_long, Err(ListRefusal::TooLong { .. })),
            "{too_long:?}"
        );
    }
}
