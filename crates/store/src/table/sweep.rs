//! What time does to a table: cells expire, and tombstones are no longer needed.
//!
//! Expiry is logged once per bucket of four hours, as a moment before which everything has
//! expired, and whenever cells begin to live longer, so that regions agree on what is gone. The
//! bytes go when a row is rewritten or the sweep comes by; the sweep changes nothing that a read
//! could show and writes no entries.

use std::time::Duration;

use isthmus_model::change::Direction;
use isthmus_model::entry::EntryBody;
use isthmus_model::expiry::Expiry;
use isthmus_model::family::{Families, FamilyNumber, FamilySet};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Timestamp;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{EXPIRY_BUCKET_MILLIS, Row, Trim};
use isthmus_model::schema::Schema;

use crate::error::StoreError;
use crate::limits::SWEEP_ROWS;
use crate::partition::{At, Inner, Sweep};
use crate::snapshot::scan_rows;
use crate::table::Table;
use crate::table::prefetch::Prefetched;
use crate::table::write::check_writable;

/// At least this lies between two passes over a table.
const SWEEP_PAUSE: Duration = Duration::from_secs(600);

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
        inner.push_own(lsn, stamp, EntryBody::Expiry(expiry));
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

    /// Looks at some rows; gives whether more of this pass are left.
    pub(crate) fn sweep_step(&self) -> Result<bool, StoreError> {
        self.core.admit()?;
        let mut sweep = self.partition.sweep.lock();
        let Some(goal) = self.sweep_goal(&mut sweep) else { return Ok(false) };
        let groups_finished = self.partition.groups_finished();
        let snapshot = self.core.engine.snapshot()?;
        let start = sweep.next.clone().unwrap_or_default();
        let id = self.partition.id;
        let rows = scan_rows(&*snapshot, id, &start, None, Direction::Forward);
        let rows: Vec<(EncodedKey, Row)> = rows.take(SWEEP_ROWS + 1).collect::<Result<_, _>>()?;
        sweep.next = rows.get(SWEEP_ROWS).map(|(key, _)| key.clone());
        let durable = self.partition.durable();
        let (expiry, families) = (&durable.state.expiry, &durable.schema.options.families);
        let swept: Vec<(EncodedKey, Row)> = rows
            .into_iter()
            .take(SWEEP_ROWS)
            .filter(|(_, row)| swept(row, expiry, families, goal.1) != *row)
            .collect();
        self.put_swept(swept, groups_finished)?;
        if sweep.next.is_none() {
            sweep.goal = None;
            sweep.done = Some((goal, self.core.clock.monotonic()));
        }
        Ok(sweep.next.is_some())
    }

    /// What the running pass goes by, or a new one if there is a reason for it.
    fn sweep_goal(&self, sweep: &mut Sweep) -> Option<(Vec<Expiry>, Hlc)> {
        if sweep.goal.is_some() {
            return sweep.goal.clone();
        }
        let durable = self.partition.durable();
        let goal = (durable.state.expiry.clone(), self.partition.horizon(&durable.spec));
        // Rows of a table with one writer are written without anything to remember.
        let nothing_to_do = goal.0.is_empty() && !durable.spec.writers.are_many();
        let too_soon = sweep.done.as_ref().is_some_and(|(done, when)| {
            *done == goal || self.core.clock.monotonic() < *when + SWEEP_PAUSE
        });
        if nothing_to_do || too_soon {
            return None;
        }
        sweep.goal = Some(goal.clone());
        Some(goal)
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
