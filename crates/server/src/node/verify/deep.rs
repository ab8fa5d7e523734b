//! Compares the rows of a range as two disks hold them, whatever their digests say.
//!
//! With one writer the first side is read before and after the second: a row that is the same
//! both times, at moments around that of the second, must be the same there. With several, each
//! side's own vector says what it should have had.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::diff::{self, Class, Knowledge};
use isthmus_model::expiry::Expiry;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Origin;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_replication::frame::{ExpiredBefore, FamilyColumns};
use isthmus_replication::verify::answer::Floors;
use isthmus_replication::verify::report::RowDiff;
use isthmus_store::codec::row::decode_row;

use super::place::Place;
use super::run::Work;
use crate::peer::verify::{Bad, Rows, RowsTold};

/// How often rows that change are read again.
const ROUNDS_MAX: u32 = 8;
const PAUSE: Duration = Duration::from_millis(50);

/// What was found in a range.
#[derive(Default)]
pub(super) struct FoundInRange {
    pub(super) rows: Vec<RowDiff>,
    pub(super) rows_read: [u64; 2],
    /// Rows that kept changing.
    pub(super) unsettled: u64,
}

/// What is said of one row.
enum Judged {
    Alike,
    Differs(RowDiff),
    Again,
}

impl Work<'_> {
    /// Compares a range row by row, window by window.
    pub(super) fn compare_range(
        &self,
        pair: [&Place; 2],
        bad: &Bad,
    ) -> Result<FoundInRange, String> {
        let mut found = FoundInRange::default();
        let mut start = bad.start.clone();
        loop {
            let next = self.compare_window(pair, &start, bad.end.as_ref(), &mut found)?;
            match next {
                Some(next) if !self.control.is_halted() => start = next,
                Some(_) | None => return Ok(found),
            }
        }
    }

    /// Gives where the next window begins.
    fn compare_window(
        &self,
        pair: [&Place; 2],
        start: &Bytes,
        end: Option<&Bytes>,
        found: &mut FoundInRange,
    ) -> Result<Option<Bytes>, String> {
        let mut open: Option<BTreeSet<Bytes>> = None;
        let mut end = end.cloned();
        let mut next = None;
        for round in 0..ROUNDS_MAX {
            if round > 0 {
                self.control.rest(PAUSE * 2u32.pow(round - 1));
            }
            let before = self.read(pair[0], start, end.as_ref())?;
            shorten(&mut end, &mut next, &before);
            let between = self.read(pair[1], start, end.as_ref())?;
            shorten(&mut end, &mut next, &between);
            let after = self.read(pair[0], start, end.as_ref())?;
            shorten(&mut end, &mut next, &after);
            let read = [before.rows.len() + after.rows.len(), between.rows.len()];
            found.rows_read[0] += read[0] as u64;
            found.rows_read[1] += read[1] as u64;
            let told = [&before, &between, &after];
            let keys: BTreeSet<Bytes> = match open.take() {
                Some(keys) => keys,
                None => {
                    told.iter().flat_map(|told| told.rows.iter().map(|r| r.key.clone())).collect()
                }
            };
            let mut again = BTreeSet::new();
            // A key beyond the end of a shorter answer belongs to the next window.
            for key in keys.into_iter().filter(|key| end.as_ref().is_none_or(|end| key < end)) {
                match judge(told, &key) {
                    Judged::Alike => {}
                    Judged::Differs(diff) => found.rows.push(diff),
                    Judged::Again => drop(again.insert(key)),
                }
            }
            if again.is_empty() || self.control.is_halted() {
                return Ok(next);
            }
            open = Some(again);
        }
        found.unsettled += open.map_or(0, |open| open.len() as u64);
        Ok(next)
    }

    fn read(&self, place: &Place, start: &Bytes, end: Option<&Bytes>) -> Result<RowsTold, String> {
        let rows = Rows { table: self.table.id().0, start: start.clone(), end: end.cloned() };
        place.rows(rows).map_err(|error| error.message)
    }
}

/// An answer that is cut short ends the window.
fn shorten(end: &mut Option<Bytes>, next: &mut Option<Bytes>, told: &RowsTold) {
    if let Some(cut) = &told.next
        && end.as_ref().is_none_or(|end| cut < end)
    {
        *end = Some(cut.clone());
        *next = Some(cut.clone());
    }
}

fn judge(told: [&RowsTold; 3], key: &Bytes) -> Judged {
    let [before, between, after] = told.map(|told| told.rows.iter().find(|row| row.key == *key));
    let bytes = |row: Option<&crate::peer::verify::StoredRow>| row.map(|row| row.packed.clone());
    let damaged = [before, between, after].iter().any(|row| row.is_some_and(|row| row.damaged));
    if bytes(before) == bytes(between) && !damaged {
        return Judged::Alike;
    }
    if damaged {
        let (key, cells) = (EncodedKey(key.clone()), Vec::new());
        return Judged::Differs(RowDiff { key, class: Class::Different, cells });
    }
    let row = |row: Option<Bytes>| match row {
        None => Some(Row::default()),
        Some(packed) => decode_row(&packed).ok(),
    };
    let (Some(first), Some(second)) = (row(bytes(after)), row(bytes(between))) else {
        return Judged::Again;
    };
    match told[0].many_writers || told[1].many_writers {
        true => lag(key, [&first, &second], [told[2], told[1]]),
        false => {
            let is_around = told[0].lsn <= told[1].lsn && told[1].lsn <= told[2].lsn;
            if !is_around || bytes(before) != bytes(after) {
                return Judged::Again;
            }
            plain(key, first, second, [told[2], told[1]])
        }
    }
}

