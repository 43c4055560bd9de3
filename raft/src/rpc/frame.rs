//! Frames: one message on a connection between nodes.
//!
//! Up to the proofs of the handshake, and on every connection of protocol version 1 or 2, a frame is clear:
//!
//! ```text
//! 0   magic            4 bytes   "HRTH"
//! 4   frame version    u8        1
//! 5   kind             u8        see [`Kind`]
//! 6   reserved         u16       0
//! 8   request id       u64       little-endian, as all of these
//! 16  body length      u32
//! 20  checksum         u32       CRC-32 of bytes 0 to 19 and the body
//! 24  body                       see [`super::message`] and [`super::handshake`]
//! ```
//!
//! From protocol version 3 on, every frame after the proofs is signed (see [`super::seal`] for the keys and
//! numbers):
//!
//! ```text
//! 0   bytes 0 to 19 as above, with frame version 2
//! 20  head tag         16 bytes  over the frame's number and bytes 0 to 19
//! 36  body
//! ..  body tag         16 bytes  over the frame's number and the body; absent with an empty body
//! ```
//!
//! The head has a tag of its own, so that a receiver never waits for a body whose length was altered.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Maximum length of a body in bytes. The largest single command arrives in a client message of at most 64 MiB.
pub(crate) const BODY_LEN_MAX: usize = 80 << 20;

/// Length of a tag in bytes.
pub(super) const TAG_LEN: usize = 16;

/// The slowest network that is allowed for, in bytes per second. It determines the extra time that a message
/// gets for its length.
const RATE_MIN: usize = 1 << 20;

/// Length in bytes of a frame up to the checksum or the tag.
const HEAD_LEN: usize = 20;

/// Length in bytes of a clear frame up to its body.
const CLEAR_LEN: usize = HEAD_LEN + 4;

/// Length in bytes of a signed frame up to its body; the greater of the two.
const SIGNED_LEN: usize = HEAD_LEN + TAG_LEN;

const MAGIC: [u8; 4] = *b"HRTH";
const CLEAR: u8 = 1;
const SIGNED: u8 = 2;

/// The first bytes of a connection to a Pyro daemon, from a program that takes this port for one.
const PYRO_MAGIC: &[u8; 4] = b"PYRO";

/// Bytes of a body that are read at once, so that an announced length alone allocates no memory.
const READ_STEP: usize = 64 << 10;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first message of each side. See [`super::handshake`].
    Hello,
    /// Proof of the cluster key.
    Proof,
    /// The reason why the sender ends the handshake: a text in a clear frame, a [`super::refusal::Refusal`] in
    /// a signed one.
    Refusal,
    Request,
    Response,
    /// A request for a sign of life.
    Ping,
    /// The answer to a ping.
    Pong,
    /// The identity of the sender. Protocol version 3, signed.
    Introduction,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Hello,
        Self::Proof,
        Self::Refusal,
        Self::Request,
        Self::Response,
        Self::Ping,
        Self::Pong,
        Self::Introduction,
    ];

    fn code(self) -> u8 {
        self as u8 + 1
    }

    fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) body: Vec<u8>,
}

/// A message to be sent, with room around its body for the other parts of a frame.
#[derive(Debug)]
pub(crate) struct Message {
    kind: Kind,
    id: u64,
    /// [`SIGNED_LEN`] bytes of room, then the body.
    bytes: Vec<u8>,
    body_len: u32,
}

impl Message {
    /// Creates the message whose body `write_body` appends: about `len_hint` bytes, and at most
    /// [`BODY_LEN_MAX`].
    ///
    /// # Errors
    /// `InvalidInput` if the body is too long.
    pub(crate) fn new(
        kind: Kind,
        id: u64,
        len_hint: usize,
        write_body: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(SIGNED_LEN + len_hint + TAG_LEN);
        bytes.resize(SIGNED_LEN, 0);
        write_body(&mut bytes);
        let len = bytes.len() - SIGNED_LEN;
        let fits = u32::try_from(len).ok().filter(|_| len <= BODY_LEN_MAX);
        let Some(body_len) = fits else {
            let text =
                format!("a message between nodes has {len} bytes, and at most {BODY_LEN_MAX} go");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        Ok(Self {
            kind,
            id,
            bytes,
            body_len,
        })
    }

    /// Creates a message without a body.
    pub(crate) fn empty(kind: Kind, id: u64) -> Self {
        Self {
            kind,
            id,
            bytes: vec![0; SIGNED_LEN],
            body_len: 0,
        }
    }

    /// Returns the body.
    #[cfg(test)]
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[SIGNED_LEN..]
    }

    fn head(&self, version: u8) -> [u8; HEAD_LEN] {
        let mut head = [0; HEAD_LEN];
        head[..4].copy_from_slice(&MAGIC);
        head[4..6].copy_from_slice(&[version, self.kind.code()]);
        head[8..16].copy_from_slice(&self.id.to_le_bytes());
        head[16..].copy_from_slice(&self.body_len.to_le_bytes());
        head
    }

