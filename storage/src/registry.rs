//! The registry in its store: it answers [`Query`]s, and writes what a [`Change`] has gathered.
//!
//! The name server's own entry, `Pyro.NameServer`, is not here: each node answers for itself.

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

/// A registry in a store. Cheap to clone; all clones are the same one.
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
    /// The committed state as far as each change needs it, once it was read.
    committed: Option<Committed>,
}

/// The small part of the committed state that each change starts from. It is kept in memory, so that a batch
/// reads nothing but the entries that it is about. The extra records are as many as the members' sessions need.
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
    /// The registry that `store` holds. There must be one registry (and its clones) per store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                writes: Mutex::default(),
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

    /// The names that `pattern` matches, of those that were created after `since`, if that is given: what
    /// [`RemoveListed`](crate::Command::RemoveListed) is to remove.
    ///
    /// # Errors
    /// [`StoreError`]; the inner error says which bound was met.
    pub fn matching(
        &self,
        pattern: &Pattern,
        since: Option<Revision>,
        bounds: Bounds<'_>,
    ) -> Result<Result<Vec<Name>, ListRefusal>, StoreError> {
        list::matching(&*self.shared.store.view()?, pattern, since, bounds)
    }

    /// Starts a change of what is committed now.
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

    /// Writes a change: all of it at once, or nothing. Readers see it when this returns; it is durable
    /// with the next sync of the log that shares its database.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] when something else was committed since the change was begun, and
    /// whatever the store reports.
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

    /// By which [rules] the next command will be applied. They only ever go up, so a command
    /// that they allow may be proposed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn rules(&self) -> Result<u32, StoreError> {
        Ok(self.committed(&mut self.writes())?.in_force.rules)
    }

    fn committed<'a>(&self, writes: &'a mut Writes) -> Result<&'a Committed, StoreError> {
        if writes.committed.is_none() {
            let extras = self.extras(&[])?;
            let record = extras.get(rules::RECORD_KEY).map(Vec::as_slice);
            writes.committed = Some(Committed {
                in_force: InForce::from_record(record)?,
                summary: self.summary()?,
                extras: Arc::new(extras),
            });
        }
        Ok(writes.committed.as_ref().expect("it was read above"))
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
        *writes = Writes {
            count: writes.count.wrapping_add(1),
            committed: None,
        };
        Ok(())
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
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
