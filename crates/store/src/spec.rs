//! What the store is told about a table.

use isthmus_model::commit::Term;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, TableId};
use isthmus_model::schema::Schema;
use isthmus_model::value::Text;

/// A table as this region holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Its number, for ever.
    pub id: TableId,
    /// Its name, unique among the tables of the store.
    pub name: Text,
    /// Its only partition.
    pub partition: PartitionId,
    /// What it is now.
    pub schema: Schema,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_millis: i64,
    /// The epoch under which this region holds it. With one writer: that of the newest opening in
    /// its log.
    pub epoch: Epoch,
    /// With several writers, the only region that makes schema and expiry entries.
    pub base: Origin,
    /// Whether clients may write here.
    pub writing: Writing,
    /// Which regions write.
    pub writers: Writers,
    /// With one writer: the region that writes in this epoch.
    pub writer: Origin,
    /// The end of this epoch, if it is here; else it goes on.
    pub handed_over: Option<HandedOver>,
    /// With one writer: what was prepared before this term is in the log or void.
    pub settled: Term,
}

/// The end of an epoch of a table with one writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// Its last entry.
    pub at: Lsn,
    /// The region that opens the next one.
    pub successor: Origin,
}

/// Whether clients may write here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// They may.
    Accept,
    /// They may not; entries of other regions are applied all the same.
    Refuse,
}

/// Which regions write to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// One at a time. Its LSNs are those of every region's log.
    One,
    /// Several; what they changed is merged column by column.
    ManyByColumn,
    /// Several; the later write of a row wins as a whole.
    ManyByRow,
}

impl Writers {
    /// Whether several regions write.
    pub fn are_many(self) -> bool {
        match self {
            Writers::One => false,
            Writers::ManyByColumn | Writers::ManyByRow => true,
        }
    }
}
