//! Processes that are killed while they write, and machines that lose what was not synced.
//!
//! The writer is this test binary, started again with [`writer`] as its only test. It prints each
//! acknowledgement, as a client would see it, and each vote that was saved. All of these must be there
//! afterwards.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod leftovers;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use hearth_storage::store::rocks::lost_writes;
use hearth_storage::{
    Command, Entry, IfTaken, Location, Query, RULES, Registry, Revision, RocksOptions, RocksStore,
    Store, Summary, Tags,
};
use leftovers::{Random, files};

/// More lines than a writer prints before any crash point.
const LINES_MAX: usize = 200_000;
/// The longest time to wait for each line of a writer.
const DEADLINE: Duration = Duration::from_secs(60);
const FOLDER: &str = "HEARTH_TEST_FOLDER";
const SEED: &str = "HEARTH_TEST_SEED";

fn record(folder: &Path) -> PathBuf {
    folder.join("synced")
}

/// Opens a store with small buffers, so that tables, switches of the WAL and compactions happen all the time.
fn open(folder: &Path) -> RocksStore {
    let options = RocksOptions {
        write_buffer_len: 128 << 10,
        wal_len_max: 256 << 10,
        sync_record: Some(record(folder)),
        ..RocksOptions::default()
    };
    let location = Location::Folder(folder.to_owned());
    RocksStore::open(&location, &options).unwrap()
}

/// Returns the payload of log entry `index`. Like its command, it follows from the index alone.
fn payload(index: u64) -> Vec<u8> {
    let mut payload = index.to_be_bytes().to_vec();
    payload.resize(8 + (index * 37 % 900) as usize, index as u8);
    payload
}

fn command(index: u64) -> Command {
    if index == 1 {
        return Command::UseRules { rules: RULES };
    }
    if index % 40 == 39 {
        // This prefix covers more than is removed name by name.
        return Command::RemovePrefix {
            prefixes: vec!["name".to_owned()],
        };
    }
    let name = format!("name {}", index * 31 % 97);
    if index.is_multiple_of(5) {
        return Command::Remove { name };
    }
    Command::Register {
        name,
        uri: format!("PYRO:{index}@{}:1", "host".repeat(800)),
        tags: Tags::from([format!("tag {}", index % 7)]),
        if_taken: IfTaken::Replace,
    }
}

fn apply(registry: &Registry, indexes: std::ops::RangeInclusive<u64>) {
    let mut change = registry.begin().unwrap();
    for index in indexes.clone() {
        change
            .apply(Revision::new(index, 0), &command(index))
            .unwrap();
        let key = format!("session {}", index % 3);
        change.put_extra(key.as_bytes(), index.to_be_bytes().to_vec());
    }
    change.put_meta(b"applied", indexes.end().to_be_bytes().to_vec());
    registry.commit(change).unwrap();
}

fn applied(registry: &Registry) -> u64 {
    let record = registry.meta(b"applied").unwrap();
    record.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
}

/// The state after the first `applied` log entries, computed by applying them all to a store of its own.
struct Expected {
    registry: Registry,
    applied: u64,
}

impl Expected {
    fn new() -> Self {
        let store = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
        Self {
            registry: Registry::new(Arc::new(store)),
            applied: 0,
        }
    }

    fn at(&mut self, index: u64) -> Summary {
        assert!(index >= self.applied, "the state went back to {index}");
        // Entries are applied one by one, unlike in the writer: batches must not make a difference.
        for next in self.applied + 1..=index {
            apply(&self.registry, next..=next);
        }
        self.applied = index;
        self.registry.summary().unwrap()
    }
}

