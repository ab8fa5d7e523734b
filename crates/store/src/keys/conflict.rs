//! A conflict that a partition has noticed, by number; the newest ones are kept.
//!
//! Each side is stored as the packed row that holds only its version of the column.

use bytes::Bytes;
use isthmus_model::conflict::{Conflict, Side, Winner};
use isthmus_model::ids::{PartitionId, Timestamp};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{Cell, Row};
use isthmus_model::value::Text;

use crate::codec::row::{decode_row, encode_row};
use crate::codec::schema::{rule, rule_byte};
use crate::codec::{Corrupt, Reader, corrupt, put_bytes, put_signed};
use crate::keys::{KIND_CONFLICT, number_key};

const VERSION: u8 = 1;

/// A conflict and where it was noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noticed {
    /// When it was noticed, in milliseconds since the Unix epoch.
    pub at_millis: i64,
    /// The row.
    pub key: EncodedKey,
    /// What conflicted.
    pub conflict: Conflict,
}

/// The key of a conflict.
pub fn encode_key(partition: PartitionId, number: u64) -> Bytes {
    let mut key = number_key(KIND_CONFLICT, partition.0).to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key.into()
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<(PartitionId, u64), Corrupt> {
    let Some(([KIND_CONFLICT, partition @ ..], number)) = key.split_first_chunk::<9>() else {
        return corrupt("key of another kind");
    };
    let Ok(number) = <[u8; 8]>::try_from(number) else {
        return corrupt("length of the key of a conflict");
    };
    Ok((PartitionId(u64::from_be_bytes(*partition)), u64::from_be_bytes(number)))
}

/// All conflicts of a partition: start inclusive, end exclusive.
pub fn range(partition: PartitionId) -> (Bytes, Bytes) {
    let next = partition.0.saturating_add(1);
    (number_key(KIND_CONFLICT, partition.0), number_key(KIND_CONFLICT, next))
}

/// The stored form.
pub fn encode_value(noticed: &Noticed) -> Bytes {
    let Noticed { at_millis, key, conflict } = noticed;
    let mut out = vec![VERSION];
    put_signed(&mut out, *at_millis);
    out.push(rule_byte(conflict.rule));
    out.push(match conflict.winner {
        Winner::Here => 1,
        Winner::There => 2,
        Winner::Both => 3,
    });
    put_bytes(&mut out, &key.0);
    for side in [&conflict.here, &conflict.there] {
        put_bytes(&mut out, &encode_row(&row_of(&conflict.column, side)));
    }
    out.into()
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Result<Noticed, Corrupt> {
    let mut reader = Reader::new(bytes);
    reader.version(VERSION)?;
    let at_millis = reader.signed()?;
    let rule = rule(reader.byte()?)?;
    let winner = match reader.byte()? {
        1 => Winner::Here,
        2 => Winner::There,
        3 => Winner::Both,
        _ => return corrupt("unknown winner of a conflict"),
    };
    let key = EncodedKey(reader.bytes()?);
    let (column, here) = side_of(decode_row(&reader.bytes()?)?)?;
    let (_, there) = side_of(decode_row(&reader.bytes()?)?)?;
    reader.end()?;
    Ok(Noticed { at_millis, key, conflict: Conflict { column, here, there, rule, winner } })
}

fn row_of(column: &Text, side: &Side) -> Row {
    let (timestamp, value) = match &side.written {
        Some((timestamp, value)) => (*timestamp, Some(value.clone())),
        None => (Timestamp(0), None),
    };
    let mut row = Row::default();
    row.column_mut(column).set(Cell { timestamp, stamp: side.stamp, value });
    row
}

fn side_of(row: Row) -> Result<(Text, Side), Corrupt> {
    let mut columns = row.columns.into_iter();
    let column = columns.next().ok_or(Corrupt { what: "side of a conflict" })?;
    let cell = column.cells.into_iter().next().ok_or(Corrupt { what: "side of a conflict" })?;
    let written = cell.value.map(|value| (cell.timestamp, value));
    Ok((column.name, Side { stamp: cell.stamp, written }))
}

#[cfg(test)]
mod tests {
    use isthmus_model::hlc::{Hlc, Stamp};
    use isthmus_model::ids::Origin;
    use isthmus_model::rule::Rule;
    use isthmus_model::value::Value;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn conflict_round_trips_and_truncations_are_refused(
            p: u64, number: u64, at_millis: i64, hlc: u64, origin: u8,
            deleted: bool,
            key in proptest::collection::vec(any::<u8>(), 0..9),
            winner in 0..3usize,
        ) {
            let stamp = Stamp { hlc: Hlc(hlc), origin: Origin(origin) };
            let written = Some((Timestamp(7), Value::Integer(number as i64)));
            let conflict = Conflict {
                column: "a".into(),
                here: Side { stamp, written: written.clone() },
                there: Side { stamp, written: written.filter(|_| !deleted) },
                rule: Rule::Max,
                winner: [Winner::Here, Winner::There, Winner::Both][winner],
            };
            let noticed = Noticed { at_millis, key: EncodedKey(key.into()), conflict };
            let bytes = encode_value(&noticed);
            prop_assert_eq!(decode_value(&bytes), Ok(noticed));
            for length in 0..bytes.len() {
                prop_assert!(decode_value(&bytes.slice(..length)).is_err());
            }
            let key = encode_key(PartitionId(p), number);
            prop_assert_eq!(decode_key(&key), Ok((PartitionId(p), number)));
            let (start, end) = range(PartitionId(p));
            prop_assert!(p == u64::MAX || (start <= key && key < end));
        }
    }
}
