//! Merging rows is commutative, associative and idempotent, and regions that have seen the same
//! entries hold the same rows, whatever the order, repetition and delay.
//!
//! Tight loops over a small seeded generator, so that a million cases are feasible. Few columns,
//! timestamps and moments, so that changes collide. `PROPTEST_CASES` sets the number of cases,
//! `LAW_SEED` the first seed; a failure names the seed of its case.

use std::collections::VecDeque;

use isthmus_model::apply::{ApplyContext, Granularity, Refusal, apply, needs_row};
use isthmus_model::capacity::WriteSize;
use isthmus_model::change::{CellChange, CellWrite, Condition, Existence, Returned, RowAction};
use isthmus_model::check::{CheckedChange, CheckedKey};
use isthmus_model::expiry::{Expiry, add_expiry};
use isthmus_model::family::{Families, Family, FamilySet, FamilyTime};
use isthmus_model::hlc::{Hlc, HlcClock, Stamp};
use isthmus_model::ids::{Origin, SchemaNumber, Timestamp};
use isthmus_model::key::{KeyKind, KeyValue, PrimaryKey};
use isthmus_model::row::{Cell, Column, Row, Trim, add_trim};
use isthmus_model::rule::{ConflictRules, Rule};
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_model::share::{Seen, Share, ShareKind};
use isthmus_model::show::View;
use isthmus_model::value::{Text, Value};

const REGIONS: usize = 3;
const COLUMNS: [&str; 3] = ["a", "b", "c"];

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|given| given.parse().ok()).unwrap_or(default)
}

/// A million where the optimizer helps, which takes seconds.
const CASES: u64 = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };

fn for_each_case(run: impl Fn(&mut Chance)) {
    let first = from_env("LAW_SEED", 1);
    for seed in first..first + from_env("PROPTEST_CASES", CASES) {
        let case = std::panic::AssertUnwindSafe(|| run(&mut Chance::new(seed)));
        if let Err(panic) = std::panic::catch_unwind(case) {
            eprintln!("failed with LAW_SEED={seed} PROPTEST_CASES=1");
            std::panic::resume_unwind(panic);
        }
    }
}

