//! The only rules of the name space.
//!
//! A [`Registry`] answers [`Query`]s from a [`Store`], and a [`Change`] gathers what [`Command`]s do to
//! it. What a command does depends on the state and on the command alone: no clock, no random choice,
//! no order that differs between two nodes. A refusal is a reply; a [`StoreError`] means that this
//! node's storage is broken, and says nothing about the command.
//!
//! The name server's own entry, `Pyro.NameServer`, is not here: each node answers for itself.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::fmt;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::command::{Command, IfTaken, Refusal, Reply};
use crate::error::StoreError;
use crate::model::{Entry, Name, Tags};
use crate::pattern::Pattern;
use crate::query::{Answer, Filter, Query};
use crate::snapshot::{Installation, SnapshotHeader, StateSnapshot};
use crate::store::{Batch, EntryChange, NameCursor, Store, View};
use crate::summary::{StateHash, Summary};

/// A registry in a store. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    /// Number of changes and installs that were written through this registry. Locked while one is
    /// written.
    writes: Mutex<u64>,
}

impl Registry {
    /// The registry that `store` holds. There must be one registry (and its clones) per store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                writes: Mutex::new(0),
            }),
        }
    }

    /// Answers a question from what has been committed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn answer(&self, query: &Query) -> Result<Answer, StoreError> {
        match query {
            Query::Lookup(name) => self.shared.store.entry(name).map(Answer::Entry),
            Query::Count => Ok(Answer::Count(self.summary()?.entry_count)),
            Query::List(filter) => list(&*self.shared.store.view()?, filter),
        }
    }

    /// Starts a change of what is committed now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(&self) -> Result<Change, StoreError> {
        let base = *self.writes();
        Ok(Change {
            summary: self.summary()?,
            store: Arc::clone(&self.shared.store),
            base,
            entries: BTreeMap::new(),
            extras: BTreeMap::new(),
            meta: BTreeMap::new(),
        })
    }

    /// Writes a change: all of it at once, or nothing. Readers see it when this returns; it is durable
    /// with the next sync of the log that shares its database.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] when something else was committed since the change was begun, and
    /// whatever the store reports.
    pub fn commit(&self, change: Change) -> Result<(), StoreError> {
        let mut writes = self.writes();
        if *writes != change.base {
            return Err(StoreError::Overtaken);
        }
        self.shared.store.commit(change.into_batch())?;
        *writes = writes.wrapping_add(1);
        Ok(())
    }

    /// Counts and hash of the committed state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn summary(&self) -> Result<Summary, StoreError> {
        self.shared.store.summary()
    }

    /// The hash of the committed state: entries and extra records.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn state_hash(&self) -> Result<StateHash, StoreError> {
        Ok(self.summary()?.hash)
    }

    /// The committed meta record under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.store.meta(key)
    }

    /// The committed extra record under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn extra(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.store.extra(key)
    }

    /// The committed extra records whose key starts with `prefix`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn extras(&self, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let mut found = BTreeMap::new();
        self.shared
            .store
            .view()?
            .extras(prefix, &[], &mut |key, value| {
                found.insert(key.to_vec(), value.to_vec());
                Ok(ControlFlow::Continue(()))
            })?;
        Ok(found)
    }

    /// The committed state as it is now, to be sent elsewhere. Takes milliseconds, whatever its size.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn snapshot(&self) -> Result<StateSnapshot, StoreError> {
        StateSnapshot::new(self.shared.store.view()?)
    }

    /// Starts to replace the state, the extra records and the meta records by those of a snapshot.
    /// What is here stays, and can be read, until [`Installation::finish`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin_install(&self, header: SnapshotHeader) -> Result<Installation, StoreError> {
        let install = self.shared.store.begin_install()?;
        Ok(Installation::new(self.clone(), header, install))
    }

    /// Installs a snapshot whose chunks are at hand.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] when it is incomplete or altered, whatever the chunks' source and the
    /// store report. The state is as before then.
    pub fn install(
        &self,
        header: SnapshotHeader,
        chunks: impl IntoIterator<Item = Result<Vec<u8>, StoreError>>,
    ) -> Result<(), StoreError> {
        let mut installation = self.begin_install(header)?;
        for chunk in chunks {
            installation.chunk(&chunk?)?;
        }
        installation.finish()
    }

    /// Runs `write` as the only writer, and counts it when it succeeds.
    pub(crate) fn write_alone(
        &self,
        write: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut writes = self.writes();
        write()?;
        *writes = writes.wrapping_add(1);
        Ok(())
    }

    fn writes(&self) -> MutexGuard<'_, u64> {
        // The counter is sound whatever a writer that panicked left undone: it counts afterwards.
        self.shared
            .writes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

