//! What a replica keeps of a tail that is cut off its log (`isthmus_control::cut_tail`).

use bytes::Bytes;
use isthmus_control::cut_tail::{CutTail, Place};
use isthmus_control::duty::has_no_tail;
use isthmus_model::entry::Entry;
use isthmus_model::ids::Lsn;
use isthmus_store::codec::entry::encode_entry;
use isthmus_store::{Pending, StoreError, Table};
use prost::Message;

use crate::node::Node;
use crate::peer::call::PreparedWrite;

/// Prepares again what a log holds after an entry and others had prepared; the answer tells whether
/// that is all of it. Blocks.
pub(in crate::node) fn prepare_again(table: &Table, after: Lsn) -> Pending<bool> {
    let change = |entry: &Entry| {
        let entry = encode_entry(entry);
        Bytes::from(PreparedWrite { entry, ..PreparedWrite::default() }.encode_to_vec())
    };
    table.prepare_again(after, change)
}

impl Node {
    /// The log here is about to be cut off after an entry, for an epoch that goes on from before
    /// it. `is_kept`: what others had prepared of it is prepared again.
    pub(in crate::node) async fn note_cut_tail(
        &self,
        table: &Table,
        epoch: u64,
        after: Lsn,
        is_kept: bool,
    ) -> Result<(), StoreError> {
        let place = Place { log_epoch: table.writer_word().epoch.0, after: after.0 };
        let cut = CutTail { epoch, again: is_kept.then_some(place) };
        let may_lack = self.may_lack_prepared(table);
        let cut = cut.following(self.cut_tail(table)?, may_lack);
        self.store.put_note(&cut_note(table), &cut.encode()).await
    }

    /// Whether something may be lacking here that was prepared or made here: then nothing is told
    /// of what is prepared, until a later term is settled in the log.
    pub(in crate::node) fn may_lack_prepared(&self, table: &Table) -> bool {
        let Ok(cut) = self.cut_tail(table) else { return true };
        let Some(cut) = cut else { return false };
        let (_, settled) = table.terms();
        if settled.epoch >= cut.epoch {
            // Should it come back in a crash, it is looked at again.
            drop(self.store.delete_note(&cut_note(table)));
            return false;
        }
        let known = self.registry().map(|registry| registry.known());
        let tenure = known.as_ref().and_then(|known| known.agreed.tenure(table.id().0));
        cut.may_lack(settled, |log_epoch, end| {
            tenure.is_some_and(|tenure| has_no_tail(tenure, log_epoch, end))
        })
    }

    fn cut_tail(&self, table: &Table) -> Result<Option<CutTail>, StoreError> {
        let note = self.store.note(&cut_note(table))?;
        Ok(note.map(|bytes| CutTail::decode(&bytes)))
    }
}

fn cut_note(table: &Table) -> Vec<u8> {
    format!("cut-tail/{:016x}", table.partition().0).into_bytes()
}
