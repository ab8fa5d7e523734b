//! Giving back what was deleted, where RocksDB would do so only by chance.
//!
//! While much is written it merges files anyway, and files full of deletions are marked to go
//! first (`options.rs`). What stays behind when nothing comes any more is looked after here: the
//! write-ahead log of what is deleted by now, the newest files of change logs, of which only a
//! merge removes what was trimmed, and rows that are overwritten by the newest files, as those are
//! of which a tombstone is left.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rocksdb::{CompactOptions, DB};

use crate::engine::rocks::{RocksEngine, failed, family, family_name};
use crate::engine::{EngineError, Space};

/// Less than this written since the last look counts as quiet.
const QUIET_BYTES: u64 = 256 * 1024;
/// Memory is written to files, so that the write-ahead log goes, if so much was written,
const FLUSH_BYTES: u64 = 4 * 1024 * 1024;
/// or more than `QUIET_BYTES`, after so many looks in which it was quiet.
const FLUSH_LOOKS: u32 = 12;
/// Logs are merged if they hold no more than this many times what is not merged yet,
const LOG_FACTOR: u64 = 4;
/// or than this in any case.
const LOG_BYTES: u64 = 64 * 1024 * 1024;
/// Rows are merged if they hold no more than this many times what is not merged yet.
const ROWS_FACTOR: u64 = 16;

/// What was written and trimmed since it was last looked.
#[derive(Default)]
pub(super) struct Tidying {
    written: AtomicU64,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    /// Bytes written when it was last looked.
    seen: u64,
    /// Bytes written when memory was last written to files here.
    flushed: u64,
    /// Looks in a row in which it was quiet.
    quiet: u32,
    /// Logs were trimmed, or files made.
    merges: bool,
}

impl Tidying {
    /// A batch of so many bytes was committed.
    pub(super) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A log was trimmed.
    pub(super) fn trimmed(&self) {
        self.last.lock().merges = true;
    }
}

impl RocksEngine {
    /// Does one thing to give back room, if nothing much was written since the last call. To be
    /// called every few seconds; blocks while files are written.
    pub fn tidy_step(&self) -> Result<(), EngineError> {
        let db = self.db()?;
        let written = self.tidying.written.load(Ordering::Relaxed);
        let (flushes, merges) = {
            let mut last = self.tidying.last.lock();
            let grown = written - std::mem::replace(&mut last.seen, written);
            if grown > QUIET_BYTES {
                last.quiet = 0;
                return Ok(());
            }
            last.quiet = last.quiet.saturating_add(1);
            let unflushed = written - last.flushed;
            let flushes =
                unflushed > FLUSH_BYTES || (unflushed > QUIET_BYTES && last.quiet >= FLUSH_LOOKS);
            if flushes {
                (last.flushed, last.merges) = (written, true);
            }
            let merges = !flushes && std::mem::take(&mut last.merges);
            (flushes, merges)
        };
        if flushes {
            for space in Space::ALL {
                db.flush_cf(family(&db, space)?).map_err(|error| failed(&error))?;
            }
        }
        if merges {
            merge_newest(&db, Space::Log, |unmerged| (unmerged * LOG_FACTOR).max(LOG_BYTES))?;
            merge_newest(&db, Space::Rows, |unmerged| unmerged * ROWS_FACTOR)?;
        }
        Ok(())
    }
}

/// Merges the newest files of a space with what they overlap, unless there is more in it than is
/// to be merged for so much.
fn merge_newest(db: &DB, space: Space, most: impl Fn(u64) -> u64) -> Result<(), EngineError> {
    let files = db.live_files().map_err(|error| failed(&error))?;
    let of_space = || files.iter().filter(|f| f.column_family_name == family_name(space));
    let newest = || of_space().filter(|file| file.level == 0);
    let total: u64 = of_space().map(|file| file.size as u64).sum();
    let unmerged: u64 = newest().map(|file| file.size as u64).sum();
    let start = newest().filter_map(|file| file.start_key.as_ref()).min();
    let end = newest().filter_map(|file| file.end_key.as_ref()).max();
    if unmerged == 0 || total > most(unmerged) {
        return Ok(());
    }
    let mut options = CompactOptions::default();
    options.set_exclusive_manual_compaction(false);
    db.compact_range_cf_opt(family(db, space)?, start, end, &options);
    Ok(())
}
