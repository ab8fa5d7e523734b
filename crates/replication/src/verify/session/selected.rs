//! Parts of rows that a session has read: those of some leaves, or of a range of keys.
//!
//! If the leaves are all those in which two sides differ, the parts that only one of the
//! selections has are exactly those in which the sides differ, whatever the shape of the leaves:
//! a part that both have lies either in leaves that are alike on both sides, or in selected ones
//! on both. While it reads, a session adds up again what each leaf says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use isthmus_digest::{
    Decoder, Encoder, Lane, Leaf, Parts, Sum, Width, decode_symbols, encode_symbols,
    encode_symbols_short,
};

use crate::verify::answer::{Answer, RowAnswer, Rows, SelectedParts, Tell, WrongLeaf, sum_bytes};
use crate::verify::error::VerifyError;
use crate::verify::limits::{
    ANSWER_ROW_BYTES, FINGERPRINTS_MAX, KEPT_BYTES_MAX, ROWS_MAX, SYMBOLS_MAX, WRONG_LEAVES_MAX,
};
use crate::verify::question::{Range, RowsByFingerprint, RowsByKey, Select, Want};
use crate::verify::session::Session;
use crate::verify::session::leaves::LaneRange;
use crate::verify::view::{ViewRow, fingerprint_of};

/// What is selected.
#[derive(Default)]
pub(super) struct Selection {
    /// By rising key.
    parts: Vec<Part>,
    by_name: HashMap<u64, u32>,
    /// Of all parts.
    sum: Sum,
    /// Rows as they were read, as far as there is room for them.
    kept: HashMap<Bytes, ViewRow>,
    kept_bytes: usize,
    sketch: Option<(Encoder, u32)>,
}

/// A part of a row.
struct Part {
    /// What of its fingerprint it is known by.
    name: u64,
    sum: Sum,
    /// The row's key.
    key: Bytes,
}

/// A leaf that is read.
pub(super) struct Chosen {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    sum: Sum,
    rows: u32,
    found: Sum,
    found_rows: u32,
}

pub(super) type ChosenLeaves = BTreeMap<Lane, Vec<Chosen>>;

/// Adds a leaf to those that are read. Leaves of a lane come by rising key.
pub(super) fn choose(chosen: &mut ChosenLeaves, lane: Lane, leaf: Leaf) {
    let (found, found_rows) = (Sum::default(), 0);
    let Leaf { start, end, sum, rows, .. } = leaf;
    chosen.entry(lane).or_default().push(Chosen { start, end, sum, rows, found, found_rows });
}

impl Selection {
    fn push(&mut self, name: u64, sum: Sum, key: &Bytes) {
        self.by_name.insert(name, self.parts.len() as u32);
        self.sum += sum;
        self.parts.push(Part { name, sum, key: key.clone() });
    }

    /// How many parts.
    pub(super) fn count(&self) -> u64 {
        self.parts.len() as u64
    }

    fn keep(&mut self, row: &ViewRow) {
        let bytes = row.key.len() + row.packed.as_ref().map_or(0, Bytes::len) + 128;
        if self.kept_bytes + bytes <= KEPT_BYTES_MAX {
            self.kept_bytes += bytes;
            self.kept.insert(row.key.clone(), row.clone());
        }
    }

    fn named(&self, name: u64) -> Option<&Part> {
        let place = *self.by_name.get(&name)?;
        self.parts.get(place as usize)
    }

