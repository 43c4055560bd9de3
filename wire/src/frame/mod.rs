//! Frames: one message of either family, encoded and decoded.

mod annotations;
mod compression;
mod decoder;
mod header;

pub use annotations::{ANNOTATION_COUNT_MAX, Annotations};
pub use decoder::FrameDecoder;

use crate::hmac::{self, DIGEST_LEN, HMAC};
use crate::{Dialect, EncodeError, Exception, Family, Serializer, Value};
use header::Header;

/// Key of the annotation in which Pyro4 carries its correlation id.
const CORR: [u8; 4] = *b"CORR";

/// The purpose of a message. The numbers are the same in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// A client opens the connection.
    Connect = 1,
    /// The server accepts it.
    ConnectOk = 2,
    /// The server refuses it; the payload is the reason.
    ConnectFail = 3,
    /// A call.
    Invoke = 4,
    /// The call's result or exception.
    Result = 5,
    /// Keep-alive; answered with the same type.
    Ping = 6,
}

/// Message flags by meaning. The bits differ by family; unknown bits are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags {
    /// The payload is an exception that the client raises.
    pub exception: bool,
    /// The payload was compressed on the wire. [`Frame::payload`] is always the plain payload, except for
    /// Pyro4's PING, whose flag is ignored. [`Frame::encode`] ignores this value and decides anew.
    pub compressed: bool,
    /// The client expects no reply.
    pub oneway: bool,
    /// The call is a list of calls.
    pub batch: bool,
    /// Pyro4 only: CONNECT asks for metadata, CONNECTOK carries it.
    pub meta_on_connect: bool,
    /// The result is an item stream.
    pub item_stream_result: bool,
    /// The argument is an opaque blob.
    pub keep_serialized: bool,
}

/// One whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The family, which determines the header layout.
    pub family: Family,
    /// The message type.
    pub kind: MessageType,
    /// The flags.
    pub flags: Flags,
    /// Sequence number; a RESULT repeats that of its INVOKE.
    pub seq: u16,
    /// Serializer id as on the wire; the ids differ by family.
    pub serializer_id: u16,
    /// Correlation id: Pyro5's header field if its flag is set, or Pyro4's `CORR` annotation.
    pub correlation_id: Option<[u8; 16]>,
    /// All annotations but `HMAC` and Pyro4's `CORR`. A `CORR` that does not have 16 bytes stays here.
    pub annotations: Annotations,
    /// The payload, decompressed.
    pub payload: Vec<u8>,
}

/// Options for putting messages on the wire.
#[derive(Debug, Clone, Default)]
pub struct EncodeOptions<'a> {
    /// The sender's `COMPRESSION` setting; each family has its own threshold and level.
    pub compress: bool,
    /// Key with which Pyro4 messages are signed; an empty one counts as none.
    pub hmac_key: Option<&'a [u8]>,
    /// Limit on payload plus annotations of one message in bytes, inclusive, after compression
    /// (`MAX_MESSAGE_SIZE` holds in both directions). `None`: only the limits of the format hold.
    pub message_len_max: Option<usize>,
}

impl Frame {
    /// Creates a message without flags, correlation id and annotations.
    pub fn new(
        family: Family,
        kind: MessageType,
        seq: u16,
        serializer_id: u16,
        payload: Vec<u8>,
    ) -> Self {
        Self {
            family,
            kind,
            flags: Flags::default(),
            seq,
            serializer_id,
            correlation_id: None,
            annotations: Annotations::default(),
            payload,
        }
    }

    /// Creates a CONNECTFAIL for a request that was not understood: in marshal, with sequence number 0.
    pub fn connect_fail(family: Family, text: &str) -> Self {
        let serializer_id = Serializer::Marshal.id(family);
        let payload = marshal_str(text);
        Self::new(family, MessageType::ConnectFail, 0, serializer_id, payload)
    }

    /// Creates the CONNECTFAIL that answers this request: with its sequence number and in its serializer, or in
    /// marshal if that serializer is not supported.
    pub fn refused(&self, text: &str) -> Self {
        let mut reply = Self::connect_fail(self.family, text);
        reply.seq = self.seq;
        if let Some(serializer) = Serializer::from_id(self.serializer_id, self.family) {
            let dialect = Dialect::new(self.family, serializer);
            let mut payload = Vec::new();
            if dialect
                .encode(&Value::Str(text.to_owned()), &mut payload)
                .is_ok()
            {
                reply.payload = payload;
                reply.serializer_id = self.serializer_id;
            }
        }
        reply
    }

    /// Checks that Pyro4's correlation id, if there is one, has 16 bytes. Pyro5's header always has room for
    /// exactly 16.
    ///
    /// # Errors
    /// The exception for the caller, with Python's own text, if the length is wrong.
    pub fn check_correlation_id(&self) -> Result<(), Exception> {
        let is_malformed = self.family == Family::Pyro4
            && self.correlation_id.is_none()
            && self.annotations.get(CORR).is_some();
        match is_malformed {
            true => Err(Exception::value_error("bytes is not a 16-char string")),
            false => Ok(()),
        }
    }

