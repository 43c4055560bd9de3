//! The registry in its store: it answers [`Query`]s and writes [`Change`]s.
//!
//! The name server's own entry, `Pyro.NameServer`, is not in it: each node answers for itself.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::change::Change;
use crate::error::StoreError;
use crate::list::{self, Bounds, ListRefusal};
use crate::model::{Extras, Name, Revision};
use crate::pattern::Pattern;
use crate::query::{Answer, Filter, Query};
use crate::rules::{self, InForce};
use crate::snapshot::{Installation, SnapshotHeader, StateSnapshot};
use crate::store::Store;
use crate::summary::{StateHash, Summary};

/// A registry in a store. Clones are cheap and share the registry.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    /// Locked while a change or an install is written.
    writes: Mutex<Writes>,
}

#[derive(Default)]
struct Writes {
    /// Number of changes and installs that were written through this registry.
    count: u64,
    /// The part of the committed state that each change starts from; `None` until it was read.
    committed: Option<Committed>,
}

/// The part of the committed state that each change starts from. It is kept in memory, so that a batch of
/// commands reads only the entries that it changes. It is small: the extra records are those of the members'
/// sessions and ids.
struct Committed {
    in_force: InForce,
    summary: Summary,
    extras: Arc<Extras>,
}

impl Committed {
    fn write_extras(&mut self, changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        if changes.is_empty() {
            return;
        }
        // Copied only while another change is open.
        let extras = Arc::make_mut(&mut self.extras);
        for (key, value) in changes {
            match value {
                Some(value) => extras.insert(key, value),
                None => extras.remove(&key),
            };
        }
    }
}

impl Registry {
    /// Creates the registry of `store`. There must be one registry (and its clones) per store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                writes: Mutex::default(),
            }),
        }
    }

    /// Answers a query from the committed state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn answer(&self, query: &Query) -> Result<Answer, StoreError> {
        match query {
            Query::Lookup(name) => self.shared.store.entry(name).map(Answer::Entry),
            Query::Count => Ok(Answer::Count(self.summary()?.entry_count)),
            Query::List(filter) => self.list(filter, Bounds::default()),
        }
    }

    /// Answers [`Query::List`] within `bounds`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn list(&self, filter: &Filter, bounds: Bounds<'_>) -> Result<Answer, StoreError> {
        let listed = list::entries(&*self.shared.store.view()?, filter, bounds)?;
        Ok(listed.map_or_else(Answer::Refused, Answer::Entries))
    }

    /// Returns the names that `pattern` matches; if `since` is given, only those created after it.
    /// [`RemoveListed`](crate::Command::RemoveListed) removes such names.
    ///
    /// # Errors
    /// [`StoreError`]; the inner error says which bound was exceeded.
    pub fn matching(
        &self,
        pattern: &Pattern,
        since: Option<Revision>,
        bounds: Bounds<'_>,
    ) -> Result<Result<Vec<Name>, ListRefusal>, StoreError> {
        list::matching(&*self.shared.store.view()?, pattern, since, bounds)
    }

    /// Begins a change on the committed state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(&self) -> Result<Change, StoreError> {
        let mut writes = self.writes();
        let base = writes.count;
        let committed = self.committed(&mut writes)?;
        Ok(Change::new(
            Arc::clone(&self.shared.store),
            base,
            committed.in_force,
            committed.summary,
            Arc::clone(&committed.extras),
        ))
    }

    /// Writes all of a change or nothing. Readers see it when this returns. It is durable with the next sync of
    /// the log in the same database.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] if something else was committed since the change began, and errors of the
    /// store.
    pub fn commit(&self, change: Change) -> Result<(), StoreError> {
        let mut writes = self.writes();
        if writes.count != change.base() {
            return Err(StoreError::Overtaken);
        }
        let in_force = change.in_force();
        let batch = change.into_batch();
        let summary = batch.summary;
        let extras = batch.extras.clone();
        // After a failure the next change starts from what the store says.
        let committed = writes.committed.take();
        self.shared.store.commit(batch)?;
        writes.count = writes.count.wrapping_add(1);
        writes.committed = committed.map(|mut committed| {
            committed.in_force = in_force;
            committed.summary = summary;
            committed.write_extras(extras);
            committed
        });
        Ok(())
    }

    /// Returns the [rules] by which the next command is applied. They never go back, so a command that they
    /// allow may be proposed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn rules(&self) -> Result<u32, StoreError> {
        Ok(self.committed(&mut self.writes())?.in_force.rules)
    }

    fn committed<'a>(&self, writes: &'a mut Writes) -> Result<&'a Committed, StoreError> {
        match writes.committed {
            Some(ref committed) => Ok(committed),
            ref mut empty => {
                let extras = self.extras(&[])?;
                let record = extras.get(rules::RECORD_KEY).map(Vec::as_slice);
                Ok(empty.insert(Committed {
                    in_force: InForce::from_record(record)?,
                    summary: self.summary()?,
                    extras: Arc::new(extras),
                }))
            }
        }
    }

    /// Returns counts and hash of the committed state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn summary(&self) -> Result<Summary, StoreError> {
        self.shared.store.summary()
    }

    /// Returns the hash of the committed state: entries and extra records.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn state_hash(&self) -> Result<StateHash, StoreError> {
        Ok(self.summary()?.hash)
    }

    /// Returns the committed meta record under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.store.meta(key)
    }

    /// Returns the committed extra record under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn extra(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.store.extra(key)
    }

    /// Returns the committed extra records whose key starts with `prefix`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn extras(&self, prefix: &[u8]) -> Result<Extras, StoreError> {
        let mut found = Extras::new();
        self.shared
            .store
            .view()?
            .extras(prefix, &[], &mut |key, value| {
                found.insert(key.to_vec(), value.to_vec());
                Ok(ControlFlow::Continue(()))
            })?;
        Ok(found)
    }

    /// Returns a snapshot of the committed state, to be sent elsewhere. Takes milliseconds, whatever its size.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn snapshot(&self) -> Result<StateSnapshot, StoreError> {
        StateSnapshot::new(self.shared.store.view()?)
    }

    /// Begins to replace the state, the extra records and the meta records by those of a snapshot. The present
    /// state stays, and can be read, until [`Installation::finish`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin_install(&self, header: SnapshotHeader) -> Result<Installation, StoreError> {
        let install = self.shared.store.begin_install()?;
        Ok(Installation::new(self.clone(), header, install))
    }

    /// Installs a snapshot from its chunks.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] if it is incomplete or altered, and errors of `chunks` and of the store. The
    /// state is then unchanged.
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

    /// Runs `write` as the only writer, and counts the write if it succeeds.
    pub(crate) fn write_alone(
        &self,
        write: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut writes = self.writes();
        write()?;
        *writes = Writes {
            count: writes.count.wrapping_add(1),
            committed: None,
        };
        Ok(())
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        // A writer that panicked leaves a sound counter: it counts only after the write.
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
