//! Answers what other regions, and jobs of this one, ask of this node's tables.
//!
//! Everything here reads the disk or waits for it, so it runs on threads that may block. What is
//! asked for is bounded before anything is read; a range is told and healed only whole.

use bytes::Bytes;
use isthmus_digest::{Parts, Sum};
use isthmus_model::change::Direction;
use isthmus_model::error::Kind;
use isthmus_model::ids::{Lsn, TableId};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::frame::{ExpiredBefore, FamilyColumns, Watermark};
use isthmus_replication::verify::answer::{Answer, Floors, ScrubbedFrom, Tell};
use isthmus_replication::verify::question::{Ask, Close, Question as Asked};
use isthmus_store::codec::row::decode_row;
use isthmus_store::digest::{BadRange, DigestView};
use isthmus_store::{Healed, RepairRow, Repaired, StoreError, Table};
use prost::Message;

use crate::api_error::ApiError;
use crate::node::{Node, Record};
use crate::peer::call::Question;
use crate::peer::verify::{
    Heal, HealEnd, HealTold, REPAIR_ROWS_MAX, ROOTS_MAX, ROWS_TOLD_BYTES, ROWS_TOLD_MAX, Repair,
    RepairTold, Roots, RootsTold, Rows, RowsTold, SCRUB_ROWS_MAX, Scrub, ScrubTold, StoredRow,
};

/// How often a view is asked for that is busy.
const TRIES_MAX: u32 = 5;

fn damaged(what: &str) -> ApiError {
    ApiError::invalid(format!("The {what} is damaged or breaks a bound."))
}

impl Node {
    /// Answers a question about the rows of a table. Blocks.
    pub(crate) fn answer_about_rows(
        &self,
        from: &str,
        question: Question,
    ) -> Result<Bytes, ApiError> {
        let told = match question {
            Question::Compare(compare) => return self.on_compare(from, &compare.question),
            Question::Scrub(scrub) => self.on_scrub(from, &scrub)?.encode_to_vec(),
            Question::Repair(repair) => self.on_repair(from, repair)?.encode_to_vec(),
            Question::Heal(heal) => self.on_heal(from, &heal)?.encode_to_vec(),
            Question::Rows(rows) => self.on_rows(from, &rows)?.encode_to_vec(),
            Question::Roots(roots) => self.on_roots(from, &roots)?.encode_to_vec(),
            Question::Assign(_)
            | Question::Unassign(_)
            | Question::Forward(_)
            | Question::Change(_)
            | Question::Drop(_)
            | Question::Trigger(_)
            | Question::HoldLinks(_)
            | Question::TakeHold(_)
            | Question::Holds(_)
            | Question::HandOver(_)
            | Question::Write(_)
            | Question::Agree(_)
            | Question::Prepare(_)
            | Question::Promise(_)
            | Question::MayWrite(_)
            | Question::Probe(_)
            | Question::Measure(_)
            | Question::Read(_)
            | Question::Distribute(_)
            | Question::Moments(_)
            | Question::Batch(_)
            | Question::Intend(_)
            | Question::Settle(_)
            | Question::Verdict(_)
            | Question::ByHand(_)
            | Question::Time(_) => {
                return Err(ApiError::invalid("This is no question about rows."));
            }
        };
        Ok(told.into())
    }

    /// The table, if that region may ask about it: it holds a replica, or is this one.
    fn shared_table(&self, from: &str, id: u64) -> Result<std::sync::Arc<Table>, ApiError> {
        let table = self.store.table(TableId(id)).ok_or_else(ApiError::no_table)?;
        let holds = |record: Record| record.table.replica(from).is_some();
        if from == self.config.region.name || self.record(table.id()).is_some_and(holds) {
            return Ok(table);
        }
        let message = format!("Region {from} holds no replica of the table.");
        Err(ApiError::new(ErrorCode::NoPermissionAccess, message))
    }

