//! The RESULT of one call: encoding values and exceptions, and what a failure to do so becomes.

use hearth_wire::frame::EncodeOptions;
use hearth_wire::{
    Dialect, EncodeError, Exception, Family, Flags, Frame, MessageType, PyroClass, Serializer,
    Value,
};

use super::config::FrontConfig;

/// Bytes that most replies do not exceed.
const RESERVED_LEN: usize = 256;

/// Where a result goes: what its frame takes over from the call's.
#[derive(Debug)]
pub(super) struct Reply {
    pub dialect: Dialect,
    pub seq: u16,
    pub correlation_id: [u8; 16],
    pub is_batch: bool,
    /// A oneway call is run, and its result dropped.
    pub is_oneway: bool,
}

/// What happens to the connection after a reply.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Next {
    /// It stays open.
    Open,
    /// It is closed; the reason is for the log.
    Close(String),
}

impl Reply {
    /// Appends the RESULT to `out`.
    pub(super) fn write(
        &self,
        config: &FrontConfig,
        result: Result<Value, Exception>,
        out: &mut Vec<u8>,
    ) -> Next {
        let exception = match result {
            Ok(_) if self.is_oneway => return Next::Open,
            Ok(value) => match self.append(config, &value, false, out) {
                Ok(()) => return Next::Open,
                Err(error) => self.refused_result(&error),
            },
            Err(exception) => exception,
        };
        self.write_exception(config, exception, out)
    }

    /// [`Self::write`] of a dict with these items, which are never in memory all at once.
    pub(super) fn write_dict(
        &self,
        config: &FrontConfig,
        items: impl ExactSizeIterator<Item = (Value, Value)>,
        out: &mut Vec<u8>,
    ) -> Next {
        if self.is_oneway {
            return Next::Open;
        }
        let encoded = self.append_payload(config, false, out, |out| {
            self.dialect.encode_dict(items, out)
        });
        match encoded {
            Ok(()) => Next::Open,
            Err(error) => self.write_exception(config, self.refused_result(&error), out),
        }
    }

    fn write_exception(
        &self,
        config: &FrontConfig,
        exception: Exception,
        out: &mut Vec<u8>,
    ) -> Next {
        let next = if exception.closes_connection() {
            Next::Close(format!("{}: {}", exception.class.name(), exception.text()))
        } else {
            Next::Open
        };
        if self.is_oneway {
            return next;
        }
        let exception = Value::Exception(Box::new(exception));
        let Err(error) = self.append(config, &exception, true, out) else {
            return next;
        };
        let Value::Exception(exception) = exception else {
            return next;
        };
        let fallback = Exception::pyro(
            PyroClass::PyroError,
            format!(
                "Error serializing exception: {}. Original exception: <class '{}'>: {}",
                self.why(&error),
                exception.class.name(),
                exception.text()
            ),
        );
        match self.append(config, &Value::Exception(Box::new(fallback)), true, out) {
            Ok(()) => next,
            Err(error) => Next::Close(format!("its exception cannot be sent: {error}")),
        }
    }

    /// The exception for a result that cannot be sent.
    fn refused_result(&self, error: &EncodeError) -> Exception {
        let class = match error {
            EncodeError::TooLarge { .. } => PyroClass::MessageTooLargeError,
            _ => PyroClass::SerializeError,
        };
        Exception::pyro(class, self.why(error))
    }

    /// Why a value cannot be sent, in the words of Pyro's serializers where they have some.
    fn why(&self, error: &EncodeError) -> String {
        let EncodeError::Unserializable { type_name } = error else {
            return error.to_string();
        };
        let serializer = match self.dialect.serializer {
            Serializer::Serpent => "SerpentSerializer",
            Serializer::Json => "JsonSerializer",
            Serializer::Marshal => "MarshalSerializer",
            Serializer::Msgpack => "MsgpackSerializer",
        };
        format!(
            "don't know how to serialize class <class '{type_name}'> using serializer {serializer}. \
             Give it vars() or an appropriate __getstate__"
        )
    }

    fn append(
        &self,
        config: &FrontConfig,
        value: &Value,
        is_exception: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.append_payload(config, is_exception, out, |out| {
            self.dialect.encode(value, out)
        })
    }

    fn append_payload(
        &self,
        config: &FrontConfig,
        is_exception: bool,
        out: &mut Vec<u8>,
        write_payload: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let Dialect {
            family, serializer, ..
        } = self.dialect;
        // Pyro4 raises exceptions past the code that compresses and annotates a reply.
        let is_bare = is_exception && family == Family::Pyro4;
        let frame = Frame {
            family,
            kind: MessageType::Result,
            flags: Flags {
                exception: is_exception,
                batch: self.is_batch && !is_exception,
                ..Flags::default()
            },
            seq: self.seq,
            serializer_id: serializer.id(family),
            correlation_id: (!is_bare).then_some(self.correlation_id),
            annotations: Default::default(),
            payload: Vec::new(),
        };
        out.reserve(RESERVED_LEN);
        frame.encode_with(&options(config, !is_bare), out, write_payload)
    }
}

/// How this server's frames are encoded, where compressing is allowed at all.
pub(super) fn options(config: &FrontConfig, may_compress: bool) -> EncodeOptions<'_> {
    EncodeOptions {
        compress: config.compression && may_compress,
        hmac_key: config.hmac_key.as_deref(),
        message_len_max: None,
    }
}

/// A correlation id for the reply to a request: the request's own, or a fresh random UUID.
pub(super) fn correlation_id(request: Option<[u8; 16]>) -> [u8; 16] {
    request.unwrap_or_else(|| {
        let mut id: [u8; 16] = rand::random();
        // Version 4, variant 1 of RFC 9562.
        id[6] = id[6] & 0x0F | 0x40;
        id[8] = id[8] & 0x3F | 0x80;
        id
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_correlation_id_is_a_random_uuid() {
        let id = correlation_id(None);
        assert_eq!(id[6] >> 4, 4);
        assert_eq!(id[8] >> 6, 0b10);
        assert_ne!(id, correlation_id(None));
        assert_eq!(correlation_id(Some([7; 16])), [7; 16]);
    }
}
