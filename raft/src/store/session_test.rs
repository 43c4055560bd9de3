use std::collections::BTreeMap;

use hearth_storage::Reply;
use proptest::prelude::*;

use super::*;

/// The extra records of a store.
type Records = BTreeMap<Vec<u8>, Vec<u8>>;

fn write(records: &mut Records, changes: Vec<RecordChange>) {
    for (key, value) in changes {
        match value {
            Some(value) => records.insert(key, value),
            None => records.remove(&key),
        };
    }
}

fn load(records: &Records) -> Sessions {
    let records = records.iter().map(|(k, v)| (k.as_slice(), v.as_slice()));
    Sessions::load(records).unwrap()
}

#[test]
fn a_repeated_number_gets_the_first_reply() {
    let mut sessions = Sessions::default();
    let id = sessions.open(1, 7, 10);
    assert_eq!(id, 10);
    assert_eq!(sessions.admit(id, 1, 0), Admission::Execute);
    sessions.executed(id, 1, Reply::Removed(3));
    assert_eq!(
        sessions.admit(id, 1, 0),
        Admission::Repeat(Reply::Removed(3))
    );
    assert_eq!(sessions.admit(id, 2, 1), Admission::Execute);
    assert_eq!(sessions.admit(id, 1, 0), Admission::Stale);
}

#[test]
fn numbers_come_in_any_order() {
    let mut sessions = Sessions::default();
    let id = sessions.open(1, 7, 10);
    for seq in [3, 1, 2] {
        assert_eq!(sessions.admit(id, seq, 0), Admission::Execute);
        sessions.executed(id, seq, Reply::Removed(seq));
    }
    for seq in 1..=3 {
        assert_eq!(
            sessions.admit(id, seq, 0),
            Admission::Repeat(Reply::Removed(seq))
        );
    }
}

#[test]
fn a_new_session_ends_the_earlier_one_of_its_node_only() {
    let mut sessions = Sessions::default();
    let first = sessions.open(1, 7, 10);
    let other = sessions.open(2, 7, 11);
    assert_eq!(sessions.open(1, 7, 12), first, "sent twice, opened once");
    let second = sessions.open(1, 8, 13);
    assert_eq!(second, 13);
    assert_eq!(sessions.admit(first, 1, 0), Admission::SessionExpired);
    assert_eq!(sessions.admit(second, 1, 0), Admission::Execute);
    assert_eq!(sessions.admit(other, 1, 0), Admission::Execute);
}

#[test]
fn nodes_that_left_have_no_session() {
    let mut sessions = Sessions::default();
    let mut records = Records::new();
    let (one, two) = (sessions.open(1, 7, 10), sessions.open(2, 7, 11));
    sessions.admit(one, 1, 0);
    sessions.executed(one, 1, Reply::Done);
    write(&mut records, sessions.finish_entry(11));
    sessions.retain_members(|node| node == 2);
    write(&mut records, sessions.finish_entry(12));
    assert_eq!(sessions.admit(one, 1, 0), Admission::SessionExpired);
    assert_eq!(sessions.admit(two, 1, 0), Admission::Execute);
    assert_eq!(records.len(), 1, "all records of the session are gone");
    assert_eq!(load(&records).len(), 1);
}

#[test]
fn the_window_bounds_what_is_kept() {
    let mut sessions = Sessions::default();
    let id = sessions.open(1, 7, 10);
    assert_eq!(sessions.admit(id, WINDOW, 0), Admission::Execute);
    sessions.executed(id, WINDOW, Reply::Done);
    assert_eq!(sessions.admit(id, WINDOW + 1, 0), Admission::BeyondWindow);
    assert_eq!(sessions.admit(id, WINDOW + 1, 1), Admission::Execute);
    assert_eq!(sessions.admit(id, u64::MAX, u64::MAX), Admission::Stale);
    assert_eq!(sessions.admit(id, u64::MAX, 0), Admission::Stale);
}

#[test]
fn a_reply_is_written_once_and_goes_when_it_is_acknowledged() {
    let mut sessions = Sessions::default();
    let id = sessions.open(1, 7, 10);
    sessions.finish_entry(10);
    for seq in 1..=3 {
        sessions.admit(id, seq, 0);
        sessions.executed(id, seq, Reply::Done);
    }
    let changes = sessions.finish_entry(11);
    assert_eq!(changes.len(), 2, "one record of replies and the head");
    sessions.admit(id, 4, 2);
    sessions.executed(id, 4, Reply::Done);
    let keys = |changes: &[RecordChange]| {
        let keys = changes
            .iter()
            .map(|(key, value)| (key.clone(), value.is_some()));
        keys.collect::<Vec<_>>()
    };
    let changes = keys(&sessions.finish_entry(12));
    assert_eq!(changes, [(replies_key(id, 12), true), (head_key(id), true)]);
    sessions.admit(id, 5, 3);
    let changes = keys(&sessions.finish_entry(13));
    assert_eq!(
        changes,
        [(replies_key(id, 11), false), (head_key(id), true)]
    );
}

