//! The settings of Raft and of its storage, with their defaults and why they are what they are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use hearth_storage::RocksOptions;

use crate::error::StartError;

/// What tests and large installations set differently.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tuning {
    /// Log entries after which the log may be shortened again. A snapshot costs next to nothing here, so
    /// this only bounds how long the log is.
    pub snapshot_entry_count: u64,
    /// Log entries that are kept although a snapshot has them, for members that lag behind.
    pub log_keep_entry_count: u64,
    /// Log entries that are dropped at once. Each time leaves a tombstone that later scans pass.
    pub purge_entry_count: u64,
    /// Bytes of log entries beyond which the log is shortened to half of that, whatever their number. A
    /// longer log is no help: a member that lags by so much is quicker with a snapshot. Up to four times
    /// as much is kept while one is on its way.
    pub log_len_max: u64,
    /// Log entries that this node has under way with commands of its own clients. Fewer make larger
    /// entries.
    pub entries_in_flight_max: usize,
    /// How long a follower waits before it campaigns, from and to.
    pub election_timeout: (Duration, Duration),
    /// How often a leader tells its followers that it is there.
    pub heartbeat_interval: Duration,
    /// Lets nodes that keep their state in memory vote among others. For tests: each end of such a node
    /// leaves a voter behind that never comes back.
    pub memory_may_vote: bool,
    /// How long a start waits for a majority before the node serves what it has. `None`: for ever.
    pub majority_wait: Option<Duration>,
    /// How full the disk may become.
    pub disk: DiskLimits,
    /// How the database is opened.
    pub rocks: RocksOptions,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            snapshot_entry_count: 20_000,
            log_keep_entry_count: 20_000,
            purge_entry_count: 4096,
            log_len_max: 64 << 20,
            entries_in_flight_max: 4,
            election_timeout: (Duration::from_millis(1000), Duration::from_millis(2000)),
            heartbeat_interval: Duration::from_millis(100),
            memory_may_vote: false,
            majority_wait: None,
            disk: DiskLimits::default(),
            rocks: RocksOptions::default(),
        }
    }
}

impl Tuning {
    /// As openraft takes it.
    pub(crate) fn to_openraft(&self, cluster_name: &str) -> Result<Arc<Config>, StartError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let heartbeat_interval = millis(self.heartbeat_interval);
        let (election_timeout_min, election_timeout_max) = after_lease(
            millis(self.election_timeout.0),
            millis(self.election_timeout.1),
            heartbeat_interval,
        );
        let config = Config {
            cluster_name: cluster_name.to_owned(),
            election_timeout_min,
            election_timeout_max,
            heartbeat_interval,
            heartbeat_min_interval: Some(heartbeat_interval),
            // A whole state may be under way for minutes.
            install_snapshot_timeout: 600_000,
            max_payload_entries: 1024,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entry_count),
            // `retention` decides what is dropped, and when.
            max_in_snapshot_log_to_keep: u64::MAX,
            // A node that was cut off does not disturb a leader that works.
            enable_pre_vote: Some(true),
            // A leader that lost its majority must fall silent now and then, or a node between two halves
            // would never let the other half elect one.
            quorum_loss_probe_interval: Some(election_timeout_max.saturating_mul(2)),
            // A restarted leader that goes on in its old term would take the first index of that term as
            // its read barrier, although it may have lost state, unsynced, that it had already shown.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let config = config
            .validate()
            .map_err(|error| StartError::Raft(format!("settings: {error}")))?;
        Ok(Arc::new(config))
    }
}

/// openraft's timeouts for a follower that is to campaign after `min` to `max` milliseconds of silence. It
/// waits for the leader's lease, which is as long as the greater of its timeouts, and then for a time
/// between the two; the lesser must be longer than two heartbeats and a tick.
fn after_lease(min: u64, max: u64, heartbeat_interval: u64) -> (u64, u64) {
    let least = 2 * heartbeat_interval + heartbeat_interval * 13 / 64 + 2;
    let lease = (max / 2).max(least + heartbeat_interval / 2 + 1);
    (min.saturating_sub(lease).clamp(least, lease - 1), lease)
}

/// How a replica is started.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// This node's number, 1 and up. `None`: the one that the data folder has; in a new one 1 for a node
    /// alone, and what the cluster gives it for one that joins.
    pub node_id: Option<u64>,
    /// Part of the cluster's identity.
    pub cluster_name: String,
    /// Where log and state live.
    pub storage: StorageLocation,
    /// `None` for a node that is its own cluster and has no peer port.
    pub cluster: Option<ClusterConfig>,
}

/// Where a replica keeps its log and state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageLocation {
    /// RocksDB over its in-memory environment: gone when the process ends.
    Memory,
    /// RocksDB in this folder, made when it does not exist.
    Rocks(PathBuf),
}

