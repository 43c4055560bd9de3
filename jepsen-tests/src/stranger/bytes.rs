//! Invalid bytes, and connections without a complete request.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hearth_cli::wire::{Call, Flags, MessageType};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::calls::NAME_SERVER;
use super::line::{Line, PLAIN, dialect, invoke, message, payload, within};
use super::{OWN, Tally};

/// The number of connections that one silent stranger opens.
const SILENT_COUNT: usize = 3_000;

/// The longest time that these connections are held.
const SILENCE_DURATION: Duration = Duration::from_secs(12);

/// The first bytes of other protocols.
const OTHERS: [&[u8]; 6] = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /api/v1/names HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"HELO stranger\r\nMAIL FROM:<x>\r\n",
];

/// Sends invalid or broken messages, and waits briefly for an answer.
pub(super) async fn garbage(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..5 {
        let bytes = broken(random);
        let sent = async {
            let mut stream = within(TcpStream::connect(at)).await?;
            if random.random() {
                let hello = greeting();
                within(stream.write_all(&hello)).await?;
            }
            within(stream.write_all(&bytes)).await?;
            Ok(taste(&mut stream).await)
        };
        match sent.await {
            Ok(true) => tally.refused += 1,
            Ok(false) => tally.silent += 1,
            Err(error) => tally.failed(&error),
        }
    }
    tally
}

/// Returns true if anything arrives within 300 ms, including the end of the stream.
pub(super) async fn taste(stream: &mut TcpStream) -> bool {
    let mut some = [0; 4_096];
    tokio::time::timeout(Duration::from_millis(300), stream.read(&mut some))
        .await
        .is_ok()
}

fn greeting() -> Vec<u8> {
    let hello = format!("{{'handshake':'hello','object':'{NAME_SERVER}'}}");
    message(
        PLAIN,
        MessageType::Connect,
        Flags::default(),
        0,
        hello.into_bytes(),
    )
}

fn noise(random: &mut SmallRng, len_max: usize) -> Vec<u8> {
    let len = random.random_range(1..len_max);
    (0..len).map(|_| random.random()).collect()
}

/// Returns a malformed payload for one of the serializers' decoders.
fn bad_payload(random: &mut SmallRng) -> Vec<u8> {
    let deep = random.random_range(150..100_000);
    match random.random_range(0..12) {
        0 => noise(random, 2_000),
        1 => "[".repeat(deep).into_bytes(),
        2 => format!("{}{}", "(".repeat(deep), ")".repeat(deep)).into_bytes(),
        3 => vec![0x91; deep],
        4 => b"(\x01\x00\x00\x00".repeat(deep),
        5 => vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        6 => b"[\xff\xff\xff\x7f".to_vec(),
        7 => b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.".to_vec(),
        8 => format!("('{NAME_SERVER}','lookup',('\\ud800\\udfff\\ud800',),{{}})").into_bytes(),
        9 => format!("('{NAME_SERVER}','register',('{OWN}i',{}),{{}})", "9".repeat(50_000)).into_bytes(),
        10 => b"[],".repeat(random.random_range(1..200_000)),
        _ => format!("{{\"object\":\"{NAME_SERVER}\",\"method\":\"list\",\"params\":[{}\"\\ud800\"]}}", "{},".repeat(1_000))
            .into_bytes(),
    }
}

fn broken(random: &mut SmallRng) -> Vec<u8> {
    let dialect = dialect(random);
    let mut bytes = match random.random_range(0..7) {
        0 => noise(random, 4_000),
        1 => OTHERS.choose(random).copied().unwrap_or_default().to_vec(),
        // A length that the message never reaches, or that the field must not hold.
        2 => {
            let mut bytes = payload(dialect, b"()".to_vec(), Flags::default());
            bytes[12..16].copy_from_slice(&random.random::<u32>().to_be_bytes());
            bytes
        }
        // A message with one flipped bit.
        3 => {
            let mut bytes = payload(dialect, bad_payload(random), Flags::default());
            let at = random.random_range(0..bytes.len().min(60));
            bytes[at] ^= 1 << random.random_range(0..8);
            bytes
        }
        // A message that claims to be compressed.
        4 => {
            let mut bytes = payload(dialect, bad_payload(random), Flags::default());
            bytes[9] |= 2;
            bytes
        }
        // Annotations with a wrong total length.
        5 => {
            let mut bytes = payload(dialect, bad_payload(random), Flags::default());
            let at = random.random_range(16..20);
            bytes[at] = random.random();
            bytes
        }
        _ => payload(dialect, bad_payload(random), Flags::default()),
    };
    if random.random_ratio(1, 5) {
        let len = random.random_range(0..=bytes.len());
        bytes.truncate(len);
    }
    bytes
}