#[test]
fn records_that_are_not_ours_are_refused() {
    let head = codec::encode_record(HeadRecord {
        node: 1,
        nonce: 2,
        acked_upto: 0,
    });
    for (key, value) in [
        (b"session/".to_vec(), head.clone()),
        ([head_key(1), vec![0]].concat(), head.clone()),
        (
            replies_key(1, 1),
            codec::encode_record(Vec::<(u64, Reply)>::new()),
        ),
        (head_key(1), head[..head.len() - 1].to_vec()),
        (head_key(1), Vec::new()),
    ] {
        let records = [(key.as_slice(), value.as_slice())];
        assert!(Sessions::load(records.into_iter()).is_err(), "{key:?}");
    }
}

/// The rules of sessions in their simplest form, without records.
#[derive(Default)]
struct Model {
    sessions: BTreeMap<u64, (u64, u64, u64, BTreeMap<u64, Reply>)>,
}

impl Model {
    fn open(&mut self, node: u64, nonce: u64, index: u64) -> u64 {
        for (&id, session) in &self.sessions {
            if session.0 == node && session.1 == nonce {
                return id;
            }
        }
        self.sessions.retain(|_, session| session.0 != node);
        self.sessions
            .insert(index, (node, nonce, 0, BTreeMap::new()));
        index
    }

