//! The frame decoder: takes bytes as they arrive and returns whole frames, within limits.
//!
//! The decoder holds only the received bytes of the current message. Between messages it owns no buffer at all,
//! so that an idle connection costs a few dozen bytes. An announced length makes room for at most 64 KiB;
//! beyond that, memory is taken only for bytes that have arrived.

use super::compression::inflate;
use super::header::Header;
use super::{Annotations, CORR, Frame, MessageType};
use crate::hmac::{self, HMAC};
use crate::{DecodeError, Family, Limits};

/// Minimum room in bytes that [`FrameDecoder::buffer_mut`] makes. Most messages fit, and allocators keep blocks
/// of up to this size in per-thread caches.
const READ_LEN_MIN: usize = 1024;
/// Maximum room in bytes that it makes for the rest of an announced message.
const READ_LEN_MAX: usize = 64 << 10;

/// All message types, the set that a new decoder accepts.
const ALL: &[MessageType] = &[
    MessageType::Connect,
    MessageType::ConnectOk,
    MessageType::ConnectFail,
    MessageType::Invoke,
    MessageType::Result,
    MessageType::Ping,
];

/// Turns a stream of bytes into frames, for servers and clients alike. The first message fixes the family for
/// the life of the connection.
///
/// After an error the connection cannot be used any more, and the decoder returns the same error for ever. The
/// exception is an error for which [`DecodeError::is_recoverable`] is true: the decoder has moved on to the
/// next message.
#[derive(Debug)]
pub struct FrameDecoder {
    limits: Limits,
    hmac_key: Option<Box<[u8]>>,
    family: Option<Family>,
    accepted: &'static [MessageType],
    /// Received bytes; those before `start` are consumed.
    buffer: Vec<u8>,
    start: usize,
    /// The header at `start`, once it has arrived and passed its checks.
    header: Option<Header>,
    failed: Option<DecodeError>,
}

impl FrameDecoder {
    /// Creates a decoder for one connection. With `hmac_key`, Pyro4 messages must be signed with it; without
    /// it, they must not be signed. An empty key counts as none. Pyro5 has no signatures, so a key does not
    /// restrict Pyro5 peers: the owner of the connection must decide about them.
    pub fn new(limits: Limits, hmac_key: Option<Box<[u8]>>) -> Self {
        Self {
            limits,
            hmac_key: hmac_key.filter(|key| !key.is_empty()),
            family: None,
            accepted: ALL,
            buffer: Vec::new(),
            start: 0,
            header: None,
            failed: None,
        }
    }

    /// Creates a decoder that expects one family from the first byte on, as a client does.
    pub fn for_family(family: Family, limits: Limits, hmac_key: Option<Box<[u8]>>) -> Self {
        Self {
            family: Some(family),
            ..Self::new(limits, hmac_key)
        }
    }