    fn on_compare(&self, from: &str, question: &Bytes) -> Result<Bytes, ApiError> {
        let question = Asked::decode(question).map_err(|_| damaged("question"))?;
        Ok(self.answer_compare(from, question)?.encode())
    }

    /// Answers a question of a comparison.
    fn answer_compare(&self, from: &str, question: Asked) -> Result<Answer, ApiError> {
        if let Some(Ask::Open(open)) = &question.ask
            && self.store.table(TableId(open.table)).is_some()
        {
            self.shared_table(from, open.table)?;
        }
        Ok(self.verification.sessions.answer(question))
    }

    fn on_roots(&self, from: &str, roots: &Roots) -> Result<RootsTold, ApiError> {
        if roots.questions.len() > ROOTS_MAX || roots.verdicts.len() > ROOTS_MAX {
            return Err(damaged("question"));
        }
        self.verification.gauge.told_by(self, from, &roots.verdicts);
        let mut answers = Vec::with_capacity(roots.questions.len());
        for question in &roots.questions {
            let question = Asked::decode(question).map_err(|_| damaged("question"))?;
            let Some(Ask::Open(_)) = &question.ask else { return Err(damaged("question")) };
            let answer = self.answer_compare(from, question)?;
            if let Some(Tell::Opened(opened)) = &answer.tell {
                let close = Ask::Close(Close { session: opened.session });
                self.verification.sessions.answer(close.into());
            }
            answers.push(answer.encode());
        }
        Ok(RootsTold { answers })
    }

    fn on_scrub(&self, from: &str, scrub: &Scrub) -> Result<ScrubTold, ApiError> {
        let table = self.shared_table(from, scrub.table)?;
        let rows = scrub.rows.clamp(1, SCRUB_ROWS_MAX) as usize;
        let start = EncodedKey(scrub.from.clone());
        let step = self.scrub_step(&table, &start, rows, scrub.pass)?;
        let scrubbed = match step.next {
            Some(_) => Vec::new(),
            None => ScrubbedFrom::of(view_of(&table)?.tree()),
        };
        Ok(ScrubTold {
            next: step.next.map(|key| key.0),
            rows: step.rows,
            bytes: step.bytes,
            bad: step.bad.iter().map(crate::peer::verify::Bad::of).collect(),
            rows_total: self.verification.scrubs.rows_known(table.id()),
            scrubbed,
        })
    }

    fn on_repair(&self, from: &str, repair: Repair) -> Result<RepairTold, ApiError> {
        let table = self.shared_table(from, repair.table)?;
        if repair.rows.len() > REPAIR_ROWS_MAX {
            return Err(damaged("repair"));
        }
        let floors = Floors { time: repair.floor_time, kills: repair.floor_kills };
        let view = view_of(&table)?;
        let mut done = vec![false; repair.rows.len()];
        let mut rows = Vec::with_capacity(repair.rows.len());
        let mut places = Vec::with_capacity(repair.rows.len());
        for (place, one) in repair.rows.into_iter().enumerate() {
            let key = EncodedKey(one.key);
            let parts = match view.row(&key) {
                Ok(row) => row.parts,
                // A row that cannot be read is not repaired but healed.
                Err(error) if error.kind() == Kind::Corrupt => continue,
                Err(error) => return Err(error.into()),
            };
            if fingerprint(&view, &key, &parts, floors) != one.expected {
                continue;
            }
            let row = decode_row(&one.row).map_err(|_| damaged("row"))?;
            rows.push(RepairRow { key, expected: Some(parts), row });
            places.push(place);
        }
        drop(view);
        for (place, repaired) in
            places.into_iter().zip(table.repair(rows, Lsn(repair.cut_lsn)).wait()?)
        {
            done[place] = repaired == Repaired::Done;
        }
        Ok(RepairTold { done })
    }

