//! What one stranger can keep from everybody else, and write into the log of a real node.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use hearth_wire::{Dialect, Family, Frame, MessageType, Serializer, Value};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockAddr, Socket, Type};
use support::client::Client;
use support::{PATIENCE, Server, hearthd};

const GREEDY_COUNT: usize = 3_000;

fn bytes(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&Default::default(), &mut bytes).unwrap();
    bytes
}

/// A CONNECT of Pyro4, in JSON.
fn hello() -> Vec<u8> {
    let hello = Value::Dict(vec![
        ("handshake".into(), "hello".into()),
        ("object".into(), "Pyro.NameServer".into()),
    ]);
    let mut payload = Vec::new();
    let json = Serializer::Json;
    Dialect::new(Family::Pyro4, json)
        .encode(&hello, &mut payload)
        .unwrap();
    let id = json.id(Family::Pyro4);
    bytes(&Frame::new(
        Family::Pyro4,
        MessageType::Connect,
        1,
        id,
        payload,
    ))
}

/// A connection from another address of this machine.
fn connect_from(host: [u8; 4], port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = std::net::SocketAddr::from((host, 0));
    socket.bind(&SockAddr::from(from)).unwrap();
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    socket.connect(&SockAddr::from(to)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The type of the first message that arrives.
fn answer(stream: &mut TcpStream) -> u8 {
    let mut start = [0; 8];
    stream.read_exact(&mut start).unwrap();
    start[7]
}

#[test]
fn thousands_of_silent_connections_leave_room_for_others_and_for_the_operator() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, all).unwrap();
    let server = Server::start(&[
        "-n",
        "127.0.0.1",
        "-p",
        "0",
        "--max-connections",
        "3000",
        "--max-connections-per-address",
        "750",
    ]);
    let hello = hello();
    let mut greeted = Vec::new();
    for _ in 0..GREEDY_COUNT {
        let mut stream = connect_from([127, 0, 0, 2], server.port());
        stream.write_all(&hello).unwrap();
        let mut start = [0; 8];
        // Those beyond the share are told so, or closed when too many are told at the time.
        if stream.read_exact(&mut start).is_ok() && start[7] == 2 {
            greeted.push(stream);
        }
    }
    assert_eq!(greeted.len(), 750);
    let mut others: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect_from([127, 0, 0, 3], server.port());
            stream.write_all(&hello).unwrap();
            assert_eq!(answer(&mut stream), 2);
            stream
        })
        .collect();
    let mut operator = Client::connect(server.port()).unwrap();
    operator
        .call_object("Hearth.Cluster", "status", vec![], vec![])
        .unwrap();
    operator.count().unwrap();
    others.clear();
    drop(greeted);
    let (status, _, log) = server.stop();
    assert!(status.success());
    assert!(log.contains("all 750 connections of 127.0.0.2"), "{log}");
}

#[test]
fn what_a_client_sends_is_one_field_of_one_line() {
    let forged = "2026-11-30T20:00:00Z ERROR hearth_raft::start: node 1 was removed";
    let class = format!("evil\\n{forged}\\r\\u001b[31m{}", "x".repeat(10_000));
    let call = format!(
        r#"{{"object":"Pyro.NameServer","method":"lookup","params":[{{"__class__":"{class}"}}],"kwargs":{{}}}}"#
    );
    let id = Serializer::Json.id(Family::Pyro4);
    let call = Frame::new(Family::Pyro4, MessageType::Invoke, 2, id, call.into_bytes());
    for format in ["text", "json"] {
        let mut command = hearthd(&["-p", "0", "--log-format", format]);
        command.env("RUST_BACKTRACE", "0");
        let server = Server::run(command);
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&hello()).unwrap();
        stream.write_all(&bytes(&call)).unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).unwrap();
        let (_, _, log) = server.stop();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains(r"evil\n2026"), "{log}");
        assert!(!log.contains(['\r', '\u{1b}']), "{log:?}");
        assert!(log.len() < 1000, "{} bytes", log.len());
    }
}