    /// Appends the message's bytes to `out`.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] if a length does not fit its header field or exceeds the sender's limit,
    /// [`EncodeError::SerializerId`] for an id above 255 in Pyro5. `out` is unchanged after an error.
    pub fn encode(
        &self,
        options: &EncodeOptions<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.encode_with(options, out, |out| {
            out.extend_from_slice(&self.payload);
            Ok(())
        })
    }

    /// Does the same as [`Self::encode`] with a payload that `write_payload` appends, in place of
    /// [`Self::payload`]. The payload is written directly into `out`, without a copy.
    ///
    /// # Errors
    /// Those of [`Self::encode`] and of `write_payload`. `out` is unchanged after an error.
    pub fn encode_with(
        &self,
        options: &EncodeOptions<'_>,
        out: &mut Vec<u8>,
        write_payload: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        let encoded = self.encode_after(start, options, out, write_payload);
        if encoded.is_err() {
            out.truncate(start);
        }
        encoded
    }

    fn encode_after(
        &self,
        start: usize,
        options: &EncodeOptions<'_>,
        out: &mut Vec<u8>,
        write_payload: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let hmac_key = match self.family {
            Family::Pyro4 => options.hmac_key.filter(|key| !key.is_empty()),
            Family::Pyro5 => None,
        };
        let annotations_len = self.annotations_len(hmac_key.is_some())?;
        let header_len = Header::len(self.family);
        out.reserve(header_len + annotations_len as usize + self.payload.len());

        // The header is written last, when the payload's length is known.
        out.resize(start + header_len, 0);
        for (key, data) in self.chunks() {
            annotations::encode_chunk(self.family, key, data, out);
        }
        if hmac_key.is_some() {
            annotations::encode_chunk(self.family, HMAC, &[0; DIGEST_LEN], out);
        }
        let payload_start = out.len();
        write_payload(out)?;
        let payload_len = out.len() - payload_start;
        let mut compressed = false;
        if options.compress && compression::applies(self.family, self.kind, self.flags, payload_len)
        {
            let plain = out.split_off(payload_start);
            compressed = compression::deflate(self.family, &plain, out);
            if !compressed {
                out.extend_from_slice(&plain);
            }
        }

        let body_len = out.len() - start - header_len;
        if let Some(max) = options.message_len_max.filter(|max| body_len > *max) {
            return Err(EncodeError::TooLarge { len: body_len, max });
        }
        if let Some((before, payload)) = out.split_at_mut_checked(payload_start)
            && let Some(key) = hmac_key
            && let Some(digest) = before.last_chunk_mut()
        {
            let mut chunks: Vec<_> = self.chunks().collect();
            *digest = hmac::sign(key, payload, &mut chunks);
        }
        let header = Header {
            family: self.family,
            kind: self.kind.number(),
            flags: Flags {
                compressed,
                ..self.flags
            },
            seq: self.seq,
            serializer_id: self.serializer_id,
            payload_len: i64::try_from(out.len() - payload_start).unwrap_or(i64::MAX),
            annotations_len,
            correlation_id: self.correlation_id,
        };
        match out.get_mut(start..start + header_len) {
            Some(place) => header.encode(place),
            None => Ok(()),
        }
    }

    /// The chunks to be sent, without the signature. The correlation id comes first, as in Pyro4.
    fn chunks(&self) -> impl Iterator<Item = ([u8; 4], &[u8])> {
        let correlation_id = match self.family {
            Family::Pyro4 => self.correlation_id.as_ref(),
            Family::Pyro5 => None,
        };
        let is_ours = move |key: [u8; 4]| {
            self.family == Family::Pyro4
                && (key == HMAC || (key == CORR && correlation_id.is_some()))
        };
        correlation_id
            .into_iter()
            .map(|id| (CORR, id.as_slice()))
            .chain(
                self.annotations
                    .iter()
                    .filter(move |(key, _)| !is_ours(*key)),
            )
    }

    /// Length of all annotation chunks in bytes.
    fn annotations_len(&self, signed: bool) -> Result<u32, EncodeError> {
        let header_len = annotations::header_len(self.family);
        let digest = if signed { header_len + DIGEST_LEN } else { 0 };
        let len = self
            .chunks()
            .map(|(_, data)| header_len + data.len())
            .sum::<usize>()
            + digest;
        let max = match self.family {
            Family::Pyro4 => u16::MAX.into(),
            Family::Pyro5 => u32::MAX,
        };
        u32::try_from(len)
            .ok()
            .filter(|len| *len <= max)
            .ok_or(EncodeError::TooLarge {
                len,
                max: max as usize,
            })
    }
}

/// Encodes a text as marshal in the form that every version reads: code `u`, the length in bytes as a
/// little-endian u32, UTF-8.
fn marshal_str(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut payload = Vec::with_capacity(5 + text.len());
    payload.push(b'u');
    payload.extend_from_slice(&len.to_le_bytes());
    payload.extend_from_slice(text.as_bytes());
    payload
}

#[cfg(test)]
mod tests;
