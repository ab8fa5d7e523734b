//! A BatchWriteRow that is carried out part by part where it is large in memory.
//!
//! A cell of 16 bytes on the wire is one of about 90 in memory. So that a batch of the smallest
//! cells takes no more than a few times its body, its rows are not all decoded at once: each part
//! is decoded when the one before has been carried out. What must hold: the whole batch has been
//! checked before its first part is handed out, so that wrong bytes refuse all of it; rows keep
//! their order; a batch whose rows belong together, and one of common cells, is one part.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::mem::size_of;
use std::vec;

use bytes::Bytes;
use isthmus_model::change::{CellChange, CellWrite, NamedKeyPart, RowAction, RowChange};
use isthmus_model::value::Text;
use prost::Message;

use crate::error::ProtocolError;
use crate::error_code::ErrorCode;
use crate::messages;
use crate::request::batch::{self, DataSize};
use crate::request::fields::{Result, client_name};
use crate::request::{BatchWriteRow, TableWrites};
use crate::response::failed_row;

/// Decoded rows may take so many times the bytes of the body that they share.
const BODY_SHARE: usize = 2;
/// Or so many bytes, in small batches.
const PART_BYTES_MIN: usize = 1024 * 1024;

type WireRow = messages::RowInBatchWriteRowRequest;

/// A batch that has been checked, as one part or several.
#[derive(Debug)]
pub struct BatchWriteParts {
    names: Vec<Text>,
    atomic: bool,
    rows: Rows,
    bytes_max: usize,
    /// The table of the last row that was handed out.
    last: Option<usize>,
}

#[derive(Debug)]
enum Rows {
    /// All of them.
    Decoded(Option<Vec<TableWrites>>),
    /// Each with the place of its table.
    Wire(Peekable<vec::IntoIter<(usize, WireRow)>>),
}

/// Rows of a batch that are written together.
#[derive(Debug, PartialEq)]
pub struct BatchWritePart {
    /// The rows.
    pub writes: BatchWriteRow,
    /// Whether its first table is the last one of the part before, with more of its rows.
    pub continues: bool,
}

impl BatchWriteParts {
    /// Checks the whole batch of a client.
    pub fn decode(body: Bytes) -> Result<BatchWriteParts> {
        let parts = BatchWriteParts::decode_passed_on(body)?;
        parts.names.iter().try_for_each(|name| client_name(name.as_str()))?;
        Ok(parts)
    }

    /// Checks the whole of a batch that another region has passed on: it may name partitions.
    pub fn decode_passed_on(body: Bytes) -> Result<BatchWriteParts> {
        let bytes_max = PART_BYTES_MIN.max(body.len() * BODY_SHARE);
        BatchWriteParts::decode_within(body, bytes_max)
    }

    /// The whole batch as one part, whatever it takes.
    pub(super) fn decode_whole(body: Bytes) -> Result<BatchWriteRow> {
        let mut parts = BatchWriteParts::decode_within(body, usize::MAX)?;
        match parts.next() {
            Some(part) => part.map(|part| part.writes),
            None => Err(ProtocolError::invalid("No row is specified in BatchWriteRow.")),
        }
    }

    fn decode_within(body: Bytes, bytes_max: usize) -> Result<BatchWriteParts> {
        let (wire, atomic) = batch::wire_writes(body)?;
        let (mut data, mut bytes) = (DataSize::default(), 0);
        let mut names = Vec::with_capacity(wire.len());
        let mut decoded = Vec::with_capacity(wire.len());
        for table in &wire {
            let table_name = batch::written_table(table)?;
            names.push(table_name.clone());
            let mut rows = Vec::new();
            for row in &table.rows {
                let change = batch::row_write(row)?;
                data.add(&change);
                bytes += memory(&change);
                if atomic || bytes <= bytes_max {
                    rows.push(change);
                } else {
                    rows = Vec::new();
                    decoded = Vec::new();
                }
            }
            decoded.push(TableWrites { table: table_name, rows });
        }
        data.check()?;
        let rows = if atomic || bytes <= bytes_max {
            Rows::Decoded(Some(decoded))
        } else {
            let rows = wire
                .into_iter()
                .enumerate()
                .flat_map(|(place, table)| table.rows.into_iter().map(move |row| (place, row)));
            Rows::Wire(rows.collect::<Vec<_>>().into_iter().peekable())
        };
        Ok(BatchWriteParts { names, atomic, rows, bytes_max, last: None })
    }

