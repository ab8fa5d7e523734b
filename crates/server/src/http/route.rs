//! Requests about distributed tables: which partitions they are for, and which region does them.
//!
//! A request is taken apart into one for each partition that it is about. What a region holds is
//! read here; all else is passed on, once: changes to the region that writes the partition, reads
//! to the replica that answers soonest. A change is tried elsewhere only where it is certain that
//! nothing was done. Answers are put together in the order of the request and show nothing of
//! partitions.
//!
//! A key that is wrong goes to the first partition, which refuses it as any table does.

mod atomic;
mod batch;
mod moment;
mod range;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::distribution::Distribution;
use isthmus_model::change::{KeyPart, NamedKeyPart};
use isthmus_model::hlc::Hlc;
use isthmus_model::value::Text;
use isthmus_protocol::client::{decode_describe_table, encode_request};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::receipt::Receipt;
use isthmus_protocol::request::{GetRow, Operation, WriteRow, decode_passed_on};
use isthmus_protocol::routed::described_as;

use super::forward::{Change, SETTLE_PATIENCE};
use super::{PublicApi, busy};
use crate::api_error::ApiError;
use crate::as_of::{AS_OF, AsOf, tables_read};
use crate::node::{Partition, Place};
use crate::peer::call::Read;
use crate::receipts::AFTER;

/// Partitions that are asked at once for one request.
const ASKED_AT_ONCE: usize = 16;

/// How new what is read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fresh<'a> {
    /// As new as the partition's mode says: of one that is written synchronously the newest.
    AsWritten,
    /// What any replica has.
    Local,
    /// What a replica has that lacks nothing older than this; else the newest.
    Within(Duration),
    /// What the region that writes has.
    Newest,
    /// That, if it has what the receipt names: after a failover it may not.
    After(&'a Receipt),
    /// As of the newest moment of which all that is read can be read.
    Safe,
    /// As of this moment.
    Cut(Hlc),
}

impl Fresh<'_> {
    /// What a request asks for; `after`: the receipt that it brings.
    pub(super) fn of<'a>(
        operation: &Operation,
        as_of: Option<AsOf>,
        after: Option<&'a Receipt>,
    ) -> Result<Fresh<'a>, ApiError> {
        // Both headers are for reads only.
        if as_of.is_some() {
            tables_read(operation, AS_OF)?;
        }
        if after.is_some() {
            tables_read(operation, AFTER)?;
        }
        match as_of {
            Some(AsOf::Safe | AsOf::Cut(_)) if after.is_some() => Err(ApiError::invalid(format!(
                "A read of a distributed table takes the header '{AFTER}' or a moment in \
                 '{AS_OF}', not both."
            ))),
            Some(AsOf::Safe) => Ok(Fresh::Safe),
            Some(AsOf::Cut(cut)) => Ok(Fresh::Cut(cut)),
            _ if after.is_some() => Ok(after.map_or(Fresh::Newest, Fresh::After)),
            Some(AsOf::Newest | AsOf::Within(Duration::ZERO)) => Ok(Fresh::Newest),
            Some(AsOf::Local) => Ok(Fresh::Local),
            Some(AsOf::Within(bound)) => Ok(Fresh::Within(bound)),
            None => Ok(Fresh::AsWritten),
        }
    }

    /// What the answer tells of it.
    pub(super) fn told(self) -> Option<String> {
        match self {
            Fresh::AsWritten | Fresh::Within(_) | Fresh::Safe => None,
            Fresh::Local => Some("local".to_owned()),
            Fresh::Newest | Fresh::After(_) => Some("newest".to_owned()),
            Fresh::Cut(cut) => Some(cut.to_string()),
        }
    }

    /// As it is asked of a table that is not distributed.
    fn as_of(self) -> Option<AsOf> {
        match self {
            Fresh::AsWritten => None,
            Fresh::Local => Some(AsOf::Local),
            Fresh::Within(bound) => Some(AsOf::Within(bound)),
            Fresh::Newest | Fresh::After(_) => Some(AsOf::Newest),
            Fresh::Safe => Some(AsOf::Safe),
            Fresh::Cut(cut) => Some(AsOf::Cut(cut)),
        }
    }
}

