//! Brings two sides to views that can be compared.
//!
//! The first side is opened as it is, the second at the cut where the first stands, knowing its
//! roots: if they are alike, that is all. A side that is behind is asked again for a while. A side
//! that cannot be rolled back so far stays where it is, and the other one is brought there.

use std::time::Duration;

use isthmus_digest::{Lane, Sum};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Origin;

use crate::verify::answer::{Floors, LaneSum, NotYet, Opened, SKILL, SketchTold, Tell};
use crate::verify::compare::Run;
use crate::verify::error::VerifyError;
use crate::verify::limits::COARSE_SYMBOLS;
use crate::verify::question::{Ask, Close, Cut, Open, Raise};

/// Two views that can be compared.
pub(super) struct Pair {
    pub(super) heads: [Opened; 2],
    pub(super) many: bool,
    /// Every row has at most one part.
    pub(super) only_data: bool,
    /// Both sides know sketches of coarse ranges and short symbols.
    pub(super) skilled: bool,
    /// Both sides use narrow names.
    pub(super) narrow: bool,
    /// That of the second side.
    pub(super) sketch: Option<SketchTold>,
    pub(super) opened_at: Duration,
}

/// What came of asking a side to open.
enum Opening {
    Opened(Box<Opened>),
    /// Again later; why.
    Later(String),
}

/// How two open views stand to each other.
enum Fit {
    Alike,
    Differ(Box<Pair>),
    /// Bring the first side to this cut and look again.
    BringFirst(Cut),
    Later(String),
}

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

