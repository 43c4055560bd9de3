//! Python's UTF-8 decoder: the same text, and the same errors for invalid bytes.

use crate::exception::ExceptionClass;
use crate::{Exception, Value};

/// Returns `bytes` as text.
///
/// # Errors
/// `UnicodeDecodeError` with Python's five arguments.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Exception> {
    std::str::from_utf8(bytes).map_err(|error| decode_error(bytes, error))
}

/// Decodes text that may hold lone surrogates, each in the three bytes that UTF-8's scheme gives (Python's
/// error handler `surrogatepass`). A pair of surrogates stays two code points.
///
/// # Errors
/// Those of [`text`]. If a surrogate precedes the invalid bytes, the arguments name the first surrogate: Python
/// creates the exception there, and later changes only its attributes.
pub(super) fn text_or_surrogates(bytes: &[u8]) -> Result<Value, Exception> {
    let mut points = Vec::new();
    let mut start = 0;
    let mut first_error = None;
    loop {
        let rest = bytes.get(start..).unwrap_or_default();
        let error = match std::str::from_utf8(rest) {
            Ok(text) if start == 0 => return Ok(text.into()),
            Ok(text) => {
                points.extend(text.chars().map(u32::from));
                return Ok(Value::SurrogateStr(points.into()));
            }
            Err(error) => error,
        };
        let first_error = *first_error.get_or_insert(error);
        let (valid, invalid) = rest
            .split_at_checked(error.valid_up_to())
            .unwrap_or_default();
        let &[0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, ..] = invalid else {
            return Err(decode_error(bytes, first_error));
        };
        points.extend(text(valid)?.chars().map(u32::from));
        points.push(0xd000 | u32::from(second & 0x3f) << 6 | u32::from(third & 0x3f));
        start += valid.len() + 3;
    }
}

/// Encodes code points as [`text_or_surrogates`] decodes them.
pub(super) fn surrogate_bytes(points: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(points.len() * 3);
    for &point in points {
        match char::from_u32(point) {
            Some(character) => {
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            None => {
                let [low, high, ..] = point.to_le_bytes();
                bytes.extend_from_slice(&[
                    0xe0 | high >> 4,
                    0x80 | (high & 0x0f) << 2 | low >> 6,
                    0x80 | low & 0x3f,
                ]);
            }
        }
    }
    bytes
}

/// Converts a Rust error to Python's.
fn decode_error(bytes: &[u8], error: std::str::Utf8Error) -> Exception {
    let at = error.valid_up_to();
    let (end, reason) = match (error.error_len(), bytes.get(at)) {
        (None, _) => (bytes.len(), "unexpected end of data"),
        (Some(len), Some(0xc2..=0xf4)) => (at + len, "invalid continuation byte"),
        (Some(len), _) => (at + len, "invalid start byte"),
    };
    let position = |offset: usize| Value::Int(i64::try_from(offset).unwrap_or(i64::MAX));
    Exception {
        class: ExceptionClass::Builtin("UnicodeDecodeError".into()),
        args: vec![
            "utf-8".into(),
            Value::Bytes(bytes.to_vec()),
            position(at),
            position(end),
            reason.into(),
        ],
        traceback: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected values are those of CPython 3.11.
    #[test]
    fn errors_name_the_bytes_that_python_names() {
        let cases: &[(&[u8], i64, i64, &str)] = &[
            (b"\xff\xfe", 0, 1, "invalid start byte"),
            (b"a\xc3", 1, 2, "unexpected end of data"),
            (b"\xc0\x80", 0, 1, "invalid start byte"),
            (b"\xf5\x80\x80\x80", 0, 1, "invalid start byte"),
            (b"ab\xe2\x82c", 2, 4, "invalid continuation byte"),
            (b"\xed\xa0", 0, 1, "invalid continuation byte"),
            (b"a\x80", 1, 2, "invalid start byte"),
            (b"\xf4\x90\x80\x80", 0, 1, "invalid continuation byte"),
            (b"\xe0\x80\x80", 0, 1, "invalid continuation byte"),
            (b"\xf0\x9f", 0, 2, "unexpected end of data"),
            (b"\xf0\x90\x28\xbc", 0, 2, "invalid continuation byte"),
            (b"\xf0\x28\x8c\xbc", 0, 1, "invalid continuation byte"),
            (b"\xedcc", 0, 1, "invalid continuation byte"),
            (b"\xed\xa0c", 0, 1, "invalid continuation byte"),
        ];
        for &(bytes, start, end, reason) in cases {
            let args = vec![
                "utf-8".into(),
                Value::Bytes(bytes.to_vec()),
                Value::Int(start),
                Value::Int(end),
                reason.into(),
            ];
            assert_eq!(text(bytes).unwrap_err().args, args, "{bytes:x?}");
            assert_eq!(
                text_or_surrogates(bytes).unwrap_err().args,
                args,
                "{bytes:x?}"
            );
        }
    }

    #[test]
    fn errors_after_a_surrogate_name_the_surrogate() {
        let error = text_or_surrogates(b"\xc3\xa9\xed\xa0\x80a\xff").unwrap_err();
        let reason = "invalid continuation byte".into();
        assert_eq!(error.args[2..], [Value::Int(2), Value::Int(3), reason]);
    }

    #[test]
    fn surrogates_are_read_and_written() {
        let bytes = b"\xc3\xa9\xed\xa0\xbd\xed\xb8\x80z\xed\xbf\xbf\xf0\x9f\x98\x80";
        let points = [0xe9, 0xd83d, 0xde00, 0x7a, 0xdfff, 0x1f600];
        assert_eq!(
            text_or_surrogates(bytes).unwrap(),
            Value::SurrogateStr(points.into())
        );
        assert_eq!(surrogate_bytes(&points), bytes);
    }
}
