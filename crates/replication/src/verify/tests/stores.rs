//! Two real stores, on engines in memory.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::capacity::WriteSize;
use isthmus_model::change::{CellChange, CellWrite, Condition, Returned, RowAction};
use isthmus_model::check::{CheckedChange, CheckedKey};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, SchemaNumber, TableId};
use isthmus_model::key::{EncodedKey, KeyKind, KeyValue, PrimaryKey};
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_model::value::Value;
use isthmus_store::engine::memory::MemoryEngine;
use isthmus_store::keys::log::decode_record;
use isthmus_store::{
    Pending, Plant, RepairRow, Repaired, Store, StoreOptions, Table, TableSpec, Writers, Writing,
};

use crate::verify::answer::{Floors, ScrubbedFrom};
use crate::verify::compare::{Options, Shell, compare};
use crate::verify::repair::{self, Direction};
use crate::verify::report::{FoundRow, Report, Verdict};
use crate::verify::session::{Local, Sessions};
use crate::verify::store::{Beside, StoreViews, parts_if_still};
use crate::verify::tests::memory::Remote;
use crate::verify::tests::{Chance, Ticking, for_each_case};

const TABLE: TableId = TableId(257);

struct Region {
    origin: Origin,
    store: Arc<Store>,
    sessions: Arc<Sessions>,
}

impl Region {
    fn new(number: u8, writers: Writers, clock: &Ticking) -> Region {
        let origin = Origin(number);
        let options = StoreOptions::new(origin);
        let store = Store::open(Arc::new(MemoryEngine::new()), Arc::new(clock.clone()), options);
        let store = store.unwrap();
        let key = KeyColumn { name: "k".into(), kind: KeyKind::Integer, auto_increment: false };
        let writing = match (writers, number) {
            (Writers::One, 2) => Writing::Refuse,
            _ => Writing::Accept,
        };
        let mut made = store.create_table(TableSpec {
            id: TABLE,
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
            writing,
            writers,
            writer: Origin(1),
            handed_over: None,
            settled: Default::default(),
        });
        while store.commit_step() {}
        made.try_take().unwrap().unwrap();
        // Only what the vectors say is known.
        let beside = |_| Beside { safe: Hlc::MIN, scrubbed_since_millis: None };
        let views = StoreViews::new(store.clone(), Box::new(beside));
        let sessions = Arc::new(Sessions::new(Arc::new(views), Arc::new(clock.clone())));
        Region { origin, store, sessions }
    }

    fn table(&self) -> Arc<Table> {
        self.store.table(TABLE).unwrap()
    }

    fn finish<T>(&self, mut pending: Pending<T>) -> Result<T, isthmus_store::StoreError> {
        while self.store.commit_step() {}
        pending.try_take().expect("nothing waits any more")
    }

    fn write(&self, chance: &mut Chance, rows: usize) {
        let number = chance.below(rows) as i64;
        let cell = |chance: &mut Chance, name: &str| CellWrite {
            name: name.into(),
            value: Value::Integer(chance.below(1000) as i64),
            timestamp: None,
        };
        let action = match chance.below(6) {
            0 => RowAction::Delete,
            1 => RowAction::Update(vec![CellChange::DeleteColumn { name: "b".into() }]),
            2 => RowAction::Update(vec![CellChange::Put(cell(chance, "b"))]),
            _ => RowAction::Put(vec![cell(chance, "a")]),
        };
        let change = CheckedChange {
            key: CheckedKey::Whole(PrimaryKey(vec![KeyValue::Integer(number)])),
            action,
            condition: Condition::default(),
            returned: Returned::Nothing,
            size: WriteSize { key: 8, attributes: 8 },
        };
        self.finish(self.table().write(vec![change], false)).unwrap();
    }

    /// Takes in what another region has of its own.
    fn receive(&self, from: &Region) {
        let (sender, receiver) = (from.table(), self.table());
        let (have, _) = receiver.watermark(from.origin);
        let (until, _) = sender.watermark(from.origin);
        let many = sender.spec().writers.are_many();
        let mut entries = Vec::new();
        let mut reached = Lsn(0);
        while reached < sender.durable_lsn() {
            let slice = sender.read_log(reached, 1 << 20).unwrap();
            for record in &slice.records {
                entries.extend(decode_record(record).unwrap().1);
            }
            reached = slice.to;
        }
        entries.retain(|entry| {
            entry.origin_lsn > have && (!many || entry.stamp.origin == from.origin)
        });
        let pending = receiver.apply(from.origin, Epoch(1), have, until.max(have), entries);
        self.finish(pending).unwrap();
    }

