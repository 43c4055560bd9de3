//! Calls: object, method and arguments, as INVOKE carries them.

use crate::{Dialect, EncodeError, Exception, Limits, Value};

/// One call of a method of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The object id; a peer may send something that is no text.
    pub object: Value,
    /// The method's name; a peer may send something that is no text.
    pub method: Value,
    /// Positional arguments: a list or tuple, or whatever else the peer sent in its place.
    pub args: Value,
    /// Keyword arguments: a dict or `None`, or whatever else the peer sent in its place.
    pub kwargs: Value,
}

impl Call {
    /// A call with positional arguments only.
    pub fn new(object: &str, method: &str, args: Vec<Value>) -> Self {
        Self {
            object: object.into(),
            method: method.into(),
            args: Value::Tuple(args),
            kwargs: Value::Dict(Vec::new()),
        }
    }

    /// Reads an INVOKE payload. The second value is the dialect in which the reply must be written:
    /// `dialect`, with Python 2 noticed.
    ///
    /// # Errors
    /// The exception that the real server sends for this payload.
    pub fn decode(
        dialect: Dialect,
        payload: &[u8],
        limits: &Limits,
    ) -> Result<(Self, Dialect), Exception> {
        let _ = (dialect, payload, limits);
        unimplemented!()
    }

    /// Appends an INVOKE payload to `out`, as a client of this dialect writes it.
    ///
    /// # Errors
    /// [`EncodeError`] for an argument that the serializer cannot express.
    pub fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let _ = (dialect, out);
        unimplemented!()
    }
}
