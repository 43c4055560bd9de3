//! Number and string tokens of Python.

use num_bigint::BigInt;

use super::escape::{unescape_bytes, unescape_text};
use super::reader::Reader;
use super::refusal::End;
use crate::serializer::text::TextBuilder;
use crate::{Exception, Value};

/// Maximum number of decimal digits that CPython converts to an int (`sys.int_info.default_max_str_digits`).
pub(in crate::serializer) const INT_DIGITS_MAX: usize = 4300;

/// Maximum number of bits of an int that can be below a float's infinity.
const FLOAT_BITS_MAX: u64 = 1024;

/// The value of an int: [`Value::Int`] if it fits 64 bits.
pub(in crate::serializer) fn integer(value: BigInt) -> Value {
    match i64::try_from(&value) {
        Ok(value) => Value::Int(value),
        Err(_) => Value::BigInt(Box::new(value)),
    }
}

/// The nearest float, or `None` if the int is too large for one.
pub(super) fn finite_float(value: &BigInt) -> Option<f64> {
    // Printing takes time quadratic in the length, so the length is checked first.
    if value.bits() > FLOAT_BITS_MAX {
        return None;
    }
    // Printing and parsing rounds correctly; this is not a hot path.
    let float: f64 = value.to_string().parse().ok()?;
    float.is_finite().then_some(float)
}

/// Returns true if `word` is one of Python's keywords.
pub(super) fn is_keyword(word: &str) -> bool {
    matches!(
        word,
        "and"
            | "as"
            | "assert"
            | "async"
            | "await"
            | "break"
            | "class"
            | "continue"
            | "def"
            | "del"
            | "elif"
            | "else"
            | "except"
            | "finally"
            | "for"
            | "from"
            | "global"
            | "if"
            | "import"
            | "in"
            | "is"
            | "lambda"
            | "nonlocal"
            | "not"
            | "or"
            | "pass"
            | "raise"
            | "return"
            | "try"
            | "while"
            | "with"
            | "yield"
    )
}

/// Reads the number at the reader's position, without a sign.
///
/// # Errors
/// `SyntaxError`.
pub(super) fn number(reader: &mut Reader<'_>) -> Result<Value, Exception> {
    let start = reader.pos;
    let bytes = reader.bytes().get(start..).unwrap_or_default();
    let radix = match bytes {
        [b'0', b'x' | b'X', ..] => Some((16, "hexadecimal")),
        [b'0', b'o' | b'O', ..] => Some((8, "octal")),
        [b'0', b'b' | b'B', ..] => Some((2, "binary")),
        _ => None,
    };
    if let Some((radix, name)) = radix {
        return radix_integer(reader, radix, name);
    }
    let mut is_float = false;
    if reader.peek() != Some(b'.') {
        digits(reader)?;
    }
    if reader.peek() == Some(b'.') {
        is_float = true;
        reader.pos += 1;
        match reader.peek() {
            Some(b'0'..=b'9') => digits(reader)?,
            Some(b'_') => return Err(invalid_literal(reader, "decimal")),
            _ => {}
        }
    }
    if matches!(reader.peek(), Some(b'e' | b'E')) {
        let sign_len = usize::from(matches!(
            reader.bytes().get(reader.pos + 1),
            Some(b'+' | b'-')
        ));
        match reader.bytes().get(reader.pos + 1 + sign_len) {
            Some(b'0'..=b'9') => {
                is_float = true;
                reader.pos += 1 + sign_len;
                digits(reader)?;
            }
            _ if sign_len == 0 && is_keyword(reader.peek_word()) => {}
            _ => return Err(invalid_literal(reader, "decimal")),
        }
    }
    let end = reader.pos;
    let is_imaginary = matches!(reader.peek(), Some(b'j' | b'J'));
    if is_imaginary {
        reader.pos += 1;
    }
    expect_end_of_number(reader, if is_imaginary { "imaginary" } else { "decimal" })?;
    let text = reader.text.get(start..end).unwrap_or_default();
    let stripped;
    let text = if text.contains('_') {
        stripped = text.replace('_', "");
        stripped.as_str()
    } else {
        text
    };
    if is_float || is_imaginary {
        // Rust reads every decimal that Python reads, rounds in the same way, and overflows to infinity.
        let float = text
            .parse()
            .map_err(|_| invalid_literal(reader, "decimal"))?;
        return Ok(if is_imaginary {
            Value::Complex(0.0, float)
        } else {
            Value::Float(float)
        });
    }
    if text.starts_with('0') && text.bytes().any(|digit| digit != b'0') {
        return Err(reader.syntax_error(
            "leading zeros in decimal integer literals are not permitted; use an 0o prefix for \
             octal integers",
            start,
            End::Column(0),
        ));
    }
    if let Ok(small) = text.parse() {
        return Ok(Value::Int(small));
    }
    if text.len() > INT_DIGITS_MAX {
        let message = format!(
            "Exceeds the limit ({INT_DIGITS_MAX} digits) for integer string conversion: value has \
             {} digits; use sys.set_int_max_str_digits() to increase the limit - Consider \
             hexadecimal for huge integer literals to avoid decimal conversion limits.",
            text.len()
        );
        return Err(reader.syntax_error(&message, start, End::SameColumn));
    }
    BigInt::parse_bytes(text.as_bytes(), 10)
        .map(integer)
        .ok_or_else(|| invalid_literal(reader, "decimal"))
}

