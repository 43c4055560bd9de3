//! The guarantees of the log store while it runs and over a clean restart. For crashes see
//! `crash.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use hearth_storage::{Location, LogHome, RocksOptions, RocksStore, StoreError, SyncDone};

const DEADLINE: Duration = Duration::from_secs(20);

fn memory() -> RocksStore {
    RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap()
}

fn on_disk(path: &Path) -> RocksStore {
    let location = Location::Folder(path.to_owned());
    RocksStore::open(&location, &RocksOptions::default()).unwrap()
}

fn ignore() -> SyncDone {
    Box::new(|_| ())
}

fn entry(index: u64) -> (u64, Vec<u8>) {
    (index, format!("entry {index}").into_bytes())
}

fn append(log: &LogHome, range: std::ops::RangeInclusive<u64>) {
    log.append(range.map(entry), ignore()).unwrap();
}

fn indexes(log: &LogHome) -> Vec<u64> {
    let entries = log.read(..).unwrap();
    for (index, payload) in &entries {
        assert_eq!(*payload, entry(*index).1);
    }
    entries.into_iter().map(|(index, _)| index).collect()
}

fn ends(log: &LogHome) -> Option<(u64, u64)> {
    log.first_index().zip(log.last_index())
}

/// Runs a check before and after a restart.
fn with_restart(build: impl Fn(&LogHome), check: impl Fn(&LogHome)) {
    for flush in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let store = on_disk(folder.path());
        build(&store.log());
        check(&store.log());
        if flush {
            store.close().unwrap();
        }
        drop(store);
        check(&on_disk(folder.path()).log());
    }
    let store = memory();
    build(&store.log());
    check(&store.log());
}

#[test]
fn an_empty_log_has_nothing() {
    with_restart(
        |_| (),
        |log| {
            assert_eq!(ends(log), None);
            assert_eq!(log.read(..).unwrap(), []);
            assert_eq!(log.last_purged().unwrap(), None);
            assert_eq!(log.vote().unwrap(), None);
            assert_eq!(log.identity().unwrap(), None);
        },
    );
}

#[test]
fn entries_are_readable_at_once_and_kept() {
    with_restart(
        |log| {
            append(log, 1..=3);
            append(log, 4..=4);
            log.append([], ignore()).unwrap();
        },
        |log| {
            assert_eq!(ends(log), Some((1, 4)));
            assert_eq!(indexes(log), [1, 2, 3, 4]);
            assert_eq!(log.read(2..4).unwrap(), [entry(2), entry(3)]);
            assert_eq!(log.read(4..=9).unwrap(), [entry(4)]);
            assert_eq!(log.read(..=1).unwrap(), [entry(1)]);
            assert_eq!(log.read(5..).unwrap(), []);
            assert_eq!(log.read(3..3).unwrap(), []);
            assert_eq!(log.read(..0).unwrap(), []);
        },
    );
}

#[test]
fn an_empty_log_begins_anywhere_and_has_no_gaps() {
    with_restart(
        |log| {
            append(log, 0..=1);
            log.truncate_after(None).unwrap();
            append(log, 7..=8);
            let gap = |entries: &[u64]| {
                let entries: Vec<_> = entries.iter().map(|&index| entry(index)).collect();
                let called = mpsc::channel();
                let done: SyncDone = Box::new(move |_| called.0.send(()).unwrap());
                let result = log.append(entries, done);
                assert!(matches!(result, Err(StoreError::Gap { .. })), "{result:?}");
                // The callback was dropped, not called.
                assert!(called.1.recv_timeout(DEADLINE).is_err());
            };
            gap(&[10]);
            gap(&[6]);
            gap(&[9, 11]);
            gap(&[9, 9]);
        },
        |log| assert_eq!(indexes(log), [7, 8]),
    );
}

#[test]
fn appending_overwrites() {
    let store = memory();
    let log = store.log();
    append(&log, 1..=3);
    log.append([(2, b"new".to_vec())], ignore()).unwrap();
    let entries = log.read(..).unwrap();
    assert_eq!(entries, [entry(1), (2, b"new".to_vec()), entry(3)]);
}

#[test]
fn truncation_takes_the_end() {
    with_restart(
        |log| {
            append(log, 1..=9);
            log.truncate_after(Some(20)).unwrap();
            log.truncate_after(Some(9)).unwrap();
            assert_eq!(indexes(log).len(), 9);
            log.truncate_after(Some(6)).unwrap();
            assert_eq!(indexes(log), [1, 2, 3, 4, 5, 6]);
            append(log, 7..=7);
            log.truncate_after(Some(5)).unwrap();
            append(log, 6..=6);
        },
        |log| {
            assert_eq!(indexes(log), [1, 2, 3, 4, 5, 6]);
            assert_eq!(ends(log), Some((1, 6)));
        },
    );
    with_restart(
        |log| {
            append(log, 3..=9);
            log.truncate_after(Some(1)).unwrap();
        },
        |log| assert_eq!(ends(log), None),
    );
    with_restart(
        |log| {
            append(log, 1..=9);
            log.truncate_after(None).unwrap();
            append(log, 1..=1);
        },
        |log| assert_eq!(indexes(log), [1]),
    );
}

