//! Why the store could not do something, and whether it took effect.

use isthmus_model::apply::Refusal;
use isthmus_model::error::{Kind, Outcome};
use isthmus_model::hlc::{Hlc, SkewTooLarge};
use isthmus_model::ids::{Epoch, Lsn, PartitionId, SchemaNumber, TableId};
use isthmus_model::value::Text;

use crate::codec::Corrupt;
use crate::digest::DigestState;
use crate::engine::EngineError;

/// Why a read or a change failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The rules of rows do not allow this change of this row.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another change of the same atomic write was refused.
    #[error("another change of the same atomic write was refused")]
    AbortedTogether,
    /// The intent of a batch of several partitions has locked the row.
    #[error("row is locked by batch {0}")]
    RowLocked(isthmus_model::atomic::BatchId),
    /// Clients do not write this partition here.
    #[error("partition {partition} is not writable here at epoch {epoch}")]
    NotWritable {
        /// Which one.
        partition: PartitionId,
        /// The epoch that is obeyed here.
        epoch: Epoch,
    },
    /// The sender acts under an epoch that is over, or this region itself is the writer.
    #[error("change is fenced: partition {partition} obeys epoch {epoch}")]
    Fenced {
        /// Which one.
        partition: PartitionId,
        /// The epoch that is obeyed here.
        epoch: Epoch,
    },
    /// A later term than the sender's was promised here.
    #[error("change is fenced: term {0} is promised here")]
    Promised(isthmus_model::commit::Term),
    /// There is no such table.
    #[error("no table with number {0}")]
    NoTable(TableId),
    /// There is a table of that name or number.
    #[error("table {0} exists")]
    TableExists(Text),
    /// A table cannot become so.
    #[error("table cannot be changed so: {0}")]
    BadSchema(String),
    /// Entries between what is applied and what was received are missing.
    #[error("entries are missing: applied through {watermark}, received after {from}")]
    Gap {
        /// What is applied.
        watermark: Lsn,
        /// Where the received range begins, exclusive.
        from: Lsn,
    },
    /// An entry comes after everybody has promised that nothing so old can come.
    #[error("entry is older than the horizon")]
    BelowHorizon,
    /// A received range contradicts itself.
    #[error("received range is wrong: {0}")]
    BadRange(&'static str),
    /// Received entries are from too far in the future; nothing was touched.
    #[error("hold back entries from the future")]
    ClockSkew(#[from] SkewTooLarge),
    /// A received entry was judged under a schema that is not here yet.
    #[error("schema {need} is needed, {have} is here")]
    SchemaMissing {
        /// Under which it was judged.
        need: SchemaNumber,
        /// The newest here.
        have: SchemaNumber,
    },
    /// Entries that were asked for are gone from the log.
    #[error("log is trimmed through {start}")]
    LogTrimmed {
        /// The last entry that is gone.
        start: Lsn,
    },
    /// More was asked for at once than is allowed.
    #[error("too large: {0}")]
    TooLarge(&'static str),
    /// A row is twice in one atomic write.
    #[error("row is twice in one atomic write")]
    RowTwice,
    /// Too much waits already.
    #[error("too much waits to be committed")]
    Busy,
    /// The disk is full but for its reserve.
    #[error("disk is full")]
    DiskFull,
    /// The commit failed; whether it took effect shows only after a restart.
    #[error("commit failed, outcome unknown")]
    Unknown,
    /// The store is stopping, or a commit has failed.
    #[error("store is stopped")]
    Stopped,
    /// Bytes at rest or received are damaged.
    #[error("{what} is damaged")]
    Corrupt {
        /// What they are.
        what: &'static str,
        /// How that shows.
        #[source]
        source: Corrupt,
    },
    /// What rows were at a cut is not kept.
    #[error(
        "what was overwritten since {cut} is not kept in memory any more: reads are possible as \
         of {floor} and later"
    )]
    CutGone {
        /// The cut.
        cut: Hlc,
        /// The first one that can be read; the last moment of all where none can.
        floor: Hlc,
    },
    /// A fault cannot be planted so.
    #[error("cannot plant: {0}")]
    BadPlant(&'static str),
    /// The digest cannot be looked at now.
    #[error("digest of the table is {}", .0.words())]
    NoDigest(DigestState),
    /// The engine failed.
    #[error("engine cannot serve")]
    Engine(#[from] EngineError),
}

impl StoreError {
    /// What kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            StoreError::Refused(refusal) => refusal.kind(),
            StoreError::AbortedTogether => Kind::ConditionFailed,
            StoreError::NotWritable { .. }
            | StoreError::Fenced { .. }
            | StoreError::Promised(_) => Kind::Fenced,
            StoreError::NoTable(_) | StoreError::LogTrimmed { .. } => Kind::NotFound,
            StoreError::TableExists(_) => Kind::Exists,
            StoreError::BadSchema(_)
            | StoreError::BadRange(_)
            | StoreError::TooLarge(_)
            | StoreError::RowTwice
            | StoreError::CutGone { .. }
            | StoreError::BadPlant(_) => Kind::Invalid,
            StoreError::RowLocked(_) | StoreError::Gap { .. } | StoreError::BelowHorizon => {
                Kind::Conflict
            }
            StoreError::ClockSkew(_)
            | StoreError::SchemaMissing { .. }
            | StoreError::Unknown
            | StoreError::Stopped
            | StoreError::NoDigest(_) => Kind::Unavailable,
            StoreError::Busy | StoreError::DiskFull => Kind::Busy,
            StoreError::Corrupt { .. } => Kind::Corrupt,
            StoreError::Engine(source) => source.kind(),
        }
    }

    /// Whether it took effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            StoreError::Unknown => Outcome::Unknown,
            StoreError::Refused(_)
            | StoreError::AbortedTogether
            | StoreError::RowLocked(_)
            | StoreError::NotWritable { .. }
            | StoreError::Fenced { .. }
            | StoreError::Promised(_)
            | StoreError::NoTable(_)
            | StoreError::TableExists(_)
            | StoreError::BadSchema(_)
            | StoreError::Gap { .. }
            | StoreError::BelowHorizon
            | StoreError::BadRange(_)
            | StoreError::ClockSkew(_)
            | StoreError::SchemaMissing { .. }
            | StoreError::LogTrimmed { .. }
            | StoreError::TooLarge(_)
            | StoreError::RowTwice
            | StoreError::Busy
            | StoreError::DiskFull
            | StoreError::Stopped
            | StoreError::Corrupt { .. }
            | StoreError::NoDigest(_)
            | StoreError::CutGone { .. }
            | StoreError::BadPlant(_)
            // A failed commit is `Unknown`; what reaches here failed before it.
            | StoreError::Engine(_) => Outcome::NotApplied,
        }
    }

    pub(crate) fn corrupt(what: &'static str) -> impl FnOnce(Corrupt) -> StoreError {
        move |source| StoreError::Corrupt { what, source }
    }
}