    /// Restricts the types that are accepted from the next message on. Any other type is
    /// [`DecodeError::MessageType`] as soon as the header has arrived, as in the real programs. A server
    /// accepts CONNECT first, then INVOKE and PING.
    pub fn accept(&mut self, kinds: &'static [MessageType]) {
        self.accepted = kinds;
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() && !bytes.is_empty() {
            self.compact();
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Returns the buffer, with room for at least 1024 bytes. A caller that reads from a socket appends to it
    /// and changes nothing else. This saves a copy. Call it only when bytes are ready to be read, so that
    /// connections without data own no buffer.
    pub fn buffer_mut(&mut self) -> &mut Vec<u8> {
        self.compact();
        let missing = self.header.map_or(0, |header| {
            message_len(&header).saturating_sub(self.buffer.len())
        });
        self.buffer
            .reserve(missing.clamp(READ_LEN_MIN, READ_LEN_MAX));
        &mut self.buffer
    }

    /// Returns the next whole message, or `None` if more bytes are needed. Call it until it returns `None`
    /// before reading more.
    ///
    /// # Errors
    /// [`DecodeError`] as soon as the received bytes cannot become a message.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let next = self.try_next();
        match &next {
            Err(error) if !error.is_recoverable() => {
                self.failed = Some(error.clone());
                self.release();
            }
            Ok(None) if self.pending().is_empty() => self.release(),
            _ => {}
        }
        next
    }

    /// The family, once the first six bytes have arrived.
    pub fn family(&self) -> Option<Family> {
        self.family
    }

    /// Returns true if a message has begun and is not complete: the header timeout applies.
    pub fn is_mid_frame(&self) -> bool {
        !self.pending().is_empty()
    }

    fn try_next(&mut self) -> Result<Option<Frame>, DecodeError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                self.family = self.family.or_else(|| Header::family(self.pending()));
                let Some(header) = Header::decode(self.pending(), self.family)? else {
                    return Ok(None);
                };
                self.check(&header)?;
                self.header = Some(header);
                header
            }
        };
        if self.pending().len() < message_len(&header) {
            return Ok(None);
        }
        self.header = None;
        self.take_frame(&header).map(Some)
    }

    /// Checks size, type and sign in the order of the real programs.
    fn check(&self, header: &Header) -> Result<(), DecodeError> {
        let family = header.family;
        let max = self.limits.message_len_max;
        let len = header.payload_len + i64::from(header.annotations_len);
        if let Ok(len) = u64::try_from(len)
            && len > max as u64
        {
            return Err(DecodeError::TooLarge { family, len, max });
        }
        self.kind(header)?;
        if header.payload_len < 0 {
            let len = i32::try_from(header.payload_len).unwrap_or(i32::MIN);
            return Err(DecodeError::NegativeLength { len });
        }
        Ok(())
    }

    /// Returns the message's type if it is accepted.
    fn kind(&self, header: &Header) -> Result<MessageType, DecodeError> {
        MessageType::from_number(header.kind)
            .filter(|kind| self.accepted.contains(kind))
            .ok_or(DecodeError::MessageType {
                family: header.family,
                found: header.kind,
                expected: self.accepted,
            })
    }

    /// Consumes the whole message that `header` begins, and returns its frame.
    fn take_frame(&mut self, header: &Header) -> Result<Frame, DecodeError> {
        let kind = self.kind(header)?;
        let body = Header::len(header.family)..message_len(header);
        let body = self.pending().get(body).unwrap_or(&[]);
        let annotations_len = header.annotations_len as usize;
        let mut annotations = Annotations::decode(header.family, body, annotations_len)?;
        let payload = body.get(annotations_len..).unwrap_or(&[]);

        let mut correlation_id = header.correlation_id;
        if header.family == Family::Pyro4 {
            self.check_hmac(&mut annotations, payload)?;
            correlation_id = annotations.get(CORR).and_then(|id| id.try_into().ok());
            if correlation_id.is_some() {
                annotations.remove(CORR);
            }
        }

        // Pyro4 answers a PING without looking at its payload.
        let is_compressed = header.flags.compressed
            && !(header.family == Family::Pyro4 && kind == MessageType::Ping);
        let inflated = is_compressed.then(|| inflate(payload, self.limits.inflated_len_max));
        let (payload, error) = match inflated {
            None => (self.take_payload(header), None),
            Some(inflated) => {
                self.start += message_len(header);
                match inflated {
                    Ok(payload) => (payload, None),
                    Err(error) => (Vec::new(), Some(error)),
                }
            }
        };
        let frame = Frame {
            family: header.family,
            kind,
            flags: header.flags,
            seq: header.seq,
            serializer_id: header.serializer_id,
            correlation_id,
            annotations,
            payload,
        };
        match error {
            None => Ok(frame),
            Some(error) => Err(DecodeError::Inflate {
                frame: Box::new(frame),
                error,
            }),
        }
    }

    /// Removes the signature from `annotations` and verifies it.
    fn check_hmac(&self, annotations: &mut Annotations, payload: &[u8]) -> Result<(), DecodeError> {
        match (&self.hmac_key, annotations.remove(HMAC)) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(DecodeError::HmacUnexpected),
            (Some(_), None) => Err(DecodeError::HmacMissing),
            (Some(key), Some(digest)) => {
                let mut chunks: Vec<_> = annotations.iter().collect();
                if hmac::verify(key, payload, &mut chunks, &digest) {
                    Ok(())
                } else {
                    Err(DecodeError::HmacMismatch)
                }
            }
        }
    }

    /// Consumes the message and returns its payload. A large payload that is alone in the buffer takes over the
    /// buffer, so that it is never in memory twice.
    fn take_payload(&mut self, header: &Header) -> Vec<u8> {
        let end = self.start + message_len(header);
        let payload_start =
            self.start + Header::len(header.family) + header.annotations_len as usize;
        if end == self.buffer.len() && end - payload_start >= READ_LEN_MAX {
            let mut payload = std::mem::take(&mut self.buffer);
            self.start = 0;
            payload.drain(..payload_start);
            return payload;
        }
        self.start = end;
        self.buffer.get(payload_start..end).unwrap_or(&[]).to_vec()
    }

    /// Received bytes that are not consumed yet.
    fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or(&[])
    }

    /// Moves the unconsumed bytes to the front of the buffer, or to a smaller buffer if the old one is large.
    /// The bytes moved are at most those of one message that has just begun.
    fn compact(&mut self) {
        if self.start == 0 {
            return;
        }
        if self.pending().len() < READ_LEN_MIN && self.buffer.capacity() > READ_LEN_MAX {
            self.buffer = self.pending().to_vec();
        } else {
            self.buffer.drain(..self.start);
        }
        self.start = 0;
    }

    /// Frees the buffer's memory.
    fn release(&mut self) {
        self.buffer = Vec::new();
        self.start = 0;
    }
}

/// Length of the whole message in bytes, header included.
fn message_len(header: &Header) -> usize {
    usize::try_from(header.payload_len)
        .unwrap_or(0)
        .saturating_add(header.annotations_len as usize)
        .saturating_add(Header::len(header.family))
}

#[cfg(test)]
impl FrameDecoder {
    /// Capacity of the buffer in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}
