//! The marshal writer. It writes version 2 codes only, and no references.

use std::borrow::Borrow;

use num_bigint::{BigInt, Sign};

use super::super::{classes, pairs, utf8};
use super::{DIGIT_BASE, DIGIT_BITS};
use crate::uri::UriObject;
use crate::{Dialect, EncodeError, Uri, Value};

/// Appends `value` to `out`. Unlike Pyro, it writes URIs and exceptions as class dicts at any depth; every
/// client reads them there.
///
/// # Errors
/// [`EncodeError`] for an object without a marshal form, or a length that does not fit its field. `out` may
/// then hold a part of the payload.
pub(in crate::serializer) fn encode(
    dialect: Dialect,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    match value {
        Value::None => out.push(b'N'),
        Value::Bool(true) => out.push(b'T'),
        Value::Bool(false) => out.push(b'F'),
        Value::Ellipsis => out.push(b'.'),
        Value::Int(number) => write_int(*number, out),
        Value::BigInt(number) => write_long(number, out)?,
        Value::Float(number) => {
            out.push(b'g');
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Complex(real, imaginary) => {
            out.push(b'y');
            out.extend_from_slice(&real.to_le_bytes());
            out.extend_from_slice(&imaginary.to_le_bytes());
        }
        Value::Str(text) => write_text(text, out)?,
        Value::SurrogateStr(points) => write_bytes(b'u', &utf8::surrogate_bytes(points), out)?,
        Value::Bytes(bytes) => write_bytes(b's', bytes, out)?,
        Value::Tuple(items) => write_row(dialect, b'(', items, out)?,
        Value::List(items) => write_row(dialect, b'[', items, out)?,
        Value::Set(items) => write_row(dialect, b'<', items, out)?,
        Value::FrozenSet(items) => write_row(dialect, b'>', items, out)?,
        Value::Dict(items) => write_dict(dialect, pairs(items), out)?,
        Value::Uri(uri) => write_uri(dialect, uri, out)?,
        Value::Exception(_) | Value::ExceptionWrapper(_) | Value::Object(_) => {
            let items =
                classes::flatten(dialect, value).ok_or_else(|| EncodeError::Unserializable {
                    type_name: value.type_name().to_owned(),
                })?;
            write_dict(dialect, pairs(&items), out)?;
        }
    }
    Ok(())
}

/// Appends a URI's class dict without the intermediate values of [`classes::flatten`], because every lookup is
/// answered with a URI.
fn write_uri(dialect: Dialect, uri: &Uri, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let state = uri.state();
    out.push(b'{');
    write_text(classes::CLASS_KEY, out)?;
    write_text(classes::uri_class(dialect.family), out)?;
    write_text("state", out)?;
    write_size(b'(', 5, out)?;
    write_text(state.protocol, out)?;
    match state.object {
        UriObject::Text(object) => write_text(object, out)?,
        UriObject::Tags(tags) => {
            write_size(b'<', tags.len(), out)?;
            tags.iter().try_for_each(|tag| write_text(tag, out))?;
        }
    }
    for text in [state.sockname, state.host] {
        match text {
            Some(text) => write_text(text, out)?,
            None => out.push(b'N'),
        }
    }
    match state.port {
        Some(port) => write_int(port, out),
        None => out.push(b'N'),
    }
    out.push(b'0');
    Ok(())
}

fn write_text(text: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    write_bytes(b'u', text.as_bytes(), out)
}

fn write_row(
    dialect: Dialect,
    code: u8,
    items: &[Value],
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    write_size(code, items.len(), out)?;
    items.iter().try_for_each(|item| encode(dialect, item, out))
}

/// Appends a dict as [`encode`] does, from an iterator, so that the items need not be in memory together.
pub(in crate::serializer) fn write_dict<V: Borrow<Value>>(
    dialect: Dialect,
    items: impl Iterator<Item = (V, V)>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    out.push(b'{');
    for (key, value) in items {
        encode(dialect, key.borrow(), out)?;
        encode(dialect, value.borrow(), out)?;
    }
    out.push(b'0');
    Ok(())
}

fn write_bytes(code: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    write_size(code, bytes.len(), out)?;
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a type byte and a size, which must fit a signed 32-bit field.
fn write_size(code: u8, size: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let field = i32::try_from(size).map_err(|_| EncodeError::TooLarge {
        len: size,
        max: i32::MAX as usize,
    })?;
    out.push(code);
    out.extend_from_slice(&field.to_le_bytes());
    Ok(())
}

fn write_int(number: i64, out: &mut Vec<u8>) {
    if let Ok(number) = i32::try_from(number) {
        out.push(b'i');
        out.extend_from_slice(&number.to_le_bytes());
        return;
    }
    let start = out.len();
    out.extend_from_slice(b"l\0\0\0\0");
    let mut count: i32 = 0;
    let mut rest = number.unsigned_abs();
    while rest != 0 {
        let digit = (rest % u64::from(DIGIT_BASE)) as u16;
        out.extend_from_slice(&digit.to_le_bytes());
        rest /= u64::from(DIGIT_BASE);
        count += 1;
    }
    let signed = if number < 0 { -count } else { count };
    if let Some(field) = out.get_mut(start + 1..start + 5) {
        field.copy_from_slice(&signed.to_le_bytes());
    }
}

fn write_long(number: &BigInt, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let magnitude = number.magnitude();
    let bits = magnitude.bits();
    let count = bits.div_ceil(DIGIT_BITS.into());
    let field = i32::try_from(count).map_err(|_| EncodeError::TooLarge {
        len: usize::try_from(bits / 8).unwrap_or(usize::MAX),
        max: i32::MAX as usize / 8 * DIGIT_BITS as usize,
    })?;
    out.push(b'l');
    let signed = if number.sign() == Sign::Minus {
        -field
    } else {
        field
    };
    out.extend_from_slice(&signed.to_le_bytes());
    let (mut pending, mut pending_bits, mut left) = (0u64, 0, count);
    for word in magnitude.iter_u32_digits() {
        pending |= u64::from(word) << pending_bits;
        pending_bits += u32::BITS;
        while pending_bits >= DIGIT_BITS && left > 0 {
            let digit = (pending % u64::from(DIGIT_BASE)) as u16;
            out.extend_from_slice(&digit.to_le_bytes());
            pending >>= DIGIT_BITS;
            pending_bits -= DIGIT_BITS;
            left -= 1;
        }
    }
    if left > 0 {
        out.extend_from_slice(&(pending as u16).to_le_bytes());
    }
    Ok(())
}
