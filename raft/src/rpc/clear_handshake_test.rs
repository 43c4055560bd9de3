use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::handshake;
use super::super::refusal::{Refusal, RefusalCode};
use super::*;
use crate::config::ClusterKeys;

/// A hello of build 2843856, which speaks the versions 1 and 2: from node 1 of the cluster with id 7, with the
/// incarnation 101, to node 2; its nonce is 0x5a…
const CALLER_OF_VERSION_2: &str = "48525448010100000000000000000000360000001f2554ee\
     010205302e312e3006686561727468010701016501025a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\
     5a5a5a5a";

/// The hello of node 2, with the incarnation 102, as the server; its nonce is 0x6b…
const CALLED_OF_VERSION_2: &str = "485254480101000000000000000000003500000067849de5\
     010205302e312e30066865617274680107010266006b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b\
     6b6b6b";

/// Node 2's proof of the key "secret" to that client.
const PROOF_OF_VERSION_2: &str = "4852544801020000000000000000000020000000c41c99b0\
     e7f825b580bd0811c831a9867e4e809fc7a745327ebde64e4fcd97a16f8ab420";

/// Length in bytes of a clear frame up to its body.
const HEADER_LEN: usize = 24;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn node(id: u64) -> LocalNode {
    LocalNode {
        cluster_name: "hearth".to_owned(),
        cluster_id: Some(7),
        node_id: Some(id),
        incarnation: u128::from(id) + 100,
    }
}

fn credentials(local: LocalNode) -> Credentials {
    let keys = ClusterKeys::new([b"secret".to_vec(), b"next".to_vec()]);
    Credentials::new(local, keys, Box::new(|_, _| Ok(())))
}

/// Reads the next frame, and returns its kind and its body.
async fn frame(stream: &mut DuplexStream) -> (u8, Vec<u8>) {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await.unwrap();
    let len = u32::from_le_bytes(header[16..20].try_into().unwrap());
    let mut body = vec![0; len as usize];
    stream.read_exact(&mut body).await.unwrap();
    (header[5], body)
}

/// Acts as a client of version 2 that sends `hello`. Returns the server's hello, or the text of its refusal.
async fn old_caller(stream: &mut DuplexStream, hello: &[u8]) -> Result<ClearHello, String> {
    stream.write_all(hello).await.unwrap();
    let (kind, theirs) = frame(stream).await;
    if kind == 3 {
        return Err(String::from_utf8(theirs).unwrap());
    }
    let ours = &hello[HEADER_LEN..];
    let proof = mac_of(b"secret", &[CALLER, ours, &theirs]).finalize();
    send(stream, Kind::Proof, &proof.into_bytes())
        .await
        .unwrap();
    let (kind, proof) = frame(stream).await;
    if kind == 3 {
        return Err(String::from_utf8(proof).unwrap());
    }
    let expected = mac_of(b"secret", &[CALLED, ours, &theirs]);
    expected.verify_slice(&proof).unwrap();
    Ok(decode("a hello", &theirs).unwrap())
}

async fn called_by_old(called: &Credentials, hello: &[u8]) -> (Result<ClearHello, String>, bool) {
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let (heard, greeted) = tokio::join!(
        old_caller(&mut here, hello),
        handshake::answer(&mut there, called)
    );
    (heard, greeted.is_ok())
}

/// Returns the frame of an old hello with the given changes.
pub(super) fn greeting(change: impl FnOnce(&mut ClearHello)) -> Vec<u8> {
    let mut hello = ClearHello::new(node(1), Some(2));
    hello.versions.protocol = (1, 2);
    change(&mut hello);
    let body = hello.bytes();
    let message = super::super::frame::Message::new(Kind::Hello, 0, 0, |out| {
        out.extend_from_slice(&body);
    });
    let mut seals = Seals::clear();
    seals.sealer.seal(message.unwrap()).as_slice().to_vec()
}

#[tokio::test]
async fn a_caller_of_the_version_before_is_answered_as_it_was() {
    let (heard, greeted) = called_by_old(&credentials(node(2)), &bytes(CALLER_OF_VERSION_2)).await;
    let heard = heard.unwrap();
    assert!(greeted);
    assert_eq!((heard.cluster_id, heard.node_id), (Some(7), Some(2)));
    assert_eq!(heard.incarnation, 102);
    assert!(heard.versions.protocol.0 <= 2 && heard.versions.protocol.1 >= 1);
}

#[tokio::test]
async fn a_removed_caller_of_the_version_before_hears_the_words_that_it_goes_by() {
    let keys = ClusterKeys::new([b"secret".to_vec()]);
    let admission = |id, _| {
        let text = format!("node {id} was removed from this cluster");
        Err(Refusal::new(RefusalCode::Removed, text))
    };
    let two = Credentials::new(node(2), keys, Box::new(admission));
    let (heard, greeted) = called_by_old(&two, &bytes(CALLER_OF_VERSION_2)).await;
    assert_eq!(heard.unwrap_err(), "node 1 was removed from this cluster");
    assert!(!greeted);
}

