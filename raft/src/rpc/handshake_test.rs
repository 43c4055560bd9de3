use tokio::io::{AsyncReadExt, DuplexStream, ReadHalf, WriteHalf};

use super::*;
use crate::config::ClusterKeys;

fn node(id: u64) -> LocalNode {
    LocalNode {
        cluster_name: "hearth".to_owned(),
        cluster_id: Some(7),
        node_id: Some(id),
        incarnation: u128::from(id) + 100,
    }
}

fn keys(keys: &[&str]) -> ClusterKeys {
    ClusterKeys::new(keys.iter().map(|key| key.as_bytes().to_vec()))
}

fn credentials(local: LocalNode) -> Credentials {
    with_keys(local, &["secret"])
}

fn with_keys(local: LocalNode, accepted: &[&str]) -> Credentials {
    Credentials::new(local, keys(accepted), Box::new(|_, _| Ok(())))
}

/// Returns the credentials of a node that admits no peer.
fn strict(local: LocalNode) -> Credentials {
    let admission = |id, incarnation| {
        let text = format!("{id} {incarnation} was removed");
        Err(Refusal::new(RefusalCode::Removed, text))
    };
    Credentials::new(local, keys(&["secret"]), Box::new(admission))
}

type Ends = (
    Result<Greeted, HandshakeError>,
    Result<Greeted, HandshakeError>,
);

async fn shake(caller: &Credentials, wanted: Option<u64>, called: &Credentials) -> Ends {
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    tokio::join!(
        async {
            let result = call(&mut here, caller, wanted).await;
            // The side that ends first closes its end.
            drop(here);
            result
        },
        async {
            let result = answer(&mut there, called).await;
            drop(there);
            result
        }
    )
}

fn failure<T>(result: Result<T, HandshakeError>) -> HandshakeError {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error,
    }
}

fn text<T>(result: Result<T, HandshakeError>) -> String {
    failure(result).to_string()
}

#[tokio::test]
async fn two_members_know_each_other_afterwards() {
    let (one, two) = (credentials(node(1)), credentials(node(2)));
    let (caller, called) = shake(&one, Some(2), &two).await;
    let (caller, called) = (caller.unwrap(), called.unwrap());
    assert_eq!(caller.peer.node_id, Some(2));
    assert_eq!(caller.peer.protocol, PROTOCOL);
    assert_eq!(called.peer.incarnation, 101);
    // The frames of one side can be opened by the other side.
    let (mut here, mut there) = (caller.seals, called.seals);
    let frame = here.sealer.seal(Message::empty(Kind::Ping, 5));
    let mut bytes = frame.as_slice();
    let head = there.opener.head(&mut bytes, 0).await.unwrap().unwrap();
    assert_eq!(there.opener.body(&mut bytes, head).await.unwrap().id, 5);
}

#[tokio::test]
async fn each_refusal_is_told_to_both_sides_after_both_proofs() {
    let one = credentials(node(1));
    let with = |change: fn(&mut LocalNode)| {
        let mut local = node(2);
        change(&mut local);
        credentials(local)
    };
    let cases = [
        (
            with(|two| two.cluster_name = "other".into()),
            RefusalCode::OtherCluster,
            "--cluster-name",
        ),
        (
            with(|two| two.cluster_id = Some(8)),
            RefusalCode::OtherCluster,
            "another cluster",
        ),
        (
            with(|two| two.incarnation = 101),
            RefusalCode::Itself,
            "this node itself",
        ),
        (
            with(|two| two.node_id = Some(3)),
            RefusalCode::OtherNode,
            "node 2 was expected",
        ),
    ];
    for (two, code, reason) in cases {
        let (caller, called) = shake(&one, Some(2), &two).await;
        for end in [failure(caller), failure(called)] {
            let HandshakeError::Refused(refusal) = end else {
                panic!("{end:?}")
            };
            assert_eq!(refusal.code, code);
            assert!(refusal.text.contains(reason), "{refusal}");
        }
    }
    let (caller, called) = shake(&one, Some(2), &strict(node(2))).await;
    let HandshakeError::RefusedByPeer(refusal) = failure(caller) else {
        panic!("it does not know who refuses")
    };
    assert_eq!(refusal.code, RefusalCode::Removed);
    assert_eq!(refusal.text, "1 101 was removed");
    assert_eq!(text(called), refusal.text);
}

