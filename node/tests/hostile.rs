//! Bad bytes, and many clients: who misbehaves is answered or closed, who behaves is served, and
//! memory stays bounded.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use hearth_wire::frame::{Annotations, EncodeOptions, FrameDecoder};
use hearth_wire::{Call, Dialect, Family, Flags, Frame, Limits, MessageType, Serializer, Value};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::Server;
use support::client::{Client, Entry};
use support::cluster::Cluster;

/// Registrations that a good client makes meanwhile, at least.
const GOOD_ROUND_COUNT_MIN: usize = 10;

/// What the server's memory may never exceed, in KiB.
const RESIDENT_MAX_KIB: u64 = 200 * 1024;

const IDLE_CLIENT_COUNT: usize = 2_000;
const HOSTILE_CLIENT_COUNT: usize = 50;

fn allow_many_sockets() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .unwrap();
}

fn frame(family: Family, kind: MessageType, serializer_id: u16, payload: Vec<u8>) -> Vec<u8> {
    let frame = Frame {
        family,
        kind,
        flags: Flags {
            meta_on_connect: kind == MessageType::Connect && family == Family::Pyro4,
            ..Flags::default()
        },
        seq: 1,
        serializer_id,
        correlation_id: None,
        annotations: Annotations::default(),
        payload,
    };
    let mut bytes = Vec::new();
    frame.encode(&EncodeOptions::default(), &mut bytes).unwrap();
    bytes
}

/// The same message with one more of the flags that both families have.
fn with_flag(flag: u8, family: Family, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[9] |= flag;
    if family == Family::Pyro4 {
        let sum = u16::from_be_bytes([bytes[22], bytes[23]]).wrapping_add(flag.into());
        bytes[22..24].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

fn connect_message(family: Family) -> Vec<u8> {
    let hello = Value::Dict(vec![
        ("handshake".into(), "hello".into()),
        ("object".into(), "Pyro.NameServer".into()),
    ]);
    let mut payload = Vec::new();
    Dialect::new(family, Serializer::Serpent)
        .encode(&hello, &mut payload)
        .unwrap();
    frame(family, MessageType::Connect, 1, payload)
}

/// 100 MB of blanks.
static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    for _ in 0..100 {
        encoder.write_all(&vec![b' '; 1 << 20]).unwrap();
    }
    encoder.finish().unwrap()
});

/// Payloads that no client sends, for each serializer's reader and for all of them.
fn bad_payload(rng: &mut SmallRng) -> Vec<u8> {
    let deep = rng.random_range(150..100_000);
    match rng.random_range(0..12) {
        0 => (0..rng.random_range(0..2_000)).map(|_| rng.random()).collect(),
        1 => "[".repeat(deep).into_bytes(),
        2 => format!("{}{}", "(".repeat(deep), ")".repeat(deep)).into_bytes(),
        3 => vec![0x91; deep],
        4 => b"(\x01\x00\x00\x00".repeat(deep),
        5 => vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        6 => b"[\xff\xff\xff\x7f".to_vec(),
        // Each level refers twice to the one before: 2^40 values if they were copied.
        7 => {
            let mut bytes = vec![0xa8, 2, 0, 0, 0, b'N', b'N'];
            for level in 0_u32..40 {
                bytes = [&[0xa8, 2, 0, 0, 0], bytes.as_slice(), b"r", &level.to_le_bytes()].concat();
            }
            bytes
        }
        8 => b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.".to_vec(),
        9 => format!("('Pyro.NameServer','list',(),{{'regex':'{}'}})", "(a*)*".repeat(200)).into_bytes(),
        10 => b"[],".repeat(rng.random_range(1..600_000)),
        _ => format!("{{{}}}", (0..20_000).map(|n| format!("{n}:{n},")).collect::<String>()).into_bytes(),
    }
}

