//! MessagePack with Pyro's extension types.
//!
//! Strings are UTF-8, and bytes have their own type. Maps with a `__class__` key become objects as soon as they
//! are complete, from the inside out. Tuples and sets are written as arrays. Pyro's extensions are in the byte
//! order of the sender, which is little-endian on all platforms that matter today:
//!
//! | type | data | object |
//! |---|---|---|
//! | 0x30 | two f64 | complex |
//! | 0x31 | ASCII decimal | int beyond 64 bits |
//! | 0x32 | f64, seconds since 1970 | datetime |
//! | 0x33 | i64, day number | date |
//! | -1 | 4, 8 or 12 bytes | msgpack's own `Timestamp` |
//!
//! Pyro5 reads them everywhere. Pyro4 reads them in handshakes and results, and leaves them as
//! `ExtType` in calls.
//!
//! The reader is hand-written, on `rmp`'s type bytes, instead of `rmpv`'s tree: objects must be created and
//! values counted against the limits while maps are read, and each refusal needs the class and text of Python's
//! msgpack. Errors of classes in `msgpack.exceptions` carry no arguments: no Pyro client knows these classes,
//! so none would show the arguments.

mod extension;
#[cfg(test)]
mod tests;
mod write;

use rmp::Marker;

pub(super) use self::write::{encode, write_map};
use super::collect::{Budget, DictBuilder};
use super::{classes, utf8};
use crate::exception::ExceptionClass;
use crate::{Dialect, Exception, Family, Limits, Value};

/// Maximum number of items for which memory is allocated before the first item has been read.
const ITEMS_AHEAD_MAX: usize = 64;

/// Reads a handshake or a result.
///
/// # Errors
/// The exceptions that Python's `msgpack.unpackb` or Pyro's hooks raise.
pub(super) fn decode(
    dialect: Dialect,
    payload: &[u8],
    limits: &Limits,
) -> Result<Value, Exception> {
    read(dialect, payload, limits, true)
}

/// Reads a call. Pyro4 does not interpret extensions in calls.
///
/// # Errors
/// Those of [`decode`].
pub(crate) fn decode_call(
    dialect: Dialect,
    payload: &[u8],
    limits: &Limits,
) -> Result<Value, Exception> {
    read(dialect, payload, limits, dialect.family == Family::Pyro5)
}

fn read(
    dialect: Dialect,
    payload: &[u8],
    limits: &Limits,
    pyro_extensions: bool,
) -> Result<Value, Exception> {
    let mut reader = Reader {
        dialect,
        payload,
        rest: payload,
        budget: Budget::new(limits),
        pyro_extensions,
    };
    let value = reader.value()?;
    if reader.rest.is_empty() {
        Ok(value)
    } else {
        Err(msgpack_error("ExtraData"))
    }
}

struct Reader<'a> {
    dialect: Dialect,
    payload: &'a [u8],
    rest: &'a [u8],
    budget: Budget,
    /// True: read Pyro's extension types. False: return an `ExtType` for each.
    pyro_extensions: bool,
}

impl<'a> Reader<'a> {
    /// Reads one value. Nested values recurse through this function, so its stack frame is kept small: work
    /// that needs stack space is done by functions that return before the next value is read.
    fn value(&mut self) -> Result<Value, Exception> {
        self.budget.value()?;
        match Marker::from_u8(self.byte()?) {
            Marker::FixArray(count) => self.list(count.into()),
            marker @ (Marker::Array16 | Marker::Array32) => {
                let count = self.count(marker)?;
                self.list(count)
            }
            Marker::FixMap(count) => self.map(count.into()),
            marker @ (Marker::Map16 | Marker::Map32) => {
                let count = self.count(marker)?;
                self.map(count)
            }
            marker => self.leaf(marker),
        }
    }

    fn count(&mut self, marker: Marker) -> Result<usize, Exception> {
        match marker {
            Marker::Array16 | Marker::Map16 => self.len16(),
            _ => self.len32(),
        }
    }

