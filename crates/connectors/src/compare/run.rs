//! The merge of two ordered streams of rows, and the second look at what differed.
//!
//! What must hold: each key is judged once; whatever a stream can be asked again for is reported
//! only after it was.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::key::PrimaryKey;
use tokio::time::{Interval, MissedTickBehavior};

use super::again::{Candidate, Spool};
use super::difference::{RowDifference, difference};
use super::error::CompareError;
use super::feed::{Counts, Feed};
use super::hash::{RowHasher, TableHasher};
use super::report::Report;
use super::row::{Row, Versions};
use super::{CompareOptions, Phase, Prepared, Progress, Reading, TableHash};

/// How often progress is told at least, while there is something to wait for.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Rows that are looked at again together.
const AGAIN_ROWS_MAX: usize = 100;
/// Bytes of such rows, but for the last of them.
const AGAIN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Tells progress now and then.
struct Teller<'a> {
    tell: &'a mut (dyn FnMut(Progress) + Send),
    interval: Interval,
    counts: Vec<Arc<Counts>>,
    phase: Phase,
    rows_done: u64,
    rows_differing: u64,
}

impl Teller<'_> {
    fn new(tell: &mut (dyn FnMut(Progress) + Send), counts: Vec<Arc<Counts>>) -> Teller<'_> {
        let mut interval = tokio::time::interval(TELL_EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let phase = Phase::Reading;
        Teller { tell, interval, counts, phase, rows_done: 0, rows_differing: 0 }
    }

    async fn tick(&mut self) {
        self.interval.tick().await;
        self.tell();
    }

    fn tell(&mut self) {
        let rows = |side: usize| self.counts.get(side).map_or(0, |counts| counts.rows());
        (self.tell)(Progress {
            phase: self.phase,
            rows_done: self.rows_done,
            left_rows: rows(0),
            right_rows: rows(1),
            rows_differing: self.rows_differing,
        });
    }
}

/// The next row of a side.
async fn pull(feed: &mut Feed, teller: &mut Teller<'_>) -> Result<Option<Row>, CompareError> {
    loop {
        if let Some(row) = feed.ready()? {
            return Ok(Some(row));
        }
        tokio::select! {
            more = feed.more() => if !more? {
                return Ok(None);
            },
            () = teller.tick() => {}
        }
    }
}

/// Compares two sides and puts into the report what is found, also where it ends with an error.
pub(super) async fn run(
    prepared: Prepared,
    options: &CompareOptions,
    report: &mut Report,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), CompareError> {
    let Prepared { sides, key_columns, versions } = prepared;
    report.versions = versions;
    report.key_columns = key_columns.into_iter().map(|column| column.name).collect();
    let [left, right] = &sides[..] else {
        return Err(CompareError::Unusable { message: "two sides are compared".to_owned() });
    };
    let mut feeds = [left.feed(&report.left.name), right.feed(&report.right.name)];
    let counts: Vec<_> = feeds.iter().map(|feed| Arc::clone(&feed.counts)).collect();
    let teller = Teller::new(tell, counts.clone());
    let mut run = Run { options, versions, left, right, report, teller, listed_bytes: 0 };
    let ended = run.all(&mut feeds).await;
    run.teller.tell();
    for (side, counts) in [&mut report.left, &mut report.right].into_iter().zip(&counts) {
        side.rows_read += counts.rows();
        side.bytes_read = counts.bytes();
    }
    ended
}

struct Run<'a, 'b> {
    options: &'a CompareOptions,
    versions: Versions,
    left: &'a Reading,
    right: &'a Reading,
    report: &'a mut Report,
    teller: Teller<'b>,
    listed_bytes: usize,
}

impl Run<'_, '_> {
    async fn all(&mut self, feeds: &mut [Feed; 2]) -> Result<(), CompareError> {
        let spool = self.pass(feeds).await?;
        self.look_again(spool).await
    }

    /// Whether a row can be read once more.
    fn can_look_again(&self) -> bool {
        let is_store = |reading: &Reading| matches!(reading, Reading::Store(_));
        self.options.looks_again > 0 && (is_store(self.left) || is_store(self.right))
    }

    fn spool(&self) -> Spool {
        Spool::new(self.options.directory.as_deref(), self.versions)
    }

