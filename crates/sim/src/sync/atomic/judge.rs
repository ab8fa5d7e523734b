//! What must hold of batches, found out from rows alone.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::atomic::{BatchId, BatchMark};
use isthmus_model::entry::{Entry, EntryBody};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_store::{StoreError, Table};
use rand::Rng;
use rand::rngs::SmallRng;

use super::{Answer, kept, written};
use crate::checkers::Violation;
use crate::sync::group::{FLOOR, Group, mark_of, number_in};
use crate::sync::machines::Machines;
use crate::sync::part::Part;
use crate::sync::plan::{Mode, REGIONS, encoded};

/// What a client has asked for.
pub(super) struct Asked {
    pub(super) number: u64,
    /// Where.
    pub(super) place: usize,
    pub(super) groups: Vec<(usize, Group)>,
    /// `None`: it was told nothing.
    pub(super) answer: Option<Answer>,
}

fn unread(error: StoreError) -> Violation {
    Violation::of("a row is read", error.to_string())
}

/// The region that writes a table and may show its newest rows.
fn writing(machines: &Machines, at: usize, now: u64) -> Option<&Part> {
    let up = (0..REGIONS).filter(|place| machines.is_up(*place));
    let mut parts = up.filter_map(|place| Some(&machines.regions[place].life.as_ref()?.parts[at]));
    parts.find(|part| written(part, now).is_some())
}

/// The sum of all rows, if all tables can be read at this moment and no row is locked.
pub(super) fn sum_of(machines: &Machines, now: u64) -> Result<Option<i64>, Violation> {
    let mut parts = Vec::new();
    for at in 0..machines.quorums.len() {
        let Some(part) = writing(machines, at, now) else { return Ok(None) };
        if !part.table.holders_between(&EncodedKey::default(), None).is_empty() {
            return Ok(None);
        }
        parts.push(part);
    }
    let mut sum = 0;
    for part in parts {
        for row in 0..part.plan.rows {
            let number = number_in(&part.table, row as i64, b"n").map_err(unread)?;
            if number < FLOOR {
                let what = format!("row {row} of table {} is {number}", part.at);
                return Err(Violation::of("what a write asks for holds when it is made", what));
            }
            sum += number;
        }
    }
    Ok(Some(sum))
}

/// A client that reads all rows as of one moment: until it finds the same twice.
#[derive(Default)]
pub(super) struct Reader {
    before: Option<Vec<Vec<Option<Row>>>>,
    /// Of each table, once it has been read.
    found: BTreeMap<usize, Vec<Option<Row>>>,
    /// The batches that had locked rows when a table was asked for.
    waits: BTreeMap<usize, BTreeSet<BatchId>>,
}

impl Reader {
    /// Reads one table, perhaps. Gives what is wrong with what was found twice.
    pub(super) fn step(
        &mut self,
        machines: &Machines,
        chance: &mut SmallRng,
    ) -> Result<Option<String>, Violation> {
        let (count, now) = (machines.quorums.len(), machines.now());
        let at = chance.random_range(0..count);
        if self.found.contains_key(&at) {
            return Ok(None);
        }
        let Some(part) = writing(machines, at, now) else { return Ok(None) };
        let holders = part.table.holders_between(&EncodedKey::default(), None);
        let waits = self.waits.entry(at).or_insert_with(|| holders.clone());
        if waits.iter().any(|holder| holders.contains(holder)) {
            return Ok(None);
        }
        let rows = (0..part.plan.rows).map(|row| part.table.get(&encoded(row as i64)));
        self.found.insert(at, rows.collect::<Result<_, _>>().map_err(unread)?);
        if self.found.len() < count {
            return Ok(None);
        }
        self.waits.clear();
        let found: Vec<_> = std::mem::take(&mut self.found).into_values().collect();
        let is_same = self.before.as_ref() == Some(&found);
        let sum: i64 = found.iter().flatten().map(number_of).sum();
        self.before = (!is_same).then_some(found);
        Ok((is_same && sum != 0).then(|| format!("the sum of what was read is {sum}")))
    }
}

fn number_of(row: &Option<Row>) -> i64 {
    let cells = row.as_ref().and_then(|row| row.column(b"n"));
    match cells.and_then(|column| column.cells.first()?.value.clone()) {
        Some(isthmus_model::value::Value::Integer(number)) => number,
        _ => 0,
    }
}

