//! The writer's part: it fills the new partitions and ends the old ones, as the server does it.

use std::collections::{BTreeSet, VecDeque};

use isthmus_model::change::Direction;
use isthmus_model::entry::EntryBody;
use isthmus_model::ids::Lsn;
use isthmus_model::key::{EncodedKey, KeyValue, PrimaryKey};
use isthmus_model::row::Row;
use isthmus_store::{Held, MovedRow, Pending, StoreError, TableSnapshot};

use super::Planned;
use crate::plant::Plant;
use crate::sync::part::{Part, entries_after};

/// Writes are held for so long at most, in milliseconds.
const HOLD_MAX: u64 = 1500;
/// Writes are held when the last round had so many entries at most.
const ENTRIES_LEFT: usize = 8;
/// Others are waited for so long before anything is held.
const NEAR_WITHIN: u64 = 3000;
/// What was in vain is tried again after this.
const TRY_AGAIN: u64 = 200;

/// How it goes on.
pub(super) enum Next {
    Later,
    /// The old partitions have ended.
    Ended,
    /// It is begun anew.
    Failed,
}

/// From what other partitions are filled.
struct Source {
    at: usize,
    snapshot: TableSnapshot,
    /// Keys of the snapshot, and of what an earlier filling has left, that are to be moved.
    keys: VecDeque<EncodedKey>,
    /// All up to this entry is in the new partitions, or on its way there.
    done: Lsn,
}

/// One that is under way.
pub(super) struct Filling {
    sources: Vec<Source>,
    stage: Stage,
    /// Rows on their way to the disk.
    moving: Vec<Pending<usize>>,
}

enum Stage {
    Copying,
    /// Not before the time that is named.
    Following(u64),
    /// Others come after; until then.
    Nearing(u64),
    /// Writes under way come to their end; until then.
    Draining(u64),
    Holding(u64, Vec<Held>),
    Ending(Vec<Pending<Lsn>>, Vec<Held>),
    Ended,
}

/// Whether a table is written here, as far as is known.
pub(super) fn is_filled_here(part: &Part, now: u64) -> bool {
    let word = part.table.writer_word();
    !part.table.is_dropped() && part.writer.is_some() && part.holds(word.epoch.0, now)
}

/// Whether all that was prepared before this region wrote a table is in its log.
fn has_gathered(part: &Part) -> bool {
    let (_, settled) = part.table.terms();
    !part.plan.mode.is_sync() || settled.epoch >= part.table.writer_word().epoch.0
}

fn row_of(key: &EncodedKey) -> Option<i64> {
    match PrimaryKey::decode(key).ok()?.0.first()? {
        KeyValue::Integer(row) => Some(*row),
        _ => None,
    }
}

impl Filling {
    /// Whether all that has not ended is written here.
    pub(super) fn may_begin(now: u64, plan: &Planned, parts: &[Part]) -> bool {
        let old = plan
            .sources()
            .all(|at| parts[at].table.is_dropped() || is_filled_here(&parts[at], now));
        old && plan.targets().all(|at| is_filled_here(&parts[at], now))
    }

    pub(super) fn begin(plan: &Planned, parts: &[Part]) -> Filling {
        let left = plan.sources().filter(|at| !parts[*at].table.is_dropped());
        let mut sources = Vec::new();
        let mut stage = Stage::Copying;
        for at in left {
            match Source::new(at, plan, parts) {
                Ok(source) => sources.push(source),
                // It is begun anew.
                Err(_) => stage = Stage::Following(u64::MAX),
            }
        }
        if sources.is_empty() {
            stage = Stage::Ended;
        }
        Filling { sources, stage, moving: Vec::new() }
    }

    pub(super) fn told(&self) -> String {
        let stage = match &self.stage {
            Stage::Copying => "copies",
            Stage::Following(_) => "follows",
            Stage::Nearing(_) => "waits for others",
            Stage::Draining(_) => "drains",
            Stage::Holding(..) => "holds",
            Stage::Ending(..) => "ends",
            Stage::Ended => "has ended",
        };
        stage.to_owned()
    }

