//! What Python itself does with an argument of the wrong type, where Pyro leaves that to Python:
//! hashing, iterating, unpacking and subscripting, with the errors and texts of CPython 3.11.

use hearth_wire::{Exception, Value};

/// The class name of the part of `value` that makes it unhashable, if any.
pub(super) fn unhashable_type(value: &Value) -> Option<&str> {
    match value {
        Value::List(_) | Value::Set(_) | Value::Dict(_) => Some(value.type_name()),
        Value::Tuple(items) => items.iter().find_map(unhashable_type),
        _ => None,
    }
}

/// Fails as `hash(value)` does.
pub(super) fn check_hashable(value: &Value) -> Result<(), Exception> {
    match unhashable_type(value) {
        Some(type_name) => Err(Exception::type_error(format!(
            "unhashable type: '{type_name}'"
        ))),
        None => Ok(()),
    }
}

/// What `for item in value` goes through, or the value back if Python cannot iterate it.
pub(super) fn iterate(value: Value) -> Result<Vec<Value>, Value> {
    Ok(match value {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            items
        }
        Value::Dict(items) => items.into_iter().map(|(key, _)| key).collect(),
        Value::Str(text) => text.chars().map(|c| Value::Str(c.to_string())).collect(),
        Value::SurrogateStr(points) => points.iter().map(|&point| character(point)).collect(),
        Value::Bytes(bytes) => bytes.into_iter().map(|b| Value::Int(b.into())).collect(),
        // An extension that Pyro4 does not read arrives as a named tuple.
        Value::Object(object) if object.type_name == "ExtType" => return iterate(object.state),
        other => return Err(other),
    })
}

fn character(point: u32) -> Value {
    match char::from_u32(point) {
        Some(c) => Value::Str(c.to_string()),
        None => Value::SurrogateStr(Box::new([point])),
    }
}

/// The error of iterating something that Python cannot iterate.
pub(super) fn not_iterable(value: &Value) -> Exception {
    Exception::type_error(format!("'{}' object is not iterable", value.type_name()))
}

/// `a, b, c = value`.
pub(super) fn unpack_three(value: Value) -> Result<[Value; 3], Exception> {
    let items = iterate(value).map_err(|value| {
        Exception::type_error(format!(
            "cannot unpack non-iterable {} object",
            value.type_name()
        ))
    })?;
    <[Value; 3]>::try_from(items).map_err(|items| {
        Exception::value_error(if items.len() > 3 {
            "too many values to unpack (expected 3)".to_owned()
        } else {
            format!(
                "not enough values to unpack (expected 3, got {})",
                items.len()
            )
        })
    })
}

/// `value[index]`, for what stands where a call's positional arguments should.
pub(super) fn item(value: &Value, index: usize) -> Result<Value, Exception> {
    let out_of_range =
        |kind: &str| Exception::builtin("IndexError", format!("{kind} out of range"));
    match value {
        Value::Tuple(items) => items
            .get(index)
            .cloned()
            .ok_or_else(|| out_of_range("tuple index")),
        Value::List(items) => items
            .get(index)
            .cloned()
            .ok_or_else(|| out_of_range("list index")),
        Value::Str(text) => text
            .chars()
            .nth(index)
            .map(|c| Value::Str(c.to_string()))
            .ok_or_else(|| out_of_range("string index")),
        Value::SurrogateStr(points) => points
            .get(index)
            .map(|&point| character(point))
            .ok_or_else(|| out_of_range("string index")),
        Value::Bytes(bytes) => bytes
            .get(index)
            .map(|&byte| Value::Int(byte.into()))
            .ok_or_else(|| out_of_range("index")),
        Value::Dict(items) => {
            let key = Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
            items
                .iter()
                .find(|(found, _)| *found == key)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| key_error(key))
        }
        other => Err(Exception::type_error(format!(
            "'{}' object is not subscriptable",
            other.type_name()
        ))),
    }
}

