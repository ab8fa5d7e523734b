//! Forecasts of copies: measures what a copy to another region would meet, tells what follows
//! from it, and keeps that beside what the copy then took.
//!
//! Measuring is short and bounded: some round trips, a few MiB over the network, one chunk of
//! rows read here and made durable there (as a note that goes again). It changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::forecast::{Forecast, Measures};
use isthmus_model::change::Direction;
use isthmus_model::ids::PartitionId;
use isthmus_model::key::EncodedKey;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::frame::{CopiedRow, CopiedRows, Packed};
use isthmus_replication::limits::CHUNK_BYTES_MAX;
use isthmus_replication::link::State;
use isthmus_replication::pack::{Method, pack, unpack};
use isthmus_replication::ship::StateChange;
use isthmus_replication::throttle::{SEND_CPU_PERCENT, Throttle};
use isthmus_store::codec::row::decode_row;
use isthmus_store::{Store, StoreError, Table};
use parking_lot::Mutex;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::Node;
use crate::api_error::ApiError;
use crate::peer::call::{Measure, Question};
use crate::status::EndedCopy;

/// Round trips that are measured; the middle one counts.
const ROUND_TRIPS: usize = 5;
/// Bytes of the messages by which bandwidth is measured: small first, for slow networks.
pub(super) const MESSAGE_BYTES: [usize; 2] = [64 * 1024, 1024 * 1024];
/// Messages under way at once where the gain by that is measured.
const UNDER_WAY: usize = 4;
/// A message that took longer tells enough.
pub(super) const LONG: Duration = Duration::from_millis(500);
/// What the other region is asked for in all, at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Copies of fewer bytes say little about large ones.
const LARGE_BYTES: u64 = 4 * 1024 * 1024;
const NOTES: &str = "forecast/";
const SAMPLE_NOTE: &[u8] = b"sample";

/// Copies that were forecast or made, by partition and region.
pub(super) struct Copies(Mutex<BTreeMap<(PartitionId, String), CopyRecord>>);

/// What is kept of copies of one partition to one region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct CopyRecord {
    /// For the next copy.
    forecast: Option<Forecast>,
    /// The last one that ended.
    last: Option<EndedCopy>,
    /// The one that runs: as it was when it began.
    #[serde(skip)]
    running: Option<StateChange>,
}

impl Copies {
    /// Those of earlier lives.
    pub(super) fn read(store: &Store) -> Result<Copies, StoreError> {
        let mut copies = BTreeMap::new();
        for (name, note) in store.notes(NOTES.as_bytes())? {
            let name = String::from_utf8_lossy(&name[NOTES.len()..]).into_owned();
            let place = name.split_once('/').and_then(|(id, region)| {
                let id = u64::from_str_radix(id, 16).ok()?;
                Some((PartitionId(id), region.to_owned()))
            });
            if let (Some(place), Ok(record)) = (place, serde_json::from_slice(&note)) {
                copies.insert(place, record);
            }
        }
        Ok(Copies(Mutex::new(copies)))
    }

    /// The last copy that ended.
    pub(super) fn last(&self, partition: PartitionId, region: &str) -> Option<EndedCopy> {
        let copies = self.0.lock();
        copies.get(&(partition, region.to_owned()))?.last.clone()
    }

    /// Bytes each second of the last large copy to a region.
    fn past_rate(&self, region: &str) -> Option<f64> {
        let copies = self.0.lock();
        let of_region = copies.iter().filter(|((_, to), _)| to == region);
        let large = of_region
            .filter_map(|(_, record)| record.last.as_ref())
            .filter(|last| last.bytes >= LARGE_BYTES && last.ended_ms > last.began_ms)
            // What a person asked of that link says nothing of others.
            .filter(|last| !last.throttled);
        let newest = large.max_by_key(|last| last.ended_ms)?;
        Some(newest.bytes as f64 / newest.seconds())
    }

    fn keep(
        &self,
        store: &Store,
        partition: PartitionId,
        region: &str,
        change: impl FnOnce(&mut CopyRecord),
    ) {
        let mut copies = self.0.lock();
        let record = copies.entry((partition, region.to_owned())).or_default();
        change(record);
        if let Ok(note) = serde_json::to_vec(record) {
            let name = format!("{NOTES}{:016x}/{region}", partition.0);
            // Should it be lost in a crash, a forecast stands alone.
            drop(store.put_note(name.as_bytes(), &note));
        }
    }

    /// Forgets what partitions that are gone had.
    pub(super) fn forget_all_but(&self, store: &Store, is_there: impl Fn(PartitionId) -> bool) {
        self.0.lock().retain(|(partition, region), _| {
            let stays = is_there(*partition);
            if !stays {
                let name = format!("{NOTES}{:016x}/{region}", partition.0);
                drop(store.delete_note(name.as_bytes()));
            }
            stays
        });
    }

