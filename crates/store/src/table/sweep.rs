//! What time does to a table: cells expire, and tombstones are no longer needed.
//!
//! Expiry is logged once per bucket of four hours, as a moment before which everything has
//! expired, and whenever cells begin to live longer, so that regions agree on what is gone. The
//! bytes go when a row is rewritten or the sweep comes by; the sweep changes nothing that a read
//! could show and writes no entries.

use std::time::Duration;

use isthmus_model::change::Direction;
use isthmus_model::entry::EntryBody;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Timestamp;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{EXPIRY_BUCKET_MILLIS, Row, Trim};

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
        let Some(below) = self.expired_below() else { return false };
        if self.core.admit().is_err() || !self.has_rows() {
            return false;
        }
        let mut inner = self.partition.inner.lock();
        let known = inner.state.expiry.first().map(|trim| trim.below);
        let may = check_writable(&inner).and_then(|()| self.check_speaks_for_table(&inner));
        if may.is_err() || known >= Some(below) {
            return false;
        }
        let bytes_before = inner.part.bytes;
        self.log_expiry(&mut inner, below);
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        true
    }

    fn log_expiry(&self, inner: &mut Inner, below: Timestamp) {
        let stamp = self.core.stamps.begin(self.core.wall_millis());
        inner.part.begun.push(stamp.hlc);
        let trim = Trim { below, stamp };
        let lsn = inner.next_lsn();
        inner.push_own(lsn, stamp, EntryBody::Expiry(trim));
        inner.expire(trim, At { lsn, stamp: Some(stamp) });
    }

    /// Before cells begin to live longer: what has expired by now stays so.
    pub(crate) fn settle_expiry(&self, inner: &mut Inner, seconds: u32) {
        let below = Timestamp(self.core.wall_millis() - i64::from(seconds) * 1000);
        let known = inner.state.expiry.first().map(|trim| trim.below);
        if below.0 > 0 && known < Some(below) {
            self.log_expiry(inner, below);
        }
    }

    /// The moment before which cells have expired, by the bucket; `None`: never, or logged.
    fn expired_below(&self) -> Option<Timestamp> {
        let durable = self.partition.durable();
        let seconds = durable.schema.options.time_to_live_seconds?;
        let moment = self.core.wall_millis() - i64::from(seconds) * 1000;
        let below = Timestamp(moment - moment.rem_euclid(EXPIRY_BUCKET_MILLIS));
        let known = durable.state.expiry.first().map(|trim| trim.below);
        (below.0 > 0 && known < Some(below)).then_some(below)
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
        let expiry = self.partition.durable().state.expiry.clone();
        let swept: Vec<(EncodedKey, Row)> = rows
            .into_iter()
            .take(SWEEP_ROWS)
            .filter(|(_, row)| swept(row, &expiry, goal.1) != *row)
            .collect();
        self.put_swept(swept, groups_finished)?;
        if sweep.next.is_none() {
            sweep.goal = None;
            sweep.done = Some((goal, self.core.clock.monotonic()));
        }
        Ok(sweep.next.is_some())
    }

    /// What the running pass goes by, or a new one if there is a reason for it.
    fn sweep_goal(&self, sweep: &mut Sweep) -> Option<(Option<Trim>, Hlc)> {
        if sweep.goal.is_some() {
            return sweep.goal;
        }
        let durable = self.partition.durable();
        let expiry = durable.state.expiry.first().copied();
        let goal = (expiry, self.partition.horizon(&durable.spec));
        // Rows of a table with one writer are written without anything to remember.
        let nothing_to_do = expiry.is_none() && !durable.spec.writers.are_many();
        let too_soon = sweep.done.is_some_and(|(done, when)| {
            done == goal || self.core.clock.monotonic() < when + SWEEP_PAUSE
        });
        if nothing_to_do || too_soon {
            return None;
        }
        sweep.goal = Some(goal);
        sweep.goal
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
                let row = swept(&row, &inner.state.expiry, horizon);
                let at = At { lsn: inner.state.lsn, stamp: None };
                inner.put_row(key, before, row, horizon, at);
            }
        }
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        Ok(())
    }
}

impl Inner {
    fn is_pending(&self, key: &EncodedKey) -> bool {
        matches!(self.see(key), crate::partition::Seen::Pending(..))
    }
}

fn swept(row: &Row, expiry: &[Trim], horizon: Hlc) -> Row {
    let mut row = row.clone();
    for trim in expiry {
        row.expire(&trim.of_whole_buckets());
    }
    row.purge(horizon);
    row
}
