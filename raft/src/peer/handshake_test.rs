use tokio::io::{AsyncReadExt, DuplexStream, ReadHalf, WriteHalf};

use super::*;

fn node(id: u64) -> LocalNode {
    LocalNode {
        cluster_name: "hearth".to_owned(),
        cluster_id: Some(7),
        node_id: Some(id),
        incarnation: u128::from(id) + 100,
    }
}

fn credentials(local: LocalNode) -> Credentials {
    Credentials::new(local, b"secret", Arc::new(|_, _| Ok(())))
}

type Ends = (Result<Hello, HandshakeError>, Result<Hello, HandshakeError>);

async fn shake(caller: &Credentials, wanted: Option<u64>, called: &Credentials) -> Ends {
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    tokio::join!(
        async {
            let result = call(&mut here, caller, wanted).await;
            // What ends first closes its side.
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

fn text<T>(result: Result<T, HandshakeError>) -> String {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn two_members_know_each_other_afterwards() {
    let (one, two) = (credentials(node(1)), credentials(node(2)));
    let (caller, called) = shake(&one, Some(2), &two).await;
    assert_eq!(caller.unwrap().node_id, Some(2));
    assert_eq!(called.unwrap().incarnation, 101);
}

#[tokio::test]
async fn each_refusal_is_told_to_both_sides() {
    let one = credentials(node(1));
    let with = |change: fn(&mut LocalNode)| {
        let mut local = node(2);
        change(&mut local);
        credentials(local)
    };
    let cases = [
        (
            with(|two| two.cluster_name = "other".into()),
            "--cluster-name",
        ),
        (with(|two| two.cluster_id = Some(8)), "another cluster"),
        (with(|two| two.incarnation = 101), "this node itself"),
        (with(|two| two.node_id = Some(3)), "node 2 was expected"),
        (
            Credentials::new(node(2), b"wrong", Arc::new(|_, _| Ok(()))),
            "cluster keys differ",
        ),
        (
            Credentials::new(node(2), b"", Arc::new(|_, _| Ok(()))),
            "cluster keys differ",
        ),
        (
            Credentials::new(
                node(2),
                b"secret",
                Arc::new(|id, incarnation| Err(format!("{id} {incarnation} was removed"))),
            ),
            "1 101 was removed",
        ),
    ];
    for (two, reason) in cases {
        let (caller, called) = shake(&one, Some(2), &two).await;
        let (caller, called) = (text(caller), text(called));
        assert!(caller.contains(reason), "{caller}");
        assert!(called.contains(reason), "{called}");
    }
    let removed = Credentials::new(
        node(1),
        b"secret",
        Arc::new(|_, _| Err("was removed".to_owned())),
    );
    let (caller, _) = shake(&removed, Some(2), &credentials(node(2))).await;
    assert_eq!(text(caller), "was removed");
}

#[tokio::test]
async fn a_node_without_a_cluster_is_let_in_by_the_key_alone() {
    let mut blank = node(1);
    blank.cluster_id = None;
    blank.node_id = None;
    let strict = Credentials::new(
        node(2),
        b"secret",
        Arc::new(|_, _| Err("not asked".to_owned())),
    );
    let (caller, called) = shake(&credentials(blank), None, &strict).await;
    assert_eq!(caller.unwrap().cluster_id, Some(7));
    assert_eq!(called.unwrap().cluster_id, None);
}

#[tokio::test]
async fn versions_that_share_nothing_are_refused() {
    let two = credentials(node(2));
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let mut hello = credentials(node(1)).hello(None);
    hello.versions.protocol = (PROTOCOL + 1, PROTOCOL + 3);
    // Whatever a later version's hello has behind that.
    let mut later = Vec::new();
    codec::encode_message(&hello.versions, &mut later);
    later.extend_from_slice(&[0xff; 100]);
    let (_, called) = tokio::join!(
        send(&mut here, Kind::Hello, &later),
        answer(&mut there, &two)
    );
    assert!(text(called).contains("upgrade"));
    let refusal = text(receive(&mut here, Kind::Hello).await);
    assert!(refusal.contains("no common protocol"), "{refusal}");
}

#[tokio::test]
async fn a_later_hello_may_say_more() {
    let two = credentials(node(2));
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let one = credentials(node(1));
    let mut hello = one.hello(Some(2));
    hello.versions.protocol = (PROTOCOL, PROTOCOL + 1);
    let mut ours = Vec::new();
    codec::encode_message(&hello, &mut ours);
    ours.extend_from_slice(b"something new");
    let caller = async {
        send(&mut here, Kind::Hello, &ours).await.unwrap();
        let theirs = receive(&mut here, Kind::Hello).await.unwrap();
        let proof = one.proof(CALLER, &ours, &theirs).finalize().into_bytes();
        send(&mut here, Kind::Proof, &proof).await.unwrap();
        receive(&mut here, Kind::Proof).await.unwrap();
    };
    let ((), called) = tokio::join!(caller, answer(&mut there, &two));
    assert_eq!(called.unwrap().node_id, Some(1));
}

#[test]
fn only_a_node_of_the_same_cluster_is_a_member() {
    let ours = |cluster_id| {
        let mut local = node(2);
        local.cluster_id = cluster_id;
        credentials(local)
    };
    let theirs = |cluster_id, node_id| {
        let mut local = node(1);
        (local.cluster_id, local.node_id) = (cluster_id, node_id);
        credentials(local).hello(None)
    };
    assert!(ours(Some(7)).is_member(&theirs(Some(7), Some(1))));
    assert!(!ours(Some(7)).is_member(&theirs(Some(8), Some(1))));
    assert!(!ours(Some(7)).is_member(&theirs(Some(7), None)));
    assert!(!ours(Some(7)).is_member(&theirs(None, Some(1))));
    assert!(!ours(None).is_member(&theirs(None, Some(1))));
    assert!(!ours(None).is_member(&theirs(Some(7), Some(1))));
}

/// Passes on what flows until either side ends, and returns it.
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

#[tokio::test]
async fn what_was_recorded_does_not_open_a_connection() {
    let (one, two) = (credentials(node(1)), credentials(node(2)));
    let (mut here, tap_here) = tokio::io::duplex(1 << 16);
    let (mut there, tap_there) = tokio::io::duplex(1 << 16);
    let (mut here_out, mut here_in) = tokio::io::split(tap_here);
    let (mut there_out, mut there_in) = tokio::io::split(tap_there);
    let (caller, called, recorded, _) = tokio::join!(
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
    let (mut thief, mut there) = tokio::io::duplex(1 << 16);
    thief.write_all(&recorded).await.unwrap();
    let again = answer(&mut there, &two).await;
    assert!(text(again).contains("cluster keys differ"));
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
    assert!(text(caller).contains("this node itself"));
}

#[tokio::test]
async fn a_proof_of_one_side_is_none_of_the_other() {
    let one = credentials(node(1));
    let caller = one.proof(CALLER, b"a", b"b").finalize().into_bytes();
    assert!(one.proof(CALLED, b"a", b"b").verify_slice(&caller).is_err());
    assert!(one.proof(CALLER, b"ab", b"").verify_slice(&caller).is_err());
    assert!(one.proof(CALLER, b"a", b"b").verify_slice(&caller).is_ok());
}
