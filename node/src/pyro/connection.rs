//! One client: its first message, then frames in and frames out until one side has enough.
//!
//! All that has arrived is handled before anything is written, so that pipelined calls cost one write;
//! calls are run one after the other, as the original does. An idle connection owns no buffer.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hearth_storage::ListRefusal;
use hearth_wire::frame::FrameDecoder;
use hearth_wire::{
    Call, DecodeError, Dialect, Exception, Family, Frame, Limits, MessageType, PyroClass, Value,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

use super::Front;
use super::budget::Share;
use super::caller::Caller;
use super::dispatch::{self, Answer};
use super::drops::Cause;
use super::handshake::{self, Greeting};
use super::listing::{self, Items, Listing, Made};
use super::places::Place;
use super::presence::{Presence, attended};
use super::python;
use super::reply::{self, Next, Reply};
use super::socket::{Peer, Socket};

/// How long the next call of a client is waited for when the node stops. One that was idle for so long is
/// not about to call in the very moment of the end.
const PARTING: Duration = Duration::from_millis(200);

/// Bytes that are read at most at once.
const READ_LEN_MAX: usize = 64 << 10;
/// Replies of so many bytes are written before the next call is run.
const WRITE_LEN: usize = 128 << 10;
/// A payload above this is decoded away from the reactor, and few of its kind at a time are run.
const INLINE_PAYLOAD_LEN_MAX: usize = 64 << 10;
/// Bytes of names, URIs and tags up to which several lists are made at once.
const MIDDLE_LIST_LEN_MAX: usize = 4 << 20;
/// How many, and as many batches.
pub(super) const LARGE_CALL_COUNT_MAX: usize = 1;
/// A client that takes a large reply must take so many bytes a second.
const SLOWEST_CLIENT_RATE: usize = 128 << 10;
/// How long a client may leave replies unread when there is no room left for those of others.
const UNREAD_PATIENCE_MIN: Duration = Duration::from_secs(3);
/// How often that is looked at.
const UNREAD_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a refused client's remaining bytes are read and forgotten, so that it sees the refusal
/// before the reset that unread bytes cause.
const LINGER: Duration = Duration::from_millis(500);
/// How many of them.
const LINGER_LEN_MAX: usize = 256 << 10;
/// The annotation that says whose call a keep-serialized message is.
const BLOB_INFO: [u8; 4] = *b"BLBI";
/// What a pickled answer is sent as.
const PICKLE_ID: u16 = 4;

thread_local! {
    /// Where reads land before the decoder takes them over. Nothing stays here.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_LEN_MAX]);
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client closed it, or the network did.
    PeerClosed,
    /// The node stops.
    Stopping,
    /// Nothing was heard for [`idle_timeout`](super::FrontConfig::idle_timeout).
    Idle,
    /// The socket failed.
    Io(io::Error),
    /// It was closed without a word.
    Dropped(String),
    /// The client was told why.
    Refused(String),
    /// There was no place for it, which the client was told if it asked in time.
    NoPlace(String),
    /// It was the longest idle when another client needed its place.
    GaveWay,
    /// A defect of ours; the other connections go on.
    Panicked,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerClosed => f.write_str("closed by the client"),
            Self::Stopping => f.write_str("the node stops"),
            Self::Idle => f.write_str("idle for too long"),
            Self::Io(error) => error.fmt(f),
            Self::Dropped(reason) | Self::Refused(reason) | Self::NoPlace(reason) => {
                f.write_str(reason)
            }
            Self::GaveWay => f.write_str("the longest idle gives way to a new client"),
            Self::Panicked => f.write_str("a panic"),
        }
    }
}

