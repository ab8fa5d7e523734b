//! What the world of a seed is like: its tables, its speed, and which faults come how often.
//!
//! Everything is drawn once, from the seed. About half of the faults are off in each world, so
//! that rare meetings of a few of them are not drowned by all the others.

mod scenarios;

use isthmus_control::global_table::{GlobalTable, Serve, Sync};
use isthmus_model::ids::{Epoch, Origin, PartitionId, SchemaNumber, TableId};
use isthmus_model::key::KeyKind;
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_replication::frame::FORMAT;
use isthmus_replication::retention::Retention;
use isthmus_store::{TableSpec, Writers, Writing};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::plant::Plant;
use crate::rng::{Purpose, split};
use crate::roles::region_name;

pub(crate) use self::scenarios::{bind_extract, draw_edges};

const PAST_BYTES: &[usize] = &[2_000, 20_000, 200_000, 1 << 26];
/// Regions of a world whose links fail.
const REGIONS: usize = 3;
const MILLI: u64 = 1000;
const SECOND: u64 = 1_000_000;

/// Which kind of world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scenario {
    /// Whole regions whose links, disks and clocks fail.
    #[default]
    Links,
    /// The same with up to ten regions that pass on over edges, which change.
    Edges,
    /// Rows changed behind the back of the log are found and mended while writes go on.
    Verify,
    /// Power fails again and again, and digests must be what the rows say.
    Crashes,
    /// As `Links`, and schemas change all the time.
    Schemas,
    /// Old disks are put back, at moments at which others hold all that is lost.
    Restores,
    /// Tables with one writer, which changes all the time; half of the worlds have edges.
    Writers,
    /// A region is away for a week of made-up time, and nothing else breaks.
    Away,
    /// A table that is written synchronously, whose writer is lost again and again.
    Sync,
    /// Batches of several tables, each written in a mode of its own, while regions are lost.
    Batches,
    /// A partition is split, or two are merged, while regions are lost.
    Reshapes,
    /// Regions are unbound, write alone and are bound again; some of the worlds have edges.
    Bindings,
    /// As `Bindings`, with replicas that take less than all.
    Extracts,
    /// Links ship later, at intervals, in windows or when triggered, which changes all the time.
    Timings,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything else.
    pub seed: u64,
    /// Ends after so many events, without comparing.
    pub until: Option<u64>,
    /// Prints every event.
    pub dumps: bool,
    /// A bug to plant.
    pub plant: Option<Plant>,
    /// Which kind of world.
    pub scenario: Scenario,
}

impl Options {
    /// A whole run of one seed.
    pub fn new(seed: u64) -> Options {
        Options { seed, until: None, dumps: false, plant: None, scenario: Scenario::Links }
    }
}

/// A table of the world.
#[derive(Clone, Debug)]
pub(crate) struct TablePlan {
    pub(crate) id: TableId,
    pub(crate) partition: PartitionId,
    pub(crate) name: &'static str,
    /// Index of the region that makes it.
    pub(crate) base: usize,
    pub(crate) writers: Writers,
    pub(crate) options: TableOptions,
    /// The server gives the second key value.
    pub(crate) auto_increment: bool,
    /// When it gets replicas; until then its base has it alone.
    pub(crate) shared_at: u64,
    /// Who holds it and along which edges it goes, at first.
    pub(crate) record: GlobalTable,
}

impl TablePlan {
    /// What it is when it is made.
    pub(crate) fn spec(&self) -> TableSpec {
        let column = |name: &str, kind, auto_increment| KeyColumn {
            name: name.into(),
            kind,
            auto_increment,
        };
        TableSpec {
            id: self.id,
            name: self.name.into(),
            partition: self.partition,
            schema: Schema {
                number: SchemaNumber(1),
                key_columns: vec![
                    column("pk", KeyKind::String, false),
                    column("id", KeyKind::Integer, self.auto_increment),
                ],
                defined_columns: Vec::new(),
                options: self.options.clone(),
            },
            created_millis: 1,
            epoch: Epoch(1),
            base: Origin(self.base as u8 + 1),
            writing: Writing::Accept,
            // Alone it has one writer, whatever it becomes.
            writers: Writers::One,
            writer: Origin(self.base as u8 + 1),
            handed_over: None,
            settled: Default::default(),
        }
    }

    /// Lets regions `0..regions` hold it, joined by no edges, unless that is so.
    fn fill_record(&mut self, regions: usize) {
        if self.record.base == region_name(self.base) && self.record.replicas.len() == regions {
            return;
        }
        let serve = match self.writers {
            Writers::One => Serve::PrimarySecondary,
            Writers::ManyByColumn | Writers::ManyByRow => Serve::PeerToPeer,
        };
        let base = region_name(self.base);
        let record = GlobalTable::new(self.name, self.id.0, &base, Sync::Row, serve);
        let others = (0..regions).filter(|node| *node != self.base).map(region_name);
        self.record = others.fold(record, |record, region| {
            record.with_replica(&region, false, 0).expect("there are fewer regions than may be")
        });
    }

