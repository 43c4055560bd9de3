//! The handshake of protocol versions 1 and 2, for rolling upgrades.
//!
//! ```text
//! client                                   server
//!   Hello { identity, nonce A }     ──▶
//!                                    ◀──   Hello { identity, nonce B }
//!   Proof (client's)                ──▶
//!                                    ◀──   Proof (server's)
//! ```
//! This handshake reveals a node's identity before anything is proved, and the frames after it are not signed.
//! A node that speaks version 3 therefore reveals in it only what an older node needs:
//!
//! - **As the server**, it reveals no more than the client has shown to know. A client that names this
//!   cluster's id, which no stranger has heard of, learns the node id and incarnation that a member needs. A
//!   client without a cluster, which wants to bootstrap or join one, learns nothing about this node but the
//!   cluster name, which it sent itself. All other clients are refused, without an informative reason.
//! - **As the client**, it uses this handshake only if the peer does not accept a hello of version 3. That may
//!   be a lie, so it first connects as a node without a cluster and an id ([`probe`]), which reveals the
//!   cluster name. Only after the peer has proved the key, and that it speaks no newer version, does it connect
//!   with its full identity ([`call`]).
//! - Two nodes that both speak version 3 never agree on an older version: their hellos, which the proofs cover,
//!   state the versions that they speak.
//!
//! Refusals are texts that anyone can send. They are logged, and the client tries again.

use hmac::Mac;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::credentials::{Credentials, LocalNode, Peer};
use super::frame::Kind;
use super::handshake::{
    Greeted, HandshakeError, KEYS_DIFFER, NO_COMMON_VERSION, NONCE_LEN, PROTOCOL, PROTOCOL_MIN,
    PROTOCOL_SIGNED, Versions, decode, receive, refuse, send, unproved,
};
use super::seal::{Seals, mac_of};
use crate::codec;
use crate::config::Key;

const CALLER: &[u8] = b"hearth peer: caller";
const CALLED: &[u8] = b"hearth peer: called";

const ANOTHER_CLUSTER: &str = "it greets in the old way, and not as one that belongs to this node's cluster; check cluster name and \
     peer addresses";
const SPEAKS_NEWER: &str =
    "it greets in the old way and speaks a newer one: somebody is between the nodes";

/// The identity of a node as it is sent in the hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClearHello {
    versions: Versions,
    cluster_name: String,
    cluster_id: Option<u128>,
    node_id: Option<u64>,
    incarnation: u128,
    /// The id of the node that the client wants to reach, if it matters.
    wanted: Option<u64>,
    nonce: [u8; NONCE_LEN],
}

impl ClearHello {
    fn new(local: LocalNode, wanted: Option<u64>) -> Self {
        Self {
            versions: Versions {
                protocol: (PROTOCOL_MIN, PROTOCOL),
                program: String::new(),
            },
            cluster_name: local.cluster_name,
            cluster_id: local.cluster_id,
            node_id: local.node_id,
            incarnation: local.incarnation,
            wanted,
            nonce: rand::random(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode_message(self, &mut bytes);
        bytes
    }

    /// Decodes the peer's hello. Fails unless it is that of an older node.
    fn of_older(bytes: &[u8]) -> Result<Self, HandshakeError> {
        let hello: Self = decode("the greeting of a node", bytes)?;
        let (min, max) = hello.versions.protocol;
        if min > PROTOCOL || max < PROTOCOL_MIN {
            return Err(unproved(NO_COMMON_VERSION));
        }
        if max >= PROTOCOL_SIGNED {
            return Err(unproved(SPEAKS_NEWER));
        }
        Ok(hello)
    }

    fn greeted(self, key: &Key) -> Greeted {
        Greeted {
            peer: Peer {
                cluster_id: self.cluster_id,
                node_id: self.node_id,
                incarnation: self.incarnation,
                protocol: self.versions.protocol.1.min(PROTOCOL),
                key: key.clone(),
            },
            seals: Seals::clear(),
        }
    }
}

/// Returns this node as one that has neither a cluster nor an id.
fn nameless(cluster_name: String) -> LocalNode {
    LocalNode {
        cluster_name,
        cluster_id: None,
        node_id: None,
        incarnation: rand::random(),
    }
}

/// Tests whether the peer is a node with the key of this cluster that speaks no newer version. The connection
/// cannot be used afterwards.
///
/// # Errors
/// [`HandshakeError`].
pub(super) async fn probe<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
) -> Result<(), HandshakeError> {
    let local = nameless(credentials.local().cluster_name);
    exchange(stream, credentials, &ClearHello::new(local, None)).await?;
    Ok(())
}

/// Performs the handshake as the client, with a peer that [`probe`] has tested.
///
/// # Errors
/// [`HandshakeError`].
pub(super) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
    wanted: Option<u64>,
) -> Result<Greeted, HandshakeError> {
    let local = credentials.local();
    let ours = ClearHello::new(local.clone(), wanted);
    let (theirs, key) = exchange(stream, credentials, &ours).await?;
    let greeted = theirs.greeted(&key);
    let is_other = local.cluster_id.is_some()
        && greeted.peer.cluster_id.is_some()
        && local.cluster_id != greeted.peer.cluster_id;
    if is_other {
        return Err(unproved(ANOTHER_CLUSTER));
    }
    credentials
        .admit(&greeted.peer)
        .map_err(HandshakeError::Refused)?;
    Ok(greeted)
}

