//! Tests of connections to misbehaving servers, and of the choice of family and serializer.

mod support;

use std::time::Duration;

use hearth_cli::{
    Address, BatchCall, ClientError, Config, ConnectOptions, Connection, NAME_SERVER, NameServer,
    Protocol, resolve,
};
use hearth_wire::{Exception, Family, Flags, Frame, MessageType, Serializer, Value};
use support::closed_port;
use support::fake::{Reaction, healthy, healthy_in, reply, serve};

const FAMILIES: [Family; 2] = [Family::Pyro4, Family::Pyro5];

const SERIALIZERS: [Serializer; 4] = [
    Serializer::Serpent,
    Serializer::Json,
    Serializer::Marshal,
    Serializer::Msgpack,
];

async fn connect(address: &Address) -> Connection {
    Connection::connect(address, NAME_SERVER, &ConnectOptions::default())
        .await
        .expect("the fake server welcomes everybody")
}

async fn call(connection: &mut Connection) -> Result<Value, ClientError> {
    connection.call(NAME_SERVER, "count", vec![], vec![]).await
}

#[tokio::test]
async fn both_families_and_all_serializers_are_spoken() {
    let address = serve("127.0.0.1", |frame| healthy(frame, &"näh".into())).await;
    for family in FAMILIES {
        for serializer in SERIALIZERS {
            let options = ConnectOptions {
                protocol: Protocol::Only(family),
                serializer,
                ..ConnectOptions::default()
            };
            let mut connection = Connection::connect(&address, NAME_SERVER, &options)
                .await
                .expect("a welcome");
            assert_eq!(
                (connection.family(), connection.serializer()),
                (family, serializer)
            );
            assert!(connection.metadata().methods.contains("ping"));
            assert_eq!(call(&mut connection).await.ok(), Some("näh".into()));
            connection.ping().await.expect("a pong");
        }
    }
}

#[tokio::test]
async fn an_end_between_two_calls_is_noticed_without_a_call() {
    let address = serve("127.0.0.1", |frame| match frame.kind {
        MessageType::Invoke if frame.flags.oneway => Reaction::Close,
        _ => healthy(frame, &Value::Int(7)),
    })
    .await;
    let mut connection = connect(&address).await;
    assert!(!connection.has_ended());
    assert_eq!(call(&mut connection).await.ok(), Some(Value::Int(7)));
    assert!(!connection.has_ended());
    connection
        .call(NAME_SERVER, "shout", vec![], vec![])
        .await
        .expect("nobody answers that");
    while !connection.has_ended() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!connection.is_open());
}

