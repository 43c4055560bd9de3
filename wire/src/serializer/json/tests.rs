use super::*;
use crate::{Family, Serializer, repr};

const DIALECT: Dialect = Dialect::new(Family::Pyro5, Serializer::Json);

/// Returns the `repr()` of the value, or class and text of the error.
fn shown(text: &str) -> String {
    match decode(text.as_bytes(), &Limits::default()) {
        Ok(value) => repr::repr(&value),
        Err(error) => format!("{}: {}", error.class.name(), error.text()),
    }
}

fn check(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(shown(text), *expected, "{text:?}");
    }
}

/// The expected texts are those of CPython 3.11 for `repr(json.loads(text))`.
#[test]
fn documents_mean_what_they_mean_in_python() {
    check(&[
        (" \t\r\n[null, true, false]\n", "[None, True, False]"),
        ("[NaN, Infinity, -Infinity]", "[nan, inf, -inf]"),
        ("[0, -0, 1E+5, 1e400, -0.0]", "[0, 0, 100000.0, inf, -0.0]"),
        (
            "-123456789012345678901234567890",
            "-123456789012345678901234567890",
        ),
        (r#"{"a": 1, "b": 2, "a": 3}"#, "{'a': 3, 'b': 2}"),
        (r#""\"\\\/\b\f\n\r\t\u00e9""#, r#"'"\\/\x08\x0c\n\r\té'"#),
        (r#""\ud83d\ude00""#, "'\u{1f600}'"),
        (r#""\ud83d""#, r"'\ud83d'"),
        (r#""\ude00\ud83d\ud83d\ude00""#, "'\\ude00\\ud83d\u{1f600}'"),
        (r#""\ud83dx\ude00\n""#, r"'\ud83dx\ude00\n'"),
        ("\"\u{7f}\u{2028}\"", r"'\x7f\u2028'"),
    ]);
}

/// The expected texts and positions are those of CPython 3.11. Positions count characters.
#[test]
fn malformed_documents_are_refused_as_python_does() {
    check(&[
        (
            "",
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        ),
        (
            "{\"object\": ",
            "JSONDecodeError: Expecting value: line 1 column 12 (char 11)",
        ),
        (
            "[1,]",
            "JSONDecodeError: Expecting value: line 1 column 4 (char 3)",
        ),
        (
            "[1 2]",
            "JSONDecodeError: Expecting ',' delimiter: line 1 column 4 (char 3)",
        ),
        (
            "[\"é\",\n\"é\" x]",
            "JSONDecodeError: Expecting ',' delimiter: line 2 column 5 (char 10)",
        ),
        (
            "{\"a\":1,}",
            "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 8 \
             (char 7)",
        ),
        (
            "{\"a\" 1}",
            "JSONDecodeError: Expecting ':' delimiter: line 1 column 6 (char 5)",
        ),
        (
            "01",
            "JSONDecodeError: Extra data: line 1 column 2 (char 1)",
        ),
        (
            "[-]",
            "JSONDecodeError: Expecting value: line 1 column 2 (char 1)",
        ),
        (
            "[\"ab",
            "JSONDecodeError: Unterminated string starting at: line 1 column 2 (char 1)",
        ),
        (
            "\"a\u{1}\"",
            "JSONDecodeError: Invalid control character at: line 1 column 3 (char 2)",
        ),
        (
            "\"\\x\"",
            "JSONDecodeError: Invalid \\escape: line 1 column 2 (char 1)",
        ),
        (
            "\"\\u12g4\"",
            "JSONDecodeError: Invalid \\uXXXX escape: line 1 column 3 (char 2)",
        ),
        (
            "\u{feff}1",
            "JSONDecodeError: Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 \
             (char 0)",
        ),
    ]);
    let error = decode(b"\"\xff\"", &Limits::default()).unwrap_err();
    assert_eq!(
        error.text(),
        "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"
    );
}

#[test]
fn nesting_values_and_digits_are_limited() {
    assert_eq!(
        shown(&"[".repeat(1_000_000)),
        "RecursionError: maximum recursion depth exceeded while decoding a JSON array from a \
         unicode string"
    );
    let limits = Limits {
        value_count_max: 3,
        ..Limits::default()
    };
    assert!(decode(b"[1,2]", &limits).is_ok());
    assert!(decode(b"{\"a\":[]}", &limits).is_ok());
    assert!(decode(b"{\"a\":[1]}", &limits).is_err());
    assert!(shown(&"1".repeat(4301)).starts_with("ValueError: Exceeds the limit (4300 digits)"));
}

fn written(value: &Value) -> Result<String, EncodeError> {
    let mut out = Vec::new();
    encode(DIALECT, value, &mut out).map(|()| String::from_utf8(out).unwrap())
}

#[test]
fn values_are_written_as_python_writes_them() {
    let cases = [
        (Value::Float(f64::NAN), "NaN"),
        (Value::Float(1e16), "1e+16"),
        (
            "é\"\\\n\r\t\u{8}\u{c}\u{1}\u{7f}\u{2028}".into(),
            "\"é\\\"\\\\\\n\\r\\t\\b\\f\\u0001\u{7f}\u{2028}\"",
        ),
        (Value::Set(vec!["a".into(), "b".into()]), "[\"a\", \"b\"]"),
        (
            Value::Dict(vec![
                ("k".into(), Value::Tuple(Vec::new())),
                (Value::Bool(true), Value::None),
                (Value::Float(1.5), Value::Int(2)),
            ]),
            "{\"k\": [], \"true\": null, \"1.5\": 2}",
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(written(&value).as_deref(), Ok(expected));
    }
}

#[test]
fn what_json_cannot_express_is_refused() {
    for value in [
        Value::Bytes(Vec::new()),
        Value::Complex(1.0, 2.0),
        Value::FrozenSet(Vec::new()),
        Value::Ellipsis,
        Value::SurrogateStr([0xd800].into()),
        Value::Dict(vec![(Value::Tuple(Vec::new()), Value::None)]),
    ] {
        assert!(written(&value).is_err(), "{value:?}");
    }
}
