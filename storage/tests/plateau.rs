//! A data directory does not grow without bound: overwritten, removed and purged data frees its room.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod leftovers;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hearth_storage::{
    Command, IfTaken, Location, Registry, Revision, RocksOptions, RocksStore, StoreError, Tags,
};
use leftovers::files;

/// Opens a store with small buffers, so that logs, tables and manifests come and go.
fn open(folder: &Path) -> RocksStore {
    let options = RocksOptions {
        write_buffer_len: 256 << 10,
        wal_len_max: 512 << 10,
        ..RocksOptions::default()
    };
    RocksStore::open(&Location::Folder(folder.to_owned()), &options).unwrap()
}

/// Returns the bytes and the number of all files.
fn size(folder: &Path) -> (u64, usize) {
    let mut total = (0, 0);
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let (len, count) = match fs::metadata(&path) {
            Ok(found) if found.is_dir() => size(&path),
            Ok(found) => (found.len(), 1),
            // The database has removed the file in the meantime.
            Err(_) => (0, 0),
        };
        total = (total.0 + len, total.1 + count);
    }
    total
}

/// Writes entries `from..from + 500` as a replica does: log, state, purge.
fn write(store: &RocksStore, from: u64) {
    let registry = Registry::new(Arc::new(store.clone()));
    let log = store.log();
    for index in from..from + 500 {
        let name = format!("name {}", index % 300);
        let command = if index % 7 == 0 {
            Command::Remove { name }
        } else {
            Command::Register {
                uri: format!("PYRO:{index:0>200}@host:1"),
                tags: Tags::from([format!("tag {}", index % 50)]),
                name,
                if_taken: IfTaken::Replace,
            }
        };
        log.append([(index, vec![index as u8; 500])], Box::new(|_| ()))
            .unwrap();
        let mut change = registry.begin().unwrap();
        change.apply(Revision::new(index, 0), &command).unwrap();
        registry.commit(change).unwrap();
    }
    log.purge(from, b"purged").unwrap();
    log.save_vote(&from.to_be_bytes()).unwrap();
}

#[test]
fn steady_overwriting_ends_at_a_steady_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut next = 1;
    let mut largest = Vec::new();
    // Each stretch writes more than the directory may hold at any time.
    for _stretch in 0..6 {
        let mut most = (0, 0);
        let store = open(folder.path());
        for _ in 0..15 {
            write(&store, next);
            next += 500;
            let now = size(folder.path());
            most = (most.0.max(now.0), most.1.max(now.1));
        }
        store.close().unwrap();
        largest.push(most);
    }
    println!("bytes and files, stretch by stretch: {largest:?}");
    let (early, late) = (largest[1], largest[5]);
    assert!(late.0 < early.0 + early.0 / 2, "{largest:?}");
    assert!(late.1 < early.1 + early.1 / 2 + 5, "{largest:?}");
    assert!(late.0 < 4 << 20, "{largest:?}");
    // The same holds for RocksDB's info log and the files of its settings.
    assert!(files(folder.path(), "log").len() <= 4);
    let names = |start: &str| {
        let files = fs::read_dir(folder.path().join("rocksdb")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(start)).count()
    };
    for start in ["LOG", "OPTIONS", "MANIFEST"] {
        assert!(names(start) <= 3, "{} of {start}", names(start));
    }
}

#[test]
fn installs_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    write(&store, 1);
    let registry = Registry::new(Arc::new(store.clone()));
    let mut sizes = Vec::new();
    for _ in 0..12 {
        let snapshot = registry.snapshot().unwrap();
        let header = snapshot.header().clone();
        registry.install(header, snapshot.chunks(10_000)).unwrap();
        drop(snapshot);
        store.log().sync().unwrap();
        // RocksDB describes every new column family in its info log, at 11 kB each; a restart ends that.
        let described = fs::metadata(folder.path().join("rocksdb/LOG")).unwrap();
        sizes.push(size(folder.path()).0 - described.len());
    }
    let early = sizes[..6].iter().max().unwrap();
    assert!(sizes[11] < early + early / 4, "{sizes:?}");
}

#[test]
fn memory_tables_are_written_out_where_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    write(&store, 1);
    let old = files(folder.path(), "log");
    assert!(!store.free_logs(1000).unwrap());
    assert_eq!(files(folder.path(), "log"), old);
    assert!(store.free_logs(u64::MAX).unwrap());
    // RocksDB deletes them on a thread of its own, a moment later.
    let is_there = || {
        files(folder.path(), "log")
            .iter()
            .any(|log| old.contains(log))
    };
    for _ in 0..6000 {
        if is_there() {
            thread::sleep(Duration::from_millis(10));
        }
    }
    assert!(!is_there(), "{:?}", files(folder.path(), "log"));
    store.close().unwrap();
    let closed = store.free_logs(u64::MAX);
    assert!(matches!(closed, Err(StoreError::Stopped { .. })));
}
