//! The stored form of a page.
//!
//! Version, flags, the first group that is not in it, where its range ends, what is known of the
//! greatest key, what is dropped, then the leaves, then a checksum. The checksum covers the lane,
//! and the first leaf's start is the page's name, so a page that lies under another's name is
//! refused. Reading takes no more memory than the page has bytes, a small factor aside.

use bytes::Bytes;

use super::keys::Keys;
use super::page::{Facts, Page};
use crate::codec::{Reader, put_bytes, put_number, put_signed};
use crate::{Damaged, Lane, Sum};

const VERSION: u8 = 1;
const WHAT: &str = "page of a digest";

const HAS_END: u8 = 1;
const HAS_BOUND: u8 = 2;
const HAS_FLOOR: u8 = 4;
const FLAGS: u8 = HAS_END | HAS_BOUND | HAS_FLOOR;

/// Bytes of the shortest leaf.
const LEAF_BYTES_MIN: usize = 21;
const CHECKSUM_BYTES: usize = 4;

/// What a stored page says beside its leaves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Head {
    /// Changes of groups before this one are in it.
    pub(super) from: u64,
    /// Where its range ends, unless at the end of the lane.
    pub(super) end: Option<Vec<u8>>,
    /// Of a lane's last page: no key is beyond this one.
    pub(super) bound: Option<Vec<u8>>,
    /// Of the first page of `Data`: the lanes below these are dropped.
    pub(super) floor: Option<(i64, u64)>,
}

