//! Links and servers over real connections.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::frame::{BODY_LEN_MAX, Kind};
use super::handshake::LocalNode;
use super::message::JoinAsk;
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
    admission: impl Fn(u64, u128) -> Result<(), String> + Send + Sync + 'static,
) -> Credentials {
    let local = LocalNode {
        cluster_name: "hearth".to_owned(),
        cluster_id: Some(7),
        node_id: Some(id),
        incarnation: u128::from(id) + 100,
    };
    Credentials::new(local, b"secret", Arc::new(admission))
}

/// A request that carries `text`, which [`Echo`] gives back.
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

/// Answers what was said. "wait…" is answered when a permit is given, the rest at once; a number is
/// answered after so many microseconds.
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

/// A node that answers, until it is dropped.
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

    /// As when its process ends: nobody listens when this returns.
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

/// The state that `fits`, and when it was seen.
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
        // The earlier ones take longer.
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
        // A task that does much is interrupted, and its parts go on in another order.
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
    // Some milliseconds, usually less than one.
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

/// Passes on what comes, `len` bytes each ten milliseconds in this direction, until an end is closed.
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
    // More than the system takes into its buffers, and several times the silence that is borne.
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
        // Both ends are on this thread.
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
    let rejected = |state: &LinkState| matches!(state, LinkState::Rejected(_));
    let (state, _) = reach(&link, "rejected", rejected).await;
    let LinkState::Rejected(reason) = state else {
        panic!("{state:?}")
    };
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
            return Err(format!("node {id} was removed"));
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
    let rejected = |state: &LinkState| *state == LinkState::Rejected("node 1 was removed".into());
    reach(&link, "rejected", rejected).await;
    assert_eq!(*node.echo.begun.lock().unwrap(), ["as a member"]);
}

#[tokio::test]
async fn who_was_let_in_before_there_was_a_cluster_is_no_member_of_it() {
    let mut blank = credentials(2).local();
    (blank.cluster_id, blank.node_id) = (None, None);
    let two = Credentials::new(blank, b"secret", Arc::new(|_, _| Ok(())));
    let node = Node::start(two.clone()).await;
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    handshake::call(&mut stream, &credentials(1), None)
        .await
        .unwrap();
    two.set_local(credentials(2).local());
    stream.write_all(&request(1, &say("x"))).await.unwrap();
    frame::read(&mut stream, BODY_LEN_MAX)
        .await
        .unwrap()
        .unwrap();
    assert!(!node.echo.callers.lock().unwrap()[0].is_member);
    // Such a node is none that a link is content with, either.
    let mut blank = two.local();
    blank.cluster_id = None;
    two.set_local(blank);
    let link = link(2, node.addr);
    let (state, _) = reach(&link, "down", |state| *state != LinkState::Connecting).await;
    assert!(matches!(state, LinkState::Down { .. }), "{state:?}");
}

fn request(id: u64, request: &Request) -> Vec<u8> {
    frame::encode(Kind::Request, id, 0, |out| {
        codec::encode_message(request, out);
    })
    .unwrap()
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
    // One that is beyond all limits goes alone.
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
        // A greeting of four gigabytes.
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
    // And what does not greet is closed, all of it.
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
    let greeting = frame::encode(Kind::Hello, 0, 0, |out| out.resize(1000, 0)).unwrap();
    let start = Instant::now();
    for byte in greeting {
        if stream.write_all(&[byte]).await.is_err() {
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
    let body =
        |kind, bytes: &[u8]| frame::encode(kind, 1, 0, |out| out.extend_from_slice(bytes)).unwrap();
    let mut altered = request(1, &say("x"));
    *altered.last_mut().unwrap() ^= 1;
    for nonsense in [
        body(Kind::Request, b"\xff\xff\xff"),
        body(Kind::Request, b""),
        body(Kind::Response, b""),
        body(Kind::Hello, b"again"),
        altered,
        vec![0; 100],
    ] {
        let mut stream = TcpStream::connect(node.addr).await.unwrap();
        handshake::call(&mut stream, &credentials(1), Some(2))
            .await
            .unwrap();
        stream.write_all(&nonsense).await.unwrap();
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
    // It may not have begun to wait.
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
