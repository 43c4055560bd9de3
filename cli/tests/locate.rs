//! Tests of the order in which a name server is searched for, with fake servers that count their
//! requests.

mod support;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hearth_cli::{Address, Attempt, ClientError, Config, IpVersion, locate_ns};
use hearth_wire::Value;
use support::closed_port;
use support::fake::{healthy, serve};
use tokio::net::UdpSocket;

/// A UDP responder on 127.0.0.1 and the number of requests that it received.
struct Responder {
    port: u16,
    request_count: Arc<AtomicUsize>,
}

impl Responder {
    /// Starts a responder that ignores the first `ignored` requests and answers all others with
    /// `answer`.
    async fn start(answer: impl Into<Vec<u8>>, ignored: usize) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let port = socket.local_addr().expect("an address").port();
        let request_count = Arc::new(AtomicUsize::new(0));
        let (counter, answer) = (request_count.clone(), answer.into());
        tokio::spawn(async move {
            let mut request = [0; 100];
            while let Ok((len, from)) = socket.recv_from(&mut request).await {
                assert_eq!(&request[..len], b"GET_NSURI");
                if counter.fetch_add(1, Ordering::SeqCst) >= ignored {
                    socket.send_to(&answer, from).await.expect("loopback sends");
                }
            }
        });
        Self {
            port,
            request_count,
        }
    }

    fn request_count(&self) -> usize {
        self.request_count.load(Ordering::SeqCst)
    }
}

/// A configuration in which no server answers.
fn quiet() -> Config {
    Config {
        ns_host: "127.0.0.1".into(),
        ns_port: closed_port(),
        ns_bcport: closed_port(),
        broadcast_addrs: vec!["127.0.0.1".into()],
        ..Config::default()
    }
}

async fn server() -> (Address, u16) {
    let address = serve("127.0.0.1", |frame| healthy(frame, &Value::None)).await;
    let Address::Tcp { port, .. } = address else {
        panic!("a TCP server");
    };
    (address, port)
}

fn places(error: &ClientError) -> Vec<String> {
    let ClientError::NotLocated { attempts } = error else {
        panic!("{error}");
    };
    attempts
        .iter()
        .map(|attempt| match attempt {
            Attempt::Connect { address, .. } => address.to_string(),
            Attempt::Broadcast { port, .. } => format!("broadcast {port}"),
            other => other.to_string(),
        })
        .collect()
}

#[tokio::test]
async fn a_given_host_is_the_only_place() {
    let responder = Responder::start("PYRO:Pyro.NameServer@127.0.0.1:1", 0).await;
    let (_, port) = server().await;
    let config = Config {
        ns_port: port,
        ns_bcport: responder.port,
        ..quiet()
    };
    let closed = closed_port();
    let error = locate_ns(Some("127.0.0.1"), Some(closed), &config)
        .await
        .expect_err("nothing listens there");
    assert_eq!(error.to_string(), "Failed to locate the nameserver");
    assert_eq!(places(&error), [format!("127.0.0.1:{closed}")]);
    assert_eq!(responder.request_count(), 0);

    let found = locate_ns(Some("127.0.0.1"), None, &config).await;
    assert!(found.is_ok(), "the configured port counts for a given host");
}

#[tokio::test]
async fn this_machine_comes_before_the_broadcast() {
    let responder = Responder::start("PYRO:Pyro.NameServer@127.0.0.1:1", 0).await;
    let (address, port) = server().await;
    let config = Config {
        ns_host: "localhost".into(),
        ns_port: port,
        ns_bcport: responder.port,
        ..quiet()
    };
    let found = locate_ns(None, None, &config).await.expect("it is there");
    assert_eq!(*found.address(), Address::tcp("localhost", port));
    assert!(found.family().is_some(), "it is connected to");
    assert_eq!(responder.request_count(), 0);
    drop(address);
}

#[tokio::test]
async fn the_second_own_address_counts_only_if_it_has_a_name() {
    let address = serve("127.0.1.1", |frame| healthy(frame, &Value::None)).await;
    let Address::Tcp { port, .. } = address else {
        panic!("a TCP server");
    };
    let own: IpAddr = "127.0.1.1".parse().expect("an address");
    let name = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&own)).await;
    let has_name = matches!(name, Ok(Ok(name)) if name != "127.0.1.1");
    let config = Config {
        broadcast: false,
        ns_port: port,
        ..quiet()
    };
    let found = locate_ns(None, None, &config).await;
    assert_eq!(found.is_ok(), has_name);
}

