//! Batches of which some tables are distributed: one batch for each partition, all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use isthmus_control::distribution::Distribution;
use isthmus_model::change::NamedKeyPart;
use isthmus_model::value::Text;
use isthmus_protocol::client::encode_request;
use isthmus_protocol::receipt::Receipt;
use isthmus_protocol::request::{
    BatchGetRow, BatchGroup, Operation, RowPlace, RowRead, TableReads, batches_by_group,
};
use isthmus_protocol::routed::BatchAnswer;

use super::turns::Turns;
use super::{ASKED_AT_ONCE, Fresh, partition_of};
use crate::api_error::ApiError;
use crate::http::forward::Change;
use crate::http::{BATCH_WRITE, PublicApi};
use crate::node::Partition;
use crate::receipts::AFTER;
use crate::together::{Piece, together};

/// The distributed tables of a batch.
pub(super) struct Tables(BTreeMap<Text, Arc<Distribution>>);

impl Tables {
    /// The partition that a row of a table is in; `None`: the table is not distributed.
    fn partition(&self, table: &Text, key: &[NamedKeyPart]) -> Option<Partition<'_>> {
        self.0.get(table).map(|table| partition_of(table, key))
    }

    /// Whether a table is distributed.
    pub(super) fn has(&self, table: &Text) -> bool {
        self.0.contains_key(table)
    }

    /// Whether any of the distributed ones is such.
    pub(super) fn any(&self, is_such: impl Fn(&Distribution) -> bool) -> bool {
        self.0.values().any(|table| is_such(table))
    }

    /// The name by which the table of a row goes.
    pub(super) fn name_of(&self, table: &Text, key: &[NamedKeyPart]) -> Text {
        let partition = self.partition(table, key);
        partition.map_or_else(|| table.clone(), |partition| Text::from(partition.name()))
    }

    /// The partition of that name.
    pub(super) fn named(&self, name: &Text) -> Option<Partition<'_>> {
        let (table, number) = isthmus_control::distribution::partition_named(name.as_str())?;
        let table = self.0.get(&Text::from(table))?;
        let place = table.partitions.iter().position(|partition| partition.number == number)?;
        Some(Partition { table, place })
    }
}

/// Rows of one table of a batch that are read together.
#[derive(Default)]
struct Reads {
    rows: Vec<RowRead>,
    places: Vec<RowPlace>,
}

/// The places of rows in a batch, what became of them, and the receipt if one is wanted.
type Written = (Vec<RowPlace>, Result<Bytes, ApiError>, Option<Receipt>);

/// A group of rows of one partition, as one for each partition of a table that has others since.
fn regrouped(group: &BatchGroup, table: &Distribution) -> Result<Vec<BatchGroup>, ApiError> {
    let name_of = |_: &Text, key: &[NamedKeyPart]| Text::from(partition_of(table, key).name());
    let (_, mut groups) = batches_by_group(group.body.clone(), name_of)?;
    for part in &mut groups {
        for place in &mut part.places {
            *place = group.places.get(place.1).copied().ok_or_else(ApiError::internal)?;
        }
    }
    Ok(groups)
}