    /// Names of the tables, in the order of the request.
    pub fn tables(&self) -> &[Text] {
        &self.names
    }

    /// Whether nothing is left to hand out.
    pub fn is_empty(&mut self) -> bool {
        match &mut self.rows {
            Rows::Decoded(tables) => tables.is_none(),
            Rows::Wire(rows) => rows.peek().is_none(),
        }
    }

    fn next_decoded(&mut self) -> Option<Result<BatchWritePart>> {
        let continued = self.last;
        let Rows::Wire(rows) = &mut self.rows else { return None };
        let continues = rows.peek().is_some_and(|(place, _)| continued == Some(*place));
        let (mut tables, mut bytes) = (Vec::new(), 0);
        self.last = None;
        while bytes <= self.bytes_max {
            let Some((place, row)) = rows.next() else { break };
            let change = match batch::row_write(&row) {
                Ok(change) => change,
                Err(error) => return Some(Err(error)),
            };
            bytes += memory(&change);
            if self.last != Some(place) {
                let table = self.names[place].clone();
                tables.push(TableWrites { table, rows: Vec::new() });
                self.last = Some(place);
            }
            if let Some(table) = tables.last_mut() {
                table.rows.push(change);
            }
        }
        if tables.is_empty() {
            return None;
        }
        Some(Ok(BatchWritePart { writes: BatchWriteRow { tables, atomic: false }, continues }))
    }
}

impl Iterator for BatchWriteParts {
    type Item = Result<BatchWritePart>;

    fn next(&mut self) -> Option<Result<BatchWritePart>> {
        if let Rows::Decoded(tables) = &mut self.rows {
            let writes = BatchWriteRow { tables: tables.take()?, atomic: self.atomic };
            return Some(Ok(BatchWritePart { writes, continues: false }));
        }
        self.next_decoded()
    }
}

/// A BatchWriteRow as one request per table: its name, its number of rows, and the body.
pub fn batches_by_table(body: Bytes) -> Result<Vec<(Text, usize, Bytes)>> {
    let (wire, atomic) = batch::wire_writes(body)?;
    let one = |table: messages::TableInBatchWriteRowRequest| {
        let (name, rows) = (batch::written_table(&table)?, table.rows.len());
        let request = messages::BatchWriteRowRequest {
            tables: vec![table],
            is_atomic: atomic.then_some(true),
            ..messages::BatchWriteRowRequest::default()
        };
        Ok((name, rows, request.encode_to_vec().into()))
    };
    wire.into_iter().map(one).collect()
}

/// Where a row of a batch is: the place of its table, and its place there.
pub type RowPlace = (usize, usize);

/// Rows of a BatchWriteRow that go together as a request of its own.
#[derive(Debug, PartialEq)]
pub struct BatchGroup {
    /// The name by which its table goes there.
    pub name: Text,
    /// Where its rows are in the whole batch.
    pub places: Vec<RowPlace>,
    /// The request.
    pub body: Bytes,
}

/// The tables of a batch in its order, each with how many rows it has.
pub type TableCounts = Vec<(Text, usize)>;

/// A BatchWriteRow as one request per group. `name_of` says by which name a row's table goes, by
/// its name in the request and the row's key. Rows of a group keep their order; in a batch whose
/// rows belong together the first row of a table decides for all. One row is decoded at a time.
pub fn batches_by_group(
    body: Bytes,
    name_of: impl Fn(&Text, &[NamedKeyPart]) -> Text,
) -> Result<(TableCounts, Vec<BatchGroup>)> {
    let (wire, atomic) = batch::wire_writes(body)?;
    group(wire, atomic, atomic, name_of)
}

/// The same of a batch that is to be made whole or not at all, whatever it is about: its groups are
/// by the names of the rows, and each is one entry.
pub fn atomic_groups(
    body: Bytes,
    name_of: impl Fn(&Text, &[NamedKeyPart]) -> Text,
) -> Result<(TableCounts, Vec<BatchGroup>)> {
    let (wire, _) = batch::wire_writes(body)?;
    group(wire, true, false, name_of)
}

