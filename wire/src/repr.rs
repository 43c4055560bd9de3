//! Python's `repr()` and `str()` of values, as error texts and terminal output show them.

use std::io::Write as _;

use num_bigint::BigInt;

use crate::{ExceptionClass, Value};

/// Maximum number of bits of an int that is printed in decimal.
pub(crate) const DECIMAL_BITS_MAX: u64 = 14_284;

/// Returns Python's `repr()` of `value`. A URI is shown without Python's memory address.
pub fn repr(value: &Value) -> String {
    let mut out = Vec::new();
    write_repr(&mut out, value);
    into_text(out)
}

/// Returns Python's `str()` of `value`. Lone surrogates become U+FFFD.
pub fn text(value: &Value) -> String {
    match value {
        Value::Str(text) => text.clone(),
        Value::SurrogateStr(_) => lossy_text(value),
        Value::Uri(uri) => uri.to_string(),
        Value::Exception(exception) => exception.text(),
        other => repr(other),
    }
}

/// Returns Python's `repr()` of a `str`.
pub fn str_repr(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_str_repr(&mut out, text);
    into_text(out)
}

/// Returns Python's `repr()` of `bytes`.
pub(crate) fn bytes_repr(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len() + 3);
    write_bytes_repr(&mut out, bytes);
    into_text(out)
}

/// Returns the text of a `str` with U+FFFD for each lone surrogate; empty for other values.
pub(crate) fn lossy_text(value: &Value) -> String {
    match value {
        Value::Str(text) => text.clone(),
        Value::SurrogateStr(points) => points
            .iter()
            .map(|point| char::from_u32(*point).unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
        _ => String::new(),
    }
}

/// Appends Python's `repr()` of a `str`. The quotes are single, unless the text has single quotes and no double
/// quotes. Characters that Python does not call printable are escaped.
pub(crate) fn write_str_repr(out: &mut Vec<u8>, text: &str) {
    // Most strings need neither escapes nor another quote.
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'\'' | b'\\');
    if text.as_bytes().iter().all(plain) {
        out.reserve(text.len() + 2);
        out.push(b'\'');
        push_str(out, text);
        out.push(b'\'');
        return;
    }
    let quote = quote_for(text.contains('\''), text.contains('"'));
    out.push(quote as u8);
    for character in text.chars() {
        write_char_repr(out, character, quote);
    }
    out.push(quote as u8);
}

/// Appends Python's `repr()` of a `str` given as code points.
pub(crate) fn write_points_repr(out: &mut Vec<u8>, points: &[u32]) {
    let has = |quote: char| points.contains(&u32::from(quote));
    let quote = quote_for(has('\''), has('"'));
    out.push(quote as u8);
    for point in points {
        match char::from_u32(*point) {
            Some(character) => write_char_repr(out, character, quote),
            None => write_infallible(out, format_args!("\\u{point:04x}")),
        }
    }
    out.push(quote as u8);
}

/// Appends Python's `repr()` of `bytes`.
fn write_bytes_repr(out: &mut Vec<u8>, bytes: &[u8]) {
    let quote = quote_for(bytes.contains(&b'\''), bytes.contains(&b'"'));
    out.push(b'b');
    out.push(quote as u8);
    for byte in bytes {
        match byte {
            0x20..0x7f | b'\n' | b'\r' | b'\t' => write_char_repr(out, char::from(*byte), quote),
            _ => write_infallible(out, format_args!("\\x{byte:02x}")),
        }
    }
    out.push(quote as u8);
}

/// Appends Python's `repr()` of a float: the shortest digits that parse to the same float, with an exponent
/// below 1e-4 and from 1e16 up.
pub(crate) fn write_float_repr(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        push_str(out, "nan");
    } else if value.is_infinite() {
        push_str(out, if value > 0.0 { "inf" } else { "-inf" });
    } else {
        let magnitude = value.abs();
        if magnitude == 0.0 || (1e-4..1e16).contains(&magnitude) {
            // Debug never writes an exponent in this range, and keeps the ".0".
            write_infallible(out, format_args!("{value:?}"));
        } else {
            let start = out.len();
            write_infallible(out, format_args!("{value:e}"));
            pad_exponent(out, start);
        }
    }
}

/// Turns Rust's `1e5` or `1e-7` at `start` into Python's `1e+05` or `1e-07`.
fn pad_exponent(out: &mut Vec<u8>, start: usize) {
    let Some(e) = out
        .get(start..)
        .and_then(|text| text.iter().position(|byte| *byte == b'e'))
    else {
        return;
    };
    let exponent = out.split_off(start + e + 1);
    let (sign, digits) = match exponent.split_first() {
        Some((b'-', digits)) => (b'-', digits),
        _ => (b'+', exponent.as_slice()),
    };
    out.push(sign);
    if digits.len() < 2 {
        out.push(b'0');
    }
    out.extend_from_slice(digits);
}

