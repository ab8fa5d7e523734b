//! What time does to a table: cells expire, and tombstones are no longer needed.
//!
//! Expiry is logged once per bucket of four hours, as a moment before which everything has
//! expired, and whenever cells begin to live longer, so that regions agree on what is gone. The
//! bytes go when a row is rewritten or the sweep comes by; the sweep changes nothing that a read
//! could show and writes no entries.
//!
//! The sweep looks at rows when there is a reason: the horizon has passed kills that rows
//! remember (`kills.rs`), an expiry was logged, or the store was opened and nobody knows. Where
//! there is none it costs nothing.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use isthmus_model::change::Direction;
use isthmus_model::entry::EntryBody;
use isthmus_model::expiry::Expiry;
use isthmus_model::family::{Families, FamilyNumber, FamilySet};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Timestamp;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{EXPIRY_BUCKET_MILLIS, Row, Trim};
use isthmus_model::schema::Schema;

use crate::digest::kills_bucket;
use crate::error::StoreError;
use crate::limits::SWEEP_ROWS;
use crate::partition::{At, Inner};
use crate::snapshot::scan_rows;
use crate::table::Table;
use crate::table::prefetch::{Prefetched, read_rows};
use crate::table::write::check_writable;

type KeyedRows = Vec<(EncodedKey, Row)>;

/// How far the sweep of a partition has come.
#[derive(Default)]
pub(crate) struct Sweep {
    running: Option<Running>,
    /// The expiries that the last whole pass went by.
    expiry: Vec<Expiry>,
}

/// What the sweep is at.
struct Running {
    rest: Rest,
    expiry: Vec<Expiry>,
    /// How many rows there are to sweep in it, at most.
    count: u64,
    /// Else it counts what the rows that it looks at still remember.
    is_counted: bool,
}

/// Rows that are still to be looked at.
enum Rest {
    /// These.
    Named(VecDeque<EncodedKey>),
    /// All from this key on.
    From(EncodedKey),
}

impl Table {
    /// Logs what has expired, if that is a new bucket and there are rows.
    pub(crate) fn expire_step(&self) -> bool {
        let durable = self.partition.durable();
        if self.expired_below(&durable.schema, &durable.state.expiry).is_empty() {
            return false;
        }
        if self.core.admit().is_err() || !self.has_rows() {
            return false;
        }
        let mut inner = self.partition.inner.lock();
        let may = check_writable(&inner).and_then(|()| self.check_speaks_for_table(&inner));
        if may.is_err() {
            return false;
        }
        let expired = self.expired_below(&inner.schema, &inner.state.expiry);
        let bytes_before = inner.part.bytes;
        for (below, spared) in &expired {
            self.log_expiry(&mut inner, *below, *spared);
        }
        if !expired.is_empty() {
            self.core.enqueue(&self.partition, &mut inner, bytes_before);
        }
        !expired.is_empty()
    }

    fn log_expiry(&self, inner: &mut Inner, below: Timestamp, spared: FamilySet) {
        let stamp = self.core.stamps.begin(self.core.wall_millis());
        inner.part.begun.push(stamp.hlc);
        let expiry = Expiry { trim: Trim { below, stamp }, spared };
        let lsn = inner.next_lsn();
        inner.push_own(lsn, stamp, None, EntryBody::Expiry(expiry));
        inner.expire(expiry, At { lsn, stamp: Some(stamp) });
    }

    /// Before cells begin to live longer: what has expired by now stays so.
    pub(crate) fn settle_expiry(&self, inner: &mut Inner, after: &Schema) {
        let before = inner.schema.clone();
        for (seconds, lives) in lifetimes(&before) {
            let lives_longer = |number: FamilyNumber| {
                // A new family takes columns that none has had.
                let is_of = lives.has(number)
                    || (lives.has(FamilyNumber::NONE)
                        && before.options.families.get(number).is_none());
                let after = after.options.time_to_live_of(number);
                is_of && after.is_none_or(|after| after > seconds)
            };
            if !after.options.families.numbers().any(lives_longer) {
                continue;
            }
            let below = Timestamp(self.core.wall_millis() - i64::from(seconds) * 1000);
            if below.0 > 0 && is_news(&inner.state.expiry, lives, below) {
                self.log_expiry(inner, below, lives.others());
            }
        }
    }

