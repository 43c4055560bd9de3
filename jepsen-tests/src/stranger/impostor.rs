//! Somebody at the address of a member that is down, who does not know the key.
//!
//! The other nodes call there all the time. Each of them is told something that should end or mislead it,
//! its own greeting is sent back to it, or it is called from there with a greeting that was recorded.

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

/// How many recorded messages are kept.
const RECORDED_COUNT_MAX: usize = 100;

/// One at work. Dropping it ends it.
#[derive(Debug)]
pub struct Impostor {
    over: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    called: Arc<AtomicU64>,
}

impl Impostor {
    /// Has one begin at the place of a node that does not run, as `own`; it calls `others`.
    ///
    /// # Errors
    /// The system's.
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

    /// How often it was called so far.
    pub fn called(&self) -> u64 {
        self.called.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        // It fails only when it has gone already.
        let _ = self.over.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Recorded = Arc<Mutex<Vec<Vec<u8>>>>;

/// Answers whoever calls, one after the other.
async fn answer(own: SocketAddr, recorded: Recorded, called: Arc<AtomicU64>, mut random: SmallRng) {
    let listener = loop {
        match TcpListener::bind(own).await {
            Ok(listener) => break listener,
            // The node's own connections go away slowly.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    while let Ok((mut stream, _)) = listener.accept().await {
        called.fetch_add(1, Ordering::Relaxed);
        // Whatever goes wrong, the next one is answered.
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

/// Calls the others from that address, with what they sent themselves.
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
        // That it is thrown out is what should happen.
        let _ = called.await;
    }
}
