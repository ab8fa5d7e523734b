//! Who writes a table with one writer: it changes through the log and in no other way.
//!
//! The last entry of an epoch names the successor. With it, in one batch, the region that made it
//! stops accepting writes. The successor opens the next epoch when that entry is the last one it
//! holds: its first entry and its right to write are one batch, too. So at no moment two regions
//! accept writes, whatever crashes, and what the one has acknowledged the other has applied.

use isthmus_model::commit::Term;
use isthmus_model::entry::{Entry, EntryBody, Handover};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Epoch, Lsn, Origin};

use crate::error::StoreError;
use crate::partition::Inner;
use crate::pending::Pending;
use crate::spec::{HandedOver, TableSpec, Writers, Writing};
use crate::table::Table;
use crate::table::life::NUMBERS_LEFT_OUT;
use crate::table::write::check_writable;

/// What a region's log says of who writes a table with one writer, as far as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterWord {
    /// The epoch that its newest opening began.
    pub epoch: Epoch,
    /// Who writes in it.
    pub writer: Origin,
    /// Who opens the next one, if the last entry is the last one of the epoch.
    pub successor: Option<Origin>,
    /// Clients may write here.
    pub accepts: bool,
}

impl WriterWord {
    /// Whether that region writes in this epoch, and nothing in the log ends it.
    pub fn is_unended_epoch_of(&self, region: Origin) -> bool {
        self.writer == region && self.successor.is_none()
    }

    /// Who makes the next entry.
    pub fn next_writer(&self) -> Origin {
        self.successor.unwrap_or(self.writer)
    }
}

impl TableSpec {
    /// Who opens the next epoch, if this one ends with the log here.
    fn successor(&self, end: Lsn) -> Option<Origin> {
        self.handed_over.filter(|over| over.at == end).map(|over| over.successor)
    }
}

impl Table {
    /// What the log here says of who writes.
    pub fn writer_word(&self) -> WriterWord {
        let durable = self.partition.durable();
        let (spec, state) = (&durable.spec, &durable.state);
        WriterWord {
            epoch: spec.epoch,
            writer: spec.writer,
            successor: spec.successor(state.lsn),
            accepts: spec.writing == Writing::Accept,
        }
    }

    /// Whether the end of the epoch was in the log here when the store was opened: whoever it names
    /// may have opened the next one in an earlier life, of which an old disk knows nothing.
    pub fn was_handed_over_at_start(&self) -> bool {
        let durable = self.partition.durable();
        let after = durable.state.lives.after;
        durable.spec.handed_over.is_some_and(|over| over.at <= after)
    }

    /// Ends this region's epoch: the successor opens the next one when it holds everything through
    /// the LSN that is answered. Nothing is accepted here from now on, not even before the answer.
    pub fn hand_over(&self, successor: Origin) -> Pending<Lsn> {
        Pending::from_result(self.try_hand_over(successor))
    }

    fn try_hand_over(&self, successor: Origin) -> Result<Pending<Lsn>, StoreError> {
        self.core.admit()?;
        let mut inner = self.partition.inner.lock();
        check_writable(&inner)?;
        if inner.spec.writers != Writers::One || successor == self.own() {
            return Err(StoreError::BadSchema("there is nobody to hand the table over to".into()));
        }
        let bytes_before = inner.part.bytes;
        let stamp = self.core.stamps.begin(self.core.wall_millis());
        inner.part.begun.push(stamp.hlc);
        let lsn = inner.next_lsn();
        let auto_increment = inner.state.auto_increment;
        let handover = Handover { successor, auto_increment };
        inner.push_own(lsn, stamp, None, EntryBody::Handover(handover));
        inner.spec.writing = Writing::Refuse;
        inner.name_successor(lsn, handover);
        Ok(self.enqueue_told(&mut inner, bytes_before, lsn))
    }

    /// Opens the next epoch here. Refused unless the last entry of the log names this region as the
    /// successor and no newer epoch was heard of.
    pub fn open_epoch(&self) -> Pending<Epoch> {
        Pending::from_result(self.try_open_epoch())
    }

    fn try_open_epoch(&self) -> Result<Pending<Epoch>, StoreError> {
        self.core.admit()?;
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        let (spec, state) = (&inner.spec, &inner.state);
        let is_successor = spec.successor(state.lsn) == Some(self.own());
        if spec.writers != Writers::One || !is_successor || state.epoch != spec.epoch {
            return Err(StoreError::Fenced { partition: spec.partition, epoch: state.epoch });
        }
        let epoch = Epoch(spec.epoch.0 + 1);
        Ok(self.begin_epoch(&mut inner, epoch))
    }

