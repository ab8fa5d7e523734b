//! One column of a Parquet file: what its values mean, and the values themselves, chunk by chunk.
//!
//! What must hold: a value is converted only where nothing of it is lost; what is stated of a
//! column converts as it does for JSON Lines (integers as doubles, text as what is stated).

use bytes::Bytes;
use isthmus_model::value::{Text, Value, ValueKind};
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::column::reader::ColumnReader;
use parquet::data_type::{ByteArray, FixedLenByteArray, Int96};
use parquet::errors::Result;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::malformed;
use crate::source::SourceError;
use crate::types::{self, Types, name_of, shown};

/// Days from the first Julian day to the Unix epoch.
const JULIAN_DAY_OF_EPOCH: i128 = 2_440_588;
const NANOS_OF_DAY: i128 = 86_400_000_000_000;

/// What the values of a column mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// As the physical type says.
    Plain,
    /// Integers without a sign.
    Unsigned,
    /// Bytes that are UTF-8.
    Text,
}

/// A column.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: Text,
    meaning: Meaning,
    stated: Option<ValueKind>,
    /// The level that says that a value is there; 0: it always is.
    present: i16,
}

/// The columns of a file, if all of them can be cells.
pub(super) fn columns(
    schema: &SchemaDescriptor,
    types: &Types,
) -> std::result::Result<Vec<Column>, SourceError> {
    let mut columns = Vec::<Column>::with_capacity(schema.num_columns());
    for described in schema.columns() {
        let path = described.path().string();
        let refused = |why: &str| malformed(format!("column {} {why}", shown(&path)));
        if described.max_rep_level() > 0 || described.path().parts().len() != 1 {
            return Err(refused("is nested, which no cell can hold"));
        }
        let name = Text::from(described.name());
        if name.is_empty() {
            return Err(refused("has no name"));
        }
        if columns.iter().any(|other| other.name == name) {
            return Err(refused("is named twice"));
        }
        let meaning = meaning(described).map_err(|what| {
            refused(&format!("is of Parquet type {what}, which no cell can hold exactly"))
        })?;
        let stated = types.get(name.as_str());
        columns.push(Column { name, meaning, stated, present: described.max_def_level() });
    }
    if columns.is_empty() {
        return Err(malformed("has no columns".to_owned()));
    }
    Ok(columns)
}

fn meaning(described: &ColumnDescriptor) -> std::result::Result<Meaning, &'static str> {
    let bytes = described.physical_type() == Physical::BYTE_ARRAY;
    match described.logical_type_ref() {
        Some(LogicalType::String | LogicalType::Enum | LogicalType::Json) if bytes => {
            return Ok(Meaning::Text);
        }
        Some(LogicalType::Integer(integer)) if !integer.is_signed => return Ok(Meaning::Unsigned),
        Some(LogicalType::Decimal(_)) => return Err("decimal"),
        Some(LogicalType::Float16) => return Err("float16"),
        Some(_) | None => {}
    }
    match described.converted_type() {
        ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON if bytes => {
            Ok(Meaning::Text)
        }
        ConvertedType::UINT_8
        | ConvertedType::UINT_16
        | ConvertedType::UINT_32
        | ConvertedType::UINT_64 => Ok(Meaning::Unsigned),
        ConvertedType::DECIMAL => Err("decimal"),
        _ => Ok(Meaning::Plain),
    }
}

/// The values of one column in one row group, some of them decoded.
pub(super) struct Chunk {
    reader: ColumnReader,
    levels: Vec<i16>,
    values: Values,
    next_level: usize,
    next_value: usize,
}

