//! `NS_AUTOCLEAN`: takes out entries whose objects are gone.
//!
//! Every period the leader connects to each address that entries name, as many at once as
//! [`PROBE_COUNT_MAX`], and hangs up; any listener counts as alive, and no Pyro is spoken. An entry whose
//! address fails for [`AutocleanConfig::grace`] or longer, in every round of that time, goes, unless the name was
//! registered again meanwhile, be it with the same URI. What cannot be judged stays: entries without an address, and failures that are our
//! own, such as too many open files or no network.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_raft::Replica;
use hearth_storage::{Answer, Command, Filter, Query, Reply, Revision, StoreError};
use hearth_wire::Uri;
use hearth_wire::uri::{Location, Target};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::logging::excerpt;

/// Addresses that are tried at the same time.
const PROBE_COUNT_MAX: usize = 64;

/// How long one removal may wait for the cluster.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Names that are never looked after, because they are daemons of their own.
const EXEMPT: [&str; 2] = ["Pyro.NameServer", "Pyro.Daemon"];

/// When to look, and how long to wait for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutocleanConfig {
    /// From one round to the next.
    pub period: Duration,
    /// For one connection: `COMMTIMEOUT`, or Pyro's 5 seconds where there is none.
    pub probe_timeout: Duration,
    /// How long an object may be out of reach before its entry goes; Pyro waits 20 seconds.
    pub grace: Duration,
}

/// Looks and cleans until `shutdown` turns true.
pub(crate) async fn run(
    config: AutocleanConfig,
    ns_port: u16,
    replica: Replica,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut suspects = Suspects::default();
    loop {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(config.period) => {}
        }
        let status = replica.status();
        if status.leader != Some(status.node_id) {
            // Another node looks now; what we saw is out of date when our turn comes again.
            suspects = Suspects::default();
            continue;
        }
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = round(config, ns_port, &replica, &mut suspects) => {}
        }
    }
}

async fn round(config: AutocleanConfig, ns_port: u16, replica: &Replica, suspects: &mut Suspects) {
    let entries = match all_entries(replica).await {
        Ok(entries) => entries,
        Err(reason) => {
            tracing::warn!(reason, "autoclean cannot read the names");
            return;
        }
    };
    let candidates: Vec<(Registered, Address)> = entries
        .into_iter()
        .filter_map(|entry| {
            let address = Address::of(&entry.uri, ns_port)?;
            Some((entry, address))
        })
        .collect();
    let addresses = candidates.iter().map(|(_, address)| address.clone());
    let verdicts = probe_all(addresses.collect(), config.probe_timeout).await;
    let gone = suspects.judge(
        candidates.iter().map(|(entry, address)| {
            let verdict = verdicts.get(address).copied().unwrap_or(Verdict::Unclear);
            (entry, verdict)
        }),
        Instant::now(),
        config.grace,
    );
    for entry in gone {
        let command = match removal(replica, &entry) {
            Ok(command) => command,
            Err(error) => {
                tracing::warn!(%error, "autoclean cannot remove an entry");
                return;
            }
        };
        let Registered { name, uri, .. } = entry;
        match replica
            .write(command, Instant::now() + WRITE_DEADLINE)
            .await
        {
            Ok(Reply::Removed(1)) => {
                let (name, uri) = (&*excerpt(&name), &*excerpt(&uri));
                tracing::info!(name, uri, "autoclean removed an entry");
            }
            // It was registered anew, or removed, since we looked.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(name = &*excerpt(&name), %error, "autoclean cannot remove an entry");
                return;
            }
        }
    }
}

/// The command that removes an entry if it is still the one that was looked at.
fn removal(replica: &Replica, entry: &Registered) -> Result<Command, StoreError> {
    let (name, uri) = (entry.name.clone(), entry.uri.clone());
    if replica.rules()? < 2 {
        // A member of an earlier version cannot read the other command.
        return Ok(Command::RemoveIf { name, uri });
    }
    let revision = entry.revision;
    Ok(Command::RemoveIfUnchanged { name, revision })
}

/// An entry as a round finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Registered {
    name: String,
    uri: String,
    revision: Revision,
}