impl PublicApi {
    pub(super) fn tables_of<'a>(
        &self,
        names: impl IntoIterator<Item = &'a Text>,
        turns: &mut Turns<'_>,
    ) -> Tables {
        let names: BTreeSet<&Text> = names.into_iter().collect();
        let mut known = BTreeMap::new();
        for name in names.into_iter().filter(|name| self.is_routed([name.as_str()])) {
            known.extend(turns.shape_of(name).ok().map(|table| (name.clone(), table)));
        }
        Tables(known)
    }

    /// The name by which the table of a row goes that is asked for.
    fn name_asked(&self, tables: &Tables, table: &Text, key: &[NamedKeyPart]) -> Text {
        let Some(partition) = tables.partition(table, key) else { return table.clone() };
        self.note_asked(&partition, key);
        Text::from(partition.name())
    }

    /// BatchWriteRow. What is written is added to the receipt, if one is wanted.
    pub(in crate::http) async fn route_batch_write(
        &self,
        body: &Bytes,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        let Change::Batch(checked) = Change::decode(BATCH_WRITE, body)? else {
            return Err(ApiError::internal());
        };
        let tables = self.tables_of(checked.tables(), &mut self.turns());
        // What refuses a batch as a whole does so before any of it is done.
        for table in checked.tables().iter().filter(|table| !tables.0.contains_key(*table)) {
            self.node.place_of_writes(table.as_str())?;
        }
        drop(checked);
        let name_of = |table: &Text, key: &[NamedKeyPart]| self.name_asked(&tables, table, key);
        let (counts, groups) = batches_by_group(body.clone(), name_of)?;
        let mut whole = BatchAnswer::new(counts);
        let wants_receipt = receipt.is_some();
        let mut writing: Vec<Piece<'_, _>> = Vec::with_capacity(groups.len());
        for group in groups {
            let table = tables.named(&group.name).map(|partition| partition.table);
            writing.push(Box::pin(async move {
                if let Some(table) = table {
                    return self.write_group(table, group, wants_receipt).await;
                }
                let mut receipt = wants_receipt.then(Receipt::default);
                let (body, marks) = (&group.body, receipt.as_mut());
                let answer = match Change::decode(BATCH_WRITE, body) {
                    Ok(change) => self.change_table(&group.name, change, body, marks).await,
                    Err(error) => Err(error),
                };
                vec![(group.places, answer, receipt)]
            }));
        }
        let written = together(writing, ASKED_AT_ONCE).await;
        let mut written: Vec<Written> = written.into_iter().flatten().collect();
        if let [(_, only @ Err(_), _)] = &mut written[..] {
            // All of it is refused as it would be of another table.
            return std::mem::replace(only, Ok(Bytes::new()));
        }
        let mut receipts = Vec::new();
        for (places, answer, receipt) in written {
            match answer {
                Ok(answer) => whole.put(&places, answer)?,
                Err(error) => whole.put_failed(&places, error.code, &error.message),
            }
            receipts.extend(receipt);
        }
        if let Some(receipt) = receipt {
            let marks = receipts.iter().flat_map(Receipt::marks);
            marks.for_each(|mark| receipt.add(*mark));
        }
        Ok(whole.finish())
    }

    /// Writes a group of rows of one partition. Where that has been split or merged since, those
    /// rows of which nothing was done are grouped anew.
    async fn write_group(
        &self,
        table: &Distribution,
        group: BatchGroup,
        wants_receipt: bool,
    ) -> Vec<Written> {
        let name = Text::from(table.name.as_str());
        let mut turns = self.turns();
        let mut shape = Arc::new(table.clone());
        let (mut waiting, mut done) = (vec![group], Vec::new());
        loop {
            let tables = Tables(BTreeMap::from([(name.clone(), shape.clone())]));
            let mut refused = Vec::new();
            for group in waiting {
                let mut receipt = wants_receipt.then(Receipt::default);
                let answer = match tables.named(&group.name) {
                    Some(partition) => {
                        let (body, marks) = (&group.body, receipt.as_mut());
                        self.at_writer(&partition, BATCH_WRITE, body, marks).await
                    }
                    None => Err(ApiError::elsewhere()),
                };
                match answer {
                    Err(error) if turns.may_be_elsewhere(&shape, &error) => {
                        refused.push((group, error));
                    }
                    answer => done.push((group.places, answer, receipt)),
                }
            }
            if refused.is_empty() {
                return done;
            }
            let next = match turns.next(ApiError::elsewhere()).await {
                Ok(()) => turns.shape_of(&name),
                Err(error) => Err(error),
            };
            let grouped = next.and_then(|next| {
                shape = next;
                let groups = refused.iter().map(|(group, _)| regrouped(group, &shape));
                groups.collect::<Result<Vec<_>, _>>()
            });
            match grouped {
                Ok(groups) => waiting = groups.into_iter().flatten().collect(),
                Err(_) => {
                    let refused = refused.into_iter();
                    done.extend(refused.map(|(group, error)| (group.places, Err(error), None)));
                    return done;
                }
            }
        }
    }

    /// BatchGetRow.
    pub(super) async fn route_batch_get(
        &self,
        batch: BatchGetRow,
        fresh: Fresh<'_>,
    ) -> Result<Bytes, ApiError> {
        let mut turns = self.turns();
        loop {
            let tables = self.tables_of(batch.tables.iter().map(|one| &one.table), &mut turns);
            let is_elsewhere = |error: &ApiError| {
                tables.0.values().any(|table| turns.may_be_elsewhere(table, error))
            };
            match Box::pin(self.batch_get_of(&tables, batch.clone(), fresh, &is_elsewhere)).await {
                Err(error) if is_elsewhere(&error) => turns.next(error).await?,
                answer => return answer,
            }
        }
    }

    /// Reads rows of partitions as they are known. An error that says that one may be elsewhere is
    /// that of all.
    async fn batch_get_of(
        &self,
        tables: &Tables,
        batch: BatchGetRow,
        fresh: Fresh<'_>,
        is_elsewhere: &(dyn Fn(&ApiError) -> bool + std::marker::Sync),
    ) -> Result<Bytes, ApiError> {
        for reads in batch.tables.iter().filter(|reads| !tables.0.contains_key(&reads.table)) {
            if matches!(fresh, Fresh::After(_)) {
                return Err(ApiError::invalid(format!(
                    "The header '{AFTER}' of a BatchGetRow: read distributed tables and others, \
                     such as {}, in requests of their own.",
                    reads.table
                )));
            }
            self.node.readable(reads.table.as_str())?;
        }
        let counts = batch.tables.iter().map(|table| (table.table.clone(), table.rows.len()));
        let mut whole = BatchAnswer::new(counts);
        let mut reading: Vec<Piece<'_, _>> = Vec::new();
        for (at, reads) in batch.tables.into_iter().enumerate() {
            let mut parts: BTreeMap<Text, Reads> = BTreeMap::new();
            for (number, row) in reads.rows.into_iter().enumerate() {
                let part =
                    parts.entry(self.name_asked(tables, &reads.table, &row.key)).or_default();
                part.rows.push(row);
                part.places.push((at, number));
            }
            for (name, Reads { rows, places }) in parts {
                let partition = tables.named(&name);
                let projection = reads.projection.clone();
                let batch =
                    BatchGetRow { tables: vec![TableReads { table: name, rows, projection }] };
                reading.push(Box::pin(async move {
                    let answer = match partition {
                        Some(partition) => {
                            let batch = Operation::BatchGetRow(batch);
                            self.read_partition(&partition, batch, fresh, 0).await
                        }
                        None => self.read_whole(batch, fresh).await,
                    };
                    (places, answer)
                }));
            }
        }
        let mut read = together(reading, ASKED_AT_ONCE).await;
        if let [(_, only @ Err(_))] = &mut read[..] {
            // All of it is refused as it would be of another table.
            return std::mem::replace(only, Ok(Bytes::new()));
        }
        for (places, answer) in read {
            match answer {
                Ok(answer) => whole.put(&places, answer)?,
                Err(error) if is_elsewhere(&error) => return Err(error),
                Err(error) => whole.put_failed(&places, error.code, &error.message),
            }
        }
        Ok(whole.finish())
    }

    /// Reads rows of a table that is not distributed as if it were asked for alone.
    async fn read_whole(&self, batch: BatchGetRow, fresh: Fresh<'_>) -> Result<Bytes, ApiError> {
        for reads in &batch.tables {
            self.node.listen_first(reads.table.as_str()).await;
        }
        let read = Operation::BatchGetRow(batch);
        if self.reads_newest(&read, fresh.as_of())? {
            let body = encode_request(&read);
            return self.read_newest(read, &body).await;
        }
        if fresh == Fresh::AsWritten {
            self.rows.await_readable(&read).await?;
        }
        let cut = match fresh {
            Fresh::Cut(cut) => Some(self.cut(&read, Some(cut)).await?),
            _ => None,
        };
        match read {
            Operation::BatchGetRow(batch) => self.rows.batch_get(batch, cut),
            _ => Err(ApiError::internal()),
        }
    }
}