/// A client's connection and how far its conversation is.
pub(super) struct Connection {
    front: Arc<Front>,
    /// None for a client that is turned away.
    place: Option<Place>,
    socket: Socket,
    caller: Caller,
    /// The caller's.
    presence: Presence,
    decoder: FrameDecoder,
    /// Replies that are not yet written.
    out: Vec<u8>,
    /// Memory of the message that is received or handled.
    request: Share,
    /// Memory of the answers in `out`.
    answer: Share,
    is_greeted: bool,
    /// When the connection was accepted, or the message that is under way began.
    waiting_since: Option<Instant>,
    /// Once the node stops: until when a further call of the client is waited for.
    parting: Option<Instant>,
    /// When the client was last heard; kept only where an idle timeout is set.
    heard: Option<Instant>,
    /// Fires at or before the next deadline, and is moved when it does: a busy connection never
    /// touches the clock's wheel.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub(super) fn new(front: Arc<Front>, socket: Socket, peer: Peer, place: Option<Place>) -> Self {
        let config = &front.config;
        let mut decoder = FrameDecoder::new(config.limits, config.hmac_key.clone());
        decoder.accept(&[MessageType::Connect]);
        let caller = Caller::new(peer, config.hmac_key.is_some());
        Self {
            request: front.requests.share(),
            answer: front.answers.share(),
            presence: caller.presence().clone(),
            caller,
            front,
            place,
            socket,
            decoder,
            out: Vec::new(),
            is_greeted: false,
            waiting_since: Some(Instant::now()),
            parting: None,
            heard: None,
            timer: None,
        }
    }

    /// Serves the client until the connection ends or `stopping` resolves. What was asked whole before
    /// that is answered, and so is the next call if it comes soon: its reply and the end of the connection
    /// arrive together, so a client that looks for the end before it calls again never loses a call.
    pub(super) async fn serve(
        mut self,
        mut stopping: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> End {
        loop {
            // Who has just been greeted is about to call.
            let may_leave = self.parting.is_some() && self.is_greeted;
            let outcome = self.handle_all().await;
            let has_last_word = outcome.is_err() && !self.out.is_empty();
            let is_last = may_leave && outcome.is_ok() && !self.out.is_empty();
            if is_last {
                self.socket.hold_back();
            }
            let flushed = self.flush().await;
            match (outcome, flushed) {
                (Ok(()), Ok(())) if is_last => {
                    self.linger().await;
                    return End::Stopping;
                }
                (Ok(()), Ok(())) => {}
                (Err(end), Ok(())) => {
                    if has_last_word {
                        self.linger().await;
                    }
                    return end;
                }
                (Err(end), Err(_)) | (Ok(()), Err(end)) => return end,
            }
            if let Some(place) = &self.place {
                place.rest();
            }
            if let Err(end) = self.fill(stopping.as_mut()).await {
                return end;
            }
        }
    }

    /// Reads one message and refuses the client with `text`.
    pub(super) async fn turn_away(mut self, text: &str) {
        let limits = Limits {
            message_len_max: READ_LEN_MAX,
            ..self.front.config.limits
        };
        self.decoder = FrameDecoder::new(limits, self.front.config.hmac_key.clone());
        let deadline = Instant::now() + self.front.config.header_timeout.min(2 * LINGER);
        let first = async {
            loop {
                match self.decoder.next_frame() {
                    Ok(Some(frame)) => return Some(handshake::refusal(&frame, false, text)),
                    Ok(None) => self.fill(pin!(std::future::pending())).await.ok()?,
                    Err(error) => return error.refusal(),
                }
            }
        };
        if let Ok(Some(refusal)) = timeout_at(deadline, first).await {
            self.append(&refusal);
            if self.flush().await.is_ok() {
                self.linger().await;
            }
        }
    }

    /// Handles every message that is there as a whole.
    async fn handle_all(&mut self) -> Result<(), End> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => {
                    self.handle(frame).await?;
                    self.request.clear();
                }
                Ok(None) => break,
                Err(error) => self.handle_undecodable(error)?,
            }
            if self.out.len() >= WRITE_LEN {
                self.flush().await?;
            }
        }
        self.waiting_since = match self.waiting_since {
            since if !self.is_greeted => since,
            _ if !self.decoder.is_mid_frame() => None,
            None => Some(Instant::now()),
            since => since,
        };
        Ok(())
    }

    async fn handle(&mut self, frame: Frame) -> Result<(), End> {
        if self.place.as_ref().is_some_and(|place| !place.begin()) {
            return Err(End::GaveWay);
        }
        // Inflated, a message may be larger than what was received of it.
        self.request.clear();
        if !self.request.grow(frame.payload.len()) {
            return Err(too_much());
        }
        if self.is_greeted {
            self.waiting_since = None;
        }
        match frame.kind {
            MessageType::Invoke | MessageType::Ping
                if self.is_greeted
                    && let Err(exception) = frame.check_correlation_id() =>
            {
                self.raise(&frame, exception)
            }
            MessageType::Invoke if self.is_greeted => self.invoke(frame).await,
            MessageType::Ping if self.is_greeted => {
                self.ping(&frame);
                Ok(())
            }
            MessageType::Connect if !self.is_greeted => self.greet(&frame),
            other => Err(End::Dropped(format!("{other:?} has no place here"))),
        }
    }

    /// Answers bytes that are no message: a first one is refused with the reason, as is a call of which
    /// only the payload is broken; anything else ends the connection.
    fn handle_undecodable(&mut self, error: DecodeError) -> Result<(), End> {
        if !self.is_greeted {
            return Err(match error.refusal() {
                Some(refusal) => {
                    self.append(&refusal);
                    End::Refused(error.to_string())
                }
                None => End::Dropped(error.to_string()),
            });
        }
        match error {
            DecodeError::Inflate {
                frame,
                error: cause,
            } if frame.family == Family::Pyro4 => {
                let checked = frame.check_correlation_id();
                self.raise(
                    &frame,
                    checked.err().unwrap_or_else(|| cause.to_exception()),
                )
            }
            other => Err(End::Dropped(other.to_string())),
        }
    }

    fn greet(&mut self, frame: &Frame) -> Result<(), End> {
        match handshake::greet(&self.front.config, frame) {
            Greeting::Welcome(welcome) => {
                self.append(&welcome);
                self.is_greeted = true;
                self.waiting_since = None;
                self.timer = None;
                self.decoder
                    .accept(&[MessageType::Invoke, MessageType::Ping]);
                Ok(())
            }
            Greeting::Refused(refusal, reason) => {
                self.append(&refusal);
                Err(End::Refused(reason))
            }
            Greeting::Ignored(reason) => Err(End::Dropped(reason)),
        }
    }

    /// Answers a message that cannot be looked into.
    fn raise(&mut self, frame: &Frame, exception: Exception) -> Result<(), End> {
        let config = &self.front.config;
        let Some(serializer) = handshake::accepted(config, frame.family, frame.serializer_id)
        else {
            return self.refuse_serializer(frame);
        };
        let reply = reply_to(frame, Dialect::new(frame.family, serializer));
        close(reply.write(config, Err(exception), &mut self.out))
    }

    fn ping(&mut self, frame: &Frame) {
        let mut pong = Frame::new(
            frame.family,
            MessageType::Ping,
            frame.seq,
            frame.serializer_id,
            b"pong".to_vec(),
        );
        pong.correlation_id = Some(reply::correlation_id(frame.correlation_id));
        self.append(&pong);
    }

    async fn invoke(&mut self, frame: Frame) -> Result<(), End> {
        let front = &self.front;
        let family = frame.family;
        let Some(serializer) = handshake::accepted(&front.config, family, frame.serializer_id)
        else {
            return self.refuse_serializer(&frame);
        };
        let mut reply = reply_to(&frame, Dialect::new(family, serializer));
        let result = {
            // Pinned here, it is not moved into a second place.
            let work = pin!(run(front, &mut self.caller, &mut reply, frame));
            attended(&self.socket, &self.presence, work).await
        };
        let result = match result {
            Ok(Answer::Now(value)) => Ok(value),
            Ok(Answer::Large(value, memory)) => {
                return Box::pin(self.write_large(reply, value, memory)).await;
            }
            Ok(Answer::Later(listing)) => {
                return Box::pin(self.write_list(reply, listing)).await;
            }
            Err(exception) => Err(exception),
        };
        let before = self.out.len();
        let next = reply.write(&self.front.config, result, &mut self.out);
        // An exception may repeat a long argument. Overdrawn or not, it is there now.
        self.answer.grow(self.out.len() - before);
        close(next)
    }

    /// Makes a list, or what else is large, and encodes it, away from the reactor. One that turns out to be large is
    /// made anew in a turn of its own, of which there is one for all connections: it takes a multiple of its bytes
    /// while it is made.
    async fn write_list(&mut self, reply: Reply, listing: Listing) -> Result<(), End> {
        let front = Arc::clone(&self.front);
        let (reply, listing) = (Arc::new(reply), Arc::new(listing));
        let turns = front.turns_for(&listing);
        let make = |len_max| {
            let (front, reply, listing) =
                (Arc::clone(&front), Arc::clone(&reply), Arc::clone(&listing));
            move |presence: &Presence| match listing.make_within(len_max, presence) {
                Ok(Err(ListRefusal::TooLong { .. })) if len_max < listing.len_max => None,
                Ok(Ok(Made::Dict(items))) => Some(encode_dict(&front, &reply, items)),
                Ok(Ok(Made::Value(value))) => Some(encode(&front, &reply, Ok(value))),
                Ok(Err(refusal)) => {
                    let refusal = listing::list_refusal(refusal);
                    Some(encode(&front, &reply, Err(refusal)))
                }
                Err(exception) => Some(encode(&front, &reply, Err(exception))),
            }
        };
        {
            let _place = turns.answer_place().await;
            if !self.answers_have_room().await {
                return self.refuse_large_answer(&reply);
            }
            let work = Box::pin(turns.run_for(&self.presence, make(MIDDLE_LIST_LEN_MAX)));
            if let Some((bytes, next)) = attended(&self.socket, &self.presence, work).await {
                return self.take_answer(bytes, next);
            }
        }
        let _place = front.large_lists.acquire().await;
        if !self.answers_have_room().await {
            return self.refuse_large_answer(&reply);
        }
        let work = Box::pin(turns.run_for(&self.presence, make(listing.len_max)));
        match attended(&self.socket, &self.presence, work).await {
            Some((bytes, next)) => self.take_answer(bytes, next),
            None => Err(End::PeerClosed),
        }
    }

    /// Encodes a large result, away from the reactor. It counts among the answers until that is done, so it does
    /// not wait for those who wait for it.
    async fn write_large(&mut self, reply: Reply, value: Value, memory: Share) -> Result<(), End> {
        let front = Arc::clone(&self.front);
        let known = Arc::clone(&front);
        let work = move |_: &Presence| {
            let encoded = encode(&known, &reply, Ok(value));
            drop(memory);
            encoded
        };
        let work = Box::pin(front.heavy.run_for(&self.presence, work));
        let (bytes, next) = attended(&self.socket, &self.presence, work).await;
        self.take_answer(bytes, next)
    }

    async fn answers_have_room(&self) -> bool {
        let front = &self.front;
        Box::pin(front.answers.has_room(front.config.read_timeout)).await
    }

    fn refuse_large_answer(&mut self, reply: &Reply) -> Result<(), End> {
        let busy = Err(unread_answers());
        close(reply.write(&self.front.config, busy, &mut self.out))
    }

    /// Takes over an encoded answer, to be written.
    fn take_answer(&mut self, bytes: Vec<u8>, next: Next) -> Result<(), End> {
        if self.presence.is_gone() {
            return Err(End::PeerClosed);
        }
        // Overdrawn or not, it is there now; the next one has to wait.
        self.answer.grow(bytes.len());
        if self.out.is_empty() {
            self.out = bytes;
        } else {
            self.out.extend_from_slice(&bytes);
        }
        close(next)
    }

    /// Ends the connection of a client whose call uses a serializer that is not accepted, after saying
    /// so in that serializer where it can be written.
    fn refuse_serializer(&mut self, frame: &Frame) -> Result<(), End> {
        let text = handshake::not_accepted_text(frame.serializer_id);
        if frame.family == Family::Pyro4 && !frame.flags.oneway {
            self.write_serializer_refusal(frame, &text);
        }
        Err(End::Dropped(text))
    }

    fn write_serializer_refusal(&mut self, frame: &Frame, text: &str) {
        let family = frame.family;
        let id = frame.serializer_id;
        let config = &self.front.config;
        if let Some(serializer) = hearth_wire::Serializer::from_id(id, family) {
            let reply = reply_to(frame, Dialect::new(family, serializer));
            let exception = Exception::pyro(PyroClass::SerializeError, text);
            let _ = reply.write(config, Err(exception), &mut self.out);
        } else if id == PICKLE_ID {
            let mut payload = Vec::new();
            hearth_wire::serializer::pickle::write_serialize_error(text, &mut payload);
            let mut refusal = Frame::new(family, MessageType::Result, frame.seq, id, payload);
            refusal.flags.exception = true;
            self.append(&refusal);
        }
    }

    fn append(&mut self, frame: &Frame) {
        let may_compress = frame.kind != MessageType::Ping;
        let options = reply::options(&self.front.config, may_compress);
        if let Err(error) = frame.encode(&options, &mut self.out) {
            // Nothing that is appended here comes near the limits of a frame.
            tracing::error!(%error, kind = ?frame.kind, "a message of our own cannot be encoded");
        }
    }

    /// Writes all replies. A client that does not read them keeps nobody else waiting, and is dropped
    /// after a while.
    async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        // The buffer goes when this returns: most clients think longer than an allocation takes.
        let out = std::mem::take(&mut self.out);
        let written_len = match self.socket.try_write(&out) {
            Ok(len) if len == out.len() => {
                self.answer.clear();
                return Ok(());
            }
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(ended(error)),
        };
        Box::pin(self.flush_slowly(out, written_len)).await
    }

    async fn flush_slowly(&mut self, out: Vec<u8>, written_len: usize) -> Result<(), End> {
        let mut rest = out.get(written_len..).unwrap_or_default();
        let len = rest.len();
        let patience = self.front.config.send_timeout
            + Duration::from_secs((len / SLOWEST_CLIENT_RATE) as u64);
        let began = Instant::now();
        while !rest.is_empty() {
            match timeout(UNREAD_LOOK_INTERVAL, self.socket.write(rest)).await {
                Ok(Ok(0)) => return Err(End::PeerClosed),
                Ok(Ok(written_len)) => rest = rest.get(written_len..).unwrap_or_default(),
                Ok(Err(error)) => return Err(ended(error)),
                Err(_) => {}
            }
            let waited = began.elapsed();
            let due_len = SLOWEST_CLIENT_RATE.saturating_mul(waited.as_secs() as usize);
            let is_slow = waited > UNREAD_PATIENCE_MIN && len - rest.len() < due_len;
            // While others wait for room, one that hardly reads does not keep its own.
            let gives_way = is_slow && self.front.answers.is_spent();
            if !rest.is_empty() && (waited > patience || gives_way) {
                return Err(End::Dropped(format!(
                    "it left {} bytes of replies unread for {waited:?}",
                    rest.len()
                )));
            }
        }
        self.answer.clear();
        Ok(())
    }

    /// Waits for bytes and hands them to the decoder.
    async fn fill(
        &mut self,
        mut stopping: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<(), End> {
        poll_fn(|cx| {
            if self.parting.is_none() && stopping.as_mut().poll(cx).is_ready() {
                self.parting = Some(Instant::now() + PARTING);
            }
            if let Poll::Ready(read) = self.poll_read(cx) {
                return Poll::Ready(match read {
                    Ok(0) if self.decoder.is_mid_frame() => {
                        Err(End::Dropped("it ended inside a message".to_owned()))
                    }
                    Ok(0) => Err(End::PeerClosed),
                    Ok(len) if self.request.grow(len) => Ok(()),
                    Ok(_) => Err(too_much()),
                    Err(error) => Err(ended(error)),
                });
            }
            self.poll_deadline(cx).map(Err)
        })
        .await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self {
            socket, decoder, ..
        } = self;
        let read_len = ready!(SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let poll = Pin::new(socket).poll_read(cx, &mut buffer);
            poll.map_ok(|()| {
                decoder.push(buffer.filled());
                buffer.filled().len()
            })
        }))?;
        if self.front.config.idle_timeout.is_some() {
            self.heard = Some(Instant::now());
        }
        Poll::Ready(Ok(read_len))
    }

    /// Ready when the client has been waited for long enough.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let Some((deadline, end)) = self.deadline() else {
                self.timer = None;
                return Poll::Pending;
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(end());
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// Until when the client is waited for, and what happens then.
    fn deadline(&self) -> Option<(Instant, fn() -> End)> {
        let config = &self.front.config;
        if let Some(parting) = self.parting {
            return Some((parting, || End::Stopping));
        }
        if let Some(since) = self.waiting_since {
            return Some((since + config.header_timeout, || {
                End::Dropped("its message was not whole in time".to_owned())
            }));
        }
        let heard = self.heard?;
        Some((heard + config.idle_timeout?, || End::Idle))
    }

    /// Lets a client read the last that it is told.
    async fn linger(&mut self) {
        let forget = async {
            self.socket.shutdown().await?;
            let mut forgotten = (&mut self.socket).take(LINGER_LEN_MAX as u64);
            tokio::io::copy(&mut forgotten, &mut tokio::io::sink()).await
        };
        // Whatever happens here, the connection ends.
        let _ = timeout(LINGER, Box::pin(forget)).await;
    }
}

