//! A table as of cuts: when what is needed for them is kept, and from where on.

use std::sync::atomic::Ordering;

use isthmus_model::hlc::Hlc;

use crate::cut::TableCut;
use crate::error::StoreError;
use crate::limits::PAST_IDLE;
use crate::partition::Inner;
use crate::table::Table;

impl Table {
    /// Keeps in memory what rows are before they change, from here on and for as long as somebody
    /// asks for it now and then, so that the table can be read as of cuts. Until then nothing is
    /// kept and changes cost nothing more.
    pub fn keep_past(&self) {
        let now = self.core.clock.monotonic();
        if self.partition.keeps_past() {
            return self.core.past.ask(self.partition.id, now);
        }
        let inner = self.partition.inner.lock();
        if !inner.dropped && !self.partition.keeps_past() {
            // All that was accepted here is below it.
            let floor = self.core.stamps.last_ceiling();
            self.core.past.begin(self.partition.id, floor, now);
            self.partition.keeps_past.store(true, Ordering::Relaxed);
        }
    }

    /// The first cut as of which the table can be read; `None`: what is needed is not kept.
    pub fn past_floor(&self) -> Option<Hlc> {
        self.core.past.floor(self.partition.id)
    }

    /// The table as of a cut: what all entries below it give together. The caller vouches that all
    /// of them are durable here (the cut is at or before the safe time).
    pub fn at_cut(&self, cut: Hlc) -> Result<TableCut, StoreError> {
        Ok(TableCut::new(self.snapshot()?, self.core.clone(), cut))
    }

    /// Upkeep, now and then: cuts below `cut` are not read any more, and a table that nobody asks
    /// for keeps nothing.
    pub fn release_past(&self, cut: Hlc) {
        let Some(asked_at) = self.core.past.asked_at(self.partition.id) else { return };
        if self.core.clock.monotonic() < asked_at + PAST_IDLE {
            return self.core.past.release(self.partition.id, cut);
        }
        let inner = self.partition.inner.lock();
        self.stop_keeping_past(&inner);
    }

    /// What is needed for cuts is not kept any more.
    pub(crate) fn stop_keeping_past(&self, _locked: &Inner) {
        self.partition.keeps_past.store(false, Ordering::Relaxed);
        self.core.past.forget(self.partition.id);
    }

    /// Rows have changed otherwise than by entries: cuts can be read from here on only.
    pub(crate) fn keep_past_anew(&self, _locked: &Inner) {
        let Some(asked_at) = self.core.past.asked_at(self.partition.id) else { return };
        let floor = self.core.stamps.last_ceiling();
        self.core.past.begin(self.partition.id, floor, asked_at);
    }
}
