//! Rows that batches of several partitions are about: answers, and waiting for them.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::capacity::WriteSize;
use isthmus_model::change::{Direction, Returned};
use isthmus_model::check::{CheckedChange, CheckedKey, check_key, check_range};
use isthmus_model::key::encode_bound;
use isthmus_model::schema::Schema;
use isthmus_protocol::request::{GetRange, Operation};
use isthmus_protocol::response::{RowAnswer, TableAnswer, encode_batch};
use isthmus_store::{Table, Written};

use super::{Rows, consumed_by_write, shown_row};
use crate::api_error::ApiError;
use crate::node::Wanted;

/// The answer to a batch of one table, all of whose rows are written.
pub(crate) fn encode_written(
    table: &Table,
    rows: impl Iterator<Item = ((WriteSize, Returned), Written)>,
) -> Bytes {
    let done = |((size, returned), written): ((WriteSize, Returned), Written)| RowAnswer::Done {
        consumed: consumed_by_write(size, &written),
        row: shown_row(&returned, written),
        next_token: None,
    };
    let (rows, name, schema): (Vec<_>, _, _) =
        (rows.map(done).collect(), table.name(), table.schema());
    encode_batch(&[TableAnswer { table: &name, schema: Some(&schema), rows: &rows }])
}

impl Rows {
    /// Waits until rows that are about to be written are not locked by the intent of a batch, or
    /// for too long.
    pub(super) async fn await_writable(&self, table: &Table, changes: &[CheckedChange]) {
        if !table.may_be_locked() {
            return;
        }
        let keys = changes.iter().filter_map(|change| match &change.key {
            CheckedKey::Whole(key) => Some(key.encode()),
            CheckedKey::AutoIncrement { .. } => None,
        });
        Box::pin(self.node.await_writable(table, keys.collect())).await;
    }

    /// Waits until it is known what became of the rows that an operation reads, of those tables
    /// that are written here. What is wrong with the operation is for the read to say.
    pub async fn await_readable(&self, operation: &Operation) -> Result<(), ApiError> {
        if !self.node.store().may_be_locked() {
            return Ok(());
        }
        for (table, wanted) in self.locked_of(operation) {
            Box::pin(self.node.await_readable(&table, &wanted)).await?;
        }
        Ok(())
    }

    fn locked_of(&self, operation: &Operation) -> Vec<(Arc<Table>, Wanted)> {
        let locked = |name: &isthmus_model::value::Text| {
            let table = self.node.store().table_by_name(name.as_str())?;
            (table.may_be_locked() && table.makes_entries()).then_some(table)
        };
        let rows = |schema: &Schema, keys: Vec<_>| {
            let keys = keys.into_iter().filter_map(|key| check_key(schema, key).ok());
            Wanted::Rows(keys.map(|key| key.encode()).collect())
        };
        match operation {
            Operation::GetRow(get) => {
                let one = |table: Arc<Table>| {
                    let wanted = rows(&table.schema(), vec![get.key.clone()]);
                    (table, wanted)
                };
                locked(&get.table).map(one).into_iter().collect()
            }
            Operation::BatchGetRow(batch) => {
                let all = batch.tables.iter().filter_map(|reads| {
                    let table = locked(&reads.table)?;
                    let keys = reads.rows.iter().map(|row| row.key.clone()).collect();
                    let wanted = rows(&table.schema(), keys);
                    Some((table, wanted))
                });
                all.collect()
            }
            Operation::GetRange(get) => {
                let table = locked(&get.table);
                let ranged = table.and_then(|table| Some((range(&table, get)?, table)));
                ranged.map(|(wanted, table)| (table, wanted)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

fn range(table: &Table, get: &GetRange) -> Option<Wanted> {
    let (start, end) = (get.start.clone(), get.end.clone());
    let range = check_range(&table.schema(), start, end, get.direction).ok()?;
    let (start, end) = (encode_bound(&range.start), encode_bound(&range.end));
    Some(match get.direction {
        Direction::Forward => Wanted::Range(start, end),
        Direction::Backward => Wanted::Range(end.successor(), start.successor()),
    })
}
