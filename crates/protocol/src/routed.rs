//! One answer made of those of several partitions.
//!
//! A table may be divided into partitions that answer by themselves. What they say is taken as it
//! is: rows are not encoded again, and an answer shows nothing of the names of partitions.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use isthmus_model::change::{KeyPart, NamedKeyPart};
use isthmus_model::key::PrimaryKey;
use isthmus_model::value::Text;
use prost::Message;

use crate::error::ProtocolError;
use crate::error_code::ErrorCode;
use crate::messages;
use crate::plainbuffer::{decode_key, encode_named_key, put_header, split_rows};
use crate::request::RowPlace;
use crate::response::{Consumed, failed_row};

type Result<T> = std::result::Result<T, ProtocolError>;

fn unreadable<E>(_: E) -> ProtocolError {
    ProtocolError::Malformed("an answer cannot be read")
}

/// The answer to a batch, made of those to its rows, which come in any order.
#[derive(Debug)]
pub struct BatchAnswer {
    tables: Vec<(Text, Vec<Option<messages::RowInBatchResponse>>)>,
}

impl BatchAnswer {
    /// Of a batch of so many rows of these tables, none of which is answered yet.
    pub fn new(tables: impl IntoIterator<Item = (Text, usize)>) -> BatchAnswer {
        let empty = |(name, rows)| (name, vec![None; rows]);
        BatchAnswer { tables: tables.into_iter().map(empty).collect() }
    }

    /// Takes the answer to these rows, which went together in this order.
    pub fn put(&mut self, places: &[RowPlace], answer: Bytes) -> Result<()> {
        let answer = messages::BatchResponse::decode(answer).map_err(unreadable)?;
        let rows: Vec<_> = answer.tables.into_iter().flat_map(|table| table.rows).collect();
        if rows.len() != places.len() {
            return Err(unreadable(()));
        }
        places.iter().zip(rows).for_each(|(place, row)| self.set(*place, row));
        Ok(())
    }

    /// These rows failed together.
    pub fn put_failed(&mut self, places: &[RowPlace], code: ErrorCode, message: &str) {
        places.iter().for_each(|place| self.set(*place, failed_row(code, message)));
    }

    fn set(&mut self, (table, row): RowPlace, answer: messages::RowInBatchResponse) {
        let rows = self.tables.get_mut(table).map(|(_, rows)| rows);
        if let Some(place) = rows.and_then(|rows| rows.get_mut(row)) {
            *place = Some(answer);
        }
    }

    /// The whole answer, in the order of the request.
    pub fn finish(self) -> Bytes {
        let missing = || failed_row(ErrorCode::InternalServerError, "Internal server error.");
        let tables = self.tables.into_iter().map(|(name, rows)| messages::TableInBatchResponse {
            table_name: Some(name.bytes().clone()),
            rows: rows.into_iter().map(|row| row.unwrap_or_else(missing)).collect(),
        });
        messages::BatchResponse { tables: tables.collect() }.encode_to_vec().into()
    }
}

/// The answer of DescribeTable with another name, of a table that is no global table to clients.
pub fn described_as(answer: Bytes, name: &str) -> Result<Bytes> {
    let mut wire = messages::DescribeTableResponse::decode(answer).map_err(unreadable)?;
    if let Some(meta) = &mut wire.table_meta {
        meta.table_name = Some(Bytes::copy_from_slice(name.as_bytes()));
        meta.global_table_id = None;
    }
    Ok(wire.encode_to_vec().into())
}

/// A key with the names of its columns.
pub type NamedKey = Vec<NamedKeyPart>;

/// A page of rows of one partition, of which the first ones may have been taken.
#[derive(Debug, Default)]
pub struct Page {
    rows: VecDeque<(PrimaryKey, NamedKey, Bytes)>,
    next: Option<(PrimaryKey, NamedKey)>,
    token: Option<Bytes>,
    /// What was read, in the unit that the answer told.
    read: u64,
    count: usize,
}

/// What was taken of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    row: Bytes,
    /// The row was cut: where to go on in it.
    pub cut: Option<(NamedKey, Bytes)>,
}

