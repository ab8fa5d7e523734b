//! Plain rows, read straight from their packed form.
//!
//! A row is plain if each of its columns has one version, alive, and nothing else: what is stored
//! is then what is shown, and no `Row` need be made to show it. Most rows of most tables are.

use isthmus_model::ids::Timestamp;

use crate::codec::row::{
    CELL_BINARY, CELL_DOUBLE, CELL_FALSE, CELL_INTEGER, CELL_KIND, CELL_PLACE_FOLLOWS,
    CELL_PLACE_SHIFT, CELL_STRING, CELL_TIME_OF_STAMP, CELL_TRUE, COLUMN_BYTES_MIN, ROW_MARKER,
    ROW_PLAIN, ROW_TOMBSTONE, VERSION,
};
use crate::codec::{Corrupt, Reader, STAMP_BYTES, corrupt};
use bytes::Bytes;

/// The version of a column of a plain row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlainCell<'a> {
    /// Column name, UTF-8.
    pub name: &'a [u8],
    /// Version.
    pub timestamp: Timestamp,
    /// Value.
    pub value: PlainValue<'a>,
}

/// A value that is only looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PlainValue<'a> {
    /// 64-bit signed.
    Integer(i64),
    /// IEEE 754 binary64.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// UTF-8 text.
    String(&'a [u8]),
    /// Bytes.
    Binary(&'a [u8]),
}

impl PlainValue<'_> {
    /// Bytes as the capacity units count them.
    pub fn size(&self) -> usize {
        match self {
            PlainValue::Integer(_) | PlainValue::Double(_) => 8,
            PlainValue::Boolean(_) => 1,
            PlainValue::String(bytes) | PlainValue::Binary(bytes) => bytes.len(),
        }
    }
}

/// The cells of a plain row, by column.
pub struct PlainCells<'a> {
    reader: Reader<'a>,
    stamps: &'a [u8],
    left: usize,
}

/// The cells of a packed row, if it is plain.
pub fn plain_cells(packed: &Bytes) -> Result<Option<PlainCells<'_>>, Corrupt> {
    let mut reader = Reader::new(packed);
    reader.version(VERSION)?;
    let flags = reader.byte()?;
    if flags & ROW_PLAIN == 0 {
        return Ok(None);
    }
    let count = reader.count(STAMP_BYTES)?;
    let stamps = reader.slice(count * STAMP_BYTES)?;
    for flag in [ROW_TOMBSTONE, ROW_MARKER] {
        if flags & flag != 0 {
            reader.varint()?;
        }
    }
    let left = reader.count(COLUMN_BYTES_MIN)?;
    Ok(Some(PlainCells { reader, stamps, left }))
}

impl<'a> PlainCells<'a> {
    fn read(&mut self) -> Result<PlainCell<'a>, Corrupt> {
        let reader = &mut self.reader;
        let name_bytes = reader.count(1)?;
        let name = reader.slice(name_bytes)?;
        // One cell and no flags: that is what plain means.
        reader.varint()?;
        let head = reader.byte()?;
        let place = match head >> CELL_PLACE_SHIFT {
            CELL_PLACE_FOLLOWS => reader.varint()? as usize,
            place => usize::from(place),
        };
        let timestamp = match head & CELL_TIME_OF_STAMP {
            0 => Timestamp(reader.signed()?),
            _ => stamp_time(self.stamps, place)?,
        };
        let value = match head & CELL_KIND {
            CELL_INTEGER => PlainValue::Integer(reader.signed()?),
            CELL_DOUBLE => PlainValue::Double(f64::from_bits(u64::from_le_bytes(reader.array()?))),
            CELL_FALSE => PlainValue::Boolean(false),
            CELL_TRUE => PlainValue::Boolean(true),
            CELL_STRING => {
                let length = reader.count(1)?;
                PlainValue::String(reader.slice(length)?)
            }
            CELL_BINARY => {
                let length = reader.count(1)?;
                PlainValue::Binary(reader.slice(length)?)
            }
            _ => return corrupt("cell of a plain row"),
        };
        Ok(PlainCell { name, timestamp, value })
    }
}

impl<'a> Iterator for PlainCells<'a> {
    type Item = Result<PlainCell<'a>, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.read())
    }
}

fn stamp_time(stamps: &[u8], place: usize) -> Result<Timestamp, Corrupt> {
    let hlc =
        place.checked_mul(STAMP_BYTES).and_then(|start| stamps.get(start..)?.first_chunk::<8>());
    let Some(hlc) = hlc else { return corrupt("no such stamp") };
    Ok(isthmus_model::hlc::Hlc(u64::from_le_bytes(*hlc)).timestamp())
}

#[cfg(test)]
mod tests {
    use isthmus_model::row::Row;
    use isthmus_model::value::Value;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::codec::row::encode_row;
    use crate::codec::row::tests::rows;

    fn is_plain(row: &Row) -> bool {
        !row.columns.is_empty()
            && row.columns.iter().all(|column| {
                column.tombstone.is_none()
                    && column.trims.is_empty()
                    && column.cells.len() == 1
                    && column.cells[0].value.is_some()
                    && column.shares.is_none()
            })
    }

    fn same(value: &Value, plain: PlainValue<'_>) -> bool {
        match (value, plain) {
            (Value::Integer(a), PlainValue::Integer(b)) => *a == b,
            (Value::Double(a), PlainValue::Double(b)) => a.to_bits() == b.to_bits(),
            (Value::Boolean(a), PlainValue::Boolean(b)) => *a == b,
            (Value::String(a), PlainValue::String(b)) => a.as_bytes() == b,
            (Value::Binary(a), PlainValue::Binary(b)) => a[..] == *b,
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn plain_rows_show_their_cells_and_others_none(mut row in rows(), thin: bool) {
            if thin {
                for column in &mut row.columns {
                    column.tombstone = None;
                    column.trims.clear();
                    column.shares = None;
                    column.cells.retain(|cell| cell.value.is_some());
                    column.cells.truncate(1);
                }
                row.columns.retain(|column| !column.cells.is_empty());
            }
            let packed = encode_row(&row);
            let cells = plain_cells(&packed).unwrap();
            prop_assert_eq!(cells.is_some(), is_plain(&row));
            for (cell, column) in cells.into_iter().flatten().zip(&row.columns) {
                let cell = cell.unwrap();
                prop_assert_eq!(cell.name, column.name.as_bytes());
                prop_assert_eq!(cell.timestamp, column.cells[0].timestamp);
                prop_assert!(same(column.cells[0].value.as_ref().unwrap(), cell.value));
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = bytes;
            bytes.splice(0..0, [VERSION, ROW_PLAIN]);
            let packed = Bytes::from(bytes);
            if let Ok(Some(cells)) = plain_cells(&packed) {
                cells.take_while(Result::is_ok).for_each(drop);
            }
        }
    }
}
