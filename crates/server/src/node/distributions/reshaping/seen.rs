//! What the base makes of what regions tell of the partitions of a split or merge: of two that say
//! otherwise the one counts that knows the newer epoch.

use std::collections::BTreeMap;

use isthmus_control::distribution::Distribution;
use isthmus_control::distribution::reshape::words::{Tenant, Told, check_all_know_plans};
use isthmus_control::global_table::GlobalTable;
use isthmus_protocol::error_code::ErrorCode;

use super::Reshapings;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::distributions::ask::{Look, Seen};

/// The partitions of a table, by number.
#[derive(Default)]
pub(super) struct Partitions {
    /// Their global tables, as the newest records say, and who writes them by the newest epoch.
    pub(super) tables: BTreeMap<u32, GlobalTable>,
    /// The regions in which they have ended, as far as no newer epoch is known.
    pub(super) ended: BTreeMap<u32, Vec<String>>,
}

/// What regions tell, but of the tables of `superfluous`.
pub(super) fn partitions_of(looks: &[(String, Look)], superfluous: &[u64]) -> Partitions {
    let seen = looks.iter().flat_map(|(region, look)| {
        look.partitions.iter().filter_map(move |seen| Some((region, seen, seen.table.as_ref()?)))
    });
    let seen = seen.filter(|(_, _, table)| !superfluous.contains(&table.table));
    let seen: Vec<(&String, &Seen, &GlobalTable)> = seen.collect();
    let mut found = Partitions::default();
    for (region, Seen { number, .. }, table) in &seen {
        let is_better = found.tables.get(number).is_none_or(|known| {
            table.is_newer_than(known) || (table.base == **region && !known.is_newer_than(table))
        });
        if is_better {
            found.tables.insert(*number, (*table).clone());
        }
    }
    for (_, Seen { number, .. }, table) in &seen {
        let known = found.tables.get_mut(number).filter(|known| known.table == table.table);
        if let Some(known) = known {
            known.follow_writer(table.epoch, table.primary());
        }
    }
    for (region, seen, table) in seen.iter().filter(|(_, seen, _)| seen.has_ended) {
        if found.tables.get(&seen.number).is_some_and(|known| known.epoch == table.epoch) {
            found.ended.entry(seen.number).or_default().push((*region).clone());
        }
    }
    found
}

impl Reshapings {
    /// Notes which regions know what planned partitions are.
    pub(in crate::node::distributions) fn note_who_knows_plans(&self, looks: &[(String, Look)]) {
        let mut known = self.know_plans.lock();
        for (region, look) in looks {
            if known.get(region) != Some(&look.knows_plans) {
                known.insert(region.clone(), look.knows_plans);
            }
        }
    }
}

impl Node {
    /// An error: a region may not know what planned partitions are.
    pub(super) fn check_plans_are_known(&self, record: &Distribution) -> Result<(), ApiError> {
        let told = self.distributions.reshapings.know_plans.lock();
        let holders = record.partitions.iter().flat_map(|partition| &partition.held);
        check_all_know_plans(&told, holders).map_err(|why| {
            let text = format!("Nothing was begun: {why}.");
            ApiError::new(ErrorCode::ServerUnavailable, text)
        })
    }

    /// An error: what a region tells of a split or merge that is done is not what is known here.
    pub(super) async fn check_filled(
        &self,
        record: &Distribution,
        from: &str,
        ends: &[Told],
    ) -> Result<(), ApiError> {
        let unavailable = |why: String| {
            let text = format!("The new partitions do not take their place yet: {why}.");
            ApiError::new(ErrorCode::ServerUnavailable, text)
        };
        let Some(reshape) = &record.reshape else { return Ok(()) };
        // Without a lease, what others have agreed on since is not known.
        if !self.is_leased() {
            return Err(unavailable("the base of the table holds no lease".to_owned()));
        }
        let looks = self.looks(record).await;
        let tables = looks.iter().flat_map(|(_, look)| &look.partitions);
        let tables = tables.filter_map(|seen| seen.table.as_ref());
        let mut tenants: Vec<Tenant<'_>> = tables
            .map(|it| Tenant { table: it.table, epoch: it.epoch, writer: Some(it.primary()) })
            .collect();
        let known = self.registry().map(|registry| registry.known());
        let agreed = known.iter().flat_map(|known| &known.agreed.tables);
        let of_it = agreed.filter(|(table, _)| ends.iter().any(|told| told.table == **table));
        tenants.extend(of_it.map(|(table, tenure)| Tenant {
            table: *table,
            epoch: tenure.epoch,
            writer: tenure.vacant.is_none().then_some(&*tenure.writer),
        }));
        reshape.check_filled(from, ends, &tenants).map_err(unavailable)
    }
}

#[cfg(test)]
mod tests {
    use isthmus_control::global_table::{Progress, Serve, Sync};

    use super::*;

    fn look(table: &GlobalTable, has_ended: bool) -> Look {
        let table = Some(table.clone());
        let (number, rows, entries, copies, bytes) = (0, None, 0, Vec::new(), None);
        let seen = Seen { number, table, rows, entries, copies, has_ended, bytes };
        Look { partitions: vec![seen], ..Look::default() }
    }

    #[test]
    fn who_writes_is_told_by_the_newest_epoch() {
        let mut old = GlobalTable::new("t/0000", 1, "r2", Sync::Row, Serve::PrimarySecondary);
        for region in ["r1", "r3"] {
            old = old.with_replica(region, false, 0).unwrap();
            old.advance(region, Progress::Active, 0).unwrap();
        }
        let mut new = old.clone();
        new.follow_writer(old.epoch + 1, "r3");
        // It keeps the record and was cut off: it has not heard of the other one.
        old.version += 5;
        let looks = [("r2".to_owned(), look(&old, true)), ("r3".to_owned(), look(&new, false))];
        let found = partitions_of(&looks, &[]);
        let (table, ended) = (&found.tables[&0], &found.ended);
        assert_eq!((table.version, table.primary()), (old.version, "r3"));
        assert!(ended.is_empty(), "what has ended in an epoch that is over may go on");
        let looks = [("r3".to_owned(), look(&new, true))];
        assert_eq!(partitions_of(&looks, &[]).ended[&0], ["r3"]);
        assert!(partitions_of(&looks, &[1]).tables.is_empty());
    }
}
