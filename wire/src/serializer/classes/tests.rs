use super::*;
use crate::repr;

const P4: Dialect = Dialect::new(Family::Pyro4, Serializer::Serpent);
const P5: Dialect = Dialect::new(Family::Pyro5, Serializer::Serpent);

fn dict(items: &[(&str, Value)]) -> Vec<(Value, Value)> {
    items
        .iter()
        .map(|(key, value)| (Value::from(*key), value.clone()))
        .collect()
}

/// Returns the `repr()` of the revived value, or class and text of the error.
fn revived(dialect: Dialect, class: &str, items: &[(&str, Value)]) -> String {
    let mut all = dict(&[(CLASS_KEY, class.into())]);
    all.extend(dict(items));
    shown(dialect, revive(dialect, all))
}

fn shown(dialect: Dialect, result: Result<Value, Exception>) -> String {
    match result {
        Ok(value) => repr::repr(&value),
        Err(error) => {
            format!(
                "{}: {}",
                error.class.shown_name(dialect.family),
                error.text()
            )
        }
    }
}

fn state(items: &[Value]) -> Vec<(&'static str, Value)> {
    vec![("state", Value::Tuple(items.to_vec()))]
}

fn tcp_state() -> Vec<(&'static str, Value)> {
    state(&[
        "PYRO".into(),
        "o".into(),
        Value::None,
        "::1".into(),
        Value::Int(5),
    ])
}

fn raised() -> Vec<(&'static str, Value)> {
    vec![
        ("args", Value::List(vec!["x".into()])),
        ("__exception__", Value::Int(1)),
    ]
}

#[test]
fn uris_are_known_in_their_own_family_only() {
    assert_eq!(
        revived(P4, "Pyro4.core.URI", &tcp_state()),
        "<URI; PYRO:o@[::1]:5>"
    );
    assert_eq!(
        revived(P5, "Pyro5.core.URI", &tcp_state()),
        "<URI; PYRO:o@[::1]:5>"
    );
    assert_eq!(
        revived(P4, "Pyro5.core.URI", &tcp_state()),
        "Pyro4.errors.SerializeError: unsupported serialized class: Pyro5.core.URI"
    );
    assert_eq!(
        revived(P5, "Pyro4.core.URI", &tcp_state()),
        "Pyro5.errors.SerializeError: unsupported serialized class: Pyro4.core.URI"
    );
}

#[test]
fn the_state_of_a_uri_has_five_items() {
    let uri = |items: &[(&str, Value)]| revived(P5, "Pyro5.core.URI", items);
    assert_eq!(uri(&[]), "KeyError: 'state'");
    assert_eq!(
        uri(&state(&["PYRO".into(), "o".into()])),
        "ValueError: not enough values to unpack (expected 5, got 2)"
    );
    assert_eq!(
        uri(&state(&vec![Value::None; 6])),
        "ValueError: too many values to unpack (expected 5)"
    );
    assert_eq!(
        uri(&[("state", Value::Int(5))]),
        "TypeError: cannot unpack non-iterable int object"
    );
    let tags = Value::Set(vec!["b".into(), "a".into()]);
    assert_eq!(
        uri(&state(&[
            "PYROMETA".into(),
            tags,
            Value::None,
            Value::None,
            Value::None
        ])),
        "<URI; PYROMETA:a,b>"
    );
}

#[test]
fn exceptions_are_found_by_name() {
    let cases = [
        ("Pyro5.errors.NamingError", "NamingError('x')"),
        ("builtins.ValueError", "ValueError('x')"),
        ("exceptions.ValueError", "ValueError('x')"),
        ("ValueError", "ValueError('x')"),
        ("NamingError", "NamingError('x')"),
        ("IOError", "OSError('x')"),
        ("sqlite3.OperationalError", "OperationalError('x')"),
        ("struct.error", "error('x')"),
        (
            "Pyro5.errors.Nope",
            "AttributeError: module 'Pyro5.errors' has no attribute 'Nope'",
        ),
        (
            "builtins.Nope",
            "AttributeError: module 'builtins' has no attribute 'Nope'",
        ),
        (
            "Nope",
            "ValueError: not enough values to unpack (expected 2, got 1)",
        ),
        (
            "zlib.error",
            "Pyro5.errors.SerializeError: unsupported serialized class: zlib.error",
        ),
    ];
    for (class, expected) in cases {
        assert_eq!(revived(P5, class, &raised()), expected);
    }
    assert_eq!(
        revived(P4, "struct.error", &raised()),
        "Pyro4.errors.SerializeError: unsupported serialized class: struct.error"
    );
}

