//! RocksDB's options from ours. It must never let two families share anything but the cache.

use super::filter::GcFilterFactory;
use crate::config::EngineConfig;
use crate::engine::{Cf, VERSION_BYTES};
use rocksdb::statistics::StatsLevel;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel,
    Options, SliceTransform,
};

/// Blocks of a scan are read whole, so larger ones cost a point read and save an index.
const BLOCK_BYTES: usize = 16 << 10;
/// Bits per key: about one false positive in a hundred.
const BLOOM_BITS: f64 = 10.0;
/// Share of a write buffer that the filter of its keys may take.
const BUFFER_BLOOM: f64 = 0.02;
/// RocksDB's own text log. Bytes a file, and how many files.
const TEXT_LOG_BYTES: usize = 4 << 20;
const TEXT_LOGS: usize = 2;
/// A file in which this many of a window of keys are deletes is compacted.
const DELETES_WINDOW: usize = 1024;
const DELETES_TRIGGER: usize = 512;

/// What RocksDB is opened with.
pub(super) struct All {
    pub database: Options,
    pub families: Vec<ColumnFamilyDescriptor>,
    /// For files that are written beside the database, in the order of [`Cf::ALL`].
    pub files: [Options; 4],
}

/// Options of the database and of each family; `filter` goes to the write family.
pub(super) fn of(config: &EngineConfig, filter: GcFilterFactory) -> All {
    let mut database = Options::default();
    of_database(&mut database, config);
    let cache = cache(config);
    let files = Cf::ALL.map(|cf| family(cf, config, &cache));
    let mut filter = Some(filter);
    let families = Cf::ALL.map(|cf| {
        let mut options = family(cf, config, &cache);
        if cf == Cf::Write
            && let Some(filter) = filter.take()
        {
            options.set_compaction_filter_factory(filter);
        }
        ColumnFamilyDescriptor::new(cf.name(), options)
    });
    All { database, families: families.into(), files }
}

/// The same for a database of one family that is asked for whole keys and keeps every version.
pub(super) fn of_peer(config: &EngineConfig) -> Options {
    let mut options = family(Cf::Default, config, &cache(config));
    of_database(&mut options, config);
    options
}

fn cache(config: &EngineConfig) -> Cache {
    Cache::new_lru_cache(config.block_cache_bytes as usize)
}

fn of_database(database: &mut Options, config: &EngineConfig) {
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    database.set_atomic_flush(true);
    of_threads(database, config.background_threads as i32);
    database.set_max_open_files(config.open_files_max as i32);
    database.set_db_write_buffer_size(2 * config.write_buffer_bytes as usize);
    database.set_bytes_per_sync(1 << 20);
    database.set_keep_log_file_num(TEXT_LOGS);
    database.set_max_log_file_size(TEXT_LOG_BYTES);
    database.set_log_level(LogLevel::Warn);
    database.set_stats_dump_period_sec(0);
    // The first record that is not whole ends the log, and every log after it: of pages that were not
    // synced any may be missing, and a record behind them must not be taken.
    database.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    database.enable_statistics();
    database.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
}

/// One flush at a time, the rest compacts: of two flushes that write all families at once, one would
/// wait for ever for the other to be repeated if that found no space (RocksDB 11.8), and the engine
/// could not be closed.
#[expect(deprecated, reason = "left to itself, RocksDB flushes with a quarter of the threads")]
fn of_threads(database: &mut Options, threads: i32) {
    database.set_max_background_flushes(1);
    database.set_max_background_compactions((threads - 1).max(1));
}

/// A key without its version.
fn unversioned(key: &[u8]) -> &[u8] {
    &key[..key.len() - VERSION_BYTES]
}

fn is_versioned(key: &[u8]) -> bool {
    key.len() >= VERSION_BYTES
}

fn family(cf: Cf, config: &EngineConfig, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(BLOCK_BYTES);
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(BLOOM_BITS, false);
    let mut options = Options::default();
    if cf == Cf::Write {
        // Write records are sought by their key without the version, never got by their whole key.
        table.set_whole_key_filtering(false);
        let prefix = SliceTransform::create("damask.unversioned", unversioned, Some(is_versioned));
        options.set_prefix_extractor(prefix);
        options.set_memtable_prefix_bloom_ratio(BUFFER_BLOOM);
    }
    let (buffer, buffers) = match cf {
        Cf::Default | Cf::Write => (config.write_buffer_bytes, 3),
        Cf::Lock | Cf::Meta => (config.small_write_buffer_bytes, 2),
    };
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(buffer as usize);
    options.set_max_write_buffer_number(buffers);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(config.file_bytes);
    options.set_max_bytes_for_level_base(8 * config.file_bytes);
    options.set_level_zero_slowdown_writes_trigger(20);
    options.set_level_zero_stop_writes_trigger(36);
    if cf != Cf::Meta {
        // Locks are removed soon after they are set, versions by GC.
        options.add_compact_on_deletion_collector_factory(DELETES_WINDOW, DELETES_TRIGGER, 0.5);
    }
    options
}
