//! The settings of RocksDB, and the reasons for them.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, DataBlockIndexType};
use rocksdb::{Env, LogLevel, Options};

use super::RocksOptions;

/// Maximum number of bytes of memtables in the in-memory environment. Purged log entries take memory until their
/// memtable is written out, and there is no write-ahead log there that would limit them.
const WRITE_BUFFER_LEN_MAX_IN_MEMORY: usize = 8 << 20;

/// Settings that have no function of their own in this version of the crate.
///
/// Each WAL records where the one before it ended. This shows when a power failure took the end of a WAL while
/// its successor survived: entries would be missing in the middle. Tables do not carry the host name.
const WITHOUT_FUNCTIONS: &str = "track_and_verify_wals=true;db_host_id=hearth";

/// Settings of one database.
pub(super) struct Tuning {
    options: RocksOptions,
    env: Option<Env>,
    cache: Cache,
}

impl Tuning {
    pub(super) fn new(options: &RocksOptions, in_memory: bool) -> Result<Self, rocksdb::Error> {
        let mut options = options.clone();
        if in_memory {
            options.write_buffer_len = options.write_buffer_len.min(WRITE_BUFFER_LEN_MAX_IN_MEMORY);
        }
        Ok(Self {
            env: in_memory.then(Env::mem_env).transpose()?,
            // Lookups take no lock in it, unlike in the LRU cache.
            cache: Cache::new_hyper_clock_cache(options.block_cache_len, 0),
            options,
        })
    }

    pub(super) fn database(&self) -> Result<Options, rocksdb::Error> {
        let mut o = Options::default();
        let trusts = !self.options.salvages;
        if trusts {
            o = o.get_options_from_string(WITHOUT_FUNCTIONS)?;
        }
        o.create_if_missing(true);
        o.create_missing_column_families(true);
        o.set_paranoid_checks(trusts);
        // The default, point-in-time recovery, would silently go back to before an altered record: the log
        // would forget what it acknowledged. This mode takes a record that is cut off at the end of the WAL for
        // an interrupted write, and refuses everything else.
        o.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        o.set_track_and_verify_wals_in_manifest(trusts);
        o.set_db_write_buffer_size(self.options.write_buffer_len);
        o.set_max_background_jobs(2);
        // Tables are written out evenly, instead of in one burst that delays the syncs of the WAL.
        o.set_bytes_per_sync(1 << 20);
        // RocksDB's info log: warnings only, in small files.
        o.set_log_level(LogLevel::Warn);
        o.set_max_log_file_size(1 << 20);
        o.set_keep_log_file_num(2);
        o.set_stats_dump_period_sec(0);
        o.set_stats_persist_period_sec(0);
        o.set_skip_stats_update_on_db_open(true);
        o.set_max_manifest_file_size(4 << 20);
        o.set_manifest_preallocation_size(64 << 10);
        o.set_max_total_wal_size(self.options.wal_len_max);
        if let Some(env) = &self.env {
            o.set_env(env);
        }
        Ok(o)
    }

    /// Returns the settings of a column family by its name.
    pub(super) fn family(&self, name: &str) -> Options {
        let mut o = Options::default();
        if let Some(env) = &self.env {
            o.set_env(env);
        }
        o.set_disable_auto_compactions(!self.options.compacts);
        // Half of the total: if one column family takes all the writes, a second memtable can fill while the
        // first is written out.
        o.set_write_buffer_size(self.options.write_buffer_len / 2);
        o.set_target_file_size_base(16 << 20);
        o.set_compression_type(DBCompressionType::Lz4);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(4 << 10);
        table.set_format_version(6);
        // Indexes and filters count against the cache's limit, so that memory has one limit. Those of level 0
        // are pinned.
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        if name.starts_with("state_") || name.starts_with("extra_") {
            // Point lookups: a table that does not hold a name is not read (1 % false positives), and a hash
            // finds the key within its block.
            table.set_bloom_filter(10.0, false);
            table.set_optimize_filters_for_memory(true);
            table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
            // The newest data is read most and is not compressed, so that reads need not decompress it.
            o.set_compression_per_level(&[
                DBCompressionType::None,
                DBCompressionType::None,
                DBCompressionType::Lz4,
                DBCompressionType::Lz4,
                DBCompressionType::Lz4,
                DBCompressionType::Lz4,
                DBCompressionType::Lz4,
            ]);
        }
        o.set_block_based_table_factory(&table);
        o
    }
}
