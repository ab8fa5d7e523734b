//! From leaves to the rows that differ.
//!
//! Both sides select the parts of rows in the leaves, or the range, that differ. What only one
//! selection has names the rows to be judged. Each row is judged with both sides' word on it.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use isthmus_digest::{Sum, Width};
use isthmus_model::key::EncodedKey;

use crate::verify::answer::{RowAnswer, SelectedParts, Tell, WrongLeaf};
use crate::verify::compare::leaves::{Difference, OnlyIn};
use crate::verify::compare::{Detail, Looked, Run, proof};
use crate::verify::error::VerifyError;
use crate::verify::limits::{
    CHUNK_ROWS, FINGERPRINTS_MAX, FROM_MAX, LEAVES_MAX, ROWS_MAX, SYMBOLS_MAX,
};
use crate::verify::question::{
    Ask, Lay, Named, Range, RowsByFingerprint, RowsByKey, Select, Selected, Want,
};
use crate::verify::report::WrongTree;

/// What both sides say of rows, as far as it is known.
pub(super) type Candidates = BTreeMap<Bytes, [Option<RowAnswer>; 2]>;

/// Bytes of a symbol on the wire, to choose between a sketch and a list.
const SYMBOL_BYTES: usize = 20;
/// Bytes of a fingerprint on the wire.
const FINGERPRINT_BYTES: usize = 8;
/// Symbols that are tried first where leaves are few.
const GUESS_FEW: usize = 64;
/// Wrong ranges that are told.
const WRONG_MAX: usize = 1000;

fn wants(kind: u32, from: usize, count: usize) -> Want {
    Want { kind, from: from as u32, count: count as u32, ..Want::default() }
}

impl Run<'_, '_> {
    /// Whether contents are needed to tell enough of a row.
    pub(super) fn wants_contents(&self) -> bool {
        let many = self.pair.as_ref().is_some_and(|pair| pair.many);
        let listed = self.rows.len() < self.options.rows_max || self.shell.found.is_some();
        many || (self.options.detail == Detail::Cells && listed)
    }

    /// Few leaves, or coarse ranges, of either side: all in one exchange.
    pub(super) fn few_leaves(&mut self, named: [Named; 2]) -> Result<Looked, VerifyError> {
        let contents = self.wants_contents();
        let [first, second] = named;
        let first = Named { session: self.session(0)?, ..first };
        let Tell::Leaves(told) = self.sides[0].ask(Ask::Leaves(first))? else {
            return Err(VerifyError::Protocol("another answer than leaves"));
        };
        if told.is_empty() {
            return Ok(Looked::TooMuch);
        }
        let second = Named { session: self.session(1)?, ..second };
        let Tell::Laid(laid) =
            self.sides[1].ask(Ask::Lay(Lay { named: Some(second), told, contents }))?
        else {
            return Err(VerifyError::Protocol("another answer than to laying leaves"));
        };
        let second = laid.parts.unwrap_or_default();
        if second.too_many {
            return Ok(Looked::TooMuch);
        }
        self.note_wrong(1, &second.wrong);
        let kind = if second.more { Want::NOTHING } else { Want::UNLIKE };
        let want = Want { kind, contents, ..Want::default() };
        let select = Select { want: Some(want), places: laid.unlike, ..Select::default() };
        // Without places it would be about leaves that are named; none are.
        let first = self.select(0, select)?;
        if first.too_many {
            return Ok(Looked::TooMuch);
        }
        if !self.proves(proof::outside([&first, &second])?) {
            return Ok(Looked::Unproved);
        }
        if first.more || second.more {
            return self.rows_of_selections([&first, &second], GUESS_FEW);
        }
        let mut candidates = Candidates::new();
        put(&mut candidates, 0, first.unlike);
        put(&mut candidates, 1, second.unlike);
        candidates.retain(|_, rows| match rows {
            [Some(first), Some(second)] => first.fingerprint != second.fingerprint,
            _ => true,
        });
        self.judge_keys(candidates)?;
        Ok(Looked::Done)
    }