/// Sends a part of a message on each of 20 connections, and closes them some time later.
pub(super) async fn halves(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    let told = async {
        let mut lines = Vec::new();
        for number in 0..20 {
            let mut line = match number % 2 {
                0 => Line::open(at, PLAIN).await?,
                _ => Line::greeted(at, PLAIN, NAME_SERVER.into()).await?,
            };
            let args = vec![format!("{OWN}half").into(), "PYRO:o@h:1".into()];
            let register = Call::new(NAME_SERVER, "register", args);
            let Some(bytes) = invoke(line.dialect(), &register, Flags::default(), 1) else {
                continue;
            };
            let end = random.random_range(1..bytes.len());
            line.send(&bytes[..end]).await?;
            lines.push(line);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..5_000))).await;
        io::Result::Ok(lines.len() as u64)
    };
    match told.await {
        Ok(count) => tally.silent += count,
        Err(error) => tally.failed(&error),
    }
    tally
}

/// Sends a request that is costly to serve, and disconnects before it is answered.
pub(super) async fn hang_ups(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    for number in 0..40 {
        let call = match random.random_range(0..4) {
            0 => Call::new(NAME_SERVER, "list", Vec::new()),
            1 => {
                let pattern = "[ab]*a[ab]{2000}c";
                let args = vec![hearth_cli::wire::Value::None, pattern.into()];
                Call::new(NAME_SERVER, "list", args)
            }
            2 => Call::new("Hearth.Cluster", "status", Vec::new()),
            _ => {
                let name = format!("{OWN}gone.{number}");
                let args = vec![name.into(), "PYRO:o@h:1".into()];
                Call::new(NAME_SERVER, "register", args)
            }
        };
        let sent = async {
            let mut line = Line::greeted(at, PLAIN, NAME_SERVER.into()).await?;
            if let Some(bytes) = invoke(line.dialect(), &call, Flags::default(), 1) {
                line.send(&bytes).await?;
            }
            if random.random() {
                line.reset();
            }
            io::Result::Ok(())
        };
        match sent.await {
            Ok(()) => tally.silent += 1,
            Err(error) => tally.failed(&error),
        }
    }
    tally
}

/// Opens thousands of connections and holds them. If `greets` is set, every other one sends a handshake.
pub(super) async fn silence(
    at: SocketAddr,
    greets: bool,
    crowd: &Semaphore,
    random: &mut SmallRng,
) -> Tally {
    let mut tally = Tally::default();
    // Only one stranger at a time holds a crowd of connections; others skip the operation.
    let Ok(_alone) = crowd.try_acquire() else {
        return tally;
    };
    let mut held = Vec::new();
    for number in 0..SILENT_COUNT {
        let opened = async {
            let mut stream = within(TcpStream::connect(at)).await?;
            if greets && number % 2 == 0 {
                within(stream.write_all(&greeting())).await?;
            }
            Ok(stream)
        };
        match opened.await {
            Ok(stream) => held.push(stream),
            Err(error) => {
                tally.failed(&error);
                break;
            }
        }
    }
    tokio::time::sleep(SILENCE_DURATION.mul_f64(random.random_range(0.2..1.0))).await;
    // The node has closed the connections that it refused by now.
    let mut some = [0; 4_096];
    for stream in held {
        match stream.try_read(&mut some) {
            Ok(0) => tally.closed += 1,
            Ok(_) => tally.answered += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tally.silent += 1,
            Err(_) => tally.closed += 1,
        }
    }
    tally
}
