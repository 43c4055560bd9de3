use num_bigint::BigInt;
use proptest::prelude::*;

use super::{decode, encode};
use crate::exception::ExceptionClass;
use crate::{Dialect, Exception, Family, Limits, PyroClass, Serializer, Value};

const DIALECT: Dialect = Dialect::new(Family::Pyro4, Serializer::Marshal);

fn read(payload: &[u8]) -> Value {
    decode(payload, &Limits::default()).unwrap()
}

/// Returns class and text of the error for `payload`.
fn refusal(payload: &[u8]) -> (String, String) {
    described(&decode(payload, &Limits::default()).unwrap_err())
}

fn described(error: &Exception) -> (String, String) {
    let text = error.args.first().and_then(Value::as_str);
    (
        error.class.name().to_owned(),
        text.unwrap_or_default().to_owned(),
    )
}

fn text(text: &str) -> Value {
    text.into()
}

/// Returns a type byte and a count or length, followed by `rest`.
fn sized(code: u8, size: i32, rest: &[u8]) -> Vec<u8> {
    [&[code], &size.to_le_bytes()[..], rest].concat()
}

fn reference(number: i32) -> Vec<u8> {
    sized(b'r', number, b"")
}

/// Tests each code once. The bytes are those that some version of CPython writes for the value.
#[test]
fn every_code_is_read() {
    let big: BigInt = BigInt::from(2).pow(70) + 5;
    let cases: Vec<(Vec<u8>, Value)> = vec![
        (b"N".to_vec(), Value::None),
        (b"T".to_vec(), Value::Bool(true)),
        (b"F".to_vec(), Value::Bool(false)),
        (b".".to_vec(), Value::Ellipsis),
        (b"i\xfe\xff\xff\xff".to_vec(), Value::Int(-2)),
        (b"\xe9\x07\0\0\0".to_vec(), Value::Int(7)),
        (b"I\0\0\0\0\x01\0\0\0".to_vec(), Value::Int(1 << 32)),
        (sized(b'l', 0, b""), Value::Int(0)),
        (sized(b'l', -1, b"\x05\0"), Value::Int(-5)),
        (
            sized(b'l', 4, b"\xff\x7f\xff\x7f\xff\x7f\xff\x7f"),
            Value::Int((1 << 60) - 1),
        ),
        (
            sized(b'l', 5, b"\xff\x7f\xff\x7f\xff\x7f\xff\x7f\x07\0"),
            Value::Int(i64::MAX),
        ),
        (
            sized(b'l', -5, b"\0\0\0\0\0\0\0\0\x08\0"),
            Value::Int(i64::MIN),
        ),
        (
            sized(b'l', 5, b"\0\0\0\0\0\0\0\0\x08\0"),
            Value::BigInt(Box::new(BigInt::from(1u64 << 63))),
        ),
        (
            sized(b'l', 5, b"\x05\0\0\0\0\0\0\0\0\x04"),
            Value::BigInt(Box::new(big.clone())),
        ),
        (
            sized(b'l', -5, b"\x05\0\0\0\0\0\0\0\0\x04"),
            Value::BigInt(Box::new(-big)),
        ),
        (b"g\0\0\0\0\0\0\xf8?".to_vec(), Value::Float(1.5)),
        (
            b"y\0\0\0\0\0\0\xf8?\0\0\0\0\0\0\0\xc0".to_vec(),
            Value::Complex(1.5, -2.0),
        ),
        (b"f\x051e300".to_vec(), Value::Float(1e300)),
        (b"f\x04-inf".to_vec(), Value::Float(f64::NEG_INFINITY)),
        (b"f\x041.5\0".to_vec(), Value::Float(1.5)),
        (b"x\x031.5\x02-2".to_vec(), Value::Complex(1.5, -2.0)),
        (b"z\x02ab".to_vec(), text("ab")),
        (b"\xda\x02ab".to_vec(), text("ab")),
        (b"z\x02\xc3\xa9".to_vec(), text("\u{c3}\u{a9}")),
        (sized(b'a', 2, b"ab"), text("ab")),
        (sized(b'A', 2, b"\xff\xfe"), text("\u{ff}\u{fe}")),
        (sized(b'u', 2, b"\xc3\xa9"), text("\u{e9}")),
        (sized(b't', 2, b"\xc3\xa9"), text("\u{e9}")),
        (
            sized(b'u', 4, b"a\xed\xa0\x80"),
            Value::SurrogateStr([0x61, 0xd800].into()),
        ),
        (sized(b's', 2, b"\xff\0"), Value::Bytes(vec![0xff, 0])),
        (
            b")\x02NT".to_vec(),
            Value::Tuple(vec![Value::None, Value::Bool(true)]),
        ),
        (sized(b'(', 1, b"N"), Value::Tuple(vec![Value::None])),
        (sized(b'[', 1, b"N"), Value::List(vec![Value::None])),
        (
            sized(b'<', 3, b"TNT"),
            Value::Set(vec![Value::Bool(true), Value::None]),
        ),
        (sized(b'>', 1, b"N"), Value::FrozenSet(vec![Value::None])),
        (
            b"{z\x01aNz\x01bTz\x01aF0".to_vec(),
            Value::Dict(vec![
                (text("a"), Value::Bool(false)),
                (text("b"), Value::Bool(true)),
            ]),
        ),
        (b"{N0".to_vec(), Value::Dict(vec![])),
        (b"{0".to_vec(), Value::Dict(vec![])),
    ];
    for (payload, value) in cases {
        assert_eq!(read(&payload), value, "{}", payload.escape_ascii());
        let trailing = [payload.as_slice(), b"junk"].concat();
        assert_eq!(read(&trailing), value, "{}", payload.escape_ascii());
    }
}