/// Decodes and runs the call that a message carries.
async fn run(
    front: &Front,
    caller: &mut Caller,
    reply: &mut Reply,
    frame: Frame,
) -> Result<Answer, Exception> {
    let family = frame.family;
    let _turn = if frame.payload.len() > INLINE_PAYLOAD_LEN_MAX {
        let turns = if reply.is_batch {
            &front.large_batches
        } else {
            &front.large_calls
        };
        let turn = Box::pin(timeout(front.config.write_deadline, turns.acquire())).await;
        // The semaphore is never closed, so what comes in time is a turn.
        let busy = |_| Exception::naming("too many large calls are under way; try again later");
        let turn = turn.map_err(busy)?.ok();
        // Its answer may be an exception that is as long.
        if !Box::pin(front.answers.has_room(front.config.write_deadline)).await {
            return Err(unread_answers());
        }
        turn
    } else {
        None
    };
    let call = decode(front, reply, frame).await?;
    dispatch::invoke(front, caller, family, call, reply.is_batch).await
}

/// The call that a message carries.
async fn decode(front: &Front, reply: &mut Reply, frame: Frame) -> Result<Call, Exception> {
    if frame.flags.keep_serialized {
        return blob_call(front, &frame);
    }
    let dialect = reply.dialect;
    let (call, dialect) = if frame.payload.len() <= INLINE_PAYLOAD_LEN_MAX {
        Call::decode(dialect, &frame.payload, &front.config.limits)?
    } else {
        let limits = front.config.limits;
        let work = move || Call::decode(dialect, &frame.payload, &limits);
        Box::pin(front.heavy.run(work)).await?
    };
    reply.dialect = dialect;
    Ok(call)
}

