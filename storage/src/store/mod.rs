//! The store: the interface to the registry's data.
//!
//! A [`Store`] keeps four things: entries by name with an index by tag, extra records that are replicated with
//! them, meta records that belong to this node, and the [`Summary`]. It knows no rules: [`crate::Registry`]
//! decides what changes and hands over one [`Batch`], which is written as a whole or not at all. [`rocks`] is
//! the store that Hearth uses. A program that embeds Hearth may bring its own, and [`crate::conformance`] tests
//! it. A replica needs a [`Home`]: a store with a [`Log`] in it.

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

/// A callback for each entry of a scan. It returns `Break` to end the scan.
pub type EntryVisitor<'a> =
    dyn FnMut(&str, StoredEntry<'_>) -> Result<ControlFlow<()>, StoreError> + 'a;

/// A callback for each record of a scan. It returns `Break` to end the scan.
pub type RecordVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + 'a;

/// A callback for each name of a scan, with the revision of its creation. It returns `Break` to end the scan.
pub type CreatedVisitor<'a> = dyn FnMut(Revision, &str) -> Result<ControlFlow<()>, StoreError> + 'a;

/// A store of the registry's data. Many threads may read it, one at a time may write.
pub trait Store: Send + Sync {
    /// Returns the entry of `name`. This is the hot path: one point read.
    ///
    /// # Errors
    /// [`StoreError`].
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError>;

    /// Returns the extra record under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn extra(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Returns the meta record under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Returns the summary of the last batch or of the last install; the default summary if there was none. Its
    /// cost does not depend on the number of entries.
    ///
    /// # Errors
    /// [`StoreError`].
    fn summary(&self) -> Result<Summary, StoreError>;

    /// Returns a view of everything as it is now. No later batch and no later install changes it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn view(&self) -> Result<Box<dyn View>, StoreError>;

    /// Writes all of `batch` or nothing. Readers see the whole batch once this returns. It need not be durable
    /// then: after a crash the store holds the result of some earlier batch, unless the store promises more.
    ///
    /// # Errors
    /// [`StoreError`]; nothing may be written to the store after one.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Begins to replace everything. The present state stays until [`Install::finish`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn begin_install(&self) -> Result<Box<dyn Install>, StoreError>;
}

/// A store and a log whose writes form one ordered stream, with one sync for both. A crash leaves a prefix of
/// that stream with all that was synced, so the state is never ahead of the log.
pub trait Home: Store {
    /// Returns the log beside the registry's data.
    fn log(&self) -> LogHome;

    /// Registers a hook that is called once, with the reason, when a write or sync fails or data turns out to
    /// be corrupt; at once if that has happened. A node that cannot trust its disk stops.
    fn on_failure(&self, hook: Box<dyn FnOnce(&str) + Send>);

    /// Frees room on a disk that is nearly full, if that first takes no more than `len_max` bytes. Returns true
    /// if it did. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    fn free_logs(&self, len_max: u64) -> Result<bool, StoreError>;

    /// Completes the queued writes, syncs, and refuses all later writes. Blocks.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Stopped`] if the store was closed before.
    fn close(&self) -> Result<(), StoreError>;
}

/// A view of a store at one moment. It holds its room on disk until it is dropped.
pub trait View: Send + Sync {
    /// Returns the entry of `name`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError>;

    /// Returns the summary.
    ///
    /// # Errors
    /// [`StoreError`].
    fn summary(&self) -> Result<Summary, StoreError>;

    /// Visits all meta records in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError`], or the error that `visit` returns.
    fn metas(&self, visit: &mut RecordVisitor<'_>) -> Result<(), StoreError>;

    /// Visits the entries whose name starts with `prefix` and is not below `from`, in the order of their names
    /// by code point. The cost is that of the entries visited.
    ///
    /// # Errors
    /// [`StoreError`], or the error that `visit` returns.
    fn entries(
        &self,
        prefix: &str,
        from: &str,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<(), StoreError>;

    /// Returns a cursor over the names of the entries that have `tag`. The cost is that of the names taken from
    /// it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn tagged(&self, tag: &str) -> Result<Box<dyn NameCursor + '_>, StoreError>;

    /// Visits the names whose entries were created after `as_of`, in the order of their creation and then by
    /// name. The cost is that of the names visited. A store may leave out entries from a time without this
    /// order; the registry asks about later times only.
    ///
    /// # Errors
    /// [`StoreError`], or the error that `visit` returns.
    fn created_since(
        &self,
        as_of: Revision,
        visit: &mut CreatedVisitor<'_>,
    ) -> Result<(), StoreError>;

    /// Visits the extra records whose key starts with `prefix` and is not below `from`, in the order of their
    /// keys.
    ///
    /// # Errors
    /// [`StoreError`], or the error that `visit` returns.
    fn extras(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut RecordVisitor<'_>,
    ) -> Result<(), StoreError>;
}

/// A cursor over names in order.
pub trait NameCursor {
    /// Returns the first name that is not below `from`. Later calls of [`Self::next`] continue behind it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn seek(&mut self, from: &str) -> Result<Option<Name>, StoreError>;

    /// Returns the name after the last one that was returned, or the first name at the beginning; `None` at the
    /// end.
    ///
    /// # Errors
    /// [`StoreError`].
    fn next(&mut self) -> Result<Option<Name>, StoreError>;
}

/// A state that is being filled and will replace the present one. Dropped without [`Self::finish`], it leaves
/// nothing behind.
pub trait Install: Send + Sync {
    /// Adds entries. Each name is added once.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_entries(&mut self, entries: &[(Name, Entry)]) -> Result<(), StoreError>;

    /// Adds extra records. Each key is added once.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_extras(&mut self, extras: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError>;

    /// Does the long part of [`Self::finish`] in advance. Called when everything was added.
    ///
    /// # Errors
    /// [`StoreError`].
    fn prepare(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Makes this the state, durably and as a whole, with these meta records and no others.
    ///
    /// # Errors
    /// [`StoreError`]; the old state then stays.
    fn finish(
        self: Box<Self>,
        meta: BTreeMap<Vec<u8>, Vec<u8>>,
        summary: Summary,
    ) -> Result<(), StoreError>;
}

/// An entry in a scan. It is decoded only when it is needed.
#[derive(Debug, Clone, Copy)]
pub struct StoredEntry<'a>(Stored<'a>);

#[derive(Debug, Clone, Copy)]
enum Stored<'a> {
    Sealed { name: &'a str, record: &'a [u8] },
    Plain(&'a Entry),
}

impl<'a> StoredEntry<'a> {
    /// Wraps an entry of a store that has entries in memory.
    pub fn plain(entry: &'a Entry) -> Self {
        Self(Stored::Plain(entry))
    }

    /// Wraps a record of a store that keeps the output of `format::seal_entry`.
    pub(crate) fn sealed(name: &'a str, record: &'a [u8]) -> Self {
        Self(Stored::Sealed { name, record })
    }

    /// Returns the bytes of the entry without its name; the same in every store.
    pub(crate) fn len(&self) -> usize {
        match self.0 {
            Stored::Sealed { record, .. } => format::sealed_len(record),
            Stored::Plain(entry) => format::entry_len(entry),
        }
    }

    /// Returns the entry without decoding it; `None` in a store that has entries in memory.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub(crate) fn packed(&self) -> Result<Option<PackedEntry<'a>>, StoreError> {
        match self.0 {
            Stored::Sealed { name, record } => format::unseal_entry_ref(name, record).map(Some),
            Stored::Plain(_) => Ok(None),
        }
    }

    /// Decodes the entry.
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

/// The change of one name in a batch. `before` is the entry in the store, so that a store need not read it to
/// find the tags to remove. At least one side is `Some`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryChange {
    /// The entry of the name in the store.
    pub before: Option<Entry>,
    /// The entry of the name after the batch.
    pub after: Option<Entry>,
}

impl EntryChange {
    /// Returns the tags that the name loses.
    pub fn tags_removed(&self) -> impl Iterator<Item = &String> {
        difference(self.before.as_ref(), self.after.as_ref())
    }

    /// Returns the tags that the name gains.
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
    /// Changed entries, by name.
    pub entries: BTreeMap<Name, EntryChange>,
    /// Entries to remove as a whole, however many there are: entries in the store that are not in `entries`.
    pub removal: Option<Removal>,
    /// Changed extra records, by key; `None` removes the record.
    pub extras: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Changed meta records, by key.
    pub meta: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Summary of the state after this batch.
    pub summary: Summary,
}