/// `value[key]`, for what stands where a dict with text keys should.
pub(super) fn entry<'a>(value: &'a Value, key: &str) -> Result<&'a Value, Exception> {
    let indices = |kind: &str, end: &str| {
        Exception::type_error(format!("{kind} indices must be integers{end}"))
    };
    match value {
        Value::Dict(items) => items
            .iter()
            .find(|(found, _)| found.as_str() == Some(key))
            .map(|(_, value)| value)
            .ok_or_else(|| key_error(key.into())),
        Value::Str(_) | Value::SurrogateStr(_) => Err(indices("string", ", not 'str'")),
        Value::List(_) => Err(indices("list", " or slices, not str")),
        Value::Tuple(_) => Err(indices("tuple", " or slices, not str")),
        Value::Bytes(_) => Err(indices("byte", " or slices, not str")),
        other => Err(Exception::type_error(format!(
            "'{}' object is not subscriptable",
            other.type_name()
        ))),
    }
}

/// `KeyError(key)`.
pub(super) fn key_error(key: Value) -> Exception {
    let mut exception = Exception::builtin("KeyError", "");
    exception.args = vec![key];
    exception
}

/// The `UnicodeEncodeError` of a `str` with lone surrogates, which no store can keep as text.
pub(super) fn surrogates_not_allowed(points: Box<[u32]>) -> Exception {
    let is_surrogate = |point: &u32| (0xD800..=0xDFFF).contains(point);
    let start = points.iter().position(is_surrogate).unwrap_or_default();
    let run = points
        .iter()
        .skip(start)
        .take_while(|&point| is_surrogate(point))
        .count();
    let position = |index: usize| Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
    let mut exception = Exception::builtin("UnicodeEncodeError", "");
    exception.args = vec![
        "utf-8".into(),
        Value::SurrogateStr(points),
        position(start),
        position(start + run),
        "surrogates not allowed".into(),
    ];
    exception
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(exception: Exception) -> String {
        match exception.args.into_iter().next() {
            Some(Value::Str(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_tuple_is_as_hashable_as_its_items() {
        let tuple = Value::Tuple(vec![Value::Int(1), Value::List(vec![])]);
        assert_eq!(unhashable_type(&tuple), Some("list"));
        assert_eq!(unhashable_type(&Value::FrozenSet(vec![])), None);
        let error = check_hashable(&Value::Set(vec![])).expect_err("sets have no hash");
        assert_eq!(text(error), "unhashable type: 'set'");
    }

    #[test]
    fn iteration_yields_what_python_yields() {
        assert_eq!(iterate("ab".into()), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(iterate(Value::Bytes(vec![7])), Ok(vec![Value::Int(7)]));
        let dict = Value::Dict(vec![("k".into(), Value::None)]);
        assert_eq!(iterate(dict), Ok(vec!["k".into()]));
        let surrogate = Value::SurrogateStr(Box::new([0x61, 0xD800]));
        let expected = vec!["a".into(), Value::SurrogateStr(Box::new([0xD800]))];
        assert_eq!(iterate(surrogate), Ok(expected));
        assert_eq!(iterate(Value::None), Err(Value::None));
    }

    #[test]
    fn unpacking_says_how_many_there_were() {
        let three = Value::List(vec![Value::None, Value::None, Value::None]);
        assert!(unpack_three(three).is_ok());
        let error = unpack_three(Value::Tuple(vec![])).expect_err("too few");
        assert_eq!(
            text(error),
            "not enough values to unpack (expected 3, got 0)"
        );
        let error = unpack_three("abcd".into()).expect_err("too many");
        assert_eq!(text(error), "too many values to unpack (expected 3)");
        let error = unpack_three(Value::Int(5)).expect_err("no items");
        assert_eq!(text(error), "cannot unpack non-iterable int object");
    }

    #[test]
    fn a_unicode_error_names_the_first_run_of_surrogates() {
        let points = Box::new([0x61, 0xD800, 0xDC00, 0x62, 0xD801]);
        let exception = surrogates_not_allowed(points);
        assert_eq!(exception.args.len(), 5);
        assert_eq!(exception.args[2], Value::Int(1));
        assert_eq!(exception.args[3], Value::Int(3));
    }
}
