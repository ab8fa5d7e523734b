//! How a dropped table goes.
//!
//! The drop is an entry of the log, and every region obeys it where it comes. Rows and logs go
//! afterwards, and only when all regions have it: a region that passes entries on may be the only
//! way to one that was away. The base, which asks, goes last, so that it can ask again.

use crate::global_table::{GlobalTable, Progress};

/// What the base of a dropped table does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DropStep {
    /// Asks these regions whether they have had the drop.
    Ask(Vec<String>),
    /// All have it: tells these to remove what they hold.
    Remove(Vec<String>),
    /// Nobody else holds anything: it removes what it holds itself.
    End,
}

impl GlobalTable {
    /// What is next, where the table is dropped.
    pub fn drop_step(&self) -> DropStep {
        let others = || self.replicas.iter().filter(|replica| replica.region != self.base);
        let named = |fits: &dyn Fn(Progress) -> bool| -> Vec<String> {
            let fit = others().filter(|replica| fits(replica.progress));
            fit.map(|replica| replica.region.clone()).collect()
        };
        // Who is being unbound takes no part any more, and keeps the base until it is out.
        let waits = |progress| !matches!(progress, Progress::Dropped | Progress::Unbinding);
        let asked = named(&waits);
        match (asked.is_empty(), others().next()) {
            (false, _) => DropStep::Ask(asked),
            (true, Some(_)) => DropStep::Remove(named(&|progress| progress == Progress::Dropped)),
            (true, None) => DropStep::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::global_table::{Serve, Sync};

    #[test]
    fn nothing_is_removed_before_all_regions_have_the_drop() {
        let table = GlobalTable::new("t", 1, "r1", Sync::Row, Serve::PrimarySecondary);
        let table = table.with_replica("r2", false, 0).unwrap();
        let mut table = table.with_replica("r3", false, 0).unwrap();
        let all = vec!["r2".to_owned(), "r3".to_owned()];
        assert_eq!(table.drop_step(), DropStep::Ask(all.clone()));
        table.advance("r2", Progress::Dropped, 1).unwrap();
        assert_eq!(table.drop_step(), DropStep::Ask(vec!["r3".to_owned()]));
        table.advance("r3", Progress::Dropped, 2).unwrap();
        assert_eq!(table.drop_step(), DropStep::Remove(all));
        table.remove("r2");
        assert_eq!(table.drop_step(), DropStep::Remove(vec!["r3".to_owned()]));
        table.remove("r3");
        assert_eq!(table.drop_step(), DropStep::End);
    }

    #[test]
    fn a_region_that_is_unbound_is_not_asked_and_the_base_waits_for_it() {
        let table = GlobalTable::new("t", 1, "r1", Sync::Row, Serve::PrimarySecondary);
        let mut table = table.with_replica("r2", false, 0).unwrap();
        table.unbind("r2", 1).unwrap();
        assert_eq!(table.drop_step(), DropStep::Remove(Vec::new()));
        table.remove("r2");
        assert_eq!(table.drop_step(), DropStep::End);
    }
}
