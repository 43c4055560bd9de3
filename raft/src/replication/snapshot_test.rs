//! Tests of senders and receivers of snapshots against each other, over a faulty network.

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use openraft::errors::{ReplicationClosed, StreamingError};

use hearth_storage::{Command, IfTaken, Location, Revision, RocksOptions, RocksStore, StateHash};

use super::*;
use crate::codec::log_id;
use crate::config::{DiskLimits, StorageLocation, Tuning};
use crate::replication::network::Network;
use crate::replication::snapshot_send::{Carry, Outgoing};
use crate::rpc::{CallError, Peers};
use crate::store::log_store::LogStore;
use crate::store::snapshot::{LAST_APPLIED, MEMBERSHIP};
use crate::store::sole_voter::Gate;
use crate::store::state_machine::{Counters, StateMachine};
use crate::types::{Membership, StoredMembership};

#[path = "snapshot_crash_test.rs"]
mod crash;

/// The longest time that a test waits for a condition.
const DEADLINE: Duration = Duration::from_secs(60);

/// Chunk length in bytes that splits even a small state into many chunks.
const SMALL: usize = 1 << 10;

/// A random generator that repeats its numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// Returns a leader's state up to index `last`, with about `name_count` names.
fn source(name_count: u64, last: u64) -> Registry {
    let store = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
    let registry = Registry::new(Arc::new(store));
    let mut change = registry.begin().unwrap();
    for number in 0..name_count {
        let command = Command::Register {
            name: format!("name {}", number * 7919 % 100_003),
            uri: format!("PYRO:obj_{number}@host:1"),
            tags: [format!("tag {}", number % 5)].into(),
            if_taken: IfTaken::Replace,
        };
        change.apply(Revision::new(number, 0), &command).unwrap();
    }
    change.put_extra(b"of the cluster", vec![7; 5000]);
    let membership = Membership::new_with_defaults(vec![[1].into()], [2]);
    let membership = StoredMembership::new(Some(log_id(1, 1, 1)), membership);
    change.put_meta(LAST_APPLIED, codec::encode_log_id(&log_id(1, 1, last)));
    change.put_meta(MEMBERSHIP, codec::encode_membership(&membership));
    registry.commit(change).unwrap();
    registry
}

/// Returns options with a write buffer so small that received data is flushed to tables during the
/// transfer.
fn small_buffers() -> RocksOptions {
    RocksOptions {
        write_buffer_len: 64 << 10,
        ..RocksOptions::default()
    }
}

/// A node that has not received anything yet.
struct Target {
    raft: Raft,
    registry: Registry,
    store: RocksStore,
    disk: Arc<Disk>,
}

impl Target {
    async fn open(location: &Location) -> Self {
        Self::open_with(location, small_buffers()).await
    }

    async fn open_with(location: &Location, options: RocksOptions) -> Self {
        let began = Instant::now();
        let store = loop {
            match RocksStore::open(location, &options) {
                Ok(store) => break store,
                // Tasks that used the store may still be ending.
                Err(StoreError::InUse { .. }) if began.elapsed() < DEADLINE => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        let registry = Registry::new(Arc::new(store.clone()));
        let gate = Arc::new(Gate::new(2));
        let log_store = LogStore::open(store.log(), Arc::clone(&gate)).unwrap();
        let counters = Arc::new(Counters::default());
        let state_machine =
            StateMachine::open(registry.clone(), gate, counters, Arc::default()).unwrap();
        let config = Tuning::default().to_openraft("test").unwrap();
        let network = Network::new(Peers::nobody(), Outgoing::default());
        let raft = Raft::new(2, config, network, log_store, state_machine)
            .await
            .unwrap();
        Self {
            raft,
            registry,
            store,
            disk: Disk::open(&StorageLocation::Memory, DiskLimits::default()),
        }
    }

    async fn in_memory() -> Self {
        Self::open(&Location::Memory).await
    }

    fn receiver(&self) -> Receiver {
        self.receiver_with(IDLE_DURATION_MAX)
    }

    fn receiver_with(&self, idle: Duration) -> Receiver {
        let disk = Arc::clone(&self.disk);
        Receiver::start_with(self.raft.clone(), self.registry.clone(), disk, idle).0
    }

    /// Returns the hash of the state, after checking that it matches the data.
    fn state_hash(&self) -> StateHash {
        let view = self.registry.snapshot().unwrap();
        let store = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
        let copy = Registry::new(Arc::new(store));
        let copied = copy.install(view.header().clone(), view.chunks(1 << 20));
        copied.expect("the state is as its summary says");
        view.header().summary.hash
    }
}

/// The connection between a sender and a receiver. `how` decides the fate of each part.
struct Pipe<F> {
    receiver: Mutex<Receiver>,
    how: F,
    part_count: AtomicU64,
    chunk_count: AtomicU64,
}

/// The fate of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    Late(u64),
    Twice,
    Lost,
    AnswerLost,
    Altered,
    /// Neither the part nor an answer arrives.
    Silence,
}

impl<F: Fn(u64, &SnapshotPart) -> Fate + Sync> Pipe<F> {
    fn new(receiver: Receiver, how: F) -> Self {
        Self {
            receiver: Mutex::new(receiver),
            how,
            part_count: AtomicU64::new(0),
            chunk_count: AtomicU64::new(0),
        }
    }