enum Values {
    Boolean(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Int96(Vec<Int96>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
    Fixed(Vec<FixedLenByteArray>),
}

impl Chunk {
    pub(super) fn new(reader: ColumnReader) -> Chunk {
        let values = match &reader {
            ColumnReader::BoolColumnReader(_) => Values::Boolean(Vec::new()),
            ColumnReader::Int32ColumnReader(_) => Values::Int32(Vec::new()),
            ColumnReader::Int64ColumnReader(_) => Values::Int64(Vec::new()),
            ColumnReader::Int96ColumnReader(_) => Values::Int96(Vec::new()),
            ColumnReader::FloatColumnReader(_) => Values::Float(Vec::new()),
            ColumnReader::DoubleColumnReader(_) => Values::Double(Vec::new()),
            ColumnReader::ByteArrayColumnReader(_) => Values::Bytes(Vec::new()),
            ColumnReader::FixedLenByteArrayColumnReader(_) => Values::Fixed(Vec::new()),
        };
        Chunk { reader, levels: Vec::new(), values, next_level: 0, next_value: 0 }
    }

    /// Decodes the next rows in place of those before; says how many.
    pub(super) fn fill(&mut self, rows: usize) -> Result<usize> {
        (self.next_level, self.next_value) = (0, 0);
        self.levels.clear();
        let levels = &mut self.levels;
        macro_rules! read {
            ($reader:expr, $values:expr) => {{
                $values.clear();
                $reader.read_records(rows, Some(levels), None, $values).map(|read| read.0)
            }};
        }
        match (&mut self.reader, &mut self.values) {
            (ColumnReader::BoolColumnReader(reader), Values::Boolean(values)) => {
                read!(reader, values)
            }
            (ColumnReader::Int32ColumnReader(reader), Values::Int32(values)) => {
                read!(reader, values)
            }
            (ColumnReader::Int64ColumnReader(reader), Values::Int64(values)) => {
                read!(reader, values)
            }
            (ColumnReader::Int96ColumnReader(reader), Values::Int96(values)) => {
                read!(reader, values)
            }
            (ColumnReader::FloatColumnReader(reader), Values::Float(values)) => {
                read!(reader, values)
            }
            (ColumnReader::DoubleColumnReader(reader), Values::Double(values)) => {
                read!(reader, values)
            }
            (ColumnReader::ByteArrayColumnReader(reader), Values::Bytes(values)) => {
                read!(reader, values)
            }
            (ColumnReader::FixedLenByteArrayColumnReader(reader), Values::Fixed(values)) => {
                read!(reader, values)
            }
            _ => unreachable!("the values were made for this reader"),
        }
    }

    /// Passes over rows.
    pub(super) fn skip(&mut self, rows: usize) -> Result<()> {
        let skipped = match &mut self.reader {
            ColumnReader::BoolColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::Int32ColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::Int64ColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::Int96ColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::FloatColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::DoubleColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::ByteArrayColumnReader(reader) => reader.skip_records(rows),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => reader.skip_records(rows),
        };
        skipped.map(drop)
    }

    /// The value of the next row; `None`: there is none.
    pub(super) fn next_value(
        &mut self,
        column: &Column,
    ) -> std::result::Result<Option<Value>, String> {
        if column.present > 0 {
            let level = self.levels.get(self.next_level).copied();
            self.next_level += 1;
            if level != Some(column.present) {
                return Ok(None);
            }
        }
        let place = self.next_value;
        self.next_value += 1;
        let value = self.value(place, column.meaning)?;
        fit(value, column.stated).map(Some)
    }

    fn value(&self, place: usize, meaning: Meaning) -> std::result::Result<Value, String> {
        let missing = || "the column has too few values".to_owned();
        match &self.values {
            Values::Boolean(values) => values.get(place).map(|v| Ok(Value::Boolean(*v))),
            Values::Int32(values) => values.get(place).map(|value| {
                Ok(Value::Integer(match meaning {
                    Meaning::Unsigned => i64::from(value.cast_unsigned()),
                    Meaning::Plain | Meaning::Text => i64::from(*value),
                }))
            }),
            Values::Int64(values) => values.get(place).map(|value| match meaning {
                Meaning::Unsigned if *value < 0 => {
                    Err(format!("{} is larger than an integer can be", value.cast_unsigned()))
                }
                _ => Ok(Value::Integer(*value)),
            }),
            Values::Int96(values) => values.get(place).map(timestamp),
            Values::Float(values) => values.get(place).map(|v| Ok(Value::Double(f64::from(*v)))),
            Values::Double(values) => values.get(place).map(|v| Ok(Value::Double(*v))),
            Values::Bytes(values) => values.get(place).map(|value| of_bytes(value, meaning)),
            Values::Fixed(values) => values.get(place).map(|value| of_bytes(value, meaning)),
        }
        .unwrap_or_else(|| Err(missing()))
    }
}

/// The bytes are copied, so that one small cell does not keep a whole page.
fn of_bytes(value: &ByteArray, meaning: Meaning) -> std::result::Result<Value, String> {
    let bytes = Bytes::copy_from_slice(value.data());
    match meaning {
        Meaning::Text => {
            Text::from_bytes(bytes).map(Value::String).map_err(|_| "is not UTF-8".to_owned())
        }
        Meaning::Plain | Meaning::Unsigned => Ok(Value::Binary(bytes)),
    }
}

/// Nanoseconds of the day and the Julian day, as nanoseconds since the Unix epoch.
fn timestamp(value: &Int96) -> std::result::Result<Value, String> {
    let [low, high, day] = value.data() else { return Err("is no timestamp".to_owned()) };
    let of_day = i128::from(u64::from(*high) << 32 | u64::from(*low));
    let nanos = (i128::from(*day) - JULIAN_DAY_OF_EPOCH) * NANOS_OF_DAY + of_day;
    i64::try_from(nanos)
        .map(Value::Integer)
        .map_err(|_| "is a timestamp beyond what nanoseconds in an integer hold".to_owned())
}

/// A value as the stated type has it.
fn fit(value: Value, stated: Option<ValueKind>) -> std::result::Result<Value, String> {
    match (stated, value) {
        (None, value) => Ok(value),
        (Some(kind), value) if value.kind() == kind => Ok(value),
        (Some(kind), Value::String(text)) => types::read_as(kind, text.as_str()),
        // Some writers leave out that bytes are text.
        (Some(ValueKind::String), Value::Binary(bytes)) => {
            Text::from_bytes(bytes).map(Value::String).map_err(|_| "is not UTF-8".to_owned())
        }
        (Some(ValueKind::Double), Value::Integer(number))
            if number as f64 as i128 == i128::from(number) =>
        {
            Ok(Value::Double(number as f64))
        }
        (Some(kind), value) => {
            Err(format!("is of type {}, not {}", name_of(value.kind()), name_of(kind)))
        }
    }
}
