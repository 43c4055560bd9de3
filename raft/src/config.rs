//! The settings of Raft and its storage, with their defaults and the reasons for them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use hearth_storage::RocksOptions;

use crate::error::StartError;

/// Settings for tests and large installations.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tuning {
    /// Log entries after which the log may be shortened again. A snapshot costs next to nothing here, so this
    /// only bounds the length of the log.
    pub snapshot_entry_count: u64,
    /// Log entries that are kept although a snapshot covers them, for members that lag behind.
    pub log_keep_entry_count: u64,
    /// Number of log entries that are purged at once. Each purge leaves a tombstone that later scans must pass.
    pub purge_entry_count: u64,
    /// Length of the log in bytes beyond which it is shortened to half of it, whatever the number of entries. A
    /// longer log does not help: a member that lags behind this far catches up faster from a snapshot. Up to
    /// four times as much is kept while a snapshot is being sent.
    pub log_len_max: u64,
    /// Maximum number of log entries with commands of this node's clients that are under way at once. A lower
    /// number makes larger entries.
    pub entries_in_flight_max: usize,
    /// The time of silence after which a follower campaigns: minimum and maximum.
    pub election_timeout: (Duration, Duration),
    /// Interval of the leader's heartbeats.
    pub heartbeat_interval: Duration,
    /// Allows nodes that keep their state in memory to vote in a cluster of several. For tests only: when such
    /// a node ends, it leaves a voter behind that never returns.
    pub memory_may_vote: bool,
    /// The longest time that a start waits for a majority before the node serves the state that it has. `None`
    /// waits forever.
    pub majority_wait: Option<Duration>,
    /// Limits on the use of the disk.
    pub disk: DiskLimits,
    /// Options of the database.
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
    /// Returns the settings as an openraft configuration.
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
            // A snapshot of a large state may take minutes to send.
            install_snapshot_timeout: 600_000,
            max_payload_entries: 1024,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entry_count),
            // The `retention` module decides what is purged, and when.
            max_in_snapshot_log_to_keep: u64::MAX,
            // A node that was partitioned must not disturb a working leader.
            enable_pre_vote: Some(true),
            // A leader that has lost its majority must fall silent from time to time. Otherwise a node between
            // two halves of the cluster would keep the other half from electing a leader.
            quorum_loss_probe_interval: Some(election_timeout_max.saturating_mul(2)),
            // A restarted leader that continued in its old term would take the first index of that term as its
            // read barrier, although it may have lost unsynced state that it had already shown to clients.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let config = config
            .validate()
            .map_err(|error| StartError::Raft(format!("settings: {error}")))?;
        Ok(Arc::new(config))
    }
}

/// Returns openraft's minimum and maximum election timeout for a follower that is to campaign after `min` to
/// `max` milliseconds of silence. openraft's follower waits for the leader's lease, which is as long as the
/// maximum timeout, and then for a time between the two timeouts. The minimum must be longer than two
/// heartbeats and a tick.
fn after_lease(min: u64, max: u64, heartbeat_interval: u64) -> (u64, u64) {
    let least = 2 * heartbeat_interval + heartbeat_interval * 13 / 64 + 2;
    let lease = (max / 2).max(least + heartbeat_interval / 2 + 1);
    (min.saturating_sub(lease).clamp(least, lease - 1), lease)
}

/// The configuration of a replica.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// This node's id, 1 and up. `None` takes the id from the data directory. In a new directory that is 1 for
    /// a single-node cluster, and the id that the cluster assigns for a node that joins one.
    pub node_id: Option<u64>,
    /// The name of the cluster, part of its identity.
    pub cluster_name: String,
    /// The location of log and state.
    pub storage: StorageLocation,
    /// The node's part in a cluster of several. `None` for a single-node cluster, which has no peer port.
    pub cluster: Option<ClusterConfig>,
}

/// The location of a replica's log and state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageLocation {
    /// RocksDB over its in-memory environment. The data is gone when the process ends.
    Memory,
    /// RocksDB in this data directory, which is created if it does not exist.
    Rocks(PathBuf),
}

/// The configuration of a node that takes part in a cluster of several nodes.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// `HOST:PORT` at which the other nodes reach this one. May be empty with [`Birth::Done`] only; then it is
    /// the address that the cluster knows.
    pub peer_addr: String,
    /// `HOST:PORT` at which clients reach this one. Reported to every client that asks for the members.
    pub ns_addr: String,
    /// The action for a data directory without a cluster: bootstrap or join. Ignored if it has one.
    pub birth: Birth,
    /// The secrets that peers prove to each other. If there are none, anyone who reaches the peer port can take
    /// part.
    pub keys: ClusterKeys,
}

/// The method by which a node without data becomes part of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Birth {
    /// Bootstraps a cluster together with the other founders, which are given the same list.
    Found {
        /// Peer address (`HOST:PORT`) of each founder by its node id, including this one.
        founders: BTreeMap<u64, String>,
    },
    /// Joins a running cluster through any of its members.
    Join {
        /// Peer addresses (`HOST:PORT`) to try, in this order, repeatedly.
        seeds: Vec<String>,
        /// True to remain a learner. Otherwise the node is promoted to voter when it has caught up.
        learner: bool,
    },
    /// Does neither: the data directory must belong to a cluster.
    Done,
}

/// The bytes of a cluster key.
pub(crate) type Key = Arc<[u8]>;

/// The keys that nodes prove to each other. A node proves the first key and accepts each of them. Clones share
/// the keys: [`Self::set`] takes effect on all clones.
#[derive(Clone)]
pub struct ClusterKeys {
    keys: Arc<RwLock<Arc<[Key]>>>,
}

impl ClusterKeys {
    /// Creates a list of keys. If it is empty, anyone who reaches the peer port can take part.
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

    /// Replaces the keys. Connections under a key that is not among the new ones are closed.
    pub fn set(&self, keys: impl IntoIterator<Item = Vec<u8>>) {
        let keys = shared(keys);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Returns all keys. The first one is the key that is proved.
    pub fn all(&self) -> Arc<[Arc<[u8]>]> {
        let keys = self.keys.read();
        Arc::clone(&keys.unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns true if there are no keys.
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }
}

fn shared(keys: impl IntoIterator<Item = Vec<u8>>) -> Arc<[Key]> {
    keys.into_iter().map(Key::from).collect()
}

impl Default for ClusterKeys {
    /// Returns an empty list.
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
    /// Omits the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterKeys")
            .field("count", &self.all().len())
            .finish()
    }
}

/// The limits on the use of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskLimits {
    /// Free bytes below which the disk is low, unless `low_percent` gives a lower limit.
    pub low_len_max: u64,
    /// Free share of the file system, in percent, below which the disk is low, unless `low_len_max` gives a
    /// lower limit.
    pub low_percent: u64,
    /// Maximum number of bytes of the reserve, which is set aside for the case that another program fills the
    /// disk. The reserve is at most a quarter of the limit for low. The disk is full with fewer free bytes than
    /// half the reserve.
    pub reserve_len_max: u64,
    /// Interval between two looks at the free space.
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