    fn plant(&self, chance: &mut Chance, rows: usize) {
        let kinds =
            [Plant::LostRow, Plant::ExtraRow, Plant::Cell, Plant::Version, Plant::Tombstone];
        let kind = kinds[chance.below(kinds.len())];
        let key = PrimaryKey(vec![KeyValue::Integer(chance.below(rows) as i64)]).encode();
        // There may be no such row, or no such cell.
        drop(self.finish(self.table().plant(&key, kind)));
    }
}

fn look(regions: &[Region; 2], clock: &Ticking, found: &mut dyn FnMut(&FoundRow<'_>)) -> Report {
    let options = Options::new(TABLE, ["r1".into(), "r2".into()]);
    let report = compare(
        &mut Local(regions[0].sessions.clone()),
        &mut Remote { sessions: regions[1].sessions.clone(), is_old: false },
        &options,
        &mut Shell {
            clock,
            pause: &mut |time: Duration| clock.pass(time),
            progress: &mut |_| ControlFlow::Continue(()),
            found: Some(found),
        },
    );
    report.unwrap()
}

struct ToRepair {
    key: EncodedKey,
    fingerprint: u64,
    floors: Floors,
    row: isthmus_model::row::Row,
}

/// Makes the second region like the first one, row by row.
fn mend(regions: &[Region; 2], clock: &Ticking, many: bool) -> Report {
    let mut plan = Vec::new();
    let report = look(regions, clock, &mut |found| {
        let floors = found.heads[1].floors().joined(found.heads[0].floors());
        let row = match many {
            true => {
                let (source, target) = (found.rows[0], found.rows[1]);
                let cells = &found.diff.cells;
                repair::mend(Direction::OneWay, source, target, cells, &|_| true).unwrap()
            }
            false => found.rows[0].clone(),
        };
        let (key, fingerprint) = (found.diff.key.clone(), found.fingerprints[1]);
        plan.push(ToRepair { key, fingerprint, floors, row });
    });
    let table = regions[1].table();
    let since = table.durable_lsn();
    let view = table.digest_view().unwrap();
    for ToRepair { key, fingerprint, floors, row } in plan {
        let expected = parts_if_still(&view, floors, &key, fingerprint).unwrap();
        assert!(expected.is_some(), "nobody has written since");
        let rows = vec![RepairRow { key, expected, row }];
        let done = regions[1].finish(table.repair(rows, since));
        assert_eq!(done.unwrap(), [Repaired::Done]);
    }
    report
}

#[test]
fn what_is_planted_in_a_store_is_named_and_mended_with_one_writer() {
    for_each_case(60, |chance| {
        let clock = Ticking::default();
        clock.pass(Duration::from_secs(1_000_000));
        let regions = [1, 2].map(|number| Region::new(number, Writers::One, &clock));
        let rows = 1 + chance.below(100);
        for _ in 0..chance.below(200) {
            regions[0].write(chance, rows);
        }
        regions[1].receive(&regions[0]);
        let report = look(&regions, &clock, &mut |_| {});
        assert_eq!(report.verdict, Verdict::Equal);
        assert_eq!(report.rows_read(), 0);
        for _ in 0..chance.below(4) {
            regions[1].plant(chance, rows);
        }
        let expected = differing(&regions);
        let report = mend(&regions, &clock, false);
        assert_eq!(named(&report), expected);
        assert_eq!(report.tree_wrong, []);
        assert_eq!(look(&regions, &clock, &mut |_| {}).verdict, Verdict::Equal);
    });
}

#[test]
fn a_store_that_is_ahead_is_taken_back_to_where_the_other_one_stands() {
    for_each_case(60, |chance| {
        let clock = Ticking::default();
        clock.pass(Duration::from_secs(1_000_000));
        let regions = [1, 2].map(|number| Region::new(number, Writers::One, &clock));
        let rows = 1 + chance.below(100);
        (0..chance.below(200)).for_each(|_| regions[0].write(chance, rows));
        regions[1].receive(&regions[0]);
        if chance.one_in(2) {
            regions[1].plant(chance, rows);
        }
        let expected = differing(&regions);
        (0..chance.below(20)).for_each(|_| regions[0].write(chance, rows));
        // The side that is behind asks first.
        let [first, second] = [&regions[1], &regions[0]];
        let options = Options::new(TABLE, ["r2".into(), "r1".into()]);
        let report = compare(
            &mut Local(first.sessions.clone()),
            &mut Remote { sessions: second.sessions.clone(), is_old: false },
            &options,
            &mut Shell {
                clock: &clock,
                pause: &mut |time: Duration| {
                    clock.pass(time);
                    first.receive(second);
                },
                progress: &mut |_| ControlFlow::Continue(()),
                found: None,
            },
        );
        let report = report.unwrap();
        // What was written since may have mended it, and is looked at again.
        let named = named(&report);
        assert!(named.is_subset(&expected));
        regions[1].receive(&regions[0]);
        assert!(differing(&regions).is_subset(&named));
        assert_eq!(report.verdict == Verdict::Equal, named.is_empty());
    });
}

#[test]
fn what_is_planted_in_a_store_is_named_and_mended_with_several_writers() {
    for_each_case(60, |chance| {
        let clock = Ticking::default();
        clock.pass(Duration::from_secs(1_000_000));
        let regions = [1, 2].map(|number| Region::new(number, Writers::ManyByColumn, &clock));
        let rows = 1 + chance.below(100);
        for _ in 0..chance.below(200) {
            regions[chance.below(2)].write(chance, rows);
            clock.pass(Duration::from_millis(chance.below(3) as u64));
        }
        let exchange = || {
            regions[1].receive(&regions[0]);
            regions[0].receive(&regions[1]);
        };
        exchange();
        for _ in 0..chance.below(10) {
            // These are on their way.
            regions[chance.below(2)].write(chance, rows);
        }
        // A region that has had nothing at all of the other one is far behind.
        assert_ne!(look(&regions, &clock, &mut |_| {}).verdict, Verdict::Different);
        exchange();
        for _ in 0..chance.below(4) {
            regions[1].plant(chance, rows);
        }
        let expected = differing(&regions);
        let report = mend(&regions, &clock, true);
        assert_eq!(named(&report), expected);
        assert_eq!(report.verdict == Verdict::Equal, report.rows.is_empty());
        exchange();
        let report = look(&regions, &clock, &mut |_| {});
        assert_eq!((report.verdict, report.late), (Verdict::Equal, 0));
        assert_eq!(differing(&regions), BTreeSet::new());
    });
}

#[test]
fn it_is_told_since_when_ranges_were_read_from_disk_where_that_is_asked_for() {
    let clock = Ticking::default();
    clock.pass(Duration::from_secs(1_000_000));
    let regions = [1, 2].map(|number| Region::new(number, Writers::One, &clock));
    let mut chance = Chance::new(1);
    (0..1500).for_each(|_| regions[0].write(&mut chance, 800));
    regions[1].receive(&regions[0]);
    // Leaves that have grown far are split, so that a step need not read them all.
    for _ in 0..200 {
        regions[1].store.digest_step();
        while regions[1].store.commit_step() {}
    }
    let read = regions[1].table().scrub_step(&EncodedKey::default(), 30, 7).unwrap();
    let next = read.next.expect("there are more rows");
    let told = |scrubbed: bool| {
        let options = Options { scrubbed, ..Options::new(TABLE, ["r1".into(), "r2".into()]) };
        let report = compare(
            &mut Local(regions[0].sessions.clone()),
            &mut Remote { sessions: regions[1].sessions.clone(), is_old: false },
            &options,
            &mut Shell {
                clock: &clock,
                pause: &mut |time: Duration| clock.pass(time),
                progress: &mut |_| ControlFlow::Continue(()),
                found: None,
            },
        );
        let report = report.unwrap();
        assert_eq!(report.verdict, Verdict::Equal);
        report.compared.map(|side| side.unwrap().scrubbed)
    };
    assert_eq!(told(false), [vec![], vec![]]);
    let from = |start: &EncodedKey, minute| ScrubbedFrom { start: start.0.clone(), minute };
    let first = EncodedKey::default();
    assert_eq!(told(true), [vec![from(&first, 0)], vec![from(&first, 7), from(&next, 0)]]);
}

fn named(report: &Report) -> BTreeSet<EncodedKey> {
    report.rows.iter().map(|row| row.key.clone()).collect()
}

/// Keys of rows that are not the same, when each region has had all of the other's.
fn differing(regions: &[Region; 2]) -> BTreeSet<EncodedKey> {
    let keys = (0..100).map(|number| PrimaryKey(vec![KeyValue::Integer(number)]).encode());
    let get = |region: &Region, key: &EncodedKey| region.table().get(key).unwrap();
    keys.filter(|key| get(&regions[0], key) != get(&regions[1], key)).collect()
}