/// How this node takes part in a cluster of several.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// `HOST:PORT` at which the other nodes reach this one. Empty, with [`Birth::Done`] only: the one that the
    /// cluster knows.
    pub peer_addr: String,
    /// `HOST:PORT` at which clients reach this one; told to whoever asks for the members.
    pub ns_addr: String,
    /// What to do when the data folder has no cluster yet. Ignored when it has one.
    pub birth: Birth,
    /// The secrets that peers prove to each other. Empty: none, and then anyone who reaches the peer port
    /// can take part.
    pub keys: ClusterKeys,
}

/// How a node without data comes to its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Birth {
    /// Together with the others, which are given the same list.
    Found {
        /// Peer address of each founder, this one among them.
        founders: BTreeMap<u64, String>,
    },
    /// Through any member of one that runs.
    Join {
        /// Peer addresses to try, in this order, again and again.
        seeds: Vec<String>,
        /// Stay a learner for good. Otherwise the node is promoted to voter when it has caught up.
        learner: bool,
    },
    /// Not at all: its data folder must have one.
    Done,
}

/// A cluster key.
pub(crate) type Key = Arc<[u8]>;

/// The keys that nodes prove to each other: the first is proved, and each is accepted. Clones are the same
/// ones: what [`Self::set`] sets holds for all of them.
#[derive(Clone)]
pub struct ClusterKeys {
    keys: Arc<RwLock<Arc<[Key]>>>,
}

impl ClusterKeys {
    /// These keys. Without any, anyone who reaches the peer port can take part.
    ///
    /// ```
    /// let keys = hearth_raft::ClusterKeys::new([b"the secret".to_vec()]);
    /// // A key is changed in steps: accepted everywhere, then proved, then the old one is dropped.
    /// keys.set([b"the secret".to_vec(), b"the next secret".to_vec()]);
    /// assert_eq!(keys.all().len(), 2);
    /// ```
    pub fn new(keys: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self {
            keys: Arc::new(RwLock::new(shared(keys))),
        }
    }

    /// Other keys from now on. Connections under a key that is not among them end.
    pub fn set(&self, keys: impl IntoIterator<Item = Vec<u8>>) {
        let keys = shared(keys);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// All keys, the one that is proved first.
    pub fn all(&self) -> Arc<[Arc<[u8]>]> {
        let keys = self.keys.read();
        Arc::clone(&keys.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }
}

fn shared(keys: impl IntoIterator<Item = Vec<u8>>) -> Arc<[Key]> {
    keys.into_iter().map(Key::from).collect()
}

impl Default for ClusterKeys {
    /// None.
    fn default() -> Self {
        Self::new([])
    }
}

impl PartialEq for ClusterKeys {
    fn eq(&self, other: &Self) -> bool {
        self.all() == other.all()
    }
}

impl Eq for ClusterKeys {}

impl fmt::Debug for ClusterKeys {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterKeys")
            .field("count", &self.all().len())
            .finish()
    }
}

/// How full a disk may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskLimits {
    /// With less than this many bytes free the disk is low,
    pub low_len_max: u64,
    /// or with less than this share of the file system, in percent, if that is less.
    pub low_percent: u64,
    /// Bytes that are put aside for a disk that somebody fills to the end. Never more than a quarter of what
    /// counts as low. With half of that free the disk is full.
    pub reserve_len_max: u64,
    /// How often to look.
    pub look_interval: Duration,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self {
            low_len_max: 512 << 20,
            low_percent: 10,
            reserve_len_max: 16 << 20,
            look_interval: Duration::from_millis(250),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_campaigns_when_it_was_told_to() {
        for (min, max, heartbeat) in [
            (1000, 2000, 100),
            (1800, 2000, 100),
            (300, 600, 100),
            (60, 120, 10),
            (10_000, 60_000, 3_000),
        ] {
            let tuning = Tuning {
                election_timeout: (Duration::from_millis(min), Duration::from_millis(max)),
                heartbeat_interval: Duration::from_millis(heartbeat),
                ..Tuning::default()
            };
            let config = tuning.to_openraft("test").expect("settings that fit");
            let lease = config.election_timeout_max;
            let (first, last) = (lease + config.election_timeout_min, 2 * lease);
            assert!((min..=max).contains(&first), "{first} {min}-{max}");
            assert!(last <= max, "{last} {min}-{max}");
        }
    }

    #[test]
    fn timeouts_of_few_heartbeats_are_stretched_and_not_refused() {
        let tuning = Tuning {
            election_timeout: (Duration::from_millis(300), Duration::from_millis(301)),
            ..Tuning::default()
        };
        assert!(tuning.to_openraft("test").is_ok());
    }
}
