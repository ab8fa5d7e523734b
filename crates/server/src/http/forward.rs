//! Changes that clients ask for, done where their table is written: here, or in the region that
//! writes it, whose answer is the answer.
//!
//! A change is passed on at most once with an unknown end: where it is not certain that nothing was
//! done, nothing is tried again and the client is told so. While the writing region changes,
//! requests wait for a bounded time, so that clients notice nothing but the pause.

use std::time::Duration;

use bytes::Bytes;
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::receipt::Receipt;
use isthmus_protocol::request::{
    BatchPartsAnswer, BatchWriteParts, Operation, batches_by_table, decode,
};

use super::{BATCH_WRITE, PublicApi, busy};
use crate::api_error::ApiError;
use crate::node::Place;

/// How long a request waits for the next writing region.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);
/// How long one that another region has passed on waits for this one to begin to write.
const TAKE_PATIENCE: Duration = Duration::from_secs(1);
/// What another region knows is asked for again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A change that a client asks for.
#[allow(clippy::large_enum_variant, reason = "lives as long as one request")]
pub(super) enum Change {
    /// Of rows of several tables.
    Batch(BatchWriteParts),
    /// Of a row, or of a table.
    One(Operation),
}

impl Change {
    fn decode(path: &str, body: &Bytes) -> Result<Change, ApiError> {
        Ok(match path {
            BATCH_WRITE => Change::Batch(BatchWriteParts::decode(body.clone())?),
            _ => Change::One(decode(path, body.clone())?),
        })
    }

    fn path(&self) -> &'static str {
        match self {
            Change::Batch(_) => BATCH_WRITE,
            Change::One(operation) => operation.path(),
        }
    }

    /// The tables it is about.
    fn tables(&self) -> Result<Vec<Text>, ApiError> {
        Ok(match self {
            Change::Batch(parts) => parts.tables().to_vec(),
            Change::One(
                Operation::PutRow(write)
                | Operation::UpdateRow(write)
                | Operation::DeleteRow(write),
            ) => vec![write.table.clone()],
            Change::One(Operation::UpdateTable(update)) => vec![update.table.clone()],
            Change::One(Operation::AddDefinedColumn(add)) => vec![add.table.clone()],
            Change::One(Operation::DeleteDefinedColumn(delete)) => vec![delete.table.clone()],
            Change::One(_) => return Err(ApiError::invalid("This operation is not passed on.")),
        })
    }
}

impl PublicApi {
    /// Does a change where its tables are written. What is written is added to the receipt, if one
    /// is wanted.
    pub(super) async fn change(
        &self,
        change: Change,
        body: &Bytes,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        match &change.tables()?[..] {
            [table] => self.change_table(table, change, body, receipt).await,
            tables if self.are_all_here(tables)? => self.change_here(change, receipt).await,
            _ => self.change_apart(body, receipt).await,
        }
    }

    /// Whether all tables are written here. An error is what refuses the batch as a whole, before
    /// any of it is done.
    fn are_all_here(&self, tables: &[Text]) -> Result<bool, ApiError> {
        let mut all = true;
        for table in tables {
            let place = self.node.place_of_writes(table.as_str())?;
            all &= matches!(place, Place::Here(_));
        }
        Ok(all)
    }

    /// Does a batch table by table.
    async fn change_apart(
        &self,
        body: &Bytes,
        mut receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        let mut whole = BatchPartsAnswer::default();
        for (table, rows, body) in batches_by_table(body.clone())? {
            let change = Change::decode(BATCH_WRITE, &body)?;
            match self.change_table(&table, change, &body, receipt.as_deref_mut()).await {
                Ok(answer) => whole.push(false, answer)?,
                Err(error) => {
                    whole.push_failed(false, &[(table, rows)], error.code, &error.message);
                }
            }
        }
        Ok(whole.finish())
    }

    async fn change_table(
        &self,
        table: &Text,
        change: Change,
        body: &Bytes,
        mut receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        let path = change.path();
        let mut first = Some(change);
        let mut moved = self.node.writers_moved();
        let deadline = self.node.clock().monotonic() + SETTLE_PATIENCE;
        loop {
            moved.borrow_and_update();
            let answer = match self.node.place_of_writes(table.as_str())? {
                Place::Here(_) => {
                    let again = || Change::decode(path, body);
                    let change = first.take().map_or_else(again, Ok)?;
                    self.change_here(change, receipt.as_deref_mut()).await
                }
                Place::There(region) => {
                    let (node, receipt) = (&self.node, receipt.as_deref_mut());
                    node.forward_write(table.as_str(), &region, path, body, receipt).await
                }
                Place::Unsettled => Err(ApiError::elsewhere()),
            };
            match answer {
                Err(error) if error.is_elsewhere => {}
                answer => return answer,
            }
            if self.node.clock().monotonic() >= deadline {
                return Err(ApiError::elsewhere());
            }
            // In time or not, it is looked again.
            let _ = tokio::time::timeout(LOOK_AGAIN, moved.changed()).await;
        }
    }

    async fn change_here(
        &self,
        change: Change,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        match change {
            Change::Batch(parts) => self.batch_write(parts, receipt).await,
            Change::One(
                Operation::PutRow(write)
                | Operation::UpdateRow(write)
                | Operation::DeleteRow(write),
            ) => self.rows.write(write, receipt).await,
            Change::One(Operation::UpdateTable(update)) => self.tables.update(update).await,
            Change::One(Operation::AddDefinedColumn(add)) => self.tables.add_columns(add).await,
            Change::One(Operation::DeleteDefinedColumn(delete)) => {
                self.tables.delete_columns(delete).await
            }
            Change::One(_) => Err(ApiError::invalid("This operation changes no table.")),
        }
    }

    /// Does a change that another region has taken and passed on. It goes no further.
    pub async fn take_write(
        &self,
        path: &str,
        body: Bytes,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        let Ok(_in_work) = self.in_work.try_acquire() else { return Err(busy()) };
        let change = Change::decode(path, &body)?;
        let mut moved = self.node.writers_moved();
        let deadline = self.node.clock().monotonic() + TAKE_PATIENCE;
        for table in change.tables()? {
            loop {
                moved.borrow_and_update();
                match self.node.place_of_writes(table.as_str()) {
                    Ok(Place::Here(_)) => break,
                    Ok(Place::Unsettled) if self.node.clock().monotonic() < deadline => {}
                    Err(error) if !is_about_place(&error) => return Err(error),
                    Ok(Place::There(_) | Place::Unsettled) | Err(_) => {
                        return Err(ApiError::elsewhere());
                    }
                }
                let _ = tokio::time::timeout(LOOK_AGAIN, moved.changed()).await;
            }
        }
        self.change_here(change, receipt).await
    }
}

/// Whether it refuses because of where the table is written.
fn is_about_place(error: &ApiError) -> bool {
    matches!(error.code, ErrorCode::NoPermissionAccess | ErrorCode::TableNotReady)
}
