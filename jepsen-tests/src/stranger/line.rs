//! One connection of a stranger to the client port: frames in and out, well-formed unless an operation needs
//! otherwise.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hearth_cli::wire::frame::{Annotations, EncodeOptions, FrameDecoder};
use hearth_cli::wire::{
    Call, Dialect, Family, Flags, Frame, Limits, MessageType, Serializer, Value,
};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Tally;

/// The longest time that a stranger waits for a connection, for a part of an answer, or for room to send.
const PATIENCE: Duration = Duration::from_secs(15);

/// Limit on the bytes of a refusal, besides those of the call itself. A traceback has some hundred.
const REFUSAL_LEN_MAX: usize = 64 << 10;

/// The factor by which the text of a call may grow in a refusal: the worst escape takes six bytes for one.
const ESCAPED_LEN_MAX: usize = 6;

/// Limits for decoding answers; strangers do not decode long ones.
const LIMITS: Limits = Limits {
    message_len_max: 1 << 30,
    inflated_len_max: 1 << 30,
    depth_max: 200,
    value_count_max: 64_000_000,
};

/// The longest answer that is decoded, in bytes.
const DECODED_LEN_MAX: usize = 1 << 20;

pub(super) struct Line {
    stream: TcpStream,
    decoder: FrameDecoder,
    dialect: Dialect,
    seq: u16,
}

/// Draws a family and a serializer.
pub(super) fn dialect(random: &mut SmallRng) -> Dialect {
    let serializers = [
        Serializer::Serpent,
        Serializer::Json,
        Serializer::Marshal,
        Serializer::Msgpack,
    ];
    let families = [Family::Pyro4, Family::Pyro5];
    Dialect::new(
        *families.choose(random).unwrap_or(&Family::Pyro5),
        *serializers.choose(random).unwrap_or(&Serializer::Serpent),
    )
}

/// The dialect for calls that need a serializer which can represent every value; marshal cannot.
pub(super) const PLAIN: Dialect = Dialect::new(Family::Pyro5, Serializer::Serpent);

/// Waits for `work`, at most [`PATIENCE`].
///
/// # Errors
/// `TimedOut` after that time, or the error of `work`.
pub(super) async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Line {
    pub(super) async fn open(to: SocketAddr, dialect: Dialect) -> io::Result<Self> {
        let stream = within(TcpStream::connect(to)).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            decoder: FrameDecoder::new(LIMITS, None),
            dialect,
            seq: 0,
        })
    }

    /// Connects and performs the handshake for an object.
    pub(super) async fn greeted(
        to: SocketAddr,
        dialect: Dialect,
        object: Value,
    ) -> io::Result<Self> {
        let mut line = Self::open(to, dialect).await?;
        let hello = Value::Dict(vec![
            ("handshake".into(), "hello".into()),
            ("object".into(), object),
        ]);
        let mut payload = Vec::new();
        dialect
            .encode(&hello, &mut payload)
            .map_err(io::Error::other)?;
        let flags = Flags {
            meta_on_connect: dialect.family == Family::Pyro4,
            ..Flags::default()
        };
        let bytes = message(dialect, MessageType::Connect, flags, 0, payload);
        line.send(&bytes).await?;
        let reply = line.reply().await?;
        if reply.kind != MessageType::ConnectOk {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(line)
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(self.stream.write_all(bytes)).await
    }

    /// Reads the next message from the server.
    pub(super) async fn reply(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
                return Ok(frame);
            }
            let read = within(self.stream.read_buf(self.decoder.buffer_mut())).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads `count` answers to requests of `asked_len` bytes each, and counts them. Stops at the first error.
    pub(super) async fn replies(&mut self, count: usize, asked_len: usize, tally: &mut Tally) {
        for _ in 0..count {
            match self.reply().await {
                Ok(frame) => drop(self.judge(&frame, asked_len, tally)),
                Err(error) => return tally.failed(&error),
            }
        }
    }

    /// Performs a call and counts its outcome. Returns the result unless it is an exception or too long to
    /// decode.
    pub(super) async fn call(
        &mut self,
        call: &Call,
        flags: Flags,
        tally: &mut Tally,
    ) -> io::Result<Option<Value>> {
        self.seq = self.seq.wrapping_add(1);
        let Some(bytes) = invoke(self.dialect, call, flags, self.seq) else {
            // The serializer cannot represent this call.
            return Ok(None);
        };
        self.send(&bytes).await?;
        if flags.oneway {
            return Ok(None);
        }
        let frame = self.reply().await?;
        Ok(self.judge(&frame, bytes.len(), tally))
    }

    fn judge(&self, frame: &Frame, asked_len: usize, tally: &mut Tally) -> Option<Value> {
        let len = frame.payload.len();
        tally.answer_len_max = tally.answer_len_max.max(len as u64);
        if frame.flags.exception {
            tally.refused += 1;
            let text = String::from_utf8_lossy(&frame.payload);
            if len > REFUSAL_LEN_MAX + ESCAPED_LEN_MAX * asked_len {
                let start: String = text.chars().take(200).collect();
                tally.wrong.push(format!(
                    "a call of {asked_len} bytes is refused with {len} bytes: {start}"
                ));
            }
            if text.contains("panicked at") {
                let start: String = text.chars().take(400).collect();
                tally.wrong.push(format!("a call came to a panic: {start}"));
            }
            return None;
        }
        tally.answered += 1;
        if len > DECODED_LEN_MAX {
            return None;
        }
        self.dialect.decode(&frame.payload, &LIMITS).ok()
    }

    /// Reads `count` single bytes, with a pause after each.
    pub(super) async fn sip(&mut self, count: u32, pause: Duration) -> io::Result<()> {
        let mut byte = [0];
        for _ in 0..count {
            if within(self.stream.read(&mut byte)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Closes the connection with a reset: both sides discard the data in transit.
    pub(super) fn reset(self) {
        // If this fails, the connection is closed in the ordinary way.
        let _ = self.stream.set_zero_linger();
    }
}

/// Returns the bytes of a message.
pub(super) fn message(
    dialect: Dialect,
    kind: MessageType,
    flags: Flags,
    seq: u16,
    payload: Vec<u8>,
) -> Vec<u8> {
    let frame = Frame {
        family: dialect.family,
        kind,
        flags,
        seq,
        serializer_id: dialect.serializer.id(dialect.family),
        correlation_id: None,
        annotations: Annotations::default(),
        payload,
    };
    let mut bytes = Vec::new();
    // This fails only for a payload of 4 GB.
    let _ = frame.encode(&EncodeOptions::default(), &mut bytes);
    bytes
}

/// Returns the bytes of a call, or `None` if the serializer cannot represent it.
pub(super) fn invoke(dialect: Dialect, call: &Call, flags: Flags, seq: u16) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    call.encode(dialect, &mut payload).ok()?;
    Some(message(dialect, MessageType::Invoke, flags, seq, payload))
}

/// Returns a call with `payload` as its payload, for example one that no serializer would write.
pub(super) fn payload(dialect: Dialect, payload: Vec<u8>, flags: Flags) -> Vec<u8> {
    message(dialect, MessageType::Invoke, flags, 1, payload)
}

/// Draws the flags of a call, mostly none.
pub(super) fn flags(random: &mut SmallRng) -> Flags {
    Flags {
        oneway: random.random_ratio(1, 10),
        keep_serialized: random.random_ratio(1, 40),
        item_stream_result: random.random_ratio(1, 40),
        ..Flags::default()
    }
}
