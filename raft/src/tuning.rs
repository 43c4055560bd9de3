//! The settings of Raft and of its storage, with their defaults and why they are what they are.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use hearth_storage::RocksOptions;

use crate::disk::DiskLimits;
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
    /// Bytes of log entries beyond which the log is shortened to half of that, whatever their number.
    pub log_len_max: u64,
    /// Log entries that this node has under way with commands of its own clients. Fewer make larger
    /// entries.
    pub entries_in_flight_max: usize,
    /// How long a follower waits before it campaigns, from and to.
    pub election_timeout: (Duration, Duration),
    /// How often a leader tells its followers that it is there.
    pub heartbeat_interval: Duration,
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
            log_len_max: 256 << 20,
            entries_in_flight_max: 2,
            election_timeout: (Duration::from_millis(1000), Duration::from_millis(2000)),
            heartbeat_interval: Duration::from_millis(100),
            disk: DiskLimits::default(),
            rocks: RocksOptions::default(),
        }
    }
}

impl Tuning {
    /// As openraft takes it.
    pub(crate) fn to_openraft(&self, cluster_name: &str) -> Result<Arc<Config>, StartError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let election_timeout_max = millis(self.election_timeout.1);
        let config = Config {
            cluster_name: cluster_name.to_owned(),
            election_timeout_min: millis(self.election_timeout.0),
            election_timeout_max,
            heartbeat_interval: millis(self.heartbeat_interval),
            heartbeat_min_interval: Some(millis(self.heartbeat_interval)),
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