/// `atomic`: each group is one entry. `by_first`: the rows of a table go where its first one does.
fn group(
    wire: Vec<messages::TableInBatchWriteRowRequest>,
    atomic: bool,
    by_first: bool,
    name_of: impl Fn(&Text, &[NamedKeyPart]) -> Text,
) -> Result<(TableCounts, Vec<BatchGroup>)> {
    let mut counts = Vec::with_capacity(wire.len());
    let mut groups: BTreeMap<Text, (Vec<RowPlace>, Vec<WireRow>)> = BTreeMap::new();
    for (at, table) in wire.into_iter().enumerate() {
        let table_name = batch::written_table(&table)?;
        counts.push((table_name.clone(), table.rows.len()));
        let mut together = None;
        for (number, row) in table.rows.into_iter().enumerate() {
            let name = match &together {
                Some(name) => Text::clone(name),
                None => name_of(&table_name, &batch::row_write(&row)?.key),
            };
            if by_first {
                together = Some(name.clone());
            }
            let (places, rows) = groups.entry(name).or_default();
            places.push((at, number));
            rows.push(row);
        }
    }
    let groups = groups.into_iter().map(|(name, (places, rows))| {
        let table_name = Some(name.bytes().clone());
        let request = messages::BatchWriteRowRequest {
            tables: vec![messages::TableInBatchWriteRowRequest { table_name, rows }],
            is_atomic: atomic.then_some(true),
            ..messages::BatchWriteRowRequest::default()
        };
        BatchGroup { name, places, body: request.encode_to_vec().into() }
    });
    Ok((counts, groups.collect()))
}

/// A BatchWriteRow of one table as one request per row, in order.
pub fn batches_by_row(body: Bytes) -> Result<Vec<Bytes>> {
    let (wire, _) = batch::wire_writes(body)?;
    let one = |table_name: Option<Bytes>, row| {
        let table = messages::TableInBatchWriteRowRequest { table_name, rows: vec![row] };
        let request = messages::BatchWriteRowRequest {
            tables: vec![table],
            ..messages::BatchWriteRowRequest::default()
        };
        request.encode_to_vec().into()
    };
    let by_row = wire.into_iter().flat_map(|table| {
        let name = table.table_name;
        table.rows.into_iter().map(move |row| one(name.clone(), row)).collect::<Vec<_>>()
    });
    Ok(by_row.collect())
}

/// Bytes that a decoded change takes beside the body.
fn memory(change: &RowChange) -> usize {
    let cells = match &change.action {
        RowAction::Put(cells) => cells.capacity() * size_of::<CellWrite>(),
        RowAction::Update(changes) => changes.capacity() * size_of::<CellChange>(),
        RowAction::Delete => 0,
    };
    size_of::<RowChange>() + change.key.capacity() * size_of::<NamedKeyPart>() + cells
}

/// The answer to a batch, made of those to its parts.
#[derive(Debug, Default)]
pub struct BatchPartsAnswer {
    tables: Vec<messages::TableInBatchResponse>,
}

impl BatchPartsAnswer {
    /// Adds what `encode_batch` made of the answers to a part.
    pub fn push(&mut self, continues: bool, answer: Bytes) -> Result<()> {
        let answer = messages::BatchResponse::decode(answer)
            .map_err(|_| ProtocolError::Malformed("an answer cannot be read"))?;
        let mut tables = answer.tables.into_iter();
        if continues && let (Some(last), Some(first)) = (self.tables.last_mut(), tables.next()) {
            last.rows.extend(first.rows);
        }
        self.tables.extend(tables);
        Ok(())
    }

    /// Adds a part all rows of which failed; of each table its name and how many rows.
    pub fn push_failed(
        &mut self,
        continues: bool,
        tables: &[(Text, usize)],
        code: ErrorCode,
        message: &str,
    ) {
        for (place, (name, count)) in tables.iter().enumerate() {
            let rows = vec![failed_row(code, message); *count];
            match self.tables.last_mut() {
                Some(last) if place == 0 && continues => last.rows.extend(rows),
                _ => {
                    let table_name = Some(name.bytes().clone());
                    self.tables.push(messages::TableInBatchResponse { table_name, rows });
                }
            }
        }
    }

    /// The whole answer.
    pub fn finish(self) -> Bytes {
        messages::BatchResponse { tables: self.tables }.encode_to_vec().into()
    }
}

#[cfg(test)]
mod tests;
