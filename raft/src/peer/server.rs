//! Connections that other nodes open to this one: their requests in, our responses out.
//!
//! Before a node has shown who it is, it may hold one of a few places, for a few seconds, and send a few
//! kilobytes; when all places are taken, the one that has held its place longest goes, so that whoever
//! holds on to connections without greeting keeps nobody out. Afterwards it may have so many requests, and
//! so many bytes of them, being answered at once; what is beyond is answered that it was not done.
//!
//! Requests are begun in the order in which they come: an append reaches Raft before the next one. They end
//! in any order.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::coop::unconstrained;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::Peers;
use super::frame::{self, BODY_LEN_MAX, Kind};
use super::handshake::{self, Credentials, Hello};
use super::message::{Request, Response};
use super::outbox::Outbox;
use super::patience::Patient;
use super::socket::{Connection as Stream, Listener};
use crate::codec;

/// What nodes may take of this one.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Connections at once, those that have not greeted yet included.
    pub(crate) connections: usize,
    /// Connections that have not greeted yet.
    pub(crate) greetings: usize,
    /// How long greeting may take.
    pub(crate) greeting: Duration,
    /// How long a connection may stand still. Its other side asks for a sign of life much more often.
    pub(crate) silence: Duration,
    /// Requests of one connection that are being answered at once.
    pub(crate) requests: usize,
    /// Bytes of such requests. One that is larger goes alone.
    pub(crate) request_len: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            greetings: 64,
            greeting: Duration::from_secs(5),
            silence: Duration::from_secs(10),
            requests: 256,
            request_len: 2 * BODY_LEN_MAX,
        }
    }
}

/// How long a failing `accept` is left alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often the same reason for turning somebody away is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Reasons of which that is known.
const LOGGED_COUNT_MAX: usize = 256;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Its number, if it has one.
    pub(crate) node_id: Option<u64>,
    /// Of its data folder.
    pub(crate) incarnation: u128,
    /// Whether it has shown that it belongs to this cluster. Otherwise it may only found or join one.
    pub(crate) is_member: bool,
}

/// Answers the requests of other nodes.
pub(crate) trait Answer: Send + Sync + 'static {
    /// The answer to `request`. What must keep the order of the requests is done before the first `await`
    /// that has to wait.
    fn answer(&self, caller: Caller, request: Request) -> impl Future<Output = Response> + Send;
}

/// Serves other nodes until it is dropped, and then all connections are closed.
pub(crate) async fn serve<A: Answer>(listener: Box<dyn Listener>, peers: Peers, answers: Arc<A>) {
    serve_with(listener, peers, answers, Limits::default()).await;
}

/// [`serve`] within other limits.
pub(crate) async fn serve_with<A: Answer>(
    listener: Box<dyn Listener>,
    peers: Peers,
    answers: Arc<A>,
    limits: Limits,
) {
    let mut connections = JoinSet::new();
    let host = Arc::new(Host {
        peers,
        answers,
        limits,
        greeting: Mutex::default(),
        logged: Mutex::default(),
    });
    for number in 0_u64.. {
        let (stream, from) = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => break accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection of another node");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a connection of another node failed");
                    }
                }
            }
        };
        if connections.len() >= host.limits.connections {
            host.turn_away(
                from,
                "there are too many connections at the port for other nodes",
            );
            continue;
        }
        let mut greeting = host.greeting();
        let task = connections.spawn(Arc::clone(&host).connection(number, stream, from));
        greeting.insert(number, task);
        if greeting.len() > host.limits.greetings
            && let Some((_, oldest)) = greeting.pop_first()
        {
            oldest.abort();
        }
    }
}

struct Host<A> {
    peers: Peers,
    answers: Arc<A>,
    limits: Limits,
    /// Connections that have not greeted yet, in the order in which they came.
    greeting: Mutex<BTreeMap<u64, AbortHandle>>,
    /// When somebody was turned away for what reason last.
    logged: Mutex<HashMap<String, Instant>>,
}

impl<A: Answer> Host<A> {
    async fn connection(self: Arc<Self>, number: u64, stream: Stream, from: SocketAddr) {
        let greeted = self.greet(stream).await;
        self.greeting().remove(&number);
        match greeted {
            Ok((stream, hello)) => {
                let credentials = self.peers.credentials();
                let caller = Caller {
                    node_id: hello.node_id,
                    incarnation: hello.incarnation,
                    is_member: credentials.is_member(&hello),
                };
                if let (true, Some(id)) = (caller.is_member, caller.node_id) {
                    // It is there, so this is the time to connect to it.
                    self.peers.hurry(id);
                }
                let connection = Connection {
                    caller,
                    hello,
                    credentials,
                    answers: &self.answers,
                    limits: &self.limits,
                };
                if let Err(error) = connection.talk(stream).await {
                    tracing::info!(%from, node = caller.node_id, %error, "connection of another node ended");
                }
            }
            Err(reason) => self.turn_away(from, &reason),
        }
    }

