//! Broadcast discovery: the UDP responder that tells Pyro programs where the name server is.
//!
//! ```text
//! request   GET_NSURI                              9 bytes, nothing else is answered
//! reply     PYRO:Pyro.NameServer@host:port         ISO 8859-1, at most 100 bytes: clients read no more
//! ```
//!
//! Both families ask the same question and take the same answer, so one responder serves both. It
//! gives the location as it was given to `-n`, never the NAT one: whoever a broadcast reaches is inside.
//! A server on all interfaces answers with the address of the interface that leads to the asker. A node that
//! could not serve is silent, and leaves the answer to others.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::config::{Broadcast, IpPreference};
use crate::error::NodeError;
use crate::listen::{location_text, resolve};

/// What a client sends.
const REQUEST: &[u8] = b"GET_NSURI";

/// What a client reads of a reply, at most.
const REPLY_LEN_MAX: usize = 100;

/// How long the route to an asker is taken to be the same.
const ROUTE_AGE_MAX: Duration = Duration::from_secs(10);

/// Askers whose route is remembered.
const ROUTE_COUNT_MAX: usize = 1024;

/// Replies per second to all askers together, and in one burst. A reply is some five times as long as a
/// request, so the bound keeps forged requests from turning this into a weapon.
const ALL_RATE: f64 = 2000.0;
const ALL_BURST: f64 = 4000.0;

/// Replies per second to one address. A host may start hundreds of programs at once, and each asks
/// twice, three times in a row.
const ASKER_RATE: f64 = 200.0;
const ASKER_BURST: f64 = 800.0;

/// Slots that askers are hashed into for [`ASKER_RATE`].
const ASKER_SLOT_COUNT: usize = 256;

const OPTION: &str = "--bcport or --bchost";

/// Why a server has no responder that could be of use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The URI would arrive cut off.
    #[error(
        "the URI has {len} bytes and clients read only {REPLY_LEN_MAX} of an answer; give a shorter name or an address with -n/--host"
    )]
    TooLong {
        /// Bytes of the URI.
        len: usize,
    },
    /// The reply's encoding does not have these letters.
    #[error("the host's name cannot be written in ISO 8859-1; give an address with -n/--host")]
    Encoding,
}

/// What is told to askers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Everything but the host of a server on all interfaces.
    port: u16,
    /// The reply; none for a server on all interfaces, whose host depends on the asker.
    fixed: Option<Vec<u8>>,
}

impl Reply {
    /// The reply of a server that was told to bind `host`, none for all interfaces, and got `port`.
    ///
    /// # Errors
    /// [`Unfit`] if no client could use it.
    pub fn new(host: Option<&str>, port: u16) -> Result<Self, Unfit> {
        let fixed = host.map(|host| encode(host, port)).transpose()?;
        Ok(Self { port, fixed })
    }
}

fn encode(host: &str, port: u16) -> Result<Vec<u8>, Unfit> {
    let uri = format!("PYRO:Pyro.NameServer@{}", location_text(host, port));
    let bytes: Vec<u8> = uri
        .chars()
        .map(|char| u8::try_from(u32::from(char)))
        .collect::<Result<_, _>>()
        .map_err(|_| Unfit::Encoding)?;
    if bytes.len() > REPLY_LEN_MAX {
        return Err(Unfit::TooLong { len: bytes.len() });
    }
    Ok(bytes)
}

/// The responder: one socket for both families.
#[derive(Debug)]
pub struct Responder {
    socket: UdpSocket,
    location: String,
    reply: Reply,
    routes: Routes,
    throttle: Throttle,
}

impl Responder {
    /// Binds the socket. Nothing is answered until [`Self::serve`] runs.
    ///
    /// # Errors
    /// [`NodeError`] with the address and the option that changes it.
    pub async fn bind(config: &Broadcast, reuse: bool, reply: Reply) -> Result<Self, NodeError> {
        let address = resolve(&config.host, config.port, IpPreference::V4)
            .await?
            .first;
        if address.is_ipv6() {
            return Err(NodeError::Resolve {
                host: config.host.clone(),
                reason: "--bchost needs an IPv4 address, because IPv6 has no broadcast".to_owned(),
            });
        }
        let failed = |source: io::Error| {
            let address = format!("UDP {address}");
            if source.kind() == io::ErrorKind::AddrInUse {
                NodeError::InUse {
                    address,
                    option: OPTION,
                }
            } else {
                NodeError::Listen {
                    address,
                    option: OPTION,
                    source,
                }
            }
        };
        let socket = bind_udp(address, reuse).map_err(failed)?;
        let bound = socket.local_addr().map_err(failed)?;
        let host = if config.host.is_empty() {
            bound.ip().to_string()
        } else {
            config.host.clone()
        };
        Ok(Self {
            socket,
            location: location_text(&host, bound.port()),
            reply,
            routes: Routes::default(),
            throttle: Throttle::new(Instant::now()),
        })
    }

