//! Tests of the typed methods with both real name servers, in every serializer that can express
//! them.

mod support;

use std::collections::BTreeSet;

use hearth_cli::{
    BatchCall, ClientError, Config, Connection, Filter, IfTaken, NAME_SERVER, NameServer, Protocol,
    Removal, locate_ns, resolve,
};
use hearth_wire::{Family, Serializer, Value};
use support::{Python, RealServer};

const SERVERS: [(&str, Family); 2] = [("pyro4-ns", Family::Pyro4), ("pyro5-ns", Family::Pyro5)];

fn tags(tags: &[&str]) -> BTreeSet<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}

async fn connect(server: &RealServer, config: &Config) -> NameServer {
    let port = server.port().parse().expect("a port");
    locate_ns(Some("127.0.0.1"), Some(port), config)
        .await
        .expect("a real name server")
}

#[tokio::test]
async fn every_method_with_its_types() {
    let Some(python) = Python::find() else { return };
    for (program, family) in SERVERS {
        let server = RealServer::start(&python, program);
        let mut ns = connect(&server, &Config::default()).await;
        assert_eq!(ns.family(), Some(family));
        assert_eq!(ns.uri().to_string(), server.uri);
        ns.ping().await.expect("a sign of life");
        assert_eq!(ns.count().await.expect("a number"), 1);

        let both = tags(&["t1", "t2"]);
        ns.register("a.1", "PYRO:o@h:1", IfTaken::Refuse, Some(&both))
            .await
            .expect("a free name");
        ns.register("a.2", "pyro:o@h:02", IfTaken::Refuse, None)
            .await
            .expect("a free name");
        let taken = ns
            .register("a.1", "PYRO:o@h:3", IfTaken::Refuse, None)
            .await;
        let taken = taken.expect_err("a taken name");
        assert_eq!(taken.to_string(), "name already registered: a.1");

        assert_eq!(
            ns.lookup("a.2").await.expect("there").to_string(),
            "PYRO:o@h:2"
        );
        let (uri, metadata) = ns.lookup_with_metadata("a.1").await.expect("there");
        assert_eq!((uri.to_string().as_str(), &metadata), ("PYRO:o@h:1", &both));
        let (_, metadata) = ns.lookup_with_metadata("a.2").await.expect("there");
        assert_eq!(metadata, tags(&[]));

        let listing = ns.list(Filter::Prefix("a.")).await.expect("a list");
        assert_eq!(listing.keys().collect::<Vec<_>>(), ["a.1", "a.2"]);
        assert_eq!(listing["a.2"].uri, "pyro:o@h:02", "as it was registered");
        assert_eq!(listing["a.1"].metadata, both);
        let all = ns.list(Filter::All).await.expect("a list");
        assert!(all.contains_key(NAME_SERVER));
        let one = ns
            .list_uris(Filter::Regex(r"a\.\d$"))
            .await
            .expect("a list");
        assert_eq!(one.len(), 2);
        assert_eq!(ns.yplookup_all(&both).await.expect("a list").len(), 1);
        let some = tags(&["t2", "t9"]);
        assert_eq!(ns.yplookup_all(&some).await.expect("a list").len(), 0);
        assert_eq!(ns.yplookup_any(&some).await.expect("a list").len(), 1);

        ns.set_metadata("a.2", &tags(&["näh"]))
            .await
            .expect("there");
        let (_, metadata) = ns.lookup_with_metadata("a.2").await.expect("there");
        assert_eq!(metadata, tags(&["näh"]));
        let unknown = ns.set_metadata("zz", &some).await.expect_err("unknown");
        assert_eq!(unknown.to_string(), "unknown name: zz");

        assert_eq!(ns.remove(Removal::Name("zz")).await.expect("a number"), 0);
        assert_eq!(ns.remove(Removal::Name("a.1")).await.expect("a number"), 1);
        assert_eq!(ns.remove(Removal::Prefix("a.")).await.expect("a number"), 1);
        assert_eq!(ns.remove(Removal::Regex(".*")).await.expect("a number"), 0);
        let bad = ns
            .remove(Removal::Regex("["))
            .await
            .expect_err("no pattern");
        assert!(bad.to_string().starts_with("invalid regex: "), "{bad}");
    }
}

#[tokio::test]
async fn every_serializer_that_can_express_the_calls() {
    let Some(python) = Python::find() else { return };
    for (program, family) in SERVERS {
        let server = RealServer::start(&python, program);
        for serializer in [
            Serializer::Serpent,
            Serializer::Json,
            Serializer::Marshal,
            Serializer::Msgpack,
        ] {
            if (family, serializer) == (Family::Pyro4, Serializer::Msgpack) {
                continue; // pyro4-ns refuses it by default
            }
            let mut config = Config::default();
            config.connect.serializer = serializer;
            let mut ns = connect(&server, &config).await;
            let both = tags(&["t1", "t2"]);
            ns.register("a", "PYRO:o@h:1", IfTaken::Replace, Some(&both))
                .await
                .expect("registered");
            assert_eq!(
                ns.lookup("a").await.expect("there").to_string(),
                "PYRO:o@h:1"
            );
            let listing = ns.list(Filter::Prefix("a")).await.expect("a list");
            assert_eq!(listing["a"].metadata, both, "{serializer:?}");
            let pair = ns.lookup_with_metadata("a").await;
            match serializer {
                Serializer::Marshal => {
                    let error = pair.expect_err("the original's defect");
                    assert_eq!(error.to_string(), "unmarshallable object");
                }
                _ => assert_eq!(pair.expect("a pair").1, both, "{serializer:?}"),
            }
        }
    }
}

