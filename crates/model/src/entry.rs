//! What was committed: one entry of a partition's change log.

use crate::atomic::{BatchId, BatchMark, Intent};
use crate::commit::{Term, TxId};
use crate::expiry::Expiry;
use crate::hlc::Stamp;
use crate::ids::{Epoch, Lsn, Origin, SchemaNumber};
use crate::key::EncodedKey;
use crate::row::Row;
use crate::schema::Schema;

/// An entry of the change log. It holds results, never conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Address in the log of the region that holds it.
    pub lsn: Lsn,
    /// Epoch under which its origin made it.
    pub epoch: Epoch,
    /// When and where it was first accepted.
    pub stamp: Stamp,
    /// Address in its origin's log.
    pub origin_lsn: Lsn,
    /// The schema it was judged under.
    pub schema: SchemaNumber,
    /// With several writers: what its origin had applied of each other origin when it made it.
    /// `None`: it does not tell.
    pub seen: Option<Vec<Stamp>>,
    /// With one writer: the change that had been prepared and became this entry.
    pub tx: Option<TxId>,
    /// With one writer, of rows: what it is to a batch of several partitions.
    pub batch: Option<BatchMark>,
    /// What changed.
    pub body: EntryBody,
}

/// What an entry changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryBody {
    /// Rows, together or not at all.
    Rows(Vec<RowDelta>),
    /// The table's schema, from here on.
    Schema(Schema),
    /// Cells of all rows of the partition that had expired.
    Expiry(Expiry),
    /// With one writer: the last entry of an epoch. Another region writes from here on.
    Handover(Handover),
    /// With one writer: the first entry of an epoch, made by the region that writes in it.
    Opening,
    /// With one writer: what was prepared in earlier terms and is not in the log before this entry
    /// is void.
    Settled(Term),
    /// With one writer: rows are locked until a batch is made or given up.
    Intent(Intent),
    /// With one writer: a batch is given up, and its intent ends.
    Abandoned(BatchId),
    /// With one writer: all members have made these batches, which were decided here.
    Forgotten(Vec<BatchId>),
}

/// Who writes after the last entry of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The region that opens the next epoch when it has applied this entry.
    pub successor: Origin,
    /// The last counter given to an auto-increment column; the successor goes on after it.
    pub auto_increment: u64,
}

/// What changed in one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDelta {
    /// The row.
    pub key: EncodedKey,
    /// What to merge into it.
    pub delta: Row,
}
