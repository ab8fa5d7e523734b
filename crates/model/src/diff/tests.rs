use super::*;
use crate::expiry::add_expiry;
use crate::family::NO_FAMILIES;
use crate::fixtures::stamp;
use crate::row::{Cell, Column, Trim};

const ORIGINS: u8 = 3;

/// An xorshift generator.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Chance(mixed ^ mixed >> 31 | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

fn for_each_case(run: impl Fn(&mut Chance)) {
    let given = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = given("LAW_SEED").unwrap_or(1u64);
    for seed in first..first + given("PROPTEST_CASES").unwrap_or(30_000) {
        let case = std::panic::AssertUnwindSafe(|| run(&mut Chance::new(seed)));
        if let Err(panic) = std::panic::catch_unwind(case) {
            eprintln!("failed with LAW_SEED={seed} PROPTEST_CASES=1");
            std::panic::resume_unwind(panic);
        }
    }
}

enum Entry {
    Row(Stamp, Row),
    Expiry(Trim),
}

impl Entry {
    fn stamp(&self) -> Stamp {
        match self {
            Entry::Row(stamp, _) => *stamp,
            Entry::Expiry(trim) => trim.stamp,
        }
    }
}

/// Times of cells lie around the milliseconds of the moments, so that expiries meet markers.
fn moment(number: u64) -> Hlc {
    Hlc(((number / 2) << 16) + number % 2)
}

fn any_entry(chance: &mut Chance, stamp: Stamp) -> Entry {
    if stamp.origin == Origin(0) && chance.one_in(6) {
        let below = Timestamp(stamp.hlc.millis() - chance.below(3) as i64);
        return Entry::Expiry(Trim { below, stamp });
    }
    let tombstone = chance.one_in(4).then_some(stamp);
    let marker = chance.one_in(2).then_some(stamp);
    let mut row = Row { tombstone, marker, ..Row::default() };
    for name in ["a", "b"] {
        if chance.one_in(2) {
            continue;
        }
        let column = row.column_mut(&name.into());
        column.tombstone = chance.one_in(5).then_some(stamp);
        for _ in 0..chance.below(3) {
            let value = (!chance.one_in(3)).then(|| Value::Integer(stamp.hlc.0 as i64));
            let timestamp = Timestamp(chance.below(6) as i64);
            column.set(Cell { timestamp, stamp, value });
        }
        if chance.one_in(3) {
            let trim = Trim { below: Timestamp(chance.below(7) as i64), stamp };
            crate::row::add_trim(&mut column.trims, trim);
        }
    }
    // What it kills itself is not in it.
    let mut settled = Row::default();
    settled.merge(&row);
    Entry::Row(stamp, settled)
}

#[derive(Clone)]
struct Replica {
    row: Row,
    expiry: Vec<Expiry>,
    /// Entries applied of each origin.
    applied: [usize; ORIGINS as usize],
    vector: Vec<(Origin, Hlc)>,
    safe: Hlc,
    floor: Hlc,
}

impl Replica {
    fn new() -> Replica {
        Replica {
            row: Row::default(),
            expiry: Vec::new(),
            applied: [0; ORIGINS as usize],
            vector: (0..ORIGINS).map(|number| (Origin(number), Hlc::MIN)).collect(),
            safe: Hlc::MIN,
            floor: Hlc::MIN,
        }
    }

    fn apply_next(&mut self, logs: &[Vec<Entry>], origin: usize) {
        let Some(entry) = logs[origin].get(self.applied[origin]) else { return };
        match entry {
            Entry::Row(_, delta) => self.row.merge(delta),
            Entry::Expiry(trim) => add_expiry(&mut self.expiry, (*trim).into()),
        }
        for expiry in &self.expiry {
            self.row.expire(expiry, &NO_FAMILIES);
        }
        self.applied[origin] += 1;
        self.vector[origin].1 = entry.stamp().hlc;
        self.safe = self.safe_time(logs);
    }