fn expiry(told: &RowsTold) -> Vec<Expiry> {
    told.expiry.iter().filter_map(ExpiredBefore::expiry).collect()
}

fn plain(key: &Bytes, mut first: Row, mut second: Row, told: [&RowsTold; 2]) -> Judged {
    for told in told {
        let families = FamilyColumns::families(&told.families);
        for expiry in expiry(told) {
            first.expire(&expiry, &families);
            second.expire(&expiry, &families);
        }
    }
    let cells = diff::plain(&first, &second);
    if cells.is_empty() {
        return Judged::Alike;
    }
    let class = diff::class_of_row(&first, &second, &cells);
    Judged::Differs(RowDiff { key: EncodedKey(key.clone()), class, cells })
}

fn lag(key: &Bytes, rows: [&Row; 2], told: [&RowsTold; 2]) -> Judged {
    let vector = |told: &RowsTold| -> Vec<(Origin, Hlc)> {
        let mark = |mark: &isthmus_replication::frame::Watermark| {
            Some((Origin(u8::try_from(mark.origin).ok()?), Hlc(mark.hlc)))
        };
        told.vector.iter().filter_map(mark).collect()
    };
    let (vectors, expiries) = (told.map(vector), told.map(expiry));
    let families = told.map(|told| FamilyColumns::families(&told.families));
    let knows = |side: usize| Knowledge {
        vector: &vectors[side],
        safe: Hlc(told[side].safe),
        floor: Floors { time: i64::MIN, kills: told[side].floor_kills }.kills_hlc(),
        expiry: &expiries[side],
        families: &families[side],
    };
    let found = diff::lagging((rows[0], knows(0)), (rows[1], knows(1)));
    if !found.cells.is_empty() {
        let class = diff::class_of_row(rows[0], rows[1], &found.cells);
        let key = EncodedKey(key.clone());
        return Judged::Differs(RowDiff { key, class, cells: found.cells });
    }
    if found.unclear { Judged::Again } else { Judged::Alike }
}

#[cfg(test)]
mod tests {
    use isthmus_model::hlc::Stamp;
    use isthmus_model::ids::Timestamp;
    use isthmus_model::row::Cell;
    use isthmus_model::value::Value;
    use isthmus_store::codec::row::encode_row;

    use super::*;
    use crate::peer::verify::StoredRow;

    fn row(value: i64) -> Row {
        let stamp = Stamp { hlc: Hlc(9), origin: Origin(1) };
        let mut row = Row { marker: Some(stamp), ..Row::default() };
        let cell = Cell { timestamp: Timestamp(1), stamp, value: Some(Value::Integer(value)) };
        row.column_mut(&"c".into()).set(cell);
        row
    }

    fn told(lsn: u64, value: Option<i64>) -> RowsTold {
        let stored = |value| StoredRow {
            key: Bytes::from_static(b"k"),
            packed: encode_row(&row(value)),
            ..StoredRow::default()
        };
        RowsTold { lsn, rows: value.map(stored).into_iter().collect(), ..RowsTold::default() }
    }

    fn word(told: [&RowsTold; 3]) -> &'static str {
        match judge(told, &Bytes::from_static(b"k")) {
            Judged::Alike => "alike",
            Judged::Again => "again",
            Judged::Differs(diff) if diff.class == Class::Missing => "missing",
            Judged::Differs(_) => "differs",
        }
    }

    #[test]
    fn a_row_differs_only_if_it_was_still_between_two_looks() {
        let one = told(5, Some(1));
        assert_eq!(word([&one, &one, &one]), "alike");
        assert_eq!(word([&one, &told(5, Some(2)), &one]), "differs");
        assert_eq!(word([&one, &told(5, None), &one]), "missing");
        // The second side is behind, or ahead, or the row has changed meanwhile.
        assert_eq!(word([&one, &told(4, None), &one]), "again");
        assert_eq!(word([&one, &told(6, Some(2)), &one]), "again");
        assert_eq!(word([&one, &told(6, Some(2)), &told(6, Some(2))]), "again");
    }

    #[test]
    fn a_row_that_cannot_be_read_differs() {
        let one = told(5, Some(1));
        let mut damaged = told(5, Some(2));
        damaged.rows[0].damaged = true;
        assert_eq!(word([&one, &damaged, &one]), "differs");
    }

    #[test]
    fn with_several_writers_what_is_on_its_way_is_no_difference() {
        let several = |value, safe| RowsTold { many_writers: true, safe, ..told(1, value) };
        let has = several(Some(1), 0);
        assert_eq!(word([&has, &several(None, 0), &has]), "alike");
        assert_eq!(word([&has, &several(None, 20), &has]), "missing");
    }
}
