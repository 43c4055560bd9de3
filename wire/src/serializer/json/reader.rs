//! The JSON reader: Python's `json.loads`, with the positions and texts of its errors.

use num_bigint::BigInt;

use crate::serializer::collect::{Budget, DictBuilder};
use crate::serializer::serpent::{INT_DIGITS_MAX, integer};
use crate::serializer::text::TextBuilder;
use crate::{Exception, ExceptionClass, Limits, Value};

/// Reads one JSON document. Nothing but white space may surround it in `text`.
///
/// # Errors
/// The exception that `json.loads` raises.
pub(super) fn read(text: &str, limits: &Limits) -> Result<Value, Exception> {
    let mut reader = Reader {
        text,
        pos: 0,
        budget: Budget::new(limits),
    };
    if text.starts_with('\u{feff}') {
        return Err(reader.error("Unexpected UTF-8 BOM (decode using utf-8-sig)", 0));
    }
    reader.skip_space();
    let value = reader.value()?;
    reader.skip_space();
    if reader.pos < text.len() {
        return Err(reader.error("Extra data", reader.pos));
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    pos: usize,
    budget: Budget,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<Value, Exception> {
        self.budget.value()?;
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.constant("null", Value::None),
            Some(b't') => self.constant("true", Value::Bool(true)),
            Some(b'f') => self.constant("false", Value::Bool(false)),
            Some(b'N') => self.constant("NaN", Value::Float(f64::NAN)),
            Some(b'I') => self.constant("Infinity", Value::Float(f64::INFINITY)),
            _ => Err(self.expecting_value()),
        }
    }

    fn constant(&mut self, name: &str, value: Value) -> Result<Value, Exception> {
        if !self.rest().starts_with(name) {
            return Err(self.expecting_value());
        }
        self.pos += name.len();
        Ok(value)
    }

    fn array(&mut self) -> Result<Value, Exception> {
        self.enter("array")?;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() != Some(b']') {
            loop {
                items.push(self.value()?);
                if !self.separator(b']')? {
                    break;
                }
            }
        }
        self.leave();
        Ok(Value::List(items))
    }

    fn object(&mut self) -> Result<Value, Exception> {
        self.enter("object")?;
        let mut dict = DictBuilder::new();
        self.skip_space();
        if self.peek() != Some(b'}') {
            loop {
                if self.peek() != Some(b'"') {
                    let message = "Expecting property name enclosed in double quotes";
                    return Err(self.error(message, self.pos));
                }
                self.budget.value()?;
                let key = self.string()?;
                self.skip_space();
                if self.peek() != Some(b':') {
                    return Err(self.error("Expecting ':' delimiter", self.pos));
                }
                self.pos += 1;
                self.skip_space();
                let value = self.value()?;
                dict.insert(key, value)?;
                if !self.separator(b'}')? {
                    break;
                }
            }
        }
        self.leave();
        Ok(Value::Dict(dict.finish()))
    }

    /// Reads the separator after an item. Returns true if another item must follow, false before
    /// the closing bracket.
    fn separator(&mut self, close: u8) -> Result<bool, Exception> {
        self.skip_space();
        match self.peek() {
            Some(b',') => {
                self.pos += 1;
                self.skip_space();
                Ok(true)
            }
            Some(byte) if byte == close => Ok(false),
            _ => Err(self.error("Expecting ',' delimiter", self.pos)),
        }
    }

    /// Enters the bracket at `pos`.
    fn enter(&mut self, kind: &str) -> Result<(), Exception> {
        self.pos += 1;
        if self.budget.enter() {
            return Ok(());
        }
        Err(Exception::builtin(
            "RecursionError",
            format!(
                "maximum recursion depth exceeded while decoding a JSON {kind} from a unicode string"
            ),
        ))
    }

    /// Leaves the container whose closing bracket is at `pos`.
    fn leave(&mut self) {
        self.pos += 1;
        self.budget.leave();
    }

    fn number(&mut self) -> Result<Value, Exception> {
        let start = self.pos;
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        match self.peek() {
            Some(b'0') => self.pos += 1,
            Some(b'1'..=b'9') => self.digits(),
            Some(b'I') if self.rest().starts_with("Infinity") => {
                self.pos += "Infinity".len();
                return Ok(Value::Float(f64::NEG_INFINITY));
            }
            _ => {
                self.pos = start;
                return Err(self.expecting_value());
            }
        }
        let mut is_float = false;
        if let [b'.', b'0'..=b'9', ..] = self.rest().as_bytes() {
            self.pos += 1;
            self.digits();
            is_float = true;
        }
        if let [b'e' | b'E', b'0'..=b'9', ..] | [b'e' | b'E', b'+' | b'-', b'0'..=b'9', ..] =
            self.rest().as_bytes()
        {
            self.pos += 2;
            self.digits();
            is_float = true;
        }
        let text = self.text.get(start..self.pos).unwrap_or_default();
        if is_float {
            let float = text.parse().map(Value::Float);
            return float.map_err(|_| self.error("Expecting value", start));
        }
        if let Ok(small) = text.parse() {
            return Ok(Value::Int(small));
        }
        let digit_count = text.trim_start_matches('-').len();
        if digit_count > INT_DIGITS_MAX {
            return Err(Exception::value_error(format!(
                "Exceeds the limit ({INT_DIGITS_MAX} digits) for integer string conversion: value \
                 has {digit_count} digits; use sys.set_int_max_str_digits() to increase the limit"
            )));
        }
        BigInt::parse_bytes(text.as_bytes(), 10)
            .map(integer)
            .ok_or_else(|| self.error("Expecting value", start))
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.pos += 1;
        }
    }

    /// Reads the string whose opening quote is at `pos`.
    fn string(&mut self) -> Result<Value, Exception> {
        let open = self.pos;
        self.pos += 1;
        let plain = self.plain_part(open)?;
        if self.peek() == Some(b'"') {
            self.pos += 1;
            return Ok(Value::Str(plain.to_owned()));
        }
        let mut text = TextBuilder::default();
        text.push_str(plain);
        loop {
            if self.peek() == Some(b'"') {
                self.pos += 1;
                return Ok(text.finish());
            }
            let point = self.escape(open)?;
            // An escape gives at most U+10FFFF.
            let _ = text.push_point(point);
            text.push_str(self.plain_part(open)?);
        }
    }

    /// Reads the characters up to the next quote or backslash.
    fn plain_part(&mut self, open: usize) -> Result<&'a str, Exception> {
        let rest = self.rest();
        let Some(len) = rest
            .bytes()
            .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))
        else {
            return Err(self.error("Unterminated string starting at", open));
        };
        self.pos += len;
        if matches!(self.peek(), Some(0..0x20)) {
            return Err(self.error("Invalid control character at", self.pos));
        }
        Ok(rest.get(..len).unwrap_or_default())
    }

    /// Reads the escape at `pos` and returns its code point. A pair of surrogate escapes gives one
    /// code point.
    fn escape(&mut self, open: usize) -> Result<u32, Exception> {
        let backslash = self.pos;
        self.pos += 2;
        let character = match self.text.as_bytes().get(backslash + 1) {
            None => return Err(self.error("Unterminated string starting at", open)),
            Some(b'u') => return self.unicode_escape(),
            Some(byte @ (b'"' | b'\\' | b'/')) => *byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(_) => return Err(self.error("Invalid \\escape", backslash)),
        };
        Ok(character.into())
    }

    /// Reads the four digits at `pos`, and the second escape of a surrogate pair.
    fn unicode_escape(&mut self) -> Result<u32, Exception> {
        let Some(first) = self.four_digits(self.pos) else {
            return Err(self.error("Invalid \\uXXXX escape", self.pos - 1));
        };
        self.pos += 4;
        if (0xd800..0xdc00).contains(&first)
            && self.rest().starts_with("\\u")
            && let Some(second @ 0xdc00..0xe000) = self.four_digits(self.pos + 2)
        {
            self.pos += 6;
            return Ok(0x10000 + ((first - 0xd800) << 10 | (second - 0xdc00)));
        }
        Ok(first)
    }

    fn four_digits(&self, at: usize) -> Option<u32> {
        let digits = self.text.get(at..at + 4)?;
        digits
            .bytes()
            .all(|digit| digit.is_ascii_hexdigit())
            .then(|| u32::from_str_radix(digits, 16).ok())
            .flatten()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.pos..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.pos += 1;
        }
    }

    fn expecting_value(&self) -> Exception {
        self.error("Expecting value", self.pos)
    }

    /// Creates a `JSONDecodeError` for the byte offset `at`. Python counts characters, not bytes.
    fn error(&self, message: &str, at: usize) -> Exception {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let column = before
            .get(line_start..)
            .map_or(0, |line| line.chars().count())
            + 1;
        let position = before.chars().count();
        Exception {
            class: ExceptionClass::Other("json.decoder.JSONDecodeError".into()),
            args: vec![format!("{message}: line {line} column {column} (char {position})").into()],
            traceback: Vec::new(),
        }
    }
}
