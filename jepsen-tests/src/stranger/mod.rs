//! Clients without a key or a right, who ask for everything, in every wrong way, at the port for clients and
//! at the one between nodes.
//!
//! They live in a network namespace and on a thread of their own, so that they call from no loopback address
//! and from none that honest clients have. By Pyro's rules any client may remove any name, so strangers change
//! only names that begin with [`OWN`]: the others belong to checkers. What became of their deeds is counted by
//! kind ([`Tally`]); what nobody may be told or allowed without a key is kept in [`Tally::wrong`].
//!
//! An [`Impostor`] sits at the address of a member that is down.

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

/// What the names of strangers begin with. Patterns and prefixes of their removals begin with it too.
pub const OWN: &str = "stranger.";

/// How many of them work at the same time.
const STRANGER_COUNT: u64 = 16;

/// How long one deed may take before it is given up.
const DEED_DURATION_MAX: Duration = Duration::from_secs(60);

/// Rest between two deeds of one stranger, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 2..60;

/// Texts of [`Tally::wrong`] that are kept.
const WRONG_COUNT_MAX: usize = 10;

/// A node under attack.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its port for clients.
    pub clients: SocketAddr,
    /// Its port for the other nodes.
    pub peers: SocketAddr,
}

/// Something that strangers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// Any method of any object, with arguments of any type.
    Calls,
    /// Methods that change the cluster.
    Administration,
    /// Registrations below, at and above the limits.
    Sizes,
    /// A large registration that is refused many times in one go, because its name is taken.
    Taken,
    /// Patterns that take for ever, or are deep, for lists and removals.
    Patterns,
    /// Lists of everything.
    Lists,
    /// Lists of everything, asked for many times, whose answers nobody reads.
    Unread,
    /// Calls by the thousand in one message.
    Batches,
    /// Calls whose client has gone before they are answered.
    HangUps,
    /// Messages that end in the middle.
    Halves,
    /// Bytes that are no message, or a broken one.
    Garbage,
    /// Thousands of connections on which nothing happens.
    Silence,
    /// Bytes that are no message between nodes.
    PeerGarbage,
    /// Greetings of nodes that are none.
    PeerHello,
    /// Messages between nodes from somebody who has not greeted.
    PeerFrames,
    /// Connections to the port between nodes on which nothing happens.
    PeerSilence,
}

impl Deed {
    /// All of them.
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

    /// A word for tables.
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

/// What became of the deeds of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// How often it was done.
    pub done: u64,
    /// Answers with a result.
    pub answered: u64,
    /// Answers with an exception.
    pub refused: u64,
    /// Connections that were refused, or closed in the middle.
    pub closed: u64,
    /// Answers that did not come in time.
    pub silent: u64,
    /// Bytes of the longest answer.
    pub answer_len_max: u64,
    /// What must not be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
}

impl Tally {
    /// Adds another one.
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
    /// Who holds thousands of connections: one at a time.
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

/// Strangers at work. Dropping them ends them.
#[derive(Debug)]
pub struct Strangers {
    shared: Arc<Shared>,
    over: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Strangers {
    /// Has them begin at a place of the network that no node has.
    ///
    /// # Errors
    /// The system's.
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

    /// What they did since this was called last.
    pub fn take(&self) -> BTreeMap<Deed, Tally> {
        std::mem::take(&mut *self.shared.tallies())
    }

    /// Ends them. Blocks until they have gone.
    pub fn stop(&mut self) {
        // It fails only when they have gone already.
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

/// Runs `work` on a thread that lives at a place of the network, and so do all sockets that it makes.
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