    /// Any number of leaves.
    pub(super) fn rows_of_leaves(&mut self, only_in: OnlyIn) -> Result<Looked, VerifyError> {
        if only_in.iter().any(|leaves| leaves.len() > LEAVES_MAX) {
            return Ok(Looked::TooMuch);
        }
        // Mostly one row of a leaf differs.
        let differing = only_in[0].len() + only_in[1].len();
        let guess = differing + differing / 5 * 2 + 16;
        let skilled = self.is_skilled();
        let [first, second] = only_in;
        let (own, theirs) =
            (Want { short: skilled, ..wants(Want::SYMBOLS, 0, guess) }, Want::default());
        let told = if skilled && differing < self.options.tuning.many_leaves {
            let first = self.select(0, self.of_leaves(first, own))?;
            let want = self.unlike_sketch(first.symbols.clone());
            let second = self.of_leaves(second, want);
            [first, self.select(1, second)?]
        } else {
            // Both read at one time; the sketch is laid beside later.
            let asks = [
                Select { session: self.session(0)?, ..self.of_leaves(first, own) },
                Select { session: self.session(1)?, ..self.of_leaves(second, theirs) },
            ];
            let [first, second] = self.ask_both(asks.map(Ask::Select))?;
            let told = [self.note_selected(0, first)?, self.note_selected(1, second)?];
            match skilled && told.iter().all(|told| !told.too_many) {
                true => {
                    let want = self.unlike_sketch(told[0].symbols.clone());
                    let [first, second] = told;
                    let more = self.selected(1, want)?;
                    let SelectedParts { outside, inside, .. } = second;
                    [first, SelectedParts { outside, inside, ..more }]
                }
                false => told,
            }
        };
        if told.iter().any(|told| told.too_many) {
            return Ok(Looked::TooMuch);
        }
        let [first, mut second] = told;
        if self.selects_whole && !self.proves(proof::outside([&first, &second])?) {
            return Ok(Looked::Unproved);
        }
        if !skilled || second.more {
            return self.rows_of_selections([&first, &second], guess);
        }
        let mut candidates = Candidates::new();
        put(&mut candidates, 1, std::mem::take(&mut second.unlike));
        let contents = self.wants_contents();
        let (rows, named) = self.rows_by_name(0, &lacking(&second)?, contents)?;
        let named = [named, proof::told(&second.unlike_sum)?];
        if !self.proves(proof::unnamed([&first, &second], named)?) {
            return Ok(Looked::Unproved);
        }
        put(&mut candidates, 0, rows);
        self.judge_keys(candidates)?;
        Ok(Looked::Done)
    }

    /// Selects leaves by their names.
    fn of_leaves(&self, names: Vec<u64>, want: Want) -> Select {
        let want = Some(want);
        match self.is_narrow() {
            true => {
                let narrow_leaves = Width::Narrow.encode(&names).into();
                Select { narrow_leaves, want, ..Select::default() }
            }
            false => Select { leaves: names, want, ..Select::default() },
        }
    }

    /// Wants the rows that are unlike those of a sketch.
    fn unlike_sketch(&self, sketch: Bytes) -> Want {
        let contents = self.wants_contents();
        Want { kind: Want::UNLIKE_SKETCH, sketch, contents, ..Want::default() }
    }

    /// All rows of a range, at most about `limit` parts. Gives where it ended, if before its end.
    pub(super) fn rows_of_range(
        &mut self,
        start: &Bytes,
        end: Option<&Bytes>,
        limit: u32,
    ) -> Result<Option<Bytes>, VerifyError> {
        let range = |end: Option<&Bytes>, limit| Select {
            range: Some(Range { start: start.clone(), end: end.cloned(), limit }),
            ..Select::default()
        };
        let mut first = self.select(0, range(end, limit))?;
        let stop = first.next.clone().or_else(|| end.cloned());
        let second = self.select(1, range(stop.as_ref(), 2 * limit))?;
        let mut done = first.next.clone();
        if let Some(next) = second.next.clone() {
            // The second side has far more here: the first one goes no further, either.
            first = self.select(0, range(Some(&next), limit))?;
            done = Some(next);
        }
        if done.as_ref() == Some(start) {
            return Err(VerifyError::Protocol("a range ends where it begins"));
        }
        self.rows_of_selections([&first, &second], 1024)?;
        Ok(done)
    }

    fn select(&mut self, side: usize, select: Select) -> Result<SelectedParts, VerifyError> {
        let select = Select { session: self.session(side)?, ..select };
        let told = self.sides[side].ask(Ask::Select(select))?;
        self.note_selected(side, told)
    }

    fn note_selected(&mut self, side: usize, told: Tell) -> Result<SelectedParts, VerifyError> {
        let told = parts(told)?;
        self.note_wrong(side, &told.wrong);
        Ok(told)
    }

