//! The digest is what the rows say, whatever was written, swept, copied, cut short or restarted.

use isthmus_digest::{Lane, Sum};
use isthmus_model::family::FamilyTime;
use isthmus_model::hlc::Hlc;
use isthmus_model::row::EXPIRY_BUCKET_MILLIS;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::digest::DigestState;
use crate::{Plant, RepairRow, Repaired};

/// The lanes of a region's digest.
pub(crate) fn lanes(table: &Table) -> Vec<(Lane, Sum, u64)> {
    let view = table.digest_view().unwrap();
    view.tree().lanes().into_iter().map(|root| (root.lane, root.sum, root.rows)).collect()
}

/// Checks that the digest is what the rows say.
pub(crate) fn check_digest(region: &Region) {
    let table = region.table();
    let view = table.digest_view().unwrap();
    assert_eq!(lanes(&table), view.recount().unwrap());
}

fn upkeep(region: &Region) {
    for _ in 0..200 {
        let more = region.store.digest_step();
        while region.store.commit_step() {}
        if !more {
            return;
        }
    }
    panic!("upkeep does not end");
}

fn time_to_live(region: &Region, seconds: Option<u32>) {
    let pending = region.table().change_schema(|schema| {
        let mut schema = schema.clone();
        schema.options.time_to_live_seconds = seconds;
        schema.options.max_versions = 3;
        Ok(schema)
    });
    region.finish(pending).unwrap();
}

/// Makes a family of one of the columns, or lets it live otherwise.
fn family(region: &Region, column: &str, time_to_live: FamilyTime) {
    let pending = region.table().change_schema(|schema| {
        let mut schema = schema.clone();
        schema.options.families =
            families::set(&schema.options.families, column, time_to_live, None);
        Ok(schema)
    });
    region.finish(pending).unwrap();
}

fn any_change(chance: &mut SmallRng) -> CheckedChange {
    let row = chance.random_range(0..200);
    match chance.random_range(0..10) {
        0 => delete(row),
        1..=4 => increment(row),
        _ => put(row, chance.random_range(0..1000)),
    }
}

fn random_life(seed: u64, writers: Writers) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut region = Region::new(1, writers);
    for _ in 0..chance.random_range(50..300) {
        match chance.random_range(0..40) {
            0 => region.restart(),
            1 => {
                region.store.digest_step();
            }
            2 => {
                region.clock.advance(chance.random_range(0..2 * EXPIRY_BUCKET_MILLIS));
                region.store.expire_step();
            }
            3 => {
                region.store.sweep_step();
            }
            4 => {
                let table = region.table();
                table.set_horizon(table.durable_hlc());
            }
            5 => {
                let ttl = [None, Some(86_400), Some(200_000)][chance.random_range(0..3)];
                time_to_live(&region, ttl);
            }
            6 => upkeep(&region),
            7 => {
                let column = ["n", "v"][chance.random_range(0..2)];
                let seconds = [86_400, 200_000, 400_000][chance.random_range(0..3)];
                let times =
                    [FamilyTime::AsTable, FamilyTime::Forever, FamilyTime::Seconds(seconds)];
                family(&region, column, times[chance.random_range(0..3)]);
            }
            8..30 => {
                let count = chance.random_range(1..20);
                let changes = (0..count).map(|_| any_change(&mut chance)).collect();
                drop(region.table().write(changes, false));
            }
            _ => {
                region.clock.advance(chance.random_range(0..100));
                region.store.commit_step();
            }
        }
        if region.table().digest_state() == DigestState::Ready && chance.random_bool(0.1) {
            check_digest(&region);
        }
    }
    while region.store.commit_step() {}
    upkeep(&region);
    check_digest(&region);
    region.restart();
    upkeep(&region);
    check_digest(&region);
}

#[test]
fn digest_is_what_the_rows_say_through_random_lives() {
    for seed in 0..60 {
        for writers in [Writers::One, Writers::ManyByColumn, Writers::ManyByRow] {
            random_life(seed, writers);
        }
    }
}

#[test]
fn digest_survives_a_restart_without_being_built() {
    let mut region = Region::new(1, Writers::One);
    for row in 0..500 {
        region.write(put(row, row)).unwrap();
    }
    upkeep(&region);
    region.restart();
    assert_eq!(region.table().digest_state(), DigestState::Ready);
    check_digest(&region);
    region.store.close().unwrap();
    region.restart();
    assert_eq!(region.table().digest_state(), DigestState::Ready);
    check_digest(&region);
}

