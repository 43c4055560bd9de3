//! The data model that all serializers share: the Python values that Pyro programs send.

use num_bigint::BigInt;

use crate::{Exception, Uri};

/// A Python value as it stands on the wire.
///
/// `Set` and `FrozenSet` hold no duplicates and `Dict` holds each key once (the last one wins), both
/// in the order in which they were written. Dicts with a `__class__` key do not appear: the decoders
/// turn them into `Uri`, `Exception`, `ExceptionWrapper` or `Object`, or refuse them. Only inside an
/// exception's arguments or an object's state Pyro leaves them as they were sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An int that fits 64 bits.
    Int(i64),
    /// An int that does not.
    BigInt(Box<BigInt>),
    /// A float, infinities and not-a-number included.
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
    /// A dict, in order of insertion.
    Dict(Vec<(Value, Value)>),
    /// A Pyro URI object, of the family that the dialect names.
    Uri(Box<Uri>),
    /// An exception object.
    Exception(Box<Exception>),
    /// The slot of a batch's failed call (`_ExceptionWrapper`).
    ExceptionWrapper(Box<Exception>),
    /// Any other object that a peer may send and nobody here looks into, such as a datetime, a
    /// proxy, or the `SerializedBlob` of a keep-serialized call.
    Object(Box<Object>),
}

/// An object that is known by its Python class only.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The name as Python's error texts show it: a class written in C has its module in front.
    pub type_name: String,
    /// What was sent with it, if anything.
    pub state: Value,
}

impl Value {
    /// The name that Python's error texts use for this value's class, such as `NoneType` or `int`.
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

    /// Python's truth of this value: `None`, zero and everything empty are false.
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
