//! The handshake: mutual authentication of two nodes before the first request.
//!
//! ```text
//! client                                   server
//!   Hello { versions, nonce A }     ──▶
//!                                    ◀──   Hello { versions, nonce B }
//!   Proof (client's)                ──▶
//!                                    ◀──   Proof (server's)
//!   from here on every frame is signed, see `seal`
//!   Introduction                    ──▶
//!                                    ◀──   Introduction, perhaps with a refusal
//! ```
//! The client is the node that opened the connection (`Caller` in the code), the server the node that accepted
//! it (`Called`).
//!
//! A proof is an HMAC-SHA-256 under the cluster key over the sender's side, the client's hello and the server's
//! hello, byte for byte as they were sent. It covers both nonces, so a recorded proof cannot be replayed; it
//! covers the side, so a proof cannot be reflected. The introductions are signed with keys that are derived
//! from the cluster key and both hellos, so no one can relay a handshake and continue in the name of another
//! node. Without a cluster key the proofs use the empty key, and show only that neither side has a key.
//!
//! A node that accepts several keys proves the first of them. The server searches its own keys for the one that
//! matches, and answers with that key.
//!
//! **Disclosure.** Before both proofs, a node reveals its protocol versions and a nonce, and nothing else:
//! neither its identity, nor its cluster, nor the reason why it ends the handshake. A `Refusal` in a clear
//! frame is a text that anyone could have sent: it is logged, and the client tries again. A `Refusal` in a
//! signed frame has a code. Nodes of earlier versions are served by [`super::clear_handshake`], which defines
//! what they learn.
//!
//! The hello of every version begins with the protocol versions and a text. The rest of it is read only if
//! there is a common version, and may be longer than this program reads.

use std::io;

use hmac::Mac;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::clear_handshake;
use super::credentials::{Credentials, LocalNode, Peer};
use super::frame::{Frame, Kind, Message};
use super::refusal::{Refusal, RefusalCode, escaped};
use super::seal::{Opener, Sealer, Seals, Side, mac_of};
use crate::codec;
use crate::config::Key;

/// The newest protocol version that this program speaks.
///
/// | version | adds |
/// |---|---|
/// | 1 | everything else |
/// | 2 | `Request::AcknowledgedReadIndex` |
/// | 3 | hellos without an identity, signed frames, refusals with a code; rules 2 of the registry |
pub(crate) const PROTOCOL: u32 = 3;

/// The oldest protocol version that this program speaks.
pub(crate) const PROTOCOL_MIN: u32 = 1;

/// The first protocol version that uses the handshake of this module.
pub(super) const PROTOCOL_SIGNED: u32 = 3;

/// Limit on the length in bytes of a message before the peer is authenticated.
const MESSAGE_LEN_MAX: usize = 4096;

pub(super) const NONCE_LEN: usize = 32;
const CALLER: &[u8] = b"hearth peer 3: caller";
const CALLED: &[u8] = b"hearth peer 3: called";

/// The beginning of a hello, in all versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versions {
    /// The lowest and the highest protocol version that the sender speaks.
    pub(super) protocol: (u32, u32),
    /// The version of the program; empty since protocol version 3.
    pub(super) program: String,
}

/// The first message of each side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    versions: Versions,
    nonce: [u8; NONCE_LEN],
}

impl Hello {
    fn new() -> Self {
        Self {
            versions: Versions {
                protocol: (PROTOCOL_SIGNED, PROTOCOL),
                program: String::new(),
            },
            nonce: rand::random(),
        }
    }
}

/// The identity that a node reveals to a peer that has proved the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Introduction {
    /// The version of the program, for operators.
    pub(super) program: String,
    pub(super) cluster_name: String,
    pub(super) cluster_id: Option<u128>,
    pub(super) node_id: Option<u64>,
    pub(super) incarnation: u128,
    /// The id of the node that the client wants to reach, if it matters.
    pub(super) wanted: Option<u64>,
    /// The reason why the server refuses the client, if it does.
    pub(super) refusal: Option<Refusal>,
}

