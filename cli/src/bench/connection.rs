//! One connection of a load: frames out, frames in.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hearth_wire::frame::{Annotations, EncodeOptions, FrameDecoder};
use hearth_wire::{Call, Exception, Family, Flags, Frame, Limits, MessageType, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::{BenchError, Plan};

/// The object of all calls of a load.
const NAME_SERVER: &str = "Pyro.NameServer";

/// The address of a server, with host names already resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "./u:{}", path.display()),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) struct RawConnection {
    endpoint: Endpoint,
    stream: Box<dyn Stream>,
    decoder: FrameDecoder,
    plan: Plan,
    seq: u16,
    out: Vec<u8>,
    inbox: Box<[u8]>,
}

impl RawConnection {
    /// Opens the socket without a handshake.
    pub(super) async fn open(endpoint: &Endpoint, plan: &Plan) -> Result<Self, BenchError> {
        let stream = within(plan.timeout, endpoint, open_stream(endpoint)).await?;
        let key = plan.hmac_key.clone().map(Vec::into_boxed_slice);
        Ok(Self {
            endpoint: endpoint.clone(),
            stream,
            decoder: FrameDecoder::new(Limits::default(), key),
            plan: plan.clone(),
            seq: 0,
            out: Vec::new(),
            inbox: vec![0; 64 << 10].into_boxed_slice(),
        })
    }

    /// Opens the socket and does the handshake.
    pub(super) async fn connect(endpoint: &Endpoint, plan: &Plan) -> Result<Self, BenchError> {
        let mut connection = Self::open(endpoint, plan).await?;
        let mut payload = Vec::new();
        let hello = Value::Dict(vec![
            ("handshake".into(), "hello".into()),
            ("object".into(), NAME_SERVER.into()),
        ]);
        plan.dialect()
            .encode(&hello, &mut payload)
            .map_err(|error| BenchError::Plan(error.to_string()))?;
        let meta_on_connect = plan.family == Family::Pyro4;
        let flags = Flags {
            meta_on_connect,
            ..Flags::default()
        };
        connection
            .send(MessageType::Connect, flags, &payload)
            .await?;
        let reply = connection.receive().await?;
        match reply.kind {
            MessageType::ConnectOk => Ok(connection),
            MessageType::ConnectFail => Err(BenchError::Refused {
                endpoint: endpoint.to_string(),
                reason: connection.text_of(&reply),
            }),
            kind => Err(connection.wrong(format!("{kind:?} to a CONNECT"))),
        }
    }

    fn text_of(&self, reply: &Frame) -> String {
        let serializer = hearth_wire::Serializer::from_id(reply.serializer_id, reply.family);
        let dialect =
            hearth_wire::Dialect::new(reply.family, serializer.unwrap_or(self.plan.serializer));
        match dialect.decode(&reply.payload, &Limits::default()) {
            Ok(Value::Str(text)) => text,
            other => format!("{other:?}"),
        }
    }

    pub(super) fn wrong(&self, reason: impl Into<String>) -> BenchError {
        BenchError::Answer {
            endpoint: self.endpoint.to_string(),
            reason: reason.into(),
        }
    }

    fn frame(&self, kind: MessageType, flags: Flags, payload: Vec<u8>) -> Frame {
        Frame {
            family: self.plan.family,
            kind,
            flags,
            seq: self.seq,
            serializer_id: self.plan.serializer.id(self.plan.family),
            correlation_id: None,
            annotations: Annotations::default(),
            payload,
        }
    }

    async fn send(
        &mut self,
        kind: MessageType,
        flags: Flags,
        payload: &[u8],
    ) -> Result<(), BenchError> {
        self.out.clear();
        let frame = self.frame(kind, flags, payload.to_vec());
        let options = EncodeOptions {
            compress: false,
            hmac_key: self.plan.hmac_key.as_deref(),
            message_len_max: None,
        };
        frame
            .encode(&options, &mut self.out)
            .map_err(|error| BenchError::Plan(error.to_string()))?;
        // Without a timeout: a message of a load fits a socket's buffer, and waiting for the reply has a
        // timeout.
        let written = self.stream.write_all(&self.out).await;
        written.map_err(|source| BenchError::Io {
            endpoint: self.endpoint.to_string(),
            source,
        })
    }

