//! Data directories that are in use, of a later format, damaged or half created. They are refused with a
//! helpful text, or recovered without losing what was acknowledged.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod leftovers;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use hearth_storage::{
    Answer, Command, Filter, IfTaken, Location, Query, Registry, Revision, RocksOptions,
    RocksStore, Store, StoreError, Tags,
};
use leftovers::{copy, files, flip, open};

fn register(name: &str) -> Command {
    Command::Register {
        name: name.to_owned(),
        uri: format!("PYRO:{name}@host:1"),
        tags: Tags::from(["tag".to_owned()]),
        if_taken: IfTaken::Replace,
    }
}

fn commit(registry: &Registry, index: u64) {
    let mut change = registry.begin().unwrap();
    change
        .apply(Revision::new(index, 0), &register(&format!("name {index}")))
        .unwrap();
    change.put_meta(b"applied", index.to_be_bytes().to_vec());
    registry.commit(change).unwrap();
}

fn count(store: &RocksStore) -> u64 {
    let registry = Registry::new(Arc::new(store.clone()));
    match registry.answer(&Query::Count).unwrap() {
        Answer::Count(count) => count,
        other => panic!("a count was answered with {other:?}"),
    }
}

/// Fills a data directory with `entries` log entries, as many names and a vote, with nothing in tables.
fn written(folder: &Path, entries: u64) {
    let store = open(folder).unwrap();
    let registry = Registry::new(Arc::new(store.clone()));
    let log = store.log();
    log.save_vote(b"vote").unwrap();
    for index in 1..=entries {
        let payload = format!("payload of entry {index}").into_bytes();
        log.append([(index, payload)], Box::new(|_| ())).unwrap();
        commit(&registry, index);
    }
    log.sync().unwrap();
}

#[test]
fn a_folder_is_for_one_store_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    assert!(
        text.contains(&folder.path().display().to_string()),
        "{text}"
    );
    // A view keeps the data directory in use, too.
    let view = store.view().unwrap();
    store.close().unwrap();
    drop(store);
    assert!(open(folder.path()).is_err());
    drop(view);
    open(folder.path()).unwrap();
}

#[test]
fn a_later_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 3);
    let format = folder.path().join("FORMAT");
    let later = hearth_storage::format::FOLDER_FORMAT + 1;
    fs::write(&format, format!("hearth data folder\nformat {later}\n")).unwrap();
    let before = fs::read(files(folder.path(), "log").last().unwrap()).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::NewerFormat { found, known, .. } if (found, known) == (later, later - 1)),
        "{error}"
    );
    assert_eq!(
        fs::read(files(folder.path(), "log").last().unwrap()).unwrap(),
        before
    );
    fs::write(&format, "hearth data folder\nformat 1\n").unwrap();
    assert_eq!(count(&open(folder.path()).unwrap()), 3);
}

#[test]
fn a_folder_that_lost_files_is_not_begun_afresh() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 3);
    let rocksdb = folder.path().join("rocksdb");
    let wal = files(folder.path(), "log").pop().unwrap();
    for missing in [folder.path().join("FORMAT"), rocksdb.join("CURRENT"), wal] {
        let bytes = fs::read(&missing).unwrap();
        fs::remove_file(&missing).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "without {}: {error}",
            missing.display()
        );
        fs::write(&missing, bytes).unwrap();
    }
    fs::write(folder.path().join("FORMAT"), "something else").unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    fs::write(
        folder.path().join("FORMAT"),
        "hearth data folder\nformat 1\n",
    )
    .unwrap();
    assert_eq!(count(&open(folder.path()).unwrap()), 3);
}

#[test]
fn an_interrupted_creation_is_done_again() {
    // First there is only the directory with a draft, then also the format and an empty directory for the
    // database.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("FORMAT.draft"), "hear").unwrap();
    assert_eq!(count(&open(folder.path()).unwrap()), 0);
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("FORMAT"),
        "hearth data folder\nformat 1\n",
    )
    .unwrap();
    fs::create_dir(folder.path().join("rocksdb")).unwrap();
    written(folder.path(), 2);
    assert_eq!(count(&open(folder.path()).unwrap()), 2);
}

