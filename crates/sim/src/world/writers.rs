//! The writing region of a table with one writer changes while everything breaks.
//!
//! The server asks that the successor is whole and has nearly caught up, so that the pause is
//! short. Here nobody asks: a region hands over to any other one at any moment, and must still
//! never leave two writers, nor none for good.

use isthmus_model::ids::Epoch;
use isthmus_store::{Writers, Writing};
use rand::Rng;

use super::events::Event;
use super::{Phase, World};
use crate::plant::Plant;
use crate::roles::{origin_of, region_name};

impl World {
    /// The region that writes some table hands it over to another one that holds a replica.
    pub(super) fn switch_somewhere(&mut self) {
        let Some(every) = self.nature.switch_every else { return };
        if self.phase == Phase::Drain {
            return;
        }
        let pause = self.switches.random_range(1..every * 2);
        self.after(pause, Event::SwitchSomewhere);
        let place = self.switches.random_range(0..self.nature.tables.len());
        let plan = self.nature.tables[place].clone();
        let regions = self.nature.regions;
        let step = self.switches.random_range(1..regions);
        if plan.writers != Writers::One {
            return;
        }
        let writes = |node: &usize| {
            let life = self.nodes.get(*node).and_then(|place| place.life.as_ref());
            let table = life.and_then(|life| life.store.table(plan.id));
            life.is_some_and(|life| life.roles.is_shared(plan.partition))
                && table.is_some_and(|table| table.writer_word().accepts)
        };
        let Some(node) = (0..regions).find(writes) else { return };
        let to = (node + step) % regions;
        let holds = self.life(to).is_some_and(|life| life.roles.is_shared(plan.partition));
        if !holds {
            return;
        }
        self.note(&format!("{} goes from node {node} to {to}", plan.name));
        let mut epoch = Epoch(0);
        if let Some(table) = self.life(node).and_then(|life| life.store.table(plan.id)) {
            epoch = Epoch(table.epoch().0 + 1);
            drop(table.hand_over(origin_of(to)));
        }
        if self.options.plant == Some(Plant::SuccessorOpensEarly)
            && let Some(life) = self.life(to)
        {
            drop(life.store.set_writing(plan.id, Writing::Accept, Writers::One, epoch));
        }
    }

    /// The base takes over who writes, which the other regions are told should their logs be late.
    pub(super) fn follow_writers(&mut self, node: usize) {
        for plan in self.nature.tables.clone() {
            let known = self.life(plan.base).and_then(|life| life.roles.record(plan.partition));
            let Some(known) = known.filter(|_| plan.base == node) else { continue };
            let Some(record) = self.records.get_mut(&plan.partition) else { continue };
            if record.follow_writer(known.epoch, known.primary()) {
                record.version += 1;
            }
        }
    }
}

/// Whether a table's record says what its log does, and no successor is waited for.
pub(crate) fn is_settled(life: &crate::node::Life, plan: &crate::options::TablePlan) -> bool {
    let table = life.store.table(plan.id);
    let word = table.map(|table| table.writer_word());
    let record = life.roles.record(plan.partition);
    word.zip(record).is_some_and(|(word, record)| {
        let writer = region_name(crate::roles::node_of(word.writer));
        word.successor.is_none() && record.epoch == word.epoch.0 && record.primary() == writer
    })
}