    /// As if every origin had promised what comes next.
    fn safe_time(&self, logs: &[Vec<Entry>]) -> Hlc {
        let next = |(log, applied): (&Vec<Entry>, &usize)| log.get(*applied).map(|e| e.stamp().hlc);
        let least = logs.iter().zip(&self.applied).filter_map(next).min();
        least.unwrap_or(moment(1_000))
    }

    fn purge(&mut self, horizon: Hlc) {
        self.row.purge(horizon);
        self.floor = self.floor.max(horizon);
    }

    fn knowledge(&self) -> Knowledge<'_> {
        Knowledge {
            vector: &self.vector,
            safe: self.safe,
            floor: self.floor,
            expiry: &self.expiry,
            families: &NO_FAMILIES,
        }
    }

    fn compare(&self, other: &Replica) -> Found {
        lagging((&self.row, self.knowledge()), (&other.row, other.knowledge()))
    }
}

fn any_logs(chance: &mut Chance) -> Vec<Vec<Entry>> {
    let mut logs: Vec<Vec<Entry>> = (0..ORIGINS).map(|_| Vec::new()).collect();
    for number in 1..5 + chance.below(12) as u64 {
        for (origin, log) in logs.iter_mut().enumerate() {
            if chance.one_in(2) {
                let stamp = Stamp { hlc: moment(number), origin: Origin(origin as u8) };
                log.push(any_entry(chance, stamp));
            }
        }
    }
    logs
}

/// Two replicas that have applied prefixes; the second is looked at somewhat earlier now and then.
fn any_replicas(chance: &mut Chance, logs: &[Vec<Entry>], through: bool) -> (Replica, Replica) {
    let mut replicas = [Replica::new(), Replica::new()];
    let mut seen_early = None;
    for _ in 0..chance.below(60) {
        match chance.below(12) {
            0 => {
                // The horizon is the least safe time of all, the third being far ahead.
                let horizon = replicas[0].safe.min(replicas[1].safe);
                let at = chance.below(2);
                replicas[at].purge(horizon);
            }
            1 if seen_early.is_none() && chance.one_in(3) => seen_early = Some(replicas[1].clone()),
            _ => {
                let at = chance.below(2);
                replicas[at].apply_next(logs, chance.below(logs.len()));
            }
        }
    }
    if through {
        for replica in &mut replicas {
            for (origin, log) in logs.iter().enumerate() {
                for _ in 0..log.len() {
                    replica.apply_next(logs, origin);
                }
            }
        }
        seen_early = None;
    }
    let [first, second] = replicas;
    (first, seen_early.unwrap_or(second))
}

#[test]
fn what_is_only_late_is_no_difference() {
    for_each_case(|chance| {
        let logs = any_logs(chance);
        let (first, second) = any_replicas(chance, &logs, false);
        assert_eq!(first.compare(&second).cells, []);
        assert_eq!(second.compare(&first).cells, []);
    });
}

#[test]
fn replicas_that_have_applied_all_are_clearly_alike() {
    for_each_case(|chance| {
        let logs = any_logs(chance);
        let (first, second) = any_replicas(chance, &logs, true);
        let found = first.compare(&second);
        assert!(found.cells.is_empty() && !found.unclear);
    });
}

fn remove(row: &mut Row, register: &Register) {
    let column = |row: &mut Row, name: &Text, change: &dyn Fn(&mut Column)| {
        change(row.column_mut(name));
        row.columns.retain(|column| *column != Column::new(column.name.clone()));
    };
    match register {
        Register::Tombstone => row.tombstone = None,
        Register::Marker => row.marker = None,
        Register::ColumnTombstone(name) => column(row, name, &|column| column.tombstone = None),
        Register::Trim(name, below) => {
            column(row, name, &|column| column.trims.retain(|trim| trim.below != *below));
        }
        Register::Cell(name, timestamp) => {
            column(row, name, &|column| column.cells.retain(|cell| cell.timestamp != *timestamp));
        }
        Register::Count(name, origin) | Register::Share(name, origin) => {
            column(row, name, &|column| {
                column.change_shares(|shares| shares.list.retain(|one| one.origin() != *origin));
            });
        }
        Register::Seen(name, until) => column(row, name, &|column| {
            column.change_shares(|shares| shares.seen.retain(|seen| seen.until != *until));
        }),
    }
}

