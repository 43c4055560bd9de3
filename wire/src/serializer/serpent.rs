//! serpent: values as Python literals in UTF-8, read by `ast.literal_eval`.
//!
//! A first line such as `# serpent utf-8 python3.2` names the writer's Python. The reader treats it
//! as a comment. [`is_from_python2`] reads it, because a reply to Python 2 must not contain set
//! literals.

mod escape;
mod literal;
mod reader;
mod refusal;

pub(super) use literal::{INT_DIGITS_MAX, integer};

use std::borrow::Borrow;
use std::io::Write as _;

use super::{classes, pairs, utf8};
use crate::repr::{write_big_int, write_float_repr, write_points_repr, write_str_repr};
use crate::uri::UriObject;
use crate::{Dialect, EncodeError, Exception, Limits, Uri, Value};

/// The first line of every payload that is written here, as Python 3 writes it.
const HEADER: &[u8] = b"# serpent utf-8 python3.2\n";

/// Reads one payload. Class dicts stay plain dicts.
///
/// # Errors
/// The exceptions that `serpent.loads` raises: `UnicodeDecodeError`, `ValueError`, `SyntaxError`,
/// and `TypeError` for keys that cannot be hashed.
pub(super) fn decode(payload: &[u8], limits: &Limits) -> Result<Value, Exception> {
    let text = utf8::text(payload)?;
    if payload.contains(&0) {
        return Err(Exception::value_error(
            "The serpent data contains 0-bytes so it cannot be parsed by ast.literal_eval. Has it \
             been corrupted?",
        ));
    }
    reader::read(text, limits)
}

/// Returns true if the first line says that the writer is Python 2.
pub(crate) fn is_from_python2(payload: &[u8]) -> bool {
    let header: &[u8] = b"# serpent utf-8 python2";
    payload.starts_with(header)
}

/// Appends one payload: the header and the literal, as Python 3 writes them.
///
/// # Errors
/// [`EncodeError::Unserializable`] for an object without a literal form, and for keys and set
/// elements that are not numbers, texts, bytes or tuples.
pub(super) fn encode(
    dialect: Dialect,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    out.extend_from_slice(HEADER);
    write(dialect, value, out)
}

fn write(dialect: Dialect, value: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match value {
        Value::None => out.extend_from_slice(b"None"),
        Value::Bool(true) => out.extend_from_slice(b"True"),
        Value::Bool(false) => out.extend_from_slice(b"False"),
        Value::Int(value) => write_infallible(out, format_args!("{value}")),
        Value::BigInt(value) => write_big_int(out, value),
        Value::Float(value) => write_float(*value, out),
        Value::Complex(real, imaginary) => write_complex(*real, *imaginary, out),
        Value::Str(text) => write_str_repr(out, text),
        Value::SurrogateStr(points) => write_points_repr(out, points),
        Value::Bytes(bytes) => write_bytes(bytes, out),
        Value::List(items) => write_items(dialect, b"[", items, b"]", out)?,
        Value::Tuple(items) => write_tuple(dialect, items, out)?,
        // The empty set has no literal, and Python 2.6 has no set literals at all.
        Value::Set(items) | Value::FrozenSet(items) => {
            items.iter().try_for_each(check_key)?;
            if items.is_empty() || dialect.python2 {
                write_tuple(dialect, items, out)?;
            } else {
                write_items(dialect, b"{", items, b"}", out)?;
            }
        }
        Value::Dict(items) => write_dict(dialect, pairs(items), out)?,
        Value::Uri(uri) => write_uri(dialect, uri, out),
        Value::Exception(_) | Value::ExceptionWrapper(_) => {
            let items = classes::flatten(dialect, value).unwrap_or_default();
            write_dict(dialect, pairs(&items), out)?;
        }
        Value::Ellipsis | Value::Object(_) => {
            return Err(EncodeError::Unserializable {
                type_name: value.type_name().to_owned(),
            });
        }
    }
    Ok(())
}

fn write_items(
    dialect: Dialect,
    open: &[u8],
    items: &[Value],
    close: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    out.extend_from_slice(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(dialect, item, out)?;
    }
    out.extend_from_slice(close);
    Ok(())
}

fn write_tuple(dialect: Dialect, items: &[Value], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let close: &[u8] = if items.len() == 1 { b",)" } else { b")" };
    write_items(dialect, b"(", items, close, out)
}

