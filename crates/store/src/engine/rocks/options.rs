//! How RocksDB is set up, and why.

use std::path::Path;
use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    Options, WriteBufferManager,
};

use crate::engine::Space;
use crate::engine::rocks::family_name;
use crate::engine::rocks::trim::{LogFilters, Trims};

const MIB: usize = 1024 * 1024;

/// What may be chosen.
#[derive(Clone, Debug)]
pub struct RocksOptions {
    /// Blocks, indexes, filters and write buffers together, in bytes.
    pub memory_bytes: usize,
    /// Threads for flushing and merging.
    pub background_jobs: u16,
    /// Files kept open at most.
    pub open_files_max: u16,
}

impl Default for RocksOptions {
    fn default() -> RocksOptions {
        RocksOptions { memory_bytes: 200 * MIB, background_jobs: 2, open_files_max: 512 }
    }
}

/// What to do about a damaged record at the end of the write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Refuse it, but for a file that merely ends too early.
    Strict,
    /// Drop it: it was looked at, and nothing follows.
    Torn,
}

/// Values from this size on are kept aside, so that merging does not rewrite them over and over.
const BLOB_BYTES_MIN: u64 = 8 * 1024;
/// Bits of a filter per row. Each batch of new rows asks every file of rows for each of them, and
/// where one says wrongly that it may have a row, a block is read: of 1 % with 10 bits, of 0.2 %
/// with these.
const ROW_FILTER_BITS: f64 = 14.0;
/// A file is merged soon if of so many keys in a row half are deletions, or of all so great a
/// part: what they delete is given back, and readers need not step over them.
const DELETIONS_WINDOW: usize = 4096;
const DELETIONS_SHARE: f64 = 0.3;
/// Log files are merged at least so often, so that trimmed records go even from a quiet log.
const LOG_REWRITE_SECONDS: u64 = 24 * 3600;

pub(super) fn open(
    folder: &Path,
    options: &RocksOptions,
    trims: &Arc<Trims>,
    tail: Tail,
) -> Result<DB, rocksdb::Error> {
    let cache = Cache::new_lru_cache(options.memory_bytes);
    let whole = database(options, &cache, tail);
    let families = Space::ALL.map(|space| {
        ColumnFamilyDescriptor::new(
            family_name(space),
            column_family(space, options, &cache, trims),
        )
    });
    DB::open_cf_descriptors(&whole, folder, families)
}

fn database(options: &RocksOptions, cache: &Cache, tail: Tail) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_paranoid_checks(true);
    // Strict is at odds with recycled log files, whose old ends look like damage. What recycling
    // would save on a sync is not worth an acknowledged write that is dropped in silence.
    db.set_wal_recovery_mode(match tail {
        Tail::Strict => DBRecoveryMode::TolerateCorruptedTailRecords,
        Tail::Torn => DBRecoveryMode::PointInTime,
    });
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_max_background_jobs(i32::from(options.background_jobs));
    db.set_max_open_files(i32::from(options.open_files_max));
    // Write buffers are charged to the cache, so that one bound holds for all memory.
    let buffers = options.memory_bytes / 3;
    db.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
        buffers,
        false,
        cache.clone(),
    ));
    // A quiet column family must not hold back old log files for ever.
    db.set_max_total_wal_size((buffers * 2) as u64);
    db.set_bytes_per_sync(MIB as u64);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(4 * MIB);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db
}

fn column_family(
    space: Space,
    options: &RocksOptions,
    cache: &Cache,
    trims: &Arc<Trims>,
) -> Options {
    let mut family = Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    table.set_block_size(16 * 1024);
    family.set_level_compaction_dynamic_level_bytes(true);
    let buffer = (options.memory_bytes / 12).clamp(MIB, 64 * MIB);
    match space {
        Space::Rows => {
            table.set_bloom_filter(ROW_FILTER_BITS, false);
            table.set_block_size(8 * 1024);
            family.set_write_buffer_size(buffer);
            // Most rows that are looked up before they are written are not in memory.
            family.set_memtable_whole_key_filtering(true);
            family.set_memtable_prefix_bloom_ratio(0.02);
            family.set_compression_type(DBCompressionType::Lz4);
            family.set_enable_blob_files(true);
            family.set_min_blob_size(BLOB_BYTES_MIN);
            family.set_blob_compression_type(DBCompressionType::Lz4);
            family.set_enable_blob_gc(true);
            family.set_target_file_size_base(32 * MIB as u64);
        }
        Space::Log => {
            family.set_write_buffer_size(buffer);
            // Small files, as only whole ones are dropped at once.
            family.set_compression_type(DBCompressionType::Lz4);
            family.set_target_file_size_base(16 * MIB as u64);
            family.set_periodic_compaction_seconds(LOG_REWRITE_SECONDS);
            family.set_compaction_filter_factory(LogFilters::new(trims.clone()));
        }
        Space::Meta => {
            table.set_bloom_filter(10.0, false);
            family.set_write_buffer_size(MIB);
            family.set_compression_type(DBCompressionType::Lz4);
        }
    }
    if space != Space::Log {
        let most = DELETIONS_WINDOW / 2;
        family.add_compact_on_deletion_collector_factory(DELETIONS_WINDOW, most, DELETIONS_SHARE);
    }
    family.set_block_based_table_factory(&table);
    family
}