/// The expected classes and texts are those of CPython 3.11.
#[test]
fn malformed_payloads_get_pythons_errors() {
    let null = |inside: &str| format!("NULL object in marshal data for {inside}");
    let bad = |what: &str| format!("bad marshal data ({what})");
    let not_a_float = |text: &str| format!("could not convert string to float: '{text}'");
    let cases: Vec<(Vec<u8>, &str, String)> = vec![
        (
            b"".to_vec(),
            "EOFError",
            "EOF read where object expected".into(),
        ),
        (
            b"i\0\0\0".to_vec(),
            "EOFError",
            "marshal data too short".into(),
        ),
        (
            b")".to_vec(),
            "EOFError",
            "EOF read where not expected".into(),
        ),
        (
            b"z".to_vec(),
            "EOFError",
            "EOF read where not expected".into(),
        ),
        (
            b"(\x01".to_vec(),
            "EOFError",
            "marshal data too short".into(),
        ),
        (
            b"{NN".to_vec(),
            "EOFError",
            "EOF read where object expected".into(),
        ),
        (
            b"{N".to_vec(),
            "EOFError",
            "EOF read where object expected".into(),
        ),
        (b"\0".to_vec(), "ValueError", bad("unknown type code")),
        (b"c".to_vec(), "ValueError", bad("unknown type code")),
        (b"0".to_vec(), "TypeError", null("object")),
        (b")\x01\xb0".to_vec(), "TypeError", null("tuple")),
        (sized(b'(', 1, b"0"), "TypeError", null("tuple")),
        (sized(b'[', 1, b"0"), "TypeError", null("list")),
        (sized(b'<', 1, b"0"), "TypeError", null("set")),
        (sized(b'>', 1, b"0"), "TypeError", null("set")),
        (
            sized(b'(', -1, b""),
            "ValueError",
            bad("tuple size out of range"),
        ),
        (
            sized(b'[', -1, b""),
            "ValueError",
            bad("list size out of range"),
        ),
        (
            sized(b'<', -1, b""),
            "ValueError",
            bad("set size out of range"),
        ),
        (
            sized(b'>', i32::MIN, b""),
            "ValueError",
            bad("set size out of range"),
        ),
        (
            sized(b's', -1, b""),
            "ValueError",
            bad("bytes object size out of range"),
        ),
        (
            sized(b'u', -1, b""),
            "ValueError",
            bad("string size out of range"),
        ),
        (
            sized(b'a', -1, b""),
            "ValueError",
            bad("string size out of range"),
        ),
        (
            sized(b'l', i32::MIN, b""),
            "ValueError",
            bad("long size out of range"),
        ),
        (
            sized(b'l', 1, b"\0\x80"),
            "ValueError",
            bad("digit out of range in long"),
        ),
        (
            sized(b'l', 3, b"\xff\xff"),
            "ValueError",
            bad("digit out of range in long"),
        ),
        (
            sized(b'l', 2, b"\x01\0\0\0"),
            "ValueError",
            bad("unnormalized long data"),
        ),
        (reference(0), "ValueError", bad("invalid reference")),
        (reference(-1), "ValueError", bad("invalid reference")),
        (
            b")\x02\xcer\0\0\0\0".to_vec(),
            "ValueError",
            bad("invalid reference"),
        ),
        (
            sized(b'<', 1, b"[\0\0\0\0"),
            "TypeError",
            "unhashable type: 'list'".into(),
        ),
        (
            b"{{0N0".to_vec(),
            "TypeError",
            "unhashable type: 'dict'".into(),
        ),
        (b"f\x041.5x".to_vec(), "ValueError", not_a_float("1.5x")),
        (b"f\x041_05".to_vec(), "ValueError", not_a_float("1_05")),
        (b"f\x04 1.5".to_vec(), "ValueError", not_a_float(" 1.5")),
        (b"x\x011\x00".to_vec(), "ValueError", not_a_float("")),
        (
            [b"f\xc9".as_slice(), &[b'z'; 201]].concat(),
            "ValueError",
            not_a_float(&"z".repeat(200)),
        ),
        (
            sized(b'u', 1, b"\xff"),
            "UnicodeDecodeError",
            "utf-8".into(),
        ),
    ];
    for (payload, class, text) in cases {
        assert_eq!(
            refusal(&payload),
            (class.to_owned(), text),
            "{}",
            payload.escape_ascii()
        );
    }
}