#[test]
fn while_a_table_grows_only_large_leaves_are_split() {
    let region = Region::new(1, Writers::One);
    // A digest is looked at once it has changed.
    region.write(put(9_999, 0)).unwrap();
    upkeep(&region);
    region.clock.advance(1000);
    // Beyond all others: each leaf begins in time. Then before all others, from the last one down.
    for rows in [(10_000..11_500).collect(), (1000..1150).rev().collect::<Vec<i64>>()] {
        let writes = rows.chunks(50);
        let write = |rows: &[i64]| {
            let changes = rows.iter().map(|row| put(*row, *row)).collect();
            region.finish(region.table().write(changes, false)).unwrap();
        };
        writes.for_each(write);
    }
    let largest = || {
        let view = region.table().digest_view().unwrap();
        view.tree().leaves(Lane::Data, &[], None).map(|leaf| leaf.rows).max()
    };
    let grown = largest();
    assert!(grown >= Some(150), "{grown:?}");
    upkeep(&region);
    assert_eq!(largest(), grown);
    region.clock.advance(1000);
    upkeep(&region);
    assert!(largest() < Some(100), "{:?}", largest());
    check_digest(&region);
}

#[test]
fn mark_on_its_way_does_not_outlive_the_digest_that_it_is_of() {
    let mut region = Region::new(1, Writers::One);
    for row in 0..20 {
        region.write(put(row, row)).unwrap();
    }
    upkeep(&region);
    region.write(put(3, 1)).unwrap();
    region.clock.advance(1_000_000);
    // The checkpoint is due, and its mark waits for a commit.
    while region.store.digest_step() {}
    time_to_live(&region, Some(86_400));
    region.write(put(3, 2)).unwrap();
    region.restart();
    upkeep(&region);
    check_digest(&region);
}

#[test]
fn view_is_not_taken_back_to_before_the_digest_was_begun_anew() {
    let region = Region::new(1, Writers::ManyByColumn);
    let before = region.table().durable_hlc();
    for row in 0..20 {
        region.write(put(row, row)).unwrap();
    }
    upkeep(&region);
    time_to_live(&region, Some(86_400));
    upkeep(&region);
    let begun = region.table().durable_hlc();
    region.clock.advance(10);
    region.write(put(3, 7)).unwrap();
    let taken_back = |cut| {
        let mut view = region.table().digest_view().unwrap();
        view.roll_back_to_hlc(cut);
        view.tree().lanes()
    };
    assert_eq!(taken_back(before), taken_back(begun));
    let now = region.table().digest_view().unwrap().tree().lanes();
    assert_ne!(taken_back(begun), now);
}

#[test]
fn view_is_taken_back_to_an_earlier_end_of_the_log() {
    let region = Region::new(1, Writers::One);
    for row in 0..50 {
        region.write(put(row, row)).unwrap();
    }
    let cut = region.table().durable_lsn();
    let before = lanes(&region.table());
    region.write(put(7, 8)).unwrap();
    region.write(delete(9)).unwrap();
    region.write(put(1000, 1)).unwrap();
    let mut view = region.table().digest_view().unwrap();
    assert!(view.roll_back_to_lsn(cut));
    let taken_back: Vec<_> =
        view.tree().lanes().into_iter().map(|root| (root.lane, root.sum, root.rows)).collect();
    assert_eq!(taken_back, before);
    let rows: Vec<_> = view.rows(&EncodedKey::default(), None).map(Result::unwrap).collect();
    let total: Sum = rows.iter().flat_map(|row| row.parts.iter()).map(|(_, sum)| sum).fold(
        Sum::default(),
        |mut total, sum| {
            total += sum;
            total
        },
    );
    assert_eq!(total, before[0].1);
    assert_eq!(rows.iter().filter(|row| row.moved).count(), 3);
}

#[test]
fn planted_bit_is_found_by_a_scrub_and_by_nothing_else() {
    let region = Region::new(1, Writers::One);
    for row in 0..300 {
        region.write(put(row, row)).unwrap();
    }
    upkeep(&region);
    let before = lanes(&region.table());
    let good = region.table().get(&key(77).encode()).unwrap();
    let planted = region.table().plant(&key(77).encode(), Plant::Bit);
    region.finish(planted).unwrap();
    assert_eq!(lanes(&region.table()), before);
    let bad = scrub(&region);
    assert_eq!(bad.len(), 1);
    let healthy = vec![(key(77).encode(), good)];
    let healed = region.table().heal(&bad[0], healthy);
    assert_eq!(region.finish(healed).unwrap(), crate::Healed::Rows);
    assert!(scrub(&region).is_empty());
    check_digest(&region);
}

