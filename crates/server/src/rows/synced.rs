//! Writes of a table that is written synchronously.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::check::check_change;
use isthmus_protocol::receipt::Receipt;
use isthmus_protocol::request::{BatchWriteRow, Operation, batches_by_row, decode_passed_on};
use isthmus_protocol::response::{RowAnswer, encode_write_row};
use isthmus_store::{StoreError, Table, Written};

use super::{BatchPart, Rows, consumed_by_write, encode_tables, failed, shown_row};
use crate::api_error::ApiError;
use crate::node::{SyncRow, SyncTable, SyncWrite};

impl Rows {
    /// Writes rows of one table, whose request is `body`. What is written is added to the receipt,
    /// if one is wanted.
    pub async fn write_synced(
        &self,
        (sync, table): (Arc<SyncTable>, Arc<Table>),
        path: &'static str,
        body: &Bytes,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        self.node.listen_first(table.name().as_str()).await;
        self.node.check_holders(&table)?;
        let judged_millis = self.now();
        let (answer, last) = match decode_passed_on(path, body.clone())? {
            Operation::PutRow(one) | Operation::UpdateRow(one) | Operation::DeleteRow(one) => {
                let schema = table.schema();
                let returned = one.change.returned.clone();
                let checked = check_change(&schema, one.change, judged_millis)?;
                let size = checked.size;
                self.await_writable(&table, std::slice::from_ref(&checked)).await;
                let changes = vec![SyncRow { body: body.clone(), change: checked }];
                let write = SyncWrite { path, judged_millis, changes, atomic: false, part: None };
                let results = self.node.write_synced(sync, &table, write).await?;
                let written = results
                    .into_iter()
                    .next()
                    .unwrap_or_else(|| Err(StoreError::Unknown.into()))?;
                let lsn = written.lsn;
                let consumed = consumed_by_write(size, &written);
                let row = shown_row(&returned, written);
                (encode_write_row(&schema, consumed, row.as_ref()), Some(lsn))
            }
            Operation::BatchWriteRow(batch) => {
                self.write_batch_synced((sync, &table), batch, (path, body, judged_millis)).await?
            }
            _ => return Err(ApiError::invalid("This operation writes no row.")),
        };
        if let (Some(receipt), Some(lsn)) = (receipt, last) {
            self.node.note_receipt(receipt, &table, lsn);
        }
        Ok(answer)
    }

    async fn write_batch_synced(
        &self,
        (sync, table): (Arc<SyncTable>, &Arc<Table>),
        batch: BatchWriteRow,
        (path, body, judged_millis): (&'static str, &Bytes, i64),
    ) -> Result<(Bytes, Option<isthmus_model::ids::Lsn>), ApiError> {
        let BatchWriteRow { tables, atomic } = batch;
        let counts: Vec<usize> = tables.iter().map(|table| table.rows.len()).collect();
        let name =
            tables.first().map(|table| table.table.clone()).ok_or_else(ApiError::no_table)?;
        let rows = tables.into_iter().flat_map(|table| table.rows).collect();
        let part = BatchPart::check(&table.schema(), rows, atomic, judged_millis);
        self.await_writable(table, &part.changes).await;
        let bodies = match atomic {
            true => vec![body.clone(); part.places.len()],
            false => batches_by_row(body.clone())?,
        };
        let passed = bodies.into_iter().zip(&part.places).filter(|(_, place)| place.is_ok());
        let changes = passed.zip(part.changes);
        let changes: Vec<_> = changes.map(|((body, _), change)| SyncRow { body, change }).collect();
        let outcome = match changes.is_empty() {
            true => Ok(Vec::new()),
            false => {
                let write = SyncWrite { path, judged_millis, changes, atomic, part: None };
                self.node.write_synced(sync, table, write).await
            }
        };
        if let Err(error) = &outcome
            && error.is_elsewhere
        {
            return Err(error.clone());
        }
        let (mut results, all) = match outcome {
            Ok(results) => (results.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        let mut last = None;
        let mut answers = part.places.into_iter().map(|place| {
            let (size, returned) = match place {
                Ok(place) => place,
                Err(error) => return failed(error),
            };
            match (results.next(), &all) {
                (Some(Ok(written)), _) => {
                    last = last.max(Some(written.lsn));
                    done(size, &returned, written)
                }
                (Some(Err(error)), _) => failed(error),
                (None, Some(error)) => failed(error.clone()),
                (None, None) => failed(StoreError::Unknown.into()),
            }
        });
        let mut split = Vec::with_capacity(counts.len());
        for count in counts {
            split.push((name.clone(), answers.by_ref().take(count).collect::<Vec<_>>()));
        }
        drop(answers);
        let tables: Vec<Arc<Table>> = split.iter().map(|_| table.clone()).collect();
        Ok((encode_tables(&tables, &split), last))
    }
}

fn done(
    size: isthmus_model::capacity::WriteSize,
    returned: &isthmus_model::change::Returned,
    written: Written,
) -> RowAnswer {
    RowAnswer::Done {
        consumed: consumed_by_write(size, &written),
        row: shown_row(returned, written),
        next_token: None,
    }
}
