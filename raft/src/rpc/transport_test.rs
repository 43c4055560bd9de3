//! Tests of links and servers over real connections.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::credentials::LocalNode;
use super::frame::{BODY_LEN_MAX, Kind, Message};
use super::handshake::Greeted;
use super::message::JoinAsk;
use super::refusal::RefusalCode;
use super::seal::{Sealer, Seals};
use super::server::{Answer, Caller, Limits, serve_with};
use super::socket::Tcp;
use super::*;
use crate::codec;

const PATIENCE: Duration = Duration::from_secs(20);

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn credentials(id: u64) -> Credentials {
    credentials_that(id, |_, _| Ok(()))
}

fn credentials_that(
    id: u64,
    admission: impl Fn(u64, u128) -> Result<(), Refusal> + Send + Sync + 'static,
) -> Credentials {
    credentials_with(id, ClusterKeys::new([b"secret".to_vec()]), admission)
}

fn credentials_with(
    id: u64,
    keys: ClusterKeys,
    admission: impl Fn(u64, u128) -> Result<(), Refusal> + Send + Sync + 'static,
) -> Credentials {
    let local = LocalNode {
        cluster_name: "hearth".to_owned(),
        cluster_id: Some(7),
        node_id: Some(id),
        incarnation: u128::from(id) + 100,
    };
    Credentials::new(local, keys, Box::new(admission))
}

/// Returns a request that carries `text`, which [`Echo`] returns.
fn say(text: &str) -> Request {
    Request::Join(JoinAsk {
        cluster_name: text.to_owned(),
        node_id: None,
        incarnation: 0,
        peer_addr: String::new(),
        learner: false,
    })
}

fn said(response: Response) -> String {
    match response {
        Response::Unavailable(text) => text,
        other => panic!("it answers {other:?}"),
    }
}

/// Answers each request with its text. "wait…" is answered when a permit is available, a number after as many
/// microseconds, any other text at once.
struct Echo {
    permits: tokio::sync::Semaphore,
    begun: Mutex<Vec<String>>,
    now: AtomicUsize,
    callers: Mutex<Vec<Caller>>,
}

impl Default for Echo {
    fn default() -> Self {
        Self {
            permits: tokio::sync::Semaphore::new(0),
            begun: Mutex::default(),
            now: AtomicUsize::new(0),
            callers: Mutex::default(),
        }
    }
}

impl Answer for Echo {
    async fn answer(&self, caller: Caller, request: Request) -> Response {
        let Request::Join(ask) = request else {
            return Response::Unavailable("something else".to_owned());
        };
        let text = ask.cluster_name;
        self.callers.lock().unwrap().push(caller);
        self.begun
            .lock()
            .unwrap()
            .push(text.chars().take(40).collect());
        self.now.fetch_add(1, Ordering::SeqCst);
        if text.starts_with("wait") {
            self.permits.acquire().await.unwrap().forget();
        } else if let Ok(micros) = text.parse() {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        Response::Unavailable(text)
    }
}

/// A node that answers requests until it is dropped.
struct Node {
    addr: SocketAddr,
    echo: Arc<Echo>,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    async fn start(credentials: Credentials) -> Self {
        Self::start_at("127.0.0.1:0", credentials, Limits::default()).await
    }

