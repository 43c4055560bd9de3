//! Messages to the peer port from a client that does not have the key.
//!
//! The layouts are those of `raft/src/rpc/frame.rs` and `raft/src/rpc/handshake.rs`, implemented a second
//! time: a stranger shares no code with the nodes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Tally;
use super::bytes::taste;
use super::line::within;

/// The numbers of the kinds of frames.
pub(super) const HELLO: u8 = 1;
pub(super) const PROOF: u8 = 2;
pub(super) const REFUSAL: u8 = 3;

const HEADER_LEN: usize = 24;

/// A length that no message before the proofs reaches, in bytes.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// Returns a frame of layout version 1, with its checksum.
pub(super) fn frame(kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = b"HRTH".to_vec();
    bytes.extend_from_slice(&[1, kind, 0, 0]);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    let sum = crc32(bytes.iter().chain(body));
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Computes the CRC-32 of IEEE 802.3.
fn crc32<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    };
    !bytes.fold(u32::MAX, step)
}

/// Appends an integer in the encoding of bincode's standard configuration.
fn number(number: u128, out: &mut Vec<u8>) {
    let bytes = number.to_le_bytes();
    match number {
        0..251 => out.push(bytes[0]),
        251..0x1_0000 => out.extend([&[251], &bytes[..2]].concat()),
        0x1_0000..0x1_0000_0000 => out.extend([&[252], &bytes[..4]].concat()),
        0x1_0000_0000..0x1_0000_0000_0000_0000 => out.extend([&[253], &bytes[..8]].concat()),
        _ => out.extend([&[254], &bytes[..]].concat()),
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    number(text.len() as u128, out);
    out.extend_from_slice(text.as_bytes());
}

/// Returns the body of a handshake with random parts; the cluster name is sometimes right.
pub(super) fn greeting(random: &mut SmallRng) -> Vec<u8> {
    let mut body = Vec::new();
    for version in [(1, 2), (1, 1), (2, 3), (0, u32::MAX)]
        .choose(random)
        .into_iter()
    {
        number(version.0, &mut body);
        number(version.1.into(), &mut body);
    }
    text("0.1.0", &mut body);
    let name = match random.random_range(0..4) {
        0 => "hearth".to_owned(),
        1 => format!(
            "c{}\n2026-11-30T20:00:00Z ERROR forged",
            random.random::<u64>()
        ),
        2 => "\u{1b}[2J".repeat(500),
        _ => format!("cluster-{}", random.random::<u64>()),
    };
    text(&name, &mut body);
    let mut maybe = |value: u128, body: &mut Vec<u8>| match random.random() {
        true => {
            body.push(1);
            number(value, body);
        }
        false => body.push(0),
    };
    maybe(0x1234_5678_9abc_def0_1234_5678_9abc_def0, &mut body);
    maybe(2, &mut body);
    number(random.random(), &mut body);
    body.push(0);
    body.extend((0..32).map(|_| random.random::<u8>()));
    body
}

/// Returns the text of a refusal: the receiver was removed or replaced, or has another key.
pub(super) fn refusal(random: &mut SmallRng) -> Vec<u8> {
    let node = random.random_range(1..6);
    let text = match random.random_range(0..4) {
        0 => format!("node {node} was replaced in this cluster by another one"),
        1 => "the cluster keys differ (--cluster-key-file)".to_owned(),
        _ => (1..8)
            .map(|node| {
                format!(
                    "node {node} was removed from this cluster; empty its data folder, and it can join as a \
                     new node. "
                )
            })
            .collect(),
    };
    text.into_bytes()
}

/// Reads one frame of layout version 1. Returns its kind and its body, of which it reads at most
/// [`ANSWER_LEN_MAX`] bytes.
pub(super) async fn receive(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; HEADER_LEN];
    within(async {
        stream.read_exact(&mut head).await?;
        let [.., a, b, c, d, _, _, _, _] = head;
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let mut body = vec![0; len.min(ANSWER_LEN_MAX)];
        stream.read_exact(&mut body).await?;
        Ok((head[5], body))
    })
    .await
}