    /// Where it listens, with the host as it was given: `0.0.0.0:9091`.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Answers, while `can_serve` says so, until `shutdown` turns true or its sender goes away.
    pub async fn serve(
        mut self,
        can_serve: impl Fn() -> bool + Send,
        mut shutdown: watch::Receiver<bool>,
    ) {
        // One byte more than a request, to tell a longer datagram from one.
        let mut datagram = [0; REQUEST.len() + 1];
        loop {
            let received = tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                received = self.socket.recv_from(&mut datagram) => received,
            };
            match received {
                Ok((len, asker)) if datagram.get(..len) == Some(REQUEST) => {
                    if can_serve() {
                        self.answer(asker).await;
                    } else {
                        tracing::debug!(%asker, "a broadcast is left to other nodes: this one cannot serve");
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "broadcast responder cannot receive");
                    // Whatever it is, it may last, and must not cost a processor.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn answer(&mut self, asker: SocketAddr) {
        let now = Instant::now();
        if !self.throttle.admits(asker.ip(), now) {
            return;
        }
        let reply = match &self.reply.fixed {
            Some(reply) => Ok(std::borrow::Cow::Borrowed(reply)),
            None => self
                .routes
                .local_address(asker.ip(), now)
                .map(|host| format!("PYRO:Pyro.NameServer@{host}:{}", self.reply.port))
                .map(|reply| std::borrow::Cow::Owned(reply.into_bytes())),
        };
        let sent = match reply {
            Ok(reply) => self.socket.send_to(&reply, asker).await.map(drop),
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => tracing::debug!(%asker, "answered a broadcast"),
            Err(error) => tracing::debug!(%asker, %error, "cannot answer a broadcast"),
        }
    }
}

fn bind_udp(address: SocketAddr, reuse: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(reuse)?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Which of our addresses leads to an asker, remembered for a while.
#[derive(Debug, Default)]
struct Routes {
    known: HashMap<IpAddr, (Ipv4Addr, Instant)>,
}

impl Routes {
    fn local_address(&mut self, asker: IpAddr, now: Instant) -> io::Result<Ipv4Addr> {
        if let Some((address, since)) = self.known.get(&asker)
            && now.duration_since(*since) < ROUTE_AGE_MAX
        {
            return Ok(*address);
        }
        if self.known.len() >= ROUTE_COUNT_MAX {
            self.known.clear();
        }
        let address = route_to(asker)?;
        self.known.insert(asker, (address, now));
        Ok(address)
    }
}

/// Asks the system's routing table, without sending anything: connecting a UDP socket chooses its
/// address.
fn route_to(asker: IpAddr) -> io::Result<Ipv4Addr> {
    const ANY_PORT: u16 = 53;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((asker, ANY_PORT))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// Keeps the rate of replies within bounds, for each asker and for all of them.
#[derive(Debug)]
struct Throttle {
    all: Bucket,
    /// Askers share a slot by chance; the bound holds for them together then.
    askers: Box<[Bucket]>,
    /// When the log last said that requests go unanswered.
    warned: Option<Instant>,
}

impl Throttle {
    fn new(now: Instant) -> Self {
        Self {
            all: Bucket::full(ALL_BURST, now),
            askers: vec![Bucket::full(ASKER_BURST, now); ASKER_SLOT_COUNT].into(),
            warned: None,
        }
    }

    fn admits(&mut self, asker: IpAddr, now: Instant) -> bool {
        let slot = match asker {
            IpAddr::V4(address) => {
                // The low octets differ most between the askers of one network.
                let [_, b, c, d] = address.octets();
                usize::from(d ^ c.rotate_left(4) ^ b.rotate_left(2)) % ASKER_SLOT_COUNT
            }
            IpAddr::V6(_) => 0,
        };
        let admitted = self
            .askers
            .get_mut(slot)
            .is_none_or(|bucket| bucket.take(ASKER_RATE, ASKER_BURST, now))
            && self.all.take(ALL_RATE, ALL_BURST, now);
        let warned_lately = self
            .warned
            .is_some_and(|warned| now.duration_since(warned) < Duration::from_secs(60));
        if !admitted && !warned_lately {
            self.warned = Some(now);
            tracing::warn!(%asker, "too many broadcasts to answer them all");
        }
        admitted
    }
}

/// A token bucket: `tokens` is in `0..=burst` and as of `since`.
#[derive(Debug, Clone)]
struct Bucket {
    tokens: f64,
    since: Instant,
}

impl Bucket {
    fn full(burst: f64, now: Instant) -> Self {
        Self {
            tokens: burst,
            since: now,
        }
    }

    fn take(&mut self, rate: f64, burst: f64, now: Instant) -> bool {
        let gained = now.duration_since(self.since).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(burst);
        self.since = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// As long as a Pyro client waits for an answer.
    const PATIENCE: Duration = Duration::from_millis(700);

    struct Running {
        port: u16,
        able: Arc<AtomicBool>,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<()>,
    }

    async fn start(host: Option<&str>) -> Running {
        let config = Broadcast {
            host: "127.0.0.1".to_owned(),
            port: 0,
        };
        let reply = Reply::new(host, 9090).unwrap();
        let responder = Responder::bind(&config, true, reply).await.unwrap();
        let port = responder.socket.local_addr().unwrap().port();
        assert_eq!(responder.location(), format!("127.0.0.1:{port}"));
        let (stop, stopped) = watch::channel(false);
        let able = Arc::new(AtomicBool::new(true));
        let can_serve = {
            let able = Arc::clone(&able);
            move || able.load(Ordering::Relaxed)
        };
        let task = tokio::spawn(responder.serve(can_serve, stopped));
        Running {
            port,
            able,
            stop,
            task,
        }
    }

    async fn ask(port: u16, request: &[u8]) -> Option<String> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(request, ("127.0.0.1", port)).await.unwrap();
        let mut reply = [0; 200];
        let (len, _) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut reply))
            .await
            .ok()?
            .unwrap();
        Some(reply[..len].iter().map(|&byte| char::from(byte)).collect())
    }

    #[tokio::test]
    async fn the_exact_request_is_answered_and_nothing_else() {
        let running = start(Some("neptune")).await;
        for other in [
            &b"GET_NSURI\n"[..],
            b"get_nsuri",
            b"GET_NSUR",
            b"",
            &[b'x'; 2000],
        ] {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket
                .send_to(other, ("127.0.0.1", running.port))
                .await
                .unwrap();
            socket
                .send_to(REQUEST, ("127.0.0.1", running.port))
                .await
                .unwrap();
            // The socket sees one reply, so the other datagram, which came first, had none.
            let mut reply = [0; 200];
            let (len, _) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut reply))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(&reply[..len], b"PYRO:Pyro.NameServer@neptune:9090");
            assert!(socket.try_recv_from(&mut reply).is_err());
        }
        running.stop.send(true).unwrap();
        tokio::time::timeout(PATIENCE, running.task)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn a_server_on_all_interfaces_answers_with_the_one_that_leads_to_the_asker() {
        let running = start(None).await;
        for _ in 0..2 {
            assert_eq!(
                ask(running.port, REQUEST).await.as_deref(),
                Some("PYRO:Pyro.NameServer@127.0.0.1:9090")
            );
        }
    }

    #[tokio::test]
    async fn a_node_that_cannot_serve_is_silent() {
        let running = start(Some("neptune")).await;
        running.able.store(false, Ordering::Relaxed);
        assert_eq!(ask(running.port, REQUEST).await, None);
        running.able.store(true, Ordering::Relaxed);
        assert!(ask(running.port, REQUEST).await.is_some());
    }

    #[tokio::test]
    async fn a_latin_host_name_is_sent_as_latin_1() {
        let running = start(Some("köln")).await;
        assert_eq!(
            ask(running.port, REQUEST).await.as_deref(),
            Some("PYRO:Pyro.NameServer@köln:9090")
        );
    }

    #[test]
    fn a_uri_that_would_arrive_cut_off_is_refused() {
        let room = REPLY_LEN_MAX - "PYRO:Pyro.NameServer@:9090".len();
        assert!(Reply::new(Some(&"x".repeat(room)), 9090).is_ok());
        assert_eq!(
            Reply::new(Some(&"x".repeat(room + 1)), 9090),
            Err(Unfit::TooLong {
                len: REPLY_LEN_MAX + 1
            })
        );
        assert_eq!(Reply::new(Some("Москва"), 9090), Err(Unfit::Encoding));
    }

    #[test]
    fn routes_are_found_and_forgotten() {
        let mut routes = Routes::default();
        let now = Instant::now();
        let local = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(
            routes.local_address(local, now).unwrap(),
            Ipv4Addr::LOCALHOST
        );
        routes.known.insert(local, (Ipv4Addr::BROADCAST, now));
        assert_eq!(
            routes.local_address(local, now).unwrap(),
            Ipv4Addr::BROADCAST
        );
        assert_eq!(
            routes.local_address(local, now + ROUTE_AGE_MAX).unwrap(),
            Ipv4Addr::LOCALHOST
        );
        for number in 0..ROUTE_COUNT_MAX as u32 + 10 {
            let asker = IpAddr::V4(Ipv4Addr::from(0x7f00_0000 + number));
            routes.local_address(asker, now).unwrap();
        }
        assert!(routes.known.len() <= ROUTE_COUNT_MAX);
    }

    #[test]
    fn one_asker_cannot_use_up_the_replies_of_others() {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        let greedy = IpAddr::from([192, 0, 2, 1]);
        let count = (0..10_000).filter(|_| throttle.admits(greedy, now)).count();
        assert_eq!(count, ASKER_BURST as usize);
        assert!(throttle.admits(IpAddr::from([192, 0, 2, 2]), now));
        let later = now + Duration::from_secs(1);
        let count = (0..10_000)
            .filter(|_| throttle.admits(greedy, later))
            .count();
        assert_eq!(count, ASKER_RATE as usize);
    }

    #[test]
    fn all_replies_together_are_bounded() {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        let count = (0..100_000_u32)
            .filter(|number| throttle.admits(IpAddr::V4(Ipv4Addr::from(*number)), now))
            .count();
        assert_eq!(count, ALL_BURST as usize);
    }
}