    async fn greet(&self, mut stream: Stream) -> Result<(Stream, Hello), String> {
        let limit = self.limits.greeting;
        let greeting = handshake::answer(&mut stream, self.peers.credentials());
        match tokio::time::timeout(limit, greeting).await {
            Ok(Ok(hello)) => Ok((stream, hello)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it did not greet within {limit:?}")),
        }
    }

    /// Says it, but not all the time.
    fn turn_away(&self, from: SocketAddr, reason: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let known = logged.get(reason);
        if known.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        if logged.len() >= LOGGED_COUNT_MAX {
            logged.clear();
        }
        logged.insert(reason.to_owned(), Instant::now());
        drop(logged);
        tracing::warn!(%from, reason, "turned a connection away at the port for other nodes");
    }

    fn greeting(&self) -> MutexGuard<'_, BTreeMap<u64, AbortHandle>> {
        self.greeting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One node that has shown who it is.
struct Connection<'a, A> {
    caller: Caller,
    hello: Hello,
    credentials: &'a Credentials,
    answers: &'a Arc<A>,
    limits: &'a Limits,
}

impl<A: Answer> Connection<'_, A> {
    async fn talk(self, stream: Stream) -> io::Result<()> {
        let silence = self.limits.silence;
        let (reader, writer) = stream.into_split();
        let (responses, waiting) = mpsc::channel(self.limits.requests);
        // What is still under way when this returns ends with it: nobody waits for the responses.
        let mut tasks = JoinSet::new();
        let writing = write_responses(Patient::new(writer, silence), waiting);
        tasks.spawn(writing);
        let reader = BufReader::with_capacity(64 << 10, Patient::new(reader, silence));
        self.read_requests(reader, &responses, &mut tasks).await
    }

    async fn read_requests(
        &self,
        mut reader: impl AsyncRead + Unpin,
        responses: &mpsc::Sender<Vec<u8>>,
        tasks: &mut JoinSet<io::Result<()>>,
    ) -> io::Result<()> {
        let room = Arc::new(Semaphore::new(self.limits.request_len));
        while let Some(frame) = frame::read(&mut reader, BODY_LEN_MAX).await? {
            while let Some(ended) = tasks.try_join_next() {
                ended.map_err(io::Error::other)??;
            }
            // It may have been removed meanwhile. It will hear so when it connects again. That holds for a
            // sign of life, too: who has the membership without itself, uncommitted, asks for nothing else.
            self.credentials
                .admit(&self.hello)
                .map_err(|reason| io::Error::new(io::ErrorKind::PermissionDenied, reason))?;
            match frame.kind {
                Kind::Ping => {
                    let pong = frame::encode(Kind::Pong, frame.id, 0, |_| {})?;
                    send(responses, pong).await?;
                    continue;
                }
                Kind::Request => {}
                other => {
                    let text = format!("{other:?} came where a request was due");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
            let len = frame.body.len().min(self.limits.request_len);
            let room = Arc::clone(&room);
            let permit = u32::try_from(len)
                .ok()
                .filter(|_| tasks.len() <= self.limits.requests)
                .and_then(|len| room.try_acquire_many_owned(len).ok());
            let Some(permit) = permit else {
                let text = "it has too many requests of this node at the moment";
                let refusal = Response::Unavailable(text.to_owned());
                send(responses, encode(frame.id, &refusal)?).await?;
                continue;
            };
            let request = codec::decode_message("a request", &frame.body)?;
            drop(frame.body);
            let (caller, id) = (self.caller, frame.id);
            let (answers, responses) = (Arc::clone(self.answers), responses.clone());
            let mut answering = Box::pin(unconstrained(async move {
                let response = answers.answer(caller, request).await;
                drop(permit);
                send(&responses, encode(id, &response)?).await
            }));
            // Begun here, because tasks overtake each other.
            match futures::poll!(&mut answering) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => {
                    tasks.spawn(answering);
                }
            }
        }
        Ok(())
    }
}

/// A response that is too long to be sent is one that was not given: what was asked may have been done.
fn encode(id: u64, response: &Response) -> io::Result<Vec<u8>> {
    frame::encode(Kind::Response, id, response.len_hint(), |out| {
        codec::encode_message(response, out);
    })
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
