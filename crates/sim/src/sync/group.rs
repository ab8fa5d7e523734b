//! Rows of one table that are changed together, what that is to a batch of several tables, and how
//! both are prepared by others and kept.

use bytes::Bytes;
use isthmus_model::atomic::{BatchId, Intent, Member};
use isthmus_model::capacity::WriteSize;
use isthmus_model::change::{
    CellChange, ColumnFilter, Comparator, Condition, Filter, Returned, RowAction,
};
use isthmus_model::check::{CheckedChange, CheckedKey};
use isthmus_model::commit::{Term, TxId};
use isthmus_model::entry::Entry;
use isthmus_model::ids::TableId;
use isthmus_model::key::EncodedKey;
use isthmus_model::value::Value;
use isthmus_store::codec::entry::{decode_entry, encode_entry};
use isthmus_store::{Beginning, Pending, StoreError, Table, Written};

use super::plan::{MARKS, encoded, key, table_id, table_name, table_of};

/// What a row never comes below. No single move is as large.
pub(super) const FLOOR: i64 = -150;

/// Changes of numbers, all or none, and a mark that they were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Rows, each once, and what is added to each.
    pub(super) moves: Vec<(i64, i64)>,
    /// The number of the batch; its mark is counted up.
    pub(super) mark: Option<u64>,
}

/// What a change of rows is.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// Only that.
    Rows,
    /// It becomes an intent of a batch with that anchor.
    Intent(BatchId, usize),
    /// It decides a batch with these members.
    Decision(BatchId, Vec<usize>),
    /// It ends an intent.
    Settle(BatchId),
}

/// What was prepared.
pub(super) enum Prepared {
    /// As it was asked for.
    Asked(Group, Task),
    /// As it was made in a log that was cut off.
    Made(Box<Entry>),
}

pub(super) type Results = Vec<Result<Written, StoreError>>;

impl Group {
    /// One more in a row.
    pub(super) fn increment(row: usize) -> Group {
        Group { moves: vec![(row as i64, 1)], mark: None }
    }

    /// The keys of the rows.
    pub(super) fn keys(&self) -> Vec<EncodedKey> {
        let marks = self.mark.map(mark_of);
        self.moves.iter().map(|(row, _)| *row).chain(marks).map(encoded).collect()
    }

    /// The changes. `is_judged`: what they ask for has been found to hold.
    pub(super) fn changes(&self, is_judged: bool) -> Vec<CheckedChange> {
        let moves = self.moves.iter().map(|(row, delta)| {
            let asks = *delta < 0 && !is_judged;
            let condition = if asks { at_least(FLOOR - delta) } else { Condition::default() };
            change(*row, "n", *delta, condition)
        });
        let mark = self.mark.map(|mark| change(mark_of(mark), "b", 1, Condition::default()));
        moves.chain(mark).collect()
    }

    fn numbers(&self) -> Vec<u64> {
        let moves = self.moves.iter().flat_map(|(row, delta)| [*row as u64, *delta as u64]);
        [self.mark.unwrap_or(u64::MAX), self.moves.len() as u64].into_iter().chain(moves).collect()
    }

    fn of_numbers(mut numbers: impl Iterator<Item = u64>) -> Option<Group> {
        let mark = numbers.next().filter(|mark| *mark < u64::MAX);
        let count = numbers.next()?;
        let mut one = || Some((numbers.next()? as i64, numbers.next()? as i64));
        let moves = (0..count).map(|_| one()).collect::<Option<_>>()?;
        Some(Group { moves, mark })
    }

    /// As an intent keeps it.
    pub(super) fn encode(&self) -> Bytes {
        bytes_of(self.numbers())
    }

    /// What an intent keeps.
    pub(super) fn decode(bytes: &[u8]) -> Option<Group> {
        Group::of_numbers(numbers_in(bytes))
    }

    /// Makes it; `tx` is what others have prepared.
    pub(super) fn make(
        &self,
        table: &Table,
        task: &Task,
        tx: Option<TxId>,
        beginning: Beginning,
    ) -> Pending<Results> {
        let is_judged = tx.is_some() || matches!(task, Task::Settle(_));
        let changes = self.changes(is_judged);
        match (task, tx) {
            (Task::Rows, Some(tx)) => {
                let atomic = changes.len() > 1;
                table.write_prepared(vec![tx], changes, atomic)
            }
            (Task::Rows, None) => table.write(changes, true),
            (Task::Intent(id, anchor), tx) => {
                let anchor = table_name(*anchor).as_str().into();
                let intent = Intent { id: *id, anchor, keys: Vec::new(), request: self.encode() };
                table.intend(intent, changes, tx)
            }
            (Task::Decision(id, members), tx) => {
                table.decide((*id, members_of(members)), changes, tx, beginning)
            }
            (Task::Settle(id), _) => table.settle_batch(*id, changes),
        }
    }
}

