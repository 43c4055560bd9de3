//! One connection to one server: handshake, calls, and the checks that Pyro's own proxies make.
//!
//! A connection never reconnects and never sends a call twice, because only the caller knows if that is safe.
//! If an error leaves the message boundaries unclear, the connection is closed, and every later call fails with
//! [`ClientError::Closed`].

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use hearth_wire::frame::{EncodeOptions, FrameDecoder};
use hearth_wire::uri::{Target, UriError};
use hearth_wire::{
    Call, Dialect, Exception, Family, Flags, Frame, MessageType, Serializer, Uri, Value,
};

use crate::stream::Stream;
use crate::{Address, ClientError, ConnectOptions, Protocol};

/// The method name that both families use for a batch.
const BATCH_METHOD: &str = "<batch>";

/// The description of an object that a server sends in the handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectMetadata {
    /// Methods that clients may call.
    pub methods: BTreeSet<String>,
    /// Those of the methods that send no reply.
    pub oneway: BTreeSet<String>,
    /// Attributes that clients may read or write.
    pub attributes: BTreeSet<String>,
}

/// One call of a batch. The batch as a whole names the object.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchCall {
    /// The method.
    pub method: String,
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Keyword arguments.
    pub kwargs: Vec<(String, Value)>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    decoder: FrameDecoder,
    output: Vec<u8>,
    payload: Vec<u8>,
    dialect: Dialect,
    options: ConnectOptions,
    address: Address,
    object: String,
    metadata: ObjectMetadata,
    /// Sequence number of the last call; the first call has 1.
    seq: u16,
    /// False while a message is exchanged and after an error in the middle of an exchange. A call that is
    /// dropped half-way leaves its reply unread, and the next call must not take it for its own.
    is_in_step: bool,
}

impl Connection {
    /// Connects to `address` and does the handshake for `object`.
    ///
    /// # Errors
    /// [`ClientError::Connect`], [`ClientError::Rejected`], [`ClientError::WrongFamily`],
    /// [`ClientError::TimedOut`], and the errors that a misbehaving server causes.
    pub async fn connect(
        address: &Address,
        object: &str,
        options: &ConnectOptions,
    ) -> Result<Self, ClientError> {
        match options.protocol {
            Protocol::Only(family) => Self::connect_as(family, address, object, options).await,
            Protocol::Auto if options.hmac_key.is_some() => {
                Self::connect_as(Family::Pyro4, address, object, options).await
            }
            Protocol::Auto => {
                let first = Self::connect_as(Family::Pyro5, address, object, options).await;
                if !first.as_ref().is_err_and(may_speak_pyro4) {
                    return first;
                }
                match Self::connect_as(Family::Pyro4, address, object, options).await {
                    Err(ClientError::Closed { .. } | ClientError::Connect { .. }) => first,
                    second => second,
                }
            }
        }
    }

    /// Connects to the object of a `PYRO:` URI. [`crate::resolve`] turns other URIs into one.
    ///
    /// # Errors
    /// [`ClientError::Uri`] for another kind of URI, [`ClientError::Address`] for a port out of range, and
    /// those of [`Connection::connect`].
    pub async fn connect_uri(uri: &Uri, options: &ConnectOptions) -> Result<Self, ClientError> {
        match (&uri.target, &uri.location) {
            (Target::Object(object), Some(location)) => {
                let address = Address::from_location(location)?;
                Self::connect(&address, object, options).await
            }
            _ => Err(UriError::Protocol.into()),
        }
    }

    async fn connect_as(
        family: Family,
        address: &Address,
        object: &str,
        options: &ConnectOptions,
    ) -> Result<Self, ClientError> {
        within(options.timeout, address, async {
            let stream = Stream::connect(address, options.ip_version)
                .await
                .map_err(|source| ClientError::Connect {
                    address: address.clone(),
                    source,
                })?;
            let mut connection = Self {
                stream,
                decoder: FrameDecoder::new(options.limits, options.hmac_key.clone()),
                output: Vec::new(),
                payload: Vec::new(),
                dialect: Dialect::new(family, options.serializer),
                options: options.clone(),
                address: address.clone(),
                object: object.to_owned(),
                metadata: ObjectMetadata::default(),
                seq: 0,
                is_in_step: true,
            };
            connection.shake_hands().await?;
            Ok(connection)
        })
        .await
    }

    /// The protocol family that both sides use.
    pub fn family(&self) -> Family {
        self.dialect.family
    }

