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
    BatchGetRow, Operation, RowPlace, RowRead, TableReads, batches_by_group,
};
use isthmus_protocol::routed::BatchAnswer;

use super::{ASKED_AT_ONCE, Fresh, partition_of};
use crate::api_error::ApiError;
use crate::http::forward::Change;
use crate::http::{BATCH_WRITE, PublicApi};
use crate::node::Partition;
use crate::receipts::AFTER;
use crate::together::{Piece, together};

/// The distributed tables of a batch.
struct Tables(BTreeMap<Text, Arc<Distribution>>);

impl Tables {
    /// The partition that a row of a table is in; `None`: the table is not distributed.
    fn partition(&self, table: &Text, key: &[NamedKeyPart]) -> Option<Partition<'_>> {
        self.0.get(table).map(|table| partition_of(table, key))
    }

    /// The name by which the table of a row goes.
    fn name_of(&self, table: &Text, key: &[NamedKeyPart]) -> Text {
        let partition = self.partition(table, key);
        partition.map_or_else(|| table.clone(), |partition| Text::from(partition.name()))
    }

    /// The partition of that name.
    fn named(&self, name: &Text) -> Option<Partition<'_>> {
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

impl PublicApi {
    fn tables_of<'a>(&self, names: impl IntoIterator<Item = &'a Text>) -> Tables {
        let names: BTreeSet<&Text> = names.into_iter().collect();
        let known = |name: &Text| Some((name.clone(), self.node.distribution(name.as_str())?));
        Tables(names.into_iter().filter_map(known).collect())
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
        let tables = self.tables_of(checked.tables());
        // What refuses a batch as a whole does so before any of it is done.
        for table in checked.tables().iter().filter(|table| !tables.0.contains_key(*table)) {
            self.node.place_of_writes(table.as_str())?;
        }
        drop(checked);
        let name_of = |table: &Text, key: &[NamedKeyPart]| tables.name_of(table, key);
        let (counts, groups) = batches_by_group(body.clone(), name_of)?;
        let mut whole = BatchAnswer::new(counts);
        let wants_receipt = receipt.is_some();
        let mut writing: Vec<Piece<'_, _>> = Vec::with_capacity(groups.len());
        for group in groups {
            let partition = tables.named(&group.name);
            writing.push(Box::pin(async move {
                let mut receipt = wants_receipt.then(Receipt::default);
                let (body, marks) = (&group.body, receipt.as_mut());
                let answer = match partition {
                    Some(partition) => self.at_writer(&partition, BATCH_WRITE, body, marks).await,
                    None => match Change::decode(BATCH_WRITE, body) {
                        Ok(change) => self.change_table(&group.name, change, body, marks).await,
                        Err(error) => Err(error),
                    },
                };
                (group.places, answer, receipt)
            }));
        }
        let mut written = together(writing, ASKED_AT_ONCE).await;
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

    /// BatchGetRow.
    pub(super) async fn route_batch_get(
        &self,
        batch: BatchGetRow,
        fresh: Fresh<'_>,
    ) -> Result<Bytes, ApiError> {
        let tables = self.tables_of(batch.tables.iter().map(|reads| &reads.table));
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
                let part = parts.entry(tables.name_of(&reads.table, &row.key)).or_default();
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