#[test]
fn a_planted_swap_gives_two_neighbours_each_the_other_value() {
    let region = Region::new(1, Writers::One);
    let table = region.table();
    for row in [1, 2, 3] {
        region.write(put(row, 10 * row)).unwrap();
    }
    region.write(put(4, 30)).unwrap();
    let values = || {
        let value = |row| integer(table.get(&key(row).encode()).unwrap().as_ref(), "v");
        [1, 2, 3, 4].map(value)
    };
    region.finish(table.plant(&key(1).encode(), Plant::Swap)).unwrap();
    assert_eq!(values(), [20, 10, 30, 30].map(Some));
    // After the last row comes the first.
    region.finish(table.plant(&key(4).encode(), Plant::Swap)).unwrap();
    assert_eq!(values(), [30, 10, 30, 20].map(Some));
    assert!(region.finish(table.plant(&key(9).encode(), Plant::Swap)).is_err());
    region.write(put(2, 30)).unwrap();
    let refused = region.finish(table.plant(&key(1).encode(), Plant::Swap)).unwrap_err();
    assert!(refused.to_string().contains("same value"), "{refused}");
    check_digest(&region);
}

#[test]
fn a_row_that_rotted_after_it_was_written_is_known_as_it_is_once_the_digest_is_set_right() {
    let region = Region::new(1, Writers::One);
    region.write(put(7, 7)).unwrap();
    let planted = region.table().plant(&key(7).encode(), Plant::Bit);
    region.finish(planted).unwrap();
    // Out of what is kept of the newest groups, not out of the cache.
    for row in 20..30 {
        region.write(put(row, row)).unwrap();
    }
    upkeep(&region);
    let bad = scrub(&region);
    assert_eq!(bad.len(), 1);
    let healed = region.table().heal(&bad[0], Vec::new());
    assert_eq!(region.finish(healed).unwrap(), crate::Healed::Digest);
    check_digest(&region);
    region.write(put(7, 8)).unwrap();
    check_digest(&region);
}

fn scrub(region: &Region) -> Vec<crate::digest::BadRange> {
    let mut from = Some(EncodedKey::default());
    let mut bad = Vec::new();
    while let Some(start) = from {
        let step = region.table().scrub_step(&start, 40, 1).unwrap();
        bad.extend(step.bad);
        from = step.next;
    }
    bad
}

#[test]
fn repair_leaves_a_row_alone_that_has_changed_since() {
    let region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    let view = region.table().digest_view().unwrap();
    let seen = view.row(&key(1).encode()).unwrap();
    let since = region.table().durable_lsn();
    let row = region.table().get(&key(1).encode()).unwrap().unwrap();
    region.write(put(1, 2)).unwrap();
    let repair = |expected| RepairRow { key: key(1).encode(), expected, row: row.clone() };
    let pending = region.table().repair(vec![repair(Some(seen.parts.clone()))], since);
    assert_eq!(region.finish(pending).unwrap(), [Repaired::Changed]);
    let now = region.table().digest_view().unwrap().row(&key(1).encode()).unwrap();
    let since = region.table().durable_lsn();
    let pending = region.table().repair(vec![repair(Some(now.parts))], since);
    assert_eq!(region.finish(pending).unwrap(), [Repaired::Done]);
    check_digest(&region);
}

