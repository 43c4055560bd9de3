//! The serpent reader: Python's `ast.literal_eval` as a recursive descent parser.
//!
//! It accepts every literal that CPython 3.11 accepts. A payload that may be a Python expression but is not a
//! literal is refused at the point where that becomes clear, with CPython's `ValueError`. The reader does not
//! check that the rest of such a payload is valid Python.

use num_bigint::BigInt;

use super::literal;
use super::refusal::End;
use crate::serializer::collect::{Budget, DictBuilder, SetBuilder};
use crate::{Exception, Limits, Value};

/// Reads one literal. Nothing but white space, blank lines and comments may surround it in `text`.
///
/// # Errors
/// The exception that `ast.literal_eval` raises.
pub(super) fn read(text: &str, limits: &Limits) -> Result<Value, Exception> {
    let mut reader = Reader {
        text,
        pos: text.len() - text.trim_start_matches([' ', '\t']).len(),
        unclosed: Vec::new(),
        budget: Budget::new(limits),
    };
    reader.skip_to_first_token()?;
    let value = reader.top()?;
    reader.expect_end()?;
    Ok(value)
}

/// Reads tokens of `text` from `pos` on.
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) pos: usize,
    /// Offsets of the open brackets. Inside brackets, line ends are white space.
    pub(super) unclosed: Vec<usize>,
    budget: Budget,
}

/// The node type that CPython's parser gives an expression, as far as `literal_eval` distinguishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    /// A number without a sign.
    Number,
    /// A string, bytes, `True`, `False`, `None` or `...`.
    Constant,
    /// A number with a sign.
    Signed,
    /// A sum or difference that gives a complex number.
    Sum,
    Tuple,
    List,
    Set,
    Dict,
    Call,
}

impl Node {
    const fn name(self) -> &'static str {
        match self {
            Self::Number | Self::Constant => "Constant",
            Self::Signed => "UnaryOp",
            Self::Sum => "BinOp",
            Self::Tuple => "Tuple",
            Self::List => "List",
            Self::Set => "Set",
            Self::Dict => "Dict",
            Self::Call => "Call",
        }
    }
}

type Read<T> = Result<T, Exception>;

