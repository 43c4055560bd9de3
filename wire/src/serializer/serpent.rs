//! serpent.

use crate::{Dialect, EncodeError, Exception, Limits, Value};

#[expect(clippy::unimplemented, reason = "lands next")]
pub(super) fn decode(payload: &[u8], limits: &Limits) -> Result<Value, Exception> {
    let _ = (payload, limits);
    unimplemented!()
}

#[expect(clippy::unimplemented, reason = "lands next")]
pub(super) fn encode(
    dialect: Dialect,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let _ = (dialect, value, out);
    unimplemented!()
}
