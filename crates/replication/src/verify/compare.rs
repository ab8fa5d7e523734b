//! Compares two sides: roots, leaves, rows, cells.
//!
//! Blocking code that only asks; time, waiting and the user's patience are handed in. A sketch of
//! coarse ranges comes with the roots; where it names those that differ, their leaves are told and
//! rows come in one exchange more. Else a sketch of all leaves names those that differ; and where
//! too many do, the table is walked in the order of its keys, window by window, and can be resumed
//! at any. With one writer both sides are looked at after the same entry. A row that changed since
//! is looked at again under a new cut; what will not settle is told, not guessed. With several
//! writers each side's own vector says whether it lacks what it has had. Names of leaves and rows
//! are short, and sums prove that none is missing (`proof.rs`).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::clock::Clock;
use isthmus_model::ids::TableId;
use isthmus_model::key::EncodedKey;
use xxhash_rust::xxh3::xxh3_64;

use crate::verify::answer::Opened;
use crate::verify::error::VerifyError;
use crate::verify::limits::{
    AGAIN_MAX, COARSE_RANGES_MAX, CUT_AGE_MAX, FEW_LEAVES, FEW_RANGES, MANY_LEAVES, RANGE_ROWS,
    ROUNDS_MAX, ROWS_COUNTED_MAX, SAFE_WAIT, SYMBOLS_MAX, WHOLE_SYMBOLS_MAX, WINDOW_LEAVES,
};
use crate::verify::question::{Ask, Close, Cut};
use crate::verify::report::{Compared, FoundRow, Ranges, Report, RowDiff, Verdict, WrongTree};
use crate::verify::side::{Counted, Side};

mod judge;
mod leaves;
mod open;
mod proof;
mod rows;
mod walk;

use open::Pair;

/// How much is told of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Only its key, where that needs no contents: with one writer.
    Keys,
    /// Each cell.
    Cells,
}

/// What to compare, and how far to go.
#[derive(Clone, Debug)]
pub struct Options {
    /// Table.
    pub table: TableId,
    /// How the sides are called.
    pub names: [String; 2],
    /// As of when.
    pub cut: Cut,
    /// How long to wait for a side that is behind.
    pub wait: Duration,
    /// With several writers: by how much one side's safe time may be behind the other's.
    pub behind_max: Duration,
    /// Rows listed in the report.
    pub rows_max: usize,
    /// How much is told of them.
    pub detail: Detail,
    /// Where to begin: a key at which an earlier comparison ended.
    pub start: Option<EncodedKey>,
    /// Whether it is told since when ranges were last read from disk.
    pub scrubbed: bool,
    /// How much is done at once.
    pub(crate) tuning: Tuning,
}

/// How much is done at once; tests make it less.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    pub(crate) few_ranges: usize,
    pub(crate) few_leaves: usize,
    pub(crate) many_leaves: usize,
    pub(crate) whole_symbols_max: usize,
    pub(crate) window_symbols_max: usize,
    pub(crate) window_leaves: u64,
    pub(crate) page_ranges: usize,
    pub(crate) range_rows: u32,
    pub(crate) cut_age_max: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            few_ranges: FEW_RANGES,
            few_leaves: FEW_LEAVES,
            many_leaves: MANY_LEAVES,
            whole_symbols_max: WHOLE_SYMBOLS_MAX,
            window_symbols_max: SYMBOLS_MAX,
            window_leaves: WINDOW_LEAVES,
            // The second side may have more ranges between the same keys.
            page_ranges: COARSE_RANGES_MAX / 4,
            range_rows: RANGE_ROWS,
            cut_age_max: CUT_AGE_MAX,
        }
    }
}

impl Options {
    /// The usual.
    pub fn new(table: TableId, names: [String; 2]) -> Options {
        Options {
            table,
            names,
            cut: Cut::Now,
            wait: Duration::from_secs(30),
            behind_max: Duration::from_secs(10),
            rows_max: 10_000,
            detail: Detail::Cells,
            start: None,
            scrubbed: false,
            tuning: Tuning::default(),
        }
    }
}

/// How far a comparison has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Rows found so far that differ.
    pub rows_differing: u64,
    /// Keys before it are done, in a walk.
    pub done_before: Option<EncodedKey>,
}

/// What the world gives a comparison.
pub struct Shell<'a> {
    /// Tells time.
    pub clock: &'a dyn Clock,
    /// Lets time pass.
    pub pause: &'a mut dyn FnMut(Duration),
    /// Told now and then; may end it.
    pub progress: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>,
    /// Told of each row that differs.
    pub found: Option<&'a mut dyn FnMut(&FoundRow<'_>)>,
}

