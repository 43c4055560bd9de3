//! Tests of the writer over a network that loses, delays and repeats messages, and with leaders that change.
//! Time is virtual, so that every deadline and pause can be checked to the millisecond.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use hearth_storage::IfTaken;

use super::batcher::{ANSWERING_COUNT_MAX, DRAIN_DURATION_MAX, Numbers};
use super::*;
use crate::leader::contact::Contact;
use crate::rpc::message::{ProposalRecord, ProposeAnswer};
use crate::store::session::{Admission, Sessions, WINDOW};
use crate::types::{NumberedReply, Proposal};

const ME: u64 = 1;

/// The fate of a proposal to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is executed, and the reply arrives.
    Answered,
    /// It is refused.
    Refused,
    /// It is not executed, and no answer arrives.
    RequestLost,
    /// It is executed, and no answer arrives.
    ReplyLost,
    /// It is executed long after it was given up.
    Late,
    /// No answer arrives until another node leads.
    Silent,
    /// A disk is full.
    DiskFull,
}

/// The log and state of a whole cluster, with the real sessions.
#[derive(Default)]
struct Log {
    sessions: Sessions,
    index: u64,
    /// Number of registrations of each name.
    executed: BTreeMap<String, u32>,
    /// Number of commands in each proposal that arrived.
    proposals: Vec<usize>,
}

struct Shared {
    log: Mutex<Log>,
    rng: Mutex<StdRng>,
    /// The next fates. When it is empty, `chance` decides.
    script: Mutex<VecDeque<Fate>>,
    /// Percentage of proposals that are not simply answered.
    chance: u32,
    /// True if the state machine recognises repeated numbers.
    deduplicates: bool,
    is_member: std::sync::atomic::AtomicBool,
    counters: Arc<Counters>,
    /// The time by which this node's state machine lags behind; `None` while it applies nothing.
    lag: Mutex<Option<Duration>>,
}

#[derive(Clone)]
struct Fake {
    leadership: Leadership,
    shared: Arc<Shared>,
}

impl Fake {
    fn new(seed: u64, chance: u32, deduplicates: bool) -> Self {
        let contact = Arc::<Contact>::default();
        let second = Duration::from_secs(1);
        Self {
            leadership: Leadership::new(ME, contact, second, || Some(Duration::ZERO)),
            shared: Arc::new(Shared {
                log: Mutex::default(),
                rng: Mutex::new(StdRng::seed_from_u64(seed)),
                script: Mutex::default(),
                chance,
                deduplicates,
                is_member: true.into(),
                counters: Arc::default(),
                lag: Mutex::new(Some(Duration::from_millis(2))),
            }),
        }
    }

    fn start(&self) -> (Writer, tokio::task::JoinHandle<()>) {
        let counters = Arc::clone(&self.shared.counters);
        let (writer, batcher) = Writer::new(self.clone(), counters, 2);
        (writer, tokio::spawn(batcher.run()))
    }

    fn script(&self, fates: &[Fate]) {
        lock(&self.shared.script).extend(fates);
    }

    fn random(&self, range: std::ops::Range<u64>) -> u64 {
        lock(&self.shared.rng).random_range(range)
    }

    fn fate(&self) -> Fate {
        if let Some(fate) = lock(&self.shared.script).pop_front() {
            return fate;
        }
        if self.random(0..100) >= u64::from(self.shared.chance) {
            return Fate::Answered;
        }
        use Fate::{DiskFull, Late, Refused, ReplyLost, RequestLost, Silent};
        let fates = [
            Refused,
            RequestLost,
            ReplyLost,
            ReplyLost,
            Late,
            Silent,
            DiskFull,
        ];
        let count = fates.len() as u64;
        fates[usize::try_from(self.random(0..count)).unwrap()]
    }