impl PublicApi {
    /// Whether any of these is a distributed table.
    pub(super) fn is_routed<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> bool {
        names.into_iter().any(|name| self.node.distribution(name).is_some())
    }

    fn distributed(&self, name: &Text) -> Result<Arc<Distribution>, ApiError> {
        self.node.distribution(name.as_str()).ok_or_else(ApiError::no_table)
    }

    /// Does an operation of which at least one table is distributed. What is written is added to
    /// the receipt, if one is wanted.
    pub(super) async fn route(
        &self,
        operation: Operation,
        fresh: Fresh<'_>,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        match operation {
            Operation::GetRow(get) => Box::pin(self.route_get(get, fresh)).await,
            Operation::PutRow(write) => self.route_write(write, Operation::PutRow, receipt).await,
            Operation::UpdateRow(write) => {
                self.route_write(write, Operation::UpdateRow, receipt).await
            }
            Operation::DeleteRow(write) => {
                self.route_write(write, Operation::DeleteRow, receipt).await
            }
            Operation::BatchGetRow(batch) => self.route_batch_get(batch, fresh).await,
            Operation::BatchWriteRow(batch) => {
                let body = encode_request(&Operation::BatchWriteRow(batch));
                self.route_batch_write(&body, receipt).await
            }
            Operation::GetRange(get) => self.route_range(get, fresh).await,
            Operation::DescribeTable(name) => Box::pin(self.route_describe(name)).await,
            Operation::DeleteTable(name) => {
                self.node.drop_distribution(name.as_str()).await?;
                Ok(Bytes::new())
            }
            Operation::UpdateTable(_)
            | Operation::AddDefinedColumn(_)
            | Operation::DeleteDefinedColumn(_) => self.change_schemas(operation).await,
            Operation::CreateTable(_) => Err(ApiError::table_exists()),
            Operation::CreateGlobalTable(_)
            | Operation::BindGlobalTable(_)
            | Operation::UnbindGlobalTable(_)
            | Operation::DescribeGlobalTable(_)
            | Operation::UpdateGlobalTable(_) => Err(ApiError::invalid(
                "The table is distributed; `isthmus distribution` shows and says where it is.",
            )),
            Operation::ListTable
            | Operation::ListSearchIndex(_)
            | Operation::ListStream(_)
            | Operation::ListTunnel(_) => Ok(Bytes::new()),
        }
    }

    async fn route_get(&self, get: GetRow, fresh: Fresh<'_>) -> Result<Bytes, ApiError> {
        let mut turns = self.turns();
        loop {
            let table = turns.shape_of(&get.table)?;
            let partition = partition_of(&table, &get.key);
            self.note_asked(&partition, &get.key);
            let get = GetRow { table: Text::from(partition.name()), ..get.clone() };
            let answer = self.read_partition(&partition, Operation::GetRow(get), fresh, 0).await;
            match answer {
                Err(error) if turns.may_be_elsewhere(&table, &error) => turns.next(error).await?,
                answer => return answer,
            }
        }
    }

    async fn route_describe(&self, name: Text) -> Result<Bytes, ApiError> {
        let mut turns = self.turns();
        loop {
            let table = turns.shape_of(&name)?;
            let first = Partition { table: &table, place: 0 };
            let describe = Operation::DescribeTable(Text::from(first.name()));
            match self.read_partition(&first, describe, Fresh::Local, 0).await {
                Err(error) if turns.may_be_elsewhere(&table, &error) => turns.next(error).await?,
                Err(error) => return Err(error),
                Ok(told) => return Ok(described_as(told, name.as_str())?),
            }
        }
    }

    async fn route_write(
        &self,
        write: WriteRow,
        kind: fn(WriteRow) -> Operation,
        mut receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        let name = write.table.clone();
        let mut turns = self.turns();
        let mut write = kind(write);
        loop {
            let (Operation::PutRow(row) | Operation::UpdateRow(row) | Operation::DeleteRow(row)) =
                &mut write
            else {
                return Err(ApiError::internal());
            };
            let table = turns.shape_of(&name)?;
            let partition = partition_of(&table, &row.change.key);
            self.note_asked(&partition, &row.change.key);
            row.table = Text::from(partition.name());
            let (path, body) = (write.path(), encode_request(&write));
            match self.at_writer(&partition, path, &body, receipt.as_deref_mut()).await {
                Err(error) if turns.may_be_elsewhere(&table, &error) => turns.next(error).await?,
                answer => return answer,
            }
        }
    }

    /// Remembers some of the keys that are asked for.
    fn note_asked(&self, partition: &Partition<'_>, key: &[NamedKeyPart]) {
        if let Some(KeyPart::Value(value)) = key.first().map(|named| &named.part) {
            self.node.note_asked(partition, value);
        }
    }

    /// Changes the schema of all partitions, one after the other. Those that are as wanted already,
    /// since not all could be changed before, are passed over.
    async fn change_schemas(&self, operation: Operation) -> Result<Bytes, ApiError> {
        let name = match &operation {
            Operation::UpdateTable(update) => &update.table,
            Operation::AddDefinedColumn(add) => &add.table,
            Operation::DeleteDefinedColumn(delete) => &delete.table,
            _ => return Err(ApiError::internal()),
        };
        let mut told = None;
        let mut turns = self.turns();
        loop {
            let table = turns.shape_of(name)?;
            match Box::pin(self.change_schemas_of(&table, &operation, &mut told)).await {
                Err(error) if turns.may_be_elsewhere(&table, &error) => turns.next(error).await?,
                answer => return answer,
            }
        }
    }

    /// Changes the schema of the partitions that a table is known to have. `told`: what one has
    /// answered that was changed.
    async fn change_schemas_of(
        &self,
        table: &Distribution,
        operation: &Operation,
        told: &mut Option<Bytes>,
    ) -> Result<Bytes, ApiError> {
        let mut refusal = None;
        for place in 0..table.partitions.len() {
            let partition = Partition { table, place };
            let name = Text::from(partition.name());
            let mut change = operation.clone();
            match &mut change {
                Operation::UpdateTable(update) => update.table = name,
                Operation::AddDefinedColumn(add) => add.table = name,
                Operation::DeleteDefinedColumn(delete) => delete.table = name,
                _ => {}
            }
            let (path, body) = (change.path(), encode_request(&change));
            match self.at_writer(&partition, path, &body, None).await {
                Ok(answer) => *told = Some(answer),
                Err(error) if self.has_columns_as_wanted(&partition, operation).await => {
                    refusal = refusal.or(Some(error));
                }
                Err(error) if place == 0 => return Err(error),
                Err(error) => {
                    let message = format!(
                        "{} {place} of {} partitions are as wanted; ask for it again.",
                        error.message,
                        table.partitions.len()
                    );
                    return Err(ApiError { message, ..error });
                }
            }
        }
        match (told.clone(), refusal) {
            // It is refused as it would be of any table.
            (None, Some(refusal)) => Err(refusal),
            (told, _) => Ok(told.unwrap_or_default()),
        }
    }

    /// Whether a partition has the defined columns that a change of its schema leads to.
    async fn has_columns_as_wanted(&self, partition: &Partition<'_>, change: &Operation) -> bool {
        let describe = Operation::DescribeTable(Text::from(partition.name()));
        let told = self.read_partition(partition, describe, Fresh::Newest, 0).await;
        let told = told.and_then(|told| Ok(decode_describe_table(told)?));
        let Ok(columns) = told.map(|told| told.schema.defined_columns) else { return false };
        match change {
            Operation::AddDefinedColumn(add) => {
                add.columns.iter().all(|column| columns.contains(column))
            }
            Operation::DeleteDefinedColumn(delete) => {
                !columns.iter().any(|column| delete.columns.contains(&column.name))
            }
            _ => false,
        }
    }

    /// Has a change done where a partition is written. The body names the partition.
    async fn at_writer(
        &self,
        partition: &Partition<'_>,
        path: &'static str,
        body: &Bytes,
        mut receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        let name = partition.name();
        self.node.count_request(&name);
        let text = Text::from(name.as_str());
        let mut moved = self.node.writers_moved();
        let mut wait = self.wait_for_writer(SETTLE_PATIENCE);
        loop {
            moved.borrow_and_update();
            let receipt = receipt.as_deref_mut();
            let answer = match self.node.holds_partition(&name) {
                true => {
                    let change = Change::decode(path, body)?;
                    Box::pin(self.change_table(&text, change, body, receipt)).await
                }
                false => Box::pin(self.at_far_writer(partition, path, body, receipt)).await,
            };
            let refused = match answer {
                // It may have left here a moment ago.
                Err(error) if error.is_elsewhere || error.code == ErrorCode::ObjectNotExist => {
                    error
                }
                answer => return answer,
            };
            if self.node.may_be_reshaped(partition.table) {
                return Err(Some(refused).filter(is_away).unwrap_or_else(ApiError::elsewhere));
            }
            wait.once(&mut moved).await?;
        }
    }

    /// Passes a change on to whoever writes a partition that has no replica here: regions are
    /// asked until one does it. An error: where nothing was done for certain, elsewhere.
    async fn at_far_writer(
        &self,
        partition: &Partition<'_>,
        path: &'static str,
        body: &Bytes,
        mut receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        let name = partition.name();
        let mut likeliest = None;
        for region in self.node.likely_writers(partition) {
            let receipt = receipt.as_deref_mut();
            match self.node.forward_write(&name, &region, path, body, receipt).await {
                Ok(answer) => {
                    self.node.note_writer(&name, &region);
                    return Ok(answer);
                }
                Err(error) if error.is_elsewhere || is_away(&error) => {
                    likeliest = likeliest.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        // Where the one that is known to write is away, that is the reason, unless the partition
        // may have ended there.
        let refused = likeliest.unwrap_or_else(ApiError::elsewhere);
        let is_elsewhere = refused.is_elsewhere || self.node.may_be_reshaped(partition.table);
        Err(ApiError { is_elsewhere, ..refused })
    }

    /// Reads a partition here, or at the replica that answers soonest. The operation names it.
    async fn read_partition(
        &self,
        partition: &Partition<'_>,
        operation: Operation,
        fresh: Fresh<'_>,
        bytes_max: usize,
    ) -> Result<Bytes, ApiError> {
        let name = partition.name();
        self.node.count_request(&name);
        let mut read = Read {
            path: operation.path().to_owned(),
            body: encode_request(&operation),
            bytes_max: bytes_max as u64,
            ..Read::default()
        };
        match fresh {
            Fresh::AsWritten => {}
            Fresh::Local => read.is_local = true,
            Fresh::Within(bound) => read.within_millis = bound.as_millis() as u64,
            Fresh::Newest => read.is_newest = true,
            Fresh::After(receipt) => {
                (read.is_newest, read.after) = (true, Some(receipt.to_text()));
            }
            Fresh::Safe => return Err(ApiError::internal()),
            Fresh::Cut(cut) => {
                read.cut = Some(cut.0);
                return Box::pin(self.read_at_moment(partition, operation, read)).await;
            }
        }
        if read.is_newest {
            return Box::pin(self.read_at_writer(partition, operation, read)).await;
        }
        if self.node.holds_partition(&name) {
            match self.read_here(operation.clone(), &read).await {
                Err(error) if error.is_elsewhere => {
                    return Box::pin(self.read_at_writer(partition, operation, read)).await;
                }
                Err(error) if is_about_replica(&error) => {}
                answer => return answer,
            }
        }
        for region in self.node.readers(partition) {
            match self.node.forward_read(&region, read.clone()).await {
                // It is written synchronously: only who writes it can say.
                Err(error) if error.is_elsewhere => {
                    return Box::pin(self.read_at_writer(partition, operation, read)).await;
                }
                Err(error) if is_about_replica(&error) => {}
                answer => return answer,
            }
        }
        if read.within_millis > 0 {
            // Where all are late, who writes it is not.
            return Box::pin(self.read_at_writer(partition, operation, read)).await;
        }
        if self.node.may_be_reshaped(partition.table) {
            return Err(ApiError::elsewhere());
        }
        Err(out_of_reach())
    }

    /// Reads a partition where it is written.
    async fn read_at_writer(
        &self,
        partition: &Partition<'_>,
        operation: Operation,
        read: Read,
    ) -> Result<Bytes, ApiError> {
        let read = Read { is_newest: true, ..read };
        let name = partition.name();
        let mut moved = self.node.writers_moved();
        let mut wait = self.wait_for_writer(SETTLE_PATIENCE);
        loop {
            moved.borrow_and_update();
            let mut likeliest = None;
            if self.node.holds_partition(&name) {
                match self.read_here(operation.clone(), &read).await {
                    Err(error) if is_about_replica(&error) => {}
                    answer => return answer,
                }
            }
            for region in self.node.likely_writers(partition) {
                match self.node.forward_read(&region, read.clone()).await {
                    Err(error) if is_about_replica(&error) => {
                        likeliest = likeliest.or(Some(error));
                    }
                    Ok(answer) => {
                        self.node.note_writer(&name, &region);
                        return Ok(answer);
                    }
                    // What is wrong with the read is found before it is known who writes.
                    Err(error) => return Err(error),
                }
            }
            if let Some(error) = likeliest.filter(is_away) {
                let is_elsewhere = self.node.may_be_reshaped(partition.table);
                return Err(ApiError { is_elsewhere, ..error });
            }
            if self.node.may_be_reshaped(partition.table) {
                return Err(ApiError::elsewhere());
            }
            wait.once(&mut moved).await?;
        }
    }

    /// Reads what is here, when it is known what became of it.
    async fn read_here(&self, operation: Operation, read: &Read) -> Result<Bytes, ApiError> {
        let bytes_max = usize::try_from(read.bytes_max).unwrap_or(usize::MAX);
        let names: Vec<Text> = operation.table_names().into_iter().map(Text::from).collect();
        for name in names.iter().map(Text::as_str) {
            self.node.listen_first(name).await;
            if self.node.is_unread(name) {
                return Err(ApiError::no_table());
            }
            let is_elsewhere = match read.is_newest {
                true => !matches!(self.node.place_of_writes(name)?, Place::Here(_)),
                false => !read.is_local && read.cut.is_none() && self.node.is_synchronous(name),
            };
            if is_elsewhere {
                return Err(ApiError::elsewhere());
            }
            let bound = Duration::from_millis(read.within_millis);
            if !bound.is_zero()
                && !read.is_newest
                && !self.node.is_recent(&self.node.readable(name)?, bound)?
            {
                let message = "The replica lacks more than the read allows.";
                return Err(ApiError::new(ErrorCode::TableNotReady, message));
            }
        }
        let cut = read.cut.map(Hlc);
        if let Some(cut) = cut {
            let tables: Result<Vec<_>, ApiError> =
                names.iter().map(|name| self.node.readable(name.as_str())).collect();
            self.node.cut(&tables?, Some(cut)).await?;
        } else if !read.is_local {
            self.rows.await_readable(&operation).await?;
        }
        let answer = || match operation {
            Operation::GetRow(get) => self.rows.get(get, cut),
            Operation::BatchGetRow(batch) => self.rows.batch_get(batch, cut),
            Operation::GetRange(get) if bytes_max > 0 => {
                self.rows.part_of_range(get, cut, bytes_max)
            }
            Operation::GetRange(get) => self.rows.range(get, cut),
            Operation::DescribeTable(name) => self.tables.describe(&name),
            _ => Err(ApiError::invalid("This operation is not passed on.")),
        };
        if !read.is_newest {
            return answer();
        }
        self.await_settled(&names).await?;
        if let Some(text) = &read.after {
            let receipt = Receipt::parse(text)
                .ok_or_else(|| ApiError::invalid("The receipt of a read is damaged."))?;
            for name in &names {
                let table = self.node.readable(name.as_str())?;
                if receipt.marks().iter().any(|mark| mark.table == table.id()) {
                    self.node.read_after(&table, &receipt).await?;
                }
            }
        }
        self.leased(answer)
    }

    /// Does a read that another region has taken and passed on. It goes no further.
    pub async fn take_read(&self, read: Read) -> Result<Bytes, ApiError> {
        let Ok(_in_work) = self.in_work.try_acquire() else { return Err(busy()) };
        let operation = decode_passed_on(&read.path, read.body.clone())?;
        self.read_here(operation, &read).await
    }
}

/// The partition of a row.
fn partition_of<'a>(table: &'a Distribution, key: &[NamedKeyPart]) -> Partition<'a> {
    let place = match key.first().map(|named| &named.part) {
        Some(KeyPart::Value(value)) => table.place_of(value),
        _ => 0,
    };
    Partition { table, place }
}