#[test]
fn an_altered_byte_of_the_wal_is_refused_with_the_file_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 6);
    let wal = files(folder.path(), "log").pop().unwrap();
    let len = fs::metadata(&wal).unwrap().len() as usize;
    flip(&wal, len / 2, 1);
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&wal.display().to_string()), "{text}");
    assert!(text.contains("remove this node from"), "{text}");
    assert!(text.contains("hearthd restore"), "{text}");
    flip(&wal, len / 2, 1);
    assert_eq!(count(&open(folder.path()).unwrap()), 6);
}

/// Returns a directory whose syncs cost no time, where there is one: these tests open a database for each byte.
fn memory_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

#[test]
fn no_altered_bit_of_wal_or_manifest_goes_unnoticed() {
    let original = memory_folder();
    written(original.path(), 4);
    let manifest = manifest(original.path());
    let wal = files(original.path(), "log").pop().unwrap();
    for file in [wal, manifest] {
        let name = file.file_name().unwrap();
        let len = fs::metadata(&file).unwrap().len() as usize;
        for at in 0..len {
            let folder = memory_folder();
            copy(original.path(), folder.path());
            let bit = at % 8;
            flip(&folder.path().join("rocksdb").join(name), at, 1 << bit);
            let opened = open(folder.path());
            assert!(
                matches!(opened, Err(StoreError::Damaged { .. })),
                "bit {bit} of byte {at} of {}: {opened:?}",
                file.display()
            );
        }
    }
}