#[tokio::test]
async fn the_broadcast_comes_before_the_configured_host() {
    let (address, port) = server().await;
    let uri = format!("PYRO:Pyro.NameServer@127.0.0.1:{port}");
    let responder = Responder::start(uri, 0).await;
    let config = Config {
        ns_bcport: responder.port,
        // Pyro does not count this as an address of this machine, although it reaches the machine.
        ns_host: "0.0.0.0".into(),
        ns_port: port,
        ..quiet()
    };
    let mut found = locate_ns(None, None, &config).await.expect("it answers");
    assert_eq!(*found.address(), address);
    assert!(
        found.family().is_none(),
        "the answer is believed without a connection"
    );
    assert_eq!(responder.request_count(), 1);
    found.ping().await.expect("it connects when it is used");
}

#[tokio::test]
async fn a_given_port_is_that_of_the_broadcast_too() {
    let (address, port) = server().await;
    let uri = format!("PYRO:Pyro.NameServer@127.0.0.1:{port}");
    let responder = Responder::start(uri, 0).await;
    let found = locate_ns(None, Some(responder.port), &quiet()).await;
    assert_eq!(*found.expect("it answers").address(), address);
}

#[tokio::test]
async fn three_rounds_are_broadcast_to_every_address() {
    let deaf = Responder::start("", usize::MAX).await;
    let config = Config {
        ns_bcport: deaf.port,
        broadcast_addrs: vec!["127.0.0.1".into(), "localhost".into()],
        ..quiet()
    };
    let start = Instant::now();
    let error = locate_ns(None, None, &config).await.expect_err("no answer");
    assert!(start.elapsed() >= Duration::from_millis(2100));
    assert_eq!(deaf.request_count(), 6);
    let tried = places(&error);
    let own = format!("127.0.0.1:{}", config.ns_port);
    assert_eq!(tried.first(), Some(&own));
    assert_eq!(
        tried.get(tried.len() - 2),
        Some(&format!("broadcast {}", deaf.port))
    );
    assert_eq!(tried.last(), Some(&own), "the configured host comes last");
}

#[tokio::test]
async fn an_answer_in_the_third_round_is_in_time() {
    let (address, port) = server().await;
    let uri = format!("PYRO:Pyro.NameServer@127.0.0.1:{port}");
    let slow = Responder::start(uri, 2).await;
    let config = Config {
        ns_bcport: slow.port,
        ..quiet()
    };
    let found = locate_ns(None, None, &config).await.expect("it answers");
    assert_eq!(*found.address(), address);
}

#[tokio::test]
async fn the_configured_host_is_the_last_resort() {
    let (_, port) = server().await;
    let config = Config {
        ns_host: "0.0.0.0".into(),
        ns_port: port,
        ..quiet()
    };
    let found = locate_ns(None, None, &config).await.expect("it is there");
    assert_eq!(*found.address(), Address::tcp("0.0.0.0", port));
}

#[tokio::test]
async fn an_answer_that_is_no_uri_is_an_error() {
    for answer in ["hello", "PYRO:Pyro.NameServer@127.0.0.1:99999"] {
        let odd = Responder::start(answer, 0).await;
        let config = Config {
            ns_bcport: odd.port,
            ..quiet()
        };
        let error = locate_ns(None, None, &config).await.expect_err("no URI");
        assert!(
            matches!(error, ClientError::Uri(_) | ClientError::Address(_)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn ipv6_has_no_broadcast() {
    let responder = Responder::start("PYRO:Pyro.NameServer@127.0.0.1:1", 0).await;
    let mut config = Config {
        ns_bcport: responder.port,
        ..quiet()
    };
    config.connect.ip_version = IpVersion::V6;
    let error = locate_ns(None, None, &config).await.expect_err("nothing");
    assert!(
        !places(&error)
            .iter()
            .any(|place| place.starts_with("broadcast"))
    );
    assert_eq!(responder.request_count(), 0);
}
