//! Samples of what partitions hold and are asked for: how large they are, and where they would be
//! split.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use isthmus_control::distribution::reshape::Why;
use isthmus_control::distribution::{Distribution, Point, name_of_partition};
use isthmus_digest::Lane;
use isthmus_model::change::Direction;
use isthmus_model::key::EncodedKey;
use isthmus_store::{Table, TableSnapshot};
use parking_lot::Mutex;

use super::Load;
use crate::api_error::ApiError;
use crate::node::Node;

/// Of a partition with so many rows at most each is looked at.
const ROWS_ALL: u64 = 20_000;
/// Else about so many.
const ROWS_SAMPLED: usize = 1000;
/// Rows by which bytes are measured: runs of so many, at so many places.
const RUN: usize = 16;
const RUNS: usize = 16;
/// A partition is measured again when its log has grown by one in so many entries, or after so
/// long: rows expire without an entry for each.
const ENTRIES_SHARE: u64 = 20;
const MEASURED_FOR: Duration = Duration::from_secs(5 * 60);
/// One row that is asked for in so many is remembered, the last so many of them, for so long.
const ASKED_SHARE: u64 = 4;
const ASKED_KEPT: usize = 128;
const ASKED_FOR: Duration = Duration::from_secs(30);

/// How large a partition was found.
#[derive(Clone, Copy, Debug)]
struct Size {
    entries: u64,
    bytes: u64,
    /// When, by the monotonic clock.
    at: Duration,
}

/// How large partitions are that are written here.
#[derive(Default)]
pub(super) struct Sizes(Mutex<BTreeMap<String, Size>>);

impl Sizes {
    pub(super) fn of(&self, partition: &str) -> Option<u64> {
        self.0.lock().get(partition).map(|size| size.bytes)
    }

    fn is_due(&self, partition: &str, entries: u64, now: Duration) -> bool {
        let known = self.0.lock().get(partition).copied();
        known.is_none_or(|known| {
            let more = entries.saturating_sub(known.entries);
            more > known.entries / ENTRIES_SHARE || now.saturating_sub(known.at) >= MEASURED_FOR
        })
    }
}

impl Load {
    /// Remembers what a request was for, now and then.
    pub(super) fn note_point(&self, now: Duration, point: impl FnOnce() -> Point) {
        if !self.rows.fetch_add(1, Ordering::Relaxed).is_multiple_of(ASKED_SHARE) {
            return;
        }
        let mut points = self.points.lock();
        if points.len() >= ASKED_KEPT {
            points.pop_front();
        }
        points.push_back((now, point()));
    }
}

impl Node {
    /// Measures partitions of tables with limits that are written here and have grown.
    pub(super) async fn measure_partitions(self: &Arc<Self>) {
        for record in self.distributions.all() {
            if !record.limits.are_set() {
                continue;
            }
            for partition in &record.partitions {
                let name = name_of_partition(&record.name, partition.number);
                let Some(table) = self.store.table_by_name(&name) else { continue };
                let (entries, at) = (table.durable_lsn().0, self.clock.monotonic());
                let is_due = table.writer_word().accepts
                    && self.distributions.sizes.is_due(&name, entries, at);
                if !is_due {
                    continue;
                }
                let measured = tokio::task::spawn_blocking(move || bytes_of(&table)).await;
                if let Ok(Ok(Some(bytes))) = measured {
                    self.distributions.sizes.0.lock().insert(name, Size { entries, bytes, at });
                }
            }
        }
        let partitions = |record: &Distribution| {
            let numbers: Vec<u32> = record.partitions.iter().map(|one| one.number).collect();
            let name = record.name.clone();
            numbers.into_iter().map(move |number| name_of_partition(&name, number))
        };
        let all = self.distributions.all();
        let known: BTreeSet<String> = all.iter().flat_map(|record| partitions(record)).collect();
        self.distributions.sizes.0.lock().retain(|name, _| known.contains(name));
    }

