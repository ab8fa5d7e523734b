//! Parts of rows that a session has read: those of some leaves, or of a range of keys.
//!
//! If the leaves are all those in which two sides differ, the parts that only one of the
//! selections has are exactly those in which the sides differ, whatever the shape of the leaves:
//! a part that both have lies either in leaves that are alike on both sides, or in selected ones
//! on both. While it reads, a session adds up again what each leaf says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use isthmus_digest::{Encoder, Lane, Parts, Sum, encode_symbols};

use crate::verify::answer::{Answer, RowAnswer, Rows, SelectedParts, Tell, WrongLeaf};
use crate::verify::error::VerifyError;
use crate::verify::limits::{
    ANSWER_ROW_BYTES, FINGERPRINTS_MAX, ROWS_MAX, SYMBOLS_MAX, WRONG_LEAVES_MAX,
};
use crate::verify::question::{Range, RowsByFingerprint, RowsByKey, Select, Want};
use crate::verify::session::Session;
use crate::verify::view::{ViewRow, fingerprint_of};

/// What is selected.
#[derive(Default)]
pub(super) struct Selection {
    /// Fingerprint of each part, with the row's key; by rising key.
    parts: Vec<(u64, Bytes)>,
    by_fingerprint: HashMap<u64, u32>,
    sketch: Option<(Encoder, u32)>,
}

/// A leaf that is read.
struct Chosen {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    sum: Sum,
    rows: u32,
    found: Sum,
    found_rows: u32,
}

type ChosenLeaves = BTreeMap<Lane, Vec<Chosen>>;

impl Selection {
    fn push(&mut self, fingerprint: u64, key: &Bytes) {
        self.by_fingerprint.insert(fingerprint, self.parts.len() as u32);
        self.parts.push((fingerprint, key.clone()));
    }

    fn key_of(&self, fingerprint: u64) -> Option<&Bytes> {
        let place = *self.by_fingerprint.get(&fingerprint)?;
        self.parts.get(place as usize).map(|(_, key)| key)
    }

    fn symbols(&mut self, from: u32, count: u32) -> Bytes {
        let kept = self.sketch.take().filter(|(_, given)| *given <= from);
        let made = || (Encoder::new(self.parts.iter().map(|(part, _)| *part)), 0);
        let (mut encoder, given) = kept.unwrap_or_else(made);
        let count = (count as usize).min(SYMBOLS_MAX);
        encoder.symbols((from - given) as usize);
        let symbols = encoder.symbols(count);
        self.sketch = Some((encoder, from.saturating_add(count as u32)));
        encode_symbols(&symbols).into()
    }
}

/// Keeps rows of an answer within its bounds.
struct RowsTold {
    rows: Vec<RowAnswer>,
    bytes: usize,
}

impl RowsTold {
    fn new() -> RowsTold {
        RowsTold { rows: Vec::new(), bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_MAX || self.bytes >= ANSWER_ROW_BYTES
    }

    fn push(&mut self, row: RowAnswer) {
        self.bytes += row.key.len() + row.packed.as_ref().map_or(0, Bytes::len) + 16;
        self.rows.push(row);
    }
}

impl Session {
    /// Selects parts of rows and tells of them.
    pub(super) fn select(&mut self, ask: &Select) -> Result<Answer, VerifyError> {
        self.selection = Selection::default();
        let (told, rows_read) = match &ask.range {
            Some(range) => self.select_range(range)?,
            None => self.select_leaves(&ask.leaves)?,
        };
        let mut answer = self.more_selected(ask.want.as_ref(), rows_read)?;
        if let Some(Tell::Parts(parts)) = &mut answer.tell {
            parts.too_many = told.too_many;
            parts.next = told.next;
            parts.wrong = told.wrong;
        }
        Ok(answer)
    }

    /// The fingerprint of one part, if its lane is compared.
    fn part_fingerprint(&self, row: &ViewRow, lane: Lane, sum: Sum) -> Option<u64> {
        let part = || Parts::one(lane, sum).fingerprint(self.view.hasher(), &row.key);
        self.floors.keep(lane).then(part)
    }