fn expired(row: &Row, replicas: [&Replica; 2]) -> Row {
    let mut row = row.clone();
    for expiry in replicas.into_iter().flat_map(|replica| &replica.expiry) {
        row.expire(expiry, &NO_FAMILIES);
    }
    row
}

/// What must be named when `second` was `before` and lost some registers.
fn lost(first: &Replica, second: &Replica, before: &Row) -> Vec<(Register, Class)> {
    let row = expired(&first.row, [first, second]);
    let mut merged = expired(&second.row, [first, second]);
    merged.merge(&row);
    let merged = registers(&merged);
    let floor = first.floor.max(second.floor);
    let now = registers(&expired(&second.row, [first, second]));
    let before = registers(&expired(before, [first, second]));
    let is_lost = |(name, held): &(Register, Held)| {
        // What was there may have been newer: then the older one is missing as well.
        let was = find(&before, name).is_some_and(|was| was.stamp >= held.stamp)
            && second.knowledge().covers(held.stamp);
        was && find(&merged, name) == Some(held)
            && find(&now, name).is_none()
            && !(name.kills(held) && held.stamp.hlc < floor)
    };
    registers(&row).into_iter().filter(is_lost).map(|(name, _)| (name, Class::Missing)).collect()
}

fn named(found: &Found) -> Vec<(Register, Class)> {
    found.cells.iter().map(|cell| (cell.register.clone(), cell.class)).collect()
}

#[test]
fn exactly_the_lost_registers_are_named() {
    for_each_case(|chance| {
        let logs = any_logs(chance);
        let (first, mut second) = any_replicas(chance, &logs, false);
        let before = second.row.clone();
        let all = registers(&before);
        if all.is_empty() {
            return;
        }
        if chance.one_in(4) {
            second.row = Row::default();
        } else {
            remove(&mut second.row, &all[chance.below(all.len())].0);
        }
        // A kill that only it had, and lost, brings back what the other side still has.
        let kept = |(name, held): &(Register, Held)| {
            name.kills(held) && find(&registers(&first.row), name) != Some(held)
        };
        let gone = |entry: &&(Register, Held)| find(&registers(&second.row), &entry.0).is_none();
        if all.iter().filter(gone).any(kept) {
            return;
        }
        let found = first.compare(&second);
        if !found.unclear {
            assert_eq!(named(&found), lost(&first, &second, &before));
        }
    });
}

#[test]
fn exactly_the_changed_and_made_up_cells_are_named() {
    for_each_case(|chance| {
        let logs = any_logs(chance);
        let through = chance.one_in(2);
        let (first, mut second) = any_replicas(chance, &logs, through);
        // A stamp that both have had.
        let origin = Origin(chance.below(ORIGINS as usize) as u8);
        let known = |replica: &Replica| replica.vector[origin.0 as usize].1;
        let upto = known(&first).min(known(&second));
        if upto == Hlc::MIN {
            return;
        }
        let value = Some(Value::Integer(-1));
        let cells: Vec<(Text, Cell)> = (second.row.columns.iter())
            .flat_map(|column| column.cells.iter().map(|cell| (column.name.clone(), cell.clone())))
            .collect();
        let before = second.row.clone();
        let (name, cell) = match cells.is_empty() || chance.one_in(2) {
            true => {
                let hlc = Hlc(upto.0.saturating_sub(chance.below(3) as u64));
                let timestamp = Timestamp(chance.below(8) as i64);
                (Text::from("a"), Cell { timestamp, stamp: Stamp { hlc, origin }, value })
            }
            false => {
                let (name, cell) = cells[chance.below(cells.len())].clone();
                (name, Cell { value, ..cell })
            }
        };
        let register = Register::Cell(name.clone(), cell.timestamp);
        remove(&mut second.row, &register);
        second.row.column_mut(&name).cells.push(cell.clone());
        second.row.column_mut(&name).cells.sort_by_key(|cell| -cell.timestamp.0);
        // Planted beside what its own kills leave.
        let mut settled = Row::default();
        settled.merge(&second.row);
        if settled != second.row {
            return;
        }
        let found = first.compare(&second);
        let a = expired(&first.row, [&first, &second]);
        let b = expired(&second.row, [&first, &second]);
        let mut merged = a.clone();
        merged.merge(&b);
        let wins = registers(&merged)
            .iter()
            .any(|(name, held)| *name == register && held.stamp == cell.stamp);
        let (a, b) = (registers(&a), registers(&b));
        let mine = find(&b, &register);
        let theirs = find(&a, &register);
        let must = wins && first.knowledge().covers(cell.stamp) && mine != theirs;
        // A made-up cell may hide an older one that the other side has; nothing else is named.
        let is_named = found.cells.iter().any(|diff| diff.register == register);
        assert!(found.cells.iter().all(|diff| diff.register == register), "{found:?}");
        let was = find(&registers(&before), &register).cloned();
        if must && !found.unclear {
            assert!(is_named, "{cell:?} {was:?}");
        }
        if mine == theirs {
            assert!(!is_named);
        }
    });
}

