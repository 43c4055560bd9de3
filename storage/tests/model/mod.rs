//! A store of plain maps. It is the reference for the other stores, and proves that the interface holds for a
//! store that has nothing to do with RocksDB.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hearth_storage::store::{CreatedVisitor, EntryVisitor, RecordVisitor};
use hearth_storage::{
    Batch, Entry, Install, Name, NameCursor, Revision, Store, StoreError, StoredEntry, Summary,
    View,
};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Default)]
struct State {
    entries: BTreeMap<Name, Entry>,
    extras: Records,
    meta: Records,
    summary: Summary,
}

/// A store that keeps each state for as long as a view of it exists.
#[derive(Clone, Default)]
pub(crate) struct ModelStore {
    state: Arc<Mutex<Arc<State>>>,
}

impl ModelStore {
    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.lock().unwrap())
    }
}

impl Store for ModelStore {
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.state().entries.get(name).cloned())
    }

    fn extra(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().extras.get(key).cloned())
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().meta.get(key).cloned())
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        Ok(self.state().summary)
    }

    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        Ok(Box::new(ModelView(self.state())))
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut guard = self.state.lock().unwrap();
        let state = Arc::make_mut(&mut guard);
        if let Some(removal) = &batch.removal {
            state.entries.retain(|name, entry| {
                batch.entries.contains_key(name) || !removal.takes(name, entry.created)
            });
        }
        for (name, change) in batch.entries {
            assert_eq!(state.entries.get(&name), change.before.as_ref());
            match change.after {
                Some(entry) => state.entries.insert(name, entry),
                None => state.entries.remove(&name),
            };
        }
        for (key, value) in batch.extras {
            match value {
                Some(value) => state.extras.insert(key, value),
                None => state.extras.remove(&key),
            };
        }
        state.meta.extend(batch.meta);
        state.summary = batch.summary;
        Ok(())
    }

    fn begin_install(&self) -> Result<Box<dyn Install>, StoreError> {
        Ok(Box::new(ModelInstall {
            store: self.clone(),
            state: State::default(),
        }))
    }
}

struct ModelView(Arc<State>);

impl View for ModelView {
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.0.entries.get(name).cloned())
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        Ok(self.0.summary)
    }

    fn metas(&self, visit: &mut RecordVisitor<'_>) -> Result<(), StoreError> {
        scan(&self.0.meta, &[], &[], visit)
    }

    fn entries(
        &self,
        prefix: &str,
        from: &str,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<(), StoreError> {
        // This is deliberately the slow and obvious way.
        for (name, entry) in &self.0.entries {
            if name.starts_with(prefix)
                && name.as_str() >= from
                && visit(name, StoredEntry::plain(entry))?.is_break()
            {
                break;
            }
        }
        Ok(())
    }

    fn tagged(&self, tag: &str) -> Result<Box<dyn NameCursor + '_>, StoreError> {
        let tagged = self.0.entries.iter();
        let names = tagged
            .filter(|(_, entry)| entry.tags.contains(tag))
            .map(|(name, _)| name.clone());
        Ok(Box::new(ModelCursor {
            names: names.collect(),
            next: 0,
        }))
    }

    fn created_since(
        &self,
        as_of: Revision,
        visit: &mut CreatedVisitor<'_>,
    ) -> Result<(), StoreError> {
        let entries = self.0.entries.iter();
        let mut created: Vec<_> = entries
            .map(|(name, entry)| (entry.created, name))
            .filter(|&(created, _)| created > as_of)
            .collect();
        created.sort_unstable();
        for (created, name) in created {
            if visit(created, name)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn extras(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut RecordVisitor<'_>,
    ) -> Result<(), StoreError> {
        scan(&self.0.extras, prefix, from, visit)
    }
}

fn scan(
    records: &Records,
    prefix: &[u8],
    from: &[u8],
    visit: &mut RecordVisitor<'_>,
) -> Result<(), StoreError> {
    for (key, value) in records {
        if key.starts_with(prefix) && key.as_slice() >= from && visit(key, value)?.is_break() {
            break;
        }
    }
    Ok(())
}

struct ModelCursor {
    names: Vec<Name>,
    next: usize,
}

impl NameCursor for ModelCursor {
    fn seek(&mut self, from: &str) -> Result<Option<Name>, StoreError> {
        self.next = self.names.partition_point(|name| name.as_str() < from);
        self.next()
    }

    fn next(&mut self) -> Result<Option<Name>, StoreError> {
        let name = self.names.get(self.next).cloned();
        self.next += usize::from(name.is_some());
        Ok(name)
    }
}

struct ModelInstall {
    store: ModelStore,
    state: State,
}

impl Install for ModelInstall {
    fn put_entries(&mut self, entries: &[(Name, Entry)]) -> Result<(), StoreError> {
        self.state.entries.extend(entries.iter().cloned());
        Ok(())
    }

    fn put_extras(&mut self, extras: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        self.state.extras.extend(extras.iter().cloned());
        Ok(())
    }

    fn finish(mut self: Box<Self>, meta: Records, summary: Summary) -> Result<(), StoreError> {
        self.state.meta = meta;
        self.state.summary = summary;
        *self.store.state.lock().unwrap() = Arc::new(self.state);
        Ok(())
    }
}
