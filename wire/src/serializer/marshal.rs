//! CPython's marshal format.
//!
//! A payload is one object; bytes after it are ignored. All integers are little-endian. Bit 0x80 of the type
//! byte (`FLAG_REF`) gives the object the next number, by which `r` refers to it. A container takes its number
//! before its items do; constants take none.
//!
//! | code | content | object |
//! |---|---|---|
//! | `N` `T` `F` `.` `S` | none | `None`, `True`, `False`, `Ellipsis`, the class `StopIteration` |
//! | `i` / `I` | i32 / i64 | int |
//! | `l` | i32 n, \|n\| u16 digits of 15 bits, least significant first | int with n's sign |
//! | `g` / `y` | f64 / two f64 | float / complex |
//! | `f` / `x` | u8 length, text; `x` twice | float / complex |
//! | `z` `Z` / `a` `A` | u8 / u32 length, ISO-8859-1 | str |
//! | `u` `t` | u32 length, UTF-8 that may hold lone surrogates | str |
//! | `s` | u32 length, bytes | bytes; in Python 2 a `str` |
//! | `)` / `(` | u8 / u32 count, items | tuple |
//! | `[` `<` `>` | u32 count, items | list, set, frozenset |
//! | `{` | keys and values in turn, `0` at the end | dict |
//! | `r` | u32 number | the object with that number |
//! | `R` | u32 number | the n-th `t` string; Python 2 alone writes it |
//!
//! Code objects (`c`) are refused as an unknown code: nothing here could run one.
//!
//! **Text from Python 2.** A Python 2 client's `str` arrives as `s`, which Python 3 reads as bytes, so that the
//! real server finds neither object nor handshake. This reader takes `s` as text if it is valid UTF-8 and the
//! payload comes from Python 2. A payload comes from Python 2 if it has at least one code that no Python since
//! 3.4 writes in that place (`(` for fewer than 256 items, `t` for ASCII, `R`), and no code that Python 2 does
//! not know (`)`, `a`, `A`, `z`, `Z`, `r`, `FLAG_REF`). Every call of a Python 2 client starts with such a `(`,
//! and every handshake with a `t`; every call of a later Python starts with `)`.
//!
//! **References.** The target of a reference is read again instead of being copied from a table, so that a
//! payload without references pays nothing. Each reading counts against the limits, so that nested references
//! cannot grow into more than a plain payload may hold. A reference to a container that is still being read
//! would close a cycle. Python builds the cycle and fails a moment later, when Pyro walks through the
//! arguments, with the `RecursionError` that this reader returns.
//!
//! The writer uses the codes `N T F . i l g y u s ( [ { < > 0` and never `FLAG_REF`; every Python from 2.7 on
//! reads them.

#[cfg(test)]
mod tests;
mod write;

use num_bigint::{BigInt, Sign};

pub(super) use self::write::{encode, write_dict};

use super::collect::{Budget, DictBuilder, SetBuilder};
use super::utf8;
use crate::value::Object;
use crate::{Exception, Limits, PyroClass, Value};

/// The bit of the type byte that gives an object a number.
const FLAG_REF: u8 = 0x80;

/// Bits per digit of an `l` integer.
const DIGIT_BITS: u32 = 15;

/// The lowest digit value that is too large.
const DIGIT_BASE: u16 = 1 << DIGIT_BITS;

/// Maximum number of digits that always fit an i64.
const SMALL_DIGITS_MAX: usize = 4;

/// Maximum number of items for which memory is allocated before the first item has been read.
const ITEMS_AHEAD_MAX: usize = 64;

/// Length of the longest tuple for which Python 3.4 and later write `)`.
const SMALL_TUPLE_LEN_MAX: usize = 255;

/// Reads one payload. Class dicts stay plain dicts: the caller revives them, from the outside in.
///
/// # Errors
/// The exception that Python's reader raises.
pub(super) fn decode(payload: &[u8], limits: &Limits) -> Result<Value, Exception> {
    let mut reader = Reader::new(payload, limits, Bytes::AreBytes);
    let mut value = reader.top()?;
    if reader.origin.is_python2() && reader.origin.bytes {
        reader = Reader::new(payload, limits, Bytes::AreText);
        value = reader.top()?;
    }
    Ok(value)
}

/// The meaning of `s`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    AreBytes,
    /// Text if it is valid UTF-8: the payload comes from Python 2.
    AreText,
}

/// The evidence about the writer's Python version in the codes read so far.
#[derive(Default)]
struct Origin {
    /// A code that Python 2 does not know.
    modern: bool,
    /// A code that no Python since 3.4 writes in that place.
    old: bool,
    /// There is an `s`, so that the version matters.
    bytes: bool,
}

impl Origin {
    const fn is_python2(&self) -> bool {
        self.old && !self.modern
    }
}