/// A comparison under way.
struct Run<'a, 's> {
    sides: [Counted<'a>; 2],
    options: &'a Options,
    shell: &'a mut Shell<'s>,
    pair: Option<Pair>,
    compared: [Option<Compared>; 2],
    rows: BTreeMap<EncodedKey, RowDiff>,
    counted: HashSet<u64>,
    ranges: Ranges,
    again: BTreeSet<Bytes>,
    /// Times that rows were looked at again.
    round: u32,
    /// With several writers: all that either side had of each origin at the first look.
    first_seen: BTreeMap<u32, u64>,
    late: u64,
    /// Rows whose parts differ while what a reader could ever see does not.
    dropped: u64,
    /// Rows that were put aside to be looked at again.
    put_aside: u64,
    tree_wrong: Vec<WrongTree>,
    resume: Option<EncodedKey>,
    /// Until then a safe time that is long past is not taken.
    fresh_until: Duration,
    /// What is selected covers everything that differs, on both sides.
    selects_whole: bool,
    /// Names are to be narrow: what is found is proved to be all by sums of the whole table.
    wants_narrow: bool,
}

/// What came of looking at leaves that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    /// All rows in them that differ are judged.
    Done,
    /// They hold more than is good for the way it was tried.
    TooMuch,
    /// Sums say that not all is named.
    Unproved,
}

/// Why a comparison ends without a verdict.
enum End {
    /// All was looked at.
    Done,
    /// They are alike, root and branch.
    Alike,
    /// In words.
    Why(String),
}

/// Compares two sides.
pub fn compare(
    first: &mut dyn Side,
    second: &mut dyn Side,
    options: &Options,
    shell: &mut Shell<'_>,
) -> Result<Report, VerifyError> {
    let fresh_until = shell.clock.monotonic() + options.wait.min(SAFE_WAIT);
    let mut run = Run {
        sides: [Counted::new(first), Counted::new(second)],
        options,
        shell,
        pair: None,
        compared: [None, None],
        rows: BTreeMap::new(),
        counted: HashSet::new(),
        ranges: Ranges::default(),
        again: BTreeSet::new(),
        round: 0,
        first_seen: BTreeMap::new(),
        late: 0,
        dropped: 0,
        put_aside: 0,
        tree_wrong: Vec::new(),
        resume: None,
        fresh_until,
        selects_whole: false,
        wants_narrow: true,
    };
    let end = run.whole();
    run.close();
    Ok(run.report(end?))
}

/// Compares each side but the first with the first. `None`: that side could not be asked.
pub fn compare_all(
    sides: &mut [&mut dyn Side],
    names: &[String],
    options: &Options,
    shell: &mut Shell<'_>,
) -> Vec<Result<Report, VerifyError>> {
    let Some((first, others)) = sides.split_first_mut() else { return Vec::new() };
    let name = |place: usize| names.get(place).cloned().unwrap_or_default();
    let mut reports = Vec::new();
    for (place, other) in others.iter_mut().enumerate() {
        let options = Options { names: [name(0), name(place + 1)], ..options.clone() };
        reports.push(compare(&mut **first, &mut **other, &options, shell));
    }
    reports
}

impl Run<'_, '_> {
    fn whole(&mut self) -> Result<End, VerifyError> {
        match self.open_pair(self.options.cut)? {
            Ok(false) => {}
            Ok(true) => return Ok(End::Alike),
            Err(why) => return Ok(End::Why(why)),
        }
        if let Some(why) = self.find()? {
            return Ok(End::Why(why));
        }
        self.look_again()
    }

    /// Looks again at what changed while it was looked at, each time under a new cut.
    fn look_again(&mut self) -> Result<End, VerifyError> {
        for round in 1..=ROUNDS_MAX {
            self.round = round;
            if self.again.is_empty() {
                break;
            }
            (self.shell.pause)(Duration::from_millis(10 << round.min(8)));
            self.close();
            match self.open_pair(Cut::Now)? {
                Ok(true) => self.again.clear(),
                Ok(false) => {
                    let keys = std::mem::take(&mut self.again);
                    self.judge_keys(keys.into_iter().map(|key| (key, [None, None])).collect())?;
                }
                Err(why) => return Ok(End::Why(why)),
            }
        }
        Ok(End::Done)
    }