    async fn start_at(addr: &str, credentials: Credentials, limits: Limits) -> Self {
        let listener = Tcp.listen(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let echo = Arc::new(Echo::default());
        let served = serve_with(
            listener,
            Peers::new(credentials, Arc::new(Tcp)),
            Arc::clone(&echo),
            limits,
        );
        Self {
            addr,
            echo,
            task: tokio::spawn(served),
        }
    }

    /// Ends the node as if its process had ended: its port is closed when this returns.
    async fn end(mut self) -> SocketAddr {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.addr
    }
}

fn link(to: u64, addr: SocketAddr) -> Link {
    link_with(to, addr, credentials(1), Timing::default())
}

fn link_with(to: u64, addr: SocketAddr, credentials: Credentials, timing: Timing) -> Link {
    Link::start(to, addr.to_string(), Arc::new(Tcp), credentials, timing)
}

/// Waits for a state that `fits`, and returns it with the time at which it was seen.
async fn reach(link: &Link, what: &str, fits: impl Fn(&LinkState) -> bool) -> (LinkState, Instant) {
    let mut state = link.state();
    let reached = tokio::time::timeout(PATIENCE, state.wait_for(|state| fits(state)));
    match reached.await {
        Ok(state) => (state.unwrap().clone(), Instant::now()),
        Err(_) => panic!("it is not {what}, but {:?}", *link.state().borrow()),
    }
}

async fn up(link: &Link) {
    reach(link, "up", |state| *state == LinkState::Up).await;
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited for: {what}");
        tokio::time::sleep(millis(2)).await;
    }
}

#[tokio::test]
async fn many_requests_are_under_way_and_each_gets_its_own_answer() {
    let node = Node::start(credentials(2)).await;
    let link = link(2, node.addr);
    up(&link).await;
    let answers = join_all((0..200_u64).map(|number| {
        // The earlier requests take longer.
        let text = ((200 - number) * 100).to_string();
        let link = &link;
        async move {
            let answer = link.call(&say(&text), PATIENCE).await.unwrap();
            assert_eq!(said(answer), text);
        }
    }));
    answers.await;
    let callers = node.echo.callers.lock().unwrap();
    let (node_id, incarnation, is_member) = (Some(1), 101, true);
    let caller = Caller {
        node_id,
        incarnation,
        is_member,
    };
    assert!(callers.iter().all(|known| *known == caller));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_are_begun_in_the_order_in_which_they_were_made() {
    let node = Node::start(credentials(2)).await;
    let link = link(2, node.addr);
    up(&link).await;
    for round in 0..20 {
        let texts: Vec<String> = (0..200).map(|n| format!("wait {round} {n}")).collect();
        // A task that does much work is interrupted, and its parts may resume in another order.
        let calls = unconstrained(join_all(texts.iter().map(|text| link.call_text(text))));
        node.echo.permits.add_permits(texts.len());
        calls.await;
        assert_eq!(std::mem::take(&mut *node.echo.begun.lock().unwrap()), texts);
    }
}

impl Link {
    async fn try_text(&self, text: &str) -> Result<String, CallError> {
        self.call(&say(text), PATIENCE).await.map(said)
    }

    async fn call_text(&self, text: &str) {
        assert_eq!(self.try_text(text).await.unwrap(), text);
    }
}

#[tokio::test]
async fn an_ended_process_is_known_at_once_and_found_again() {
    let mut node = Node::start(credentials(2)).await;
    let link = link(2, node.addr);
    let mut times = Vec::new();
    for _ in 0..5 {
        up(&link).await;
        let ended = Instant::now();
        let addr = node.end().await;
        let closed = |state: &LinkState| matches!(state, LinkState::Down { closed: true, .. });
        let (_, at) = reach(&link, "closed", closed).await;
        times.push(at - ended);
        let error = link.call(&say("x"), PATIENCE).await.unwrap_err();
        assert!(matches!(error, CallError::Unreachable(_)), "{error}");
        node = Node::start_at(&addr.to_string(), credentials(2), Limits::default()).await;
        let back = Instant::now();
        up(&link).await;
        assert!(back.elapsed() < millis(1000), "{:?}", back.elapsed());
    }
    times.sort();
    // A few milliseconds, usually less than one.
    assert!(times[2] < millis(100), "{times:?}");
    println!("known to have ended after {times:?}");
}

#[tokio::test]
async fn a_node_that_was_never_there_has_not_ended() {
    let addr = Node::start(credentials(2)).await.end().await;
    let link = link(2, addr);
    let (state, _) = reach(&link, "down", |state| *state != LinkState::Connecting).await;
    assert!(
        matches!(&state, LinkState::Down { closed: false, reason } if reason.contains("refused")),
        "{state:?}"
    );
}

#[tokio::test]
async fn a_closed_connection_alone_is_not_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = link(2, listener.local_addr().unwrap());
    let mut state = link.state();
    let seen = tokio::spawn(async move {
        let mut ended = false;
        while state.changed().await.is_ok() {
            ended |= matches!(
                *state.borrow_and_update(),
                LinkState::Down { closed: true, .. }
            );
        }
        ended
    });
    for _ in 0..5 {
        let (mut stream, _) = listener.accept().await.unwrap();
        handshake::answer(&mut stream, &credentials(2))
            .await
            .unwrap();
        up(&link).await;
    }
    drop(link);
    assert!(!seen.await.unwrap());
}

#[tokio::test]
async fn a_request_whose_connection_ends_may_have_been_handled() {
    let node = Node::start(credentials(2)).await;
    let link = link(2, node.addr);
    up(&link).await;
    let (wait, ()) = tokio::join!(link.try_text("wait"), async {
        until("it is being handled", || {
            node.echo.now.load(Ordering::SeqCst) == 1
        })
        .await;
        node.task.abort();
    });
    assert!(matches!(wait, Err(CallError::Lost(_))), "{wait:?}");
}

#[tokio::test]
async fn a_request_without_an_answer_times_out_and_harms_nobody() {
    let node = Node::start(credentials(2)).await;
    let link = link(2, node.addr);
    up(&link).await;
    let late = link.call(&say("wait"), millis(20)).await;
    assert_eq!(late.unwrap_err(), CallError::TimedOut(millis(20)));
    link.call_text("next").await;
    node.echo.permits.add_permits(1);
    link.call_text("and next").await;
    assert_eq!(*link.state().borrow(), LinkState::Up);
}

#[tokio::test]
async fn a_silent_connection_is_made_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let timing = Timing {
        ping: millis(50),
        silence: millis(200),
        ..Timing::default()
    };
    let link = link_with(2, listener.local_addr().unwrap(), credentials(1), timing);
    let mut held = Vec::new();
    for _ in 0..2 {
        let (mut stream, _) = listener.accept().await.unwrap();
        handshake::answer(&mut stream, &credentials(2))
            .await
            .unwrap();
        up(&link).await;
        let since = Instant::now();
        let lost = link.call(&say("x"), PATIENCE).await.unwrap_err();
        assert!(matches!(lost, CallError::Lost(_)), "{lost}");
        assert!(since.elapsed() >= millis(150), "{:?}", since.elapsed());
        let not_ended = |state: &LinkState| matches!(state, LinkState::Down { closed: false, .. });
        reach(&link, "down", not_ended).await;
        held.push(stream);
    }
}