    /// Whether a region writes it once it is shared.
    pub(crate) fn is_writer(&self, node: usize) -> bool {
        self.writers.are_many() || node == self.base
    }
}

/// What a world is like. Times are in microseconds; rates are mean times between faults.
#[derive(Clone, Debug)]
pub(crate) struct Nature {
    pub(crate) regions: usize,
    /// Mean time between changes of edges.
    pub(crate) edges_change_every: Option<u64>,
    /// Nothing breaks and nothing changes.
    pub(crate) quiet: bool,
    pub(crate) tables: Vec<TablePlan>,
    pub(crate) chaos_micros: u64,
    pub(crate) latency: (u64, u64),
    pub(crate) commit_pause_max: u64,
    pub(crate) pump_pause_max: u64,
    pub(crate) client_pause_max: u64,
    pub(crate) keys: u32,
    pub(crate) parcel_bytes_max: usize,
    pub(crate) window_parcels: usize,
    pub(crate) queue_bytes_max: usize,
    pub(crate) log_tail_bytes_max: usize,
    pub(crate) frames_waiting_max: usize,
    pub(crate) crash_every: Option<u64>,
    pub(crate) clean_stops: bool,
    pub(crate) break_every: Option<u64>,
    pub(crate) cut_every: Option<u64>,
    pub(crate) clog_every: Option<u64>,
    pub(crate) clock_step_every: Option<u64>,
    pub(crate) clock_offset_max: i64,
    pub(crate) disk_full_every: Option<u64>,
    pub(crate) late_frames: bool,
    /// Streams that carry a copy break often.
    pub(crate) copy_breaks_per_million: u32,
    /// Rows of the tables that are copied are large, so that a copy takes several chunks.
    pub(crate) big_rows: bool,
    pub(crate) corrupt_per_million: u32,
    pub(crate) commit_fails_per_million: u32,
    pub(crate) read_fails_per_million: u32,
    /// How much of the logs is kept for replicas; mostly so little that some fall out.
    pub(crate) retention: Option<Retention>,
    /// Rows of a range that is offered before it is copied.
    pub(crate) offer_rows: u64,
    /// Parcels of which a dictionary is made.
    pub(crate) dictionary_samples: usize,
    /// The newest format that each node speaks until it starts anew.
    pub(crate) formats: Vec<u32>,
    /// Memory for what rows were; mostly so little that cuts become unreadable.
    pub(crate) past_bytes_max: usize,
    /// How often something is asked of links.
    pub(crate) ask_every: Option<u64>,
    /// How often it is set when writes of a table are answered.
    pub(crate) mode_every: Option<u64>,
    /// How often a disk is copied, and put back after about as long.
    pub(crate) put_back_every: Option<u64>,
    /// How often the writing region of some table changes.
    pub(crate) switch_every: Option<u64>,
    /// How often a region is unbound or bound again.
    pub(crate) bind_every: Option<u64>,
    /// In the end all regions hold all tables.
    pub(crate) binds_all: bool,
    /// Regions are bound with replicas that take less than all.
    pub(crate) extracts: bool,
    /// How far after a full minute the world begins, in milliseconds.
    pub(crate) begins_millis: i64,
    /// Nearly all links have a timing.
    pub(crate) is_timed: bool,
    /// A planted bug.
    pub(crate) plant: Option<Plant>,
}

