//! Who may speak: what two nodes tell each other before the first request.
//!
//! ```text
//! caller                                   called
//!   Hello { nonce A, … }            ──▶
//!                                    ◀──   Hello { nonce B, … }
//!   Proof (caller's)                ──▶
//!                                    ◀──   Proof (called one's)
//! ```
//! A proof is HMAC-SHA-256 under the cluster key over the sender's side, the caller's hello and the called
//! one's hello, byte by byte as they were sent. Each side's nonce is in there, so nothing that was recorded
//! can be used again; so are both identities and the side, so nothing can be sent back or passed on in
//! another's name. Without a key the proofs are made with the empty one, and show only that neither side
//! has a key. What follows is neither encrypted nor signed: the key keeps strangers and mistakes out, not
//! somebody who can write into a connection between nodes.
//!
//! Instead of any of these a side may send a Refusal: why it goes no further, for a person.
//!
//! A hello begins with the protocol versions and the program's, and that is how every version's hello
//! begins: what comes behind is read only when there is a common version, and may go on where this program
//! stops reading.

use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frame::{self, Frame, Kind};
use crate::codec;

/// The protocol version that this program speaks.
///
/// | version | adds |
/// |---|---|
/// | 1 | everything else |
/// | 2 | `Request::AcknowledgedReadIndex` |
pub(crate) const PROTOCOL: u32 = 2;

/// The oldest one that it speaks too.
pub(crate) const PROTOCOL_MIN: u32 = 1;

/// Bytes of a message before the other side is known.
const MESSAGE_LEN_MAX: usize = 4096;

const NONCE_LEN: usize = 32;
const CALLER: &[u8] = b"hearth peer: caller";
const CALLED: &[u8] = b"hearth peer: called";

/// How a hello begins, in all versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Versions {
    /// The protocol versions that it speaks, from and to.
    protocol: (u32, u32),
    /// Of the program, for logs.
    program: String,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    versions: Versions,
    pub(crate) cluster_name: String,
    /// `None` as long as it belongs to no cluster: it may found or join one, and nothing else.
    pub(crate) cluster_id: Option<u128>,
    /// `None` as long as it has no number.
    pub(crate) node_id: Option<u64>,
    /// Of its data folder.
    pub(crate) incarnation: u128,
    /// Whom it wants to reach, if that matters.
    wanted: Option<u64>,
    nonce: [u8; NONCE_LEN],
}

impl Hello {
    /// The protocol version that both sides speak.
    pub(crate) fn protocol(&self) -> u32 {
        self.versions.protocol.1.min(PROTOCOL)
    }
}

/// What this node is, as it changes with the founding or joining of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalNode {
    pub(crate) cluster_name: String,
    pub(crate) cluster_id: Option<u128>,
    pub(crate) node_id: Option<u64>,
    pub(crate) incarnation: u128,
}

/// Says whether a node with a cluster id that fits may take part: its number and its incarnation.
pub(crate) type Admission = dyn Fn(u64, u128) -> Result<(), String> + Send + Sync;

/// All that a handshake needs.
#[derive(Clone)]
pub(crate) struct Credentials {
    local: Arc<RwLock<LocalNode>>,
    key: Arc<[u8]>,
    admission: Arc<Admission>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("local", &self.local())
            .finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The other side goes no further; its words.
    #[error("{0}")]
    RefusedByPeer(String),
    /// This side goes no further; the other one was told.
    #[error("{0}")]
    Refused(String),
    /// The connection broke, or what came makes no sense.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Credentials {
    pub(crate) fn new(local: LocalNode, key: &[u8], admission: Arc<Admission>) -> Self {
        Self {
            local: Arc::new(RwLock::new(local)),
            key: key.into(),
            admission,
        }
    }

    /// What this node is now.
    pub(crate) fn local(&self) -> LocalNode {
        self.read().clone()
    }

    /// To be called when it belongs to a cluster.
    pub(crate) fn set_local(&self, local: LocalNode) {
        *self.local.write().unwrap_or_else(PoisonError::into_inner) = local;
    }

    fn hello(&self, wanted: Option<u64>) -> Hello {
        let local = self.local();
        Hello {
            versions: Versions {
                protocol: (PROTOCOL_MIN, PROTOCOL),
                program: env!("CARGO_PKG_VERSION").to_owned(),
            },
            cluster_name: local.cluster_name,
            cluster_id: local.cluster_id,
            node_id: local.node_id,
            incarnation: local.incarnation,
            wanted,
            nonce: rand::random(),
        }
    }

    fn proof(&self, side: &[u8], caller: &[u8], called: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length is a key");
        for part in [side, caller, called] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }

    /// What speaks against `theirs`, before it has proved anything.
    fn compare(&self, ours: &Hello, theirs: &Hello) -> Result<(), String> {
        if theirs.cluster_name != ours.cluster_name {
            return Err(format!(
                "this node belongs to the cluster {:?}, the other one to {:?} (--cluster-name)",
                ours.cluster_name, theirs.cluster_name
            ));
        }
        if theirs.incarnation == ours.incarnation {
            return Err("that is this node itself; check the peer addresses".to_owned());
        }
        if let (Some(our), Some(their)) = (ours.cluster_id, theirs.cluster_id)
            && our != their
        {
            return Err(format!(
                "another cluster of the same name: this node belongs to {our:032x}, the other one to \
                 {their:032x}; a node goes over with an empty data folder only"
            ));
        }
        for (wanted, found) in [(ours.wanted, theirs.node_id), (theirs.wanted, ours.node_id)] {
            if let (Some(wanted), Some(found)) = (wanted, found)
                && wanted != found
            {
                return Err(format!(
                    "node {wanted} was expected at this address, and node {found} is there; check the peer \
                     addresses"
                ));
            }
        }
        Ok(())
    }

