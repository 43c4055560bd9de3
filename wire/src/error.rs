//! What can be wrong with bytes that arrived, and with values that should leave.

/// A frame that cannot be read: always the peer's fault. The texts are those of the real servers
/// where they have one (protocol.md 1.8), so they can be sent in a CONNECTFAIL as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The first four bytes are not `PYRO`, seen while no family was known yet.
    #[error("invalid data or unsupported protocol version")]
    NotPyro,
}

/// A value that a dialect cannot express.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A length does not fit its field.
    #[error("message too large ({len}, max={max})")]
    TooLarge {
        /// Bytes that were to be sent.
        len: usize,
        /// Bytes that the format or the limit allows.
        max: usize,
    },
    /// The serializer has no form for this class.
    #[error("don't know how to serialize class {type_name}")]
    Unserializable {
        /// The value's Python class.
        type_name: String,
    },
}