/// The stored form of a page.
pub(super) fn encode(lane: Lane, head: &Head, page: &Page) -> Bytes {
    let mut out = Vec::with_capacity(64 + page.len() * 28 + page.keys.bytes());
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    out.push(VERSION);
    out.push(
        flag(head.end.is_some(), HAS_END)
            | flag(head.bound.is_some(), HAS_BOUND)
            | flag(head.floor.is_some(), HAS_FLOOR),
    );
    put_number(&mut out, head.from);
    for key in [&head.end, &head.bound].into_iter().flatten() {
        put_bytes(&mut out, key);
    }
    if let Some((time, kills)) = head.floor {
        put_signed(&mut out, time);
        put_number(&mut out, kills);
    }
    put_number(&mut out, page.len() as u64);
    // Beside the empty key nothing is shared.
    let begins_empty = page.keys.compare(0, &[]).is_eq();
    put_bytes(&mut out, if begins_empty { &[] } else { page.keys.prefix() });
    let mut key = Vec::new();
    for (at, (sum, facts)) in page.sums.iter().zip(&page.facts).enumerate() {
        if begins_empty {
            page.keys.read(at, &mut key);
            put_bytes(&mut out, &key);
        } else {
            put_bytes(&mut out, page.keys.rest(at));
        }
        out.push(facts.zero_bits);
        out.push(facts.untaken);
        put_signed(&mut out, i64::from(facts.rows));
        put_number(&mut out, u64::from(facts.scrubbed_minute));
        out.extend_from_slice(&sum.0.to_le_bytes());
    }
    let checksum = checksum(lane, &out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.into()
}

fn checksum(lane: Lane, bytes: &[u8]) -> u32 {
    let mut state = crc32fast::Hasher::new();
    state.update(&lane.encode());
    state.update(bytes);
    state.finalize()
}

/// The page that was stored for a lane under a start.
pub(super) fn decode(lane: Lane, start: &[u8], bytes: &[u8]) -> Result<(Head, Page), Damaged> {
    let Some((bytes, stored)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(Damaged { what: WHAT });
    };
    let mut reader = Reader::new(bytes, WHAT);
    reader.check(u32::from_le_bytes(*stored) == checksum(lane, bytes))?;
    let version = reader.byte()?;
    reader.check(version == VERSION)?;
    let head = decode_head(&mut reader)?;
    let count = reader.count(LEAF_BYTES_MIN)?;
    let prefix = reader.bytes()?;
    let mut rests: Vec<&[u8]> = Vec::with_capacity(count);
    let mut sums = Vec::with_capacity(count);
    let mut facts = Vec::with_capacity(count);
    for _ in 0..count {
        rests.push(reader.bytes()?);
        facts.push(decode_facts(&mut reader)?);
        sums.push(Sum(u128::from_le_bytes(reader.array()?)));
    }
    reader.finish()?;
    reader.check(rests.is_sorted_by(|a, b| a < b))?;
    let keys = Keys::from_parts(prefix, &rests);
    let is_start = keys.len() > 0 && keys.compare(0, start).is_eq();
    let last_is_before = |end: &Vec<u8>| keys.compare(keys.len() - 1, end).is_lt();
    reader.check(is_start && head.end.as_ref().is_none_or(last_is_before))?;
    Ok((head, Page { keys, sums, facts }))
}

fn decode_head(reader: &mut Reader<'_>) -> Result<Head, Damaged> {
    let flags = reader.byte()?;
    reader.check(flags & !FLAGS == 0)?;
    let mut head = Head { from: reader.number()?, ..Head::default() };
    if flags & HAS_END != 0 {
        head.end = Some(reader.bytes()?.to_vec());
    }
    if flags & HAS_BOUND != 0 {
        head.bound = Some(reader.bytes()?.to_vec());
    }
    if flags & HAS_FLOOR != 0 {
        head.floor = Some((reader.signed()?, reader.number()?));
    }
    Ok(head)
}

fn decode_facts(reader: &mut Reader<'_>) -> Result<Facts, Damaged> {
    let zero_bits = reader.byte()?;
    let untaken = reader.byte()?;
    let (rows, minute) = (i32::try_from(reader.signed()?), u32::try_from(reader.number()?));
    let (Ok(rows), Ok(scrubbed_minute)) = (rows, minute) else { return reader.damaged() };
    reader.check(u32::from(zero_bits) <= u64::BITS)?;
    Ok(Facts { rows, scrubbed_minute, zero_bits, untaken, is_fresh: false })
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::{any, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use super::super::page::Record;
    use super::{Facts, Head, Lane, Page, Sum, decode, encode};

    proptest! {
        #[test]
        fn a_page_round_trips_and_a_torn_or_changed_one_is_refused(
            leaves in btree_map(
                vec(any::<u8>(), 0..9),
                (any::<u128>(), any::<i32>(), any::<u32>(), 0..=64u8, any::<u8>()),
                1..9,
            ),
            from: u64,
            last in proptest::option::of(vec(any::<u8>(), 0..4)),
            bound: Option<Vec<u8>>,
            floor: Option<(i64, u64)>,
            (at, xor) in (any::<usize>(), 1..=u8::MAX),
        ) {
            let records: Vec<Record> = leaves
                .into_iter()
                .map(|(start, (sum, rows, scrubbed_minute, zero_bits, untaken))| {
                    let facts =
                        Facts { rows, scrubbed_minute, zero_bits, untaken, is_fresh: false };
                    Record { start, sum: Sum(sum), facts }
                })
                .collect();
            let greatest = &records.last().expect("not empty").start;
            let end = last.map(|last| [greatest.as_slice(), &[0], &last].concat());
            let head = Head { from, end, bound, floor };
            let bytes = encode(Lane::Data, &head, &Page::from_records(&records)).to_vec();
            let start = &records[0].start;
            let (read, page) = decode(Lane::Data, start, &bytes).expect("as it was written");
            prop_assert_eq!(read, head);
            prop_assert_eq!(page.records().collect::<Vec<_>>(), records.clone());
            for cut in 0..bytes.len() {
                prop_assert!(decode(Lane::Data, start, &bytes[..cut]).is_err());
            }
            prop_assert!(decode(Lane::Time(0), start, &bytes).is_err());
            prop_assert!(decode(Lane::Data, &[start.as_slice(), &[0]].concat(), &bytes).is_err());
            let mut changed = bytes.clone();
            changed[at % bytes.len()] ^= xor;
            prop_assert!(decode(Lane::Data, start, &changed).is_err());
        }

        #[test]
        fn damage_under_a_right_checksum_is_an_error_or_a_page(mut bytes: Vec<u8>, keep: bool) {
            if keep && bytes.len() > 2 {
                bytes[0] = super::VERSION;
                bytes[1] &= super::FLAGS;
            }
            let checksum = super::checksum(Lane::Data, &bytes);
            bytes.extend_from_slice(&checksum.to_le_bytes());
            let _ = decode(Lane::Data, b"", &bytes);
        }
    }
}
