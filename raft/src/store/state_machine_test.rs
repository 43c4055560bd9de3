//! Tests of log store and state machine as openraft uses them: openraft's own suite, and the cases that it does
//! not cover.

use std::sync::mpsc;
use std::time::Duration;

use futures::stream;
use openraft::StorageError;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

use hearth_storage::{
    Answer, IfTaken, Location, Query, Reply, RocksOptions, RocksStore, StateHash,
};

use super::*;
use crate::codec::log_id;
use crate::store::log_store::LogStore;
use crate::types::{Membership, Vote};

struct Stores {
    log_store: LogStore,
    state_machine: StateMachine,
    gate: Arc<Gate>,
    store: RocksStore,
}

fn open(location: &Location) -> Stores {
    let store = RocksStore::open(location, &RocksOptions::default()).unwrap();
    let gate = Arc::new(Gate::new(1));
    let registry = Registry::new(Arc::new(store.clone()));
    let counters = Arc::new(Counters::default());
    Stores {
        log_store: LogStore::open(store.log(), Arc::clone(&gate)).unwrap(),
        state_machine: StateMachine::open(registry, Arc::clone(&gate), counters, Arc::default())
            .unwrap(),
        gate,
        store,
    }
}

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let stores = open(&Location::Folder(dir.path().join("data")));
        Ok((dir, stores.log_store, stores.state_machine))
    }
}

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, ()> for InMemory {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let stores = open(&Location::Memory);
        Ok(((), stores.log_store, stores.state_machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes_on_disk() {
    Suite::test_all(OnDisk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes_in_memory() {
    Suite::test_all(InMemory).await.unwrap();
}

fn register(name: &str, uri: &str) -> Command {
    Command::Register {
        name: name.to_owned(),
        uri: uri.to_owned(),
        tags: Default::default(),
        if_taken: IfTaken::Refuse,
    }
}

fn commands(index: u64, session: u64, list: &[(u64, u64, Command)]) -> LogEntry {
    let list: Vec<NumberedCommand> = list
        .iter()
        .map(|(seq, acked_upto, command)| NumberedCommand {
            session,
            seq: *seq,
            acked_upto: *acked_upto,
            command: command.clone(),
        })
        .collect();
    LogEntry {
        log_id: log_id(1, 1, index),
        payload: Payload::Normal(Proposal::Commands(list.into())),
    }
}

fn member_entry(index: u64) -> LogEntry {
    LogEntry {
        log_id: log_id(1, 1, index),
        payload: Payload::Membership(Membership::new_with_defaults(vec![[1].into()], [])),
    }
}

fn open_session(index: u64, nonce: u64) -> LogEntry {
    LogEntry {
        log_id: log_id(1, 1, index),
        payload: Payload::Normal(Proposal::OpenSession { node: 1, nonce }),
    }
}

/// Returns a log with a session and registrations, each of which would be refused the second time.
fn story() -> Vec<LogEntry> {
    let mut entries = vec![member_entry(0), open_session(1, 5)];
    for index in 2..40u64 {
        let seq = index - 1;
        let command = register(&format!("name{}", index % 7), &format!("PYRO:o{index}@h:1"));
        let mut list = vec![(seq, seq.saturating_sub(4), command)];
        if index % 3 == 0 {
            // The previous number, a second time.
            list.push((seq - 1, 0, register("doubled", "PYRO:x@h:1")));
        }
        entries.push(commands(index, 1, &list));
        if index % 5 == 0 {
            let name = format!("name{}", index % 7);
            let remove = Command::Remove { name };
            let last = entries.len() - 1;
            entries[last] = commands(index, 1, &[(seq, seq.saturating_sub(4), remove)]);
        }
    }
    entries
}

async fn apply(state_machine: &mut StateMachine, entries: &[LogEntry]) {
    let items = entries.iter().map(|entry| Ok((entry.clone(), None)));
    let items: Vec<_> = items.collect();
    state_machine.apply(stream::iter(items)).await.unwrap();
}

fn state_hash(stores: &Stores) -> StateHash {
    stores.state_machine.registry.state_hash().unwrap()
}

#[tokio::test]
async fn however_entries_are_grouped_the_state_is_the_same() {
    let entries = story();
    let mut hashes = Vec::new();
    for group in [1, 2, 7, entries.len()] {
        let mut stores = open(&Location::Memory);
        for part in entries.chunks(group) {
            apply(&mut stores.state_machine, part).await;
        }
        hashes.push(state_hash(&stores));
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1);
}

#[tokio::test]
async fn a_restart_between_any_two_entries_changes_nothing() {
    let entries = story();
    let mut expected = open(&Location::Memory);
    apply(&mut expected.state_machine, &entries).await;
    let expected = state_hash(&expected);
    for cut in (0..=entries.len()).step_by(5) {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::Folder(dir.path().join("data"));
        let mut stores = open(&location);
        apply(&mut stores.state_machine, &entries[..cut]).await;
        drop(stores);
        let mut stores = open(&location);
        let position = stores.state_machine.position();
        assert_eq!(
            position.last_applied.map(|id| id.index + 1).unwrap_or(0),
            cut as u64
        );
        apply(&mut stores.state_machine, &entries[cut..]).await;
        assert_eq!(state_hash(&stores), expected, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_command_that_comes_twice_is_executed_once() {
    let mut stores = open(&Location::Memory);
    let machine = &mut stores.state_machine;
    apply(machine, &[member_entry(0), open_session(1, 5)]).await;
    let mut pending = machine.begin().unwrap();
    let first = commands(2, 1, &[(1, 0, register("a", "PYRO:1@h:1"))]);
    let again = commands(3, 1, &[(1, 0, register("a", "PYRO:1@h:1"))]);
    let done = Outcome::Replies(vec![NumberedReply::Applied(Reply::Done)]);
    assert_eq!(machine.add(first, &mut pending).unwrap(), done);
    assert_eq!(machine.add(again, &mut pending).unwrap(), done);
    let other = commands(4, 9, &[(1, 0, register("b", "PYRO:1@h:1"))]);
    let expired = Outcome::Replies(vec![NumberedReply::SessionExpired]);
    assert_eq!(machine.add(other, &mut pending).unwrap(), expired);
    machine.finish(pending).unwrap();
    assert_eq!(machine.counters.command_count.load(Ordering::Relaxed), 1);
    let answer = machine.registry.answer(&Query::Count).unwrap();
    assert_eq!(answer, Answer::Count(1));
}

#[tokio::test]
async fn only_members_get_sessions() {
    let mut stores = open(&Location::Memory);
    let machine = &mut stores.state_machine;
    let mut pending = machine.begin().unwrap();
    let outcome = machine.add(open_session(0, 5), &mut pending).unwrap();
    assert_eq!(outcome, Outcome::Session(None));
}

#[tokio::test]
async fn an_installed_snapshot_replaces_everything() {
    let mut from = open(&Location::Memory);
    apply(&mut from.state_machine, &story()).await;
    let mut builder = from.state_machine.get_snapshot_builder().await;
    let taken = state_hash(&from);
    // An entry that is applied after the builder was created is not in the snapshot.
    apply(&mut from.state_machine, &[open_session(40, 6)]).await;
    let snapshot = openraft::RaftSnapshotBuilder::build_snapshot(&mut builder)
        .await
        .unwrap();
    assert_eq!(snapshot.meta.last_log_id.unwrap().index, 39);

    let dir = tempfile::tempdir().unwrap();
    let location = Location::Folder(dir.path().join("data"));
    let mut to = open(&location);
    apply(
        &mut to.state_machine,
        &[member_entry(0), open_session(1, 99)],
    )
    .await;
    to.state_machine
        .install_snapshot(&snapshot.meta, snapshot.snapshot)
        .await
        .unwrap();
    assert_eq!(state_hash(&to), taken);
    drop(to);
    let mut to = open(&location);
    assert_eq!(state_hash(&to), taken);
    assert_eq!(
        to.state_machine.position().installed,
        snapshot.meta.last_log_id
    );
    // The snapshot includes the sessions: a number that was executed there is not executed here.
    let again = commands(40, 1, &[(38, 0, register("name4", "PYRO:other@h:1"))]);
    apply(&mut to.state_machine, &[again]).await;
    let counters = &to.state_machine.counters;
    assert_eq!(counters.command_count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_it_says_is_refused() {
    let mut from = open(&Location::Memory);
    apply(&mut from.state_machine, &story()).await;
    let mut snapshot = from
        .state_machine
        .get_current_snapshot()
        .await
        .unwrap()
        .unwrap();
    snapshot.meta.last_log_id = Some(log_id(1, 1, 38));
    let mut to = open(&Location::Memory);
    apply(&mut to.state_machine, &[member_entry(0)]).await;
    let before = state_hash(&to);
    to.state_machine
        .install_snapshot(&snapshot.meta, snapshot.snapshot)
        .await
        .unwrap_err();
    assert_eq!(state_hash(&to), before);
}

fn blank(index: u64) -> LogEntry {
    LogEntry {
        log_id: log_id(1, 1, index),
        payload: Payload::Blank,
    }
}

fn notice(sender: &mpsc::Sender<u64>, index: u64) -> IOFlushed<TypeConfig> {
    let (tx, rx) = TypeConfig::oneshot::<Result<(), io::Error>>();
    let sender = sender.clone();
    tokio::spawn(async move {
        rx.await.unwrap().unwrap();
        sender.send(index).unwrap();
    });
    IOFlushed::signal(tx)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_come_once_each_and_many_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(&Location::Folder(dir.path().join("data")));
    let (sender, receiver) = mpsc::channel();
    const COUNT: u64 = 2000;
    for index in 0..COUNT {
        let callback = notice(&sender, index);
        stores
            .log_store
            .append([blank(index)], callback)
            .await
            .unwrap();
        let read = stores.log_store.try_get_log_entries(index..).await.unwrap();
        assert_eq!(read.len(), 1, "readable at once");
    }
    let mut seen: Vec<u64> = (0..COUNT)
        .map(|_| receiver.recv_timeout(Duration::from_secs(20)).unwrap())
        .collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..COUNT));
    let stats = stores.store.log().stats();
    assert!(stats.sync_count < COUNT, "{stats:?}");
}

#[tokio::test]
async fn a_vote_and_the_log_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::Folder(dir.path().join("data"));
    let mut stores = open(&location);
    let log = &mut stores.log_store;
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    log.append((0..10).map(blank), IOFlushed::noop())
        .await
        .unwrap();
    log.truncate_after(Some(log_id(1, 1, 7))).await.unwrap();
    log.purge(log_id(1, 1, 2)).await.unwrap();
    drop(stores);
    let mut stores = open(&location);
    let log = &mut stores.log_store;
    assert_eq!(
        log.read_vote().await.unwrap(),
        Some(Vote::new_committed(3, 1))
    );
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 1, 2)));
    assert_eq!(state.last_log_id, Some(log_id(1, 1, 7)));
    let entries = log.try_get_log_entries(..).await.unwrap();
    assert!(entries.iter().map(|entry| entry.log_id.index).eq(3..8));
    log.purge(log_id(1, 1, 7)).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        state.last_log_id,
        Some(log_id(1, 1, 7)),
        "falls back to what was purged"
    );
    assert!(!stores.gate.is_open());
}

#[tokio::test]
async fn memory_and_disk_give_the_same_entries() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(&Location::Folder(dir.path().join("data")));
    let big = "x".repeat(200 << 10);
    let entries: Vec<LogEntry> = (0..60)
        .map(|index| commands(index, 1, &[(1, 0, register(&big, "u"))]))
        .collect();
    for part in entries.chunks(7) {
        let part = part.to_vec();
        stores
            .log_store
            .append(part, IOFlushed::noop())
            .await
            .unwrap();
    }
    let mut fresh = LogStore::open(stores.store.log(), Arc::clone(&stores.gate)).unwrap();
    for (start, end) in [
        (0, 60),
        (0, 5),
        (35, 60),
        (58, 60),
        (59, 200),
        (60, 61),
        (7, 7),
    ] {
        let here = stores
            .log_store
            .try_get_log_entries(start..end)
            .await
            .unwrap();
        let there = fresh.try_get_log_entries(start..end).await.unwrap();
        assert_eq!(here, there);
        assert_eq!(here.len() as u64, 60u64.min(end).saturating_sub(start));
        if start < end.min(60) {
            let limited = fresh.limited_get_log_entries(start, end).await.unwrap();
            assert!(!limited.is_empty() && limited.len() <= here.len());
            assert_eq!(limited[..], here[..limited.len()]);
        }
    }
    let streamed: Vec<_> = fresh.entries_stream(3..57).await.collect().await;
    let streamed: Vec<LogEntry> = streamed.into_iter().map(Result::unwrap).collect();
    assert_eq!(streamed[..], entries[3..57]);
}

/// Replies that repeated the URI of a name, each up to the size of a message, made records that could be
/// written and not be read.
#[tokio::test]
async fn a_folder_with_a_record_of_more_than_256_mib_opens_and_gets_small() {
    const URI_LEN: usize = 8 << 20;
    let dir = tempfile::tempdir().unwrap();
    let location = Location::Folder(dir.path().join("data"));
    let index_key = |index: u64| {
        [
            b"session/",
            &1_u64.to_be_bytes()[..],
            b"r",
            &index.to_be_bytes(),
        ]
        .concat()
    };
    {
        let mut stores = open(&location);
        apply(
            &mut stores.state_machine,
            &[member_entry(0), open_session(1, 5)],
        )
        .await;
        let block: Vec<(u64, Reply)> = (1..=33)
            .map(|seq| {
                let uri = "u".repeat(URI_LEN);
                (
                    seq,
                    Reply::Refused(hearth_storage::Refusal::NameTaken { uri }),
                )
            })
            .collect();
        let registry = Registry::new(Arc::new(stores.store.clone()));
        let record = codec::encode_record(&block);
        assert!(record.len() > 256 << 20);
        let mut change = registry.begin().unwrap();
        change.put_extra(&index_key(2), record);
        registry.commit(change).unwrap();
        stores.store.close().unwrap();
    }
    let mut stores = open(&location);
    let bare = Reply::Refused(hearth_storage::Refusal::name_taken());
    let sessions = &mut stores.state_machine.sessions;
    assert_eq!(sessions.admit(1, 33, 0), Admission::Repeat(bare));
    let next = commands(3, 1, &[(34, 0, register("n", "PYRO:n@h:1"))]);
    apply(&mut stores.state_machine, &[next]).await;
    let registry = Registry::new(Arc::new(stores.store.clone()));
    let record = registry.extra(&index_key(2)).unwrap().unwrap();
    assert!(record.len() < 1024, "{} bytes", record.len());
}