/// An object with a number.
struct Numbered {
    /// Offset of its type byte.
    start: usize,
    state: State,
}

/// The progress of reading a numbered object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Complete,
    Open,
    /// An incomplete frozenset. CPython does not let references reach it.
    OpenFrozenSet,
}

/// The containers that consist of a count and the items.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    Tuple,
    List,
    Set,
    FrozenSet,
}

impl Row {
    const fn open_state(self) -> State {
        match self {
            Self::FrozenSet => State::OpenFrozenSet,
            Self::Tuple | Self::List | Self::Set => State::Open,
        }
    }

    /// The name in CPython's error texts.
    const fn name(self) -> &'static str {
        match self {
            Self::Tuple => "tuple",
            Self::List => "list",
            Self::Set | Self::FrozenSet => "set",
        }
    }
}

struct Reader<'a> {
    payload: &'a [u8],
    at: usize,
    budget: Budget,
    bytes: Bytes,
    numbered: Vec<Numbered>,
    /// Offsets of the `t` strings; `R` refers to them by position.
    interned: Vec<usize>,
    /// True inside the target of a reference: its objects have their numbers already.
    again: bool,
    /// Number of payload bytes that may still be read again.
    again_len_left: usize,
    origin: Origin,
}

impl<'a> Reader<'a> {
    fn new(payload: &'a [u8], limits: &Limits, bytes: Bytes) -> Self {
        Self {
            payload,
            at: 0,
            budget: Budget::new(limits),
            bytes,
            numbered: Vec::new(),
            interned: Vec::new(),
            again: false,
            again_len_left: limits.inflated_len_max,
            origin: Origin::default(),
        }
    }

    fn top(&mut self) -> Result<Value, Exception> {
        self.value("object")
    }

    /// Reads an object. The end mark `0` is an error, whose text names the container `inside`.
    fn value(&mut self, inside: &str) -> Result<Value, Exception> {
        match self.value_or_end()? {
            Some(value) => Ok(value),
            None => Err(null_object(inside)),
        }
    }

    /// Reads an object, or the end mark `0`, for which it returns `None`.
    ///
    /// Nested values recurse through this function, so its stack frame is kept small: work that needs stack
    /// space is done by functions that return before the next object is read.
    fn value_or_end(&mut self) -> Result<Option<Value>, Exception> {
        let start = self.at;
        let Some(&type_byte) = self.payload.get(start) else {
            return Err(eof("EOF read where object expected"));
        };
        self.at += 1;
        self.budget.value()?;
        let flagged = type_byte & FLAG_REF != 0;
        self.origin.modern |= flagged;
        // An object that is read again has its number already.
        let start = (flagged && !self.again).then_some(start);
        match type_byte & !FLAG_REF {
            b'0' => Ok(None),
            b'r' | b'R' => self.repeated(type_byte & !FLAG_REF).map(Some),
            b'(' | b')' => self.row(Row::Tuple, type_byte & !FLAG_REF, start).map(Some),
            b'[' => self.row(Row::List, b'[', start).map(Some),
            b'<' => self.row(Row::Set, b'<', start).map(Some),
            b'>' => self.row(Row::FrozenSet, b'>', start).map(Some),
            b'{' => self.dict(start).map(Some),
            code => self.leaf(code, start).map(Some),
        }
    }

    /// Reads an object without items. It takes a number if its `start` is given.
    fn leaf(&mut self, code: u8, start: Option<usize>) -> Result<Value, Exception> {
        let value = match code {
            b'N' => return Ok(Value::None),
            b'T' => return Ok(Value::Bool(true)),
            b'F' => return Ok(Value::Bool(false)),
            b'.' => return Ok(Value::Ellipsis),
            b'S' => return Ok(class_object()),
            b'i' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'I' => Value::Int(i64::from_le_bytes(self.array()?)),
            b'l' => self.long()?,
            b'g' => Value::Float(self.float()?),
            b'y' => Value::Complex(self.float()?, self.float()?),
            b'f' => Value::Float(self.float_text()?),
            b'x' => Value::Complex(self.float_text()?, self.float_text()?),
            b'z' | b'Z' => {
                let len = self.byte()?.into();
                self.latin1(len)?
            }
            b'a' | b'A' => {
                let len = self.size("string")?;
                self.latin1(len)?
            }
            b'u' => self.utf8()?,
            b't' => self.interned()?,
            b's' => self.byte_string()?,
            _ => return Err(bad("unknown type code")),
        };
        if let Some(start) = start {
            let state = State::Complete;
            self.numbered.push(Numbered { start, state });
        }
        Ok(value)
    }