impl Page {
    /// The answer of a partition to GetRange.
    pub fn decode(answer: Bytes) -> Result<Page> {
        let wire = messages::GetRangeResponse::decode(answer).map_err(unreadable)?;
        let rows = split_rows(&wire.rows.unwrap_or_default())?;
        let count = rows.len();
        let rows = rows.into_iter().map(|(row, bytes)| {
            let values = row.row.key.0.iter().cloned().map(KeyPart::Value);
            let named = row.key_names.into_iter().zip(values);
            let named = named.map(|(name, part)| NamedKeyPart { name, part }).collect();
            (row.row.key, named, bytes)
        });
        let next = wire.next_start_primary_key.filter(|key| !key.is_empty());
        let next = next.map(|key| named_key(decode_key(&key)?)).transpose()?;
        let unit = wire.consumed.and_then(|consumed| consumed.capacity_unit);
        let read = unit.and_then(|unit| unit.read).unwrap_or(0);
        Ok(Page {
            rows: rows.collect(),
            next,
            token: wire.next_token.filter(|token| !token.is_empty()),
            read: u64::try_from(read).unwrap_or(0),
            count,
        })
    }

    /// The key with which what is left of the partition begins; `None`: nothing is left.
    pub fn front(&self) -> Option<&PrimaryKey> {
        let row = self.rows.front().map(|(key, _, _)| key);
        row.or_else(|| self.next.as_ref().map(|(key, _)| key))
    }

    /// The same, as a client is told it.
    pub fn named_front(&self) -> Option<&NamedKey> {
        let row = self.rows.front().map(|(_, named, _)| named);
        row.or_else(|| self.next.as_ref().map(|(_, named)| named))
    }

    /// Where the next page begins, if all rows of this one are taken and there is one.
    pub fn next_page(&self) -> Option<&NamedKey> {
        self.next.as_ref().filter(|_| self.rows.is_empty()).map(|(_, named)| named)
    }

    /// Takes the next row.
    pub fn take(&mut self) -> Option<Taken> {
        let (_, named, row) = self.rows.pop_front()?;
        let token = self.token.take_if(|_| self.rows.is_empty());
        Some(Taken { row, cut: token.map(|token| (named, token)) })
    }

    /// What was read for the taken rows: their part of what was for the page.
    fn read(&self) -> u64 {
        let taken = (self.count - self.rows.len()) as u64;
        match self.count {
            0 => self.read,
            count => (self.read * taken).div_ceil(count as u64),
        }
    }
}

fn named_key(named: NamedKey) -> Result<(PrimaryKey, NamedKey)> {
    let values = named.iter().map(|part| match &part.part {
        KeyPart::Value(value) => Ok(value.clone()),
        KeyPart::AutoIncrement | KeyPart::Min | KeyPart::Max | KeyPart::NotAKeyType(_) => {
            Err(unreadable(()))
        }
    });
    Ok((PrimaryKey(values.collect::<Result<_>>()?), named))
}

/// The answer to GetRange, made of rows of several pages.
#[derive(Debug, Default)]
pub struct RangeAnswer {
    rows: BytesMut,
    count: usize,
    read: u64,
}

impl RangeAnswer {
    /// Adds a row.
    pub fn push(&mut self, taken: &Taken) {
        if self.rows.is_empty() {
            put_header(&mut self.rows);
        }
        self.rows.extend_from_slice(&taken.row);
        self.count += 1;
    }

    /// Rows so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of them.
    pub fn row_bytes(&self) -> usize {
        self.rows.len()
    }

    /// Nothing more is taken of a page.
    pub fn leave(&mut self, page: &Page) {
        self.read += page.read();
    }

    /// What was read for its rows, in the unit that the pages told.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// The whole answer, which used so many units. `next` is where the next page begins, if there
    /// is one, with the token to go on in a row that was cut.
    pub fn finish(
        self,
        consumed: Consumed,
        next: Option<&NamedKey>,
        token: Option<Bytes>,
    ) -> Bytes {
        let units = |units: u32| Some(i32::try_from(units).unwrap_or(i32::MAX));
        let unit =
            messages::CapacityUnit { read: units(consumed.read), write: units(consumed.write) };
        let answer = messages::GetRangeResponse {
            consumed: Some(messages::ConsumedCapacity { capacity_unit: Some(unit) }),
            rows: Some(self.rows.freeze()),
            next_start_primary_key: next.map(|key| encode_named_key(key)),
            next_token: token,
        };
        answer.encode_to_vec().into()
    }
}

#[cfg(test)]
mod tests;