    /// Packs the message into a clear frame.
    pub(super) fn into_clear(mut self) -> Packed {
        const START: usize = SIGNED_LEN - CLEAR_LEN;
        let head = self.head(CLEAR);
        let sum = checksum(&head, &self.bytes[SIGNED_LEN..]);
        self.bytes[START..START + HEAD_LEN].copy_from_slice(&head);
        self.bytes[START + HEAD_LEN..SIGNED_LEN].copy_from_slice(&sum.to_le_bytes());
        Packed {
            bytes: self.bytes,
            start: START,
        }
    }

    /// Packs the message into a signed frame. `tag` computes the tags of head and body.
    pub(super) fn into_signed(mut self, tag: impl Fn(Part<'_>) -> [u8; TAG_LEN]) -> Packed {
        let head = self.head(SIGNED);
        self.bytes[..HEAD_LEN].copy_from_slice(&head);
        self.bytes[HEAD_LEN..SIGNED_LEN].copy_from_slice(&tag(Part::Head(&head)));
        if self.body_len > 0 {
            let body_tag = tag(Part::Body(&self.bytes[SIGNED_LEN..]));
            self.bytes.extend_from_slice(&body_tag);
        }
        Packed {
            bytes: self.bytes,
            start: 0,
        }
    }
}

/// The part of a frame that a tag covers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Head(&'a [u8; HEAD_LEN]),
    Body(&'a [u8]),
}

/// The bytes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    start: usize,
}

