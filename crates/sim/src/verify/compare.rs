//! Asks two regions as the server does, while the world goes on.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::clock::Clock;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_replication::verify::answer::{Answer, Opened, Tell};
use isthmus_replication::verify::compare::{Options, Shell, compare};
use isthmus_replication::verify::error::VerifyError;
use isthmus_replication::verify::question::{Ask, Cut, Question};
use isthmus_replication::verify::report::{Report, RowDiff, Verdict};
use isthmus_replication::verify::side::Side;
use rand::Rng;

use crate::plant::Plant;
use crate::verify::judge::Watch;
use crate::verify::nature::TABLE;
use crate::verify::world::World;

/// How long to wait for a region that is behind.
const WAIT: Duration = Duration::from_secs(2);
const NAMES: [&str; 3] = ["r1", "r2", "r3"];

/// A row that differs, as a repair needs it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) diff: RowDiff,
    pub(super) rows: [Row; 2],
    pub(super) fingerprints: [u64; 2],
    pub(super) heads: [Arc<Opened>; 2],
}

struct WorldSide<'a, 'w> {
    world: &'a RefCell<&'w mut World>,
    place: usize,
    is_quiet: bool,
}

impl Side for WorldSide<'_, '_> {
    fn ask(&mut self, question: Question) -> Result<Answer, VerifyError> {
        let mut world = self.world.borrow_mut();
        let question = Question::decode(&question.encode())?;
        if !self.is_quiet {
            world.wander();
            if world.nature.plants_go_on && world.rng.random_range(0..8) == 0 {
                world.plant_somewhere();
            }
        }
        if let Some(Ask::Open(_)) = &question.ask {
            world.regions[self.place].refresh_safe(&world.nature);
        }
        let mut asked = question.clone();
        if let Some(Ask::Open(open)) = &mut asked.ask
            && world.options.plant == Some(Plant::CutIgnored)
        {
            open.cut = Some(Cut::AsItIs.into());
        }
        let mut answer = world.regions[self.place].life.sessions.answer(asked);
        if let Some(plant) = world.options.plant {
            tamper(plant, &question, &mut answer);
        }
        if !self.is_quiet {
            world.wander();
        }
        Answer::decode(&answer.encode())
    }
}

/// What a planted bug makes of an answer.
fn tamper(plant: Plant, question: &Question, answer: &mut Answer) {
    match (plant, &question.ask, &mut answer.tell) {
        (Plant::CutIgnored, Some(Ask::Open(open)), Some(Tell::Opened(opened))) => {
            opened.cut_lsn = open.cut.map_or(opened.cut_lsn, |cut| match cut.cut() {
                Ok(Cut::Lsn(lsn)) => lsn,
                Ok(Cut::Now | Cut::Hlc(_) | Cut::AsItIs) | Err(_) => opened.cut_lsn,
            });
        }
        (Plant::RowsCounted, Some(Ask::Open(open)), Some(Tell::Opened(opened))) => {
            let rows = |roots: &Option<_>| {
                let roots: &Option<isthmus_replication::verify::answer::Roots> = roots;
                roots.as_ref().map(|roots| roots.rows)
            };
            opened.alike |= open.roots.is_some() && rows(&open.roots) == rows(&opened.roots);
        }
        _ => {}
    }
}

impl World {
    /// Compares two regions while the world goes on, and judges what is said.
    pub(super) fn compare_busy(&mut self, places: [usize; 2]) -> Option<(Report, Vec<Found>)> {
        self.begin_watch(places);
        let told = self.ask(places, false);
        let watch = self.watch.take()?;
        match told {
            Ok((mut report, found)) => {
                if self.options.plant == Some(Plant::WrittenSkipped) {
                    self.skip_written(&watch, &mut report);
                }
                self.note(&format!("compared {places:?}: {:?}", report.verdict));
                self.judge_report(&watch, &report);
                Some((report, found))
            }
            Err(error) => {
                self.note(&format!("compared {places:?}: {error}"));
                None
            }
        }
    }

    /// A planted bug: what was written meanwhile is not looked at.
    fn skip_written(&self, watch: &Watch, report: &mut Report) {
        let is_written =
            |key: &EncodedKey| self.logged.get(key).is_some_and(|step| *step >= watch.start());
        report.rows.retain(|row| !is_written(&row.key));
        if report.rows.is_empty() && report.verdict == Verdict::Different {
            report.verdict = Verdict::Equal;
        }
    }

    /// Compares two regions while nothing happens.
    pub(super) fn compare_quiet(
        &mut self,
        places: [usize; 2],
    ) -> Result<(Report, Vec<Found>), VerifyError> {
        self.ask(places, true)
    }

    fn ask(
        &mut self,
        places: [usize; 2],
        is_quiet: bool,
    ) -> Result<(Report, Vec<Found>), VerifyError> {
        let clock = self.regions[places[0]].clock.clone();
        let time = self.time.clone();
        let mut options =
            Options::new(TABLE, places.map(|place| NAMES[place % NAMES.len()].to_owned()));
        options.wait = WAIT;
        let world = RefCell::new(self);
        let mut first = WorldSide { world: &world, place: places[0], is_quiet };
        let mut second = WorldSide { world: &world, place: places[1], is_quiet };
        let mut pause = |span: Duration| {
            time.advance(time.micros() + span.as_micros() as u64);
            if !is_quiet {
                world.borrow_mut().wander();
            }
        };
        let mut all = Vec::new();
        let mut found = |row: &isthmus_replication::verify::report::FoundRow<'_>| {
            all.push(Found {
                diff: row.diff.clone(),
                rows: row.rows.map(Row::clone),
                fingerprints: row.fingerprints,
                heads: row.heads.map(|head| Arc::new(head.clone())),
            });
        };
        let clock: &dyn Clock = &*clock;
        let mut shell = Shell {
            clock,
            pause: &mut pause,
            progress: &mut |_| ControlFlow::Continue(()),
            found: Some(&mut found),
        };
        let report = compare(&mut first, &mut second, &options, &mut shell)?;
        Ok((report, all))
    }
}
