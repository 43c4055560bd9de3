use std::sync::mpsc;

use hearth_storage::conformance::Opened;
use hearth_storage::{Location, RocksOptions, RocksStore, conformance_suite};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

fn disk() -> Disk {
    Disk::new(Box::new(|_, _| {}))
}

fn empty() -> Opened {
    Opened::new(Arc::new(disk().open()))
}

conformance_suite!(simulated, super::empty);

fn ignored() -> SyncDone {
    Box::new(|_| {})
}

fn append(log: &LogHome, indexes: std::ops::RangeInclusive<u64>) {
    let entries: Vec<_> = indexes.map(|index| (index, vec![index as u8])).collect();
    log.append(entries, ignored()).unwrap();
}

/// The same calls on both logs give the same answers.
#[test]
fn its_log_answers_as_that_in_rocksdb() {
    for seed in 0..40 {
        let mut random = SmallRng::seed_from_u64(seed);
        let rocks = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
        let ours = disk().open();
        let logs = [rocks.log(), Home::log(&ours)];
        for step in 0..60 {
            let first = random.random_range(0..20_u64);
            let len = random.random_range(0..6_u64);
            let kind = random.random_range(0..6);
            let said = logs.each_ref().map(|log| match kind {
                0..3 => {
                    let next = log.last_index().map_or(first, |last| last + 1);
                    let begin = if kind == 0 { first } else { next };
                    let entries: Vec<_> = (begin..begin + len)
                        .map(|index| (index, vec![step; 3]))
                        .collect();
                    log.append(entries, ignored())
                }
                3 => log.truncate_after((first > 0).then_some(first)),
                4 => log.purge(first / 2, &[step]),
                _ => log.save_vote(&[step]),
            });
            let context = format!("seed {seed}, step {step}");
            assert_eq!(said[0].is_ok(), said[1].is_ok(), "{context}");
            let seen = logs.each_ref().map(|log| {
                (
                    (log.first_index(), log.last_index(), log.vote().unwrap()),
                    (log.last_purged().unwrap(), log.read(..).unwrap()),
                    log.read_limited(first..=first + len, 5).unwrap(),
                )
            });
            assert_eq!(seen[0], seen[1], "{context}");
        }
    }
}

#[test]
fn a_crash_keeps_what_is_synced_and_a_part_of_the_rest_in_order() {
    let disk = disk();
    let log = Home::log(&disk.open());
    append(&log, 1..=2);
    log.sync().unwrap();
    append(&log, 3..=3);
    append(&log, 4..=4);
    log.truncate_after(Some(1)).unwrap();
    append(&log, 2..=5);
    assert_eq!(disk.unsynced_count(), 4);
    assert_eq!(disk.crash(2), Loss { kept: 2, lost: 2 });
    assert!(log.read(..).is_err(), "a home from before the crash");
    let log = Home::log(&disk.open());
    assert_eq!((log.first_index(), log.last_index()), (Some(1), Some(4)));
    assert_eq!(disk.crash(0), Loss::default());
    assert_eq!(Home::log(&disk.open()).last_index(), Some(4));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_durable_before_its_sync_has_ended() {
    let disk = disk();
    let delay = Duration::from_millis(10);
    disk.set_sync_duration(delay, delay);
    let serving = tokio::spawn(disk.clone().serve(|least, _| least));
    let log = Home::log(&disk.open());
    let (told, tells) = mpsc::channel();
    let note = |text: &'static str| -> SyncDone {
        let told = told.clone();
        Box::new(move |result| {
            result.unwrap();
            told.send(text).unwrap();
        })
    };
    log.append([(1, vec![1])], note("first")).unwrap();
    tokio::time::sleep(delay / 2).await;
    // This append is too late for the sync in progress.
    log.append([(2, vec![2])], note("second")).unwrap();
    tokio::time::sleep(delay * 3 / 4).await;
    assert_eq!(tells.try_iter().collect::<Vec<_>>(), ["first"]);
    assert_eq!(disk.unsynced_count(), 1);
    tokio::time::sleep(delay).await;
    assert_eq!(tells.try_iter().collect::<Vec<_>>(), ["second"]);
    assert_eq!((disk.unsynced_count(), log.sync_count()), (0, 2));
    log.append([(3, vec![3])], note("third")).unwrap();
    serving.abort();
    assert_eq!(disk.crash(0), Loss { kept: 0, lost: 1 });
    assert!(tells.try_iter().next().is_none());
}

#[test]
fn an_install_is_durable_with_all_that_was_written_before() {
    let disk = disk();
    let home = disk.open();
    append(&Home::log(&home), 1..=3);
    let install = home.begin_install().unwrap();
    let meta = BTreeMap::from([(b"a".to_vec(), b"b".to_vec())]);
    install.finish(meta.clone(), Summary::default()).unwrap();
    assert_eq!(disk.crash(0), Loss::default());
    let home = disk.open();
    assert_eq!(home.meta(b"a").unwrap(), Some(b"b".to_vec()));
    assert_eq!(Home::log(&home).last_index(), Some(3));
}