/// Whether a region could not be asked, so that nothing was done.
fn is_away(error: &ApiError) -> bool {
    error.code == ErrorCode::ServerUnavailable
}

fn out_of_reach() -> ApiError {
    ApiError::new(
        ErrorCode::ServerUnavailable,
        "No region that holds this part of the table can be reached.",
    )
}

/// Whether another replica may be able to answer.
fn is_about_replica(error: &ApiError) -> bool {
    error.is_elsewhere
        || matches!(
            error.code,
            ErrorCode::ObjectNotExist
                | ErrorCode::TableNotReady
                | ErrorCode::ServerUnavailable
                | ErrorCode::ServerBusy
                | ErrorCode::Timeout
        )
}

#[cfg(test)]
mod tests {
    use isthmus_model::change::Projection;
    use isthmus_protocol::request::{BatchGetRow, TableReads};

    use super::*;

    #[test]
    fn reads_are_as_fresh_as_is_asked() {
        let table = Text::from("t");
        let read = Operation::BatchGetRow(BatchGetRow {
            tables: vec![TableReads {
                table: table.clone(),
                rows: Vec::new(),
                projection: Projection::default(),
            }],
        });
        let receipt = Receipt::default();
        let after = Some(&receipt);
        let of = |as_of, after| Fresh::of(&read, as_of, after);
        let bound = Duration::from_secs(2);
        assert_eq!(of(None, None), Ok(Fresh::AsWritten));
        assert_eq!(of(None, after), Ok(Fresh::After(&receipt)));
        let local = of(Some(AsOf::Local), after);
        assert_eq!(local, Ok(Fresh::After(&receipt)), "a receipt asks for more");
        assert_eq!(of(Some(AsOf::Local), None), Ok(Fresh::Local));
        assert_eq!(of(Some(AsOf::Within(bound)), None), Ok(Fresh::Within(bound)));
        assert_eq!(of(Some(AsOf::Safe), None), Ok(Fresh::Safe));
        assert_eq!(of(Some(AsOf::Cut(Hlc(7))), None), Ok(Fresh::Cut(Hlc(7))));
        assert!(of(Some(AsOf::Safe), after).is_err(), "a moment or a receipt");
        let other = Operation::DeleteTable(table);
        assert_eq!(Fresh::of(&other, None, None), Ok(Fresh::AsWritten));
        assert!(Fresh::of(&other, Some(AsOf::Local), None).is_err());
        assert!(Fresh::of(&other, None, after).is_err());
    }

    #[test]
    fn another_replica_is_asked_unless_the_request_is_wrong() {
        assert!(is_about_replica(&ApiError::elsewhere()));
        assert!(is_about_replica(&ApiError::no_table()));
        assert!(!is_about_replica(&ApiError::invalid("It is wrong.")));
        assert!(!is_about_replica(&ApiError::internal()));
    }
}