impl Introduction {
    fn new(local: LocalNode, wanted: Option<u64>) -> Self {
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_name: local.cluster_name,
            cluster_id: local.cluster_id,
            node_id: local.node_id,
            incarnation: local.incarnation,
            wanted,
            refusal: None,
        }
    }

    /// Returns the reason to refuse a connection from this node to `theirs`, if there is one.
    fn compare(&self, theirs: &Self) -> Result<(), Refusal> {
        let refuse = |code, text: String| Err(Refusal::new(code, text));
        if theirs.cluster_name != self.cluster_name {
            let text = format!(
                "the node that was called belongs to the cluster \"{}\", the calling one to \"{}\" \
                 (--cluster-name)",
                escaped(&theirs.cluster_name),
                escaped(&self.cluster_name),
            );
            return refuse(RefusalCode::OtherCluster, text);
        }
        if theirs.incarnation == self.incarnation {
            let text = "that is this node itself; check the peer addresses";
            return refuse(RefusalCode::Itself, text.to_owned());
        }
        if let (Some(our), Some(their)) = (self.cluster_id, theirs.cluster_id)
            && our != their
        {
            let text = format!(
                "another cluster of the same name: one node belongs to {our:032x}, the other one to \
                 {their:032x}; a node goes over with an empty data folder only"
            );
            return refuse(RefusalCode::OtherCluster, text);
        }
        if let (Some(wanted), Some(found)) = (self.wanted, theirs.node_id)
            && wanted != found
        {
            let text = format!(
                "node {wanted} was expected at this address, and node {found} is there; check the peer \
                 addresses"
            );
            return refuse(RefusalCode::OtherNode, text);
        }
        Ok(())
    }

    fn peer(&self, protocol: u32, key: &Key) -> Peer {
        Peer {
            cluster_id: self.cluster_id,
            node_id: self.node_id,
            incarnation: self.incarnation,
            protocol,
            key: key.clone(),
        }
    }
}

/// The result of a successful handshake.
#[derive(Debug)]
pub(crate) struct Greeted {
    /// The authenticated peer.
    pub(crate) peer: Peer,
    /// The keys that sign and verify all further frames.
    pub(crate) seals: Seals,
}

/// The reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// This side refuses the peer after both proofs, and has told it.
    #[error("{0}")]
    Refused(Refusal),
    /// The peer refuses this node after both proofs.
    #[error("{0}")]
    RefusedByPeer(Refusal),
    /// There is no proof of a common key. Nothing that the peer said counts.
    #[error("{why}")]
    Unproved {
        /// This side's text, always the same for the same cause.
        why: &'static str,
        /// The peer's text, if it sent one; escaped and cut.
        said: Option<String>,
    },
    /// The peer does not accept a hello of this version. It may be an older node, or claim to be one.
    #[error("it does not speak protocol version {PROTOCOL_SIGNED}")]
    Older,
    /// The connection broke, or the data that arrived is invalid.
    #[error(transparent)]
    Io(#[from] io::Error),
}

pub(super) const KEYS_DIFFER: &str =
    "the cluster keys differ (--cluster-key-file): all nodes need the same one, or none";

pub(super) const NO_COMMON_VERSION: &str =
    "no common protocol version: one node is much older than the other; upgrade one step at a time";

const REFUSED_UNPROVED: &str = "it refuses this node without a proof of the cluster key: the keys differ \
     (--cluster-key-file), or it is no node of this cluster";

