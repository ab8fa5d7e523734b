//! Reads as of cuts, at random nodes.

use isthmus_model::change::Direction;
use isthmus_model::hlc::Hlc;
use rand::Rng;

use super::World;
use crate::checkers::cuts;
use crate::plant::Plant;

impl World {
    /// Somebody reads a table as of a moment at or before its safe time.
    pub(super) fn read_as_of(&mut self) {
        let node = self.cuts.random_range(0..self.nodes.len());
        let place = self.cuts.random_range(0..self.nature.tables.len());
        let share: u64 = self.cuts.random_range(0..=1000);
        let direction = match self.cuts.random() {
            true => Direction::Forward,
            false => Direction::Backward,
        };
        let Some(life) = self.nodes.get(node).and_then(|place| place.life.as_ref()) else { return };
        let Some(table) = life.store.table(self.nature.tables[place].id) else { return };
        // Clients see nothing of a dropped table.
        if life.is_fatal() || table.is_dropped() {
            return;
        }
        // Old disks are found out first, as the server listens before it reads.
        let partition = table.partition();
        let has_listened = life.is_usable(partition) && life.has_heard_all(partition);
        if self.nature.put_back_every.is_some() && !has_listened {
            return;
        }
        table.keep_past();
        let plant = self.options.plant;
        let Some(mut safe) = life.safe_to_read(&table, plant) else { return };
        if plant == Some(Plant::SafeTooLate) {
            safe.0 += 300 << 16;
        }
        let Some(floor) = table.past_floor().filter(|floor| *floor <= safe) else { return };
        let cut = Hlc(floor.0 + (safe.0 - floor.0) / 1000 * share);
        let mut observer = self.observer.lock();
        if observer.is_apart(node, partition) {
            return;
        }
        let checked = cuts::check(&observer, node, &table, cut, direction);
        observer.judge(checked);
        drop(observer);
        self.cuts_checked += 1;
    }
}
