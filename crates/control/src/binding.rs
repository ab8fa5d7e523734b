//! How a replica is bound and how it leaves, step by step, as the base of its table decides.
//!
//! A region that forgets what it has deleted must know of every replica that may still have it. So
//! a new replica of a table that all regions write is assigned when the others, as far as they are
//! reached, have confirmed the record that names it. One that leaves is told so before it goes from
//! the record.

use crate::global_table::{GlobalTable, Progress, Serve};

/// What the base does next for the replica in a region that it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindStep {
    /// Nothing: its region has confirmed all.
    Nothing,
    /// Waits for this other region to know of the new replica.
    WaitFor(String),
    /// Gives its region the record.
    Assign,
    /// Tells its region that it is out; once that is confirmed, it goes from the record.
    Unassign,
}

impl GlobalTable {
    /// What is next for the replica in a region. `is_forgotten`: its region has lost what it was
    /// told; `is_reached` tells of a region whether it can be asked now.
    pub fn bind_step(
        &self,
        region: &str,
        is_forgotten: bool,
        is_reached: impl Fn(&str) -> bool,
    ) -> BindStep {
        let Some(replica) = self.replica(region) else { return BindStep::Nothing };
        match replica.progress {
            Progress::Unbinding => return BindStep::Unassign,
            Progress::Pending => {
                if let Some(other) = self.knows_of_fewer(region, is_reached) {
                    return BindStep::WaitFor(other.to_owned());
                }
            }
            Progress::Assigned | Progress::Copying | Progress::Active | Progress::Dropped => {}
        }
        match replica.confirmed_version < self.version || is_forgotten {
            true => BindStep::Assign,
            false => BindStep::Nothing,
        }
    }

    /// Takes note that a region has obeyed the record of a version, or a newer one.
    pub fn confirm(&mut self, region: &str, version: u64, now_millis: i64) {
        let Ok(replica) = self.replica_mut(region) else { return };
        replica.confirmed_version = replica.confirmed_version.max(version);
        if replica.progress == Progress::Pending {
            replica.progress = Progress::Assigned;
            replica.since_millis = now_millis;
            replica.message = None;
        }
    }

    /// Another region that writes the table and may forget what it has deleted without regard to
    /// the new replica in `region`: it has not confirmed the record that names it.
    fn knows_of_fewer(&self, region: &str, is_reached: impl Fn(&str) -> bool) -> Option<&str> {
        if self.serve != Serve::PeerToPeer {
            return None;
        }
        let lacks = self.replicas.iter().find(|replica| {
            let is_settled = !matches!(replica.progress, Progress::Pending | Progress::Unbinding);
            is_settled
                && replica.region != region
                && replica.region != self.base
                && replica.confirmed_version < self.version
                && is_reached(&replica.region)
        });
        lacks.map(|replica| replica.region.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::global_table::Sync;

    const ALL: fn(&str) -> bool = |_| true;

    fn bound(serve: Serve) -> GlobalTable {
        let table = GlobalTable::new("t", 1, "r1", Sync::Row, serve);
        let mut table = table.with_replica("r2", false, 0).unwrap();
        table.confirm("r2", table.version, 1);
        table.with_replica("r3", false, 2).unwrap()
    }

    #[test]
    fn peers_know_of_a_new_replica_before_it_is_assigned() {
        let mut table = bound(Serve::PeerToPeer);
        assert_eq!(table.bind_step("r3", false, ALL), BindStep::WaitFor("r2".to_owned()));
        assert_eq!(table.bind_step("r2", false, ALL), BindStep::Assign);
        // One that is not reached is not waited for.
        assert_eq!(table.bind_step("r3", false, |region| region != "r2"), BindStep::Assign);
        table.confirm("r2", table.version, 3);
        assert_eq!(table.bind_step("r2", false, ALL), BindStep::Nothing);
        assert_eq!(table.bind_step("r3", false, ALL), BindStep::Assign);
        table.confirm("r3", table.version, 4);
        assert_eq!(table.replica("r3").unwrap().progress, Progress::Assigned);
        assert_eq!(table.bind_step("r3", false, ALL), BindStep::Nothing);
        assert_eq!(table.bind_step("r3", true, ALL), BindStep::Assign);
    }

    #[test]
    fn where_one_region_writes_nobody_is_waited_for() {
        let table = bound(Serve::PrimarySecondary);
        assert_eq!(table.bind_step("r3", false, ALL), BindStep::Assign);
    }

    #[test]
    fn one_that_leaves_is_told_whatever_else_is_to_be_done() {
        let mut table = bound(Serve::PeerToPeer);
        table.unbind("r3", 5).unwrap();
        assert_eq!(table.bind_step("r3", false, ALL), BindStep::Unassign);
        table.remove("r3");
        assert_eq!(table.bind_step("r3", false, ALL), BindStep::Nothing);
    }
}
