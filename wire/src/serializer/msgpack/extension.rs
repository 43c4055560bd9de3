//! Pyro's extension types, and msgpack's own timestamp.

use num_bigint::BigInt;

use crate::exception::ExceptionClass;
use crate::value::Object;
use crate::{Exception, PyroClass, Value};

/// Extension type of a complex number.
pub(super) const COMPLEX: i8 = 0x30;
/// Extension type of an int beyond 64 bits.
pub(super) const BIG_INT: i8 = 0x31;
/// Extension type of a datetime.
const DATETIME: i8 = 0x32;
/// Extension type of a date.
const DATE: i8 = 0x33;
/// Extension type of msgpack's timestamp.
pub(super) const TIMESTAMP: i8 = -1;

/// Maximum number of digits that Python's `int()` reads from text.
const INT_DIGITS_MAX: usize = 4300;

/// Maximum number of characters of a refused text in the error of Python's `int()`.
const INT_ERROR_LEN_MAX: usize = 200;

/// Reads an extension as Pyro's `ext_hook` does.
///
/// # Errors
/// Those of the Python functions that `ext_hook` calls, and `SerializeError` for an unknown type.
pub(super) fn read(code: i8, data: &[u8]) -> Result<Value, Exception> {
    match code {
        COMPLEX => {
            let both = fixed::<16>(data)?;
            let (real, imaginary) = both.split_at(8);
            Ok(Value::Complex(
                f64::from_le_bytes(fixed(real)?),
                f64::from_le_bytes(fixed(imaginary)?),
            ))
        }
        BIG_INT => int_from_text(data),
        DATETIME => {
            let seconds = f64::from_le_bytes(fixed(data)?);
            check_timestamp(seconds)?;
            Ok(object("datetime.datetime", Value::Float(seconds)))
        }
        DATE => {
            let ordinal = i64::from_le_bytes(fixed(data)?);
            check_ordinal(ordinal)?;
            Ok(object("datetime.date", Value::Int(ordinal)))
        }
        _ => Err(Exception::pyro(
            PyroClass::SerializeError,
            format!("invalid ext code for msgpack: {code}"),
        )),
    }
}

/// Returns the whole of `data`, with the error of Python's `struct.unpack` if its length is not
/// `LEN`.
fn fixed<const LEN: usize>(data: &[u8]) -> Result<[u8; LEN], Exception> {
    data.try_into().map_err(|_| Exception {
        class: ExceptionClass::Other("struct.error".into()),
        args: vec![format!("unpack requires a buffer of {LEN} bytes").into()],
        traceback: Vec::new(),
    })
}

/// Python's `int()` of bytes: surrounding white space, a sign, and digits with single underscores
/// between them.
fn int_from_text(data: &[u8]) -> Result<Value, Exception> {
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'\x0b';
    let start = data.iter().take_while(|byte| is_space(byte)).count();
    let end = data.iter().rev().take_while(|byte| is_space(byte)).count();
    let text = data.get(start..data.len() - end).unwrap_or_default();
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let invalid = || {
        let mut shown = crate::repr::bytes_repr(data);
        // The repr of bytes is ASCII, so every offset is a character boundary.
        shown.truncate(INT_ERROR_LEN_MAX);
        Exception::value_error(format!("invalid literal for int() with base 10: {shown}"))
    };
    let mut plain = String::with_capacity(digits.len());
    let mut after_digit = false;
    for &byte in digits {
        match byte {
            b'0'..=b'9' => plain.push(char::from(byte)),
            b'_' if after_digit => {}
            _ => return Err(invalid()),
        }
        after_digit = byte != b'_';
    }
    if !after_digit {
        return Err(invalid());
    }
    if plain.len() > INT_DIGITS_MAX {
        return Err(Exception::value_error(format!(
            "Exceeds the limit ({INT_DIGITS_MAX} digits) for integer string conversion: value has \
             {} digits; use sys.set_int_max_str_digits() to increase the limit",
            plain.len()
        )));
    }
    let number: BigInt = plain.parse().map_err(|_| invalid())?;
    let number = if negative { -number } else { number };
    Ok(match i64::try_from(&number) {
        Ok(number) => Value::Int(number),
        Err(_) => Value::BigInt(Box::new(number)),
    })
}

