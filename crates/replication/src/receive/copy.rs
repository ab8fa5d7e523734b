//! Copies: rows that take the place of a range, and what of a range need not come.
//!
//! Chunks and offers come in the order of their keys, without gaps. How far a copy has come is kept
//! at rest in the batch that holds the rows, so that it goes on from there after a crash. What is
//! compared with an offer is durable.

use std::collections::VecDeque;

use bytes::Bytes;
use isthmus_model::expiry::Expiry;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId};
use isthmus_model::key::EncodedKey;
use isthmus_store::codec::row::decode_row;
use isthmus_store::digest::Rules;
use isthmus_store::{AtomicState, Beside, CopyDone, StoreError, Table, TableSpec, Watermark, keys};
use prost::Message;

use super::Inbound;
use super::settle::{Waiting, unless_refused};
use crate::differential::{self, Remembered};
use crate::error::ReplicationError;
use crate::frame::{
    self, Body, CopiedRows, CopyBegin, CopyChunk, CopyOffer, CopyProgress, Counts, ExpiredBefore,
    Made,
};
use crate::limits::{OFFERS_MAX, WANT_BYTES_MAX};
use crate::pack::unpack;
use crate::ship::Shared;

/// A copy that has begun and not ended.
pub(super) struct Copying {
    first: CopyProgress,
    /// Where the next chunk must begin.
    next_key: Bytes,
    epoch: Epoch,
    vector: Vec<(Origin, Hlc)>,
    expiry: Vec<Expiry>,
    table: TableSpec,
    /// What the origin keeps of batches of several partitions.
    atomics: AtomicState,
    /// What the origin's digest counts; `None`: an older origin, which offers nothing.
    counts: Option<Counts>,
    /// Where the next offer must begin; `None`: all was offered.
    next_offer: Option<Bytes>,
    /// What was accepted before the copy is durable.
    is_settled: bool,
    /// Offers that wait for their answers.
    unanswered: usize,
    /// What was answered and not yet copied, in order.
    answered: VecDeque<Remembered>,
    /// Bytes of keys in it.
    answered_bytes: usize,
    /// Keys to be removed in what is left of the range that is being copied.
    gone: Vec<EncodedKey>,
}

impl Copying {
    /// The keys to be removed with a chunk that ends at `end`, of what its offer's answer named.
    fn take_gone(
        &mut self,
        offer: u64,
        end: &Bytes,
        named: &Bytes,
    ) -> Result<Vec<EncodedKey>, ReplicationError> {
        if offer == 0 {
            return Ok(Vec::new());
        }
        let front = self.answered.front().filter(|front| front.number == offer);
        let front =
            front.ok_or(ReplicationError::Protocol("a chunk of an offer that was not answered"))?;
        if !named.is_empty() {
            self.gone = front.keys(named)?;
        }
        let is_last = front.end == *end;
        if is_last {
            self.answered_bytes -= front.bytes;
            self.answered.pop_front();
            return Ok(std::mem::take(&mut self.gone));
        }
        let later = self.gone.partition_point(|key| key.0 < *end);
        let rest = self.gone.split_off(later);
        Ok(std::mem::replace(&mut self.gone, rest))
    }
}

impl Inbound {
    pub(super) fn on_copy_begin(
        &mut self,
        origin: Origin,
        begin: CopyBegin,
    ) -> Result<(), ReplicationError> {
        let first =
            begin.progress.ok_or(ReplicationError::Damaged("a copy says not from where"))?;
        let partition = PartitionId(begin.partition);
        let table = keys::table::decode_value(&begin.table)
            .map_err(|_| ReplicationError::Damaged("the table of a copy is damaged"))?;
        let decided = begin.decided.into_iter().map(|decided| (decided.key, decided.value));
        let atomics = AtomicState::decode(&begin.intents, decided)
            .map_err(|_| ReplicationError::Damaged("the batches of a copy are damaged"))?;
        let vector = begin.vector.iter();
        let vector = vector.map(|mark| (Origin(mark.origin as u8), Hlc(mark.hlc))).collect();
        let expiry: Vec<Expiry> = begin.expiry.iter().filter_map(ExpiredBefore::expiry).collect();
        if !self.takes_back(origin, partition) {
            self.assignments.copies(origin, partition)?;
        }
        if let Some(receiving) = self.links.get_mut(&partition) {
            receiving.table.meet(receiving.life);
            // Rows become durable with it or after it, so nobody waits for its answer.
            let begun = receiving.table.begin_copy(&table.schema, &expiry);
            drop(unless_refused(begun)?);
            receiving.copy = Some(Copying {
                next_key: first.next_key.clone(),
                next_offer: Some(first.next_key.clone()),
                first,
                epoch: Epoch(begin.epoch),
                vector,
                expiry,
                table,
                atomics,
                counts: begin.counts,
                is_settled: false,
                unanswered: 0,
                answered: VecDeque::new(),
                answered_bytes: 0,
                gone: Vec::new(),
            });
        }
        Ok(())
    }

