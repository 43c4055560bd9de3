//! One connection to one member, for this node's requests: made, watched, and made again.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::frame::{self, BODY_LEN_MAX, Kind};
use super::handshake::{self, Credentials, HandshakeError};
use super::message::{Request, Response};
use super::outbox;
use super::socket;
use super::{CallError, LinkState};
use crate::codec;

/// Requests that wait to be written.
const QUEUE_LEN: usize = 256;

/// How long connecting and greeting may take.
const CONNECT_DURATION_MAX: Duration = Duration::from_millis(1000);
const HANDSHAKE_DURATION_MAX: Duration = Duration::from_secs(2);

/// How often a connection is asked for a sign of life, and how long it may be without one.
const PING_INTERVAL: Duration = Duration::from_millis(500);
const SILENCE_DURATION_MAX: Duration = Duration::from_millis(2000);

/// Between two attempts to connect: at first, and at most.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(20);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(1000);

/// Attempts right after a connection was closed, to find out whether the process has gone. (A system
/// that ends a process may close its connections a moment before its listener.)
const CLOSED_ATTEMPTS: u32 = 10;
const CLOSED_ATTEMPT_DELAY: Duration = Duration::from_millis(2);

/// A link to a member. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Link {
    addr: String,
    queue: mpsc::Sender<Outgoing>,
    next_id: AtomicU64,
    state: watch::Receiver<LinkState>,
    task: AbortHandle,
}