    fn symbols(&mut self, from: u32, count: u32, short: Option<Width>) -> Bytes {
        let kept = self.sketch.take().filter(|(_, given)| *given <= from);
        let made = || (Encoder::new(self.parts.iter().map(|part| part.name)), 0);
        let (mut encoder, given) = kept.unwrap_or_else(made);
        let count = (count as usize).min(SYMBOLS_MAX);
        encoder.symbols((from - given) as usize);
        let symbols = encoder.symbols(count);
        self.sketch = Some((encoder, from.saturating_add(count as u32)));
        match short {
            Some(width) => {
                let elements = self.parts.len() as u64;
                encode_symbols_short(&symbols, width, from.into(), elements).into()
            }
            None => encode_symbols(&symbols).into(),
        }
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
            None if !ask.places.is_empty() => {
                let chosen = self.chosen_by_place(&ask.places);
                self.select_chosen(chosen)?
            }
            None => {
                let narrow = Width::Narrow.decode(&ask.narrow_leaves);
                let narrow = narrow.map_err(|_| VerifyError::Damaged("leaves are cut short"))?;
                let chosen = self.chosen(ask.leaves.iter().chain(&narrow).copied());
                self.select_chosen(chosen)?
            }
        };
        let mut answer = self.more_selected(ask.want.as_ref(), rows_read)?;
        if let Some(Tell::Parts(parts)) = &mut answer.tell {
            parts.too_many = told.too_many;
            parts.next = told.next;
            parts.wrong = told.wrong;
            parts.outside = told.outside;
            parts.inside = told.inside;
        }
        Ok(answer)
    }

    /// The name of one part, if its lane is compared.
    fn part_name(&self, row: &ViewRow, lane: Lane, sum: Sum) -> Option<u64> {
        let part = || Parts::one(lane, sum).fingerprint(self.view.hasher(), &row.key) & self.mask;
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
                if let Some(name) = self.part_name(&row, lane, sum) {
                    selection.push(name, sum, &row.key);
                }
            }
            true
        })?;
        self.selection = selection;
        Ok((told, rows_read))
    }

    /// Reads the rows of leaves.
    pub(super) fn select_chosen(
        &mut self,
        mut leaves: ChosenLeaves,
    ) -> Result<(SelectedParts, u64), VerifyError> {
        self.selection = Selection::default();
        let total: u64 = leaves.values().flatten().map(|leaf| u64::from(leaf.rows)).sum();
        if total > self.selected_max as u64 {
            return Ok((SelectedParts { too_many: true, ..SelectedParts::default() }, 0));
        }
        let mut selection = Selection::default();
        let mut rows_read = 0;
        let mut too_many = false;
        let ranges = joined_ranges(&leaves);
        self.view.rows_of(&ranges, &mut |row| {
            rows_read += 1;
            selection.keep(&row);
            for (lane, sum) in row.parts.iter() {
                let leaf = leaves.get_mut(&lane).and_then(|list| leaf_of(list, &row.key));
                let Some(leaf) = leaf else { continue };
                leaf.found += sum;
                leaf.found_rows += 1;
                if let Some(name) = self.part_name(&row, lane, sum) {
                    selection.push(name, sum, &row.key);
                }
            }
            too_many = selection.parts.len() > self.selected_max;
            !too_many
        })?;
        if too_many {
            let told = SelectedParts { too_many, ..SelectedParts::default() };
            return Ok((told, rows_read));
        }
        let all: Sum = self
            .view
            .tree()
            .lanes()
            .iter()
            .filter(|root| self.floors.keep(root.lane))
            .map(|root| root.sum)
            .sum();
        let chosen: Sum = leaves.values().flatten().map(|leaf| leaf.sum).sum();
        let told = SelectedParts {
            outside: sum_bytes(all - chosen),
            inside: sum_bytes(selection.sum),
            wrong: wrong(leaves),
            ..SelectedParts::default()
        };
        self.selection = selection;
        Ok((told, rows_read))
    }

    /// The leaves with these names, by lane and start.
    fn chosen(&self, wanted: impl Iterator<Item = u64>) -> ChosenLeaves {
        let mut wanted: HashSet<u64> = wanted.collect();
        let mut chosen = ChosenLeaves::new();
        for (lane, leaf) in self.find_leaves(&mut wanted) {
            choose(&mut chosen, lane, leaf);
        }
        chosen
    }

    /// Leaves by their names, by lane and start. They are looked for where symbols were
    /// told of last, and where they are not all there, everywhere.
    pub(super) fn find_leaves(&self, wanted: &mut HashSet<u64>) -> Vec<(Lane, Leaf)> {
        let all = wanted.clone();
        let window = self.window.as_ref().map(|window| &window.ranges[..]).unwrap_or_default();
        let found = self.find_in(window, wanted);
        if wanted.is_empty() {
            return found;
        }
        *wanted = all;
        self.find_in(&self.everything(), wanted)
    }

    fn find_in(&self, ranges: &[LaneRange], wanted: &mut HashSet<u64>) -> Vec<(Lane, Leaf)> {
        let (hasher, tree) = (self.view.hasher(), self.view.tree());
        let mut found = Vec::new();
        for LaneRange { lane, start, end } in ranges {
            let range = (&start[..], end.as_deref());
            let leaves = tree.leaves_named(hasher, *lane, range, self.mask, wanted);
            found.extend(leaves.into_iter().map(|leaf| (*lane, leaf)));
        }
        found
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
                told.fingerprints = parts.map(|part| part.name).collect();
            }
            Want::SYMBOLS => {
                let (from, count) = want.map_or((0, 0), |want| (want.from, want.count));
                let is_short = want.is_some_and(|want| want.short);
                let short = is_short.then_some(self.width);
                told.symbols = self.selection.symbols(from, count, short);
            }
            Want::UNLIKE_SKETCH => {
                if let Some(want) = want {
                    read += self.tell_unlike_sketch(want, &mut told)?;
                }
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

    pub(super) fn tell_unlike(
        &self,
        want: &Want,
        told: &mut SelectedParts,
    ) -> Result<u64, VerifyError> {
        let like: HashSet<u64> = want.like.iter().copied().collect();
        let known = &self.selection.by_name;
        told.lacking = want.like.iter().filter(|part| !known.contains_key(part)).copied().collect();
        let unlike = self.selection.parts.iter().filter(|part| !like.contains(&part.name));
        let keys: BTreeSet<&Bytes> = unlike.map(|part| &part.key).collect();
        self.tell_rows(&keys, want.contents, told)
    }

    /// Which rows are unlike those of which a sketch is given, if it is long enough to tell.
    fn tell_unlike_sketch(
        &self,
        want: &Want,
        told: &mut SelectedParts,
    ) -> Result<u64, VerifyError> {
        let theirs = decode_symbols(&want.sketch)
            .map_err(|_| VerifyError::Damaged("symbols cannot be read"))?;
        let mut decoder = Decoder::new(self.selection.parts.iter().map(|part| part.name));
        decoder.add(&theirs);
        if !decoder.decoded() {
            told.more = true;
            return Ok(0);
        }
        let (only_there, only_here) = decoder.difference();
        match self.width {
            Width::Wide => told.lacking = only_there,
            Width::Narrow => told.narrow_lacking = self.width.encode(&only_there).into(),
        }
        let named = || only_here.iter().filter_map(|name| self.selection.named(*name));
        told.unlike_sum = sum_bytes(named().map(|part| part.sum).sum());
        self.tell_rows(&named().map(|part| &part.key).collect(), want.contents, told)
    }

    fn tell_rows(
        &self,
        keys: &BTreeSet<&Bytes>,
        contents: bool,
        told: &mut SelectedParts,
    ) -> Result<u64, VerifyError> {
        let (rows, answered, read) = self.rows_of(keys.iter().copied(), contents)?;
        told.more = answered < keys.len();
        told.unlike = rows;
        Ok(read)
    }

    /// A row, and whether it had to be read.
    fn row(&self, key: &Bytes) -> Result<(ViewRow, bool), VerifyError> {
        match self.selection.kept.get(key) {
            Some(row) => Ok((row.clone(), false)),
            None => Ok((self.view.row(key)?, true)),
        }
    }

    /// Rows by key, as many as fit an answer, how many keys are answered, and how many rows were
    /// read for it.
    fn rows_of<'a>(
        &self,
        keys: impl Iterator<Item = &'a Bytes>,
        contents: bool,
    ) -> Result<(Vec<RowAnswer>, usize, u64), VerifyError> {
        let mut told = RowsTold::new();
        let mut read = 0;
        for key in keys {
            if told.is_full() {
                break;
            }
            let (row, is_read) = self.row(key)?;
            read += u64::from(is_read);
            told.push(self.row_answer(row, contents));
        }
        let answered = told.rows.len();
        Ok((told.rows, answered, read))
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
        let (mut answered, mut read, mut asked) = (0, 0, Sum::default());
        for part in &ask.fingerprints {
            if told.is_full() {
                break;
            }
            answered += 1;
            // Nonsense names nothing.
            let Some(Part { sum, key, .. }) = self.selection.named(*part) else { continue };
            asked += *sum;
            if keys.insert(key) {
                let (row, is_read) = self.row(key)?;
                read += u64::from(is_read);
                told.push(self.row_answer(row, ask.contents));
            }
        }
        let rows = Rows { rows: told.rows, answered, asked_sum: sum_bytes(asked), packed: None };
        Ok(Answer::new(read, Tell::Rows(rows)))
    }

    pub(super) fn rows_by_key(&self, ask: &RowsByKey) -> Result<Answer, VerifyError> {
        let (rows, answered, read) = self.rows_of(ask.keys.iter(), ask.contents)?;
        let rows = Rows { rows, answered: answered as u32, ..Rows::default() };
        Ok(Answer::new(read, Tell::Rows(rows)))
    }
}

/// The chosen leaf in which a key lies. The leaves lie in order and do not overlap.
fn leaf_of<'a>(leaves: &'a mut [Chosen], key: &[u8]) -> Option<&'a mut Chosen> {
    let after = leaves.partition_point(|leaf| leaf.start[..] <= *key);
    let leaf = leaves.get_mut(after.checked_sub(1)?)?;
    leaf.end.as_ref().is_none_or(|end| *key < end[..]).then_some(leaf)
}

/// The ranges that the leaves cover together, in order.
fn joined_ranges(leaves: &ChosenLeaves) -> Vec<(Bytes, Option<Bytes>)> {
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
    joined.into_iter().map(|(start, end)| (start.into(), end.map(Bytes::from))).collect()
}

fn wrong(leaves: ChosenLeaves) -> Vec<WrongLeaf> {
    let differs = |leaf: &Chosen| leaf.found != leaf.sum || leaf.found_rows != leaf.rows;
    let told =
        |leaf: Chosen| WrongLeaf { start: leaf.start.into(), end: leaf.end.map(Bytes::from) };
    let wrong = leaves.into_values().flatten().filter(differs);
    wrong.map(told).take(WRONG_LEAVES_MAX).collect()
}
