//! Which links are opened, and which of those that are open are ended.
//!
//! A link is opened for who feeds the table here, under an epoch that is not older than the one
//! known, and for nobody while an old disk that was put back waits for a person. What was once so
//! and is no more ends the link: two feeders of one table must not copy to it at the same time.

use std::sync::Arc;

use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId};
use isthmus_store::Table;
use isthmus_store::digest::DigestState;

use super::copy::{is_partly_copied, saved_progress};
use super::{Inbound, Receiving, Unfed};
use crate::error::chain;
use crate::frame::{self, Body, FaultKind, Open, Opened};

const NEEDS_A_PERSON: &str = "an old disk was put back there, and a person must decide";
const OLD_DISK: &str = "an old disk was put back there; opening anew to copy";
const ALONE: &str = "the table is one of that region alone";
const OLD_EPOCH: &str = "another region writes the table in a newer epoch";

impl Inbound {
    pub(super) fn on_open(&mut self, origin: Origin, open: &Open) {
        let partition = PartitionId(open.partition);
        self.links.remove(&partition);
        let put_backs = self.shared.put_backs.clone();
        put_backs.asked_back(partition, origin, open.asks_back);
        let epoch = Epoch(open.epoch);
        let table = match self.fed_by(origin, epoch, partition) {
            Ok(table) => table,
            Err(Unfed::NotTheFeeder) if self.is_overtaken(epoch, partition) => {
                return self.fault(partition, FaultKind::Fenced, OLD_EPOCH.to_owned());
            }
            Err(Unfed::Unassigned) => {
                let reason = "the table does not exist there yet".to_owned();
                return self.fault(partition, FaultKind::Unassigned, reason);
            }
            Err(Unfed::NotYet) => {
                let reason = "it takes rows that it has in other tables first".to_owned();
                return self.fault(partition, FaultKind::Retry, reason);
            }
            Err(Unfed::NotTheFeeder) => {
                let reason = "another region feeds the table there".to_owned();
                return self.fault(partition, FaultKind::Retry, reason);
            }
        };
        let known = table.epoch();
        if epoch < known {
            let reason = format!("epoch {} is offered, epoch {known} is known", open.epoch);
            return self.fault(partition, FaultKind::Fenced, reason);
        }
        let writes_by_its_disk = !table.spec().writers.are_many()
            && table.writer_word().is_unended_epoch_of(self.shared.origin());
        if epoch > known && writes_by_its_disk {
            // What was made here since the disk was copied, in this life or an earlier one, stands
            // in the place of what others made: the rows are copied, whatever the addresses say.
            if let Err(error) = self.assignments.copies(origin, partition) {
                return self.fault(partition, FaultKind::Retry, chain(&error));
            }
            put_backs.overtaken(&table, origin);
            drop(table.fence(epoch));
            return self.fault(partition, FaultKind::Retry, OLD_DISK.to_owned());
        }
        if self.has_alone(&table) && !self.takes_back(origin, partition) {
            return self.fault(partition, FaultKind::Retry, ALONE.to_owned());
        }
        if put_backs.needs_a_person(partition) {
            return self.fault(partition, FaultKind::Retry, NEEDS_A_PERSON.to_owned());
        }
        if let Some(holds) = &open.holds
            && table.spec().writers.are_many()
        {
            // The link the other way, by which it would be heard, may be stopped.
            put_backs.heard(&table, origin, Hlc(holds.life), Lsn(holds.lsn));
        }
        let has_rows = is_partly_copied(&self.shared, &table, origin);
        let progress = saved_progress(&self.shared, &table, origin);
        match has_rows.and_then(|has_rows| Ok((has_rows, progress?))) {
            Ok((has_rows, copy)) => {
                let watermark = table.watermark(origin).0.0;
                // An older region tells nothing.
                let log_of = if open.log_of == 0 { origin } else { Origin(open.log_of as u8) };
                let takes_back = put_backs.takes_from(partition, origin);
                let incomplete = takes_back || self.assignments.is_incomplete(origin, partition);
                let opened = Opened {
                    partition: partition.0,
                    watermark,
                    copy,
                    incomplete,
                    has_past: has_rows || table.durable_lsn() > Lsn(0),
                    has_digest: table.digest_state() == DigestState::Ready,
                    vector: table.vector().iter().map(frame::Watermark::from).collect(),
                    life: table.life_met(log_of).0,
                    moment: self.moment_had(&table, origin).0,
                };
                self.outgoing.push_back(Body::Opened(opened).into());
                self.openings += 1;
                let opening = self.openings;
                let receiving = Receiving {
                    opening,
                    epoch,
                    table,
                    copy: None,
                    safe_reported: Hlc::MIN,
                    life: Stamp { hlc: Hlc(open.life), origin: log_of },
                    incomplete: takes_back,
                };
                self.links.insert(partition, receiving);
            }
            Err(error) => self.fault(partition, FaultKind::Retry, chain(&error)),
        }
    }

