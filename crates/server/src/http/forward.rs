//! Changes that clients ask for, done where their table is written: here, or in the region that
//! writes it, whose answer is the answer.
//!
//! A change is passed on at most once with an unknown end: where it is not certain that nothing was
//! done, nothing is tried again and the client is told so. While the writing region changes,
//! requests wait for a bounded time, so that clients notice nothing but the pause.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::distribution::partition_named;
use isthmus_model::clock::Clock;
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::receipt::Receipt;
use isthmus_protocol::request::{
    BatchPartsAnswer, BatchWriteParts, Operation, batches_by_table, decode_passed_on,
};
use isthmus_store::Table;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::{BATCH_WRITE, PublicApi, busy};
use crate::api_error::ApiError;
use crate::as_of::{AS_OF, AsOf, tables_read};
use crate::node::{Place, SyncTable};

/// How long a request waits for the next writing region.
pub(super) const SETTLE_PATIENCE: Duration = Duration::from_secs(10);
/// How long one that another region has passed on waits for this one to begin to write.
const TAKE_PATIENCE: Duration = Duration::from_secs(1);
/// What another region knows is asked for again after this, then after twice as long, and so on.
const LOOK_AGAIN_FIRST: Duration = Duration::from_millis(10);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(200);

/// A table that is written synchronously here.
type Synced = (Arc<SyncTable>, Arc<Table>);

/// A change that a client asks for.
#[allow(clippy::large_enum_variant, reason = "lives as long as one request")]
pub(super) enum Change {
    /// Of rows of several tables.
    Batch(BatchWriteParts),
    /// Of a row, or of a table.
    One(Operation),
}

impl Change {
    pub(super) fn decode(path: &str, body: &Bytes) -> Result<Change, ApiError> {
        Ok(match path {
            BATCH_WRITE => Change::Batch(BatchWriteParts::decode_passed_on(body.clone())?),
            _ => Change::One(decode_passed_on(path, body.clone())?),
        })
    }