    /// Whether a node that has shown the key belongs to this node's cluster, as far as that is known. A
    /// connection from before this node had a cluster never does: its other side was compared with nothing.
    pub(crate) fn is_member(&self, theirs: &Hello) -> bool {
        let ours = self.read().cluster_id;
        ours.is_some() && theirs.cluster_id == ours && theirs.node_id.is_some()
    }

    /// What speaks against a node that knows the key. That changes: it may be removed at any time.
    ///
    /// # Errors
    /// The reason, for a person.
    pub(crate) fn admit(&self, theirs: &Hello) -> Result<(), String> {
        match theirs.node_id {
            Some(id) if self.is_member(theirs) => (self.admission)(id, theirs.incarnation),
            _ => Ok(()),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, LocalNode> {
        self.local.read().unwrap_or_else(PoisonError::into_inner)
    }
}

const KEYS_DIFFER: &str =
    "the cluster keys differ (--cluster-key-file): all nodes need the same one, or none";

/// Calls: returns the other side's hello when both sides agree.
///
/// # Errors
/// [`HandshakeError`].
pub(crate) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
    wanted: Option<u64>,
) -> Result<Hello, HandshakeError> {
    let ours = credentials.hello(wanted);
    let our_bytes = send_hello(stream, &ours).await?;
    let their_bytes = receive(stream, Kind::Hello).await?;
    let theirs = read_hello(stream, &their_bytes).await?;
    or_refuse(stream, credentials.compare(&ours, &theirs)).await?;
    let proof = credentials.proof(CALLER, &our_bytes, &their_bytes);
    send(stream, Kind::Proof, &proof.finalize().into_bytes()).await?;
    let their_proof = receive(stream, Kind::Proof).await?;
    let expected = credentials.proof(CALLED, &our_bytes, &their_bytes);
    let fits = expected.verify_slice(&their_proof);
    or_refuse(stream, fits.map_err(|_| KEYS_DIFFER.to_owned())).await?;
    or_refuse(stream, credentials.admit(&theirs)).await?;
    Ok(theirs)
}

/// Is called: returns the other side's hello when both sides agree.
///
/// # Errors
/// [`HandshakeError`].
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
) -> Result<Hello, HandshakeError> {
    let their_bytes = receive(stream, Kind::Hello).await?;
    let theirs = read_hello(stream, &their_bytes).await?;
    let ours = credentials.hello(None);
    or_refuse(stream, credentials.compare(&ours, &theirs)).await?;
    let our_bytes = send_hello(stream, &ours).await?;
    let their_proof = receive(stream, Kind::Proof).await?;
    let expected = credentials.proof(CALLER, &their_bytes, &our_bytes);
    let fits = expected.verify_slice(&their_proof);
    or_refuse(stream, fits.map_err(|_| KEYS_DIFFER.to_owned())).await?;
    or_refuse(stream, credentials.admit(&theirs)).await?;
    let proof = credentials.proof(CALLED, &their_bytes, &our_bytes);
    send(stream, Kind::Proof, &proof.finalize().into_bytes()).await?;
    Ok(theirs)
}

async fn send_hello<S: AsyncWrite + Unpin>(stream: &mut S, hello: &Hello) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    codec::encode_message(hello, &mut bytes);
    send(stream, Kind::Hello, &bytes).await?;
    Ok(bytes)
}

/// The hello in `bytes`; refused when there is no common version.
async fn read_hello<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
) -> Result<Hello, HandshakeError> {
    const WHAT: &str = "the greeting of a node";
    let theirs: Versions = codec::decode_beginning(WHAT, bytes).map_err(io::Error::from)?;
    let (min, max) = theirs.protocol;
    if min > PROTOCOL || max < PROTOCOL_MIN {
        let reason = format!(
            "no common protocol: this node (program {}) speaks the versions {PROTOCOL_MIN} to {PROTOCOL}, the \
             other one (program {:?}) {min} to {max}; upgrade one step at a time",
            env!("CARGO_PKG_VERSION"),
            theirs.program
        );
        or_refuse(stream, Err(reason)).await?;
    }
    Ok(codec::decode_beginning(WHAT, bytes).map_err(io::Error::from)?)
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, kind: Kind, body: &[u8]) -> io::Result<()> {
    let bytes = frame::encode(kind, 0, body.len(), |out| out.extend_from_slice(body))?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    wanted: Kind,
) -> Result<Vec<u8>, HandshakeError> {
    match frame::read(stream, MESSAGE_LEN_MAX).await? {
        Some(Frame { kind, body, .. }) if kind == wanted => Ok(body),
        Some(Frame {
            kind: Kind::Refusal,
            body,
            ..
        }) => Err(HandshakeError::RefusedByPeer(
            String::from_utf8_lossy(&body).into_owned(),
        )),
        Some(Frame { kind, .. }) => {
            let text = format!("{kind:?} came where {wanted:?} was due");
            Err(io::Error::new(io::ErrorKind::InvalidData, text).into())
        }
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

async fn or_refuse<S: AsyncWrite + Unpin>(
    stream: &mut S,
    verdict: Result<(), String>,
) -> Result<(), HandshakeError> {
    let Err(reason) = verdict else {
        return Ok(());
    };
    // Whether it arrives or not, there will be no connection.
    let _ = send(stream, Kind::Refusal, reason.as_bytes()).await;
    Err(HandshakeError::Refused(reason))
}

#[cfg(test)]
#[path = "handshake_test.rs"]
mod tests;