/// All entries, without those that are exempt.
async fn all_entries(replica: &Replica) -> Result<Vec<Registered>, String> {
    let replica = replica.clone();
    let answer = tokio::task::spawn_blocking(move || replica.answer(&Query::List(Filter::All)))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let Answer::Entries(entries) = answer else {
        return Err("a list was answered with something else".to_owned());
    };
    Ok(entries
        .into_iter()
        .filter(|(name, _)| !EXEMPT.contains(&name.as_str()))
        .map(|(name, entry)| Registered {
            name,
            uri: entry.uri,
            revision: entry.revision,
        })
        .collect())
}

/// Something to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Address {
    Tcp(String, u16),
    Unix(String),
}

impl Address {
    /// Where the object of `uri` listens, if that can be told from here.
    fn of(uri: &str, ns_port: u16) -> Option<Self> {
        let uri = Uri::parse(uri, ns_port).ok()?;
        if !matches!(uri.target, Target::Object(_)) {
            return None;
        }
        match uri.location? {
            Location::Tcp { host, port } if !host.is_empty() => {
                let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
                Some(Self::Tcp(host, port))
            }
            Location::Tcp { .. } => None,
            // A relative path is relative to a folder that we do not know.
            Location::Unix(path) => Path::new(&path).is_absolute().then_some(Self::Unix(path)),
        }
    }

    async fn probe(&self, patience: Duration) -> Verdict {
        let connected = match self {
            Self::Tcp(host, port) => timeout(patience, TcpStream::connect((host.as_str(), *port)))
                .await
                .map(|connected| connected.map(drop)),
            Self::Unix(path) => timeout(patience, UnixStream::connect(path))
                .await
                .map(|connected| connected.map(drop)),
        };
        match (connected, self) {
            (Ok(Ok(())), _) => Verdict::Alive,
            (Ok(Err(error)), Self::Tcp(..)) if is_our_own(&error) => Verdict::Unclear,
            // Without its file, a unix socket may belong to another machine; a file that nobody answers
            // at is the work of a process here that died.
            (Ok(Err(error)), Self::Unix(_)) if error.kind() != io::ErrorKind::ConnectionRefused => {
                Verdict::Unclear
            }
            (Ok(Err(_)) | Err(_), _) => Verdict::Dead,
        }
    }
}

/// Whether a failure says nothing about the other side.
fn is_our_own(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let is_ours = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::NETDOWN,
        Errno::NETUNREACH,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| is_ours.contains(&Errno::from_raw_os_error(code)))
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Alive,
    Dead,
    /// Nothing that an entry may be judged by.
    Unclear,
}

/// Tries each address once, however many entries name it.
async fn probe_all(addresses: HashSet<Address>, patience: Duration) -> HashMap<Address, Verdict> {
    let slots = Arc::new(Semaphore::new(PROBE_COUNT_MAX));
    let mut probes = JoinSet::new();
    let mut verdicts = HashMap::with_capacity(addresses.len());
    for address in addresses {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            break;
        };
        probes.spawn(async move {
            let verdict = address.probe(patience).await;
            drop(slot);
            (address, verdict)
        });
        while let Some(Ok((address, verdict))) = probes.try_join_next() {
            verdicts.insert(address, verdict);
        }
    }
    while let Some(joined) = probes.join_next().await {
        if let Ok((address, verdict)) = joined {
            verdicts.insert(address, verdict);
        }
    }
    verdicts
}

/// Entries whose objects did not answer, and since when.
#[derive(Debug, Default)]
struct Suspects {
    /// By name; another registration, also of the same URI, is another entry.
    since: HashMap<String, (Revision, Instant)>,
}