#[test]
fn every_altered_bit_of_a_record_header_is_noticed() {
    let original = memory_folder();
    written(original.path(), 2);
    let wal = files(original.path(), "log").pop().unwrap();
    let len = fs::metadata(&wal).unwrap().len() as usize;
    let bytes = fs::read(&wal).unwrap();
    let mut at = 0;
    while at < len {
        for bit in 0..24 {
            let folder = memory_folder();
            copy(original.path(), folder.path());
            let wal = files(folder.path(), "log").pop().unwrap();
            // These bits are in the length and the type.
            flip(&wal, at + 4 + bit / 8, 1 << (bit % 8));
            let opened = open(folder.path());
            assert!(
                matches!(opened, Err(StoreError::Damaged { .. })),
                "bit {bit} of the record at {at}: {opened:?}"
            );
        }
        at += 7 + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
}

#[test]
fn a_wal_that_lacks_what_was_synced_is_refused() {
    let original = memory_folder();
    written(original.path(), 4);
    let len = fs::metadata(files(original.path(), "log").pop().unwrap())
        .unwrap()
        .len();
    for keep in 0..len {
        let folder = memory_folder();
        copy(original.path(), folder.path());
        let wal = files(folder.path(), "log").pop().unwrap();
        let file = fs::File::options().write(true).open(wal).unwrap();
        file.set_len(keep).unwrap();
        let opened = open(folder.path());
        assert!(
            matches!(opened, Err(StoreError::Damaged { .. })),
            "{keep} of {len}: {opened:?}"
        );
    }
}

#[test]
fn a_folder_that_does_not_say_what_was_synced_is_opened_as_before() {
    let original = memory_folder();
    written(original.path(), 4);
    let note = original.path().join("SYNCED");
    fs::remove_file(&note).unwrap();
    let wal = files(original.path(), "log").pop().unwrap();
    let len = fs::metadata(&wal).unwrap().len() as usize;
    flip(&wal, len / 2, 1);
    let error = open(original.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(!note.exists(), "a refusal changes nothing");
    flip(&wal, len / 2, 1);
    assert_eq!(count(&open(original.path()).unwrap()), 4);
    assert!(note.exists());
    fs::write(&note, b"something else").unwrap();
    let error = open(original.path()).unwrap_err();
    assert!(error.to_string().contains("SYNCED"), "{error}");
}

/// Batches of the state need no sync of their own: the log holds their commands.
#[test]
fn a_hole_in_what_was_not_synced_is_cut_off_and_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let registry = Registry::new(Arc::new(store.clone()));
    commit(&registry, 1);
    store.log().sync().unwrap();
    let wal = files(folder.path(), "log").pop().unwrap();
    let synced = fs::metadata(&wal).unwrap().len() as usize;
    for index in 2..=9 {
        commit(&registry, index);
    }
    copy(folder.path(), crashed.path());
    let wal = files(crashed.path(), "log").pop().unwrap();
    let name = wal.file_name().unwrap().to_string_lossy().into_owned();
    let mut bytes = fs::read(&wal).unwrap();
    // The page in the middle is lost, and a later one is kept.
    bytes[synced..synced + 100].fill(0);
    fs::write(&wal, &bytes).unwrap();
    assert_eq!(count(&open(crashed.path()).unwrap()), 1);
    let kept = crashed.path().join(format!("cut/{name}.from-{synced}"));
    assert_eq!(fs::read(kept).unwrap(), bytes[synced..]);
    // Once a sync has covered it, the same hole is damage.
    store.log().sync().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(folder.path(), crashed.path());
    let wal = files(crashed.path(), "log").pop().unwrap();
    fs::write(&wal, &bytes).unwrap();
    let error = open(crashed.path()).unwrap_err();
    assert!(error.to_string().contains(&name), "{error}");
    assert_eq!(fs::read(&wal).unwrap(), bytes, "a refusal changes nothing");
}

#[test]
fn a_wal_cut_anywhere_leaves_a_beginning() {
    let original = memory_folder();
    written(original.path(), 4);
    // As if nothing of it had been synced.
    fs::remove_file(original.path().join("SYNCED")).unwrap();
    let len = fs::metadata(files(original.path(), "log").pop().unwrap())
        .unwrap()
        .len();
    let mut last = 0;
    for keep in 0..=len {
        let folder = memory_folder();
        copy(original.path(), folder.path());
        let wal = files(folder.path(), "log").pop().unwrap();
        fs::File::options()
            .write(true)
            .open(wal)
            .unwrap()
            .set_len(keep)
            .unwrap();
        let store = open(folder.path()).unwrap();
        let log = store.log();
        let names = count(&store);
        let entries = log.read(..).unwrap().len() as u64;
        assert!(names <= entries, "the state is ahead of the log at {keep}");
        assert!(entries <= names + 1, "the log lost its order at {keep}");
        assert!(names >= last, "a longer file holds less at {keep}");
        // Entries, index, count and applied index belong to one moment.
        let registry = Registry::new(Arc::new(store.clone()));
        let tagged = Filter::TagsAll(vec!["tag".to_owned()]);
        for filter in [Filter::All, tagged] {
            let Answer::Entries(listed) = registry.answer(&Query::List(filter)).unwrap() else {
                panic!("a list was answered with something else");
            };
            assert_eq!(listed.len() as u64, names, "a batch was torn at {keep}");
        }
        let applied = registry.meta(b"applied").unwrap();
        let applied = applied.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
        assert_eq!(applied, names, "a batch was torn at {keep}");
        assert!(entries == 0 || log.vote().unwrap().is_some());
        last = names;
    }
    assert_eq!(last, 4, "the cuts should reach the end");
}

#[test]
fn damaged_tables_and_manifests_are_refused() {
    let original = tempfile::tempdir().unwrap();
    written(original.path(), 50);
    let store = open(original.path()).unwrap();
    store.close().unwrap();
    drop(store);
    let folder = tempfile::tempdir().unwrap();
    copy(original.path(), folder.path());
    let len = fs::metadata(manifest(folder.path())).unwrap().len() as usize;
    flip(&manifest(folder.path()), len / 2, 4);
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");

    for table in 0..files(original.path(), "sst").len() {
        let folder = tempfile::tempdir().unwrap();
        copy(original.path(), folder.path());
        let table = files(folder.path(), "sst").swap_remove(table);
        fs::remove_file(&table).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        let name = table.file_name().unwrap().to_string_lossy().into_owned();
        assert!(error.to_string().contains(&name), "{error}");
    }
}

#[test]
fn reading_a_damaged_table_stops_the_store() {
    let original = tempfile::tempdir().unwrap();
    written(original.path(), 50);
    let store = open(original.path()).unwrap();
    store.close().unwrap();
    drop(store);
    let mut stopped = 0;
    for table in 0..files(original.path(), "sst").len() {
        let folder = tempfile::tempdir().unwrap();
        copy(original.path(), folder.path());
        // The first bytes of a table are data.
        flip(&files(folder.path(), "sst")[table], 12, 0x10);
        let Ok(store) = open(folder.path()) else {
            stopped += 1;
            continue;
        };
        let (tell, told) = mpsc::channel();
        store.on_failure(move |reason| tell.send(reason.to_owned()).unwrap());
        let registry = Registry::new(Arc::new(store.clone()));
        let lookup = registry.answer(&Query::Lookup("name 7".to_owned()));
        let list = registry.answer(&Query::List(Filter::All));
        let tags = registry.answer(&Query::List(Filter::TagsAll(vec!["tag".to_owned()])));
        let log = store.log().read(..);
        let failed = [lookup.is_err(), list.is_err(), tags.is_err(), log.is_err()];
        if !failed.contains(&true) {
            // The damage is in the creation order, which none of these reads needs.
            let found = store.verify(&mut |_, _| Ok(())).unwrap();
            assert!(
                !found.problems.is_empty(),
                "table {table} was read as if nothing had happened"
            );
            stopped += 1;
            continue;
        }
        let reason = told.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(store.log().failure(), Some(reason));
        let late = store.log().save_vote(b"late");
        assert!(matches!(late, Err(StoreError::Stopped { .. })), "{late:?}");
        stopped += 1;
    }
    assert!(stopped >= 4, "only {stopped} tables were there");
}

#[test]
fn an_install_that_a_crash_interrupts_leaves_the_old_state() {
    let source = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
    let source = Registry::new(Arc::new(source));
    for index in 1..=20 {
        commit(&source, index);
    }
    let snapshot = source.snapshot().unwrap();
    let chunks: Vec<_> = snapshot.chunks(200).map(Result::unwrap).collect();

    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 3);
    let store = open(folder.path()).unwrap();
    let registry = Registry::new(Arc::new(store.clone()));
    let old = registry.state_hash().unwrap();
    let mut install = registry.begin_install(snapshot.header().clone()).unwrap();
    for (at, chunk) in chunks.iter().enumerate() {
        install.chunk(chunk).unwrap();
        if at % 3 == 0 {
            let crashed = tempfile::tempdir().unwrap();
            copy(folder.path(), crashed.path());
            let store = open(crashed.path()).unwrap();
            let registry = Registry::new(Arc::new(store.clone()));
            assert_eq!(registry.state_hash().unwrap(), old);
            assert_eq!(count(&store), 3);
            commit(&registry, 100);
            drop((registry, store));
            assert_eq!(
                families(crashed.path()),
                1 + 3 + 4,
                "a generation was left behind"
            );
            assert_eq!(count(&open(crashed.path()).unwrap()), 4);
        }
    }
    assert_eq!(registry.state_hash().unwrap(), old);
    install.finish().unwrap();
    assert_eq!(registry.state_hash().unwrap(), source.state_hash().unwrap());
    let crashed = tempfile::tempdir().unwrap();
    copy(folder.path(), crashed.path());
    let reopened = open(crashed.path()).unwrap();
    let registry = Registry::new(Arc::new(reopened.clone()));
    assert_eq!(registry.state_hash().unwrap(), source.state_hash().unwrap());
    let applied = registry.meta(b"applied").unwrap();
    assert_eq!(applied, Some(20u64.to_be_bytes().to_vec()));
    // The log is not part of the snapshot.
    assert_eq!(reopened.log().last_index(), Some(3));
    drop((registry, reopened));
    assert_eq!(families(crashed.path()), 1 + 3 + 4);
}

fn manifest(folder: &Path) -> PathBuf {
    let rocksdb = folder.join("rocksdb");
    let current = fs::read_to_string(rocksdb.join("CURRENT")).unwrap();
    rocksdb.join(current.trim())
}

fn families(folder: &Path) -> usize {
    let options = rocksdb::Options::default();
    let path = folder.join("rocksdb");
    rocksdb::DB::list_cf(&options, path).unwrap().len()
}

#[test]
fn a_view_keeps_what_an_install_replaces() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 30);
    let store = open(folder.path()).unwrap();
    let registry = Registry::new(Arc::new(store.clone()));
    let snapshot = registry.snapshot().unwrap();
    let empty = hearth_storage::SnapshotHeader::default();
    registry.install(empty, []).unwrap();
    assert_eq!(count(&store), 0);
    assert_eq!(snapshot.header().summary.entry_count, 30);
    registry
        .install(snapshot.header().clone(), snapshot.chunks(1000))
        .unwrap();
    assert_eq!(count(&store), 30);
}