    /// What is compared is what is durable. So offers wait until all that was accepted before the
    /// copy is; chunks of the copy itself lie before what is offered now, and are not waited for.
    pub(super) fn on_copy_offer(&mut self, offer: CopyOffer) -> Result<(), ReplicationError> {
        let partition = PartitionId(offer.partition);
        let Some(receiving) = self.links.get_mut(&partition) else { return Ok(()) };
        let copy = receiving.copy.as_mut().filter(|copy| copy.counts.is_some());
        let copy = copy.ok_or(ReplicationError::Protocol("an offer without a copy"))?;
        if Some(&offer.start) != copy.next_offer.as_ref() {
            return Err(ReplicationError::Protocol("an offer does not begin where the last ended"));
        }
        copy.next_offer = (!offer.end.is_empty()).then(|| offer.end.clone());
        copy.unanswered += 1;
        if copy.unanswered + copy.answered.len() > OFFERS_MAX {
            return Err(ReplicationError::Protocol("too much is offered at once"));
        }
        let opening = receiving.opening;
        if copy.is_settled && copy.unanswered == 1 {
            return self.answer_offer(opening, &offer);
        }
        let pending = unless_refused(receiving.table.settled())?;
        let bytes = offer.body.as_ref().map_or(0, |body| body.data.len());
        self.waiting_bytes += bytes;
        let offer = Box::new(offer);
        self.waiting.push_back(Waiting::Offered { opening, offer, bytes, pending });
        Ok(())
    }

    pub(super) fn answer_offer(
        &mut self,
        opening: u64,
        offer: &CopyOffer,
    ) -> Result<(), ReplicationError> {
        let receiving = self.links.get_mut(&PartitionId(offer.partition));
        let Some(receiving) = receiving.filter(|link| link.opening == opening) else {
            return Ok(());
        };
        let Some(copy) = &mut receiving.copy else { return Ok(()) };
        let room = WANT_BYTES_MAX.saturating_sub(copy.answered_bytes);
        let counts = copy.counts.clone().unwrap_or_default();
        let (want, remembered) = match receiving.table.digest_view() {
            Ok(view) => differential::answer(&view, &counts, offer, room)?,
            Err(StoreError::NoDigest(_) | StoreError::Busy) => differential::want_all(offer),
            Err(error) => return Err(error.into()),
        };
        copy.is_settled = true;
        copy.unanswered -= 1;
        copy.answered_bytes += remembered.bytes;
        copy.answered.push_back(remembered);
        self.outgoing.push_back(Body::CopyWant(want).into());
        Ok(())
    }

    pub(super) fn on_copy_chunk(
        &mut self,
        origin: Origin,
        chunk: CopyChunk,
    ) -> Result<(), ReplicationError> {
        let partition = PartitionId(chunk.partition);
        let began = self.shared.clock.monotonic();
        let Some(receiving) = self.links.get_mut(&partition) else { return Ok(()) };
        let copy =
            receiving.copy.as_mut().ok_or(ReplicationError::Protocol("a chunk without a copy"))?;
        if chunk.start != copy.next_key {
            return Err(ReplicationError::Protocol("a chunk does not begin where the last ended"));
        }
        let packed = chunk.body.ok_or(ReplicationError::Damaged("a chunk is empty"))?;
        let bytes = unpack(&packed)?;
        let (rows, gone) = decode_rows(bytes.clone())?;
        let gone = copy.take_gone(chunk.offer, &chunk.end, &gone)?;
        let end = (!chunk.end.is_empty()).then(|| EncodedKey(chunk.end.clone()));
        copy.next_key = chunk.end.clone();
        let feeder = u32::from(origin.0);
        let progress = CopyProgress { next_key: chunk.end, feeder, ..copy.first.clone() };
        let done = end.is_none().then(|| copy_done(origin, copy));
        // An empty note says that no copy is under way.
        let value = if end.is_some() { progress.encode_to_vec() } else { Vec::new() };
        let note = (copy_note(noted_as(&receiving.table, origin), partition), value);
        let start = EncodedKey(chunk.start);
        let pending = match chunk.scattered {
            true => {
                check_inside(&start, end.as_ref(), &rows)?;
                let beside = Beside { done, note: Some(note) };
                receiving.table.replace_rows(rows, gone, &copy.vector, beside)
            }
            false => {
                let (end, note) = (end.as_ref(), Some(note));
                receiving.table.replace_range(&start, end, rows, &copy.vector, done, note)
            }
        };
        let pending = unless_refused(pending)?;
        let took = self.shared.clock.monotonic().saturating_sub(began);
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(Waiting::Copied {
            opening: receiving.opening,
            partition,
            number: chunk.number,
            bytes: bytes.len(),
            took,
            pending,
        });
        Ok(())
    }
}

