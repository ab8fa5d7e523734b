//! Rules that decide between regions, and the log of what they overwrote of each other unseen.

use std::collections::BTreeMap;

use isthmus_model::conflict::Winner;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::rule::{ConflictRules, Rule};
use isthmus_model::show::View;

use super::replicas::copy_among_writes;
use super::*;
use crate::limits::CONFLICTS_MAX;

/// Regions that ship only what is new.
struct World {
    regions: Vec<Region>,
    /// How far the log of a region was shipped to each other.
    shipped: BTreeMap<(usize, usize), Lsn>,
}

impl World {
    fn new(writers: Writers) -> World {
        let regions = (1..=3).map(|origin| Region::new(origin, writers)).collect();
        World { regions, shipped: BTreeMap::new() }
    }

    fn with_rules(rules: ConflictRules) -> World {
        let mut world = World::new(Writers::ManyByColumn);
        world.set_rules(rules);
        world.ship_all();
        world
    }

    fn set_rules(&mut self, rules: ConflictRules) {
        let changed = self.regions[0].table().change_schema(|schema| {
            let mut schema = schema.clone();
            schema.options.rules = Some(rules);
            Ok(schema)
        });
        self.regions[0].finish(changed).unwrap();
    }

    fn ship(&mut self, from: usize, to: usize) {
        let (sender, receiver) = (&self.regions[from], &self.regions[to]);
        let reached = self.shipped.entry((from, to)).or_default();
        let mut entries = entries_after(&sender.table(), *reached);
        let until = sender.table().durable_lsn();
        entries.retain(|entry| entry.stamp.origin == sender.origin);
        let taken = receiver.table().apply(sender.origin, Epoch(1), *reached, until, entries);
        receiver.finish(taken).unwrap();
        *reached = until;
    }

    fn ship_all(&mut self) {
        for from in 0..3 {
            (0..3).filter(|to| *to != from).for_each(|to| self.ship(from, to));
        }
    }

    fn write(&self, region: usize, changes: Vec<CheckedChange>) {
        let region = &self.regions[region];
        region.clock.advance(1);
        let results = region.finish(region.table().write(changes, false)).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    /// What every region shows of a column.
    fn shown(&self, number: i64, name: &str) -> Option<Value> {
        let one = |region: &Region| {
            let row = region.table().get(&key(number).encode()).unwrap()?;
            let view = View::new(&region.table().schema().options, START_MILLIS, &[]);
            let row = view.chosen(&row);
            view.versions(row.column(name.as_bytes())?).next()?.value.clone()
        };
        let shown: Vec<Option<Value>> = self.regions.iter().map(one).collect();
        assert_eq!(shown[0], shown[1]);
        assert_eq!(shown[0], shown[2]);
        shown.into_iter().next().flatten()
    }

    fn noticed(&self, region: usize) -> u64 {
        self.regions[region].table().conflict_counts().noticed
    }

    fn settle_clocks(&self) {
        self.regions.iter().for_each(|region| region.clock.advance(10));
    }
}

fn rules(rule: Rule) -> ConflictRules {
    let columns = vec![("n".into(), rule), ("v".into(), rule)];
    ConflictRules { columns, priority: vec![Origin(2), Origin(1)], ..ConflictRules::default() }
}

fn set(number: i64, value: Value) -> CheckedChange {
    let write = CellWrite { name: "v".into(), value, timestamp: None };
    change(number, RowAction::Update(vec![CellChange::Put(write)]))
}

#[test]
fn increments_of_all_regions_count_and_a_put_begins_anew() {
    let mut world = World::with_rules(rules(Rule::Counter));
    for _ in 0..10 {
        for region in 0..3 {
            world.write(region, vec![increment(1), increment(1)]);
        }
        world.ship(0, 1);
    }
    world.ship_all();
    assert_eq!(world.shown(1, "n"), Some(Value::Integer(60)));
    world.settle_clocks();
    let reset = CellWrite { name: "n".into(), value: Value::Integer(100), timestamp: None };
    world.write(1, vec![change(1, RowAction::Update(vec![CellChange::Put(reset)]))]);
    world.ship_all();
    (0..3).for_each(|region| world.write(region, vec![increment(1)]));
    world.ship_all();
    assert_eq!(world.shown(1, "n"), Some(Value::Integer(103)));
    world.settle_clocks();
    world.write(2, vec![delete(1)]);
    world.ship_all();
    world.write(0, vec![increment(1)]);
    world.ship_all();
    assert_eq!(world.shown(1, "n"), Some(Value::Integer(1)));
    let rows: Vec<_> = world.regions.iter().map(Region::rows).collect();
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0], rows[2]);
}

