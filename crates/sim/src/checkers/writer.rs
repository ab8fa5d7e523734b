//! With one writer no two regions ever make an entry for one place in the log, and none makes one
//! in an epoch that it, or another, has ended.

use std::collections::BTreeMap;

use isthmus_model::entry::{Entry, EntryBody};
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId};

use super::Violation;

const NAME: &str = "one region writes";

/// Who has made the entries of tables with one writer.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    made: BTreeMap<(PartitionId, Lsn), Origin>,
    /// The last entries of epochs.
    ended: BTreeMap<(PartitionId, Epoch), Lsn>,
    /// Epochs that were opened.
    pub(crate) opened: u64,
}

impl Writers {
    /// Entries in `(from, to]` that some region has made.
    pub(crate) fn made_in(
        &self,
        partition: PartitionId,
        from: Lsn,
        to: Lsn,
    ) -> impl Iterator<Item = Lsn> {
        let range = (partition, from.next())..=(partition, to.max(from.next()));
        let made = self.made.range(range).map(|((_, lsn), _)| *lsn);
        made.filter(move |lsn| *lsn <= to)
    }

    /// Takes note of an entry that the region of this number has made durable.
    pub(crate) fn made(
        &mut self,
        partition: PartitionId,
        origin: Origin,
        entry: &Entry,
    ) -> Result<(), Violation> {
        let broken = |what: String| Err(Violation::of(NAME, what));
        if let Some(other) = self.made.insert((partition, entry.lsn), origin)
            && other != origin
        {
            return broken(format!("{origin} made {entry:?} where {other} had made one"));
        }
        if let Some(end) = self.ended.get(&(partition, entry.epoch)) {
            return broken(format!("{origin} made {entry:?} in an epoch that ended at {end}"));
        }
        match &entry.body {
            EntryBody::Handover(_) => {
                self.ended.insert((partition, entry.epoch), entry.lsn);
            }
            EntryBody::Opening => self.opened += 1,
            EntryBody::Rows(_)
            | EntryBody::Schema(_)
            | EntryBody::Expiry(_)
            | EntryBody::Settled(_)
            | EntryBody::Intent(_)
            | EntryBody::Abandoned(_)
            | EntryBody::Forgotten(_) => {}
        }
        Ok(())
    }
}