    fn select_range(&mut self, range: &Range) -> Result<(SelectedParts, u64), VerifyError> {
        let limit = (range.limit as usize).clamp(1, self.selected_max);
        let mut selection = Selection::default();
        let mut told = SelectedParts::default();
        let mut rows_read = 0;
        self.view.rows(&range.start, range.end.as_deref(), &mut |row| {
            rows_read += 1;
            // A row is never torn.
            if selection.parts.len() >= limit {
                told.next = Some(row.key);
                return false;
            }
            for (lane, sum) in row.parts.iter() {
                if let Some(part) = self.part_fingerprint(&row, lane, sum) {
                    selection.push(part, &row.key);
                }
            }
            true
        })?;
        self.selection = selection;
        Ok((told, rows_read))
    }

    fn select_leaves(&mut self, wanted: &[u64]) -> Result<(SelectedParts, u64), VerifyError> {
        let mut leaves = self.chosen(wanted);
        let total: u64 = leaves.values().flatten().map(|leaf| u64::from(leaf.rows)).sum();
        if total > self.selected_max as u64 {
            return Ok((SelectedParts { too_many: true, ..SelectedParts::default() }, 0));
        }
        let mut selection = Selection::default();
        let mut rows_read = 0;
        let mut too_many = false;
        for (start, end) in joined_ranges(&leaves) {
            self.view.rows(&start, end.as_deref(), &mut |row| {
                rows_read += 1;
                for (lane, sum) in row.parts.iter() {
                    let leaf = leaves.get_mut(&lane).and_then(|list| leaf_of(list, &row.key));
                    let Some(leaf) = leaf else { continue };
                    leaf.found += sum;
                    leaf.found_rows += 1;
                    if let Some(part) = self.part_fingerprint(&row, lane, sum) {
                        selection.push(part, &row.key);
                    }
                }
                too_many = selection.parts.len() > self.selected_max;
                !too_many
            })?;
            if too_many {
                let told = SelectedParts { too_many, ..SelectedParts::default() };
                return Ok((told, rows_read));
            }
        }
        self.selection = selection;
        Ok((SelectedParts { wrong: wrong(leaves), ..SelectedParts::default() }, rows_read))
    }

    /// The leaves with these fingerprints, by lane and start.
    fn chosen(&self, wanted: &[u64]) -> ChosenLeaves {
        let mut wanted: HashSet<u64> = wanted.iter().copied().collect();
        let mut leaves = ChosenLeaves::new();
        for lane in self.lanes() {
            if wanted.is_empty() {
                break;
            }
            for leaf in self.leaves_in(lane, &[], None) {
                let name = self.view.hasher().leaf_fingerprint(lane, &leaf.start, leaf.sum);
                if wanted.remove(&name) {
                    let (found, found_rows) = (Sum::default(), 0);
                    let (start, end, sum, rows) = (leaf.start, leaf.end, leaf.sum, leaf.rows);
                    let chosen = Chosen { start, end, sum, rows, found, found_rows };
                    leaves.entry(lane).or_default().push(chosen);
                }
            }
        }
        leaves
    }

    /// More about what is selected.
    pub(super) fn more_selected(
        &mut self,
        want: Option<&Want>,
        rows_read: u64,
    ) -> Result<Answer, VerifyError> {
        let count = self.selection.parts.len() as u64;
        let mut told = SelectedParts { count, ..SelectedParts::default() };
        let mut read = rows_read;
        match want.map_or(Want::NOTHING, |want| want.kind) {
            Want::NOTHING => {}
            Want::FINGERPRINTS => {
                let (from, count) = want.map_or((0, 0), |want| (want.from, want.count));
                let count = (count as usize).min(FINGERPRINTS_MAX);
                let parts = self.selection.parts.iter().skip(from as usize).take(count);
                told.fingerprints = parts.map(|(part, _)| *part).collect();
            }
            Want::SYMBOLS => {
                let (from, count) = want.map_or((0, 0), |want| (want.from, want.count));
                told.symbols = self.selection.symbols(from, count);
            }
            Want::UNLIKE => {
                if let Some(want) = want {
                    read += self.tell_unlike(want, &mut told)?;
                }
            }
            _ => return Err(VerifyError::Damaged("unknown kind of want")),
        }
        Ok(Answer::new(read, Tell::Parts(told)))
    }

