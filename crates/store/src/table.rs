//! A table: the only door for changes of rows, and reads of what is durable.
//!
//! Client writes, entries of other regions, copied rows and repairs all pass here (`write`,
//! `apply`, `replace`), and each becomes one batch: rows, entries, watermarks. So the table at LSN
//! b is the table at LSN a plus the entries between, cells that expired aside.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use isthmus_model::apply::Granularity;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, TableId};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_model::schema::Schema;
use isthmus_model::show::View;
use isthmus_model::value::Text;

use crate::codec::row::decode_row;
use crate::core::Core;
use crate::counters::Counters;
use crate::engine::Space;
use crate::error::StoreError;
use crate::keys;
use crate::keys::partition::Watermark;
use crate::partition::{Partition, vector_in, watermark_in};
use crate::replaced::ReplacedValue;
use crate::snapshot::TableSnapshot;
use crate::spec::{TableSpec, Writers, Writing};
use crate::table::prefetch::{Prefetched, Wanted};

mod admin;
mod again;
mod apply;
mod atomic;
mod conflicts;
mod cuts;
mod handover;
mod life;
mod log;
mod plant;
mod prefetch;
mod prepare;
mod repair;
mod replace;
mod rewrite;
mod sweep;
mod write;

pub use atomic::Beginning;
pub use conflicts::ConflictCounts;
pub(crate) use conflicts::ConflictLog;
pub use handover::WriterWord;
pub use log::LogSlice;
pub use plant::Plant;
pub use repair::{Healed, RepairRow, Repaired};
pub use replace::{Beside, CopyDone};
pub use rewrite::{Held, MovedRow};
pub(crate) use sweep::Sweep;
pub use write::Written;

/// A table of this node.
pub struct Table {
    pub(crate) core: Arc<Core>,
    pub(crate) partition: Arc<Partition>,
}

/// What a delta of a table's entries holds.
fn granularity(spec: &TableSpec) -> Granularity {
    match spec.writers {
        Writers::ManyByColumn if spec.schema.options.rules.is_some() => Granularity::ByRule,
        Writers::One | Writers::ManyByColumn => Granularity::Change,
        Writers::ManyByRow if spec.schema.options.rules.is_some() => Granularity::WholeRowByRule,
        Writers::ManyByRow => Granularity::WholeRow,
    }
}

impl Table {
    pub(crate) fn new(core: Arc<Core>, partition: Arc<Partition>) -> Table {
        Table { core, partition }
    }

    /// Its number.
    pub fn id(&self) -> TableId {
        self.partition.table
    }

    /// Its partition.
    pub fn partition(&self) -> PartitionId {
        self.partition.id
    }

    /// What the store that holds it has done.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// Its name.
    pub fn name(&self) -> Text {
        self.partition.durable().spec.name.clone()
    }

    /// What it is, as far as durable.
    pub fn spec(&self) -> TableSpec {
        (*self.partition.durable().spec).clone()
    }

    /// Its schema, as far as durable.
    pub fn schema(&self) -> Arc<Schema> {
        self.partition.durable().schema.clone()
    }

    /// Whether it is dropped, as far as durable: clients see it no more, and its log ends here but
    /// for what other regions wrote before they heard of it.
    pub fn is_dropped(&self) -> bool {
        self.partition.durable().schema.options.is_dropped
    }

    /// Whether this region may make entries of it, so that what it promises counts: with one writer
    /// the writer does, with several each.
    pub fn makes_entries(&self) -> bool {
        let durable = self.partition.durable();
        durable.spec.writers.are_many() || durable.spec.writing == Writing::Accept
    }

    /// What a delta of its entries holds.
    pub fn granularity(&self) -> Granularity {
        granularity(&self.partition.durable().spec)
    }

    /// The newest epoch it has obeyed.
    pub fn epoch(&self) -> Epoch {
        self.partition.durable().state.epoch
    }

    /// The end of its log.
    pub fn durable_lsn(&self) -> Lsn {
        self.partition.durable().state.lsn
    }

    /// The greatest moment of any entry in its log.
    pub fn durable_hlc(&self) -> Hlc {
        self.partition.durable().state.hlc
    }

    /// Entries at or before it are gone from its log.
    pub fn log_start(&self) -> Lsn {
        self.partition.durable().state.log_start
    }

    /// Whether anything was ever appended to its log here, also where all of that is gone from it.
    pub fn has_logged(&self) -> bool {
        self.partition.log_sizes.lock().ends().1.bytes > 0
    }

