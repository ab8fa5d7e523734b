//! A partition that is split, or two that are merged, while clients write and regions are lost.
//!
//! Rows that move, holds and ends are those of the store; which new partition a row belongs to, and
//! whose word the base of the record believes, are decided by `isthmus_control`. What fills the new
//! partitions does here, step by step, what the server's tasks do (`filling.rs`); the base is one
//! machine that keeps silent at times.
//!
//! Each client counts up a row of its own. So what may be shown wherever a partition is served is
//! known at any moment; in the end the new partitions have taken the place of the old ones, each
//! row is in the one that it belongs to and in no other, and nothing acknowledged is lacking.

mod filling;
mod world;

use std::collections::BTreeMap;

use isthmus_control::distribution::Point;
use isthmus_control::distribution::reshape::words::{Tenant, Told};
use isthmus_control::distribution::reshape::{Phase, Reshape, Target, Why};
use isthmus_model::key::KeyValue;

use self::filling::Filling;
use super::network::Message;
use super::part::Part;
use super::plan::table_id;
use super::quorum::Quorum;
use super::region::Out;
use crate::plant::Plant;

pub(in crate::sync) use self::world::run;

/// The base asks for tables to be brought together so often, in milliseconds.
const BRING_EVERY: u64 = 1500;
/// What has failed is begun anew after this.
const AGAIN: u64 = 300;

/// What is planned: tables by their places.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) reshape: Reshape,
}

impl Planned {
    /// The first table is split at a row.
    pub(super) fn split(at: i64) -> Planned {
        Planned::of(vec![0], vec![(1, Point::default()), (2, point(at))])
    }

    /// The first two tables, of which one ends where the other begins, are merged.
    pub(super) fn merge() -> Planned {
        Planned::of(vec![0, 1], vec![(2, Point::default())])
    }

    fn of(sources: Vec<u32>, targets: Vec<(u32, Point)>) -> Planned {
        let targets = targets.into_iter().map(|(number, from)| Target { number, from }).collect();
        let (phase, why, back) = (Phase::Filling, Why::Asked, Vec::new());
        Planned { reshape: Reshape { sources, targets, phase, why, begun_millis: 0, back } }
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = usize> {
        self.reshape.sources.iter().map(|number| *number as usize)
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = usize> {
        self.reshape.targets.iter().map(|target| target.number as usize)
    }

    pub(super) fn is_target(&self, at: usize) -> bool {
        self.reshape.has_target(at as u32)
    }

    /// The new table that a row belongs to.
    pub(super) fn target_of(&self, row: i64) -> usize {
        self.reshape.target_of(&point(row)) as usize
    }
}

fn point(row: i64) -> Point {
    Point::of_key(&KeyValue::Integer(row))
}

/// The base of the record.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) plan: Option<Planned>,
    /// The new partitions are in the place of the old ones.
    pub(super) is_taken: bool,
    pub(super) silent_until: u64,
    brought_at: u64,
}

impl Base {
    pub(super) fn new(plan: Option<Planned>) -> Base {
        Base { plan, is_taken: false, silent_until: 0, brought_at: 0 }
    }

    /// Has the tables written by one region.
    pub(super) fn tick(&mut self, now: u64, quorums: &mut [Quorum]) {
        let Some(plan) = self.plan.as_ref().filter(|_| !self.is_taken) else { return };
        if now < self.silent_until.max(self.brought_at + BRING_EVERY) {
            return;
        }
        self.brought_at = now;
        let Some(writer) = plan.sources().find_map(|at| quorums[at].writer()) else { return };
        for at in plan.sources().chain(plan.targets()) {
            let quorum = &mut quorums[at];
            if quorum.writer().is_some_and(|known| known != writer) {
                quorum.hand_to(writer, now);
            }
        }
    }

    /// A region says that all is done. Whether it is believed.
    fn filled(&mut self, from: usize, told: &[Told], quorums: &[Quorum]) -> bool {
        let Some(plan) = &self.plan else { return false };
        let names: Vec<String> =
            quorums.iter().map(|quorum| name_of(quorum.grant().writer)).collect();
        let tenants: Vec<Tenant<'_>> = quorums
            .iter()
            .enumerate()
            .map(|(at, quorum)| Tenant {
                table: table_id(at).0,
                epoch: quorum.vacancy.as_ref().map_or(quorum.grant().epoch, |it| it.epoch),
                writer: quorum.vacancy.is_none().then_some(names[at].as_str()),
            })
            .collect();
        self.is_taken |= plan.reshape.check_filled(&name_of(from), told, &tenants).is_ok();
        self.is_taken
    }
}

fn name_of(place: usize) -> String {
    format!("r{place}")
}

/// What one region asks another one: whether an old partition has ended, durably as its mode says.
#[derive(Clone, Debug)]
pub(super) enum Word {
    HasEnded(usize),
    Ended { at: usize, epoch: u64 },
}

/// What a region does about it.
pub(super) struct Reshaping {
    place: usize,
    plant: Option<Plant>,
    plan: Option<Planned>,
    /// The record says here that the new ones are in the place of the old ones.
    is_taken: bool,
    /// New partitions that clients may write before the record says so here, and the epochs in
    /// which this region has opened them.
    opened: BTreeMap<usize, u64>,
    /// What other regions have said of the ends of old ones.
    ends: BTreeMap<usize, u64>,
    filling: Option<Filling>,
    begins_at: u64,
}

impl Reshaping {
    pub(super) fn new(place: usize, plan: Option<Planned>, plant: Option<Plant>) -> Reshaping {
        Reshaping {
            place,
            plant,
            plan,
            is_taken: false,
            opened: BTreeMap::new(),
            ends: BTreeMap::new(),
            filling: None,
            begins_at: 0,
        }
    }