    /// Reads a container with a count. It takes a number if its `start` is given.
    fn row(&mut self, row: Row, code: u8, start: Option<usize>) -> Result<Value, Exception> {
        let count = self.count(row, code)?;
        let number = self.open(start, row.open_state())?;
        let items = match row {
            Row::Tuple | Row::List => self.items(row, count)?,
            Row::Set | Row::FrozenSet => self.members(count)?,
        };
        self.close(number);
        Ok(match row {
            Row::Tuple => Value::Tuple(items),
            Row::List => Value::List(items),
            Row::Set => Value::Set(items),
            Row::FrozenSet => Value::FrozenSet(items),
        })
    }

    fn count(&mut self, row: Row, code: u8) -> Result<usize, Exception> {
        if code == b')' {
            self.origin.modern = true;
            return self.byte().map(usize::from);
        }
        let count = self.size(row.name())?;
        self.origin.old |= code == b'(' && count <= SMALL_TUPLE_LEN_MAX;
        Ok(count)
    }

    fn items(&mut self, row: Row, count: usize) -> Result<Vec<Value>, Exception> {
        let mut items = Vec::with_capacity(count.min(ITEMS_AHEAD_MAX));
        for _ in 0..count {
            items.push(self.value(row.name())?);
        }
        Ok(items)
    }

    fn members(&mut self, count: usize) -> Result<Vec<Value>, Exception> {
        let mut members = SetBuilder::new();
        for _ in 0..count {
            let member = self.value(Row::Set.name())?;
            members.insert(member)?;
        }
        Ok(members.finish())
    }

    /// Reads keys and values up to the end mark, which CPython also accepts in the place of a value.
    fn dict(&mut self, start: Option<usize>) -> Result<Value, Exception> {
        let number = self.open(start, State::Open)?;
        let mut items = DictBuilder::new();
        while let Some(key) = self.value_or_end()? {
            let Some(value) = self.value_or_end()? else {
                break;
            };
            items.insert(key, value)?;
        }
        self.close(number);
        Ok(Value::Dict(items.finish()))
    }

    /// Begins a container and numbers it if its `start` is given.
    fn open(&mut self, start: Option<usize>, state: State) -> Result<Option<usize>, Exception> {
        if !self.budget.enter() {
            return Err(too_deep());
        }
        Ok(start.map(|start| {
            self.numbered.push(Numbered { start, state });
            self.numbered.len() - 1
        }))
    }

    /// Ends the container to which `open` gave this number.
    fn close(&mut self, number: Option<usize>) {
        self.budget.leave();
        if let Some(object) = number.and_then(|number| self.numbered.get_mut(number)) {
            object.state = State::Complete;
        }
    }

    /// Reads the rest of an `r` or `R`, and the object that it refers to.
    fn repeated(&mut self, code: u8) -> Result<Value, Exception> {
        let start = if code == b'r' {
            self.referred()?
        } else {
            self.interned_referred()?
        };
        self.value_at(start)
    }

    /// Reads the number of an `r` and returns the offset of the object.
    fn referred(&mut self) -> Result<usize, Exception> {
        self.origin.modern = true;
        let number = u32::from_le_bytes(self.array()?) as usize;
        match self.numbered.get(number) {
            Some(object) if object.state == State::Complete => Ok(object.start),
            Some(object) if object.state == State::Open => Err(too_deep()),
            _ => Err(bad("invalid reference")),
        }
    }

    /// Reads the number of an `R` and returns the offset of the interned string.
    fn interned_referred(&mut self) -> Result<usize, Exception> {
        self.origin.old = true;
        let number = u32::from_le_bytes(self.array()?) as usize;
        let start = self.interned.get(number).copied();
        start.ok_or_else(|| bad("string ref out of range"))
    }

    /// Reads the object at an earlier offset again.
    fn value_at(&mut self, start: usize) -> Result<Value, Exception> {
        let resume = std::mem::replace(&mut self.at, start);
        let outer = std::mem::replace(&mut self.again, true);
        let value = self.value("object")?;
        let len = self.at - start;
        self.again_len_left = self
            .again_len_left
            .checked_sub(len)
            .ok_or_else(too_many_copies)?;
        self.at = resume;
        self.again = outer;
        Ok(value)
    }

    /// Reads an int of any size.
    fn long(&mut self) -> Result<Value, Exception> {
        let signed = i32::from_le_bytes(self.array()?);
        if signed == i32::MIN {
            return Err(bad("long size out of range"));
        }
        let count = signed.unsigned_abs() as usize;
        let mut small: i64 = 0;
        let mut large = LongBytes::default();
        for index in 0..count {
            let digit = u16::from_le_bytes(self.array()?);
            if digit >= DIGIT_BASE {
                return Err(bad("digit out of range in long"));
            }
            if digit == 0 && index + 1 == count {
                return Err(bad("unnormalized long data"));
            }
            if count <= SMALL_DIGITS_MAX {
                small |= i64::from(digit) << (DIGIT_BITS as usize * index);
            } else {
                large.push(digit);
            }
        }
        if count <= SMALL_DIGITS_MAX {
            return Ok(Value::Int(if signed < 0 { -small } else { small }));
        }
        let sign = if signed < 0 { Sign::Minus } else { Sign::Plus };
        let number = BigInt::from_bytes_le(sign, &large.finish());
        Ok(match i64::try_from(&number) {
            Ok(number) => Value::Int(number),
            Err(_) => Value::BigInt(Box::new(number)),
        })
    }