    /// A batch of rows, as a client asks for it.
    pub(super) fn decode_of_client(body: &Bytes) -> Result<Change, ApiError> {
        Ok(Change::Batch(BatchWriteParts::decode(body.clone())?))
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
            Change::One(Operation::GetRow(get)) => vec![get.table.clone()],
            Change::One(Operation::GetRange(get)) => vec![get.table.clone()],
            Change::One(Operation::BatchGetRow(batch)) => {
                batch.tables.iter().map(|table| table.table.clone()).collect()
            }
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
            tables if self.are_all_here(tables)? => self.change_here(change, body, receipt).await,
            _ => Box::pin(self.change_apart(body, receipt)).await,
        }
    }

    /// Whether all tables are written here. An error is what refuses the batch as a whole, before
    /// any of it is done.
    fn are_all_here(&self, tables: &[Text]) -> Result<bool, ApiError> {
        let mut all = true;
        for table in tables {
            let place = self.node.place_of_writes(table.as_str())?;
            // What is prepared is prepared table by table.
            all &= matches!(place, Place::Here(table) if self.node.sync_table(&table).is_none());
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

    pub(super) async fn change_table(
        &self,
        table: &Text,
        change: Change,
        body: &Bytes,
        mut receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        let path = change.path();
        let mut first = Some(change);
        let mut moved = self.node.writers_moved();
        let mut wait = self.wait_for_writer(SETTLE_PATIENCE);
        loop {
            moved.borrow_and_update();
            let answer = match self.node.place_of_writes(table.as_str())? {
                Place::Here(_) => {
                    let again = || Change::decode(path, body);
                    let change = first.take().map_or_else(again, Ok)?;
                    self.change_here(change, body, receipt.as_deref_mut()).await
                }
                Place::There(region) => {
                    let (node, receipt) = (&self.node, receipt.as_deref_mut());
                    Box::pin(node.forward_write(table.as_str(), &region, path, body, receipt)).await
                }
                Place::Unsettled => Err(ApiError::elsewhere()),
            };
            match answer {
                Err(error) if error.is_elsewhere => {}
                answer => return answer,
            }
            wait.once(&mut moved).await?;
        }
    }

    async fn change_here(
        &self,
        change: Change,
        body: &Bytes,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        if let Some(synced) = self.synced(&change)? {
            let writing = self.rows.write_synced(synced, change.path(), body, receipt);
            return Box::pin(writing).await;
        }
        if let Change::One(
            read @ (Operation::GetRow(_) | Operation::GetRange(_) | Operation::BatchGetRow(_)),
        ) = &change
        {
            self.await_settled(&change.tables()?).await?;
            self.rows.await_readable(read).await?;
        }
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
            Change::One(Operation::GetRow(get)) => self.leased(|| self.rows.get(get, None)),
            Change::One(Operation::GetRange(get)) => self.leased(|| self.rows.range(get, None)),
            Change::One(Operation::BatchGetRow(batch)) => {
                self.leased(|| self.rows.batch_get(batch, None))
            }
            Change::One(_) => Err(ApiError::invalid("This operation changes no table.")),
        }
    }

    /// Whether an operation reads what the regions that write its tables have.
    pub(super) fn reads_newest(
        &self,
        operation: &Operation,
        as_of: Option<AsOf>,
    ) -> Result<bool, ApiError> {
        match as_of {
            Some(AsOf::Newest) => tables_read(operation, AS_OF).map(|_| true),
            Some(AsOf::Local) => tables_read(operation, AS_OF).map(|_| false),
            Some(AsOf::Within(bound)) => {
                for table in tables_read(operation, AS_OF)? {
                    let table = self.node.readable(table.as_str())?;
                    if !self.node.is_recent(&table, bound)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Some(AsOf::Safe | AsOf::Cut(_)) => Ok(false),
            None => {
                let tables = tables_read(operation, AS_OF).unwrap_or_default();
                Ok(tables.iter().any(|table| self.node.is_synchronous(table.as_str())))
            }
        }
    }

    /// Reads where the tables are written.
    pub(super) async fn read_newest(
        &self,
        operation: Operation,
        body: &Bytes,
    ) -> Result<Bytes, ApiError> {
        let read = Change::One(operation);
        let tables = read.tables()?;
        let Some((first, more)) = tables.split_first() else { return Err(ApiError::no_table()) };
        if more.iter().all(|table| table == first) {
            return self.change_table(first, read, body, None).await;
        }
        for table in &tables {
            match self.node.place_of_writes(table.as_str())? {
                Place::Here(_) => {}
                Place::Unsettled => return Err(ApiError::elsewhere()),
                Place::There(region) => {
                    return Err(ApiError::invalid(format!(
                        "Table {table} is written in region {region}: read tables that are \
                         written in several regions one by one, or as of 'local' or 'safe'."
                    )));
                }
            }
        }
        self.change_here(read, body, None).await
    }

    /// Waits until tables show all that was acknowledged in earlier terms.
    pub(super) async fn await_settled(&self, names: &[Text]) -> Result<(), ApiError> {
        for name in names {
            let table = self.node.readable(name.as_str())?;
            self.node.await_settled(&table).await?;
        }
        Ok(())
    }

    /// Reads what is newest: as long as no other region may write, which is looked at afterwards.
    pub(super) fn leased(
        &self,
        read: impl FnOnce() -> Result<Bytes, ApiError>,
    ) -> Result<Bytes, ApiError> {
        let read = read()?;
        match self.node.is_leased() {
            true => Ok(read),
            false => Err(ApiError::elsewhere()),
        }
    }

    /// The table that a change of rows is of, where that is written synchronously here.
    fn synced(&self, change: &Change) -> Result<Option<Synced>, ApiError> {
        let is_of_rows = matches!(
            change,
            Change::Batch(_)
                | Change::One(
                    Operation::PutRow(_) | Operation::UpdateRow(_) | Operation::DeleteRow(_)
                )
        );
        let tables = change.tables()?;
        let [name, more @ ..] = &tables[..] else { return Ok(None) };
        if !is_of_rows || more.iter().any(|other| other != name) {
            return Ok(None);
        }
        let Place::Here(table) = self.node.place_of_writes(name.as_str())? else {
            return Err(ApiError::elsewhere());
        };
        Ok(self.node.sync_table(&table).map(|sync| (sync, table)))
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
        let mut wait = self.wait_for_writer(TAKE_PATIENCE);
        for table in change.tables()? {
            loop {
                moved.borrow_and_update();
                match self.node.place_of_writes(table.as_str()) {
                    Ok(Place::Here(_)) => break,
                    Ok(Place::Unsettled) => wait.once(&mut moved).await?,
                    Err(error) if !is_about_place(&error, &table) => return Err(error),
                    Ok(Place::There(_)) | Err(_) => return Err(ApiError::elsewhere()),
                }
            }
        }
        self.change_here(change, &body, receipt).await
    }
}

impl PublicApi {
    pub(super) fn wait_for_writer(&self, patience: Duration) -> WaitForWriter<'_> {
        let clock = &**self.node.clock();
        let deadline = clock.monotonic() + patience;
        let pause = LOOK_AGAIN_FIRST;
        WaitForWriter { places: &self.unsettled, clock, deadline, pause, place: None }
    }
}

/// One request's wait for the next writing region of its table.
pub(super) struct WaitForWriter<'a> {
    /// So many requests may wait.
    places: &'a Semaphore,
    clock: &'a dyn Clock,
    deadline: Duration,
    pause: Duration,
    /// Among them; none before it has to.
    place: Option<SemaphorePermit<'a>>,
}