#[test]
fn a_horizon_that_stands_for_long_costs_no_more_than_the_rows_do() {
    let twenty_minutes = 20 * 60 * 1000;
    let pages = |region: &Region| {
        let (start, end) = crate::keys::digest_page::range_of_partition(region.table().partition());
        let snapshot = region.engine.snapshot().unwrap();
        let direction = isthmus_model::change::Direction::Forward;
        snapshot.scan(crate::engine::Space::Meta, &start, Some(&end), direction).count()
    };
    let memory = |region: &Region| region.table().digest_view().unwrap().tree().memory_bytes();
    let mut region = Region::new(1, Writers::ManyByColumn);
    // Another replica has done the same, and never had the time to store anything.
    let other = Region::new(1, Writers::ManyByColumn);
    let mut most = (0, 0);
    for round in 0..500 {
        for row in 0..5 {
            for region in [&region, &other] {
                region.write(put(row, round)).unwrap();
            }
        }
        upkeep(&region);
        for clock in [&region.clock, &other.clock] {
            clock.advance(twenty_minutes);
        }
        if round == 40 {
            most = (pages(&region), memory(&region));
        }
    }
    let (pages, memory) = (pages(&region), memory(&region));
    let few = pages <= most.0 + 2 && memory <= most.1 + most.1 / 4;
    assert!(few, "{pages} pages and {memory} bytes, were {most:?}");
    assert_eq!(lanes(&region.table()), lanes(&other.table()));
    check_digest(&region);
    // What came last can be taken back, to lanes in which nothing lies any more.
    let mut view = region.table().digest_view().unwrap();
    let cut = Hlc::from_millis(region.clock.wall_millis() - twenty_minutes - 1);
    view.roll_back_to_hlc(cut);
    let before = view.tree().lanes();
    let kills = before.iter().filter(|root| matches!(root.lane, Lane::Kills(_)));
    assert_eq!(kills.map(|root| root.rows).sum::<u64>(), 5);
    drop(view);
    region.restart();
    check_digest(&region);
    assert_eq!(lanes(&region.table()), lanes(&other.table()));
}

#[test]
fn repair_expects_nothing_of_kills_that_count_no_more() {
    let region = Region::new(1, Writers::ManyByColumn);
    // A put leaves a tombstone behind it.
    region.write(put(1, 1)).unwrap();
    region.clock.advance(10 << 20);
    region.table().set_horizon(Hlc::from_millis(START_MILLIS + (2 << 20)));
    region.write(put(2, 2)).unwrap();
    let table = region.table();
    let expected = table.digest_view().unwrap().row(&key(1).encode()).unwrap().parts;
    let remembered = table.partition.inner.lock().parts_overlaid(&key(1).encode());
    assert_ne!(remembered, Some(expected.clone()), "measured before the floor rose");
    let row = table.get(&key(1).encode()).unwrap().unwrap();
    let repair = RepairRow { key: key(1).encode(), expected: Some(expected), row };
    let pending = table.repair(vec![repair], table.durable_lsn());
    assert_eq!(region.finish(pending).unwrap(), [Repaired::Done]);
    check_digest(&region);
}

/// A row that the writer has lost, as a replica still has it, and the end of the log.
fn lose_a_row(region: &Region) -> (isthmus_model::row::Row, Lsn) {
    region.write(put(1, 1)).unwrap();
    region.write(put(2, 1)).unwrap();
    let row = region.table().get(&key(1).encode()).unwrap().unwrap();
    region.finish(region.table().plant(&key(1).encode(), Plant::LostRow)).unwrap();
    (row, region.table().durable_lsn())
}

fn bring_back(region: &Region, row: &isthmus_model::row::Row, since: Lsn) -> Repaired {
    let expected = Some(isthmus_digest::Parts::new());
    let repair = RepairRow { key: key(1).encode(), expected, row: row.clone() };
    let pending = region.table().repair(vec![repair], since);
    let repaired = region.finish(pending).unwrap();
    check_digest(region);
    repaired[0]
}

#[test]
fn a_lost_row_that_was_deleted_since_it_was_compared_is_not_brought_back() {
    let region = Region::new(1, Writers::One);
    let (row, since) = lose_a_row(&region);
    region.write(put(2, 2)).unwrap();
    region.write(delete(1)).unwrap();
    assert_eq!(bring_back(&region, &row, since), Repaired::Changed);
    assert_eq!(bring_back(&region, &row, region.table().durable_lsn()), Repaired::Done);
}

#[test]
fn a_delete_that_is_accepted_and_not_durable_holds_a_repair_back() {
    let region = Region::new(1, Writers::One);
    let (row, since) = lose_a_row(&region);
    let deleted = region.table().write(vec![delete(1)], false);
    assert_eq!(bring_back(&region, &row, since), Repaired::Changed);
    drop(deleted);
    assert_eq!(region.table().get(&key(1).encode()).unwrap(), None);
}

#[test]
fn what_may_have_been_deleted_before_a_restart_is_not_brought_back() {
    let mut region = Region::new(1, Writers::One);
    let (row, since) = lose_a_row(&region);
    region.write(put(2, 2)).unwrap();
    region.restart();
    assert_eq!(bring_back(&region, &row, since), Repaired::Changed);
    assert_eq!(bring_back(&region, &row, region.table().durable_lsn()), Repaired::Done);
}