/// Runs the writer in a process that the tests below start. Does nothing when the whole suite runs.
#[test]
fn writer() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let store = open(Path::new(&folder));
    store.on_failure(|reason| {
        println!("failed {reason}");
    });
    let mut random = Random(seed);
    let registry = Registry::new(Arc::new(store.clone()));
    let log = store.log();
    let mut next = log
        .last_index()
        .unwrap_or(0)
        .max(log.last_purged().unwrap().map_or(0, |p| p.0))
        + 1;
    let (tell, synced) = mpsc::channel();
    println!("writing from {next}");
    loop {
        let first = next;
        next += 1 + random.below(8);
        let last = next - 1;
        let tell = tell.clone();
        let done = move |result: Result<(), _>| {
            if result.is_ok() {
                println!("acknowledged {last}");
            }
            // The receiver is gone when this process is about to end.
            let _ = tell.send(result.is_ok());
        };
        let entries = (first..=last).map(|index| (index, payload(index)));
        if log.append(entries, Box::new(done)).is_err() {
            break;
        }
        match random.below(12) {
            // Mostly the state follows at once, before the log is durable. It must still not get ahead.
            0..=6 => {
                let from = applied(&registry) + 1;
                if from <= last {
                    apply(&registry, from..=last);
                }
            }
            7 => {
                let purged = applied(&registry).saturating_sub(100);
                if purged > log.last_purged().unwrap().map_or(0, |p| p.0) {
                    log.purge(purged, &purged.to_be_bytes()).unwrap();
                }
            }
            8 => {
                let vote = last.to_be_bytes();
                log.save_vote(&vote).unwrap();
                println!("voted {last}");
            }
            9 if random.below(10) == 0 => {
                let snapshot = registry.snapshot().unwrap();
                let header = snapshot.header().clone();
                registry.install(header, snapshot.chunks(3000)).unwrap();
            }
            10 => {
                // These entries are taken back before anything follows them.
                let bogus = (next..next + 3).map(|index| (index, b"bogus".to_vec()));
                log.append(bogus, Box::new(|_| ())).unwrap();
                log.truncate_after(Some(last)).unwrap();
            }
            _ => {
                // Waits like a follower with one append in flight.
                while synced.recv_timeout(DEADLINE).is_ok() {
                    if log.stats().waiting_count == 0 {
                        break;
                    }
                }
            }
        }
    }
}

/// A writer process, and the lines that it prints.
struct Writer {
    process: Child,
    said: Receiver<String>,
}

impl Writer {
    fn start(folder: &Path, seed: u64, before: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut process = Process::new("sh")
            .args([
                "-c",
                &format!("{before} exec \"$0\" writer --exact --nocapture"),
            ])
            .arg(program)
            .env(FOLDER, folder)
            .env(SEED, seed.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Self { process, said }
    }

    /// Kills the process once it has acknowledged `count` times. Returns the whole lines that it printed.
    fn kill_after(mut self, count: u64) -> Vec<String> {
        let mut lines = Vec::new();
        let mut acknowledged = 0;
        while acknowledged < count {
            let line = self
                .said
                .recv_timeout(DEADLINE)
                .expect("the writer should go on");
            acknowledged += u64::from(line.starts_with("acknowledged"));
            lines.push(line);
        }
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        // Lines that were printed before the kill count, too.
        lines.extend(self.said.iter());
        lines
    }

    /// Waits until the process has ended at its crash point. Returns the lines that it printed.
    fn crashed(mut self, point: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.said.recv_timeout(DEADLINE) {
                Ok(line) if lines.len() < LINES_MAX => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                _ => {
                    self.process.kill().unwrap();
                    self.process.wait().unwrap();
                    panic!("it never came to {point}");
                }
            }
        }
        let status = self.process.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{point}: {status} {lines:?}");
        lines
    }
}

fn last_said(lines: &[String]) -> (u64, u64) {
    let number = |word| last(lines, word).unwrap_or(0);
    (number("acknowledged"), number("voted"))
}

fn last(lines: &[String], word: &str) -> Option<u64> {
    let numbers = lines.iter().filter_map(|line| line.strip_prefix(word));
    numbers
        .filter_map(|number| number.trim().parse().ok())
        .max()
}

