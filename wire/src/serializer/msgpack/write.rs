//! The MessagePack writer.

use std::borrow::Borrow;

use num_bigint::BigInt;
use rmp::encode as rmp_write;

use super::super::{classes, pairs};
use super::extension;
use crate::uri::UriObject;
use crate::{Dialect, EncodeError, Uri, Value};

/// Appends `value` to `out`.
///
/// # Errors
/// [`EncodeError`] for a value that Pyro's msgpack cannot send: frozensets, text with lone surrogates, `...`
/// and foreign objects. `out` may then hold a part of the payload.
pub(in crate::serializer) fn encode(
    dialect: Dialect,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    match value {
        Value::None => written(rmp_write::write_nil(out)),
        Value::Bool(value) => written(rmp_write::write_bool(out, *value)),
        Value::Int(number) => written(rmp_write::write_sint(out, *number)),
        Value::BigInt(number) => return write_big_int(number, out),
        Value::Float(number) => written(rmp_write::write_f64(out, *number)),
        Value::Complex(real, imaginary) => {
            written(rmp_write::write_ext_meta(out, 16, extension::COMPLEX));
            out.extend_from_slice(&real.to_le_bytes());
            out.extend_from_slice(&imaginary.to_le_bytes());
        }
        Value::Str(text) => write_text(text, out)?,
        Value::Bytes(bytes) => {
            check_len(bytes.len())?;
            written(rmp_write::write_bin(out, bytes));
        }
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
            written(rmp_write::write_array_len(out, check_len(items.len())?));
            for item in items {
                encode(dialect, item, out)?;
            }
        }
        Value::Dict(items) => write_map(dialect, pairs(items), out)?,
        Value::Uri(uri) => write_uri(dialect, uri, out)?,
        Value::Ellipsis
        | Value::SurrogateStr(_)
        | Value::FrozenSet(_)
        | Value::Exception(_)
        | Value::ExceptionWrapper(_)
        | Value::Object(_) => {
            let items =
                classes::flatten(dialect, value).ok_or_else(|| EncodeError::Unserializable {
                    type_name: value.type_name().to_owned(),
                })?;
            write_map(dialect, pairs(&items), out)?;
        }
    }
    Ok(())
}

/// Appends a URI's class dict without the intermediate values of [`classes::flatten`], because every lookup is
/// answered with a URI.
fn write_uri(dialect: Dialect, uri: &Uri, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let state = uri.state();
    written(rmp_write::write_map_len(out, 2));
    write_text(classes::CLASS_KEY, out)?;
    write_text(classes::uri_class(dialect.family), out)?;
    write_text("state", out)?;
    written(rmp_write::write_array_len(out, 5));
    write_text(state.protocol, out)?;
    match state.object {
        UriObject::Text(object) => write_text(object, out)?,
        UriObject::Tags(tags) => {
            written(rmp_write::write_array_len(out, check_len(tags.len())?));
            tags.iter().try_for_each(|tag| write_text(tag, out))?;
        }
    }
    for text in [state.sockname, state.host] {
        match text {
            Some(text) => write_text(text, out)?,
            None => written(rmp_write::write_nil(out)),
        }
    }
    match state.port {
        Some(port) => {
            written(rmp_write::write_sint(out, port));
        }
        None => written(rmp_write::write_nil(out)),
    }
    Ok(())
}

fn write_text(text: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    check_len(text.len())?;
    written(rmp_write::write_str(out, text));
    Ok(())
}

/// Appends a dict as [`encode`] does, from an iterator, so that the items need not be in memory together.
pub(in crate::serializer) fn write_map<V: Borrow<Value>>(
    dialect: Dialect,
    items: impl ExactSizeIterator<Item = (V, V)>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    written(rmp_write::write_map_len(out, check_len(items.len())?));
    for (key, value) in items {
        encode(dialect, key.borrow(), out)?;
        encode(dialect, value.borrow(), out)?;
    }
    Ok(())
}

fn write_big_int(number: &BigInt, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if let Ok(number) = u64::try_from(number) {
        written(rmp_write::write_uint(out, number));
        return Ok(());
    }
    let text = number.to_string();
    let len = check_len(text.len())?;
    written(rmp_write::write_ext_meta(out, len, extension::BIG_INT));
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Converts a length or count, which must fit 32 bits.
fn check_len(len: usize) -> Result<u32, EncodeError> {
    u32::try_from(len).map_err(|_| EncodeError::TooLarge {
        len,
        max: u32::MAX as usize,
    })
}

/// Unwraps a result of `rmp`, whose only errors are those of its writer. A vector has none.
fn written<T, E: std::fmt::Debug>(result: Result<T, E>) {
    result.expect("a vector takes every byte");
}
