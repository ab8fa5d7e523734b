//! Crashes at random moments: what was acknowledged is there, nothing is numbered twice, and the
//! log tells how the table came to be.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::hlc::{Hlc, Stamp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

/// What the clients know.
#[derive(Default)]
struct Known {
    /// Acknowledged increments per row, and those of which nobody knows.
    sure: BTreeMap<i64, i64>,
    maybe: BTreeMap<i64, i64>,
    addresses: BTreeSet<Lsn>,
    stamps: BTreeSet<Stamp>,
    promise: Hlc,
    last: Lsn,
}

impl Known {
    fn note(
        &mut self,
        row: i64,
        answer: Option<Result<Vec<Result<Written, StoreError>>, StoreError>>,
    ) {
        match answer {
            Some(Ok(results)) => {
                let written = results.into_iter().next().unwrap().unwrap();
                assert!(self.addresses.insert(written.lsn), "an LSN is given once");
                assert!(self.stamps.insert(written.stamp), "a stamp is given once");
                assert!(written.lsn > self.last && written.stamp.hlc >= self.promise);
                *self.sure.entry(row).or_default() += 1;
            }
            Some(Err(StoreError::Stopped)) => {}
            Some(Err(StoreError::Unknown)) | None => *self.maybe.entry(row).or_default() += 1,
            Some(Err(other)) => panic!("{other}"),
        }
    }

    fn check(&mut self, region: &Region) {
        let table = region.table();
        for row in 0..5 {
            let stored = table.get(&key(row).encode()).unwrap();
            let count = integer(stored.as_ref(), "n").unwrap_or(0);
            let sure = self.sure.get(&row).copied().unwrap_or(0);
            let maybe = self.maybe.get(&row).copied().unwrap_or(0);
            assert!(count >= sure && count <= sure + maybe, "{sure} <= {count} <= +{maybe}");
            self.sure.insert(row, count);
        }
        self.maybe.clear();
        let entries = entries_after(&table, Lsn(0));
        let lsns: Vec<u64> = entries.iter().map(|entry| entry.lsn.0).collect();
        assert_eq!(lsns, (1..=table.durable_lsn().0).collect::<Vec<_>>(), "no holes");
        assert!(entries.is_sorted_by(|a, b| a.stamp < b.stamp), "stamps follow the log");
        assert_eq!(replay(&entries), region.rows(), "the log makes the table");
        self.last = table.durable_lsn();
    }
}

/// The table that a log of one writer makes, from nothing.
fn replay(entries: &[Entry]) -> Vec<(EncodedKey, Row)> {
    let mut rows: BTreeMap<EncodedKey, Row> = BTreeMap::new();
    for entry in entries {
        let isthmus_model::entry::EntryBody::Rows(deltas) = &entry.body else { continue };
        for delta in deltas {
            let row = rows.entry(delta.key.clone()).or_default();
            row.merge(&delta.delta);
            row.purge(Hlc::MAX);
        }
    }
    rows.into_iter().filter(|(_, row)| !row.is_bare()).collect()
}

fn lives(seed: u64) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut region = Region::new(1, Writers::One);
    let mut known = Known::default();
    for _ in 0..6 {
        region.engine.set_odds(FaultOdds {
            commit_fails_per_million: 120_000,
            failed_is_kept_per_million: 500_000,
            read_fails_per_million: 0,
        });
        let mut waiting: Vec<(i64, Pending<_>)> = Vec::new();
        for _ in 0..chance.random_range(5..40) {
            region.clock.advance(chance.random_range(-20..60));
            match chance.random_range(0..4) {
                0 => {
                    region.store.commit_step();
                }
                1 => known.promise = known.promise.max(region.store.promise()),
                _ => {
                    let row = chance.random_range(0..5);
                    waiting.push((row, region.table().write(vec![increment(row)], false)));
                }
            }
            let mut left = Vec::new();
            for (row, mut pending) in waiting {
                match pending.try_take() {
                    Some(answer) => known.note_early(row, answer),
                    None => left.push((row, pending)),
                }
            }
            waiting = left;
        }
        // Power fails: what waits is never answered.
        for (row, _) in waiting {
            known.note(row, None);
        }
        region.engine.set_odds(FaultOdds::default());
        region.restart();
        known.check(&region);
    }
}

impl Known {
    /// An answer that came while the promise may already have moved on past its stamp.
    fn note_early(
        &mut self,
        row: i64,
        answer: Result<Vec<Result<Written, StoreError>>, StoreError>,
    ) {
        let promise = std::mem::take(&mut self.promise);
        self.note(row, Some(answer));
        self.promise = promise;
    }
}

#[test]
fn acknowledged_writes_survive_a_thousand_crashes() {
    for seed in 0..180 {
        lives(seed);
    }
}

#[test]
fn nothing_new_is_stamped_below_a_promise_of_an_earlier_life() {
    for seed in 0..100 {
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut region = Region::new(1, Writers::One);
        let mut promised = Hlc::MIN;
        for _ in 0..20 {
            region.clock.advance(chance.random_range(-5000..5000));
            for _ in 0..3 {
                promised = promised.max(region.store.promise());
                if chance.random() {
                    region.store.commit_step();
                }
            }
            if chance.random_range(0..3) == 0 {
                region.restart();
            }
            assert!(region.write(put(1, 1)).unwrap().stamp.hlc >= promised);
        }
    }
}

#[test]
fn replica_that_crashes_takes_up_where_it_was() {
    for seed in 0..60 {
        let mut chance = SmallRng::seed_from_u64(seed);
        let a = Region::new(1, Writers::ManyByColumn);
        let mut b = Region::new(2, Writers::ManyByColumn);
        for round in 0..20 {
            for n in 0..3 {
                a.write(update(n, "v", round)).unwrap();
            }
            b.engine.set_odds(FaultOdds {
                commit_fails_per_million: 300_000,
                failed_is_kept_per_million: 500_000,
                read_fails_per_million: 0,
            });
            let shipped = ship(&a, &b, a.origin);
            let wrote = b.table().write(vec![update(chance.random_range(0..3), "w", round)], false);
            let wrote = b.finish(wrote);
            b.engine.set_odds(FaultOdds::default());
            if shipped.is_err() || wrote.is_err() {
                b.restart();
            }
        }
        ship(&a, &b, a.origin).unwrap();
        // Each crash has put the clock up to its durable bound.
        a.clock.advance(3_000);
        ship(&b, &a, b.origin).unwrap();
        assert_eq!(a.rows(), b.rows(), "seed {seed}");
    }
}