    /// The serializer of calls and replies.
    pub fn serializer(&self) -> Serializer {
        self.dialect.serializer
    }

    /// The server's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The object that was named in the handshake.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The server's description of that object.
    pub fn metadata(&self) -> &ObjectMetadata {
        &self.metadata
    }

    /// Returns true if calls can still be made.
    pub fn is_open(&self) -> bool {
        self.is_in_step
    }

    /// Returns true if the server has closed this connection between two calls. Does not wait. No call was in
    /// progress, so the caller may use a new connection without doubt about any call.
    pub fn has_ended(&mut self) -> bool {
        self.is_in_step &= !self.stream.has_ended();
        !self.is_in_step
    }

    /// Calls a method of `object`, which may differ from the object of the handshake. A method that the server
    /// declared oneway returns `None` at once.
    ///
    /// # Errors
    /// [`ClientError::Remote`] if the method raised an exception, otherwise the error of the exchange.
    pub async fn call(
        &mut self,
        object: &str,
        method: &str,
        args: Vec<Value>,
        kwargs: Vec<(String, Value)>,
    ) -> Result<Value, ClientError> {
        if object == self.object && self.metadata.oneway.contains(method) {
            self.call_oneway(object, method, args, kwargs).await?;
            return Ok(Value::None);
        }
        let call = new_call(object, method, args, kwargs);
        let reply = self.invoke(&call, Flags::default()).await?;
        if reply.flags.item_stream_result {
            return Err(self.unexpected(method, "item stream"));
        }
        self.result(reply)
    }

    /// Calls a method without a reply. The caller does not learn if the call succeeded.
    ///
    /// # Errors
    /// The error of sending.
    pub async fn call_oneway(
        &mut self,
        object: &str,
        method: &str,
        args: Vec<Value>,
        kwargs: Vec<(String, Value)>,
    ) -> Result<(), ClientError> {
        let call = new_call(object, method, args, kwargs);
        let flags = Flags {
            oneway: true,
            ..Flags::default()
        };
        self.exchange(Some(&call), flags, false).await.map(drop)
    }

    /// Makes several calls in one message. The results are in the order of the calls and end with the first
    /// exception; the calls after it were not made.
    ///
    /// # Errors
    /// [`ClientError::Remote`] for an exception of the batch as a whole, such as a method that does not exist;
    /// the calls before it were made. [`ClientError::Encode`] with marshal, which cannot express a batch.
    pub async fn batch(
        &mut self,
        object: &str,
        calls: Vec<BatchCall>,
    ) -> Result<Vec<Result<Value, Exception>>, ClientError> {
        let flags = Flags {
            batch: true,
            ..Flags::default()
        };
        let reply = self.invoke(&batch_call(object, calls), flags).await?;
        match self.result(reply)? {
            Value::List(items) | Value::Tuple(items) => Ok(items
                .into_iter()
                .map(|item| match item {
                    Value::ExceptionWrapper(exception) => Err(*exception),
                    value => Ok(value),
                })
                .collect()),
            other => Err(self.unexpected(BATCH_METHOD, other.type_name())),
        }
    }

    /// Sends a PING, which the server's connection layer answers, not an object.
    ///
    /// # Errors
    /// The error of the exchange.
    pub async fn ping(&mut self) -> Result<(), ClientError> {
        self.exchange(None, Flags::default(), true).await.map(drop)
    }

    /// Sends a call and returns its reply after checking the sequence number and the serializer.
    async fn invoke(&mut self, call: &Call, flags: Flags) -> Result<Frame, ClientError> {
        let reply = self.exchange(Some(call), flags, true).await?;
        reply.ok_or_else(|| self.closed())
    }

    /// Returns the value of a RESULT, or its exception as an error.
    fn result(&mut self, reply: Frame) -> Result<Value, ClientError> {
        let value = self.decode(self.dialect, &reply.payload)?;
        if !reply.flags.exception {
            return Ok(value);
        }
        match value {
            Value::Exception(exception) => {
                self.is_in_step = !exception.closes_connection();
                Err(ClientError::Remote {
                    address: self.address.clone(),
                    exception,
                })
            }
            other => Err(self.unexpected("an exception", other.type_name())),
        }
    }

