//! As much of a Pyro5 client as a test needs: one connection, serpent, calls one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hearth_wire::frame::{Annotations, EncodeOptions, FrameDecoder};
use hearth_wire::{Call, Dialect, Family, Flags, Frame, Limits, MessageType, Serializer, Value};

const DIALECT: Dialect = Dialect::new(Family::Pyro5, Serializer::Serpent);

/// Longer than any call takes; a test that hangs says where.
const TIMEOUT: Duration = Duration::from_secs(30);

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub uri: String,
    pub tags: BTreeSet<String>,
}

/// One connection to a name server.
pub struct Client {
    stream: Box<dyn Stream>,
    decoder: FrameDecoder,
    seq: u16,
}

impl Client {
    /// Connects to `127.0.0.1:port` and shakes hands.
    pub fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Self::shake_hands(Box::new(stream))
    }

    /// Connects, and asks for the hand without waiting for it; [`Self::wait_for_greeting`] is next.
    pub fn knock(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Self::ask_for_greeting(Box::new(stream))
    }

    /// Connects to a unix socket and shakes hands.
    pub fn connect_unix(path: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Self::shake_hands(Box::new(stream))
    }

    fn shake_hands(stream: Box<dyn Stream>) -> io::Result<Self> {
        let mut client = Self::ask_for_greeting(stream)?;
        client.wait_for_greeting()?;
        Ok(client)
    }

    fn ask_for_greeting(stream: Box<dyn Stream>) -> io::Result<Self> {
        let mut client = Self {
            stream,
            decoder: FrameDecoder::new(Limits::default(), None),
            seq: 0,
        };
        let hello = Value::Dict(vec![
            ("handshake".into(), "hello".into()),
            ("object".into(), "Pyro.NameServer".into()),
        ]);
        let mut payload = Vec::new();
        DIALECT
            .encode(&hello, &mut payload)
            .map_err(io::Error::other)?;
        client.write(MessageType::Connect, payload)?;
        Ok(client)
    }

    /// Reads the answer to the first message.
    pub fn wait_for_greeting(&mut self) -> io::Result<()> {
        let reply = self.read()?;
        if reply.kind != MessageType::ConnectOk {
            let reason = DIALECT.decode(&reply.payload, &Limits::default());
            return Err(io::Error::other(format!("refused: {reason:?}")));
        }
        Ok(())
    }

    /// Asks for a method of the name server and leaves the reply unread.
    pub fn send(&mut self, method: &str) -> io::Result<()> {
        self.send_call(method, Vec::new())
    }

    /// The same, with arguments.
    pub fn send_call(&mut self, method: &str, args: Vec<Value>) -> io::Result<()> {
        let mut payload = Vec::new();
        Call::new("Pyro.NameServer", method, args)
            .encode(DIALECT, &mut payload)
            .map_err(io::Error::other)?;
        self.write(MessageType::Invoke, payload)
    }

    /// Asks for a method many times in one message, and leaves the reply unread.
    pub fn send_batch(&mut self, method: &str, args: Vec<Value>, count: usize) -> io::Result<()> {
        let no_kwargs = Value::Dict(Vec::new());
        let call = Value::Tuple(vec![method.into(), Value::Tuple(args), no_kwargs]);
        let mut payload = Vec::new();
        Call::new("Pyro.NameServer", "<batch>", vec![call; count])
            .encode(DIALECT, &mut payload)
            .map_err(io::Error::other)?;
        let flags = Flags {
            batch: true,
            ..Flags::default()
        };
        self.write_with(MessageType::Invoke, flags, payload)
    }

    /// Returns when a reply has begun to arrive. Takes a part of it away: nothing can be called after that.
    pub fn wait_for_bytes(&mut self) -> io::Result<()> {
        self.stream.read_exact(&mut [0])
    }

    /// Calls a method of the name server. An exception is an error whose text names it.
    pub fn call(
        &mut self,
        method: &str,
        args: Vec<Value>,
        kwargs: Vec<(&str, Value)>,
    ) -> io::Result<Value> {
        self.call_object("Pyro.NameServer", method, args, kwargs)
    }

    /// Calls a method of another object there.
    pub fn call_object(
        &mut self,
        object: &str,
        method: &str,
        args: Vec<Value>,
        kwargs: Vec<(&str, Value)>,
    ) -> io::Result<Value> {
        let mut call = Call::new(object, method, args);
        call.kwargs = Value::Dict(
            kwargs
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
        );
        let mut payload = Vec::new();
        call.encode(DIALECT, &mut payload)
            .map_err(io::Error::other)?;
        let reply = self.exchange(MessageType::Invoke, payload)?;
        let value = DIALECT
            .decode(&reply.payload, &Limits::default())
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        if reply.flags.exception {
            return Err(io::Error::other(format!("raised: {value:?}")));
        }
        Ok(value)
    }

    pub fn register(&mut self, name: &str, entry: &Entry) -> io::Result<()> {
        let kwargs = vec![("metadata", tag_list(&entry.tags))];
        self.call(
            "register",
            vec![name.into(), entry.uri.as_str().into()],
            kwargs,
        )
        .map(drop)
    }

    pub fn set_metadata(&mut self, name: &str, tags: &BTreeSet<String>) -> io::Result<()> {
        self.call("set_metadata", vec![name.into(), tag_list(tags)], vec![])
            .map(drop)
    }

    pub fn remove(&mut self, name: &str) -> io::Result<Value> {
        self.call("remove", vec![name.into()], vec![])
    }

    pub fn count(&mut self) -> io::Result<Value> {
        self.call("count", vec![], vec![])
    }

    /// The URI that `name` stands for, as text.
    pub fn lookup(&mut self, name: &str) -> io::Result<String> {
        match self.call("lookup", vec![name.into()], vec![])? {
            Value::Uri(uri) => Ok(uri.to_string()),
            other => Err(io::Error::other(format!("no URI: {other:?}"))),
        }
    }

    /// Everything but the server's own entry.
    pub fn list(&mut self) -> io::Result<BTreeMap<String, Entry>> {
        let reply = self.call("list", vec![], vec![("return_metadata", Value::Bool(true))])?;
        entries(reply)
    }

    /// The entries that have `tag`, found by the tag's index.
    pub fn with_tag(&mut self, tag: &str) -> io::Result<BTreeMap<String, Entry>> {
        let tags = Value::List(vec![tag.into()]);
        let reply = self.call("yplookup", vec![], vec![("meta_any", tags)])?;
        entries(reply)
    }

    fn write(&mut self, kind: MessageType, payload: Vec<u8>) -> io::Result<()> {
        self.write_with(kind, Flags::default(), payload)
    }

    fn write_with(&mut self, kind: MessageType, flags: Flags, payload: Vec<u8>) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let frame = Frame {
            family: Family::Pyro5,
            kind,
            flags,
            seq: self.seq,
            serializer_id: Serializer::Serpent.id(Family::Pyro5),
            correlation_id: None,
            annotations: Annotations::default(),
            payload,
        };
        let mut bytes = Vec::new();
        frame
            .encode(&EncodeOptions::default(), &mut bytes)
            .map_err(io::Error::other)?;
        self.stream.write_all(&bytes)
    }

    fn exchange(&mut self, kind: MessageType, payload: Vec<u8>) -> io::Result<Frame> {
        self.write(kind, payload)?;
        self.read()
    }

    fn read(&mut self) -> io::Result<Frame> {
        let mut buffer = [0; 65536];
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
                return Ok(frame);
            }
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => self.decoder.push(&buffer[..len]),
            }
        }
    }
}

fn tag_list(tags: &BTreeSet<String>) -> Value {
    Value::List(tags.iter().map(|tag| tag.as_str().into()).collect())
}

/// Reads a reply of `list` or `yplookup` with metadata.
fn entries(reply: Value) -> io::Result<BTreeMap<String, Entry>> {
    let bad = |what: &Value| io::Error::other(format!("not as expected: {what:?}"));
    let Value::Dict(items) = reply else {
        return Err(bad(&reply));
    };
    let mut found = BTreeMap::new();
    for (name, value) in items {
        let (Value::Tuple(pair) | Value::List(pair)) = &value else {
            return Err(bad(&value));
        };
        let [
            Value::Str(uri),
            Value::Set(tags) | Value::Tuple(tags) | Value::List(tags),
        ] = pair.as_slice()
        else {
            return Err(bad(&value));
        };
        let tags = tags
            .iter()
            .map(|tag| tag.as_str().map(str::to_owned).ok_or_else(|| bad(tag)))
            .collect::<io::Result<_>>()?;
        let name = name.as_str().ok_or_else(|| bad(&name))?.to_owned();
        if name != "Pyro.NameServer" {
            let uri = uri.clone();
            found.insert(name, Entry { uri, tags });
        }
    }
    Ok(found)
}
