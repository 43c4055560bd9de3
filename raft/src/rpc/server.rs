//! The server side of the connections between nodes: accepts connections, and answers their requests.
//!
//! Before its handshake is done, a connection may hold one of a few slots, for a few seconds, and send a few
//! kilobytes. When all slots are taken, the connection that has held its slot longest is closed, so that
//! connections without a handshake cannot starve others. After the handshake, the number and the bytes of its
//! requests that are answered at once are limited. Requests beyond these limits are answered as not done.
//!
//! Requests are started in the order in which they arrive, so an append reaches Raft before the next one. They
//! finish in any order.

use std::collections::BTreeMap;
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

use super::Peers;
use super::credentials::{Credentials, Peer};
use super::frame::{BODY_LEN_MAX, Kind, Message};
use super::handshake::{self, Greeted};
use super::message::{Request, Response};
use super::outbox::Outbox;
use super::patience::Patient;
use super::refusal::{Refusal, escaped};
use super::seal::{Opener, Sealer, Seals};
use super::socket::{Connection as Stream, Listener};
use super::turn_away::{Cause, TurnAwayLog};
use crate::codec;

/// Limits on the use of this node by its peers.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Maximum number of connections, including those whose handshake is not done.
    pub(crate) connections: usize,
    /// Maximum number of connections whose handshake is not done.
    pub(crate) greetings: usize,
    /// Timeout of the handshake.
    pub(crate) greeting: Duration,
    /// The longest time that a connection may make no progress. The client sends pings much more often.
    pub(crate) silence: Duration,
    /// Maximum number of requests of one connection that are answered at once.
    pub(crate) requests: usize,
    /// Maximum number of bytes of such requests. A larger request is answered alone.
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

/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The sender of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Its node id, if it has one.
    pub(crate) node_id: Option<u64>,
    /// The incarnation of its data directory.
    pub(crate) incarnation: u128,
    /// True if the sender has shown that it belongs to this cluster. Otherwise it may only bootstrap or join
    /// one.
    pub(crate) is_member: bool,
}

/// Answers the requests of other nodes.
pub(crate) trait Answer: Send + Sync + 'static {
    /// Returns the response to `request`. Work that must keep the order of the requests is done before the
    /// first `await` that has to wait.
    fn answer(&self, caller: Caller, request: Request) -> impl Future<Output = Response> + Send;
}

/// Serves other nodes until the future is dropped, which closes all connections.
pub(crate) async fn serve<A: Answer>(listener: Box<dyn Listener>, peers: Peers, answers: Arc<A>) {
    serve_with(listener, peers, answers, Limits::default()).await;
}

/// Serves other nodes like [`serve`], within the given limits.
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
        turned_away: TurnAwayLog::default(),
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
            host.turned_away.note(from, &Cause::TooMany);
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
    /// Connections whose handshake is not done, in the order in which they were accepted.
    greeting: Mutex<BTreeMap<u64, AbortHandle>>,
    turned_away: TurnAwayLog,
}

impl<A: Answer> Host<A> {
    async fn connection(self: Arc<Self>, number: u64, stream: Stream, from: SocketAddr) {
        let greeted = self.greet(stream).await;
        self.greeting().remove(&number);
        match greeted {
            Ok((stream, Greeted { peer, seals })) => {
                let credentials = self.peers.credentials();
                let caller = Caller {
                    node_id: peer.node_id,
                    incarnation: peer.incarnation,
                    is_member: credentials.is_member(&peer),
                };
                let member = caller.node_id.filter(|_| caller.is_member);
                let _guest = member.map(|id| {
                    // The member is reachable now, so it is time to connect to it.
                    self.peers.hurry(id);
                    self.peers.receive(id)
                });
                let connection = Connection {
                    caller,
                    peer,
                    credentials,
                    answers: &self.answers,
                    limits: &self.limits,
                };
                if let Err(error) = connection.talk(stream, seals).await {
                    let error = error.to_string();
                    tracing::info!(%from, node = caller.node_id, error, "connection of another node ended");
                }
            }
            Err(cause) => self.turned_away.note(from, &cause),
        }
    }