impl WaitForWriter<'_> {
    /// Waits until another region may write. An error: for too long, or too many wait.
    pub(super) async fn once(&mut self, moved: &mut watch::Receiver<u64>) -> Result<(), ApiError> {
        if self.clock.monotonic() >= self.deadline {
            return Err(ApiError::elsewhere());
        }
        if self.place.is_none() {
            self.place = Some(self.places.try_acquire().map_err(|_| ApiError::elsewhere())?);
        }
        // In time or not, it is looked again.
        let _ = tokio::time::timeout(self.pause, moved.changed()).await;
        self.pause = (self.pause * 2).min(LOOK_AGAIN_MAX);
        Ok(())
    }
}

/// Whether it refuses because of where the table is written. A partition that is not here is
/// somewhere else.
fn is_about_place(error: &ApiError, table: &Text) -> bool {
    match error.code {
        ErrorCode::NoPermissionAccess | ErrorCode::TableNotReady => true,
        ErrorCode::ObjectNotExist => partition_named(table.as_str()).is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still;

    impl Clock for Still {
        fn wall_millis(&self) -> i64 {
            0
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn waiting(places: &Semaphore, deadline: Duration) -> WaitForWriter<'_> {
        WaitForWriter { places, clock: &Still, deadline, pause: LOOK_AGAIN_FIRST, place: None }
    }

    #[tokio::test]
    async fn few_wait_for_a_writer_and_ask_less_and_less_often() {
        let places = Semaphore::new(1);
        let writers = watch::Sender::new(0);
        let mut moved = writers.subscribe();
        let mut first = waiting(&places, SETTLE_PATIENCE);
        for pause in [20, 40, 80, 160, 200, 200] {
            // Where it moves nothing is waited for.
            writers.send_modify(|moves| *moves += 1);
            first.once(&mut moved).await.unwrap();
            assert_eq!(first.pause.as_millis(), pause);
        }
        let mut second = waiting(&places, SETTLE_PATIENCE);
        assert!(second.once(&mut moved).await.unwrap_err().is_elsewhere);
        drop(first);
        second.once(&mut moved).await.unwrap();
        let mut late = waiting(&places, Duration::ZERO);
        assert!(late.once(&mut moved).await.unwrap_err().is_elsewhere);
    }
}
