//! Two replicas in memory with seeded histories, planted differences and trees of any shape.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::clock::Clock;
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::Timestamp;
use isthmus_model::row::{Cell, Row, Trim, add_trim};
use isthmus_model::value::Value;
use parking_lot::Mutex;

mod many_writers;
mod memory;
mod one_writer;
mod stores;
mod wire;

/// An xorshift generator.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Chance(mixed ^ mixed >> 31 | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize % bound
    }

    pub(crate) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// `VERIFY_SEED` sets the first seed, `VERIFY_CASES` how many.
pub(crate) fn for_each_case(cases: u64, run: impl Fn(&mut Chance)) {
    let given = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = given("VERIFY_SEED").unwrap_or(1u64);
    for seed in first..first + given("VERIFY_CASES").unwrap_or(cases) {
        let case = std::panic::AssertUnwindSafe(|| run(&mut Chance::new(seed)));
        if let Err(panic) = std::panic::catch_unwind(case) {
            eprintln!("failed with VERIFY_SEED={seed} VERIFY_CASES=1");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Any change of two columns, with values, timestamps and trims below these bounds.
pub(crate) fn any_delta(
    chance: &mut Chance,
    stamp: Stamp,
    (values, timestamps, trims): (usize, usize, usize),
) -> Row {
    let tombstone = chance.one_in(5).then_some(stamp);
    let marker = chance.one_in(2).then_some(stamp);
    let mut row = Row { tombstone, marker, ..Row::default() };
    for name in ["a", "b"] {
        if chance.one_in(2) {
            continue;
        }
        let column = row.column_mut(&name.into());
        column.tombstone = chance.one_in(6).then_some(stamp);
        for _ in 0..chance.below(3) {
            let value = (!chance.one_in(4)).then(|| Value::Integer(chance.below(values) as i64));
            column.set(Cell {
                timestamp: Timestamp(chance.below(timestamps) as i64),
                stamp,
                value,
            });
        }
        if chance.one_in(5) {
            add_trim(
                &mut column.trims,
                Trim { below: Timestamp(chance.below(trims) as i64), stamp },
            );
        }
    }
    let mut settled = Row::default();
    settled.merge(&row);
    settled
}

/// A clock that goes on only when told.
#[derive(Clone, Default)]
pub(crate) struct Ticking(Arc<Mutex<Duration>>);

impl Ticking {
    pub(crate) fn pass(&self, time: Duration) {
        *self.0.lock() += time;
    }
}

impl Clock for Ticking {
    fn wall_millis(&self) -> i64 {
        self.0.lock().as_millis() as i64
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock()
    }
}
