//! A name server inside another program.

// Helpers of a test fail as the test itself does.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hearth_node::config::{AutocleanConfig, Bind, Birth, ClusterKeys, ClusterSettings, NodeConfig};
use hearth_node::start_ns;
use hearth_wire::Value;
use support::PATIENCE;
use support::client::{Client, Entry};
use support::cluster::free_addrs;

fn at_any_port() -> NodeConfig {
    NodeConfig {
        bind: Bind::Tcp {
            host: "localhost".to_owned(),
            port: 0,
        },
        ..NodeConfig::default()
    }
}

fn port_of(uri: &str) -> u16 {
    let (_, port) = uri.rsplit_once(':').unwrap();
    port.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_live_in_one_process_and_stop_apart() {
    let first = start_ns(at_any_port()).await.unwrap();
    let second = start_ns(at_any_port()).await.unwrap();
    let ports = [port_of(first.uri()), port_of(second.uri())];
    let counts = tokio::task::spawn_blocking(move || {
        ports.map(|port| Client::connect(port).unwrap().count().unwrap())
    })
    .await
    .unwrap();
    assert_eq!(counts, [Value::Int(1), Value::Int(1)]);

    first.shutdown().await;
    let reached =
        tokio::task::spawn_blocking(move || ports.map(|port| Client::connect(port).is_ok()))
            .await
            .unwrap();
    assert_eq!(reached, [false, true]);
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn autoclean_takes_out_what_is_gone_and_nothing_else() {
    let grace = Duration::from_millis(300);
    let config = NodeConfig {
        autoclean: Some(AutocleanConfig {
            period: Duration::from_millis(50),
            probe_timeout: Duration::from_secs(1),
            grace,
        }),
        ..at_any_port()
    };
    let ns = start_ns(config).await.unwrap();
    let port = port_of(ns.uri());
    tokio::task::spawn_blocking(move || {
        let alive = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let alive_port = alive.local_addr().unwrap().port();
        let dead_port = {
            let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            closed.local_addr().unwrap().port()
        };
        let mut client = Client::connect(port).unwrap();
        let began = Instant::now();
        for (name, uri) in [
            ("alive", format!("PYRO:o@127.0.0.1:{alive_port}")),
            ("dead", format!("PYRO:o@127.0.0.1:{dead_port}")),
            ("elsewhere", "PYRONAME:other".to_owned()),
            ("odd", "PYRO:o@127.0.0.1:99999".to_owned()),
        ] {
            let tags = BTreeSet::new();
            client.register(name, &Entry { uri, tags }).unwrap();
        }
        while client.list().unwrap().contains_key("dead") {
            assert!(began.elapsed() < PATIENCE, "it stays");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(began.elapsed() >= grace);
        let left: Vec<String> = client.list().unwrap().into_keys().collect();
        assert_eq!(left, ["alive", "elsewhere", "odd"]);
    })
    .await
    .unwrap();
    ns.shutdown().await;
}

/// As an object does that comes back at its address, or one that registers itself now and then.
#[tokio::test(flavor = "multi_thread")]
async fn autoclean_leaves_what_registers_the_same_uri_again() {
    let grace = Duration::from_millis(300);
    let config = NodeConfig {
        autoclean: Some(AutocleanConfig {
            period: Duration::from_millis(20),
            probe_timeout: Duration::from_secs(1),
            grace,
        }),
        ..at_any_port()
    };
    let ns = start_ns(config).await.unwrap();
    let port = port_of(ns.uri());
    tokio::task::spawn_blocking(move || {
        let dead_port = {
            let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            closed.local_addr().unwrap().port()
        };
        let entry = Entry {
            uri: format!("PYRO:o@127.0.0.1:{dead_port}"),
            tags: BTreeSet::new(),
        };
        let mut client = Client::connect(port).unwrap();
        client.register("control", &entry).unwrap();
        let began = Instant::now();
        let mut since = None;
        // Well beyond the time after which an entry goes that is not registered again.
        while since.is_none_or(|since: Instant| since.elapsed() < grace * 3) {
            client.register("back", &entry).unwrap();
            let registered = Instant::now();
            assert!(began.elapsed() < PATIENCE, "the control stays");
            if since.is_none() && !client.list().unwrap().contains_key("control") {
                since = Some(Instant::now());
            }
            std::thread::sleep(Duration::from_millis(10));
            let stays = client.list().unwrap().contains_key("back");
            // A machine that stops for so long has not registered it again in time.
            assert!(stays || registered.elapsed() >= grace, "it went");
        }
    })
    .await
    .unwrap();
    ns.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_a_cluster_can_live_in_one_process() {
    let addrs = free_addrs(2);
    let node = |peer_addr: &str, birth| NodeConfig {
        cluster: Some(ClusterSettings {
            peer_addr: Some(peer_addr.to_owned()),
            birth,
            keys: ClusterKeys::new([b"the secret of this test".to_vec()]),
            key_file: None,
        }),
        ..at_any_port()
    };
    let founders = [(1, addrs[0].clone())].into();
    let founder = NodeConfig {
        node_id: Some(1),
        ..node(&addrs[0], Birth::Found { founders })
    };
    let learner = Birth::Join {
        seeds: vec![addrs[0].clone()],
        learner: true,
    };
    let first = start_ns(founder).await.unwrap();
    let second = start_ns(node(&addrs[1], learner)).await.unwrap();
    let ports = [port_of(first.uri()), port_of(second.uri())];
    tokio::task::spawn_blocking(move || {
        let [mut first, mut second] = ports.map(|port| Client::connect(port).unwrap());
        let entry = Entry {
            uri: "PYRO:o@h:1".to_owned(),
            tags: BTreeSet::new(),
        };
        second.register("name", &entry).unwrap();
        assert_eq!(first.lookup("name").unwrap(), entry.uri);
        first.remove("name").unwrap();
        assert!(second.lookup("name").is_err());
    })
    .await
    .unwrap();
    second.shutdown().await;
    first.shutdown().await;
}