    /// Opens an epoch here that was granted by those who decide about it, where the region that
    /// wrote has not ended its own: after the entry that the grant names. Refused if the log here
    /// ends anywhere else, or an epoch at or after that one was heard of from others.
    pub fn open_granted(&self, epoch: Epoch, after: Lsn) -> Pending<Epoch> {
        Pending::from_result(self.try_open_granted(epoch, after))
    }

    fn try_open_granted(&self, epoch: Epoch, after: Lsn) -> Result<Pending<Epoch>, StoreError> {
        self.core.admit()?;
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        let (spec, state) = (&inner.spec, &inner.state);
        let is_next = spec.epoch < epoch && state.epoch <= epoch && state.lsn == after;
        if spec.writers != Writers::One || !is_next {
            return Err(StoreError::Fenced { partition: spec.partition, epoch: state.epoch });
        }
        Ok(self.begin_epoch(&mut inner, epoch))
    }

    fn begin_epoch(&self, inner: &mut Inner, epoch: Epoch) -> Pending<Epoch> {
        let bytes_before = inner.part.bytes;
        let stamp = self.core.stamps.begin(self.core.wall_millis());
        inner.part.begun.push(stamp.hlc);
        inner.state.epoch = epoch;
        // What others have made of the log since this region wrote it last is here.
        let (now, end) = (Hlc::from_millis(self.core.wall_millis()), inner.state.lsn);
        inner.state.lives.begin(now, end);
        // Numbers may have been given to what was prepared and made elsewhere.
        if inner.state.settled > Term::default() {
            inner.state.auto_increment += NUMBERS_LEFT_OUT;
        }
        let lsn = inner.next_lsn();
        inner.push_own(lsn, stamp, None, EntryBody::Opening);
        inner.spec.epoch = epoch;
        inner.spec.writer = self.own();
        inner.spec.handed_over = None;
        inner.spec.writing = Writing::Accept;
        inner.put_spec();
        self.enqueue_told(inner, bytes_before, epoch)
    }

    /// The disk here is an old one: nothing is accepted from now on, not even before the answer,
    /// and nothing is taken of an older epoch than that of which was heard. Which epoch the log is
    /// in stays as it is.
    pub fn fence(&self, newer: Epoch) -> Pending<()> {
        Pending::from_result(self.try_fence(newer))
    }

    fn try_fence(&self, newer: Epoch) -> Result<Pending<()>, StoreError> {
        self.core.check_alive()?;
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        let bytes_before = inner.part.bytes;
        inner.spec.writing = Writing::Refuse;
        inner.state.epoch = inner.state.epoch.max(newer);
        inner.put_spec();
        Ok(self.enqueue_told(&mut inner, bytes_before, ()))
    }

    /// Enqueues what was changed; `told` is the answer when it is durable.
    pub(crate) fn enqueue_told<T: Send + 'static>(
        &self,
        inner: &mut Inner,
        bytes_before: usize,
        told: T,
    ) -> Pending<T> {
        let (answer, pending) = Pending::new();
        let group = inner.open_group();
        inner.when_durable(group, Box::new(move |done| answer.give(done.map(|()| told))));
        self.core.enqueue(&self.partition, inner, bytes_before);
        pending
    }
}

impl Inner {
    /// Takes the last entry of an epoch. One of an epoch that is over by what is known here is
    /// history.
    pub(crate) fn take_handover(&mut self, entry: &Entry, handover: Handover) {
        if entry.epoch >= self.spec.epoch {
            self.name_successor(entry.lsn, handover);
        }
    }

    /// Takes the first entry of an epoch.
    pub(crate) fn take_opening(&mut self, entry: &Entry) {
        if entry.epoch >= self.spec.epoch {
            self.spec.epoch = entry.epoch;
            self.spec.writer = entry.stamp.origin;
            self.spec.handed_over = None;
            self.state.epoch = self.state.epoch.max(entry.epoch);
            self.put_spec();
        }
    }

    /// Takes over who writes from the region whose rows were copied.
    pub(crate) fn take_writer_of(&mut self, source: &TableSpec) {
        if source.epoch >= self.spec.epoch {
            self.spec.epoch = source.epoch;
            self.spec.writer = source.writer;
            self.spec.handed_over = source.handed_over;
            self.put_spec();
        }
    }

    fn name_successor(&mut self, at: Lsn, handover: Handover) {
        self.spec.handed_over = Some(HandedOver { at, successor: handover.successor });
        self.state.auto_increment = self.state.auto_increment.max(handover.auto_increment);
        self.put_spec();
    }
}
