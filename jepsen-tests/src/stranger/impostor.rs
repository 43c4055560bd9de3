//! A process without the key at the address of a member that is down.
//!
//! The other nodes connect to it all the time. The impostor answers a handshake with a message that could stop
//! or mislead the node, or with the node's own handshake. It also connects to the other nodes and replays
//! handshakes that it recorded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};

use super::bytes::taste;
use super::in_namespace;
use super::line::within;
use super::peer::{HELLO, PROOF, REFUSAL, frame, greeting, receive, refusal};
use crate::error::Result;
use crate::net::Net;

/// Maximum number of recorded messages.
const RECORDED_COUNT_MAX: usize = 100;

/// A running impostor. Dropping it stops it.
#[derive(Debug)]
pub struct Impostor {
    over: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    called: Arc<AtomicU64>,
}

impl Impostor {
    /// Starts an impostor at `place`, the place of a node that does not run. It listens on `own` and connects
    /// to `others`.
    ///
    /// # Errors
    /// [`RigError`](crate::error::RigError) if the thread, its runtime or the network namespace is not
    /// available.
    pub fn start(
        net: &Arc<Net>,
        place: u64,
        own: SocketAddr,
        others: Vec<SocketAddr>,
        seed: u64,
    ) -> Result<Self> {
        let (over, mut seen) = watch::channel(false);
        let called = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&called);
        let thread = in_namespace(net, place, "impostor", move || async move {
            let recorded = Arc::new(Mutex::new(Vec::new()));
            let random = SmallRng::seed_from_u64(seed);
            let work = async {
                tokio::join!(
                    answer(own, Arc::clone(&recorded), count, random.clone()),
                    call(others, recorded, random)
                )
            };
            tokio::select! {
                _ = work => {}
                _ = seen.changed() => {}
            }
        })?;
        Ok(Self {
            over,
            thread: Some(thread),
            called,
        })
    }

    /// Returns the number of connections that it has accepted.
    pub fn called(&self) -> u64 {
        self.called.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        // This fails only if the thread has ended already.
        let _ = self.over.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Recorded = Arc<Mutex<Vec<Vec<u8>>>>;

/// Accepts and answers one connection after the other.
async fn answer(own: SocketAddr, recorded: Recorded, called: Arc<AtomicU64>, mut random: SmallRng) {
    let listener = loop {
        match TcpListener::bind(own).await {
            Ok(listener) => break listener,
            // The address stays in use until the node's old connections are gone.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    while let Ok((mut stream, _)) = listener.accept().await {
        called.fetch_add(1, Ordering::Relaxed);
        // Errors are ignored, so that the next connection is answered.
        let _ = mislead(&mut stream, &recorded, &mut random).await;
    }
}

async fn mislead(
    stream: &mut TcpStream,
    recorded: &Recorded,
    random: &mut SmallRng,
) -> std::io::Result<()> {
    let (kind, theirs) = receive(stream).await?;
    {
        let mut recorded = recorded.lock().await;
        if recorded.len() < RECORDED_COUNT_MAX {
            recorded.push(frame(kind, 0, &theirs));
        }
    }
    let mut reply = match random.random_range(0..8) {
        0..4 => frame(REFUSAL, 0, &refusal(random)),
        4 => frame(HELLO, 0, &theirs),
        5 => frame(HELLO, 0, &greeting(random)),
        6 => frame(
            random.random_range(0..12),
            random.random(),
            &refusal(random),
        ),
        _ => (0..200).map(|_| random.random()).collect(),
    };
    if random.random_ratio(1, 6) {
        reply.truncate(reply.len() / 2);
    }
    within(stream.write_all(&reply)).await?;
    if random.random() {
        let proof: [u8; 32] = random.random();
        within(stream.write_all(&frame(PROOF, 0, &proof))).await?;
        within(stream.write_all(&frame(REFUSAL, 0, &refusal(random)))).await?;
    }
    taste(stream).await;
    Ok(())
}

/// Connects to the other nodes from that address, and replays messages that they sent.
async fn call(others: Vec<SocketAddr>, recorded: Recorded, mut random: SmallRng) {
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
        let again = {
            let recorded = recorded.lock().await;
            recorded.choose(&mut random).cloned()
        };
        let (Some(first), Some(&to)) = (again, others.choose(&mut random)) else {
            continue;
        };
        let called = async {
            let mut stream = within(TcpStream::connect(to)).await?;
            within(stream.write_all(&first)).await?;
            let (kind, theirs) = receive(&mut stream).await?;
            within(stream.write_all(&frame(kind, 0, &theirs))).await?;
            let proof: [u8; 32] = random.random();
            within(stream.write_all(&frame(PROOF, 0, &proof))).await?;
            taste(&mut stream).await;
            std::io::Result::Ok(())
        };
        // A rejected connection is the expected result.
        let _ = called.await;
    }
}