    /// Whether what differs may only be an entry on its way that bears old stamps, as a repair
    /// does. At the second look it has arrived; one look is enough where too much differs.
    fn may_be_under_way(&mut self) -> bool {
        let Some(pair) = self.pair.as_ref().filter(|pair| pair.many) else { return false };
        if self.options.cut == Cut::AsItIs || self.round == ROUNDS_MAX {
            return false;
        }
        if self.round == 0 {
            for mark in pair.heads.iter().flat_map(|head| &head.vector) {
                let seen = self.first_seen.entry(mark.origin).or_default();
                *seen = mark.lsn.max(*seen);
            }
            return self.again.len() < AGAIN_MAX / 2;
        }
        let has_seen = |head: &Opened| {
            let lsn = |origin: u32| head.vector.iter().find(|mark| mark.origin == origin);
            let mut first = self.first_seen.iter();
            first.all(|(origin, seen)| lsn(*origin).is_some_and(|mark| mark.lsn >= *seen))
        };
        !pair.heads.iter().all(has_seen)
    }

    /// Ends both sessions. What cannot be ended ends by itself.
    fn close(&mut self) {
        let Some(pair) = self.pair.take() else { return };
        for (side, head) in self.sides.iter_mut().zip(&pair.heads) {
            side.leave(Ask::Close(Close { session: head.session }));
        }
    }

    fn names(&self) -> [&str; 2] {
        [&self.options.names[0], &self.options.names[1]]
    }

    /// The user's word whether to go on.
    fn goes_on(&mut self, done_before: Option<&Bytes>) -> bool {
        let progress = Progress {
            rows_differing: self.counted.len() as u64,
            done_before: done_before.map(|key| EncodedKey(key.clone())),
        };
        (self.shell.progress)(&progress).is_continue() && self.counted.len() < ROWS_COUNTED_MAX
    }

    /// Whether a row was found before: it can come up in several windows.
    fn is_known(&self, key: &Bytes) -> bool {
        self.counted.contains(&xxh3_64(key))
    }

    /// Counts a row that differs.
    fn count(&mut self, diff: RowDiff) {
        if !self.counted.insert(xxh3_64(&diff.key.0)) {
            return;
        }
        self.ranges.add(&diff.key);
        if self.rows.len() < self.options.rows_max {
            self.rows.insert(diff.key.clone(), diff);
        }
    }

    /// A row is to be looked at again.
    fn put_aside(&mut self, key: Bytes) -> Result<(), VerifyError> {
        if self.again.len() >= AGAIN_MAX {
            return Err(VerifyError::Read("too many rows change while they are compared".into()));
        }
        self.put_aside += 1;
        self.again.insert(key);
        Ok(())
    }

    /// What is said holds as of the first cut: later ones are for single rows or the rest of a
    /// walk. Unless all is alike in the end, and nothing was found before.
    fn note_compared(&mut self, heads: &[Opened; 2], all_alike: bool) {
        if self.compared[0].is_none() || (all_alike && self.counted.is_empty()) {
            self.compared = [Some(Compared::of(&heads[0])), Some(Compared::of(&heads[1]))];
        }
    }

    fn verdict(&self, end: End) -> Verdict {
        let [first, second] = self.names();
        if !self.counted.is_empty() {
            return Verdict::Different;
        }
        let unsettled = self.again.len();
        match end {
            End::Why(why) => Verdict::CouldNotTell(why),
            End::Alike => Verdict::Equal,
            End::Done if unsettled > 0 => {
                Verdict::CouldNotTell(format!("{unsettled} rows kept changing"))
            }
            End::Done if !self.tree_wrong.is_empty() => {
                let name = if self.tree_wrong[0].side == 0 { first } else { second };
                let count = self.tree_wrong.len();
                Verdict::CouldNotTell(format!(
                    "the digest of {name} is not that of its rows in {count} ranges"
                ))
            }
            End::Done if self.late + self.dropped + self.put_aside == 0 => Verdict::CouldNotTell(
                format!("the digests of {first} and {second} differ, but no row was found to"),
            ),
            End::Done => Verdict::Equal,
        }
    }

    fn report(self, end: End) -> Report {
        let verdict = self.verdict(end);
        let rows_differing = self.counted.len() as u64;
        Report {
            verdict,
            rows_differing,
            more: rows_differing > self.rows.len() as u64,
            rows: self.rows.into_values().collect(),
            ranges: self.ranges.finish(),
            unsettled: self.again.len() as u64,
            late: self.late,
            tree_wrong: self.tree_wrong,
            costs: [self.sides[0].cost(), self.sides[1].cost()],
            compared: self.compared,
            resume: self.resume,
        }
    }
}