    /// Whether clients may read and write a table here, if it is written here.
    pub(super) fn is_served(&self, at: usize, parts: &[Part]) -> bool {
        let Some(plan) = &self.plan else { return true };
        match (plan.is_target(at), self.is_taken) {
            (true, true) | (false, false) => true,
            (false, true) => false,
            (true, false) => {
                let epoch = parts[at].table.writer_word().epoch.0;
                self.opened.get(&at) == Some(&epoch) && have_ended(plan, parts)
            }
        }
    }

    /// Does what is to be done. `base`: it is reached, and what those who decide say of tables.
    pub(super) fn step(
        &mut self,
        now: u64,
        parts: &mut [Part],
        base: Option<(&mut Base, &[Quorum])>,
        out: &mut Out,
    ) {
        let Some(plan) = self.plan.clone() else { return };
        if let Some((base, _)) = &base {
            self.is_taken |= base.is_taken;
        }
        if self.is_taken {
            self.filling = None;
            return;
        }
        let goes_on = match self.filling.take() {
            Some(mut filling) => match filling.step(now, &plan, parts, self.plant) {
                filling::Next::Later => Some(filling),
                filling::Next::Failed => {
                    self.begins_at = now + AGAIN;
                    None
                }
                filling::Next::Ended => {
                    self.finish(now, &plan, parts, base, out);
                    Some(filling)
                }
            },
            None if now >= self.begins_at && Filling::may_begin(now, &plan, parts) => {
                if !have_ended(&plan, parts) {
                    // They were opened here in an earlier turn that came to nothing.
                    self.opened.clear();
                }
                Some(Filling::begin(&plan, parts))
            }
            None => None,
        };
        self.filling = goes_on;
    }

    /// Opens the new partitions, and tells the base.
    fn finish(
        &mut self,
        now: u64,
        plan: &Planned,
        parts: &[Part],
        base: Option<(&mut Base, &[Quorum])>,
        out: &mut Out,
    ) {
        let mut told = Vec::new();
        for at in plan.sources() {
            let part = &parts[at];
            let epoch = match part.table.writer_word().accepts {
                true => {
                    if self.plant != Some(Plant::OpenedBeforeHeld) && !is_held(part, now) {
                        return;
                    }
                    part.table.writer_word().epoch.0
                }
                false => {
                    let epoch = part.table.writer_word().epoch.0;
                    if self.ends.get(&at) != Some(&epoch) {
                        let writer = part.heard.grant().writer;
                        out.messages.push((writer, Message::OfReshape(Word::HasEnded(at))));
                        return;
                    }
                    epoch
                }
            };
            told.push(told_of(at, epoch));
        }
        let mut opened = Vec::new();
        for at in plan.targets() {
            let part = &parts[at];
            if !filling::is_filled_here(part, now) || !is_held(part, now) {
                return;
            }
            let epoch = part.table.writer_word().epoch.0;
            told.push(told_of(at, epoch));
            opened.push((at, epoch));
        }
        self.opened.extend(opened);
        if let Some((base, quorums)) = base {
            base.filled(self.place, &told, quorums);
        }
    }

    /// Takes what another region asks or says.
    pub(super) fn receive(
        &mut self,
        now: u64,
        from: usize,
        word: Word,
        parts: &[Part],
        out: &mut Out,
    ) {
        match word {
            Word::HasEnded(at) => {
                let part = &parts[at];
                let word = part.table.writer_word();
                if part.table.is_dropped() && word.accepts && is_held(part, now) {
                    let told = Word::Ended { at, epoch: word.epoch.0 };
                    out.messages.push((from, Message::OfReshape(told)));
                }
            }
            Word::Ended { at, epoch } => {
                self.ends.insert(at, epoch);
            }
        }
    }

    /// In words, for a report.
    pub(super) fn told(&self) -> String {
        let filling = self.filling.as_ref().map(Filling::told);
        format!("taken {}, opened {:?}, {filling:?}", self.is_taken, self.opened)
    }
}

fn told_of(at: usize, epoch: u64) -> Told {
    Told { number: at as u32, table: table_id(at).0, epoch }
}

/// Whether all old partitions have ended in their logs here.
fn have_ended(plan: &Planned, parts: &[Part]) -> bool {
    plan.sources().all(|at| parts[at].table.is_dropped())
}

/// Whether all of a table that is written here is held by as many others as its writes.
fn is_held(part: &Part, now: u64) -> bool {
    let end = part.table.durable_lsn();
    part.writer
        .as_ref()
        .is_some_and(|writer| writer.is_held(part.place, end) && part.holds(writer.epoch, now))
}