    /// With several writers: its log has every entry of every origin after this LSN; at or before
    /// it some may have come as rows of a copy. With it what of each origin was applied then, if
    /// that is known still.
    pub fn log_whole_after(&self) -> (Lsn, Option<Vec<Watermark>>) {
        let whole_after = self.partition.durable().state.whole_after;
        let marks = self.partition.whole_marks.lock();
        (whole_after, (marks.0 == whole_after).then(|| marks.1.clone()))
    }

    /// What is applied of an origin.
    ///
    /// With one writer every origin stands at the end of the log. With several, an origin never
    /// heard from stands before its first entry.
    pub fn watermark(&self, origin: Origin) -> (Lsn, Hlc) {
        let durable = self.partition.durable();
        watermark_in(&durable.state, &durable.spec, self.own(), origin)
    }

    /// Whether it has what a region has written in that epoch, through that address in the region's
    /// log; durably.
    pub fn has_written(&self, origin: Origin, epoch: Epoch, lsn: Lsn) -> bool {
        let durable = self.partition.durable();
        let (applied, _) = watermark_in(&durable.state, &durable.spec, self.own(), origin);
        durable.state.epoch >= epoch && applied >= lsn
    }

    /// What is applied of every origin known of, this region among them.
    pub fn vector(&self) -> Vec<Watermark> {
        let durable = self.partition.durable();
        vector_in(&durable.state, &durable.spec, self.own())
    }

    /// What it shows of its rows at a moment.
    pub fn view(&self, now_millis: i64) -> View {
        let durable = self.partition.durable();
        View::new(&durable.schema.options, now_millis, &durable.state.expiry)
    }

    /// Says that nothing older can come: tombstones below it are forgotten as rows are rewritten
    /// and swept. Never goes back. Without meaning for a table with one writer.
    pub fn set_horizon(&self, horizon: Hlc) {
        let latest = self.core.wall_millis() + self.core.options.skew_max.as_millis() as i64;
        let spec = &self.partition.durable().spec;
        let before = self.partition.horizon(spec);
        self.partition.set_horizon(horizon, Hlc::from_millis(latest));
        if self.partition.horizon(spec) > before {
            self.core.sweeps_due.lock().insert(self.partition.id);
        }
    }

    /// Nothing older than this can come any more, as far as was said.
    pub fn horizon(&self) -> Hlc {
        self.partition.exact_horizon()
    }

    /// One row as it is durable, with its tombstones; what expired may still be in it.
    pub fn get(&self, key: &EncodedKey) -> Result<Option<Row>, StoreError> {
        let value = self.get_packed(key)?;
        value.map(|bytes| decode_row(&bytes).map_err(StoreError::corrupt("row"))).transpose()
    }

    /// As `get`, but gives the row in its packed form.
    pub fn get_packed(&self, key: &EncodedKey) -> Result<Option<Bytes>, StoreError> {
        let key = keys::row::encode_key(self.partition.id, key);
        Ok(self.core.engine.get(Space::Rows, &key)?)
    }

    /// One row as it will be when all that is accepted is durable. May read the disk.
    pub fn accepted(&self, key: &EncodedKey) -> Result<Option<Arc<Row>>, StoreError> {
        let wanted = Wanted { key: key.clone(), decoded: true };
        let read = Prefetched::read(&self.core, &self.partition, vec![wanted])?;
        let inner = self.partition.inner.lock();
        Ok(read.current(&self.core, &self.partition, &inner, key)?.row)
    }

    /// Large values that this region's own entries in `(after, to]` replaced, as far as they are
    /// kept: from the first question on, a while, in memory.
    pub fn replaced(&self, after: Lsn, to: Lsn) -> Vec<ReplacedValue> {
        self.partition.keeps_replaced.store(true, Ordering::Relaxed);
        self.core.replaced.between(self.partition.id, after, to)
    }

    /// Several rows in their packed form, in the order of `keys`, all as of one commit: of an entry
    /// that changes several of them all is seen or nothing.
    pub fn get_many_packed(&self, keys: &[EncodedKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        prefetch::read_packed(&self.core, self.partition.id, keys)
    }

    /// One moment of the table.
    pub fn snapshot(&self) -> Result<TableSnapshot, StoreError> {
        let snapshot = self.core.engine.snapshot()?;
        TableSnapshot::new(snapshot, self.own(), &self.partition.durable().spec)
    }

    fn own(&self) -> Origin {
        self.core.options.origin
    }
}