#[test]
fn purging_takes_the_front_and_remembers() {
    with_restart(
        |log| {
            append(log, 1..=9);
            log.purge(3, b"three").unwrap();
            assert_eq!(indexes(log), [4, 5, 6, 7, 8, 9]);
            log.purge(5, b"five").unwrap();
            log.purge(4, b"too late").unwrap();
            append(log, 10..=10);
        },
        |log| {
            assert_eq!(indexes(log), [6, 7, 8, 9, 10]);
            assert_eq!(ends(log), Some((6, 10)));
            assert_eq!(log.last_purged().unwrap(), Some((5, b"five".to_vec())));
            assert_eq!(log.read(1..=6).unwrap(), [entry(6)]);
            assert_eq!(log.read(1..=5).unwrap(), []);
            let below = log.append([entry(5)], ignore());
            assert!(matches!(
                below,
                Err(StoreError::Gap {
                    expected: 11,
                    found: 5
                })
            ));
        },
    );
}

#[test]
fn purging_beyond_the_end_empties_the_log() {
    with_restart(
        |log| {
            append(log, 1..=3);
            log.purge(20, b"twenty").unwrap();
            assert_eq!(ends(log), None);
            let gap = log.append([entry(4)], ignore());
            assert!(matches!(
                gap,
                Err(StoreError::Gap {
                    expected: 21,
                    found: 4
                })
            ));
            append(log, 21..=22);
            log.purge(22, b"all").unwrap();
        },
        |log| {
            assert_eq!(ends(log), None);
            assert_eq!(log.last_purged().unwrap(), Some((22, b"all".to_vec())));
        },
    );
}

#[test]
fn the_highest_index_is_an_index() {
    with_restart(
        |log| {
            append(log, u64::MAX - 3..=u64::MAX);
            log.truncate_after(Some(u64::MAX - 1)).unwrap();
            append(log, u64::MAX..=u64::MAX);
            log.purge(u64::MAX - 2, b"").unwrap();
        },
        |log| {
            assert_eq!(ends(log), Some((u64::MAX - 1, u64::MAX)));
            assert_eq!(log.read(..).unwrap().len(), 2);
            assert_eq!(log.read(u64::MAX..).unwrap().len(), 1);
        },
    );
}

#[test]
fn a_limited_read_returns_something_where_there_is_something() {
    let store = memory();
    let log = store.log();
    let entries = [
        (1, vec![0; 10]),
        (2, vec![0; 10]),
        (3, vec![0; 30]),
        (4, Vec::new()),
    ];
    log.append(entries, ignore()).unwrap();
    let count =
        |range: std::ops::RangeFrom<u64>, len_max| log.read_limited(range, len_max).unwrap().len();
    assert_eq!(count(1.., 0), 1);
    assert_eq!(count(1.., 9), 1);
    assert_eq!(count(1.., 20), 2);
    assert_eq!(count(1.., 49), 2);
    assert_eq!(count(1.., 50), 4);
    assert_eq!(count(3.., 5), 1);
    assert_eq!(count(4.., 0), 1);
    assert_eq!(count(5.., 0), 0);
}

#[test]
fn vote_and_identity_are_kept_apart_and_replaced() {
    with_restart(
        |log| {
            log.save_vote(b"term 1").unwrap();
            log.save_identity(b"node 1").unwrap();
            log.save_vote(b"").unwrap();
            log.purge(4, b"purged").unwrap();
            let (tell, told) = mpsc::channel();
            log.save_vote_then(
                b"term 2",
                Box::new(move |result| tell.send(result).unwrap()),
            )
            .unwrap();
            told.recv_timeout(DEADLINE).unwrap().unwrap();
        },
        |log| {
            assert_eq!(log.vote().unwrap(), Some(b"term 2".to_vec()));
            assert_eq!(log.identity().unwrap(), Some(b"node 1".to_vec()));
        },
    );
}

