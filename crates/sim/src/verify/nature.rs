//! What a trial is like. Everything is drawn once, from the seed.

use isthmus_model::ids::{Epoch, Origin, PartitionId, SchemaNumber, TableId};
use isthmus_model::key::KeyKind;
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_store::{TableSpec, Writers, Writing};
use rand::Rng;
use rand::rngs::SmallRng;

pub(super) const TABLE: TableId = TableId(257);
pub(super) const PARTITION: PartitionId = PartitionId(513);

/// Where writes go on while regions are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Busy {
    Nowhere,
    /// In one region of those that write.
    One(usize),
    Everywhere,
}

/// How differences are mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mending {
    /// Not at all.
    No,
    /// The others become like this region.
    OneWay(usize),
    /// All get what any has.
    Merge,
}

/// What a trial is like.
#[derive(Clone, Debug)]
pub(super) struct Nature {
    pub(super) regions: usize,
    pub(super) base: usize,
    pub(super) writers: Writers,
    pub(super) options: TableOptions,
    pub(super) keys: i64,
    /// Steps before anything is planted.
    pub(super) warm_steps: u32,
    /// Steps between a question and its answer, at most.
    pub(super) wander_max: u32,
    pub(super) busy: Busy,
    /// Milliseconds of a step, at most.
    pub(super) hurry_millis: u64,
    /// One in so many steps leaps over hours.
    pub(super) leap_one_in: Option<u32>,
    /// One in so many steps a region loses its power.
    pub(super) crash_one_in: Option<u32>,
    /// One in so many commits fails.
    pub(super) commit_fails_one_in: Option<u32>,
    pub(super) schema_changes: bool,
    /// Rows changed behind the back of the log.
    pub(super) plants: u32,
    /// More of them while regions are compared.
    pub(super) plants_go_on: bool,
    /// They are rot of the disk, and nothing else is.
    pub(super) rots: bool,
    pub(super) mending: Mending,
}

impl Nature {
    /// Draws a trial.
    pub(super) fn draw(rng: &mut SmallRng) -> Nature {
        let regions = rng.random_range(2..4);
        let writers = match rng.random_range(0..5) {
            0 | 1 => Writers::One,
            2 | 3 => Writers::ManyByColumn,
            _ => Writers::ManyByRow,
        };
        let base = rng.random_range(0..regions);
        let keys = match rng.random_range(0..8) {
            0 | 1 => rng.random_range(1..5),
            2..=5 => rng.random_range(5..30),
            6 => rng.random_range(30..90),
            _ => rng.random_range(90..220),
        };
        let writer = match writers {
            Writers::One => base,
            Writers::ManyByColumn | Writers::ManyByRow => rng.random_range(0..regions),
        };
        let busy = match rng.random_range(0..4) {
            0 => Busy::Nowhere,
            1 => Busy::One(writer),
            _ => Busy::Everywhere,
        };
        let mending = match rng.random_range(0..4) {
            0 => Mending::No,
            1 if writers.are_many() => Mending::Merge,
            _ => Mending::OneWay(rng.random_range(0..regions)),
        };
        let rots = rng.random_range(0..6) == 0;
        Nature {
            regions,
            base,
            writers,
            options: TableOptions {
                time_to_live_seconds: [None, None, Some(86_400), Some(200_000)]
                    [rng.random_range(0..4)],
                max_versions: rng.random_range(1..4),
                ..TableOptions::default()
            },
            keys,
            warm_steps: rng.random_range(5..60) + keys as u32 / 2,
            wander_max: rng.random_range(0..12),
            busy,
            hurry_millis: rng.random_range(1..40),
            leap_one_in: one_in(rng, 20..120),
            crash_one_in: one_in(rng, 40..300),
            commit_fails_one_in: one_in(rng, 40..300),
            // They let a digest be built anew, from what has rotted.
            schema_changes: !rots && rng.random_range(0..4) == 0,
            plants: rng.random_range(0..6),
            plants_go_on: rng.random_range(0..3) == 0,
            rots,
            mending: if rots { Mending::No } else { mending },
        }
    }

    /// A world in which nothing is planted and power fails all the time.
    pub(super) fn draw_crashes(rng: &mut SmallRng) -> Nature {
        let keys = [5, 40, 200, 500][rng.random_range(0..4)];
        Nature {
            keys,
            warm_steps: 600,
            leap_one_in: Some(rng.random_range(20..60)),
            crash_one_in: Some(rng.random_range(10..30)),
            commit_fails_one_in: Some(rng.random_range(20..60)),
            plants: 0,
            plants_go_on: false,
            rots: false,
            mending: Mending::No,
            ..Nature::draw(rng)
        }
    }

    /// Whether clients may write in a region.
    pub(super) fn is_writer(&self, region: usize) -> bool {
        self.writers.are_many() || region == self.base
    }

    /// The table as a region holds it.
    pub(super) fn spec(&self, region: usize) -> TableSpec {
        let writing = if self.is_writer(region) { Writing::Accept } else { Writing::Refuse };
        TableSpec {
            id: TABLE,
            name: "trial".into(),
            partition: PARTITION,
            schema: Schema {
                number: SchemaNumber(1),
                key_columns: vec![KeyColumn {
                    name: "k".into(),
                    kind: KeyKind::Integer,
                    auto_increment: false,
                }],
                defined_columns: Vec::new(),
                options: self.options.clone(),
            },
            created_millis: 1,
            epoch: Epoch(1),
            base: origin_of(self.base),
            writing,
            writers: self.writers,
            writer: origin_of(self.base),
            handed_over: None,
            settled: Default::default(),
        }
    }
}

/// The number of a region.
pub(super) fn origin_of(region: usize) -> Origin {
    crate::roles::origin_of(region)
}

fn one_in(rng: &mut SmallRng, range: std::ops::Range<u32>) -> Option<u32> {
    let drawn = rng.random_range(range);
    rng.random::<bool>().then_some(drawn)
}