#[tokio::test]
async fn a_caller_hears_only_what_it_has_shown_to_know() {
    let two = credentials(node(2));
    let mut refusals = Vec::new();
    for hello in [
        greeting(|hello| hello.cluster_name = "other".to_owned()),
        greeting(|hello| hello.cluster_id = Some(8)),
        greeting(|hello| hello.wanted = Some(3)),
        greeting(|hello| hello.incarnation = 102),
        greeting(|hello| {
            hello.cluster_id = None;
            hello.cluster_name = "other".to_owned();
        }),
    ] {
        let (heard, greeted) = called_by_old(&two, &hello).await;
        assert!(!greeted);
        refusals.push(heard.unwrap_err());
    }
    refusals.dedup();
    assert_eq!(refusals, [ANOTHER_CLUSTER]);
    // A client that wants to join.
    for wanted in [None, Some(2), Some(3)] {
        let hello = greeting(|hello| {
            (hello.cluster_id, hello.node_id) = (None, None);
            hello.wanted = wanted;
        });
        let (heard, greeted) = called_by_old(&two, &hello).await;
        let heard = heard.unwrap();
        assert!(greeted);
        assert_eq!((heard.cluster_id, heard.node_id), (None, None));
        assert_ne!(heard.incarnation, 102);
        assert_eq!(heard.versions.program, "");
    }
}

/// Acts as a server of version 2. Returns the client's hello, or `None` if this version cannot read it.
async fn old_called(stream: &mut DuplexStream) -> Option<ClearHello> {
    let (kind, theirs) = frame(stream).await;
    assert_eq!(kind, 1);
    let versions = handshake::read_versions(&theirs).unwrap();
    if versions.protocol.0 > 2 {
        send(stream, Kind::Refusal, b"no common protocol")
            .await
            .unwrap();
        return None;
    }
    let ours = bytes(CALLED_OF_VERSION_2);
    stream.write_all(&ours).await.unwrap();
    let ours = &ours[HEADER_LEN..];
    let (_, proof) = frame(stream).await;
    let expected = mac_of(b"secret", &[CALLER, &theirs, ours]);
    expected.verify_slice(&proof).unwrap();
    let proof = mac_of(b"secret", &[CALLED, &theirs, ours]).finalize();
    send(stream, Kind::Proof, &proof.into_bytes())
        .await
        .unwrap();
    Some(decode("a hello", &theirs).unwrap())
}

#[tokio::test]
async fn a_called_node_of_the_version_before_is_found_out_and_told_no_more_than_it_must() {
    let one = credentials(node(1));
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let (called, heard) = tokio::join!(
        handshake::call(&mut here, &one, Some(2)),
        old_called(&mut there)
    );
    assert!(matches!(called, Err(HandshakeError::Older)), "{called:?}");
    assert_eq!(heard, None);

    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let (probed, heard) = tokio::join!(probe(&mut here, &one), old_called(&mut there));
    probed.unwrap();
    let heard = heard.unwrap();
    assert_eq!(heard.cluster_name, "hearth");
    assert_eq!((heard.cluster_id, heard.node_id), (None, None));
    assert_ne!(heard.incarnation, 101);
    assert_eq!((heard.wanted, &*heard.versions.program), (None, ""));

    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let (called, heard) = tokio::join!(call(&mut here, &one, Some(2)), old_called(&mut there));
    let peer = called.unwrap().peer;
    assert_eq!(
        (peer.node_id, peer.incarnation, peer.protocol),
        (Some(2), 102, 2)
    );
    assert_eq!(heard.unwrap().node_id, Some(1));
}

#[tokio::test]
async fn one_that_claims_to_be_old_must_prove_it() {
    let one = credentials(node(1));
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let liar = async {
        frame(&mut there).await;
        there.write_all(&bytes(CALLED_OF_VERSION_2)).await.unwrap();
        frame(&mut there).await;
        there.write_all(&bytes(PROOF_OF_VERSION_2)).await.unwrap();
    };
    let (probed, ()) = tokio::join!(probe(&mut here, &one), liar);
    assert!(
        matches!(probed, Err(HandshakeError::Unproved { .. })),
        "{probed:?}"
    );
}

#[tokio::test]
async fn nodes_that_speak_version_3_do_not_agree_on_an_older_one() {
    let (one, two) = (credentials(node(1)), credentials(node(2)));
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let (probed, called) =
        tokio::join!(probe(&mut here, &one), handshake::answer(&mut there, &two));
    assert!(
        called
            .unwrap_err()
            .to_string()
            .contains("speaks a newer one")
    );
    assert!(probed.is_err());
    // The same holds if an attacker changes the first hello to claim less.
    let hello = greeting(|hello| hello.nonce = [1; NONCE_LEN]);
    let (mut here, mut there) = tokio::io::duplex(1 << 16);
    let (_, heard) = tokio::join!(handshake::answer(&mut there, &two), async move {
        here.write_all(&hello).await.unwrap();
        frame(&mut here).await.1
    });
    let heard = ClearHello::of_older(&heard);
    assert!(
        heard
            .unwrap_err()
            .to_string()
            .contains("speaks a newer one")
    );
}
