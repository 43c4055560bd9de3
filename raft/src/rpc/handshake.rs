//! Who may speak: what two nodes tell each other before the first request.
//!
//! ```text
//! caller                                   called
//!   Hello { versions, nonce A }     ──▶
//!                                    ◀──   Hello { versions, nonce B }
//!   Proof (caller's)                ──▶
//!                                    ◀──   Proof (called one's)
//!   from here on every frame is signed, see `seal`
//!   Introduction                    ──▶
//!                                    ◀──   Introduction, perhaps with a refusal
//! ```
//! A proof is HMAC-SHA-256 under the cluster key over the sender's side, the caller's hello and the called
//! one's hello, byte by byte as they were sent. Each side's nonce is in there, so nothing that was recorded
//! can be used again; so is the side, so nothing can be sent back. The introductions are signed with keys
//! made from the cluster key and both hellos, so nobody can pass on a handshake and go on in another's name.
//! Without a key the proofs are made with the empty one, and show only that neither side has a key.
//!
//! A node that accepts several keys proves the first of them; the called one looks for the one that fits
//! among its own and answers with that.
//!
//! **Who hears what.** Before both proofs a node tells its protocol versions and a nonce, and nothing else:
//! not who it is, of which cluster, or why it goes no further. A Refusal in a clear frame is a text that
//! anybody could have sent: it is logged, and the caller tries again. One in a signed frame has a code.
//! Nodes of the version before are spoken to by [`super::clear_handshake`], which says what they hear.
//!
//! A hello begins with the protocol versions and a text, and that is how every version's hello begins: what
//! comes behind is read only when there is a common version, and may go on where this program stops reading.

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

/// The protocol version that this program speaks.
///
/// | version | adds |
/// |---|---|
/// | 1 | everything else |
/// | 2 | `Request::AcknowledgedReadIndex` |
/// | 3 | hellos that tell nothing, signed frames, refusals with a code; rules 2 of the registry |
pub(crate) const PROTOCOL: u32 = 3;

/// The oldest one that it speaks too.
pub(crate) const PROTOCOL_MIN: u32 = 1;

/// The first one whose handshake is that of this file.
pub(super) const PROTOCOL_SIGNED: u32 = 3;

/// Bytes of a message before the other side is known.
const MESSAGE_LEN_MAX: usize = 4096;

pub(super) const NONCE_LEN: usize = 32;
const CALLER: &[u8] = b"hearth peer 3: caller";
const CALLED: &[u8] = b"hearth peer 3: called";

/// How a hello begins, in all versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versions {
    /// The protocol versions that it speaks, from and to.
    pub(super) protocol: (u32, u32),
    /// The program's version; empty since protocol version 3.
    pub(super) program: String,
}

/// The first message.
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

/// What a node says of itself to one that has proved the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Introduction {
    /// Of the program, for people.
    pub(super) program: String,
    pub(super) cluster_name: String,
    pub(super) cluster_id: Option<u128>,
    pub(super) node_id: Option<u64>,
    pub(super) incarnation: u128,
    /// Whom the caller wants to reach, if that matters.
    pub(super) wanted: Option<u64>,
    /// Why the called one does not take the caller, if it does not.
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

    /// What speaks against a connection from this node to `theirs`.
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

/// What a handshake ends with.
#[derive(Debug)]
pub(crate) struct Greeted {
    /// The other side.
    pub(crate) peer: Peer,
    /// For all that follows.
    pub(crate) seals: Seals,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// This side goes no further, after both proofs; the other one was told.
    #[error("{0}")]
    Refused(Refusal),
    /// The other side goes no further, after both proofs.
    #[error("{0}")]
    RefusedByPeer(Refusal),
    /// There is no proof of a common key. Nothing that the other side said counts.
    #[error("{why}")]
    Unproved {
        /// This side's words, always the same for the same cause.
        why: &'static str,
        /// The other side's words, if it said any; escaped, and cut.
        said: Option<String>,
    },
    /// The other side takes no hello of this version. It may be an older node, or claim to be one.
    #[error("it does not speak protocol version {PROTOCOL_SIGNED}")]
    Older,
    /// The connection broke, or what came makes no sense.
    #[error(transparent)]
    Io(#[from] io::Error),
}

pub(super) const KEYS_DIFFER: &str =
    "the cluster keys differ (--cluster-key-file): all nodes need the same one, or none";

pub(super) const NO_COMMON_VERSION: &str =
    "no common protocol version: one node is much older than the other; upgrade one step at a time";

const REFUSED_UNPROVED: &str = "it refuses this node without a proof of the cluster key: the keys differ \
     (--cluster-key-file), or it is no node of this cluster";

/// Calls: returns who is at the other side when both sides agree.
///
/// # Errors
/// [`HandshakeError`]; after [`HandshakeError::Older`], [`super::clear_handshake`] may go on, on another
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
        // Whether it arrives or not, there will be no connection.
        let _ = send_signed(stream, &mut seals.sealer, message).await;
        return Err(HandshakeError::Refused(refusal));
    }
    Ok(Greeted { peer, seals })
}

/// Is called: returns who is at the other side when both sides agree.
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
    // Whoever waits for a handshake has a limit.
    let Some(head) = opener.head(stream, MESSAGE_LEN_MAX).await? else {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    };
    Ok(opener.body(stream, head).await?)
}

/// What both sides speak.
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

/// What `bytes` begin with.
pub(super) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> io::Result<T> {
    codec::decode_beginning(what, bytes).map_err(io::Error::from)
}

pub(super) fn unproved(why: &'static str) -> HandshakeError {
    HandshakeError::Unproved { why, said: None }
}

/// Tells the other side, which has proved nothing, that this one goes no further.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(
    stream: &mut S,
    error: HandshakeError,
) -> HandshakeError {
    // Whether it arrives or not, there will be no connection.
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

/// A clear frame of a handshake.
pub(super) enum Received {
    Refusal(String),
    Other(Frame),
}

impl Received {
    /// The body of what should be of the kind `wanted`.
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
