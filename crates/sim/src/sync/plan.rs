//! What the world of a seed is like, and the table in it.

use isthmus_model::capacity::WriteSize;
use isthmus_model::change::{CellChange, Condition, Returned, RowAction};
use isthmus_model::check::{CheckedChange, CheckedKey};
use isthmus_model::commit::Form;
use isthmus_model::ids::{Epoch, Origin, PartitionId, SchemaNumber, TableId};
use isthmus_model::key::{EncodedKey, KeyKind, KeyValue, PrimaryKey};
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_store::{TableSpec, Writers, Writing};
use rand::Rng;

use crate::plant::Plant;
use crate::rng::{Purpose, split};

/// Regions of the world.
pub(super) const REGIONS: usize = 3;
pub(super) const TABLE: TableId = TableId(257);
pub(super) const PARTITION: PartitionId = PartitionId(513);

/// How often what happens, out of a million steps.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) form: Form,
    pub(super) clients: usize,
    /// Steps in which things break; then all heals.
    pub(super) steps: u32,
    pub(super) crash: u32,
    pub(super) commit_fails: u32,
    pub(super) stall: u32,
    /// Whenever a region was granted the table another one stalls, so that it does not tell what it
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
    pub(super) fn draw(seed: u64, plant: Option<Plant>) -> Plan {
        let mut rng = split(seed, Purpose::Options);
        let mut odds = |most: u32| if rng.random() { rng.random_range(0..most) } else { 0 };
        let (crash, commit_fails, stall) = (odds(1500), odds(1500), odds(1500));
        let (cut, loss) = (odds(4000), odds(100_000));
        Plan {
            form: if rng.random() { Form::TwoPhase } else { Form::ThreePhase },
            clients: rng.random_range(1..=4),
            steps: rng.random_range(3000..12_000),
            crash,
            commit_fails,
            stall,
            cut,
            loss,
            delay: rng.random_range(1..60),
            stalls_at_grants: rng.random_range(0..4) == 0,
            plant,
        }
    }
}

/// The region's number in the store.
pub(super) fn origin_of(place: usize) -> Origin {
    Origin(place as u8 + 1)
}

/// The table as it is made in a region: the first one writes it.
pub(super) fn spec(place: usize) -> TableSpec {
    let key = KeyColumn { name: "k".into(), kind: KeyKind::Integer, auto_increment: false };
    TableSpec {
        id: TABLE,
        name: "counters".into(),
        partition: PARTITION,
        schema: Schema {
            number: SchemaNumber(1),
            key_columns: vec![key],
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        },
        created_millis: 1,
        epoch: Epoch(1),
        base: origin_of(0),
        writing: if place == 0 { Writing::Accept } else { Writing::Refuse },
        writers: Writers::One,
        writer: origin_of(0),
        handed_over: None,
        settled: Default::default(),
    }
}

fn key(row: usize) -> PrimaryKey {
    PrimaryKey(vec![KeyValue::Integer(row as i64)])
}

/// The key of a client's row.
pub(super) fn encoded(row: usize) -> EncodedKey {
    key(row).encode()
}

/// Adds one to a client's row.
pub(super) fn increment(row: usize) -> CheckedChange {
    let one = CellChange::Increment { name: "n".into(), delta: 1 };
    CheckedChange {
        key: CheckedKey::Whole(key(row)),
        action: RowAction::Update(vec![one]),
        condition: Condition::default(),
        returned: Returned::Nothing,
        size: WriteSize { key: 8, attributes: 8 },
    }
}