#[test]
fn built_in_exceptions_must_say_that_they_are_some() {
    let args = [("args", Value::List(Vec::new()))];
    assert_eq!(
        revived(P5, "ValueError", &args),
        "Pyro5.errors.SerializeError: unsupported serialized class: ValueError"
    );
    assert_eq!(revived(P5, "Pyro5.errors.PyroError", &args), "PyroError()");
}

#[test]
fn names_with_double_underscores_are_refused_first() {
    assert_eq!(
        revived(P5, "__main__.X", &raised()),
        "Pyro5.errors.SecurityError: refused to deserialize types with double underscores in their \
         name: __main__.X"
    );
}

#[test]
fn class_names_of_other_types_fail_as_in_python() {
    let of = |class: Value| shown(P5, revive(P5, vec![(CLASS_KEY.into(), class)]));
    assert_eq!(
        of(Value::Int(5)),
        "TypeError: argument of type 'int' is not iterable"
    );
    assert_eq!(
        of(Value::List(Vec::new())),
        "TypeError: unhashable type: 'list'"
    );
    assert_eq!(
        of(Value::Bytes(b"foo.Bar".to_vec())),
        "Pyro5.errors.SerializeError: unsupported serialized class: foo.Bar"
    );
}

#[test]
fn floats_are_a_class_in_serpent_only() {
    let value = |text: &str| [("value", text.into())];
    assert_eq!(revived(P4, "float", &value("nan")), "nan");
    assert_eq!(
        revived(P4, "float", &value("x")),
        "ValueError: could not convert string to float: 'x'"
    );
    let json = Dialect::new(Family::Pyro4, Serializer::Json);
    assert_eq!(
        revived(json, "float", &value("nan")),
        "Pyro4.errors.SerializeError: unsupported serialized class: float"
    );
}

#[test]
fn what_lies_inside_a_class_dict_stays_as_it_was_sent() {
    let unknown = Value::Dict(dict(&[(CLASS_KEY, "foo.Bar".into())]));
    let items = [
        ("args", Value::Tuple(vec![unknown.clone()])),
        ("__exception__", Value::Bool(true)),
    ];
    assert_eq!(
        revived(P5, "ValueError", &items),
        "ValueError({'__class__': 'foo.Bar'})"
    );
    // The exception in a batch's failed item is the only part that is replaced.
    assert_eq!(
        revived(
            P5,
            "Pyro5.core._ExceptionWrapper",
            &[("exception", unknown)]
        ),
        "Pyro5.errors.SerializeError: unsupported serialized class: foo.Bar"
    );
}

#[test]
fn class_dicts_are_replaced_at_any_depth() {
    let mut uri = dict(&[(CLASS_KEY, "Pyro5.core.URI".into())]);
    uri.extend(dict(&tcp_state()));
    let uri = Value::Dict(uri);
    let value = Value::List(vec![
        Value::Tuple(vec![uri.clone()]),
        Value::Dict(vec![("k".into(), uri)]),
    ]);
    assert_eq!(
        shown(P5, recreate(P5, value)),
        "[(<URI; PYRO:o@[::1]:5>,), {'k': <URI; PYRO:o@[::1]:5>}]"
    );
}

#[test]
fn flattened_values_are_revived_as_they_were() {
    let exception = Box::new(Exception {
        traceback: vec!["Traceback\n".to_owned()],
        ..Exception::naming("unknown name: x")
    });
    for dialect in [P4, P5] {
        let value = Value::Exception(exception.clone());
        let items = flatten(dialect, &value).unwrap();
        assert_eq!(revive(dialect, items), Ok(value));
    }
    assert_eq!(flatten(P4, &Value::None), None);
}
