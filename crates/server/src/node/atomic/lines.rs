//! Which log a batch means. A region whose replica is unbound goes on with a table that has the
//! same number, name and rows, and a log of its own, in which nothing is found of what was decided
//! elsewhere. So batches name a table by its *line*: all who have the same log, one after the
//! other, have the same line. It is the number of the table where that was made, and goes on
//! through global tables that are made of it and end; a region that goes its own way begins a new
//! one, of a number that nothing else has.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_control::distribution::partition_named;
use isthmus_model::ids::{Origin, TableId};
use isthmus_store::{Store, Table};
use parking_lot::Mutex;

use crate::api_error::ApiError;
use crate::node::{Node, NodeError};

const NOTES: &str = "line/";

fn note_name(table: TableId) -> Vec<u8> {
    format!("{NOTES}{:016x}", table.0).into_bytes()
}

/// The lines of tables that were replicas and are, or were, tables of this region alone. What is
/// here counts before the record of a global table.
#[derive(Default)]
pub(super) struct Lines(Mutex<BTreeMap<TableId, TableId>>);

impl Lines {
    /// What is kept.
    pub(super) fn read(store: &Store) -> Result<Lines, NodeError> {
        let mut lines = BTreeMap::new();
        for (name, value) in store.notes(NOTES.as_bytes())? {
            let damaged = || NodeError::Record(String::from_utf8_lossy(&name).into_owned());
            let number = name.strip_prefix(NOTES.as_bytes()).ok_or_else(damaged)?;
            let number = std::str::from_utf8(number).map_err(|_| damaged())?;
            let table = u64::from_str_radix(number, 16).map_err(|_| damaged())?;
            let line = <[u8; 8]>::try_from(&value[..]).map_err(|_| damaged())?;
            lines.insert(TableId(table), TableId(u64::from_be_bytes(line)));
        }
        Ok(Lines(Mutex::new(lines)))
    }

    fn of(&self, table: TableId) -> Option<TableId> {
        self.0.lock().get(&table).copied()
    }

    fn tables_of(&self, line: TableId) -> Vec<TableId> {
        let lines = self.0.lock();
        lines.iter().filter(|(_, known)| **known == line).map(|(table, _)| *table).collect()
    }
}

impl Node {
    /// The line of a table that is held here; `None`: it is not known yet.
    pub(in crate::node) fn line_of(&self, table: &Table) -> Option<TableId> {
        let id = table.id();
        if let Some(line) = self.batches.lines.of(id) {
            return Some(line);
        }
        if let Some(record) = self.records.lock().get(&id) {
            return Some(record.table.line.map_or(id, TableId));
        }
        // Else it was a replica, and an earlier version unbound it.
        is_made_in(id, Origin(self.config.region.number)).then_some(id)
    }

    /// The same of the table of that name, as batches tell it; 0: there is none here, or it is not
    /// known yet.
    pub(crate) fn line_named(&self, name: &str) -> u64 {
        let table = self.store.table_by_name(name);
        table.and_then(|table| self.line_of(&table)).map_or(0, |line| line.0)
    }

    /// The table here whose line that is.
    pub(super) fn table_of_line(&self, line: TableId) -> Option<Arc<Table>> {
        let of_records = || -> Vec<TableId> {
            let records = self.records.lock();
            let is_it = records.iter().filter(|(_, one)| one.table.line == Some(line.0));
            is_it.map(|(id, _)| *id).collect()
        };
        let candidates = [line].into_iter().chain(self.batches.lines.tables_of(line));
        let tables = candidates.chain(of_records()).filter_map(|id| self.store.table(id));
        tables.into_iter().find(|table| self.line_of(table) == Some(line))
    }

    /// Whether all who could have a line are asked when all regions are that this one knows.
    pub(super) fn knows_maker_of(&self, line: TableId) -> bool {
        let own = self.config.region.number;
        let others = self.config.regions.iter().map(|other| other.number);
        others.chain([own]).any(|number| is_made_in(line, Origin(number)))
    }

    /// The replica here is about to be a table of this region alone, of that line: the one that
    /// it has, if no other region goes on with it.
    pub(in crate::node) async fn begin_line(
        &self,
        table: &Table,
        goes_on: bool,
    ) -> Result<(), ApiError> {
        let known = match goes_on {
            true => self.line_of(table),
            // It was begun before, and not all of that was done.
            false => self.batches.lines.of(table.id()),
        };
        let line = match known {
            Some(line) => line,
            None => TableId(self.store.reserve_id()?),
        };
        self.store.put_note(&note_name(table.id()), &line.0.to_be_bytes()).await?;
        self.batches.lines.0.lock().insert(table.id(), line);
        Ok(())
    }

    /// What is kept of the line of a table must not outlive the record that is about to be kept.
    pub(in crate::node) async fn forget_line(&self, table: TableId) -> Result<(), ApiError> {
        Ok(self.store.delete_note(&note_name(table)).await?)
    }

    /// There is a record, by which it goes from now on.
    pub(in crate::node) fn follow_line_of_record(&self, table: TableId) {
        self.batches.lines.0.lock().remove(&table);
    }

    /// Gives lines to tables that an earlier version unbound.
    pub(super) async fn give_lines(&self) -> Result<(), ApiError> {
        // A replica that is being made has no record yet.
        let _one_at_a_time = self.changing.lock().await;
        for table in self.store.tables() {
            let is_partition = partition_named(table.name().as_str()).is_some();
            if !is_partition && self.line_of(&table).is_none() {
                self.begin_line(&table, false).await?;
            }
        }
        Ok(())
    }
}

/// Whether a region has given that number, as `id_of_region` makes it.
fn is_made_in(id: TableId, region: Origin) -> bool {
    id.0 & 0xff == u64::from(region.0)
}

#[cfg(test)]
mod tests {
    use isthmus_model::ids::id_of_region;

    use super::*;

    #[test]
    fn a_number_tells_which_region_has_given_it() {
        let id = TableId(id_of_region(Origin(3), 770));
        assert!(is_made_in(id, Origin(3)) && !is_made_in(id, Origin(2)));
    }

    #[test]
    fn a_line_is_found_by_the_table_that_has_it() {
        let lines = Lines::default();
        lines.0.lock().extend([(TableId(1), TableId(9)), (TableId(2), TableId(2))]);
        assert_eq!(lines.of(TableId(1)), Some(TableId(9)));
        assert_eq!(lines.tables_of(TableId(9)), [TableId(1)]);
        assert_eq!((lines.of(TableId(3)), lines.tables_of(TableId(1))), (None, Vec::new()));
    }
}
