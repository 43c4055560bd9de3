//! One message of either family.

mod annotations;
mod decoder;
mod header;

pub use annotations::Annotations;
pub use decoder::FrameDecoder;

use crate::{EncodeError, Family};

/// What a message is for; the same numbers in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// A client opens the conversation.
    Connect = 1,
    /// The server accepts it.
    ConnectOk = 2,
    /// The server refuses it; the payload is the reason.
    ConnectFail = 3,
    /// A call.
    Invoke = 4,
    /// Its result or exception.
    Result = 5,
    /// Keep-alive; answered with the same type.
    Ping = 6,
}

/// Message flags by meaning; the bits differ by family (protocol.md 1.5). Unknown bits are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags {
    /// The payload is an exception to raise.
    pub exception: bool,
    /// The payload was compressed on the wire. [`Frame::payload`] is always the plain one.
    pub compressed: bool,
    /// No reply is wanted.
    pub oneway: bool,
    /// The call is a list of calls.
    pub batch: bool,
    /// Pyro4 only: CONNECT asks for metadata, CONNECTOK brings it.
    pub meta_on_connect: bool,
    /// The result is an item stream.
    pub item_stream_result: bool,
    /// The argument travels as an opaque blob.
    pub keep_serialized: bool,
}

/// One whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which header layout it came in or goes out in.
    pub family: Family,
    /// What it is for.
    pub kind: MessageType,
    /// Its flags.
    pub flags: Flags,
    /// Sequence number; a RESULT echoes its INVOKE's.
    pub seq: u16,
    /// Serializer id as on the wire, which differs by family.
    pub serializer_id: u16,
    /// Correlation id: Pyro5's header field when its flag is set, Pyro4's `CORR` annotation.
    pub correlation_id: Option<[u8; 16]>,
    /// All annotations but `CORR` of Pyro4 and `HMAC`.
    pub annotations: Annotations,
    /// The payload, decompressed.
    pub payload: Vec<u8>,
}

/// How replies are put on the wire.
#[derive(Debug, Clone, Default)]
pub struct EncodeOptions<'a> {
    /// The sender's `COMPRESSION` setting; each family has its own threshold and level.
    pub compress: bool,
    /// Key with which Pyro4 messages are signed.
    pub hmac_key: Option<&'a [u8]>,
}

impl Frame {
    /// Appends the message's bytes to `out`.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] when a length does not fit its header field; `out` is unchanged.
    pub fn encode(
        &self,
        options: &EncodeOptions<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let _ = (options, out);
        unimplemented!()
    }
}
