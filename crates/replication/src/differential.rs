//! What of a range is alike on both sides of a copy, from the digests of both.
//!
//! The origin offers the leaves of a range as of its snapshot. The replica compares them with its
//! own and answers which parts of the range are not alike, with fingerprints of its rows there.
//! The origin then finds which of its own rows the replica lacks, and which of the fingerprints
//! are of rows that it has not. Leaves of the two sides need not be cut alike: sums are compared
//! between the bounds that both have. Pure, but for reading rows of a view.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use isthmus_digest::{Lane, Parts, Sum, Tree};
use isthmus_model::key::EncodedKey;
use isthmus_store::StoreError;
use isthmus_store::digest::{DigestView, Rules, ViewRow};
use prost::Message;

use crate::error::ReplicationError;
use crate::frame::{
    CopyOffer, CopyWant, Counts, ExpiredBefore, Floors, OfferedLane, OfferedLanes, WantedRange,
    WantedRanges,
};
use crate::limits::{CHUNK_BYTES_MAX, OFFER_LEAVES_MAX, WANT_ROWS_MAX};
use crate::pack::{Method, pack, unpack};

const SUM_BYTES: usize = 16;
const FINGERPRINT_BYTES: usize = 8;

/// A piece of a lane: a leaf, as far as it lies in a range.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    start: Vec<u8>,
    sum: Sum,
    rows: u32,
    /// It reaches beyond the range, so that its sum says nothing of it.
    is_cut: bool,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.sum.is_zero() && self.rows == 0
    }
}

type Interval = (Vec<u8>, Option<Vec<u8>>);

/// What a digest counts, for the other side.
pub(crate) fn counts(rules: &Rules) -> Counts {
    Counts {
        time_lanes: rules.time_lanes,
        base: rules.base.iter().map(ExpiredBefore::of).collect(),
        floors: Some(Floors { time: rules.time_floor, kills: rules.kills_floor }),
        families: rules.families,
    }
}

fn above(lane: Lane, floors: &Floors) -> bool {
    match lane {
        Lane::Data => true,
        Lane::Time(bucket) => bucket >= floors.time,
        Lane::Kills(bucket) => bucket >= floors.kills,
    }
}

fn end_of(bytes: &Bytes) -> Option<EncodedKey> {
    (!bytes.is_empty()).then(|| EncodedKey(bytes.clone()))
}

/// The pieces of a lane in a range.
fn pieces(tree: &Tree, lane: Lane, start: &[u8], end: Option<&[u8]>) -> Vec<Piece> {
    let piece = |leaf: isthmus_digest::Leaf| {
        let beyond = match (&leaf.end, end) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(leaf_end), Some(end)) => leaf_end.as_slice() > end,
        };
        let is_cut = leaf.start.as_slice() < start || beyond;
        let begins = if leaf.start.as_slice() < start { start.to_vec() } else { leaf.start };
        Piece { start: begins, sum: leaf.sum, rows: leaf.rows, is_cut }
    };
    let mut pieces: Vec<Piece> = tree.leaves(lane, start, end).map(piece).collect();
    for piece in &mut pieces {
        piece.is_cut &= !piece.is_empty();
    }
    if pieces.is_empty() {
        pieces.push(nothing(start));
    }
    pieces
}

fn nothing(start: &[u8]) -> Piece {
    Piece { start: start.to_vec(), sum: Sum::default(), rows: 0, is_cut: false }
}

/// How many rows a table has, about, and how many of them from a key on; `None`: from the first.
pub(crate) fn rows_after(view: &DigestView, key: Option<&[u8]>) -> (u64, u64) {
    let Some((lane, rows)) = fullest_lane(view) else { return (0, 0) };
    let after = |key: &[u8]| rows_between(view, lane, key, None);
    let left = key.filter(|key| !key.is_empty()).map_or(rows, after);
    (rows, left.min(rows))
}