impl<'a> Reader<'a> {
    /// Reads the literal. Outside all brackets a comma makes a tuple, too.
    fn top(&mut self) -> Read<Value> {
        let (first, _) = self.expression()?;
        if self.peek() != Some(b',') {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.peek() == Some(b',') {
            self.pos += 1;
            self.skip_space()?;
            if matches!(self.peek(), None | Some(b'\n' | b'\r')) {
                break;
            }
            items.push(self.expression()?.0);
        }
        Ok(Value::Tuple(items))
    }

    /// Reads one expression and the white space after it.
    fn expression(&mut self) -> Read<(Value, Node)> {
        let start = self.pos;
        let (mut value, mut node) = self.operand()?;
        self.skip_space()?;
        while let Some(sign @ (b'+' | b'-')) = self.peek() {
            self.pos += 1;
            self.skip_space()?;
            let right_start = self.pos;
            let (right, right_node) = self.operand()?;
            self.skip_space()?;
            if !matches!(node, Node::Number | Node::Signed) {
                return Err(self.malformed(node.name(), start));
            }
            if right_node != Node::Number {
                return Err(self.malformed(right_node.name(), right_start));
            }
            value = match (complex_sum(&value, &right, sign == b'-'), &right) {
                (Some(sum), _) => sum?,
                (None, _) => return Err(self.malformed("BinOp", start)),
            };
            node = Node::Sum;
        }
        match self.other_operator() {
            Some(class) => Err(self.malformed(class, start)),
            None => Ok((value, node)),
        }
    }

    /// Reads a literal with its sign, if any.
    fn operand(&mut self) -> Read<(Value, Node)> {
        self.budget.value()?;
        let Some(byte) = self.peek() else {
            return Err(self.invalid_syntax());
        };
        match byte {
            b'\'' | b'"' => self.strings(),
            b'0'..=b'9' => Ok((literal::number(self)?, Node::Number)),
            b'(' => self.parentheses(),
            b'[' => self.list(),
            b'{' => self.braces(),
            b'-' | b'+' => self.signed(byte == b'-'),
            b'.' => match self.bytes().get(self.pos + 1..) {
                Some([b'0'..=b'9', ..]) => Ok((literal::number(self)?, Node::Number)),
                Some([b'.', b'.', ..]) => {
                    self.pos += 3;
                    Ok((Value::Ellipsis, Node::Constant))
                }
                _ => Err(self.invalid_syntax()),
            },
            b'~' => Err(self.malformed("UnaryOp", self.pos)),
            b'*' if !self.unclosed.is_empty() => Err(self.malformed("Starred", self.pos)),
            _ if literal::string_prefix(self.rest()).is_some() => self.strings(),
            _ => self.word(),
        }
    }

    fn strings(&mut self) -> Read<(Value, Node)> {
        let start = self.pos;
        match literal::strings(self)? {
            Some(value) => Ok((value, Node::Constant)),
            None => Err(self.malformed("JoinedStr", start)),
        }
    }

    /// Reads a sign and the number after it. CPython allows only one sign.
    fn signed(&mut self, is_minus: bool) -> Read<(Value, Node)> {
        self.pos += 1;
        self.skip_space()?;
        let start = self.pos;
        if matches!(self.peek(), Some(b'+' | b'-')) {
            return Err(self.malformed("UnaryOp", start));
        }
        let (value, node) = self.operand()?;
        if node != Node::Number {
            return Err(self.malformed(node.name(), start));
        }
        let value = match value {
            value if !is_minus => value,
            Value::Int(value) => match value.checked_neg() {
                Some(value) => Value::Int(value),
                None => literal::integer(-BigInt::from(value)),
            },
            Value::BigInt(value) => literal::integer(-*value),
            Value::Float(value) => Value::Float(-value),
            Value::Complex(real, imaginary) => Value::Complex(-real, -imaginary),
            other => other,
        };
        Ok((value, Node::Signed))
    }

    /// Reads a tuple or an expression in parentheses. The latter gives the same node as without them.
    fn parentheses(&mut self) -> Read<(Value, Node)> {
        self.open()?;
        if self.peek() == Some(b')') {
            self.close();
            return Ok((Value::Tuple(Vec::new()), Node::Tuple));
        }
        let (first, node) = self.expression()?;
        if self.peek() == Some(b')') {
            self.close();
            return Ok((first, node));
        }
        let mut items = Vec::with_capacity(4);
        items.push(first);
        while self.separator(b')')? {
            items.push(self.expression()?.0);
        }
        Ok((Value::Tuple(items), Node::Tuple))
    }

    fn list(&mut self) -> Read<(Value, Node)> {
        self.open()?;
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.close();
            return Ok((Value::List(items), Node::List));
        }
        loop {
            items.push(self.expression()?.0);
            if !self.separator(b']')? {
                return Ok((Value::List(items), Node::List));
            }
        }
    }

    /// Reads a dict or a set.
    fn braces(&mut self) -> Read<(Value, Node)> {
        self.open()?;
        if self.peek() == Some(b'}') {
            self.close();
            return Ok((Value::Dict(Vec::new()), Node::Dict));
        }
        if self.rest().starts_with("**") {
            return Err(Exception::value_error("malformed node or string: None"));
        }
        let (first, _) = self.expression()?;
        if self.peek() == Some(b':') {
            return self.dict(first);
        }
        let mut set = SetBuilder::new();
        set.insert(first)?;
        while self.separator(b'}')? {
            set.insert(self.expression()?.0)?;
        }
        Ok((Value::Set(set.finish()), Node::Set))
    }

    /// Reads the rest of a dict after its first key.
    fn dict(&mut self, first: Value) -> Read<(Value, Node)> {
        let mut dict = DictBuilder::new();
        let mut key = first;
        loop {
            if self.peek() != Some(b':') {
                let message = "':' expected after dictionary key";
                return Err(match self.peek() {
                    Some(b',' | b'}') => self.syntax_error(message, self.pos - 1, End::Column(0)),
                    _ => self.unexpected(),
                });
            }
            self.pos += 1;
            self.skip_space()?;
            if matches!(self.peek(), Some(b',' | b'}')) {
                let message = "expression expected after dictionary key and ':'";
                return Err(self.syntax_error(message, self.pos - 1, End::Column(0)));
            }
            let (value, _) = self.expression()?;
            dict.insert(key, value)?;
            if !self.separator(b'}')? {
                return Ok((Value::Dict(dict.finish()), Node::Dict));
            }
            if self.rest().starts_with("**") {
                return Err(Exception::value_error("malformed node or string: None"));
            }
            key = self.expression()?.0;
        }
    }

