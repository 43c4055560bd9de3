//! Tests of messages from arbitrary bytes.

use proptest::prelude::*;
use serde_bytes::ByteBuf;

use hearth_storage::{Command, Reply};

use super::*;
use crate::codec;
use crate::types::{LogId, Vote};

fn vote() -> VoteRecord {
    (&Vote::new_committed(7, 3)).into()
}

fn log_id() -> LogIdRecord {
    let id: LogId = codec::log_id(7, 3, 100);
    (&id).into()
}

fn requests() -> Vec<Request> {
    let ask = VoteAsk {
        vote: vote(),
        last_log_id: Some(log_id()),
        leadership_transfer: true,
    };
    let command = NumberedCommand {
        session: 5,
        seq: 9,
        acked_upto: 3,
        command: Command::Remove {
            name: "sensor.1".parse().unwrap(),
        },
    };
    vec![
        Request::Append {
            vote: vote(),
            prev_log_id: Some(log_id()),
            entries: vec![ByteBuf::from(vec![1, 2, 3]), ByteBuf::from(vec![4; 300])],
            leader_commit: None,
        },
        Request::Vote(ask.clone()),
        Request::PreVote(ask),
        Request::TransferLeader {
            from_leader: vote(),
            to: 2,
            last_log_id: None,
        },
        Request::Snapshot(SnapshotPart::Begin {
            vote: vote(),
            last_log_id: Some(log_id()),
            membership: vec![1; 40],
            header: vec![2; 50],
        }),
        Request::Propose(ProposalRecord::OpenSession { node: 3, nonce: 77 }),
        Request::Propose(ProposalRecord::Commands {
            again: true,
            list: vec![command; 3].into(),
        }),
        Request::ReadIndex,
        Request::AcknowledgedReadIndex(vote()),
        Request::Report,
        Request::Change(ClusterChange::Remove { id: 3 }),
        Request::Found(FoundAsk::Probe {
            from: 1,
            incarnation: 12,
            founders: vec![(1, "a:1".into()), (2, "b:2".into())],
        }),
        Request::Join(JoinAsk {
            cluster_name: "hearth".into(),
            node_id: None,
            incarnation: 5,
            peer_addr: "c:3".into(),
            learner: true,
        }),
    ]
}

fn responses() -> Vec<Response> {
    vec![
        Response::Unavailable("it is starting".into()),
        Response::Append(AppendAnswer::PartialSuccess(Some(log_id()))),
        Response::Append(AppendAnswer::HigherVote(vote())),
        Response::Vote(VoteAnswer {
            vote: vote(),
            vote_granted: true,
            last_log_id: None,
        }),
        Response::TransferLeader(Err("no".into())),
        Response::Snapshot(SnapshotAnswer::Want(17)),
        Response::Propose(ProposeAnswer::Replies {
            index: 12,
            replies: vec![NumberedReply::Applied(Reply::Removed(2)); 5],
        }),
        Response::ReadIndex(ReadIndexAnswer::Index(100)),
        Response::Change(Err(ClusterError::UnknownMember(4))),
        Response::Found(FoundAnswer::Noted {
            cluster_id: 1,
            incarnation: 2,
        }),
        Response::Join(JoinAnswer::Welcome {
            cluster_id: 1,
            node_id: 4,
        }),
    ]
}

fn bytes(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode_message(message, &mut bytes);
    bytes
}

/// Decodes any `bytes`: either an error, or a message that is encoded again as it was decoded.
fn read<T: Serialize + serde::de::DeserializeOwned>(given: &[u8]) {
    let Ok(message) = codec::decode_message::<T>("a message", given) else {
        return;
    };
    let again = bytes(&message);
    let once_more: T = codec::decode_message("a message", &again).expect("it was just written");
    assert_eq!(bytes(&once_more), again);
}

#[test]
fn messages_are_read_as_they_were_written() {
    for request in requests() {
        let read: Request = codec::decode_message("a request", &bytes(&request)).unwrap();
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
        let hint = request.len_hint();
        let len = bytes(&request).len();
        assert!(len <= hint + 64, "{hint} for {len}: {request:?}");
    }
    for response in responses() {
        let read: Response = codec::decode_message("a response", &bytes(&response)).unwrap();
        assert_eq!(format!("{read:?}"), format!("{response:?}"));
    }
}

/// An older node may send a removal with a flag by which another build removed a node without a
/// majority.
#[test]
fn a_removal_of_the_version_before_is_read_and_its_flag_does_nothing() {
    let remove = Request::Change(ClusterChange::Remove { id: 3 });
    let written = bytes(&remove);
    assert_eq!(written, [8, 2, 3, 0]);
    for flag in [0, 1] {
        let read: Request = codec::decode_message("a request", &[8, 2, 3, flag]).unwrap();
        assert_eq!(format!("{read:?}"), format!("{remove:?}"));
    }
}

#[test]
fn a_length_that_is_not_there_is_refused() {
    // Append with a vote, no log id, and 2^60 entries, or one entry of 2^60 bytes.
    let mut long = vec![0, 1, 1, 0, 0, 253];
    long.extend_from_slice(&(1_u64 << 60).to_le_bytes());
    assert!(codec::decode_message::<Request>("a request", &long).is_err());
    long.insert(5, 1);
    assert!(codec::decode_message::<Request>("a request", &long).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn altered_messages_are_read_or_refused(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts: bool,
    ) {
        let requests = requests().iter().map(bytes).collect::<Vec<_>>();
        let responses = responses().iter().map(bytes).collect::<Vec<_>>();
        for all in [requests, responses] {
            let mut given = which.get(&all).clone();
            for (at, byte) in &changes {
                let at = at.index(given.len());
                given[at] = *byte;
            }
            if cuts {
                given.truncate(cut.index(given.len()));
            }
            read::<Request>(&given);
            read::<Response>(&given);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(given in prop::collection::vec(any::<u8>(), 0..200)) {
        read::<Request>(&given);
        read::<Response>(&given);
        let _ = codec::decode_beginning::<super::super::handshake::Introduction>("it", &given);
    }
}
