//! Copying: a snapshot goes over in chunks, or what of it the replica has not alike.
//!
//! One snapshot is held while a copy runs and given up when the link opens anew, pauses, or the
//! snapshot has grown old; the replica remembers how far it came, and a copy goes on there from a
//! newer snapshot. Deciding what to send is `link.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_model::key::EncodedKey;
use isthmus_store::digest::DigestView;
use isthmus_store::{StoreError, TableSnapshot, keys};
use prost::Message;

use super::{Shared, Shipping};
use crate::differential::{self, Picked};
use crate::error::ReplicationError;
use crate::frame::{
    Body, CopiedRow, CopiedRows, CopyBegin, CopyChunk, CopyProgress, CopyWant, DecidedBatch,
    ExpiredBefore, Made, Watermark,
};
use crate::limits::{CHUNK_BYTES_MAX, SNAPSHOT_AGE_MAX};
use crate::link::Event;
use crate::pack::pack;
use crate::progress::Progress;

/// A snapshot that is being copied.
pub(super) struct CopyScan {
    snapshot: TableSnapshot,
    /// The digest of that moment, if ranges are offered before they are sent.
    view: Option<DigestView>,
    taken_at: Duration,
    chunks: u64,
    offers: u64,
    /// Rows in the ranges that are offered, by number.
    offered_rows: BTreeMap<u64, u64>,
    /// What the replica answered, by number.
    pub(super) wants: BTreeMap<u64, CopyWant>,
    /// What is being sent of the range that was answered first.
    picked: Option<Picked>,
    /// Rows that are settled with the chunk that is sent next and not in it: alike, or not taken.
    unsent: u64,
}

impl Shipping {
    /// Takes a snapshot and says that a copy begins, or goes on.
    pub(super) fn begin_copy(
        &mut self,
        partition: PartitionId,
        resumed: Option<CopyProgress>,
        now: Duration,
    ) -> Result<Body, ReplicationError> {
        self.stand_for_copy(resumed.as_ref().map(|progress| Lsn(progress.first_lsn)))?;
        let view = match self.table.digest_view() {
            Ok(view) => Some(view),
            // Without a digest at hand all is copied, and nobody knows how much that is.
            Err(StoreError::NoDigest(_) | StoreError::Busy) => None,
            Err(error) => return Err(error.into()),
        };
        let next_key = resumed.as_ref().map(|progress| &progress.next_key[..]);
        let rows = view.as_ref().map(|view| match &self.carried.extract {
            // Of a part of the keys only those are looked at.
            Some(extract) => differential::rows_within(view, next_key, extract.range()),
            None => differential::rows_after(view, next_key),
        });
        let (total, left) = rows.map_or((None, 0), |(total, left)| (Some(total), left));
        self.progress = Some(Progress::new(total, total.unwrap_or(0) - left, now));
        let view = view.filter(|_| self.offers);
        let snapshot = match &view {
            Some(view) => view.snapshot().clone(),
            None => self.table.snapshot()?,
        };
        let snapshot_lsn = snapshot.lsn();
        let vector = watermarks(&snapshot);
        let progress = resumed.unwrap_or_else(|| CopyProgress {
            first_lsn: snapshot.lsn().0,
            first_hlc: snapshot.hlc().0,
            vector: vector.clone(),
            next_key: Bytes::new(),
            feeder: 0,
            made: Some(Made::of(snapshot.made(), snapshot.spec().settled)),
        });
        let table = keys::table::encode_value(snapshot.spec());
        let expiry = snapshot.expiry().iter().map(ExpiredBefore::of).collect();
        let (counts, offers) = (differential::counts(snapshot.rules()), view.is_some());
        // Of an extract nobody goes on.
        let (intents, decided) = match &self.carried.extract {
            Some(_) => Default::default(),
            None => snapshot.atomics()?.encode(partition),
        };
        let decided = decided.into_iter().map(|(key, value)| DecidedBatch { key, value });
        self.under_way.clear();
        self.copy = Some(CopyScan {
            snapshot,
            view,
            taken_at: now,
            chunks: 0,
            offers: 0,
            offered_rows: BTreeMap::new(),
            wants: BTreeMap::new(),
            picked: None,
            unsent: 0,
        });
        self.link.step(Event::Appended(snapshot_lsn));
        self.stands_when_copied(&progress.vector);
        self.link.step(Event::CopyBegan { progress: progress.clone(), offers });
        Ok(Body::CopyBegin(CopyBegin {
            partition: partition.0,
            epoch: self.link.epoch.0,
            progress: Some(progress),
            vector,
            table,
            expiry,
            counts: Some(counts),
            intents,
            decided: decided.collect(),
        }))
    }

