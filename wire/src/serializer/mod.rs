//! The four serializers, their ids per family, and the choice between them.

mod builtin_exceptions;
mod classes;
mod collect;
mod json;
mod marshal;
mod msgpack;
pub mod pickle;
mod serpent;
mod text;
mod utf8;

pub(crate) use serpent::is_from_python2;

use crate::{EncodeError, Exception, Family, Limits, Value};

/// A payload format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Serializer {
    /// Python literals in UTF-8.
    Serpent,
    /// JSON.
    Json,
    /// CPython's marshal.
    Marshal,
    /// MessagePack with Pyro's extension types.
    Msgpack,
}

impl Serializer {
    /// The id in the header. The ids of json and marshal are swapped between the families.
    pub const fn id(self, family: Family) -> u16 {
        match (self, family) {
            (Self::Serpent, _) => 1,
            (Self::Json, Family::Pyro4) | (Self::Marshal, Family::Pyro5) => 2,
            (Self::Marshal, Family::Pyro4) | (Self::Json, Family::Pyro5) => 3,
            (Self::Msgpack, Family::Pyro4) => 6,
            (Self::Msgpack, Family::Pyro5) => 4,
        }
    }

    /// Returns the serializer with this id in `family`; `None` for pickle, cloudpickle, dill and unknown ids.
    pub const fn from_id(id: u16, family: Family) -> Option<Self> {
        match (id, family) {
            (1, _) => Some(Self::Serpent),
            (2, Family::Pyro4) | (3, Family::Pyro5) => Some(Self::Json),
            (3, Family::Pyro4) | (2, Family::Pyro5) => Some(Self::Marshal),
            (6, Family::Pyro4) | (4, Family::Pyro5) => Some(Self::Msgpack),
            _ => None,
        }
    }

    /// The name in Pyro's settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serpent => "serpent",
            Self::Json => "json",
            Self::Marshal => "marshal",
            Self::Msgpack => "msgpack",
        }
    }
}

/// A serializer as one family and one major version of Python use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dialect {
    /// The family, which determines class names and the types that are kept.
    pub family: Family,
    /// The format.
    pub serializer: Serializer,
    /// True if the peer is Python 2, whose serpent reader has no set literals. The marshal writer always uses
    /// the version 2 codes that every Python reads.
    pub python2: bool,
}

impl Dialect {
    /// Creates the dialect of a Python 3 peer.
    pub const fn new(family: Family, serializer: Serializer) -> Self {
        Self {
            family,
            serializer,
            python2: false,
        }
    }

    /// Reads one payload that is not a call: a handshake or a result.
    ///
    /// # Errors
    /// The exception that the real server sends for this payload: class, text and arguments.
    pub fn decode(&self, payload: &[u8], limits: &Limits) -> Result<Value, Exception> {
        match self.serializer {
            Serializer::Msgpack => msgpack::decode(*self, payload, limits),
            _ => self.recreate(self.decode_plain(payload, limits)?),
        }
    }

    /// Replaces the class dicts in a plain value by the objects that they describe.
    pub(crate) fn recreate(&self, value: Value) -> Result<Value, Exception> {
        match self.serializer {
            Serializer::Msgpack => Ok(value),
            _ => classes::recreate(*self, value),
        }
    }

    /// Reads one call. Class dicts are still plain dicts, except in msgpack, whose reader replaces them as it
    /// reads.
    pub(crate) fn decode_plain(&self, payload: &[u8], limits: &Limits) -> Result<Value, Exception> {
        match self.serializer {
            Serializer::Serpent => serpent::decode(payload, limits),
            Serializer::Json => json::decode(payload, limits),
            Serializer::Marshal => marshal::decode(payload, limits),
            Serializer::Msgpack => msgpack::decode_call(*self, payload, limits),
        }
    }

    /// Appends `value` to `out` in the form in which the real peer of this family writes it.
    ///
    /// # Errors
    /// [`EncodeError::Unserializable`] for a value that the format cannot express, [`EncodeError::TooLarge`]
    /// for a length that does not fit its field. `out` is unchanged after an error.
    pub fn encode(&self, value: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let len_before = out.len();
        let result = match self.serializer {
            Serializer::Serpent => serpent::encode(*self, value, out),
            Serializer::Json => json::encode(*self, value, out),
            Serializer::Marshal => marshal::encode(*self, value, out),
            Serializer::Msgpack => msgpack::encode(*self, value, out),
        };
        if result.is_err() {
            out.truncate(len_before);
        }
        result
    }

    /// Appends the [`Value::Dict`] with these items as [`Self::encode`] does, without all items in memory: each
    /// item is dropped before the next one is requested. The keys must be distinct.
    ///
    /// # Errors
    /// Those of [`Self::encode`].
    pub fn encode_dict(
        &self,
        items: impl ExactSizeIterator<Item = (Value, Value)>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let len_before = out.len();
        let result = match self.serializer {
            Serializer::Serpent => serpent::encode_dict(*self, items, out),
            Serializer::Json => json::write_object(*self, items, out),
            Serializer::Marshal => marshal::write_dict(*self, items, out),
            Serializer::Msgpack => msgpack::write_map(*self, items, out),
        };
        if result.is_err() {
            out.truncate(len_before);
        }
        result
    }
}

/// The items of a dict in the form that the writers take.
fn pairs(items: &[(Value, Value)]) -> impl ExactSizeIterator<Item = (&Value, &Value)> {
    items.iter().map(|(key, value)| (key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dict_has_the_same_bytes_whole_and_item_by_item() {
        let item = |number: i64| {
            let tags = Value::List(vec!["t'1".into(), Value::None]);
            let value = Value::Tuple(vec!["PYRO:o@h:1".into(), Value::Int(number), tags]);
            (Value::Str(format!("name.{number}\n")), value)
        };
        for family in [Family::Pyro4, Family::Pyro5] {
            for serializer in [
                Serializer::Serpent,
                Serializer::Json,
                Serializer::Marshal,
                Serializer::Msgpack,
            ] {
                for count in [0, 1, 2, 15, 16, 300] {
                    let dialect = Dialect::new(family, serializer);
                    let items = || (0..count).map(|number| item(i64::from(number)));
                    let (mut whole, mut parts) = (vec![7], vec![7]);
                    dialect
                        .encode(&Value::Dict(items().collect()), &mut whole)
                        .unwrap();
                    dialect
                        .encode_dict(items().collect::<Vec<_>>().into_iter(), &mut parts)
                        .unwrap();
                    assert_eq!(whole, parts, "{family:?} {serializer:?} {count}");
                }
                let dialect = Dialect::new(family, serializer);
                let mut out = vec![7];
                let items = vec![item(1), (Value::from("n"), Value::Ellipsis)];
                let refused = dialect.encode_dict(items.into_iter(), &mut out);
                if serializer != Serializer::Marshal {
                    assert!(refused.is_err(), "{serializer:?}");
                    assert_eq!(out, [7], "{serializer:?}");
                }
            }
        }
    }
}