    pub(super) fn step(
        &mut self,
        now: u64,
        plan: &Planned,
        parts: &mut [Part],
        plant: Option<Plant>,
    ) -> Next {
        match self.go_on(now, plan, parts, plant) {
            Ok(next) => next,
            Err(_) => {
                self.release(parts);
                Next::Failed
            }
        }
    }

    fn release(&mut self, parts: &mut [Part]) {
        for source in &self.sources {
            if let Some(writer) = &mut parts[source.at].writer {
                writer.drain(false);
            }
        }
    }

    /// Whether rows that were moved are durable. An error: some are not made.
    fn is_moved(&mut self) -> Result<bool, StoreError> {
        let mut failed = None;
        self.moving.retain_mut(|moving| match moving.try_take() {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(error)) => {
                failed = Some(error);
                false
            }
        });
        failed.map_or(Ok(self.moving.is_empty()), Err)
    }

    /// In vain: writes go on, and it is tried again.
    fn rest(&mut self, now: u64, parts: &mut [Part]) {
        self.release(parts);
        self.stage = Stage::Following(now + TRY_AGAIN);
    }

    fn go_on(
        &mut self,
        now: u64,
        plan: &Planned,
        parts: &mut [Part],
        plant: Option<Plant>,
    ) -> Result<Next, StoreError> {
        if matches!(self.stage, Stage::Ended) {
            let all = super::have_ended(plan, parts);
            return Ok(if all { Next::Ended } else { Next::Failed });
        }
        // It takes the next step when what it has moved is there.
        if !self.is_moved()? {
            return Ok(Next::Later);
        }
        if !matches!(self.stage, Stage::Ending(..)) && !Filling::may_begin(now, plan, parts) {
            self.release(parts);
            return Ok(Next::Failed);
        }
        match &mut self.stage {
            Stage::Copying => {
                let next =
                    self.sources.iter_mut().find_map(|one| Some((one.keys.pop_front()?, one)));
                match next {
                    Some((key, source)) => {
                        let row = source.snapshot.shown_row(&key)?;
                        self.moving.extend(move_row(key, row, plan, parts));
                        if plant == Some(Plant::CopyUnfinished) && now.is_multiple_of(3) {
                            self.stage = Stage::Following(0);
                        }
                    }
                    None => self.stage = Stage::Following(0),
                }
            }
            Stage::Following(u64::MAX) => return Ok(Next::Failed),
            Stage::Following(not_before) => {
                let not_before = *not_before;
                if self.follow(plan, parts)? <= ENTRIES_LEFT && now >= not_before {
                    self.stage = Stage::Nearing(now + NEAR_WITHIN);
                }
            }
            Stage::Nearing(until) => {
                let until = *until;
                if are_near(plan, parts) {
                    self.follow(plan, parts)?;
                    self.stage = Stage::Draining(now + HOLD_MAX);
                } else if now > until {
                    self.rest(now, parts);
                }
            }
            Stage::Draining(until) => {
                let until = *until;
                let mut is_drained = true;
                for source in &self.sources {
                    let is_gathered = has_gathered(&parts[source.at]);
                    if let Some(writer) = &mut parts[source.at].writer {
                        writer.drain(true);
                        is_drained &= writer.is_idle();
                    }
                    is_drained &= is_gathered;
                }
                if is_drained {
                    let hold = |source: &Source| parts[source.at].table.hold();
                    let held = self.sources.iter().map(hold).collect::<Result<Vec<_>, _>>()?;
                    self.stage = Stage::Holding(until, held);
                } else if now > until {
                    self.rest(now, parts);
                }
            }
            Stage::Holding(until, held) => {
                let (until, lasts) = (*until, held.iter().map(Held::last).collect::<Vec<_>>());
                let mut is_all = self
                    .sources
                    .iter()
                    .zip(&lasts)
                    .all(|(source, last)| parts[source.at].table.durable_lsn() >= *last);
                let done = self.sources.iter().zip(&lasts).all(|(one, last)| one.done >= *last);
                if is_all && !done && plant != Some(Plant::HoldIgnored) {
                    self.follow(plan, parts)?;
                    return Ok(Next::Later);
                }
                is_all &= are_near(plan, parts);
                if now > until {
                    self.rest(now, parts);
                    return Ok(Next::Later);
                }
                let Stage::Holding(_, held) = &mut self.stage else { return Ok(Next::Later) };
                if is_all {
                    let held = std::mem::take(held);
                    let holds = |(source, held): (&Source, &Held)| {
                        parts[source.at].holds(held.epoch().0, now)
                    };
                    if !self.sources.iter().zip(&held).all(holds) {
                        self.rest(now, parts);
                        return Ok(Next::Later);
                    }
                    let ends = held.iter().map(Held::end).collect();
                    self.stage = Stage::Ending(ends, held);
                }
            }
            Stage::Ending(ends, held) => {
                let mut failed = None;
                ends.retain_mut(|end| match end.try_take() {
                    None => true,
                    Some(Ok(_)) => false,
                    Some(Err(error)) => {
                        failed = Some(error);
                        false
                    }
                });
                if let Some(error) = failed {
                    return Err(error);
                }
                if ends.is_empty() {
                    held.clear();
                    self.release(parts);
                    self.stage = Stage::Ended;
                }
            }
            Stage::Ended => {}
        }
        Ok(Next::Later)
    }

    /// Moves what was written since. Gives how many entries that were.
    fn follow(&mut self, plan: &Planned, parts: &[Part]) -> Result<usize, StoreError> {
        let mut entries = 0;
        for source in &mut self.sources {
            let table = &parts[source.at].table;
            let (mut keys, mut through) = (BTreeSet::new(), source.done);
            let new = entries_after(table, source.done.0);
            entries += new.len();
            for entry in new {
                through = through.max(entry.lsn);
                if let EntryBody::Rows(rows) = entry.body {
                    keys.extend(rows.into_iter().map(|row| row.key));
                }
            }
            // It shows what the entries have led to, or something later, which a later entry names.
            let snapshot = table.snapshot()?;
            for key in keys {
                let row = snapshot.shown_row(&key)?;
                self.moving.extend(move_row(key, row, plan, parts));
            }
            source.done = through;
        }
        Ok(entries)
    }
}

