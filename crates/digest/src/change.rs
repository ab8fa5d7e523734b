//! Changes of a tree, and their bytes.
//!
//! A list of changes is what a group of commits did to a tree: it is stored with the group, and
//! kept for a while so that a copy of the tree can be taken back. Keys of one list share much, so
//! each is stored as what it does not share with the one before; a list that claims to share more
//! than lists that were encoded do is refused, which bounds the memory that decoding takes.

use bytes::Bytes;

use crate::codec::{Reader, put_bytes, put_number, put_signed};
use crate::{Damaged, Lane, Parts, Sum};

/// One change of a tree: the unit of the redo log and of the ring of recent changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What a row holds in a lane changed.
    Part {
        /// The encoded key of the row.
        key: Bytes,
        /// Where.
        lane: Lane,
        /// The new hash less the old one.
        delta: Sum,
        /// 1 if the part appeared, -1 if it went, 0 if it changed.
        rows: i8,
    },
    /// All `Time` lanes below this bucket are gone.
    DropTime(i64),
    /// All `Kills` lanes below this bucket are gone.
    DropKills(u64),
}

const VERSION: u8 = 1;
const WHAT: &str = "list of changes";

// The first byte of a change: its kind, what became of the row, and whether it has a key at all.
const DATA: u8 = 0;
const TIME: u8 = 1;
const KILLS: u8 = 2;
const DROP_TIME: u8 = 3;
const DROP_KILLS: u8 = 4;
const KIND_BITS: u8 = 0b111;
const SAME_KEY: u8 = 1 << 3;
const ROWS_SHIFT: u8 = 4;
/// Rows that are neither 0, 1 nor -1 follow in a byte of their own.
const ROWS_APART: u8 = 3;

/// Bytes of the shortest change.
const CHANGE_BYTES_MIN: usize = 2;
/// Bytes of keys that one byte of the encoding may stand for.
const EXPANSION_MAX: usize = 32;

/// The stored form of a list of changes.
pub fn encode_changes<'a>(changes: impl ExactSizeIterator<Item = &'a Change>) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + 48 * changes.len());
    out.push(VERSION);
    put_number(&mut out, changes.len() as u64);
    let mut last: &[u8] = &[];
    let mut key_bytes = 0;
    for change in changes {
        match change {
            Change::Part { key, lane, delta, rows } => {
                put_part(&mut out, (last, key), *lane, *rows, &mut key_bytes);
                out.extend_from_slice(&delta.0.to_le_bytes());
                last = key;
            }
            Change::DropTime(bucket) => {
                out.push(DROP_TIME);
                put_signed(&mut out, *bucket);
            }
            Change::DropKills(bucket) => {
                out.push(DROP_KILLS);
                put_number(&mut out, *bucket);
            }
        }
    }
    out
}

fn put_part(
    out: &mut Vec<u8>,
    (last, key): (&[u8], &[u8]),
    lane: Lane,
    rows: i8,
    key_bytes: &mut usize,
) {
    let kind = match lane {
        Lane::Data => DATA,
        Lane::Time(_) => TIME,
        Lane::Kills(_) => KILLS,
    };
    let code = match rows {
        0 => 0,
        1 => 1,
        -1 => 2,
        _ => ROWS_APART,
    };
    let is_same = last == key;
    out.push(kind | code << ROWS_SHIFT | if is_same { SAME_KEY } else { 0 });
    if code == ROWS_APART {
        out.push(rows.cast_unsigned());
    }
    match lane {
        Lane::Data => {}
        Lane::Time(bucket) => put_signed(out, bucket),
        Lane::Kills(bucket) => put_number(out, bucket),
    }
    if is_same {
        return;
    }
    let shared = shared_prefix(last, key);
    // Measured with nothing shared counted as written, as the reader measures it.
    let is_small = *key_bytes + shared <= EXPANSION_MAX * out.len();
    let shared = if is_small { shared } else { 0 };
    *key_bytes += shared;
    put_number(out, shared as u64);
    put_bytes(out, &key[shared..]);
}

/// How many bytes two strings begin with alike.
pub(crate) fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The list that was encoded.
pub fn decode_changes(bytes: &Bytes) -> Result<Vec<Change>, Damaged> {
    let mut reader = Reader::new(bytes, WHAT);
    let version = reader.byte()?;
    reader.check(version == VERSION)?;
    let count = reader.count(CHANGE_BYTES_MIN)?;
    let mut changes = Vec::with_capacity(count);
    let mut last = Bytes::new();
    let mut key_bytes = 0;
    for _ in 0..count {
        let tag = reader.byte()?;
        let change = match tag {
            DROP_TIME => Change::DropTime(reader.signed()?),
            DROP_KILLS => Change::DropKills(reader.number()?),
            _ => {
                let (lane, rows) = read_head(&mut reader, tag)?;
                if tag & SAME_KEY == 0 {
                    let done = bytes.len() - reader.len();
                    last = read_key(&mut reader, &last, done, &mut key_bytes)?;
                }
                let delta = Sum(u128::from_le_bytes(reader.array()?));
                Change::Part { key: last.clone(), lane, delta, rows }
            }
        };
        changes.push(change);
    }
    reader.finish()?;
    Ok(changes)
}

fn read_head(reader: &mut Reader<'_>, tag: u8) -> Result<(Lane, i8), Damaged> {
    let rows = match tag >> ROWS_SHIFT {
        0 => 0,
        1 => 1,
        2 => -1,
        ROWS_APART => {
            let rows = reader.byte()?.cast_signed();
            reader.check(!(-1..=1).contains(&rows))?;
            rows
        }
        _ => return reader.damaged(),
    };
    let lane = match tag & KIND_BITS {
        DATA => Lane::Data,
        TIME => Lane::Time(reader.signed()?),
        KILLS => Lane::Kills(reader.number()?),
        _ => return reader.damaged(),
    };
    Ok((lane, rows))
}