    fn note_wrong(&mut self, side: usize, wrong: &[WrongLeaf]) {
        for leaf in wrong {
            let wrong = WrongTree {
                side,
                start: EncodedKey(leaf.start.clone()),
                end: leaf.end.clone().map(EncodedKey),
            };
            if self.tree_wrong.len() < WRONG_MAX && !self.tree_wrong.contains(&wrong) {
                self.tree_wrong.push(wrong);
            }
        }
    }

    fn selected(&mut self, side: usize, want: Want) -> Result<SelectedParts, VerifyError> {
        let ask = Selected { session: self.session(side)?, want: Some(want) };
        parts(self.sides[side].ask(Ask::Selected(ask))?)
    }

    /// Finds in what the selections differ, and judges these rows.
    fn rows_of_selections(
        &mut self,
        selected: [&SelectedParts; 2],
        guess: usize,
    ) -> Result<Looked, VerifyError> {
        let counts = selected.map(|parts| parts.count as usize);
        let only_in = match self.parts_by_sketch(counts, guess)? {
            Some(only_in) => only_in,
            None => self.parts_by_list(counts)?,
        };
        // Few rows come at once with what is in them; many come first as keys.
        let contents = only_in.iter().all(|parts| parts.len() <= ROWS_MAX) && self.wants_contents();
        let mut candidates = Candidates::new();
        let mut named = [None; 2];
        for (side, parts) in only_in.iter().enumerate() {
            let (rows, sum) = self.rows_by_name(side, parts, contents)?;
            put(&mut candidates, side, rows);
            named[side] = sum;
        }
        if !self.proves(proof::unnamed(selected, named)?) {
            return Ok(Looked::Unproved);
        }
        self.judge_keys(candidates)?;
        Ok(Looked::Done)
    }

    fn parts_by_sketch(
        &mut self,
        counts: [usize; 2],
        guess: usize,
    ) -> Result<Option<OnlyIn>, VerifyError> {
        let list_bytes = counts.iter().sum::<usize>() * FINGERPRINT_BYTES;
        let symbols_max = (list_bytes / (2 * SYMBOL_BYTES)).clamp(64, FROM_MAX as usize);
        let mut difference = Difference::new();
        let mut next = guess.clamp(1, symbols_max);
        while difference.taken < symbols_max {
            let count = (next - difference.taken).min(SYMBOLS_MAX);
            let short = self.is_skilled();
            let want = || Want { short, ..wants(Want::SYMBOLS, difference.taken, count) };
            let (first, second) = (want(), want());
            let first = self.selected(0, first)?.symbols;
            let second = self.selected(1, second)?.symbols;
            if difference.add([first, second], count)? {
                return Ok(Some(difference.finish()));
            }
            if difference.taken >= next {
                next = difference.enough().min(symbols_max);
            }
        }
        Ok(None)
    }

    fn parts_by_list(&mut self, counts: [usize; 2]) -> Result<OnlyIn, VerifyError> {
        let mut lists = [HashSet::new(), HashSet::new()];
        for (side, list) in lists.iter_mut().enumerate() {
            let mut from = 0;
            while from < counts[side] {
                let told =
                    self.selected(side, wants(Want::FINGERPRINTS, from, FINGERPRINTS_MAX))?;
                if told.fingerprints.is_empty() {
                    return Err(VerifyError::Protocol("fewer parts than were counted"));
                }
                from += told.fingerprints.len();
                list.extend(told.fingerprints);
            }
        }
        let [first, second] = &lists;
        Ok([
            first.difference(second).copied().collect(),
            second.difference(first).copied().collect(),
        ])
    }

    /// The rows of parts, and the sum of these, if the side tells it.
    fn rows_by_name(
        &mut self,
        side: usize,
        names: &[u64],
        contents: bool,
    ) -> Result<(Vec<RowAnswer>, Option<Sum>), VerifyError> {
        let mut rows = Vec::new();
        let mut sum = Some(Sum::default());
        let mut rest = names;
        while !rest.is_empty() {
            let fingerprints = rest[..rest.len().min(ROWS_MAX)].to_vec();
            let session = self.session(side)?;
            let ask = RowsByFingerprint { session, fingerprints, contents };
            let (left, asked) =
                self.ask_rows(side, Ask::RowsByFingerprint(ask), rest, &mut rows)?;
            sum = sum.zip(asked).map(|(sum, asked)| sum + asked);
            rest = left;
        }
        Ok((rows, sum))
    }