impl Source {
    fn new(at: usize, plan: &Planned, parts: &[Part]) -> Result<Source, StoreError> {
        let table = &parts[at].table;
        let snapshot = table.snapshot()?;
        let of = |snapshot: &TableSnapshot| -> Result<Vec<EncodedKey>, StoreError> {
            let rows = snapshot.scan(&EncodedKey::default(), None, Direction::Forward);
            rows.map(|row| row.map(|(key, _)| key)).collect()
        };
        let mut keys: VecDeque<EncodedKey> = of(&snapshot)?.into();
        for target in plan.targets() {
            let left = of(&parts[target].table.snapshot()?)?;
            // Rows of the other old partition are not this one's.
            keys.extend(
                left.into_iter()
                    .filter(|key| row_of(key).is_some_and(|row| parts[at].plan.has(row))),
            );
        }
        let done = snapshot.lsn();
        Ok(Source { at, snapshot, keys, done })
    }
}

fn move_row(key: EncodedKey, row: Row, plan: &Planned, parts: &[Part]) -> Option<Pending<usize>> {
    let target = plan.target_of(row_of(&key)?);
    Some(parts[target].table.rewrite(vec![MovedRow { key, row }]))
}

/// Whether all other regions hold all of the new partitions. Once an old one has ended, and nobody
/// serves its rows, as many as hold a write are enough: the others may not be reached.
fn are_near(plan: &Planned, parts: &[Part]) -> bool {
    let has_any_ended = plan.sources().any(|at| parts[at].table.is_dropped());
    plan.targets().all(|at| {
        let part = &parts[at];
        let end = part.table.durable_lsn();
        part.writer.as_ref().is_some_and(|writer| match has_any_ended {
            true => writer.is_held(part.place, end),
            false => writer.is_held_by_all(part.place, end),
        })
    })
}