/// What a number of commands do to the registry, before it is written. Each command sees the effects
/// of those before it; nobody else does until [`Registry::commit`].
pub struct Change {
    store: Arc<dyn Store>,
    /// [`Shared::writes`] when the change was begun.
    base: u64,
    /// Of the committed state.
    summary: Summary,
    entries: BTreeMap<Name, Slot<Entry>>,
    extras: BTreeMap<Vec<u8>, Slot<Vec<u8>>>,
    meta: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What the store holds under a key, and what it will hold.
struct Slot<T> {
    before: Option<T>,
    /// `None` as long as nothing changes.
    after: Option<Option<T>>,
}

impl<T> Slot<T> {
    fn current(&self) -> Option<&T> {
        match &self.after {
            Some(after) => after.as_ref(),
            None => self.before.as_ref(),
        }
    }
}

impl Change {
    /// Applies one command. `revision` is what the entries that it writes will carry: the index of the
    /// log entry that brought it.
    ///
    /// # Errors
    /// [`StoreError`]; the change must be dropped then.
    pub fn apply(&mut self, revision: u64, command: &Command) -> Result<Reply, StoreError> {
        match command {
            Command::Register {
                name,
                uri,
                tags,
                if_taken,
            } => self.register(revision, name, uri, tags, *if_taken),
            Command::SetMetadata { name, tags } => self.set_metadata(revision, name, tags),
            Command::Remove { name } => self.remove_if(name, |_| true),
            Command::RemoveIf { name, uri } => self.remove_if(name, |entry| entry.uri == *uri),
            Command::RemovePrefix { prefixes } => {
                let mut removed = 0;
                for prefix in minimal_prefixes(prefixes) {
                    removed += self.remove_all(self.names(prefix)?)?;
                }
                Ok(Reply::Removed(removed))
            }
            Command::RemoveRegex { pattern } => self.remove_regex(pattern),
        }
    }

