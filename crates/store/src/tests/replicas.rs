//! What regions make of each other's entries and copies.

use isthmus_model::change::Direction;
use isthmus_model::hlc::{Hlc, Stamp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::table::CopyDone;

#[test]
fn replica_of_one_writer_holds_the_same_rows_at_the_same_lsn() {
    let (a, b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    for n in 0..20 {
        a.write(put(n % 7, n)).unwrap();
        a.write(update(n % 5, "w", n)).unwrap();
    }
    a.write(delete(3)).unwrap();
    ship(&a, &b, a.origin).unwrap();
    assert_eq!(a.rows(), b.rows());
    assert_eq!(b.table().durable_lsn(), a.table().durable_lsn());
    assert_eq!(b.table().durable_hlc(), a.table().durable_hlc());
    let (own, other) = (entries_after(&a.table(), Lsn(0)), entries_after(&b.table(), Lsn(0)));
    assert_eq!(own, other);
    assert_eq!(b.table().snapshot().unwrap().vector().len(), 2);
}

#[test]
fn range_is_taken_once_in_order_and_without_gaps() {
    let (a, mut b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    for n in 0..6 {
        a.write(put(n, n)).unwrap();
    }
    let all = entries_after(&a.table(), Lsn(0));
    let apply = |b: &Region, from: u64, to: u64| {
        let part = all[from as usize..to as usize].to_vec();
        let pending = b.table().apply(a.origin, Epoch(1), Lsn(from), Lsn(to), part);
        b.finish(pending)
    };
    assert_eq!(apply(&b, 2, 4), Err(StoreError::Gap { watermark: Lsn(0), from: Lsn(2) }));
    apply(&b, 0, 3).unwrap();
    apply(&b, 0, 3).unwrap();
    apply(&b, 1, 2).unwrap();
    b.restart();
    apply(&b, 1, 5).unwrap();
    assert_eq!(b.table().durable_lsn(), Lsn(5));
    assert_eq!(entries_after(&b.table(), Lsn(0)), all[..5]);
    let out_of_order = vec![all[5].clone(), all[5].clone()];
    let pending = b.table().apply(a.origin, Epoch(1), Lsn(5), Lsn(6), out_of_order);
    assert!(matches!(b.finish(pending), Err(StoreError::BadRange(_))));
    // A range may hold less than it covers.
    let pending = b.table().apply(a.origin, Epoch(1), Lsn(5), Lsn(9), Vec::new());
    b.finish(pending).unwrap();
    assert_eq!(b.table().watermark(a.origin).0, Lsn(9));
    assert_eq!(b.table().read_log(Lsn(3), 1 << 20).unwrap().to, Lsn(9));
}

#[test]
fn known_range_is_answered_when_it_is_durable() {
    let (a, b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    a.write(put(1, 1)).unwrap();
    let all = entries_after(&a.table(), Lsn(0));
    let apply = || b.table().apply(a.origin, Epoch(1), Lsn(0), Lsn(1), all.clone());
    let (mut first, mut again) = (apply(), apply());
    assert!(first.try_take().is_none() && again.try_take().is_none());
    b.store.commit_step();
    assert_eq!((first.try_take(), again.try_take()), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn entries_from_the_future_touch_nothing() {
    let (a, b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    a.clock.advance(501);
    a.write(put(1, 1)).unwrap();
    let refused = ship(&a, &b, a.origin).unwrap_err();
    assert!(matches!(refused, StoreError::ClockSkew(skew) if skew.ahead_millis == 501));
    assert_eq!(b.table().durable_lsn(), Lsn(0));
    b.clock.advance(1);
    ship(&a, &b, a.origin).unwrap();
}

#[test]
fn old_epochs_and_entries_for_the_writer_are_fenced() {
    let (a, b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    a.write(put(1, 1)).unwrap();
    let all = entries_after(&a.table(), Lsn(0));
    let pending = b.table().apply(a.origin, Epoch(5), Lsn(0), Lsn(1), all.clone());
    b.finish(pending).unwrap();
    assert_eq!(b.table().epoch(), Epoch(5));
    let pending = b.table().apply(a.origin, Epoch(4), Lsn(1), Lsn(1), Vec::new());
    assert!(matches!(b.finish(pending), Err(StoreError::Fenced { .. })));
    let pending = a.table().apply(b.origin, Epoch(9), Lsn(1), Lsn(1), Vec::new());
    assert!(matches!(a.finish(pending), Err(StoreError::Fenced { .. })));
}

#[test]
fn new_primary_goes_on_where_the_old_one_ended() {
    let (a, b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    a.write(put(1, 1)).unwrap();
    ship(&a, &b, a.origin).unwrap();
    let set = a.store.set_writing(TABLE, Writing::Refuse, Writers::One, Epoch(2));
    a.finish(set).unwrap();
    let set = b.store.set_writing(TABLE, Writing::Accept, Writers::One, Epoch(2));
    b.finish(set).unwrap();
    let written = b.write(put(2, 2)).unwrap();
    assert_eq!(written.lsn, Lsn(2));
    let entries = entries_after(&b.table(), Lsn(1));
    assert_eq!(entries[0].epoch, Epoch(2));
    let pending = a.table().apply(b.origin, Epoch(2), Lsn(1), Lsn(2), entries);
    a.finish(pending).unwrap();
    assert_eq!(a.rows(), b.rows());
}

#[test]
fn schema_travels_and_entries_wait_for_it() {
    let (a, b) = (Region::new(1, Writers::ManyByColumn), Region::new(2, Writers::ManyByColumn));
    let changed = a.table().change_schema(|schema| {
        let mut schema = schema.clone();
        schema.options.max_versions = 4;
        Ok(schema)
    });
    a.finish(changed).unwrap();
    let c = Region::new(3, Writers::ManyByColumn);
    ship(&a, &c, a.origin).unwrap();
    c.write(put(1, 1)).unwrap();
    let early = ship(&c, &b, c.origin);
    let (need, have) = (SchemaNumber(2), SchemaNumber(1));
    assert_eq!(early, Err(StoreError::SchemaMissing { need, have }));
    ship(&a, &b, a.origin).unwrap();
    assert_eq!(b.table().schema().options.max_versions, 4);
    ship(&c, &b, c.origin).unwrap();
    let elsewhere = b.table().change_schema(|schema| Ok(schema.clone()));
    assert!(matches!(b.finish(elsewhere), Err(StoreError::NotWritable { .. })));
}

/// Writes at random in three regions, ships at random, and compares in the end.
fn converge(writers: Writers, seed: u64) {
    let regions = [1, 2, 3].map(|origin| Region::new(origin, writers));
    let mut chance = SmallRng::seed_from_u64(seed);
    for step in 0..60 {
        let region = &regions[chance.random_range(0..3)];
        region.clock.advance(chance.random_range(0..3));
        let row = chance.random_range(0..4);
        let change = match chance.random_range(0..8) {
            0..2 => put(row, step),
            2 => delete(row),
            3 => increment(row),
            _ => update(row, ["v", "w"][chance.random_range(0..2)], step),
        };
        region.write(change).unwrap();
        if chance.random_range(0..3) == 0 {
            let (from, to) = (chance.random_range(0..3), chance.random_range(0..3));
            let of = Origin(chance.random_range(1..4));
            if from != to && of != regions[to].origin {
                let _ = ship(&regions[from], &regions[to], of);
            }
        }
    }
    for _ in 0..2 {
        for from in &regions {
            for to in regions.iter().filter(|to| to.origin != from.origin) {
                to.clock.advance(200);
                ship(from, to, from.origin).unwrap();
            }
        }
    }
    assert_eq!(regions[0].rows(), regions[1].rows(), "seed {seed}");
    assert_eq!(regions[0].rows(), regions[2].rows(), "seed {seed}");
    let hlc = |region: &Region, of| region.table().watermark(of).0;
    assert_eq!(hlc(&regions[0], Origin(2)), regions[1].table().watermark(Origin(2)).0);
}

#[test]
fn several_writers_converge_whatever_the_order_of_shipping() {
    for seed in 0..60 {
        converge(Writers::ManyByColumn, seed);
        converge(Writers::ManyByRow, seed);
    }
}

#[test]
fn entry_below_the_horizon_is_refused() {
    let (a, b) = (Region::new(1, Writers::ManyByColumn), Region::new(2, Writers::ManyByColumn));
    a.write(put(1, 1)).unwrap();
    b.table().set_horizon(Hlc::from_millis(START_MILLIS + 1));
    assert_eq!(ship(&a, &b, a.origin), Err(StoreError::BelowHorizon));
}

pub(super) fn copy(from: &Region, to: &Region, rows_per_chunk: usize) {
    copy_among_writes(from, to, rows_per_chunk, || {});
}

/// A copy with something happening after each of its chunks but the last.
pub(super) fn copy_among_writes(
    from: &Region,
    to: &Region,
    rows_per_chunk: usize,
    mut between: impl FnMut(),
) {
    let snapshot = from.table().snapshot().unwrap();
    to.finish(to.table().begin_copy(snapshot.schema(), snapshot.expiry())).unwrap();
    let vector = snapshot.vector();
    let covered: Vec<(Origin, Hlc)> = vector.iter().map(|w| (w.origin, w.hlc)).collect();
    let life = |origin| Stamp { hlc: snapshot.life_met(origin), origin };
    let mut start = EncodedKey::default();
    loop {
        let rows: Result<Vec<_>, _> =
            snapshot.scan(&start, None, Direction::Forward).take(rows_per_chunk + 1).collect();
        let mut rows = rows.unwrap();
        let end = (rows.len() > rows_per_chunk).then(|| rows.pop().unwrap().0);
        let done = end.is_none().then(|| CopyDone {
            origin: from.origin,
            epoch: Epoch(1),
            lsn: snapshot.lsn(),
            hlc: snapshot.hlc(),
            vector: vector.clone(),
            lives: vector.iter().map(|mark| life(mark.origin)).collect(),
            expiry: snapshot.expiry().to_vec(),
            made: None,
            settled: None,
            atomics: snapshot.atomics().unwrap(),
            table: Some(snapshot.spec().clone()),
            rules: Some(snapshot.rules().clone()),
        });
        let note = Some((b"copy".to_vec(), start.0.to_vec()));
        let table = to.table();
        let pending = table.replace_range(&start, end.as_ref(), rows, &covered, done, note);
        to.finish(pending).unwrap();
        match end {
            Some(end) => start = end,
            None => return,
        }
        between();
    }
}

/// A copy that went on after a break has rows from a later snapshot than the log that follows.
#[test]
fn older_entries_do_not_take_back_what_a_copy_brought_from_later() {
    let (a, b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    a.write(put(1, 1)).unwrap();
    let first = a.table().snapshot().unwrap();
    a.write(delete(1)).unwrap();
    a.write(put(1, 3)).unwrap();
    let all = EncodedKey::default();
    let done = CopyDone {
        origin: a.origin,
        epoch: Epoch(1),
        lsn: first.lsn(),
        hlc: first.hlc(),
        vector: first.vector(),
        lives: Vec::new(),
        expiry: Vec::new(),
        made: None,
        settled: None,
        atomics: Default::default(),
        table: None,
        rules: None,
    };
    let copied = b.table().replace_range(&all, None, a.rows(), &[], Some(done), None);
    b.finish(copied).unwrap();
    let entries = entries_after(&a.table(), Lsn(1));
    for (from, entry) in entries.into_iter().enumerate() {
        let (from, to) = (Lsn(from as u64 + 1), Lsn(from as u64 + 2));
        let pending = b.table().apply(a.origin, Epoch(1), from, to, vec![entry]);
        b.finish(pending).unwrap();
        assert_eq!(b.rows(), a.rows(), "through {to}");
    }
}

#[test]
fn copy_of_one_writer_replaces_everything_and_the_log_goes_on() {
    let (a, mut b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    for n in 0..30 {
        a.write(put(n, n)).unwrap();
    }
    // The replica has followed another history, further.
    let set = b.store.set_writing(TABLE, Writing::Accept, Writers::One, Epoch(1));
    b.finish(set).unwrap();
    for n in 0..50 {
        b.write(put(n * 2, 1000 + n)).unwrap();
    }
    let set = b.store.set_writing(TABLE, Writing::Refuse, Writers::One, Epoch(1));
    b.finish(set).unwrap();
    copy(&a, &b, 7);
    assert_eq!(a.rows(), b.rows());
    assert_eq!(b.table().durable_lsn(), Lsn(30));
    assert!(b.store.note(b"copy").unwrap().is_some());
    a.write(put(3, 77)).unwrap();
    ship(&a, &b, a.origin).unwrap();
    b.restart();
    assert_eq!(a.rows(), b.rows());
    assert_eq!(entries_after(&b.table(), Lsn(30)), entries_after(&a.table(), Lsn(30)));
    assert_eq!(b.table().read_log(Lsn(29), 1), Err(StoreError::LogTrimmed { start: Lsn(30) }));
}

/// A replica that was a table of its own meanwhile, whose clock is ahead.
#[test]
fn what_expired_in_a_history_that_is_left_takes_nothing_of_the_one_that_is_copied() {
    let (a, mut b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    let lives_for_a_day = |region: &Region| {
        let changed = region.table().change_schema(|schema| {
            let mut schema = schema.clone();
            schema.options.time_to_live_seconds = Some(86_400);
            Ok(schema)
        });
        region.finish(changed).unwrap();
    };
    lives_for_a_day(&a);
    (0..3).for_each(|n| drop(a.write(put(n, n)).unwrap()));
    let set = b.store.set_writing(TABLE, Writing::Accept, Writers::One, Epoch(1));
    b.finish(set).unwrap();
    lives_for_a_day(&b);
    b.write(put(9, 9)).unwrap();
    b.clock.advance(2 * 86_400_000);
    assert!(b.store.expire_step());
    while b.store.commit_step() {}
    let set = b.store.set_writing(TABLE, Writing::Refuse, Writers::One, Epoch(1));
    b.finish(set).unwrap();
    let begun = b.table().begin_copy(&a.table().schema(), &[]);
    b.finish(begun).unwrap();
    let rules = b.table().snapshot().unwrap().rules().clone();
    assert_eq!(rules.time_floor, i64::MIN, "what is gone of the rows here is looked at, too");
    copy(&a, &b, 1);
    b.restart();
    sweep(&b);
    assert!(b.table().snapshot().unwrap().expiry().is_empty());
    assert_eq!((a.rows().len(), a.rows()), (3, b.rows()));
}

#[test]
fn copy_among_several_writers_keeps_what_the_source_has_not_heard_of() {
    let (a, b) = (Region::new(1, Writers::ManyByColumn), Region::new(2, Writers::ManyByColumn));
    a.write(put(1, 1)).unwrap();
    a.write(put(2, 2)).unwrap();
    ship(&a, &b, a.origin).unwrap();
    // The source deletes a row and forgets that it ever was.
    a.clock.advance(10);
    a.write(delete(2)).unwrap();
    a.clock.advance(10 << 20);
    a.table().set_horizon(Hlc::from_millis(START_MILLIS + (2 << 20)));
    while a.store.sweep_step() {}
    while a.store.commit_step() {}
    b.clock.advance(10 << 20);
    b.write(update(1, "w", 9)).unwrap();
    b.write(put(3, 3)).unwrap();
    copy(&a, &b, 1);
    let table = b.table();
    assert_eq!(table.get(&key(2).encode()).unwrap(), None, "what the source lacks goes");
    let row = table.get(&key(1).encode()).unwrap();
    assert_eq!(integer(row.as_ref(), "v"), Some(1));
    assert_eq!(integer(row.as_ref(), "w"), Some(9), "what the source has not heard of stays");
    assert!(table.get(&key(3).encode()).unwrap().is_some());
    assert_eq!(table.watermark(a.origin).0, a.table().durable_lsn());
}

/// Milliseconds of a bucket of kills.
const BUCKET_MILLIS: i64 = 1 << 20;

fn sweep(region: &Region) -> u32 {
    let mut steps = 1;
    while region.store.sweep_step() {
        steps += 1;
        while region.store.commit_step() {}
    }
    while region.store.commit_step() {}
    steps
}

fn pass_horizon(region: &Region, buckets: i64) {
    let moment = START_MILLIS + buckets * BUCKET_MILLIS;
    region.table().set_horizon(Hlc::from_millis(moment));
}

#[test]
fn what_the_horizon_has_passed_is_swept_and_nothing_else_is_looked_at() {
    let region = Region::new(1, Writers::ManyByColumn);
    for n in 0..1200 {
        drop(region.table().write(vec![put(n, n)], false));
    }
    region.write(delete(7)).unwrap();
    assert!(region.table().remembers_kills());
    assert_eq!((sweep(&region), region.store.rows_to_sweep()), (1, 0));
    pass_horizon(&region, 2);
    assert!(region.store.rows_to_sweep() >= 1200);
    assert_eq!(sweep(&region), 3, "many rows make a pass");
    let rows = region.rows();
    assert_eq!(rows.len(), 1199);
    assert!(rows.iter().all(|(_, row)| row.newest_kill().is_none()));
    assert!(!region.table().remembers_kills());
    region.clock.advance(3 * BUCKET_MILLIS);
    region.write(delete(8)).unwrap();
    pass_horizon(&region, 10);
    assert_eq!(region.store.rows_to_sweep(), 1);
    assert_eq!(sweep(&region), 1, "few rows are known by name");
    assert_eq!(region.rows().len(), 1198);
}

#[test]
fn what_an_earlier_life_left_is_found_by_one_pass() {
    let mut region = Region::new(1, Writers::ManyByRow);
    for n in 0..600 {
        drop(region.table().write(vec![put(n, n)], false));
    }
    region.write(delete(7)).unwrap();
    region.restart();
    assert!(region.table().remembers_kills(), "nobody knows");
    assert_eq!(sweep(&region), 2);
    assert_eq!(region.rows().len(), 600);
    pass_horizon(&region, 2);
    assert!(region.store.rows_to_sweep() >= 600, "counted by the pass");
    sweep(&region);
    assert!(region.rows().iter().all(|(_, row)| row.newest_kill().is_none()));
    assert_eq!(region.rows().len(), 599);
    region.restart();
    sweep(&region);
    assert!(!region.table().remembers_kills());
}

#[test]
fn copied_range_sees_rows_that_are_not_durable_yet() {
    let (a, b) = (Region::new(1, Writers::ManyByColumn), Region::new(2, Writers::ManyByColumn));
    a.write(put(1, 1)).unwrap();
    let entries = entries_after(&a.table(), Lsn(0));
    let table = b.table();
    let mut first = table.apply(a.origin, Epoch(1), Lsn(0), Lsn(1), entries);
    let covered = [(a.origin, Hlc::MAX)];
    let start = EncodedKey::default();
    let pending = table.replace_range(&start, None, Vec::new(), &covered, None, None);
    b.finish(pending).unwrap();
    assert_eq!(first.try_take(), Some(Ok(())));
    assert_eq!(b.rows(), []);
}

#[test]
fn rows_outside_of_a_copied_range_are_refused() {
    let b = Region::new(2, Writers::ManyByColumn);
    let (start, end) = (key(1).encode(), key(5).encode());
    for rows in [vec![0], vec![5], vec![3, 2], vec![2, 2]] {
        let rows = rows.into_iter().map(|n| (key(n).encode(), Row::default())).collect();
        let pending = b.table().replace_range(&start, Some(&end), rows, &[], None, None);
        assert!(matches!(b.finish(pending), Err(StoreError::BadRange(_))));
    }
}

#[test]
fn region_that_joins_a_lone_writer_begins_its_own_log() {
    let a = Region::new(1, Writers::One);
    a.write(put(1, 1)).unwrap();
    a.write(put(2, 2)).unwrap();
    let many = Writers::ManyByColumn;
    let set = a.store.set_writing(TABLE, Writing::Accept, many, Epoch(1));
    a.finish(set).unwrap();
    assert_eq!(a.table().watermark(Origin(2)).0, Lsn(0));
    // The entries bear tombstones that the rows have forgotten: nobody else shall merge them.
    assert_eq!(a.table().read_log(Lsn(0), 1), Err(StoreError::LogTrimmed { start: Lsn(2) }));
    let b = Region::new(2, many);
    copy(&a, &b, 1);
    assert_eq!(a.rows(), b.rows());
    assert_eq!(b.table().watermark(Origin(1)).0, Lsn(2));
    // The rows of the copy have an address of their own in the log here.
    assert_eq!(b.table().durable_lsn(), Lsn(1));
    a.write(put(3, 3)).unwrap();
    assert_eq!(b.write(update(1, "w", 4)).unwrap().lsn, Lsn(2));
    ship(&a, &b, a.origin).unwrap();
    ship(&b, &a, b.origin).unwrap();
    assert_eq!(a.rows(), b.rows());
    assert_eq!(a.rows().len(), 3);
    let back = a.store.set_writing(TABLE, Writing::Accept, Writers::One, Epoch(3));
    assert!(matches!(a.finish(back), Err(StoreError::BadSchema(_))));
}
