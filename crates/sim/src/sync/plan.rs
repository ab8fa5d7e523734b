//! What the world of a seed is like, and the tables in it.

use isthmus_model::commit::Form;
use isthmus_model::ids::{Epoch, Origin, PartitionId, SchemaNumber, TableId};
use isthmus_model::key::{EncodedKey, KeyKind, KeyValue, PrimaryKey};
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_store::{TableSpec, Writers, Writing};
use rand::Rng;
use rand::rngs::SmallRng;

use super::reshape::Planned;
use crate::plant::Plant;
use crate::rng::{Purpose, split};

/// Regions of the world.
pub(super) const REGIONS: usize = 3;
/// Marks of batches have keys from here on.
pub(super) const MARKS: i64 = 1000;
/// Marks in one piece of a copy.
const MARKS_OF_PIECE: i64 = 100;
const MARKS_MAX: i64 = 3000;

/// When writes of a table are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// At once.
    Async,
    /// When one other region holds them.
    SemiSync,
    /// When they were prepared by others, and made.
    Sync(Form),
}

impl Mode {
    /// Other regions that hold a write before it is answered.
    pub(super) fn held_by(self) -> usize {
        match self {
            Mode::Async => 0,
            Mode::SemiSync => 1,
            Mode::Sync(form) => form.votes_needed(REGIONS - 1),
        }
    }

    /// Whether others prepare a write before it is made.
    pub(super) fn is_sync(self) -> bool {
        matches!(self, Mode::Sync(_))
    }
}

/// A table of the world.
#[derive(Clone, Debug)]
pub(super) struct TablePlan {
    pub(super) mode: Mode,
    /// The region that writes it first.
    pub(super) first: usize,
    /// Its rows, but for marks.
    pub(super) rows: usize,
    /// The first of them, and the first that is not one.
    pub(super) bounds: (i64, i64),
    /// The keys that the pieces of a copy begin with, but for the first one.
    pub(super) pieces: Vec<i64>,
}

impl TablePlan {
    /// Whether a row is one of its rows.
    pub(super) fn has(&self, row: i64) -> bool {
        (self.bounds.0..self.bounds.1).contains(&row)
    }
}

/// How often what happens, out of a million steps.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) tables: Vec<TablePlan>,
    /// Steps in which things break; then all heals.
    pub(super) steps: u32,
    pub(super) crash: u32,
    pub(super) commit_fails: u32,
    pub(super) stall: u32,
    /// Whenever a region was granted a table another one stalls, so that it does not tell what it
    /// has prepared.
    pub(super) stalls_at_grants: bool,
    /// A way is cut in one direction.
    pub(super) cut: u32,
    pub(super) loss: u32,
    /// Messages take so many milliseconds at most.
    pub(super) delay: u64,
    pub(super) plant: Option<Plant>,
}

impl Plan {
    /// Of a world with one table that is written synchronously; each client has a row of it.
    pub(super) fn draw(seed: u64, plant: Option<Plant>) -> Plan {
        let mut rng = split(seed, Purpose::Options);
        let mut plan = Plan::of_faults(&mut rng, plant);
        let form = one_form(&mut rng);
        let rows = rng.random_range(1..=4);
        let pieces = (1..rows as i64).collect();
        let bounds = (0, rows as i64);
        plan.tables = vec![TablePlan { mode: Mode::Sync(form), first: 0, rows, bounds, pieces }];
        plan.timed(&mut rng)
    }

    /// Of a world with several tables, each written in a mode of its own by a region of its own.
    pub(super) fn draw_of_batches(seed: u64, plant: Option<Plant>) -> Plan {
        let mut rng = split(seed, Purpose::Options);
        let mut plan = Plan::of_faults(&mut rng, plant);
        let all = rng.random::<bool>().then(|| one_mode(&mut rng));
        let tables = rng.random_range(2..=4);
        let table = |_| {
            let rows = rng.random_range(1..=4);
            let marks = (MARKS..MARKS + MARKS_MAX).step_by(MARKS_OF_PIECE as usize);
            TablePlan {
                mode: all.unwrap_or_else(|| one_mode(&mut rng)),
                first: rng.random_range(0..REGIONS),
                rows,
                bounds: (0, rows as i64),
                pieces: (1..rows as i64).chain(marks.take(8)).collect(),
            }
        };
        plan.tables = (0..tables).map(table).collect();
        plan.timed(&mut rng)
    }