    /// What `name` stands for after the commands so far.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        match self.entries.get(name) {
            Some(slot) => Ok(slot.current().cloned()),
            None => self.store.entry(name),
        }
    }

    /// Writes a meta record with the change.
    pub fn put_meta(&mut self, key: &[u8], value: Vec<u8>) {
        self.meta.insert(key.to_vec(), value);
    }

    /// Writes an extra record with the change. Extra records are part of the replicated state: they
    /// count in its hash and go with its snapshots.
    ///
    /// # Errors
    /// [`StoreError`]: what is there before is read.
    pub fn put_extra(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), StoreError> {
        self.extra_slot(key)?.after = Some(Some(value));
        Ok(())
    }

    /// Removes an extra record with the change, if it is there.
    ///
    /// # Errors
    /// [`StoreError`]: what is there before is read.
    pub fn remove_extra(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.extra_slot(key)?.after = Some(None);
        Ok(())
    }

    /// The extra record under `key` after the change so far.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn extra(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.extras.get(key) {
            Some(slot) => Ok(slot.current().cloned()),
            None => self.store.extra(key),
        }
    }

    /// The extra records whose key starts with `prefix` after the change so far.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn extras(&self, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let mut found = BTreeMap::new();
        self.store.view()?.extras(prefix, &[], &mut |key, value| {
            found.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        let from = (Bound::Included(prefix), Bound::Unbounded);
        for (key, slot) in self.extras.range::<[u8], _>(from) {
            if !key.starts_with(prefix) {
                break;
            }
            match slot.current() {
                Some(value) => found.insert(key.clone(), value.clone()),
                None => found.remove(key),
            };
        }
        Ok(found)
    }

    fn register(
        &mut self,
        revision: u64,
        name: &str,
        uri: &str,
        tags: &Tags,
        if_taken: IfTaken,
    ) -> Result<Reply, StoreError> {
        let slot = self.slot(name)?;
        if let (IfTaken::Refuse, Some(taken)) = (if_taken, slot.current()) {
            let uri = taken.uri.clone();
            return Ok(Reply::Refused(Refusal::NameTaken { uri }));
        }
        slot.after = Some(Some(Entry {
            uri: uri.to_owned(),
            tags: tags.clone(),
            revision,
        }));
        Ok(Reply::Done)
    }

    fn set_metadata(
        &mut self,
        revision: u64,
        name: &str,
        tags: &Tags,
    ) -> Result<Reply, StoreError> {
        let slot = self.slot(name)?;
        let Some(entry) = slot.current() else {
            return Ok(Reply::Refused(Refusal::UnknownName));
        };
        slot.after = Some(Some(Entry {
            uri: entry.uri.clone(),
            tags: tags.clone(),
            revision,
        }));
        Ok(Reply::Done)
    }

    fn remove_if(
        &mut self,
        name: &str,
        condition: impl FnOnce(&Entry) -> bool,
    ) -> Result<Reply, StoreError> {
        let slot = self.slot(name)?;
        let removes = slot.current().is_some_and(condition);
        if removes {
            slot.after = Some(None);
        }
        Ok(Reply::Removed(u64::from(removes)))
    }

    fn remove_regex(&mut self, pattern: &str) -> Result<Reply, StoreError> {
        // Patterns are checked before they are proposed; the log may still hold one that an earlier
        // or later release accepted, and then all nodes of one release refuse it alike.
        let pattern = match Pattern::parse(pattern) {
            Ok(pattern) => pattern,
            Err(error) => return Ok(Reply::Refused(Refusal::Pattern(error.to_string()))),
        };
        let mut names = self.names(pattern.literal_prefix())?;
        let mut error = None;
        names.retain(|name| match pattern.matches(name) {
            Ok(matches) => matches,
            Err(reason) => {
                error.get_or_insert(reason);
                false
            }
        });
        if let Some(error) = error {
            return Ok(Reply::Refused(Refusal::Pattern(error.to_string())));
        }
        Ok(Reply::Removed(self.remove_all(names)?))
    }

    fn remove_all(&mut self, names: Vec<Name>) -> Result<u64, StoreError> {
        let count = names.len() as u64;
        for name in names {
            self.slot(&name)?.after = Some(None);
        }
        Ok(count)
    }

    /// The names with this prefix after the change so far, in order.
    fn names(&self, prefix: &str) -> Result<Vec<Name>, StoreError> {
        let mut names = Vec::new();
        self.store.view()?.entries(prefix, "", &mut |name, _| {
            names.push(name.to_owned());
            Ok(ControlFlow::Continue(()))
        })?;
        let changed = self
            .entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(_, slot)| slot.after.is_some());
        let mut gone = BTreeSet::new();
        let mut new = Vec::new();
        for (name, slot) in changed {
            match (&slot.before, slot.current()) {
                (Some(_), None) => {
                    gone.insert(name.as_str());
                }
                (None, Some(_)) => new.push(name.clone()),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        if !gone.is_empty() {
            names.retain(|name| !gone.contains(name.as_str()));
        }
        if !new.is_empty() {
            names.append(&mut new);
            names.sort_unstable();
        }
        Ok(names)
    }

    fn slot(&mut self, name: &str) -> Result<&mut Slot<Entry>, StoreError> {
        match self.entries.entry(name.to_owned()) {
            btree_map::Entry::Occupied(slot) => Ok(slot.into_mut()),
            btree_map::Entry::Vacant(place) => {
                let before = self.store.entry(name)?;
                Ok(place.insert(Slot {
                    before,
                    after: None,
                }))
            }
        }
    }

    fn extra_slot(&mut self, key: &[u8]) -> Result<&mut Slot<Vec<u8>>, StoreError> {
        match self.extras.entry(key.to_vec()) {
            btree_map::Entry::Occupied(slot) => Ok(slot.into_mut()),
            btree_map::Entry::Vacant(place) => {
                let before = self.store.extra(key)?;
                Ok(place.insert(Slot {
                    before,
                    after: None,
                }))
            }
        }
    }

    fn into_batch(self) -> Batch {
        let mut summary = self.summary;
        let mut batch = Batch {
            meta: self.meta,
            ..Batch::default()
        };
        for (name, slot) in self.entries {
            let Some(after) = slot.after else { continue };
            if let Some(entry) = &slot.before {
                summary.remove_entry(&name, entry);
            }
            if let Some(entry) = &after {
                summary.add_entry(&name, entry);
            }
            if slot.before != after {
                let before = slot.before;
                batch.entries.insert(name, EntryChange { before, after });
            }
        }
        for (key, slot) in self.extras {
            let Some(after) = slot.after else { continue };
            if let Some(value) = &slot.before {
                summary.remove_extra(&key, value);
            }
            if let Some(value) = &after {
                summary.add_extra(&key, value);
            }
            if slot.before != after {
                batch.extras.insert(key, after);
            }
        }
        batch.summary = summary;
        batch
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("entries", &self.entries.len())
            .field("extras", &self.extras.len())
            .finish_non_exhaustive()
    }
}

/// The prefixes that are left when those that another one covers are taken out; in order, so that
/// scanning one after the other gives each name once, in order.
fn minimal_prefixes(prefixes: &[String]) -> Vec<&str> {
    let mut sorted: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut minimal: Vec<&str> = Vec::with_capacity(sorted.len());
    for prefix in sorted {
        // What a prefix covers follows it at once, so the last one kept is the only candidate.
        if !minimal.last().is_some_and(|last| prefix.starts_with(last)) {
            minimal.push(prefix);
        }
    }
    minimal
}

fn list(view: &dyn View, filter: &Filter) -> Result<Answer, StoreError> {
    let mut found = Vec::new();
    match filter {
        Filter::All => collect(view, "", &mut found)?,
        Filter::Prefix(prefixes) => {
            for prefix in minimal_prefixes(prefixes) {
                collect(view, prefix, &mut found)?;
            }
        }
        Filter::Regex(pattern) => {
            let mut error = None;
            view.entries(pattern.literal_prefix(), "", &mut |name, entry| {
                match pattern.matches(name) {
                    Ok(true) => found.push((name.to_owned(), entry.read()?)),
                    Ok(false) => {}
                    Err(reason) => {
                        error = Some(reason);
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            if let Some(error) = error {
                return Ok(Answer::Refused(Refusal::Pattern(error.to_string())));
            }
        }
        Filter::TagsAll(tags) => match distinct(tags).as_slice() {
            [] => collect(view, "", &mut found)?,
            tags => {
                for_each_with_all(view, tags, |name| push(view, name, &mut found))?;
            }
        },
        Filter::TagsAny(tags) => {
            let mut names = BTreeSet::new();
            for tag in distinct(tags) {
                let mut cursor = view.tagged(tag)?;
                while let Some(name) = cursor.next()? {
                    names.insert(name);
                }
            }
            for name in names {
                push(view, name, &mut found)?;
            }
        }
    }
    Ok(Answer::Entries(found))
}

fn distinct(tags: &[String]) -> Vec<&str> {
    let set: BTreeSet<&str> = tags.iter().map(String::as_str).collect();
    set.into_iter().collect()
}

fn collect(
    view: &dyn View,
    prefix: &str,
    found: &mut Vec<(Name, Entry)>,
) -> Result<(), StoreError> {
    view.entries(prefix, "", &mut |name, entry| {
        found.push((name.to_owned(), entry.read()?));
        Ok(ControlFlow::Continue(()))
    })
}

/// Adds the entry of a name that the tag index holds.
fn push(view: &dyn View, name: Name, found: &mut Vec<(Name, Entry)>) -> Result<(), StoreError> {
    let Some(entry) = view.entry(&name)? else {
        return Err(StoreError::corrupt(
            "the index by tag",
            format!("it holds {name:?}, which is no entry"),
        ));
    };
    found.push((name, entry));
    Ok(())
}

/// Calls `visit` with each name that has all of `tags`. The cursors leapfrog: each one seeks to the
/// name at which another stands, so that the rarest tag bounds the work.
fn for_each_with_all(
    view: &dyn View,
    tags: &[&str],
    mut visit: impl FnMut(Name) -> Result<(), StoreError>,
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
                visit(name)?;
                first.next()?
            }
            Missing::Next(later) => first.seek(&later)?,
            Missing::End => None,
        };
    }
    Ok(())
}

enum Missing {
    /// All cursors have the name.
    Nowhere,
    /// One of them has this one next instead.
    Next(Name),
    /// One of them has no more names.
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
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn prefixes_that_others_cover_go() {
        assert_eq!(
            minimal_prefixes(&owned(&["b", "ab", "a", "ab", "b.c", "c"])),
            ["a", "b", "c"]
        );
        assert_eq!(minimal_prefixes(&owned(&["x", "", "y"])), [""]);
        assert_eq!(
            minimal_prefixes(&owned(&["ab", "ab\u{10ffff}", "abc", "ac"])),
            ["ab", "ac"]
        );
        assert!(minimal_prefixes(&[]).is_empty());
    }
}
