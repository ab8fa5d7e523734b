//! Answers what a comparison asks, from views of tables.
//!
//! A session keeps one view, and with it a snapshot of the engine, so there are few at once and
//! an idle one ends. Nothing here trusts the asker: what it asks for is bounded, and a question
//! that makes no sense gets an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_digest::{LeafTold, Width};
use isthmus_model::clock::Clock;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, TableId};
use parking_lot::Mutex;

use crate::frame::{ExpiredBefore, FamilyColumns};
use crate::verify::answer::{Answer, Floors, NotYet, Opened, Roots, SKILL, ScrubbedFrom, Tell};
use crate::verify::error::VerifyError;
use crate::verify::limits::{
    SAFE_AGE_MAX, SAFE_AGE_WAITED, SELECTED_MAX, SESSION_IDLE_MAX, SESSIONS_MAX,
};
use crate::verify::question::{Ask, Cut, Open, Question};
use crate::verify::side::Side;
use crate::verify::view::{Head, View, Viewed, Views};

mod laid;
mod leaves;
mod selected;

use leaves::{At, NamedRange, Window};
use selected::Selection;

/// One view that is asked about.
struct Session {
    view: Box<dyn View>,
    /// What either side has dropped.
    floors: Floors,
    /// How wide the names of leaves, coarse ranges and parts of rows are.
    width: Width,
    /// The bits of a fingerprint that are such a name.
    mask: u64,
    cut: (Lsn, Hlc),
    window: Option<Window>,
    coarse: Option<Arc<[NamedRange]>>,
    /// Leaves that were told last.
    told: Vec<LeafTold>,
    selection: Selection,
    /// Parts selected at once.
    selected_max: usize,
}

struct Slot {
    session: Arc<Mutex<Session>>,
    used: Duration,
}

#[derive(Default)]
struct Slots {
    last: u64,
    open: BTreeMap<u64, Slot>,
}

/// The sessions of a node.
pub struct Sessions {
    views: Arc<dyn Views>,
    clock: Arc<dyn Clock>,
    selected_max: usize,
    /// Bits of narrow names that count.
    narrow_mask: u64,
    slots: Mutex<Slots>,
}

impl Sessions {
    /// None are open.
    pub fn new(views: Arc<dyn Views>, clock: Arc<dyn Clock>) -> Sessions {
        Sessions {
            views,
            clock,
            selected_max: SELECTED_MAX,
            narrow_mask: Width::Narrow.mask(),
            slots: Mutex::default(),
        }
    }

    /// Selects fewer parts at once, as if rows were many.
    #[cfg(test)]
    pub(crate) fn with_selected_max(self, selected_max: usize) -> Sessions {
        Sessions { selected_max, ..self }
    }

    /// Lets fewer bits of narrow names count, so that names meet.
    #[cfg(test)]
    pub(crate) fn with_narrow_mask(self, narrow_mask: u64) -> Sessions {
        Sessions { narrow_mask, ..self }
    }

    /// Answers a question. Errors become answers, too.
    pub fn answer(&self, question: Question) -> Answer {
        let packs = question.packs;
        let answer = question.check().and_then(|()| self.try_answer(question));
        let mut answer = answer.unwrap_or_else(|error| Answer::failed(&error));
        if packs {
            answer.pack_rows();
        }
        answer
    }

    /// Ends sessions that nobody asks. To be called now and then; opening one does it, too.
    pub fn end_idle(&self) {
        let now = self.clock.monotonic();
        // Views are let go of outside the lock.
        let mut ended = Vec::new();
        self.slots.lock().open.retain(|_, slot| {
            let idle = now.saturating_sub(slot.used) >= SESSION_IDLE_MAX;
            if idle {
                ended.push(slot.session.clone());
            }
            !idle
        });
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.slots.lock().open.len()
    }

    fn try_answer(&self, question: Question) -> Result<Answer, VerifyError> {
        let ask = question.ask.ok_or(VerifyError::Damaged("question asks nothing"))?;
        let number = match &ask {
            Ask::Open(open) => return self.open(open),
            Ask::Close(close) => {
                let slot = self.slots.lock().open.remove(&close.session);
                drop(slot);
                return Ok(Answer::new(0, Tell::Closed(true)));
            }
            Ask::Raise(ask) => ask.session,
            Ask::LeafSymbols(ask) => ask.session,
            Ask::CoarseRanges(ask) => ask.session,
            Ask::Select(ask) => ask.session,
            Ask::Selected(ask) => ask.session,
            Ask::RowsByFingerprint(ask) => ask.session,
            Ask::RowsByKey(ask) => ask.session,
            Ask::Sketch(ask) => ask.session,
            Ask::Leaves(ask) => ask.session,
            Ask::Lay(ask) => ask.named.as_ref().map_or(0, |named| named.session),
        };
        let session = self.session(number)?;
        let answer = session.lock().answer(number, ask);
        // A long answer is no idle time.
        if let Some(slot) = self.slots.lock().open.get_mut(&number) {
            slot.used = self.clock.monotonic();
        }
        answer
    }

