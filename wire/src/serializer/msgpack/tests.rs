use num_bigint::BigInt;
use proptest::prelude::*;

use super::{decode, decode_call, encode};
use crate::exception::ExceptionClass;
use crate::value::Object;
use crate::{Dialect, Exception, Family, Limits, PyroClass, Serializer, Value};

const PYRO4: Dialect = Dialect::new(Family::Pyro4, Serializer::Msgpack);
const PYRO5: Dialect = Dialect::new(Family::Pyro5, Serializer::Msgpack);

fn read(payload: &[u8]) -> Value {
    decode(PYRO5, payload, &Limits::default()).unwrap()
}

fn refused(payload: &[u8]) -> Exception {
    decode(PYRO5, payload, &Limits::default()).unwrap_err()
}

fn value_error(text: &str) -> Exception {
    Exception::value_error(text)
}

fn msgpack_class(name: &'static str) -> ExceptionClass {
    ExceptionClass::Other(format!("msgpack.exceptions.{name}").into())
}

fn object(type_name: &str, state: Value) -> Value {
    Value::Object(Box::new(Object {
        type_name: type_name.to_owned(),
        state,
    }))
}

/// Returns an extension of at most 255 bytes.
fn extension(code: u8, data: &[u8]) -> Vec<u8> {
    let len = u8::try_from(data.len()).unwrap();
    [&[0xc7, len, code], data].concat()
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    encode(PYRO5, value, &mut out).unwrap();
    out
}