    async fn receive(&mut self) -> Result<Frame, BenchError> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(error) => return Err(self.wrong(error.to_string())),
            }
            let count = self.read().await?;
            self.decoder
                .push(self.inbox.get(..count).unwrap_or_default());
        }
    }

    async fn read(&mut self) -> Result<usize, BenchError> {
        let count = within(
            self.plan.timeout,
            &self.endpoint,
            self.stream.read(&mut self.inbox),
        )
        .await?;
        if count == 0 {
            let source = std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            );
            return Err(BenchError::Io {
                endpoint: self.endpoint.to_string(),
                source,
            });
        }
        Ok(count)
    }

    /// Sends an encoded INVOKE payload and returns the reply after checking its type and sequence number.
    pub(super) async fn invoke(&mut self, payload: &[u8]) -> Result<Frame, BenchError> {
        self.seq = self.seq.wrapping_add(1);
        self.send(MessageType::Invoke, Flags::default(), payload)
            .await?;
        let reply = self.receive().await?;
        if reply.kind != MessageType::Result || reply.seq != self.seq {
            let text = format!("{:?} {} to call {}", reply.kind, reply.seq, self.seq);
            return Err(self.wrong(text));
        }
        Ok(reply)
    }

    /// Calls the name server and decodes the result.
    pub(super) async fn call(
        &mut self,
        method: &str,
        args: Vec<Value>,
    ) -> Result<Result<Value, Exception>, BenchError> {
        let payload = encode_call(&self.plan, method, args)?;
        let reply = self.invoke(&payload).await?;
        match self
            .plan
            .dialect()
            .decode(&reply.payload, &Limits::default())
        {
            Ok(Value::Exception(exception)) if reply.flags.exception => Ok(Err(*exception)),
            Ok(value) if !reply.flags.exception => Ok(Ok(value)),
            other => Err(self.wrong(format!("{other:?}"))),
        }
    }

    /// Sends a call's message and waits for the same bytes to come back.
    pub(super) async fn echo(&mut self, payload: &[u8]) -> Result<Result<(), String>, BenchError> {
        self.send(MessageType::Invoke, Flags::default(), payload)
            .await?;
        let mut received = 0;
        while received < self.out.len() {
            let count = self.read().await?;
            if self.inbox.get(..count) != self.out.get(received..received + count) {
                return Err(self.wrong("other bytes than were sent: is this an echo server?"));
            }
            received += count;
        }
        Ok(Ok(()))
    }
}

/// Encodes the INVOKE payload of a call to the name server.
pub(super) fn encode_call(
    plan: &Plan,
    method: &str,
    args: Vec<Value>,
) -> Result<Vec<u8>, BenchError> {
    let mut payload = Vec::new();
    Call::new(NAME_SERVER, method, args)
        .encode(plan.dialect(), &mut payload)
        .map_err(|error| BenchError::Plan(error.to_string()))?;
    Ok(payload)
}

async fn open_stream(endpoint: &Endpoint) -> std::io::Result<Box<dyn Stream>> {
    match endpoint {
        Endpoint::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
    }
}

async fn within<T>(
    timeout: Duration,
    endpoint: &Endpoint,
    work: impl Future<Output = std::io::Result<T>>,
) -> Result<T, BenchError> {
    let late = || {
        std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("nothing for {timeout:?}"),
        )
    };
    let done = tokio::time::timeout(timeout, work)
        .await
        .unwrap_or_else(|_| Err(late()));
    done.map_err(|source| BenchError::Io {
        endpoint: endpoint.to_string(),
        source,
    })
}
