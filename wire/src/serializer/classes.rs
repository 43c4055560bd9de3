//! Class dicts: the form of objects in formats that have only plain data.
//!
//! Pyro sends an object as a dict whose `__class__` names its class. The receiver reads the whole payload first
//! and then replaces such dicts from the outside in ([`recreate`]); the content of a class dict stays as it was
//! sent. msgpack alone replaces each map as soon as it is complete ([`revive`]). Nothing is ever imported or
//! called: only the classes below exist.

use std::collections::BTreeSet;

use super::builtin_exceptions;
use crate::exception::ExceptionClass;
use crate::uri::{UriObject, UriState};
use crate::value::Object;
use crate::{Dialect, Exception, Family, PyroClass, Serializer, Uri, Value};

/// The key that marks a class dict.
pub(super) const CLASS_KEY: &str = "__class__";

/// Returns true if these are the items of a class dict.
pub(super) fn has_class(items: &[(Value, Value)]) -> bool {
    items.iter().any(|(key, _)| key.as_str() == Some(CLASS_KEY))
}

/// Replaces the class dicts in `value` from the outside in, in lists, tuples and the values of dicts, as Pyro's
/// `recreate_classes` does.
///
/// # Errors
/// Those of [`revive`].
pub(super) fn recreate(dialect: Dialect, value: Value) -> Result<Value, Exception> {
    let all = |items: Vec<Value>| -> Result<Vec<Value>, Exception> {
        items
            .into_iter()
            .map(|item| recreate(dialect, item))
            .collect()
    };
    match value {
        Value::List(items) => Ok(Value::List(all(items)?)),
        Value::Tuple(items) => Ok(Value::Tuple(all(items)?)),
        Value::Dict(items) if has_class(&items) => revive(dialect, items),
        Value::Dict(items) => Ok(Value::Dict(
            items
                .into_iter()
                .map(|(key, value)| Ok((key, recreate(dialect, value)?)))
                .collect::<Result<_, Exception>>()?,
        )),
        other => Ok(other),
    }
}

/// Turns a dict with a `__class__` key into the object that it describes; a dict without one stays a dict.
/// Values inside are taken as they are, except for the exception inside an `_ExceptionWrapper`.
///
/// # Errors
/// The exception that Pyro raises for this dict: `SerializeError` for an unknown class, `SecurityError` for a
/// class name with two underscores, a built-in error for a missing part or a part of the wrong type.
pub(super) fn revive(dialect: Dialect, items: Vec<(Value, Value)>) -> Result<Value, Exception> {
    let Some(class) = get(&items, CLASS_KEY) else {
        return Ok(Value::Dict(items));
    };
    if dialect.serializer == Serializer::Serpent && class.as_str() == Some("float") {
        return revive_float(&items);
    }
    let class = class_name(class)?.into_owned();
    if class.contains("__") {
        return Err(Exception::pyro(
            PyroClass::SecurityError,
            format!("refused to deserialize types with double underscores in their name: {class}"),
        ));
    }
    let family = dialect.family;
    let errors = errors_module(family);
    if let Some(name) = class
        .strip_prefix(errors)
        .and_then(|rest| rest.strip_prefix('.'))
    {
        let class = PyroClass::from_name(name).ok_or_else(|| no_attribute(errors, name))?;
        return revive_exception(family, ExceptionClass::Pyro(class), &items);
    }
    let (module, name) = class.rsplit_once('.').unwrap_or(("", &class));
    match (module, name) {
        ("Pyro4.core" | "Pyro5.core", "URI") if of_family(module, family) => {
            uri_from_state(require(&items, "state")?)
        }
        ("Pyro4.core", "Proxy" | "Daemon")
        | ("Pyro5.client", "Proxy")
        | ("Pyro5.server", "Daemon")
            if of_family(module, family) =>
        {
            Ok(object(name, require(&items, "state")?.clone()))
        }
        ("Pyro4.util" | "Pyro5.util", _)
            if of_family(module, family) && is_serializer_class(name, family) =>
        {
            Ok(object(name, Value::None))
        }
        ("struct", "error") if family == Family::Pyro5 => {
            revive_exception(family, ExceptionClass::Other("struct.error".into()), &items)
        }
        ("Pyro4.futures" | "Pyro5.core", "_ExceptionWrapper") if of_family(module, family) => {
            revive_wrapper(dialect, items)
        }
        _ if class.starts_with(family_prefix(family)) => Err(unsupported(&class)),
        _ if get(&items, "__exception__").is_some_and(Value::is_truthy) => {
            revive_exception(family, plain_exception_class(&class)?, &items)
        }
        _ => Err(unsupported(&class)),
    }
}