#[test]
fn announced_sizes_are_not_believed() {
    for code in *b"([<>" {
        let (class, text) = refusal(&sized(code, i32::MAX, b""));
        assert_eq!(
            (class.as_str(), text.as_str()),
            ("EOFError", "EOF read where object expected")
        );
    }
    for code in *b"sutaAl" {
        let (class, text) = refusal(&sized(code, i32::MAX, b""));
        assert_eq!(
            (class.as_str(), text.as_str()),
            ("EOFError", "marshal data too short")
        );
    }
}

#[test]
fn a_payload_cut_anywhere_is_refused() {
    // The bytes that CPython 3.11 writes for ('o', 'lookup', ['o', 2**70, 1.5, {1}], {'a': b'x'}), with more
    // flags.
    let payload = [
        b"\xa9\x04\xda\x01oz\x06lookup\xdb\x04\0\0\0r\x01\0\0\0".as_slice(),
        b"l\x05\0\0\0\0\0\0\0\0\0\0\0\0\x04g\0\0\0\0\0\0\xf8?\xbc\x01\0\0\0\xe9\x01\0\0\0",
        b"\xfb\xda\x01as\x01\0\0\0x0",
    ]
    .concat();
    read(&payload);
    for len in 0..payload.len() {
        let (class, _) = refusal(&payload[..len]);
        assert_eq!(class, "EOFError", "cut after {len} bytes");
    }
}

#[test]
fn containers_take_their_number_before_their_items() {
    // [['a'], <the list>, <its item>] inside a numbered tuple.
    let payload = [
        b"\xa9\x01[\x03\0\0\0\xdb\x01\0\0\0\xda\x01a".as_slice(),
        &reference(1),
        &reference(2),
    ]
    .concat();
    let list = Value::List(vec![text("a")]);
    assert_eq!(
        read(&payload),
        Value::Tuple(vec![Value::List(vec![list.clone(), list, text("a")])])
    );
}

#[test]
fn constants_and_references_take_no_number() {
    let payload = [
        b")\x07\xce\xd4\xc6\xae\xe9\x07\0\0\0\xf2".as_slice(),
        &0i32.to_le_bytes(),
        &reference(0),
    ]
    .concat();
    let Value::Tuple(items) = read(&payload) else {
        panic!("not a tuple");
    };
    assert_eq!(items[4..], [Value::Int(7), Value::Int(7), Value::Int(7)]);
    let payload = [b")\x02\xe9\x07\0\0\0".as_slice(), &reference(1)].concat();
    assert_eq!(refusal(&payload).1, "bad marshal data (invalid reference)");
}

#[test]
fn what_is_read_again_takes_no_second_number() {
    // ([7], <the list>, 8, <8>): number 2 is the 8, although the 7 is read twice.
    let payload = [
        b")\x04\xdb\x01\0\0\0\xe9\x07\0\0\0".as_slice(),
        &reference(0),
        b"\xe9\x08\0\0\0",
        &reference(2),
    ]
    .concat();
    let list = Value::List(vec![Value::Int(7)]);
    assert_eq!(
        read(&payload),
        Value::Tuple(vec![list.clone(), list, Value::Int(8), Value::Int(8)])
    );
}

