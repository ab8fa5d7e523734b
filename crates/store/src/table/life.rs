//! Lives of the log (`lives.rs`): what others hold of it is judged by them, and a new one begins
//! where an old disk was put back.

use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Lsn, Origin};

use crate::error::StoreError;
use crate::pending::Pending;
use crate::table::Table;

/// Numbers of an auto-increment column left out where an old disk was put back: nobody knows how
/// many it had given since.
pub(crate) const NUMBERS_LEFT_OUT: u64 = 1 << 32;

impl Table {
    /// The life of what is shipped from here: of the log that this region makes or, with one
    /// writer elsewhere, of that writer's, as far as it is known. Durable: whoever is told of it
    /// is shipped nothing that is of a later one.
    pub fn life(&self) -> Stamp {
        let durable = self.partition.durable();
        let (spec, state) = (&durable.spec, &durable.state);
        let is_own = spec.writers.are_many() || spec.writer == self.own();
        match is_own {
            true => Stamp { hlc: state.lives.begun, origin: self.own() },
            false => Stamp { hlc: state.life_met(spec.writer), origin: spec.writer },
        }
    }

    /// The life of which the last entry of an origin is that was applied here; `Hlc::MIN`: nobody
    /// knows.
    pub fn life_met(&self, origin: Origin) -> Hlc {
        self.partition.inner.lock().state.life_met(origin)
    }

    /// Entries of this life come from here on, or of one that is not known (`Hlc::MIN`); durable
    /// with the first of them.
    pub fn meet(&self, life: Stamp) {
        if life.origin != self.own() {
            self.partition.inner.lock().state.meet(life);
        }
    }

    /// Whether somebody who holds the log of this region through `held`, by a life, holds entries
    /// that are not here: an old disk was put back.
    pub fn lacks(&self, life: Hlc, held: Lsn) -> bool {
        let inner = self.partition.inner.lock();
        inner.state.lives.lack(life, held, inner.state.lsn)
    }

    /// Whether anything was accepted since the store was opened, the epoch of this region or a run
    /// of lives begun.
    pub fn has_made_entries(&self) -> bool {
        let inner = self.partition.inner.lock();
        inner.state.lsn > inner.state.lives.after
    }

    /// What somebody holds of the log of this region by a life, and is not here, is taken back as
    /// rows: before or after this call. A new life begins. With several writers the log goes on
    /// beyond all of it, and those who follow it are given rows.
    pub fn take_back(&self, life: Hlc, held: Lsn) -> Pending<()> {
        Pending::from_result(self.try_take_back(life, held))
    }

    fn try_take_back(&self, life: Hlc, held: Lsn) -> Result<Pending<()>, StoreError> {
        self.core.check_alive()?;
        let now = Hlc::from_millis(self.core.wall_millis());
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        let bytes_before = inner.part.bytes;
        let end = inner.state.lsn;
        let mut next = end;
        if inner.spec.writers.are_many() {
            next = end.max(held).next();
            inner.part.records.clear();
            inner.part.log_replaced = true;
            (inner.state.lsn, inner.state.log_start) = (next, next);
        }
        inner.state.lives.take_back((life, held), (end, next), now);
        inner.state.auto_increment += NUMBERS_LEFT_OUT;
        let (answer, pending) = Pending::new();
        let group = inner.open_group();
        inner.when_durable(group, Box::new(|done| answer.give(done)));
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        Ok(pending)
    }
}