#[test]
fn callbacks_come_once_each_in_the_order_of_the_writes() {
    for folder in [None, Some(tempfile::tempdir().unwrap())] {
        let store = match &folder {
            Some(folder) => on_disk(folder.path()),
            None => memory(),
        };
        let log = store.log();
        let (tell, told) = mpsc::channel();
        let count = 300;
        for index in 1..=count {
            let tell = tell.clone();
            let done: SyncDone = Box::new(move |result| {
                result.unwrap();
                tell.send(index).unwrap();
            });
            if index % 50 == 0 {
                log.purge(index - 40, b"").unwrap();
                log.save_vote_then(b"vote", done).unwrap();
                append(&log, index..=index);
            } else {
                log.append([entry(index)], done).unwrap();
            }
        }
        log.sync().unwrap();
        drop(tell);
        let order: Vec<u64> = told.iter().collect();
        assert_eq!(order, (1..=count).collect::<Vec<_>>());
        let stats = log.stats();
        assert_eq!(stats.entry_count, count);
        assert_eq!(stats.append_count, count);
        assert_eq!(stats.waiting_count, 0);
        assert!(stats.sync_count >= 1);
    }
}

#[test]
fn writes_that_arrive_during_a_sync_share_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = on_disk(folder.path());
    let log = store.log();
    // This callback holds up the sync thread until all entries have been written.
    let (release, held) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let hold: SyncDone = Box::new(move |_| held.recv_timeout(DEADLINE).unwrap());
    log.append([entry(1)], hold).unwrap();
    while log.sync_count() == 0 {
        std::thread::yield_now();
    }
    for index in 2..=100 {
        let tell = tell.clone();
        let done: SyncDone = Box::new(move |result| tell.send(result.is_ok()).unwrap());
        log.append([entry(index)], done).unwrap();
    }
    let before = log.sync_count();
    release.send(()).unwrap();
    for _ in 2..=100 {
        assert!(told.recv_timeout(DEADLINE).unwrap());
    }
    assert_eq!(log.sync_count(), before + 1);
}

#[test]
fn everything_queued_is_done_before_a_close_or_a_drop() {
    for closes in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let store = on_disk(folder.path());
        let log = store.log();
        let (tell, told) = mpsc::channel();
        for index in 1..=50 {
            let tell = tell.clone();
            log.append(
                [entry(index)],
                Box::new(move |r| tell.send(r.is_ok()).unwrap()),
            )
            .unwrap();
        }
        drop(tell);
        if closes {
            store.close().unwrap();
            let late = log.append([entry(51)], ignore());
            assert!(matches!(late, Err(StoreError::Stopped { .. })), "{late:?}");
            assert!(store.close().is_err());
            assert_eq!(log.failure(), None);
        }
        drop((store, log));
        assert_eq!(told.iter().filter(|&ok| ok).count(), 50);
        assert_eq!(indexes(&on_disk(folder.path()).log()).len(), 50);
    }
}

#[test]
fn a_callback_may_hold_the_last_handle() {
    let folder = tempfile::tempdir().unwrap();
    let store = on_disk(folder.path());
    let (tell, told) = mpsc::channel();
    let last = store.clone();
    let done: SyncDone = Box::new(move |result| {
        drop(last);
        tell.send(result.is_ok()).unwrap();
    });
    store.log().append([entry(1)], done).unwrap();
    drop(store);
    assert!(told.recv_timeout(DEADLINE).unwrap());
}

#[test]
fn a_callback_that_panics_stops_the_store() {
    let store = memory();
    let log = store.log();
    let (tell, told) = mpsc::channel();
    store.on_failure(move |reason| tell.send(reason.to_owned()).unwrap());
    log.append([entry(1)], Box::new(|_| panic!("on purpose")))
        .unwrap();
    let reason = told.recv_timeout(DEADLINE).unwrap();
    assert!(reason.contains("panicked"), "{reason}");
    assert_eq!(log.failure(), Some(reason));
    let late = log.save_vote(b"vote");
    assert!(matches!(late, Err(StoreError::Stopped { .. })), "{late:?}");
    let (tell, told) = mpsc::channel();
    store.on_failure(move |reason| tell.send(reason.to_owned()).unwrap());
    assert!(
        told.recv_timeout(DEADLINE).is_ok(),
        "a late hook is called at once"
    );
}

#[test]
fn purged_entries_leave_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let options = RocksOptions {
        write_buffer_len: 1 << 20,
        ..RocksOptions::default()
    };
    let store = RocksStore::open(&Location::Folder(folder.path().to_owned()), &options).unwrap();
    let log = store.log();
    let mut seed = 1u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8
    };
    for round in 0..20 {
        let entries = (0..50).map(|i| (round * 50 + i, (0..20_000).map(|_| noise()).collect()));
        log.append(entries, ignore()).unwrap();
        if round > 0 {
            log.purge(round * 50 - 1, b"").unwrap();
        }
        log.sync().unwrap();
    }
    // 20 MB went through, and 1 MB is left. Compaction takes time, and needs writes to notice.
    let mut tries = 0;
    while store.table_len().unwrap() > 6 << 20 {
        tries += 1;
        assert!(tries < 400, "{} bytes are left", store.table_len().unwrap());
        std::thread::sleep(DEADLINE / 400);
        log.purge(949 + tries, b"").unwrap();
        log.sync().unwrap();
    }
}
