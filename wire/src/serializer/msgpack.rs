//! MessagePack with Pyro's extension types.

use crate::{Dialect, EncodeError, Exception, Limits, Value};

/// Reads one payload.
/// Each map with a `__class__` is revived as soon as it is complete, as Pyro's object hook does.
///
/// # Errors
/// The exception that Python's reader raises.
#[expect(clippy::unimplemented, reason = "the reader lands next")]
pub(super) fn decode(
    dialect: Dialect,
    payload: &[u8],
    limits: &Limits,
) -> Result<Value, Exception> {
    let _ = (dialect, payload, limits);
    unimplemented!()
}

/// Appends one payload; the caller takes back what was written before an error.
///
/// # Errors
/// [`EncodeError::Unserializable`] for a class that the format has no form for.
#[expect(clippy::unimplemented, reason = "the writer lands next")]
pub(super) fn encode(
    dialect: Dialect,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let _ = (dialect, value, out);
    unimplemented!()
}
