use bytes::{BufMut, Bytes, BytesMut};
use isthmus_model::change::{
    CellChange, CellWrite, KeyPart, NamedKeyPart, RowAction, ShownCell, ShownRow,
};
use isthmus_model::ids::{SchemaNumber, Timestamp};
use isthmus_model::key::{KeyKind, KeyValue, PrimaryKey};
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_model::value::{Text, Value};
use proptest::prelude::{any, prop_assert_eq, proptest};

use super::*;
use crate::crc8;
use crate::error::ProtocolError;

const PUT: &str = "750000000103040300000075696405090000000007000000000000000a310304040000006e616d\
     650508000000030300000062\
     6f620a89020304030000006167650509000000001e00000000000000070068e5cf8b0100000ae90304020000\
     006f6b050200000002010a8303040500000073636f7265050900000001000000000000f83f0a16030403000000\
     62696e0507000000070200000001020a0009b3";
const UPDATE: &str = "750000000103040300000075696405090000000007000000000000000a310203040100000061\
     05060000000301000000780a4d030401000000620603070068e5cf8b0100000a660304010000006306010acd\
     0304010000006e050900000000050000000000000006040a00098d";
const DELETE: &str = "750000000103040300000075696405090000000007000000000000000a310809eb";
const BOUNDS: &str = "7500000001030401000000700501000000090a9d0304010000007105010000000a0a81030401\
     0000007205010000000b0ab9093a";
const STREAM_RECORD: &str = "750000000103040300000075696405090000000007000000000000000a310203040100\
     0000610506000000030100000078070068e5cf8b0100000a860b180000000c130000000d000000000e7b401e\
     18240a06000f010000000942";
const MOMENT: Timestamp = Timestamp(1_700_000_000_000);

fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect::<Vec<u8>>().into()
}

fn named(name: &str, part: KeyPart) -> NamedKeyPart {
    NamedKeyPart { name: Text::from(name), part }
}

fn uid() -> NamedKeyPart {
    named("uid", KeyPart::Value(KeyValue::Integer(7)))
}

fn write(name: &str, value: Value, timestamp: Option<Timestamp>) -> CellWrite {
    CellWrite { name: Text::from(name), value, timestamp }
}

fn put_example() -> (Vec<NamedKeyPart>, Vec<CellWrite>) {
    let key = vec![uid(), named("name", KeyPart::Value(KeyValue::String(Text::from("bob"))))];
    let cells = vec![
        write("age", Value::Integer(30), Some(MOMENT)),
        write("ok", Value::Boolean(true), None),
        write("score", Value::Double(1.5), None),
        write("bin", Value::Binary(Bytes::from_static(&[1, 2])), None),
    ];
    (key, cells)
}

fn update_example() -> Vec<CellChange> {
    vec![
        CellChange::Put(write("a", Value::String(Text::from("x")), None)),
        CellChange::DeleteVersion { name: Text::from("b"), timestamp: MOMENT },
        CellChange::DeleteColumn { name: Text::from("c") },
        CellChange::Increment { name: Text::from("n"), delta: 5 },
    ]
}

#[test]
fn put_of_the_worked_example_goes_both_ways() {
    let (key, cells) = put_example();
    assert_eq!(decode_put(&hex(PUT)), Ok((key.clone(), cells.clone())));
    assert_eq!(encode_change(&key, &RowAction::Put(cells)), hex(PUT));
}

#[test]
fn update_of_the_worked_example_goes_both_ways() {
    let changes = update_example();
    assert_eq!(decode_update(&hex(UPDATE)), Ok((vec![uid()], changes.clone())));
    assert_eq!(encode_change(&[uid()], &RowAction::Update(changes)), hex(UPDATE));
}

#[test]
fn delete_of_the_worked_example_goes_both_ways() {
    assert_eq!(decode_delete(&hex(DELETE)), Ok(vec![uid()]));
    assert_eq!(encode_change(&[uid()], &RowAction::Delete), hex(DELETE));
}

#[test]
fn bounds_of_the_worked_example_go_both_ways() {
    let key = vec![
        named("p", KeyPart::Min),
        named("q", KeyPart::Max),
        named("r", KeyPart::AutoIncrement),
    ];
    assert_eq!(decode_key(&hex(BOUNDS)), Ok(key.clone()));
    assert_eq!(encode_named_key(&key), hex(BOUNDS));
}

