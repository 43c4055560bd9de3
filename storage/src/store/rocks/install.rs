//! A new state, filled beside the present one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rocksdb::{WriteBatch, WriteOptions};

use super::state::{Generation, generation_families, write_new};
use super::{Database, Shared};
use crate::crash::crash_point;
use crate::error::StoreError;
use crate::format;
use crate::model::{Entry, Name};
use crate::store::Install;
use crate::summary::Summary;

/// A generation that is being filled. It is written past the WAL, which would only make it wait and
/// grow: before the switch nobody needs it, and the switch comes after its tables are on disk.
pub(super) struct RocksInstall {
    shared: Arc<Shared>,
    generation: Arc<Generation>,
    /// Everything that was put is in tables on disk.
    flushed: bool,
    /// Removes the generation unless it has become the state.
    unfinished: bool,
}

impl RocksInstall {
    pub(super) fn begin(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let database = shared.database();
        let number = shared.next_generation.fetch_add(1, Ordering::Relaxed);
        for name in generation_families(number) {
            database.create_family(&name)?;
        }
        let generation = Arc::new(Generation::open(database, number)?);
        Ok(Self {
            shared,
            generation,
            flushed: false,
            unfinished: true,
        })
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        self.flushed = false;
        let database = self.shared.database();
        database.health.check()?;
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        database.written(database.db.write_opt(batch, &options))?;
        crash_point("install-written");
        Ok(())
    }
}

impl Install for RocksInstall {
    fn put_entries(&mut self, entries: &[(Name, Entry)]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (name, entry) in entries {
            write_new(&mut batch, self.generation.families(), name, entry);
        }
        self.write(batch)
    }

    fn put_extras(&mut self, extras: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (key, value) in extras {
            let family = &self.generation.families().extra;
            batch.put_cf(family, key, format::seal(value));
        }
        self.write(batch)
    }

    fn prepare(&mut self) -> Result<(), StoreError> {
        if !self.flushed {
            let database = self.shared.database();
            database.flush(&self.generation.families().all())?;
            self.flushed = true;
        }
        Ok(())
    }

    fn finish(
        mut self: Box<Self>,
        meta: BTreeMap<Vec<u8>, Vec<u8>>,
        summary: Summary,
    ) -> Result<(), StoreError> {
        self.prepare()?;
        let database = self.shared.database();
        let old = self
            .shared
            .switch(Arc::clone(&self.generation), meta, summary)?;
        self.unfinished = false;
        // Whoever follows the syncs learns of the switch before what it replaced goes.
        self.shared.syncer.sync()?;
        remove(database, old.number());
        Ok(())
    }
}

impl Drop for RocksInstall {
    fn drop(&mut self) {
        if self.unfinished {
            remove(self.shared.database(), self.generation.number());
        }
    }
}

/// Drops a generation's column families. What fails here is done at the next start.
fn remove(database: &Database, number: u64) {
    if database.health.check().is_err() {
        return;
    }
    for name in generation_families(number) {
        if let Err(error) = database.db.drop_cf(&name) {
            tracing::warn!(family = %name, %error, "cannot drop a replaced column family");
        }
        crash_point("install-dropped");
    }
}
