//! Conditions that only this crate can cause: a log that is ahead of the state, a session that is replaced, a
//! lost majority, a state machine that fails.

use std::collections::BTreeSet;

use hearth_storage::{IfTaken, Location, RULES, RocksStore};
use openraft::storage::{IOFlushed, RaftLogStorage};

use super::*;
use crate::bootstrap::birth::Folder;
use crate::codec::log_id;
use crate::config::StorageLocation;
use crate::store::log_store::LogStore;
use crate::types::{LogEntry, Member, Membership, NumberedCommand, Payload, Proposal, Vote};

fn config(storage: StorageLocation) -> ReplicaConfig {
    ReplicaConfig {
        node_id: Some(1),
        cluster_name: "hearth".to_owned(),
        storage,
        cluster: None,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn register(name: &str) -> Command {
    Command::Register {
        name: name.to_owned(),
        uri: format!("PYRO:{name}@localhost:1"),
        tags: BTreeSet::new(),
        if_taken: IfTaken::Refuse,
    }
}

fn raft(replica: &Replica) -> Raft {
    let running = replica.shared.running();
    running.as_ref().expect("it runs").raft.clone()
}

fn has(replica: &Replica, name: &str) -> bool {
    let answer = replica.answer(&Query::Lookup(name.to_owned())).unwrap();
    matches!(answer, Answer::Entry(Some(_)))
}

fn folder(dir: &tempfile::TempDir) -> (StorageLocation, Location) {
    let path = dir.path().join("data");
    (StorageLocation::Rocks(path.clone()), Location::Folder(path))
}

#[tokio::test]
async fn entries_that_were_appended_and_not_applied_are_applied_before_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, location) = folder(&dir);
    {
        let store = RocksStore::open(&location, &Tuning::default().rocks).unwrap();
        Folder::open(store.log(), &config(storage.clone()), Arc::default()).unwrap();
        let gate = Arc::new(Gate::new(1));
        let mut log_store = LogStore::open(store.log(), gate).unwrap();
        let payloads = [
            Payload::Membership(Membership::new_with_defaults(vec![[1].into()], [])),
            Payload::Blank,
            Payload::Normal(Proposal::OpenSession { node: 1, nonce: 4 }),
            Payload::Normal(Proposal::Commands(
                (1..=100)
                    .map(|seq| NumberedCommand {
                        session: 2,
                        seq,
                        acked_upto: 0,
                        command: register(&format!("name{seq}")),
                    })
                    .collect(),
            )),
        ];
        let entries = payloads
            .into_iter()
            .zip(0..)
            .map(|(payload, index)| LogEntry {
                log_id: log_id(u64::from(index > 0), 1, index),
                payload,
            });
        let vote = Vote::new_committed(1, 1);
        log_store.save_vote(&vote).await.unwrap();
        log_store.append(entries, IOFlushed::noop()).await.unwrap();
        store.close().unwrap();
    }
    let replica = Replica::start(config(storage)).await.unwrap();
    assert!((1..=100).all(|seq| has(&replica, &format!("name{seq}"))));
    let status = replica.status();
    // One more command activates the newest rules.
    assert_eq!(status.command_count, 101);
    assert_eq!(replica.rules().unwrap(), RULES);
    assert!(status.term > 1 && status.reads_are_local);
    replica.shutdown().await;
}

#[tokio::test]
async fn a_log_that_ends_before_the_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, location) = folder(&dir);
    let replica = Replica::start(config(storage.clone())).await.unwrap();
    for index in 0..5 {
        let written = replica.write(register(&index.to_string()), soon()).await;
        assert_eq!(written, Ok(Reply::Done));
    }
    let last = replica.status().last_log_index;
    replica.shutdown().await;
    {
        let store = RocksStore::open(&location, &Tuning::default().rocks).unwrap();
        store.log().truncate_after(Some(last - 1)).unwrap();
        store.close().unwrap();
    }
    let error = Replica::start(config(storage)).await.unwrap_err();
    let damaged = matches!(&error, StartError::Store(StoreError::Damaged { .. }));
    assert!(damaged, "{error}");
}