    fn receiver(&self) -> Receiver {
        self.receiver.lock().unwrap().clone()
    }
}

fn altered(part: SnapshotPart) -> SnapshotPart {
    match part {
        SnapshotPart::Chunk {
            vote,
            last_log_id,
            number,
            mut bytes,
        } => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            SnapshotPart::Chunk {
                vote,
                last_log_id,
                number,
                bytes,
            }
        }
        other => other,
    }
}

impl<F: Fn(u64, &SnapshotPart) -> Fate + Sync> Carry for Pipe<F> {
    async fn carry(
        &self,
        _to: u64,
        part: SnapshotPart,
        timeout: Duration,
    ) -> Result<SnapshotAnswer, CallError> {
        let number = self.part_count.fetch_add(1, Ordering::Relaxed);
        if let SnapshotPart::Chunk { .. } = part {
            self.chunk_count.fetch_add(1, Ordering::Relaxed);
        }
        let lost = || CallError::Lost("the connection broke".to_owned());
        let fate = (self.how)(number, &part);
        let receiver = self.receiver();
        match fate {
            Fate::Arrives => Ok(receiver.handle(part).await),
            Fate::Late(millis) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(receiver.handle(part).await)
            }
            Fate::Twice => {
                let (first, _) = tokio::join!(receiver.handle(part.clone()), receiver.handle(part));
                Ok(first)
            }
            Fate::Lost => Err(lost()),
            Fate::AnswerLost => {
                receiver.handle(part).await;
                Err(lost())
            }
            Fate::Altered => Ok(receiver.handle(altered(part)).await),
            Fate::Silence => {
                tokio::time::sleep(timeout).await;
                Err(CallError::TimedOut(timeout))
            }
        }
    }
}

fn leader() -> Vote {
    Vote::new_committed(1, 1)
}

async fn send(
    outgoing: &Outgoing,
    pipe: &impl Carry,
    from: &Registry,
) -> Result<Vote, StreamingError<crate::types::TypeConfig>> {
    let snapshot = snapshot::take(from).unwrap();
    let never = std::future::pending();
    let sent = outgoing.send(pipe, 2, leader(), snapshot, never);
    let sent = tokio::time::timeout(DEADLINE, sent).await.unwrap();
    sent.map(|response| response.vote)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs a test on one thread, like Raft's own runtime.
fn on_one_thread(test: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::spawn(test).await.unwrap() });
}

