//! Writes that wait for other regions, as the server lets them wait.

use std::collections::BTreeSet;
use std::sync::Arc;

use isthmus_model::ids::{Epoch, Lsn, PartitionId};
use isthmus_replication::mode::{ModeChange, Modes};
use isthmus_replication::terms::Wish;
use isthmus_replication::timing::Timing;
use isthmus_store::{Pending, Store, Table};

use super::{Life, SemiSyncs};
use crate::roles::origin_of;

fn note_name(partition: PartitionId) -> Vec<u8> {
    format!("fallen-back/{partition}").into_bytes()
}

/// The modes of one life.
pub(crate) struct LifeModes {
    pub(crate) shared: Arc<Modes>,
    asked: SemiSyncs,
    /// Changes of state whose notes are not durable yet.
    noted: Vec<(ModeChange, Pending<()>)>,
}

impl LifeModes {
    pub(super) fn new(shared: Arc<Modes>, asked: SemiSyncs) -> LifeModes {
        LifeModes { shared, asked, noted: Vec::new() }
    }

    /// Looks at bounds in time; a change counts once its note is durable.
    pub(super) fn tick(&mut self, store: &Store) {
        self.shared.tick(&BTreeSet::new());
        for partition in self.shared.end_left() {
            drop(store.delete_note(&note_name(partition)));
        }
        for change in self.shared.take_changes() {
            let name = note_name(change.partition);
            let noted = match change.fallen_back {
                true => store.put_note(&name, change.reason.as_bytes()),
                false => store.delete_note(&name),
            };
            self.noted.push((change, noted));
        }
        let shared = &self.shared;
        self.noted.retain_mut(|(change, noted)| match noted.try_take() {
            None => true,
            Some(Ok(())) => {
                shared.recorded(change);
                false
            }
            Some(Err(_)) => false,
        });
    }
}

impl Life {
    /// People say when writes are answered.
    pub(crate) fn set_modes(&mut self, asked: &SemiSyncs) {
        self.modes.asked.clone_from(asked);
        self.obey_modes();
    }

    /// Lets writes wait for the regions that get all of this one at once.
    pub(super) fn obey_modes(&self) {
        let shared = self.roles.shared();
        let modes = &self.modes.shared;
        for plan in &shared {
            let partition = plan.partition;
            let Some(asked) = self.modes.asked.get(&partition) else {
                modes.unset(partition);
                continue;
            };
            let Some(table) = self.store.table(plan.id) else { continue };
            if !plan.writers.are_many() && !self.writes(&table) {
                self.leave_mode(&table);
                continue;
            }
            let counts = |peer: &&usize| {
                let own = origin_of(self.node);
                let feeding = self.roles.feeding(partition, **peer);
                let terms = self.asked.get(&(**peer, partition));
                feeding.is_some_and(|feeding| feeding.carries(own))
                    && self.roles.extract(partition, **peer, None).is_none()
                    && terms.is_none_or(|terms| {
                        terms.wish == Wish::Run && terms.timing == Timing::Immediate
                    })
            };
            let counting = self.outbound.keys().filter(counts).map(|peer| origin_of(*peer));
            let fallen_back = self.store.note(&note_name(partition)).ok().flatten();
            let fallen_back = fallen_back.map(|why| String::from_utf8_lossy(&why).into_owned());
            modes.set(partition, *asked, &counting.collect(), fallen_back);
            self.outbound.values().for_each(|outbound| outbound.tell_held(partition));
        }
    }

    /// Whether this region writes a table with one writer, or is about to.
    fn writes(&self, table: &Table) -> bool {
        let word = table.writer_word();
        word.accepts || word.next_writer() == origin_of(self.node)
    }

    /// A table that this region writes no more. Whoever writes it now holds what was written here.
    fn leave_mode(&self, table: &Table) {
        let modes = &self.modes.shared;
        modes.leave(table.partition());
        let (through, word) = (table.durable_lsn(), table.writer_word());
        if word.successor.is_none() {
            modes.held(table.partition(), word.writer, Some(through));
        }
    }

    /// Before this region begins to write a table: from the first one on, writes are answered as
    /// is asked for.
    pub(super) fn prepare_to_write(&self, table: &Table) {
        let word = table.writer_word();
        if word.successor == Some(origin_of(self.node)) {
            self.obey_modes();
        }
    }

    /// Whether writes of a table with one writer, taken here in a later epoch than the first, are
    /// answered as is asked for.
    pub(crate) fn is_mode_in_force(&self, table: &Table) -> bool {
        let (partition, word) = (table.partition(), table.writer_word());
        let is_asked = self.modes.asked.contains_key(&partition);
        !is_asked
            || !word.accepts
            || word.epoch == Epoch(1)
            || self.modes.shared.report(partition).is_some()
    }

    /// A planted bug: what was sent to a peer is taken for what it holds.
    pub(crate) fn take_shipped_for_held(&self, peer: usize) {
        let Some(outbound) = self.outbound.get(&peer) else { return };
        for partition in self.modes.shared.partitions() {
            let shipped = outbound.report(partition).map_or(Lsn(0), |report| report.shipped);
            self.modes.shared.held(partition, origin_of(peer), Some(shipped));
        }
    }
}