    fn tell_unlike(&self, want: &Want, told: &mut SelectedParts) -> Result<u64, VerifyError> {
        let like: HashSet<u64> = want.like.iter().copied().collect();
        let known = &self.selection.by_fingerprint;
        told.lacking = want.like.iter().filter(|part| !known.contains_key(part)).copied().collect();
        let unlike = self.selection.parts.iter().filter(|(part, _)| !like.contains(part));
        let keys: BTreeSet<&Bytes> = unlike.map(|(_, key)| key).collect();
        let (rows, answered) = self.rows_of(keys.iter().copied(), want.contents)?;
        told.more = answered < keys.len();
        let read = rows.len() as u64;
        told.unlike = rows;
        Ok(read)
    }

    /// Rows by key, as many as fit an answer, and how many keys are answered.
    fn rows_of<'a>(
        &self,
        keys: impl Iterator<Item = &'a Bytes>,
        contents: bool,
    ) -> Result<(Vec<RowAnswer>, usize), VerifyError> {
        let mut told = RowsTold::new();
        for key in keys {
            if told.is_full() {
                break;
            }
            told.push(self.row_answer(self.view.row(key)?, contents));
        }
        let answered = told.rows.len();
        Ok((told.rows, answered))
    }

    fn row_answer(&self, row: ViewRow, contents: bool) -> RowAnswer {
        let hasher = self.view.hasher();
        let fingerprint = fingerprint_of(hasher, self.floors, &row.key, &row.parts);
        RowAnswer {
            present: row.packed.is_some(),
            packed: row.packed.filter(|_| contents),
            key: row.key,
            fingerprint,
            moved: row.moved,
        }
    }

    /// Rows of which parts were selected, each once.
    pub(super) fn rows_by_fingerprint(
        &self,
        ask: &RowsByFingerprint,
    ) -> Result<Answer, VerifyError> {
        let mut told = RowsTold::new();
        let mut keys = HashSet::new();
        let mut answered = 0;
        for part in &ask.fingerprints {
            if told.is_full() {
                break;
            }
            answered += 1;
            // Nonsense names nothing.
            let Some(key) = self.selection.key_of(*part) else { continue };
            if keys.insert(key) {
                told.push(self.row_answer(self.view.row(key)?, ask.contents));
            }
        }
        let read = told.rows.len() as u64;
        Ok(Answer::new(read, Tell::Rows(Rows { rows: told.rows, answered })))
    }

    pub(super) fn rows_by_key(&self, ask: &RowsByKey) -> Result<Answer, VerifyError> {
        let (rows, answered) = self.rows_of(ask.keys.iter(), ask.contents)?;
        let read = rows.len() as u64;
        Ok(Answer::new(read, Tell::Rows(Rows { rows, answered: answered as u32 })))
    }
}

/// The chosen leaf in which a key lies. The leaves lie in order and do not overlap.
fn leaf_of<'a>(leaves: &'a mut [Chosen], key: &[u8]) -> Option<&'a mut Chosen> {
    let after = leaves.partition_point(|leaf| leaf.start[..] <= *key);
    let leaf = leaves.get_mut(after.checked_sub(1)?)?;
    leaf.end.as_ref().is_none_or(|end| *key < end[..]).then_some(leaf)
}

/// The ranges that the leaves cover together, in order.
fn joined_ranges(leaves: &ChosenLeaves) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let all = leaves.values().flatten();
    let mut ranges: Vec<(Vec<u8>, Option<Vec<u8>>)> =
        all.map(|leaf| (leaf.start.clone(), leaf.end.clone())).collect();
    ranges.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut joined: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
    for (start, end) in ranges {
        match joined.last_mut() {
            Some((_, last)) if last.as_ref().is_none_or(|last| start <= *last) => {
                let longer = match (&last, &end) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    (Some(last), Some(end)) => end > last,
                };
                if longer {
                    *last = end;
                }
            }
            Some(_) | None => joined.push((start, end)),
        }
    }
    joined
}

fn wrong(leaves: ChosenLeaves) -> Vec<WrongLeaf> {
    let differs = |leaf: &Chosen| leaf.found != leaf.sum || leaf.found_rows != leaf.rows;
    let told =
        |leaf: Chosen| WrongLeaf { start: leaf.start.into(), end: leaf.end.map(Bytes::from) };
    let wrong = leaves.into_values().flatten().filter(differs);
    wrong.map(told).take(WRONG_LEAVES_MAX).collect()
}
