//! Being bound and unbound, as the server does what the base of a table says.
//!
//! The server waits for each note before it goes on; here each step is one call, and the next one
//! comes when the base asks again. A crash in between loses how far it had come and begins anew.

use isthmus_control::global_table::GlobalTable;
use isthmus_model::ids::{Epoch, PartitionId};
use isthmus_replication::receive::copy_note;
use isthmus_store::{Pending, TableSpec, Writing};

use super::Life;
use crate::options::TablePlan;
use crate::plant::Plant;
use crate::roles::{origin_named, origin_of, region_name};

/// How far a table has come that is being assigned.
#[derive(Default)]
pub(super) struct Stage {
    next: u8,
    /// The table was made for this binding; it holds nothing of an earlier one.
    is_new: bool,
    /// What the next step waits for.
    pending: Option<Pending<()>>,
}

impl Life {
    /// One step of obeying a record that names this region. Gives whether it is obeyed, at rest.
    pub(crate) fn assign(
        &mut self,
        plan: &TablePlan,
        base: &TableSpec,
        record: &GlobalTable,
    ) -> bool {
        let partition = plan.partition;
        let accepts = if plan.writers.are_many() { Writing::Accept } else { Writing::Refuse };
        let Some(table) = self.store.table(plan.id) else {
            let spec = TableSpec { writing: accepts, writers: plan.writers, ..base.clone() };
            drop(self.store.create_table(spec));
            self.assigning.insert(partition, Stage { is_new: true, ..Stage::default() });
            return false;
        };
        if self.roles.is_shared(partition) {
            return self.obey_record(partition, record);
        }
        let stage = self.assigning.entry(partition).or_default();
        match stage.pending.as_mut().map(Pending::try_take) {
            Some(None) => return false,
            Some(Some(Err(_))) => *stage = Stage::default(),
            Some(Some(Ok(()))) | None => {}
        }
        let at = stage.next;
        stage.next = at.saturating_add(1);
        stage.pending = match at {
            0 => {
                // What an earlier binding had copied says nothing about what is here now.
                let mut last = None;
                for other in (0..=self.outbound.len()).filter(|node| *node != self.node) {
                    let note = copy_note(origin_of(other), partition);
                    last = Some(self.store.put_note(&note, &[]));
                }
                last
            }
            1 | 2 if stage.is_new => None,
            1 if plan.writers.are_many() => {
                let epoch = table.epoch().max(base.epoch);
                Some(self.store.set_writing(plan.id, accepts, plan.writers, epoch))
            }
            1 => {
                let writer = origin_named(record.primary());
                Some(self.store.forget_writer(plan.id, writer, Epoch(record.epoch)))
            }
            2 if plan.writers.are_many() && self.plant != Some(Plant::LogNotBegunAnew) => {
                Some(table.begin_log_anew())
            }
            2 => None,
            _ => {
                self.roles.obey(partition, record);
                self.roles.note_record(partition);
                self.roles.share(partition, false);
                self.roles.refresh();
                None
            }
        };
        false
    }

    fn obey_record(&mut self, partition: PartitionId, record: &GlobalTable) -> bool {
        self.assigning.remove(&partition);
        self.roles.obey(partition, record);
        if record.has_enough(&region_name(self.node)) {
            self.roles.complete(partition);
        }
        if !self.roles.has_at_rest(partition, record.version) {
            self.roles.note_record(partition);
            return false;
        }
        self.obey_links();
        true
    }

    /// One step of leaving a table. Gives whether it is one of this region alone.
    pub(crate) fn dissolve(&mut self, plan: &TablePlan) -> bool {
        let partition = plan.partition;
        self.assigning.remove(&partition);
        if let Some(table) = self.store.table(plan.id)
            && table.spec().writing != Writing::Accept
        {
            let epoch = table.epoch();
            drop(self.store.set_writing(plan.id, Writing::Accept, plan.writers, epoch));
            return false;
        }
        if !self.roles.leave(partition) {
            return false;
        }
        self.modes.shared.unset(partition);
        self.obey_links();
        true
    }
}