    /// The moments before which cells have expired, by the bucket, where that is not logged yet,
    /// and whose do not expire by them.
    fn expired_below(&self, schema: &Schema, logged: &[Expiry]) -> Vec<(Timestamp, FamilySet)> {
        let expired = lifetimes(schema).into_iter().filter_map(|(seconds, lives)| {
            let moment = self.core.wall_millis() - i64::from(seconds) * 1000;
            let below = Timestamp(moment - moment.rem_euclid(EXPIRY_BUCKET_MILLIS));
            (below.0 > 0 && is_news(logged, lives, below)).then_some((below, lives.others()))
        });
        expired.collect()
    }

    fn has_rows(&self) -> bool {
        let Ok(snapshot) = self.core.engine.snapshot() else { return false };
        let first = EncodedKey::default();
        scan_rows(&*snapshot, self.partition.id, &first, None, Direction::Forward).next().is_some()
    }

    /// Looks at some rows; gives whether there are more to look at.
    pub(crate) fn sweep_step(&self) -> Result<bool, StoreError> {
        self.core.admit_upkeep()?;
        let mut sweep = self.partition.sweep.lock();
        if sweep.running.is_none() {
            sweep.running = self.next_to_sweep(&sweep);
        }
        let Some(running) = &mut sweep.running else { return Ok(false) };
        let groups_finished = self.partition.groups_finished();
        let (rows, rest) = self.read_to_sweep(&running.rest)?;
        let durable = self.partition.durable();
        let horizon = self.partition.horizon(&durable.spec);
        let (expiry, families) = (&durable.state.expiry, &durable.schema.options.families);
        let (stale, kept): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(_, row)| swept(row, expiry, families, horizon) != *row);
        self.put_swept(stale, groups_finished)?;
        if !running.is_counted {
            let mut inner = self.partition.inner.lock();
            kept.iter().for_each(|(key, row)| inner.note_kills(key, row));
        }
        match rest {
            Some(rest) => running.rest = rest,
            None => {
                let expiry = std::mem::take(&mut running.expiry);
                if matches!(running.rest, Rest::From(_)) {
                    sweep.expiry = expiry;
                    self.partition.kills_counted.store(true, Ordering::Release);
                }
                sweep.running = self.next_to_sweep(&sweep);
            }
        }
        Ok(sweep.running.is_some())
    }

    /// What there is to look at now, if anything.
    fn next_to_sweep(&self, sweep: &Sweep) -> Option<Running> {
        let durable = self.partition.durable();
        let many = durable.spec.writers.are_many();
        let expiry = durable.state.expiry.clone();
        let below = kills_bucket(self.partition.horizon(&durable.spec));
        // Rows of a table with one writer are written without anything to remember.
        let rows = match many {
            true => self.partition.inner.lock().kills.take_below(below),
            false => None,
        };
        let is_uncounted = many && !self.partition.kills_counted.load(Ordering::Acquire);
        let names = rows.as_ref().and_then(|rows| rows.names.clone());
        let rest = match names {
            _ if is_uncounted || expiry != sweep.expiry => Rest::From(EncodedKey::default()),
            Some(names) => Rest::Named(names.into_iter().collect()),
            None if rows.is_some() => Rest::From(EncodedKey::default()),
            None => return None,
        };
        let count = rows.map_or(0, |rows| rows.count);
        Some(Running { rest, expiry, count, is_counted: !is_uncounted })
    }

    /// Some rows as they are durable, and what is left after them.
    fn read_to_sweep(&self, rest: &Rest) -> Result<(KeyedRows, Option<Rest>), StoreError> {
        match rest {
            Rest::Named(names) => {
                let now: Vec<EncodedKey> = names.iter().take(SWEEP_ROWS).cloned().collect();
                let rows = read_rows(&self.core, self.partition.id, &now)?;
                let rows = now.into_iter().zip(rows).filter_map(|(key, row)| Some((key, row?)));
                let later: VecDeque<EncodedKey> = names.iter().skip(SWEEP_ROWS).cloned().collect();
                Ok((rows.collect(), (!later.is_empty()).then_some(Rest::Named(later))))
            }
            Rest::From(start) => {
                let snapshot = self.core.engine.snapshot()?;
                let id = self.partition.id;
                let rows = scan_rows(&*snapshot, id, start, None, Direction::Forward);
                let mut rows: KeyedRows = rows.take(SWEEP_ROWS + 1).collect::<Result<_, _>>()?;
                let next = rows.get(SWEEP_ROWS).map(|(key, _)| Rest::From(key.clone()));
                rows.truncate(SWEEP_ROWS);
                Ok((rows, next))
            }
        }
    }

    /// How many rows wait for the sweep, at most: those that it is at, and those whose kills the
    /// horizon has passed.
    pub(crate) fn rows_to_sweep(&self) -> u64 {
        let running = self.partition.sweep.lock().running.as_ref().map_or(0, |run| run.count);
        let below = kills_bucket(self.partition.horizon(&self.partition.durable().spec));
        running + self.partition.inner.lock().kills.rows_below(below)
    }

    /// Whether rows remember kills, or may: so the horizon must move on although nothing is
    /// written.
    pub fn remembers_kills(&self) -> bool {
        self.partition.durable().spec.writers.are_many()
            && (!self.partition.kills_counted.load(Ordering::Acquire)
                || !self.partition.inner.lock().kills.is_empty())
    }

    /// Rewrites rows as they are now, without what is swept.
    fn put_swept(
        &self,
        rows: Vec<(EncodedKey, Row)>,
        groups_finished: u64,
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let nothing_read = Prefetched::read(&self.core, &self.partition, Vec::new())?;
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Ok(());
        }
        let bytes_before = inner.part.bytes;
        let horizon = self.partition.horizon(&inner.spec);
        for (key, row) in rows {
            let row = match inner.is_current(groups_finished) && !inner.is_pending(&key) {
                true => Some(row),
                false => {
                    let now = nothing_read.current(&self.core, &self.partition, &inner, &key)?;
                    now.row.map(std::sync::Arc::unwrap_or_clone)
                }
            };
            if let Some(row) = row {
                let before = inner.parts_of(&key, Some(&row));
                let families = &inner.schema.options.families;
                let row = swept(&row, &inner.state.expiry, families, horizon);
                let at = At { lsn: inner.state.lsn, stamp: None };
                inner.put_row(key, before, row, horizon, at);
            }
        }
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        Ok(())
    }
}

