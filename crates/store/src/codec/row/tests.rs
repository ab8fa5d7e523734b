//! Round trips, hostile bytes, and the size of a plain row.

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Origin;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

fn stamps() -> impl Strategy<Value = Stamp> {
    let few = (1_000..1_004u64, 1..3u8).prop_map(|(ms, origin)| (ms << 16, origin));
    prop_oneof![few, (any::<u64>(), any::<u8>())]
        .prop_map(|(hlc, origin)| Stamp { hlc: Hlc(hlc), origin: Origin(origin) })
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        any::<u64>().prop_map(|bits| Value::Double(f64::from_bits(bits))),
        any::<bool>().prop_map(Value::Boolean),
        ".{0,9}".prop_map(|text| Value::String(Text::from(text))),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|b| Value::Binary(b.into())),
    ]
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let cell = (any::<bool>(), any::<i64>(), stamps(), proptest::option::of(values()));
    let cell = cell.prop_map(|(of_stamp, timestamp, stamp, value)| {
        let timestamp = if of_stamp { stamp.hlc.timestamp() } else { Timestamp(timestamp) };
        Cell { timestamp, stamp, value }
    });
    proptest::collection::vec(cell, 0..5).prop_map(|mut cells| {
        cells.sort_by_key(|cell| std::cmp::Reverse(cell.timestamp));
        cells.dedup_by_key(|cell| cell.timestamp);
        cells
    })
}

fn shares() -> impl Strategy<Value = Option<Box<Shares>>> {
    let kinds = prop_oneof![
        any::<u8>().prop_map(ShareKind::Priority),
        Just(ShareKind::Max),
        Just(ShareKind::Min),
        Just(ShareKind::Counter),
        Just(ShareKind::Set),
        any::<u8>().prop_map(ShareKind::Row),
    ];
    let share = (kinds, stamps(), stamps(), any::<i64>(), values());
    let share = share.prop_map(|(kind, first, stamp, timestamp, value)| {
        let first = if kind == ShareKind::Counter { first } else { stamp };
        Share { kind, first, stamp, timestamp: Timestamp(timestamp), value }
    });
    let seen = (stamps(), stamps()).prop_map(|(until, by)| Seen { until, by });
    let lists = (proptest::collection::vec(share, 0..4), proptest::collection::vec(seen, 0..3));
    lists.prop_map(|(list, seen)| {
        let mut shares = Shares::default();
        list.into_iter().for_each(|share| shares.add(share));
        seen.into_iter().for_each(|seen| shares.see(seen));
        (!shares.is_bare()).then(|| Box::new(shares))
    })
}

fn columns() -> impl Strategy<Value = Column> {
    let trims = proptest::collection::vec(
        (any::<i64>(), stamps()).prop_map(|(t, stamp)| Trim { below: Timestamp(t), stamp }),
        0..3,
    );
    (".{0,6}", proptest::option::of(stamps()), trims, cells(), shares()).prop_map(
        |(name, tombstone, trims, cells, shares)| Column {
            name: Text::from(name),
            tombstone,
            trims,
            cells,
            shares,
        },
    )
}

/// Any row that can be stored.
pub(crate) fn rows() -> impl Strategy<Value = Row> {
    let columns = prop_oneof![
        proptest::collection::vec(columns(), 0..4),
        proptest::collection::vec(columns(), 30..40),
        Just(Vec::new()),
    ];
    (proptest::option::of(stamps()), proptest::option::of(stamps()), columns).prop_map(
        |(tombstone, marker, mut columns)| {
            columns.sort_by(|a, b| a.name.cmp(&b.name));
            columns.dedup_by(|a, b| a.name == b.name);
            Row { tombstone, marker, columns }
        },
    )
}

proptest! {
    #[test]
    fn row_round_trips(row in rows()) {
        prop_assert_eq!(decode_row(&encode_row(&row)), Ok(row));
    }

    #[test]
    fn every_truncation_is_refused(row in rows()) {
        let bytes = encode_row(&row);
        for length in 0..bytes.len() {
            prop_assert!(decode_row(&bytes.slice(..length)).is_err());
        }
    }

    #[test]
    fn flipped_bits_never_panic(
        row in rows(),
        flips in proptest::collection::vec(any::<u32>(), 1..4),
    ) {
        let mut bytes = encode_row(&row).to_vec();
        for flip in flips {
            let bit = flip as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let _ = decode_row(&bytes.into());
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_row(&bytes.clone().into());
        if bytes.len() > 1 {
            bytes[0] = VERSION;
            bytes[1] &= ROW_FLAGS;
        }
        let _ = decode_row(&bytes.into());
    }
}

fn plain_row() -> Row {
    let stamp = Stamp { hlc: Hlc::from_millis(1_700_000_000_000), origin: Origin(1) };
    let column = |n: usize| Column {
        name: Text::from(format!("column{n}")),
        tombstone: None,
        trims: Vec::new(),
        shares: None,
        cells: vec![Cell {
            timestamp: stamp.hlc.timestamp(),
            stamp,
            value: Some(Value::String(Text::from("x".repeat(100)))),
        }],
    };
    Row { tombstone: None, marker: Some(stamp), columns: (0..10).map(column).collect() }
}

#[test]
fn plain_cell_costs_four_bytes_beside_name_and_value() {
    let bytes = encode_row(&plain_row());
    assert_eq!(bytes.len(), 2 + 1 + STAMP_BYTES + 1 + 1 + 10 * (4 + 7 + 100));
}

#[test]
fn values_share_the_buffer() {
    let bytes = encode_row(&plain_row());
    let row = decode_row(&bytes).unwrap();
    let Some(Value::String(text)) = &row.columns[3].cells[0].value else { panic!("a text") };
    let range = bytes.as_ptr_range();
    assert!(range.contains(&text.as_bytes().as_ptr()));
}

#[test]
fn columns_and_cells_out_of_order_are_refused() {
    let mut row = plain_row();
    row.columns.swap(1, 2);
    assert!(decode_row(&encode_row(&row)).is_err());
    row.columns.swap(1, 2);
    let cell = row.columns[0].cells[0].clone();
    row.columns[0].cells.push(cell);
    assert!(decode_row(&encode_row(&row)).is_err());
}

/// The quickest of several rounds, as other work on the machine only makes them slower.
#[allow(clippy::disallowed_methods, reason = "measures real time")]
fn quickest(mut work: impl FnMut()) -> std::time::Duration {
    const TIMES: u32 = 200;
    let mut round = || {
        let start = std::time::Instant::now();
        (0..TIMES).for_each(|_| work());
        start.elapsed() / TIMES
    };
    (0..50).map(|_| round()).min().unwrap()
}

/// Guards the order of magnitude; a debug build is allowed to be slow.
#[test]
fn plain_row_is_packed_and_unpacked_fast() {
    use std::hint::black_box;
    let row = plain_row();
    let bytes = encode_row(&row);
    let encode = quickest(|| drop(black_box(encode_row(black_box(&row)))));
    let decode = quickest(|| drop(black_box(decode_row(black_box(&bytes)).unwrap())));
    println!("encode {encode:?}, decode {decode:?}");
    if !cfg!(debug_assertions) {
        assert!(encode.as_micros() < 5 && decode.as_micros() < 5, "{encode:?} {decode:?}");
    }
}