#[tokio::test]
async fn magic_uris_resolve_at_their_own_location() {
    let Some(python) = Python::find() else { return };
    for (program, _) in SERVERS {
        let server = RealServer::start(&python, program);
        let config = Config::default();
        let mut ns = connect(&server, &config).await;
        let tag = tags(&["t"]);
        for (name, uri) in [("a", "PYRO:o@h:1"), ("b", "PYRO:o@h:2")] {
            ns.register(name, uri, IfTaken::Refuse, Some(&tag))
                .await
                .expect("registered");
        }
        let at = format!("127.0.0.1:{}", server.port());
        let by_name = resolve(&format!("PYRONAME:a@{at}"), &config).await;
        assert_eq!(by_name.expect("there").to_string(), "PYRO:o@h:1");
        let mut picked = BTreeSet::new();
        while picked.len() < 2 {
            let by_tag = resolve(&format!("PYROMETA:t@{at}"), &config).await;
            picked.insert(by_tag.expect("two candidates").to_string());
        }
        let nobody = resolve(&format!("PYROMETA:t,x@{at}"), &config).await;
        assert!(matches!(nobody, Err(ClientError::NoCandidate { .. })));
        let itself = resolve("PYRO:x@y:1", &config).await;
        assert_eq!(itself.expect("itself").to_string(), "PYRO:x@y:1");
        assert!(matches!(
            resolve("x", &config).await,
            Err(ClientError::Uri(_))
        ));
    }
}

#[tokio::test]
async fn batches_and_oneway_calls_are_understood() {
    let Some(python) = Python::find() else { return };
    for (program, family) in SERVERS {
        let server = RealServer::start(&python, program);
        let mut config = Config::default();
        config.connect.protocol = Protocol::Only(family);
        let mut ns = connect(&server, &config).await;
        let connection = ns.connection().await.expect("connected");
        connection.ping().await.expect("a pong");
        let call = |method: &str, args: Vec<Value>| BatchCall {
            method: method.into(),
            args,
            kwargs: vec![],
        };
        let calls = vec![
            call("register", vec!["a".into(), "PYRO:o@h:1".into()]),
            call("count", vec![]),
            call("lookup", vec!["zz".into()]),
            call("remove", vec!["a".into()]),
        ];
        let results = connection.batch(NAME_SERVER, calls).await.expect("results");
        assert_eq!(results[..2], [Ok(Value::None), Ok(Value::Int(2))]);
        let raised = results[2].as_ref().expect_err("unknown");
        assert_eq!(raised.text(), "unknown name: zz");
        assert_eq!(results.len(), 3, "it ends there");
        let whole = connection
            .batch(NAME_SERVER, vec![call("nothing", vec![])])
            .await;
        assert!(matches!(whole, Err(ClientError::Remote { .. })));

        connection
            .call_oneway(NAME_SERVER, "remove", vec!["a".into()], vec![])
            .await
            .expect("sent");
        // The removal runs concurrently with the next calls.
        while ns.count().await.expect("a number") != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn the_daemon_is_an_object_like_any_other() {
    let Some(python) = Python::find() else { return };
    for (program, _) in SERVERS {
        let server = RealServer::start(&python, program);
        let uri = server.uri.replace(NAME_SERVER, "Pyro.Daemon");
        let uri = hearth_wire::Uri::parse(&uri, 9090).expect("a URI");
        let mut daemon = Connection::connect_uri(&uri, &Config::default().connect)
            .await
            .expect("a daemon");
        assert!(daemon.metadata().methods.contains("registered"));
        let objects = daemon
            .call("Pyro.Daemon", "registered", vec![], vec![])
            .await;
        let Ok(Value::List(objects)) = objects else {
            panic!("{objects:?}");
        };
        assert!(objects.contains(&NAME_SERVER.into()));
        let ping = daemon.call(NAME_SERVER, "ping", vec![], vec![]).await;
        assert_eq!(
            ping.ok(),
            Some(Value::None),
            "other objects can be called too"
        );
        let error = Connection::connect_uri(
            &hearth_wire::Uri::parse(&server.uri.replace(NAME_SERVER, "nobody"), 9090)
                .expect("a URI"),
            &Config::default().connect,
        )
        .await
        .expect_err("no such object");
        assert!(
            error.to_string().ends_with("rejected: unknown object"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_ended_connection_stays_ended_until_it_is_renewed() {
    let Some(python) = Python::find() else { return };
    let server = RealServer::start(&python, "pyro5-ns");
    let port = server.port();
    let mut ns = connect(&server, &Config::default()).await;
    drop(server);
    let lost = ns.ping().await.expect_err("it is gone");
    assert!(lost.is_communication(), "{lost}");
    let arguments = ["-n", "127.0.0.1", "-p", &port];
    let _server = RealServer::start_with(&python, "pyro5-ns", &arguments, &[]);
    assert!(ns.ping().await.is_err());
    ns.reconnect().await.expect("it is back");
    ns.ping().await.expect("a sign of life");
}