/// Returns the items of the class dict that describes a URI, an exception or an exception wrapper; `None` for
/// other values. The items may hold values that need a class dict themselves.
pub(super) fn flatten(dialect: Dialect, value: &Value) -> Option<Vec<(Value, Value)>> {
    let family = dialect.family;
    match value {
        Value::Uri(uri) => Some(vec![
            (CLASS_KEY.into(), uri_class(family).into()),
            ("state".into(), Value::Tuple(uri_state(uri).into())),
        ]),
        Value::Exception(exception) => Some(vec![
            (
                CLASS_KEY.into(),
                Value::Str(exception.class.wire_name(family).into_owned()),
            ),
            ("__exception__".into(), Value::Bool(true)),
            ("args".into(), Value::Tuple(exception.args.clone())),
            (
                "attributes".into(),
                Value::Dict(vec![(
                    "_pyroTraceback".into(),
                    Value::List(
                        exception
                            .traceback_lines(family)
                            .into_iter()
                            .map(Value::Str)
                            .collect(),
                    ),
                )]),
            ),
        ]),
        Value::ExceptionWrapper(exception) => Some(vec![
            (CLASS_KEY.into(), wrapper_class(family).into()),
            ("exception".into(), Value::Exception(exception.clone())),
        ]),
        _ => None,
    }
}

/// `__class__` of a URI.
pub(super) const fn uri_class(family: Family) -> &'static str {
    match family {
        Family::Pyro4 => "Pyro4.core.URI",
        Family::Pyro5 => "Pyro5.core.URI",
    }
}

/// `__class__` of the item that stands for a failed call of a batch.
const fn wrapper_class(family: Family) -> &'static str {
    match family {
        Family::Pyro4 => "Pyro4.futures._ExceptionWrapper",
        Family::Pyro5 => "Pyro5.core._ExceptionWrapper",
    }
}

/// The five items of a URI's `__getstate__`.
fn uri_state(uri: &Uri) -> [Value; 5] {
    let state = uri.state();
    let text = |text: Option<&str>| text.map_or(Value::None, Value::from);
    [
        state.protocol.into(),
        match state.object {
            UriObject::Text(object) => object.into(),
            UriObject::Tags(tags) => {
                Value::Set(tags.iter().map(|tag| tag.as_str().into()).collect())
            }
        },
        text(state.sockname),
        text(state.host),
        state.port.map_or(Value::None, Value::Int),
    ]
}

/// Creates the URI with this state. Pyro takes any five items and fails later, when it prints the URI; this
/// function refuses an impossible state at once.
fn uri_from_state(state: &Value) -> Result<Value, Exception> {
    let [protocol, object, sockname, host, port] = five(state)?;
    let optional = |value: &'_ Value| match value {
        Value::None => Ok(None),
        Value::Str(text) => Ok(Some(text.clone())),
        _ => Err(invalid_state()),
    };
    let tags: BTreeSet<String>;
    let object = match object {
        Value::Str(text) => UriObject::Text(text),
        Value::Set(items) | Value::FrozenSet(items) | Value::List(items) | Value::Tuple(items) => {
            tags = items
                .iter()
                .map(|tag| tag.as_str().map(str::to_owned).ok_or_else(invalid_state))
                .collect::<Result<_, _>>()?;
            UriObject::Tags(&tags)
        }
        _ => return Err(invalid_state()),
    };
    let (sockname, host) = (optional(sockname)?, optional(host)?);
    let port = match port {
        Value::None => None,
        Value::Int(port) => Some(*port),
        _ => return Err(invalid_state()),
    };
    let state = UriState {
        protocol: protocol.as_str().ok_or_else(invalid_state)?,
        object,
        sockname: sockname.as_deref(),
        host: host.as_deref(),
        port,
    };
    Uri::from_state(state)
        .map(|uri| Value::Uri(Box::new(uri)))
        .map_err(|error| Exception::pyro(PyroClass::PyroError, error.to_string()))
}