    /// Takes note of a link that came into another state; `throttled`: a person says how fast it
    /// may ship.
    pub(super) fn changed(
        &self,
        store: &Store,
        region: &str,
        change: &StateChange,
        throttled: bool,
    ) {
        match change.to {
            State::Copying => {
                let mut copies = self.0.lock();
                let place = (change.partition, region.to_owned());
                // A copy that was interrupted goes on.
                copies.entry(place).or_default().running.get_or_insert_with(|| change.clone());
            }
            State::Following => {
                let place = (change.partition, region.to_owned());
                let running = self.0.lock().get_mut(&place).and_then(|it| it.running.take());
                let Some(began) = running else { return };
                self.keep(store, change.partition, region, |record| {
                    record.last = Some(EndedCopy {
                        began_ms: began.at_millis,
                        ended_ms: change.at_millis,
                        throttled,
                        rows: change.copied_rows.saturating_sub(began.copied_rows),
                        bytes: change.traffic.bytes.saturating_sub(began.traffic.bytes),
                        wire_bytes: change
                            .traffic
                            .wire_bytes
                            .saturating_sub(began.traffic.wire_bytes),
                        forecast_seconds: record.forecast.map(|forecast| forecast.seconds),
                        forecast_wire_bytes: record.forecast.map(|forecast| forecast.wire_bytes),
                    });
                    record.forecast = None;
                });
            }
            State::Opening
            | State::Paused
            | State::Stopped
            | State::Gap
            | State::Fenced
            | State::Broken => {}
        }
    }
}

/// A chunk of a table's rows, and how it was read.
struct Sample {
    rows: u64,
    row_bytes: f64,
    packed: Packed,
    sample_bytes: f64,
    took: Duration,
}

impl Sample {
    /// Bytes of rows each second.
    fn rate(&self, took: Duration) -> f64 {
        self.sample_bytes / took.as_secs_f64().max(1e-6)
    }

    /// Adds what it tells.
    fn measures(&self, measures: Measures) -> Measures {
        Measures {
            rows: self.rows,
            row_bytes: self.row_bytes,
            compression: self.packed.bytes_unpacked as f64 / self.packed.data.len().max(1) as f64,
            reads: self.rate(self.took),
            ..measures
        }
    }
}

/// A message of so many bytes.
fn send(bytes: usize) -> Measure {
    Measure { payload: Bytes::from(vec![0; bytes]), rows: None }
}

impl Node {
    /// Measures what a copy of a table to another region would meet, and tells what follows. The
    /// forecast is kept for the copy. Without a table only the network is measured.
    pub async fn plan(self: Arc<Self>, table: Option<&str>, to: &str) -> Result<Json, ApiError> {
        if !self.is_member(to) {
            return Err(ApiError::invalid(format!("Region {to} is not configured.")));
        }
        let table = table.map(|name| self.table_named(name)).transpose()?;
        let mut measures = self.measure_network(to).await?;
        measures.past = self.copies.past_rate(to);
        let from = &self.config.region.name;
        let Some(table) = table else {
            return Ok(json!({ "from": from, "to": to, "measures": measures }));
        };
        let (node, sampled) = (self.clone(), table.clone());
        let sample = tokio::task::spawn_blocking(move || node.sample(&sampled)).await;
        let broke = |_| ApiError::new(ErrorCode::InternalServerError, "Internal server error.");
        let sample = sample.map_err(broke)??;
        measures = sample.measures(measures);
        let rows = Some(sample.packed.clone());
        let (took, work) = self.measure(to, Measure { payload: Bytes::new(), rows }).await?;
        measures.takes = sample.rate(if work.is_zero() { took } else { work });
        let throttle = self.throttle_to(&table, to);
        measures.bytes_per_second = throttle.bytes_per_second;
        measures.entries_per_second = throttle.entries_per_second;
        measures.copy_cpu_percent = throttle.copy_cpu_percent.or(Some(SEND_CPU_PERCENT));
        if throttle.copy_cpu_percent > Some(SEND_CPU_PERCENT) {
            // The last one was given less.
            measures.past = None;
        }
        let forecast = measures.forecast();
        self.copies.keep(&self.store, table.partition(), to, |record| {
            record.forecast = Some(forecast);
        });
        Ok(json!({
            "table": table.name().as_str(),
            "from": from,
            "to": to,
            "measures": measures,
            "gain": measures.gain(),
            "forecast": forecast,
            "last_copy": self.copies.last(table.partition(), to),
        }))
    }

    /// How fast the link of a table to a region may ship, or may once there is one.
    pub(super) fn throttle_to(&self, table: &Table, to: &str) -> Throttle {
        let record = self.record(table.id());
        record.map(|record| self.terms_of(&record.table, to).throttle).unwrap_or_default()
    }

