//! What is asked and told again and again until batches are settled, and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isthmus_model::atomic::{BatchId, Member};
use isthmus_model::ids::{Epoch, Lsn, TableId};
use isthmus_model::value::Text;

use super::telling::Telling;

/// What is younger is seen to by the region that begins the batch.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// What was asked in vain is asked again after this, then after twice as long, and so on.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// Batches of one table that are seen to in one round.
const ROUND_MAX: usize = 500;
/// Decisions that are kept until all replicas of all members hold that they are settled; beyond it
/// is enough that they are settled as durably as the members' modes ask for.
const KEPT_FOR_REPLICAS: usize = 2_000;
/// Batches of which it is remembered where they were settled.
const SETTLED_MAX: usize = 50_000;
/// A table is gone that no region has had for so long: one that moves from region to region between
/// two questions is missing only for a moment.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// Tables of which it is remembered since when they are missing.
const MISSING_MAX: usize = 10_000;
/// Somebody should look at a batch that is in doubt for so long.
const LONG_IN_DOUBT: Duration = Duration::from_secs(60);

/// What a process remembers of it. Times are those of one clock that never goes back.
#[derive(Clone, Debug, Default)]
pub struct Upkeep {
    /// When something is to be asked again, and how long after the last time that is.
    again: BTreeMap<(TableId, BatchId), (Duration, Duration)>,
    /// Entries of members at or before which they have settled batches, and the epochs in which
    /// that was said.
    settled: BTreeMap<(TableId, BatchId), (Lsn, Epoch)>,
    /// Batches that were long in doubt when they were last looked at, or that an anchor spoke of
    /// otherwise than a person had.
    noticed: BTreeSet<(TableId, BatchId)>,
    /// Since when all regions have said that they do not have a table.
    missing: BTreeMap<TableId, Duration>,
}

impl Upkeep {
    /// Whether a batch of that age is seen to here; before, whoever begins it does so.
    pub fn sees_to(age: Duration) -> bool {
        age >= QUIET_MAX
    }

    /// The batches whose anchors are to be asked now what became of them, by the lines of the
    /// anchors, with their names. `intents`: those of a table that is written here, with the names
    /// of their anchors and their ages.
    pub fn to_ask(
        &mut self,
        table: TableId,
        intents: impl IntoIterator<Item = (BatchId, Text, Duration)>,
        now: Duration,
    ) -> BTreeMap<TableId, (Text, Vec<BatchId>)> {
        let mut by_anchor: BTreeMap<TableId, (Text, Vec<BatchId>)> = BTreeMap::new();
        let mut count = 0;
        for (id, anchor, age) in intents {
            if Upkeep::sees_to(age) && count < ROUND_MAX && self.is_due(table, id, now) {
                by_anchor.entry(id.anchor).or_insert_with(|| (anchor, Vec::new())).1.push(id);
                count += 1;
            }
        }
        by_anchor
    }

    /// What is to be told now of the batches that a table of that line, which is written here, has
    /// decided durably: with their members and their ages. `may_be_told`: whether a decision is
    /// held as the table's mode asks for; nobody is told of one that may be lost with this region.
    pub fn to_tell(
        &mut self,
        (table, line): (TableId, TableId),
        decided: Vec<(BatchId, Vec<Member>, Duration)>,
        may_be_told: impl Fn(BatchId) -> bool,
        now: Duration,
    ) -> Telling {
        let mut telling = Telling::new(decided.len() > KEPT_FOR_REPLICAS);
        for (id, members, age) in decided {
            let is_told = Upkeep::sees_to(age) && may_be_told(id) && telling.len() < ROUND_MAX;
            if !is_told || !self.is_due(table, id, now) {
                continue;
            }
            match id.anchor == line {
                true => telling.add(id, members),
                // It came with the log of which this replica was unbound; others tell of it.
                false => telling.add(id, Vec::new()),
            }
        }
        telling
    }

    /// The entry at or before which a batch was settled: the first one that was told in that
    /// epoch. What was said in an earlier one may be of entries that are not in the log any more.
    pub fn settled_at(&mut self, table: TableId, id: BatchId, (lsn, epoch): (Lsn, Epoch)) -> Lsn {
        if self.settled.len() >= SETTLED_MAX {
            self.settled.clear();
        }
        let known = self.settled.entry((table, id)).or_insert((lsn, epoch));
        if known.1 != epoch {
            *known = (lsn, epoch);
        }
        known.0
    }

    /// Nobody asks any more where it was settled.
    pub fn is_held(&mut self, table: TableId, id: BatchId) {
        self.settled.remove(&(table, id));
    }

    /// All regions have said that they do not have a table. Whether it is gone for good: they say
    /// so for long, and nobody else can have it.
    pub fn is_gone(&mut self, table: TableId, may_be_elsewhere: bool, now: Duration) -> bool {
        if may_be_elsewhere {
            return false;
        }
        if self.missing.len() >= MISSING_MAX {
            self.missing.clear();
        }
        let since = *self.missing.entry(table).or_insert(now);
        now.saturating_sub(since) >= GONE_AFTER
    }

    /// A region has a table, or did not say that it has not.
    pub fn is_there(&mut self, table: TableId) {
        self.missing.remove(&table);
    }

    /// Whether a batch has come to be in doubt for long since this was last asked.
    pub fn is_long(&mut self, table: TableId, id: BatchId, age: Duration) -> bool {
        age >= LONG_IN_DOUBT && self.is_first_notice(table, id)
    }

    /// Whether nothing was noticed of a batch yet; from now on something was.
    pub fn is_first_notice(&mut self, table: TableId, id: BatchId) -> bool {
        self.noticed.insert((table, id))
    }

    /// Whether something is to be asked now; if so it is not due again for a while.
    fn is_due(&mut self, table: TableId, id: BatchId, now: Duration) -> bool {
        let (due, pause) = self.again.entry((table, id)).or_insert((now, AGAIN));
        if *due > now {
            return false;
        }
        *due = now + *pause;
        *pause = (*pause * 2).min(AGAIN_MAX);
        true
    }

    /// A table has settled a batch, or forgotten it.
    pub fn is_over(&mut self, table: TableId, id: BatchId) {
        self.again.remove(&(table, id));
        self.noticed.remove(&(table, id));
    }

    /// Others write a table.
    pub fn forget_table(&mut self, table: TableId) {
        self.again.retain(|(known, _), _| *known != table);
        self.noticed.retain(|(known, _)| *known != table);
        self.settled.retain(|(known, _), _| *known != table);
    }
}
