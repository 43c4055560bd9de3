//! Strangers: clients without a key or permission that send every kind of valid and invalid request to the
//! client port and to the peer port.
//!
//! They run in a network namespace and on a thread of their own, so that they connect neither from a loopback
//! address nor from an address of the honest clients. By Pyro's rules any client may remove any name. Strangers
//! therefore change only names that begin with [`OWN`]: the other names belong to the checkers. The outcomes of
//! their operations are counted by kind ([`Tally`]). Anything that a node discloses or carries out although it
//! needs a key is kept in [`Tally::wrong`].
//!
//! An [`Impostor`] listens at the address of a member that is down.

mod bytes;
mod calls;
mod impostor;
mod large;
mod line;
mod peer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::error::{Result, RigError};
use crate::net::Net;
use crate::workload::seed_of;

pub use impostor::Impostor;

/// Prefix of the strangers' names. The patterns and prefixes of their removals begin with it too.
pub const OWN: &str = "stranger.";

/// The number of strangers that work at the same time.
const STRANGER_COUNT: u64 = 16;

/// The longest time that one operation may take before it is abandoned.
const DEED_DURATION_MAX: Duration = Duration::from_secs(60);

/// The pause between two operations of one stranger, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 2..60;

/// Maximum number of texts that are kept in [`Tally::wrong`].
const WRONG_COUNT_MAX: usize = 10;

/// A node under attack.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The address of its client port.
    pub clients: SocketAddr,
    /// The address of its peer port.
    pub peers: SocketAddr,
}

/// A kind of operation of strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// Calls of any method of any object, with arguments of any type.
    Calls,
    /// Calls of methods that change the cluster.
    Administration,
    /// Registrations below, at and above the limits.
    Sizes,
    /// A safe registration of a name with a large entry, refused many times in one batch.
    Taken,
    /// Lists and removals by patterns that are deep or take unbounded time.
    Patterns,
    /// Lists of everything.
    Lists,
    /// Repeated lists of everything, or lookups of a large entry, whose answers are not read.
    Unread,
    /// Thousands of calls in one message.
    Batches,
    /// Calls whose client disconnects before the answer.
    HangUps,
    /// Incomplete messages.
    Halves,
    /// Invalid bytes and broken messages on the client port.
    Garbage,
    /// Thousands of idle connections to the client port.
    Silence,
    /// Invalid bytes and broken client messages on the peer port.
    PeerGarbage,
    /// Handshakes from a peer that is not a node.
    PeerHello,
    /// Peer messages without a handshake.
    PeerFrames,
    /// Thousands of idle connections to the peer port.
    PeerSilence,
}

impl Deed {
    /// All kinds of operations.
    pub const ALL: [Self; 16] = [
        Self::Calls,
        Self::Administration,
        Self::Sizes,
        Self::Taken,
        Self::Patterns,
        Self::Lists,
        Self::Unread,
        Self::Batches,
        Self::HangUps,
        Self::Halves,
        Self::Garbage,
        Self::Silence,
        Self::PeerGarbage,
        Self::PeerHello,
        Self::PeerFrames,
        Self::PeerSilence,
    ];

    /// Returns the name of the kind, for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Administration => "administration",
            Self::Sizes => "sizes",
            Self::Taken => "taken",
            Self::Patterns => "patterns",
            Self::Lists => "lists",
            Self::Unread => "unread",
            Self::Batches => "batches",
            Self::HangUps => "hang-ups",
            Self::Halves => "halves",
            Self::Garbage => "garbage",
            Self::Silence => "silence",
            Self::PeerGarbage => "peer-garbage",
            Self::PeerHello => "peer-hello",
            Self::PeerFrames => "peer-frames",
            Self::PeerSilence => "peer-silence",
        }
    }

    async fn perform(self, at: Target, shared: &Shared, random: &mut SmallRng) -> Tally {
        match self {
            Self::Calls => calls::any(at.clients, random).await,
            Self::Administration => calls::administration(at.clients, random).await,
            Self::Sizes => large::sizes(at.clients, random).await,
            Self::Taken => large::taken(at.clients, random).await,
            Self::Patterns => calls::patterns(at.clients, random).await,
            Self::Lists => large::lists(at.clients, random).await,
            Self::Unread => large::unread(at.clients, random).await,
            Self::Batches => large::batches(at.clients, random).await,
            Self::HangUps => bytes::hang_ups(at.clients, random).await,
            Self::Halves => bytes::halves(at.clients, random).await,
            Self::Garbage => bytes::garbage(at.clients, random).await,
            Self::Silence => bytes::silence(at.clients, true, &shared.crowd, random).await,
            Self::PeerGarbage => bytes::garbage(at.peers, random).await,
            Self::PeerHello => peer::hello(at.peers, random).await,
            Self::PeerFrames => peer::frames(at.peers, random).await,
            Self::PeerSilence => bytes::silence(at.peers, false, &shared.crowd, random).await,
        }
    }
}

/// The outcomes of the operations of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// The number of operations that began.
    pub done: u64,
    /// The number of answers with a result.
    pub answered: u64,
    /// The number of answers with an exception.
    pub refused: u64,
    /// The number of connections that were refused, or closed during an operation.
    pub closed: u64,
    /// The number of answers that did not arrive in time.
    pub silent: u64,
    /// The length of the longest answer, in bytes.
    pub answer_len_max: u64,
    /// Violations: results and disclosures that must not occur.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
}