impl Packed {
    /// Returns all bytes of the frame.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// Returns the time that a body of `len` bytes may take on a slow network.
pub(crate) fn time_for(len: usize) -> Duration {
    Duration::from_secs_f64(len as f64 / RATE_MIN as f64)
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn altered() -> io::Error {
    invalid("a message was altered on its way, or came twice or in the wrong order".to_owned())
}

/// The head of a frame. The head of a signed frame is verified.
#[derive(Debug)]
pub(crate) struct Head {
    kind: Kind,
    id: u64,
    body_len: usize,
    bytes: [u8; HEAD_LEN],
    /// The checksum of a clear frame; 0 in a signed one.
    checksum: u32,
}

impl Head {
    /// Returns the length in bytes of the body that follows.
    pub(crate) fn body_len(&self) -> usize {
        self.body_len
    }
}

/// Reads the head of the next clear frame, whose body has at most `len_max` bytes. Returns `None` if the stream
/// ends between two frames. Not cancel safe.
///
/// # Errors
/// `InvalidData` with the reason, and the errors of the stream.
pub(super) async fn read_clear_head<R: AsyncRead + Unpin>(
    reader: &mut R,
    len_max: usize,
) -> io::Result<Option<Head>> {
    let Some(bytes) = read_head_bytes::<_, CLEAR_LEN>(reader).await? else {
        return Ok(None);
    };
    let (head, sum) = split_head(&bytes);
    let mut head = parse_head(head, CLEAR, len_max)?;
    head.checksum = u32::try_from(number(sum)).unwrap_or_default();
    Ok(Some(head))
}

/// Reads the head of a signed frame, like [`read_clear_head`]. `is_tag` verifies the tag of the head.
pub(super) async fn read_signed_head<R: AsyncRead + Unpin>(
    reader: &mut R,
    len_max: usize,
    is_tag: impl FnOnce(Part<'_>, &[u8]) -> bool,
) -> io::Result<Option<Head>> {
    let Some(bytes) = read_head_bytes::<_, SIGNED_LEN>(reader).await? else {
        return Ok(None);
    };
    let (head, tag) = split_head(&bytes);
    if !is_tag(Part::Head(&head), tag) {
        return Err(altered());
    }
    parse_head(head, SIGNED, len_max).map(Some)
}

/// Reads the rest of the clear frame with this head.
pub(super) async fn read_clear_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    head: Head,
) -> io::Result<Frame> {
    let body = read_body(reader, head.body_len).await?;
    if checksum(&head.bytes, &body) != head.checksum {
        return Err(altered());
    }
    Ok(Frame {
        kind: head.kind,
        id: head.id,
        body,
    })
}

/// Reads the rest of the signed frame with this head. `is_tag` verifies the tag of the body.
pub(super) async fn read_signed_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    head: Head,
    is_tag: impl FnOnce(Part<'_>, &[u8]) -> bool,
) -> io::Result<Frame> {
    let body = read_body(reader, head.body_len).await?;
    if !body.is_empty() {
        let mut tag = [0; TAG_LEN];
        reader.read_exact(&mut tag).await?;
        if !is_tag(Part::Body(&body), &tag) {
            return Err(altered());
        }
    }
    Ok(Frame {
        kind: head.kind,
        id: head.id,
        body,
    })
}

/// Reads the first `LEN` bytes of a frame. Fails as soon as they do not match the magic bytes.
async fn read_head_bytes<R: AsyncRead + Unpin, const LEN: usize>(
    reader: &mut R,
) -> io::Result<Option<[u8; LEN]>> {
    let mut bytes = [0; LEN];
    let mut filled = 0;
    while filled < LEN {
        let count = reader.read(&mut bytes[filled..]).await?;
        if count == 0 {
            if filled == 0 {
                return Ok(None);
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
        let start = &bytes[..filled.min(4)];
        if !MAGIC.starts_with(start) {
            return Err(invalid(if PYRO_MAGIC.starts_with(start) {
                "a Pyro program called the port that is for the other nodes; names are served at the \
                 port of -p/--port"
                    .to_owned()
            } else {
                "what came is no message between nodes".to_owned()
            }));
        }
    }
    Ok(Some(bytes))
}

fn split_head(bytes: &[u8]) -> ([u8; HEAD_LEN], &[u8]) {
    let (head, rest) = bytes
        .split_first_chunk()
        .expect("each frame begins with a whole head");
    (*head, rest)
}

fn parse_head(bytes: [u8; HEAD_LEN], wanted: u8, len_max: usize) -> io::Result<Head> {
    let [_, _, _, _, version, code, _, _, rest @ ..] = bytes;
    if version != wanted {
        return Err(invalid(format!(
            "the frame has version {version}, and {wanted} was due"
        )));
    }
    let (id, len) = rest.split_at(8);
    let (id, len) = (number(id), number(len));
    let body_len = usize::try_from(len).unwrap_or(usize::MAX);
    if body_len > len_max {
        return Err(invalid(format!(
            "a message announces {len} bytes, and at most {len_max} are taken"
        )));
    }
    let Some(kind) = Kind::of_code(code) else {
        return Err(invalid(format!("a frame of the unknown kind {code}")));
    };
    Ok(Head {
        kind,
        id,
        body_len,
        bytes,
        checksum: 0,
    })
}

/// Returns the little-endian number in up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    let from_last = bytes.iter().rev();
    from_last.fold(0, |number, &byte| number << 8 | u64::from(byte))
}

async fn read_body<R: AsyncRead + Unpin>(reader: &mut R, len: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(len.min(READ_STEP));
    while body.len() < len {
        let before = body.len();
        // The buffer may double what has arrived, and no more.
        let step = (len - before).min(before.max(READ_STEP));
        body.resize(before + step, 0);
        reader.read_exact(&mut body[before..]).await?;
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::seal::{Opener, Sealer};
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn encoded(kind: Kind, id: u64, body: &[u8]) -> Vec<u8> {
        let message = Message::new(kind, id, body.len(), |out| out.extend_from_slice(body));
        Sealer::Clear.seal(message.unwrap()).as_slice().to_vec()
    }

    fn read(bytes: &[u8], len_max: usize) -> io::Result<Option<Frame>> {
        let patience = Duration::from_secs(60);
        run(Opener::Clear.read(&mut &bytes[..], len_max, patience))
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            id: u64,
            kind in 0..Kind::ALL.len(),
            body in prop::collection::vec(any::<u8>(), 0..300_000),
        ) {
            let kind = Kind::ALL[kind];
            let frame = read(&encoded(kind, id, &body), BODY_LEN_MAX).unwrap();
            prop_assert_eq!(frame, Some(Frame { kind, id, body }));
        }

        #[test]
        fn a_changed_byte_is_noticed(
            body in prop::collection::vec(any::<u8>(), 0..100),
            at: prop::sample::Index,
            change in 1_u8..,
        ) {
            let mut bytes = encoded(Kind::Request, 7, &body);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert!(read(&bytes, BODY_LEN_MAX).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&bytes, BODY_LEN_MAX);
            let _ = read(&[&MAGIC[..], &bytes].concat(), BODY_LEN_MAX);
        }
    }

    #[test]
    fn a_length_takes_no_memory_and_is_limited() {
        let mut bytes = encoded(Kind::Request, 7, &[]);
        bytes[16..20].copy_from_slice(&(BODY_LEN_MAX as u32).to_le_bytes());
        let error = read(&bytes, BODY_LEN_MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = read(&bytes, 4096).unwrap_err().to_string();
        assert!(error.contains("at most 4096"), "{error}");
    }

    #[test]
    fn a_pyro_program_is_recognised() {
        let error = read(b"PYRO\x01\xf6\0\0", 4096).unwrap_err();
        assert!(error.to_string().contains("--port"), "{error}");
    }

    #[test]
    fn a_stream_may_end_between_frames_only() {
        assert_eq!(read(&[], 10).unwrap(), None);
        let bytes = encoded(Kind::Ping, 0, &[]);
        assert!(read(&bytes[..10], 10).is_err());
    }
}