/// Appends a payload that is a dict, from an iterator, so that the items need not be in memory
/// together.
///
/// # Errors
/// Those of [`encode`].
pub(super) fn encode_dict(
    dialect: Dialect,
    items: impl Iterator<Item = (Value, Value)>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    out.extend_from_slice(HEADER);
    write_dict(dialect, items, out)
}

fn write_dict<V: Borrow<Value>>(
    dialect: Dialect,
    items: impl Iterator<Item = (V, V)>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    out.push(b'{');
    for (index, (key, value)) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        check_key(key.borrow())?;
        write(dialect, key.borrow(), out)?;
        out.push(b':');
        write(dialect, value.borrow(), out)?;
    }
    out.push(b'}');
    Ok(())
}

/// Checks the type of a key or set element. serpent refuses other types even if Python can hash
/// them.
fn check_key(key: &Value) -> Result<(), EncodeError> {
    match key {
        Value::Bool(_)
        | Value::Int(_)
        | Value::BigInt(_)
        | Value::Float(_)
        | Value::Complex(..)
        | Value::Str(_)
        | Value::SurrogateStr(_)
        | Value::Bytes(_)
        | Value::Tuple(_) => Ok(()),
        _ => Err(EncodeError::Unserializable {
            type_name: key.type_name().to_owned(),
        }),
    }
}

/// Appends a URI's class dict without building it first, because every lookup is answered with a
/// URI.
fn write_uri(dialect: Dialect, uri: &Uri, out: &mut Vec<u8>) {
    let state = uri.state();
    let optional = |text: Option<&str>, out: &mut Vec<u8>| match text {
        Some(text) => write_str_repr(out, text),
        None => out.extend_from_slice(b"None"),
    };
    out.extend_from_slice(b"{'__class__':'");
    out.extend_from_slice(classes::uri_class(dialect.family).as_bytes());
    out.extend_from_slice(b"','state':(");
    write_str_repr(out, state.protocol);
    out.push(b',');
    match state.object {
        UriObject::Text(object) => write_str_repr(out, object),
        UriObject::Tags(tags) => {
            let as_tuple = tags.is_empty() || dialect.python2;
            out.push(if as_tuple { b'(' } else { b'{' });
            for (index, tag) in tags.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_str_repr(out, tag);
            }
            if as_tuple && tags.len() == 1 {
                out.push(b',');
            }
            out.push(if as_tuple { b')' } else { b'}' });
        }
    }
    out.push(b',');
    optional(state.sockname, out);
    out.push(b',');
    optional(state.host, out);
    out.push(b',');
    match state.port {
        Some(port) => write_infallible(out, format_args!("{port}")),
        None => out.extend_from_slice(b"None"),
    }
    out.extend_from_slice(b")}");
}

/// Appends a float as a literal. Infinity becomes a literal that overflows, not-a-number a class
/// dict.
fn write_float(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        out.extend_from_slice(b"{'__class__':'float','value':'nan'}");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"1e30000" } else { b"-1e30000" });
    } else {
        write_float_repr(out, value);
    }
}

fn write_complex(real: f64, imaginary: f64, out: &mut Vec<u8>) {
    if real.is_nan() || imaginary.is_nan() {
        out.extend_from_slice(b"{'__class__':'complex','real':");
        write_float(real, out);
        out.extend_from_slice(b",'imag':");
        write_float(imaginary, out);
        out.push(b'}');
        return;
    }
    out.push(b'(');
    write_float(real, out);
    if !imaginary.is_sign_negative() {
        out.push(b'+');
    }
    write_float(imaginary, out);
    out.extend_from_slice(b"j)");
}

/// Appends bytes as serpent does: as the `repr()` of a dict, which has spaces.
fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{'data': '");
    write_base64(bytes, out);
    out.extend_from_slice(b"', 'encoding': 'base64'}");
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for digit in 0..4 {
            out.push(if digit <= chunk.len() {
                base64_digit(bits >> (18 - 6 * digit) & 63)
            } else {
                b'='
            });
        }
    }
}

fn base64_digit(bits: u32) -> u8 {
    // Six bits always fit.
    let bits = bits as u8 & 63;
    match bits {
        0..=25 => b'A' + bits,
        26..=51 => b'a' + (bits - 26),
        52..=61 => b'0' + (bits - 52),
        62 => b'+',
        _ => b'/',
    }
}

/// Appends formatted text. Writing to memory cannot fail.
fn write_infallible(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
#[path = "serpent/tests.rs"]
mod tests;