/// The same of the rows in a range of keys.
pub(crate) fn rows_within(
    view: &DigestView,
    key: Option<&[u8]>,
    (start, end): (&[u8], Option<&[u8]>),
) -> (u64, u64) {
    let Some((lane, _)) = fullest_lane(view) else { return (0, 0) };
    let rows = rows_between(view, lane, start, end);
    let left =
        key.filter(|key| *key > start).map_or(rows, |key| rows_between(view, lane, key, end));
    (rows, left.min(rows))
}

/// The lane that counts most rows, and how many.
fn fullest_lane(view: &DigestView) -> Option<(Lane, u64)> {
    let (time, kills) = view.floors();
    let floors = Floors { time, kills };
    let lanes = view.tree().lanes();
    let counted = lanes.iter().filter(|root| above(root.lane, &floors));
    counted.max_by_key(|root| root.rows).map(|root| (root.lane, root.rows))
}

fn rows_between(view: &DigestView, lane: Lane, start: &[u8], end: Option<&[u8]>) -> u64 {
    let leaves = view.tree().leaves(lane, start, end);
    leaves.map(|leaf| u64::from(leaf.rows)).sum()
}

/// A range offered, and how many rows lie in it, about.
pub(crate) struct Offered {
    pub(crate) offer: CopyOffer,
    pub(crate) end: Option<Bytes>,
    pub(crate) rows: u64,
}

/// Offers the next range from `start`, of about `rows_max` rows; partition and number name it.
pub(crate) fn offer(
    view: &DigestView,
    (partition, number): (u64, u64),
    start: &Bytes,
    rows_max: u64,
) -> Offered {
    let tree = view.tree();
    let (time, kills) = view.floors();
    let floors = Floors { time, kills };
    let lanes = tree.lanes();
    let counted: Vec<Lane> =
        lanes.iter().map(|root| root.lane).filter(|lane| above(*lane, &floors)).collect();
    let fullest = lanes.iter().filter(|root| above(root.lane, &floors)).max_by_key(|r| r.rows);
    let leaves_max = OFFER_LEAVES_MAX / counted.len().max(1);
    let (mut rows, mut end) = (0, None);
    if let Some(root) = fullest {
        for (count, leaf) in tree.leaves(root.lane, start, None).enumerate() {
            if (rows >= rows_max || count >= leaves_max.max(1)) && leaf.start[..] > start[..] {
                end = Some(Bytes::from(leaf.start));
                break;
            }
            rows += u64::from(leaf.rows);
        }
    }
    let lanes = counted.into_iter().map(|lane| offered_lane(tree, lane, start, end.as_deref()));
    let body = OfferedLanes { lanes: lanes.collect() }.encode_to_vec();
    let offer = CopyOffer {
        partition,
        number,
        start: start.clone(),
        end: end.clone().unwrap_or_default(),
        body: Some(pack(body, Method::Plain)),
    };
    Offered { offer, end, rows }
}

fn offered_lane(tree: &Tree, lane: Lane, start: &[u8], end: Option<&[u8]>) -> OfferedLane {
    let pieces = pieces(tree, lane, start, end);
    let mut starts = Vec::new();
    let mut before: &[u8] = &[];
    for piece in &pieces {
        let shared = piece.start.iter().zip(before).take_while(|(a, b)| a == b).count();
        let rest = &piece.start[shared..];
        prost::encoding::encode_varint(shared as u64, &mut starts);
        prost::encoding::encode_varint(rest.len() as u64, &mut starts);
        starts.extend_from_slice(rest);
        before = &piece.start;
    }
    OfferedLane {
        lane: Bytes::copy_from_slice(&lane.encode()),
        starts: starts.into(),
        sums: pieces.iter().flat_map(|piece| piece.sum.0.to_le_bytes()).collect::<Vec<u8>>().into(),
        rows: pieces.iter().map(|piece| piece.rows).collect(),
        first_is_cut: pieces.first().is_some_and(|piece| piece.is_cut),
        last_is_cut: pieces.last().is_some_and(|piece| piece.is_cut),
    }
}