    /// Two feeders of one table must not copy to it at the same time.
    pub(super) fn end_stale_links(&mut self, origin: Origin) {
        let changes = self.assignments.changes() + self.shared.put_backs.changes();
        if self.changes_seen == changes {
            return;
        }
        self.changes_seen = changes;
        let is_stale = |partition: &PartitionId, receiving: &Receiving| {
            let lacks = !receiving.incomplete && self.takes_back(origin, *partition);
            lacks.then_some("an old disk was put back there").or_else(|| {
                let is_fed = self.fed_by(origin, receiving.epoch, *partition).is_ok();
                (!is_fed).then_some("another region feeds the table there")
            })
        };
        let stale: Vec<(PartitionId, &str)> = self
            .links
            .iter()
            .filter_map(|(id, receiving)| Some((*id, is_stale(id, receiving)?)))
            .collect();
        for (partition, reason) in stale {
            self.links.remove(&partition);
            self.fault(partition, FaultKind::Retry, reason.to_owned());
        }
    }

    /// Whether a table with one writer, which others may feed, is written here: the region was told
    /// that it has it alone, and has yet to forget the others. What it has made since has the
    /// addresses of what they make, and says nothing of theirs.
    fn has_alone(&self, table: &Table) -> bool {
        let word = table.writer_word();
        !table.spec().writers.are_many() && word.accepts && word.writer == self.shared.origin()
    }

    /// Whether this origin gives back what an old disk here lacks.
    pub(super) fn takes_back(&self, origin: Origin, partition: PartitionId) -> bool {
        self.shared.put_backs.takes_from(partition, origin)
    }

    /// The table that this origin may feed: also one that is written here, where it gives back
    /// what was lost.
    fn fed_by(
        &self,
        origin: Origin,
        epoch: Epoch,
        partition: PartitionId,
    ) -> Result<Arc<Table>, Unfed> {
        match self.takes_back(origin, partition) {
            true => self.shared.store.table_of_partition(partition).ok_or(Unfed::Unassigned),
            false => self.assignments.fed_by(origin, epoch, partition),
        }
    }

    /// Whether a table with one writer has come to a newer epoch, so that whoever offers this one,
    /// and does not feed the table here, may be a writer that does not know it.
    fn is_overtaken(&self, epoch: Epoch, partition: PartitionId) -> bool {
        let table = self.shared.store.table_of_partition(partition);
        table.is_some_and(|table| !table.spec().writers.are_many() && epoch < table.epoch())
    }

    /// The greatest moment that was had here of an origin.
    fn moment_had(&self, table: &Table, origin: Origin) -> Hlc {
        let marks = table.vector().into_iter().filter(|mark| mark.origin == origin);
        let applied = marks.map(|mark| mark.hlc).max().unwrap_or(Hlc::MIN);
        applied.max(self.shared.safe_times.promised_by(table.partition(), origin))
    }
}