    /// Reads the separator after an item. Returns true if another item follows, false if the bracket was
    /// closed.
    fn separator(&mut self, close: u8) -> Read<bool> {
        if self.peek() == Some(b',') {
            self.pos += 1;
            self.skip_space()?;
            if self.peek() != Some(close) {
                return Ok(true);
            }
        }
        if self.peek() != Some(close) {
            return Err(self.unexpected());
        }
        self.close();
        Ok(false)
    }

    /// Enters the bracket at `pos`.
    fn open(&mut self) -> Read<()> {
        if !self.budget.enter() {
            return Err(self.syntax_error(
                "too many nested parentheses",
                self.pos,
                End::SameColumn,
            ));
        }
        self.unclosed.push(self.pos);
        self.pos += 1;
        self.skip_space()
    }

    fn close(&mut self) {
        self.pos += 1;
        self.unclosed.pop();
        self.budget.leave();
    }

    /// Reads a name: a constant or `set()`. A literal cannot contain any other name.
    fn word(&mut self) -> Read<(Value, Node)> {
        let start = self.pos;
        let word = self.peek_word();
        if word.is_empty() {
            return Err(self.unexpected_character());
        }
        self.pos += word.len();
        let constant = |value| Ok((value, Node::Constant));
        match word {
            "None" => constant(Value::None),
            "True" => constant(Value::Bool(true)),
            "False" => constant(Value::Bool(false)),
            "lambda" => Err(self.malformed("Lambda", start)),
            "not" => Err(self.malformed("UnaryOp", start)),
            "await" => Err(self.malformed("Await", start)),
            _ if literal::is_keyword(word) => {
                self.pos = start;
                Err(self.invalid_syntax())
            }
            _ => {
                self.skip_space()?;
                match self.peek() {
                    Some(b'(') if word == "set" => self.empty_set(start),
                    Some(b'(') => Err(self.malformed("Call", start)),
                    Some(b'.') => Err(self.malformed("Attribute", start)),
                    Some(b'[') => Err(self.malformed("Subscript", start)),
                    _ => Err(self.malformed("Name", start)),
                }
            }
        }
    }

    /// Reads `set()`, which stands for the empty set because that has no literal.
    fn empty_set(&mut self, start: usize) -> Read<(Value, Node)> {
        self.open()?;
        if self.peek() != Some(b')') {
            return Err(self.malformed("Call", start));
        }
        self.close();
        Ok((Value::Set(Vec::new()), Node::Call))
    }