/// A keep-serialized call: an annotation names object and method, and the payload, which only the
/// method would look into, is its one argument.
fn blob_call(front: &Front, frame: &Frame) -> Result<Call, Exception> {
    let Some(info) = frame.annotations.get(BLOB_INFO) else {
        return Err(python::key_error("BLBI".into()));
    };
    let marshal = Dialect::new(frame.family, hearth_wire::Serializer::Marshal);
    let info = marshal.decode(info, &front.config.limits)?;
    let [_info, object, method] = python::unpack_three(info)?;
    let blob = Value::Object(Box::new(hearth_wire::value::Object {
        type_name: "SerializedBlob".to_owned(),
        state: Value::None,
    }));
    Ok(Call {
        object,
        method,
        args: Value::Tuple(vec![blob]),
        kwargs: Value::Dict(Vec::new()),
    })
}

/// The exception for what would take more memory than answers have.
fn unread_answers() -> Exception {
    Exception::naming("too many large answers are waiting to be read")
}

fn reply_to(frame: &Frame, dialect: Dialect) -> Reply {
    Reply {
        dialect,
        seq: frame.seq,
        correlation_id: reply::correlation_id(frame.correlation_id),
        is_batch: frame.flags.batch,
        is_oneway: frame.flags.oneway,
    }
}

