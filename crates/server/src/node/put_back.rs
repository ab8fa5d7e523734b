//! Old disks that were put back: what links must do, what people are told, and the moment after a
//! start in which a region listens before it writes.

use std::time::Duration;

use isthmus_model::ids::{PartitionId, TableId};
use isthmus_replication::put_back::News;
use isthmus_store::Table;
use serde_json::json;

use super::events::EventKind;
use super::{Node, Record};

/// So long after a start a table is neither read nor written in a region that writes it before all
/// its replicas have said where they stand. One that is away is not waited for longer.
const LISTEN_MAX: Duration = Duration::from_secs(5);
/// How often it looks whether it was told.
const LISTEN_STEP: Duration = Duration::from_millis(20);

impl Node {
    /// Whether a region is the writer of a table and asks to be given back what it has lost.
    pub(super) fn gives_back_to(&self, record: &Record, region: &str) -> bool {
        let partition = self.partition_of(TableId(record.table.table));
        let to = partition.and_then(|partition| self.shared.put_backs.gives_back_to(partition));
        to.is_some() && to == self.number_of(region) && record.table.primary() == region
    }

    /// What is the matter with the disk of a table, in words; `None`: nothing.
    pub(super) fn put_back_reason(&self, partition: PartitionId) -> Option<String> {
        self.shared.put_backs.reason(partition, |region| self.name_of(region))
    }

    /// Makes links obey and tells people, if there is anything new since `seen`, and gives what was
    /// seen now.
    pub(super) fn look_at_put_backs(&self, seen: u64) -> u64 {
        for (partition, region) in self.shared.put_backs.holders() {
            let Some(table) = self.table_of(partition) else {
                self.shared.put_backs.forget(partition);
                continue;
            };
            let record = self.record(table.id());
            let holds = |record: &Record| record.table.replica(&self.name_of(region)).is_some();
            if !record.as_ref().is_some_and(holds) {
                self.shared.put_backs.release(&table, region);
            }
        }
        let changes = self.shared.put_backs.changes();
        if changes == seen {
            return seen;
        }
        self.obey_links();
        for news in self.shared.put_backs.take_news() {
            self.tell_put_back(news);
        }
        changes
    }

    fn tell_put_back(&self, news: News) {
        let own = &self.config.region.name;
        let table_name = |partition: PartitionId| {
            self.table_of(partition)
                .map_or_else(String::new, |table| table.name().as_str().to_owned())
        };
        match news {
            News::Found { partition, region, held, is_torn } => {
                let holder = self.name_of(region);
                let reason = self.put_back_reason(partition);
                let text = format!(
                    "{holder} holds entries of {own} through {held} that {own} has not: {}",
                    reason.as_deref().unwrap_or("an old disk was put back")
                );
                let detail = json!({
                    "region": own,
                    "holder": holder,
                    "held_lsn": held.0,
                    "needs_a_person": is_torn,
                });
                self.notice(EventKind::OldDisk, &table_name(partition), text, detail);
            }
            News::Overtaken { partition, region } => {
                let text = format!(
                    "{} knows a later epoch of the table than the disk of {own}, which accepted \
                     writes: an old disk was put back; {own} follows whoever writes now",
                    self.name_of(region)
                );
                let detail = json!({
                    "region": own,
                    "holder": self.name_of(region),
                    "needs_a_person": false,
                });
                self.notice(EventKind::OldDisk, &table_name(partition), text, detail);
            }
            News::TakenBack { partition } => {
                let text = format!("{own} has taken back what its old disk lacked");
                let detail = json!({ "region": own });
                self.notice(EventKind::OldDiskHealed, &table_name(partition), text, detail);
            }
        }
    }

    /// Whether a table's disk may turn out to be an old one in a moment, or has.
    pub(super) fn may_be_put_back(&self, table: &Table) -> bool {
        self.shared.put_backs.is_put_back(table.partition())
            || (self.has_just_started() && self.is_listening(table.name().as_str()))
    }

    /// Waits, shortly after a start, until the replicas of a table that this region writes have
    /// said where they stand: before it is read or written.
    pub async fn listen_first(&self, name: &str) {
        while self.has_just_started() && self.is_listening(name) {
            tokio::time::sleep(LISTEN_STEP).await;
        }
    }

    /// Whether old disks may not be found out yet.
    pub fn has_just_started(&self) -> bool {
        self.clock.monotonic().saturating_sub(self.serving_since) < LISTEN_MAX
    }

    fn is_listening(&self, name: &str) -> bool {
        let Some(table) = self.store.table_by_name(name) else { return false };
        let accepts = !table.spec().writers.are_many() && table.writer_word().accepts;
        let writes = |record: &Record| accepts || record.table.writes(&self.config.region.name);
        !self.shared.put_backs.are_all_heard(table.partition())
            && self.record(table.id()).as_ref().is_some_and(writes)
    }
}