fn decode_lane(
    offered: &OfferedLane,
    start: &[u8],
    end: Option<&[u8]>,
) -> Result<(Lane, Vec<Piece>), ReplicationError> {
    let damaged = || ReplicationError::Damaged("an offer of a copy cannot be decoded");
    let lane = <&[u8; 9]>::try_from(&offered.lane[..]).ok().and_then(Lane::decode);
    let lane = lane.ok_or_else(damaged)?;
    let sums = offered.sums.as_chunks::<SUM_BYTES>();
    if !sums.1.is_empty() || sums.0.len() != offered.rows.len() || sums.0.is_empty() {
        return Err(damaged());
    }
    let last = sums.0.len() - 1;
    let mut bytes = &offered.starts[..];
    let mut pieces: Vec<Piece> = Vec::with_capacity(sums.0.len());
    for (place, (sum, rows)) in sums.0.iter().zip(&offered.rows).enumerate() {
        let mut length = || prost::encoding::decode_varint(&mut bytes).map_err(|_| damaged());
        let (shared, rest) = (length()? as usize, length()? as usize);
        let (rest, after) = bytes.split_at_checked(rest).ok_or_else(damaged)?;
        bytes = after;
        let before = pieces.last().map_or(&[][..], |piece| &piece.start);
        let mut key = before.get(..shared).ok_or_else(damaged)?.to_vec();
        key.extend_from_slice(rest);
        let in_order = match pieces.last() {
            Some(piece) => piece.start < key,
            None => key == start,
        };
        if !in_order || end.is_some_and(|end| key.as_slice() >= end) {
            return Err(damaged());
        }
        let is_cut = place == 0 && offered.first_is_cut || place == last && offered.last_is_cut;
        let sum = Sum(u128::from_le_bytes(*sum));
        pieces.push(Piece { start: key, sum, rows: *rows, is_cut });
    }
    Ok((lane, pieces))
}

/// The parts of a range in which two sides of a lane are not alike, or not known to be.
fn unlike(a: &[Piece], b: &[Piece], out: &mut Vec<Interval>) {
    let (Some(first_a), Some(first_b)) = (a.first(), b.first()) else { return };
    let mut walk = Walk::from(&first_a.start);
    walk.add_a(first_a);
    walk.add_b(first_b);
    let (mut at_a, mut at_b) = (0, 0);
    loop {
        let next_a = a.get(at_a + 1);
        let next_b = b.get(at_b + 1);
        let order = match (next_a, next_b) {
            (None, None) => return walk.close(None, out),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(next_a), Some(next_b)) => next_a.start.cmp(&next_b.start),
        };
        let bound = if order.is_gt() { next_b } else { next_a };
        let bound = bound.map(|piece| piece.start.as_slice()).unwrap_or_default();
        // A piece in which nothing lies can be cut anywhere.
        let other_is_empty = match order {
            std::cmp::Ordering::Less => b[at_b].is_empty(),
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Greater => a[at_a].is_empty(),
        };
        if other_is_empty {
            walk.close(Some(bound), out);
        }
        if let Some(piece) = next_a.filter(|_| order.is_le()) {
            walk.add_a(piece);
            at_a += 1;
        }
        if let Some(piece) = next_b.filter(|_| order.is_ge()) {
            walk.add_b(piece);
            at_b += 1;
        }
    }
}

/// Sums of both sides from the last common bound on.
struct Walk {
    start: Vec<u8>,
    a: (Sum, u64),
    b: (Sum, u64),
    is_cut: bool,
}

impl Walk {
    fn from(start: &[u8]) -> Walk {
        let zero = (Sum::default(), 0);
        Walk { start: start.to_vec(), a: zero, b: zero, is_cut: false }
    }

    fn add_a(&mut self, piece: &Piece) {
        self.a = (self.a.0 + piece.sum, self.a.1 + u64::from(piece.rows));
        self.is_cut |= piece.is_cut;
    }