#[tokio::test]
async fn a_caller_that_refuses_says_so_signed() {
    let two = credentials(node(2));
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let one = strict(node(1));
    let (caller, called) = tokio::join!(call(&mut here, &one, Some(2)), answer(&mut there, &two));
    assert_eq!(text(caller), "2 102 was removed");
    let mut seals = called.unwrap().seals;
    let frame = receive_signed(&mut there, &mut seals.opener).await.unwrap();
    assert_eq!(frame.kind, Kind::Refusal);
    let refusal: Refusal = codec::decode_message("a refusal", &frame.body).unwrap();
    assert_eq!(refusal.code, RefusalCode::Removed);
}

#[tokio::test]
async fn without_a_common_key_nothing_is_told_but_that() {
    let one = credentials(node(1));
    for accepted in [&["wrong"][..], &[], &["wrong", "worse"]] {
        let two = with_keys(node(2), accepted);
        for (caller, called) in [
            shake(&one, Some(2), &two).await,
            shake(&two, None, &one).await,
        ] {
            for end in [failure(caller), failure(called)] {
                assert!(matches!(end, HandshakeError::Unproved { .. }), "{end:?}");
                assert!(end.to_string().contains("--cluster-key-file"), "{end}");
            }
        }
    }
}

#[tokio::test]
async fn the_first_key_is_proved_and_each_is_accepted() {
    for (caller, called, fits) in [
        (&["old"][..], &["old", "new"][..], true),
        (&["old", "new"], &["old"], true),
        (&["new", "old"], &["old", "new"], true),
        (&["old", "new"], &["new", "old"], true),
        (&["new"], &["new", "old"], true),
        (&["new", "old"], &["old"], false),
        (&["old"], &["new"], false),
        (&["1"], &["2", "3", "4", "1"], true),
    ] {
        let (one, two) = (with_keys(node(1), caller), with_keys(node(2), called));
        let (caller_end, called_end) = shake(&one, Some(2), &two).await;
        assert_eq!(caller_end.is_ok(), fits, "{caller:?} to {called:?}");
        assert_eq!(called_end.is_ok(), fits, "{caller:?} to {called:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_dropped_is_one_no_more() {
    let one = with_keys(node(1), &["old"]);
    let accepted = keys(&["old", "new"]);
    let two = Credentials::new(node(2), accepted.clone(), Box::new(|_, _| Ok(())));
    let (_, called) = shake(&one, Some(2), &two).await;
    let peer = called.unwrap().peer;
    accepted.set([b"new".to_vec(), b"old".to_vec()]);
    assert_eq!(two.admit(&peer), Ok(()));
    accepted.set([b"new".to_vec()]);
    assert_eq!(two.admit(&peer).unwrap_err().code, RefusalCode::KeyDropped);
}

#[tokio::test]
async fn a_node_without_a_cluster_is_let_in_by_the_key_alone() {
    let mut blank = node(1);
    blank.cluster_id = None;
    blank.node_id = None;
    let (caller, called) = shake(&credentials(blank), None, &strict(node(2))).await;
    assert_eq!(caller.unwrap().peer.cluster_id, Some(7));
    assert_eq!(called.unwrap().peer.cluster_id, None);
}

#[tokio::test]
async fn versions_that_share_nothing_are_refused() {
    let two = credentials(node(2));
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let versions = Versions {
        protocol: (PROTOCOL + 1, PROTOCOL + 3),
        program: String::new(),
    };
    // The rest of a later version's hello may be anything.
    let mut later = Vec::new();
    codec::encode_message(&versions, &mut later);
    later.extend_from_slice(&[0xff; 100]);
    let (_, called) = tokio::join!(
        send(&mut here, Kind::Hello, &later),
        answer(&mut there, &two)
    );
    assert!(text(called).contains("upgrade"));
    let Ok(Received::Refusal(refusal)) = receive(&mut here).await else {
        panic!("it is not told")
    };
    assert!(refusal.contains("no common protocol"), "{refusal}");
}

#[tokio::test]
async fn a_later_hello_may_say_more() {
    let two = credentials(node(2));
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let mut hello = Hello::new();
    hello.versions.protocol = (PROTOCOL, PROTOCOL + 1);
    let mut ours = Vec::new();
    codec::encode_message(&hello, &mut ours);
    ours.extend_from_slice(b"something new");
    let caller = async {
        send(&mut here, Kind::Hello, &ours).await.unwrap();
        let theirs = receive(&mut here).await.unwrap();
        let theirs = theirs.body(Kind::Hello).unwrap();
        let proof = mac_of(b"secret", &[CALLER, &ours, &theirs]).finalize();
        send(&mut here, Kind::Proof, &proof.into_bytes())
            .await
            .unwrap();
        let proof = receive(&mut here).await.unwrap();
        proof.body(Kind::Proof).unwrap();
        let mut seals = Seals::signed(Side::Caller, b"secret", &ours, &theirs);
        let introduction = Introduction::new(node(1), Some(2));
        introduce(&mut here, &mut seals.sealer, &introduction)
            .await
            .unwrap();
        here
    };
    let (_here, called) = tokio::join!(caller, answer(&mut there, &two));
    let peer = called.unwrap().peer;
    assert_eq!((peer.node_id, peer.protocol), (Some(1), PROTOCOL));
}

#[test]
fn only_a_node_of_the_same_cluster_is_a_member() {
    let ours = |cluster_id| {
        let mut local = node(2);
        local.cluster_id = cluster_id;
        credentials(local)
    };
    let theirs = |cluster_id, node_id| Peer {
        cluster_id,
        node_id,
        incarnation: 101,
        protocol: PROTOCOL,
        key: Key::default(),
    };
    assert!(ours(Some(7)).is_member(&theirs(Some(7), Some(1))));
    assert!(!ours(Some(7)).is_member(&theirs(Some(8), Some(1))));
    assert!(!ours(Some(7)).is_member(&theirs(Some(7), None)));
    assert!(!ours(Some(7)).is_member(&theirs(None, Some(1))));
    assert!(!ours(None).is_member(&theirs(None, Some(1))));
    assert!(!ours(None).is_member(&theirs(Some(7), Some(1))));
}

/// Forwards all bytes until either side ends, and returns them.
async fn record(from: &mut ReadHalf<DuplexStream>, to: &mut WriteHalf<DuplexStream>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = [0; 1024];
    loop {
        let count = from.read(&mut part).await.unwrap_or(0);
        if count == 0 || to.write_all(&part[..count]).await.is_err() {
            let _ = to.shutdown().await;
            return all;
        }
        all.extend_from_slice(&part[..count]);
    }
}

/// Returns the bytes that each side sent in a successful handshake of nodes 1 and 2.
async fn recorded() -> (Vec<u8>, Vec<u8>) {
    let (one, two) = (credentials(node(1)), credentials(node(2)));
    let (mut here, tap_here) = tokio::io::duplex(1 << 16);
    let (mut there, tap_there) = tokio::io::duplex(1 << 16);
    let (mut here_out, mut here_in) = tokio::io::split(tap_here);
    let (mut there_out, mut there_in) = tokio::io::split(tap_there);
    let (caller, called, by_caller, by_called) = tokio::join!(
        async {
            let result = call(&mut here, &one, Some(2)).await;
            drop(here);
            result
        },
        async {
            let result = answer(&mut there, &two).await;
            drop(there);
            result
        },
        record(&mut here_out, &mut there_in),
        record(&mut there_out, &mut here_in),
    );
    caller.unwrap();
    called.unwrap();
    (by_caller, by_called)
}

#[tokio::test]
async fn what_was_recorded_does_not_open_a_connection() {
    let (by_caller, by_called) = recorded().await;
    let (mut thief, mut there) = tokio::io::duplex(1 << 16);
    thief.write_all(&by_caller).await.unwrap();
    let again = answer(&mut there, &credentials(node(2))).await;
    assert!(text(again).contains("cluster keys differ"));
    let (mut here, mut thief) = tokio::io::duplex(1 << 16);
    thief.write_all(&by_called).await.unwrap();
    let again = call(&mut here, &credentials(node(1)), Some(2)).await;
    assert!(text(again).contains("cluster keys differ"));
}

#[tokio::test]
async fn before_the_proofs_nobody_hears_who_a_node_is() {
    let mut local = node(2);
    local.cluster_name = "the name of the cluster".to_owned();
    local.incarnation = u128::from_le_bytes(*b"the incarnation.");
    local.cluster_id = Some(u128::from_le_bytes(*b"the cluster's id"));
    let two = credentials(local);
    let contains = |all: &[u8], part: &[u8]| all.windows(part.len()).any(|window| window == part);
    for stranger_calls in [true, false] {
        let (mut stranger, mut there) = tokio::io::duplex(1 << 16);
        let mut hello = Vec::new();
        codec::encode_message(&Hello::new(), &mut hello);
        let said = async {
            send(&mut stranger, Kind::Hello, &hello).await.unwrap();
            send(&mut stranger, Kind::Proof, &[0; 32]).await.unwrap();
            let mut all = Vec::new();
            stranger.read_to_end(&mut all).await.unwrap();
            all
        };
        let node = async {
            let result = match stranger_calls {
                true => answer(&mut there, &two).await,
                false => call(&mut there, &two, Some(77)).await,
            };
            drop(there);
            result
        };
        let (said, result) = tokio::join!(said, node);
        assert!(matches!(failure(result), HandshakeError::Unproved { .. }));
        assert!(said.len() > 60, "it greets");
        for secret in [
            &b"the name of the cluster"[..],
            b"the incarnation.",
            b"the cluster's id",
            env!("CARGO_PKG_VERSION").as_bytes(),
        ] {
            assert!(!contains(&said, secret), "{}", secret.escape_ascii());
        }
    }
}

#[tokio::test]
async fn whoever_relays_a_handshake_cannot_go_on_in_its_place() {
    let (one, two) = (credentials(node(1)), credentials(node(2)));
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let (caller, called) = tokio::join!(call(&mut here, &one, Some(2)), answer(&mut there, &two));
    let (mut caller, mut called) = (caller.unwrap(), called.unwrap());
    // Neither a frame of the attacker's own, nor one of the other direction, nor a repeated one.
    for bytes in [
        Sealer::Clear.seal(Message::empty(Kind::Ping, 1)),
        called.seals.sealer.seal(Message::empty(Kind::Pong, 1)),
    ] {
        let error = called.seals.opener.head(&mut bytes.as_slice(), 0).await;
        assert!(error.is_err(), "{error:?}");
    }
    let ping = caller.seals.sealer.seal(Message::empty(Kind::Ping, 1));
    for is_first in [true, false] {
        let mut bytes = ping.as_slice();
        let head = called.seals.opener.head(&mut bytes, 0).await;
        match head {
            Ok(Some(head)) if is_first => {
                called.seals.opener.body(&mut bytes, head).await.unwrap();
            }
            other => assert!(!is_first && other.is_err()),
        }
    }
}

#[tokio::test]
async fn what_a_node_says_does_not_open_a_connection_to_itself() {
    let one = credentials(node(1));
    let (mut here, mirror) = tokio::io::duplex(1 << 16);
    let (mut out, mut back) = tokio::io::split(mirror);
    let (caller, _) = tokio::join!(
        async {
            let result = call(&mut here, &one, None).await;
            drop(here);
            result
        },
        record(&mut out, &mut back),
    );
    assert!(text(caller).contains("cluster keys differ"));
}
