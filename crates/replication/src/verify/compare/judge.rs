//! From rows to cells: whether two sides' word on one row is a difference.

use bytes::Bytes;
use isthmus_model::diff::{self, Class, Knowledge};
use isthmus_model::hlc::Hlc;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_store::codec::row::decode_row;

use crate::verify::answer::{Opened, RowAnswer};
use crate::verify::compare::Run;
use crate::verify::error::VerifyError;
use crate::verify::report::{FoundRow, RowDiff};

/// What is found of one row.
enum Judged {
    Alike,
    /// What differs is on its way.
    Late,
    /// Its parts differ, but nothing that a reader could ever see.
    NothingToSee,
    /// To be looked at again.
    Again,
    Differs(Box<RowDiff>, Option<Box<[Row; 2]>>),
}

impl Run<'_, '_> {
    /// Judges one row by what both sides say of it.
    pub(super) fn judge(
        &mut self,
        key: Bytes,
        rows: [RowAnswer; 2],
        contents: bool,
    ) -> Result<(), VerifyError> {
        if self.is_known(&key) {
            return Ok(());
        }
        let pair = self.pair.as_ref().ok_or(VerifyError::NoSession)?;
        let judged = match (pair.many, contents) {
            (true, _) => lag(&pair.heads, &key, &rows),
            (false, _) if rows[0].fingerprint == rows[1].fingerprint => Judged::Alike,
            (false, _) if rows.iter().any(|row| row.moved) => Judged::Again,
            (false, true) => cells(&pair.heads, &key, &rows),
            (false, false) => Judged::Differs(Box::new(key_only(&key, &rows)), None),
        };
        match judged {
            Judged::Alike => {}
            Judged::Late => self.late += 1,
            Judged::NothingToSee => self.dropped += 1,
            Judged::Again => self.put_aside(key)?,
            Judged::Differs(..) if self.may_be_under_way() => self.put_aside(key)?,
            Judged::Differs(diff, contents) => {
                self.tell_found(&diff, contents.as_deref(), &rows);
                self.count(*diff);
            }
        }
        Ok(())
    }

    fn tell_found(&mut self, diff: &RowDiff, contents: Option<&[Row; 2]>, rows: &[RowAnswer; 2]) {
        let (Some(listener), Some(contents)) = (&mut self.shell.found, contents) else { return };
        let Some(pair) = &self.pair else { return };
        listener(&FoundRow {
            diff,
            rows: [&contents[0], &contents[1]],
            fingerprints: [rows[0].fingerprint, rows[1].fingerprint],
            heads: [&pair.heads[0], &pair.heads[1]],
        });
    }
}

/// A row that rot has made unreadable is one that is not there.
fn row_of(answer: &RowAnswer) -> Row {
    answer.packed.as_ref().and_then(|packed| decode_row(packed).ok()).unwrap_or_default()
}

/// With several writers: what a side lacks that it has had.
fn lag(heads: &[Opened; 2], key: &Bytes, answers: &[RowAnswer; 2]) -> Judged {
    let rows = [row_of(&answers[0]), row_of(&answers[1])];
    let vectors = [heads[0].vector_hlc(), heads[1].vector_hlc()];
    let expiry = [heads[0].expired(), heads[1].expired()];
    let families = [heads[0].families(), heads[1].families()];
    let knows = |side: usize| Knowledge {
        vector: &vectors[side],
        safe: Hlc(heads[side].safe),
        floor: heads[side].floors().kills_hlc(),
        expiry: &expiry[side],
        families: &families[side],
    };
    let found = diff::lagging((&rows[0], knows(0)), (&rows[1], knows(1)));
    if !found.cells.is_empty() {
        let class = diff::class_of_row(&rows[0], &rows[1], &found.cells);
        let diff = RowDiff { key: EncodedKey(key.clone()), class, cells: found.cells };
        return Judged::Differs(Box::new(diff), Some(Box::new(rows)));
    }
    match (found.unclear, found.lag) {
        (true, _) => Judged::Again,
        (false, true) => Judged::Late,
        // The cut was not exact: what differed there does not any more.
        (false, false) => Judged::NothingToSee,
    }
}

/// With one writer: every cell must be the same.
fn cells(heads: &[Opened; 2], key: &Bytes, answers: &[RowAnswer; 2]) -> Judged {
    let mut rows = [row_of(&answers[0]), row_of(&answers[1])];
    for head in heads {
        let families = head.families();
        for expiry in head.expired() {
            rows.iter_mut().for_each(|row| row.expire(&expiry, &families));
        }
    }
    let cells = diff::plain(&rows[0], &rows[1]);
    if cells.is_empty() {
        return Judged::NothingToSee;
    }
    let class = diff::class_of_row(&rows[0], &rows[1], &cells);
    let diff = RowDiff { key: EncodedKey(key.clone()), class, cells };
    Judged::Differs(Box::new(diff), Some(Box::new(rows)))
}

fn key_only(key: &Bytes, rows: &[RowAnswer; 2]) -> RowDiff {
    let class = match (rows[0].fingerprint, rows[1].fingerprint) {
        (_, 0) => Class::Missing,
        (0, _) => Class::Extra,
        _ => Class::Different,
    };
    RowDiff { key: EncodedKey(key.clone()), class, cells: Vec::new() }
}