/// How many seconds cells live, and those of which families: one for the table and the families
/// that live as it says, families that have none yet among them, and one for each other. Those that
/// live for ever are left out.
fn lifetimes(schema: &Schema) -> Vec<(u32, FamilySet)> {
    let own = schema.options.families.with_own_time();
    let table = schema.options.time_to_live_seconds.map(|seconds| (seconds, own.others()));
    let numbers = schema.options.families.numbers().filter(|number| own.has(*number));
    let of_family = |number: FamilyNumber| {
        Some((schema.options.time_to_live_of(number)?, FamilySet::of(number)))
    };
    table.into_iter().chain(numbers.filter_map(of_family)).collect()
}

/// Whether cells of some families are not logged as expired so far.
fn is_news(logged: &[Expiry], families: FamilySet, below: Timestamp) -> bool {
    let known = logged.iter().filter(|expiry| expiry.spared.is_within(families.others()));
    known.map(|expiry| expiry.trim.below).max() < Some(below)
}

impl Inner {
    fn is_pending(&self, key: &EncodedKey) -> bool {
        matches!(self.see(key), crate::partition::Seen::Pending(..))
    }
}

fn swept(row: &Row, expiry: &[Expiry], families: &Families, horizon: Hlc) -> Row {
    let mut row = row.clone();
    for expiry in expiry {
        row.expire(&expiry.of_whole_buckets(), families);
    }
    row.purge(horizon);
    row
}