    pub(super) async fn measure_network(self: &Arc<Self>, to: &str) -> Result<Measures, ApiError> {
        let mut round_trips = self.round_trips(to, ROUND_TRIPS).await?;
        round_trips.sort_unstable();
        let round_trip = round_trips[ROUND_TRIPS / 2];
        let mut bandwidth = 0.0f64;
        let mut bytes = MESSAGE_BYTES[0];
        for size in MESSAGE_BYTES {
            let took = self.measure(to, send(size)).await?.0;
            bandwidth = bandwidth.max(each_second(size, took, round_trip));
            bytes = size;
            if took > LONG {
                break;
            }
        }
        let began = self.clock.monotonic();
        let mut under_way = tokio::task::JoinSet::new();
        for _ in 0..UNDER_WAY {
            let (node, to) = (self.clone(), to.to_owned());
            under_way.spawn(async move { node.measure(&to, send(bytes)).await.map(drop) });
        }
        let answers = under_way.join_all().await;
        answers.into_iter().collect::<Result<(), ApiError>>()?;
        let took = self.clock.monotonic().saturating_sub(began);
        let together = each_second(bytes * UNDER_WAY, took, round_trip);
        Ok(Measures {
            bandwidth,
            round_trip_ms: round_trip.as_secs_f64() * 1e3,
            compression: 1.0,
            parallelism: (together / bandwidth.max(1.0)).max(1.0),
            ..Measures::default()
        })
    }

    /// How long so many round trips to another region took, one after the other.
    pub(super) async fn round_trips(
        &self,
        to: &str,
        count: usize,
    ) -> Result<Vec<Duration>, ApiError> {
        let mut round_trips = Vec::with_capacity(count);
        for _ in 0..count {
            round_trips.push(self.measure(to, send(0)).await?.0);
        }
        Ok(round_trips)
    }

    /// What a copy of a table would have to carry: rows, bytes, how well they are compressed, how
    /// fast they are read here.
    pub(super) async fn size_of_copy(self: Arc<Self>, table: &str) -> Result<Measures, ApiError> {
        let table = self.table_named(table)?;
        let sample = tokio::task::spawn_blocking(move || self.sample(&table)).await;
        let sample = sample.map_err(|_| ApiError::internal())??;
        Ok(sample.measures(Measures::default()))
    }

    /// How long the other region took to answer, and how much of that it worked.
    async fn measure(&self, to: &str, measure: Measure) -> Result<(Duration, Duration), ApiError> {
        let began = self.clock.monotonic();
        let asked = self.ask(to, Question::Measure(measure));
        let late = || ApiError::new(ErrorCode::Timeout, format!("Region {to} is too slow."));
        let answer = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| late())??;
        let took = self.clock.monotonic().saturating_sub(began);
        let work = answer.as_ref().try_into().map_or(0, u64::from_be_bytes);
        Ok((took, Duration::from_nanos(work)))
    }

    /// Answers another region that measures: takes rows as a copy would, but for their table.
    pub(super) async fn on_measure(&self, measure: Measure) -> Result<Bytes, ApiError> {
        let Some(packed) = measure.rows else { return Ok(Bytes::new()) };
        let damaged = || ApiError::invalid("The rows of a measurement are damaged.");
        if packed.bytes_unpacked > 2 * CHUNK_BYTES_MAX as u64 {
            return Err(damaged());
        }
        let began = self.clock.monotonic();
        let bytes = unpack(&packed).map_err(|_| damaged())?;
        let rows = CopiedRows::decode(bytes.clone()).map_err(|_| damaged())?;
        if rows.rows.iter().any(|row| decode_row(&row.row).is_err()) {
            return Err(damaged());
        }
        self.store.put_note(SAMPLE_NOTE, &bytes).await?;
        let work = self.clock.monotonic().saturating_sub(began);
        self.store.delete_note(SAMPLE_NOTE).await?;
        let nanos = u64::try_from(work.as_nanos()).unwrap_or(u64::MAX);
        Ok(Bytes::copy_from_slice(&nanos.to_be_bytes()))
    }

    /// Reads and packs a chunk of rows, as a copy does. Blocks.
    fn sample(&self, table: &Table) -> Result<Sample, ApiError> {
        let began = self.clock.monotonic();
        let snapshot = table.snapshot()?;
        let (mut rows, mut bytes) = (CopiedRows::default(), 0);
        for row in snapshot.scan_packed(&EncodedKey::default(), None, Direction::Forward) {
            let (key, row) = row?;
            bytes += key.0.len() + row.len();
            rows.rows.push(CopiedRow { key: key.0, row });
            if bytes >= CHUNK_BYTES_MAX {
                break;
            }
        }
        let count = rows.rows.len() as u64;
        let packed = pack(rows.encode_to_vec(), Method::Plain);
        let took = self.clock.monotonic().saturating_sub(began);
        // Where no digest counts them, what was read is all that is known.
        let rows = match table.digest_view() {
            Ok(view) => view.tree().rows().max(count),
            Err(_) => count,
        };
        let (row_bytes, sample_bytes) = (bytes as f64 / count.max(1) as f64, bytes as f64);
        Ok(Sample { rows, row_bytes, packed, sample_bytes, took })
    }
}

pub(super) fn each_second(bytes: usize, took: Duration, round_trip: Duration) -> f64 {
    // On a fast network the two are alike, and their difference is noise.
    let net = took.saturating_sub(round_trip).max(took / 4);
    bytes as f64 / net.as_secs_f64().max(1e-6)
}