    /// Of a world in which the first table is split, or the first two are merged; with what is
    /// planned, and how many rows there are.
    pub(super) fn draw_of_reshapes(seed: u64, plant: Option<Plant>) -> (Plan, Planned, usize) {
        let mut rng = split(seed, Purpose::Options);
        let mut plan = Plan::of_faults(&mut rng, plant);
        let mode = match rng.random_range(0..3) {
            0 => Mode::SemiSync,
            _ => Mode::Sync(one_form(&mut rng)),
        };
        let first = rng.random_range(0..REGIONS);
        let rows: i64 = rng.random_range(2..=6);
        let at = rng.random_range(1..rows);
        let (bounds, planned) = match rng.random() {
            true => ([(0, rows), (0, at), (at, rows)], Planned::split(at)),
            false => ([(0, at), (at, rows), (0, rows)], Planned::merge()),
        };
        let table = |bounds: (i64, i64)| TablePlan {
            mode,
            first,
            rows: (bounds.1 - bounds.0) as usize,
            bounds,
            pieces: (bounds.0 + 1..bounds.1).collect(),
        };
        plan.tables = bounds.into_iter().map(table).collect();
        (plan.timed(&mut rng), planned, rows as usize)
    }

    fn of_faults(rng: &mut SmallRng, plant: Option<Plant>) -> Plan {
        let mut odds = |most: u32| if rng.random() { rng.random_range(0..most) } else { 0 };
        let (crash, commit_fails, stall) = (odds(1500), odds(1500), odds(1500));
        let (cut, loss) = (odds(4000), odds(100_000));
        Plan {
            tables: Vec::new(),
            steps: 0,
            crash,
            commit_fails,
            stall,
            stalls_at_grants: false,
            cut,
            loss,
            delay: 0,
            plant,
        }
    }

    fn timed(self, rng: &mut SmallRng) -> Plan {
        Plan {
            steps: rng.random_range(3000..12_000),
            delay: rng.random_range(1..60),
            stalls_at_grants: rng.random_range(0..4) == 0,
            ..self
        }
    }
}

fn one_form(rng: &mut SmallRng) -> Form {
    if rng.random() { Form::TwoPhase } else { Form::ThreePhase }
}

fn one_mode(rng: &mut SmallRng) -> Mode {
    match rng.random_range(0..4) {
        0 => Mode::Async,
        1 => Mode::SemiSync,
        _ => Mode::Sync(one_form(rng)),
    }
}

/// The region's number in the store.
pub(super) fn origin_of(place: usize) -> Origin {
    Origin(place as u8 + 1)
}

/// The number of a table, which is its line, too.
pub(super) fn table_id(at: usize) -> TableId {
    TableId(257 + 256 * at as u64)
}

/// The table of a number.
pub(super) fn table_of(id: TableId) -> usize {
    (id.0.saturating_sub(257) / 256) as usize
}

pub(super) fn table_name(at: usize) -> String {
    format!("t{at}")
}

/// The table as it is made in a region.
pub(super) fn spec(place: usize, at: usize, plan: &TablePlan) -> TableSpec {
    let key = KeyColumn { name: "k".into(), kind: KeyKind::Integer, auto_increment: false };
    TableSpec {
        id: table_id(at),
        name: table_name(at).as_str().into(),
        partition: PartitionId(513 + 256 * at as u64),
        schema: Schema {
            number: SchemaNumber(1),
            key_columns: vec![key],
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        },
        created_millis: 1,
        epoch: Epoch(1),
        base: origin_of(plan.first),
        writing: if place == plan.first { Writing::Accept } else { Writing::Refuse },
        writers: Writers::One,
        writer: origin_of(plan.first),
        handed_over: None,
        settled: Default::default(),
    }
}

pub(super) fn key(row: i64) -> PrimaryKey {
    PrimaryKey(vec![KeyValue::Integer(row)])
}

/// The key of a row.
pub(super) fn encoded(row: i64) -> EncodedKey {
    key(row).encode()
}
