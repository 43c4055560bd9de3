//! Model check of the sessions: explores every interleaving of nodes, leader changes, crashes, and a network
//! that loses, delays and reorders messages, up to a bound.
//!
//! Raft is assumed to be correct: there is one log, and an entry is applied at most once. To a session, an
//! entry that a leader has appended and not committed is a request that is still in transit: it may be applied
//! at any later time or, if another leader drops it, never. The guarantee of the connections between nodes is
//! assumed as well: a request is handled at most once, but maybe long after it was given up. The state machine
//! is the real one ([`Sessions`], restored from its records before each entry, as after a restart or from a
//! snapshot). The numbers that a node acknowledges are real, too ([`Numbers`]). The retries of a node are a
//! short model of those of the writer.

use std::collections::BTreeMap;

use stateright::{Checker, Model, Property};

use super::*;
use crate::write::batcher::Numbers;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// An injected fault that the check must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    /// A number that was executed is executed again.
    NoDeduplication,
    /// A command that may be in a log gets a new number when its session has ended.
    RenumbersTheUnknown,
    /// A caller is told that nothing was done although a request for its command was given up.
    WithdrawsTheUnknown,
    /// Numbers are acknowledged when they are sent.
    AcknowledgesTooEarly,
    /// A late request opens a session again, because the nonce of an earlier run is reused.
    KeepsTheNonce,
}

struct Cluster {
    defect: Defect,
    /// The names of the commands of each node.
    commands: Vec<Vec<u8>>,
    /// Maximum number of requests for one command.
    send_count_max: u8,
    /// Maximum number of requests for a session by one node.
    open_count_max: u8,
    crash_count_max: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    records: Records,
    /// Index of the last applied entry.
    applied: u64,
    /// Number of executions of each command.
    executed: BTreeMap<u8, u8>,
    /// Requests in transit to a leader, or in the log of one.
    requests: Vec<Sent>,
    /// Answers in transit to a node.
    answers: Vec<Answer>,
    nodes: Vec<Node>,
    crash_count: u8,
}

