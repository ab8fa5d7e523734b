//! What is asked of links that run: changes of their terms, gates and brakes.
//!
//! A change of direction ends a link on one stream and begins it on the other, a stop ends it, and
//! all else leaves it where it is. A link that its brake holds up is waited for apart from those
//! that are ready, so that it holds up no other.

use std::time::Duration;

use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_store::engine::EngineError;
use isthmus_store::keys::log::decode_record;
use isthmus_store::{StoreError, Table};

use super::{Outbound, Shipping};
use crate::link::{Action, Event, State};
use crate::pack::Method;
use crate::terms::{Terms, Wish};
use crate::throttle::{Brake, Courtesy};
use crate::timing::{Copies, Gate, Moment, Timing};

/// Whether it reads rows of a copy, or what is known of them.
pub(super) fn is_of_copy(action: &Action) -> bool {
    matches!(action, Action::SendChunk(_) | Action::SendWanted { .. } | Action::Offer(_))
}

/// The last entry of the log record after an entry, and when the newest in it was made. What is
/// trimmed or damaged is told as old: the link itself finds out and says what is wrong. Where the
/// engine only fails to read there is none yet, and it is looked again: a failed read must not let
/// go what a delay holds back.
fn record_after(table: &Table, after: Lsn) -> Option<(Lsn, i64)> {
    let end = table.durable_lsn();
    let unreadable = Some((end, i64::MIN)).filter(|_| end > after);
    let slice = match table.read_log(after, 1) {
        Ok(slice) => slice,
        Err(StoreError::Engine(EngineError::Failed(_))) => return None,
        Err(_) => return unreadable,
    };
    let record = slice.records.first()?;
    let Ok((head, entries)) = decode_record(record) else { return unreadable };
    let newest = entries.iter().map(|entry| entry.stamp.hlc.millis()).max();
    Some((head.last, newest.unwrap_or(i64::MIN)))
}

impl Outbound {
    /// Something else is asked of a link that is there.
    pub(super) fn ask(&mut self, partition: PartitionId, terms: &Terms) {
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        if shipping.terms == *terms {
            return;
        }
        let before = std::mem::replace(&mut shipping.terms, terms.clone());
        self.note_linked(partition);
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        if before.direction != terms.direction {
            shipping.copy = None;
            let reason = "waiting for the other stream between the regions";
            shipping.link.step(Event::Disconnected(reason.to_owned()));
            if self.lane(terms.direction).connected {
                self.step(partition, Event::Connected);
            }
            self.tell_closed(partition, before.direction);
        }
        let format = self.lane(terms.direction).format;
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        if before.throttle != terms.throttle {
            shipping.brake = Brake::new(terms.throttle, self.shared.clock.monotonic());
            self.waits.remove(&partition);
        }
        if before.timing != terms.timing {
            shipping.gate = Gate::new(terms.timing.clone());
        }
        if before.compression != terms.compression {
            shipping.method = Method::agreed(terms.compression, format);
        }
        if before.wish != terms.wish {
            shipping.copy = None;
            shipping.link.step(Event::Asked(terms.wish));
            if terms.wish == Wish::Stop {
                self.tell_closed(partition, terms.direction);
            }
        }
        self.look_at_gate(partition);
        self.note_state(partition);
        self.wake(partition);
    }

    /// Ships what there is now, whatever the timing. Gives whether there is such a link.
    pub fn trigger(&mut self, partition: PartitionId) -> bool {
        let Some(shipping) = self.links.get_mut(&partition) else { return false };
        shipping.gate.trigger(shipping.table.durable_lsn());
        self.look_at_gate(partition);
        self.wake(partition);
        true
    }

    /// Asks the gate of a link what may be shipped now.
    pub(super) fn look_at_gate(&mut self, partition: PartitionId) {
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        match shipping.gate.is_always_open() {
            true => self.timed.remove(&partition),
            false => self.timed.insert(partition),
        };
        if shipping.is_cut_off() {
            // It would find out only when it may ship again.
            shipping.link.step(Event::Trimmed);
        }
        let (shipped, table) = (shipping.link.shipped(), &shipping.table);
        let moment = Moment {
            now_millis: self.shared.clock.wall_millis(),
            appended: table.durable_lsn(),
            shipped,
            follows: shipping.link.state() == State::Following,
            fell_out: shipping.link.has_fallen_out(),
            waiting_bytes: match shipping.terms.timing {
                Timing::Triggered { .. } => table.log_size_after(shipped).bytes,
                _ => 0,
            },
        };
        let leave = shipping.gate.look(&moment, |after| record_after(table, after));
        shipping.next_millis = leave.next_millis;
        if leave.copies != Copies::Now {
            shipping.copy = None;
        }
        let (through, copies) = (leave.through, leave.copies);
        shipping.link.step(Event::Released { through, copies });
    }

    /// How long until a link that waits because of its throttle may go on; `None`: none waits.
    pub fn due_in(&self) -> Option<Duration> {
        let now = self.shared.clock.monotonic();
        self.waits.values().min().map(|due| due.saturating_sub(now))
    }

    /// Wakes links whose throttle lets them go on.
    pub(super) fn end_waits(&mut self) {
        let now = self.shared.clock.monotonic();
        let over = |(_, due): &(&PartitionId, &Duration)| **due <= now;
        let over: Vec<PartitionId> = self.waits.iter().filter(over).map(|(id, _)| *id).collect();
        for partition in over {
            self.waits.remove(&partition);
            self.wake(partition);
        }
    }
}

impl Shipping {
    /// Whether the log does not reach back any more to what is to be shipped next.
    fn is_cut_off(&self) -> bool {
        let is_copied = self.carried.extract.as_ref().is_none_or(|extract| !extract.is_incremental);
        let follows = self.link.state() == State::Following;
        is_copied && follows && self.link.shipped() < self.table.log_start()
    }

