//! The front end over loopback: conversations, limits, timeouts and the end of it all.
//!
//! What each method answers is compared with the real name servers elsewhere; this is about connections.

#![allow(clippy::unwrap_used)]

mod peer;

use std::time::{Duration, Instant};

use hearth_node::pyro::SerializerSet;
use hearth_wire::frame::EncodeOptions;
use hearth_wire::{Call, Family, Flags, Frame, MessageType, Serializer, Value};

use tokio::io::AsyncWriteExt;

use peer::{FAMILIES, PATIENCE, Peer, SERIALIZERS, Server};

const URI: &str = "PYRO:obj@localhost:4001";

fn registration(name: &str) -> Vec<Value> {
    vec![name.into(), URI.into()]
}

/// The names of a list, in its order.
fn ordered(list: Value) -> Vec<String> {
    let Value::Dict(entries) = list else {
        panic!("{list:?} is no dict");
    };
    let name = |(name, _): (Value, Value)| match name {
        Value::Str(name) => name,
        other => panic!("{other:?} is no name"),
    };
    entries.into_iter().map(name).collect()
}

async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn both_families_share_a_port_in_every_serializer() {
    let server = Server::start_with(|config| config.pyro4_serializers = SerializerSet::ALL).await;
    let mut count = 1;
    for family in FAMILIES {
        for serializer in SERIALIZERS {
            let mut client = server.client(family, serializer).await;
            let name = format!("{family:?}.{serializer:?}");
            let done = client.call("register", registration(&name)).await;
            assert_eq!(done, Value::None);
            count += 1;
            assert_eq!(client.call("count", vec![]).await, Value::Int(count));
            let found = client.call("lookup", vec![name.as_str().into()]).await;
            assert!(matches!(found, Value::Uri(uri) if uri.to_string() == URI));
        }
    }
}

#[tokio::test]
async fn each_family_learns_its_own_methods() {
    let server = Server::start().await;
    for (family, has_yplookup) in [(Family::Pyro4, false), (Family::Pyro5, true)] {
        let mut peer = server.peer(family, Serializer::Json).await;
        let welcome = peer.connect("Pyro.NameServer").await.unwrap();
        assert_eq!(welcome.flags.meta_on_connect, family == Family::Pyro4);
        let text = String::from_utf8(welcome.payload).unwrap();
        assert!(text.contains("\"handshake\": \"hello\""));
        assert_eq!(text.contains("yplookup"), has_yplookup, "{text}");
        let mut peer = server.peer(family, Serializer::Json).await;
        let refusal = peer.connect("pyro.nameserver").await.unwrap();
        assert_eq!(refusal.kind, MessageType::ConnectFail);
        assert_eq!(peer.value(&refusal), "unknown object".into());
        assert!(peer.is_closed().await);
    }
}

#[tokio::test]
async fn pipelined_calls_are_answered_in_order() {
    let server = Server::start().await;
    for family in FAMILIES {
        let mut client = server.client(family, Serializer::Serpent).await;
        let mut bytes = Vec::new();
        let frames: Vec<Frame> = (0..300)
            .map(|_| client.invoke("lookup", vec!["Pyro.NameServer".into()]))
            .collect();
        for frame in &frames {
            bytes.extend(client.bytes(frame));
        }
        // Cut anywhere, the answers are the same.
        let (first, second) = bytes.split_at(bytes.len() / 2 + 7);
        client.send_bytes(first).await;
        client.send_bytes(second).await;
        for frame in frames {
            let reply = client.receive().await.unwrap();
            assert_eq!(reply.seq, frame.seq);
            assert!(matches!(client.value(&reply), Value::Uri(_)));
        }
    }
}

#[tokio::test]
async fn oneway_calls_run_in_order_and_answer_nothing() {
    let server = Server::start().await;
    let mut client = server.client(Family::Pyro4, Serializer::Serpent).await;
    let oneway = Flags {
        oneway: true,
        ..Flags::default()
    };
    for call in [
        Call::new("Pyro.NameServer", "register", registration("a")),
        Call::new("Pyro.NameServer", "nosuch", vec![]),
        Call::new("nobody", "ping", vec![]),
    ] {
        let frame = client.invoke_with(&call, oneway);
        client.send(&frame).await;
    }
    assert_eq!(client.call("count", vec![]).await, Value::Int(2));
}