    /// Executes a proposal like the real state machine.
    fn execute(&self, record: &ProposalRecord) -> ProposeAnswer {
        let mut log = lock(&self.shared.log);
        let log = &mut *log;
        log.index += 1;
        let index = log.index;
        let answer = match record {
            ProposalRecord::OpenSession { node, nonce } => {
                let member = self.shared.is_member.load(Ordering::Relaxed);
                let id = member.then(|| log.sessions.open(*node, *nonce, index));
                ProposeAnswer::Session { index, id }
            }
            ProposalRecord::Commands { list, .. } => {
                let replies = list.iter().map(|numbered| {
                    let (id, seq) = (numbered.session, numbered.seq);
                    let admission = log.sessions.admit(id, seq, numbered.acked_upto);
                    match admission {
                        Admission::Execute => {
                            *log.executed.entry(name(&numbered.command)).or_default() += 1;
                            log.sessions.executed(id, seq, Reply::Done);
                            NumberedReply::Applied(Reply::Done)
                        }
                        Admission::Repeat(reply) => {
                            if !self.shared.deduplicates {
                                *log.executed.entry(name(&numbered.command)).or_default() += 1;
                            }
                            NumberedReply::Applied(reply)
                        }
                        Admission::SessionExpired => NumberedReply::SessionExpired,
                        Admission::Stale => NumberedReply::Stale,
                        Admission::BeyondWindow => NumberedReply::BeyondWindow,
                    }
                });
                let replies = replies.collect();
                ProposeAnswer::Replies { index, replies }
            }
        };
        log.sessions.finish_entry(index);
        let counters = Arc::clone(&self.shared.counters);
        if let Some(lag) = *lock(&self.shared.lag) {
            tokio::spawn(async move {
                tokio::time::sleep(lag).await;
                counters.applied.raise(index);
            });
        }
        answer
    }

    fn executed(&self, name: &str) -> u32 {
        let log = lock(&self.shared.log);
        log.executed.get(name).copied().unwrap_or(0)
    }

    fn proposal_count(&self) -> usize {
        lock(&self.shared.log).proposals.len()
    }

    async fn pause(&self, millis: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random(millis))).await;
    }

    /// Fulfils the contract of [`Route`](crate::leader::router::Route), and of Raft for this node's own log: every
    /// proposal ends, even if no answer arrives.
    async fn ask(&self, to: u64, fate: Fate, record: ProposalRecord) -> ProposeAnswer {
        let unknown = |reason: &str| ProposeAnswer::Unknown(reason.to_owned());
        tokio::select! {
            answer = self.meet(fate, record) => answer,
            _ = self.leadership.passes_from(to) => unknown("another leads"),
            () = tokio::time::sleep(Duration::from_secs(5)) => unknown("no answer"),
        }
    }

    async fn meet(&self, fate: Fate, record: ProposalRecord) -> ProposeAnswer {
        if let ProposalRecord::Commands { list, .. } = &record {
            lock(&self.shared.log).proposals.push(list.len());
        }
        let unknown = || ProposeAnswer::Unknown("the connection ended".to_owned());
        self.pause(0..4).await;
        match fate {
            Fate::Answered => {
                let answer = self.execute(&record);
                self.pause(0..4).await;
                answer
            }
            Fate::Refused => ProposeAnswer::NotProposed("it does not lead".to_owned()),
            Fate::RequestLost => unknown(),
            Fate::ReplyLost => {
                self.execute(&record);
                unknown()
            }
            Fate::Late => {
                let later = self.clone();
                tokio::spawn(async move {
                    later.pause(1..500).await;
                    later.execute(&record);
                });
                unknown()
            }
            Fate::Silent => std::future::pending().await,
            Fate::DiskFull if matches!(record, ProposalRecord::Commands { again: false, .. }) => {
                ProposeAnswer::DiskFull("the disk is full".to_owned())
            }
            Fate::DiskFull => self.execute(&record),
        }
    }
}

fn name(command: &Command) -> String {
    match command {
        Command::Register { name, .. } | Command::Remove { name } => name.clone(),
        other => panic!("{other:?}"),
    }
}

