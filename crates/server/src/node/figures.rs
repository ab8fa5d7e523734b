//! What the loss of this region would cost now: entries that nobody else holds, and the time until
//! another region writes.

use std::time::Duration;

use isthmus_control::global_table::Serve;
use isthmus_model::ids::{Lsn, TableId};
use isthmus_store::Table;

use super::{Node, Record};
use crate::status::{RpoStatus, RtoStatus};

/// What is allowed for the rates of two clocks: an eighth of a lease, and this.
const LEASE_MARGIN: Duration = Duration::from_millis(50);
/// How long the most complete log is looked for.
const SETTLING: Duration = Duration::from_millis(1000);
/// A lease is renewed so often in the time of one.
const RENEWALS_IN_LEASE: u32 = 5;

impl Node {
    /// What other regions are known to hold of what this one writes.
    pub(crate) fn rpo_status(&self, table: &Table, record: Option<&Record>) -> Option<RpoStatus> {
        let record = record?;
        let own = self.config.region.name.as_str();
        if record.table.serve == Serve::PrimarySecondary && record.table.primary() != own {
            return None;
        }
        let partition = table.partition();
        let holds_all = |region: &str| {
            let replica = record.table.replica(region);
            replica.is_some_and(|replica| replica.extract.is_none())
        };
        let reports = self.others().iter().filter(|(region, _)| holds_all(region));
        let reports = reports.filter_map(|(region, other)| {
            let all = other.links().reports();
            let report = all.into_iter().find(|report| report.partition == partition)?;
            let (region, oldest_millis) = (region.clone(), report.oldest_millis);
            Some(Holder { region, acked: report.acked?, end: report.appended, oldest_millis })
        });
        least_lost(reports, self.clock.wall_millis())
    }

    /// How long it would take until another region writes a table.
    pub(crate) fn rto_status(&self, table: TableId, name: &str) -> Option<RtoStatus> {
        let known = self.registry()?.known();
        let tenure = known.agreed.tenure(table.0)?;
        let lease = self.config.quorum.as_ref()?.lease();
        let (least, most) = rto(lease);
        let last = self.last_drill();
        let drilled = last.and_then(|drill| {
            drill.tables.into_iter().find(|drilled| drilled.table == name)?.rto_ms
        });
        Some(RtoStatus {
            by_hand: !tenure.automatic,
            least_ms: least.as_millis() as u64,
            most_ms: tenure.automatic.then_some(most.as_millis() as u64),
            measured_ms: drilled,
        })
    }
}

/// What another region is known to hold of a table.
struct Holder {
    region: String,
    /// Everything through this.
    acked: Lsn,
    /// The end of the log here.
    end: Lsn,
    /// When the oldest entry was made that it lacks.
    oldest_millis: Option<i64>,
}

/// What would be lost, by what the region holds that has most.
fn least_lost(holders: impl Iterator<Item = Holder>, now_millis: i64) -> Option<RpoStatus> {
    let best = holders.max_by_key(|holder| holder.acked)?;
    let entries = best.end.0.saturating_sub(best.acked.0);
    let oldest = best.oldest_millis.filter(|_| entries > 0);
    let age = oldest.map_or(0, |oldest| now_millis.saturating_sub(oldest).max(0));
    Some(RpoStatus { entries, ms: age.unsigned_abs(), held_by: best.region })
}

/// From the loss of a region to the next write elsewhere: nobody writes before its lease has
/// surely run out, and then the log that goes furthest is looked for.
fn rto(lease: Duration) -> (Duration, Duration) {
    let over = lease + lease / 8 + LEASE_MARGIN;
    // It may have renewed just before, or be about to; and each decision takes a moment.
    (over - lease / RENEWALS_IN_LEASE, over + SETTLING + lease / RENEWALS_IN_LEASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(region: &str, acked: u64, oldest_millis: Option<i64>) -> Holder {
        Holder { region: region.to_owned(), acked: Lsn(acked), end: Lsn(10), oldest_millis }
    }

    #[test]
    fn the_region_that_holds_most_counts() {
        let all = [holder("a", 7, Some(400)), holder("b", 9, Some(900))];
        let rpo = least_lost(all.into_iter(), 1000).unwrap();
        assert_eq!((rpo.entries, rpo.ms, rpo.held_by.as_str()), (1, 100, "b"));
        let rpo = least_lost([holder("a", 10, None)].into_iter(), 1000).unwrap();
        assert_eq!((rpo.entries, rpo.ms), (0, 0));
        assert_eq!(least_lost(std::iter::empty(), 1000), None);
    }

    #[test]
    fn the_forecast_holds_what_is_measured_with_leases_of_two_seconds() {
        let (least, most) = rto(Duration::from_secs(2));
        assert_eq!((least.as_millis(), most.as_millis()), (1900, 3700));
    }
}