/// Appends an int of any size. Up to the size that CPython prints (4300 digits) it is decimal, which takes time
/// quadratic in the length. Above, it is hexadecimal, which `ast.literal_eval` reads as well.
pub(crate) fn write_big_int(out: &mut Vec<u8>, value: &BigInt) {
    if value.bits() <= DECIMAL_BITS_MAX {
        write_infallible(out, format_args!("{value}"));
    } else {
        write_infallible(out, format_args!("{value:#x}"));
    }
}

fn write_repr(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::None => push_str(out, "None"),
        Value::Bool(value) => push_str(out, if *value { "True" } else { "False" }),
        Value::Int(value) => write_infallible(out, format_args!("{value}")),
        Value::BigInt(value) => write_big_int(out, value),
        Value::Float(value) => write_float_repr(out, *value),
        Value::Complex(real, imaginary) => write_complex_repr(out, *real, *imaginary),
        Value::Ellipsis => push_str(out, "Ellipsis"),
        Value::Str(text) => write_str_repr(out, text),
        Value::SurrogateStr(points) => write_points_repr(out, points),
        Value::Bytes(bytes) => write_bytes_repr(out, bytes),
        Value::List(items) => write_items(out, "[", items, "]"),
        Value::Tuple(items) => {
            write_items(out, "(", items, if items.len() == 1 { ",)" } else { ")" });
        }
        Value::Set(items) if items.is_empty() => push_str(out, "set()"),
        Value::Set(items) => write_items(out, "{", items, "}"),
        Value::FrozenSet(items) if items.is_empty() => push_str(out, "frozenset()"),
        Value::FrozenSet(items) => write_items(out, "frozenset({", items, "})"),
        Value::Dict(items) => {
            out.push(b'{');
            for (index, (key, value)) in items.iter().enumerate() {
                push_str(out, if index == 0 { "" } else { ", " });
                write_repr(out, key);
                push_str(out, ": ");
                write_repr(out, value);
            }
            out.push(b'}');
        }
        Value::Uri(uri) => write_infallible(out, format_args!("<URI; {uri}>")),
        Value::Exception(exception) => {
            push_str(out, exception.class.name());
            write_items(out, "(", &exception.args, ")");
        }
        Value::ExceptionWrapper(_) | Value::Object(_) => {
            write_infallible(out, format_args!("<{} object>", value.type_name()));
        }
    }
}

fn write_items(out: &mut Vec<u8>, open: &str, items: &[Value], close: &str) {
    push_str(out, open);
    for (index, item) in items.iter().enumerate() {
        push_str(out, if index == 0 { "" } else { ", " });
        write_repr(out, item);
    }
    push_str(out, close);
}

/// Appends Python's `repr()` of a complex number. If the real part is plus zero, Python leaves out the real
/// part and the brackets. It writes no `.0`.
fn write_complex_repr(out: &mut Vec<u8>, real: f64, imaginary: f64) {
    let part = |out: &mut Vec<u8>, value: f64| {
        write_float_repr(out, value);
        if out.ends_with(b".0") {
            out.truncate(out.len() - 2);
        }
    };
    let imaginary_only = real == 0.0 && real.is_sign_positive();
    if !imaginary_only {
        out.push(b'(');
        part(out, real);
        if !imaginary.is_sign_negative() || imaginary.is_nan() {
            out.push(b'+');
        }
    }
    part(out, imaginary);
    push_str(out, if imaginary_only { "j" } else { "j)" });
}

fn quote_for(has_single: bool, has_double: bool) -> char {
    if has_single && !has_double { '"' } else { '\'' }
}

fn write_char_repr(out: &mut Vec<u8>, character: char, quote: char) {
    match character {
        '\n' => push_str(out, "\\n"),
        '\r' => push_str(out, "\\r"),
        '\t' => push_str(out, "\\t"),
        '\\' => push_str(out, "\\\\"),
        _ if character == quote => {
            out.push(b'\\');
            push_char(out, character);
        }
        _ if is_printable(character) => push_char(out, character),
        _ => match u32::from(character) {
            point @ ..=0xff => write_infallible(out, format_args!("\\x{point:02x}")),
            point @ ..=0xffff => write_infallible(out, format_args!("\\u{point:04x}")),
            point => write_infallible(out, format_args!("\\U{point:08x}")),
        },
    }
}

