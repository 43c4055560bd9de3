//! Errors of received bytes that cannot be decoded and of values that cannot be encoded.

use crate::{Exception, ExceptionClass, Family, Frame, MessageType, Value};

/// A message that cannot be read. The peer is always at fault.
///
/// The texts are those of the real Pyro programs where Pyro has one, so that a server can send them in a
/// CONNECTFAIL as they are: see [`DecodeError::refusal`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The first four bytes are not `PYRO`.
    #[error("{}", not_pyro(*family))]
    NotPyro {
        /// The connection's family; Pyro4 while it is not known.
        family: Family,
    },
    /// The tag is `PYRO`, but the wire version is not the family's.
    #[error("{}", other_version(*family, *found))]
    Version {
        /// The connection's family. While it is not known: Pyro5 for versions from 500 up, otherwise Pyro4.
        family: Family,
        /// The header's version.
        found: u16,
    },
    /// Pyro4: the header's checksum is not the sum of its fields.
    #[error("header checksum mismatch")]
    Checksum {
        /// The checksum in the header.
        found: u16,
        /// The checksum that the fields of the header give.
        computed: u16,
    },
    /// Pyro5: the header does not end in the magic number.
    #[error("invalid message or protocol version")]
    Magic {
        /// The number in the header.
        found: u16,
    },
    /// The message type is unknown, or not allowed in this phase of the connection.
    #[error("{}", wrong_type(*family, *found, expected))]
    MessageType {
        /// The connection's family.
        family: Family,
        /// The header's type.
        found: u16,
        /// The types that [`crate::frame::FrameDecoder::accept`] allows.
        expected: &'static [MessageType],
    },
    /// Payload and annotations together exceed [`crate::Limits::message_len_max`].
    #[error("{}", too_large(*family, *len, *max))]
    TooLarge {
        /// The connection's family.
        family: Family,
        /// Announced length of payload and annotations in bytes.
        len: u64,
        /// The limit in bytes.
        max: usize,
    },
    /// Pyro4: the payload length is negative.
    #[error("negative buffersize in recv")]
    NegativeLength {
        /// The length in the header.
        len: i32,
    },
    /// Pyro4: an annotation chunk ends inside its own header.
    #[error("unpack requires a buffer of 6 bytes")]
    ChunkCut,
    /// Pyro5: an annotation chunk is longer than the announced length of all chunks.
    #[error("annotation chunk length exceeds remaining data")]
    ChunkTooLong,
    /// An annotation key is not ASCII. The text is Python's own.
    #[error(
        "'ascii' codec can't decode byte {byte:#04x} in position {position}: ordinal not in range(128)"
    )]
    ChunkKey {
        /// The connection's family.
        family: Family,
        /// The first byte that is not ASCII.
        byte: u8,
        /// The byte's position in the key.
        position: usize,
    },
    /// More annotation chunks than [`crate::frame::ANNOTATION_COUNT_MAX`]. Pyro has no such limit.
    #[error("more than {max} annotation chunks")]
    TooManyChunks {
        /// The connection's family.
        family: Family,
        /// The limit.
        max: usize,
    },
    /// A key is set on this side, and the message is not signed.
    #[error("hmac key config not symmetric")]
    HmacMissing,
    /// No key is set on this side, and the message is signed.
    #[error("hmac key config not symmetric")]
    HmacUnexpected,
    /// The message is signed with another key, or was changed in transit.
    #[error("message hmac mismatch")]
    HmacMismatch,
    /// The compressed payload cannot be inflated. In Pyro4 this is the only error after which the decoder
    /// continues: the caller gets an exception, and the connection stays open.
    #[error("{error}")]
    Inflate {
        /// The message, with an empty payload.
        frame: Box<Frame>,
        /// The reason.
        error: InflateError,
    },
}

/// The reason why a compressed payload cannot be inflated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InflateError {
    /// The payload is not valid zlib data. The text is that of Python's `zlib.error`.
    #[error("{0}")]
    Data(String),
    /// The plain payload exceeds [`crate::Limits::inflated_len_max`]. Pyro has no such limit.
    #[error("message too large after decompression (max={max})")]
    TooLarge {
        /// The limit in bytes.
        max: usize,
    },
}