    fn add_b(&mut self, piece: &Piece) {
        self.b = (self.b.0 + piece.sum, self.b.1 + u64::from(piece.rows));
        self.is_cut |= piece.is_cut;
    }

    fn close(&mut self, bound: Option<&[u8]>, out: &mut Vec<Interval>) {
        if self.is_cut || self.a != self.b {
            out.push((self.start.clone(), bound.map(<[u8]>::to_vec)));
        }
        if let Some(bound) = bound {
            *self = Walk::from(bound);
        }
    }
}

/// Puts ranges in order, and those that touch together.
fn joined(mut ranges: Vec<Interval>) -> Vec<Interval> {
    ranges.sort();
    let mut joined: Vec<Interval> = Vec::new();
    for (start, end) in ranges {
        match joined.last_mut() {
            Some((_, last)) if last.as_ref().is_none_or(|last| *last >= start) => {
                let is_later = match (&last, &end) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    (Some(last), Some(end)) => end > last,
                };
                if is_later {
                    *last = end;
                }
            }
            Some(_) | None => joined.push((start, end)),
        }
    }
    joined
}

/// What a replica remembers of an answer: its rows that are not known to be alike.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    pub(crate) number: u64,
    /// Where the range ends; empty: at the end of the partition.
    pub(crate) end: Bytes,
    /// Fingerprints and keys.
    rows: Vec<(u64, Bytes)>,
    /// Bytes of the keys.
    pub(crate) bytes: usize,
}

impl Remembered {
    /// The keys of rows with these fingerprints, ascending.
    pub(crate) fn keys(&self, fingerprints: &Bytes) -> Result<Vec<EncodedKey>, ReplicationError> {
        let mut keys = Vec::new();
        // They are few, and the rows are many and not sorted for their sake.
        let mut wanted = Fingerprints::decode(fingerprints)?;
        for (fingerprint, key) in &self.rows {
            if wanted.find(*fingerprint) {
                keys.push(EncodedKey(key.clone()));
            }
        }
        if wanted.not_found().next().is_some() {
            return Err(ReplicationError::Damaged("a chunk removes a row that was not named"));
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }
}

/// Asks for the whole range of an offer.
pub(crate) fn want_all(offer: &CopyOffer) -> (CopyWant, Remembered) {
    let want = CopyWant {
        partition: offer.partition,
        number: offer.number,
        all: true,
        ..CopyWant::default()
    };
    let (number, end) = (offer.number, offer.end.clone());
    (want, Remembered { number, end, ..Remembered::default() })
}

/// Compares an offer with what is here. `room`: bytes of keys that may be remembered.
pub(crate) fn answer(
    view: &DigestView,
    theirs: &Counts,
    offer: &CopyOffer,
    room: usize,
) -> Result<(CopyWant, Remembered), ReplicationError> {
    let ours = counts(view.rules());
    let measured = |counts: &Counts| (counts.time_lanes, counts.base.clone(), counts.families);
    if measured(&ours) != measured(theirs) {
        return Ok(want_all(offer));
    }
    let floors = greater(&ours.floors, &theirs.floors);
    let packed = offer.body.as_ref().ok_or(ReplicationError::Damaged("an offer is empty"))?;
    let lanes = OfferedLanes::decode(unpack(packed)?)
        .map_err(|_| ReplicationError::Damaged("an offer of a copy cannot be decoded"))?;
    let end = end_of(&offer.end);
    let end = end.as_ref().map(|end| &end.0[..]);
    let mut offered = BTreeMap::new();
    for lane in &lanes.lanes {
        let (lane, pieces) = decode_lane(lane, &offer.start, end)?;
        offered.insert(lane, pieces);
    }
    let own = view.tree().lanes().into_iter().map(|root| root.lane);
    let lanes: Vec<Lane> =
        offered.keys().copied().chain(own).filter(|l| above(*l, &floors)).collect();
    let none = vec![nothing(&offer.start)];
    let mut ranges = Vec::new();
    let (mut rows_there, mut rows_here) = (0, 0);
    for lane in lanes.into_iter().collect::<std::collections::BTreeSet<Lane>>() {
        let there = offered.get(&lane).unwrap_or(&none);
        let here = pieces(view.tree(), lane, &offer.start, end);
        rows_there += rows_of(there);
        rows_here += rows_of(&here);
        unlike(there, &here, &mut ranges);
    }
    // Where most rows are missing there is little to leave out.
    if !ranges.is_empty() && rows_here * 2 < rows_there {
        return Ok(want_all(offer));
    }
    // Where a lane ends, the range does.
    ranges.iter_mut().for_each(|(_, last)| *last = last.take().or_else(|| end.map(<[u8]>::to_vec)));
    match named(view, &floors, joined(ranges), room)? {
        Some((ranges, rows, bytes)) => {
            let body = (!ranges.is_empty())
                .then(|| pack(WantedRanges { ranges }.encode_to_vec(), Method::Plain));
            let (partition, number) = (offer.partition, offer.number);
            let want = CopyWant { partition, number, all: false, floors: Some(floors), body };
            Ok((want, Remembered { number, end: offer.end.clone(), rows, bytes }))
        }
        None => Ok(want_all(offer)),
    }
}

fn rows_of(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| u64::from(piece.rows)).sum()
}