/// Python's `str.isprintable` for one character. The standard library's `escape_debug` leaves the characters of
/// the same Unicode categories unescaped. The character is tested after a letter, because there `escape_debug`
/// makes no exception for combining marks.
pub(crate) fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    let mut buffer = [b'a'; 5];
    let Some(tail) = buffer.get_mut(1..) else {
        return false;
    };
    let len = 1 + character.encode_utf8(tail).len();
    buffer
        .get(..len)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .is_some_and(|text| text.escape_debug().nth(1) == Some(character))
}

fn push_str(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn push_char(out: &mut Vec<u8>, character: char) {
    push_str(out, character.encode_utf8(&mut [0; 4]));
}

/// Converts bytes that this module has written to text.
fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("only whole strings and ASCII are written")
}

/// Appends formatted text. Writing to memory cannot fail.
fn write_infallible(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(arguments);
}

/// Returns Python's `str()` of an exception with these arguments.
pub(crate) fn exception_text(class: &ExceptionClass, args: &[Value]) -> String {
    match (class.name(), args) {
        (_, []) => String::new(),
        ("KeyError", [key]) => repr(key),
        ("SyntaxError" | "IndentationError" | "TabError", [message, Value::Tuple(place)]) => {
            match place.as_slice() {
                [file, Value::Int(line), ..] => {
                    format!("{} ({}, line {line})", text(message), text(file))
                }
                _ => text(message),
            }
        }
        (
            "UnicodeDecodeError",
            [
                codec,
                Value::Bytes(bytes),
                Value::Int(start),
                Value::Int(end),
                reason,
            ],
        ) => {
            let byte = usize::try_from(*start).ok().and_then(|at| bytes.get(at));
            match byte {
                Some(byte) if *end == start.saturating_add(1) => format!(
                    "'{}' codec can't decode byte 0x{byte:02x} in position {start}: {}",
                    text(codec),
                    text(reason)
                ),
                _ => format!(
                    "'{}' codec can't decode bytes in position {start}-{}: {}",
                    text(codec),
                    end.saturating_sub(1),
                    text(reason)
                ),
            }
        }
        ("UnicodeEncodeError", [codec, object, Value::Int(start), Value::Int(end), reason]) => {
            let point = usize::try_from(*start).ok().and_then(|at| match object {
                Value::SurrogateStr(points) => points.get(at).copied(),
                other => other.as_str()?.chars().nth(at).map(u32::from),
            });
            match point {
                Some(point) if *end == start.saturating_add(1) => {
                    let shown = match point {
                        0..=0xff => format!("\\x{point:02x}"),
                        0x100..=0xffff => format!("\\u{point:04x}"),
                        _ => format!("\\U{point:08x}"),
                    };
                    format!(
                        "'{}' codec can't encode character '{shown}' in position {start}: {}",
                        text(codec),
                        text(reason)
                    )
                }
                _ => format!(
                    "'{}' codec can't encode characters in position {start}-{}: {}",
                    text(codec),
                    end.saturating_sub(1),
                    text(reason)
                ),
            }
        }
        (_, [one]) => text(one),
        (_, several) => repr(&Value::Tuple(several.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(value: f64) -> String {
        repr(&Value::Float(value))
    }

    #[test]
    fn floats_look_as_in_python() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e16, "1.5e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (2.5e300, "2.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }

    #[test]
    fn strings_are_quoted_as_in_python() {
        let cases = [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("'\"", "'\\'\"'"),
            ("\"", "'\"'"),
            ("a\\b\n\r\t\0\x1b\x7f", "'a\\\\b\\n\\r\\t\\x00\\x1b\\x7f'"),
            ("\u{80}\u{a0}\u{ad}é", "'\\x80\\xa0\\xadé'"),
            ("\u{301}x\u{301}", "'\u{301}x\u{301}'"),
            (
                "\u{2028}\u{200b}\u{feff}\u{e000}",
                "'\\u2028\\u200b\\ufeff\\ue000'",
            ),
            (
                "\u{1f600}\u{e0001}\u{10ffff}",
                "'\u{1f600}\\U000e0001\\U0010ffff'",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(str_repr(text), expected);
        }
    }

    #[test]
    fn containers_look_as_in_python() {
        let value = Value::Dict(vec![
            ("a".into(), Value::Tuple(vec![Value::Int(1)])),
            (Value::Bool(true), Value::Set(vec![])),
            (
                Value::None,
                Value::List(vec![Value::Complex(0.0, 2.0), Value::Complex(1.5, -2.0)]),
            ),
            (
                Value::Bytes(b"\x00'\xff".to_vec()),
                Value::FrozenSet(vec![Value::Int(1)]),
            ),
        ]);
        assert_eq!(
            repr(&value),
            "{'a': (1,), True: set(), None: [2j, (1.5-2j)], b\"\\x00'\\xff\": frozenset({1})}"
        );
    }
}