#[test]
fn a_kill_that_both_have_had_hides_nothing_where_a_safe_time_is_not_known() {
    let killed = Row { tombstone: Some(stamp(4)), ..Row::default() };
    let alive = Row { marker: Some(stamp(2)), ..Row::default() };
    let vector = [(stamp(9).origin, stamp(9).hlc)];
    let knows = |safe| Knowledge {
        vector: &vector,
        safe,
        floor: stamp(8).hlc,
        expiry: &[],
        families: &NO_FAMILIES,
    };
    // The first has just started.
    let found = lagging((&killed, knows(Hlc::MIN)), (&alive, knows(stamp(9).hlc)));
    assert_eq!(named(&found), [(Register::Marker, Class::Extra)]);
    // The second has: the first may have forgotten what it has not had.
    let found = lagging((&killed, knows(stamp(9).hlc)), (&alive, knows(Hlc::MIN)));
    assert!(found.unclear);
}

fn cell(timestamp: i64, at: i64, value: i64) -> Cell {
    Cell { timestamp: Timestamp(timestamp), stamp: stamp(at), value: Some(Value::Integer(value)) }
}

fn row(marker: i64, cells: Vec<Cell>) -> Row {
    let mut row = Row { marker: Some(stamp(marker)), ..Row::default() };
    for cell in cells {
        row.column_mut(&"a".into()).set(cell);
    }
    row
}

#[test]
fn plain_comparison_names_each_register_and_its_class() {
    let first = row(2, vec![cell(1, 1, 5), cell(2, 2, 6), cell(3, 1, 7), cell(5, 1, 0)]);
    let second = row(1, vec![cell(1, 1, 5), cell(3, 2, 7), cell(4, 1, 8), cell(5, 1, 1)]);
    let at = |timestamp| Register::Cell("a".into(), Timestamp(timestamp));
    let found = plain(&first, &second);
    let named: Vec<_> = found.iter().map(|d| (d.register.clone(), d.class)).collect();
    assert_eq!(
        named,
        [
            (Register::Marker, Class::Older),
            (at(2), Class::Missing),
            (at(3), Class::Newer),
            (at(4), Class::Extra),
            (at(5), Class::Different),
        ]
    );
    assert_eq!(plain(&first, &first), []);
    assert_eq!(class_of_row(&first, &second, &found), Class::Different);
    assert_eq!(class_of_row(&first, &Row::default(), &found), Class::Missing);
    assert_eq!(class_of_row(&Row::default(), &second, &found), Class::Extra);
    assert_eq!(class_of_row(&row(3, Vec::new()), &second, &found), Class::Older);
    assert_eq!(class_of_row(&first, &row(3, Vec::new()), &found), Class::Newer);
}
