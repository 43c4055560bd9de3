//! Tests that the largest values of each kind can be written, read again and sent.

use std::collections::BTreeSet;

use hearth_storage::{Command, IfTaken, Refusal, Reply};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::*;
use crate::codec::log_id;
use crate::rpc::frame::{Kind, Message};
use crate::rpc::message::{ProposalRecord, ProposeAnswer, Request, Response, SnapshotPart};
use crate::types::{LogEntry, NumberedReply, Payload, Proposal};

/// Integers at which the length of the encoding changes.
fn number() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![0, 250, 251, 1 << 16, 1 << 32, u64::MAX])
}

/// Texts at whose lengths the length of the encoding changes, and long ones.
fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec![0, 1, 250, 251, 65_535, 65_536, 1 << 20])
        .prop_map(|len| "x".repeat(len))
}

/// Very many texts, each as small as possible. These grow most when they are read.
fn many_texts() -> impl Strategy<Value = BTreeSet<String>> {
    prop::sample::select(vec![0_u32, 1, 100_000])
        .prop_map(|count| (0..count).map(|number| format!("{number:x}")).collect())
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (text(), text(), many_texts()).prop_map(|(name, uri, tags)| Command::Register {
            name,
            uri,
            tags,
            if_taken: IfTaken::Refuse,
        }),
        (text(), many_texts()).prop_map(|(name, tags)| Command::SetMetadata { name, tags }),
        text().prop_map(|name| Command::Remove { name }),
        many_texts().prop_map(|texts| Command::RemovePrefix {
            prefixes: texts.into_iter().collect(),
        }),
        text().prop_map(|pattern| Command::RemoveRegex { pattern }),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        Just(Reply::Done),
        number().prop_map(Reply::Removed),
        Just(Reply::Refused(Refusal::name_taken())),
        text().prop_map(|text| Reply::Refused(Refusal::pattern(&text))),
    ]
}

fn list() -> impl Strategy<Value = Vec<NumberedCommand>> {
    let numbered = (number(), number(), number(), command()).prop_map(
        |(session, seq, acked_upto, command)| NumberedCommand {
            session,
            seq,
            acked_upto,
            command,
        },
    );
    prop::collection::vec(numbered, 0..4)
}

/// Returns `message` as the other side reads it from a frame.
fn sent<T: Serialize + DeserializeOwned>(message: &T) -> T {
    let framed = Message::new(Kind::Request, 1, 0, |out| {
        codec::encode_message(message, out)
    });
    let framed = framed.expect("it fits into a frame");
    codec::decode_message("a message", framed.body()).expect("it was just written")
}

fn entry(list: Vec<NumberedCommand>) -> LogEntry {
    LogEntry {
        log_id: log_id(u64::MAX, u64::MAX, u64::MAX),
        payload: Payload::Normal(Proposal::Commands(list.into())),
    }
}