    /// Reads a value that contains no other values.
    fn leaf(&mut self, marker: Marker) -> Result<Value, Exception> {
        Ok(match marker {
            Marker::Null => Value::None,
            Marker::False => Value::Bool(false),
            Marker::True => Value::Bool(true),

            Marker::FixPos(number) => Value::Int(number.into()),
            Marker::FixNeg(number) => Value::Int(number.into()),
            Marker::U8 => Value::Int(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Value::Int(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Value::Int(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => unsigned(u64::from_be_bytes(self.array()?)),
            Marker::I8 => Value::Int(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => Value::Int(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => Value::Int(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => Value::Int(i64::from_be_bytes(self.array()?)),
            Marker::F32 => Value::Float(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => Value::Float(f64::from_be_bytes(self.array()?)),

            Marker::FixStr(len) => self.text(len.into())?,
            Marker::Str8 => self.len8().and_then(|len| self.text(len))?,
            Marker::Str16 => self.len16().and_then(|len| self.text(len))?,
            Marker::Str32 => self.len32().and_then(|len| self.text(len))?,
            Marker::Bin8 => self.len8().and_then(|len| self.bytes(len))?,
            Marker::Bin16 => self.len16().and_then(|len| self.bytes(len))?,
            Marker::Bin32 => self.len32().and_then(|len| self.bytes(len))?,

            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 => self.len8().and_then(|len| self.extension(len))?,
            Marker::Ext16 => self.len16().and_then(|len| self.extension(len))?,
            Marker::Ext32 => self.len32().and_then(|len| self.extension(len))?,

            Marker::Reserved
            | Marker::FixArray(_)
            | Marker::Array16
            | Marker::Array32
            | Marker::FixMap(_)
            | Marker::Map16
            | Marker::Map32 => return Err(msgpack_error("FormatError")),
        })
    }

    fn text(&mut self, len: usize) -> Result<Value, Exception> {
        utf8::text(self.take(len)?).map(Value::from)
    }

    fn bytes(&mut self, len: usize) -> Result<Value, Exception> {
        self.take(len).map(|bytes| Value::Bytes(bytes.to_vec()))
    }

    fn list(&mut self, count: usize) -> Result<Value, Exception> {
        self.enter("array", count, self.payload.len())?;
        let mut items = Vec::with_capacity(count.min(ITEMS_AHEAD_MAX));
        for _ in 0..count {
            items.push(self.value()?);
        }
        self.budget.leave();
        Ok(Value::List(items))
    }

    /// Reads a map and returns it or the object that it describes.
    fn map(&mut self, count: usize) -> Result<Value, Exception> {
        self.enter("map", count, self.payload.len() / 2)?;
        let mut items = DictBuilder::new();
        for _ in 0..count {
            let key = self.value()?;
            let value = self.value()?;
            check_key(&key)?;
            items.insert(key, value)?;
        }
        self.budget.leave();
        classes::revive(self.dialect, items.finish())
    }

    /// Begins a container. Its announced count must be at most `max`: the number of bytes in the payload for an
    /// array, half of it for a map. Python's msgpack has the same rule.
    fn enter(&mut self, what: &str, count: usize, max: usize) -> Result<(), Exception> {
        if count > max {
            return Err(Exception::value_error(format!(
                "{count} exceeds max_{what}_len({max})"
            )));
        }
        if !self.budget.enter() {
            return Err(msgpack_error("StackError"));
        }
        Ok(())
    }

    /// Reads the type byte and the `len` bytes of data of an extension.
    fn extension(&mut self, len: usize) -> Result<Value, Exception> {
        let code = i8::from_be_bytes(self.array()?);
        let data = self.take(len)?;
        match code {
            extension::TIMESTAMP => extension::timestamp(data),
            _ if self.pyro_extensions => extension::read(code, data),
            _ => extension::unread(code, data),
        }
    }

    fn byte(&mut self) -> Result<u8, Exception> {
        self.array().map(u8::from_be_bytes)
    }

    fn len8(&mut self) -> Result<usize, Exception> {
        self.byte().map(usize::from)
    }

    fn len16(&mut self) -> Result<usize, Exception> {
        self.array().map(|len| u16::from_be_bytes(len).into())
    }

    fn len32(&mut self) -> Result<usize, Exception> {
        self.array().map(|len| u32::from_be_bytes(len) as usize)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], Exception> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(incomplete)?;
        self.rest = rest;
        Ok(*array)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Exception> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(incomplete)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// The value of a 64-bit unsigned int.
fn unsigned(number: u64) -> Value {
    match i64::try_from(number) {
        Ok(number) => Value::Int(number),
        Err(_) => Value::BigInt(Box::new(number.into())),
    }
}

/// Checks the type of a map key. Python's msgpack accepts strings and bytes only.
fn check_key(key: &Value) -> Result<(), Exception> {
    match key {
        Value::Str(_) | Value::Bytes(_) => Ok(()),
        _ => Err(Exception::value_error(format!(
            "{} is not allowed for map key when strict_map_key=True",
            key.type_name()
        ))),
    }
}

fn incomplete() -> Exception {
    Exception::value_error("Unpack failed: incomplete input")
}

/// Creates one of the exceptions of Python's msgpack itself.
fn msgpack_error(name: &str) -> Exception {
    Exception {
        class: ExceptionClass::Other(format!("msgpack.exceptions.{name}").into()),
        args: Vec::new(),
        traceback: Vec::new(),
    }
}