    pub(super) fn check_age(&self, shared: &Shared) -> Result<(), ReplicationError> {
        let Some(copy) = &self.copy else {
            return Err(ReplicationError::Refused("the snapshot of the copy is gone".to_owned()));
        };
        if shared.clock.monotonic() > copy.taken_at + SNAPSHOT_AGE_MAX {
            // An old snapshot keeps what is overwritten on disk; opening anew takes a new one.
            return Err(ReplicationError::Refused("taking a new snapshot for the copy".to_owned()));
        }
        Ok(())
    }

    pub(super) fn send_offer(
        &mut self,
        partition: PartitionId,
        key: &Bytes,
        offer_rows: u64,
    ) -> Result<Option<Body>, ReplicationError> {
        let copy = self.copy.as_mut().and_then(|copy| Some((copy.view.take()?, copy)));
        let Some((view, copy)) = copy else {
            return Err(ReplicationError::Refused("the digest of the copy is gone".to_owned()));
        };
        copy.offers += 1;
        let number = copy.offers;
        let offered = differential::offer(&view, (partition.0, number), key, offer_rows);
        copy.view = Some(view);
        copy.offered_rows.insert(number, offered.rows);
        self.link.step(Event::Offered { number, next_key: offered.end });
        Ok(Some(Body::CopyOffer(offered.offer)))
    }

    /// Sends what the replica wants of a range, as much as fits a chunk.
    pub(super) fn send_wanted(
        &mut self,
        partition: PartitionId,
        offer: u64,
        start: &Bytes,
        end: Option<&Bytes>,
    ) -> Result<Option<Body>, ReplicationError> {
        let bytes_max = self.brake.parcel_bytes(CHUNK_BYTES_MAX);
        let gone_error = || ReplicationError::Refused("the digest of the copy is gone".to_owned());
        let copy = self.copy.as_mut().ok_or_else(gone_error)?;
        let range_rows = copy.offered_rows.get(&offer).copied().unwrap_or_default();
        if copy.picked.is_none() {
            let view = copy.view.as_ref().ok_or_else(gone_error)?;
            let want = copy.wants.remove(&offer).ok_or_else(gone_error)?;
            let picked = differential::pick(view, &want, range_rows)?;
            if let Picked::Rows { rows, .. } = &picked {
                copy.unsent = range_rows.saturating_sub(rows.len() as u64);
                self.alike_rows += copy.unsent;
            }
            copy.picked = Some(picked);
        }
        let Some(Picked::Rows { rows, gone }) = &mut copy.picked else {
            return self.send_chunk(partition, start, end, offer);
        };
        let mut sent = CopiedRows { rows: Vec::new(), gone: std::mem::take(gone).into() };
        let mut bytes = sent.gone.len();
        let mut next_key = end.cloned();
        while let Some((key, kept)) = rows.pop_front() {
            if bytes >= bytes_max {
                next_key = Some(key.clone());
                rows.push_front((key, kept));
                break;
            }
            let key = EncodedKey(key);
            let row = match kept {
                Some(row) => row,
                None => copy.snapshot.get_packed(&key)?.unwrap_or_default(),
            };
            bytes += key.0.len() + row.len();
            sent.rows.push(CopiedRow { key: key.0, row });
        }
        copy.chunks += 1;
        let (number, count) = (copy.chunks, sent.rows.len() as u64);
        let chunk = CopyChunk {
            partition: partition.0,
            number,
            start: start.clone(),
            end: next_key.clone().unwrap_or_default(),
            body: Some(pack(sent.encode_to_vec(), self.method)),
            rows: count,
            offer,
            scattered: true,
        };
        self.chunk_sent(number, bytes, next_key, count, end);
        Ok(Some(Body::CopyChunk(chunk)))
    }

