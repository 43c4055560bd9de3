//! A scripted server that speaks Pyro.

use std::net::SocketAddr;
use std::sync::Arc;

use hearth_cli::Address;
use hearth_wire::frame::{EncodeOptions, FrameDecoder};
use hearth_wire::{Dialect, Family, Frame, Limits, MessageType, Serializer, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The reaction to one message.
pub enum Reaction {
    /// Sends this message.
    Send(Frame),
    /// Sends nothing and continues.
    Silence,
    /// Closes the connection.
    Close,
}

type Script = Arc<dyn Fn(&Frame) -> Reaction + Send + Sync>;

/// Listens on a free port of `host` until the test ends and reacts to each message as `script`
/// says. Returns the address.
pub async fn serve(
    host: &str,
    script: impl Fn(&Frame) -> Reaction + Send + Sync + 'static,
) -> Address {
    let listener = TcpListener::bind((host, 0)).await.expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let script: Script = Arc::new(script);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, script.clone()));
        }
    });
    Address::tcp(host, address.port())
}

async fn converse(mut stream: TcpStream, script: Script) {
    let mut decoder = FrameDecoder::new(Limits::default(), None);
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => match script(&frame) {
                Reaction::Send(reply) => {
                    let mut bytes = Vec::new();
                    reply
                        .encode(&EncodeOptions::default(), &mut bytes)
                        .expect("a small message");
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Reaction::Silence => {}
                Reaction::Close => return,
            },
            Ok(None) => match stream.read_buf(decoder.buffer_mut()).await {
                Ok(len) if len > 0 => {}
                _ => return,
            },
            Err(_) => return,
        }
    }
}

/// The reaction of a healthy server: accepts every handshake, and returns `result` from every call.
pub fn healthy(frame: &Frame, result: &Value) -> Reaction {
    match frame.kind {
        MessageType::Connect => Reaction::Send(reply(frame, MessageType::ConnectOk, &welcome())),
        MessageType::Invoke if frame.flags.oneway => Reaction::Silence,
        MessageType::Invoke => Reaction::Send(reply(frame, MessageType::Result, result)),
        MessageType::Ping => {
            let mut pong = frame.clone();
            pong.payload = b"pong".to_vec();
            Reaction::Send(pong)
        }
        _ => Reaction::Close,
    }
}

/// The reaction of a healthy server that refuses clients of the other family, as the real servers
/// do.
pub fn healthy_in(family: Family, frame: &Frame, result: &Value) -> Reaction {
    if frame.family == family {
        return healthy(frame, result);
    }
    let text = match family {
        Family::Pyro4 => "invalid data or unsupported protocol version",
        Family::Pyro5 => "invalid protocol version: 48",
    };
    Reaction::Send(Frame::connect_fail(family, text))
}

/// Creates a message that answers `request` in its own serializer.
pub fn reply(request: &Frame, kind: MessageType, value: &Value) -> Frame {
    let serializer =
        Serializer::from_id(request.serializer_id, request.family).expect("a known serializer");
    let mut payload = Vec::new();
    Dialect::new(request.family, serializer)
        .encode(value, &mut payload)
        .expect("a value that every serializer knows");
    let mut reply = Frame::new(
        request.family,
        kind,
        request.seq,
        request.serializer_id,
        payload,
    );
    reply.flags.meta_on_connect = kind == MessageType::ConnectOk && request.family == Family::Pyro4;
    reply
}

fn welcome() -> Value {
    let names = |names: &[&str]| Value::List(names.iter().map(|name| Value::from(*name)).collect());
    let meta = Value::Dict(vec![
        ("methods".into(), names(&["count", "ping", "shout"])),
        ("oneway".into(), names(&["shout"])),
        ("attrs".into(), names(&[])),
    ]);
    Value::Dict(vec![
        ("handshake".into(), "hello".into()),
        ("meta".into(), meta),
    ])
}
