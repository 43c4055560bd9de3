//! A front end over a memory replica, and clients that say exactly what a test wants them to say.

use std::sync::Arc;
use std::time::Duration;

use hearth_node::pyro::{Front, FrontConfig, Listener};
use hearth_raft::{Replica, ReplicaConfig, StorageLocation};
use hearth_wire::frame::{EncodeOptions, FrameDecoder};
use hearth_wire::{
    Call, Dialect, Family, Flags, Frame, Limits, MessageType, Serializer, Uri, Value,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything takes, even on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const FAMILIES: [Family; 2] = [Family::Pyro4, Family::Pyro5];
pub(crate) const SERIALIZERS: [Serializer; 4] = [
    Serializer::Serpent,
    Serializer::Json,
    Serializer::Marshal,
    Serializer::Msgpack,
];

/// A front end that serves a port of its own. Dropping it stops it.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) front: Arc<Front>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// The settings of a server at `port`.
pub(crate) fn config(port: u16) -> FrontConfig {
    let location = format!("127.0.0.1:{port}");
    let uri = format!("PYRO:Pyro.NameServer@{location}");
    let uri = Uri::parse(&uri, 9090).expect("a valid URI");
    FrontConfig::new(uri, location)
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut FrontConfig)) -> Self {
        let replica = Replica::start(ReplicaConfig {
            node_id: Some(1),
            cluster_name: "test".to_owned(),
            storage: StorageLocation::Memory,
            cluster: None,
        })
        .await
        .expect("a memory replica starts");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let mut config = config(port);
        change(&mut config);
        let front = Arc::new(Front::new(config, replica));
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(Arc::clone(&front).serve(Listener::Tcp(listener), stopped));
        Self {
            port,
            front,
            stop,
            serving,
        }
    }

    /// Starts the shutdown.
    pub(crate) fn stop(&self) {
        self.stop.send(true).expect("it is serving");
    }

    /// Waits until `serve` has returned.
    pub(crate) async fn wait(self) {
        timeout(PATIENCE, self.serving)
            .await
            .expect("the drain is bounded")
            .expect("no panic");
    }

    /// A client that has shaken hands.
    pub(crate) async fn client(&self, family: Family, serializer: Serializer) -> Peer {
        let mut peer = self.peer(family, serializer).await;
        peer.shake_hands().await;
        peer
    }

    /// A client that has not said anything.
    pub(crate) async fn peer(&self, family: Family, serializer: Serializer) -> Peer {
        let stream = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Peer::on(stream, family, serializer)
    }
}

/// One client's side of a connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    decoder: FrameDecoder,
    pub(crate) dialect: Dialect,
    seq: u16,
    key: Option<Vec<u8>>,
}

impl Peer {
    /// A client that has not said anything.
    pub(crate) fn on(stream: TcpStream, family: Family, serializer: Serializer) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::for_family(family, Limits::default(), None),
            dialect: Dialect::new(family, serializer),
            seq: 0,
            key: None,
        }
    }

    /// Signs what it sends and checks what it receives.
    pub(crate) fn with_key(mut self, key: &[u8]) -> Self {
        let family = self.dialect.family;
        self.decoder = FrameDecoder::for_family(family, Limits::default(), Some(key.into()));
        self.key = Some(key.to_vec());
        self
    }

    pub(crate) async fn shake_hands(&mut self) {
        let reply = self.connect("Pyro.NameServer").await.expect("an answer");
        assert_eq!(reply.kind, MessageType::ConnectOk, "{reply:?}");
    }

    /// Sends a CONNECT for an object.
    pub(crate) async fn connect(&mut self, object: &str) -> Option<Frame> {
        let hello = Value::Dict(vec![
            ("handshake".into(), "hello".into()),
            ("object".into(), object.into()),
        ]);
        let mut frame = self.frame(MessageType::Connect, &hello);
        frame.flags.meta_on_connect = self.dialect.family == Family::Pyro4;
        self.send(&frame).await;
        self.receive().await
    }

    pub(crate) fn frame(&self, kind: MessageType, value: &Value) -> Frame {
        let mut payload = Vec::new();
        self.dialect
            .encode(value, &mut payload)
            .expect("the test sends what can be sent");
        let Dialect {
            family, serializer, ..
        } = self.dialect;
        Frame::new(family, kind, self.seq, serializer.id(family), payload)
    }

    /// The INVOKE of a method of the name server.
    pub(crate) fn invoke(&mut self, method: &str, args: Vec<Value>) -> Frame {
        self.invoke_with(
            &Call::new("Pyro.NameServer", method, args),
            Flags::default(),
        )
    }

    pub(crate) fn invoke_with(&mut self, call: &Call, flags: Flags) -> Frame {
        self.seq += 1;
        let mut payload = Vec::new();
        call.encode(self.dialect, &mut payload)
            .expect("the test sends what can be sent");
        let Dialect {
            family, serializer, ..
        } = self.dialect;
        let id = serializer.id(family);
        let mut frame = Frame::new(family, MessageType::Invoke, self.seq, id, payload);
        frame.flags = flags;
        frame
    }

    pub(crate) fn bytes(&self, frame: &Frame) -> Vec<u8> {
        let options = EncodeOptions {
            hmac_key: self.key.as_deref(),
            ..EncodeOptions::default()
        };
        let mut bytes = Vec::new();
        frame.encode(&options, &mut bytes).expect("a small frame");
        bytes
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        let bytes = self.bytes(frame);
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it is open");
    }

    /// The next message, or `None` when the server has closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("the server speaks Pyro") {
                return Some(frame);
            }
            let mut buffer = vec![0; 64 << 10];
            let read = timeout(PATIENCE, self.stream.read(&mut buffer))
                .await
                .expect("an answer or an end");
            match read {
                Ok(0) | Err(_) => return None,
                Ok(len) => self.decoder.push(&buffer[..len]),
            }
        }
    }

    /// Whether the server has closed the connection, and nothing came before that.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.receive().await.is_none()
    }

    /// Calls a method of the name server and returns the answer.
    pub(crate) async fn ask(&mut self, method: &str, args: Vec<Value>) -> Frame {
        let frame = self.invoke(method, args);
        self.send(&frame).await;
        let reply = self.receive().await.expect("an answer");
        assert_eq!(reply.kind, MessageType::Result);
        assert_eq!(reply.seq, self.seq);
        reply
    }

    /// Calls a method of the name server and returns its result.
    pub(crate) async fn call(&mut self, method: &str, args: Vec<Value>) -> Value {
        let reply = self.ask(method, args).await;
        assert!(!reply.flags.exception, "{:?}", self.value(&reply));
        self.value(&reply)
    }

    /// Calls a method of the name server that must raise; the answer is `Class: text`.
    pub(crate) async fn refusal(&mut self, method: &str, args: Vec<Value>) -> String {
        let reply = self.ask(method, args).await;
        assert!(reply.flags.exception, "{:?}", self.value(&reply));
        self.exception(&reply)
    }

    pub(crate) fn exception(&self, reply: &Frame) -> String {
        match self.value(reply) {
            Value::Exception(exception) => {
                format!("{}: {}", exception.class.name(), exception.text())
            }
            other => panic!("no exception: {other:?}"),
        }
    }

    pub(crate) fn value(&self, reply: &Frame) -> Value {
        let family = self.dialect.family;
        let serializer =
            Serializer::from_id(reply.serializer_id, family).expect("a serializer that we speak");
        Dialect::new(family, serializer)
            .decode(&reply.payload, &Limits::default())
            .expect("a payload that decodes")
    }
}