fn greater(a: &Option<Floors>, b: &Option<Floors>) -> Floors {
    let (a, b) = (a.clone().unwrap_or_default(), b.clone().unwrap_or_default());
    Floors { time: a.time.max(b.time), kills: a.kills.max(b.kills) }
}

type KeyRange = (EncodedKey, Option<EncodedKey>);

/// Whether a row lies before the end of a range; what could not be read does.
fn is_before(row: &Result<ViewRow, StoreError>, end: Option<&EncodedKey>) -> bool {
    row.as_ref().is_ok_and(|row| end.is_none_or(|end| row.key < *end)) || row.is_err()
}

type Named = (Vec<WantedRange>, Vec<(u64, Bytes)>, usize);

/// The fingerprints of the rows in some ranges; `None`: they are too many.
fn named(
    view: &DigestView,
    floors: &Floors,
    ranges: Vec<Interval>,
    room: usize,
) -> Result<Option<Named>, ReplicationError> {
    let mut wanted = Vec::with_capacity(ranges.len());
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let key = |key: Vec<u8>| EncodedKey(key.into());
    let ranges: Vec<KeyRange> =
        ranges.into_iter().map(|(start, end)| (key(start), end.map(key))).collect();
    let mut all = view.rows_of(ranges.clone()).peekable();
    for (start, end) in ranges {
        let mut fingerprints = Vec::new();
        while let Some(row) = all.next_if(|row| is_before(row, end.as_ref())) {
            let row = row?;
            let Some(fingerprint) = fingerprint(view, floors, &row.key, row.parts) else {
                continue;
            };
            bytes += row.key.0.len() + std::mem::size_of::<(u64, Bytes)>();
            if rows.len() >= WANT_ROWS_MAX || bytes > room {
                return Ok(None);
            }
            fingerprints.extend_from_slice(&fingerprint.to_le_bytes());
            rows.push((fingerprint, row.key.0));
        }
        let end = end.map_or_else(Bytes::new, |end| end.0);
        wanted.push(WantedRange { start: start.0, end, rows: fingerprints.into() });
    }
    Ok(Some((wanted, rows, bytes)))
}

/// What stands for a row; `None`: nothing of it counts.
fn fingerprint(
    view: &DigestView,
    floors: &Floors,
    key: &EncodedKey,
    mut parts: Parts,
) -> Option<u64> {
    parts.retain(|lane| above(lane, floors));
    (!parts.is_empty()).then(|| parts.fingerprint(view.hasher(), &key.0))
}