#[test]
fn each_rule_decides_between_writes_that_had_not_seen_each_other() {
    let number = Value::Integer;
    let text = |text: &str| Value::String(text.into());
    let cases = [
        (Rule::Max, [number(5), number(9), number(2)], number(9)),
        (Rule::Min, [number(5), number(9), number(2)], number(2)),
        (Rule::Priority, [number(5), number(9), number(2)], number(9)),
        (Rule::LastWriter, [number(5), number(9), number(2)], number(2)),
        (Rule::Set, [text("[1,2]"), text("[2,\"x\"]"), text("[]")], text("[\"x\",1,2]")),
    ];
    for (rule, values, expected) in cases {
        let mut world = World::with_rules(rules(rule));
        for (region, value) in values.iter().enumerate() {
            // The later region's clock is ahead of the one before.
            (0..region).for_each(|_| world.regions[region].clock.advance(1));
            world.write(region, vec![set(1, value.clone())]);
        }
        world.ship_all();
        assert_eq!(world.shown(1, "v"), Some(expected), "{rule:?}");
        world.settle_clocks();
        // What has seen all of them replaces them, whatever the rule would say.
        let last = if rule == Rule::Set { text("[7]") } else { number(4) };
        world.write(0, vec![set(1, last.clone())]);
        world.ship_all();
        assert_eq!(world.shown(1, "v"), Some(last), "{rule:?}");
    }
}

#[test]
fn a_put_decides_by_the_rule_too() {
    let mut world = World::with_rules(rules(Rule::Max));
    world.write(0, vec![put(1, 50)]);
    world.regions[1].clock.advance(5);
    world.write(1, vec![put(1, 3)]);
    world.ship_all();
    assert_eq!(world.shown(1, "v"), Some(Value::Integer(50)));
}

#[test]
fn where_whole_rows_conflict_the_row_of_the_region_with_the_highest_priority_is_shown() {
    let mut world = World::new(Writers::ManyByRow);
    let priority = vec![Origin(2), Origin(1)];
    let default = Rule::Priority;
    world.set_rules(ConflictRules { default, priority, ..ConflictRules::default() });
    world.ship_all();
    world.write(0, vec![put(1, 1)]);
    world.ship_all();
    world.settle_clocks();
    world.write(1, vec![update(1, "v", 2)]);
    world.regions[0].clock.advance(5);
    world.write(0, vec![update(1, "w", 3)]);
    world.regions[2].clock.advance(9);
    world.write(2, vec![update(1, "x", 4)]);
    world.ship_all();
    let shown = |world: &World| ["v", "w", "x"].map(|name| world.shown(1, name));
    let number = |number| Some(Value::Integer(number));
    assert_eq!(shown(&world), [number(2), None, None]);
    for region in 0..3 {
        let winner = if region == 1 { Winner::Here } else { Winner::There };
        let told = world.regions[region].table().conflicts(None, None, 9).unwrap();
        // The third region's row loses to both others.
        let of_second = |stamp: Stamp| stamp.origin == Origin(2);
        let decided = told.iter().filter(|(_, one)| {
            of_second(one.conflict.here.stamp) || of_second(one.conflict.there.stamp)
        });
        let winners: Vec<Winner> = decided.map(|(_, one)| one.conflict.winner).collect();
        assert!(!winners.is_empty() && winners.iter().all(|one| *one == winner), "{told:?}");
    }
    world.settle_clocks();
    // A write replaces what it had seen, whoever made it, and is the whole row.
    world.write(2, vec![update(1, "x", 5)]);
    world.ship_all();
    assert_eq!(shown(&world), [number(2), None, number(5)]);
    // A delete takes no row that it had not seen.
    world.write(1, vec![delete(1)]);
    world.regions[0].clock.advance(-1);
    world.write(0, vec![put(1, 6)]);
    world.ship_all();
    assert_eq!(shown(&world), [number(6), None, None]);
    let rows: Vec<_> = world.regions.iter().map(Region::rows).collect();
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0], rows[2]);
}

#[test]
fn a_put_in_the_midst_of_a_copy_replaces_the_shares_that_came_with_it() {
    let mut world = World::new(Writers::ManyByColumn);
    world.set_rules(rules(Rule::Max));
    world.ship(0, 1);
    world.write(1, vec![set(1, Value::Integer(50)), set(2, Value::Integer(50))]);
    world.ship(1, 0);
    // The third region has heard of no rule, and is given the rows by a copy.
    let (from, to) = (&world.regions[0], &world.regions[2]);
    to.clock.advance(5);
    copy_among_writes(from, to, 1, || world.write(2, vec![put(1, 3)]));
    world.ship_all();
    assert_eq!(world.shown(1, "v"), Some(Value::Integer(3)));
    let rows: Vec<_> = world.regions.iter().map(Region::rows).collect();
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0], rows[2]);
}

#[test]
fn a_change_of_rule_keeps_what_was_there() {
    let mut world = World::with_rules(rules(Rule::Counter));
    (0..3).for_each(|region| world.write(region, vec![increment(1)]));
    world.ship_all();
    for (rule, expected) in [
        (Rule::LastWriter, 4),
        (Rule::Max, 5),
        (Rule::Counter, 6),
        (Rule::Priority, 7),
        (Rule::LastWriter, 8),
        (Rule::Counter, 9),
    ] {
        world.settle_clocks();
        world.set_rules(rules(rule));
        world.ship_all();
        world.write(1, vec![increment(1)]);
        world.ship_all();
        assert_eq!(world.shown(1, "n"), Some(Value::Integer(expected)), "{rule:?}");
    }
    let rows: Vec<_> = world.regions.iter().map(Region::rows).collect();
    assert_eq!(rows[0], rows[2]);
}