    fn rows_by_key(
        &mut self,
        side: usize,
        keys: &[Bytes],
        contents: bool,
    ) -> Result<Vec<RowAnswer>, VerifyError> {
        let mut rows = Vec::new();
        let mut rest = keys;
        while !rest.is_empty() {
            let keys = rest[..rest.len().min(ROWS_MAX)].to_vec();
            let ask = RowsByKey { session: self.session(side)?, keys, contents };
            rest = self.ask_rows(side, Ask::RowsByKey(ask), rest, &mut rows)?.0;
        }
        Ok(rows)
    }

    /// Asks for rows; gives what of `asked` is not answered yet, and the sum of what is.
    fn ask_rows<'l, T>(
        &mut self,
        side: usize,
        ask: Ask,
        asked: &'l [T],
        rows: &mut Vec<RowAnswer>,
    ) -> Result<(&'l [T], Option<Sum>), VerifyError> {
        let Tell::Rows(told) = self.sides[side].ask(ask)? else {
            return Err(VerifyError::Protocol("another answer than rows"));
        };
        let sum = proof::told(&told.asked_sum)?;
        rows.extend(told.rows);
        match asked.get(told.answered as usize..) {
            Some(rest) if told.answered > 0 => Ok((rest, sum)),
            Some(_) | None => Err(VerifyError::Protocol("a wrong count of answered rows")),
        }
    }

    /// Judges rows, asking for what is not known of them yet.
    pub(super) fn judge_keys(&mut self, candidates: Candidates) -> Result<(), VerifyError> {
        let mut rest = candidates.into_iter().peekable();
        while rest.peek().is_some() {
            let mut chunk: Candidates = rest.by_ref().take(CHUNK_ROWS).collect();
            let contents = self.wants_contents();
            for side in [0, 1] {
                self.complete(&mut chunk, side, contents)?;
            }
            for (key, [first, second]) in chunk {
                let absent = || RowAnswer { key: key.clone(), ..RowAnswer::default() };
                let rows = [first.unwrap_or_else(absent), second.unwrap_or_else(absent)];
                self.judge(key.clone(), rows, contents)?;
            }
            // A reader who has seen enough is asked between windows.
            let _ = self.goes_on(None);
        }
        Ok(())
    }

    /// Asks a side for the rows of which it has not told enough.
    fn complete(
        &mut self,
        chunk: &mut Candidates,
        side: usize,
        contents: bool,
    ) -> Result<(), VerifyError> {
        let one_part = self.pair.as_ref().is_some_and(|pair| pair.only_data && !pair.many);
        // Where a side was taken back, a row that it does not name may be there by now.
        let is_as_it_is = self.pair.as_ref().is_some_and(|pair| {
            let head = &pair.heads[side];
            head.cut_lsn == head.lsn
        });
        let is_data = one_part && is_as_it_is && self.selects_whole && self.tree_wrong.is_empty();
        let lacks = |rows: &[Option<RowAnswer>; 2]| match &rows[side] {
            // Where all leaves that differ are selected, a row of one part that only the other
            // side names is not here.
            None => !(is_data && rows[1 - side].is_some()),
            Some(row) => contents && row.present && row.packed.is_none(),
        };
        let keys: Vec<Bytes> =
            chunk.iter().filter(|(_, rows)| lacks(rows)).map(|(key, _)| key.clone()).collect();
        for row in self.rows_by_key(side, &keys, contents)? {
            if let Some(rows) = chunk.get_mut(&row.key) {
                rows[side] = Some(row);
            }
        }
        Ok(())
    }
}

/// The parts of the other side that a side says it lacks.
fn lacking(told: &SelectedParts) -> Result<Vec<u64>, VerifyError> {
    if told.narrow_lacking.is_empty() {
        return Ok(told.lacking.clone());
    }
    let names = Width::Narrow.decode(&told.narrow_lacking);
    names.map_err(|_| VerifyError::Damaged("names are cut short"))
}

fn parts(tell: Tell) -> Result<SelectedParts, VerifyError> {
    match tell {
        Tell::Parts(parts) => Ok(parts),
        _ => Err(VerifyError::Protocol("another answer than selected parts")),
    }
}

fn put(candidates: &mut Candidates, side: usize, rows: Vec<RowAnswer>) {
    for row in rows {
        let known = candidates.entry(row.key.clone()).or_default();
        known[side] = Some(row);
    }
}
