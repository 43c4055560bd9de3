use std::collections::{BTreeMap, BTreeSet};

use hearth_storage::{Command, IfTaken, Revision};
use proptest::prelude::*;

use super::*;

fn revision() -> impl Strategy<Value = Revision> {
    (any::<u64>(), any::<u32>()).prop_map(|(index, position)| Revision::new(index, position))
}

fn command() -> impl Strategy<Value = Command> {
    let text = ".{0,20}";
    let tags = prop::collection::btree_set(".{0,8}", 0..4);
    prop_oneof![
        (text, text, tags.clone(), any::<bool>()).prop_map(|(name, uri, tags, refuse)| {
            let if_taken = if refuse {
                IfTaken::Refuse
            } else {
                IfTaken::Replace
            };
            Command::Register {
                name,
                uri,
                tags,
                if_taken,
            }
        }),
        (text, tags).prop_map(|(name, tags)| Command::SetMetadata { name, tags }),
        text.prop_map(|name| Command::Remove { name }),
        (text, text).prop_map(|(name, uri)| Command::RemoveIf { name, uri }),
        prop::collection::vec(text, 0..4).prop_map(|prefixes| Command::RemovePrefix { prefixes }),
        text.prop_map(|pattern| Command::RemoveRegex { pattern }),
        any::<u32>().prop_map(|rules| Command::UseRules { rules }),
        (text, revision())
            .prop_map(|(name, revision)| Command::RemoveIfUnchanged { name, revision }),
        (prop::collection::vec(text, 0..4), text, revision()).prop_map(|(names, prefix, as_of)| {
            Command::RemoveListed {
                names,
                prefix,
                as_of,
            }
        }),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    let numbered = (any::<u64>(), any::<u64>(), any::<u64>(), command()).prop_map(
        |(session, seq, acked_upto, command)| NumberedCommand {
            session,
            seq,
            acked_upto,
            command,
        },
    );
    let members = prop::collection::btree_map(any::<u64>(), ".{0,10}", 1..5);
    prop_oneof![
        Just(Payload::Blank),
        members.prop_map(|members| {
            let voters: BTreeSet<u64> = members.keys().take(3).copied().collect();
            let nodes: BTreeMap<u64, Member> = members
                .into_iter()
                .map(|(id, addr)| {
                    let member = Member {
                        incarnation: addr.len() as u128,
                        promotes_itself: addr.len() % 2 == 0,
                        peer_addr: addr,
                    };
                    (id, member)
                })
                .collect();
            Payload::Membership(Membership::new(vec![voters], nodes).unwrap())
        }),
        (any::<u64>(), any::<u64>())
            .prop_map(|(node, nonce)| Payload::Normal(Proposal::OpenSession { node, nonce })),
        prop::collection::vec(numbered, 0..5)
            .prop_map(|list| Payload::Normal(Proposal::Commands(list.into()))),
    ]
}

proptest! {
    #[test]
    fn a_log_entry_survives(term: u64, leader: u64, index: u64, payload in payload()) {
        let entry = LogEntry { log_id: log_id(term, leader, index), payload };
        let bytes = encode_log_entry(&entry);
        prop_assert_eq!(decode_log_entry(index, &bytes).unwrap(), entry);
    }

    #[test]
    fn the_length_of_a_command_is_never_too_short(command in command(), session: u64, seq: u64) {
        let numbered = NumberedCommand { session, seq, acked_upto: seq, command };
        // Without the byte of the version.
        let real = encode_record(&numbered).len() - 1;
        let counted = numbered_len(&numbered);
        prop_assert!((real..=real + 50).contains(&counted), "{counted} for {real}");
    }

    #[test]
    fn random_bytes_are_refused_or_mean_something(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_log_entry(0, &bytes);
        let _ = decode_vote(&bytes);
        let _ = decode_log_id(&bytes);
        let _ = decode_membership(&bytes);
        let _ = decode_folder(&bytes);
    }
}

#[test]
fn a_cut_or_lengthened_record_is_refused() {
    let entry = LogEntry {
        log_id: log_id(3, 1, 300),
        payload: Payload::Normal(Proposal::Commands(
            vec![NumberedCommand {
                session: 5,
                seq: 6,
                acked_upto: 4,
                command: Command::Remove {
                    name: "some.name".to_owned(),
                },
            }]
            .into(),
        )),
    };
    let bytes = encode_log_entry(&entry);
    for len in 0..bytes.len() {
        assert!(decode_log_entry(300, &bytes[..len]).is_err(), "{len}");
    }
    assert!(decode_log_entry(300, &[&bytes[..], &[0]].concat()).is_err());
    assert!(decode_log_entry(301, &bytes).is_err());
    let mut newer = bytes;
    newer[0] = 3;
    let error = decode_log_entry(300, &newer).unwrap_err().to_string();
    assert!(error.contains("layout 3"), "{error}");
}

/// The bytes of layout 1, which builds for a single node wrote.
#[test]
fn the_bytes_of_layout_1_stay_as_they_are() {
    let numbered = NumberedCommand {
        session: 2,
        seq: 3,
        acked_upto: 1,
        command: Command::Register {
            name: "n".to_owned(),
            uri: "u".to_owned(),
            tags: ["t".to_owned()].into(),
            if_taken: IfTaken::Refuse,
        },
    };
    let entry = |payload| LogEntry {
        log_id: log_id(1, 2, 300),
        payload,
    };
    let head = [1, 1, 2, 251, 44, 1];
    let members = BTreeMap::from([(
        7,
        Member {
            peer_addr: "p".to_owned(),
            ..Member::default()
        },
    )]);
    let membership = Membership::new(vec![[7].into()], members).unwrap();
    for (payload, body) in [
        (Payload::Blank, vec![0]),
        (
            Payload::Membership(membership.clone()),
            vec![1, 1, 1, 7, 1, 7, 1, b'p', 1, b'n'],
        ),
        (
            Payload::Normal(Proposal::OpenSession { node: 7, nonce: 9 }),
            vec![2, 7, 9],
        ),
        (
            Payload::Normal(Proposal::Commands(vec![numbered].into())),
            vec![3, 1, 2, 3, 1, 0, 1, b'n', 1, b'u', 1, 1, b't', 1],
        ),
    ] {
        let bytes = [&head[..], &body].concat();
        let entry = entry(payload);
        assert_eq!(decode_log_entry(300, &bytes).unwrap(), entry);
    }
    assert_eq!(decode_vote(&[1, 4, 2, 0]).unwrap(), Vote::new(4, 2));
    assert_eq!(decode_log_id(&[1, 4, 2, 6]).unwrap(), log_id(4, 2, 6));
    let stored = StoredMembership::new(Some(log_id(4, 2, 6)), membership);
    let bytes = [1, 1, 4, 2, 6, 1, 1, 7, 1, 7, 1, b'p', 1, b'n'];
    assert_eq!(decode_membership(&bytes).unwrap(), stored);
    let identity = Identity {
        cluster_id: 5,
        cluster_name: "h".to_owned(),
        node_id: 1,
        incarnation: 0,
    };
    assert_eq!(
        decode_folder(&[1, 5, 1, b'h', 1]).unwrap(),
        FolderRecord::Member(identity)
    );
}

/// The bytes of layout 2, which this version writes.
#[test]
fn the_bytes_of_layout_2_stay_as_they_are() {
    let numbered = NumberedCommand {
        session: 2,
        seq: 3,
        acked_upto: 1,
        command: Command::Register {
            name: "n".to_owned(),
            uri: "u".to_owned(),
            tags: ["t".to_owned()].into(),
            if_taken: IfTaken::Refuse,
        },
    };
    let entry = |payload| LogEntry {
        log_id: log_id(1, 2, 300),
        payload,
    };
    let head = [2, 1, 2, 251, 44, 1];
    let members = BTreeMap::from([(
        7,
        Member {
            peer_addr: "p".to_owned(),
            incarnation: 9,
            promotes_itself: true,
        },
    )]);
    let membership = Membership::new(vec![[7].into()], members).unwrap();
    for (payload, body) in [
        (Payload::Blank, vec![0]),
        (
            Payload::Membership(membership.clone()),
            vec![1, 1, 1, 7, 1, 7, 1, b'p', 9, 1],
        ),
        (
            Payload::Normal(Proposal::OpenSession { node: 7, nonce: 9 }),
            vec![2, 7, 9],
        ),
        (
            Payload::Normal(Proposal::Commands(vec![numbered].into())),
            vec![3, 1, 2, 3, 1, 0, 1, b'n', 1, b'u', 1, 1, b't', 1],
        ),
        (
            Payload::Normal(Proposal::TakeId {
                wanted: Some(3),
                holder: None,
            }),
            vec![4, 1, 3, 0],
        ),
        (
            Payload::Normal(Proposal::TakeId {
                wanted: None,
                holder: Some(9),
            }),
            vec![4, 0, 1, 9],
        ),
    ] {
        let bytes = [&head[..], &body].concat();
        let entry = entry(payload);
        assert_eq!(encode_log_entry(&entry), bytes);
        assert_eq!(decode_log_entry(300, &bytes).unwrap(), entry);
    }
    assert_eq!(encode_vote(&Vote::new_committed(4, 2)), [2, 4, 2, 1]);
    assert_eq!(decode_vote(&[2, 4, 2, 0]).unwrap(), Vote::new(4, 2));
    assert_eq!(encode_log_id(&log_id(4, 2, 6)), [2, 4, 2, 6]);
    let stored = StoredMembership::new(Some(log_id(4, 2, 6)), membership);
    let bytes = [2, 1, 4, 2, 6, 1, 1, 7, 1, 7, 1, b'p', 9, 1];
    assert_eq!(encode_membership(&stored), bytes);
    assert_eq!(decode_membership(&bytes).unwrap(), stored);
    let identity = Identity {
        cluster_id: 5,
        cluster_name: "h".to_owned(),
        node_id: 1,
        incarnation: 8,
    };
    let founders = BTreeMap::from([(1, Member::default())]);
    let reason = "r".to_owned();
    for (record, bytes) in [
        (FolderRecord::Blank { incarnation: 8 }, vec![2, 0, 8]),
        (
            FolderRecord::Founder {
                identity: identity.clone(),
                founders,
            },
            vec![2, 1, 5, 1, b'h', 1, 8, 1, 1, 0, 0, 0],
        ),
        (
            FolderRecord::Member(identity.clone()),
            vec![2, 2, 5, 1, b'h', 1, 8],
        ),
        (
            FolderRecord::Removed { identity, reason },
            vec![2, 3, 5, 1, b'h', 1, 8, 1, b'r'],
        ),
    ] {
        assert_eq!(encode_folder(&record), bytes);
        assert_eq!(decode_folder(&bytes).unwrap(), record);
    }
}