/// Performs the handshake as the client, and returns the authenticated peer when both sides agree.
///
/// # Errors
/// [`HandshakeError`]. After [`HandshakeError::Older`] the client may use [`super::clear_handshake`] on another
/// connection.
pub(crate) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
    wanted: Option<u64>,
) -> Result<Greeted, HandshakeError> {
    let ours = send_hello(stream, &Hello::new()).await?;
    let theirs = match receive(stream).await? {
        Received::Refusal(_) => return Err(HandshakeError::Older),
        received => received.body(Kind::Hello)?,
    };
    let protocol = common_version(&read_versions(&theirs)?)?;
    let key = credentials.key();
    let proof = mac_of(&key, &[CALLER, &ours, &theirs]);
    send(stream, Kind::Proof, &proof.finalize().into_bytes()).await?;
    let their_proof = receive(stream).await?.body(Kind::Proof)?;
    let expected = mac_of(&key, &[CALLED, &ours, &theirs]);
    if expected.verify_slice(&their_proof).is_err() {
        return Err(unproved(KEYS_DIFFER));
    }

    let mut seals = Seals::signed(Side::Caller, &key, &ours, &theirs);
    let ours = Introduction::new(credentials.local(), wanted);
    introduce(stream, &mut seals.sealer, &ours).await?;
    let theirs: Introduction = match receive_signed(stream, &mut seals.opener).await? {
        Frame {
            kind: Kind::Introduction,
            body,
            ..
        } => decode("the introduction of a node", &body)?,
        other => return Err(unexpected(other.kind, Kind::Introduction).into()),
    };
    let peer = theirs.peer(protocol, &key);
    let agreed = ours.compare(&theirs);
    if let (Ok(()), Some(refusal)) = (&agreed, theirs.refusal) {
        return Err(HandshakeError::RefusedByPeer(refusal));
    }
    if let Err(refusal) = agreed.and_then(|()| credentials.admit(&peer)) {
        let message = Message::new(Kind::Refusal, 0, 0, |out| {
            codec::encode_message(&refusal, out);
        })?;
        // The connection fails whether or not this arrives.
        let _ = send_signed(stream, &mut seals.sealer, message).await;
        return Err(HandshakeError::Refused(refusal));
    }
    Ok(Greeted { peer, seals })
}

/// Performs the handshake as the server, and returns the authenticated peer when both sides agree.
///
/// # Errors
/// [`HandshakeError`].
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
) -> Result<Greeted, HandshakeError> {
    let theirs = receive(stream).await?.body(Kind::Hello)?;
    let versions = read_versions(&theirs)?;
    if versions.protocol.0 < PROTOCOL_SIGNED {
        return clear_handshake::answer(stream, credentials, &theirs).await;
    }
    let protocol = match common_version(&versions) {
        Ok(protocol) => protocol,
        Err(error) => return Err(refuse(stream, error).await),
    };
    let ours = send_hello(stream, &Hello::new()).await?;
    let their_proof = receive(stream).await?.body(Kind::Proof)?;
    let fits = |key: &Key| {
        let expected = mac_of(key, &[CALLER, &theirs, &ours]);
        expected.verify_slice(&their_proof).is_ok()
    };
    let Some(key) = credentials.key_that(fits) else {
        return Err(refuse(stream, unproved(KEYS_DIFFER)).await);
    };
    let proof = mac_of(&key, &[CALLED, &theirs, &ours]);
    send(stream, Kind::Proof, &proof.finalize().into_bytes()).await?;

    let mut seals = Seals::signed(Side::Called, &key, &theirs, &ours);
    let theirs: Introduction = match receive_signed(stream, &mut seals.opener).await? {
        Frame {
            kind: Kind::Introduction,
            body,
            ..
        } => decode("the introduction of a node", &body)?,
        other => return Err(unexpected(other.kind, Kind::Introduction).into()),
    };
    let mut ours = Introduction::new(credentials.local(), None);
    let peer = theirs.peer(protocol, &key);
    let verdict = theirs
        .compare(&ours)
        .and_then(|()| credentials.admit(&peer));
    ours.refusal = verdict.as_ref().err().cloned();
    introduce(stream, &mut seals.sealer, &ours).await?;
    match verdict {
        Ok(()) => Ok(Greeted { peer, seals }),
        Err(refusal) => Err(HandshakeError::Refused(refusal)),
    }
}