/// Misbehaves once; returns what it did.
fn misbehave(rng: &mut SmallRng, port: u16) -> std::io::Result<()> {
    let family = if rng.random() {
        Family::Pyro4
    } else {
        Family::Pyro5
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.set_write_timeout(Some(Duration::from_millis(500)))?;
    if rng.random_bool(0.6) {
        stream.write_all(&connect_message(family))?;
        let mut reply = [0; 4096];
        let _ = stream.read(&mut reply)?;
    }
    let kind = if rng.random_bool(0.8) {
        MessageType::Invoke
    } else {
        MessageType::Connect
    };
    let serializer_id = rng.random_range(0..8);
    let mut bytes = match rng.random_range(0..9) {
        // Not Pyro at all.
        0 => (0..rng.random_range(1..4_000))
            .map(|_| rng.random())
            .collect(),
        // A length that never comes, and one that no field can hold.
        1 => {
            let mut bytes = frame(family, kind, 1, Vec::new());
            bytes[12..16].copy_from_slice(&rng.random_range(1_u32..u32::MAX).to_be_bytes());
            bytes
        }
        // A message with one byte changed.
        2 => {
            let mut bytes = frame(family, kind, serializer_id, bad_payload(rng));
            let index = rng.random_range(0..bytes.len().min(60));
            bytes[index] ^= 1 << rng.random_range(0..8);
            bytes
        }
        // A small message that inflates to 100 MB, or does not inflate.
        3 => {
            let bomb = if rng.random() {
                BOMB.clone()
            } else {
                b"no zlib".to_vec()
            };
            with_flag(2, family, frame(family, kind, 1, bomb))
        }
        // As much as is let in, and slowly.
        4 => frame(
            family,
            kind,
            1,
            vec![b'x'; rng.random_range(100_000..2_000_000)],
        ),
        // Many questions, and no interest in the answers.
        5 => {
            let mut payload = Vec::new();
            let call = Call::new("Pyro.NameServer", "list", Vec::new());
            call.encode(Dialect::new(family, Serializer::Serpent), &mut payload)
                .unwrap();
            frame(family, MessageType::Invoke, 1, payload).repeat(2_000)
        }
        // One message with very many calls.
        6 => {
            let calls = "('ping',(),{}),".repeat(rng.random_range(1..45_000));
            let batch = format!("('Pyro.NameServer','<batch>',[{calls}],None)");
            with_flag(
                8,
                family,
                frame(family, MessageType::Invoke, 1, batch.into_bytes()),
            )
        }
        _ => frame(family, kind, serializer_id, bad_payload(rng)),
    };
    if rng.random_bool(0.2) {
        bytes.truncate(rng.random_range(0..=bytes.len()));
    }
    stream.write_all(&bytes)?;
    if rng.random() {
        let mut reply = [0; 4096];
        while stream.read(&mut reply)? > 0 {}
    }
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seed() -> u64 {
    let seed = number("HEARTH_SEED").unwrap_or_else(rand::random);
    println!("HEARTH_SEED={seed}");
    seed
}

/// How long somebody misbehaves.
fn duration() -> Duration {
    Duration::from_secs(number("HEARTH_HOSTILE_SECONDS").unwrap_or(8))
}

#[test]
fn misbehaving_clients_harm_nobody_and_memory_stays_bounded() {
    allow_many_sockets();
    let seed = seed();
    let server = Server::start(&["-n", "127.0.0.1", "-p", "0", "--log-level", "error"]);
    let (port, id) = (server.port(), server.id());

    let mut idle: Vec<Client> = (0..IDLE_CLIENT_COUNT)
        .map(|_| Client::connect(port).unwrap())
        .collect();
    let with_idle_kib = support::memory_kib(id, "VmRSS:");

    let end = Instant::now() + duration();
    let stop = Arc::new(AtomicBool::new(false));
    let misdeed_count = Arc::new(AtomicUsize::new(0));
    let hostile: Vec<_> = (0..HOSTILE_CLIENT_COUNT)
        .map(|number| {
            let (stop, misdeed_count) = (Arc::clone(&stop), Arc::clone(&misdeed_count));
            std::thread::spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed ^ number as u64);
                while !stop.load(Ordering::Relaxed) {
                    // That the server closes in the middle is one of the right answers.
                    let _ = misbehave(&mut rng, port);
                    misdeed_count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    // On a machine that is busy it takes as long as it takes.
    let patience = end + support::PATIENCE;
    let mut good = Client::connect(port).unwrap();
    let mut round = 0;
    while Instant::now() < end || (round <= GOOD_ROUND_COUNT_MIN && Instant::now() < patience) {
        let entry = Entry {
            uri: format!("PYRO:o{round}@h:1"),
            tags: ["t".to_owned()].into(),
        };
        good.register("good", &entry).unwrap();
        let found = good.call("lookup", vec!["good".into()], vec![]).unwrap();
        assert!(
            matches!(&found, Value::Uri(uri) if uri.to_string() == entry.uri),
            "{found:?}"
        );
        round += 1;
    }
    stop.store(true, Ordering::Relaxed);
    for thread in hostile {
        thread.join().unwrap();
    }
    for client in idle.iter_mut().step_by(40) {
        client.count().unwrap();
    }
    let peak_kib = support::memory_kib(id, "VmHWM:");
    println!(
        "{} misdeeds, {round} good rounds, {with_idle_kib} KiB with {IDLE_CLIENT_COUNT} idle clients, peak {peak_kib} KiB",
        misdeed_count.load(Ordering::Relaxed)
    );
    assert!(
        round > GOOD_ROUND_COUNT_MIN,
        "a good client was hardly served: {round} rounds"
    );
    assert!(
        peak_kib < RESIDENT_MAX_KIB,
        "memory peaked at {peak_kib} KiB"
    );
}

/// Names in the registry of a cluster while somebody calls everything.
const NAME_COUNT: u64 = 30_000;

/// Clients that register them, and registrations in one of their messages. What is in one message is made durable
/// one after the other, so many clients are what fills a registry quickly.
const FILLER_COUNT: u64 = 150;
const BATCH_LEN: usize = 100;

/// What the memory of a node of that cluster may never exceed, in KiB.
const FULL_RESIDENT_MAX_KIB: u64 = 250 * 1024;

/// All methods of all objects. Those that change the cluster are for callers from this machine too, so they get
/// arguments only that name no member.
const METHODS: [(&str, &[&str]); 4] = [
    (
        "Pyro.NameServer",
        &[
            "count",
            "list",
            "lookup",
            "ping",
            "register",
            "remove",
            "set_metadata",
            "yplookup",
            "__class__",
        ],
    ),
    (
        "Pyro.Daemon",
        &[
            "close_stream",
            "get_metadata",
            "get_next_stream_item",
            "info",
            "ping",
            "registered",
        ],
    ),
    (
        "Hearth.Cluster",
        &[
            "add",
            "authorize",
            "challenge",
            "health",
            "members",
            "promote",
            "remove",
            "status",
            "transfer_leader",
        ],
    ),
    ("Nobody", &["list"]),
];

/// A value that a method may not expect; no text in it is one of somebody else's names, or begins with one.
fn hostile_value(rng: &mut SmallRng) -> Value {
    let patterns = [
        r"hostile\.x(a*)*\1b",
        r"hostile\.[ab]*a[ab]{2000}c",
        r"hostile\.(?:a?){2000}a{2000}",
        r"hostile\.(",
    ];
    let text = |len: usize| Value::Str(format!("hostile.{}", "x".repeat(len)));
    match rng.random_range(0..11) {
        0 => Value::None,
        1 => Value::Bool(true),
        2 => Value::Int(*[0, -1, i64::MIN, i64::MAX, 1 << 53].choose(rng).unwrap()),
        3 => Value::Float(f64::NAN),
        4 => text(rng.random_range(0..100)),
        5 => text(rng.random_range(0..1_000_000)),
        6 => Value::Bytes(vec![0xff; 1_000]),
        7 => Value::List((0..rng.random_range(0..2_000)).map(text).collect()),
        8 => (0..180).fold(text(1), |inner, _| Value::List(vec![inner])),
        9 => Value::Dict(vec![(text(2), text(3))]),
        _ => (*patterns.choose(rng).unwrap()).into(),
    }
}

/// Calls some method, now and then for the removal of what a pattern matches.
fn call_something(client: &mut Client, rng: &mut SmallRng) -> std::io::Result<()> {
    let (object, methods) = METHODS.choose(rng).unwrap();
    let method = *methods.choose(rng).unwrap();
    let count = rng.random_range(0..4);
    let args = match method {
        "remove" if rng.random() => vec![Value::None, Value::None, hostile_value(rng)],
        "list" if rng.random_ratio(1, 4) => Vec::new(),
        _ => (0..count).map(|_| hostile_value(rng)).collect(),
    };
    match client.call_object(object, method, args, vec![]) {
        // It raised something, which is an answer.
        Err(error) if error.to_string().starts_with("raised: ") => Ok(()),
        told => told.map(drop),
    }
}

/// Registers the names of a full registry, `step` apart from `first` on.
fn fill(port: u16, first: u64, step: u64) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut decoder = FrameDecoder::new(Limits::default(), None);
    let mut exchange = |bytes: &[u8]| {
        stream.write_all(bytes).unwrap();
        loop {
            if let Some(frame) = decoder.next_frame().unwrap() {
                return frame;
            }
            let mut buffer = [0; 65_536];
            let len = stream.read(&mut buffer).unwrap();
            assert_ne!(len, 0, "the server has closed");
            decoder.push(&buffer[..len]);
        }
    };
    exchange(&connect_message(Family::Pyro5));
    let numbers: Vec<u64> = (first..NAME_COUNT)
        .step_by(usize::try_from(step).unwrap())
        .collect();
    for numbers in numbers.chunks(BATCH_LEN) {
        let calls: String = numbers
            .iter()
            .map(|n| {
                format!("('register',('full.{n:06}','PYRO:obj_{n}@machine.example:4000'),{{}}),")
            })
            .collect();
        let batch = format!("('Pyro.NameServer','<batch>',[{calls}],None)");
        let batch = frame(Family::Pyro5, MessageType::Invoke, 1, batch.into_bytes());
        let reply = exchange(&with_flag(8, Family::Pyro5, batch));
        assert!(
            !reply.flags.exception,
            "{}",
            String::from_utf8_lossy(&reply.payload)
        );
    }
}

#[test]
fn whatever_is_called_a_full_cluster_serves_and_memory_stays_bounded() {
    let seed = seed();
    let mut cluster = Cluster::found(3);
    let ports: Vec<u16> = cluster
        .ids()
        .iter()
        .map(|&id| cluster.node(id).port())
        .collect();
    std::thread::scope(|scope| {
        for first in 0..FILLER_COUNT {
            let port = ports[usize::try_from(first).unwrap() % ports.len()];
            scope.spawn(move || fill(port, first, FILLER_COUNT));
        }
    });

    let end = Instant::now() + duration();
    let call_count = AtomicUsize::new(0);
    let mut rounds = 0;
    std::thread::scope(|scope| {
        for number in 0..18_u64 {
            let port = ports[usize::try_from(number).unwrap() % ports.len()];
            let call_count = &call_count;
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed ^ number);
                while Instant::now() < end {
                    // A connection that is closed, because of what it asked for, is followed by another one.
                    let Ok(mut client) = Client::connect(port) else {
                        continue;
                    };
                    while Instant::now() < end && call_something(&mut client, &mut rng).is_ok() {
                        call_count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut good: Vec<Client> = ports
            .iter()
            .map(|&port| Client::connect(port).unwrap())
            .collect();
        while Instant::now() < end {
            let uri = format!("PYRO:o{rounds}@h:1");
            let entry = Entry {
                uri: uri.clone(),
                tags: ["t".to_owned()].into(),
            };
            let at = rounds % good.len();
            good[at].register("good", &entry).unwrap();
            // Each of the other nodes must have it now.
            let other = (at + 1) % good.len();
            assert_eq!(good[other].lookup("good").unwrap(), uri);
            rounds += 1;
        }
    });
    assert!(
        rounds > 5,
        "good clients were hardly served: {rounds} rounds"
    );

    let removal = vec![Value::None, "hostile.".into()];
    cluster.client(1).call("remove", removal, vec![]).unwrap();
    for id in cluster.ids() {
        let peak_kib = support::memory_kib(cluster.node(id).id(), "VmHWM:");
        println!(
            "node {id}: peak {peak_kib} KiB with {NAME_COUNT} names and {} calls; {rounds} good rounds in all",
            call_count.load(Ordering::Relaxed)
        );
        assert!(
            peak_kib < FULL_RESIDENT_MAX_KIB,
            "node {id}: {peak_kib} KiB"
        );
    }
    // What they left in a data directory is opened again. The name server counts itself.
    for id in cluster.ids() {
        drop(cluster.take(id));
        cluster.start(id, &[]);
        let count = cluster.client(id).count().unwrap();
        assert_eq!(count, Value::Int(i64::try_from(NAME_COUNT).unwrap() + 2));
    }
}