#[test]
fn cycles_are_refused() {
    let recursion = (
        "RecursionError".to_owned(),
        "maximum recursion depth exceeded".to_owned(),
    );
    let cycles = [
        [b"\xdb\x01\0\0\0".as_slice(), &reference(0)].concat(),
        [b"\xa9\x01".as_slice(), &reference(0)].concat(),
        [b"\xa8\x01\0\0\0".as_slice(), &reference(0)].concat(),
        [b"\xfbN".as_slice(), &reference(0), b"0"].concat(),
        [b"\xdb\x01\0\0\0)\x01[\x01\0\0\0".as_slice(), &reference(0)].concat(),
    ];
    for payload in cycles {
        assert_eq!(refusal(&payload), recursion, "{}", payload.escape_ascii());
    }
    let frozen = [b"\xbe\x01\0\0\0".as_slice(), &reference(0)].concat();
    assert_eq!(refusal(&frozen).1, "bad marshal data (invalid reference)");
}

#[test]
fn references_cannot_multiply_without_end() {
    // Thirty lists, each with ten references to the one before it: 10 to the 30th values.
    let mut payload = sized(b'[', 30, b"\xdb\x01\0\0\0N");
    for number in 0..29 {
        payload.extend_from_slice(b"\xdb\x0a\0\0\0");
        payload.extend_from_slice(&reference(number).repeat(10));
    }
    let error = decode(&payload, &Limits::default()).unwrap_err();
    assert_eq!(
        error.class,
        ExceptionClass::Pyro(PyroClass::MessageTooLargeError)
    );
}

#[test]
fn a_long_text_cannot_be_repeated_without_end() {
    let limits = Limits {
        inflated_len_max: 10_000,
        ..Limits::default()
    };
    let repeated = |count: u8| {
        let text = sized(b'u' | 0x80, 1000, &[b'x'; 1000]);
        [
            &[b')', count + 1],
            text.as_slice(),
            &reference(0).repeat(count.into()),
        ]
        .concat()
    };
    assert!(decode(&repeated(9), &limits).is_ok());
    let error = decode(&repeated(10), &limits).unwrap_err();
    assert_eq!(
        error.class,
        ExceptionClass::Pyro(PyroClass::MessageTooLargeError)
    );
}

#[test]
fn nesting_ends_at_the_limit() {
    let limits = Limits::default();
    let nested = |unit: &[u8], depth: usize, end: &[u8]| {
        [unit.repeat(depth).as_slice(), b"N", &end.repeat(depth)].concat()
    };
    for (unit, end) in [
        (b")\x01".as_slice(), b"".as_slice()),
        (b"[\x01\0\0\0", b""),
        (b">\x01\0\0\0", b""),
        (b"{N", b"0"),
    ] {
        let fits = nested(unit, limits.depth_max, end);
        assert!(decode(&fits, &limits).is_ok());
        let (class, _) = refusal(&nested(unit, limits.depth_max + 1, end));
        assert_eq!(class, "RecursionError");
        let (class, _) = refusal(&unit.repeat(1_000_000));
        assert_eq!(class, "RecursionError");
    }
}

#[test]
fn references_do_not_evade_the_nesting_limit() {
    // Each list holds the one before it, so every reference is one level deeper.
    let depth = Limits::default().depth_max;
    let chain = |count: usize| {
        let mut payload = sized(b'[', i32::try_from(count + 1).unwrap(), b"\xdb\0\0\0\0");
        for number in 0..count {
            payload.extend_from_slice(b"\xdb\x01\0\0\0");
            payload.extend_from_slice(&reference(i32::try_from(number).unwrap()));
        }
        payload
    };
    assert!(decode(&chain(depth - 2), &Limits::default()).is_ok());
    let (class, _) = refusal(&chain(depth));
    assert_eq!(class, "RecursionError");
}

#[test]
fn values_are_counted() {
    let limits = Limits {
        value_count_max: 10,
        ..Limits::default()
    };
    assert!(decode(&sized(b'[', 9, &[b'N'; 9]), &limits).is_ok());
    let error = decode(&sized(b'[', 10, &[b'N'; 10]), &limits).unwrap_err();
    assert_eq!(
        error.class,
        ExceptionClass::Pyro(PyroClass::MessageTooLargeError)
    );
}