#[test]
fn stream_record_of_the_worked_example_is_refused_everywhere() {
    let record = hex(STREAM_RECORD);
    let malformed = ProtocolError::Malformed("row is malformed");
    assert_eq!(decode_put(&record), Err(malformed.clone()));
    assert_eq!(decode_update(&record), Err(malformed.clone()));
    assert_eq!(decode_rows(&record), Err(malformed));
    assert!(decode_delete(&record).is_err());
    assert!(decode_key(&record).is_err());
}

#[test]
fn bare_values_of_the_worked_examples_go_both_ways() {
    for (bytes, value) in [
        ("03 02 00 00 00 68 7a", Value::String(Text::from("hz"))),
        ("00 64 00 00 00 00 00 00 00", Value::Integer(100)),
        ("02 01", Value::Boolean(true)),
        ("01 00 00 00 00 00 00 f8 3f", Value::Double(1.5)),
    ] {
        let variant = Variant::Value(value);
        assert_eq!(decode_variant(&hex(bytes)), Ok(variant.clone()));
        let mut out = BytesMut::new();
        put_variant(&mut out, &variant);
        assert_eq!(out, hex(bytes));
    }
    assert_eq!(decode_variant(&hex("09")), Ok(Variant::Min));
    assert_eq!(decode_variant(&hex("0a")), Ok(Variant::Max));
    for bytes in ["", "00", "02 02", "03 01 00 00 00", "03 00 00 00 00 00", "06", "04", "ff"] {
        assert!(decode_variant(&hex(bytes)).is_err(), "{bytes}");
    }
}

/// Makes rows tag by tag, right or wrong, with right checksums unless told otherwise.
struct Bad {
    out: BytesMut,
    crc: u8,
}

impl Bad {
    fn row() -> Bad {
        let mut out = BytesMut::new();
        out.put_u32_le(0x75);
        out.put_u8(0x01);
        Bad { out, crc: 0 }
    }

    fn tag(mut self, tag: u8) -> Bad {
        self.out.put_u8(tag);
        self
    }

    /// A cell of these parts; the checksum is fed as it must be.
    fn cell(mut self, name: &[u8], value: &[u8], op: Option<u8>, time: Option<i64>) -> Bad {
        self.out.put_slice(&[0x03, 0x04]);
        self.out.put_u32_le(name.len() as u32);
        self.out.put_slice(name);
        let mut crc = crc8::feed(0, name);
        if !value.is_empty() {
            self.out.put_u8(0x05);
            self.out.put_u32_le(value.len() as u32);
            self.out.put_slice(value);
            crc = crc8::feed(crc, value);
        }
        if let Some(op) = op {
            self.out.put_slice(&[0x06, op]);
        }
        if let Some(time) = time {
            self.out.put_u8(0x07);
            self.out.put_i64_le(time);
            crc = crc8::feed_u64(crc, time as u64);
        }
        if let Some(op) = op {
            crc = crc8::feed_byte(crc, op);
        }
        self.out.put_slice(&[0x0a, crc]);
        self.crc = crc8::feed_byte(self.crc, crc);
        self
    }

    fn key(self) -> Bad {
        self.cell(b"k", &[0, 1, 0, 0, 0, 0, 0, 0, 0], None, None)
    }

    fn end(mut self) -> Bytes {
        let crc = crc8::feed_byte(self.crc, 0);
        self.out.put_slice(&[0x09, crc]);
        self.out.freeze()
    }
}

