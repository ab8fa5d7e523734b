//! Rot of the disk: a scrub finds it, and what another region has heals it.

use std::collections::BTreeSet;

use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_store::digest::BadRange;
use isthmus_store::{Healed, StoreError, Table};

use crate::checkers::Violation;
use crate::verify::nature::Mending;
use crate::verify::world::World;

const NAME: &str = "a scrub finds what has rotted, and nothing else";
/// Passes after which all must be healed.
const PASSES_MAX: u32 = 6;

fn is_in(range: &BadRange, key: &EncodedKey) -> bool {
    *key >= range.start && range.end.as_ref().is_none_or(|end| key < end)
}

impl World {
    /// Scrubs and heals every region, and sees that all are alike then. The world is quiet.
    pub(super) fn check_deep(&mut self) -> Result<u64, Violation> {
        // Nothing rots any more.
        self.nature.plants_go_on = false;
        let mut found = 0;
        for region in 0..self.regions.len() {
            found += self.scrub_and_heal(region)?;
        }
        for region in 0..self.regions.len() {
            self.rotten[region].clear();
            self.look(region);
            self.check_digest(region);
        }
        self.held()?;
        // What was written over rotten rows is no rot any more, but a difference like others.
        self.mend_all(Mending::OneWay(0))?;
        Ok(found)
    }

    fn scrub_and_heal(&mut self, region: usize) -> Result<u64, Violation> {
        let mut found = 0;
        for pass in 0..PASSES_MAX {
            let Some(table) = self.regions[region].table() else { return Ok(0) };
            let bad = self.scrub(&table)?;
            if pass == 0 {
                self.check_found(region, &bad)?;
                found = bad.len() as u64;
            }
            if bad.is_empty() {
                return Ok(found);
            }
            for range in &bad {
                // Power may have failed since: then it is another store.
                let Some(table) = self.regions[region].table() else { break };
                self.heal(region, &table, range)?;
            }
        }
        Err(Violation::of("what has rotted is healed", format!("region {region}")))
    }

    fn scrub(&mut self, table: &Table) -> Result<Vec<BadRange>, Violation> {
        use rand::Rng;
        let mut from = Some(EncodedKey::default());
        let mut bad = Vec::new();
        while let Some(start) = from {
            let rows_max = self.rng.random_range(1..60);
            let step = table
                .scrub_step(&start, rows_max, 1)
                .map_err(|error| Violation::of(NAME, error.to_string()))?;
            bad.extend(step.bad);
            from = step.next;
        }
        Ok(bad)
    }

    fn check_found(&self, region: usize, bad: &[BadRange]) -> Result<(), Violation> {
        let rotten = &self.rotten[region];
        let deviating = self.truth.deviating(region, &self.moments[region]);
        // Rot that a write has taken for what was there is in the digest by now.
        let is_rotten = |key: &&EncodedKey| {
            let since = rotten.get(*key);
            since.is_some_and(|since| self.logged.get(*key).is_none_or(|step| step < since))
        };
        let missed = deviating
            .iter()
            .filter(is_rotten)
            .find(|key| !bad.iter().any(|range| is_in(range, key)));
        if let Some(key) = missed {
            let row = self.moments[region].rows.get(key);
            let what = format!("region {region}: {key:?} is not found in {bad:?}; it is {row:?}");
            return Err(Violation::of(NAME, what));
        }
        match bad.iter().find(|range| !rotten.keys().any(|key| is_in(range, key))) {
            Some(range) => {
                Err(Violation::of(NAME, format!("region {region}: {range:?} has not rotted")))
            }
            None => Ok(()),
        }
    }

    /// Gives a range back what another region has, where that has not rotted.
    fn heal(&mut self, region: usize, table: &Table, range: &BadRange) -> Result<(), Violation> {
        let rotten = |place: usize| self.rotten[place].keys().any(|key| is_in(range, key));
        let healthy = (0..self.regions.len()).find(|place| *place != region && !rotten(*place));
        let mut rows: Vec<(EncodedKey, Option<Row>)> = Vec::new();
        if let Some(other) = healthy {
            let (here, there) = (&self.moments[region], &self.moments[other]);
            let lens = here.lens.joined(&there.lens);
            let keys: BTreeSet<&EncodedKey> = here.rows.keys().chain(there.rows.keys()).collect();
            for key in keys.into_iter().filter(|key| is_in(range, key)) {
                if here.row(key, &lens) != there.row(key, &lens) {
                    rows.push((key.clone(), there.rows.get(key).cloned()));
                }
            }
        } else {
            // Nobody knows any more: the world is given up on.
            rows.extend(self.rotten[region].keys().filter(|key| is_in(range, key)).map(|key| {
                let lens = self.moments[region].lens.clone();
                let row = self.truth.clean(region, key, &lens);
                (key.clone(), (!row.is_bare()).then_some(row))
            }));
        }
        let count = rows.len();
        let mut pending = table.heal(range, rows);
        self.commit_all(region);
        let mut healed: Option<Result<Healed, _>> = pending.try_take();
        if count > 0 && matches!(healed, Some(Err(StoreError::Busy))) {
            // More is wrong than what has rotted: a write has built on it. The digest follows the
            // rows then, and the comparison finds what differs.
            let mut pending = table.heal(range, Vec::new());
            self.commit_all(region);
            healed = pending.try_take();
        }
        self.note(&format!("healed {count} rows in region {region}: {healed:?}"));
        match healed {
            // Power may have failed, and then it is tried again.
            Some(Ok(_) | Err(StoreError::Unknown)) => Ok(()),
            other => Err(Violation::of("what has rotted is healed", format!("{other:?}"))),
        }
    }
}