/// Performs the client's part of the exchange. Returns the peer's hello and the key that both sides have.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
    ours: &ClearHello,
) -> Result<(ClearHello, Key), HandshakeError> {
    let our_bytes = ours.bytes();
    send(stream, Kind::Hello, &our_bytes).await?;
    let their_bytes = receive(stream).await?.body(Kind::Hello)?;
    let theirs = ClearHello::of_older(&their_bytes)?;
    let key = credentials.key();
    let proof = mac_of(&key, &[CALLER, &our_bytes, &their_bytes]);
    send(stream, Kind::Proof, &proof.finalize().into_bytes()).await?;
    let their_proof = receive(stream).await?.body(Kind::Proof)?;
    let expected = mac_of(&key, &[CALLED, &our_bytes, &their_bytes]);
    if expected.verify_slice(&their_proof).is_err() {
        return Err(unproved(KEYS_DIFFER));
    }
    Ok((theirs, key))
}

/// Performs the handshake as the server, after the client's hello `their_bytes`.
///
/// # Errors
/// [`HandshakeError`].
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
    their_bytes: &[u8],
) -> Result<Greeted, HandshakeError> {
    let theirs = ClearHello::of_older(their_bytes);
    let compared = theirs.and_then(|theirs| {
        let shown = what_to_show(&credentials.local(), &theirs)?;
        Ok((theirs, shown))
    });
    let (theirs, shown) = match compared {
        Ok(both) => both,
        Err(HandshakeError::Io(error)) => return Err(error.into()),
        Err(error) => return Err(refuse(stream, error).await),
    };
    let our_bytes = ClearHello::new(shown, None).bytes();
    send(stream, Kind::Hello, &our_bytes).await?;
    let their_proof = receive(stream).await?.body(Kind::Proof)?;
    let fits = |key: &Key| {
        let expected = mac_of(key, &[CALLER, their_bytes, &our_bytes]);
        expected.verify_slice(&their_proof).is_ok()
    };
    let Some(key) = credentials.key_that(fits) else {
        return Err(refuse(stream, unproved(KEYS_DIFFER)).await);
    };
    let greeted = theirs.greeted(&key);
    if let Err(refusal) = credentials.admit(&greeted.peer) {
        // The peer belongs to this cluster, and an older node evaluates the text.
        return Err(refuse(stream, HandshakeError::Refused(refusal)).await);
    }
    let proof = mac_of(&key, &[CALLED, their_bytes, &our_bytes]);
    send(stream, Kind::Proof, &proof.finalize().into_bytes()).await?;
    Ok(greeted)
}

/// Returns the part of `local` to reveal to a client that knows the content of `theirs`.
fn what_to_show(local: &LocalNode, theirs: &ClearHello) -> Result<LocalNode, HandshakeError> {
    if theirs.cluster_name != local.cluster_name {
        return Err(unproved(ANOTHER_CLUSTER));
    }
    match (theirs.cluster_id, local.cluster_id) {
        (Some(their), Some(our)) => {
            let is_wanted = theirs.wanted.is_none() || theirs.wanted == local.node_id;
            if their != our || !is_wanted || theirs.incarnation == local.incarnation {
                return Err(unproved(ANOTHER_CLUSTER));
            }
            Ok(local.clone())
        }
        _ => Ok(nameless(local.cluster_name.clone())),
    }
}

/// Returns the frame of an old hello from a member of the cluster `cluster_name`.
#[cfg(test)]
pub(super) fn greeting(cluster_name: &str) -> Vec<u8> {
    tests::greeting(|hello| hello.cluster_name = cluster_name.to_owned())
}

#[cfg(test)]
#[path = "clear_handshake_test.rs"]
mod tests;