    fn session(&self, number: u64) -> Result<Arc<Mutex<Session>>, VerifyError> {
        self.end_idle();
        let mut slots = self.slots.lock();
        let slot = slots.open.get_mut(&number).ok_or(VerifyError::NoSession)?;
        slot.used = self.clock.monotonic();
        Ok(slot.session.clone())
    }

    fn open(&self, open: &Open) -> Result<Answer, VerifyError> {
        self.end_idle();
        if self.count() >= SESSIONS_MAX {
            return Err(VerifyError::Busy);
        }
        let cut = open.cut.unwrap_or_default().cut()?;
        let mut cut = cut;
        let (view, cut) = loop {
            let mut view = match self.views.view(TableId(open.table))? {
                Viewed::View(view) => view,
                Viewed::Unready(why) => return Ok(Answer::new(0, Tell::Unready(why))),
                Viewed::NoTable => return Ok(Answer::new(0, Tell::NoTable(true))),
            };
            if open.fresh
                && let Some(why) = has_old_safe_time(view.head(), cut)
            {
                return Ok(Answer::new(0, Tell::Unready(why)));
            }
            match roll_back(&mut *view, cut) {
                Rolled::To(lsn, hlc) => break (view, (lsn, hlc)),
                // It stays where it is, which the asker can see.
                Rolled::TooFar => cut = Cut::AsItIs,
                Rolled::Behind => {
                    let head = view.head();
                    let behind = NotYet { lsn: head.lsn.0, hlc: head.hlc.0 };
                    return Ok(Answer::new(0, Tell::NotYet(behind)));
                }
            }
        };
        let floors = view.floors().joined(open.floors.unwrap_or(Floors::NONE));
        let (width, mask) = match open.narrow {
            true => (Width::Narrow, self.narrow_mask),
            false => (Width::Wide, Width::Wide.mask()),
        };
        let mut session = Session {
            view,
            floors,
            width,
            mask,
            cut,
            window: None,
            coarse: None,
            told: Vec::new(),
            selection: Selection::default(),
            selected_max: self.selected_max,
        };
        let mut opened = session.opened(0);
        if open.scrubbed {
            opened.scrubbed = ScrubbedFrom::of(session.view.tree());
        }
        opened.alike = session.is_alike(open.roots.as_ref())?;
        if opened.alike {
            // Nothing more will be asked.
            opened.roots = None;
            return Ok(Answer::new(0, Tell::Opened(opened)));
        }
        if open.first_symbols > 0 {
            let all = At::Keys((Bytes::new(), None));
            opened.symbols = session.leaf_symbols(all, 0, open.first_symbols, false);
        }
        if open.coarse_symbols > 0 {
            opened.sketch = Some(session.sketch(open.coarse_symbols));
        }
        opened.session = self.keep(session)?;
        Ok(Answer::new(0, Tell::Opened(opened)))
    }

    fn keep(&self, session: Session) -> Result<u64, VerifyError> {
        let mut slots = self.slots.lock();
        // Another one may have been opened meanwhile.
        if slots.open.len() >= SESSIONS_MAX {
            return Err(VerifyError::Busy);
        }
        slots.last += 1;
        let number = slots.last;
        let slot = Slot { session: Arc::new(Mutex::new(session)), used: self.clock.monotonic() };
        slots.open.insert(number, slot);
        Ok(number)
    }
}

/// Where a view is brought to.
enum Rolled {
    To(Lsn, Hlc),
    /// It is not there yet.
    Behind,
    /// The cut lies too far back, and the view is of no use any more.
    TooFar,
}

/// Brings a view to a cut.
fn roll_back(view: &mut dyn View, cut: Cut) -> Rolled {
    let (lsn, hlc) = (view.head().lsn, view.head().hlc);
    let (safe, many) = (view.head().safe, view.head().many_writers);
    match cut {
        Cut::Lsn(at) if !many && Lsn(at) > lsn => Rolled::Behind,
        Cut::Lsn(at) if !many && Lsn(at) < lsn => match view.roll_back_to_lsn(Lsn(at)) {
            true => Rolled::To(Lsn(at), hlc),
            false => Rolled::TooFar,
        },
        Cut::Now | Cut::Hlc(_) if many => {
            let last = last_complete(hlc, safe);
            let at = match cut {
                Cut::Hlc(at) => Hlc(at).min(last),
                Cut::Now | Cut::Lsn(_) | Cut::AsItIs => last,
            };
            view.roll_back_to_hlc(at);
            Rolled::To(lsn, at)
        }
        Cut::Now | Cut::Lsn(_) | Cut::Hlc(_) | Cut::AsItIs => Rolled::To(lsn, hlc),
    }
}