fn read_key(
    reader: &mut Reader<'_>,
    last: &[u8],
    done: usize,
    key_bytes: &mut usize,
) -> Result<Bytes, Damaged> {
    let shared = reader.number()?;
    reader.check(shared <= last.len() as u64)?;
    let shared = shared as usize;
    *key_bytes += shared;
    reader.check(shared == 0 || *key_bytes <= EXPANSION_MAX * done)?;
    let rest = reader.bytes()?;
    let mut key = Vec::with_capacity(shared + rest.len());
    key.extend_from_slice(&last[..shared]);
    key.extend_from_slice(rest);
    Ok(key.into())
}

/// Gives the changes that turn one state of a row's parts into another.
pub fn changes_between(key: &Bytes, before: &Parts, after: &Parts, mut each: impl FnMut(Change)) {
    let mut push = |lane, delta, rows| each(Change::Part { key: key.clone(), lane, delta, rows });
    for (lane, old) in before.iter() {
        match after.get(lane) {
            Some(new) if new == old => {}
            Some(new) => push(lane, new - old, 0),
            None => push(lane, -old, -1),
        }
    }
    for (lane, new) in after.iter() {
        if before.get(lane).is_none() {
            push(lane, new, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use super::{Bytes, Change, Lane, Parts, Sum, changes_between, decode_changes, encode_changes};

    fn change() -> impl Strategy<Value = Change> {
        let lane = prop_oneof![
            Just(Lane::Data),
            any::<i64>().prop_map(Lane::Time),
            any::<u64>().prop_map(Lane::Kills)
        ];
        let rows = prop_oneof![4 => -1..=1i8, 1 => any::<i8>()];
        let part =
            (vec(0..3u8, 0..6), lane, any::<u128>(), rows).prop_map(|(key, lane, delta, rows)| {
                Change::Part { key: key.into(), lane, delta: Sum(delta), rows }
            });
        prop_oneof![
            8 => part,
            1 => any::<i64>().prop_map(Change::DropTime),
            1 => any::<u64>().prop_map(Change::DropKills)
        ]
    }

    proptest! {
        #[test]
        fn a_list_round_trips_and_a_torn_one_is_refused(changes in vec(change(), 0..20)) {
            let bytes = Bytes::from(encode_changes(changes.iter()));
            prop_assert_eq!(decode_changes(&bytes), Ok(changes));
            for cut in 0..bytes.len() {
                prop_assert!(decode_changes(&bytes.slice(..cut)).is_err());
            }
        }

        #[test]
        fn damaged_lists_decode_to_an_error_or_a_list(
            changes in vec(change(), 0..10), at: usize, xor: u8, noise: Vec<u8>
        ) {
            let mut bytes = encode_changes(changes.iter());
            let at = at % bytes.len();
            bytes[at] ^= xor;
            let _ = decode_changes(&bytes.into());
            let _ = decode_changes(&noise.into());
        }

        #[test]
        fn the_changes_between_two_states_make_one_of_the_other(
            before in vec((0..4u64, any::<u128>()), 0..4),
            after in vec((0..4u64, any::<u128>()), 0..4),
        ) {
            let parts = |list: &[(u64, u128)]| {
                let mut parts = Parts::new();
                list.iter().for_each(|(lane, sum)| parts.push(Lane::Kills(*lane), Sum(*sum)));
                parts
            };
            let (before, after) = (parts(&before), parts(&after));
            let mut changes = Vec::new();
            changes_between(&Bytes::new(), &before, &after, |change| changes.push(change));
            for lane in (0..4).map(Lane::Kills) {
                let (mut sum, mut there) = (Sum::ZERO, 0);
                for change in &changes {
                    let Change::Part { lane: of, delta, rows, .. } = change else { unreachable!() };
                    if *of == lane {
                        sum += *delta;
                        there += i32::from(*rows);
                    }
                }
                let count = |parts: &Parts| i32::from(parts.get(lane).is_some());
                let of = |parts: &Parts| parts.get(lane).unwrap_or_default();
                prop_assert_eq!(of(&before) + sum, of(&after));
                prop_assert_eq!(count(&before) + there, count(&after));
            }
        }
    }

    #[test]
    fn keys_that_share_much_take_few_bytes_and_long_ones_stay_within_the_bound() {
        let keys = (0..1000).map(|n| Bytes::from(format!("{}{n:04}", "k".repeat(n * 4))));
        let part = |key| Change::Part { key, lane: Lane::Data, delta: Sum(1), rows: 1 };
        let changes: Vec<Change> = keys.map(part).collect();
        let bytes = Bytes::from(encode_changes(changes.iter()));
        assert!(bytes.len() < 2_000_000 / 16);
        assert_eq!(decode_changes(&bytes), Ok(changes));
    }

    #[test]
    fn a_list_that_claims_to_share_too_much_is_refused() {
        let mut bytes = vec![super::VERSION];
        super::put_number(&mut bytes, 10_001);
        bytes.push(super::DATA);
        super::put_number(&mut bytes, 0);
        super::put_bytes(&mut bytes, &[7; 60_000]);
        bytes.extend_from_slice(&[0; 16]);
        for _ in 0..10_000 {
            bytes.push(super::DATA);
            super::put_number(&mut bytes, 59_999);
            super::put_bytes(&mut bytes, &[7]);
            bytes.extend_from_slice(&[0; 16]);
        }
        assert!(decode_changes(&bytes.into()).is_err());
    }
}
