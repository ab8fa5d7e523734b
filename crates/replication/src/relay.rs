//! Passing on what others have made: what a link carries beside the entries of its own region.
//!
//! With one writer all logs are the same, and a region passes its log on as it is. With several,
//! its log holds the entries of all in the order in which they came here, under addresses of its
//! own; a parcel then names the range of each origin, in the addresses of that origin's log, and
//! the link itself counts in the addresses of the log here. What a replica holds decides where its
//! link begins, whoever fed it before.
//!
//! What must hold: a range that is named has every entry of it. So nothing is passed on from
//! before the place where rows of a copy stand for entries here, and a replica that lacks more
//! than the log here is sure to have is copied.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isthmus_model::entry::Entry;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_store::keys::log::{RecordBuilder, decode_record};
use isthmus_store::{LogSlice, StoreError, Table, Watermark};

use crate::error::ReplicationError;
use crate::frame::{self, OriginRange};
use crate::limits::{PLACE_BYTES_MAX, PLACE_STEP_BYTES};
use crate::standings::Standings;

/// A record of what is passed on, and the last entry in it by origin.
pub(crate) type PassedOn = (Bytes, Vec<(Origin, Lsn)>);

/// Whose entries a link carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Feeding {
    /// Those that this region has made.
    #[default]
    Own,
    /// Those of these origins, this region among them where it makes any.
    Passed(Vec<Origin>),
}

impl Feeding {
    /// What is needed to carry entries of these origins from region `own`.
    pub fn of(own: Origin, origins: Vec<Origin>) -> Feeding {
        if origins == [own] { Feeding::Own } else { Feeding::Passed(origins) }
    }

    /// Whether entries that region `own`, which the link leaves, has made are among them.
    pub fn carries(&self, own: Origin) -> bool {
        match self {
            Feeding::Own => true,
            Feeding::Passed(origins) => origins.contains(&own),
        }
    }
}

/// How far a link that passes on has come with each origin.
#[derive(Debug)]
pub(crate) struct Passing {
    own: Origin,
    origins: Vec<Origin>,
    /// Sent of each origin, in its own addresses.
    sent: BTreeMap<Origin, Lsn>,
    /// Where rows of a copy last stood for entries when the link began.
    whole_after: Lsn,
}

impl Passing {
    pub(crate) fn new(own: Origin, origins: Vec<Origin>) -> Passing {
        Passing { own, origins, sent: BTreeMap::new(), whole_after: Lsn(0) }
    }

    /// The origins whose entries are carried.
    pub(crate) fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// Whether rows of a copy have come here since the link began: what it would send next may
    /// have a hole.
    pub(crate) fn is_stale(&self, table: &Table) -> bool {
        table.log_whole_after().0 > self.whole_after
    }

    /// The replica holds so much of each origin, or will when it is copied. To be told before
    /// the snapshot is taken or its place looked for.
    pub(crate) fn begin(&mut self, table: &Table) {
        self.whole_after = table.log_whole_after().0;
    }

    /// The replica holds so much of each origin.
    pub(crate) fn stand(&mut self, vector: &[frame::Watermark]) {
        let held = |origin: &Origin| {
            let mark = vector.iter().find(|mark| mark.origin == u32::from(origin.0));
            (*origin, mark.map_or(Lsn(0), |mark| Lsn(mark.lsn)))
        };
        self.sent = self.origins.iter().map(held).collect();
    }

