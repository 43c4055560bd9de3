//! A link: this node's connection for requests to one member, which is established, watched and re-established.
//!
//! A member that does not answer is given up after a while: a ping is sent twice a second, and a message must
//! arrive within two seconds, or longer if much was sent or is arriving. Only complete messages count, and the
//! verified head of a long message, which tells its length. Bytes that never become a message are not a sign of
//! life. If the member's operating system closes the connection, another attempt follows at once. If that
//! attempt is refused, the process has ended, and the state says so ([`LinkState::Down`] with `closed`).
//! Everything else is silence, which may also be a cut cable.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::clear_handshake;
use super::credentials::Credentials;
use super::frame::{self, BODY_LEN_MAX, Kind, Message};
use super::handshake::{self, Greeted, HandshakeError};
use super::message::{Request, Response};
use super::outbox::Outbox;
use super::patience::Patient;
use super::seal::{Opener, Sealer, Seals};
use super::socket::{self, Connection, Sockets};
use super::{CallError, LinkState};
use crate::codec;

/// Maximum number of requests that wait to be written.
const QUEUE_LEN: usize = 256;

/// The timeouts and intervals of a link.
#[derive(Debug, Clone)]
pub(crate) struct Timing {
    /// Timeout of connecting.
    pub(crate) connect: Duration,
    /// Timeout of the handshake.
    pub(crate) greeting: Duration,
    /// Interval of pings.
    pub(crate) ping: Duration,
    /// The longest time without a sign of life.
    pub(crate) silence: Duration,
    /// The longest time that a message being sent may make no progress. An operating system accepts more of it
    /// only when a third of its send buffer, which may hold megabytes, is free again.
    pub(crate) standstill: Duration,
    /// Pause between two attempts to connect: the first pause and its maximum.
    pub(crate) retry: (Duration, Duration),
    /// Pause between two attempts after the peer's process has ended, and the time for which that pause is
    /// used: the process may be restarted at once.
    pub(crate) retry_ended: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self {
            connect: millis(1000),
            greeting: millis(2000),
            ping: millis(500),
            silence: millis(2000),
            standstill: millis(10_000),
            retry: (millis(20), millis(1000)),
            retry_ended: (millis(50), millis(2000)),
        }
    }
}

/// Interval at which the same reason for having no connection is logged again, whatever the peer says.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Number of attempts right after a connection was closed, to find out whether the process has ended. (An
/// operating system that ends a process may close its connections a moment before its listener.)
const CLOSED_ATTEMPTS: u32 = 10;
const CLOSED_ATTEMPT_DELAY: Duration = Duration::from_millis(2);

/// A link to a member. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Link {
    addr: String,
    queue: mpsc::Sender<Outgoing>,
    next_id: AtomicU64,
    state: watch::Receiver<LinkState>,
    /// The protocol version of the last connection; 0 if there was none.
    protocol: Arc<AtomicU32>,
    hurry: Arc<Notify>,
    task: AbortHandle,
}