    fn float(&mut self) -> Result<f64, Exception> {
        self.array().map(f64::from_le_bytes)
    }

    /// Reads a float as text, up to a NUL byte as C does.
    fn float_text(&mut self) -> Result<f64, Exception> {
        let len = self.byte()?.into();
        let bytes = self.take(len)?;
        let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let number = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok());
        number.ok_or_else(|| {
            let shown = bytes.get(..bytes.len().min(200)).unwrap_or_default();
            Exception::value_error(format!(
                "could not convert string to float: '{}'",
                String::from_utf8_lossy(shown)
            ))
        })
    }

    fn latin1(&mut self, len: usize) -> Result<Value, Exception> {
        self.origin.modern = true;
        let bytes = self.take(len)?;
        Ok(Value::Str(match std::str::from_utf8(bytes) {
            Ok(text) if text.is_ascii() => text.to_owned(),
            _ => bytes.iter().copied().map(char::from).collect(),
        }))
    }

    fn utf8(&mut self) -> Result<Value, Exception> {
        let len = self.size("string")?;
        utf8::text_or_surrogates(self.take(len)?)
    }

    fn interned(&mut self) -> Result<Value, Exception> {
        if !self.again {
            self.interned.push(self.at - 1);
        }
        let value = self.utf8()?;
        self.origin.old |= value.as_str().is_some_and(str::is_ascii);
        Ok(value)
    }

    fn byte_string(&mut self) -> Result<Value, Exception> {
        self.origin.bytes = true;
        let len = self.size("bytes object")?;
        let bytes = self.take(len)?;
        Ok(match (self.bytes, std::str::from_utf8(bytes)) {
            (Bytes::AreText, Ok(text)) => Value::Str(text.to_owned()),
            _ => Value::Bytes(bytes.to_vec()),
        })
    }

    /// Reads a size or count of four bytes. `what` names its owner in the error.
    fn size(&mut self, what: &str) -> Result<usize, Exception> {
        let size = i32::from_le_bytes(self.array()?);
        usize::try_from(size).map_err(|_| bad(&format!("{what} size out of range")))
    }

    fn byte(&mut self) -> Result<u8, Exception> {
        let byte = self.payload.get(self.at).copied();
        self.at += 1;
        byte.ok_or_else(|| eof("EOF read where not expected"))
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], Exception> {
        let rest = self.payload.get(self.at..).unwrap_or_default();
        let array = rest.first_chunk().ok_or_else(too_short)?;
        self.at += LEN;
        Ok(*array)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Exception> {
        let rest = self.payload.get(self.at..).unwrap_or_default();
        let taken = rest.get(..len).ok_or_else(too_short)?;
        self.at += len;
        Ok(taken)
    }
}

/// Packs 15-bit digits into bytes, least significant first.
#[derive(Default)]
struct LongBytes {
    bytes: Vec<u8>,
    pending: u32,
    pending_bits: u32,
}

impl LongBytes {
    fn push(&mut self, digit: u16) {
        self.pending |= u32::from(digit) << self.pending_bits;
        self.pending_bits += DIGIT_BITS;
        while self.pending_bits >= 8 {
            let [low, ..] = self.pending.to_le_bytes();
            self.bytes.push(low);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let [low, ..] = self.pending.to_le_bytes();
        self.bytes.push(low);
        self.bytes
    }
}

/// The class `StopIteration`, the only class that marshal can carry.
fn class_object() -> Value {
    Value::Object(Box::new(Object {
        type_name: "type".to_owned(),
        state: Value::None,
    }))
}

fn bad(what: &str) -> Exception {
    Exception::value_error(format!("bad marshal data ({what})"))
}

fn null_object(inside: &str) -> Exception {
    Exception::type_error(format!("NULL object in marshal data for {inside}"))
}

fn eof(text: &'static str) -> Exception {
    Exception::builtin("EOFError", text)
}

fn too_short() -> Exception {
    eof("marshal data too short")
}

/// The error for a small payload that references would make large.
fn too_many_copies() -> Exception {
    Exception::pyro(
        PyroClass::MessageTooLargeError,
        "message repeats too much of itself",
    )
}

/// The error for nesting that is too deep. Pyro raises it for endless nesting. For finite nesting beyond the
/// limit of this reader, Pyro raises it a few hundred levels later.
fn too_deep() -> Exception {
    Exception::builtin("RecursionError", "maximum recursion depth exceeded")
}
