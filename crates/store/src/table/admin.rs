//! Changes of the table itself: its schema, who writes it, its end.

use isthmus_model::entry::EntryBody;
use isthmus_model::ids::{Epoch, Origin, SchemaNumber};
use isthmus_model::schema::Schema;

use crate::engine::{BatchWrite, Space};
use crate::error::StoreError;
use crate::keys;
use crate::partition::{Finish, Inner};
use crate::pending::Pending;
use crate::spec::{Writers, Writing};
use crate::table::Table;
use crate::table::write::check_writable;

const NO_WAY_BACK: &str = "several writers become one only by a full copy";

impl Table {
    /// Changes the schema, as an entry of the log. `change` is given the newest one, durable or
    /// not, and must be quick; the number of its answer does not matter. With several writers only
    /// the base region may.
    pub fn change_schema(
        &self,
        change: impl FnOnce(&Schema) -> Result<Schema, StoreError>,
    ) -> Pending<Schema> {
        Pending::from_result(self.try_change_schema(change))
    }

    fn try_change_schema(
        &self,
        change: impl FnOnce(&Schema) -> Result<Schema, StoreError>,
    ) -> Result<Pending<Schema>, StoreError> {
        self.core.admit()?;
        let mut inner = self.partition.inner.lock();
        check_writable(&inner)?;
        self.check_speaks_for_table(&inner)?;
        let mut schema = change(&inner.schema)?;
        // What an intent asks for was judged under the schema as it is, and members ask what became
        // of a batch.
        let is_asked = schema.options.is_dropped && !inner.atomics.decided().is_empty();
        if !inner.atomics.locks.is_empty() || is_asked {
            return Err(StoreError::Busy);
        }
        if schema.key_columns != inner.schema.key_columns {
            return Err(StoreError::BadSchema("key columns never change".into()));
        }
        let bytes_before = inner.part.bytes;
        schema.number = SchemaNumber(inner.schema.number.0 + 1);
        let before = inner.schema.options.time_to_live_seconds;
        let after = schema.options.time_to_live_seconds;
        self.settle_expiry(&mut inner, &schema);
        let stamp = self.core.stamps.begin(self.core.wall_millis());
        inner.part.begun.push(stamp.hlc);
        let lsn = inner.next_lsn();
        // The entry names the schema before it, which everyone who gets here has.
        inner.push_own(lsn, stamp, None, EntryBody::Schema(schema.clone()));
        inner.spec.schema = schema.clone();
        inner.put_spec();
        inner.follow_schema(before, after);
        let (answer, pending) = Pending::new();
        let group = inner.open_group();
        inner.when_durable(group, Box::new(|done| answer.give(done.map(|()| schema))));
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        Ok(pending)
    }

    /// Whether this region makes the entries which concern the whole table.
    pub(crate) fn check_speaks_for_table(&self, inner: &Inner) -> Result<(), StoreError> {
        if inner.spec.writers.are_many() && inner.spec.base != self.own() {
            return Err(StoreError::NotWritable {
                partition: inner.spec.partition,
                epoch: inner.state.epoch,
            });
        }
        Ok(())
    }

    /// Clients may not write here, and the region that does is another one than the log here says:
    /// what it holds is of a table that ended here and says nothing of the one that begins.
    pub(crate) fn forget_writer(&self, writer: Origin, epoch: Epoch) -> Pending<()> {
        Pending::from_result(self.try_forget_writer(writer, epoch))
    }

    fn try_forget_writer(&self, writer: Origin, epoch: Epoch) -> Result<Pending<()>, StoreError> {
        self.core.check_alive()?;
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        if inner.spec.writers.are_many() {
            return Err(StoreError::BadSchema(NO_WAY_BACK.into()));
        }
        // Nobody else could tell that these batches are made.
        if !inner.atomics.decided().is_empty() {
            return Err(StoreError::Busy);
        }
        let bytes_before = inner.part.bytes;
        inner.spec.writing = Writing::Refuse;
        inner.spec.writer = writer;
        inner.spec.handed_over = None;
        (inner.spec.epoch, inner.state.epoch) = (epoch, epoch);
        inner.put_spec();
        Ok(self.enqueue_told(&mut inner, bytes_before, ()))
    }

    pub(crate) fn set_writing(
        &self,
        writing: Writing,
        writers: Writers,
        epoch: Epoch,
    ) -> Pending<()> {
        Pending::from_result(self.try_set_writing(writing, writers, epoch))
    }

    fn try_set_writing(
        &self,
        writing: Writing,
        writers: Writers,
        epoch: Epoch,
    ) -> Result<Pending<()>, StoreError> {
        self.core.check_alive()?;
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        if epoch < inner.state.epoch {
            let partition = inner.spec.partition;
            return Err(StoreError::Fenced { partition, epoch: inner.state.epoch });
        }
        // What ends them is of a table with one writer.
        let keeps_batches = !inner.atomics.locks.is_empty() || !inner.atomics.decided().is_empty();
        if writers.are_many() && keeps_batches {
            return Err(StoreError::Busy);
        }
        let (were_many, are_many) = (inner.spec.writers.are_many(), writers.are_many());
        if were_many && !are_many {
            return Err(StoreError::BadSchema(NO_WAY_BACK.into()));
        }
        let bytes_before = inner.part.bytes;
        if !were_many && are_many {
            inner.state.watermarks.clear();
            // Rows here have forgotten the kills of entries until now, which the entries still
            // bear: whoever joins is given the rows, so that all have forgotten the same.
            inner.state.log_start = inner.state.lsn;
        }
        inner.spec.writing = writing;
        inner.spec.writers = writers;
        if !are_many && writing == Writing::Accept {
            inner.spec.writer = self.own();
            inner.spec.handed_over = None;
        }
        inner.spec.epoch = epoch;
        inner.state.epoch = epoch;
        inner.put_spec();
        let (answer, pending) = Pending::new();
        let group = inner.open_group();
        inner.when_durable(group, Box::new(|done| answer.give(done)));
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        Ok(pending)
    }

    /// Drops the table; nothing is accepted from here on. `is_asked`: not while it has decided
    /// batches that members have not all made, which is said to be busy.
    pub(crate) fn drop_all(&self, is_asked: bool, finish: Finish) -> Result<(), StoreError> {
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        if is_asked && !inner.atomics.decided().is_empty() {
            return Err(StoreError::Busy);
        }
        let bytes_before = inner.part.bytes;
        inner.dropped = true;
        inner.atomics.leave();
        self.stop_keeping_past(&inner);
        inner.part.dropped = true;
        let write = |key, value| BatchWrite { space: Space::Meta, key, value };
        let id = self.partition.id;
        inner.part.writes.extend([
            write(keys::table::encode_key(self.id()), None),
            write(keys::partition::encode_key(id), None),
            write(keys::digest_mark::encode_key(id), None),
            write(keys::dropped::encode_key(id), Some(keys::dropped::encode_value())),
        ]);
        let group = inner.open_group();
        inner.when_durable(group, finish);
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        Ok(())
    }
}
