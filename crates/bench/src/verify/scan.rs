//! What is done without digests: both regions are read whole and compared.
//!
//! Ranges of known keys are asked of both regions at once, several at a time; answers of the same
//! bytes are alike and need not be decoded, which is the least that a client can do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use isthmus_protocol::client::decode_get_range;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::error::{BenchError, Result};
use crate::load::{Connection, Target, runtime};
use crate::rows::{RowSet, range_between};

/// Rows of one range.
const RANGE: u64 = 4000;
/// Ranges at once.
const AT_ONCE: usize = 4;

/// A full scan of both sides.
#[derive(Debug, Serialize)]
pub(super) struct Scanned {
    differing: u64,
    seconds: f64,
    bytes: u64,
    rows_read: u64,
    rows_found: u64,
}

pub(super) const HEADINGS: [&str; 5] =
    ["FULL SCAN, DIFFERING", "SECONDS", "MIB", "ROWS READ", "FOUND"];

impl Scanned {
    pub(super) fn cells(&self) -> Vec<String> {
        vec![
            self.differing.to_string(),
            format!("{:.1}", self.seconds),
            format!("{:.0}", self.bytes as f64 / (1024.0 * 1024.0)),
            self.rows_read.to_string(),
            self.rows_found.to_string(),
        ]
    }
}

#[derive(Default)]
struct Counts {
    next: AtomicU64,
    bytes: AtomicU64,
    found: AtomicU64,
}

/// Reads and compares all rows of the two regions.
pub(super) fn scan(cluster: &Cluster, rows: RowSet, differing: u64) -> Result<Scanned> {
    let counts = Arc::new(Counts::default());
    let targets = [cluster.target(0)?, cluster.target(1)?];
    let start = Instant::now();
    runtime()?.block_on(async {
        let mut workers = JoinSet::new();
        for _ in 0..AT_ONCE {
            workers.spawn(compare_ranges(targets.clone(), rows.count, counts.clone()));
        }
        while let Some(joined) = workers.join_next().await {
            joined.map_err(|error| BenchError::failed(error.to_string()))??;
        }
        Ok::<(), BenchError>(())
    })?;
    let scanned = Scanned {
        differing,
        seconds: start.elapsed().as_secs_f64(),
        bytes: counts.bytes.load(Ordering::Relaxed),
        rows_read: rows.count * 2,
        rows_found: counts.found.load(Ordering::Relaxed),
    };
    eprintln!("{differing} differ: full scan of both sides in {:.1} s", scanned.seconds);
    Ok(scanned)
}

async fn compare_ranges(targets: [Target; 2], rows: u64, counts: Arc<Counts>) -> Result<()> {
    let mut first = Connection::open(&targets[0]).await?;
    let mut second = Connection::open(&targets[1]).await?;
    loop {
        let start = counts.next.fetch_add(RANGE, Ordering::Relaxed);
        if start >= rows {
            return Ok(());
        }
        let prepared = range_between(start, rows.min(start + RANGE));
        let (one, other) = tokio::try_join!(
            first.exchange("/GetRange", &prepared, true),
            second.exchange("/GetRange", &prepared, true)
        )?;
        if one.status != 200 || other.status != 200 {
            let text = format!("a scan was answered {} and {}", one.status, other.status);
            return Err(BenchError::Failed(text));
        }
        let (one, other) = (first.body(one), second.body(other));
        counts.bytes.fetch_add((one.len() + other.len()) as u64, Ordering::Relaxed);
        if one != other {
            let found = differences(one, other)?;
            counts.found.fetch_add(found, Ordering::Relaxed);
        }
    }
}

/// Rows that are not alike in two answers.
fn differences(one: &[u8], other: &[u8]) -> Result<u64> {
    let read = |body: &[u8]| -> Result<BTreeMap<String, _>> {
        let page = decode_get_range(Bytes::copy_from_slice(body))?;
        if page.next_start.is_some() {
            return Err(BenchError::failed("a range was cut into pages"));
        }
        Ok(page.rows.into_iter().map(|row| (format!("{:?}", row.row.key), row)).collect())
    };
    let (one, other) = (read(one)?, read(other)?);
    let changed = one.iter().filter(|(key, row)| other.get(*key) != Some(row)).count();
    let extra = other.keys().filter(|key| !one.contains_key(*key)).count();
    Ok((changed + extra) as u64)
}
