//! The reader's errors for payloads that are not literals, with the classes, texts and positions of
//! CPython 3.11.

use super::reader::Reader;
use crate::{Exception, ExceptionClass, Value};

/// The end of the faulty part in a `SyntaxError`.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// The column of the start.
    SameColumn,
    /// This number of characters after the start.
    After(usize),
    /// A fixed column: CPython's tokenizer does not know the end and reports 0 or -1.
    Column(i64),
}

impl<'a> Reader<'a> {
    /// The error for a token after an item that is neither `,` nor the closing bracket.
    pub(super) fn unexpected(&self) -> Exception {
        let open = self.unclosed.last().copied().unwrap_or_default();
        match self.peek() {
            Some(found @ (b')' | b']' | b'}')) => {
                let (open_line, ..) = self.place(open);
                let (line, ..) = self.place(self.pos);
                let opened = self.bytes().get(open).copied().unwrap_or(b'(');
                let (found, opened) = (char::from(found), char::from(opened));
                let mut message = format!(
                    "closing parenthesis '{found}' does not match opening parenthesis '{opened}'"
                );
                if line != open_line {
                    message.push_str(&format!(" on line {open_line}"));
                }
                self.syntax_error_here(&message)
            }
            Some(b'\'' | b'"' | b'0'..=b'9' | b'{' | b'a'..=b'z' | b'A'..=b'Z' | b'_') => {
                self.syntax_error_here("invalid syntax. Perhaps you forgot a comma?")
            }
            _ => self.unexpected_character(),
        }
    }

    /// The error for a character that begins no expression.
    pub(super) fn unexpected_character(&self) -> Exception {
        match self.rest().chars().next() {
            Some(close @ (')' | ']' | '}')) if self.unclosed.is_empty() => {
                self.syntax_error_here(&format!("unmatched '{close}'"))
            }
            Some(other)
                if other.is_ascii() && !other.is_ascii_control()
                    || other.is_alphabetic()
                    || matches!(other, '\n' | '\r') =>
            {
                self.invalid_syntax()
            }
            Some(other) if crate::repr::is_printable(other) => self.syntax_error_here(&format!(
                "invalid character '{other}' (U+{:04X})",
                u32::from(other)
            )),
            Some(other) => self.syntax_error_here(&format!(
                "invalid non-printable character U+{:04X}",
                u32::from(other)
            )),
            None => self.invalid_syntax(),
        }
    }

    /// The error for a literal on an indented line.
    pub(super) fn unexpected_indent(&self) -> Exception {
        let mut error = self.syntax_error(
            "unexpected indent",
            self.pos.saturating_sub(1),
            End::Column(-1),
        );
        error.class = ExceptionClass::Builtin("IndentationError".into());
        error
    }

    /// The error for an unexpected token or an unexpected end of text at `pos`.
    pub(super) fn invalid_syntax(&self) -> Exception {
        if !self.rest().is_empty() {
            let token_len = self.peek_word().chars().count().max(1);
            return self.syntax_error("invalid syntax", self.pos, End::After(token_len));
        }
        if let Some(&open) = self.unclosed.last() {
            let opened = self.bytes().get(open).copied().unwrap_or(b'(');
            let message = format!("'{}' was never closed", char::from(opened));
            return self.syntax_error(&message, open, End::Column(0));
        }
        // At the end of the text CPython reports the start of the last line, and in an empty text
        // no position.
        let text = self.text.trim_start_matches([' ', '\t']);
        let (line, _, text) = match text {
            "" => (0, 0, ""),
            _ => self.place(self.pos),
        };
        syntax_error_at("invalid syntax", line, 0, text, 0)
    }

    /// Creates a `SyntaxError` about the character at `pos`.
    fn syntax_error_here(&self, message: &str) -> Exception {
        self.syntax_error(message, self.pos, End::SameColumn)
    }

    /// Creates a `SyntaxError` that begins at the byte offset `start`.
    pub(super) fn syntax_error(&self, message: &str, start: usize, end: End) -> Exception {
        let (line, column, text) = self.place(start);
        let end = match end {
            End::SameColumn => column,
            End::After(len) => column.saturating_add_unsigned(len as u64),
            End::Column(end) => end,
        };
        syntax_error_at(message, line, column, text, end)
    }

    /// `literal_eval`'s error for a node that is not a literal. CPython adds the node's memory
    /// address, which is left out here.
    pub(super) fn malformed(&self, class: &str, start: usize) -> Exception {
        let (line, ..) = self.place(start);
        Exception::value_error(format!(
            "malformed node or string on line {line}: <ast.{class} object>"
        ))
    }

    /// Returns the line and the column of the byte offset `at`, both counted from 1, and the line's
    /// text.
    fn place(&self, at: usize) -> (i64, i64, &'a str) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind(['\n', '\r']).map_or(0, |end| end + 1);
        let bytes = before.as_bytes();
        let line_ends = bytes.iter().filter(|byte| **byte == b'\n').count()
            + bytes
                .windows(2)
                .filter(|pair| matches!(pair, [b'\r', next] if *next != b'\n'))
                .count();
        let column = before
            .get(line_start..)
            .map_or(0, |line| line.chars().count());
        let line = self.text.get(line_start..).unwrap_or_default();
        let line_len = line.find('\n').map_or(line.len(), |end| end + 1);
        (
            i64::try_from(line_ends).unwrap_or(i64::MAX - 1) + 1,
            i64::try_from(column).unwrap_or(i64::MAX - 1) + 1,
            line.get(..line_len).unwrap_or_default(),
        )
    }
}

fn syntax_error_at(message: &str, line: i64, column: i64, text: &str, end: i64) -> Exception {
    let mut error = Exception::builtin("SyntaxError", message);
    error.args.push(Value::Tuple(vec![
        "<unknown>".into(),
        Value::Int(line),
        Value::Int(column),
        text.into(),
        Value::Int(line),
        Value::Int(end),
    ]));
    error
}