/// Reads msgpack's timestamp of 32, 64 or 96 bits.
///
/// # Errors
/// `ValueError` for any other length, and for more than 999999999 nanoseconds.
pub(super) fn timestamp(data: &[u8]) -> Result<Value, Exception> {
    let (seconds, nanoseconds) = if let Ok(seconds) = <[u8; 4]>::try_from(data) {
        (u32::from_be_bytes(seconds).into(), 0)
    } else if let Ok(both) = <[u8; 8]>::try_from(data) {
        let both = u64::from_be_bytes(both);
        ((both & ((1 << 34) - 1)) as i64, (both >> 34) as u32)
    } else if let (Some((nanoseconds, seconds)), 12) = (data.split_first_chunk(), data.len()) {
        let seconds = seconds.try_into().unwrap_or_default();
        (
            i64::from_be_bytes(seconds),
            u32::from_be_bytes(*nanoseconds),
        )
    } else {
        return Err(Exception::value_error(format!(
            "invalid timestamp data (length {})",
            data.len()
        )));
    };
    if nanoseconds > 999_999_999 {
        return Err(Exception::value_error(
            "nanoseconds must be a non-negative integer not greater than 999999999.",
        ));
    }
    Ok(object(
        "Timestamp",
        Value::Tuple(vec![Value::Int(seconds), Value::Int(nanoseconds.into())]),
    ))
}

/// Refuses the timestamps that `datetime.fromtimestamp` refuses, in the time zone UTC.
fn check_timestamp(seconds: f64) -> Result<(), Exception> {
    /// Seconds from 0001-01-01 to 1970-01-01.
    const EPOCH: i64 = 719_162 * 86_400;
    /// Limit on the absolute value; beyond it C's `tm_year` overflows.
    const YEAR_SECONDS_MAX: f64 = 6.7768e16;
    if seconds.is_nan() {
        return Err(Exception::value_error("Invalid value NaN (not a number)"));
    }
    if !(-9.223_372_036_854_776e18..9.223_372_036_854_776e18).contains(&seconds) {
        return Err(Exception::builtin(
            "OverflowError",
            "timestamp out of range for platform time_t",
        ));
    }
    if seconds.abs() > YEAR_SECONDS_MAX {
        return Err(Exception {
            class: ExceptionClass::Builtin("OSError".into()),
            args: vec![
                Value::Int(75),
                "Value too large for defined data type".into(),
            ],
            traceback: Vec::new(),
        });
    }
    let day = (seconds.floor() as i64 + EPOCH).div_euclid(86_400);
    check_year(year_of_day(day))
}

/// Refuses the ordinals that `date.fromordinal` refuses.
fn check_ordinal(ordinal: i64) -> Result<(), Exception> {
    let overflow = |text: &'static str| Err(Exception::builtin("OverflowError", text));
    if ordinal > i32::MAX.into() {
        return overflow("signed integer is greater than maximum");
    }
    if ordinal < i32::MIN.into() {
        return overflow("signed integer is less than minimum");
    }
    if ordinal < 1 {
        return Err(Exception::value_error("ordinal must be >= 1"));
    }
    check_year(year_of_day(ordinal - 1))
}

fn check_year(year: i64) -> Result<(), Exception> {
    if (1..=9999).contains(&year) {
        return Ok(());
    }
    Err(Exception::value_error(format!(
        "year {year} is out of range"
    )))
}

/// The Gregorian year of a day. Day 0 is 0001-01-01.
fn year_of_day(day: i64) -> i64 {
    const DAYS_400: i64 = 146_097;
    const DAYS_100: i64 = 36_524;
    const DAYS_4: i64 = 1_461;
    let (cycles, day) = (day.div_euclid(DAYS_400), day.rem_euclid(DAYS_400));
    // Without the limit, the last day of a leap year would count as the first day of another
    // century or year.
    let centuries = (day / DAYS_100).min(3);
    let day = day - centuries * DAYS_100;
    let (fours, day) = (day / DAYS_4, day % DAYS_4);
    let years = (day / 365).min(3);
    cycles * 400 + centuries * 100 + fours * 4 + years + 1
}

/// Returns the extension as an `ExtType`, which Python's msgpack creates for an extension that no
/// hook reads.
///
/// # Errors
/// `ValueError` for a negative type.
pub(super) fn unread(code: i8, data: &[u8]) -> Result<Value, Exception> {
    if code < 0 {
        return Err(Exception::value_error("code must be 0~127"));
    }
    Ok(object(
        "ExtType",
        Value::Tuple(vec![Value::Int(code.into()), Value::Bytes(data.to_vec())]),
    ))
}

fn object(type_name: &str, state: Value) -> Value {
    Value::Object(Box::new(Object {
        type_name: type_name.to_owned(),
        state,
    }))
}
