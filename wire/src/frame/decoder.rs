//! Bytes pushed in, whole frames out, limits kept.

use crate::{DecodeError, Family, Frame, Limits};

/// Turns a stream of bytes into frames. The first six bytes fix the family for the life of the
/// connection. After an error the decoder must not be used again.
#[derive(Debug)]
pub struct FrameDecoder {
    limits: Limits,
}

impl FrameDecoder {
    /// A decoder for one connection. With `hmac_key`, Pyro4 messages must be signed with it; without,
    /// they must not be signed.
    pub fn new(limits: Limits, hmac_key: Option<Box<[u8]>>) -> Self {
        let _ = hmac_key;
        Self { limits }
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// The next whole message, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`DecodeError`] as soon as the bytes at hand cannot become a message.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        let _ = self.limits;
        unimplemented!()
    }

    /// The family, once six bytes have arrived.
    pub fn family(&self) -> Option<Family> {
        unimplemented!()
    }

    /// Whether a message has begun and is not yet whole: the header timeout applies.
    pub fn is_mid_frame(&self) -> bool {
        unimplemented!()
    }
}
