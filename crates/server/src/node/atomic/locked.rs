//! Rows that the intent of a batch has locked: who reads or writes them waits for its end, for a
//! bounded time.

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_model::atomic::BatchId;
use isthmus_model::key::EncodedKey;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::Table;

use crate::api_error::ApiError;
use crate::node::Node;

/// How long readers wait.
const READ_PATIENCE: Duration = Duration::from_secs(3);
/// How long writers wait, before they are refused.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);
/// It is looked again at least so often.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Which rows of a table are wanted.
pub(crate) enum Wanted {
    /// These.
    Rows(Vec<EncodedKey>),
    /// From the first one (inclusive) to the second one (exclusive).
    Range(EncodedKey, EncodedKey),
}

impl Wanted {
    /// The batches that lock any of them.
    fn holders(&self, table: &Table) -> BTreeSet<BatchId> {
        match self {
            Wanted::Rows(keys) => table.holders(keys),
            Wanted::Range(start, end) => table.holders_between(start, Some(end)),
        }
    }
}

impl Node {
    /// Waits until it is known what became of rows that are about to be read where their table is
    /// written. What locks them from now on is of batches that were not decided before the read, so
    /// it need not be waited for. An error: not in time.
    pub(crate) async fn await_readable(
        &self,
        table: &Table,
        wanted: &Wanted,
    ) -> Result<(), ApiError> {
        let first = wanted.holders(table);
        let waits_for = |holder: &BatchId| first.contains(holder);
        match self.await_unlocked(table, wanted, waits_for, READ_PATIENCE).await {
            true => Ok(()),
            false => Err(ApiError::new(
                ErrorCode::PartitionUnavailable,
                format!(
                    "Rows of {} are part of a batch of several partitions, and it is not known \
                     here yet whether that is made. Try again later; `isthmus status` shows what \
                     is in doubt.",
                    table.name()
                ),
            )),
        }
    }

    /// Waits until rows that are about to be written are not locked, or for too long: then the
    /// write is refused.
    pub(crate) async fn await_writable(&self, table: &Table, keys: Vec<EncodedKey>) {
        self.await_unlocked(table, &Wanted::Rows(keys), |_| true, WRITE_PATIENCE).await;
    }

    /// Waits until none of the batches that count locks any of these rows. Whether in time.
    async fn await_unlocked(
        &self,
        table: &Table,
        wanted: &Wanted,
        counts: impl Fn(&BatchId) -> bool,
        patience: Duration,
    ) -> bool {
        if !table.may_be_locked() {
            return true;
        }
        let deadline = self.clock.monotonic() + patience;
        loop {
            let committed = self.committed.notified();
            if !wanted.holders(table).iter().any(&counts) {
                return true;
            }
            if self.clock.monotonic() >= deadline {
                return false;
            }
            // In time or not, it is looked again.
            let _ = tokio::time::timeout(LOOK_EVERY, committed).await;
        }
    }
}