/// Unpacks a URI's state as Python does, with Python's errors.
fn five(state: &Value) -> Result<[&Value; 5], Exception> {
    let (Value::Tuple(items) | Value::List(items)) = state else {
        return Err(Exception::type_error(format!(
            "cannot unpack non-iterable {} object",
            state.type_name()
        )));
    };
    match items.as_slice() {
        [protocol, object, sockname, host, port] => Ok([protocol, object, sockname, host, port]),
        fewer if fewer.len() < 5 => Err(Exception::value_error(format!(
            "not enough values to unpack (expected 5, got {})",
            fewer.len()
        ))),
        _ => Err(Exception::value_error(
            "too many values to unpack (expected 5)",
        )),
    }
}

fn invalid_state() -> Exception {
    Exception::pyro(PyroClass::PyroError, "invalid uri")
}

/// Reads the class dict that serpent writes for not-a-number, as Python's `float()` does.
fn revive_float(items: &[(Value, Value)]) -> Result<Value, Exception> {
    match require(items, "value")? {
        Value::Str(text) => {
            // Rust accepts the same texts as Python, except for single underscores between digits, which no
            // peer writes here.
            text.trim().parse().map(Value::Float).map_err(|_| {
                Exception::value_error(format!(
                    "could not convert string to float: {}",
                    crate::repr::str_repr(text)
                ))
            })
        }
        Value::Float(value) => Ok(Value::Float(*value)),
        #[expect(
            clippy::cast_precision_loss,
            reason = "Python's float() rounds as well"
        )]
        Value::Int(value) => Ok(Value::Float(*value as f64)),
        Value::Bool(value) => Ok(Value::Float(f64::from(u8::from(*value)))),
        other => Err(Exception::type_error(format!(
            "float() argument must be a string or a real number, not '{}'",
            other.type_name()
        ))),
    }
}

fn revive_wrapper(dialect: Dialect, items: Vec<(Value, Value)>) -> Result<Value, Exception> {
    let inner = match require(&items, "exception")? {
        // Pyro looks up this class with the rules that all serializers share, in which `float` is unknown.
        Value::Dict(inner) if has_class(inner) => {
            if get(inner, CLASS_KEY).and_then(Value::as_str) == Some("float") {
                return Err(unsupported("float"));
            }
            revive(dialect, inner.clone())?
        }
        other => other.clone(),
    };
    match inner {
        Value::Exception(exception) => Ok(Value::ExceptionWrapper(exception)),
        other => Ok(object("_ExceptionWrapper", other)),
    }
}

fn revive_exception(
    family: Family,
    class: ExceptionClass,
    items: &[(Value, Value)],
) -> Result<Value, Exception> {
    let args = match require(items, "args")? {
        Value::List(args) | Value::Tuple(args) | Value::Set(args) | Value::FrozenSet(args) => {
            args.clone()
        }
        Value::Str(text) => text
            .chars()
            .map(|character| Value::Str(character.into()))
            .collect(),
        Value::Dict(items) => items.iter().map(|(key, _)| key.clone()).collect(),
        other => {
            return Err(Exception::type_error(format!(
                "{}() argument after * must be an iterable, not {}",
                class.shown_name(family),
                other.type_name()
            )));
        }
    };
    let traceback = match get(items, "attributes") {
        None => Vec::new(),
        Some(Value::Dict(attributes)) => match get(attributes, "_pyroTraceback") {
            Some(Value::List(lines) | Value::Tuple(lines)) => lines
                .iter()
                .filter(|line| line.type_name() == "str")
                .map(crate::repr::lossy_text)
                .collect(),
            Some(Value::Str(text)) => vec![text.clone()],
            _ => Vec::new(),
        },
        Some(other) => {
            return Err(Exception::builtin(
                "AttributeError",
                format!("'{}' object has no attribute 'items'", other.type_name()),
            ));
        }
    };
    Ok(Value::Exception(Box::new(Exception {
        class,
        args,
        traceback,
    })))
}