/// A request. Only the node's current run receives its answer, and only while it waits for this attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Sent {
    node: usize,
    run: u8,
    attempt: u8,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum What {
    Open {
        nonce: u64,
    },
    Command {
        position: usize,
        session: u64,
        seq: u64,
        acked_upto: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Answer {
    to: Sent,
    says: Says,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Says {
    Session(u64),
    Applied,
    SessionExpired,
    Stale,
    /// The request was not appended, and never will be.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    run: u8,
    session: Option<u64>,
    /// The nonce of the next session.
    nonce: u64,
    open_count: u8,
    numbers: Numbers,
    commands: Vec<Command>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Command {
    name: u8,
    /// The session, the number, and the `acked_upto` that was sent with it.
    number: Option<(u64, u64, u64)>,
    send_count: u8,
    maybe_appended: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Waits,
    /// A request is in transit or in a log, and the node waits for its answer.
    UnderWay,
    /// The caller was told that the command was executed.
    Done,
    /// The caller was told that the command was not executed.
    NotProposed,
    /// The caller was told that the outcome is unknown.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Open(usize),
    Propose(usize, usize),
    /// The node gives a request up as lost.
    Lose(usize, usize),
    /// The caller withdraws its command.
    Withdraw(usize, usize),
    /// A request is applied.
    Apply(usize),
    Refuse(usize),
    Deliver(usize),
    Crash(usize),
}

impl Node {
    /// Returns true if the node still waits for an answer to this request.
    fn listens_to(&self, sent: &Sent) -> bool {
        self.run == sent.run
            && match sent.what {
                What::Open { nonce } => self.session.is_none() && self.nonce == nonce,
                What::Command { position, .. } => {
                    let command = &self.commands[position];
                    command.stage == Stage::UnderWay && command.send_count == sent.attempt
                }
            }
    }
}

impl Cluster {
    /// One node with two commands.
    fn new(defect: Defect) -> Self {
        Self {
            defect,
            commands: vec![vec![0, 1]],
            send_count_max: 2,
            open_count_max: 3,
            crash_count_max: 1,
        }
    }

    /// One node with one command, which is retried more often.
    fn persistent(defect: Defect) -> Self {
        Self {
            commands: vec![vec![0]],
            send_count_max: 4,
            open_count_max: 4,
            crash_count_max: 2,
            ..Self::new(defect)
        }
    }

    /// Two nodes with one command each.
    fn pair() -> Self {
        Self {
            commands: vec![vec![0], vec![1]],
            open_count_max: 2,
            ..Self::new(Defect::None)
        }
    }

    fn apply(&self, state: &mut State, sent: Sent) {
        state.applied += 1;
        let index = state.applied;
        let records = state.records.iter();
        let mut sessions =
            Sessions::load(records.map(|(key, value)| (&key[..], &value[..]))).unwrap();
        let says = match &sent.what {
            What::Open { nonce } => Says::Session(sessions.open(sent.node as u64, *nonce, index)),
            &What::Command {
                position,
                session,
                seq,
                acked_upto,
            } => {
                let name = self.commands[sent.node][position];
                let mut execute = || *state.executed.entry(name).or_default() += 1;
                match sessions.admit(session, seq, acked_upto) {
                    Admission::Execute => {
                        execute();
                        sessions.executed(session, seq, Reply::Done);
                        Says::Applied
                    }
                    Admission::Repeat(_) => {
                        if self.defect == Defect::NoDeduplication {
                            execute();
                        }
                        Says::Applied
                    }
                    Admission::SessionExpired => Says::SessionExpired,
                    Admission::Stale => Says::Stale,
                    Admission::BeyondWindow => unreachable!("there are not so many commands"),
                }
            }
        };
        for (key, value) in sessions.finish_entry(index) {
            match value {
                Some(value) => state.records.insert(key, value),
                None => state.records.remove(&key),
            };
        }
        // An answer that no node will ever wait for is not kept.
        if state.nodes[sent.node].listens_to(&sent) {
            put(&mut state.answers, Answer { to: sent, says });
        }
    }

    fn deliver(&self, state: &mut State, Answer { to, says }: Answer) {
        let node = &mut state.nodes[to.node];
        if !node.listens_to(&to) {
            return;
        }
        match to.what {
            What::Open { .. } => {
                if let Says::Session(id) = says {
                    node.session = Some(id);
                    node.numbers = Numbers::default();
                    node.nonce += u64::from(self.defect != Defect::KeepsTheNonce);
                }
            }
            What::Command {
                position,
                session,
                seq,
                ..
            } => {
                let command = &mut node.commands[position];
                let is_current = node.session == Some(session);
                match says {
                    Says::Applied => {
                        command.stage = Stage::Done;
                        if is_current {
                            node.numbers.finish(seq);
                        }
                    }
                    Says::SessionExpired => {
                        if is_current {
                            node.session = None;
                        }
                        let unknown =
                            command.maybe_appended && self.defect != Defect::RenumbersTheUnknown;
                        command.stage = if unknown {
                            Stage::Unknown
                        } else {
                            Stage::Waits
                        };
                        command.number = None;
                    }
                    Says::Stale => command.stage = Stage::Unknown,
                    Says::Refused => command.stage = Stage::Waits,
                    Says::Session(_) => unreachable!("commands open no session"),
                }
            }
        }
    }

    fn propose(&self, state: &mut State, id: usize, position: usize) {
        let node = &mut state.nodes[id];
        let command = &mut node.commands[position];
        if command.number.is_none() {
            let seq = node.numbers.give();
            let session = node.session.unwrap();
            command.number = Some((session, seq, node.numbers.acked_upto));
            if self.defect == Defect::AcknowledgesTooEarly {
                node.numbers.finish(seq);
            }
        }
        let (session, seq, acked_upto) = command.number.unwrap();
        command.send_count += 1;
        command.stage = Stage::UnderWay;
        let what = What::Command {
            position,
            session,
            seq,
            acked_upto,
        };
        let (run, attempt) = (node.run, command.send_count);
        put(
            &mut state.requests,
            Sent {
                node: id,
                run,
                attempt,
                what,
            },
        );
    }

    fn may_withdraw(&self, command: &Command) -> bool {
        command.stage == Stage::Waits
            && (!command.maybe_appended || self.defect == Defect::WithdrawsTheUnknown)
    }
}

/// Inserts in order, so that two states that differ only in the order are the same state.
fn put<T: Ord>(list: &mut Vec<T>, item: T) {
    let position = list
        .binary_search(&item)
        .unwrap_or_else(|position| position);
    list.insert(position, item);
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let command = |&name: &u8| Command {
            name,
            number: None,
            send_count: 0,
            maybe_appended: false,
            stage: Stage::Waits,
        };
        let nodes = self.commands.iter().map(|names| Node {
            run: 0,
            session: None,
            nonce: 0,
            open_count: 0,
            numbers: Numbers::default(),
            commands: names.iter().map(command).collect(),
        });
        vec![State {
            records: Records::new(),
            applied: 0,
            executed: BTreeMap::new(),
            requests: Vec::new(),
            answers: Vec::new(),
            nodes: nodes.collect(),
            crash_count: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (id, node) in state.nodes.iter().enumerate() {
            if node.session.is_none() && node.open_count < self.open_count_max {
                actions.push(Action::Open(id));
            }
            if state.crash_count < self.crash_count_max {
                actions.push(Action::Crash(id));
            }
            for (position, command) in node.commands.iter().enumerate() {
                let has_number = command.number.is_some() || node.session.is_some();
                if command.stage == Stage::Waits
                    && has_number
                    && command.send_count < self.send_count_max
                {
                    actions.push(Action::Propose(id, position));
                }
                if command.stage == Stage::UnderWay && command.send_count < self.send_count_max {
                    actions.push(Action::Lose(id, position));
                }
                if self.may_withdraw(command) && command.send_count > 0 {
                    actions.push(Action::Withdraw(id, position));
                }
            }
        }
        for position in 0..state.requests.len() {
            actions.push(Action::Apply(position));
            if matches!(state.requests[position].what, What::Command { .. }) {
                actions.push(Action::Refuse(position));
            }
        }
        actions.extend((0..state.answers.len()).map(Action::Deliver));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::Open(id) => {
                let node = &mut state.nodes[id];
                node.open_count += 1;
                let what = What::Open { nonce: node.nonce };
                let (run, attempt) = (node.run, node.open_count);
                put(
                    &mut state.requests,
                    Sent {
                        node: id,
                        run,
                        attempt,
                        what,
                    },
                );
            }
            Action::Propose(id, position) => self.propose(&mut state, id, position),
            Action::Lose(id, position) => {
                let command = &mut state.nodes[id].commands[position];
                command.maybe_appended = true;
                command.stage = Stage::Waits;
            }
            Action::Withdraw(id, position) => {
                let node = &mut state.nodes[id];
                let command = &mut node.commands[position];
                command.stage = Stage::NotProposed;
                if let Some((session, seq, _)) = command.number
                    && Some(session) == node.session
                {
                    node.numbers.finish(seq);
                }
            }
            Action::Apply(position) => {
                let sent = state.requests.remove(position);
                self.apply(&mut state, sent);
            }
            Action::Refuse(position) => {
                let to = state.requests.remove(position);
                // The node learns of the refusal at once: to learn of it late is equivalent to a late refusal.
                let says = Says::Refused;
                self.deliver(&mut state, Answer { to, says });
            }
            Action::Deliver(position) => {
                let answer = state.answers.remove(position);
                self.deliver(&mut state, answer);
            }
            Action::Crash(id) => {
                state.crash_count += 1;
                let node = &mut state.nodes[id];
                node.run += 1;
                node.session = None;
                node.nonce += 10 * u64::from(self.defect != Defect::KeepsTheNonce);
                node.numbers = Numbers::default();
                for command in &mut node.commands {
                    let is_out = command.number.is_some();
                    if is_out && matches!(command.stage, Stage::Waits | Stage::UnderWay) {
                        // The callers of a crashed node cannot be told anything.
                        command.stage = Stage::Unknown;
                    }
                }
            }
        }
        let State { answers, nodes, .. } = &mut state;
        answers.retain(|answer| nodes[answer.to.node].listens_to(&answer.to));
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn all(state: &State, right: impl Fn(&Command, u8) -> bool) -> bool {
            let commands = state.nodes.iter().flat_map(|node| &node.commands);
            let times = |name| state.executed.get(&name).copied().unwrap_or(0);
            commands
                .into_iter()
                .all(|command| right(command, times(command.name)))
        }
        fn any(state: &State, stage: Stage, times: u8) -> bool {
            !all(state, |command, found| {
                command.stage != stage || found != times
            })
        }
        vec![
            Property::always("nothing is executed twice", |_, state: &State| {
                all(state, |_, times| times <= 1)
            }),
            Property::always("what is done was executed", |_, state: &State| {
                all(state, |command, times| {
                    command.stage != Stage::Done || times == 1
                })
            }),
            Property::always(
                "what was not proposed is not executed",
                |_, state: &State| {
                    all(state, |command, times| {
                        command.stage != Stage::NotProposed || times == 0
                    })
                },
            ),
            Property::always("no reply is forgotten too early", |_, state: &State| {
                let mut answers = state.answers.iter();
                answers.all(|answer| answer.says != Says::Stale)
            }),
            Property::sometimes("something is done", |_, state: &State| {
                any(state, Stage::Done, 1)
            }),
            Property::sometimes("the unknown was executed", |_, state: &State| {
                any(state, Stage::Unknown, 1)
            }),
            Property::sometimes("the unknown was not executed", |_, state: &State| {
                any(state, Stage::Unknown, 0)
            }),
            Property::sometimes("something is withdrawn", |_, state: &State| {
                any(state, Stage::NotProposed, 0)
            }),
            Property::sometimes("an ended session is told", |_, state: &State| {
                state
                    .answers
                    .iter()
                    .any(|answer| answer.says == Says::SessionExpired)
            }),
        ]
    }
}

fn check(cluster: Cluster) {
    let checker = cluster.checker().spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn a_command_that_is_tried_again_and_again_is_executed_once() {
    check(Cluster::persistent(Defect::None));
}

#[test]
fn two_commands_of_one_node_do_not_disturb_each_other() {
    check(Cluster::new(Defect::None));
}

#[test]
fn two_nodes_do_not_disturb_each_other() {
    check(Cluster::pair());
}

/// The check finds each injected fault, so it can fail.
#[test]
fn each_defect_is_found() {
    let twice = "nothing is executed twice";
    for (cluster, broken) in [
        (Cluster::new(Defect::NoDeduplication), twice),
        (Cluster::persistent(Defect::RenumbersTheUnknown), twice),
        (
            Cluster::new(Defect::WithdrawsTheUnknown),
            "what was not proposed is not executed",
        ),
        (
            Cluster::new(Defect::AcknowledgesTooEarly),
            "no reply is forgotten too early",
        ),
        (
            Cluster::new(Defect::KeepsTheNonce),
            "what is done was executed",
        ),
    ] {
        let defect = cluster.defect;
        let checker = cluster
            .checker()
            .finish_when(stateright::HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let found = checker.discoveries();
        let count = checker.unique_state_count();
        println!("{defect:?}: after {count} states: {:?}", found.keys());
        assert!(found.contains_key(broken), "{defect:?}: {:?}", found.keys());
    }
}
