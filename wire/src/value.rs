//! The data model that all serializers share: the Python values that Pyro programs send.

use num_bigint::BigInt;

use crate::{Exception, Uri};

/// A Python value as it is sent on the wire.
///
/// `Set` and `FrozenSet` hold no duplicates, and `Dict` holds each key once (the last one wins), all in the
/// order in which they were written. Dicts with a `__class__` key do not occur: the decoders turn them into
/// `Uri`, `Exception`, `ExceptionWrapper` or `Object`, or refuse them. The exceptions are an exception's
/// arguments and an object's state, in which Pyro leaves class dicts as they were sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An int that fits 64 bits.
    Int(i64),
    /// An int that does not fit 64 bits.
    BigInt(Box<BigInt>),
    /// A float, including infinities and not-a-number.
    Float(f64),
    /// A complex number: real and imaginary part.
    Complex(f64, f64),
    /// `...`.
    Ellipsis,
    /// Text without lone surrogates.
    Str(String),
    /// A `str` with at least one lone surrogate, as code points.
    SurrogateStr(Box<[u32]>),
    /// Raw bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A set.
    Set(Vec<Value>),
    /// A frozenset.
    FrozenSet(Vec<Value>),
    /// A dict, in insertion order.
    Dict(Vec<(Value, Value)>),
    /// A Pyro URI object, of the family that the dialect names.
    Uri(Box<Uri>),
    /// An exception object.
    Exception(Box<Exception>),
    /// The item that stands for a failed call of a batch (`_ExceptionWrapper`).
    ExceptionWrapper(Box<Exception>),
    /// Any other object that a peer may send. Its content is not interpreted. Examples are a datetime, a proxy,
    /// and the `SerializedBlob` of a keep-serialized call.
    Object(Box<Object>),
}

/// An object of which only the Python class is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The class name as Python's error texts show it. Classes written in C include their module.
    pub type_name: String,
    /// The state that was sent with the object; `None` without one.
    pub state: Value,
}

impl Value {
    /// The class name that Python's error texts use for this value, such as `NoneType` or `int`.
    pub fn type_name(&self) -> &str {
        match self {
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::BigInt(_) => "int",
            Self::Float(_) => "float",
            Self::Complex(..) => "complex",
            Self::Ellipsis => "ellipsis",
            Self::Str(_) | Self::SurrogateStr(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Set(_) => "set",
            Self::FrozenSet(_) => "frozenset",
            Self::Dict(_) => "dict",
            Self::Uri(_) => "URI",
            Self::Exception(exception) => exception.class.name(),
            Self::ExceptionWrapper(_) => "_ExceptionWrapper",
            Self::Object(object) => &object.type_name,
        }
    }

    /// Python's truth value: `None`, zero and everything empty are false.
    pub fn is_truthy(&self) -> bool {
        match self {
            Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::BigInt(value) => **value != BigInt::ZERO,
            Self::Float(value) => *value != 0.0,
            Self::Complex(real, imaginary) => *real != 0.0 || *imaginary != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::Bytes(bytes) => !bytes.is_empty(),
            Self::List(items) | Self::Tuple(items) | Self::Set(items) | Self::FrozenSet(items) => {
                !items.is_empty()
            }
            Self::Dict(items) => !items.is_empty(),
            Self::Ellipsis
            | Self::SurrogateStr(_)
            | Self::Uri(_)
            | Self::Exception(_)
            | Self::ExceptionWrapper(_)
            | Self::Object(_) => true,
        }
    }

    /// The text, if this is a `str` without lone surrogates.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(text)
    }
}