    /// Merges the two streams; gives the rows that are to be looked at again.
    async fn pass(&mut self, feeds: &mut [Feed; 2]) -> Result<Spool, CompareError> {
        let [left_feed, right_feed] = feeds;
        let mut rows = RowHasher::new(self.options.hash, self.versions);
        let mut left_hash = TableHasher::new(self.options.hash);
        let mut right_hash = TableHasher::new(self.options.hash);
        let again = self.can_look_again();
        let mut spool = self.spool();
        let mut left = pull(left_feed, &mut self.teller).await?;
        let mut right = pull(right_feed, &mut self.teller).await?;
        self.teller.phase = Phase::Comparing;
        loop {
            let order = match (&left, &right) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => left.encoded.cmp(&right.encoded),
            };
            let a = if order.is_le() { left.take() } else { None };
            let b = if order.is_ge() { right.take() } else { None };
            let found = difference(a.as_ref(), b.as_ref(), self.versions);
            let a_hash = a.as_ref().map(|row| rows.row(row));
            let b_hash = match &found {
                None => a_hash.clone(),
                Some(_) => b.as_ref().map(|row| rows.row(row)),
            };
            a_hash.iter().for_each(|hash| left_hash.push(hash));
            b_hash.iter().for_each(|hash| right_hash.push(hash));
            self.teller.rows_done += 1;
            if a.is_some() {
                left = pull(left_feed, &mut self.teller).await?;
            }
            if b.is_some() {
                right = pull(right_feed, &mut self.teller).await?;
            }
            let Some(found) = found else { continue };
            self.teller.rows_differing += 1;
            match Candidate::new(a, b) {
                Some(candidate) if again => spool.push(&candidate).map_err(temporary)?,
                _ => self.found(found),
            }
        }
        self.report.left.hash = Some(left_hash.finish());
        self.report.right.hash = Some(right_hash.finish());
        Ok(spool)
    }

    /// Looks at rows again until they are alike or were looked at often enough.
    async fn look_again(&mut self, mut spool: Spool) -> Result<(), CompareError> {
        self.teller.phase = Phase::LookingAgain;
        for look in 1..=self.options.looks_again {
            if spool.count() == 0 {
                break;
            }
            tokio::time::sleep(self.options.pause).await;
            let mut spooled =
                std::mem::replace(&mut spool, self.spool()).finish().map_err(temporary)?;
            loop {
                let batch = spooled.next_batch(AGAIN_ROWS_MAX, AGAIN_BYTES_MAX);
                let batch = batch.map_err(temporary)?;
                if batch.is_empty() {
                    break;
                }
                for candidate in self.read_again(batch).await? {
                    let (left, right) = (candidate.left.as_ref(), candidate.right.as_ref());
                    match difference(left, right, self.versions) {
                        None => {
                            self.report.rows_moved += 1;
                            self.teller.rows_differing -= 1;
                        }
                        Some(found) if look == self.options.looks_again => self.found(found),
                        Some(_) => spool.push(&candidate).map_err(temporary)?,
                    }
                }
                self.teller.tell();
            }
        }
        Ok(())
    }

    /// What both sides have now. A file has what it had.
    async fn read_again(
        &mut self,
        mut batch: Vec<Candidate>,
    ) -> Result<Vec<Candidate>, CompareError> {
        let keys: Vec<PrimaryKey> = batch.iter().map(|candidate| candidate.key.clone()).collect();
        if let Reading::Store(store) = self.left {
            let rows = store.rows(&keys).await?;
            self.report.left.rows_read += rows.iter().flatten().count() as u64;
            batch.iter_mut().zip(rows).for_each(|(candidate, row)| candidate.left = row);
        }
        if let Reading::Store(store) = self.right {
            let rows = store.rows(&keys).await?;
            self.report.right.rows_read += rows.iter().flatten().count() as u64;
            batch.iter_mut().zip(rows).for_each(|(candidate, row)| candidate.right = row);
        }
        Ok(batch)
    }

    /// Counts a row that differs, and lists it if there is room.
    fn found(&mut self, found: RowDifference) {
        self.report.count(found.class);
        let bytes = self.listed_bytes + found.size();
        if self.report.rows.len() as u64 + 1 == self.report.rows_differing
            && self.report.rows.len() < self.options.rows_listed_max
            && bytes <= self.options.listed_bytes_max
        {
            self.listed_bytes = bytes;
            self.report.rows.push(found);
        }
    }
}

fn temporary(source: std::io::Error) -> CompareError {
    CompareError::Temporary { source }
}

/// The hash of the one side.
pub(super) async fn hash(
    prepared: Prepared,
    options: &CompareOptions,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<TableHash, CompareError> {
    let versions = prepared.versions;
    let mut rows = RowHasher::new(options.hash, versions);
    let mut table = TableHasher::new(options.hash);
    let [side] = &prepared.sides[..] else {
        return Err(CompareError::Unusable { message: "one side is hashed".to_owned() });
    };
    let mut feed = side.feed("the table");
    let mut teller = Teller::new(tell, vec![Arc::clone(&feed.counts)]);
    while let Some(row) = pull(&mut feed, &mut teller).await? {
        teller.phase = Phase::Comparing;
        teller.rows_done += 1;
        table.push(&rows.row(&row));
    }
    teller.tell();
    Ok(TableHash { hash: table.finish(), rows: teller.rows_done, versions })
}
