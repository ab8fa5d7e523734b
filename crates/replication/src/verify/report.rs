//! What a comparison found.

use isthmus_model::diff::{CellDiff, Class};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;

use crate::verify::answer::{Opened, ScrubbedFrom};
use crate::verify::limits::REPORT_RANGES_MAX;
use crate::verify::side::Cost;

/// The answer to "are they alike?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// At the watermarks compared, yes.
    Equal,
    /// No.
    Different,
    /// Why it cannot be told.
    CouldNotTell(String),
}

/// A row in which two sides differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDiff {
    /// Its key.
    pub key: EncodedKey,
    /// How the second side stands to the first.
    pub class: Class,
    /// Its registers that differ; none if only keys were asked for.
    pub cells: Vec<CellDiff>,
}

/// A row that differs, with what each side has: what a repair needs.
#[derive(Clone, Debug)]
pub struct FoundRow<'a> {
    /// Where it differs.
    pub diff: &'a RowDiff,
    /// The row at the first and second side, if contents were asked for.
    pub rows: [&'a Row; 2],
    /// What it is known by at each side as of the cut; 0: it had nothing.
    pub fingerprints: [u64; 2],
    /// The views that were compared.
    pub heads: [&'a Opened; 2],
}

/// How many rows differ between two keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferingRange {
    /// First of them.
    pub first: EncodedKey,
    /// Last of them.
    pub last: EncodedKey,
    /// How many.
    pub rows: u64,
}

/// A range in which a side's digest is not that of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongTree {
    /// 0: the first side; 1: the second.
    pub side: usize,
    /// First key.
    pub start: EncodedKey,
    /// First key beyond; none: to the end.
    pub end: Option<EncodedKey>,
}

/// What was compared of a side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Epoch obeyed.
    pub epoch: u64,
    /// The LSN compared.
    pub lsn: u64,
    /// The moment compared; with several writers everything below it was.
    pub hlc: u64,
    /// Per origin: region, LSN and moment of what is applied.
    pub vector: Vec<(u32, u64, u64)>,
    /// All rows were read from disk since then, in milliseconds since the Unix epoch.
    pub scrubbed_since_millis: Option<i64>,
    /// When ranges were last read from disk, by key and without gaps; none if it was not asked for,
    /// or is not known there.
    pub scrubbed: Vec<ScrubbedFrom>,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether they are alike.
    pub verdict: Verdict,
    /// Rows that differ.
    pub rows_differing: u64,
    /// The first of them that were found, by key.
    pub rows: Vec<RowDiff>,
    /// There are more than are listed.
    pub more: bool,
    /// Where they lie.
    pub ranges: Vec<DifferingRange>,
    /// Rows that changed so often that they could not be compared.
    pub unsettled: u64,
    /// Rows that differ by no more than what is on its way.
    pub late: u64,
    /// Where a digest is not that of the rows.
    pub tree_wrong: Vec<WrongTree>,
    /// What it cost to ask each side.
    pub costs: [Cost; 2],
    /// What was compared of each side; none: it was not reached.
    pub compared: [Option<Compared>; 2],
    /// It ended before the end: where to go on.
    pub resume: Option<EncodedKey>,
}

impl Report {
    /// Bytes to and from sides that are elsewhere.
    pub fn bytes_exchanged(&self) -> u64 {
        self.costs.iter().map(|cost| cost.bytes_sent + cost.bytes_received).sum()
    }

    /// Questions to sides that are elsewhere.
    pub fn round_trips(&self) -> u64 {
        self.costs.iter().map(|cost| cost.round_trips).sum()
    }

    /// Rows read by both sides.
    pub fn rows_read(&self) -> u64 {
        self.costs.iter().map(|cost| cost.rows_read).sum()
    }
}

impl Compared {
    pub(crate) fn of(opened: &Opened) -> Compared {
        Compared {
            epoch: opened.epoch,
            lsn: opened.cut_lsn,
            hlc: opened.cut_hlc,
            vector: opened.vector.iter().map(|mark| (mark.origin, mark.lsn, mark.hlc)).collect(),
            scrubbed_since_millis: opened.scrubbed_since_millis,
            scrubbed: opened.scrubbed.clone(),
        }
    }
}

/// Gathers keys into a bounded number of ranges.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<DifferingRange>);

impl Ranges {
    pub(crate) fn add(&mut self, key: &EncodedKey) {
        let place = self.0.partition_point(|range| range.last < *key);
        match self.0.get_mut(place) {
            Some(range) if range.first <= *key => range.rows += 1,
            Some(_) | None => {
                let range = DifferingRange { first: key.clone(), last: key.clone(), rows: 1 };
                self.0.insert(place, range);
            }
        }
        // Seldom, so that adding stays cheap.
        if self.0.len() > 8 * REPORT_RANGES_MAX {
            self.join();
        }
    }

    fn join(&mut self) {
        let each = self.0.len().div_ceil(REPORT_RANGES_MAX).max(1);
        let joined = self.0.chunks(each).map(|chunk| DifferingRange {
            first: chunk[0].first.clone(),
            last: chunk[chunk.len() - 1].last.clone(),
            rows: chunk.iter().map(|range| range.rows).sum(),
        });
        self.0 = joined.collect();
    }

    pub(crate) fn finish(mut self) -> Vec<DifferingRange> {
        self.join();
        self.0
    }
}