/// Opens the data directory that is left, and compares it with what was acknowledged and with the expected
/// state.
fn check(folder: &Path, acknowledged: u64, voted: u64, expected: &mut Expected, case: &str) {
    let store = open(folder);
    let registry = Registry::new(Arc::new(store.clone()));
    let log = store.log();
    let purged = log.last_purged().unwrap().map_or(0, |(index, _)| index);
    let end = log.last_index().unwrap_or(purged);
    let applied = applied(&registry);
    assert!(
        end >= acknowledged,
        "{case}: the log ends at {end}, {acknowledged} was acknowledged"
    );
    assert!(
        applied <= end,
        "{case}: the state is at {applied}, the log at {end}"
    );
    assert!(
        purged <= applied,
        "{case}: purged to {purged}, applied to {applied}"
    );
    for (next, (index, found)) in (purged + 1..).zip(log.read(..).unwrap()) {
        assert_eq!(index, next, "{case}: a hole in the log");
        // A write that was taken back may come back, as long as nothing followed it.
        let bogus = found == b"bogus" && index > acknowledged;
        assert!(
            bogus || found == payload(index),
            "{case}: entry {index} is another"
        );
    }
    let vote = log.vote().unwrap();
    let vote = vote.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
    assert!(
        vote >= voted,
        "{case}: the vote is {vote}, {voted} was saved"
    );
    // The state as a whole is that of the log up to its applied index.
    let summary = registry.summary().unwrap();
    assert_eq!(
        summary,
        expected.at(applied),
        "{case}: the state at {applied}"
    );
    let mut recounted = Summary::default();
    let answer = registry
        .answer(&Query::List(hearth_storage::Filter::All))
        .unwrap();
    let hearth_storage::Answer::Entries(entries) = answer else {
        panic!("a list was answered with {answer:?}");
    };
    for (name, entry) in entries.iter() {
        recounted.add_entry(&name, &entry);
        assert_tagged(&registry, &name, &entry);
    }
    let mut created = Vec::new();
    let view = store.view().unwrap();
    view.created_since(Revision::default(), &mut |_, name| {
        created.push(name.to_owned());
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    let listed = entries.iter().map(|(name, _)| name);
    assert!(
        listed.eq(created),
        "{case}: the order of creation is another"
    );
    drop(view);
    for (key, value) in registry.extras(b"").unwrap() {
        recounted.add_extra(&key, &value);
    }
    assert_eq!(
        summary, recounted,
        "{case}: the entries are not those of the summary"
    );
    // The writer continues behind the log, so bogus entries at the end are removed.
    let good = log.read(..).unwrap();
    let bogus = good.iter().find(|(_, found)| found == b"bogus");
    if let Some((index, _)) = bogus {
        log.truncate_after(Some(index - 1)).unwrap();
        log.sync().unwrap();
    }
}

fn assert_tagged(registry: &Registry, name: &str, entry: &Entry) {
    for tag in &entry.tags {
        let filter = hearth_storage::Filter::TagsAll(vec![tag.clone()]);
        let answer = registry.answer(&Query::List(filter)).unwrap();
        let hearth_storage::Answer::Entries(found) = answer else {
            panic!("a list was answered with {answer:?}");
        };
        assert!(
            found.iter().any(|(n, _)| n == name),
            "{name} is not found by {tag}"
        );
    }
}

fn seed() -> u64 {
    match std::env::var(SEED) {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => u64::from(std::process::id()) << 20 | 1,
    }
}

/// Kills and restarts a writer on one data directory, `count` times. `damage` does to the directory what else
/// the crash took.
fn rounds(count: u64, damage: impl Fn(&Path, &mut Random)) {
    let seed = seed();
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Expected::new();
    let (mut acknowledged, mut voted) = (0, 0);
    for round in 0..count {
        let writer = Writer::start(folder.path(), random.below(u64::MAX), "");
        let lines = writer.kill_after(1 + random.below(120));
        acknowledged = last(&lines, "acknowledged").unwrap().max(acknowledged);
        voted = last(&lines, "voted").unwrap_or(0).max(voted);
        damage(folder.path(), &mut random);
        let case = format!("round {round} of {SEED}={seed}");
        check(folder.path(), acknowledged, voted, &mut expected, &case);
    }
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    rounds(10, |_, _| ());
}

#[test]
fn a_power_failure_loses_nothing_that_was_acknowledged() {
    rounds(10, |folder, _| {
        lost_writes::cut_to_last_sync(folder, &record(folder)).unwrap();
    });
}

#[test]
fn a_power_failure_may_keep_a_part_of_what_was_not_synced() {
    rounds(10, |folder, random| {
        let Some(wal) = files(folder, "log").pop() else {
            return;
        };
        let before = fs::metadata(&wal).unwrap().len();
        let bytes = fs::read(&wal).unwrap();
        lost_writes::cut_to_last_sync(folder, &record(folder)).unwrap();
        let synced = fs::metadata(&wal).unwrap().len();
        let keep = synced + random.below(before - synced + 1);
        let mut file = File::options().append(true).open(&wal).unwrap();
        file.write_all(&bytes[synced as usize..keep as usize])
            .unwrap();
    });
}

/// Environment variable with the number of rounds, for a longer run.
const ROUNDS: &str = "HEARTH_TEST_POWER_FAILURES";

#[test]
fn a_power_failure_may_lose_any_pages_of_what_was_not_synced() {
    let count = std::env::var(ROUNDS).map_or(40, |count| count.parse().unwrap());
    rounds(count, |folder, random| {
        let mut below = |bound| random.below(bound);
        lost_writes::lose_pages(folder, &record(folder), &mut below).unwrap();
    });
}

/// The crash points, each with the number of the visit at which the process ends. Where there are two, the
/// first prepares the second.
const CRASHES: &[&[&str]] = &[
    &["format-drafted:1"],
    &["format-written:1"],
    &["note-drafted:1"],
    &["note-made:1"],
    &["open-recovered:1"],
    &["open-first:1"],
    &["append:1"],
    &["append:40"],
    &["append-written:1"],
    &["append-written:33"],
    &["sync:1"],
    &["sync:17"],
    &["synced:1"],
    &["synced:23"],
    &["sync-told:9"],
    &["record-written:1"],
    &["record-written:3"],
    &["apply:2"],
    &["apply:31"],
    &["apply-written:1"],
    &["apply-written:29"],
    &["removal:1"],
    &["removal:2"],
    &["removal-written:1"],
    &["erase:1"],
    &["erase:2"],
    &["erase-written:1"],
    &["erase-finished:1"],
    &["erase-written:1", "erase:1"],
    &["truncate-written:1"],
    &["truncate-written:4"],
    &["purge-written:1"],
    &["purge-written:3"],
    &["purge-dropped:1"],
    &["purge-dropped:4"],
    &["family-made:1"],
    &["family-made:2"],
    &["family-made:3"],
    &["install-written:1"],
    &["install-written:3"],
    &["flushed:1"],
    &["flushed:3"],
    &["switch:1"],
    &["switch-written:1"],
    &["switch-synced:1"],
    &["install-dropped:1"],
    &["install-dropped:3"],
    // The second crash comes while the first one is being cleaned up.
    &["install-written:2", "open-leftover-dropped:1"],
    &["install-dropped:1", "open-leftover-dropped:2"],
    &["install-written:2", "open-leftover-dropped:3"],
    &["switch-written:1", "open-leftover-dropped:1"],
];

/// Ends a writer at each of these crash points, on one data directory; or on a new one for the crash points
/// that only a new one reaches.
fn crash_everywhere(damage: impl Fn(&Path)) {
    let seed = seed();
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Expected::new();
    let (mut acknowledged, mut voted) = (0, 0);
    for plans in CRASHES {
        let case = format!("{plans:?} of {SEED}={seed}");
        let first = ["format-", "open-first", "note-"];
        if first.iter().any(|place| plans[0].starts_with(place)) {
            let folder = tempfile::tempdir().unwrap();
            crash(folder.path(), plans[0], &mut random);
            damage(folder.path());
            check(folder.path(), 0, 0, &mut Expected::new(), &case);
            continue;
        }
        for plan in *plans {
            let lines = crash(folder.path(), plan, &mut random);
            let said = last_said(&lines);
            acknowledged = said.0.max(acknowledged);
            voted = said.1.max(voted);
            damage(folder.path());
        }
        check(folder.path(), acknowledged, voted, &mut expected, &case);
    }
    assert!(acknowledged > 100, "only {acknowledged} were acknowledged");
}

fn crash(folder: &Path, plan: &str, random: &mut Random) -> Vec<String> {
    let before = format!("export HEARTH_CRASH_POINT={plan};");
    Writer::start(folder, random.below(u64::MAX), &before).crashed(plan)
}

#[test]
fn a_crash_at_any_step_loses_nothing_acknowledged() {
    crash_everywhere(|_| ());
}

#[test]
fn a_power_failure_at_any_step_loses_nothing_acknowledged() {
    crash_everywhere(|folder| {
        // There is no record before the first sync.
        if record(folder).exists() {
            lost_writes::cut_to_last_sync(folder, &record(folder)).unwrap();
        }
    });
}

#[test]
fn a_full_disk_stops_the_store_and_loses_nothing() {
    // A limit on the size of files stands in for a full disk: writes beyond it fail.
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::start(folder.path(), 7, "trap '' XFSZ; ulimit -f 150;");
    let mut process = writer.process;
    let mut lines: Vec<String> = Vec::new();
    while !lines.iter().any(|line| line.starts_with("failed")) {
        lines.push(
            writer
                .said
                .recv_timeout(DEADLINE)
                .expect("a write should fail"),
        );
    }
    // The writer prints the reason and stops by itself. The acknowledgements of the sync that is under way at
    // that moment are printed by another thread, so they may come after the failure; they are durable all the
    // same (checked below).
    process.wait().unwrap();
    lines.extend(writer.said.iter());
    let failed = lines
        .iter()
        .position(|line| line.starts_with("failed"))
        .unwrap();
    assert!(
        lines[failed].contains("File too large"),
        "{}",
        lines[failed]
    );
    let acknowledged = last(&lines, "acknowledged").unwrap_or(0);
    assert!(
        acknowledged > 0,
        "the limit came too early to show anything"
    );
    let voted = last(&lines, "voted").unwrap_or(0);
    check(
        folder.path(),
        acknowledged,
        voted,
        &mut Expected::new(),
        "full disk",
    );
}
