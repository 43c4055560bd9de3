//! A new state that is filled beside the present one.

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

/// A generation that is being filled. Its writes bypass the WAL, which would only slow them down
/// and grow: nothing needs the generation before the switch, and the switch comes after its tables
/// are on disk.
pub(super) struct RocksInstall {
    shared: Arc<Shared>,
    generation: Arc<Generation>,
    /// True if everything that was put is in tables on disk.
    flushed: bool,
    /// True until the generation becomes the state. Until then, dropping the install removes the
    /// generation.
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
        // The sync thread notes the switch as durable before the replaced generation is removed.
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

/// Drops the column families of a generation. The next start repeats what fails here.
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
