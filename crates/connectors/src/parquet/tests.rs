use std::io::Cursor;
use std::sync::Arc;

use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType,
    Int32Type, Int64Type, Int96, Int96Type,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use proptest::prelude::{any, prop_assert_eq, proptest};

use super::*;

const SCHEMA: &str = "message rows {
    required int64 id;
    optional binary name (UTF8);
    optional boolean flag;
    optional double score;
    optional float half;
    optional int32 day (DATE);
    optional int64 at (TIMESTAMP(MICROS, true));
    optional binary raw;
    optional int32 small (INTEGER(32, false));
    optional fixed_len_byte_array(2) pair;
    optional int96 old;
}";

fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    levels: Option<&[i16]>,
) {
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<T>().write_batch(values, levels, None).unwrap();
    column.close().unwrap();
}

fn writer(schema: &str, compression: Compression) -> SerializedFileWriter<Vec<u8>> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).build();
    SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap()
}

/// Two row groups of three rows; of each three the second has its key only.
fn file(compression: Compression) -> Vec<u8> {
    let mut writer = writer(SCHEMA, compression);
    let levels: Option<&[i16]> = Some(&[1, 0, 1]);
    for base in [0i64, 3] {
        let mut group = writer.next_row_group().unwrap();
        put::<Int64Type>(&mut group, &[base, base + 1, base + 2], None);
        put::<ByteArrayType>(&mut group, &["é".into(), "".into()], levels);
        put::<BoolType>(&mut group, &[true, false], levels);
        put::<DoubleType>(&mut group, &[0.1, -0.0], levels);
        put::<FloatType>(&mut group, &[0.5, 2.0], levels);
        put::<Int32Type>(&mut group, &[19_000, -1], levels);
        put::<Int64Type>(&mut group, &[1_700_000_000_000_000, 5], levels);
        put::<ByteArrayType>(&mut group, &[vec![0, 255].into(), vec![].into()], levels);
        put::<Int32Type>(&mut group, &[-1, 7], levels);
        let pairs = [ByteArray::from(vec![1, 2]).into(), ByteArray::from(vec![3, 4]).into()];
        put::<FixedLenByteArrayType>(&mut group, &pairs, levels);
        let mut old = Int96::new();
        old.set_data(5, 0, 2_440_589);
        put::<Int96Type>(&mut group, &[old, old], levels);
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn open(bytes: &[u8], types: &str) -> Result<Parquet, SourceError> {
    Parquet::new(Box::new(Cursor::new(bytes.to_vec())), Types::parse(types).unwrap())
}

fn rows(source: &mut Parquet) -> Vec<SourceRow> {
    std::iter::from_fn(|| source.next_row().unwrap()).collect()
}

#[test]
fn cells_are_typed_and_nulls_are_absent_under_every_codec() {
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::GZIP(GzipLevel::default()),
    ];
    for codec in codecs {
        let found = rows(&mut open(&file(codec), "").unwrap());
        assert_eq!(found.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        let expected: Vec<(Text, Value)> = vec![
            ("id".into(), Value::Integer(0)),
            ("name".into(), Value::String("é".into())),
            ("flag".into(), Value::Boolean(true)),
            ("score".into(), Value::Double(0.1)),
            ("half".into(), Value::Double(0.5)),
            ("day".into(), Value::Integer(19_000)),
            ("at".into(), Value::Integer(1_700_000_000_000_000)),
            ("raw".into(), Value::Binary(vec![0, 255].into())),
            ("small".into(), Value::Integer(4_294_967_295)),
            ("pair".into(), Value::Binary(vec![1, 2].into())),
            ("old".into(), Value::Integer(86_400_000_000_005)),
        ];
        assert_eq!(found[0].cells, expected);
        assert_eq!(found[4].cells, [("id".into(), Value::Integer(4))]);
        assert_eq!(found[5].cells[3], ("score".into(), Value::Double(-0.0)));
        // An empty string is a value.
        assert_eq!(found[5].cells[1], ("name".into(), Value::String("".into())));
    }
}

#[test]
fn goes_on_at_every_place_it_told() {
    let bytes = file(Compression::SNAPPY);
    let all = rows(&mut open(&bytes, "").unwrap());
    let mut source = open(&bytes, "").unwrap();
    let mut places = vec![source.place()];
    while source.next_row().unwrap().is_some() {
        places.push(source.place());
    }
    assert!(places.is_sorted());
    for (given, place) in places.into_iter().enumerate() {
        assert_eq!(place.rows, given as u64);
        let mut again = open(&bytes, "").unwrap();
        again.move_to(place).unwrap();
        assert_eq!(rows(&mut again), all[given..]);
        assert_eq!(again.place().rows, 6);
    }
    let mut again = open(&bytes, "").unwrap();
    let beyond = Place { bytes: 0, line: 0, rows: 7 };
    assert!(again.move_to(beyond).unwrap_err().to_string().contains("fewer rows"));
}

#[test]
fn a_stated_type_converts_what_loses_nothing() {
    let bytes = file(Compression::SNAPPY);
    let found = rows(&mut open(&bytes, "id:double").unwrap());
    assert_eq!(found[2].cells[0].1, Value::Double(2.0));
    let mut source = open(&bytes, "score:integer").unwrap();
    let error = source.next_row().unwrap_err().to_string();
    assert_eq!(error, "row group 0, row 1, column score: is of type double, not integer");
    // The row after it is whole.
    assert_eq!(source.next_row().unwrap().unwrap().cells, [("id".into(), Value::Integer(1))]);
    let mut source = open(&bytes, "raw:string").unwrap();
    let error = source.next_row().unwrap_err().to_string();
    assert_eq!(error, "row group 0, row 1, column raw: is not UTF-8");
}

#[test]
fn what_no_cell_can_hold_is_refused() {
    let refused = |schema: &str| {
        let bytes = writer(schema, Compression::UNCOMPRESSED).into_inner().unwrap();
        open(&bytes, "").err().unwrap().to_string()
    };
    let error = refused("message m { required int32 price (DECIMAL(9, 2)); }");
    assert_eq!(error, "column price is of Parquet type decimal, which no cell can hold exactly");
    let error = refused("message m { repeated int32 list; }");
    assert_eq!(error, "column list is nested, which no cell can hold");
    let error = refused("message m { required group g { required int32 x; } }");
    assert_eq!(error, "column g.x is nested, which no cell can hold");
    let mut writer =
        writer("message m { required int64 u (INTEGER(64, false)); }", Compression::UNCOMPRESSED);
    let mut group = writer.next_row_group().unwrap();
    put::<Int64Type>(&mut group, &[1, -1], None);
    group.close().unwrap();
    let mut source = open(&writer.into_inner().unwrap(), "").unwrap();
    source.next_row().unwrap();
    let error = source.next_row().unwrap_err().to_string();
    assert!(error.starts_with("row group 0, row 2, column u: 18446744073709551615"), "{error}");
}

#[test]
fn what_is_no_parquet_or_is_cut_is_told() {
    for bytes in [&b""[..], b"PAR1", b"id,name\n1,x\n", &[0; 4096]] {
        let error = open(bytes, "").err().unwrap();
        assert!(error.to_string().starts_with("is not Parquet: "), "{error}");
        assert_eq!(error.kind(), isthmus_model::error::Kind::Invalid);
    }
    let whole = file(Compression::SNAPPY);
    assert!(open(&whole[..whole.len() - 5], "").is_err());
}

#[test]
fn damage_in_a_page_names_its_row_group_and_column() {
    let whole = file(Compression::SNAPPY);
    let group = open(&whole, "").unwrap().file.metadata().row_group(1).clone();
    let (start, length) = group.column(0).byte_range();
    let mut damaged = whole;
    damaged[start as usize..(start + length) as usize].fill(0xff);
    let mut source = open(&damaged, "").unwrap();
    for _ in 0..3 {
        source.next_row().unwrap().unwrap();
    }
    // It is told as often as it is asked for: the rows after it are never passed over.
    for _ in 0..2 {
        let error = source.next_row().unwrap_err();
        assert_eq!(error.kind(), isthmus_model::error::Kind::Corrupt);
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.starts_with("row group 1, column id: "), "{cause}");
    }
}

proptest! {
    #[test]
    fn damaged_bytes_give_rows_or_errors(
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = file(Compression::SNAPPY);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if byte % 8 == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(mut source) = open(&bytes, "") {
            for _ in 0..20 {
                if let Ok(None) = source.next_row() {
                    break;
                }
            }
        }
    }

    #[test]
    fn integers_and_doubles_round_trip(
        numbers in proptest::collection::vec((any::<i64>(), any::<f64>()), 1..3000),
    ) {
        let schema = "message m { required int64 a; required double b; }";
        let mut writer = writer(schema, Compression::LZ4_RAW);
        for part in numbers.chunks(1500) {
            let mut group = writer.next_row_group().unwrap();
            let (left, right): (Vec<i64>, Vec<f64>) = part.iter().copied().unzip();
            put::<Int64Type>(&mut group, &left, None);
            put::<DoubleType>(&mut group, &right, None);
            group.close().unwrap();
        }
        let mut source = open(&writer.into_inner().unwrap(), "").unwrap();
        for (a, b) in numbers {
            let row = source.next_row().unwrap().unwrap();
            prop_assert_eq!(&row.cells[0].1, &Value::Integer(a));
            prop_assert_eq!(&row.cells[1].1, &Value::Double(b));
        }
        prop_assert_eq!(source.next_row().unwrap(), None);
    }
}