    fn on_rows(&self, from: &str, asked: &Rows) -> Result<RowsTold, ApiError> {
        let table = self.shared_table(from, asked.table)?;
        let safe = self.safe_time(&table);
        let view = view_of(&table)?;
        let snapshot = view.snapshot();
        let mark = |mark: &isthmus_store::Watermark| Watermark {
            origin: mark.origin.0.into(),
            lsn: mark.lsn.0,
            hlc: mark.hlc.0,
            life: 0,
        };
        let (rows, next) = stored_rows(&view, &asked.start, asked.end.as_ref())?;
        Ok(RowsTold {
            lsn: snapshot.lsn().0,
            safe: safe.0,
            vector: snapshot.vector().iter().map(mark).collect(),
            expiry: snapshot.expiry().iter().map(ExpiredBefore::of).collect(),
            families: FamilyColumns::of(&snapshot.schema().options.families),
            floor_kills: view.floors().1,
            many_writers: snapshot.spec().writers.are_many(),
            rows,
            next,
        })
    }

    fn on_heal(&self, from: &str, heal: &Heal) -> Result<HealTold, ApiError> {
        let table = self.shared_table(from, heal.table)?;
        let range = heal.bad.as_ref().and_then(crate::peer::verify::Bad::range);
        let range = range.ok_or_else(|| damaged("range"))?;
        if heal.rows.len() > ROWS_TOLD_MAX {
            return Err(damaged("range"));
        }
        let told = |end: HealEnd, rows: usize| HealTold { end: end.into(), rows: rows as u64 };
        let view = match view_of(&table) {
            // Its rows change all the time; whoever asks tries again.
            Err(StoreError::Busy) => return Ok(told(HealEnd::Unsettled, 0)),
            view => view?,
        };
        let (stored, next) = stored_rows(&view, &range.start.0, end_of(&range).as_ref())?;
        if next.is_some() {
            return Ok(told(HealEnd::Unsettled, 0));
        }
        let Some(writes) = healing(&view, &range, &stored, &heal.rows) else {
            return Ok(told(HealEnd::Unsettled, 0));
        };
        drop(view);
        let count = writes.len();
        let rows = writes.into_iter().map(|(key, packed)| {
            let row = packed.map(|packed| decode_row(&packed)).transpose();
            row.map(|row: Option<Row>| (key, row)).map_err(|_| damaged("row"))
        });
        let healed = match table.heal(&range, rows.collect::<Result<_, _>>()?).wait() {
            Err(StoreError::Busy) => return Ok(told(HealEnd::Unsettled, 0)),
            healed => healed?,
        };
        let table_name = table.name();
        tracing::info!(table = table_name.as_str(), ?healed, rows = count, "range settled");
        Ok(match healed {
            Healed::Nothing => told(HealEnd::Nothing, 0),
            Healed::Rows => told(HealEnd::Rows, count),
            Healed::Digest => told(HealEnd::Digest, 0),
        })
    }
}

fn end_of(range: &BadRange) -> Option<Bytes> {
    range.end.as_ref().map(|end| end.0.clone())
}

/// A view; one that is busy is asked for again.
fn view_of(table: &Table) -> Result<DigestView, StoreError> {
    let mut tries = 1;
    loop {
        match table.digest_view() {
            Err(StoreError::Busy) if tries < TRIES_MAX => tries += 1,
            view => return view,
        }
    }
}

/// What a row is known by, as a session of a comparison tells it.
fn fingerprint(view: &DigestView, key: &EncodedKey, parts: &Parts, floors: Floors) -> u64 {
    let mut parts = parts.clone();
    parts.retain(|lane| floors.keep(lane));
    match parts.is_empty() {
        true => 0,
        false => parts.fingerprint(view.hasher(), &key.0),
    }
}