/// Forwards bytes in one direction, `len` bytes every ten milliseconds, until either end is closed.
async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    len: usize,
) {
    let mut part = vec![0; len];
    loop {
        tokio::time::sleep(millis(10)).await;
        match from.read(&mut part).await {
            Ok(count @ 1..) if to.write_all(&part[..count]).await.is_ok() => {}
            _ => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_request_passes_a_slow_network_on_one_connection() {
    let limits = Limits {
        silence: millis(800),
        ..Limits::default()
    };
    let node = Node::start_at("127.0.0.1:0", credentials(2), limits).await;
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = slow.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, there) = (Arc::clone(&connections), node.addr);
    let carrier = tokio::spawn(async move {
        while let Ok((near, _)) = slow.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let far = TcpStream::connect(there).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(carry(near_in, far_out, 64 << 10));
            tokio::spawn(carry(far_in, near_out, 64 << 10));
        }
    });
    let timing = Timing {
        ping: millis(50),
        silence: millis(400),
        standstill: millis(4000),
        ..Timing::default()
    };
    let link = link_with(2, addr, credentials(1), timing);
    up(&link).await;
    // More than the system's buffers hold, and several times longer than the allowed silence.
    let large = "x".repeat(16 << 20);
    let begun = Instant::now();
    link.call_text(&large).await;
    assert!(begun.elapsed() > millis(1000), "{:?}", begun.elapsed());
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    carrier.abort();
}

#[tokio::test]
async fn a_large_request_is_refused_before_it_is_sent() {
    let node = Node::start(credentials(2)).await;
    let link = link(2, node.addr);
    up(&link).await;
    let too_large = link.call(&say(&"x".repeat(BODY_LEN_MAX)), PATIENCE).await;
    let error = too_large.unwrap_err().to_string();
    assert!(error.contains(&BODY_LEN_MAX.to_string()), "{error}");
    link.call_text("next").await;
}

#[tokio::test]
async fn a_node_that_stood_still_itself_blames_nobody() {
    let node = Node::start(credentials(2)).await;
    let timing = Timing {
        ping: millis(50),
        silence: millis(200),
        ..Timing::default()
    };
    let link = link_with(2, node.addr, credentials(1), timing);
    up(&link).await;
    for _ in 0..3 {
        link.call_text("before").await;
        // Both ends run on this thread.
        std::thread::sleep(millis(500));
        link.call_text("after").await;
        tokio::time::sleep(millis(60)).await;
    }
    assert_eq!(*link.state().borrow(), LinkState::Up);
}

#[tokio::test]
async fn another_node_at_the_address_is_not_taken_for_the_member() {
    let node = Node::start(credentials(3)).await;
    let link = link(2, node.addr);
    let rejected = |state: &LinkState| matches!(state, LinkState::Rejected { .. });
    let (state, _) = reach(&link, "rejected", rejected).await;
    let reason = state.to_string();
    assert!(reason.contains("node 2 was expected"), "{reason}");
    assert!(reason.contains("node 3 is there"), "{reason}");
    let error = link.call(&say("x"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_member_that_is_removed_loses_its_connections_and_hears_why() {
    let removed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_removed = Arc::clone(&removed);
    let two = credentials_that(2, move |id, _| {
        if is_removed.load(Ordering::SeqCst) {
            let text = format!("node {id} was removed");
            return Err(Refusal::new(RefusalCode::Removed, text));
        }
        Ok(())
    });
    let node = Node::start(two).await;
    let link = link(2, node.addr);
    up(&link).await;
    link.call_text("as a member").await;
    removed.store(true, Ordering::SeqCst);
    let error = link.call(&say("no longer"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error}");
    let rejected = LinkState::Rejected {
        refusal: Refusal::new(RefusalCode::Removed, "node 1 was removed"),
        by_peer: true,
    };
    reach(&link, "rejected", |state| *state == rejected).await;
    assert_eq!(*node.echo.begun.lock().unwrap(), ["as a member"]);
}

#[tokio::test]
async fn who_was_let_in_before_there_was_a_cluster_is_no_member_of_it() {
    let mut blank = credentials(2).local();
    (blank.cluster_id, blank.node_id) = (None, None);
    let keys = ClusterKeys::new([b"secret".to_vec()]);
    let two = Credentials::new(blank, keys, Box::new(|_, _| Ok(())));
    let node = Node::start(two.clone()).await;
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    let mut seals = greet(&mut stream).await;
    two.set_local(credentials(2).local());
    let asked = seals.sealer.seal(request(1, &say("x")));
    stream.write_all(asked.as_slice()).await.unwrap();
    seals
        .opener
        .read(&mut stream, BODY_LEN_MAX, PATIENCE)
        .await
        .unwrap()
        .unwrap();
    assert!(!node.echo.callers.lock().unwrap()[0].is_member);
    // A link does not accept such a node as a member, either.
    let mut blank = two.local();
    blank.cluster_id = None;
    two.set_local(blank);
    let link = link(2, node.addr);
    let (state, _) = reach(&link, "down", |state| *state != LinkState::Connecting).await;
    assert!(matches!(state, LinkState::Down { .. }), "{state:?}");
}

fn request(id: u64, request: &Request) -> Message {
    Message::new(Kind::Request, id, 0, |out| {
        codec::encode_message(request, out);
    })
    .unwrap()
}

/// Performs the handshake as node 1.
async fn greet(stream: &mut TcpStream) -> Seals {
    let greeted = handshake::call(stream, &credentials(1), None).await;
    let Greeted { seals, .. } = greeted.unwrap();
    seals
}

#[tokio::test]
async fn what_is_too_much_is_answered_and_not_done() {
    let limits = Limits {
        requests: 4,
        request_len: 1 << 20,
        ..Limits::default()
    };
    let node = Node::start_at("127.0.0.1:0", credentials(2), limits).await;
    let link = link(2, node.addr);
    up(&link).await;
    let long = format!("wait {}", "x".repeat(700 << 10));
    let (first, ()) = tokio::join!(
        join_all([link.try_text(&long), link.try_text(&long)]),
        async {
            until("one is handled", || {
                node.echo.now.load(Ordering::SeqCst) == 1
            })
            .await;
            link.call_text("a short one goes").await;
            node.echo.permits.add_permits(1);
        }
    );
    let texts: Vec<String> = first.into_iter().map(Result::unwrap).collect();
    assert_eq!(texts[0], long);
    assert!(texts[1].contains("too many requests"), "{}", texts[1]);
    // A request that exceeds the limits is answered alone.
    link.call_text(&"y".repeat(3 << 20)).await;
    let (many, ()) = tokio::join!(join_all((0..20).map(|_| link.try_text("wait"))), async {
        until("four are handled", || {
            node.echo.now.load(Ordering::SeqCst) == 4
        })
        .await;
        node.echo.permits.add_permits(4);
    });
    let refused = many.into_iter().map(Result::unwrap);
    assert_eq!(refused.filter(|text| text.contains("too many")).count(), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_greet_keeps_nobody_out() {
    let limits = Limits {
        greetings: 8,
        ..Limits::default()
    };
    let node = Node::start_at("127.0.0.1:0", credentials(2), limits).await;
    let begun = [
        b"".to_vec(),
        b"PYRO\x01\xf6".to_vec(),
        b"HRTH\x01\x01".to_vec(),
        b"GET / HTTP/1.1\r\n".to_vec(),
        vec![0xff; 5000],
        // A hello of four gigabytes.
        [&b"HRTH\x01\x01\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0"[..]].concat(),
    ];
    let mut held = Vec::new();
    for round in 0..300 {
        let mut stream = TcpStream::connect(node.addr).await.unwrap();
        let _ = stream.write_all(&begun[round % begun.len()]).await;
        held.push(stream);
    }
    let link = link(2, node.addr);
    up(&link).await;
    link.call_text("through").await;
    // Connections without a handshake are closed, all of them.
    let mut open = 0;
    for stream in &mut held {
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        open += usize::from(tokio::time::timeout(millis(50), closed).await.is_err());
    }
    assert!(open <= 8, "{open} are open");
    link.call_text("and still").await;
}

#[tokio::test]
async fn whoever_greets_slowly_is_closed() {
    let limits = Limits {
        greeting: millis(200),
        ..Limits::default()
    };
    let node = Node::start_at("127.0.0.1:0", credentials(2), limits).await;
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    let greeting = Message::new(Kind::Hello, 0, 0, |out| out.resize(out.len() + 1000, 0));
    let greeting = Sealer::Clear.seal(greeting.unwrap());
    let start = Instant::now();
    for byte in greeting.as_slice() {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(millis(20)).await;
    }
    assert!(start.elapsed() < millis(5000), "{:?}", start.elapsed());
}

#[tokio::test]
async fn nonsense_after_the_greeting_ends_the_connection_and_nothing_else() {
    let node = Node::start(credentials(2)).await;
    let other = link(2, node.addr);
    up(&other).await;
    let body = |kind, bytes: &[u8]| Message::new(kind, 1, 0, |out| out.extend_from_slice(bytes));
    type Nonsense = Box<dyn Fn(Sealer) -> Vec<u8>>;
    let sealed = |message: Message| -> Nonsense {
        let message = std::cell::RefCell::new(Some(message));
        Box::new(move |mut sealer| {
            let message = message.borrow_mut().take().unwrap();
            sealer.seal(message).as_slice().to_vec()
        })
    };
    for nonsense in [
        sealed(body(Kind::Request, b"\xff\xff\xff").unwrap()),
        sealed(body(Kind::Request, b"").unwrap()),
        sealed(body(Kind::Response, b"").unwrap()),
        sealed(body(Kind::Hello, b"again").unwrap()),
        sealed(body(Kind::Refusal, b"\xff").unwrap()),
        // A valid request, but not signed, or altered.
        Box::new(|_| {
            let clear = Sealer::Clear.seal(request(1, &say("x")));
            clear.as_slice().to_vec()
        }),
        Box::new(|mut sealer| {
            let mut altered = sealer.seal(request(1, &say("x"))).as_slice().to_vec();
            *altered.last_mut().unwrap() ^= 1;
            altered
        }),
        Box::new(|_| vec![0; 100]),
    ] {
        let mut stream = TcpStream::connect(node.addr).await.unwrap();
        let seals = greet(&mut stream).await;
        stream.write_all(&nonsense(seals.sealer)).await.unwrap();
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        let _ = tokio::time::timeout(PATIENCE, closed).await.unwrap();
        assert_eq!(rest, b"", "it was answered");
    }
    assert!(node.echo.begun.lock().unwrap().is_empty());
    other.call_text("well").await;
}

#[tokio::test]
async fn a_link_waits_no_longer_when_the_member_greets() {
    let addr = Node::start(credentials(2)).await.end().await;
    let timing = Timing {
        retry: (PATIENCE * 3, PATIENCE * 3),
        ..Timing::default()
    };
    let link = link_with(2, addr, credentials(1), timing);
    reach(&link, "down", |state| *state != LinkState::Connecting).await;
    let node = Node::start_at(&addr.to_string(), credentials(2), Limits::default()).await;
    // The link may not have begun to wait.
    tokio::time::sleep(millis(20)).await;
    link.hurry();
    up(&link).await;
    drop(node);
}

#[tokio::test]
async fn links_follow_the_members() {
    let (two, three) = (
        Node::start(credentials(2)).await,
        Node::start(credentials(3)).await,
    );
    let peers = Peers::new(credentials(1), Arc::new(Tcp));
    let member = |addr: &str| Member {
        peer_addr: addr.to_owned(),
        ..Member::default()
    };
    let all: BTreeMap<u64, Member> = [
        (1, member("127.0.0.1:1")),
        (2, member(&two.addr.to_string())),
        (3, member("127.0.0.1:1")),
        (4, member("")),
    ]
    .into();
    peers.set_members(&all);
    assert!(peers.link_state(1).is_none(), "that is this node");
    assert!(
        peers.link_state(4).is_none(),
        "nobody knows where that node is"
    );
    let is_up = |id| {
        let state = peers.link_state(id);
        move || {
            state
                .as_ref()
                .is_some_and(|state| *state.borrow() == LinkState::Up)
        }
    };
    until("node 2 is connected", is_up(2)).await;
    let mut moved = all.clone();
    moved.insert(3, member(&three.addr.to_string()));
    let before = peers.link_state(2).unwrap();
    peers.set_members(&moved);
    until("node 3 is found", is_up(3)).await;
    assert!(before.has_changed().is_ok(), "the link to node 2 is kept");
    moved.remove(&2);
    peers.set_members(&moved);
    until("the link to node 2 ends", || before.has_changed().is_err()).await;
    let error = peers.call(2, say("x"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(_)), "{error}");
    let three_state = peers.link_state(3).unwrap();
    peers.close();
    until("all end", || three_state.has_changed().is_err()).await;
    peers.set_members(&all);
    assert!(
        peers.link_state(2).is_none(),
        "nothing begins after the end"
    );
}

/// The manipulation of the client's frames, after the handshake, by an attacker between two nodes.
type Mischief = fn(number: usize, frame: Vec<u8>) -> Vec<Vec<u8>>;

/// Starts a proxy to `there`. It forwards the handshake, and then each frame of the client as `mischief`
/// decides, on its first connection only. If `sends_back` is set, the first of these frames is also sent back
/// to the client.
async fn between(
    there: SocketAddr,
    mischief: Mischief,
    sends_back: bool,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connection_count = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&connection_count);
    tokio::spawn(async move {
        let mut is_first = true;
        while let Ok((near, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let far = TcpStream::connect(there).await.unwrap();
            let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                (near.into_split(), far.into_split());
            let meddles = std::mem::take(&mut is_first);
            let (echo, mut echoes) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
            tokio::spawn(async move {
                let mut part = vec![0; 1 << 16];
                loop {
                    tokio::select! {
                        count = far_in.read(&mut part) => match count {
                            Ok(count @ 1..) if near_out.write_all(&part[..count]).await.is_ok() => {}
                            _ => return,
                        },
                        Some(frame) = echoes.recv() => {
                            if near_out.write_all(&frame).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            });
            tokio::spawn(async move {
                let mut number = 0;
                while let Some((is_signed, frame)) = next_frame(&mut near_in).await {
                    // The first signed frame is the introduction.
                    number += usize::from(is_signed);
                    let frames = match number {
                        2.. if meddles => {
                            if sends_back && number == 2 {
                                let _ = echo.send(frame.clone());
                            }
                            mischief(number - 2, frame)
                        }
                        _ => vec![frame],
                    };
                    for frame in frames {
                        if far_out.write_all(&frame).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (addr, connection_count)
}

/// Reads the next frame, and returns its bytes and whether it is signed.
async fn next_frame(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<(bool, Vec<u8>)> {
    let mut frame = vec![0; 20];
    stream.read_exact(&mut frame).await.ok()?;
    let is_signed = frame[4] == 2;
    let len = u32::from_le_bytes(frame[16..20].try_into().unwrap()) as usize;
    let rest = match (is_signed, len) {
        (false, len) => 4 + len,
        (true, 0) => 16,
        (true, len) => 16 + len + 16,
    };
    frame.resize(20 + rest, 0);
    stream.read_exact(&mut frame[20..]).await.ok()?;
    Some((is_signed, frame))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_meddles_with_frames_ends_the_connection_and_nothing_is_done_twice() {
    let cases: [(&str, Mischief, bool); 7] = [
        (
            "the lowest byte of a length",
            |number, mut frame| {
                frame[16] ^= u8::from(number == 2);
                vec![frame]
            },
            false,
        ),
        (
            "the highest byte of a length that is taken",
            |number, mut frame| {
                frame[19] ^= u8::from(number == 2) << 1;
                vec![frame]
            },
            false,
        ),
        (
            "a byte of a request",
            |number, mut frame| {
                if let (2, Some(byte)) = (number, frame.get_mut(40)) {
                    *byte ^= 1;
                }
                vec![frame]
            },
            false,
        ),
        (
            "a frame comes twice",
            |_, frame| vec![frame.clone(), frame],
            false,
        ),
        (
            "a frame is missing",
            |number, frame| if number == 2 { vec![] } else { vec![frame] },
            false,
        ),
        (
            "a clear frame instead of a signed one",
            |_, _| {
                vec![
                    Sealer::Clear
                        .seal(request(1, &say("forged")))
                        .as_slice()
                        .to_vec(),
                ]
            },
            false,
        ),
        ("a frame comes back", |_, frame| vec![frame], true),
    ];
    for (what, mischief, sends_back) in cases {
        let node = Node::start(credentials(2)).await;
        let began = Instant::now();
        let (addr, connection_count) = between(node.addr, mischief, sends_back).await;
        let link = link(2, addr);
        up(&link).await;
        // The link reconnects when the first connection has ended, which may have been long ago.
        let ended = async {
            while connection_count.load(Ordering::Relaxed) < 2 {
                let _ = link.call(&say("once"), millis(200)).await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        assert!(ended.is_ok(), "{what}: the connection goes on");
        up(&link).await;
        // A link never waits longer than the allowed silence for bytes that do not become a message.
        let took = began.elapsed();
        assert!(took < Timing::default().silence * 3, "{what}: {took:?}");
        link.call_text("and on").await;
        let begun = node.echo.begun.lock().unwrap();
        assert!(!begun.contains(&"forged".to_owned()), "{what}");
        assert!(
            begun
                .iter()
                .all(|text| ["once", "and on"].contains(&text.as_str()))
        );
    }
}

#[tokio::test]
async fn bytes_that_never_become_a_message_are_no_sign_of_life() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let timing = Timing {
        ping: millis(50),
        silence: millis(300),
        ..Timing::default()
    };
    let link = link_with(2, listener.local_addr().unwrap(), credentials(1), timing);
    let (mut stream, _) = listener.accept().await.unwrap();
    let greeted = handshake::answer(&mut stream, &credentials(2)).await;
    let mut sealer = greeted.unwrap().seals.sealer;
    up(&link).await;
    let long = Message::new(Kind::Response, 1, 0, |out| out.resize(out.len() + 4000, 0));
    let long = sealer.seal(long.unwrap());
    let trickle = async {
        for byte in long.as_slice() {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(millis(20)).await;
        }
    };
    let down = |state: &LinkState| matches!(state, LinkState::Down { .. });
    tokio::select! {
        () = trickle => panic!("it waited for all of it"),
        _ = reach(&link, "down", down) => {}
    }
}

#[tokio::test]
async fn what_is_written_later_does_not_put_off_the_end_of_a_silent_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let timing = Timing {
        ping: millis(50),
        silence: millis(300),
        ..Timing::default()
    };
    let link = link_with(2, listener.local_addr().unwrap(), credentials(1), timing);
    let (mut stream, _) = listener.accept().await.unwrap();
    handshake::answer(&mut stream, &credentials(2))
        .await
        .unwrap();
    up(&link).await;
    // The peer reads everything and answers nothing.
    let swallow = tokio::spawn(async move {
        let mut part = vec![0; 1 << 20];
        while stream.read(&mut part).await.is_ok_and(|count| count > 0) {}
    });
    let text = "x".repeat(1 << 20);
    let load = async {
        loop {
            let _ = link.call(&say(&text), millis(20)).await;
            tokio::task::yield_now().await;
        }
    };
    let down = |state: &LinkState| matches!(state, LinkState::Down { .. });
    tokio::select! {
        () = load => {}
        _ = reach(&link, "down", down) => {}
    }
    swallow.abort();
}

/// Starts a server that answers each hello with a refusal in a clear frame. Returns its address, the number of
/// its connections and the bytes that it received.
async fn spoofer(text: &'static str) -> (SocketAddr, Arc<AtomicUsize>, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::<AtomicUsize>::default();
    let heard = Arc::<Mutex<Vec<u8>>>::default();
    let (counted, heard_by) = (Arc::clone(&count), Arc::clone(&heard));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            if let Some((_, frame)) = next_frame(&mut stream).await {
                heard_by.lock().unwrap().extend_from_slice(&frame);
            }
            let text = format!("{text} {number}");
            let refusal = Message::new(Kind::Refusal, 0, 0, |out| {
                out.extend_from_slice(text.as_bytes());
            });
            let refusal = Sealer::Clear.seal(refusal.unwrap());
            let _ = stream.write_all(refusal.as_slice()).await;
        }
    });
    (addr, count, heard)
}

#[tokio::test]
async fn a_refusal_without_proof_is_no_refusal_and_hears_no_more_than_the_clusters_name() {
    let (addr, count, heard) = spoofer("node 1 was removed from this cluster; the end").await;
    let mut local = credentials(1).local();
    local.cluster_id = Some(u128::from_le_bytes(*b"the cluster's id"));
    local.incarnation = u128::from_le_bytes(*b"the incarnation.");
    let one = credentials(1);
    one.set_local(local);
    let timing = Timing {
        retry: (millis(5), millis(5)),
        ..Timing::default()
    };
    let link = link_with(2, addr, one, timing);
    until("it tried often", || count.load(Ordering::SeqCst) > 20).await;
    let state = link.state().borrow().clone();
    assert!(matches!(state, LinkState::Down { .. }), "{state:?}");
    assert!(!state.to_string().contains("removed"), "{state}");
    let heard = heard.lock().unwrap().clone();
    let contains = |part: &[u8]| heard.windows(part.len()).any(|window| window == part);
    assert!(contains(b"hearth"));
    assert!(!contains(b"the cluster's id") && !contains(b"the incarnation."));
}

#[tokio::test]
async fn a_key_is_changed_step_by_step_without_a_moment_without_a_connection() {
    let keys = |all: &[&str]| ClusterKeys::new(all.iter().map(|key| key.as_bytes().to_vec()));
    let (ours, theirs) = (keys(&["old"]), keys(&["old"]));
    let node = Node::start(credentials_with(2, theirs.clone(), |_, _| Ok(()))).await;
    let start = || {
        let one = credentials_with(1, ours.clone(), |_, _| Ok(()));
        link_with(2, node.addr, one, Timing::default())
    };
    let kept = start();
    up(&kept).await;
    let set = |keys: &ClusterKeys, all: &[&str]| {
        keys.set(all.iter().map(|key| key.as_bytes().to_vec()));
    };
    for (keys, all) in [
        (&theirs, &["old", "new"][..]),
        (&ours, &["old", "new"]),
        (&theirs, &["new", "old"]),
        (&ours, &["new", "old"]),
    ] {
        set(keys, all);
        let fresh = start();
        up(&fresh).await;
        fresh.call_text("fresh").await;
        kept.call_text("kept").await;
    }
    assert_eq!(*kept.state().borrow(), LinkState::Up);
    // The connection that was opened with the old key is closed when that key is dropped, and is opened again
    // with the new key.
    let mut states = kept.state();
    set(&theirs, &["new"]);
    let error = kept.call(&say("x"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error}");
    states.changed().await.unwrap();
    up(&kept).await;
    set(&ours, &["new"]);
    kept.call_text("on").await;
    // A node that has only the old key is refused.
    set(&ours, &["old"]);
    let late = start();
    let (state, _) = reach(&late, "down", |state| *state != LinkState::Connecting).await;
    assert!(state.to_string().contains("--cluster-key-file"), "{state}");
}

/// Collects the log lines of this thread, from level info up.
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn strangers_write_a_bounded_number_of_lines_and_none_of_their_own() {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let _guard = tracing::subscriber::set_default(Warnings(Arc::clone(&lines)));
    let node = Node::start(credentials(2)).await;
    for number in 0..500 {
        let mut stream = TcpStream::connect(node.addr).await.unwrap();
        let hello = match number % 5 {
            // Another cluster name each time, in the hello of the previous version.
            0..3 => clear_handshake::greeting(&format!(
                "cluster {number}\n2026-11-30T20:00:00Z ERROR all is lost"
            )),
            3 => format!("HRTH{number} \nERROR").into_bytes(),
            _ => format!("GET /{number}\nERROR").into_bytes(),
        };
        let _ = stream.write_all(&hello).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    let lines = lines.lock().unwrap();
    assert!((1..=5).contains(&lines.len()), "{} lines", lines.len());
    for line in &*lines {
        assert!(!line.contains('\n') && !line.contains("lost"), "{line}");
        assert!(line.len() < 500, "{line}");
    }
}