/// Why a view had better be asked for again, if its safe time counts and is long past.
fn has_old_safe_time(head: &Head, cut: Cut) -> Option<String> {
    let counts = head.many_writers && matches!(cut, Cut::Now | Cut::Hlc(_));
    let age = safe_age(head.hlc, head.safe);
    (counts && age > SAFE_AGE_WAITED && age <= SAFE_AGE_MAX)
        .then(|| format!("has not heard from all that write for {} ms", age.as_millis()))
}

/// How far the safe time is behind the greatest moment.
fn safe_age(hlc: Hlc, safe: Hlc) -> Duration {
    let age = hlc.millis().saturating_sub(safe.millis());
    Duration::from_millis(age.max(0).unsigned_abs())
}

/// Up to where a table with several writers is compared. Everything below the safe time is there;
/// at it, something may be on its way. Where the safe time stands still because a region is gone,
/// nothing is taken back: what came since would never be compared.
fn last_complete(hlc: Hlc, safe: Hlc) -> Hlc {
    match safe_age(hlc, safe) > SAFE_AGE_MAX {
        true => hlc,
        false => Hlc(safe.0.saturating_sub(1)),
    }
}

impl Session {
    fn answer(&mut self, number: u64, ask: Ask) -> Result<Answer, VerifyError> {
        let told = |tell| Ok(Answer::new(0, tell));
        match ask {
            Ask::Raise(ask) => {
                let floors = ask.floors.unwrap_or(Floors::NONE).joined(self.floors);
                if floors != self.floors || (ask.wide && self.width != Width::Wide) {
                    self.floors = floors;
                    if ask.wide {
                        (self.width, self.mask) = (Width::Wide, Width::Wide.mask());
                    }
                    (self.window, self.coarse) = (None, None);
                    self.told = Vec::new();
                    self.selection = Selection::default();
                }
                told(Tell::Opened(self.opened(number)))
            }
            Ask::LeafSymbols(ask) => {
                let at = match ask.in_coarse {
                    true => At::Coarse(ask.coarse),
                    false => At::Keys((ask.start, ask.end)),
                };
                told(Tell::Symbols(self.leaf_symbols(at, ask.from, ask.count, ask.short)))
            }
            Ask::CoarseRanges(ask) => told(Tell::Coarse(self.coarse(&ask))),
            Ask::Select(ask) => self.select(&ask),
            Ask::Selected(ask) => self.more_selected(ask.want.as_ref(), 0),
            Ask::RowsByFingerprint(ask) => self.rows_by_fingerprint(&ask),
            Ask::RowsByKey(ask) => self.rows_by_key(&ask),
            Ask::Sketch(ask) => told(Tell::Sketch(self.sketch(ask.count))),
            Ask::Leaves(ask) => told(Tell::Leaves(self.tell_leaves(&ask))),
            Ask::Lay(ask) => self.lay(&ask),
            Ask::Open(_) | Ask::Close(_) => Err(VerifyError::Damaged("not about a session")),
        }
    }

    fn roots(&self) -> Roots {
        Roots::of(&self.view.tree().lanes(), self.floors)
    }

    fn is_alike(&self, roots: Option<&Roots>) -> Result<bool, VerifyError> {
        let Some(roots) = roots else { return Ok(false) };
        let total = roots.total_above(self.floors)?;
        Ok(total.is_some() && total == self.roots().total_above(self.floors)?)
    }

    fn opened(&self, number: u64) -> Opened {
        let head = self.view.head();
        Opened {
            session: number,
            epoch: head.epoch.0,
            lsn: head.lsn.0,
            hlc: head.hlc.0,
            safe: head.safe.0,
            cut_lsn: self.cut.0.0,
            cut_hlc: self.cut.1.0,
            vector: head.vector.clone(),
            expiry: head.expiry.iter().map(ExpiredBefore::of).collect(),
            families: FamilyColumns::of(&head.families),
            floors: Some(self.floors),
            many_writers: head.many_writers,
            schema: head.schema.0,
            alike: false,
            roots: Some(self.roots()),
            symbols: Bytes::new(),
            scrubbed_since_millis: head.scrubbed_since_millis,
            rules: head.rules,
            sketch: None,
            skill: SKILL,
            narrow: self.width == Width::Narrow,
            scrubbed: Vec::new(),
        }
    }
}

/// The side that is in this process.
pub struct Local(pub Arc<Sessions>);

impl Side for Local {
    fn ask(&mut self, question: Question) -> Result<Answer, VerifyError> {
        Ok(self.0.answer(question))
    }

    fn is_local(&self) -> bool {
        true
    }
}
