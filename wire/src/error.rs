//! What can be wrong with bytes that arrived, and with values that should leave.

use crate::{Exception, ExceptionClass, Family, Frame, MessageType, Value};

/// A message that cannot be read: always the peer's fault.
///
/// The texts are those of the real programs where they have one, so that a server can send them in a
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
    /// `PYRO`, but another wire version than the family's.
    #[error("{}", other_version(*family, *found))]
    Version {
        /// The connection's family; while it is not known, the one whose versions are nearer.
        family: Family,
        /// The header's version.
        found: u16,
    },
    /// Pyro4: the header's checksum is not the sum of its fields.
    #[error("header checksum mismatch")]
    Checksum {
        /// As sent.
        found: u16,
        /// As it should be.
        computed: u16,
    },
    /// Pyro5: the header does not end in its magic number.
    #[error("invalid message or protocol version")]
    Magic {
        /// As sent.
        found: u16,
    },
    /// A type that nobody knows, or that has no place in this phase of the conversation.
    #[error("{}", wrong_type(*family, *found, expected))]
    MessageType {
        /// The connection's family.
        family: Family,
        /// The header's type.
        found: u16,
        /// What [`crate::frame::FrameDecoder::accept`] allows.
        expected: &'static [MessageType],
    },
    /// Payload and annotations together are above [`crate::Limits::message_len_max`].
    #[error("{}", too_large(*family, *len, *max))]
    TooLarge {
        /// The connection's family.
        family: Family,
        /// Announced bytes.
        len: u64,
        /// The limit.
        max: usize,
    },
    /// Pyro4: the payload length is negative.
    #[error("negative buffersize in recv")]
    NegativeLength {
        /// As sent.
        len: i32,
    },
    /// Pyro4: an annotation chunk ends inside its own header.
    #[error("unpack requires a buffer of 6 bytes")]
    ChunkCut,
    /// Pyro5: an annotation chunk is longer than what was announced for all of them.
    #[error("annotation chunk length exceeds remaining data")]
    ChunkTooLong,
    /// An annotation key is not ASCII; Python's own text.
    #[error(
        "'ascii' codec can't decode byte {byte:#04x} in position {position}: ordinal not in range(128)"
    )]
    ChunkKey {
        /// The connection's family.
        family: Family,
        /// The first byte that is not ASCII.
        byte: u8,
        /// Where it stands in the key.
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
    /// A key is set here, and the message is not signed.
    #[error("hmac key config not symmetric")]
    HmacMissing,
    /// No key is set here, and the message is signed.
    #[error("hmac key config not symmetric")]
    HmacUnexpected,
    /// The message is signed with another key, or was changed on its way.
    #[error("message hmac mismatch")]
    HmacMismatch,
    /// The compressed payload cannot be inflated. In Pyro4 this is the only error after which the
    /// decoder goes on: the caller of the message gets an exception, and the connection stays.
    #[error("{error}")]
    Inflate {
        /// The message, with an empty payload.
        frame: Box<Frame>,
        /// What is wrong with its payload.
        error: InflateError,
    },
}

/// Why a compressed payload cannot be inflated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InflateError {
    /// Not zlib data; the text of Python's `zlib.error`.
    #[error("{0}")]
    Data(String),
    /// More than [`crate::Limits::inflated_len_max`]. Pyro has no such limit.
    #[error("message too large after decompression (max={max})")]
    TooLarge {
        /// The limit.
        max: usize,
    },
}

impl DecodeError {
    /// The family in which the peer is to be answered.
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

    /// The CONNECTFAIL that a server sends when this happened to the first message of a connection,
    /// before it closes it. `None`: it closes without a word, as it does after every later message.
    ///
    /// The message was not understood, so it is answered in marshal with sequence number 0; only
    /// Pyro4's inflate error comes late enough to be answered in the request's own serializer.
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

    /// Whether the decoder can go on with the next message: true for Pyro4's inflate error only.
    /// After the handshake it is answered with [`InflateError::to_exception`].
    pub fn is_recoverable(&self) -> bool {
        matches!(self, Self::Inflate { frame, .. } if frame.family == Family::Pyro4)
    }
}

impl InflateError {
    /// The exception with which Pyro4 answers the call. Clients cannot map its class and show a
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
        /// Bytes that were to be sent.
        len: usize,
        /// Bytes that the format or the limit allows.
        max: usize,
    },
    /// Pyro5's header has one byte for the serializer.
    #[error("serializer id {id} does not fit the header")]
    SerializerId {
        /// The id that was to be sent.
        id: u16,
    },
    /// The serializer has no form for this class.
    #[error("don't know how to serialize class {type_name}")]
    Unserializable {
        /// The value's Python class.
        type_name: String,
    },
}