/// The batches of which a part was cut off a log that was written asynchronously.
fn torn(machines: &Machines, asked: &[Asked]) -> Result<BTreeSet<u64>, Violation> {
    let marks: BTreeMap<EncodedKey, u64> =
        asked.iter().map(|one| (encoded(mark_of(one.number)), one.number)).collect();
    let of_entry = |entry: &Entry| -> Vec<u64> {
        match (&entry.body, &entry.batch) {
            (EntryBody::Intent(intent), _) => {
                Group::decode(&intent.request).and_then(|group| group.mark).into_iter().collect()
            }
            // It is told again.
            (_, Some(BatchMark::Settled(_))) => Vec::new(),
            (EntryBody::Rows(rows), _) => {
                rows.iter().filter_map(|row| marks.get(&row.key).copied()).collect()
            }
            _ => Vec::new(),
        }
    };
    let mut torn = BTreeSet::new();
    for region in &machines.regions {
        let Some(life) = &region.life else { continue };
        for (part, at_rest) in life.parts.iter().zip(&region.at_rest) {
            if part.plan.mode != Mode::Async {
                continue;
            }
            torn.extend(at_rest.set_aside.iter().flat_map(of_entry));
            // Most of these rows are still there.
            for batch in at_rest.set_aside_rows.iter().filter_map(|key| marks.get(key)) {
                if !is_made(&part.table, *batch)? {
                    torn.insert(*batch);
                }
            }
        }
    }
    Ok(torn)
}

/// Judges all that is there in the end. Gives how many batches were left out.
pub(super) fn judge_all(machines: &Machines, asked: &[Asked]) -> Result<u64, Violation> {
    let torn = torn(machines, asked)?;
    for region in &machines.regions {
        let Some(life) = &region.life else { continue };
        for part in &life.parts {
            judge_table(part, asked)?;
            if kept(&part.table) > 0 || part.table.prepared_count() > 0 {
                let what = format!("table {} of region {}", part.at, part.place);
                return Err(Violation::of("nothing is kept of batches in the end", what));
            }
        }
        for one in asked.iter().filter(|one| !torn.contains(&one.number)) {
            let is_made = |at: &usize| is_made(&life.parts[*at].table, one.number);
            let made: Result<Vec<bool>, Violation> =
                one.groups.iter().map(|(at, _)| is_made(at)).collect();
            let made = made?;
            let is_right = match one.answer {
                Some(Answer::Done) => made.iter().all(|made| *made),
                Some(Answer::Refused) => !made.iter().any(|made| *made),
                Some(Answer::Unknown) | None => made.iter().all(|one| *one == made[0]),
            };
            if !is_right {
                let tables: Vec<usize> = one.groups.iter().map(|(at, _)| *at).collect();
                let what = format!(
                    "batch {} of tables {tables:?}, answered {:?}, is made {made:?}",
                    one.number, one.answer
                );
                return Err(Violation::of("a batch is made in all tables or in none", what));
            }
        }
    }
    Ok(torn.len() as u64)
}

fn is_made(table: &Table, batch: u64) -> Result<bool, Violation> {
    let times = number_in(table, mark_of(batch), b"b").map_err(unread)?;
    match times {
        0 | 1 => Ok(times == 1),
        _ => {
            let what = format!("batch {batch} in {}: {times} times", table.name());
            Err(Violation::of("nothing is made twice", what))
        }
    }
}

/// The rows of a table are what the batches that it has made come to.
fn judge_table(part: &Part, asked: &[Asked]) -> Result<(), Violation> {
    let mut rows = vec![0; part.plan.rows];
    for one in asked {
        let group = one.groups.iter().find(|(at, _)| *at == part.at);
        let Some((_, group)) = group else { continue };
        if is_made(&part.table, one.number)? {
            group.moves.iter().for_each(|(row, delta)| rows[*row as usize] += delta);
        }
    }
    for (row, expected) in rows.into_iter().enumerate() {
        let shown = number_in(&part.table, row as i64, b"n").map_err(unread)?;
        if shown != expected {
            let what = format!(
                "row {row} of table {} in region {} is {shown}, and its batches come to {expected}",
                part.at, part.place
            );
            return Err(Violation::of("rows are what the batches come to", what));
        }
    }
    Ok(())
}