/// An xorshift generator.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        // Neighbouring seeds must not begin alike.
        let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Chance(mixed ^ mixed >> 31 | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// Texts made once, so that a case costs no more than it must.
struct Names(Vec<Text>);

impl Names {
    fn new() -> Names {
        Names(COLUMNS.iter().map(|name| Text::from(*name)).collect())
    }

    fn any(&self, chance: &mut Chance) -> Text {
        self.0[chance.below(self.0.len())].clone()
    }
}

fn schema(number: u64, max_versions: u32, time_to_live_seconds: Option<u32>) -> Schema {
    Schema {
        number: SchemaNumber(number),
        key_columns: vec![KeyColumn {
            name: Text::from("pk"),
            kind: KeyKind::Integer,
            auto_increment: false,
        }],
        defined_columns: Vec::new(),
        options: TableOptions { max_versions, time_to_live_seconds, ..TableOptions::default() },
    }
}

// The laws, on arbitrary deltas.

/// All that a region knows of a partition of one row.
#[derive(Clone, Debug, PartialEq)]
struct State {
    row: Row,
    expiries: Vec<Expiry>,
    schema: Schema,
}

impl State {
    fn empty() -> State {
        State { row: Row::default(), expiries: Vec::new(), schema: schema(1, 1, None) }
    }

    fn merged(mut self, other: &State) -> State {
        self.row.merge(&other.row);
        for expiry in &other.expiries {
            add_expiry(&mut self.expiries, *expiry);
        }
        // What is known to have expired goes after every merge.
        for expiry in &self.expiries {
            self.row.expire(expiry, &families());
        }
        self.schema = self.schema.newer_of(other.schema.clone());
        self
    }
}

/// A change of its own stamp: any kills and cells, or an expiry, or a schema.
fn any_change(chance: &mut Chance, names: &Names, stamp: Stamp) -> State {
    let mut state = State::empty();
    match chance.below(12) {
        0 => state.expiries.push(Expiry {
            trim: Trim { below: Timestamp(chance.below(7) as i64), stamp },
            spared: FamilySet(if chance.one_in(2) { 0 } else { chance.next() & 7 }),
        }),
        1 => state.schema = schema(1 + stamp.hlc.0, 1, None),
        _ => state.row = any_delta(chance, names, stamp),
    }
    // A change is a state: what it kills itself is not in it.
    State::empty().merged(&state)
}

fn any_delta(chance: &mut Chance, names: &Names, stamp: Stamp) -> Row {
    let tombstone = chance.one_in(4).then_some(stamp);
    let marker = chance.one_in(2).then_some(stamp);
    let mut row = Row { tombstone, marker, ..Row::default() };
    for name in &names.0 {
        if chance.one_in(2) {
            continue;
        }
        let column = row.column_mut(name);
        column.tombstone = chance.one_in(5).then_some(stamp);
        for _ in 0..chance.below(3) {
            let value = (!chance.one_in(3)).then(|| Value::Integer(stamp.hlc.0 as i64));
            column.set(Cell { timestamp: Timestamp(chance.below(6) as i64), stamp, value });
        }
        if chance.one_in(3) {
            add_trim(&mut column.trims, Trim { below: Timestamp(chance.below(7) as i64), stamp });
        }
        if chance.one_in(2) {
            any_shares(chance, column, stamp);
        }
    }
    row
}

fn any_shares(chance: &mut Chance, column: &mut Column, stamp: Stamp) {
    let kinds =
        [ShareKind::Counter, ShareKind::Max, ShareKind::Row(stamp.origin.0), ShareKind::Set];
    let kind = kinds[chance.below(kinds.len())];
    // A counter that goes on has begun where the one before it has, or later.
    let first = match kind {
        ShareKind::Counter => Stamp { hlc: Hlc(stamp.hlc.0 & !0xffff | 1), ..stamp },
        _ => stamp,
    };
    let value = Value::Integer(stamp.hlc.0 as i64);
    let timestamp = Timestamp(chance.below(6) as i64);
    let shares = column.shares_mut();
    shares.add(Share { kind, first, stamp, timestamp, value });
    for _ in 0..chance.below(3) {
        let moment = chance.below(12);
        shares.see(Seen { until: case_stamp(moment as u64), by: stamp });
    }
}

/// The moments of a case. They may be alike between origins, never within one.
fn case_stamp(n: u64) -> Stamp {
    Stamp { hlc: Hlc(1 + n / 3 + ((n / 6) << 16)), origin: Origin((n % 3) as u8) }
}

/// The state of a region that has seen some of the changes, in any order.
fn any_state(chance: &mut Chance, changes: &[State]) -> State {
    let mut state = State::empty();
    for _ in 0..chance.below(changes.len() + 1) {
        state = state.merged(&changes[chance.below(changes.len())]);
    }
    state
}

#[test]
fn merge_is_commutative_associative_and_idempotent() {
    let names = Names::new();
    for_each_case(|chance| {
        // One stamp per change.
        let count = 2 + chance.below(5);
        let mut stamps: Vec<Stamp> = (0..12u64).map(case_stamp).collect();
        let changes: Vec<State> = (0..count)
            .map(|_| {
                let stamp = stamps.swap_remove(chance.below(stamps.len()));
                any_change(chance, &names, stamp)
            })
            .collect();
        let a = any_state(chance, &changes);
        let b = any_state(chance, &changes);
        let c = any_state(chance, &changes);
        let ab = a.clone().merged(&b);
        assert_eq!(ab, b.clone().merged(&a), "commutative");
        let left = ab.clone().merged(&c);
        assert_eq!(left, a.clone().merged(&b.clone().merged(&c)), "associative");
        assert_eq!(ab.clone().merged(&ab), ab, "idempotent");
        assert_eq!(ab.clone().merged(&a), ab, "absorbs what it holds");
    });
}

// Regions that apply changes of clients and exchange their deltas.

#[derive(Clone)]
enum Entry {
    Row(Stamp, Row),
    Expiry(Expiry),
    Schema(Stamp, Schema),
}

struct Region {
    origin: Origin,
    clock: HlcClock,
    row: Row,
    expiry: Vec<Expiry>,
    schema: Schema,
    /// Entries of the base that have not come yet: those of one region come in their order.
    ordered: VecDeque<Entry>,
    /// Entries of other regions that have not come yet.
    inbox: Vec<Entry>,
}

impl Region {
    fn stamp(&mut self, wall: i64) -> Stamp {
        Stamp { hlc: self.clock.next(wall), origin: self.origin }
    }

    fn take(&mut self, entry: &Entry, wall: i64) {
        let seen = match entry {
            Entry::Row(stamp, _) | Entry::Schema(stamp, _) => *stamp,
            Entry::Expiry(expiry) => expiry.trim.stamp,
        };
        self.clock.observe(seen.hlc, wall, i64::MAX).expect("every skew is allowed here");
        match entry {
            Entry::Row(_, delta) => self.row.merge(delta),
            Entry::Expiry(expiry) => add_expiry(&mut self.expiry, *expiry),
            Entry::Schema(_, schema) => {
                self.schema = self.schema.clone().newer_of(schema.clone());
            }
        }
        for expiry in &self.expiry {
            self.row.expire(expiry, &self.schema.options.families);
        }
    }
}

fn any_update(chance: &mut Chance, names: &Names, wall: i64) -> CellChange {
    let name = names.any(chance);
    let timestamp = Timestamp(wall - 3 + chance.below(7) as i64);
    match chance.below(6) {
        0 => CellChange::DeleteColumn { name },
        1 => CellChange::DeleteVersion { name, timestamp },
        2 => CellChange::Increment { name, delta: 1 },
        _ => CellChange::Put(any_write(chance, name, timestamp)),
    }
}

fn any_write(chance: &mut Chance, name: Text, timestamp: Timestamp) -> CellWrite {
    let value = match chance.one_in(4) {
        true => Value::String(Text::from(format!("[{}]", chance.below(9)))),
        false => Value::Integer(chance.below(100) as i64),
    };
    CellWrite { name, value, timestamp: chance.one_in(2).then_some(timestamp) }
}

fn any_client_change(chance: &mut Chance, names: &Names, wall: i64) -> CheckedChange {
    let count = 1 + chance.below(3);
    let action = match chance.below(8) {
        0 => RowAction::Delete,
        1 | 2 => {
            let mut cells: Vec<CellWrite> = Vec::new();
            for _ in 1..count {
                let timestamp = Timestamp(wall - 3 + chance.below(7) as i64);
                let name = names.any(chance);
                if cells.iter().all(|cell| cell.name != name) {
                    cells.push(any_write(chance, name, timestamp));
                }
            }
            RowAction::Put(cells)
        }
        _ => {
            let mut changes = vec![any_update(chance, names, wall)];
            if chance.one_in(4) {
                // The column goes and a version of it comes, in one change.
                let name = names.any(chance);
                let timestamp = Timestamp(wall);
                changes = vec![
                    CellChange::DeleteColumn { name: name.clone() },
                    CellChange::Put(any_write(chance, name, timestamp)),
                ];
            }
            RowAction::Update(changes)
        }
    };
    let existence = match chance.below(6) {
        0 => Existence::MustExist,
        1 => Existence::MustNotExist,
        _ => Existence::Ignore,
    };
    CheckedChange {
        key: CheckedKey::Whole(PrimaryKey(vec![KeyValue::Integer(1)])),
        action,
        condition: Condition { existence, columns: None },
        returned: Returned::Nothing,
        size: WriteSize::default(),
    }
}

/// A client changes the row here; gives the entry.
fn client_writes(
    region: &mut Region,
    chance: &mut Chance,
    names: &Names,
    wall: i64,
    granularity: Granularity,
) -> Option<Entry> {
    let change = any_client_change(chance, names, wall);
    let stamp = region.stamp(wall);
    let key = PrimaryKey(vec![KeyValue::Integer(1)]);
    let context = ApplyContext {
        schema: &region.schema,
        stamp,
        now_millis: wall,
        granularity,
        expiry: &region.expiry,
    };
    let row = needs_row(&change, granularity).then_some(&region.row);
    let applied = match apply(&context, row, &key, &change) {
        Ok(applied) => applied,
        Err(
            Refusal::ConditionFailed
            | Refusal::NoSet { .. }
            | Refusal::CounterOfNonInteger { .. }
            | Refusal::IncrementOfNonInteger { .. },
        ) => return None,
        Err(refusal) => panic!("{refusal}"),
    };
    let before = region.row.clone();
    if granularity == Granularity::WholeRowByRule {
        let view = View::new(&region.schema.options, wall, &region.expiry);
        check_whole(&before, &applied.after, stamp, &change.action, &view);
    }
    region.take(&Entry::Row(stamp, applied.delta.clone()), wall);
    assert_eq!(applied.after, region.row, "{change:?} on {before:?}");
    let view = View::new(&region.schema.options, wall, &region.expiry);
    for column in &region.row.columns {
        let live = column.cells.iter().filter(|cell| cell.value.is_some()).count();
        let touched = applied.delta.column(column.name.as_bytes()).is_some();
        assert!(
            !touched || live <= view.of(&column.name).max_versions as usize,
            "{change:?} leaves {column:?}"
        );
    }
    Some(Entry::Row(stamp, applied.delta))
}

/// What is shown after a change of a whole row is what it wrote, whatever had been there: it had
/// seen all of it. An update leaves the columns that it does not name as they were shown.
fn check_whole(before: &Row, after: &Row, stamp: Stamp, action: &RowAction, view: &View) {
    let newest = |row: &Row, name: &str| {
        let cell = view.versions(row.column(name.as_bytes())?).next()?.into_owned();
        Some(cell)
    };
    let (shown, chosen) = (view.chosen(before), view.chosen(after));
    let versions = chosen.columns.iter().flat_map(|column| view.versions(column));
    versions.for_each(|cell| assert_eq!(cell.stamp, stamp, "{after:?}"));
    let RowAction::Update(changes) = action else { return };
    let is_named = |name: &str| {
        changes.iter().any(|change| match change {
            CellChange::Put(CellWrite { name: named, .. })
            | CellChange::DeleteVersion { name: named, .. }
            | CellChange::DeleteColumn { name: named }
            | CellChange::Increment { name: named, .. } => named.as_bytes() == name.as_bytes(),
        })
    };
    for name in COLUMNS.into_iter().filter(|name| !is_named(name)) {
        let value = |row: &Row| newest(row, name).map(|cell| (cell.timestamp, cell.value));
        assert_eq!(value(&shown), value(&chosen), "{name} of {before:?}");
    }
}

fn any_rules_of_rows(chance: &mut Chance) -> ConflictRules {
    let default = if chance.one_in(4) { Rule::LastWriter } else { Rule::Priority };
    ConflictRules { default, columns: Vec::new(), priority: vec![Origin(2), Origin(3)] }
}

fn any_rules(chance: &mut Chance) -> ConflictRules {
    let all = [Rule::LastWriter, Rule::Priority, Rule::Max, Rule::Min, Rule::Counter, Rule::Set];
    let mut rule = || all[chance.below(all.len())];
    let columns = COLUMNS.iter().map(|name| (Text::from(*name), rule())).collect();
    ConflictRules { default: Rule::LastWriter, columns, priority: vec![Origin(2), Origin(3)] }
}

/// The families after a change of the schema: one more, or one that lives otherwise than before.
fn any_families(chance: &mut Chance, before: &Families) -> Families {
    let mut list = before.list().to_vec();
    let columns = &COLUMNS[list.len().min(COLUMNS.len() - 1)..][..1];
    if list.len() < 2 && chance.one_in(2) {
        list.push(Family {
            name: Text::from(format!("f{}", list.len())),
            columns: columns.iter().map(|name| Text::from(*name)).collect(),
            prefix: None,
            time_to_live: FamilyTime::AsTable,
            max_versions: None,
        });
    }
    for family in &mut list {
        let seconds = 1 + chance.below(3) as u32;
        let times = [FamilyTime::AsTable, FamilyTime::Forever, FamilyTime::Seconds(seconds)];
        family.time_to_live = times[chance.below(times.len())];
        family.max_versions = chance.one_in(2).then_some(seconds);
    }
    Families::new(list)
}

/// Families of the arbitrary deltas.
fn families() -> Families {
    let family = |name: &&str| Family {
        name: Text::from(*name),
        columns: vec![Text::from(*name)],
        prefix: None,
        time_to_live: FamilyTime::Forever,
        max_versions: None,
    };
    Families::new(COLUMNS.iter().take(2).map(family).collect())
}

/// What the base region logs besides rows.
fn base_writes(region: &mut Region, chance: &mut Chance, wall: i64) -> Option<Entry> {
    let stamp = region.stamp(wall);
    let entry = if chance.one_in(3) {
        let next = region.schema.number.0 + 1;
        let max_versions = 1 + chance.below(3) as u32;
        let time_to_live = chance.one_in(2).then_some(1 + chance.below(2) as u32);
        let mut schema = schema(next, max_versions, time_to_live);
        schema.options.rules = match &region.schema.options.rules {
            // As they are where whole rows conflict, a change is one of the same.
            Some(rules) if rules.suit_whole_rows() => Some(any_rules_of_rows(chance)),
            Some(_) | None => Some(any_rules(chance)),
        };
        schema.options.families = any_families(chance, &region.schema.options.families);
        Entry::Schema(stamp, schema)
    } else {
        let trim = Trim { below: Timestamp(wall - 3 + chance.below(4) as i64), stamp };
        let options = &region.schema.options;
        let own = options.families.with_own_time();
        let numbers: Vec<_> = options.families.numbers().filter(|one| own.has(*one)).collect();
        // Of the table and what lives as it says, or of one family.
        let spared = match chance.below(numbers.len() + 1) {
            0 => own,
            place => FamilySet::of(numbers[place - 1]).others(),
        };
        Entry::Expiry(Expiry { trim, spared })
    };
    region.take(&entry, wall);
    Some(entry)
}

fn deliver(region: &mut Region, chance: &mut Chance, wall: i64) {
    if (region.inbox.is_empty() || chance.one_in(2))
        && let Some(entry) = region.ordered.pop_front()
    {
        return region.take(&entry, wall);
    }
    if region.inbox.is_empty() {
        return;
    }
    let place = chance.below(region.inbox.len());
    let entry = match chance.one_in(4) {
        // It comes once more later.
        true => region.inbox[place].clone(),
        false => region.inbox.swap_remove(place),
    };
    region.take(&entry, wall);
}

#[test]
fn regions_that_have_seen_the_same_entries_hold_the_same_rows() {
    let names = Names::new();
    for_each_case(|chance| {
        let mut schema = schema(1, 2, None);
        let granularity = match chance.below(5) {
            0 => Granularity::Change,
            1 => Granularity::WholeRow,
            2 => {
                schema.options.rules = Some(any_rules_of_rows(chance));
                Granularity::WholeRowByRule
            }
            _ => {
                schema.options.rules = Some(any_rules(chance));
                Granularity::ByRule
            }
        };
        let mut wall = 1_000_000;
        let mut regions: Vec<Region> = (1..=REGIONS as u8)
            .map(|number| Region {
                origin: Origin(number),
                clock: HlcClock::default(),
                row: Row::default(),
                expiry: Vec::new(),
                schema: schema.clone(),
                ordered: VecDeque::new(),
                inbox: Vec::new(),
            })
            .collect();
        for _ in 0..10 + chance.below(12) {
            let at = chance.below(REGIONS);
            // Clocks differ by little and may step back.
            let local = wall + chance.below(3) as i64;
            // Now and then so late that what was written has outlived its time.
            wall += if chance.one_in(8) { 1_500 } else { chance.below(2) as i64 };
            let region = &mut regions[at];
            let entry = match chance.below(8) {
                0..4 => client_writes(region, chance, &names, local, granularity),
                4 if at == 0 => base_writes(region, chance, local),
                _ => {
                    deliver(region, chance, local);
                    None
                }
            };
            let Some(entry) = entry else { continue };
            for (to, other) in regions.iter_mut().enumerate() {
                match &entry {
                    _ if to == at => {}
                    Entry::Row(..) => other.inbox.push(entry.clone()),
                    Entry::Expiry(_) | Entry::Schema(..) => other.ordered.push_back(entry.clone()),
                }
            }
        }
        for region in &mut regions {
            while !region.inbox.is_empty() || !region.ordered.is_empty() {
                deliver(region, chance, wall);
            }
        }
        if granularity == Granularity::WholeRowByRule {
            let region = &regions[0];
            let view = View::new(&region.schema.options, wall, &region.expiry);
            let chosen = view.chosen(&region.row);
            let cells = chosen.columns.iter().flat_map(|column| &column.cells);
            let stamps: std::collections::BTreeSet<Stamp> = cells.map(|one| one.stamp).collect();
            assert!(stamps.len() <= 1, "of several writes: {:?}", region.row);
        }
        for other in &regions[1..] {
            assert_eq!(regions[0].row, other.row, "{granularity:?}");
            assert_eq!(regions[0].schema, other.schema);
            assert_eq!(regions[0].expiry, other.expiry);
        }
    });
}