    /// Sends one INVOKE, or a PING if `call` is `None`, and waits for the reply if one is wanted.
    async fn exchange(
        &mut self,
        call: Option<&Call>,
        mut flags: Flags,
        wants_reply: bool,
    ) -> Result<Option<Frame>, ClientError> {
        if !self.is_in_step {
            return Err(self.closed());
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        let (kind, reply_kind) = match call {
            Some(call) => {
                call.encode(self.dialect, &mut payload)?;
                self.seq = self.seq.wrapping_add(1);
                (MessageType::Invoke, MessageType::Result)
            }
            None => (MessageType::Ping, MessageType::Ping),
        };
        flags.oneway |= !wants_reply;
        let seq = self.seq;
        let timeout = self.options.timeout;
        self.encode_frame(kind, flags, seq, payload)?;
        self.is_in_step = false;
        let address = self.address.clone();
        let reply = within(timeout, &address, async {
            self.send().await?;
            if !wants_reply {
                return Ok(None);
            }
            let reply = self.receive().await?;
            self.check_reply(&reply, reply_kind, seq)?;
            Ok(Some(reply))
        })
        .await?;
        self.is_in_step = true;
        Ok(reply)
    }

    fn check_reply(&self, reply: &Frame, kind: MessageType, seq: u16) -> Result<(), ClientError> {
        if reply.kind != kind {
            let name = format!("message of type {}", reply.kind as u8);
            return Err(self.unexpected("a call", &name));
        }
        if reply.seq != seq {
            return Err(ClientError::Sequence {
                address: self.address.clone(),
                found: reply.seq,
                expected: seq,
            });
        }
        let serializer_id = self.dialect.serializer.id(self.dialect.family);
        if kind == MessageType::Result && reply.serializer_id != serializer_id {
            return Err(ClientError::Serializer {
                address: self.address.clone(),
                found: reply.serializer_id,
            });
        }
        Ok(())
    }

    /// Sends CONNECT and reads the answer. Pyro4 describes the object only if a flag asks for it, Pyro5 always.
    async fn shake_hands(&mut self) -> Result<(), ClientError> {
        let greeting = Value::Dict(vec![
            ("handshake".into(), "hello".into()),
            ("object".into(), self.object.as_str().into()),
        ]);
        let mut payload = Vec::new();
        self.dialect.encode(&greeting, &mut payload)?;
        let flags = Flags {
            meta_on_connect: self.dialect.family == Family::Pyro4,
            ..Flags::default()
        };
        self.encode_frame(MessageType::Connect, flags, 0, payload)?;
        self.send().await?;
        let reply = self.receive().await?;
        match reply.kind {
            MessageType::ConnectOk => {
                let dialect = self.dialect_of(&reply);
                let welcome = self.decode(dialect, &reply.payload)?;
                self.metadata = object_metadata(&welcome);
                Ok(())
            }
            MessageType::ConnectFail => Err(ClientError::Rejected {
                address: self.address.clone(),
                reason: self.refusal(&reply),
            }),
            other => Err(self.unexpected("CONNECT", &format!("message of type {}", other as u8))),
        }
    }

    /// The text of a CONNECTFAIL, which may be in any serializer.
    fn refusal(&self, reply: &Frame) -> String {
        if reply.payload.is_empty() {
            return "?".into();
        }
        match self.decode(self.dialect_of(reply), &reply.payload) {
            Ok(reason) => hearth_wire::repr::text(&reason),
            Err(error) => error.to_string(),
        }
    }

    fn dialect_of(&self, reply: &Frame) -> Dialect {
        let serializer = Serializer::from_id(reply.serializer_id, reply.family);
        Dialect::new(reply.family, serializer.unwrap_or(self.dialect.serializer))
    }

    fn decode(&self, dialect: Dialect, payload: &[u8]) -> Result<Value, ClientError> {
        dialect
            .decode(payload, &self.options.limits)
            .map_err(|exception| ClientError::Undecodable {
                address: self.address.clone(),
                exception: Box::new(exception),
            })
    }

    /// Encodes one message into `output`, and keeps the payload's memory for the next call.
    fn encode_frame(
        &mut self,
        kind: MessageType,
        flags: Flags,
        seq: u16,
        payload: Vec<u8>,
    ) -> Result<(), ClientError> {
        let serializer_id = self.dialect.serializer.id(self.dialect.family);
        let mut frame = Frame::new(self.dialect.family, kind, seq, serializer_id, payload);
        frame.flags = flags;
        let options = EncodeOptions {
            compress: self.options.compress,
            hmac_key: self.options.hmac_key.as_deref(),
            message_len_max: Some(self.options.limits.message_len_max),
        };
        self.output.clear();
        frame.encode(&options, &mut self.output)?;
        self.payload = frame.payload;
        Ok(())
    }

    async fn send(&mut self) -> Result<(), ClientError> {
        let sent = self.stream.write_all(&self.output).await;
        sent.map_err(|source| ClientError::Closed {
            address: self.address.clone(),
            source: Some(source),
        })
    }

    async fn receive(&mut self) -> Result<Frame, ClientError> {
        loop {
            let next = self.decoder.next_frame();
            match next {
                Ok(Some(frame)) if frame.family == self.dialect.family => return Ok(frame),
                Ok(Some(frame)) => return Err(self.wrong_family(frame.family)),
                Ok(None) => {}
                Err(source) => {
                    return Err(match self.decoder.family() {
                        Some(family) if family != self.dialect.family => self.wrong_family(family),
                        _ => ClientError::Protocol {
                            address: self.address.clone(),
                            source,
                        },
                    });
                }
            }
            match self.stream.read(self.decoder.buffer_mut()).await {
                Ok(0) => return Err(self.closed()),
                Ok(_) => {}
                Err(source) => {
                    return Err(ClientError::Closed {
                        address: self.address.clone(),
                        source: Some(source),
                    });
                }
            }
        }
    }

    fn closed(&self) -> ClientError {
        ClientError::Closed {
            address: self.address.clone(),
            source: None,
        }
    }

    fn wrong_family(&self, spoken: Family) -> ClientError {
        ClientError::WrongFamily {
            address: self.address.clone(),
            spoken,
        }
    }

    fn unexpected(&self, method: &str, found: &str) -> ClientError {
        ClientError::Unexpected {
            address: self.address.clone(),
            method: method.to_owned(),
            found: found.to_owned(),
        }
    }
}

/// Returns true if Pyro4 may succeed after this failure of a Pyro5 handshake. A server that closes with unread
/// bytes may reset the connection before its answer is read, so a connection that ends without an answer
/// counts, too.
fn may_speak_pyro4(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::WrongFamily {
            spoken: Family::Pyro4,
            ..
        } | ClientError::Closed { .. }
    )
}