/// Members as the store names them.
pub(super) fn members_of(tables: &[usize]) -> Vec<Member> {
    let one = |at: &usize| Member { table: table_id(*at), name: table_name(*at).as_str().into() };
    tables.iter().map(one).collect()
}

/// The row that is counted up when a batch is made.
pub(super) fn mark_of(batch: u64) -> i64 {
    MARKS + batch as i64
}

fn change(row: i64, column: &str, delta: i64, condition: Condition) -> CheckedChange {
    CheckedChange {
        key: CheckedKey::Whole(key(row)),
        action: RowAction::Update(vec![CellChange::Increment { name: column.into(), delta }]),
        condition,
        returned: Returned::Nothing,
        size: WriteSize { key: 8, attributes: 8 },
    }
}

/// The number in a row is so much, or there is none.
fn at_least(least: i64) -> Condition {
    let filter = ColumnFilter {
        name: "n".into(),
        comparator: Comparator::GreaterEqual,
        value: Value::Integer(least),
        filter_if_missing: false,
        latest_version_only: true,
        transfer: None,
    };
    Condition { columns: Some(Filter::Column(filter)), ..Condition::default() }
}

const ROWS: u64 = 0;
const INTENT: u64 = 1;
const DECISION: u64 = 2;
const ENTRY: u64 = 3;

fn bytes_of(numbers: impl IntoIterator<Item = u64>) -> Bytes {
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

fn numbers_in(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let whole = bytes.chunks_exact(8).filter_map(|chunk| chunk.first_chunk::<8>());
    whole.map(|chunk| u64::from_le_bytes(*chunk))
}

fn of_id(id: BatchId) -> [u64; 4] {
    [id.anchor.0, id.term.epoch, id.term.life, id.number]
}

fn id_of(numbers: &mut impl Iterator<Item = u64>) -> Option<BatchId> {
    let anchor = TableId(numbers.next()?);
    let term = Term { epoch: numbers.next()?, life: numbers.next()? };
    Some(BatchId { anchor, term, number: numbers.next()? })
}

/// A change as it is prepared. `number` tells it from others that are alike.
pub(super) fn prepared_bytes(group: &Group, task: &Task, number: u64) -> Bytes {
    let mut numbers = Vec::new();
    match task {
        Task::Rows | Task::Settle(_) => numbers.push(ROWS),
        Task::Intent(id, anchor) => {
            numbers.push(INTENT);
            numbers.extend(of_id(*id));
            numbers.push(*anchor as u64);
        }
        Task::Decision(id, members) => {
            numbers.push(DECISION);
            numbers.extend(of_id(*id));
            numbers.push(members.len() as u64);
            numbers.extend(members.iter().map(|at| *at as u64));
        }
    }
    numbers.extend(group.numbers());
    numbers.push(number);
    bytes_of(numbers)
}

/// A change as it is prepared again that was made in a tail.
pub(super) fn made_bytes(entry: &Entry) -> Bytes {
    [&ENTRY.to_le_bytes()[..], &encode_entry(entry)].concat().into()
}

/// What was prepared.
pub(super) fn read_prepared(bytes: &Bytes) -> Option<Prepared> {
    let mut numbers = numbers_in(bytes);
    let task = match numbers.next()? {
        ROWS => Task::Rows,
        INTENT => Task::Intent(id_of(&mut numbers)?, numbers.next()? as usize),
        DECISION => {
            let id = id_of(&mut numbers)?;
            let count = numbers.next()?;
            let members = (0..count).map(|_| Some(numbers.next()? as usize));
            Task::Decision(id, members.collect::<Option<_>>()?)
        }
        ENTRY => {
            let entry = decode_entry(&bytes.slice(8..)).ok()?;
            return Some(Prepared::Made(Box::new(entry)));
        }
        _ => return None,
    };
    Some(Prepared::Asked(Group::of_numbers(numbers)?, task))
}

/// The table whose line a batch's anchor has.
pub(super) fn anchor_of(id: BatchId) -> usize {
    table_of(id.anchor)
}

/// A number in a row.
pub(super) fn number_in(table: &Table, row: i64, column: &[u8]) -> Result<i64, StoreError> {
    let row = table.get(&encoded(row))?;
    let cells = row.as_ref().and_then(|row| row.column(column));
    let value = cells.and_then(|column| column.cells.first()?.value.clone());
    Ok(match value {
        Some(Value::Integer(number)) => number,
        _ => 0,
    })
}
