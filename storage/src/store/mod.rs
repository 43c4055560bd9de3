//! Where the registry's data is kept.
//!
//! A [`Store`] keeps four things: entries by name with an index by tag, extra records that are
//! replicated with them, meta records that are this node's, and the [`Summary`]. It knows no rules:
//! [`crate::Registry`] decides what changes and hands over one [`Batch`], which is written whole or
//! not at all. [`rocks`] is the store that Hearth uses; a program that embeds Hearth may bring its own,
//! and [`crate::conformance`] judges it. A replica needs a [`Home`]: a store with a [`Log`] in it.

pub mod log;
pub mod rocks;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::error::StoreError;
use crate::format::{self, PackedEntry};
use crate::model::{Entry, Name, Revision, Tags};
use crate::removal::Removal;
use crate::summary::Summary;

pub use log::{Log, LogHome, LogStats, SyncDone};

/// Takes one entry of a scan and says whether to go on.
pub type EntryVisitor<'a> =
    dyn FnMut(&str, StoredEntry<'_>) -> Result<ControlFlow<()>, StoreError> + 'a;

/// Takes one record of a scan and says whether to go on.
pub type RecordVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + 'a;

/// Takes a name and when it was created, and says whether to go on.
pub type CreatedVisitor<'a> = dyn FnMut(Revision, &str) -> Result<ControlFlow<()>, StoreError> + 'a;

/// A place for the registry's data. Read by many threads, written by one at a time.
pub trait Store: Send + Sync {
    /// What `name` stands for. The hot path: one point read.
    ///
    /// # Errors
    /// [`StoreError`].
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError>;

    /// The extra record under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn extra(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The meta record under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The summary of the last batch, or of the last install; the default one when there was none.
    /// Its cost does not depend on the number of entries.
    ///
    /// # Errors
    /// [`StoreError`].
    fn summary(&self) -> Result<Summary, StoreError>;

    /// Everything as it is now: no later batch and no later install changes what the view shows.
    ///
    /// # Errors
    /// [`StoreError`].
    fn view(&self) -> Result<Box<dyn View>, StoreError>;

    /// Writes all of `batch` or nothing. Readers see it, whole, once this returns. It need not be
    /// durable then: after a crash the store holds the result of some earlier batch, unless it is
    /// said otherwise.
    ///
    /// # Errors
    /// [`StoreError`]; nothing must be written to the store after one.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Starts to replace everything. What is here stays until [`Install::finish`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn begin_install(&self) -> Result<Box<dyn Install>, StoreError>;
}

/// A store and a log whose writes form one ordered stream, with one sync for both: after a crash there is a
/// prefix of it, with all that was synced, so the state is never ahead of the log.
pub trait Home: Store {
    /// The log beside the registry's data.
    fn log(&self) -> LogHome;

    /// Has `hook` called, once and with the reason, when a write or sync fails or data turns out to be
    /// corrupt (at once if that has happened). A node that cannot trust its disk stops.
    fn on_failure(&self, hook: Box<dyn FnOnce(&str) + Send>);

    /// Frees room on a disk that is nearly full, if that takes no more than `len_max` bytes first; whether
    /// it did. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    fn free_logs(&self, len_max: u64) -> Result<bool, StoreError>;

    /// Completes what is queued, syncs, and lets nothing be written from then on. Blocks.
    ///
    /// # Errors
    /// [`StoreError`]; one that was closed before says that it has stopped.
    fn close(&self) -> Result<(), StoreError>;
}

/// A store at one moment. Keeps its place on disk until it is dropped.
pub trait View: Send + Sync {
    /// What `name` stands for.
    ///
    /// # Errors
    /// [`StoreError`].
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError>;

    /// The summary.
    ///
    /// # Errors
    /// [`StoreError`].
    fn summary(&self) -> Result<Summary, StoreError>;

    /// All meta records, in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError`], or what `visit` returns.
    fn metas(&self, visit: &mut RecordVisitor<'_>) -> Result<(), StoreError>;

    /// The entries whose name starts with `prefix` and is not below `from`, in the order of their
    /// names by code point. Costs what it visits.
    ///
    /// # Errors
    /// [`StoreError`], or what `visit` returns.
    fn entries(
        &self,
        prefix: &str,
        from: &str,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<(), StoreError>;

    /// The names of the entries that have `tag`. Costs what is taken from it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn tagged(&self, tag: &str) -> Result<Box<dyn NameCursor + '_>, StoreError>;

    /// The names whose entries were created after `as_of`, in the order of their creation and then by name.
    /// Costs what it visits. A store may leave out what it took over from a time without this order; the
    /// registry asks about later times only.
    ///
    /// # Errors
    /// [`StoreError`], or what `visit` returns.
    fn created_since(
        &self,
        as_of: Revision,
        visit: &mut CreatedVisitor<'_>,
    ) -> Result<(), StoreError>;

    /// The extra records whose key starts with `prefix` and is not below `from`, in the order of their
    /// keys.
    ///
    /// # Errors
    /// [`StoreError`], or what `visit` returns.
    fn extras(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut RecordVisitor<'_>,
    ) -> Result<(), StoreError>;
}

/// Names in order.
pub trait NameCursor {
    /// The first name that is not below `from`; later calls of [`Self::next`] go on behind it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn seek(&mut self, from: &str) -> Result<Option<Name>, StoreError>;

    /// The name after the last one that was returned; the first one at the beginning.
    ///
    /// # Errors
    /// [`StoreError`].
    fn next(&mut self) -> Result<Option<Name>, StoreError>;
}

/// Fills a state that will replace the present one. Dropped without [`Self::finish`], it leaves
/// nothing behind.
pub trait Install: Send + Sync {
    /// Adds entries; each name comes once.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_entries(&mut self, entries: &[(Name, Entry)]) -> Result<(), StoreError>;

    /// Adds extra records; each key comes once.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_extras(&mut self, extras: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError>;

    /// Does what can be done before [`Self::finish`] and takes long, when everything has come.
    ///
    /// # Errors
    /// [`StoreError`].
    fn prepare(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Makes it the state, with these meta records and no others, durably and whole.
    ///
    /// # Errors
    /// [`StoreError`]; the old state stays then.
    fn finish(
        self: Box<Self>,
        meta: BTreeMap<Vec<u8>, Vec<u8>>,
        summary: Summary,
    ) -> Result<(), StoreError>;
}

/// An entry as a scan meets it: read only where it is wanted.
#[derive(Debug, Clone, Copy)]
pub struct StoredEntry<'a>(Stored<'a>);

#[derive(Debug, Clone, Copy)]
enum Stored<'a> {
    Sealed { name: &'a str, record: &'a [u8] },
    Plain(&'a Entry),
}

impl<'a> StoredEntry<'a> {
    /// For a store that has entries in memory.
    pub fn plain(entry: &'a Entry) -> Self {
        Self(Stored::Plain(entry))
    }

    /// For a store that keeps what `format::seal_entry` gave.
    pub(crate) fn sealed(name: &'a str, record: &'a [u8]) -> Self {
        Self(Stored::Sealed { name, record })
    }

    /// Bytes of the entry, without its name; the same in every store.
    pub(crate) fn len(&self) -> usize {
        match self.0 {
            Stored::Sealed { record, .. } => format::sealed_len(record),
            Stored::Plain(entry) => format::entry_len(entry),
        }
    }

    /// The entry where it is. `None` in a store that has entries in memory.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub(crate) fn packed(&self) -> Result<Option<PackedEntry<'a>>, StoreError> {
        match self.0 {
            Stored::Sealed { name, record } => format::unseal_entry_ref(name, record).map(Some),
            Stored::Plain(_) => Ok(None),
        }
    }

    /// The entry.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn read(&self) -> Result<Entry, StoreError> {
        match self.0 {
            Stored::Sealed { name, record } => format::unseal_entry(name, record),
            Stored::Plain(entry) => Ok(entry.clone()),
        }
    }
}

/// What happens to one name in a batch. `before` is what the store holds, so that a store need not
/// read to find out which tags go; never `None` on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryChange {
    /// What the name stands for in the store.
    pub before: Option<Entry>,
    /// What it will stand for.
    pub after: Option<Entry>,
}

impl EntryChange {
    /// Tags that the name loses.
    pub fn tags_removed(&self) -> impl Iterator<Item = &String> {
        difference(self.before.as_ref(), self.after.as_ref())
    }

    /// Tags that the name gains.
    pub fn tags_added(&self) -> impl Iterator<Item = &String> {
        difference(self.after.as_ref(), self.before.as_ref())
    }
}

fn difference<'a>(
    these: Option<&'a Entry>,
    without: Option<&'a Entry>,
) -> impl Iterator<Item = &'a String> {
    let without: Option<&Tags> = without.map(|entry| &entry.tags);
    these
        .into_iter()
        .flat_map(|entry| &entry.tags)
        .filter(move |tag| without.is_none_or(|tags| !tags.contains(*tag)))
}

/// Changes that are written together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// By name.
    pub entries: BTreeMap<Name, EntryChange>,
    /// Entries that go, too, however many they are; of those in the store, none in `entries`.
    pub removal: Option<Removal>,
    /// By key; `None` removes.
    pub extras: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// By key.
    pub meta: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of the state with this batch in it.
    pub summary: Summary,
}