    /// When the throttle lets an action happen; `None`: now.
    pub(super) fn due(
        &self,
        action: &Action,
        courtesy: &Courtesy,
        now: Duration,
    ) -> Option<Duration> {
        match action {
            Action::Send(_) => self.brake.log_due(now),
            of_copy if is_of_copy(of_copy) => {
                let rests = if self.brake.gives_way() { courtesy.due(now) } else { None };
                self.brake.copy_due(now).max(rests)
            }
            _ => None,
        }
    }

    /// How many times as long its copy rests as it would where nobody writes.
    pub(super) fn slower(&self, courtesy: &Courtesy) -> f64 {
        if self.brake.gives_way() { courtesy.slower() } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isthmus_model::capacity::WriteSize;
    use isthmus_model::change::{Condition, Returned, RowAction};
    use isthmus_model::check::{CheckedChange, CheckedKey};
    use isthmus_model::clock::Clock;
    use isthmus_model::ids::{Epoch, Origin, SchemaNumber, TableId};
    use isthmus_model::key::{KeyKind, KeyValue, PrimaryKey};
    use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
    use isthmus_store::engine::faulty::{FaultOdds, FaultyEngine};
    use isthmus_store::{Store, StoreOptions, TableSpec, Writers, Writing};

    use super::*;

    const MADE_MILLIS: i64 = 1_700_000_000_000;
    const ALL_READS_FAIL: FaultOdds = FaultOdds {
        commit_fails_per_million: 0,
        failed_is_kept_per_million: 0,
        read_fails_per_million: 1_000_000,
    };

    struct StoppedClock;

    impl Clock for StoppedClock {
        fn wall_millis(&self) -> i64 {
            MADE_MILLIS
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(10)
        }
    }

    /// A table on a disk that may fail, of which nothing of the log is kept in memory.
    fn start() -> (Arc<FaultyEngine>, Arc<Store>, Arc<Table>) {
        let engine = Arc::new(FaultyEngine::new(1, FaultOdds::default()));
        let options = StoreOptions { log_tail_bytes_max: 0, ..StoreOptions::new(Origin(1)) };
        let store = Store::open(engine.clone(), Arc::new(StoppedClock), options).unwrap();
        let key = KeyColumn { name: "k".into(), kind: KeyKind::Integer, auto_increment: false };
        drop(store.create_table(TableSpec {
            id: TableId(257),
            name: "letters".into(),
            partition: PartitionId(513),
            schema: Schema {
                number: SchemaNumber(1),
                key_columns: vec![key],
                defined_columns: Vec::new(),
                options: TableOptions::default(),
            },
            created_millis: 1,
            epoch: Epoch(1),
            base: Origin(1),
            writing: Writing::Accept,
            writers: Writers::One,
            writer: Origin(1),
            handed_over: None,
            settled: Default::default(),
        }));
        while store.commit_step() {}
        let table = store.table(TableId(257)).unwrap();
        (engine, store, table)
    }

    /// Writes a row; gives the entry that it makes.
    fn write(store: &Store, table: &Table, number: i64) -> Lsn {
        let change = CheckedChange {
            key: CheckedKey::Whole(PrimaryKey(vec![KeyValue::Integer(number)])),
            action: RowAction::Put(Vec::new()),
            condition: Condition::default(),
            returned: Returned::Nothing,
            size: WriteSize { key: 8, attributes: 0 },
        };
        drop(table.write(vec![change], false));
        while store.commit_step() {}
        table.durable_lsn()
    }

    #[test]
    fn a_log_that_cannot_be_read_just_now_has_no_record_yet() {
        let (engine, store, table) = start();
        assert_eq!(record_after(&table, Lsn(0)), None, "there is nothing");
        let first = write(&store, &table, 1);
        let last = write(&store, &table, 2);
        let known = record_after(&table, Lsn(0));
        assert_eq!(known, Some((first, MADE_MILLIS)));
        engine.set_odds(ALL_READS_FAIL);
        assert_eq!(record_after(&table, Lsn(0)), None);
        engine.set_odds(FaultOdds::default());
        assert_eq!(record_after(&table, Lsn(0)), known);
        assert_eq!(record_after(&table, last), None);
    }

    #[test]
    fn what_is_trimmed_is_told_as_old() {
        let (_, store, table) = start();
        for number in 0..i64::try_from(isthmus_store::limits::FORGET_STEP).unwrap() + 10 {
            write(&store, &table, number);
        }
        drop(table.trim_log(table.durable_lsn()));
        while store.commit_step() {}
        assert!(table.log_start() > Lsn(0));
        assert_eq!(record_after(&table, Lsn(0)), Some((table.durable_lsn(), i64::MIN)));
    }

    #[test]
    fn a_read_that_fails_lets_go_nothing_that_a_delay_holds_back() {
        let (engine, store, table) = start();
        let last = write(&store, &table, 1);
        let mut gate = Gate::new(Timing::Delayed(Duration::from_secs(3600)));
        let mut look = |now_millis| {
            let moment = Moment {
                now_millis,
                appended: last,
                shipped: Lsn(0),
                follows: true,
                fell_out: false,
                waiting_bytes: 0,
            };
            gate.look(&moment, |after| record_after(&table, after)).through
        };
        engine.set_odds(ALL_READS_FAIL);
        assert_eq!(look(MADE_MILLIS + 1), Lsn(0));
        assert_eq!(look(MADE_MILLIS + 3_600_000), Lsn(0), "nobody knows how old it is");
        engine.set_odds(FaultOdds::default());
        assert_eq!(look(MADE_MILLIS + 3_599_999), Lsn(0));
        assert_eq!(look(MADE_MILLIS + 3_600_000), last);
    }
}