#[tokio::test]
async fn a_batch_stops_at_its_first_exception() {
    let server = Server::start().await;
    for family in FAMILIES {
        let mut client = server.client(family, Serializer::Serpent).await;
        let call = |method: &str, args: Vec<Value>| {
            Value::Tuple(vec![method.into(), Value::Tuple(args), Value::Dict(vec![])])
        };
        let batch = |calls: Vec<Value>| Call {
            args: Value::List(calls),
            kwargs: Value::None,
            ..Call::new("Pyro.NameServer", "<batch>", vec![])
        };
        let flags = Flags {
            batch: true,
            ..Flags::default()
        };
        let frame = client.invoke_with(
            &batch(vec![
                call("register", registration("before")),
                call("lookup", vec!["nobody".into()]),
                call("register", registration("after")),
            ]),
            flags,
        );
        client.send(&frame).await;
        let reply = client.receive().await.unwrap();
        assert!(reply.flags.batch && !reply.flags.exception);
        match client.value(&reply) {
            Value::List(results) => {
                assert_eq!(results.len(), 2);
                assert_eq!(results[0], Value::None);
                assert!(matches!(&results[1], Value::ExceptionWrapper(exception)
                    if exception.text() == "unknown name: nobody"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(client.call("count", vec![]).await, Value::Int(2));
        let frame = client.invoke_with(&batch(vec![call("_private", vec![])]), flags);
        client.send(&frame).await;
        let reply = client.receive().await.unwrap();
        assert!(reply.flags.exception);
        assert!(client.exception(&reply).contains("private attribute"));
    }
}

/// Consecutive changes of a batch are proposed together, and it must not show.
#[tokio::test]
async fn the_changes_of_a_batch_are_made_in_order_and_none_behind_an_exception() {
    let server = Server::start().await;
    for family in FAMILIES {
        let mut client = server.client(family, Serializer::Serpent).await;
        let name = |number: usize| format!("{family:?}.{number}");
        let uri = |number: usize| format!("PYRO:obj_{number}@localhost:4001");
        let call = |method: &str, args: Vec<Value>, kwargs: Vec<(Value, Value)>| {
            Value::Tuple(vec![method.into(), Value::Tuple(args), Value::Dict(kwargs)])
        };
        let register = |number: usize, uri: String| {
            call("register", vec![name(number).into(), uri.into()], vec![])
        };
        let safely = |number: usize| {
            let args = vec![name(number).into(), uri(0).into()];
            call("register", args, vec![("safe".into(), Value::Bool(true))])
        };
        // More than go into one log entry, each name twice.
        let mut calls: Vec<Value> = (0..700).map(|number| register(number, uri(0))).collect();
        calls.extend((0..700).map(|number| register(number, uri(number))));
        calls.push(call("remove", vec![name(1).into()], vec![]));
        calls.push(call("remove", vec![name(1).into()], vec![]));
        calls.push(safely(1));
        calls.push(call("lookup", vec![name(1).into()], vec![]));
        calls.push(register(701, uri(0)));
        calls.push(call(
            "set_metadata",
            vec![name(701).into(), Value::List(vec!["t".into()])],
            vec![],
        ));
        let done_count = calls.len();
        calls.push(safely(2));
        calls.push(register(702, uri(0)));
        let batch = Call {
            args: Value::List(calls),
            kwargs: Value::None,
            ..Call::new("Pyro.NameServer", "<batch>", vec![])
        };
        let flags = Flags {
            batch: true,
            ..Flags::default()
        };
        let frame = client.invoke_with(&batch, flags);
        client.send(&frame).await;
        let reply = client.receive().await.unwrap();
        let Value::List(results) = client.value(&reply) else {
            panic!("{reply:?}");
        };
        assert_eq!(results.len(), done_count + 1);
        assert!(results[..1400].iter().all(|result| *result == Value::None));
        assert_eq!(
            results[1400..1403],
            [Value::Int(1), Value::Int(0), Value::None]
        );
        assert!(matches!(&results[1403], Value::Uri(found) if found.to_string() == uri(0)));
        assert_eq!(results[1404..1406], [Value::None, Value::None]);
        assert!(matches!(&results[1406], Value::ExceptionWrapper(exception)
            if exception.text().contains("name already registered")));
        for number in [0, 2, 511, 512, 699] {
            let found = client.call("lookup", vec![name(number).into()]).await;
            assert!(matches!(found, Value::Uri(found) if found.to_string() == uri(number)));
        }
        let list = client
            .call("list", vec![format!("{family:?}.70").into()])
            .await;
        assert_eq!(ordered(list), [name(70), name(701)]);
    }
}

#[tokio::test]
async fn a_ping_is_answered_whatever_it_carries() {
    let server = Server::start().await;
    for family in FAMILIES {
        let mut client = server.client(family, Serializer::Serpent).await;
        let mut ping = Frame::new(family, MessageType::Ping, 7, 42, b"anything".to_vec());
        ping.correlation_id = Some([9; 16]);
        client.send(&ping).await;
        let pong = client.receive().await.unwrap();
        assert_eq!((pong.kind, pong.seq), (MessageType::Ping, 7));
        assert_eq!(pong.serializer_id, 42);
        assert_eq!(pong.payload, b"pong");
        assert_eq!(pong.correlation_id, Some([9; 16]));
    }
}

#[tokio::test]
async fn a_correlation_id_of_the_wrong_length_is_refused() {
    let server = Server::start().await;
    let text = "bytes is not a 16-char string";
    for id in [b"".as_slice(), &[b'x'; 15], &[b'x'; 17]] {
        let mut peer = server.peer(Family::Pyro4, Serializer::Serpent).await;
        let mut hello = peer.frame(MessageType::Connect, &Value::Dict(vec![]));
        hello.seq = 7;
        hello.annotations.insert(*b"CORR", id.to_vec());
        peer.send(&hello).await;
        let refusal = peer.receive().await.unwrap();
        assert_eq!(refusal.kind, MessageType::ConnectFail);
        assert_eq!((refusal.seq, peer.value(&refusal)), (7, text.into()));
        assert!(peer.is_closed().await);

        let mut client = server.client(Family::Pyro4, Serializer::Serpent).await;
        let mut ping = Frame::new(Family::Pyro4, MessageType::Ping, 8, 1, vec![]);
        ping.serializer_id = Serializer::Serpent.id(Family::Pyro4);
        for mut frame in [client.invoke("count", vec![]), ping] {
            frame.annotations.insert(*b"CORR", id.to_vec());
            client.send(&frame).await;
            let reply = client.receive().await.unwrap();
            assert_eq!((reply.kind, reply.seq), (MessageType::Result, frame.seq));
            assert_eq!(reply.correlation_id, None);
            assert_eq!(client.exception(&reply), format!("ValueError: {text}"));
        }
        let call = Call::new("Pyro.NameServer", "register", registration("a"));
        let oneway = Flags {
            oneway: true,
            ..Flags::default()
        };
        let mut frame = client.invoke_with(&call, oneway);
        frame.annotations.insert(*b"CORR", id.to_vec());
        client.send(&frame).await;
        assert_eq!(client.call("count", vec![]).await, Value::Int(1));
    }
}

#[tokio::test]
async fn the_own_entry_is_seen_by_each_family_as_its_own() {
    let server = Server::start().await;
    let own = || vec![Value::from("Pyro.NameServer")];
    for (family, tag) in [
        (Family::Pyro4, "class:Pyro4.naming.NameServer"),
        (Family::Pyro5, "class:Pyro5.nameserver.NameServer"),
    ] {
        let mut client = server.client(family, Serializer::Serpent).await;
        let found = client
            .call("lookup", vec!["Pyro.NameServer".into(), Value::Bool(true)])
            .await;
        assert!(format!("{found:?}").contains(tag), "{found:?}");
        assert_eq!(client.call("remove", own()).await, Value::Int(0));
        let everything = vec![Value::None, Value::None, ".*".into()];
        assert_eq!(client.call("remove", everything).await, Value::Int(0));
        // Accepted, and nothing changes.
        let register = vec!["Pyro.NameServer".into(), URI.into()];
        assert_eq!(client.call("register", register).await, Value::None);
        let found = client.call("lookup", own()).await;
        assert!(
            matches!(found, Value::Uri(uri) if uri.to_string().ends_with(&server.port.to_string()))
        );
        let safe = vec!["Pyro.NameServer".into(), URI.into(), Value::Bool(true)];
        assert_eq!(
            client.refusal("register", safe).await,
            "NamingError: name already registered: Pyro.NameServer"
        );
    }
}

#[tokio::test]
async fn lists_hold_the_own_entry_and_then_the_others_by_first_registration() {
    let server = Server::start_with(|config| config.pyro4_serializers = SerializerSet::ALL).await;
    let mut client = server.client(Family::Pyro5, Serializer::Json).await;
    // More than are listed where they are asked for.
    let name = |index| format!("{}.{index:03}", if index % 2 == 0 { "z" } else { "A" });
    for index in (0..150).rev() {
        client.call("register", registration(&name(index))).await;
    }
    // Neither another registration nor other tags move a name; removed and registered anew it is last.
    client.call("register", registration("z.100")).await;
    let tags = || Value::List(vec!["t".into()]);
    for index in [3, 140, 7] {
        let arguments = vec![name(index).as_str().into(), tags()];
        client.call("set_metadata", arguments).await;
    }
    client.call("remove", vec!["A.149".into()]).await;
    client.call("register", registration("A.149")).await;
    let mut expected = vec!["Pyro.NameServer".to_owned()];
    expected.extend((0..149).rev().map(name));
    expected.push("A.149".to_owned());

    for family in [Family::Pyro4, Family::Pyro5] {
        for serializer in [
            Serializer::Serpent,
            Serializer::Json,
            Serializer::Marshal,
            Serializer::Msgpack,
        ] {
            // Which Pyro4 does not accept unless it is told to.
            if family == Family::Pyro4 && serializer == Serializer::Msgpack {
                continue;
            }
            let mut client = server.client(family, serializer).await;
            let names = ordered(client.call("list", vec![]).await);
            assert_eq!(names, expected, "{family:?} {serializer:?}");
            let pattern = vec![Value::None, "Pyro|z".into()];
            let names = ordered(client.call("list", pattern).await);
            let some = expected.iter().filter(|name| !name.starts_with('A'));
            assert!(
                names.iter().eq(some),
                "{family:?} {serializer:?}: {names:?}"
            );
            let tagged = match family {
                Family::Pyro4 => client.call("list", vec![Value::None, Value::None, tags()]),
                Family::Pyro5 => client.call("yplookup", vec![tags()]),
            };
            let names = ordered(tagged.await);
            assert_eq!(
                names,
                ["z.140", "A.007", "A.003"],
                "{family:?} {serializer:?}"
            );
        }
    }
    let regex = vec![Value::None, "z.*8$".into()];
    let Value::Dict(entries) = client.call("list", regex).await else {
        panic!("no dict");
    };
    assert_eq!(entries.len(), 15);
    let text = client.refusal("list", vec![Value::None, "(".into()]).await;
    assert_eq!(
        text,
        "NamingError: invalid regex: missing ), unterminated subpattern at position 0"
    );
}

#[tokio::test]
async fn names_and_tags_that_are_no_unicode_text_are_refused() {
    let server = Server::start().await;
    let mut client = server.client(Family::Pyro4, Serializer::Serpent).await;
    let surrogate = || Value::SurrogateStr(Box::new([0xD800]));
    let text = client
        .refusal("register", vec![surrogate(), URI.into()])
        .await;
    assert_eq!(
        text,
        "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not allowed"
    );
    let mut with_tags = registration("a");
    with_tags.extend([Value::None, Value::List(vec!["x".into(), Value::Int(7)])]);
    assert_eq!(
        client.refusal("register", with_tags).await,
        "TypeError: metadata tags must be str, not int"
    );
    assert_eq!(client.call("count", vec![]).await, Value::Int(1));
}

#[tokio::test]
async fn with_a_key_messages_must_be_signed() {
    let key = b"secret";
    let server = Server::start_with(|config| config.hmac_key = Some(key.as_slice().into())).await;
    let mut signed = server
        .peer(Family::Pyro4, Serializer::Serpent)
        .await
        .with_key(key);
    signed.shake_hands().await;
    assert_eq!(signed.call("ping", vec![]).await, Value::None);

    // The refusal is signed, so a client without the key must be told to check nothing.
    let mut wrong = server
        .peer(Family::Pyro4, Serializer::Serpent)
        .await
        .with_key(b"guess");
    let hello = wrong.frame(MessageType::Connect, &Value::Dict(vec![]));
    wrong.send(&hello).await;
    let mut wrong = wrong.with_key(key);
    let refusal = wrong.receive().await.unwrap();
    assert_eq!(wrong.value(&refusal), "message hmac mismatch".into());
    assert!(wrong.is_closed().await);

    let mut pyro5 = server.peer(Family::Pyro5, Serializer::Serpent).await;
    let refusal = pyro5.connect("Pyro.NameServer").await.unwrap();
    assert_eq!(refusal.kind, MessageType::ConnectFail);
    assert!(format!("{:?}", pyro5.value(&refusal)).contains("HMAC"));
    assert!(pyro5.is_closed().await);
}

#[tokio::test]
async fn serializers_that_are_not_accepted_are_refused_in_pyros_words() {
    let server = Server::start().await;
    let text = |id: u16| format!("message used serializer that is not accepted: {id}");
    let mut peer = server.peer(Family::Pyro4, Serializer::Msgpack).await;
    let refusal = peer.connect("Pyro.NameServer").await.unwrap();
    assert_eq!(refusal.serializer_id, Serializer::Marshal.id(Family::Pyro4));
    assert_eq!(peer.value(&refusal), text(6).into());

    let mut client = server.client(Family::Pyro4, Serializer::Serpent).await;
    client.dialect.serializer = Serializer::Msgpack;
    let reply = client.ask("ping", vec![]).await;
    assert_eq!(
        client.exception(&reply),
        format!("SerializeError: {}", text(6))
    );
    assert!(client.is_closed().await);

    // Pickle is answered with a pickle, and nothing is unpickled.
    let mut client = server.client(Family::Pyro4, Serializer::Serpent).await;
    let pickled = Frame::new(
        Family::Pyro4,
        MessageType::Invoke,
        1,
        4,
        b"cos\nsystem\n.".to_vec(),
    );
    client.send(&pickled).await;
    let reply = client.receive().await.unwrap();
    assert!(reply.flags.exception);
    assert_eq!(reply.serializer_id, 4);
    assert!(
        reply
            .payload
            .starts_with(b"\x80\x02cPyro4.errors\nSerializeError\n")
    );
    assert!(client.is_closed().await);

    let mut peer = server.peer(Family::Pyro5, Serializer::Serpent).await;
    let unknown = Frame::new(Family::Pyro5, MessageType::Connect, 0, 99, vec![]);
    peer.send(&unknown).await;
    assert!(peer.is_closed().await);
}

#[tokio::test]
async fn garbage_is_refused_at_first_and_dropped_later() {
    let server = Server::start().await;
    let mut peer = server.peer(Family::Pyro4, Serializer::Serpent).await;
    peer.send_bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let refusal = peer.receive().await.unwrap();
    assert_eq!(refusal.kind, MessageType::ConnectFail);
    assert_eq!(
        peer.value(&refusal),
        "invalid data or unsupported protocol version".into()
    );
    assert!(peer.is_closed().await);
    for family in FAMILIES {
        let mut client = server.client(family, Serializer::Serpent).await;
        client.send_bytes(&[b'!'; 64]).await;
        assert!(client.is_closed().await);
        let mut client = server.client(family, Serializer::Serpent).await;
        let again = client.frame(MessageType::Connect, &Value::None);
        client.send(&again).await;
        assert!(client.is_closed().await, "a second CONNECT");
    }
    let mut client = server.client(Family::Pyro5, Serializer::Serpent).await;
    assert_eq!(client.call("ping", vec![]).await, Value::None);
}

#[tokio::test]
async fn a_call_that_cannot_be_inflated_costs_a_pyro4_client_that_call() {
    let server = Server::start().await;
    let mut client = server.client(Family::Pyro4, Serializer::Serpent).await;
    let mut frame = client.invoke("ping", vec![]);
    frame.payload = b"notzlib".to_vec();
    let mut bytes = client.bytes(&frame);
    // The flag goes in by hand, with the checksum: the encoder would compress in earnest.
    bytes[9] |= 0x02;
    let checksum = u16::from_be_bytes([bytes[22], bytes[23]]).wrapping_add(0x02);
    bytes[22..24].copy_from_slice(&checksum.to_be_bytes());
    client.send_bytes(&bytes).await;
    let reply = client.receive().await.unwrap();
    assert!(reply.flags.exception);
    let text = String::from_utf8(reply.payload).unwrap();
    assert!(text.contains("zlib.error"), "{text}");
    assert_eq!(client.call("ping", vec![]).await, Value::None);
}

/// Makes a connection busy: it asks for more than a socket buffers, and does not read it.
async fn keep_busy(client: &mut Peer) {
    for _ in 0..50 {
        let frame = client.invoke("list", vec![]);
        client.send(&frame).await;
    }
    // The first bytes of the answer are there, so the rest is being written.
    client.stream.readable().await.unwrap();
}

#[tokio::test]
async fn beyond_the_limit_clients_are_told_which_one() {
    let server = Server::start_with(|config| {
        config.connection_count_max = 2;
        config.connection_limit_option = "--places".to_owned();
    })
    .await;
    let mut client = server.client(Family::Pyro5, Serializer::Serpent).await;
    for index in 0..200 {
        let name = format!("{index:03}{}", "x".repeat(4000));
        client.call("register", registration(&name)).await;
    }
    drop(client);
    for family in FAMILIES {
        let mut first = server.client(family, Serializer::Serpent).await;
        let mut second = server.client(family, Serializer::Serpent).await;
        assert_eq!(server.front.connection_count(), 2);
        keep_busy(&mut first).await;
        keep_busy(&mut second).await;
        let mut third = server.peer(family, Serializer::Json).await;
        let refusal = third.connect("Pyro.NameServer").await.unwrap();
        assert_eq!(refusal.kind, MessageType::ConnectFail);
        let text = format!("{:?}", third.value(&refusal));
        assert!(text.contains("no free workers"), "{text}");
        assert!(
            text.contains("all 2 connections") && text.contains("--places"),
            "{text}"
        );
        assert!(third.is_closed().await);
        drop((first, second));
        wait_for("free places", || server.front.connection_count() == 0).await;
    }
    server.client(Family::Pyro5, Serializer::Serpent).await;
}

#[tokio::test]
async fn the_longest_idle_connection_gives_way_to_a_new_one() {
    let server = Server::start_with(|config| config.connection_count_max = 3).await;
    let mut first = server.client(Family::Pyro4, Serializer::Serpent).await;
    let mut second = server.client(Family::Pyro5, Serializer::Serpent).await;
    // Never greeted, and begins a message that it does not end: idle all the same.
    let mut silent = server.peer(Family::Pyro5, Serializer::Serpent).await;
    silent.send_bytes(b"PYRO").await;
    wait_for("three", || server.front.connection_count() == 3).await;
    first.call("ping", vec![]).await;

    let mut third = server.client(Family::Pyro5, Serializer::Serpent).await;
    assert!(second.is_closed().await);
    let mut fourth = server.client(Family::Pyro4, Serializer::Serpent).await;
    assert!(silent.is_closed().await);
    for client in [&mut first, &mut third, &mut fourth] {
        assert_eq!(client.call("count", vec![]).await, Value::Int(1));
    }
    assert_eq!(server.front.connection_count(), 3);
}

#[tokio::test]
async fn one_address_does_not_take_all_places() {
    let server = Server::start_with(|config| {
        config.connection_count_max = 40;
        config.connection_count_per_address_max = Some(10);
    })
    .await;
    let from = async |host: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((host, 0).into()).unwrap();
        let stream = socket.connect(([127, 0, 0, 1], server.port).into()).await;
        let mut peer = Peer::on(stream.unwrap(), Family::Pyro5, Serializer::Serpent);
        let answer = peer.connect("Pyro.NameServer").await.expect("an answer");
        (peer, answer)
    };
    let mut held = Vec::new();
    for index in 0..30 {
        let (peer, answer) = from([127, 0, 0, 2]).await;
        let is_in = answer.kind == MessageType::ConnectOk;
        assert_eq!(is_in, index < 10, "{index}: {answer:?}");
        if !is_in {
            let text = format!("{:?}", peer.value(&answer));
            assert!(text.contains("all 10 connections of 127.0.0.2"), "{text}");
            assert!(text.contains("--max-connections-per-address"), "{text}");
        }
        held.push(peer);
    }
    let (mut other, _) = from([127, 0, 0, 3]).await;
    assert_eq!(other.call("count", vec![]).await, Value::Int(1));
    for peer in held.iter_mut().take(10) {
        assert_eq!(peer.call("ping", vec![]).await, Value::None);
    }
}

#[tokio::test]
async fn silent_and_slow_clients_lose_their_places() {
    let server = Server::start_with(|config| {
        config.header_timeout = Duration::from_secs(1);
        config.idle_timeout = Some(Duration::from_secs(2));
    })
    .await;
    let mut silent = server.peer(Family::Pyro4, Serializer::Serpent).await;
    assert!(silent.is_closed().await, "it never said anything");

    let mut slow = server.client(Family::Pyro5, Serializer::Serpent).await;
    let frame = slow.invoke("ping", vec![]);
    let bytes = slow.bytes(&frame);
    let began = Instant::now();
    slow.send_bytes(&bytes[..20]).await;
    assert!(slow.is_closed().await, "its message was never whole");
    assert!(began.elapsed() >= Duration::from_secs(1));

    let mut idle = server.client(Family::Pyro5, Serializer::Serpent).await;
    let mut heard = Instant::now();
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        heard = Instant::now();
        assert_eq!(
            idle.call("ping", vec![]).await,
            Value::None,
            "it is not idle"
        );
    }
    assert!(idle.is_closed().await);
    assert!(heard.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn a_client_that_does_not_read_stalls_only_itself() {
    let server = Server::start_with(|config| {
        config.send_timeout = Duration::from_millis(300);
    })
    .await;
    let mut client = server.client(Family::Pyro5, Serializer::Serpent).await;
    for index in 0..200 {
        let name = format!("{index:03}{}", "x".repeat(4000));
        client.call("register", registration(&name)).await;
    }
    let mut deaf = server.client(Family::Pyro5, Serializer::Serpent).await;
    // Some 40 MB of answers, far more than any socket buffers.
    for _ in 0..50 {
        let frame = deaf.invoke("list", vec![]);
        deaf.send(&frame).await;
    }
    let began = Instant::now();
    assert_eq!(client.call("ping", vec![]).await, Value::None);
    assert!(began.elapsed() < PATIENCE / 2);
    wait_for("the deaf client's end", || {
        server.front.connection_count() == 1
    })
    .await;
}

#[tokio::test]
async fn unfinished_messages_share_a_budget() {
    let server = Server::start_with(|config| {
        config.limits.message_len_max = 1 << 20;
        config.limits.inflated_len_max = 1 << 20;
        config.request_memory_max = 0;
    })
    .await;
    let mut first = server.client(Family::Pyro5, Serializer::Serpent).await;
    let mut second = server.client(Family::Pyro5, Serializer::Serpent).await;
    let name = "x".repeat(900_000);
    let lookup = first.invoke("lookup", vec![name.as_str().into()]);
    let bytes = first.bytes(&lookup);
    let (most, last) = bytes.split_at(bytes.len() - 1);
    first.send_bytes(most).await;
    // The bytes of both are more than one message may hold, so one of them has to go.
    let _ = second.stream.write_all(most).await;
    let mut other = tokio::select! {
        closed = first.is_closed() => { assert!(closed); second }
        closed = second.is_closed() => { assert!(closed); first }
    };
    other.send_bytes(last).await;
    let reply = other.receive().await.unwrap();
    assert!(
        other
            .exception(&reply)
            .starts_with("NamingError: unknown name: xxx")
    );
    // What it took is given back.
    other.send_bytes(&bytes).await;
    assert!(other.receive().await.is_some());
}

#[tokio::test]
async fn an_inflated_message_counts_as_what_it_holds() {
    let server = Server::start_with(|config| {
        config.limits.message_len_max = 1 << 20;
        config.limits.inflated_len_max = 1 << 20;
    })
    .await;
    let mut client = server.client(Family::Pyro4, Serializer::Serpent).await;
    let bomb = client.invoke("lookup", vec!["x".repeat(2 << 20).into()]);
    let options = EncodeOptions {
        compress: true,
        ..EncodeOptions::default()
    };
    let mut bytes = Vec::new();
    bomb.encode(&options, &mut bytes).unwrap();
    assert!(bytes.len() < 10_000);
    client.send_bytes(&bytes).await;
    let reply = client.receive().await.unwrap();
    assert!(reply.flags.exception);
    assert_eq!(client.call("ping", vec![]).await, Value::None);
}

#[tokio::test]
async fn a_shutdown_answers_what_was_asked_and_ends_the_rest() {
    let server = Server::start().await;
    let mut idle = server.client(Family::Pyro4, Serializer::Serpent).await;
    let mut busy = server.client(Family::Pyro5, Serializer::Serpent).await;
    for index in 0..500 {
        busy.call("register", registration(&format!("n{index:05}")))
            .await;
    }
    // Patterns take a while, and are under way when the shutdown begins.
    let mut bytes = Vec::new();
    for _ in 0..5 {
        let frame = busy.invoke("list", vec![Value::None, "n.*0$".into()]);
        bytes.extend(busy.bytes(&frame));
    }
    busy.send_bytes(&bytes).await;
    let first = busy.receive().await.unwrap();
    assert!(!first.flags.exception);
    server.stop();
    assert!(idle.is_closed().await);
    for _ in 1..5 {
        let reply = busy.receive().await.expect("it was asked whole");
        assert!(matches!(busy.value(&reply), Value::Dict(entries) if entries.len() == 50));
    }
    assert!(busy.is_closed().await);
    server.wait().await;
}

#[tokio::test]
async fn a_keep_serialized_call_has_one_opaque_argument() {
    let server = Server::start().await;
    for family in FAMILIES {
        let mut client = server.client(family, Serializer::Json).await;
        let flags = Flags {
            keep_serialized: true,
            ..Flags::default()
        };
        let call = Call::new("whatever", "whatever", vec![]);
        let mut frame = client.invoke_with(&call, flags);
        client.send(&frame).await;
        let reply = client.receive().await.unwrap();
        assert_eq!(client.exception(&reply), "KeyError: 'BLBI'");
        let info = Value::Tuple(vec![
            "info".into(),
            "Pyro.NameServer".into(),
            "lookup".into(),
        ]);
        let mut blob = Vec::new();
        hearth_wire::Dialect::new(family, Serializer::Marshal)
            .encode(&info, &mut blob)
            .unwrap();
        frame.annotations.insert(*b"BLBI", blob);
        frame.payload = b"not looked into".to_vec();
        client.send(&frame).await;
        let reply = client.receive().await.unwrap();
        assert_eq!(
            client.exception(&reply),
            "TypeError: can only concatenate str (not \"SerializedBlob\") to str"
        );
    }
}

#[tokio::test]
async fn thousands_of_calls_of_many_clients_are_each_answered_right() {
    let server = Server::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for client_index in 0..20 {
        let family = FAMILIES[client_index % 2];
        let mut client: Peer = server.client(family, SERIALIZERS[client_index % 3]).await;
        tasks.spawn(async move {
            for index in 0..50 {
                let name = format!("{client_index}.{index}");
                client.call("register", registration(&name)).await;
                let found = client.call("lookup", vec![name.as_str().into()]).await;
                assert!(matches!(found, Value::Uri(_)));
                assert_eq!(
                    client.refusal("lookup", vec!["nobody".into()]).await,
                    "NamingError: unknown name: nobody"
                );
                assert_eq!(
                    client.call("remove", vec![name.into()]).await,
                    Value::Int(1)
                );
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("every answer was right");
    }
    let mut client = server.client(Family::Pyro4, Serializer::Marshal).await;
    assert_eq!(client.call("count", vec![]).await, Value::Int(1));
}