fn value(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    if kind == 3 || kind == 7 {
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn wrong_headers_are_refused() {
    let good = hex(PUT);
    for header in ["00000000", "76000000", "00000075", "75000001"] {
        let row = [&hex(header)[..], &good[4..]].concat();
        assert!(decode_put(&row.into()).is_err(), "{header}");
    }
    for length in 0..4 {
        assert!(decode_put(&good.slice(..length)).is_err());
    }
}

#[test]
fn rows_cut_anywhere_are_refused() {
    for (row, decode) in [
        (PUT, (|row: &Bytes| decode_put(row).is_ok()) as fn(&Bytes) -> bool),
        (UPDATE, |row| decode_update(row).is_ok()),
        (DELETE, |row| decode_delete(row).is_ok()),
        (BOUNDS, |row| decode_key(row).is_ok()),
    ] {
        let row = hex(row);
        for end in 0..row.len() {
            assert!(!decode(&row.slice(..end)), "cut at {end}");
        }
        let longer = [&row[..], b"\x01"].concat();
        assert!(!decode(&longer.into()), "trailing byte");
        let padded = [&row[..], b"\0\0"].concat();
        assert!(decode(&padded.into()), "padding");
        let double = [&row[..], &row[4..]].concat();
        assert!(!decode(&double.into()), "second row");
        assert!(decode(&row));
    }
}

#[test]
fn every_other_byte_at_every_place_is_refused() {
    let good = hex(PUT);
    for place in 0..good.len() {
        for byte in (0..=255u8).filter(|byte| *byte != good[place]) {
            let mut row = good.to_vec();
            row[place] = byte;
            assert!(decode_put(&row.into()).is_err(), "{byte:02x} at {place}");
        }
    }
}

#[test]
fn lengths_past_the_end_are_refused_before_anything_is_allocated() {
    let good = hex(PUT);
    // Length fields: a name, a value, a string, a binary.
    for place in [7, 15, 46, 136, 144, 149] {
        for length in [-1i32 as u32, 0x7fff_ffff, 0x8000_0000, 200] {
            let mut row = good.to_vec();
            row[place..place + 4].copy_from_slice(&length.to_le_bytes());
            assert!(decode_put(&row.into()).is_err(), "{length} at {place}");
        }
    }
    let last = good.len() - 6;
    assert_eq!(good[last - 4..last], [2, 0, 0, 0]);
    for more in 0..8u32 {
        let mut row = good.to_vec();
        row[last - 4..last].copy_from_slice(&(3 + more).to_le_bytes());
        assert!(decode_put(&row.into()).is_err());
    }
}

#[test]
fn value_length_must_agree_with_the_type() {
    for (place, right) in [(15, 9u32), (41, 8), (66, 9), (99, 2)] {
        let good = hex(PUT);
        assert_eq!(good[place..place + 4], right.to_le_bytes(), "at {place}");
        for wrong in [0, 1, right - 1, right + 1] {
            let mut row = good.to_vec();
            row[place..place + 4].copy_from_slice(&wrong.to_le_bytes());
            assert_eq!(
                decode_put(&row.into()),
                Err(ProtocolError::Malformed("length of a value does not agree with its type"))
            );
        }
    }
}

#[test]
fn checksum_fed_in_wire_order_or_missing_or_doubled_is_refused() {
    let right = Bad::row().key().tag(0x02).cell(b"b", &[], Some(3), Some(5)).end();
    assert!(decode_update(&right).is_ok());
    let mut wire_order = right.to_vec();
    let place = wire_order.len() - 3;
    let crc = crc8::feed_u64(crc8::feed(0, b"b\x03"), 5);
    assert_ne!(wire_order[place], crc);
    wire_order[place] = crc;
    assert_eq!(
        decode_update(&wire_order.into()),
        Err(ProtocolError::Malformed("checksum of a cell is wrong"))
    );
    let mut missing = right.to_vec();
    missing.drain(place - 1..=place);
    assert!(decode_update(&missing.into()).is_err());
    let mut doubled = right.to_vec();
    let pair = [0x0a, doubled[place]];
    doubled.splice(place + 1..place + 1, pair);
    assert!(decode_update(&doubled.into()).is_err());
    let mut no_row_checksum = right.to_vec();
    no_row_checksum.truncate(right.len() - 2);
    assert!(decode_update(&no_row_checksum.into()).is_err());
    let mut wrong_row_checksum = right.to_vec();
    *wrong_row_checksum.last_mut().unwrap() ^= 0x80;
    assert_eq!(
        decode_update(&wrong_row_checksum.into()),
        Err(ProtocolError::Malformed("checksum of a row is wrong"))
    );
    let doubled_row_checksum = [&right[..], &right[right.len() - 2..]].concat();
    assert!(decode_update(&doubled_row_checksum.into()).is_err());
}

#[test]
fn unknown_types_are_refused_and_doubles_keep_their_bits() {
    for kind in 0..=255u8 {
        let row = Bad::row().key().tag(0x02).cell(b"a", &[kind], None, None).end();
        // No attribute type is without payload.
        assert!(decode_put(&row).is_err(), "type {kind}");
    }
    for truth in 2..=255u8 {
        let row = Bad::row().key().tag(0x02).cell(b"a", &[2, truth], None, None).end();
        assert!(decode_put(&row).is_err());
    }
    for bits in [
        f64::NAN.to_bits(),
        0x7ff0_0000_0000_0001,
        0xffff_ffff_ffff_ffff,
        (-0.0f64).to_bits(),
        f64::INFINITY.to_bits(),
        f64::NEG_INFINITY.to_bits(),
        1,
    ] {
        let row =
            Bad::row().key().tag(0x02).cell(b"a", &value(1, &bits.to_le_bytes()), None, None).end();
        let (key, cells) = decode_put(&row).unwrap();
        let Value::Double(number) = &cells[0].value else { panic!("not a double") };
        assert_eq!(number.to_bits(), bits);
        assert_eq!(encode_change(&key, &RowAction::Put(cells)), row);
    }
}

#[test]
fn keys_have_one_to_four_plain_columns() {
    let count =
        Err(ProtocolError::invalid("The number of primary key columns must be in range: [1, 4]."));
    assert_eq!(decode_key(&Bad::row().end()), count);
    assert!(decode_key(&Bad::row().key().key().key().key().end()).is_ok());
    assert_eq!(decode_key(&Bad::row().key().key().key().key().key().end()), count);
    let integer = [0, 1, 0, 0, 0, 0, 0, 0, 0];
    for row in [
        Bad::row().cell(b"k", &integer, Some(1), None),
        Bad::row().cell(b"k", &integer, None, Some(1)),
        Bad::row().cell(b"k", &[], None, None),
        Bad::row().cell(b"k", &[6], None, None),
        Bad::row().cell(b"k\xff", &integer, None, None),
        Bad::row().cell(b"k", &value(3, b"\xed\xa0\x80"), None, None),
    ] {
        assert!(decode_key(&row.end()).is_err());
    }
    // What is no key type is handed on, for the error names the type.
    let row = Bad::row().cell(b"k", &[2, 1], None, None).end();
    let expected = named("k", KeyPart::NotAKeyType(Value::Boolean(true)));
    assert_eq!(decode_key(&row), Ok(vec![expected]));
    // Limits of length are the schema's business.
    for length in [0, 1_024, 1_025] {
        let row = Bad::row().cell(b"k", &value(7, &vec![0; length]), None, None).end();
        assert!(decode_key(&row).is_ok());
    }
}

#[test]
fn names_are_any_text() {
    for name in ["", "x", "1a", "ключ", "a\0b", "\u{feff}", "🦀"] {
        let row = Bad::row().key().tag(0x02).cell(name.as_bytes(), &[2, 1], None, None).end();
        let (_, cells) = decode_put(&row).unwrap();
        assert_eq!(cells[0].name.as_str(), name);
    }
    for name in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"a\xe2\x82"] {
        let row = Bad::row().key().tag(0x02).cell(name, &[2, 1], None, None).end();
        assert!(decode_put(&row).is_err());
    }
}

#[test]
fn more_columns_than_a_write_may_have_are_counted_but_not_kept() {
    let row = |count: usize| {
        let start = Bad::row().key().tag(0x02);
        (0..count).fold(start, |row, _| row.cell(b"a", &[2, 1], None, None)).end()
    };
    assert_eq!(decode_put(&row(1_024)).unwrap().1.len(), 1_024);
    for count in [1_025, 10_000] {
        let message = format!(
            "The number of attribute columns exceeds the limit, limit count: 1024, \
             column count: {count}."
        );
        assert_eq!(decode_put(&row(count)), Err(ProtocolError::invalid(message.clone())));
        assert_eq!(decode_update(&row(count)), Err(ProtocolError::invalid(message)));
    }
}

#[test]
fn timestamps_are_handed_on_as_they_are() {
    for time in [0, -1, i64::MIN, i64::MAX, i64::MAX / 1_000] {
        let row = Bad::row().key().tag(0x02).cell(b"a", &[2, 1], None, Some(time)).end();
        assert_eq!(decode_put(&row).unwrap().1[0].timestamp, Some(Timestamp(time)));
    }
}

#[test]
fn operations_must_go_with_their_parts() {
    let integer = value(0, &[1, 0, 0, 0, 0, 0, 0, 0]);
    let text = value(3, b"x");
    let double = value(1, &[0; 8]);
    let wrong: [(&[u8], Option<u8>, Option<i64>); 14] = [
        (&[], None, None),
        (&[], None, Some(1)),
        (&[], Some(3), None),
        (&integer, Some(3), Some(1)),
        (&integer, Some(1), None),
        (&[], Some(1), Some(1)),
        (&text, Some(4), None),
        (&double, Some(4), None),
        (&[], Some(4), None),
        (&integer, Some(4), Some(1)),
        (&integer, Some(0), None),
        (&integer, Some(2), None),
        (&integer, Some(5), None),
        (&[9], None, None),
    ];
    for (value, op, time) in wrong {
        let row = Bad::row().key().tag(0x02).cell(b"a", value, op, time).end();
        assert!(decode_update(&row).is_err(), "{value:?} {op:?} {time:?}");
        assert!(decode_put(&row).is_err());
    }
    for (value, op, time) in [(&[][..], 3, Some(1)), (&[], 1, None), (&integer, 4, None)] {
        let row = Bad::row().key().tag(0x02).cell(b"a", value, Some(op), time).end();
        assert!(decode_update(&row).is_ok());
        assert!(decode_put(&row).is_err(), "a put has no operations");
    }
}

#[test]
fn parts_of_a_row_have_one_order() {
    let pk_only = Bad::row().key().end();
    assert_eq!(decode_put(&pk_only).unwrap().1, vec![]);
    let empty_data = Bad::row().key().tag(0x02).end();
    assert_eq!(decode_put(&empty_data).unwrap().1, vec![]);
    // A marker that only deletes have, or that a delete lacks.
    assert!(decode_put(&hex(DELETE)).is_err());
    assert!(decode_update(&hex(DELETE)).is_err());
    assert!(decode_key(&hex(DELETE)).is_err());
    assert!(decode_delete(&pk_only).is_err());
    // A delete or a key with cells.
    assert!(decode_delete(&hex(PUT)).is_err());
    assert!(decode_key(&hex(PUT)).is_err());
    let twice = Bad::row().key().tag(0x02).cell(b"a", &[2, 1], None, None).tag(0x02).end();
    assert!(decode_put(&twice).is_err());
    let second_key = Bad::row().key().tag(0x01).key().end();
    assert!(decode_put(&second_key).is_err());
    let no_key = hex("75000000 02 0900");
    assert!(decode_put(&no_key).is_err());
}

fn schema(names: &[&str]) -> Schema {
    let column = |name: &&str| KeyColumn {
        name: Text::from(*name),
        kind: KeyKind::Integer,
        auto_increment: false,
    };
    Schema {
        number: SchemaNumber(1),
        key_columns: names.iter().map(column).collect(),
        defined_columns: Vec::new(),
        options: TableOptions::default(),
    }
}

fn values() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::Strategy;
    proptest::prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        any::<u64>().prop_map(|bits| Value::Double(f64::from_bits(bits))),
        any::<bool>().prop_map(Value::Boolean),
        ".{0,20}".prop_map(|text| Value::String(Text::from(text))),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Binary(bytes.into())),
    ]
}

proptest! {
    #[test]
    fn answers_round_trip(
        rows in proptest::collection::vec(
            (any::<i64>(), proptest::collection::vec(("[a-z]{1,9}", values(), any::<i64>()), 0..5)),
            0..4,
        ),
    ) {
        let schema = schema(&["pk"]);
        let rows: Vec<ShownRow> = rows.into_iter().map(|(key, cells)| ShownRow {
            key: PrimaryKey(vec![KeyValue::Integer(key)]),
            cells: cells.into_iter().map(|(name, value, time)| ShownCell {
                name: Text::from(name), value, timestamp: Timestamp(time),
            }).collect(),
        }).collect();
        let mut out = BytesMut::new();
        put_header(&mut out);
        for row in &rows {
            put_row(&mut out, &schema, row);
        }
        let decoded = decode_rows(&out.freeze()).unwrap();
        let expected: Vec<NamedRow> = rows.into_iter().map(|row| NamedRow {
            key_names: vec![Text::from("pk")], row,
        }).collect();
        prop_assert_eq!(decoded, expected);
    }
}