#[test]
fn a_delete_of_a_counter_holds_although_an_increment_unaware_of_it_comes_late() {
    // Kills are forgotten by buckets of so many milliseconds.
    const BUCKET: i64 = 1 << 20;
    let boundary = (START_MILLIS / BUCKET + 1) * BUCKET;
    let mut world = World::with_rules(rules(Rule::Counter));
    let advance = |world: &World, millis: i64| {
        world.regions.iter().for_each(|region| region.clock.advance(millis));
    };
    world.write(0, vec![increment(1)]);
    world.ship_all();
    advance(&world, boundary - START_MILLIS - 6);
    world.write(1, vec![delete(1)]);
    advance(&world, 20);
    world.write(0, vec![increment(1)]);
    // The third region hears of the delete, and that all have it, before the increment.
    world.ship(1, 2);
    world.ship(1, 0);
    world.regions[2].table().set_horizon(Hlc::from_millis(boundary + 1));
    world.regions[2].store.sweep_step();
    while world.regions[2].store.commit_step() {}
    world.ship_all();
    assert_eq!(world.shown(1, "n"), None);
    advance(&world, 3 * BUCKET);
    for region in &world.regions {
        region.table().set_horizon(Hlc::from_millis(boundary + BUCKET));
        region.table().set_horizon(Hlc::from_millis(boundary + 5 * BUCKET));
        region.store.sweep_step();
        while region.store.commit_step() {}
    }
    for region in &world.regions {
        // The increment makes the row exist, as any update does; nothing else is left.
        let rows = region.rows();
        assert!(rows[0].1.columns.is_empty() && rows[0].1.tombstone.is_none(), "{rows:?}");
    }
}

/// Keys of one round, per writing region.
const ROUND: i64 = 250;

#[test]
fn a_hundred_thousand_overwrites_that_knew_each_other_are_no_conflict() {
    for writers in [Writers::ManyByColumn, Writers::ManyByRow] {
        let mut world = World::new(writers);
        for round in 0..200 {
            let region = round as usize % 3;
            world.write(region, (0..ROUND).map(|n| update(n % 50, "v", round + n)).collect());
            world.settle_clocks();
            world.ship_all();
        }
        (0..3).for_each(|region| assert_eq!(world.noticed(region), 0));
    }
}

#[test]
fn overwrites_that_did_not_know_each_other_report_exactly_themselves() {
    let mut world = World::new(Writers::ManyByColumn);
    let mut expected = 0;
    for round in 0..100 {
        let (a, b) = (round as usize % 3, (round as usize + 1) % 3);
        world.write(a, (0..2 * ROUND).map(|n| update(n, "v", n)).collect());
        world.regions[b].clock.advance(1);
        // Half of the same rows, some in another column, and rows of its own.
        let name = |n: i64| if n % 10 == 0 { "w" } else { "v" };
        world.write(b, (ROUND..3 * ROUND).map(|n| update(n, name(n), n)).collect());
        expected += ROUND as u64 * 9 / 10;
        world.ship_all();
        world.settle_clocks();
        let noticed = [a, b].map(|region| {
            let table = world.regions[region].table();
            table.conflicts(None, None, ROUND as usize * 9 / 10).unwrap()
        });
        for (_, found) in noticed.iter().flatten() {
            let sides = [&found.conflict.here, &found.conflict.there];
            let origins = sides.map(|side| usize::from(side.stamp.origin.0) - 1);
            assert!(origins == [a, b] || origins == [b, a]);
            assert_eq!(found.conflict.column, "v".into());
            let later = sides[0].stamp > sides[1].stamp;
            assert_eq!(found.conflict.winner == Winner::Here, later);
        }
        // Both regions notice the same rows.
        let rows = noticed.map(|list| {
            let rows = list.into_iter().map(|(_, found)| found.key);
            rows.collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!(rows[0], rows[1]);
        assert_eq!(rows[0].len() as i64, ROUND * 9 / 10);
    }
    // Each is noticed in the two regions that were part of it.
    let total: u64 = (0..3).map(|region| world.noticed(region)).sum();
    assert_eq!(total, 2 * expected);
    let table = world.regions[0].table();
    let counts = table.conflict_counts();
    assert_eq!(counts.noticed - counts.dropped, CONFLICTS_MAX as u64);
    assert_eq!(table.conflicts(None, None, usize::MAX).unwrap().len(), CONFLICTS_MAX);
    let last = table.conflicts(None, None, 1).unwrap().remove(0);
    assert_eq!(last.0, counts.noticed);
    let of_row = table.conflicts(Some(&last.1.key), None, usize::MAX).unwrap();
    assert!(of_row.iter().all(|(_, found)| found.key == last.1.key));
    // They survive a restart, and so do their numbers.
    world.regions[0].restart();
    assert_eq!(world.regions[0].table().conflict_counts(), counts);
    assert_eq!(world.regions[0].table().conflict(last.0).unwrap(), Some(last.1));
}