/// Begins a handshake as a node does, and continues it in an invalid way.
pub(super) async fn hello(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..10 {
        let greeted = async {
            let mut stream = within(TcpStream::connect(at)).await?;
            let body = match random.random_range(0..6) {
                0 => (0..random.random_range(0..6_000))
                    .map(|_| random.random())
                    .collect(),
                _ => greeting(random),
            };
            within(stream.write_all(&frame(HELLO, 0, &body))).await?;
            let (kind, theirs) = receive(&mut stream).await?;
            let next = match random.random_range(0..5) {
                // The node's own message, sent back.
                0 => frame(kind, 0, &theirs),
                1 => frame(REFUSAL, 0, &refusal(random)),
                2 => frame(HELLO, 0, &theirs),
                _ => {
                    let proof: [u8; 32] = random.random();
                    frame(PROOF, 0, &proof)
                }
            };
            within(stream.write_all(&next)).await?;
            taste(&mut stream).await;
            Ok(theirs)
        };
        match greeted.await {
            Ok(theirs) => {
                tally.refused += 1;
                tally.answer_len_max = tally.answer_len_max.max(theirs.len() as u64);
            }
            Err(error) => tally.failed(&error),
        }
    }
    tally
}

/// Sends requests, pings, proofs and refusals without a handshake, some with a wrong length or checksum.
pub(super) async fn frames(at: SocketAddr, random: &mut SmallRng) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..10 {
        let body: Vec<u8> = match random.random_range(0..3) {
            0 => refusal(random),
            1 => greeting(random),
            _ => (0..random.random_range(0..200))
                .map(|_| random.random())
                .collect(),
        };
        let kind = random.random_range(0..12);
        let mut bytes = frame(kind, random.random(), &body);
        match random.random_range(0..6) {
            0 => {
                let lens = [0, 1, 4_096, 4_097, 80 << 20, (80 << 20) + 1, u32::MAX];
                let len = *lens.choose(random).unwrap_or(&0);
                bytes[16..20].copy_from_slice(&len.to_le_bytes());
                let sum = crc32(bytes[..20].iter().chain(&body));
                bytes[20..24].copy_from_slice(&sum.to_le_bytes());
            }
            1 => {
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= 1 << random.random_range(0..8);
            }
            2 => {
                let len = random.random_range(0..bytes.len());
                bytes.truncate(len);
            }
            // The layout version of signed frames, which follow a handshake.
            3 => bytes[4] = 2,
            _ => {}
        }
        let sent = async {
            let mut stream = within(TcpStream::connect(at)).await?;
            within(stream.write_all(&bytes)).await?;
            let came = taste(&mut stream).await;
            if !came && random.random_ratio(1, 4) {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Ok(came)
        };
        match sent.await {
            Ok(true) => tally.refused += 1,
            Ok(false) => tally.silent += 1,
            Err(error) => tally.failed(&error),
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_that_nodes_read() {
        // The check value of this CRC.
        assert_eq!(crc32(b"123456789".iter()), 0xcbf4_3926);
        let bytes = frame(HELLO, 7, b"body");
        assert_eq!(bytes.len(), HEADER_LEN + 4);
        assert_eq!(bytes[..8], *b"HRTH\x01\x01\0\0");
        assert_eq!(bytes[16..20], [4, 0, 0, 0]);
    }

    #[test]
    fn integers_are_as_short_as_they_can_be() {
        let of = |value| {
            let mut out = Vec::new();
            number(value, &mut out);
            out
        };
        assert_eq!(of(250), [250]);
        assert_eq!(of(251), [251, 251, 0]);
        assert_eq!(of(1 << 16), [252, 0, 0, 1, 0]);
        assert_eq!(of(1 << 32), [253, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(of(1 << 64).len(), 17);
    }
}