/// The bytes that Python 2.7.18 writes for `(object, "register", ["a b", uri], {"safe": True, "metadata":
/// ["t1", "t1", u"caf\xe9"]})` and for the two kinds of handshake.
#[test]
fn strings_of_python_2_are_text() {
    let call = b"(\x04\x00\x00\x00s\x0f\x00\x00\x00Pyro.NameServert\x08\x00\x00\x00register\
        [\x02\x00\x00\x00s\x03\x00\x00\x00a bs\n\x00\x00\x00PYRO:x@y:1{t\x04\x00\x00\x00safeT\
        t\x08\x00\x00\x00metadata[\x03\x00\x00\x00t\x02\x00\x00\x00t1R\x03\x00\x00\x00\
        u\x05\x00\x00\x00caf\xc3\xa90";
    let metadata = Value::List(vec![text("t1"), text("t1"), text("caf\u{e9}")]);
    assert_eq!(
        read(call),
        Value::Tuple(vec![
            text("Pyro.NameServer"),
            text("register"),
            Value::List(vec![text("a b"), text("PYRO:x@y:1")]),
            Value::Dict(vec![
                (text("safe"), Value::Bool(true)),
                (text("metadata"), metadata),
            ]),
        ])
    );
    let handshake =
        b"{t\x09\0\0\0handshaket\x05\0\0\0hellot\x06\0\0\0objects\x0f\0\0\0Pyro.NameServer0";
    assert_eq!(
        read(handshake),
        Value::Dict(vec![
            (text("handshake"), text("hello")),
            (text("object"), text("Pyro.NameServer")),
        ])
    );
}

#[test]
fn bytes_of_python_2_that_are_no_text_stay_bytes() {
    let call = b"(\x02\0\0\0s\x01\0\0\0as\x01\0\0\0\xff";
    assert_eq!(
        read(call),
        Value::Tuple(vec![text("a"), Value::Bytes(vec![0xff])])
    );
}

#[test]
fn bytes_of_python_3_stay_bytes() {
    let bytes = Value::Bytes(b"a".to_vec());
    for payload in [
        b")\x01s\x01\0\0\0a".as_slice(),
        b"\xf3\x01\0\0\0a",
        b"s\x01\0\0\0a",
        b"[\x02\0\0\0s\x01\0\0\0az\x01a",
        b"(\x02\0\0\0s\x01\0\0\0a)\0",
    ] {
        let value = match read(payload) {
            Value::Tuple(items) | Value::List(items) => items[0].clone(),
            other => other,
        };
        assert_eq!(value, bytes, "{}", payload.escape_ascii());
    }
}

#[test]
fn strings_that_python_2_cannot_have_named_are_refused() {
    let (class, text) = refusal(b"(\x02\0\0\0t\x01\0\0\0aR\x01\0\0\0");
    assert_eq!(class, "ValueError");
    assert_eq!(text, "bad marshal data (string ref out of range)");
}

#[test]
fn the_writer_uses_codes_that_python_2_reads() {
    let value = Value::Tuple(vec![
        text("\u{e9}"),
        Value::Int(-1),
        Value::Int(i64::MIN),
        Value::List(vec![Value::None, Value::Bool(true), Value::Bool(false)]),
        Value::Dict(vec![(text("k"), Value::Float(1.5))]),
        Value::SurrogateStr([0xd800].into()),
    ]);
    let mut out = Vec::new();
    encode(DIALECT, &value, &mut out).unwrap();
    assert_eq!(
        out,
        b"(\x06\0\0\0u\x02\0\0\0\xc3\xa9i\xff\xff\xff\xffl\xfb\xff\xff\xff\0\0\0\0\0\0\0\0\x08\0\
          [\x03\0\0\0NTF{u\x01\0\0\0kg\0\0\0\0\0\0\xf8?0u\x03\0\0\0\xed\xa0\x80"
    );
}

#[test]
fn uris_are_written_at_any_depth() {
    let uri = crate::Uri::parse("PYRO:o@h:1", 9090).unwrap();
    let value = Value::Tuple(vec![Value::Uri(Box::new(uri.clone())), Value::List(vec![])]);
    for family in [Family::Pyro4, Family::Pyro5] {
        let dialect = Dialect::new(family, Serializer::Marshal);
        let mut out = Vec::new();
        dialect.encode(&value, &mut out).unwrap();
        assert_eq!(dialect.decode(&out, &Limits::default()).unwrap(), value);
    }
}