impl Tally {
    /// Adds another tally. Keeps only the first `WRONG_COUNT_MAX` violations.
    pub fn add(&mut self, other: Self) {
        self.done += other.done;
        self.answered += other.answered;
        self.refused += other.refused;
        self.closed += other.closed;
        self.silent += other.silent;
        self.answer_len_max = self.answer_len_max.max(other.answer_len_max);
        let room = WRONG_COUNT_MAX.saturating_sub(self.wrong.len());
        self.wrong.extend(other.wrong.into_iter().take(room));
    }

    fn failed(&mut self, error: &std::io::Error) {
        if error.kind() == std::io::ErrorKind::TimedOut {
            self.silent += 1;
        } else {
            self.closed += 1;
        }
    }
}

#[derive(Debug)]
struct Shared {
    tallies: Mutex<BTreeMap<Deed, Tally>>,
    /// Permits one stranger at a time to hold thousands of connections.
    crowd: Semaphore,
}

impl Shared {
    fn tallies(&self) -> MutexGuard<'_, BTreeMap<Deed, Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, deed: Deed, tally: Tally) {
        self.tallies().entry(deed).or_default().add(tally);
    }
}

/// Running strangers. Dropping them stops them.
#[derive(Debug)]
pub struct Strangers {
    shared: Arc<Shared>,
    over: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Strangers {
    /// Starts the strangers at a place of the network that no node has.
    ///
    /// # Errors
    /// [`RigError`] if the thread, its runtime, the network namespace or the limit on open sockets is not
    /// available.
    pub fn start(net: &Arc<Net>, place: u64, targets: Vec<Target>, seed: u64) -> Result<Self> {
        allow_many_sockets()?;
        let shared = Arc::new(Shared {
            tallies: Mutex::default(),
            crowd: Semaphore::new(1),
        });
        let (over, seen) = watch::channel(false);
        let at_work = Arc::clone(&shared);
        let thread = in_namespace(net, place, "strangers", move || async move {
            let mut tasks = JoinSet::new();
            for number in 0..STRANGER_COUNT {
                let random = SmallRng::seed_from_u64(seed_of(seed, &number));
                let (shared, targets) = (Arc::clone(&at_work), targets.clone());
                tasks.spawn(work(targets, shared, random, seen.clone()));
            }
            while tasks.join_next().await.is_some() {}
        })?;
        Ok(Self {
            shared,
            over,
            thread: Some(thread),
        })
    }

    /// Returns the tallies since the last call, and resets them.
    pub fn take(&self) -> BTreeMap<Deed, Tally> {
        std::mem::take(&mut *self.shared.tallies())
    }

    /// Stops the strangers and waits until they have ended.
    pub fn stop(&mut self) {
        // This fails only if they have ended already.
        let _ = self.over.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn work(
    targets: Vec<Target>,
    shared: Arc<Shared>,
    mut random: SmallRng,
    mut over: watch::Receiver<bool>,
) {
    let mut bag: Vec<Deed> = Vec::new();
    while !*over.borrow() {
        if bag.is_empty() {
            bag.extend(Deed::ALL);
            bag.shuffle(&mut random);
        }
        let (Some(deed), Some(&target)) = (bag.pop(), targets.choose(&mut random)) else {
            return;
        };
        let begun = Tally {
            done: 1,
            ..Tally::default()
        };
        shared.add(deed, begun);
        let performed = tokio::time::timeout(
            DEED_DURATION_MAX,
            deed.perform(target, &shared, &mut random),
        );
        let told = tokio::select! {
            told = performed => told,
            _ = over.changed() => return,
        };
        let lasted = |_| Tally {
            silent: 1,
            ..Tally::default()
        };
        shared.add(deed, told.unwrap_or_else(lasted));
        let pause = Duration::from_millis(random.random_range(PAUSE_MS));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = over.changed() => return,
        }
    }
}

/// Runs `work` on a new thread in the network namespace of a place, together with all sockets that it opens.
fn in_namespace<F: Future<Output = ()>>(
    net: &Arc<Net>,
    place: u64,
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<JoinHandle<()>> {
    let net = Arc::clone(net);
    let (told, moved) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let runtime = net.enter(place).and_then(|()| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(RigError::system("a runtime for strangers"))
            });
            match runtime {
                Ok(runtime) => {
                    let _ = told.send(Ok(()));
                    runtime.block_on(work());
                }
                Err(error) => drop(told.send(Err(error))),
            }
        })
        .map_err(RigError::system("a thread for strangers"))?;
    let begun = moved.recv().unwrap_or_else(|_| {
        Err(RigError::Panicked {
            what: "the thread of the strangers".into(),
            reason: "it ended before it began".into(),
        })
    });
    begun.map(|()| thread)
}

fn allow_many_sockets() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit)
        .map_err(std::io::Error::from)
        .map_err(RigError::system("a limit for many sockets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up_and_keep_a_few_texts() {
        let mut sum = Tally::default();
        for length in 0..20 {
            sum.add(Tally {
                done: 1,
                answer_len_max: length,
                wrong: vec![format!("{length}")],
                ..Tally::default()
            });
        }
        assert_eq!((sum.done, sum.answer_len_max), (20, 19));
        assert_eq!(sum.wrong.len(), WRONG_COUNT_MAX);
        let text = serde_json::to_string(&sum).unwrap();
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), sum);
    }
}
