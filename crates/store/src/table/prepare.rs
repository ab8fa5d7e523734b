//! Changes that are prepared before they are written: kept for another region, or judged here and
//! then written as what was prepared.

use bytes::Bytes;
use isthmus_model::check::CheckedChange;
use isthmus_model::commit::{MadeRange, Participant, Term, TxId};
use isthmus_model::entry::EntryBody;
use isthmus_model::ids::Lsn;

use crate::error::StoreError;
use crate::partition::Inner;
use crate::pending::Pending;
use crate::prepared::refused;
use crate::table::write::check_writable;
use crate::table::{Table, Written};

impl Table {
    /// Keeps changes that another region is about to write, each of which becomes one entry. All of
    /// one term. Refused where a later one was promised, or where this region
    /// writes.
    pub fn prepare(&self, changes: Vec<(TxId, Bytes)>) -> Pending<()> {
        Pending::from_result(self.try_prepare(changes))
    }

    fn try_prepare(&self, changes: Vec<(TxId, Bytes)>) -> Result<Pending<()>, StoreError> {
        self.core.admit()?;
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        let bytes_before = inner.part.bytes;
        let mut refused = None;
        for (tx, change) in changes {
            if tx.term.epoch < inner.state.epoch.0 {
                let (partition, epoch) = (self.partition.id, inner.state.epoch);
                refused = Some(StoreError::Fenced { partition, epoch });
                break;
            }
            let grown = change.len();
            match inner.prepared.prepare(self.partition.id, tx, change) {
                Ok(Some(write)) => {
                    inner.part.writes.push(write);
                    inner.part.bytes += grown;
                }
                Ok(None) => {}
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        // What was taken before one that is refused stays: it does no harm.
        let taken = self.enqueue_told(&mut inner, bytes_before, ());
        refused.map_or(Ok(taken), Err)
    }

    /// Takes nothing of terms before this one any more.
    pub fn promise(&self, term: Term) -> Pending<()> {
        Pending::from_result(self.try_promise(term))
    }

    fn try_promise(&self, term: Term) -> Result<Pending<()>, StoreError> {
        self.core.check_alive()?;
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        if term.epoch < inner.state.epoch.0 {
            let (partition, epoch) = (self.partition.id, inner.state.epoch);
            return Err(StoreError::Fenced { partition, epoch });
        }
        let bytes_before = inner.part.bytes;
        inner.prepared.participant.promise(term).map_err(refused)?;
        inner.follow_terms();
        Ok(self.enqueue_told(&mut inner, bytes_before, ()))
    }

    /// What is prepared here, by name: of earlier terms too. Some of it may not be durable yet.
    pub fn prepared(&self) -> Vec<(TxId, Bytes)> {
        self.partition.inner.lock().prepared.list()
    }

    /// How many changes are prepared here.
    pub fn prepared_count(&self) -> usize {
        self.partition.inner.lock().prepared.participant.prepared_count()
    }

    /// Looks at what is prepared here; some of it may not be durable yet.
    pub fn with_participant<T>(&self, look: impl FnOnce(&Participant) -> T) -> T {
        look(&self.partition.inner.lock().prepared.participant)
    }

    /// The term promised here, and the one before which all is settled; some of it may not be
    /// durable yet.
    pub fn terms(&self) -> (Term, Term) {
        let inner = self.partition.inner.lock();
        let participant = &inner.prepared.participant;
        (participant.promised(), participant.settled())
    }

    /// Writes changes that others have prepared: `txs` names one for each, or with `atomic` one for
    /// all. As `write` otherwise.
    pub fn write_prepared(
        &self,
        txs: Vec<TxId>,
        changes: Vec<CheckedChange>,
        atomic: bool,
    ) -> Pending<Vec<Result<Written, StoreError>>> {
        Pending::from_result(self.try_write(changes, atomic, txs))
    }

    /// Says in the log that what was prepared before this term and is not there is void.
    pub fn settle(&self, term: Term) -> Pending<Lsn> {
        Pending::from_result(self.try_settle(term))
    }

    fn try_settle(&self, term: Term) -> Result<Pending<Lsn>, StoreError> {
        self.core.admit()?;
        let mut inner = self.partition.inner.lock();
        check_writable(&inner)?;
        if term.epoch != inner.spec.epoch.0 || inner.spec.writers.are_many() {
            return Err(StoreError::BadSchema("a term of another epoch".into()));
        }
        let bytes_before = inner.part.bytes;
        let stamp = self.core.stamps.begin(self.core.wall_millis());
        inner.part.begun.push(stamp.hlc);
        let lsn = inner.next_lsn();
        inner.push_own(lsn, stamp, None, EntryBody::Settled(term));
        inner.take_settled(term);
        Ok(self.enqueue_told(&mut inner, bytes_before, lsn))
    }
}

impl Inner {
    /// What was prepared before a term is in the log or void.
    pub(crate) fn take_settled(&mut self, term: Term) {
        for tx in self.prepared.participant.settle(term) {
            let write = self.prepared.forget(self.spec.partition, tx);
            self.part.writes.push(write);
        }
        self.follow_terms();
        if term > self.spec.settled {
            self.spec.settled = term;
            self.put_spec();
        }
    }

    /// Forgets what is prepared and is in the log which was copied, in which that term is settled:
    /// all of it, where that is not known.
    pub(crate) fn take_made(&mut self, settled: Term, made: Option<&[MadeRange]>) {
        let Some(made) = made else {
            let all: Vec<TxId> = self.prepared.participant.prepared().map(|(tx, _)| tx).collect();
            all.into_iter().for_each(|tx| self.note_applied(tx));
            return self.take_settled(settled);
        };
        for tx in self.prepared.participant.copied(settled, made) {
            let write = self.prepared.forget(self.spec.partition, tx);
            self.part.writes.push(write);
        }
        self.follow_terms();
        if settled != self.spec.settled {
            self.spec.settled = settled;
            self.put_spec();
        }
    }

    /// An entry was taken that had been a prepared change.
    pub(crate) fn note_applied(&mut self, tx: TxId) {
        let write = self.prepared.applied(self.spec.partition, tx);
        self.part.writes.extend(write);
    }

    fn follow_terms(&mut self) {
        self.state.promised = self.prepared.participant.promised();
        self.state.settled = self.prepared.participant.settled();
    }
}
