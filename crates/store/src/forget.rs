//! Coarse trimming: tells the engine which log records nobody will read again.
//!
//! Entries are trimmed one by one, by a number in the partition's state; bytes are given back in
//! large steps, by whole records. A record that holds one entry that is still wanted stays.

use std::sync::atomic::Ordering;

use isthmus_model::change::Direction;
use isthmus_model::ids::{Lsn, PartitionId};

use crate::engine::{Engine, EngineError, Space};
use crate::keys::{self, LogOf};
use crate::limits::FORGET_STEP;
use crate::partition::Partition;

/// Forgets what is trimmed, if that is enough to be worth the trouble.
pub(crate) fn forget_step(
    engine: &dyn Engine,
    partition: &Partition,
    log_start: Lsn,
) -> Result<(), EngineError> {
    let forgotten = partition.forgotten.load(Ordering::Acquire);
    if log_start.0 < forgotten.saturating_add(FORGET_STEP) {
        return Ok(());
    }
    forget(engine, partition, log_start)
}

/// Forgets what is trimmed.
pub(crate) fn forget(
    engine: &dyn Engine,
    partition: &Partition,
    log_start: Lsn,
) -> Result<(), EngineError> {
    let through = match first_of_record_at(engine, partition.id, log_start.next())? {
        Some(first) if first <= log_start => Lsn(first.0.saturating_sub(1)),
        Some(_) | None => log_start,
    };
    engine.forget_log(LogOf::Changes(partition.id), through.0)?;
    partition.forgotten.store(log_start.0, Ordering::Release);
    Ok(())
}

/// Where the record begins that covers an entry; `None` if there is none.
fn first_of_record_at(
    engine: &dyn Engine,
    partition: PartitionId,
    lsn: Lsn,
) -> Result<Option<Lsn>, EngineError> {
    let snapshot = engine.snapshot()?;
    let start = keys::log::encode_key(partition, Lsn(0));
    let end = keys::log::encode_key(partition, lsn.next());
    let mut scan = snapshot.scan(Space::Log, &start, Some(&end), Direction::Backward);
    let Some((_, record)) = scan.next().transpose()? else { return Ok(None) };
    let head = keys::log::decode_head(&record)
        .map_err(|error| EngineError::Corrupt(format!("log record: {error}")))?;
    Ok((head.last >= lsn).then_some(head.first))
}