    async fn greet(&self, mut stream: Stream) -> Result<(Stream, Greeted), Cause> {
        let limit = self.limits.greeting;
        let greeting = handshake::answer(&mut stream, self.peers.credentials());
        match tokio::time::timeout(limit, greeting).await {
            Ok(Ok(greeted)) => Ok((stream, greeted)),
            Ok(Err(error)) => Err(Cause::Handshake(error)),
            Err(_) => Err(Cause::TooSlow(limit)),
        }
    }

    fn greeting(&self) -> MutexGuard<'_, BTreeMap<u64, AbortHandle>> {
        self.greeting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose peer is authenticated.
struct Connection<'a, A> {
    caller: Caller,
    peer: Peer,
    credentials: &'a Credentials,
    answers: &'a Arc<A>,
    limits: &'a Limits,
}

impl<A: Answer> Connection<'_, A> {
    async fn talk(self, stream: Stream, seals: Seals) -> io::Result<()> {
        let silence = self.limits.silence;
        let (reader, writer) = stream.into_split();
        let (responses, waiting) = mpsc::channel(self.limits.requests);
        // Requests that are still being answered when this returns are cancelled with it: no peer waits for the
        // responses.
        let mut tasks = JoinSet::new();
        let writing = write_responses(Patient::new(writer, silence), seals.sealer, waiting);
        tasks.spawn(writing);
        let reader = BufReader::with_capacity(64 << 10, Patient::new(reader, silence));
        self.read_requests(reader, seals.opener, &responses, &mut tasks)
            .await
    }

    async fn read_requests(
        &self,
        mut reader: impl AsyncRead + Unpin,
        mut opener: Opener,
        responses: &mpsc::Sender<Message>,
        tasks: &mut JoinSet<io::Result<()>>,
    ) -> io::Result<()> {
        let room = Arc::new(Semaphore::new(self.limits.request_len));
        let silence = self.limits.silence;
        while let Some(frame) = opener.read(&mut reader, BODY_LEN_MAX, silence).await? {
            while let Some(ended) = tasks.try_join_next() {
                ended.map_err(io::Error::other)??;
            }
            // The peer may have been removed meanwhile, and learns the reason when it connects again. The check
            // applies to pings too: a node that has the membership without itself, uncommitted, sends nothing
            // else.
            self.credentials
                .admit(&self.peer)
                .map_err(|refusal| io::Error::new(io::ErrorKind::PermissionDenied, refusal.text))?;
            match frame.kind {
                Kind::Ping => {
                    send(responses, Message::empty(Kind::Pong, frame.id)).await?;
                    continue;
                }
                // The client sends this after it has seen this node's introduction.
                Kind::Refusal => {
                    let refusal: Refusal = codec::decode_message("a refusal", &frame.body)?;
                    let text = format!("the caller refuses this node: {}", escaped(&refusal.text));
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
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
            // Started here, because tasks may overtake each other.
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

/// Encodes a response. A response that is too long to be sent counts as lost: the request may have been carried
/// out.
fn encode(id: u64, response: &Response) -> io::Result<Message> {
    Message::new(Kind::Response, id, response.len_hint(), |out| {
        codec::encode_message(response, out);
    })
}

async fn send(responses: &mpsc::Sender<Message>, message: Message) -> io::Result<()> {
    responses
        .send(message)
        .await
        .map_err(|_| io::ErrorKind::BrokenPipe.into())
}

async fn write_responses(
    mut writer: impl AsyncWrite + Unpin,
    sealer: Sealer,
    mut waiting: mpsc::Receiver<Message>,
) -> io::Result<()> {
    let mut out = Outbox::new(sealer);
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, 64).await > 0 {
        for message in batch.drain(..) {
            out.push(message);
        }
        out.write_to(&mut writer).await?;
    }
    Ok(())
}
