//! Rows that are moved to new partitions: first all of a snapshot, then those that the log names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_control::distribution::{Distribution, Point};
use isthmus_model::change::Direction;
use isthmus_model::entry::EntryBody;
use isthmus_model::ids::Lsn;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_store::keys::log::decode_record;
use isthmus_store::{MovedRow, Table, TableSnapshot};

use super::{Doing, Filling, Plan};
use crate::api_error::ApiError;
use crate::node::Node;

/// Rows that are moved at once, and their bytes about.
const ROWS_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 1024 * 1024;
/// Bytes of the log that are read at once, and keys that are named in it.
const LOG_BYTES_AT_ONCE: usize = 1024 * 1024;
const KEYS_AT_ONCE: usize = 4096;
/// More of a new partition does not wait for one of its replicas: its log would grow long.
const WAITING_BYTES_MAX: u64 = 64 * 1024 * 1024;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A partition from which others are filled.
pub(super) struct Source {
    pub(super) table: Arc<Table>,
    /// Where it begins and ends.
    bounds: (Point, Option<Point>),
    /// All up to this entry is in the new partitions.
    pub(super) done: Lsn,
}

impl Source {
    pub(super) fn new(plan: &Plan, number: u32, table: Arc<Table>) -> Source {
        let place = plan.record.place_numbered(number).unwrap_or_default();
        let begin = plan.record.partitions.get(place).map(|partition| partition.from.clone());
        let end = plan.record.end_of(place).cloned();
        Source { table, bounds: (begin.unwrap_or_default(), end), done: Lsn(0) }
    }

    /// How many rows it holds, if they are counted.
    fn rows_counted(&self) -> Option<u64> {
        self.table.digest_view().ok().map(|view| view.tree().rows())
    }

    fn has(&self, record: &Distribution, key: &EncodedKey) -> bool {
        let (begin, end) = &self.bounds;
        record
            .point_of_row(key)
            .is_some_and(|point| point >= *begin && end.as_ref().is_none_or(|end| point < *end))
    }
}

/// Reads a snapshot from the first row to the last.
pub(super) struct Reader {
    snapshot: Arc<TableSnapshot>,
    /// Where it goes on; `None`: all was read.
    next: Option<EncodedKey>,
}

impl Reader {
    pub(super) fn new(snapshot: Arc<TableSnapshot>) -> Reader {
        Reader { snapshot, next: Some(EncodedKey::default()) }
    }

    /// The next rows; none: all were read. Blocks.
    pub(super) fn read(&mut self) -> Result<Vec<(EncodedKey, Row)>, ApiError> {
        let Some(start) = self.next.take() else { return Ok(Vec::new()) };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let packed = self.snapshot.scan_packed(&start, None, Direction::Forward);
        for row in packed {
            let (key, row) = row?;
            if rows.len() >= ROWS_AT_ONCE || bytes >= BYTES_AT_ONCE {
                self.next = Some(key);
                break;
            }
            bytes += key.0.len() + row.len();
            let row = isthmus_store::codec::row::decode_row(&row);
            rows.push((key, row.map_err(|_| ApiError::internal())?));
        }
        Ok(rows)
    }

    /// What rows that were read show, of those that exist.
    pub(super) fn shown(&self, rows: Vec<(EncodedKey, Row)>) -> Vec<MovedRow> {
        let rows = rows.into_iter();
        let rows = rows.map(|(key, row)| MovedRow { key, row: self.snapshot.shown(row) });
        rows.filter(|moved| !moved.row.is_bare()).collect()
    }
}

/// Does what blocks beside all that must not.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal())?
}

/// The new partitions, by their numbers.
pub(super) type Targets = BTreeMap<u32, Arc<Table>>;

impl Node {
    /// Makes the new partitions hold what the old ones do, each at a moment.
    pub(super) async fn copy_all(
        &self,
        plan: &Plan,
        sources: &mut [Source],
        targets: &Targets,
        filling: &Filling,
    ) -> Result<(), ApiError> {
        let began = self.clock.monotonic();
        let totals: Option<Vec<u64>> = sources.iter().map(Source::rows_counted).collect();
        filling.note(|progress| {
            progress.doing = Doing::Copying;
            (progress.rows, progress.rows_total) = (0, totals.map(|all| all.iter().sum()));
        });
        for source in sources {
            self.copy_rows(plan, source, targets, filling, began).await?;
        }
        Ok(())
    }

    /// Makes the new partitions hold what an old one does at a moment.
    async fn copy_rows(
        &self,
        plan: &Plan,
        source: &mut Source,
        targets: &Targets,
        filling: &Filling,
        began: Duration,
    ) -> Result<(), ApiError> {
        let snapshot = Arc::new(source.table.snapshot()?);
        source.done = snapshot.lsn();
        let followed = &self.distributions.fillings.followed;
        followed.lock().insert(source.table.partition(), source.done);
        for target in targets.values() {
            self.remove_left(plan, source, &snapshot, target).await?;
        }
        let mut reader = Reader::new(snapshot);
        loop {
            let (read, rows) = blocking(move || reader.read().map(|rows| (reader, rows))).await?;
            reader = read;
            if rows.is_empty() {
                return Ok(());
            }
            let count = rows.len() as u64;
            let snapshot = &reader.snapshot;
            let rows = rows.into_iter().map(|(key, row)| (key, snapshot.shown(row)));
            self.move_rows(plan, rows.collect(), targets).await?;
            let took = self.clock.monotonic().saturating_sub(began).as_millis() as u64;
            filling.note(|progress| {
                progress.rows += count;
                progress.took_ms = took;
            });
            self.await_pace(plan, targets, filling).await?;
        }
    }