fn check_inside(
    start: &EncodedKey,
    end: Option<&EncodedKey>,
    rows: &[(EncodedKey, isthmus_model::row::Row)],
) -> Result<(), ReplicationError> {
    let is_inside = |key: &EncodedKey| key >= start && end.is_none_or(|end| key < end);
    match rows.iter().all(|(key, _)| is_inside(key)) {
        true => Ok(()),
        false => Err(ReplicationError::Damaged("a row lies outside of its chunk")),
    }
}

/// The name of the note that keeps how far a copy has come; empty where none is under way.
pub fn copy_note(origin: Origin, partition: PartitionId) -> Vec<u8> {
    format!("copy/{partition}/{origin}").into_bytes()
}

/// With one writer there is one copy at most, noted as that of the base, so that one from another
/// feeder takes the place of an older one. With several each feeder's goes on by itself.
pub(crate) fn noted_as(table: &Table, feeder: Origin) -> Origin {
    let spec = table.spec();
    if spec.writers.are_many() { feeder } else { spec.base }
}

pub(super) fn saved_progress(
    shared: &Shared,
    table: &Table,
    feeder: Origin,
) -> Result<Option<CopyProgress>, ReplicationError> {
    let noted_as = noted_as(table, feeder);
    let saved = shared.store.note(&copy_note(noted_as, table.partition()))?;
    let Some(bytes) = saved.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    let progress = CopyProgress::decode(bytes)
        .map_err(|_| ReplicationError::Damaged("the saved progress of a copy is damaged"))?;
    let from = if progress.feeder == 0 { noted_as.0.into() } else { progress.feeder };
    Ok((from == u32::from(feeder.0)).then_some(progress))
}

/// Whether a copy has begun and not ended, from this feeder or another one: rows of it lie in the
/// table, even if its log is empty.
pub(super) fn is_partly_copied(
    shared: &Shared,
    table: &Table,
    feeder: Origin,
) -> Result<bool, ReplicationError> {
    let saved = shared.store.note(&copy_note(noted_as(table, feeder), table.partition()))?;
    Ok(saved.is_some_and(|bytes| !bytes.is_empty()))
}

fn rules(counts: &Counts) -> Rules {
    Rules {
        time_lanes: counts.time_lanes,
        base: counts.base.iter().filter_map(ExpiredBefore::expiry).collect(),
        time_floor: counts.floors.as_ref().map_or(i64::MIN, |floors| floors.time),
        kills_floor: counts.floors.as_ref().map_or(0, |floors| floors.kills),
        families: counts.families,
    }
}

fn copy_done(origin: Origin, copy: &Copying) -> CopyDone {
    let vector = copy.first.vector.iter();
    let vector = vector
        .map(|mark| Watermark {
            origin: Origin(mark.origin as u8),
            lsn: Lsn(mark.lsn),
            hlc: Hlc(mark.hlc),
        })
        .collect();
    let known = copy.first.vector.iter().filter(|mark| mark.life > 0);
    let life =
        |mark: &frame::Watermark| Stamp { hlc: Hlc(mark.life), origin: Origin(mark.origin as u8) };
    CopyDone {
        origin,
        lives: known.map(life).collect(),
        epoch: copy.epoch,
        lsn: Lsn(copy.first.first_lsn),
        hlc: Hlc(copy.first.first_hlc),
        vector,
        expiry: copy.expiry.clone(),
        made: copy.first.made.as_ref().map(Made::ranges),
        settled: copy.first.made.as_ref().and_then(Made::settled),
        atomics: copy.atomics.clone(),
        table: Some(copy.table.clone()),
        rules: copy.counts.as_ref().map(rules),
    }
}

type Rows = Vec<(EncodedKey, isthmus_model::row::Row)>;

/// The rows of a chunk, and the fingerprints of what is to go.
fn decode_rows(bytes: bytes::Bytes) -> Result<(Rows, Bytes), ReplicationError> {
    let copied = CopiedRows::decode(bytes)
        .map_err(|_| ReplicationError::Damaged("a chunk cannot be decoded"))?;
    let mut rows = Vec::with_capacity(copied.rows.len());
    for row in copied.rows {
        let decoded = decode_row(&row.row)
            .map_err(|_| ReplicationError::Damaged("a row of a chunk is damaged"))?;
        rows.push((EncodedKey(row.key), decoded));
    }
    Ok((rows, copied.gone))
}
