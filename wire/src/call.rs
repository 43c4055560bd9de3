//! Calls: object, method and arguments, as INVOKE carries them.
//!
//! Each serializer has its own shape for the four parts. A payload of another shape fails with the
//! exception that Python raises when it unpacks the payload. This module does not check that the
//! parts make sense; the server does.

use crate::serializer::is_from_python2;
use crate::{Dialect, EncodeError, Exception, Limits, Serializer, Value};

/// One call of a method of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The object id. Not checked: a peer may send a value that is not a text.
    pub object: Value,
    /// The method's name. Not checked: a peer may send a value that is not a text.
    pub method: Value,
    /// Positional arguments: a list or tuple. Not checked: a peer may send any other value.
    pub args: Value,
    /// Keyword arguments: a dict or `None`. Not checked: a peer may send any other value.
    pub kwargs: Value,
}

impl Call {
    /// Creates a call with positional arguments only.
    pub fn new(object: &str, method: &str, args: Vec<Value>) -> Self {
        Self {
            object: object.into(),
            method: method.into(),
            args: Value::Tuple(args),
            kwargs: Value::Dict(Vec::new()),
        }
    }

    /// Reads an INVOKE payload. The second value is the dialect of the reply: `dialect`, with
    /// `python2` set if the payload says that a Python 2 client wrote it.
    ///
    /// # Errors
    /// The exception that the real server sends for this payload.
    pub fn decode(
        dialect: Dialect,
        payload: &[u8],
        limits: &Limits,
    ) -> Result<(Self, Dialect), Exception> {
        let value = dialect.decode_plain(payload, limits)?;
        let call = match dialect.serializer {
            Serializer::Json => Self::from_object(dialect, value)?,
            Serializer::Serpent | Serializer::Marshal | Serializer::Msgpack => {
                Self::from_four(dialect, value)?
            }
        };
        let reply_dialect = Dialect {
            python2: dialect.python2
                || dialect.serializer == Serializer::Serpent && is_from_python2(payload),
            ..dialect
        };
        Ok((call, reply_dialect))
    }

    /// Appends an INVOKE payload to `out`, in the form in which a client of this dialect writes it.
    ///
    /// # Errors
    /// [`EncodeError`] if the serializer cannot express an argument.
    pub fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let [object, method, args, kwargs] =
            [&self.object, &self.method, &self.args, &self.kwargs].map(Value::clone);
        let value = match (dialect.serializer, args) {
            (Serializer::Json, args) => Value::Dict(vec![
                ("object".into(), object),
                ("method".into(), method),
                ("params".into(), args),
                ("kwargs".into(), kwargs),
            ]),
            // Pyro's marshal client builds a new list while it looks for objects to convert.
            (Serializer::Marshal, Value::Tuple(args)) => {
                Value::Tuple(vec![object, method, Value::List(args), kwargs])
            }
            (_, args) => Value::Tuple(vec![object, method, args, kwargs]),
        };
        dialect.encode(&value, out)
    }

    /// Unpacks the sequence of four that all serializers but json send. Class dicts are replaced in
    /// the arguments only, after the length has been checked.
    fn from_four(dialect: Dialect, value: Value) -> Result<Self, Exception> {
        let items = match value {
            Value::Tuple(items)
            | Value::List(items)
            | Value::Set(items)
            | Value::FrozenSet(items) => items,
            Value::Dict(items) => items.into_iter().map(|(key, _)| key).collect(),
            Value::Str(text) => text.chars().map(|c| Value::Str(c.into())).collect(),
            Value::Bytes(bytes) => bytes
                .into_iter()
                .map(|byte| Value::Int(byte.into()))
                .collect(),
            other => {
                return Err(Exception::type_error(format!(
                    "cannot unpack non-iterable {} object",
                    other.type_name()
                )));
            }
        };
        let [object, method, args, kwargs] =
            <[Value; 4]>::try_from(items).map_err(|items| match items.len() {
                len @ 0..4 => Exception::value_error(format!(
                    "not enough values to unpack (expected 4, got {len})"
                )),
                _ => Exception::value_error("too many values to unpack (expected 4)"),
            })?;
        Ok(Self {
            object,
            method,
            args: dialect.recreate(args)?,
            kwargs: dialect.recreate(kwargs)?,
        })
    }

    /// Unpacks the dict that json sends. If several keys are missing, the order of the lookups here
    /// decides which one the peer is told about. Other keys are ignored.
    fn from_object(dialect: Dialect, value: Value) -> Result<Self, Exception> {
        let mut items = match value {
            Value::Dict(items) => items,
            other => return Err(not_subscriptable(&other)),
        };
        let mut take = |key: &'static str| {
            items
                .iter_mut()
                .find(|(found, _)| found.as_str() == Some(key))
                .map(|(_, value)| std::mem::replace(value, Value::None))
                .ok_or_else(|| Exception::builtin("KeyError", key))
        };
        let args = dialect.recreate(take("params")?)?;
        let kwargs = dialect.recreate(take("kwargs")?)?;
        Ok(Self {
            object: take("object")?,
            method: take("method")?,
            args,
            kwargs,
        })
    }
}

/// Returns Python's error for `value["key"]` where `value` is not a dict.
fn not_subscriptable(value: &Value) -> Exception {
    Exception::type_error(match value {
        Value::List(_) => "list indices must be integers or slices, not str".to_owned(),
        Value::Str(_) | Value::SurrogateStr(_) => {
            "string indices must be integers, not 'str'".to_owned()
        }
        other => format!("'{}' object is not subscriptable", other.type_name()),
    })
}
