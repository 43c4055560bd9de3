//! Kill -9 under load: what was acknowledged is there after the restart, and nothing is there by halves.
//!
//! Each round several connections register, re-tag and remove names, each its own ones, until the server
//! is killed at a random moment. Before the next round, every name must be exactly as its owner last had
//! it acknowledged, or as its one unanswered call would have left it; and the tag index must say the
//! same. The folder is the same in all rounds, so each check covers all rounds before it.
//!
//! In every second round the machine loses its power, too: what was not synced is cut off.
//!
//! `HEARTH_KILL_ROUNDS=100` runs so many rounds, `HEARTH_KILL_SEED=n` repeats a run's random choices.

// Helpers of a test fail as the test itself does.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::Duration;

use hearth_storage::store::rocks::lost_writes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::client::{Client, Entry};
use support::{Server, hearthd};

const ROUNDS: u32 = 4;
const CONNECTIONS: u32 = 8;
const NAMES_PER_CONNECTION: u32 = 50;
/// A tag of every entry, so that one look-up by tag must find them all.
const COMMON_TAG: &str = "all";

/// What an owner knows of its names: the acknowledged ones, and how its unanswered call leaves one.
#[derive(Debug)]
struct Owner {
    number: u32,
    names: BTreeMap<String, Entry>,
    unanswered: Option<(String, Option<Entry>)>,
    acknowledged: u64,
    next_value: u64,
}

impl Owner {
    fn new(number: u32) -> Self {
        Self {
            number,
            names: BTreeMap::new(),
            unanswered: None,
            acknowledged: 0,
            next_value: 0,
        }
    }

    /// One change; its result is known only if this returns true.
    fn step(&mut self, client: &mut Client, rng: &mut StdRng) -> bool {
        let key = rng.random_range(0..NAMES_PER_CONNECTION);
        let name = format!("owner{}.name{key}", self.number);
        self.next_value += 1;
        let value = format!("{}-{}", self.number, self.next_value);
        let tags = BTreeSet::from([
            COMMON_TAG.to_owned(),
            format!("value:{value}"),
            format!("owner:{}", self.number),
        ]);
        let old = self.names.get(&name).cloned();
        let (result, new) = match (rng.random_range(0..10), old) {
            (0, _) => (client.remove(&name).map(drop), None),
            (1 | 2, Some(old)) => {
                let result = client.set_metadata(&name, &tags);
                (result, Some(Entry { uri: old.uri, tags }))
            }
            _ => {
                let uri = format!("PYRO:obj_{value}@host:4000");
                let entry = Entry { uri, tags };
                (client.register(&name, &entry), Some(entry))
            }
        };
        if let Err(error) = result {
            // A killed server answers nothing; an answer that refuses is a mistake of one of us.
            assert_ne!(error.kind(), std::io::ErrorKind::Other, "{name}: {error}");
            self.unanswered = Some((name, new));
            return false;
        }
        self.acknowledged += 1;
        put(&mut self.names, name, new);
        true
    }

    /// Compares with what the server has, and takes over how it decided the unanswered call.
    fn check(&mut self, stored: &BTreeMap<String, Entry>) {
        let prefix = format!("owner{}.", self.number);
        let stored: BTreeMap<_, _> = stored
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(name, entry)| (name.clone(), entry.clone()))
            .collect();
        if let Some((name, new)) = self.unanswered.take()
            && stored.get(&name) == new.as_ref()
        {
            put(&mut self.names, name, new);
        }
        for name in self.names.keys().chain(stored.keys()) {
            assert_eq!(
                stored.get(name),
                self.names.get(name),
                "{name}: the server's entry is on the left, the acknowledged one on the right"
            );
        }
    }
}

fn put(names: &mut BTreeMap<String, Entry>, name: String, entry: Option<Entry>) {
    match entry {
        Some(entry) => names.insert(name, entry),
        None => names.remove(&name),
    };
}

fn load(port: u16, mut owner: Owner, mut rng: StdRng) -> JoinHandle<Owner> {
    std::thread::spawn(move || {
        let Ok(mut client) = Client::connect(port) else {
            return owner;
        };
        while owner.step(&mut client, &mut rng) {}
        owner
    })
}

fn check_all(port: u16, owners: &mut [Owner]) {
    let mut client = Client::connect(port).unwrap();
    let stored = client.list().unwrap();
    for owner in owners.iter_mut() {
        owner.check(&stored);
    }
    let known: usize = owners.iter().map(|owner| owner.names.len()).sum();
    assert_eq!(stored.len(), known, "the server has names of nobody");
    assert_eq!(client.with_tag(COMMON_TAG).unwrap(), stored);
    for owner in owners {
        let tag = format!("owner:{}", owner.number);
        assert_eq!(client.with_tag(&tag).unwrap(), owner.names);
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_half_there() {
    let rounds = setting("HEARTH_KILL_ROUNDS").map_or(ROUNDS, |rounds| rounds as u32);
    let seed = setting("HEARTH_KILL_SEED").unwrap_or_else(rand::random);
    println!("HEARTH_KILL_SEED={seed} HEARTH_KILL_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let storage = format!("rocksdb:{}", dir.path().join("data").display());
    let record = dir.path().join("syncs");
    let start = || {
        let mut command = hearthd(&["-n", "127.0.0.1", "-p", "0", "-s", &storage]);
        command.env("HEARTH_SYNC_RECORD", &record);
        command
    };

    let mut owners: Vec<Owner> = (0..CONNECTIONS).map(Owner::new).collect();
    let mut acknowledged = 0;
    for round in 0..rounds {
        if round % 5 == 4 {
            // One kill in between, perhaps while the start still recovers.
            let server = Server::spawn(start());
            std::thread::sleep(Duration::from_millis(rng.random_range(0..150)));
            server.kill();
        }
        let server = Server::run(start());
        let port = server.port();
        check_all(port, &mut owners);

        let delay = Duration::from_millis(rng.random_range(10..400));
        let threads: Vec<_> = owners
            .drain(..)
            .map(|owner| load(port, owner, StdRng::seed_from_u64(rng.random())))
            .collect();
        std::thread::sleep(delay);
        server.kill();
        if round % 2 == 1 {
            lost_writes::cut_to_last_sync(&dir.path().join("data"), &record).unwrap();
        }
        owners.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        let total: u64 = owners.iter().map(|owner| owner.acknowledged).sum();
        println!(
            "round {round}: killed after {delay:?}, {} acknowledged",
            total - acknowledged
        );
        acknowledged = total;
    }
    let server = Server::run(start());
    check_all(server.port(), &mut owners);
    assert!(acknowledged > u64::from(rounds), "the load never got going");
    let (status, _, log) = server.stop();
    assert!(status.success(), "{log}");
}