    /// Takes note of a chunk of a range that ends at `end`.
    fn chunk_sent(
        &mut self,
        number: u64,
        bytes: usize,
        next_key: Option<Bytes>,
        rows: u64,
        end: Option<&Bytes>,
    ) {
        self.sent_bytes += bytes as u64;
        self.sent_entries += rows;
        if let Some(copy) = &mut self.copy {
            let settled = rows + std::mem::take(&mut copy.unsent);
            self.under_way.push_back((number, settled, bytes as u64));
            if next_key.as_ref() == end {
                copy.picked = None;
            }
        }
        if next_key.is_none() {
            self.copy = None;
        }
        self.link.step(Event::ChunkSent { number, bytes, next_key, rows });
    }

    /// Takes note that a chunk is durable at the replica.
    pub(super) fn chunk_acked(&mut self, number: u64, now: Duration) {
        let front = self.under_way.pop_front_if(|(sent, ..)| *sent == number);
        if let (Some((_, rows, bytes)), Some(progress)) = (front, &mut self.progress) {
            progress.done(rows, bytes, now);
        }
    }

    pub(super) fn send_chunk(
        &mut self,
        partition: PartitionId,
        key: &Bytes,
        end: Option<&Bytes>,
        offer: u64,
    ) -> Result<Option<Body>, ReplicationError> {
        let Some(copy) = &mut self.copy else {
            return Err(ReplicationError::Refused("the snapshot of the copy is gone".to_owned()));
        };
        let start = EncodedKey(key.clone());
        let bytes_max = self.brake.parcel_bytes(CHUNK_BYTES_MAX);
        let now_millis = self.carried.opened_millis;
        let (rows, bytes, next_key) = match &self.carried.extract {
            Some(extract) => {
                let chunk = extract.read_chunk(&copy.snapshot, &start, now_millis, bytes_max)?;
                copy.unsent = (chunk.looked_at - chunk.rows.rows.len()) as u64;
                (chunk.rows, chunk.bytes, chunk.next_key)
            }
            None => read_chunk(&copy.snapshot, &start, end, bytes_max)?,
        };
        let next_key = next_key.or_else(|| end.cloned());
        copy.chunks += 1;
        let number = copy.chunks;
        let count = rows.rows.len() as u64;
        let chunk = CopyChunk {
            partition: partition.0,
            number,
            start: key.clone(),
            end: next_key.clone().unwrap_or_default(),
            body: Some(pack(rows.encode_to_vec(), self.method)),
            rows: count,
            offer,
            scattered: false,
        };
        self.chunk_sent(number, bytes, next_key, count, end);
        Ok(Some(Body::CopyChunk(chunk)))
    }
}

fn watermarks(snapshot: &TableSnapshot) -> Vec<Watermark> {
    let vector = snapshot.vector().into_iter();
    vector
        .map(|mark| Watermark {
            origin: u32::from(mark.origin.0),
            lsn: mark.lsn.0,
            hlc: mark.hlc.0,
            life: snapshot.life_met(mark.origin).0,
        })
        .collect()
}

/// Rows from `start` of about `bytes_max` bytes, their size, and the first key after them before
/// `end`, if there is one.
fn read_chunk(
    snapshot: &TableSnapshot,
    start: &EncodedKey,
    end: Option<&Bytes>,
    bytes_max: usize,
) -> Result<(CopiedRows, usize, Option<Bytes>), ReplicationError> {
    let mut rows = CopiedRows::default();
    let mut bytes = 0;
    let end = end.map(|end| EncodedKey(end.clone()));
    for row in snapshot.scan_packed(start, end.as_ref(), Direction::Forward) {
        let (key, row) = row?;
        if bytes >= bytes_max {
            return Ok((rows, bytes, Some(key.0)));
        }
        bytes += key.0.len() + row.len();
        rows.rows.push(CopiedRow { key: key.0, row });
    }
    Ok((rows, bytes, None))
}