#[tokio::test]
async fn a_server_of_one_family_is_spoken_to_in_that_family() {
    for family in FAMILIES {
        let address = serve("127.0.0.1", move |frame| {
            healthy_in(family, frame, &Value::Int(7))
        })
        .await;
        let mut connection = connect(&address).await;
        assert_eq!(connection.family(), family);
        assert_eq!(call(&mut connection).await.ok(), Some(Value::Int(7)));
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_on_pyro5_is_asked_in_pyro4() {
    let address = serve("127.0.0.1", |frame| match frame.family {
        Family::Pyro4 => healthy(frame, &Value::None),
        Family::Pyro5 => Reaction::Close,
    })
    .await;
    assert_eq!(connect(&address).await.family(), Family::Pyro4);
}

#[tokio::test]
async fn the_other_family_is_an_error_if_only_one_may_be_spoken() {
    for (wanted, spoken, text) in [
        (Family::Pyro5, Family::Pyro4, "invalid protocol version: 48"),
        (
            Family::Pyro4,
            Family::Pyro5,
            "invalid data or unsupported protocol version",
        ),
    ] {
        let address = serve("127.0.0.1", move |frame| {
            healthy_in(spoken, frame, &Value::None)
        })
        .await;
        let options = ConnectOptions {
            protocol: Protocol::Only(wanted),
            ..ConnectOptions::default()
        };
        let error = Connection::connect(&address, NAME_SERVER, &options)
            .await
            .expect_err("not spoken there");
        assert!(
            matches!(error, ClientError::WrongFamily { .. }),
            "{error:?}"
        );
        assert_eq!(error.to_string(), text);
    }
}

#[tokio::test]
async fn a_refusal_carries_the_servers_words() {
    let address = serve("127.0.0.1", |frame| {
        Reaction::Send(frame.refused("no free workers"))
    })
    .await;
    let error = Connection::connect(&address, NAME_SERVER, &ConnectOptions::default())
        .await
        .expect_err("refused");
    assert_eq!(
        error.to_string(),
        format!("connection to {address} rejected: no free workers")
    );
}

#[tokio::test]
async fn an_exception_leaves_the_connection_usable_unless_the_server_closes_it() {
    for (exception, stays_open) in [
        (Exception::naming("unknown name: zz"), true),
        (
            Exception::pyro(hearth_wire::PyroClass::SerializeError, "unsupported"),
            false,
        ),
    ] {
        let raised = exception.clone();
        let address = serve("127.0.0.1", move |frame| match frame.kind {
            MessageType::Invoke => {
                let value = Value::Exception(Box::new(raised.clone()));
                let mut reply = reply(frame, MessageType::Result, &value);
                reply.flags.exception = true;
                Reaction::Send(reply)
            }
            _ => healthy(frame, &Value::None),
        })
        .await;
        let mut connection = connect(&address).await;
        let error = call(&mut connection).await.expect_err("an exception");
        let found = error.exception().expect("raised by the server");
        assert_eq!(
            (&found.class, found.text()),
            (&exception.class, exception.text())
        );
        assert_eq!(connection.is_open(), stays_open);
    }
}

#[tokio::test]
async fn a_reply_to_another_call_is_refused_and_ends_the_connection() {
    let address = serve("127.0.0.1", |frame| match frame.kind {
        MessageType::Invoke => {
            let mut reply = reply(frame, MessageType::Result, &Value::None);
            reply.seq = reply.seq.wrapping_add(9);
            Reaction::Send(reply)
        }
        _ => healthy(frame, &Value::None),
    })
    .await;
    let mut connection = connect(&address).await;
    let error = call(&mut connection).await.expect_err("out of step");
    assert_eq!(
        error.to_string(),
        "invoke: reply sequence out of sync, got 10 expected 1"
    );
    let error = call(&mut connection).await.expect_err("closed by then");
    assert!(matches!(error, ClientError::Closed { .. }));
}

#[tokio::test]
async fn a_reply_in_another_serializer_is_refused() {
    let address = serve("127.0.0.1", |frame| match frame.kind {
        MessageType::Invoke => {
            let mut reply = reply(frame, MessageType::Result, &Value::None);
            reply.serializer_id += 1;
            Reaction::Send(reply)
        }
        _ => healthy(frame, &Value::None),
    })
    .await;
    let error = call(&mut connect(&address).await).await.expect_err("wrong");
    assert_eq!(error.to_string(), "invalid serializer in response: 2");
}

#[tokio::test]
async fn a_reply_that_is_no_result_is_refused() {
    let address = serve("127.0.0.1", |frame| match frame.kind {
        MessageType::Invoke => Reaction::Send(reply(frame, MessageType::Ping, &Value::None)),
        _ => healthy(frame, &Value::None),
    })
    .await;
    let error = call(&mut connect(&address).await)
        .await
        .expect_err("a ping");
    assert!(matches!(error, ClientError::Unexpected { .. }), "{error:?}");
}

#[tokio::test]
async fn a_late_reply_never_answers_the_next_call() {
    let address = serve("127.0.0.1", |frame| match frame.kind {
        MessageType::Invoke => Reaction::Silence,
        _ => healthy(frame, &Value::None),
    })
    .await;
    let options = ConnectOptions {
        timeout: Some(Duration::from_millis(50)),
        ..ConnectOptions::default()
    };
    let mut connection = Connection::connect(&address, NAME_SERVER, &options)
        .await
        .expect("a welcome");
    let error = call(&mut connection).await.expect_err("no reply");
    assert!(error.is_timeout(), "{error:?}");
    assert!(matches!(
        call(&mut connection).await,
        Err(ClientError::Closed { .. })
    ));
}

#[tokio::test]
async fn a_silent_server_does_not_hold_up_connecting() {
    let address = serve("127.0.0.1", |_| Reaction::Silence).await;
    let options = ConnectOptions {
        timeout: Some(Duration::from_millis(50)),
        ..ConnectOptions::default()
    };
    let error = NameServer::connect(&address, &options).await;
    assert!(error.expect_err("no welcome").is_timeout());
}

#[tokio::test]
async fn oneway_calls_wait_for_nothing() {
    let address = serve("127.0.0.1", |frame| {
        match (frame.kind, frame.flags.oneway) {
            (MessageType::Invoke, true) => Reaction::Silence,
            (MessageType::Invoke, false) => healthy(frame, &Value::Int(1)),
            _ => healthy(frame, &Value::None),
        }
    })
    .await;
    let mut connection = connect(&address).await;
    connection
        .call_oneway(NAME_SERVER, "count", vec![], vec![])
        .await
        .expect("it is sent");
    let declared = connection.call(NAME_SERVER, "shout", vec![], vec![]).await;
    assert_eq!(
        declared.ok(),
        Some(Value::None),
        "the server declared it oneway"
    );
    assert_eq!(call(&mut connection).await.ok(), Some(Value::Int(1)));
}

#[tokio::test]
async fn a_batch_ends_with_its_first_exception() {
    let address = serve("127.0.0.1", |frame| match frame.kind {
        MessageType::Invoke => {
            assert!(frame.flags.batch);
            let raised = Exception::naming("unknown name: zz");
            let results = vec![Value::Int(1), Value::ExceptionWrapper(Box::new(raised))];
            let mut reply = reply(frame, MessageType::Result, &Value::List(results));
            reply.flags = Flags {
                batch: true,
                ..Flags::default()
            };
            Reaction::Send(reply)
        }
        _ => healthy(frame, &Value::None),
    })
    .await;
    let calls = ["count", "lookup"].map(|method| BatchCall {
        method: method.into(),
        args: vec![],
        kwargs: vec![],
    });
    let mut connection = connect(&address).await;
    let results = connection.batch(NAME_SERVER, calls.to_vec()).await;
    let results = results.expect("a list of results");
    assert_eq!(results.len(), 2);
    assert_eq!(results[0], Ok(Value::Int(1)));
    assert_eq!(
        results[1].as_ref().expect_err("raised").text(),
        "unknown name: zz"
    );
}

#[tokio::test]
async fn requests_that_gain_by_it_are_compressed() {
    for (compress, text) in [(true, "a".repeat(1000)), (false, "a".repeat(1000))] {
        let address = serve("127.0.0.1", move |frame| {
            if frame.kind == MessageType::Invoke {
                assert_eq!(frame.flags.compressed, compress);
            }
            healthy(frame, &Value::Int(1))
        })
        .await;
        let options = ConnectOptions {
            compress,
            ..ConnectOptions::default()
        };
        let mut connection = Connection::connect(&address, NAME_SERVER, &options)
            .await
            .expect("a welcome");
        let reply = connection
            .call(NAME_SERVER, "count", vec![text.into()], vec![])
            .await;
        assert_eq!(reply.ok(), Some(Value::Int(1)));
    }
}

#[tokio::test]
async fn a_reply_above_the_limit_is_refused() {
    let address = serve("127.0.0.1", |frame| {
        healthy(frame, &"a".repeat(5000).into())
    })
    .await;
    let mut options = ConnectOptions::default();
    options.limits.message_len_max = 4000;
    let mut connection = Connection::connect(&address, NAME_SERVER, &options)
        .await
        .expect("a welcome");
    let error = call(&mut connection).await.expect_err("too large");
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    assert!(!connection.is_open());
}

#[tokio::test]
async fn ipv6_hosts_are_reached_and_named() {
    if tokio::net::TcpListener::bind("[::1]:0").await.is_err() {
        return hearth_skipped::skipped("this machine has no IPv6 loopback");
    }
    let address = serve("::1", |frame| healthy(frame, &Value::Int(1))).await;
    assert!(address.to_string().starts_with("[::1]:"));
    let uri = format!("PYRO:{NAME_SERVER}@{address}");
    let uri = hearth_wire::Uri::parse(&uri, 9090).expect("a URI");
    let mut connection = Connection::connect_uri(&uri, &ConnectOptions::default())
        .await
        .expect("a welcome");
    assert_eq!(call(&mut connection).await.ok(), Some(Value::Int(1)));
}

#[tokio::test]
async fn refused_connections_name_the_address() {
    let address = Address::tcp("127.0.0.1", closed_port());
    let error = Connection::connect(&address, NAME_SERVER, &ConnectOptions::default())
        .await
        .expect_err("nothing listens there");
    assert_eq!(
        error.to_string(),
        format!("cannot connect to {address}: [Errno 111] Connection refused")
    );
}

#[tokio::test]
async fn an_unknown_name_is_asked_for_again_while_the_delay_lasts() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let call_count = AtomicUsize::new(0);
    let address = serve("127.0.0.1", move |frame: &Frame| match frame.kind {
        MessageType::Invoke if call_count.fetch_add(1, Ordering::SeqCst) < 2 => {
            let raised = Exception::naming("unknown name: zz");
            let value = Value::Exception(Box::new(raised));
            let mut reply = reply(frame, MessageType::Result, &value);
            reply.flags.exception = true;
            Reaction::Send(reply)
        }
        _ => {
            let uri = hearth_wire::Uri::parse("PYRO:o@h:1", 9090).expect("a URI");
            healthy(frame, &Value::Uri(Box::new(uri)))
        }
    })
    .await;
    let mut config = Config::default();
    let magic = format!("PYRONAME:zz@{address}");
    let error = resolve(&magic, &config).await.expect_err("not yet there");
    assert_eq!(error.to_string(), "unknown name: zz");
    config.lookup_delay = Duration::from_secs(30);
    let resolved = resolve(&magic, &config).await.expect("there at last");
    assert_eq!(resolved.to_string(), "PYRO:o@h:1");
}