impl DecodeError {
    /// The family in which the peer must be answered.
    pub fn family(&self) -> Family {
        match self {
            Self::NotPyro { family }
            | Self::Version { family, .. }
            | Self::MessageType { family, .. }
            | Self::TooLarge { family, .. }
            | Self::ChunkKey { family, .. }
            | Self::TooManyChunks { family, .. } => *family,
            Self::Inflate { frame, .. } => frame.family,
            Self::Magic { .. } | Self::ChunkTooLong => Family::Pyro5,
            Self::Checksum { .. }
            | Self::NegativeLength { .. }
            | Self::ChunkCut
            | Self::HmacMissing
            | Self::HmacUnexpected
            | Self::HmacMismatch => Family::Pyro4,
        }
    }

    /// Returns the CONNECTFAIL that a server sends before it closes the connection, for an error of the first
    /// message of a connection. `None` if the server closes without a reply. After every later message a server
    /// closes without a reply, whatever this method returns.
    ///
    /// The reply is in marshal and has sequence number 0, because the request was not understood. Only Pyro4's
    /// inflate error is found late enough for a reply in the request's own serializer.
    pub fn refusal(&self) -> Option<Frame> {
        match self {
            Self::TooLarge {
                family: Family::Pyro4,
                ..
            } => None,
            Self::Inflate { frame, .. } if frame.family == Family::Pyro4 => {
                Some(frame.refused(&self.to_string()))
            }
            _ => Some(Frame::connect_fail(self.family(), &self.to_string())),
        }
    }

    /// Returns true if the decoder can continue with the next message: for Pyro4's inflate error only. After
    /// the handshake that error is answered with [`InflateError::to_exception`].
    pub fn is_recoverable(&self) -> bool {
        matches!(self, Self::Inflate { frame, .. } if frame.family == Family::Pyro4)
    }
}

impl InflateError {
    /// Returns the exception with which Pyro4 answers the call. Clients cannot map its class and show a
    /// `SerializeError` that names it.
    pub fn to_exception(&self) -> Exception {
        Exception {
            class: ExceptionClass::Other("zlib.error".into()),
            args: vec![Value::Str(self.to_string())],
            traceback: Vec::new(),
        }
    }
}

fn not_pyro(family: Family) -> &'static str {
    match family {
        Family::Pyro4 => "invalid data or unsupported protocol version",
        Family::Pyro5 => "invalid data",
    }
}

fn other_version(family: Family, found: u16) -> String {
    match family {
        Family::Pyro4 => not_pyro(family).to_owned(),
        Family::Pyro5 => format!("invalid protocol version: {found}"),
    }
}

fn wrong_type(family: Family, found: u16, expected: &[MessageType]) -> String {
    if family == Family::Pyro4 {
        return format!("invalid msg type {found} received");
    }
    let expected: Vec<String> = expected
        .iter()
        .map(|kind| kind.number().to_string())
        .collect();
    format!(
        "invalid msg type {found} received (expected: {})",
        expected.join(",")
    )
}

fn too_large(family: Family, len: u64, max: usize) -> String {
    match family {
        Family::Pyro4 => format!("max message size exceeded ({len} where max={max})"),
        Family::Pyro5 => format!("message too large ({len}, max={max})"),
    }
}

/// A value that a dialect cannot express, or a message that does not fit its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A length does not fit its field, or exceeds the sender's own limit.
    #[error("message too large ({len}, max={max})")]
    TooLarge {
        /// Length in bytes that was to be sent.
        len: usize,
        /// Maximum length in bytes that the format or the limit allows.
        max: usize,
    },
    /// Pyro5's header has one byte for the serializer.
    #[error("serializer id {id} does not fit the header")]
    SerializerId {
        /// The id that was to be sent.
        id: u16,
    },
    /// The serializer cannot express this class.
    #[error("don't know how to serialize class {type_name}")]
    Unserializable {
        /// The value's Python class.
        type_name: String,
    },
}
