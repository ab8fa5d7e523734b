//! Safe times, and the horizon below which tombstones may go.
//!
//! Per partition with several writers: what every other origin has promised to this replica
//! *and* this replica has applied, and what every other replica reports of itself. The horizon is
//! the least of all of them. A replica that has never reported holds it at the beginning of time.
//!
//! With one writer what it has promised counts for reads as of a moment, and there is no horizon.

use std::collections::BTreeMap;

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Origin, PartitionId};
use isthmus_store::Table;
use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Known {
    /// By origin: everything of it below this is applied here.
    applied: BTreeMap<Origin, Hlc>,
    /// By replica: what it says of itself.
    reported: BTreeMap<Origin, Hlc>,
}

/// What this node knows of safe times. Shared by all links.
#[derive(Debug, Default)]
pub struct SafeTimes {
    partitions: Mutex<BTreeMap<PartitionId, Known>>,
}

impl SafeTimes {
    /// Everything of `origin` below `hlc` is applied here and nothing below it will come.
    pub fn applied(&self, partition: PartitionId, origin: Origin, hlc: Hlc) {
        let mut partitions = self.partitions.lock();
        let known = partitions.entry(partition).or_default().applied.entry(origin).or_default();
        *known = hlc.max(*known);
    }

    /// The greatest moment that an origin has promised, where everything below it is applied.
    pub fn promised_by(&self, partition: PartitionId, origin: Origin) -> Hlc {
        let partitions = self.partitions.lock();
        let known = partitions.get(&partition);
        known.and_then(|known| known.applied.get(&origin)).copied().unwrap_or(Hlc::MIN)
    }

    /// The replica in region `replica` reports its safe time.
    pub fn reported(&self, partition: PartitionId, replica: Origin, hlc: Hlc) {
        let mut partitions = self.partitions.lock();
        let known = partitions.entry(partition).or_default().reported.entry(replica).or_default();
        *known = hlc.max(*known);
    }

    /// The newest that is known of the safe time of a replica; it may be less than what was known.
    pub fn told(&self, partition: PartitionId, replica: Origin, hlc: Hlc) {
        let mut partitions = self.partitions.lock();
        partitions.entry(partition).or_default().reported.insert(replica, hlc);
    }

    /// A replica is copied anew: what it had reported holds no more.
    pub fn forget_report(&self, partition: PartitionId, replica: Origin) {
        if let Some(known) = self.partitions.lock().get_mut(&partition) {
            known.reported.remove(&replica);
        }
    }

    /// The partition is gone.
    pub fn forget(&self, partition: PartitionId) {
        self.partitions.lock().remove(&partition);
    }

    /// This replica's safe time, given what it promises itself.
    pub fn safe(&self, partition: PartitionId, others: &[Origin], own: Hlc) -> Hlc {
        let partitions = self.partitions.lock();
        let known = partitions.get(&partition);
        let applied = |origin| known.and_then(|known| known.applied.get(origin)).copied();
        others.iter().map(|origin| applied(origin).unwrap_or(Hlc::MIN)).fold(own, Hlc::min)
    }

    /// Everything of every origin below this is durable in the table here, and nothing below it
    /// will come: as of this moment and earlier ones it can be read. `others` are the other
    /// regions that write it where several do, `own` what this one promises.
    pub fn safe_to_read(&self, table: &Table, others: &[Origin], own: Hlc) -> Hlc {
        if table.makes_entries() {
            return self.safe(table.partition(), others, own);
        }
        // One log, in order: all up to its end is here, and all that its writer has promised. Who
        // has handed it over promises nothing of what the successor makes.
        let word = table.writer_word();
        let promised = match word.successor {
            Some(_) => Hlc::MIN,
            None => self.safe(table.partition(), &[word.writer], Hlc::MAX),
        };
        promised.max(table.durable_hlc().next())
    }

    /// The least safe time of all replicas.
    pub fn horizon(&self, partition: PartitionId, others: &[Origin], own: Hlc) -> Hlc {
        let safe = self.safe(partition, others, own);
        let partitions = self.partitions.lock();
        let known = partitions.get(&partition);
        let reported = |replica| known.and_then(|known| known.reported.get(replica)).copied();
        others.iter().map(|replica| reported(replica).unwrap_or(Hlc::MIN)).fold(safe, Hlc::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_replica_holds_the_horizon() {
        let times = SafeTimes::default();
        let (here, others) = (PartitionId(1), [Origin(2), Origin(3)]);
        for origin in others {
            times.applied(here, origin, Hlc(100));
        }
        times.reported(here, Origin(2), Hlc(90));
        assert_eq!(times.safe(here, &others, Hlc(200)), Hlc(100));
        assert_eq!(times.horizon(here, &others, Hlc(200)), Hlc::MIN);
        times.reported(here, Origin(3), Hlc(80));
        times.reported(here, Origin(3), Hlc(70));
        assert_eq!(times.horizon(here, &others, Hlc(200)), Hlc(80));
        assert_eq!(times.horizon(here, &others, Hlc(50)), Hlc(50));
        times.forget_report(here, Origin(2));
        assert_eq!(times.horizon(here, &others, Hlc(200)), Hlc::MIN);
    }
}