/// Rows as the disk holds them, as many as fit an answer, and where to go on.
fn stored_rows(
    view: &DigestView,
    start: &Bytes,
    end: Option<&Bytes>,
) -> Result<(Vec<StoredRow>, Option<Bytes>), StoreError> {
    let (start, end) = (EncodedKey(start.clone()), end.cloned().map(EncodedKey));
    let mut rows = Vec::new();
    let mut bytes = 0;
    for row in view.snapshot().scan_packed(&start, end.as_ref(), Direction::Forward) {
        let (key, packed) = row?;
        if rows.len() >= ROWS_TOLD_MAX || bytes >= ROWS_TOLD_BYTES {
            return Ok((rows, Some(key.0)));
        }
        bytes += key.0.len() + packed.len();
        let parts = view.row(&key).ok().map(|row| row.parts);
        rows.push(StoredRow::new(key.0, packed, parts.as_ref()));
    }
    Ok((rows, None))
}

type Write = (EncodedKey, Option<Bytes>);

/// What to write so that the rows of a range are what the digest says. Empty: the digest is to be
/// set right, because both replicas hold the same rows. `None`: neither is the case.
fn healing(
    view: &DigestView,
    range: &BadRange,
    stored: &[StoredRow],
    healthy: &[StoredRow],
) -> Option<Vec<Write>> {
    let mut expected = (Sum::default(), 0i64);
    let end = range.end.as_ref().map(|end| &end.0[..]);
    for leaf in view.tree().leaves(range.lane, &range.start.0, end) {
        expected.0 += leaf.sum;
        expected.1 += i64::from(leaf.rows);
    }
    let mut found = (Sum::default(), 0i64);
    for row in stored {
        if let Some(sum) = row.sum_in(range.lane) {
            found.0 += sum;
            found.1 += 1;
        }
    }
    let unlike = unlike(range, stored, healthy);
    let is_damaged = stored.iter().any(|row| row.damaged);
    if unlike.is_empty() {
        return (!is_damaged).then(Vec::new);
    }
    let fits = |picked: &[&Unlike]| {
        let sum = picked.iter().fold(found.0, |sum, one| sum + one.delta.0);
        let rows = picked.iter().fold(found.1, |rows, one| rows + one.delta.1);
        (sum, rows) == expected
    };
    let all: Vec<&Unlike> = unlike.iter().collect();
    // A replica may be ahead in other rows of the range: then one of them alone will fit.
    let singles = unlike.iter().map(|one| vec![one]);
    let picked = std::iter::once(all).chain(singles).find(|picked| fits(picked))?;
    Some(picked.into_iter().map(|one| one.write.clone()).collect())
}

/// A row that two replicas hold otherwise, and what taking it over does to the sum of the lane.
struct Unlike {
    write: Write,
    delta: (Sum, i64),
}

fn unlike(range: &BadRange, stored: &[StoredRow], healthy: &[StoredRow]) -> Vec<Unlike> {
    let inside =
        |key: &Bytes| *key >= range.start.0 && range.end.as_ref().is_none_or(|end| *key < end.0);
    let find = |rows: &[StoredRow], key: &Bytes| rows.iter().find(|row| row.key == *key).cloned();
    let mut keys: Vec<&Bytes> = stored.iter().chain(healthy).map(|row| &row.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut unlike = Vec::new();
    for key in keys.into_iter().filter(|key| inside(key)) {
        let (here, there) = (find(stored, key), find(healthy, key));
        let bytes = |row: &Option<StoredRow>| row.as_ref().map(|row| row.packed.clone());
        if bytes(&here) == bytes(&there) || there.as_ref().is_some_and(|row| row.damaged) {
            continue;
        }
        let part = |row: &Option<StoredRow>| row.as_ref().and_then(|row| row.sum_in(range.lane));
        let mut delta = (Sum::default(), 0);
        if let Some(sum) = part(&here) {
            delta = (delta.0 - sum, delta.1 - 1);
        }
        if let Some(sum) = part(&there) {
            delta = (delta.0 + sum, delta.1 + 1);
        }
        unlike.push(Unlike { write: (EncodedKey(key.clone()), bytes(&there)), delta });
    }
    unlike
}