impl Suspects {
    /// Takes in one round's verdicts and returns the entries that have been gone for `grace`. Whatever is not mentioned any more is forgotten.
    fn judge<'a>(
        &mut self,
        verdicts: impl Iterator<Item = (&'a Registered, Verdict)>,
        now: Instant,
        grace: Duration,
    ) -> Vec<Registered> {
        let mut old = std::mem::take(&mut self.since);
        let mut gone = Vec::new();
        for (entry, verdict) in verdicts {
            let known = old
                .remove(&entry.name)
                .filter(|(revision, _)| *revision == entry.revision)
                .map(|(_, since)| since);
            let since = match (verdict, known) {
                (Verdict::Alive, _) | (Verdict::Unclear, None) => continue,
                (Verdict::Unclear, Some(since)) => since,
                (Verdict::Dead, known) => {
                    let since = known.unwrap_or(now);
                    if now.duration_since(since) >= grace {
                        gone.push(entry.clone());
                    }
                    since
                }
            };
            self.since
                .insert(entry.name.clone(), (entry.revision, since));
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);
    const GRACE: Duration = Duration::from_secs(20);

    fn registered(index: u64) -> Registered {
        Registered {
            name: "n".to_owned(),
            uri: "PYRO:o@h:1".to_owned(),
            revision: Revision::new(index, 0),
        }
    }

    #[test]
    fn only_addresses_that_can_be_tried_are() {
        let tcp = |host: &str, port| Some(Address::Tcp(host.to_owned(), port));
        for (uri, address) in [
            ("PYRO:o@host:4000", tcp("host", 4000)),
            ("PYRO:o@[::1]:4000", tcp("::1", 4000)),
            ("PYRO:o@host:70000", None),
            ("PYRO:o@host:-1", None),
            ("PYRO:o@host:0", None),
            ("PYRO:o@:4000", None),
            (
                "PYRO:o@./u:/run/o",
                Some(Address::Unix("/run/o".to_owned())),
            ),
            ("PYRO:o@./u:o.sock", None),
            ("PYRONAME:other", None),
            ("PYRONAME:other@host:9090", None),
            ("PYROMETA:a,b", None),
            ("nonsense", None),
        ] {
            assert_eq!(Address::of(uri, 9090), address, "{uri}");
        }
    }

    #[test]
    fn an_entry_goes_when_it_has_failed_for_the_whole_grace() {
        let mut suspects = Suspects::default();
        let start = Instant::now();
        let mut look = |index, verdict, seconds| {
            let now = start + Duration::from_secs(seconds);
            let entry = registered(index);
            let verdicts = [(&entry, verdict)].into_iter();
            suspects.judge(verdicts, now, GRACE).len()
        };
        assert_eq!(look(1, Verdict::Dead, 0), 0);
        assert_eq!(look(1, Verdict::Dead, 19), 0);
        assert_eq!(look(1, Verdict::Dead, 20), 1);
        // An entry that is alive once starts anew.
        assert_eq!(look(1, Verdict::Alive, 21), 0);
        assert_eq!(look(1, Verdict::Dead, 22), 0);
        assert_eq!(look(1, Verdict::Dead, 41), 0);
        // What cannot be judged neither clears nor condemns.
        assert_eq!(look(1, Verdict::Unclear, 50), 0);
        assert_eq!(look(1, Verdict::Dead, 51), 1);
        // The same object, registered anew, is another entry.
        assert_eq!(look(2, Verdict::Dead, 52), 0);
        assert_eq!(look(2, Verdict::Dead, 71), 0);
        assert_eq!(look(2, Verdict::Dead, 72), 1);
    }

    #[test]
    fn names_that_are_gone_are_forgotten() {
        let mut suspects = Suspects::default();
        let now = Instant::now();
        suspects.judge([(&registered(1), Verdict::Dead)].into_iter(), now, GRACE);
        suspects.judge(std::iter::empty(), now, GRACE);
        assert!(suspects.since.is_empty());
    }

    #[tokio::test]
    async fn probes_tell_listeners_from_the_dead() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive_port = tcp.local_addr().unwrap().port();
        let dead_port = {
            let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            closed.local_addr().unwrap().port()
        };
        let _unix = tokio::net::UnixListener::bind(path("alive")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path("crashed")).unwrap());

        let expected = HashMap::from([
            (Address::Tcp("127.0.0.1".into(), alive_port), Verdict::Alive),
            (Address::Tcp("127.0.0.1".into(), dead_port), Verdict::Dead),
            (
                Address::Tcp("no-such-host.invalid".into(), 1),
                Verdict::Dead,
            ),
            (Address::Unix(path("alive")), Verdict::Alive),
            (Address::Unix(path("crashed")), Verdict::Dead),
            (Address::Unix(path("elsewhere")), Verdict::Unclear),
        ]);
        let addresses = expected.keys().cloned().collect();
        assert_eq!(probe_all(addresses, PATIENCE).await, expected);
    }

    #[tokio::test]
    async fn more_addresses_than_slots_are_all_tried() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let count = PROBE_COUNT_MAX * 3;
        let addresses = (0..count)
            .map(|number| Address::Tcp(format!("127.0.1.{number}"), port))
            .collect();
        let verdicts = probe_all(addresses, PATIENCE).await;
        assert_eq!(verdicts.len(), count);
    }
}