/// The bytes of an answer, and what becomes of the connection after it.
fn encode(front: &Front, reply: &Reply, result: Result<Value, Exception>) -> (Vec<u8>, Next) {
    let mut bytes = Vec::new();
    let next = reply.write(&front.config, result, &mut bytes);
    (bytes, next)
}

/// [`encode`] of a dict whose items are made one by one.
fn encode_dict(front: &Front, reply: &Reply, items: Items) -> (Vec<u8>, Next) {
    // A buffer that doubles is there twice while it is copied.
    let mut bytes = Vec::with_capacity(items.len_hint());
    let next = reply.write_dict(&front.config, items, &mut bytes);
    (bytes, next)
}

fn close(next: Next) -> Result<(), End> {
    match next {
        Next::Open => Ok(()),
        Next::Close(reason) => Err(End::Dropped(reason)),
    }
}

fn too_much() -> End {
    End::Dropped("too many large messages are under way".to_owned())
}

/// A socket error as the end of its connection.
fn ended(error: io::Error) -> End {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::UnexpectedEof => End::PeerClosed,
        _ => End::Io(error),
    }
}

/// Writes the line that a connection's end is worth.
pub(super) fn log_end(front: &Front, peer: Peer, end: &End) {
    let cause = match end {
        End::Dropped(_) => Cause::Dropped,
        End::Refused(_) => Cause::Refused,
        End::NoPlace(_) => Cause::NoPlace,
        End::GaveWay => Cause::GaveWay,
        End::Panicked => return tracing::error!(%peer, "connection ended in a panic"),
        End::PeerClosed | End::Stopping | End::Idle | End::Io(_) => {
            return tracing::debug!(%peer, "connection ended: {end}");
        }
    };
    front.drops.note(cause, &peer, &end.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // What an idle client costs besides its socket: the connection, and the future that serves it.
        fn future_len<F: Future>(_: impl FnOnce(Connection) -> F) -> usize {
            size_of::<F>()
        }
        let stopping = Box::leak(Box::new(std::future::pending()));
        let len = future_len(|connection| connection.serve(Pin::new(stopping)));
        assert!(len < 4096, "{len} bytes");
    }
}