/// A request that waits to be written.
#[derive(Debug)]
struct Outgoing {
    id: u64,
    message: Message,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<Response, CallError>>;

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Starts a task that connects to member `to` at `addr`, and keeps trying until the link is dropped.
    pub(crate) fn start(
        to: u64,
        addr: String,
        sockets: Arc<dyn Sockets>,
        credentials: Credentials,
        timing: Timing,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_LEN);
        let (state_sender, state) = watch::channel(LinkState::Connecting);
        let hurry = Arc::new(Notify::new());
        let protocol = Arc::<AtomicU32>::default();
        let runner = Runner {
            to,
            addr: addr.clone(),
            sockets,
            credentials,
            timing,
            waiting,
            state: state_sender,
            protocol: Arc::clone(&protocol),
            hurry: Arc::clone(&hurry),
            pending: Arc::default(),
        };
        let task = tokio::spawn(runner.run()).abort_handle();
        Self {
            addr,
            queue,
            next_id: AtomicU64::new(1),
            state,
            protocol,
            hurry,
            task,
        }
    }

    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// Returns the protocol version that the member spoke on its last connection; 0 if there was none.
    pub(crate) fn protocol(&self) -> u32 {
        self.protocol.load(Ordering::Acquire)
    }

    pub(crate) fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Makes the link retry at once if it is waiting.
    pub(crate) fn hurry(&self) {
        if *self.state.borrow() != LinkState::Up {
            self.hurry.notify_one();
        }
    }

    /// Sends a request. See [`super::Peers::call`].
    pub(crate) async fn call(
        &self,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, CallError> {
        match &*self.state.borrow() {
            LinkState::Up => {}
            state => return Err(CallError::Unreachable(state.to_string())),
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let message = Message::new(Kind::Request, id, request.len_hint(), |out| {
            codec::encode_message(request, out);
        })
        .map_err(|error| CallError::Unreachable(error.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing { id, message, reply };
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
            // The entry in `pending` is removed by the late response, or with the connection.
            Err(_) => Err(CallError::TimedOut(timeout)),
        }
    }
}

/// The task behind a [`Link`].
struct Runner {
    to: u64,
    addr: String,
    sockets: Arc<dyn Sockets>,
    credentials: Credentials,
    timing: Timing,
    waiting: mpsc::Receiver<Outgoing>,
    state: watch::Sender<LinkState>,
    protocol: Arc<AtomicU32>,
    hurry: Arc<Notify>,
    pending: Arc<Mutex<Pending>>,
}

/// The state that the reader and the writer of a connection share.
#[derive(Debug, Default)]
struct Pending {
    /// Requests that were written and not answered yet.
    replies: HashMap<u64, Reply>,
    /// Number of pings since the last message arrived. Pings are counted, not time: if this node itself was
    /// stalled, the peer is not to blame.
    unheard_pings: u32,
    /// Bytes that were written since the last message arrived.
    unheard_len: usize,
    /// The part of `unheard_len` that was written before the first of `unheard_pings`. The answer to that ping
    /// follows the answers to these bytes; bytes that were written later do not delay it.
    asked_len: usize,
    /// Length in bytes of the message that is arriving.
    coming_len: usize,
}

impl Pending {
    /// Records that a message has arrived, or the head of a message of `coming_len` bytes.
    fn hear(&mut self, coming_len: usize) {
        self.unheard_pings = 0;
        self.unheard_len = 0;
        self.coming_len = coming_len;
    }

    /// Records that another ping is due. Returns the duration of the silence if it is too long.
    fn overdue(&mut self, timing: &Timing) -> Option<Duration> {
        if self.unheard_pings == 0 {
            self.asked_len = self.unheard_len;
        }
        let extra = frame::time_for(self.asked_len.saturating_add(self.coming_len));
        let silence = timing.ping * self.unheard_pings;
        self.unheard_pings = self.unheard_pings.saturating_add(1);
        (silence >= timing.silence + extra).then_some(silence)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runner {
    async fn run(mut self) {
        let mut delay = self.timing.retry.0;
        // Number of attempts left that follow a close at once.
        let mut closed_attempts = 0;
        let mut was_closed = false;
        let mut said_at: Option<(&str, Instant)> = None;
        let mut ended_at: Option<Instant> = None;
        // Operators want to know that a node which was connected has gone, and that it has returned.
        let (mut was_there, mut is_missed) = (false, false);
        loop {
            match self.connect().await {
                Ok((stream, seals)) => {
                    delay = self.timing.retry.0;
                    ended_at = None;
                    self.set(LinkState::Up);
                    was_there = true;
                    if std::mem::take(&mut is_missed) {
                        tracing::warn!(node = self.to, addr = %self.addr, "connected again");
                    } else {
                        tracing::info!(node = self.to, addr = %self.addr, "connected");
                    }
                    let error = self.serve(stream, seals).await;
                    tracing::info!(node = self.to, addr = %self.addr, %error, "connection ended");
                    was_closed = is_close(&error);
                    closed_attempts = if was_closed { CLOSED_ATTEMPTS } else { 0 };
                    self.down(false, format!("the connection ended: {error}"));
                    if was_closed {
                        continue;
                    }
                }
                Err(HandshakeError::Refused(refusal)) => {
                    let reason = refusal.text.clone();
                    if self.set(LinkState::Rejected {
                        refusal,
                        by_peer: false,
                    }) {
                        tracing::warn!(node = self.to, addr = %self.addr, reason, "no connection");
                    }
                    delay = self.timing.retry.1;
                    (was_closed, closed_attempts) = (false, 0);
                }
                Err(HandshakeError::RefusedByPeer(refusal)) => {
                    let reason = refusal.text.clone();
                    if self.set(LinkState::Rejected {
                        refusal,
                        by_peer: true,
                    }) {
                        tracing::warn!(node = self.to, addr = %self.addr, reason, "no connection");
                    }
                    delay = self.timing.retry.1;
                    (was_closed, closed_attempts) = (false, 0);
                }
                Err(HandshakeError::Unproved { why, said }) => {
                    // An unproved peer can send any text, and a different one each time, so the log is limited
                    // by time.
                    let is_due = said_at
                        .is_none_or(|(known, at)| known != why || at.elapsed() >= LOG_INTERVAL);
                    if is_due {
                        said_at = Some((why, Instant::now()));
                        tracing::warn!(
                            node = self.to, addr = %self.addr, reason = why, said, "no connection"
                        );
                    }
                    self.down(false, why.to_owned());
                    delay = self.timing.retry.1;
                    (was_closed, closed_attempts) = (false, 0);
                }
                Err(error @ HandshakeError::Older) => {
                    self.down(false, error.to_string());
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
                    let is_new = self.down(was_closed, error.to_string());
                    if is_new && was_there && !is_missed {
                        is_missed = true;
                        tracing::warn!(
                            node = self.to, addr = %self.addr, %error, has_ended = was_closed,
                            "no connection to a node that was there"
                        );
                    } else if is_new {
                        tracing::info!(
                            node = self.to, addr = %self.addr, %error, has_ended = was_closed,
                            "no connection"
                        );
                    }
                }
            }
            let (pause, for_long) = self.timing.retry_ended;
            if was_closed && ended_at.get_or_insert_with(Instant::now).elapsed() < for_long {
                self.wait(pause).await;
            } else {
                self.wait(delay).await;
                delay = (delay * 3 / 2).min(self.timing.retry.1);
            }
        }
    }

    fn down(&self, closed: bool, reason: String) -> bool {
        self.set(LinkState::Down { closed, reason })
    }

    /// Sets the state. Returns true if it has changed.
    fn set(&self, state: LinkState) -> bool {
        self.state.send_if_modified(|known| {
            let news = *known != state;
            *known = state;
            news
        })
    }

    /// Waits for about `delay`, or until [`Link::hurry`], and refuses requests meanwhile.
    async fn wait(&mut self, delay: Duration) {
        let jitter = rand::rng().random_range(0.7..1.3);
        let hurry = Arc::clone(&self.hurry);
        let waited = async {
            tokio::select! {
                () = tokio::time::sleep(delay.mul_f64(jitter)) => {}
                () = hurry.notified() => {}
            }
        };
        self.refuse_until(waited).await;
    }

    /// Refuses requests until `until` resolves.
    async fn refuse_until<T>(&mut self, until: impl Future<Output = T>) -> T {
        tokio::pin!(until);
        loop {
            tokio::select! {
                result = &mut until => return result,
                outgoing = self.waiting.recv() => match outgoing {
                    Some(outgoing) => self.refuse(outgoing),
                    // The link was dropped, and this task is about to be aborted.
                    None => return std::future::pending().await,
                },
            }
        }
    }

    fn refuse(&self, outgoing: Outgoing) {
        let reason = match &*self.state.borrow() {
            LinkState::Up => "not connected".to_owned(),
            state => state.to_string(),
        };
        // A caller that gave up has dropped its receiver.
        let _ = outgoing.reply.send(Err(CallError::Unreachable(reason)));
    }

    async fn connect(&mut self) -> Result<(Connection, Seals), HandshakeError> {
        let (to, addr) = (self.to, self.addr.clone());
        let sockets = Arc::clone(&self.sockets);
        let (credentials, timing) = (self.credentials.clone(), self.timing.clone());
        let protocol = Arc::clone(&self.protocol);
        let connected = async move {
            let wanted = Some(to);
            let (stream, greeted) =
                connect(&*sockets, &addr, &credentials, wanted, &timing).await?;
            let peer = greeted.peer;
            if peer.node_id != wanted || !credentials.is_member(&peer) {
                let text = "the node there has not joined the cluster yet";
                return Err(io::Error::other(text).into());
            }
            protocol.store(peer.protocol, Ordering::Release);
            Ok((stream, greeted.seals))
        };
        self.refuse_until(connected).await
    }

    /// Sends requests and receives responses until the connection ends. Returns the reason.
    async fn serve(&mut self, stream: Connection, seals: Seals) -> io::Error {
        let (reader, writer) = stream.into_split();
        let pending = Arc::clone(&self.pending);
        lock(&pending).hear(0);
        let reader = read_responses(reader, seals.opener, Arc::clone(&pending));
        let mut reading = AbortOnDrop(tokio::spawn(reader));
        let writer = Patient::new(writer, self.timing.standstill);
        let error = tokio::select! {
            error = self.write_requests(writer, seals.sealer) => error,
            end = &mut reading.0 => end.unwrap_or_else(io::Error::other),
        };
        drop(reading);
        let lost = std::mem::take(&mut lock(&pending).replies);
        for reply in lost.into_values() {
            let text = format!("the connection ended: {error}");
            let _ = reply.send(Err(CallError::Lost(text)));
        }
        error
    }

    async fn write_requests(
        &mut self,
        mut writer: impl AsyncWrite + Unpin,
        sealer: Sealer,
    ) -> io::Error {
        let mut batch: Vec<Outgoing> = Vec::new();
        let mut out = Outbox::new(sealer);
        let mut ping = tokio::time::interval(self.timing.ping);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = ping.tick() => {
                    if let Some(silence) = lock(&self.pending).overdue(&self.timing) {
                        let text = format!("nothing was heard for {silence:.1?}");
                        return io::Error::new(io::ErrorKind::TimedOut, text);
                    }
                    out.push(Message::empty(Kind::Ping, 0));
                }
                count = self.waiting.recv_many(&mut batch, 64) => {
                    if count == 0 {
                        return io::Error::other("this node is stopping");
                    }
                    let mut pending = lock(&self.pending);
                    for outgoing in batch.drain(..) {
                        if !outgoing.reply.is_closed() {
                            pending.replies.insert(outgoing.id, outgoing.reply);
                            out.push(outgoing.message);
                        }
                    }
                }
            }
            let len = out.len();
            let began = Instant::now();
            if let Err(error) = out.write_to(&mut writer).await {
                return error;
            }
            let mut pending = lock(&self.pending);
            pending.unheard_len = pending.unheard_len.saturating_add(len);
            // During such a long write no ping could be sent, but the peer accepted bytes all the time.
            if began.elapsed() > self.timing.ping {
                pending.unheard_pings = 0;
            }
        }
    }
}

async fn read_responses(
    reader: impl AsyncRead + Unpin,
    mut opener: Opener,
    pending: Arc<Mutex<Pending>>,
) -> io::Error {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    loop {
        let head = match opener.head(&mut reader, BODY_LEN_MAX).await {
            Ok(Some(head)) => head,
            Ok(None) => return io::ErrorKind::UnexpectedEof.into(),
            Err(error) => return error,
        };
        lock(&pending).hear(head.body_len());
        let frame = match opener.body(&mut reader, head).await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        lock(&pending).hear(0);
        match frame.kind {
            Kind::Pong => {}
            Kind::Response => {
                let Some(reply) = lock(&pending).replies.remove(&frame.id) else {
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

/// Returns true if the peer's operating system ended the connection.
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

/// Connects to `addr` and performs the handshake. The peer must be node `wanted`, if that is given. Falls back
/// to the handshake of protocol versions 1 and 2 for an older peer.
async fn connect(
    sockets: &dyn Sockets,
    addr: &str,
    credentials: &Credentials,
    wanted: Option<u64>,
    timing: &Timing,
) -> Result<(Connection, Greeted), HandshakeError> {
    let mut stream = socket::connect(sockets, addr, timing.connect).await?;
    match in_time(timing, handshake::call(&mut stream, credentials, wanted)).await {
        Err(HandshakeError::Older) => {}
        result => return result.map(|greeted| (stream, greeted)),
    }
    let mut stream = socket::connect(sockets, addr, timing.connect).await?;
    in_time(timing, clear_handshake::probe(&mut stream, credentials)).await?;
    let mut stream = socket::connect(sockets, addr, timing.connect).await?;
    let called = clear_handshake::call(&mut stream, credentials, wanted);
    let greeted = in_time(timing, called).await?;
    Ok((stream, greeted))
}

async fn in_time<T>(
    timing: &Timing,
    greeting: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    match tokio::time::timeout(timing.greeting, greeting).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

/// Sends one request on a connection of its own to the node at `addr`. For nodes that have no cluster yet.
///
/// # Errors
/// [`HandshakeError`]: also if there is no response within `timeout`.
pub(crate) async fn ask(
    addr: &str,
    sockets: &dyn Sockets,
    credentials: &Credentials,
    request: &Request,
    timeout: Duration,
) -> Result<Response, HandshakeError> {
    let exchange = async {
        let timing = Timing::default();
        let (stream, greeted) = connect(sockets, addr, credentials, None, &timing).await?;
        let message = Message::new(Kind::Request, 1, request.len_hint(), |out| {
            codec::encode_message(request, out);
        })?;
        let (reader, mut writer) = stream.into_split();
        let Seals { sealer, mut opener } = greeted.seals;
        let mut out = Outbox::new(sealer);
        out.push(message);
        out.write_to(&mut writer).await?;
        let mut reader = BufReader::new(reader);
        match opener.read(&mut reader, BODY_LEN_MAX, timeout).await? {
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