impl Run<'_, '_> {
    /// Opens both sides. `Ok(Ok(true))`: they are alike, and closed. The inner error says why they
    /// cannot be compared.
    pub(super) fn open_pair(&mut self, cut: Cut) -> Result<Result<bool, String>, VerifyError> {
        let deadline = self.shell.clock.monotonic() + self.options.wait;
        let mut pause = FIRST_PAUSE;
        loop {
            let why = match self.try_pair(cut, deadline)? {
                Ok(alike) => return Ok(Ok(alike)),
                Err(why) => why,
            };
            if self.shell.clock.monotonic() >= deadline || !self.goes_on(None) {
                return Ok(Err(why));
            }
            (self.shell.pause)(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One attempt; the inner error says why to try again later.
    fn try_pair(
        &mut self,
        cut: Cut,
        deadline: Duration,
    ) -> Result<Result<bool, String>, VerifyError> {
        let mut first = match self.open_side(0, cut, None)? {
            Opening::Opened(opened) => *opened,
            Opening::Later(why) => return Ok(Err(why)),
        };
        let second = match self.open_second(&first, deadline)? {
            Opening::Opened(opened) => *opened,
            Opening::Later(why) => {
                self.end(0, &first);
                return Ok(Err(why));
            }
        };
        // Once to the cut of the second side is enough, unless it goes wrong.
        for _ in 0..2 {
            match self.fit(first.clone(), second.clone())? {
                Fit::Alike => {
                    self.note_compared(&[first.clone(), second.clone()], true);
                    self.end(0, &first);
                    self.end(1, &second);
                    return Ok(Ok(true));
                }
                Fit::Differ(pair) => {
                    self.note_compared(&pair.heads, false);
                    self.pair = Some(*pair);
                    return Ok(Ok(false));
                }
                Fit::BringFirst(cut) => {
                    self.end(0, &first);
                    first = match self.open_waiting(0, cut, None, second.lsn, deadline)? {
                        Opening::Opened(opened) => *opened,
                        Opening::Later(why) => {
                            self.end(1, &second);
                            return Ok(Err(why));
                        }
                    };
                }
                Fit::Later(why) => {
                    self.end(0, &first);
                    self.end(1, &second);
                    return Ok(Err(why));
                }
            }
        }
        self.end(0, &first);
        self.end(1, &second);
        let [one, two] = self.names();
        Ok(Err(format!("{one} and {two} cannot be brought to one cut")))
    }

    fn open_second(&mut self, first: &Opened, deadline: Duration) -> Result<Opening, VerifyError> {
        let cut = match (self.options.cut, first.many_writers) {
            (Cut::AsItIs, true) => Cut::AsItIs,
            (_, true) => Cut::Hlc(first.cut_hlc),
            (_, false) => Cut::Lsn(first.cut_lsn),
        };
        self.open_waiting(1, cut, Some(first), first.cut_lsn, deadline)
    }

    /// Opens a side at a cut, waiting while it is behind.
    fn open_waiting(
        &mut self,
        side: usize,
        cut: Cut,
        other: Option<&Opened>,
        other_lsn: u64,
        deadline: Duration,
    ) -> Result<Opening, VerifyError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let behind = match self.ask_open(side, cut, other)? {
                Ok(opening) => return Ok(opening),
                Err(behind) => behind,
            };
            let [first, second] = self.names();
            let (name, ahead) = if side == 0 { (first, second) } else { (second, first) };
            let entries = other_lsn.saturating_sub(behind.lsn);
            if self.shell.clock.monotonic() >= deadline {
                return Ok(Opening::Later(format!("{name} is {entries} entries behind {ahead}")));
            }
            (self.shell.pause)(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn open_side(
        &mut self,
        side: usize,
        cut: Cut,
        other: Option<&Opened>,
    ) -> Result<Opening, VerifyError> {
        Ok(self.ask_open(side, cut, other)?.unwrap_or_else(|behind| {
            let name = self.names()[side];
            Opening::Later(format!("{name} has come to {} only", behind.lsn))
        }))
    }

    /// One question; the inner error: it is behind.
    fn ask_open(
        &mut self,
        side: usize,
        cut: Cut,
        other: Option<&Opened>,
    ) -> Result<Result<Opening, NotYet>, VerifyError> {
        let open = Open {
            table: self.options.table.0,
            cut: Some(cut.into()),
            floors: other.map(Opened::floors),
            roots: other.and_then(|other| other.roots.clone()),
            first_symbols: 0,
            coarse_symbols: if other.is_some() { COARSE_SYMBOLS } else { 0 },
            narrow: self.wants_narrow && other.is_none_or(|other| other.narrow),
            scrubbed: self.options.scrubbed,
            fresh: self.shell.clock.monotonic() < self.fresh_until,
        };
        let name = self.names()[side].to_owned();
        let later = |why| Ok(Ok(Opening::Later(why)));
        match self.sides[side].ask(Ask::Open(open)) {
            Ok(Tell::Opened(opened)) => Ok(Ok(Opening::Opened(Box::new(opened)))),
            Ok(Tell::NotYet(behind)) => Ok(Err(behind)),
            Ok(Tell::Unready(why)) => later(format!("{name} {why}")),
            Ok(Tell::NoTable(_)) => later(format!("{name} does not have the table")),
            Err(VerifyError::Busy) => later(format!("{name} is comparing too much at once")),
            Ok(_) => Err(VerifyError::Protocol("another answer than to open")),
            Err(error) => Err(error),
        }
    }

    fn end(&mut self, side: usize, opened: &Opened) {
        // One that is alike was not kept open.
        if !opened.alike {
            self.sides[side].leave(Ask::Close(Close { session: opened.session }));
        }
    }

    /// Looks how two open views stand to each other, and levels what they leave out.
    fn fit(&mut self, mut first: Opened, mut second: Opened) -> Result<Fit, VerifyError> {
        let [one, two] = self.names();
        let many = first.many_writers;
        // The same parts are the same rows, wherever each side stands.
        if second.alike {
            return Ok(Fit::Alike);
        }
        if many != second.many_writers {
            return Ok(Fit::Later(format!("{one} and {two} differ in who may write")));
        }
        if first.rules != second.rules {
            return Ok(Fit::Later(format!("the digests of {one} and {two} count differently")));
        }
        if many && first.schema != second.schema {
            return Ok(Fit::Later(format!("{one} and {two} have different schemas")));
        }
        if !many && first.cut_lsn != second.cut_lsn {
            return Ok(Fit::BringFirst(Cut::Lsn(second.cut_lsn)));
        }
        if many && let Some(why) = self.behind(&first, &second) {
            return Ok(Fit::Later(why));
        }
        if many && self.options.cut != Cut::AsItIs && second.cut_hlc < first.cut_hlc {
            return Ok(Fit::BringFirst(Cut::Hlc(second.cut_hlc)));
        }
        let floors = first.floors().joined(second.floors());
        let mut sketch = second.sketch.take();
        let narrow = first.narrow && second.narrow;
        self.level(0, &mut first, floors, narrow)?;
        if self.level(1, &mut second, floors, narrow)? {
            sketch = None;
        }
        let heads = [first, second];
        if total(&heads[0], floors)? == total(&heads[1], floors)? {
            return Ok(Fit::Alike);
        }
        let only_data = heads.iter().all(has_only_data);
        let opened_at = self.shell.clock.monotonic();
        let skilled = heads.iter().all(|head| head.skill >= SKILL);
        Ok(Fit::Differ(Box::new(Pair {
            heads,
            many,
            only_data,
            skilled,
            narrow,
            sketch,
            opened_at,
        })))
    }

    /// With several writers: whether a side lacks too much of what the other one has had.
    fn behind(&self, first: &Opened, second: &Opened) -> Option<String> {
        let [one, two] = self.names();
        let (first_gap, second_gap) = (gap_millis(first, second), gap_millis(second, first));
        let (name, ahead, gap) = match first_gap > second_gap {
            true => (one, two, first_gap),
            false => (two, one, second_gap),
        };
        let too_much = u128::from(gap.unsigned_abs()) > self.options.behind_max.as_millis();
        too_much.then(|| format!("{name} is {gap} ms behind {ahead}"))
    }

    /// Brings a side to these floors, and to wide names where the other one has such. Gives whether
    /// anything had to be done.
    fn level(
        &mut self,
        side: usize,
        head: &mut Opened,
        floors: Floors,
        narrow: bool,
    ) -> Result<bool, VerifyError> {
        if head.floors() == floors && head.narrow == narrow {
            return Ok(false);
        }
        let raise = Raise { session: head.session, floors: Some(floors), wide: !narrow };
        match self.sides[side].ask(Ask::Raise(raise))? {
            Tell::Opened(opened) => {
                (head.roots, head.floors, head.narrow) = (opened.roots, Some(floors), narrow);
                Ok(true)
            }
            _ => Err(VerifyError::Protocol("another answer than to raise")),
        }
    }
}

/// By how much of any origin's time a side has not had what the other one has.
fn gap_millis(side: &Opened, other: &Opened) -> i64 {
    let known = side.vector_hlc();
    let gap = |(origin, hlc): (Origin, Hlc)| {
        let has = known.iter().find(|(known, _)| *known == origin).map_or(Hlc::MIN, |mark| mark.1);
        hlc.millis() - has.max(Hlc(side.safe)).millis()
    };
    other.vector_hlc().into_iter().map(gap).max().unwrap_or(0).max(0)
}

/// The sum of everything that is compared.
fn total(opened: &Opened, floors: Floors) -> Result<Sum, VerifyError> {
    let roots = opened.roots.as_ref().ok_or(VerifyError::Protocol("roots are not told"))?;
    roots.total_above(floors)?.ok_or(VerifyError::Protocol("roots are of other floors"))
}

fn has_only_data(opened: &Opened) -> bool {
    let data = Lane::Data.encode();
    let is_data = |lane: &LaneSum| lane.lane[..] == data;
    opened.roots.as_ref().is_some_and(|roots| !roots.combined && roots.lanes.iter().all(is_data))
}
