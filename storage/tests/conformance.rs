//! The conformance suite, on every store that there is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use std::sync::Arc;

use hearth_storage::conformance::Opened;
use hearth_storage::{Location, RocksOptions, RocksStore, conformance_suite};

fn on_disk() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::Folder(folder.path().to_owned());
    let store = RocksStore::open(&location, &RocksOptions::default()).unwrap();
    Opened::with_guard(Arc::new(store), folder)
}

/// Opens a store with a write buffer so small that everything goes through tables.
fn on_disk_in_tables() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::Folder(folder.path().to_owned());
    let options = RocksOptions {
        write_buffer_len: 64 << 10,
        block_cache_len: 64 << 10,
        wal_len_max: 64 << 10,
        ..RocksOptions::default()
    };
    let store = RocksStore::open(&location, &options).unwrap();
    Opened::with_guard(Arc::new(store), folder)
}

fn in_memory() -> Opened {
    let store = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
    Opened::new(Arc::new(store))
}

fn of_maps() -> Opened {
    Opened::new(Arc::new(model::ModelStore::default()))
}

conformance_suite!(rocks_on_disk, super::on_disk);
conformance_suite!(rocks_in_tables, super::on_disk_in_tables);
conformance_suite!(rocks_in_memory, super::in_memory);
conformance_suite!(maps, super::of_maps);