/// Reads `0x`, `0o` or `0b` and digits. One underscore may precede each digit.
fn radix_integer(reader: &mut Reader<'_>, radix: u32, name: &str) -> Result<Value, Exception> {
    reader.pos += 2;
    let start = reader.pos;
    loop {
        if reader.peek() == Some(b'_') {
            reader.pos += 1;
        }
        let digits_start = reader.pos;
        while reader
            .peek()
            .is_some_and(|digit| char::from(digit).is_digit(radix))
        {
            reader.pos += 1;
        }
        match reader.peek() {
            Some(digit @ b'0'..=b'9') => {
                let message = format!("invalid digit '{}' in {name} literal", char::from(digit));
                return Err(reader.syntax_error(&message, reader.pos, End::SameColumn));
            }
            _ if reader.pos == digits_start => return Err(invalid_literal(reader, name)),
            Some(b'_') => {}
            _ => break,
        }
    }
    expect_end_of_number(reader, name)?;
    let text = reader
        .text
        .get(start..reader.pos)
        .unwrap_or_default()
        .replace('_', "");
    BigInt::parse_bytes(text.as_bytes(), radix)
        .map(integer)
        .ok_or_else(|| invalid_literal(reader, name))
}

/// Skips digits with single underscores between them.
fn digits(reader: &mut Reader<'_>) -> Result<(), Exception> {
    loop {
        while matches!(reader.peek(), Some(b'0'..=b'9')) {
            reader.pos += 1;
        }
        if reader.peek() != Some(b'_') {
            return Ok(());
        }
        if !matches!(reader.bytes().get(reader.pos + 1), Some(b'0'..=b'9')) {
            return Err(invalid_literal(reader, "decimal"));
        }
        reader.pos += 1;
    }
}

/// Checks that no letter follows the number directly, except for those of a keyword such as `if`.
fn expect_end_of_number(reader: &Reader<'_>, kind: &str) -> Result<(), Exception> {
    match reader.peek() {
        Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') if !is_keyword(reader.peek_word()) => {
            Err(invalid_literal(reader, kind))
        }
        Some(0x80..) => Err(reader.invalid_syntax()),
        _ => Ok(()),
    }
}

/// The error that CPython reports at the last character of the number.
fn invalid_literal(reader: &Reader<'_>, kind: &str) -> Exception {
    let message = format!("invalid {kind} literal");
    let at = match reader.peek() {
        Some(b'_') if kind == "decimal" => reader.pos,
        _ => reader.pos.saturating_sub(1),
    };
    reader.syntax_error(&message, at, End::SameColumn)
}

/// The meaning of the letters before a string's quote.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Prefix {
    len: usize,
    is_raw: bool,
    is_bytes: bool,
    is_format: bool,
}

/// Returns the prefix of the string that begins `text`; `None` if no string begins there.
pub(super) fn string_prefix(text: &str) -> Option<Prefix> {
    let mut prefix = Prefix::default();
    for byte in text.bytes().take(3) {
        match byte {
            b'\'' | b'"' => return Some(prefix),
            b'r' | b'R' if !prefix.is_raw => prefix.is_raw = true,
            b'b' | b'B' if !prefix.is_bytes && !prefix.is_format => prefix.is_bytes = true,
            b'f' | b'F' if !prefix.is_bytes && !prefix.is_format => prefix.is_format = true,
            // `u` allows no other letter beside it.
            b'u' | b'U'
                if prefix.len == 0 && matches!(text.as_bytes().get(1), Some(b'\'' | b'"')) => {}
            _ => return None,
        }
        prefix.len += 1;
    }
    None
}

/// The value of adjacent strings so far.
enum Joined {
    Text(TextBuilder),
    Bytes(Vec<u8>),
}

