//! Copies, a piece at a time, each from the newest snapshot: as if every copy were broken off after
//! each piece and gone on with.

use isthmus_model::change::Direction;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_store::{CopyDone, StoreError, Table};

use super::plan::{TablePlan, encoded, origin_of};
use crate::plant::Plant;

/// How far a copy has come.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Who is copied, and in which epoch.
    pub(super) from: (usize, u64),
    /// The first piece that is not copied; `None`: all are.
    pub(super) next: Option<usize>,
    /// What holds of the first snapshot: the log goes on from there.
    pub(super) first: CopyDone,
    /// The end of the log in the last snapshot. Before the log here has come there, rows may hold
    /// what it lacks.
    pub(super) through: u64,
}

/// One piece.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) number: usize,
    /// The range of keys that it replaces.
    pub(super) range: (EncodedKey, Option<EncodedKey>),
    pub(super) rows: Vec<(EncodedKey, Row)>,
    /// How far the copy has come with it.
    pub(super) progress: Progress,
}

impl Piece {
    /// What the copy leaves behind, if this is the last piece.
    pub(super) fn done(&self) -> Option<CopyDone> {
        self.progress.next.is_none().then(|| self.progress.first.clone())
    }
}

/// The piece that is to be copied next.
pub(super) fn next_piece(
    (place, epoch): (usize, u64),
    table: &Table,
    plan: &TablePlan,
    so_far: Option<&Progress>,
    plant: Option<Plant>,
) -> Result<Piece, StoreError> {
    let snapshot = table.snapshot()?;
    let spec = table.spec();
    let made = (plant != Some(Plant::MadeNotTold)).then(|| snapshot.made().to_vec());
    let newest = CopyDone {
        origin: origin_of(place),
        epoch: spec.epoch,
        lsn: snapshot.lsn(),
        hlc: snapshot.hlc(),
        vector: snapshot.vector(),
        lives: Vec::new(),
        expiry: Vec::new(),
        made,
        settled: Some(snapshot.spec().settled),
        atomics: snapshot.atomics()?,
        table: Some(snapshot.spec().clone()),
        rules: None,
    };
    let so_far = so_far.filter(|so_far| so_far.from == (place, epoch));
    let number = so_far.and_then(|so_far| so_far.next).unwrap_or(0);
    let start = match number {
        0 => EncodedKey::default(),
        number => encoded(plan.pieces[number - 1]),
    };
    let end = plan.pieces.get(number).map(|row| encoded(*row));
    let next = end.is_some().then_some(number + 1);
    let through = snapshot.lsn().0;
    let first = match so_far {
        // The table as it was at last.
        Some(so_far) => CopyDone { table: newest.table, ..so_far.first.clone() },
        None => newest,
    };
    let progress = Progress { from: (place, epoch), next, first, through };
    let copied: Result<Vec<_>, StoreError> =
        snapshot.scan(&start, end.as_ref(), Direction::Forward).collect();
    Ok(Piece { number, range: (start, end), rows: copied?, progress })
}