    /// Removes from a new partition what an earlier filling has left there and the old one does
    /// not hold any more.
    async fn remove_left(
        &self,
        plan: &Plan,
        source: &Source,
        of_source: &Arc<TableSnapshot>,
        target: &Arc<Table>,
    ) -> Result<(), ApiError> {
        let mut reader = Reader::new(Arc::new(target.snapshot()?));
        loop {
            let (read, rows) = blocking(move || reader.read().map(|rows| (reader, rows))).await?;
            reader = read;
            if rows.is_empty() {
                return Ok(());
            }
            let keys = rows.into_iter().map(|(key, _)| key);
            let keys: Vec<EncodedKey> = keys.filter(|key| source.has(&plan.record, key)).collect();
            let rows = shown(of_source, keys).await?;
            let gone: Vec<_> = rows.into_iter().filter(|(_, row)| row.is_bare()).collect();
            let gone = gone.into_iter().map(|(key, row)| MovedRow { key, row });
            target.rewrite(gone.collect()).await?;
        }
    }

    /// Makes the new partitions hold what the log of the old one names, up to an entry that is
    /// durable. Returns how many entries that were.
    pub(super) async fn follow_log(
        &self,
        plan: &Plan,
        source: &mut Source,
        through: Lsn,
        targets: &Targets,
    ) -> Result<u64, ApiError> {
        let (begun, table) = (source.done, &source.table);
        while source.done < through {
            let mut keys = BTreeSet::new();
            let mut at = source.done;
            while at < through && keys.len() < KEYS_AT_ONCE {
                let slice = table.read_log(at, LOG_BYTES_AT_ONCE)?;
                for record in &slice.records {
                    let entries = decode_record(record).map_err(|_| ApiError::internal())?.1;
                    for entry in entries.into_iter().filter(|entry| entry.lsn > at) {
                        if let EntryBody::Rows(rows) = entry.body {
                            keys.extend(rows.into_iter().map(|row| row.key));
                        }
                    }
                }
                if slice.to <= at {
                    break;
                }
                at = slice.to;
            }
            if at <= source.done {
                break;
            }
            // It shows what the entries have led to, or something later, which a later entry names.
            let snapshot = Arc::new(table.snapshot()?);
            let keys: Vec<EncodedKey> = keys.into_iter().collect();
            for keys in keys.chunks(ROWS_AT_ONCE) {
                let rows = shown(&snapshot, keys.to_vec()).await?;
                self.move_rows(plan, rows, targets).await?;
            }
            source.done = at;
            self.distributions.fillings.followed.lock().insert(table.partition(), at);
        }
        Ok(source.done.0 - begun.0)
    }

    /// Makes rows in the new partitions to which they belong.
    async fn move_rows(
        &self,
        plan: &Plan,
        rows: Vec<(EncodedKey, Row)>,
        targets: &Targets,
    ) -> Result<(), ApiError> {
        let mut by_target: BTreeMap<u32, Vec<MovedRow>> = BTreeMap::new();
        for (key, row) in rows {
            let point = plan.record.point_of_row(&key).ok_or_else(ApiError::internal)?;
            let number = plan.reshape.target_of(&point);
            by_target.entry(number).or_default().push(MovedRow { key, row });
        }
        let mut written = Vec::new();
        for (number, rows) in by_target {
            let target = targets.get(&number).ok_or_else(ApiError::internal)?.clone();
            written.push(blocking(move || Ok(target.rewrite(rows))).await?);
        }
        for written in written {
            written.await?;
        }
        Ok(())
    }

    /// Waits as long as replicas of new partitions lack much. An error: it is not to go on.
    async fn await_pace(
        &self,
        plan: &Plan,
        targets: &Targets,
        filling: &Filling,
    ) -> Result<(), ApiError> {
        let lacks_much = |table: &Arc<Table>| {
            let links = self.others.values().filter(|other| other.reached().connected);
            let mut reports = links.filter_map(|other| other.links().report(table.partition()));
            reports.any(|report| report.waiting_bytes > WAITING_BYTES_MAX)
        };
        while targets.values().any(lacks_much) {
            self.check_planned(plan)?;
            filling.waits_for("other replicas of the new partitions come after");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        filling.note(|progress| progress.waits = None);
        self.check_planned(plan)
    }

    /// An error: it is not to go on.
    pub(super) fn check_planned(&self, plan: &Plan) -> Result<(), ApiError> {
        match self.to_be_filled(&plan.record.name, &plan.name()) {
            Some(_) => Ok(()),
            None => Err(ApiError::invalid("It was given up.")),
        }
    }
}

/// What rows show.
async fn shown(
    snapshot: &Arc<TableSnapshot>,
    keys: Vec<EncodedKey>,
) -> Result<Vec<(EncodedKey, Row)>, ApiError> {
    let snapshot = snapshot.clone();
    blocking(move || {
        let row = |key: EncodedKey| snapshot.shown_row(&key).map(|row| (key, row));
        keys.into_iter().map(row).collect::<Result<_, _>>().map_err(ApiError::from)
    })
    .await
}