/// Runs `work` with a time limit; `None` means no limit.
async fn within<T>(
    timeout: Option<Duration>,
    address: &Address,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let Some(waited) = timeout else {
        return work.await;
    };
    match tokio::time::timeout(waited, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientError::TimedOut {
            address: address.clone(),
            waited,
        }),
    }
}

fn new_call(object: &str, method: &str, args: Vec<Value>, kwargs: Vec<(String, Value)>) -> Call {
    let mut call = Call::new(object, method, args);
    call.kwargs = keywords(kwargs);
    call
}

fn batch_call(object: &str, calls: Vec<BatchCall>) -> Call {
    let calls = calls
        .into_iter()
        .map(|call| {
            Value::Tuple(vec![
                call.method.into(),
                Value::Tuple(call.args),
                keywords(call.kwargs),
            ])
        })
        .collect();
    let mut batch = Call::new(object, BATCH_METHOD, Vec::new());
    batch.args = Value::List(calls);
    batch.kwargs = Value::None;
    batch
}

fn keywords(kwargs: Vec<(String, Value)>) -> Value {
    Value::Dict(
        kwargs
            .into_iter()
            .map(|(name, value)| (Value::Str(name), value))
            .collect(),
    )
}

/// The object's description in a CONNECTOK; empty if the server sent none.
fn object_metadata(welcome: &Value) -> ObjectMetadata {
    let Some(meta) = item(welcome, "meta") else {
        return ObjectMetadata::default();
    };
    let names = |key| {
        let names = match item(meta, key) {
            Some(Value::List(names) | Value::Tuple(names))
            | Some(Value::Set(names) | Value::FrozenSet(names)) => names.as_slice(),
            _ => &[],
        };
        names
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    };
    ObjectMetadata {
        methods: names("methods"),
        oneway: names("oneway"),
        attributes: names("attrs"),
    }
}

fn item<'a>(dict: &'a Value, key: &str) -> Option<&'a Value> {
    let Value::Dict(items) = dict else {
        return None;
    };
    items
        .iter()
        .find(|(found, _)| found.as_str() == Some(key))
        .map(|(_, value)| value)
}
