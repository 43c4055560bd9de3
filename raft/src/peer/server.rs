//! Connections that other nodes open to this one: their requests in, our responses out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::frame::{self, BODY_LEN_MAX, Kind};
use super::handshake::{self, Credentials, Hello};
use super::outbox::Outbox;
use super::socket;
use crate::codec;
use crate::incoming::{Caller, Incoming};

/// Connections at once, those that have not greeted yet included.
const CONNECTION_COUNT_MAX: usize = 1024;

/// Connections that have not greeted yet.
const GREETING_COUNT_MAX: usize = 64;

/// How long greeting may take.
const HANDSHAKE_DURATION_MAX: Duration = Duration::from_secs(5);

/// How long a connection may be silent. Its other side asks for a sign of life much more often.
const SILENCE_DURATION_MAX: Duration = Duration::from_secs(10);

/// Requests of one connection that are being answered at once.
const REQUEST_COUNT_MAX: usize = 256;

/// Bytes of such requests, in KiB.
const REQUEST_KIB_MAX: u32 = 160 << 10;

/// How long a failing `accept` is left alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves other nodes until it is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    credentials: Credentials,
    incoming: Arc<Incoming>,
) {
    let mut connections = JoinSet::new();
    let greetings = Arc::new(Semaphore::new(GREETING_COUNT_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection of another node failed");
                }
                continue;
            }
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of another node");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = Arc::clone(&greetings).try_acquire_owned();
        let (true, Ok(place)) = (connections.len() < CONNECTION_COUNT_MAX, place) else {
            tracing::warn!(%from, "too many connections at the port for other nodes; closed");
            continue;
        };
        let (credentials, incoming) = (credentials.clone(), Arc::clone(&incoming));
        connections.spawn(async move {
            let greeted = greet(stream, &credentials).await;
            drop(place);
            match greeted {
                Ok((stream, hello)) => talk(stream, from, hello, incoming).await,
                Err(reason) => tracing::warn!(%from, reason, "turned a node away"),
            }
        });
    }
}

async fn greet(stream: TcpStream, credentials: &Credentials) -> Result<(TcpStream, Hello), String> {
    let mut stream = socket::prepare(stream).map_err(|error| error.to_string())?;
    let greeting = handshake::answer(&mut stream, credentials);
    match tokio::time::timeout(HANDSHAKE_DURATION_MAX, greeting).await {
        Ok(Ok(hello)) => Ok((stream, hello)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "it did not greet within {HANDSHAKE_DURATION_MAX:?}"
        )),
    }
}

async fn talk(stream: TcpStream, from: SocketAddr, hello: Hello, incoming: Arc<Incoming>) {
    let caller = Caller::new(&hello);
    let (reader, writer) = stream.into_split();
    let (responses, waiting) = mpsc::channel(REQUEST_COUNT_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn(write_responses(writer, waiting));
    let end = read_requests(reader, caller, &responses, &incoming, &mut tasks).await;
    if let Err(error) = end {
        tracing::info!(%from, node = hello.node_id, %error, "connection of another node ended");
    }
    // Dropping `tasks` ends what is still under way for it: nobody waits for the responses.
}

async fn read_requests(
    reader: impl tokio::io::AsyncRead + Unpin,
    caller: Caller,
    responses: &mpsc::Sender<Vec<u8>>,
    incoming: &Arc<Incoming>,
    tasks: &mut JoinSet<io::Result<()>>,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let memory = Arc::new(Semaphore::new(REQUEST_KIB_MAX as usize));
    loop {
        let next = frame::read(&mut reader, BODY_LEN_MAX);
        let frame = match tokio::time::timeout(SILENCE_DURATION_MAX, next).await {
            Ok(frame) => frame?,
            Err(_) => {
                let text = format!("nothing was heard for {SILENCE_DURATION_MAX:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        };
        let Some(frame) = frame else {
            return Ok(());
        };
        match frame.kind {
            Kind::Ping => {
                let pong = frame::encode(Kind::Pong, frame.id, |_| {})?;
                send(responses, pong).await?;
            }
            Kind::Request => {
                let kib = u32::try_from(frame.body.len() / 1024 + 1).unwrap_or(u32::MAX);
                let permit = Arc::clone(&memory)
                    .acquire_many_owned(kib.min(REQUEST_KIB_MAX))
                    .await
                    .map_err(io::Error::other)?;
                while tasks.len() > REQUEST_COUNT_MAX {
                    // One of them is the writer, and it ends first only when the connection has failed.
                    if let Some(Ok(ended)) = tasks.join_next().await {
                        ended?;
                    }
                }
                while let Some(ended) = tasks.try_join_next() {
                    if let Ok(ended) = ended {
                        ended?;
                    }
                }
                let request = codec::decode_message("a request", &frame.body)?;
                let (responses, incoming) = (responses.clone(), Arc::clone(incoming));
                let id = frame.id;
                drop(frame.body);
                tasks.spawn(async move {
                    let response = incoming.answer(caller, request).await;
                    drop(permit);
                    let bytes = frame::encode(Kind::Response, id, |out| {
                        codec::encode_message(&response, out);
                    })?;
                    send(&responses, bytes).await
                });
            }
            other => {
                let text = format!("{other:?} came where a request was due");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }
}

async fn send(responses: &mpsc::Sender<Vec<u8>>, bytes: Vec<u8>) -> io::Result<()> {
    responses
        .send(bytes)
        .await
        .map_err(|_| io::ErrorKind::BrokenPipe.into())
}

async fn write_responses(
    mut writer: impl AsyncWrite + Unpin,
    mut waiting: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let mut out = Outbox::default();
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, 64).await > 0 {
        for bytes in batch.drain(..) {
            out.push(bytes);
        }
        out.write_to(&mut writer).await?;
    }
    Ok(())
}
