//! When writes are answered: set and changed for all regions at once while everything breaks.
//!
//! It is at rest in the record of a global table, so it outlives crashes. What is set last stays.

use std::time::Duration;

use isthmus_replication::mode::{Fallback, SemiSync};
use rand::Rng;
use rand::rngs::SmallRng;

use super::events::Event;
use super::{Phase, World};

impl World {
    /// Sets when writes of a table are answered.
    pub(super) fn set_mode(&mut self) {
        let Some(every) = self.nature.mode_every else { return };
        if self.phase == Phase::Drain {
            return;
        }
        let pause = self.modes.random_range(1..every * 2);
        self.after(pause, Event::ModeSet);
        let place = self.modes.random_range(0..self.nature.tables.len());
        let (name, partition) =
            (self.nature.tables[place].name, self.nature.tables[place].partition);
        let mode = draw(&mut self.modes);
        self.note(&format!("mode of {name}: {mode:?}"));
        for place in &mut self.nodes {
            place.modes.remove(&partition);
            place.modes.extend(mode.map(|mode| (partition, mode)));
            if let Some(life) = &mut place.life {
                life.set_modes(&place.modes);
            }
        }
    }
}

fn draw(rng: &mut SmallRng) -> Option<SemiSync> {
    let millis = |rng: &mut SmallRng, most| Duration::from_millis(rng.random_range(10..most));
    let fallbacks = [Fallback::Wait, Fallback::Refuse, Fallback::Async];
    let asked = SemiSync {
        held_by: rng.random_range(1..3),
        bound_entries: rng.random_range(1..300),
        bound: millis(rng, 1500),
        patience: millis(rng, 3000),
        fallback: fallbacks[rng.random_range(0..fallbacks.len())],
    };
    (rng.random_range(0..4) > 0).then_some(asked)
}