impl Nature {
    /// Draws a world.
    pub(crate) fn draw(options: &Options) -> Nature {
        let rng = &mut split(options.seed, Purpose::Options);
        let chaos_micros = rng.random_range(6..16) * SECOND;
        let frames_waiting_max = rng.random_range(2..40);
        let mut nature = Nature {
            regions: REGIONS,
            edges_change_every: None,
            quiet: false,
            tables: tables(rng, chaos_micros),
            chaos_micros,
            latency: (rng.random_range(50..500), rng.random_range(1..60) * MILLI),
            commit_pause_max: rng.random_range(1..25) * MILLI,
            pump_pause_max: rng.random_range(1..12) * MILLI,
            client_pause_max: rng.random_range(4..40) * MILLI,
            keys: rng.random_range(2..10),
            parcel_bytes_max: one_of(rng, &[1, 300, 4096, 1 << 20]),
            window_parcels: rng.random_range(1..33),
            queue_bytes_max: one_of(rng, &[2_000, 1 << 16, 1 << 26]),
            log_tail_bytes_max: one_of(rng, &[0, 1500, 1 << 20]),
            frames_waiting_max,
            crash_every: half(rng, |rng| rng.random_range(800..5000) * MILLI),
            clean_stops: rng.random(),
            break_every: half(rng, |rng| rng.random_range(200..3000) * MILLI),
            cut_every: half(rng, |rng| rng.random_range(500..4000) * MILLI),
            clog_every: half(rng, |rng| rng.random_range(300..3000) * MILLI),
            clock_step_every: half(rng, |rng| rng.random_range(500..4000) * MILLI),
            clock_offset_max: one_of(rng, &[10, 240, 240, 3000]),
            disk_full_every: quarter(rng, |rng| rng.random_range(1000..6000) * MILLI),
            late_frames: rng.random(),
            copy_breaks_per_million: half(rng, |_| 250_000).unwrap_or(0),
            big_rows: rng.random_range(0..6) == 0,
            corrupt_per_million: quarter(rng, |rng| rng.random_range(1000..20_000)).unwrap_or(0),
            commit_fails_per_million: half(rng, |rng| rng.random_range(200..4000)).unwrap_or(0),
            read_fails_per_million: quarter(rng, |rng| rng.random_range(50..2000)).unwrap_or(0),
            retention: half(rng, |rng| Retention {
                keep_bytes: one_of(rng, &[0, 2_000, 10_000, 50_000]),
                keep_millis: one_of(rng, &[700, 4_000, i64::MAX, i64::MAX]),
            }),
            offer_rows: one_of(rng, &[1, 1, 40, 16_384]),
            dictionary_samples: 256,
            formats: vec![FORMAT; REGIONS],
            past_bytes_max: one_of(&mut split(options.seed, Purpose::Cuts), PAST_BYTES),
            ask_every: None,
            mode_every: None,
            put_back_every: None,
            switch_every: None,
            bind_every: None,
            binds_all: true,
            extracts: false,
            begins_millis: 0,
            is_timed: false,
            plant: options.plant,
        };
        // Enough rows for several leaves.
        nature.keys += one_of(rng, &[0, 0, 0, 300]);
        if rng.random_range(0..3) == 0 {
            nature.formats.fill_with(|| rng.random_range(1..=FORMAT));
        }
        nature.ask_every = half(rng, |rng| rng.random_range(100..2000) * MILLI);
        nature.dictionary_samples = one_of(rng, &[8, 40, 256]);
        match options.scenario {
            Scenario::Edges => nature.with_edges(rng),
            Scenario::Writers => nature.with_switches(rng),
            Scenario::Bindings => nature.with_bindings(rng),
            Scenario::Extracts => nature.with_extracts(rng),
            Scenario::Timings => nature.with_timings(rng),
            Scenario::Away => nature.with_week(rng),
            Scenario::Links
            | Scenario::Schemas
            | Scenario::Verify
            | Scenario::Crashes
            | Scenario::Restores
            | Scenario::Sync
            | Scenario::Batches
            | Scenario::Reshapes => {}
        }
        nature.mode_every = half(rng, |rng| rng.random_range(100..3000) * MILLI);
        if options.scenario == Scenario::Restores {
            nature.with_restores(rng);
        }
        if options.scenario == Scenario::Away {
            nature.mode_every = None;
        }
        let regions = nature.regions;
        nature.tables.iter_mut().for_each(|plan| plan.fill_record(regions));
        nature
    }
}

fn tables(rng: &mut SmallRng, chaos_micros: u64) -> Vec<TablePlan> {
    let kinds = [
        ("secondary", Writers::One),
        ("columns", Writers::ManyByColumn),
        ("rows", Writers::ManyByRow),
        ("grown", one_of(rng, &[Writers::One, Writers::ManyByColumn, Writers::ManyByRow])),
        ("grown too", one_of(rng, &[Writers::One, Writers::ManyByColumn, Writers::ManyByRow])),
    ];
    let mut plans = Vec::new();
    for (place, (name, writers)) in kinds.into_iter().enumerate() {
        let number = ((place as u64 + 1) << 8) | 1;
        let late = name.starts_with("grown") || rng.random_range(0..4) == 0;
        plans.push(TablePlan {
            id: TableId(number),
            partition: PartitionId(number),
            name,
            base: rng.random_range(0..REGIONS),
            writers,
            options: TableOptions {
                time_to_live_seconds: one_of(rng, &[None, None, Some(86_400)]),
                max_versions: rng.random_range(1..4),
                ..TableOptions::default()
            },
            auto_increment: rng.random_range(0..5) == 0,
            record: GlobalTable::new(name, number, "", Sync::Row, Serve::PrimarySecondary),
            shared_at: if late { rng.random_range(chaos_micros / 8..chaos_micros / 2) } else { 0 },
        });
    }
    plans
}

fn one_of<T: Clone>(rng: &mut SmallRng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())].clone()
}

fn half<T>(rng: &mut SmallRng, draw: impl FnOnce(&mut SmallRng) -> T) -> Option<T> {
    let drawn = draw(rng);
    rng.random::<bool>().then_some(drawn)
}

fn quarter<T>(rng: &mut SmallRng, draw: impl FnOnce(&mut SmallRng) -> T) -> Option<T> {
    let drawn = draw(rng);
    (rng.random_range(0..4) == 0).then_some(drawn)
}
