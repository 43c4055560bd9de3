//! The handshake of protocol versions 1 and 2, for an upgrade node by node.
//!
//! ```text
//! caller                                   called
//!   Hello { all of itself, nonce A } ──▶
//!                                    ◀──   Hello { all of itself, nonce B }
//!   Proof (caller's)                ──▶
//!                                    ◀──   Proof (called one's)
//! ```
//! It tells who a node is before anything is proved, and what follows is not signed. So a node that speaks
//! version 3 says in it as little as an older node needs:
//!
//! - **Called**, it tells what the caller has shown to know. One that names this cluster's id, which no
//!   stranger has heard of, is told the node id and incarnation that a member needs. One without a cluster,
//!   which wants to found or join one, hears nothing of this node but the cluster name that it said itself.
//!   All others are refused, without a reason that tells anything.
//! - **Calling**, it does so only where the other side takes no hello of version 3. That may be a lie, so it
//!   first calls as a node without a cluster and an id ([`probe`]), which tells the cluster name. Only when
//!   the other side has then proved the key, and that it speaks nothing newer, is it called in full
//!   ([`call`]).
//! - On neither side two nodes that both speak version 3 agree on an older one: their hellos, which are
//!   under the proofs, say what they speak.
//!
//! Refusals are texts that anybody can send. They are logged, and the caller tries again.

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

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClearHello {
    versions: Versions,
    cluster_name: String,
    cluster_id: Option<u128>,
    node_id: Option<u64>,
    incarnation: u128,
    /// Whom it wants to reach, if that matters.
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

    /// The other side's hello; refused unless it is that of an older node.
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

/// This node, as one that has neither a cluster nor an id.
fn nameless(cluster_name: String) -> LocalNode {
    LocalNode {
        cluster_name,
        cluster_id: None,
        node_id: None,
        incarnation: rand::random(),
    }
}

/// Finds out whether a node of this cluster that speaks nothing newer is at the other side. Its end of the
/// connection is of no other use.
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

/// Calls a node that [`probe`] has found.
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

/// The caller's part of the handshake: the other side's hello, and the key that both have.
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

/// Is called, with the hello `their_bytes`.
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
        // It is one of this cluster's, and an older node goes by the text.
        return Err(refuse(stream, HandshakeError::Refused(refusal)).await);
    }
    let proof = mac_of(&key, &[CALLED, their_bytes, &our_bytes]);
    send(stream, Kind::Proof, &proof.finalize().into_bytes()).await?;
    Ok(greeted)
}

/// What of `local` a caller is told that knows what is in `theirs`.
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

/// The frame of a greeting of the version before, from a member of the cluster `cluster_name`.
#[cfg(test)]
pub(super) fn greeting(cluster_name: &str) -> Vec<u8> {
    tests::greeting(|hello| hello.cluster_name = cluster_name.to_owned())
}

#[cfg(test)]
#[path = "clear_handshake_test.rs"]
mod tests;