    /// The place in the log here after which a replica that holds so much of each origin must be
    /// sent everything; `None`: the log does not surely reach back so far.
    pub(crate) fn place(
        &self,
        table: &Table,
        vector: &[frame::Watermark],
        standings: &Standings,
    ) -> Result<Option<Lsn>, ReplicationError> {
        let held: BTreeMap<Origin, (Lsn, Hlc)> = vector
            .iter()
            .map(|mark| (Origin(mark.origin as u8), (Lsn(mark.lsn), Hlc(mark.hlc))))
            .collect();
        let (log_start, (whole_after, marks)) = (table.log_start(), table.log_whole_after());
        let start = log_start.max(whole_after);
        if let Some(lsn) = standings.place(table.partition(), &self.origins, &held)
            && lsn >= start
        {
            return Ok(Some(lsn));
        }
        let here = table.vector();
        let mark = |origin: Origin| here.iter().find(|mark| mark.origin == origin);
        let end = mark(self.own).map_or(start, |mark| mark.lsn);
        let feeds_own = self.origins.contains(&self.own);
        let (own, _) = held.get(&self.own).copied().unwrap_or_default();
        if feeds_own && own < log_start {
            return Ok(None);
        }
        let has_all = |origin: Origin| {
            let (lsn, hlc) = held.get(&origin).copied().unwrap_or_default();
            // The moment counts as well, which no range without entries moves.
            mark(origin).is_none_or(|mark| lsn >= mark.lsn || hlc >= mark.hlc)
        };
        // What came as rows is held there: it lacks nothing but what the log has after them.
        let marks = marks.filter(|_| whole_after >= log_start);
        let has_rows = |origin: Origin| {
            let (lsn, hlc) = held.get(&origin).copied().unwrap_or_default();
            marks.as_ref().is_some_and(|marks| {
                let mark = marks.iter().find(|mark| mark.origin == origin);
                mark.is_none_or(|mark| lsn >= mark.lsn || hlc >= mark.hlc)
            })
        };
        let others = self.origins.iter().copied().filter(|origin| *origin != self.own);
        let lacking: BTreeSet<Origin> = others.filter(|origin| !has_all(*origin)).collect();
        let unsure: BTreeSet<Origin> =
            lacking.iter().copied().filter(|origin| !has_rows(*origin)).collect();
        let mut bound = if feeds_own { own.min(end) } else { end };
        if unsure.len() < lacking.len() {
            bound = bound.min(start);
        }
        if unsure.is_empty() {
            return Ok(Some(bound));
        }
        if bound < start {
            return Ok(None);
        }
        let mut search = Search { held, unsure, place: None };
        let (mut after, mut bytes) = (start, 0);
        while !search.unsure.is_empty() && bytes < PLACE_BYTES_MAX {
            let slice = match table.read_log(after, PLACE_STEP_BYTES) {
                Ok(slice) => slice,
                Err(StoreError::LogTrimmed { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if slice.to <= after {
                break;
            }
            for record in &slice.records {
                bytes += record.len();
                let (_, entries) = decode_record(record).map_err(damaged_log)?;
                let mut passed = entries
                    .iter()
                    .filter(|e| e.lsn > after && self.origins.contains(&e.stamp.origin));
                if !passed.all(|entry| search.look(entry)) {
                    return Ok(None);
                }
            }
            after = slice.to;
        }
        let place = search.place.unwrap_or(after).min(bound);
        Ok(search.unsure.is_empty().then_some(place))
    }

    /// Names the ranges that a piece of the log brings. `ends` are the last entries in it by
    /// origin, `here` what was applied here before it was read, `base` the region whose entries
    /// others may wait for.
    pub(crate) fn ranges(
        &mut self,
        to: Lsn,
        ends: &[(Origin, Lsn)],
        here: &[Watermark],
        base: Origin,
    ) -> Vec<OriginRange> {
        let is_end = here.iter().any(|mark| mark.origin == self.own && mark.lsn == to);
        let mut ranges = Vec::new();
        for origin in &self.origins {
            let from = self.sent.get(origin).copied().unwrap_or_default();
            let last = ends.iter().find(|(known, _)| known == origin).map(|(_, lsn)| *lsn);
            let mut end = from.max(last.unwrap_or_default());
            if *origin == self.own {
                end = end.max(to);
            } else if is_end && let Some(mark) = here.iter().find(|mark| mark.origin == *origin) {
                end = end.max(mark.lsn);
            }
            if last.is_some() || end > from {
                ranges.push(OriginRange { origin: u32::from(origin.0), from: from.0, to: end.0 });
                self.sent.insert(*origin, end);
            }
        }
        ranges.sort_by_key(|range| range.origin != u32::from(base.0));
        ranges
    }

    /// One record with what is carried, and the last entry in it by origin.
    pub(crate) fn entries(
        &self,
        partition: PartitionId,
        slice: &LogSlice,
        after: Lsn,
    ) -> Result<PassedOn, ReplicationError> {
        let mut passed = RecordBuilder::new(after.next());
        let mut ends: BTreeMap<Origin, Lsn> = BTreeMap::new();
        for record in &slice.records {
            let (_, entries) = decode_record(record).map_err(damaged_log)?;
            for entry in entries.iter().filter(|entry| entry.lsn > after) {
                if self.origins.contains(&entry.stamp.origin) {
                    passed.push(entry);
                    let end = ends.entry(entry.stamp.origin).or_default();
                    *end = entry.origin_lsn.max(*end);
                }
            }
        }
        passed.cover(slice.to);
        Ok((passed.finish(partition, false).bytes, ends.into_iter().collect()))
    }
}

/// Looks for the place of a replica in a log.
struct Search {
    held: BTreeMap<Origin, (Lsn, Hlc)>,
    /// Origins of which it is not known yet whether the log has all that the replica lacks.
    unsure: BTreeSet<Origin>,
    place: Option<Lsn>,
}

impl Search {
    /// Returns whether the log may still have all that the replica lacks.
    fn look(&mut self, entry: &Entry) -> bool {
        let origin = entry.stamp.origin;
        let (lsn, hlc) = self.held.get(&origin).copied().unwrap_or_default();
        let is_held = entry.origin_lsn <= lsn || entry.stamp.hlc <= hlc;
        // The one before the first that is kept may be one that is not.
        if self.unsure.remove(&origin) && !is_held && lsn.next() < entry.origin_lsn {
            return false;
        }
        if !is_held && self.place.is_none() {
            self.place = Some(Lsn(entry.lsn.0.saturating_sub(1)));
        }
        true
    }
}

fn damaged_log(source: isthmus_store::codec::Corrupt) -> ReplicationError {
    StoreError::Corrupt { what: "log record", source }.into()
}

/// What a parcel brings of one origin.
pub(crate) struct Passed {
    pub(crate) origin: Origin,
    pub(crate) from: Lsn,
    pub(crate) to: Lsn,
    pub(crate) entries: Vec<Entry>,
}

/// Parts the entries of a parcel by the ranges that it names; each once, in order.
pub(crate) fn part(
    ranges: &[OriginRange],
    entries: Vec<Entry>,
) -> Result<Vec<Passed>, ReplicationError> {
    let mut parts: Vec<Passed> = Vec::with_capacity(ranges.len());
    for range in ranges {
        let (from, to) = (Lsn(range.from), Lsn(range.to));
        let origin = Origin(range.origin as u8);
        if u32::from(origin.0) != range.origin || from > to {
            return Err(ReplicationError::Damaged("a range of a parcel makes no sense"));
        }
        if parts.iter().any(|known| known.origin == origin) {
            return Err(ReplicationError::Damaged("a parcel names an origin twice"));
        }
        parts.push(Passed { origin, from, to, entries: Vec::new() });
    }
    for entry in entries {
        let part = parts.iter_mut().find(|part| part.origin == entry.stamp.origin);
        let part = part
            .filter(|part| entry.origin_lsn <= part.to)
            .ok_or(ReplicationError::Damaged("a parcel holds entries that it does not name"))?;
        let last = part.entries.last().map_or(part.from, |last| last.origin_lsn);
        if entry.origin_lsn > last {
            part.entries.push(entry);
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use isthmus_model::entry::EntryBody;
    use isthmus_model::hlc::Stamp;
    use isthmus_model::ids::{Epoch, SchemaNumber};

    use super::*;

    fn entry(origin: u8, lsn: u64) -> Entry {
        Entry {
            lsn: Lsn(lsn * 10),
            epoch: Epoch(1),
            stamp: Stamp { hlc: Hlc(lsn), origin: Origin(origin) },
            origin_lsn: Lsn(lsn),
            schema: SchemaNumber(1),
            seen: None,
            tx: None,
            batch: None,
            body: EntryBody::Rows(Vec::new()),
        }
    }

    fn range(origin: u32, from: u64, to: u64) -> OriginRange {
        OriginRange { origin, from, to }
    }

    #[test]
    fn entries_are_parted_by_origin_and_each_is_taken_once() {
        let entries = vec![entry(2, 3), entry(1, 5), entry(2, 3), entry(2, 4), entry(1, 7)];
        let parts = part(&[range(1, 5, 9), range(2, 2, 4), range(3, 0, 6)], entries).unwrap();
        let told = parts.iter().map(|part| {
            let lsns = part.entries.iter().map(|entry| entry.origin_lsn.0).collect::<Vec<_>>();
            (part.origin.0, lsns)
        });
        assert_eq!(told.collect::<Vec<_>>(), [(1, vec![7]), (2, vec![3, 4]), (3, vec![])]);
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        for ranges in [
            vec![range(1, 9, 5)],
            vec![range(257, 0, 5)],
            vec![range(1, 0, 5), range(1, 5, 6)],
            vec![range(2, 0, 5)],
            vec![range(1, 0, 2)],
        ] {
            assert!(part(&ranges, vec![entry(1, 3)]).is_err(), "{ranges:?}");
        }
    }

    #[test]
    fn ranges_reach_the_end_of_what_is_applied_only_at_the_end_of_the_log() {
        let mut passing = Passing::new(Origin(1), vec![Origin(1), Origin(2)]);
        passing.stand(&[frame::Watermark { origin: 2, lsn: 4, hlc: 0, life: 0 }]);
        let mark = |origin: u8, lsn: u64| Watermark {
            origin: Origin(origin),
            lsn: Lsn(lsn),
            hlc: Hlc::MIN,
        };
        let here = [mark(1, 20), mark(2, 9)];
        let ranges = passing.ranges(Lsn(10), &[(Origin(2), Lsn(6))], &here, Origin(2));
        assert_eq!(ranges, [range(2, 4, 6), range(1, 0, 10)]);
        let ranges = passing.ranges(Lsn(20), &[], &here, Origin(2));
        assert_eq!(ranges, [range(2, 6, 9), range(1, 10, 20)]);
        assert_eq!(passing.ranges(Lsn(20), &[], &here, Origin(2)), []);
    }
}