impl Way for Fake {
    fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    fn propose_here(
        &self,
        proposal: Proposal,
        done: impl FnOnce(Option<ProposeAnswer>) + Send + 'static,
    ) {
        let record = match proposal {
            Proposal::OpenSession { node, nonce } => ProposalRecord::OpenSession { node, nonce },
            Proposal::Commands(list) => ProposalRecord::Commands { again: true, list },
            other => panic!("{other:?}"),
        };
        let (fake, fate) = (self.clone(), self.fate());
        tokio::spawn(async move { done(Some(fake.ask(ME, fate, record).await)) });
    }

    async fn propose_at(&self, to: u64, record: ProposalRecord) -> ProposeAnswer {
        self.ask(to, self.fate(), record).await
    }

    async fn read_index(&self) -> Result<u64, String> {
        Err("not here".to_owned())
    }
}

fn register(name: &str) -> Command {
    Command::Register {
        name: name.to_owned(),
        uri: "PYRO:a@h:1".to_owned(),
        tags: std::collections::BTreeSet::new(),
        if_taken: IfTaken::Refuse,
    }
}

fn within(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

/// Starts a writer whose leader is node 2, and waits for its session.
async fn ready() -> (Fake, Writer) {
    let fake = Fake::new(1, 0, true);
    fake.leadership.set_leader(Some(2));
    let (writer, _) = fake.start();
    writer.session().await.unwrap();
    (fake, writer)
}

/// Starts a write, and returns when it has been proposed.
async fn begin(
    fake: &Fake,
    writer: &Writer,
    name: &str,
    millis: u64,
) -> tokio::task::JoinHandle<Result<Reply, WriteError>> {
    let count = fake.proposal_count();
    let (writer, command) = (writer.clone(), register(name));
    let task = tokio::spawn(async move { writer.write(command, within(millis)).await });
    while fake.proposal_count() == count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    task
}

/// Runs many writers over a faulty network, and returns the wrong outcomes: those that do not match the
/// executions.
async fn wrongs(seed: u64, deduplicates: bool) -> Vec<String> {
    let fake = Fake::new(seed, 35, deduplicates);
    let (writer, batcher) = fake.start();
    let leaders = {
        let fake = fake.clone();
        tokio::spawn(async move {
            loop {
                for leader in [Some(2), None, Some(3), Some(2), Some(ME), None] {
                    fake.leadership.set_leader(leader);
                    fake.pause(1..120).await;
                }
            }
        })
    };
    let replacing = {
        let fake = fake.clone();
        tokio::spawn(async move {
            loop {
                // A late proposal of another, earlier run of this node.
                fake.pause(400..900).await;
                let nonce = fake.random(0..u64::MAX);
                fake.execute(&ProposalRecord::OpenSession { node: ME, nonce });
            }
        })
    };
    let clients: Vec<_> = (0..20)
        .map(|client| {
            let (fake, writer) = (fake.clone(), writer.clone());
            tokio::spawn(async move {
                let mut outcomes = Vec::new();
                for index in 0..30 {
                    let name = format!("{client}.{index}");
                    let command = if fake.random(0..4) == 0 {
                        Command::Remove { name: name.clone() }
                    } else {
                        register(&name)
                    };
                    let deadline = within(fake.random(1..300));
                    if fake.random(0..3) > 0 {
                        outcomes.push((name, writer.write(command, deadline).await));
                        continue;
                    }
                    let names: Vec<_> = (0..fake.random(1..5))
                        .map(|number| format!("{name}.{number}"))
                        .collect();
                    let group = names.iter().map(|name| register(name)).collect();
                    let (replies, error) = writer.write_all(group, deadline).await;
                    let left = names.len() - replies.len();
                    assert_eq!(error.is_some(), left > 0);
                    let replies = replies.into_iter().map(Ok);
                    let errors = error.into_iter().flat_map(|error| vec![Err(error); left]);
                    outcomes.extend(names.into_iter().zip(replies.chain(errors)));
                }
                outcomes
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for client in clients {
        outcomes.extend(client.await.unwrap());
    }
    leaders.abort();
    replacing.abort();
    // Late proposals are executed now. No number was lost, so there is room for a whole window of further
    // writes.
    fake.leadership.set_leader(Some(3));
    lock(&fake.shared.script).extend([Fate::Answered; 200]);
    for index in 0..20 {
        let name = format!("last.{index}");
        let written = writer.write(register(&name), within(60_000)).await;
        outcomes.push((name, written));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    writer.stop();
    batcher.await.unwrap();

    let mut wrongs = Vec::new();
    let mut kinds = [0; 3];
    for (name, outcome) in outcomes {
        let times = fake.executed(&name);
        let (kind, right) = match &outcome {
            Ok(_) => (0, times == 1),
            Err(WriteError::Unknown(_)) => (1, times <= 1),
            Err(_) => (2, times == 0),
        };
        kinds[kind] += 1;
        if !right || (name.starts_with("last") && kind != 0) {
            wrongs.push(format!("{name}: {outcome:?}, executed {times} times"));
        }
    }
    assert!(kinds.iter().all(|&count| count > 0), "too easy: {kinds:?}");
    wrongs
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_true_whatever_the_network_does() {
    for seed in 0..40 {
        let wrongs = wrongs(seed, true).await;
        assert!(wrongs.is_empty(), "seed {seed}: {wrongs:#?}");
    }
}

/// The test above can fail: it detects a state machine that does not recognise repeated numbers.
#[tokio::test(start_paused = true)]
async fn without_sessions_something_would_be_executed_twice() {
    assert!(!wrongs(0, false).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_gets_at_once_what_the_last_one_did_not_answer() {
    let (fake, writer) = ready().await;
    fake.script(&[Fate::Silent]);
    let write = begin(&fake, &writer, "a", 60_000).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!write.is_finished());
    fake.leadership.set_leader(None);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    fake.leadership.set_leader(Some(3));
    assert_eq!(write.await.unwrap(), Ok(Reply::Done));
    assert!(
        began.elapsed() < Duration::from_millis(15),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(fake.executed("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_tried_again_and_less_and_less_often() {
    let (fake, writer) = ready().await;
    fake.script(&[Fate::Refused; 3]);
    let began = Instant::now();
    assert_eq!(
        writer.write(register("a"), within(60_000)).await,
        Ok(Reply::Done)
    );
    assert!(
        began.elapsed() < Duration::from_millis(120),
        "{:?}",
        began.elapsed()
    );
    let before = fake.proposal_count();
    fake.script(&[Fate::Refused; 1000]);
    let refused = writer.write(register("b"), within(4000)).await;
    let Err(WriteError::NoQuorum(reason)) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("it does not lead"), "{reason}");
    let tries = fake.proposal_count() - before;
    assert!((15..60).contains(&tries), "{tries}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fake.executed("b"), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_nothing_is_proposed_now_or_later() {
    let (fake, writer) = ready().await;
    fake.leadership.set_leader(None);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = writer.write(register("a"), within(500)).await;
    let expected = "no leader is known, until the deadline".to_owned();
    assert_eq!(refused, Err(WriteError::NoQuorum(expected)));
    fake.leadership.set_leader(Some(2));
    assert_eq!(
        writer.write(register("b"), within(500)).await,
        Ok(Reply::Done)
    );
    assert_eq!((fake.executed("a"), fake.executed("b")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_proposed_is_unknown_and_says_who_was_waited_for() {
    let (fake, writer) = ready().await;
    fake.script(&[Fate::Silent, Fate::Silent]);
    let first = begin(&fake, &writer, "a", 2000).await;
    let second = begin(&fake, &writer, "b", 2000).await;
    // The limit of proposals under way is reached, so this one waits behind them.
    let third = writer.write(register("c"), within(1500)).await;
    let Err(WriteError::NoQuorum(reason)) = third else {
        panic!("{third:?}");
    };
    assert!(reason.contains("node 2, the leader"), "{reason}");
    for write in [first, second] {
        let outcome = write.await.unwrap();
        let Err(WriteError::Unknown(reason)) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(reason.contains("node 2, the leader"), "{reason}");
    }
    // Their numbers are still open; the next leader closes them.
    fake.leadership.set_leader(Some(3));
    assert_eq!(
        writer.write(register("d"), within(500)).await,
        Ok(Reply::Done)
    );
    let executed = ["a", "b", "c", "d"].map(|name| fake.executed(name));
    assert_eq!(executed, [1, 1, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_reply_waits_until_it_is_applied_here_and_holds_up_nobody() {
    let (fake, writer) = ready().await;
    *lock(&fake.shared.lag) = None;
    let patient = begin(&fake, &writer, "a", 60_000).await;
    let given_up = writer.write(register("b"), within(100)).await;
    let Err(WriteError::Unknown(reason)) = given_up else {
        panic!("{given_up:?}");
    };
    assert!(reason.contains("has not caught up"), "{reason}");
    assert!(!patient.is_finished());
    assert_eq!((fake.executed("a"), fake.executed("b")), (1, 1));
    *lock(&fake.shared.lag) = Some(Duration::ZERO);
    assert_eq!(
        writer.write(register("c"), within(100)).await,
        Ok(Reply::Done)
    );
    assert_eq!(patient.await.unwrap(), Ok(Reply::Done));
}

/// The number of writes that wait for a lagging node is bounded.
#[tokio::test(start_paused = true)]
async fn a_node_that_lags_slows_its_own_clients() {
    let (fake, writer) = ready().await;
    *lock(&fake.shared.lag) = None;
    for index in 0..ANSWERING_COUNT_MAX + 20 {
        let written = writer
            .write(register(&format!("a{index}")), within(20))
            .await;
        assert!(written.is_err());
    }
    assert_eq!(fake.proposal_count(), ANSWERING_COUNT_MAX);
    fake.shared.counters.applied.raise(u64::MAX);
    assert_eq!(
        writer.write(register("b"), within(500)).await,
        Ok(Reply::Done)
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_no_member_says_so_at_once() {
    let fake = Fake::new(1, 0, true);
    fake.shared.is_member.store(false, Ordering::Relaxed);
    fake.leadership.set_leader(Some(2));
    let (writer, _) = fake.start();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let began = Instant::now();
    let refused = writer.write(register("a"), within(60_000)).await;
    assert_eq!(refused, Err(WriteError::NotProposed(NO_MEMBER.to_owned())));
    assert!(began.elapsed() < Duration::from_millis(5));
    fake.shared.is_member.store(true, Ordering::Relaxed);
    writer.session().await.unwrap();
    assert_eq!(
        writer.write(register("a"), within(500)).await,
        Ok(Reply::Done)
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_is_opened_by_whoever_leads_next_and_only_once() {
    let fake = Fake::new(1, 0, true);
    fake.script(&[Fate::ReplyLost, Fate::Refused, Fate::Late, Fate::Silent]);
    fake.leadership.set_leader(Some(2));
    let (writer, _) = fake.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*writer.session.borrow(), None);
    fake.leadership.set_leader(Some(3));
    let session = writer.session().await.unwrap();
    assert_eq!(session, 1, "the one that was opened first");
    assert_eq!(lock(&fake.shared.log).sessions.len(), 1);
}

/// Stopping does not wait for a session that no leader opens.
#[tokio::test(start_paused = true)]
async fn a_writer_without_a_leader_can_be_stopped() {
    let fake = Fake::new(1, 0, true);
    let (writer, batcher) = fake.start();
    let write = tokio::spawn({
        let writer = writer.clone();
        async move { writer.write(register("a"), within(60_000)).await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    writer.stop();
    let began = Instant::now();
    batcher.await.unwrap();
    assert!(began.elapsed() <= DRAIN_DURATION_MAX + Duration::from_millis(5));
    assert_eq!(write.await.unwrap(), Err(stopping()));
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_for_the_replies_that_are_owed() {
    let (fake, writer) = ready().await;
    *lock(&fake.shared.lag) = Some(Duration::from_secs(1));
    let write = begin(&fake, &writer, "a", 60_000).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    writer.stop();
    assert_eq!(write.await.unwrap(), Ok(Reply::Done));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_what_needs_room_and_lets_removals_pass() {
    let (fake, writer) = ready().await;
    fake.script(&[Fate::DiskFull]);
    let removal = Command::Remove {
        name: "r".to_owned(),
    };
    let (refused, removed) = tokio::join!(
        writer.write(register("a"), within(500)),
        writer.write(removal, within(500))
    );
    let expected = WriteError::DiskFull("the disk is full".to_owned());
    assert_eq!(refused, Err(expected));
    assert_eq!(removed, Ok(Reply::Done));
    assert_eq!((fake.executed("a"), fake.executed("r")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_group_goes_into_one_entry_and_a_long_one_into_as_few_as_hold_it() {
    let (fake, writer) = ready().await;
    let names = |count: usize| {
        let commands = (0..count).map(|number| register(&format!("n.{number}")));
        commands.collect()
    };
    let count = ENTRY_COMMANDS_MAX + 7;
    let (replies, error) = writer.write_all(names(count), within(5_000)).await;
    assert_eq!((replies.len(), error), (count, None));
    assert_eq!(lock(&fake.shared.log).proposals, [ENTRY_COMMANDS_MAX, 7]);

    // By length: a command that is larger than an entry is alone in it.
    let long = |len: usize| register(&"x".repeat(len));
    let small = ENTRY_LEN_MAX / 2 - 100;
    let group = vec![long(small), long(small - 1), long(ENTRY_LEN_MAX), long(1)];
    let (replies, error) = writer.write_all(group, within(5_000)).await;
    assert_eq!((replies.len(), error), (4, None));
    assert_eq!(lock(&fake.shared.log).proposals[2..], [2, 1, 1]);

    // One that no entry can hold ends the call, after those before it.
    let group = vec![
        register("before"),
        long(COMMAND_LEN_MAX),
        register("behind"),
    ];
    let (replies, error) = writer.write_all(group, within(5_000)).await;
    assert_eq!(replies.len(), 1);
    assert!(
        matches!(error, Some(WriteError::NotProposed(_))),
        "{error:?}"
    );
    assert_eq!((fake.executed("before"), fake.executed("behind")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_group_is_refused_as_a_whole_where_a_disk_is_full() {
    let (fake, writer) = ready().await;
    let removal = |name: &str| Command::Remove {
        name: name.to_owned(),
    };
    fake.script(&[Fate::DiskFull]);
    let mixed = vec![removal("r"), register("a")];
    let (replies, error) = writer.write_all(mixed, within(500)).await;
    assert!(replies.is_empty());
    assert!(matches!(error, Some(WriteError::DiskFull(_))), "{error:?}");
    assert_eq!((fake.executed("r"), fake.executed("a")), (0, 0));
    fake.script(&[Fate::DiskFull]);
    let removals = vec![removal("r"), removal("s")];
    let (replies, error) = writer.write_all(removals, within(500)).await;
    assert_eq!((replies.len(), error), (2, None));
}

#[test]
fn numbers_are_acknowledged_without_gaps() {
    let mut numbers = Numbers::default();
    for expected in 1..=5 {
        assert_eq!(numbers.give(), expected);
    }
    numbers.finish(2);
    numbers.finish(4);
    assert_eq!(numbers.acked_upto, 0);
    numbers.finish(1);
    assert_eq!(numbers.acked_upto, 2);
    numbers.finish(3);
    assert_eq!(numbers.acked_upto, 4);
    assert!(numbers.final_beyond.is_empty());
}

#[test]
fn one_open_number_holds_the_window() {
    let mut numbers = Numbers::default();
    for _ in 0..WINDOW {
        numbers.give();
    }
    assert_eq!(numbers.room(), 0);
    for seq in 2..=WINDOW {
        numbers.finish(seq);
    }
    assert_eq!(numbers.room(), 0);
    numbers.finish(1);
    assert_eq!(numbers.room(), WINDOW as usize);
}

#[test]
fn a_command_is_withdrawn_or_proposed_never_both() {
    let claim = Claim::default();
    assert!(claim.withdraw());
    assert!(!claim.propose());
    let claim = Claim::default();
    assert!(claim.propose());
    assert!(!claim.withdraw());
    claim.give_back();
    assert!(claim.withdraw());
    assert!(!claim.propose());
}