    fn admit(&mut self, id: u64, seq: u64, acked: u64) -> Admission {
        let Some((_, _, acked_upto, replies)) = self.sessions.get_mut(&id) else {
            return Admission::SessionExpired;
        };
        *acked_upto = (*acked_upto).max(acked);
        replies.retain(|&seq, _| seq > *acked_upto);
        if seq <= *acked_upto {
            return Admission::Stale;
        }
        if seq > *acked_upto + WINDOW {
            return Admission::BeyondWindow;
        }
        match replies.get(&seq) {
            Some(reply) => Admission::Repeat(reply.clone()),
            None => Admission::Execute,
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Open {
        node: u64,
        nonce: u64,
    },
    Command {
        session: usize,
        seq: u64,
        acked: u64,
    },
    EndOfEntry,
    Restart,
    Leave {
        node: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let seq = prop_oneof![8 => 1..40u64, 1 => 4080..4200u64];
    prop_oneof![
        1 => (1..4u64, 0..3u64).prop_map(|(node, nonce)| Op::Open { node, nonce }),
        12 => (0..6usize, seq, 0..30u64)
            .prop_map(|(session, seq, acked)| Op::Command { session, seq, acked }),
        4 => Just(Op::EndOfEntry),
        1 => Just(Op::Restart),
        1 => (1..4u64).prop_map(|node| Op::Leave { node }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The sessions decide like the model, and are the same after they are restored from the
    /// records.
    #[test]
    fn it_decides_as_the_rules_say(ops in prop::collection::vec(op(), 1..200)) {
        let mut sessions = Sessions::default();
        let mut model = Model::default();
        let mut records = Records::new();
        let mut known = vec![0u64];
        let mut index = 1;
        let mut next_reply = 0;
        for op in ops {
            match op {
                Op::Open { node, nonce } => {
                    let id = sessions.open(node, nonce, index);
                    prop_assert_eq!(id, model.open(node, nonce, index));
                    known.push(id);
                    write(&mut records, sessions.finish_entry(index));
                    index += 1;
                }
                Op::Command { session, seq, acked } => {
                    let id = known[known.len().saturating_sub(session + 1)];
                    let admission = sessions.admit(id, seq, acked);
                    prop_assert_eq!(&admission, &model.admit(id, seq, acked));
                    if admission == Admission::Execute {
                        next_reply += 1;
                        let reply = Reply::Removed(next_reply);
                        sessions.executed(id, seq, reply.clone());
                        let session = model.sessions.get_mut(&id);
                        session.unwrap().3.insert(seq, reply);
                    }
                }
                Op::EndOfEntry => {
                    write(&mut records, sessions.finish_entry(index));
                    index += 1;
                }
                Op::Restart => {
                    write(&mut records, sessions.finish_entry(index));
                    index += 1;
                    let loaded = load(&records);
                    prop_assert_eq!(&loaded, &sessions);
                    sessions = loaded;
                }
                Op::Leave { node } => {
                    sessions.retain_members(|member| member != node);
                    model.sessions.retain(|_, session| session.0 != node);
                    write(&mut records, sessions.finish_entry(index));
                    index += 1;
                }
            }
        }
        write(&mut records, sessions.finish_entry(index));
        let replies: usize = model.sessions.values().map(|session| session.3.len()).sum();
        prop_assert!(records.len() <= model.sessions.len() + replies);
    }

    /// A node writes over a network that loses, repeats and reorders messages, and the state
    /// machine restarts. Every command with a reply was executed once, and no command was executed
    /// twice.
    #[test]
    fn commands_run_exactly_once(steps in prop::collection::vec((0..7u8, any::<prop::sample::Index>()), 1..400)) {
        let mut sessions = Sessions::default();
        let mut records = Records::new();
        let id = sessions.open(1, 1, 1);
        write(&mut records, sessions.finish_entry(1));
        let mut index = 2;

        // The network: copies of requests (seq, acked_upto) and of replies.
        let mut requests: Vec<(u64, u64)> = Vec::new();
        let mut replies: Vec<(u64, Reply)> = Vec::new();
        // The node.
        let mut last = 0;
        let mut got: BTreeMap<u64, Reply> = BTreeMap::new();
        let acked_upto = |got: &BTreeMap<u64, Reply>| (1..).take_while(|seq| got.contains_key(seq)).last().unwrap_or(0);
        // The executions of each number.
        let mut ran: BTreeMap<u64, u64> = BTreeMap::new();

        for (step, which) in steps {
            match step {
                0 => {
                    last += 1;
                    requests.push((last, acked_upto(&got)));
                }
                1 => {
                    // A retry, because no reply has arrived; or a copy that the network made.
                    let open: Vec<u64> = (1..=last).filter(|seq| !got.contains_key(seq)).collect();
                    if !open.is_empty() {
                        requests.push((*which.get(&open), acked_upto(&got)));
                    }
                }
                2 if !requests.is_empty() => requests.push(*which.get(&requests)),
                3 if !requests.is_empty() => { requests.swap_remove(which.index(requests.len())); }
                4 if !replies.is_empty() => { replies.swap_remove(which.index(replies.len())); }
                5 if !replies.is_empty() => {
                    let (seq, reply) = replies.swap_remove(which.index(replies.len()));
                    let first = got.entry(seq).or_insert_with(|| reply.clone());
                    prop_assert_eq!(&*first, &reply, "two replies to one number differ");
                }
                _ if !requests.is_empty() => {
                    let (seq, acked) = requests.swap_remove(which.index(requests.len()));
                    match sessions.admit(id, seq, acked) {
                        Admission::Execute => {
                            *ran.entry(seq).or_default() += 1;
                            let reply = Reply::Removed(index);
                            sessions.executed(id, seq, reply.clone());
                            replies.push((seq, reply));
                        }
                        Admission::Repeat(reply) => replies.push((seq, reply)),
                        Admission::Stale => prop_assert!(got.contains_key(&seq)),
                        other => prop_assert!(false, "{:?}", other),
                    }
                    write(&mut records, sessions.finish_entry(index));
                    index += 1;
                    if index % 5 == 0 {
                        sessions = load(&records);
                    }
                }
                _ => {}
            }
        }
        for (seq, count) in &ran {
            prop_assert_eq!(*count, 1, "number {} ran {} times", seq, count);
        }
        for seq in got.keys() {
            prop_assert!(ran.contains_key(seq));
        }
    }
}

#[test]
fn replies_of_earlier_builds_are_cut_down_with_the_next_entry() {
    let mut sessions = Sessions::default();
    let mut records = Records::new();
    let id = sessions.open(1, 7, 10);
    write(&mut records, sessions.finish_entry(10));
    let taken = |uri: &str| {
        let uri = uri.to_owned();
        Reply::Refused(hearth_storage::Refusal::NameTaken { uri })
    };
    // The record as the earlier builds wrote it: with the URI that the name had.
    let block: Vec<(u64, Reply)> = vec![(1, taken("PYRO:somebody@else:1")), (2, Reply::Done)];
    records.insert(replies_key(id, 11), codec::encode_record(&block));

    let mut loaded = load(&records);
    assert_eq!(loaded.admit(id, 1, 0), Admission::Repeat(taken("")));
    write(&mut records, loaded.finish_entry(12));
    let kept: Vec<(u64, Reply)> =
        codec::decode_record("replies", &records[&replies_key(id, 11)]).unwrap();
    assert_eq!(kept, [(1, taken("")), (2, Reply::Done)]);
    assert_eq!(load(&records).finish_entry(13), [], "once");
    assert_eq!(loaded, load(&records));
}
