//! Tables as of cuts, and entries that are seen whole or not at all.

use std::collections::BTreeMap;

use isthmus_model::change::Direction;
use isthmus_model::entry::EntryBody;
use isthmus_model::hlc::Hlc;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::codec::row::decode_row;

const KEYS: i64 = 12;

type Rows = BTreeMap<EncodedKey, Row>;

fn live(rows: impl IntoIterator<Item = (EncodedKey, Row)>) -> Rows {
    let mut live: Rows = rows.into_iter().collect();
    live.values_mut().for_each(|row| row.purge(Hlc::MAX));
    live.retain(|_, row| !row.is_bare());
    live
}

fn at_cut(table: &Table, cut: Hlc, direction: Direction) -> Result<Rows, StoreError> {
    let (seen, all) = (table.at_cut(cut)?, EncodedKey::default());
    let mut rows = Vec::new();
    for row in seen.scan_packed(&all, None, direction) {
        let (key, packed) = row?;
        assert_eq!(seen.get_packed(&key)?, Some(packed.clone()), "a row alone is the same");
        rows.push((key, decode_row(&packed).unwrap()));
    }
    let in_order = match direction {
        Direction::Forward => rows.is_sorted_by(|(a, _), (b, _)| a < b),
        Direction::Backward => rows.is_sorted_by(|(a, _), (b, _)| a > b),
    };
    assert!(in_order, "rows come in order, each once");
    Ok(live(rows))
}

/// What all entries below a cut give together.
fn truth(regions: &[Region], cut: Hlc) -> Rows {
    let mut rows = Rows::new();
    for region in regions {
        for entry in entries_after(&region.table(), Lsn(0)) {
            let EntryBody::Rows(deltas) = entry.body else { continue };
            if entry.stamp.origin == region.origin && entry.stamp.hlc < cut {
                for row in deltas {
                    rows.entry(row.key).or_default().merge(&row.delta);
                }
            }
        }
    }
    live(rows)
}

fn random_write(region: &Region, chance: &mut SmallRng) {
    let number = chance.random_range(0..KEYS);
    let value = chance.random_range(0..1000);
    let one = |number: i64, chance: &mut SmallRng| match chance.random_range(0..4) {
        0 => put(number, value),
        1 => update(number, "w", value),
        2 => increment(number),
        _ => delete(number),
    };
    let other = (number + 1) % KEYS;
    let changes = vec![one(number, chance), one(other, chance)];
    drop(region.table().write(changes, true));
    if chance.random_bool(0.7) {
        while region.store.commit_step() {}
    }
}

/// Everything of every region below it is applied there.
fn safe(regions: &[Region], at: usize, makers: usize, promises: &[Hlc]) -> Hlc {
    let others = (0..makers).filter(|from| *from != at).map(|from| promises[from]);
    // With one writer a replica promises nothing of its own.
    let own = if at < makers { regions[at].store.promise() } else { Hlc::MAX };
    others.fold(own, Hlc::min)
}

fn cuts_hold(writers: Writers, seed: u64) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let regions: Vec<Region> = (1..=3).map(|number| Region::new(number, writers)).collect();
    let makers = if writers == Writers::One { 1 } else { 3 };
    let mut safe_times = [Hlc::MIN; 3];
    for _ in 0..60 {
        for region in &regions {
            region.clock.advance(chance.random_range(1..4));
        }
        for _ in 0..chance.random_range(0..4) {
            random_write(&regions[chance.random_range(0..makers)], &mut chance);
        }
        let at = chance.random_range(0..3);
        if chance.random_bool(0.5) {
            let promises: Vec<Hlc> = regions.iter().map(|region| region.store.promise()).collect();
            for from in (0..makers).filter(|from| *from != at) {
                ship(&regions[from], &regions[at], regions[from].origin).unwrap();
            }
            safe_times[at] = safe(&regions, at, makers, &promises);
        }
        if chance.random_bool(0.2) {
            regions[at].table().keep_past();
        }
        let table = regions[at].table();
        let floor = table.past_floor().unwrap_or(Hlc::MAX);
        if let Some(room) = safe_times[at].0.checked_sub(floor.0) {
            let cut = Hlc(floor.0 + chance.random_range(0..=room));
            let expected = truth(&regions, cut);
            for direction in [Direction::Forward, Direction::Backward] {
                assert_eq!(at_cut(&table, cut, direction).as_ref(), Ok(&expected), "seed {seed}");
            }
            if chance.random_bool(0.1) {
                table.release_past(cut);
                assert_eq!(at_cut(&table, cut, Direction::Forward), Ok(expected), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_cut_shows_all_entries_below_it_and_nothing_else() {
    for seed in 0..40 {
        cuts_hold(Writers::One, seed);
        cuts_hold(Writers::ManyByColumn, seed);
        cuts_hold(Writers::ManyByRow, seed);
    }
}

#[test]
fn nothing_is_kept_of_a_table_that_nobody_asks_for() {
    let region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    assert_eq!((region.store.past_bytes(), region.table().past_floor()), (0, None));
    region.table().keep_past();
    let floor = region.table().past_floor().unwrap();
    region.write(put(1, 2)).unwrap();
    assert!(region.store.past_bytes() > 0);
    let before = at_cut(&region.table(), floor, Direction::Forward).unwrap();
    assert_eq!(integer(before.get(&key(1).encode()), "v"), Some(1));
    region.clock.advance(crate::limits::PAST_IDLE.as_millis() as i64);
    region.table().release_past(Hlc::MIN);
    assert_eq!((region.store.past_bytes(), region.table().past_floor()), (0, None));
    let refused = at_cut(&region.table(), floor, Direction::Forward);
    assert!(matches!(refused, Err(StoreError::CutGone { .. })));
}

#[test]
fn copied_rows_make_earlier_cuts_unreadable() {
    let region = Region::new(1, Writers::ManyByColumn);
    region.table().keep_past();
    let floor = region.table().past_floor().unwrap();
    region.write(put(1, 1)).unwrap();
    let all = EncodedKey::default();
    let copied =
        region.table().replace_range(&all, None, Vec::new(), &[(Origin(2), Hlc::MAX)], None, None);
    region.finish(copied).unwrap();
    assert!(at_cut(&region.table(), floor, Direction::Forward).is_err());
    assert!(region.table().past_floor().unwrap() > floor);
}

/// A writer gives two rows the same number, again and again; readers never see them differ.
#[test]
#[allow(clippy::disallowed_methods, reason = "what is shown to others while one writes")]
fn of_an_atomic_write_all_is_seen_or_nothing() {
    let region = Region::new(1, Writers::One);
    let (store, table) = (region.store.clone(), region.table());
    region.write(put(1, 0)).unwrap();
    region.write(put(2, 0)).unwrap();
    let keys = [key(1).encode(), key(2).encode()];
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for count in 1..2000 {
                drop(table.write(vec![put(1, count), put(2, count)], true));
                store.commit_step();
            }
        });
        while !writer.is_finished() {
            let both = table.get_many_packed(&keys).unwrap().into_iter();
            let both: Vec<Row> = both.map(|row| decode_row(&row.unwrap()).unwrap()).collect();
            assert_eq!(integer(Some(&both[0]), "v"), integer(Some(&both[1]), "v"));
            let seen: Vec<Option<i64>> =
                rows(&table).iter().map(|(_, row)| integer(Some(row), "v")).collect();
            assert_eq!(seen[0], seen[1]);
        }
    });
}