#[test]
fn every_type_byte_is_read() {
    let big = |number: u64| Value::BigInt(Box::new(BigInt::from(number)));
    let text = |text: &str| Value::from(text);
    let list = Value::List(vec![Value::None]);
    let map = Value::Dict(vec![(text("a"), Value::Int(1))]);
    let cases: Vec<(&[u8], Value)> = vec![
        (b"\xc0", Value::None),
        (b"\xc2", Value::Bool(false)),
        (b"\xc3", Value::Bool(true)),
        (b"\x7f", Value::Int(127)),
        (b"\xe0", Value::Int(-32)),
        (b"\xcc\xff", Value::Int(255)),
        (b"\xcd\xff\xff", Value::Int(65_535)),
        (b"\xce\xff\xff\xff\xff", Value::Int(4_294_967_295)),
        (
            b"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff",
            Value::Int(i64::MAX),
        ),
        (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", big(u64::MAX)),
        (b"\xd0\x80", Value::Int(-128)),
        (b"\xd1\x80\0", Value::Int(-32_768)),
        (b"\xd2\x80\0\0\0", Value::Int(-2_147_483_648)),
        (b"\xd3\x80\0\0\0\0\0\0\0", Value::Int(i64::MIN)),
        (b"\xca\x3f\xc0\0\0", Value::Float(1.5)),
        (b"\xcb\x3f\xf8\0\0\0\0\0\0", Value::Float(1.5)),
        (b"\xa2\xc3\xa9", text("\u{e9}")),
        (b"\xd9\x01a", text("a")),
        (b"\xda\0\x01a", text("a")),
        (b"\xdb\0\0\0\x01a", text("a")),
        (b"\xc4\x01\xff", Value::Bytes(vec![0xff])),
        (b"\xc5\0\x01\xff", Value::Bytes(vec![0xff])),
        (b"\xc6\0\0\0\x01\xff", Value::Bytes(vec![0xff])),
        (b"\x91\xc0", list.clone()),
        (b"\xdc\0\x01\xc0", list.clone()),
        (b"\xdd\0\0\0\x01\xc0", list),
        (b"\x81\xa1a\x01", map.clone()),
        (b"\xde\0\x01\xa1a\x01", map.clone()),
        (b"\xdf\0\0\0\x01\xa1a\x01", map.clone()),
        (b"\x82\xa1a\x02\xa1a\x01", map),
        (
            b"\x81\xc4\x01a\x01",
            Value::Dict(vec![(Value::Bytes(b"a".to_vec()), Value::Int(1))]),
        ),
    ];
    for (payload, value) in cases {
        assert_eq!(read(payload), value, "{}", payload.escape_ascii());
        for len in 0..payload.len() {
            let error = refused(&payload[..len]);
            assert_eq!(
                error.class.name(),
                "ValueError",
                "{}",
                payload.escape_ascii()
            );
        }
        let trailing = [payload, b"\xc0"].concat();
        assert_eq!(refused(&trailing).class, msgpack_class("ExtraData"));
    }
}

/// The expected classes and texts are those of msgpack 1.2 for CPython 3.11.
#[test]
fn malformed_payloads_get_pythons_errors() {
    let cases: Vec<(&[u8], &str)> = vec![
        (b"", "Unpack failed: incomplete input"),
        (b"\xd9\x64a", "Unpack failed: incomplete input"),
        (b"\xdb\xff\xff\xff\xff", "Unpack failed: incomplete input"),
        (b"\xc6\xff\xff\xff\xff", "Unpack failed: incomplete input"),
        (
            b"\xc9\xff\xff\xff\xfe\x01",
            "Unpack failed: incomplete input",
        ),
        (b"\x94\xa1o", "4 exceeds max_array_len(3)"),
        (
            b"\xdd\xff\xff\xff\xff",
            "4294967295 exceeds max_array_len(5)",
        ),
        (b"\xdc\0\x04\x01", "Unpack failed: incomplete input"),
        (b"\xdf\xff\xff\xff\xff", "4294967295 exceeds max_map_len(2)"),
        (b"\x83\xa1a\x01", "3 exceeds max_map_len(2)"),
        (
            b"\x81\x01\x01",
            "int is not allowed for map key when strict_map_key=True",
        ),
        (
            b"\x81\xc0\x01",
            "NoneType is not allowed for map key when strict_map_key=True",
        ),
        (
            b"\x81\x90\x01",
            "list is not allowed for map key when strict_map_key=True",
        ),
        (b"\xc7\0\x31", "invalid literal for int() with base 10: b''"),
        (
            b"\xd5\x31zz",
            "invalid literal for int() with base 10: b'zz'",
        ),
        (
            b"\xd5\x311_",
            "invalid literal for int() with base 10: b'1_'",
        ),
        (
            b"\xd5\x31\xff1",
            "invalid literal for int() with base 10: b'\\xff1'",
        ),
        (
            b"\xd7\x32\0\0\0\0\0\0\xf8\x7f",
            "Invalid value NaN (not a number)",
        ),
        (b"\xd7\x33\0\0\0\0\0\0\0\0", "ordinal must be >= 1"),
        (
            b"\xd7\x33\x00\x09\x3d\0\0\0\0\0",
            "year 10952 is out of range",
        ),
        (
            b"\xc7\x05\xff\0\0\0\0\0",
            "invalid timestamp data (length 5)",
        ),
        (
            b"\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            "nanoseconds must be a non-negative integer not greater than 999999999.",
        ),
    ];
    for (payload, text) in cases {
        assert_eq!(
            refused(payload),
            value_error(text),
            "{}",
            payload.escape_ascii()
        );
    }
    assert_eq!(refused(b"\x91\xc1").class, msgpack_class("FormatError"));
    assert_eq!(refused(b"\xa1\xff").class.name(), "UnicodeDecodeError");
    assert_eq!(
        refused(b"\xa3\xed\xa0\x80").class.name(),
        "UnicodeDecodeError"
    );
}

#[test]
fn pyros_extensions_are_read() {
    let complex = [1f64.to_le_bytes(), (-2f64).to_le_bytes()].concat();
    let cases: Vec<(Vec<u8>, Value)> = vec![
        (extension(0x30, &complex), Value::Complex(1.0, -2.0)),
        (extension(0x31, b" -1_2\x0b"), Value::Int(-12)),
        (
            extension(0x31, b"1180591620717411303424"),
            Value::BigInt(Box::new(BigInt::from(2).pow(70))),
        ),
        (
            extension(0x32, &1_700_000_000.25f64.to_le_bytes()),
            object("datetime.datetime", Value::Float(1_700_000_000.25)),
        ),
        (
            extension(0x33, &738_000i64.to_le_bytes()),
            object("datetime.date", Value::Int(738_000)),
        ),
        (
            extension(0xff, b"\0\0\0\x07"),
            object(
                "Timestamp",
                Value::Tuple(vec![Value::Int(7), Value::Int(0)]),
            ),
        ),
        (
            extension(0xff, b"\0\0\0\x04\0\0\0\x07"),
            object(
                "Timestamp",
                Value::Tuple(vec![Value::Int(7), Value::Int(1)]),
            ),
        ),
        (
            extension(0xff, b"\0\0\0\x01\xff\xff\xff\xff\xff\xff\xff\xfe"),
            object(
                "Timestamp",
                Value::Tuple(vec![Value::Int(-2), Value::Int(1)]),
            ),
        ),
    ];
    for (payload, value) in cases {
        assert_eq!(read(&payload), value, "{}", payload.escape_ascii());
    }
    assert_eq!(
        refused(&extension(0x34, b"a")),
        Exception::pyro(
            PyroClass::SerializeError,
            "invalid ext code for msgpack: 52"
        )
    );
    let error = refused(&extension(0x30, b"a"));
    assert_eq!(error.class, ExceptionClass::Other("struct.error".into()));
    assert_eq!(error.args, ["unpack requires a buffer of 16 bytes".into()]);
}

#[test]
fn pyro4_reads_no_extensions_in_calls() {
    let limits = Limits::default();
    let payload = extension(0x31, b"zz");
    assert_eq!(
        decode_call(PYRO4, &payload, &limits).unwrap(),
        object(
            "ExtType",
            Value::Tuple(vec![Value::Int(0x31), Value::Bytes(b"zz".to_vec())])
        )
    );
    assert!(decode(PYRO4, &payload, &limits).is_err());
    assert!(decode_call(PYRO5, &payload, &limits).is_err());
    assert_eq!(
        decode_call(PYRO4, &extension(0xfe, b""), &limits).unwrap_err(),
        value_error("code must be 0~127")
    );
    let timestamp = decode_call(PYRO4, &extension(0xff, &[0; 4]), &limits).unwrap();
    assert_eq!(timestamp.type_name(), "Timestamp");
}

/// The bounds are those of `datetime.fromtimestamp` and `date.fromordinal` in CPython 3.11 in UTC.
#[test]
fn datetimes_end_where_pythons_end() {
    let datetime = |seconds: f64| {
        decode(
            PYRO5,
            &extension(0x32, &seconds.to_le_bytes()),
            &Limits::default(),
        )
        .map_err(|error| {
            error
                .args
                .last()
                .and_then(Value::as_str)
                .unwrap()
                .to_owned()
        })
    };
    assert!(datetime(253_402_300_799.0).is_ok());
    assert!(datetime(-62_135_510_400.0).is_ok());
    for (seconds, text) in [
        (253_402_300_800.0, "year 10000 is out of range"),
        (-62_135_596_801.0, "year 0 is out of range"),
        (1e15, "year 31690708 is out of range"),
        (-1e15, "year -31686769 is out of range"),
        (6.7e16, "year 2123147449 is out of range"),
        (6.8e16, "Value too large for defined data type"),
        (-9.2e18, "Value too large for defined data type"),
        (9.3e18, "timestamp out of range for platform time_t"),
        (f64::INFINITY, "timestamp out of range for platform time_t"),
    ] {
        assert_eq!(datetime(seconds).unwrap_err(), text, "{seconds}");
    }
    let date = |ordinal: i64| {
        decode(
            PYRO5,
            &extension(0x33, &ordinal.to_le_bytes()),
            &Limits::default(),
        )
        .map_err(|error| {
            error
                .args
                .last()
                .and_then(Value::as_str)
                .unwrap()
                .to_owned()
        })
    };
    assert!(date(1).is_ok());
    assert!(date(3_652_059).is_ok());
    for (ordinal, text) in [
        (3_652_060, "year 10000 is out of range"),
        (i64::from(i32::MAX), "year 5879611 is out of range"),
        (1 << 31, "signed integer is greater than maximum"),
        (-(1 << 31), "ordinal must be >= 1"),
        (-(1 << 31) - 1, "signed integer is less than minimum"),
    ] {
        assert_eq!(date(ordinal).unwrap_err(), text, "{ordinal}");
    }
}

#[test]
fn integers_in_text_have_pythons_length_limit() {
    let text = "1".repeat(4301);
    let len = u16::try_from(text.len()).unwrap().to_be_bytes();
    let payload = [b"\xc8".as_slice(), &len, b"\x31", text.as_bytes()].concat();
    assert_eq!(
        refused(&payload),
        value_error(
            "Exceeds the limit (4300 digits) for integer string conversion: value has 4301 \
             digits; use sys.set_int_max_str_digits() to increase the limit"
        )
    );
}

#[test]
fn errors_show_the_start_of_a_long_text_only() {
    let shown = format!("b'{}", "z".repeat(198));
    assert_eq!(
        refused(&extension(0x31, &[b'z'; 250])),
        value_error(&format!("invalid literal for int() with base 10: {shown}"))
    );
}

#[test]
fn maps_with_a_class_become_objects_from_the_inside_out() {
    let uri = crate::Uri::parse("PYRO:o@h:1", 9090).unwrap();
    let uri = Value::Uri(Box::new(uri));
    let map = Value::Dict(vec![("u".into(), Value::List(vec![uri]))]);
    let payload = encoded(&map);
    assert_eq!(read(&payload), map);
    let other_family = decode(PYRO4, &payload, &Limits::default()).unwrap_err();
    assert_eq!(
        other_family,
        Exception::pyro(
            PyroClass::SerializeError,
            "unsupported serialized class: Pyro5.core.URI"
        )
    );
    // The inner map is refused although the payload ends directly after it.
    assert_eq!(
        refused(b"\x92\x81\xa9__class__\xa1x"),
        Exception::pyro(PyroClass::SerializeError, "unsupported serialized class: x")
    );
}

#[test]
fn nesting_ends_at_the_limit() {
    let limits = Limits::default();
    for unit in [b"\x91".as_slice(), b"\x81\xa1a"] {
        let nested = |depth: usize| [unit.repeat(depth).as_slice(), b"\xc0"].concat();
        assert!(decode(PYRO5, &nested(limits.depth_max), &limits).is_ok());
        let error = refused(&nested(limits.depth_max + 1));
        assert_eq!(error.class, msgpack_class("StackError"));
        let error = refused(&nested(1_000_000));
        assert_eq!(error.class, msgpack_class("StackError"));
    }
}

#[test]
fn values_are_counted() {
    let limits = Limits {
        value_count_max: 10,
        ..Limits::default()
    };
    assert!(decode(PYRO5, b"\x99\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0", &limits).is_ok());
    let error = decode(
        PYRO5,
        b"\x9a\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0",
        &limits,
    )
    .unwrap_err();
    assert_eq!(
        error.class,
        ExceptionClass::Pyro(PyroClass::MessageTooLargeError)
    );
}

#[test]
fn the_writer_takes_the_shortest_form() {
    let cases: Vec<(Value, &[u8])> = vec![
        (Value::Int(-1), b"\xff"),
        (Value::Int(128), b"\xcc\x80"),
        (Value::Int(-33), b"\xd0\xdf"),
        (Value::Int(i64::MIN), b"\xd3\x80\0\0\0\0\0\0\0"),
        (
            Value::BigInt(Box::new(BigInt::from(u64::MAX))),
            b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
        (
            Value::BigInt(Box::new(-BigInt::from(u64::MAX))),
            b"\xc7\x15\x31-18446744073709551615",
        ),
        (Value::Float(1.5), b"\xcb\x3f\xf8\0\0\0\0\0\0"),
        (Value::Set(vec![Value::None]), b"\x91\xc0"),
        (Value::Tuple(vec!["a".into()]), b"\x91\xa1a"),
        (Value::Bytes(vec![1]), b"\xc4\x01\x01"),
        (
            Value::Complex(1.0, 0.0),
            b"\xd8\x30\0\0\0\0\0\0\xf0\x3f\0\0\0\0\0\0\0\0",
        ),
    ];
    for (value, bytes) in cases {
        assert_eq!(encoded(&value), bytes, "{value:?}");
    }
}

#[test]
fn what_msgpack_cannot_carry_is_refused_and_leaves_nothing_behind() {
    for value in [
        Value::Ellipsis,
        Value::FrozenSet(vec![]),
        Value::SurrogateStr([0xd800].into()),
        object("Proxy", Value::None),
    ] {
        let mut out = b"before".to_vec();
        let list = Value::List(vec![Value::None, value]);
        assert!(PYRO5.encode(&list, &mut out).is_err());
        assert_eq!(out, b"before");
    }
}

/// Values that msgpack carries unchanged.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<i16>().prop_map(|number| Value::Int(number.into())),
        any::<f64>()
            .prop_filter("equal to itself", |number| !number.is_nan())
            .prop_map(Value::Float),
        any::<(i32, i32)>().prop_map(|(a, b)| Value::Complex(a.into(), b.into())),
        (any::<bool>(), any::<u128>()).prop_map(|(negative, magnitude)| {
            let number = BigInt::from(magnitude | 1 << 127);
            Value::BigInt(Box::new(if negative { -number } else { number }))
        }),
        any::<String>().prop_map(Value::Str),
        "[a-z]{20,300}".prop_map(Value::Str),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(5, 60, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::List),
            prop::collection::btree_map(any::<String>(), inner, 0..20).prop_map(|items| {
                let items = items
                    .into_iter()
                    .map(|(key, value)| (Value::Str(key), value));
                Value::Dict(items.collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(value in values()) {
        prop_assert_eq!(read(&encoded(&value)), value);
    }

    #[test]
    fn any_bytes_are_read_or_refused(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(PYRO5, &payload, &Limits::default());
        let _ = decode_call(PYRO4, &payload, &Limits::default());
    }

    #[test]
    fn a_payload_cut_anywhere_is_refused(value in values(), cut in any::<prop::sample::Index>()) {
        let payload = encoded(&value);
        let len = cut.index(payload.len());
        prop_assert!(decode(PYRO5, &payload[..len], &Limits::default()).is_err());
    }
}

/// The deepest nesting that any limits allow must fit the default stack of a Rust thread.
#[test]
fn the_deepest_nesting_fits_a_small_stack() {
    let limits = Limits {
        depth_max: usize::MAX,
        ..Limits::default()
    };
    let deep = move || {
        for unit in [b"\x91".as_slice(), b"\x81\xa1a"] {
            let _ = decode(PYRO5, &unit.repeat(100_000), &limits);
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    thread.spawn(deep).unwrap().join().unwrap();
}
