//! Reads as of cuts: up to which moment a replica has everything, and waiting for that.
//!
//! A cut that is at or before the safe time of a table shows exactly all entries below it, of all
//! origins, in whichever region it is read. What rows were at the cut is kept in memory from the
//! first such read on (`store::past`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Origin;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::receive::Assignments;
use isthmus_store::{StoreError, Table, Watermark};
use prost::Message;

use super::Node;
use crate::api_error::ApiError;
use crate::peer::call::{Moments, MomentsTold};
use crate::status::{OriginStatus, ViewStatus};

/// How long a read waits for its cut to become safe. Promises come once a second per hop.
const WAIT_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A cut stays readable for so long after it was the safe time, memory allowing.
const KEPT_FOR: Duration = Duration::from_secs(120);

impl Node {
    /// Everything of every origin below it is durable here, and nothing below it will come.
    pub(crate) fn safe_to_read(&self, table: &Table) -> Hlc {
        if table.spec().writers.are_many() && self.record(table.id()).is_none() {
            // Nobody knows who else writes.
            return Hlc::MIN;
        }
        if self.may_be_put_back(table) {
            return Hlc::MIN;
        }
        let others = self.other_writers(table.partition());
        self.shared.safe_times.safe_to_read(table, &others, self.store.promise())
    }

    /// Whether nothing is missing here that was written longer ago than `bound`, in the region
    /// that writes the table; where several do, it is an error if anything is.
    pub(crate) fn is_recent(&self, table: &Arc<Table>, bound: Duration) -> Result<bool, ApiError> {
        if table.makes_entries() && self.needs_lease(table) && !self.is_leased() {
            // Another region may write by now, of which nothing has been heard here.
            return Ok(false);
        }
        let bound = i64::try_from(bound.as_millis()).unwrap_or(i64::MAX);
        let wanted = Hlc::from_millis(self.clock.wall_millis().saturating_sub(bound).max(0));
        let safe = self.safe_to_read(table);
        match safe >= wanted {
            true => Ok(true),
            false if table.spec().writers.are_many() => {
                Err(self.not_safe(std::slice::from_ref(table), wanted, safe))
            }
            false => Ok(false),
        }
    }

    /// The moment as of which these tables are read, once they can be: `at`, or the newest that is
    /// safe.
    pub(crate) async fn cut(
        &self,
        tables: &[Arc<Table>],
        at: Option<Hlc>,
    ) -> Result<Hlc, ApiError> {
        tables.iter().for_each(|table| table.keep_past());
        let began = self.clock.monotonic();
        loop {
            let safe = tables.iter().map(|table| self.safe_to_read(table)).fold(Hlc::MAX, Hlc::min);
            let floor = tables.iter().map(|table| table.past_floor().unwrap_or(Hlc::MAX));
            let floor = floor.fold(Hlc::MIN, Hlc::max);
            let cut = match at {
                None => safe.max(floor),
                Some(cut) if cut < floor => {
                    return Err(StoreError::CutGone { cut, floor }.into());
                }
                Some(cut) => cut,
            };
            if cut <= safe {
                return Ok(cut);
            }
            let waited = self.clock.monotonic().saturating_sub(began);
            let is_far = cut.millis() > self.clock.wall_millis() + WAIT_MAX.as_millis() as i64;
            if waited >= WAIT_MAX || is_far {
                return Err(self.not_safe(tables, cut, safe));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// As of which moments a table can be read here: the first and the last one. From now on what
    /// that needs is kept.
    pub(crate) fn moments(&self, table: &Table) -> MomentsTold {
        table.keep_past();
        let from = table.past_floor().unwrap_or(Hlc::MAX).0;
        MomentsTold { from, safe: self.safe_to_read(table).0 }
    }

    /// Tells another region as of which moments a partition can be read here.
    pub(super) fn on_moments(&self, asked: &Moments) -> Result<Bytes, ApiError> {
        let table = self.readable(&asked.table)?;
        Ok(self.moments(&table).encode_to_vec().into())
    }

    fn not_safe(&self, tables: &[Arc<Table>], cut: Hlc, safe: Hlc) -> ApiError {
        let last = tables.iter().min_by_key(|table| self.safe_to_read(table));
        let held_back = last.and_then(|table| self.held_back_by(table));
        let held_back = held_back.map(|(region, hlc)| {
            format!(
                " Region {region} has promised nothing after {hlc}: is it away, or its link late?"
            )
        });
        let message = format!(
            "Server is not available. Not everything before {cut} is here yet, the safe time is \
             {safe}; what was overwritten between them is not kept.{} Ask again later, or in \
             another region.",
            held_back.unwrap_or_default()
        );
        ApiError::new(ErrorCode::ServerUnavailable, message)
    }

    /// The region that holds back a safe time, and up to where it was heard of.
    fn held_back_by(&self, table: &Table) -> Option<(String, Hlc)> {
        let origins = self.origins_of(table).into_iter();
        let (origin, hlc) = origins.min_by_key(|(_, hlc)| *hlc)?;
        Some((self.name_of(origin), hlc))
    }

    /// The other regions that make entries of a table, and below which moment all of each is here.
    fn origins_of(&self, table: &Table) -> Vec<(Origin, Hlc)> {
        let spec = table.spec();
        let origins = match (spec.writers.are_many(), table.makes_entries()) {
            (true, _) => self.other_writers(spec.partition),
            (false, true) => Vec::new(),
            (false, false) => vec![spec.writer],
        };
        let heard = |origin| {
            let promised = self.shared.safe_times.safe(spec.partition, &[origin], Hlc::MAX);
            let applied = table.watermark(origin).1;
            (origin, if spec.writers.are_many() { promised } else { promised.max(applied.next()) })
        };
        origins.into_iter().map(heard).collect()
    }

    /// How far a table can be read as of a moment, and what it has of each origin.
    pub(super) fn view_status(&self, table: &Table) -> ViewStatus {
        let heard = self.origins_of(table);
        let millis = |hlc: Hlc| (hlc > Hlc::MIN).then(|| hlc.millis());
        let origin = |mark: Watermark| OriginStatus {
            region: self.name_of(mark.origin),
            lsn: mark.lsn.0,
            at_ms: millis(mark.hlc),
            safe_ms: heard
                .iter()
                .find(|(origin, _)| *origin == mark.origin)
                .and_then(|(_, hlc)| millis(*hlc)),
        };
        let safe = self.safe_to_read(table);
        ViewStatus {
            safe: safe.to_string(),
            safe_ms: safe.millis(),
            readable_from: table.past_floor().map(|floor| floor.to_string()),
            origins: table.vector().into_iter().map(origin).collect(),
        }
    }

    /// Lets go of what is kept for cuts that are not read any more.
    pub(super) fn release_pasts(&self) {
        for table in self.store.tables() {
            if table.past_floor().is_some() {
                let safe = self.safe_to_read(&table);
                table.release_past(Hlc::from_millis(safe.millis() - KEPT_FOR.as_millis() as i64));
            }
        }
    }
}