async fn send_hello<S: AsyncWrite + Unpin>(
    stream: &mut S,
    hello: &impl Serialize,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    codec::encode_message(hello, &mut bytes);
    send(stream, Kind::Hello, &bytes).await?;
    Ok(bytes)
}

async fn introduce<S: AsyncWrite + Unpin>(
    stream: &mut S,
    sealer: &mut Sealer,
    introduction: &Introduction,
) -> io::Result<()> {
    let message = Message::new(Kind::Introduction, 0, 256, |out| {
        codec::encode_message(introduction, out);
    })?;
    send_signed(stream, sealer, message).await
}

async fn send_signed<S: AsyncWrite + Unpin>(
    stream: &mut S,
    sealer: &mut Sealer,
    message: Message,
) -> io::Result<()> {
    stream.write_all(sealer.seal(message).as_slice()).await?;
    stream.flush().await
}

async fn receive_signed<S: AsyncRead + Unpin>(
    stream: &mut S,
    opener: &mut Opener,
) -> Result<Frame, HandshakeError> {
    // The caller limits the time of the whole handshake.
    let Some(head) = opener.head(stream, MESSAGE_LEN_MAX).await? else {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    };
    Ok(opener.body(stream, head).await?)
}

/// Returns the highest protocol version that both sides speak.
fn common_version(theirs: &Versions) -> Result<u32, HandshakeError> {
    let (min, max) = theirs.protocol;
    if min > PROTOCOL || max < PROTOCOL_SIGNED {
        return Err(unproved(NO_COMMON_VERSION));
    }
    Ok(max.min(PROTOCOL))
}

pub(super) fn read_versions(hello: &[u8]) -> io::Result<Versions> {
    decode("the greeting of a node", hello)
}

/// Decodes a value from the beginning of `bytes`.
pub(super) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> io::Result<T> {
    codec::decode_beginning(what, bytes).map_err(io::Error::from)
}

pub(super) fn unproved(why: &'static str) -> HandshakeError {
    HandshakeError::Unproved { why, said: None }
}

/// Tells a peer that has not proved the key that this side ends the handshake. Returns `error`.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(
    stream: &mut S,
    error: HandshakeError,
) -> HandshakeError {
    // The connection fails whether or not this arrives.
    let _ = send(stream, Kind::Refusal, error.to_string().as_bytes()).await;
    error
}

/// Sends a clear frame.
pub(super) async fn send<S: AsyncWrite + Unpin>(
    stream: &mut S,
    kind: Kind,
    body: &[u8],
) -> io::Result<()> {
    let message = Message::new(kind, 0, body.len(), |out| out.extend_from_slice(body))?;
    send_signed(stream, &mut Sealer::Clear, message).await
}

/// A clear frame of the handshake.
pub(super) enum Received {
    Refusal(String),
    Other(Frame),
}

impl Received {
    /// Returns the body of a frame that must be of kind `wanted`.
    pub(super) fn body(self, wanted: Kind) -> Result<Vec<u8>, HandshakeError> {
        match self {
            Self::Other(frame) if frame.kind == wanted => Ok(frame.body),
            Self::Other(frame) => Err(unexpected(frame.kind, wanted).into()),
            Self::Refusal(text) => Err(HandshakeError::Unproved {
                why: REFUSED_UNPROVED,
                said: Some(escaped(&text)),
            }),
        }
    }
}

/// Receives a clear frame.
pub(super) async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<Received, HandshakeError> {
    let frame = receive_signed(stream, &mut Opener::Clear).await?;
    Ok(match frame.kind {
        Kind::Refusal => Received::Refusal(String::from_utf8_lossy(&frame.body).into_owned()),
        _ => Received::Other(frame),
    })
}

fn unexpected(came: Kind, wanted: Kind) -> io::Error {
    let text = format!("{came:?} came where {wanted:?} was due");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
#[path = "handshake_test.rs"]
mod tests;