#[tokio::test]
async fn a_session_that_was_taken_away_is_opened_again() {
    let replica = Replica::start(config(StorageLocation::Memory))
        .await
        .unwrap();
    let written = replica.write(register("a"), soon()).await;
    assert_eq!(written, Ok(Reply::Done));
    let first = replica.shared.writer.session().await;
    let other = Proposal::OpenSession { node: 1, nonce: 0 };
    raft(&replica).client_write(other).await.unwrap();
    // The old session did not execute the command, so it can be executed, once, in a new session.
    for name in ["b", "c"] {
        let written = replica.write(register(name), soon()).await;
        assert_eq!(written, Ok(Reply::Done));
    }
    assert_ne!(replica.shared.writer.session().await, first);
    // One more command activated the newest rules at the start.
    assert_eq!(replica.status().command_count, 4);
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_read_or_written() {
    let replica = Replica::start(config(StorageLocation::Memory))
        .await
        .unwrap();
    let written = replica.write(register("a"), soon()).await;
    assert_eq!(written, Ok(Reply::Done));
    assert!(replica.status().reads_are_local);
    let raft = raft(&replica);
    raft.add_learner(2, Member::default(), false).await.unwrap();
    replica.read_barrier(Duration::ZERO).await.unwrap();
    // The new voter does not exist, so the change is appended and never committed.
    let change = tokio::spawn({
        let raft = raft.clone();
        async move { raft.change_membership(BTreeSet::from([1, 2]), false).await }
    });
    let until = soon();
    while replica.status().reads_are_local {
        assert!(Instant::now() < until, "local reads go on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let read = replica.read_barrier(Duration::from_millis(200)).await;
    assert!(matches!(read, Err(ReadError::NoQuorum(_))), "{read:?}");
    // Until the leader notices, a write is appended and its outcome is unknown. After that it is refused before
    // it is appended.
    let until = soon();
    loop {
        let deadline = Instant::now() + Duration::from_millis(100);
        match replica.write(register("b"), deadline).await {
            Err(WriteError::NotProposed(_) | WriteError::NoQuorum(_)) => break,
            Err(WriteError::Unknown(_)) => assert!(Instant::now() < until, "it never notices"),
            other => panic!("{other:?}"),
        }
    }
    assert!(!has(&replica, "b"));
    replica.shutdown().await;
    drop(raft);
    let _ = change.await;
}

#[tokio::test]
async fn rounds_are_shared_by_all_who_wait() {
    let replica = Replica::start(config(StorageLocation::Memory))
        .await
        .unwrap();
    // The path of a cluster of several, although the sole-voter fast path is open.
    let reads = &replica.shared.reads;
    let barriers = (0..100).map(|_| reads.barrier(Duration::from_secs(10)));
    let results = futures::future::join_all(barriers).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    replica.shutdown().await;
}

#[tokio::test]
async fn a_state_machine_that_fails_takes_the_replica_down() {
    let replica = Replica::start(config(StorageLocation::Memory))
        .await
        .unwrap();
    let raft = raft(&replica);
    raft.with_state_machine(|state_machine| {
        state_machine.break_for_test();
        Box::pin(async {})
    })
    .await
    .unwrap();
    let written = replica.write(register("a"), soon()).await;
    assert!(
        matches!(written, Err(WriteError::Unknown(_))),
        "{written:?}"
    );
    let reason = tokio::time::timeout(Duration::from_secs(10), replica.failed()).await;
    assert!(reason.is_ok_and(|reason| reason.contains("could not be applied")));
    replica.shutdown().await;
}

#[tokio::test]
async fn a_state_machine_that_panics_takes_the_replica_down() {
    let replica = Replica::start(config(StorageLocation::Memory))
        .await
        .unwrap();
    let raft = raft(&replica);
    let panics = raft
        .with_state_machine(|_| -> openraft::base::BoxFuture<'_, ()> {
            Box::pin(async { panic!("a test wants it so") })
        })
        .await;
    assert!(panics.is_err());
    let reason = tokio::time::timeout(Duration::from_secs(10), replica.failed()).await;
    assert!(reason.is_ok(), "nobody noticed");
    replica.shutdown().await;
}