/// A request on its way.
#[derive(Debug)]
struct Outgoing {
    id: u64,
    bytes: Vec<u8>,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<Response, CallError>>;

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Starts to connect to member `to` at `addr`, and never stops.
    pub(crate) fn start(to: u64, addr: String, credentials: Credentials) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_LEN);
        let (state_sender, state) = watch::channel(LinkState::Connecting);
        let runner = Runner {
            to,
            addr: addr.clone(),
            credentials,
            waiting,
            state: state_sender,
            pending: Arc::default(),
        };
        let task = tokio::spawn(runner.run()).abort_handle();
        Self {
            addr,
            queue,
            next_id: AtomicU64::new(1),
            state,
            task,
        }
    }

    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    pub(crate) fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// See [`super::Peers::call`].
    pub(crate) async fn call(
        &self,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, CallError> {
        match &*self.state.borrow() {
            LinkState::Up => {}
            LinkState::Connecting => {
                return Err(CallError::Unreachable("not connected yet".to_owned()));
            }
            LinkState::Down { reason, .. } | LinkState::Rejected(reason) => {
                return Err(CallError::Unreachable(reason.clone()));
            }
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let bytes = frame::encode(Kind::Request, id, |out| codec::encode_message(request, out))
            .map_err(|error| CallError::Unreachable(error.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing { id, bytes, reply };
        let deadline = Instant::now() + timeout;
        match tokio::time::timeout_at(deadline, self.queue.send(outgoing)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(CallError::Unreachable("this node is stopping".to_owned())),
            Err(_) => {
                let text = format!("{QUEUE_LEN} requests were waiting for {timeout:?}");
                return Err(CallError::Unreachable(text));
            }
        }
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(CallError::Lost("the connection was given up".to_owned())),
            // Its place in `pending` goes with the late response, or with the connection.
            Err(_) => Err(CallError::TimedOut(timeout)),
        }
    }
}

/// The task behind a [`Link`].
struct Runner {
    to: u64,
    addr: String,
    credentials: Credentials,
    waiting: mpsc::Receiver<Outgoing>,
    state: watch::Sender<LinkState>,
    pending: Arc<Pending>,
}

/// Requests that were written and not answered yet.
#[derive(Debug)]
struct Pending {
    replies: Mutex<HashMap<u64, Reply>>,
    /// When something came last.
    heard: Mutex<Instant>,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            replies: Mutex::default(),
            heard: Mutex::new(Instant::now()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runner {
    async fn run(mut self) {
        let mut delay = RETRY_DELAY_MIN;
        // Attempts that follow a close at once.
        let mut closed_attempts = 0;
        let mut was_closed = false;
        loop {
            match self.connect().await {
                Ok(stream) => {
                    delay = RETRY_DELAY_MIN;
                    self.state.send_replace(LinkState::Up);
                    tracing::info!(node = self.to, addr = %self.addr, "connected");
                    let error = self.serve(stream).await;
                    tracing::info!(node = self.to, addr = %self.addr, %error, "connection ended");
                    was_closed = is_close(&error);
                    closed_attempts = if was_closed { CLOSED_ATTEMPTS } else { 0 };
                    self.down(false, format!("the connection ended: {error}"));
                    if was_closed {
                        continue;
                    }
                }
                Err(HandshakeError::Refused(reason) | HandshakeError::RefusedByPeer(reason)) => {
                    if self.set(LinkState::Rejected(reason.clone())) {
                        tracing::warn!(node = self.to, addr = %self.addr, reason, "no connection");
                    }
                    delay = RETRY_DELAY_MAX;
                    (was_closed, closed_attempts) = (false, 0);
                }
                Err(HandshakeError::Io(error)) => {
                    let refused = error.kind() == io::ErrorKind::ConnectionRefused;
                    if !refused && closed_attempts > 0 && is_close(&error) {
                        closed_attempts -= 1;
                        tokio::time::sleep(CLOSED_ATTEMPT_DELAY).await;
                        continue;
                    }
                    closed_attempts = 0;
                    // A refused connection alone may be a node that was never there.
                    was_closed &= refused;
                    if self.down(was_closed, error.to_string()) {
                        tracing::info!(
                            node = self.to, addr = %self.addr, %error, has_ended = was_closed,
                            "no connection"
                        );
                    }
                }
            }
            self.wait(delay).await;
            delay = (delay * 3 / 2).min(RETRY_DELAY_MAX);
        }
    }

    fn down(&self, closed: bool, reason: String) -> bool {
        self.set(LinkState::Down { closed, reason })
    }

    /// Whether that is news.
    fn set(&self, state: LinkState) -> bool {
        self.state.send_if_modified(|known| {
            let news = *known != state;
            *known = state;
            news
        })
    }

    /// Waits, and refuses requests meanwhile.
    async fn wait(&mut self, delay: Duration) {
        let jitter = rand::rng().random_range(0.7..1.3);
        let until = Instant::now() + delay.mul_f64(jitter);
        let sleep = tokio::time::sleep_until(until);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return,
                outgoing = self.waiting.recv() => match outgoing {
                    Some(outgoing) => self.refuse(outgoing),
                    // Nobody holds the link any more, and this task is about to be ended.
                    None => return std::future::pending().await,
                },
            }
        }
    }

    fn refuse(&self, outgoing: Outgoing) {
        let reason = match &*self.state.borrow() {
            LinkState::Down { reason, .. } | LinkState::Rejected(reason) => reason.clone(),
            LinkState::Connecting | LinkState::Up => "not connected".to_owned(),
        };
        // Whoever gave up is gone.
        let _ = outgoing.reply.send(Err(CallError::Unreachable(reason)));
    }

    async fn connect(&mut self) -> Result<TcpStream, HandshakeError> {
        let mut stream = socket::connect(&self.addr, CONNECT_DURATION_MAX).await?;
        let greeting = handshake::call(&mut stream, &self.credentials, Some(self.to));
        let theirs = match tokio::time::timeout(HANDSHAKE_DURATION_MAX, greeting).await {
            Ok(theirs) => theirs?,
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        if theirs.node_id != Some(self.to) || theirs.cluster_id.is_none() {
            let text = "the node there has not joined the cluster yet";
            return Err(io::Error::other(text).into());
        }
        Ok(stream)
    }

    /// Passes requests and responses until the connection ends.
    async fn serve(&mut self, stream: TcpStream) -> io::Error {
        let (reader, writer) = stream.into_split();
        *lock(&self.pending.heard) = Instant::now();
        let pending = Arc::clone(&self.pending);
        let mut reading = AbortOnDrop(tokio::spawn(read_responses(reader, Arc::clone(&pending))));
        let error = tokio::select! {
            error = self.write_requests(writer) => error,
            end = &mut reading.0 => end.unwrap_or_else(io::Error::other),
        };
        drop(reading);
        let lost = std::mem::take(&mut *lock(&pending.replies));
        for reply in lost.into_values() {
            let text = format!("the connection ended: {error}");
            let _ = reply.send(Err(CallError::Lost(text)));
        }
        error
    }

    async fn write_requests(&mut self, mut writer: impl AsyncWrite + Unpin) -> io::Error {
        let mut batch: Vec<Outgoing> = Vec::new();
        let mut out = outbox::Outbox::default();
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = ping.tick() => {
                    if lock(&self.pending.heard).elapsed() > SILENCE_DURATION_MAX {
                        let text = format!("nothing was heard for {SILENCE_DURATION_MAX:?}");
                        return io::Error::new(io::ErrorKind::TimedOut, text);
                    }
                    match frame::encode(Kind::Ping, 0, |_| {}) {
                        Ok(bytes) => out.push(bytes),
                        Err(error) => return error,
                    }
                }
                count = self.waiting.recv_many(&mut batch, 64) => {
                    if count == 0 {
                        return io::Error::other("this node is stopping");
                    }
                    let mut pending = lock(&self.pending.replies);
                    for outgoing in batch.drain(..) {
                        if !outgoing.reply.is_closed() {
                            pending.insert(outgoing.id, outgoing.reply);
                            out.push(outgoing.bytes);
                        }
                    }
                }
            }
            match tokio::time::timeout(SILENCE_DURATION_MAX, out.write_to(&mut writer)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => return io::ErrorKind::TimedOut.into(),
            }
        }
    }
}

async fn read_responses(reader: impl AsyncRead + Unpin, pending: Arc<Pending>) -> io::Error {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    loop {
        let frame = match frame::read(&mut reader, BODY_LEN_MAX).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return io::ErrorKind::UnexpectedEof.into(),
            Err(error) => return error,
        };
        *lock(&pending.heard) = Instant::now();
        match frame.kind {
            Kind::Pong => {}
            Kind::Response => {
                let Some(reply) = lock(&pending.replies).remove(&frame.id) else {
                    continue;
                };
                let response = match codec::decode_message("a response", &frame.body) {
                    Ok(response) => response,
                    Err(error) => return error.into(),
                };
                let _ = reply.send(Ok(response));
            }
            other => {
                let text = format!("{other:?} came where a response was due");
                return io::Error::new(io::ErrorKind::InvalidData, text);
            }
        }
    }
}

/// Whether the other side's system ended the connection.
fn is_close(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionRefused
    )
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One request on a connection of its own, to whoever is at `addr`. For nodes that have no cluster yet.
///
/// # Errors
/// [`HandshakeError`].
pub(crate) async fn ask(
    addr: &str,
    credentials: &Credentials,
    request: &Request,
    timeout: Duration,
) -> Result<Response, HandshakeError> {
    let exchange = async {
        let mut stream = socket::connect(addr, CONNECT_DURATION_MAX).await?;
        handshake::call(&mut stream, credentials, None).await?;
        let bytes = frame::encode(Kind::Request, 1, |out| codec::encode_message(request, out))?;
        let (reader, mut writer) = stream.split();
        let mut out = outbox::Outbox::default();
        out.push(bytes);
        out.write_to(&mut writer).await?;
        let mut reader = BufReader::new(reader);
        match frame::read(&mut reader, BODY_LEN_MAX).await? {
            Some(frame) if frame.kind == Kind::Response => {
                Ok(codec::decode_message("a response", &frame.body).map_err(io::Error::from)?)
            }
            Some(_) => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!("no answer within {timeout:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
        }
    }
}