#[test]
fn a_snapshot_arrives_whole_and_survives_a_restart() {
    on_one_thread(async {
        let from = source(5000, 70);
        let dir = tempfile::tempdir().unwrap();
        let location = Location::Folder(dir.path().join("data"));
        let to = Target::open(&location).await;
        let pipe = Pipe::new(to.receiver(), |_, _| Fate::Arrives);
        let vote = send(&Outgoing::new(SMALL), &pipe, &from).await.unwrap();
        assert_eq!(vote, leader());
        assert_eq!(to.state_hash(), from.state_hash().unwrap());
        let metrics = to.raft.metrics();
        until("the log begins behind the snapshot", || {
            let metrics = metrics.borrow_watched();
            metrics.purged == Some(log_id(1, 1, 70)) && metrics.last_applied == metrics.purged
        })
        .await;
        to.raft.shutdown().await.unwrap();
        drop((to, pipe, metrics));

        let to = Target::open(&location).await;
        assert_eq!(to.state_hash(), from.state_hash().unwrap());
        let metrics = to.raft.metrics();
        until("the membership is known again", || {
            let members = metrics.borrow_watched().membership_config.clone();
            members.membership().get_node(&2).is_some()
        })
        .await;
        // A snapshot that the node already has is not sent again.
        let pipe = Pipe::new(to.receiver(), |_, _| Fate::Arrives);
        send(&Outgoing::new(SMALL), &pipe, &from).await.unwrap();
        assert_eq!(pipe.part_count.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn nothing_that_may_happen_on_the_way_changes_what_arrives() {
    for seed in 1..=6 {
        on_one_thread(async move {
            let from = source(2000, 70);
            let to = Target::in_memory().await;
            let random = Mutex::new(Random(seed));
            let pipe = Pipe::new(to.receiver(), move |_, _| {
                let mut random = random.lock().unwrap();
                match random.below(40) {
                    0 | 1 => Fate::Lost,
                    2 | 3 => Fate::AnswerLost,
                    4 | 5 => Fate::Twice,
                    6 | 7 => Fate::Altered,
                    8..18 => Fate::Late(random.below(8)),
                    _ => Fate::Arrives,
                }
            });
            let outgoing = Outgoing::new(SMALL);
            let mut attempts = 1;
            while let Err(error) = send(&outgoing, &pipe, &from).await {
                assert_ne!(to.state_hash(), from.state_hash().unwrap());
                assert!(attempts < 50, "seed {seed}: {error}");
                attempts += 1;
            }
            assert_eq!(to.state_hash(), from.state_hash().unwrap(), "seed {seed}");
            let summary = to.registry.summary().unwrap();
            assert_eq!(summary, from.summary().unwrap(), "seed {seed}");
        });
    }
}

#[test]
fn a_broken_connection_costs_no_more_than_the_chunks_under_way() {
    on_one_thread(async {
        let from = source(3000, 70);
        let chunks = snapshot_chunk_count(&from);
        assert!(chunks > 50, "{chunks}");
        let to = Target::in_memory().await;
        // In every ten parts, three in a row find the connection broken.
        let pipe = Pipe::new(to.receiver(), |number, _| match number % 10 {
            7..=9 => Fate::Lost,
            _ => Fate::Arrives,
        });
        send(&Outgoing::new(SMALL), &pipe, &from).await.unwrap();
        assert_eq!(to.state_hash(), from.state_hash().unwrap());
        let sent = pipe.chunk_count.load(Ordering::Relaxed);
        assert!(sent < chunks * 2, "{sent} chunks were sent, of {chunks}");
    });
}

fn snapshot_chunk_count(from: &Registry) -> u64 {
    from.snapshot().unwrap().chunks(SMALL).count() as u64
}

#[test]
fn a_restarted_receiver_begins_again() {
    on_one_thread(async {
        let from = source(2000, 70);
        let to = Target::in_memory().await;
        let restarted = AtomicBool::new(false);
        let pipe = Arc::new(Pipe::new(to.receiver(), move |number, _| {
            if number == 20 && !restarted.swap(true, Ordering::Relaxed) {
                return Fate::Late(50);
            }
            Fate::Arrives
        }));
        let again = Arc::clone(&pipe);
        let fresh = to.receiver();
        let restart = tokio::spawn(async move {
            until("some chunks have come", || {
                again.part_count.load(Ordering::Relaxed) > 20
            })
            .await;
            *again.receiver.lock().unwrap() = fresh;
        });
        send(&Outgoing::new(SMALL), &*pipe, &from).await.unwrap();
        restart.await.unwrap();
        assert_eq!(to.state_hash(), from.state_hash().unwrap());
        let chunks = snapshot_chunk_count(&from);
        let sent = pipe.chunk_count.load(Ordering::Relaxed);
        assert!(sent > chunks, "{sent} chunks were sent, of {chunks}");
    });
}

#[test]
fn a_cancelled_send_stops_at_once_and_the_receiver_cleans_up() {
    on_one_thread(async {
        let from = source(20_000, 70);
        let dir = tempfile::tempdir().unwrap();
        let to = Target::open(&Location::Folder(dir.path().join("data"))).await;
        let len = || to.store.table_len().unwrap();
        let full = AtomicU64::new(0);
        let receiver = to.receiver_with(Duration::from_millis(300));
        let pipe = Pipe::new(receiver, |number, _| {
            if number > 400 {
                Fate::Silence
            } else {
                Fate::Arrives
            }
        });
        let outgoing = Outgoing::new(SMALL);
        let snapshot = snapshot::take(&from).unwrap();
        let cancel = async {
            until("it hangs", || pipe.part_count.load(Ordering::Relaxed) > 401).await;
            full.store(len(), Ordering::Relaxed);
            assert_eq!(outgoing.needed_after(), Some(70));
            ReplicationClosed::new("test")
        };
        let sent = outgoing.send(&pipe, 2, leader(), snapshot, cancel).await;
        assert!(matches!(sent, Err(StreamingError::Closed(_))), "{sent:?}");
        assert_eq!(outgoing.needed_after(), None);
        let full = full.into_inner();
        assert!(full > 200_000, "{full}");
        until("the generation is gone", || len() < full / 10).await;
        // The receiver is free for another snapshot.
        let pipe = Pipe::new(to.receiver(), |_, _| Fate::Arrives);
        send(&outgoing, &pipe, &from).await.unwrap();
        assert_eq!(outgoing.needed_after(), Some(70), "for a while");
        assert_eq!(to.state_hash(), from.state_hash().unwrap());
    });
}

fn begin(from: &Registry, vote: Vote) -> SnapshotPart {
    let snapshot = snapshot::take(from).unwrap();
    let SnapshotData::Local(view) = snapshot.snapshot else {
        panic!("a view is local");
    };
    SnapshotPart::Begin {
        vote: VoteRecord::from(&vote),
        last_log_id: snapshot.meta.last_log_id.as_ref().map(LogIdRecord::from),
        membership: codec::encode_membership(&snapshot.meta.last_membership),
        header: view.header().encode(),
    }
}

fn chunk(from: &Registry, vote: Vote, number: u64) -> SnapshotPart {
    let last_log_id = snapshot::take(from).unwrap().meta.last_log_id;
    let view = from.snapshot().unwrap();
    let bytes = view.chunks(SMALL).nth(number as usize).unwrap().unwrap();
    SnapshotPart::Chunk {
        vote: VoteRecord::from(&vote),
        last_log_id: last_log_id.as_ref().map(LogIdRecord::from),
        number,
        bytes,
    }
}

fn finish(from: &Registry, vote: Vote) -> SnapshotPart {
    let last_log_id = snapshot::take(from).unwrap().meta.last_log_id;
    SnapshotPart::Finish {
        vote: VoteRecord::from(&vote),
        last_log_id: last_log_id.as_ref().map(LogIdRecord::from),
        chunk_count: snapshot_chunk_count(from),
    }
}

#[test]
fn an_earlier_leader_disturbs_nobody_and_a_later_one_takes_over() {
    on_one_thread(async {
        let (from, other) = (source(200, 70), source(100, 80));
        let to = Target::in_memory().await;
        let receiver = to.receiver();
        let (old, new, newest) = (
            Vote::new_committed(1, 1),
            Vote::new_committed(2, 1),
            Vote::new_committed(3, 1),
        );
        let answer = receiver.handle(begin(&from, new)).await;
        assert!(matches!(answer, SnapshotAnswer::Want(0)), "{answer:?}");
        let answer = receiver.handle(chunk(&from, new, 0)).await;
        assert!(matches!(answer, SnapshotAnswer::Want(1)), "{answer:?}");
        for part in [
            begin(&other, old),
            chunk(&other, old, 1),
            finish(&other, old),
        ] {
            let answer = receiver.handle(part).await;
            let SnapshotAnswer::HigherVote(vote) = answer else {
                panic!("{answer:?}");
            };
            assert_eq!(Vote::from(vote), new);
        }
        // A part of another snapshot by the same leader does not belong to this one.
        let answer = receiver.handle(chunk(&other, new, 1)).await;
        assert!(matches!(answer, SnapshotAnswer::Restart(_)), "{answer:?}");
        let answer = receiver.handle(begin(&from, new)).await;
        assert!(matches!(answer, SnapshotAnswer::Want(1)), "{answer:?}");
        let answer = receiver.handle(begin(&other, newest)).await;
        assert!(matches!(answer, SnapshotAnswer::Want(0)), "{answer:?}");
        for number in 0..snapshot_chunk_count(&other) {
            receiver.handle(chunk(&other, newest, number)).await;
        }
        for _ in 0..2 {
            let answer = receiver.handle(finish(&other, newest)).await;
            assert!(matches!(answer, SnapshotAnswer::Done(_)), "{answer:?}");
        }
        assert_eq!(to.state_hash(), other.state_hash().unwrap());
        // Raft itself has the vote now.
        let fresh = to.receiver();
        let answer = fresh.handle(begin(&from, new)).await;
        assert!(
            matches!(answer, SnapshotAnswer::HigherVote(_)),
            "{answer:?}"
        );
    });
}

#[test]
fn what_makes_no_sense_is_refused_and_harms_nobody() {
    on_one_thread(async {
        let from = source(200, 70);
        let to = Target::in_memory().await;
        let receiver = to.receiver();
        let unelected = Vote::new(1, 1);
        let before_its_entries = Vote::new_committed(1, 0);
        for vote in [unelected, before_its_entries] {
            let answer = receiver.handle(begin(&from, vote)).await;
            assert!(matches!(answer, SnapshotAnswer::Refused(_)), "{answer:?}");
        }
        let announced = |change: fn(&mut SnapshotPart)| {
            let mut part = begin(&from, leader());
            change(&mut part);
            receiver.handle(part)
        };
        let another_index = announced(|part| {
            if let SnapshotPart::Begin { last_log_id, .. } = part {
                *last_log_id = Some(LogIdRecord::from(&log_id(1, 1, 71)));
            }
        });
        let no_index = announced(|part| {
            if let SnapshotPart::Begin { last_log_id, .. } = part {
                *last_log_id = None;
            }
        });
        let bytes = announced(|part| {
            if let SnapshotPart::Begin { header, .. } = part {
                header.pop();
            }
        });
        let members = announced(|part| {
            if let SnapshotPart::Begin { membership, .. } = part {
                membership.clear();
            }
        });
        for answer in [
            another_index.await,
            no_index.await,
            bytes.await,
            members.await,
        ] {
            assert!(matches!(answer, SnapshotAnswer::Refused(_)), "{answer:?}");
        }
        // Parts without a beginning.
        for part in [chunk(&from, leader(), 0), finish(&from, leader())] {
            let answer = receiver.handle(part).await;
            assert!(matches!(answer, SnapshotAnswer::Restart(_)), "{answer:?}");
        }
        receiver.handle(begin(&from, leader())).await;
        // A chunk that is too far ahead, and an end that is too early.
        let answer = receiver.handle(chunk(&from, leader(), 9)).await;
        assert!(matches!(answer, SnapshotAnswer::Want(0)), "{answer:?}");
        let answer = receiver.handle(finish(&from, leader())).await;
        assert!(matches!(answer, SnapshotAnswer::Want(0)), "{answer:?}");
        // All announced chunks, but fewer than the header promised.
        let mut early = finish(&from, leader());
        if let SnapshotPart::Finish { chunk_count, .. } = &mut early {
            *chunk_count = 1;
        }
        receiver.handle(chunk(&from, leader(), 0)).await;
        let answer = receiver.handle(early).await;
        assert!(matches!(answer, SnapshotAnswer::Restart(_)), "{answer:?}");
        assert_ne!(to.state_hash(), from.state_hash().unwrap());
        let pipe = Pipe::new(receiver, |_, _| Fate::Arrives);
        send(&Outgoing::new(SMALL), &pipe, &from).await.unwrap();
        assert_eq!(to.state_hash(), from.state_hash().unwrap());
    });
}

#[test]
fn two_members_are_served_one_after_the_other() {
    on_one_thread(async {
        let from = source(1000, 70);
        let (one, two) = (Target::in_memory().await, Target::in_memory().await);
        let outgoing = Outgoing::new(SMALL);
        let under_way = Mutex::new((0, 0));
        let pipe = |target: &Target| {
            let which = usize::from(std::ptr::eq(target, &two));
            let under_way = &under_way;
            Pipe::new(target.receiver(), move |_, part| {
                let mut seen = under_way.lock().unwrap();
                match part {
                    SnapshotPart::Begin { .. } => {
                        assert_eq!(seen.0, 0, "one at a time");
                        seen.0 = 1 << which;
                        seen.1 += 1;
                    }
                    SnapshotPart::Finish { .. } => seen.0 = 0,
                    SnapshotPart::Chunk { .. } => assert_eq!(seen.0, 1 << which),
                }
                Fate::Arrives
            })
        };
        let (first, second) = (pipe(&one), pipe(&two));
        let (a, b) = tokio::join!(
            send(&outgoing, &first, &from),
            send(&outgoing, &second, &from)
        );
        a.unwrap();
        b.unwrap();
        assert_eq!(under_way.lock().unwrap().1, 2);
        assert_eq!(one.state_hash(), from.state_hash().unwrap());
        assert_eq!(two.state_hash(), from.state_hash().unwrap());
    });
}