    /// Points of a partition: of what it holds, where it is held, or of what was asked for lately
    /// through this region.
    pub(super) async fn on_points(
        &self,
        table: &str,
        (id, number): (&str, u32),
        of: Why,
    ) -> Result<Vec<Point>, ApiError> {
        let record = self.distribution(table).filter(|record| record.id == id);
        let record = record.ok_or_else(ApiError::no_table)?;
        let name = name_of_partition(table, number);
        if of == Why::Load {
            let load = self.distributions.load_of(&name);
            let now = self.clock.monotonic();
            let points = load.points.lock();
            let lately = points.iter().filter(|(at, _)| now.saturating_sub(*at) <= ASKED_FOR);
            return Ok(lately.map(|(_, point)| point.clone()).collect());
        }
        let held = self.store.table_by_name(&name).ok_or_else(ApiError::no_table)?;
        let sampled = tokio::task::spawn_blocking(move || {
            let keys = sampled_keys(&held)?;
            Ok(keys.iter().filter_map(|key| record.point_of_row(key)).collect())
        });
        sampled.await.map_err(|_| ApiError::internal())?
    }
}

/// About how many bytes a partition's rows are; `None`: they are not counted. Blocks.
fn bytes_of(table: &Table) -> Result<Option<u64>, ApiError> {
    let Some((rows, starts)) = counted(table) else { return Ok(None) };
    let snapshot = table.snapshot()?;
    let step = starts.len().div_ceil(RUNS).max(1);
    let (mut bytes, mut count) = (0usize, 0usize);
    for start in starts.iter().step_by(step) {
        for row in snapshot.scan_packed(start, None, Direction::Forward).take(RUN) {
            let (key, row) = row?;
            bytes += key.0.len() + row.len();
            count += 1;
        }
    }
    Ok(Some((bytes as f64 / count.max(1) as f64 * rows as f64) as u64))
}

/// How many rows there are, and keys that divide them into parts that are about alike.
fn counted(table: &Table) -> Option<(u64, Vec<EncodedKey>)> {
    let view = table.digest_view().ok()?;
    let tree = view.tree();
    let most = tree.lanes().into_iter().max_by_key(|root| root.rows);
    let lane = most.map_or(Lane::Data, |root| root.lane);
    let starts = tree.leaves(lane, &[], None).map(|leaf| EncodedKey(leaf.start.into()));
    let mut starts: Vec<EncodedKey> = starts.collect();
    if starts.is_empty() {
        starts.push(EncodedKey::default());
    }
    Some((tree.rows(), starts))
}

/// Keys of rows, spread evenly over a partition. Blocks.
fn sampled_keys(table: &Table) -> Result<Vec<EncodedKey>, ApiError> {
    let snapshot = table.snapshot()?;
    let counted = counted(table);
    let Some((_, starts)) = counted.filter(|(rows, _)| *rows > ROWS_ALL) else {
        return first_keys(&snapshot);
    };
    let runs = (ROWS_SAMPLED / starts.len()).max(1);
    let step = starts.len().div_ceil(ROWS_SAMPLED).max(1);
    let mut keys = Vec::new();
    for start in starts.iter().step_by(step) {
        for row in snapshot.scan_packed(start, None, Direction::Forward).take(runs) {
            keys.push(row?.0);
        }
    }
    Ok(keys)
}

/// The keys of a small partition, or as many as are looked at of one whose rows nobody counts.
fn first_keys(snapshot: &TableSnapshot) -> Result<Vec<EncodedKey>, ApiError> {
    let rows = snapshot.scan_packed(&EncodedKey::default(), None, Direction::Forward);
    let mut keys = Vec::new();
    for row in rows.take(ROWS_ALL as usize) {
        keys.push(row?.0);
    }
    let step = keys.len().div_ceil(ROWS_SAMPLED).max(1);
    Ok(keys.into_iter().step_by(step).collect())
}

/// How often partitions are measured.
pub(super) const MEASURE_EVERY: Duration = Duration::from_secs(2);
