//! Bounds of the store.

use std::time::Duration;

/// Entries of one log record, before compression: a record is closed once it is this large, so
/// that what is shipped at once stays small.
pub const LOG_RECORD_BYTES: usize = 1024 * 1024;
/// A log record that claims more than this before compression is damaged. One entry can be as
/// large as the largest atomic write with its keys and names.
pub const LOG_RECORD_RAW_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that wait for the committer, by default; more is refused as busy.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Newest log records kept in memory, by default, over all partitions.
pub const LOG_TAIL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What of rows written lately is in the digest, by default: 400 000 rows.
pub const PARTS_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// A value of so many bytes is shipped as what has changed in it, where that can be.
pub const LARGE_VALUE_BYTES: usize = 16 * 1024;
/// Large values that were replaced a moment ago, by default, over all partitions.
pub const REPLACED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What rows were before they changed, by default, over all partitions that are read as of cuts.
pub const PAST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A partition that nobody has read as of a cut for so long keeps nothing any more.
pub const PAST_IDLE: Duration = Duration::from_secs(600);
/// Changed rows looked up at once by a scan as of a cut.
pub const CHANGED_ROWS: usize = 256;
/// Room kept free on the disk, by default, so that trimming can still write.
pub const SPACE_RESERVE_BYTES: u64 = 256 * 1024 * 1024;
/// How far an origin's clock may be ahead, by default.
pub const SKEW_MAX: Duration = Duration::from_millis(500);
/// How far ahead of the clock its durable bound is put. After a crash the clock starts there.
pub const CEILING_MARGIN: Duration = Duration::from_secs(2);
/// Ids reserved at a time.
pub const ID_BLOCK: u64 = 4096;
/// Ids left out where an old disk was put back.
pub const IDS_LEFT_OUT: u64 = 1 << 24;
/// Changes of one call to `Table::write`.
pub const WRITE_CHANGES_MAX: usize = 1000;
/// Rows of one chunk given to `Table::replace_range`.
pub const REPLACE_ROWS_MAX: usize = 100_000;
/// Bytes of the name of a note.
pub const NOTE_NAME_BYTES_MAX: usize = 1024;
/// Bytes of a note.
pub const NOTE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of prepared changes kept of one table.
pub const PREPARED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the intents of one table.
pub const INTENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of the decisions of one table that are not forgotten. With the intents, whose rows are in
/// their requests and once more as keys, they go in one frame of a copy.
pub const DECIDED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Conflicts kept of one table.
pub const CONFLICTS_MAX: usize = 10_000;
/// Bytes of the conflicts kept of one table.
pub const CONFLICT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The engine is told to forget log records in steps of this many entries.
pub const FORGET_STEP: u64 = 1024;
/// Rows of one table looked at in one step of the sweep.
pub const SWEEP_ROWS: usize = 500;
/// Tables swept in one step.
pub const SWEEP_TABLES: usize = 64;
/// Records taken from the engine by one `read_log`.
pub const LOG_SLICE_RECORDS_MAX: usize = 4096;