/// Reads a string or bytes literal and the adjacent literals, which Python joins. Returns `None` if one of them
/// is an f-string.
///
/// # Errors
/// `SyntaxError`.
pub(super) fn strings(reader: &mut Reader<'_>) -> Result<Option<Value>, Exception> {
    let start = reader.pos;
    let mut joined: Option<Joined> = None;
    let mut has_format = false;
    while let Some(prefix) = string_prefix(reader.rest()) {
        let token_start = reader.pos;
        reader.pos += prefix.len;
        let (body, is_plain) = body(reader, token_start)?;
        reader.skip_space()?;
        // Most strings have no neighbour and no escapes.
        let is_plain = is_plain && !prefix.is_bytes && !prefix.is_format;
        if is_plain && joined.is_none() && !may_begin_string(reader.peek()) {
            return Ok(Some(Value::Str(body.to_owned())));
        }
        has_format |= prefix.is_format;
        let body = normalized(body);
        let fail = |message: String| reader.syntax_error(&message, token_start, End::Column(-1));
        let part = joined.get_or_insert_with(|| {
            if prefix.is_bytes {
                Joined::Bytes(Vec::new())
            } else {
                Joined::Text(TextBuilder::default())
            }
        });
        match (part, prefix.is_bytes) {
            (Joined::Text(text), false) if prefix.is_raw => text.push_str(&body),
            (Joined::Text(text), false) => unescape_text(&body, text).map_err(fail)?,
            (Joined::Bytes(_), true) if !body.is_ascii() => {
                return Err(fail(
                    "bytes can only contain ASCII literal characters".to_owned(),
                ));
            }
            (Joined::Bytes(bytes), true) if prefix.is_raw => {
                bytes.extend_from_slice(body.as_bytes())
            }
            (Joined::Bytes(bytes), true) => {
                unescape_bytes(body.as_bytes(), bytes).map_err(fail)?;
            }
            _ => {
                let message = "cannot mix bytes and nonbytes literals";
                return Err(reader.syntax_error(message, start, End::Column(-1)));
            }
        }
    }
    if has_format {
        return Ok(None);
    }
    Ok(Some(match joined {
        Some(Joined::Text(text)) => text.finish(),
        Some(Joined::Bytes(bytes)) => Value::Bytes(bytes),
        None => return Err(reader.invalid_syntax()),
    }))
}

fn may_begin_string(byte: Option<u8>) -> bool {
    matches!(
        byte,
        Some(b'\'' | b'"' | b'r' | b'R' | b'u' | b'U' | b'b' | b'B' | b'f' | b'F')
    )
}

/// Replaces all kinds of line ends by `\n`, as Python does.
fn normalized(body: &str) -> std::borrow::Cow<'_, str> {
    if body.contains('\r') {
        body.replace("\r\n", "\n").replace('\r', "\n").into()
    } else {
        body.into()
    }
}

/// Reads a quoted body. Returns the text between the quotes, and true if it has neither backslashes nor line
/// ends. The reader starts at the opening quote and ends after the closing one.
fn body<'a>(reader: &mut Reader<'a>, token_start: usize) -> Result<(&'a str, bool), Exception> {
    let bytes = reader.bytes();
    let quote = reader.peek().unwrap_or(b'\'');
    let is_triple = bytes
        .get(reader.pos..reader.pos + 3)
        .is_some_and(|quotes| quotes.iter().all(|byte| *byte == quote));
    let quote_len = if is_triple { 3 } else { 1 };
    let start = reader.pos + quote_len;
    let mut at = start;
    let mut is_plain = true;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(found) = rest
            .iter()
            .position(|byte| *byte == quote || matches!(byte, b'\\' | b'\n' | b'\r'))
        else {
            return Err(unterminated(reader, token_start, is_triple));
        };
        at += found;
        is_plain &= rest.get(found) == Some(&quote);
        match rest.get(found..).unwrap_or_default() {
            // A backslash escapes the next character, a line end included.
            [b'\\', b'\r', b'\n', ..] => at += 3,
            [b'\\', _, ..] => at += 2,
            [b'\\'] => at += 1,
            [b'\n' | b'\r', ..] if is_triple => at += 1,
            [b'\n' | b'\r', ..] => return Err(unterminated(reader, token_start, false)),
            [a, b, c, ..] if is_triple && [a, b, c].iter().any(|byte| **byte != quote) => at += 1,
            closing if is_triple && closing.len() < 3 => at += 1,
            _ => {
                reader.pos = at + quote_len;
                return Ok((reader.text.get(start..at).unwrap_or_default(), is_plain));
            }
        }
    }
}

fn unterminated(reader: &Reader<'_>, start: usize, is_triple: bool) -> Exception {
    let kind = if is_triple {
        "triple-quoted string"
    } else {
        "string"
    };
    let line = |text: Option<&str>| text.map_or(0, |text| text.matches('\n').count()) + 1;
    let detected = if is_triple {
        line(Some(reader.text.trim_end_matches('\n')))
    } else {
        line(reader.text.get(..start))
    };
    let message = format!("unterminated {kind} literal (detected at line {detected})");
    reader.syntax_error(&message, start, End::SameColumn)
}