/// Fingerprints that the other side has told, and which of them were found here.
struct Fingerprints(Vec<(u64, bool)>);

impl Fingerprints {
    fn decode(bytes: &Bytes) -> Result<Fingerprints, ReplicationError> {
        let (all, rest) = bytes.as_chunks::<FINGERPRINT_BYTES>();
        if !rest.is_empty() {
            return Err(ReplicationError::Damaged("fingerprints of rows are cut off"));
        }
        let mut all: Vec<(u64, bool)> =
            all.iter().map(|bytes| (u64::from_le_bytes(*bytes), false)).collect();
        all.sort_unstable();
        all.dedup();
        Ok(Fingerprints(all))
    }

    /// Whether it is one of them; takes note that it was found.
    fn find(&mut self, fingerprint: u64) -> bool {
        match self.0.binary_search_by_key(&fingerprint, |(known, _)| *known) {
            Ok(place) => {
                self.0[place].1 = true;
                true
            }
            Err(_) => false,
        }
    }

    fn not_found(&self) -> impl Iterator<Item = u64> {
        self.0.iter().filter(|(_, found)| !found).map(|(fingerprint, _)| *fingerprint)
    }
}

/// What is to be sent of a range.
#[derive(Debug)]
pub(crate) enum Picked {
    /// All of it.
    All,
    /// What differs.
    Rows {
        /// Keys, with the rows as long as they are few bytes.
        rows: VecDeque<(Bytes, Option<Bytes>)>,
        /// Fingerprints of the replica's rows that are not here, or otherwise.
        gone: Vec<u8>,
    },
}

/// Finds what of a range of about `range_rows` rows the replica lacks.
pub(crate) fn pick(
    view: &DigestView,
    want: &CopyWant,
    range_rows: u64,
) -> Result<Picked, ReplicationError> {
    if want.all {
        return Ok(Picked::All);
    }
    let (mut rows, mut gone) = (VecDeque::new(), Vec::new());
    let Some(packed) = &want.body else { return Ok(Picked::Rows { rows, gone }) };
    let floors = want.floors.clone().unwrap_or_default();
    let wanted = WantedRanges::decode(unpack(packed)?)
        .map_err(|_| ReplicationError::Damaged("an answer to an offer cannot be decoded"))?;
    let key_range = |range: &WantedRange| (EncodedKey(range.start.clone()), end_of(&range.end));
    let ranges: Vec<KeyRange> = wanted.ranges.iter().map(key_range).collect();
    if !ranges.is_sorted_by(|(_, end), (next, _)| end.as_ref().is_some_and(|end| end <= next)) {
        return Err(ReplicationError::Damaged("ranges that are wanted do not ascend"));
    }
    let mut all = view.rows_of(ranges.clone()).peekable();
    let mut bytes = 0;
    for (range, (_, end)) in wanted.ranges.iter().zip(ranges) {
        let mut there = Fingerprints::decode(&range.rows)?;
        while let Some(row) = all.next_if(|row| is_before(row, end.as_ref())) {
            let row = row?;
            let Some(fingerprint) = fingerprint(view, &floors, &row.key, row.parts) else {
                continue;
            };
            if there.find(fingerprint) {
                continue;
            }
            bytes += row.packed.as_ref().map_or(0, Bytes::len);
            let kept = row.packed.filter(|_| bytes <= CHUNK_BYTES_MAX);
            rows.push_back((row.key.0, kept));
            if rows.len() as u64 > WANT_ROWS_MAX as u64 {
                return Ok(Picked::All);
            }
        }
        gone.extend(there.not_found().flat_map(u64::to_le_bytes));
    }
    // Where most of it differs, naming what goes costs more than sending the rest.
    if rows.len() as u64 * 2 > range_rows.max(1) && rows.len() > 1 {
        return Ok(Picked::All);
    }
    Ok(Picked::Rows { rows, gone })
}

#[cfg(test)]
mod tests;