fn append(entry: &LogEntry) -> Request {
    Request::Append {
        vote: (&crate::types::Vote::new_committed(u64::MAX, u64::MAX)).into(),
        prev_log_id: Some((&entry.log_id).into()),
        entries: vec![ByteBuf::from(codec::encode_log_entry(entry))],
        leader_commit: Some((&entry.log_id).into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_is_encoded_can_be_decoded(list in list(), replies in prop::collection::vec(reply(), 0..4)) {
        let entry = entry(list.clone());
        let bytes = codec::encode_log_entry(&entry);
        prop_assert_eq!(&codec::decode_log_entry(u64::MAX, &bytes).unwrap(), &entry);
        let Request::Append { entries, .. } = sent(&append(&entry)) else {
            panic!("an append");
        };
        prop_assert_eq!(&entries[0][..], &bytes[..]);

        let proposal = Request::Propose(ProposalRecord::Commands {
            again: true,
            list: list.clone().into(),
        });
        let Request::Propose(ProposalRecord::Commands { list: read, .. }) = sent(&proposal) else {
            panic!("a proposal");
        };
        prop_assert_eq!(&read[..], &list[..]);

        let block: Vec<(u64, Reply)> = replies.into_iter().map(|reply| (u64::MAX, reply)).collect();
        let record = codec::encode_record(&block);
        prop_assert!(record.len() <= 16 + block.len() * REPLY_LEN_MAX);
        prop_assert_eq!(codec::decode_record::<Vec<(u64, Reply)>>("replies", &record).unwrap(), block);
    }
}

#[test]
fn the_largest_command_behind_a_full_package_reaches_everybody() {
    let numbered = |seq, name_len: usize| NumberedCommand {
        session: u64::MAX,
        seq,
        acked_upto: u64::MAX,
        command: Command::Remove {
            name: "n".repeat(name_len),
        },
    };
    // The length of the name takes five bytes, and the two enum tags take one each.
    let largest = numbered(2, COMMAND_LEN_MAX - 7);
    assert_eq!(codec::command_len(&largest.command), COMMAND_LEN_MAX);
    let list = vec![numbered(1, ENTRY_LEN_MAX - 50), largest];
    assert_eq!(check_list(&list), Ok(()));
    let entry = entry(list);
    let bytes = codec::encode_log_entry(&entry);
    assert_eq!(codec::decode_log_entry(u64::MAX, &bytes).unwrap(), entry);
    let Request::Append { entries, .. } = sent(&append(&entry)) else {
        panic!("an append");
    };
    assert_eq!(entries[0].len(), bytes.len());

    let too_much = check_list(&[numbered(1, COMMAND_LEN_MAX), numbered(2, ENTRY_LEN_MAX)]);
    assert!(too_much.unwrap_err().contains("at most 512 commands"));
    let too_many = vec![numbered(1, 0); ENTRY_COMMANDS_MAX + 1];
    assert!(check_list(&too_many).is_err());
}

#[test]
fn the_largest_answer_is_small() {
    let longest = Reply::Refused(Refusal::pattern(&"\u{1f600}".repeat(1000)));
    let replies = vec![NumberedReply::Applied(longest); ENTRY_COMMANDS_MAX];
    let answer = Response::Propose(ProposeAnswer::Replies {
        index: u64::MAX,
        replies,
    });
    let mut bytes = Vec::new();
    codec::encode_message(&answer, &mut bytes);
    assert!(bytes.len() < ENTRY_LEN_MAX, "{} bytes", bytes.len());
    let Response::Propose(ProposeAnswer::Replies { replies, .. }) = sent(&answer) else {
        panic!("replies");
    };
    assert_eq!(replies.len(), ENTRY_COMMANDS_MAX);
}

#[test]
fn a_chunk_of_a_snapshot_that_holds_the_largest_record_is_sent_whole() {
    let part = SnapshotPart::Chunk {
        vote: (&crate::types::Vote::new(u64::MAX, u64::MAX)).into(),
        last_log_id: Some((&log_id(u64::MAX, u64::MAX, u64::MAX)).into()),
        number: u64::MAX,
        // One entry fills at least the whole chunk: name, URI and tags of the largest command, with their
        // lengths.
        bytes: vec![0xff; COMMAND_LEN_MAX + crate::store::snapshot::CHUNK_LEN + (4 << 20)],
    };
    let Request::Snapshot(SnapshotPart::Chunk { bytes, .. }) = sent(&Request::Snapshot(part))
    else {
        panic!("a chunk");
    };
    assert_eq!(
        bytes.len(),
        COMMAND_LEN_MAX + crate::store::snapshot::CHUNK_LEN + (4 << 20)
    );
}

#[test]
fn a_length_that_is_not_there_is_refused_and_takes_no_memory() {
    // An append with one entry that claims far more bytes than it has.
    for claimed in [u64::from(u32::MAX), 1 << 50, u64::MAX] {
        let mut bytes = vec![0, 1, 1, 1, 0, 1, 253];
        bytes.extend_from_slice(&claimed.to_le_bytes());
        let read = codec::decode_message::<Request>("a request", &bytes);
        let error = read.unwrap_err().to_string();
        assert!(error.contains("LimitExceeded"), "{error}");
    }
}