    /// Returns the node type of an operator that follows a literal but cannot be part of one; `None` if there
    /// is no such operator.
    fn other_operator(&self) -> Option<&'static str> {
        let rest = self.bytes().get(self.pos..).unwrap_or_default();
        match rest {
            [b',' | b')' | b']' | b'}' | b':' | b'\n' | b'\r', ..] | [] => None,
            [b'=', b'=', ..] | [b'!', b'=', ..] => Some("Compare"),
            [b'<', b'<', ..] | [b'>', b'>', ..] => Some("BinOp"),
            [b'<' | b'>', ..] => Some("Compare"),
            [b'*' | b'/' | b'%' | b'@' | b'&' | b'|' | b'^', ..] => Some("BinOp"),
            [b'(', ..] => Some("Call"),
            [b'[', ..] => Some("Subscript"),
            [b'.', next, ..] if next.is_ascii_alphabetic() || *next == b'_' => Some("Attribute"),
            _ => match self.peek_word() {
                "if" => Some("IfExp"),
                "and" | "or" => Some("BoolOp"),
                "in" | "is" | "not" => Some("Compare"),
                "for" | "async" if !self.unclosed.is_empty() => Some("GeneratorExp"),
                _ => None,
            },
        }
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes().get(self.pos).copied()
    }

    /// The unread text. `pos` is always a character boundary.
    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.pos..).unwrap_or_default()
    }

    /// The identifier at `pos`, or an empty text.
    pub(super) fn peek_word(&self) -> &'a str {
        let rest = self.rest();
        let is_part = |c: char| c == '_' || c.is_alphanumeric();
        let len = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        if rest.starts_with(|c: char| c.is_numeric()) {
            return "";
        }
        rest.get(..len).unwrap_or_default()
    }

    /// Skips white space, line continuations and comments, and inside brackets also line ends.
    #[inline]
    pub(super) fn skip_space(&mut self) -> Read<()> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | 0x0c) => self.pos += 1,
                Some(b'\n' | b'\r') if !self.unclosed.is_empty() => self.pos += 1,
                Some(b'#') => self.skip_comment(),
                Some(b'\\') => self.join_lines()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) {
        let rest = self.bytes().get(self.pos..).unwrap_or_default();
        let line_end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        self.pos += line_end.unwrap_or(rest.len());
    }

    /// Skips a backslash at the end of a line, and the line end.
    fn join_lines(&mut self) -> Read<()> {
        let rest = self.rest();
        let len = if rest.starts_with("\\\r\n") {
            3
        } else if rest.starts_with("\\\n") || rest.starts_with("\\\r") {
            2
        } else {
            let message = "unexpected character after line continuation character";
            return Err(self.syntax_error(message, self.pos + 1, End::Column(0)));
        };
        self.pos += len;
        if self.rest().is_empty() {
            return Err(self.syntax_error(
                "unexpected EOF while parsing",
                self.pos,
                End::Column(-1),
            ));
        }
        Ok(())
    }

    /// Skips comments and blank lines before the literal. The literal's line must not be indented, unless it is
    /// the first line of the payload.
    fn skip_to_first_token(&mut self) -> Read<()> {
        let mut line_start = self.pos;
        loop {
            match self.peek() {
                Some(b' ' | b'\t') => self.pos += 1,
                // A form feed resets the indentation.
                Some(0x0c) => {
                    self.pos += 1;
                    line_start = self.pos;
                }
                Some(b'#') => self.skip_comment(),
                Some(b'\n' | b'\r') => {
                    self.pos += 1;
                    line_start = self.pos;
                }
                Some(b'\\') => {
                    self.join_lines()?;
                    line_start = self.pos;
                }
                None => return Err(self.invalid_syntax()),
                Some(_) if self.pos > line_start => return Err(self.unexpected_indent()),
                Some(_) => return Ok(()),
            }
        }
    }

    /// Checks that only blank lines and comments follow.
    fn expect_end(&mut self) -> Read<()> {
        self.skip_space()?;
        match self.peek() {
            None => return Ok(()),
            Some(b'\n' | b'\r') => {}
            Some(_) => return Err(self.unexpected_character()),
        }
        let mut line_start = self.pos;
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | 0x0c) => self.pos += 1,
                Some(b'#') => {
                    self.skip_comment();
                    line_start = self.pos;
                }
                Some(b'\n' | b'\r') => {
                    self.pos += 1;
                    line_start = self.pos;
                }
                _ if self.pos > line_start => return Err(self.unexpected_indent()),
                None => return Ok(()),
                Some(_) => return Err(self.unexpected_character()),
            }
        }
    }
}

/// Adds or subtracts a number and an imaginary one. Returns `None` if the operands are not of these types.
fn complex_sum(left: &Value, right: &Value, is_minus: bool) -> Option<Read<Value>> {
    let Value::Complex(right_real, right_imaginary) = right else {
        return None;
    };
    let left = match left {
        Value::Float(left) => *left,
        #[expect(clippy::cast_precision_loss, reason = "Python rounds as well")]
        Value::Int(left) => *left as f64,
        Value::BigInt(left) => match literal::finite_float(left) {
            Some(left) => left,
            None => {
                return Some(Err(Exception::builtin(
                    "OverflowError",
                    "int too large to convert to float",
                )));
            }
        },
        _ => return None,
    };
    // Both parts are added, so a left-hand -0.0 may become 0.0, as in Python.
    Some(Ok(if is_minus {
        Value::Complex(left - right_real, 0.0 - right_imaginary)
    } else {
        Value::Complex(left + right_real, 0.0 + right_imaginary)
    }))
}
