//! JSON as CPython's `json` module reads and writes it.
//!
//! The reader is hand-written because serde_json's data model cannot hold all values that Pyro's
//! peers send: lone surrogates, `NaN` and `Infinity`. It would also need its `arbitrary_precision`
//! feature, which changes serde_json for every other user in the build, and its errors are not
//! Python's.

mod reader;

use std::borrow::Borrow;
use std::io::Write as _;

use super::{classes, pairs, utf8};
use crate::repr::{DECIMAL_BITS_MAX, write_float_repr};
use crate::{Dialect, EncodeError, Exception, Limits, Value};

/// Reads one payload. Class dicts stay plain dicts.
///
/// # Errors
/// The exceptions that Python raises: `UnicodeDecodeError`, `json.decoder.JSONDecodeError`,
/// `RecursionError`, and `ValueError` for an int with too many digits.
pub(super) fn decode(payload: &[u8], limits: &Limits) -> Result<Value, Exception> {
    reader::read(utf8::text(payload)?, limits)
}

/// Appends one payload as `json.dumps(ensure_ascii=False)` writes it.
///
/// # Errors
/// [`EncodeError::Unserializable`] for a value that JSON cannot express.
pub(super) fn encode(
    dialect: Dialect,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    match value {
        Value::None => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(value) => write_infallible(out, format_args!("{value}")),
        Value::BigInt(value) if value.bits() <= DECIMAL_BITS_MAX => {
            write_infallible(out, format_args!("{value}"));
        }
        Value::Float(value) => write_float(*value, out),
        Value::Str(text) => write_string(text, out),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.extend_from_slice(b", ");
                }
                encode(dialect, item, out)?;
            }
            out.push(b']');
        }
        Value::Dict(items) => write_object(dialect, pairs(items), out)?,
        Value::Uri(_) | Value::Exception(_) | Value::ExceptionWrapper(_) => {
            let items = classes::flatten(dialect, value).unwrap_or_default();
            write_object(dialect, pairs(&items), out)?;
        }
        Value::BigInt(_)
        | Value::SurrogateStr(_)
        | Value::Complex(..)
        | Value::Ellipsis
        | Value::Bytes(_)
        | Value::FrozenSet(_)
        | Value::Object(_) => return Err(unserializable(value)),
    }
    Ok(())
}

/// Appends a dict as [`encode`] does, from an iterator, so that the items need not be in memory
/// together.
pub(super) fn write_object<V: Borrow<Value>>(
    dialect: Dialect,
    items: impl Iterator<Item = (V, V)>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    out.push(b'{');
    for (index, (key, value)) in items.enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        write_key(dialect, key.borrow(), out)?;
        out.extend_from_slice(b": ");
        encode(dialect, value.borrow(), out)?;
    }
    out.push(b'}');
    Ok(())
}

/// Appends a key. Python turns simple values into text and refuses the others.
fn write_key(dialect: Dialect, key: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match key {
        Value::Str(text) => write_string(text, out),
        Value::None | Value::Bool(_) | Value::Int(_) | Value::BigInt(_) | Value::Float(_) => {
            out.push(b'"');
            encode(dialect, key, out)?;
            out.push(b'"');
        }
        _ => return Err(unserializable(key)),
    }
    Ok(())
}

fn unserializable(value: &Value) -> EncodeError {
    EncodeError::Unserializable {
        type_name: match value {
            Value::SurrogateStr(_) => "str with lone surrogates".to_owned(),
            Value::BigInt(_) => "int with more than 4300 digits".to_owned(),
            other => other.type_name().to_owned(),
        },
    }
}

fn write_float(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        });
    } else {
        write_float_repr(out, value);
    }
}

/// Appends a text. Only quotes, backslashes and the control characters below U+0020 are escaped.
fn write_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\'))
    {
        let (plain, escaped) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, tail)) = escaped.split_first() else {
            break;
        };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            other => write_infallible(out, format_args!("\\u{other:04x}")),
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Appends formatted text. Writing to memory cannot fail.
fn write_infallible(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
#[path = "json/tests.rs"]
mod tests;
