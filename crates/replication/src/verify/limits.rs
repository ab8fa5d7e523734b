//! Bounds of comparing: what may be asked, answered and kept.

use std::time::Duration;

/// Sessions of one node at once. Each keeps a snapshot of the engine.
pub const SESSIONS_MAX: usize = 8;
/// A session of which nothing was asked for so long ends.
pub const SESSION_IDLE_MAX: Duration = Duration::from_secs(60);
/// With several writers: tables are compared as of their safe time, unless it is older than this.
pub const SAFE_AGE_MAX: Duration = Duration::from_secs(60);
/// With several writers: who compares waits a while for a safe time that is older than this, as
/// when a region has just come back; else what was written since would not be compared. Regions
/// promise once a second.
pub const SAFE_AGE_WAITED: Duration = Duration::from_secs(2);
/// How long is waited for that.
pub const SAFE_WAIT: Duration = Duration::from_secs(5);
/// Bytes of an encoded question.
pub const QUESTION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of an encoded answer. One row may be larger than what an answer aims at.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of rows that an answer aims at.
pub const ANSWER_ROW_BYTES: usize = 4 * 1024 * 1024;
/// Symbols of a sketch in one answer.
pub const SYMBOLS_MAX: usize = 32_768;
/// Places of symbols and fingerprints that can be asked for.
pub const FROM_MAX: u32 = 1 << 20;
/// Symbols over leaves that are asked for first.
pub const FIRST_SYMBOLS: u32 = 64;
/// Symbols over coarse ranges that come with the opening.
pub const COARSE_SYMBOLS: u32 = 64;
/// Leaves that are told one by one.
pub const LEAVES_TOLD_MAX: usize = 4096;
/// Bytes of their keys.
pub const LEAVES_TOLD_KEY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Rows that are told at once where leaves were laid beside each other.
pub const LAID_ROWS_MAX: u64 = 256;
/// Bytes of rows that were selected and are kept, so that they need not be read again.
pub const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Leaves in one question.
pub const LEAVES_MAX: usize = 32_768;
/// Fingerprints of rows in one question or answer.
pub const FINGERPRINTS_MAX: usize = 65_536;
/// Rows in one answer.
pub const ROWS_MAX: usize = 4096;
/// Coarse ranges in one answer.
pub const COARSE_RANGES_MAX: usize = 4096;
/// Lanes told one by one; more are told as one sum.
pub const LANES_MAX: usize = 64;
/// Parts of rows that a session has selected at once.
pub const SELECTED_MAX: usize = 262_144;
/// Leaves with wrong sums told in one answer.
pub const WRONG_LEAVES_MAX: usize = 256;
/// Bytes of an encoded key, generously.
pub const KEY_BYTES_MAX: usize = 16 * 1024;
/// Regions in a vector.
pub const ORIGINS_MAX: usize = 256;
/// Ranges of a table of which it is told since when they were last read from disk.
pub const SCRUBBED_RANGES_MAX: usize = 256;
/// Expiries that are logged: none covers another, so there are few per family.
pub const EXPIRIES_MAX: usize = 1024;

/// Coarse ranges of either side that differ, up to which their leaves are told one by one.
pub const FEW_RANGES: usize = 2;
/// Leaves of either side that differ, up to which they are told one by one.
pub const FEW_LEAVES: usize = 32;
/// Leaves that differ, from which on both sides read their rows at one time.
pub const MANY_LEAVES: usize = 2048;
/// Symbols tried over the whole table, before it is walked range by range.
pub const WHOLE_SYMBOLS_MAX: usize = 16_384;
/// Leaves compared at once in a walk.
pub const WINDOW_LEAVES: u64 = 8192;
/// Parts of rows compared at once where leaves are of no use.
pub const RANGE_ROWS: u32 = 65_536;
/// How long a walk goes on with one cut.
pub const CUT_AGE_MAX: Duration = Duration::from_secs(30);
/// Rows that wait to be looked at again.
pub const AGAIN_MAX: usize = 65_536;
/// Times that a row is looked at again.
pub const ROUNDS_MAX: u32 = 6;
/// Ranges named in a report.
pub const REPORT_RANGES_MAX: usize = 64;
/// Rows that differ, after which a comparison ends; it can be resumed there.
pub const ROWS_COUNTED_MAX: usize = 4_000_000;
/// Rows looked at at once.
pub const CHUNK_ROWS: usize = 2048;