/// The class of a dict that is marked as an exception and does not belong to Pyro's own modules.
fn plain_exception_class(class: &str) -> Result<ExceptionClass, Exception> {
    if let Some(name) = builtin_exceptions::canonical(class) {
        return Ok(ExceptionClass::Builtin(name.into()));
    }
    if let Some(pyro) = PyroClass::from_name(class) {
        return Ok(ExceptionClass::Pyro(pyro));
    }
    let Some((module, name)) = class.split_once('.') else {
        return Err(Exception::value_error(
            "not enough values to unpack (expected 2, got 1)",
        ));
    };
    match module {
        "builtins" | "exceptions" => builtin_exceptions::canonical(name)
            .map(|name| ExceptionClass::Builtin(name.into()))
            .ok_or_else(|| no_attribute("builtins", name)),
        "sqlite3" if name.ends_with("Error") => {
            if builtin_exceptions::SQLITE.contains(&name) {
                Ok(ExceptionClass::Other(class.to_owned().into()))
            } else {
                Err(no_attribute(module, name))
            }
        }
        _ => Err(unsupported(class)),
    }
}

/// The text under `__class__`.
fn class_name(class: &Value) -> Result<std::borrow::Cow<'_, str>, Exception> {
    match class {
        Value::Str(name) => Ok(name.into()),
        Value::SurrogateStr(_) => Ok(crate::repr::lossy_text(class).into()),
        Value::Bytes(name) => Ok(String::from_utf8_lossy(name)),
        Value::List(_) | Value::Dict(_) | Value::Set(_) => Err(super::collect::unhashable(class)),
        Value::Tuple(_) | Value::FrozenSet(_) => Err(Exception::builtin(
            "AttributeError",
            format!(
                "'{}' object has no attribute 'startswith'",
                class.type_name()
            ),
        )),
        other => Err(Exception::type_error(format!(
            "argument of type '{}' is not iterable",
            other.type_name()
        ))),
    }
}

fn is_serializer_class(name: &str, family: Family) -> bool {
    match name {
        "SerpentSerializer" | "MarshalSerializer" | "JsonSerializer" | "MsgpackSerializer" => true,
        "PickleSerializer" | "CloudpickleSerializer" | "DillSerializer" => family == Family::Pyro4,
        _ => false,
    }
}

const fn errors_module(family: Family) -> &'static str {
    match family {
        Family::Pyro4 => "Pyro4.errors",
        Family::Pyro5 => "Pyro5.errors",
    }
}

const fn family_prefix(family: Family) -> &'static str {
    match family {
        Family::Pyro4 => "Pyro4.",
        Family::Pyro5 => "Pyro5.",
    }
}

fn of_family(module: &str, family: Family) -> bool {
    module.starts_with(family_prefix(family))
}

fn object(type_name: &str, state: Value) -> Value {
    Value::Object(Box::new(Object {
        type_name: type_name.to_owned(),
        state,
    }))
}

fn get<'a>(items: &'a [(Value, Value)], key: &str) -> Option<&'a Value> {
    items
        .iter()
        .find(|(found, _)| found.as_str() == Some(key))
        .map(|(_, value)| value)
}

fn require<'a>(items: &'a [(Value, Value)], key: &'static str) -> Result<&'a Value, Exception> {
    get(items, key).ok_or_else(|| Exception::builtin("KeyError", key))
}

fn unsupported(class: &str) -> Exception {
    Exception::pyro(
        PyroClass::SerializeError,
        format!("unsupported serialized class: {class}"),
    )
}

fn no_attribute(module: &str, name: &str) -> Exception {
    Exception::builtin(
        "AttributeError",
        format!("module '{module}' has no attribute '{name}'"),
    )
}

#[cfg(test)]
#[path = "classes/tests.rs"]
mod tests;