/// The possible shapes of a URI's state, written directly and by way of a class dict.
#[test]
fn uris_are_written_as_their_class_dicts() {
    for text in [
        "PYRO:o@h:1",
        "PYRO:o@./u:/run/x",
        "PYRONAME:n",
        "PYROMETA:a,b@h:1",
    ] {
        let uri = Value::Uri(Box::new(crate::Uri::parse(text, 9090).unwrap()));
        for serializer in [Serializer::Marshal, Serializer::Msgpack] {
            let dialect = Dialect::new(Family::Pyro5, serializer);
            let class_dict = crate::serializer::classes::flatten(dialect, &uri).unwrap();
            let (mut direct, mut detour) = (Vec::new(), Vec::new());
            dialect.encode(&uri, &mut direct).unwrap();
            dialect
                .encode(&Value::Dict(class_dict), &mut detour)
                .unwrap();
            assert_eq!(direct, detour, "{text}");
        }
    }
}

/// Values that marshal carries unchanged. Bytes are never valid UTF-8 here: the writer's tuples have the shape
/// of Python 2's, so valid UTF-8 inside them would be read as text.
fn values() -> impl Strategy<Value = Value> {
    let hashable = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<i32>().prop_map(|number| Value::Int(number.into())),
        any::<i16>().prop_map(|number| Value::Int(number.into())),
        any::<f64>()
            .prop_filter("a key that equals itself", |number| !number.is_nan())
            .prop_map(Value::Float),
        (any::<f32>(), any::<f32>())
            .prop_filter("numbers", |(a, b)| !a.is_nan() && !b.is_nan())
            .prop_map(|(real, imaginary)| Value::Complex(real.into(), imaginary.into())),
        (any::<bool>(), prop::collection::vec(any::<u32>(), 3..20)).prop_map(
            |(negative, mut digits)| {
                digits.push(1);
                let number = BigInt::from(num_bigint::BigUint::new(digits));
                Value::BigInt(Box::new(if negative { -number } else { number }))
            }
        ),
        any::<String>().prop_map(Value::Str),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|mut bytes| {
            bytes.push(0xff);
            Value::Bytes(bytes)
        }),
        prop::collection::vec(any::<char>(), 0..10).prop_map(|characters| {
            let points = characters.into_iter().map(u32::from);
            Value::SurrogateStr(points.chain([0xdc80]).collect())
        }),
    ];
    let hashable = hashable.boxed();
    let leaf = hashable.clone();
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Tuple),
            prop::collection::vec((any::<String>(), inner), 0..6).prop_map(|items| {
                let items: std::collections::BTreeMap<_, _> = items.into_iter().collect();
                let items = items
                    .into_iter()
                    .map(|(key, value)| (Value::Str(key), value));
                Value::Dict(items.collect())
            }),
            hashable.clone().prop_map(|item| Value::Set(vec![item])),
            hashable
                .clone()
                .prop_map(|item| Value::FrozenSet(vec![item])),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(value in values()) {
        let mut out = Vec::new();
        encode(DIALECT, &value, &mut out).unwrap();
        prop_assert_eq!(read(&out), value);
    }

    #[test]
    fn any_bytes_are_read_or_refused(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&payload, &Limits::default());
    }

    /// Payloads of mostly codes, small sizes and references reach more of the reader than random ones.
    #[test]
    fn near_misses_are_read_or_refused(
        payload in prop::collection::vec(
            prop_oneof![
                prop::sample::select(b"NTF.iIlgyfxzZaAutsrR()[<>{0".to_vec()),
                prop::sample::select(b"\xe9\xec\xda\xe1\xa8\xa9\xdb\xbc\xbe\xfb\xf5".to_vec()),
                0..4u8,
                Just(0u8),
                Just(0u8),
            ],
            0..120,
        )
    ) {
        let limits = Limits { value_count_max: 10_000, ..Limits::default() };
        let _ = decode(&payload, &limits);
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
        for unit in [b")\x01".as_slice(), b"[\x01\0\0\0", b"{N"] {
            let _ = decode(&unit.repeat(100_000), &limits);
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    thread.spawn(deep).unwrap().join().unwrap();
}
