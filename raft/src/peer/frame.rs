//! One message on a connection between nodes.
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
//! TCP's own checksum is weak, and what comes out of here goes into a log that is never doubted again.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes before the body.
pub(crate) const HEADER_LEN: usize = 24;

/// The largest body. The largest single command came in a message of at most 64 MiB.
pub(crate) const BODY_LEN_MAX: usize = 80 << 20;

const MAGIC: [u8; 4] = *b"HRTH";
const VERSION: u8 = 1;

/// How a connection to a Pyro daemon begins: somebody took this port for that.
const PYRO_MAGIC: &[u8; 4] = b"PYRO";

/// Bytes of a body that are read at once, so that a length alone takes no memory.
const READ_STEP: usize = 64 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// See [`super::handshake`].
    Hello,
    /// Proof of the cluster key.
    Proof,
    /// Why the sender goes no further, as text.
    Refusal,
    Request,
    Response,
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Hello,
        Self::Proof,
        Self::Refusal,
        Self::Request,
        Self::Response,
        Self::Ping,
        Self::Pong,
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

/// A frame's bytes. `write_body` appends the body, about `len_hint` bytes, which must not exceed
/// [`BODY_LEN_MAX`].
///
/// # Errors
/// `InvalidInput` when the body is too long.
pub(crate) fn encode(
    kind: Kind,
    id: u64,
    len_hint: usize,
    write_body: impl FnOnce(&mut Vec<u8>),
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + len_hint);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[VERSION, kind.code(), 0, 0]);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    write_body(&mut bytes);
    let len = bytes.len() - HEADER_LEN;
    let fits = u32::try_from(len).ok().filter(|_| len <= BODY_LEN_MAX);
    let Some(len) = fits else {
        let text =
            format!("a message between nodes has {len} bytes, and at most {BODY_LEN_MAX} go");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    bytes[16..20].copy_from_slice(&len.to_le_bytes());
    let sum = checksum(&bytes[..20], &bytes[HEADER_LEN..]);
    bytes[20..24].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
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

/// Reads the next frame, whose body has at most `len_max` bytes. `None` at the end of the stream
/// between two frames. Not to be cancelled half-way.
///
/// # Errors
/// `InvalidData` with what is wrong, and the stream's own.
pub(crate) async fn read<R: AsyncRead + Unpin>(
    reader: &mut R,
    len_max: usize,
) -> io::Result<Option<Frame>> {
    let mut head = [0; HEADER_LEN];
    let mut filled = 0;
    while filled < HEADER_LEN {
        let count = reader.read(&mut head[filled..]).await?;
        if count == 0 {
            if filled == 0 {
                return Ok(None);
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
        let start = &head[..filled.min(4)];
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
    let [_, _, _, _, version, code, _, _, rest @ ..] = head;
    if version != VERSION {
        return Err(invalid(format!(
            "the frame has version {version}, and this program knows {VERSION}"
        )));
    }
    let (id, rest) = rest.split_at(8);
    let (len, sum) = rest.split_at(4);
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u64, |n, &b| n << 8 | u64::from(b))
    };
    let (id, len, sum) = (number(id), number(len), number(sum));
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > len_max {
        return Err(invalid(format!(
            "a message announces {len} bytes, and at most {len_max} are taken"
        )));
    }
    let Some(kind) = Kind::of_code(code) else {
        return Err(invalid(format!("a frame of the unknown kind {code}")));
    };
    let body = read_body(reader, len).await?;
    if u64::from(checksum(&head[..20], &body)) != sum {
        return Err(invalid("a message was altered on its way".to_owned()));
    }
    Ok(Some(Frame { kind, id, body }))
}

async fn read_body<R: AsyncRead + Unpin>(reader: &mut R, len: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(len.min(READ_STEP));
    while body.len() < len {
        let before = body.len();
        // What has come may be doubled, and nothing more.
        let step = (len - before).min(before.max(READ_STEP));
        body.resize(before + step, 0);
        reader.read_exact(&mut body[before..]).await?;
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn encoded(kind: Kind, id: u64, body: &[u8]) -> Vec<u8> {
        encode(kind, id, body.len(), |out| out.extend_from_slice(body)).unwrap()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            id: u64,
            kind in 0..Kind::ALL.len(),
            body in prop::collection::vec(any::<u8>(), 0..300_000),
        ) {
            let kind = Kind::ALL[kind];
            let bytes = encoded(kind, id, &body);
            let frame = run(read(&mut &bytes[..], BODY_LEN_MAX)).unwrap();
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
            prop_assert!(run(read(&mut &bytes[..], BODY_LEN_MAX)).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = run(read(&mut &bytes[..], BODY_LEN_MAX));
            let _ = run(read(&mut &[&MAGIC[..], &bytes].concat()[..], BODY_LEN_MAX));
        }
    }

    #[test]
    fn a_length_takes_no_memory_and_is_limited() {
        let mut bytes = encoded(Kind::Request, 7, &[]);
        bytes[16..20].copy_from_slice(&(BODY_LEN_MAX as u32).to_le_bytes());
        let error = run(read(&mut &bytes[..], BODY_LEN_MAX)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = run(read(&mut &bytes[..], 4096)).unwrap_err().to_string();
        assert!(error.contains("at most 4096"), "{error}");
    }

    #[test]
    fn a_pyro_program_is_recognised() {
        let error = run(read(&mut &b"PYRO\x01\xf6\0\0"[..], 4096)).unwrap_err();
        assert!(error.to_string().contains("--port"), "{error}");
    }

    #[test]
    fn a_stream_may_end_between_frames_only() {
        assert_eq!(run(read(&mut &[][..], 10)).unwrap(), None);
        let bytes = encoded(Kind::Ping, 0, &[]);
        assert!(run(read(&mut &bytes[..10], 10)).is_err());
    }
}
