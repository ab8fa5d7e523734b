//! What is to be done next so that a partition is where it is wanted.
//!
//! First it grows, then the writer moves, then the keeper of its record, and last it shrinks: at
//! any moment the partition has as many whole replicas as before. Each step is one that a person
//! could take of any global table, and is told by what is: after a crash the same is told again.

use crate::global_table::{GlobalTable, Progress};

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is where it is wanted.
    Nothing,
    /// This region takes a copy.
    Copying(String),
    /// This region gives its replica up; nothing else waits for it.
    Leaving(String),
    /// Bind a replica in this region.
    Bind(String),
    /// Let this region write.
    Switchover(String),
    /// Let this region, which writes, keep the record.
    MoveBase(String),
    /// Take the replica in this region out.
    Unbind(String),
}

impl Step {
    /// Whether something is done for it; else it is only waited.
    pub fn is_taken(&self) -> bool {
        match self {
            Step::Nothing | Step::Copying(_) | Step::Leaving(_) => false,
            Step::Bind(_) | Step::Switchover(_) | Step::MoveBase(_) | Step::Unbind(_) => true,
        }
    }
}

impl GlobalTable {
    /// What is to be done next so that the regions hold the table that are wanted, the first of
    /// which is to write it.
    pub fn step_towards(&self, wanted: &[String]) -> Step {
        for region in wanted {
            match self.replica(region).map(|replica| replica.progress) {
                None => return Step::Bind(region.clone()),
                Some(Progress::Active) => {}
                Some(Progress::Unbinding | Progress::Dropped) => {
                    return Step::Leaving(region.clone());
                }
                Some(Progress::Pending | Progress::Assigned | Progress::Copying) => {
                    return Step::Copying(region.clone());
                }
            }
        }
        let Some(first) = wanted.first() else { return Step::Nothing };
        if self.primary() != first {
            return Step::Switchover(first.clone());
        }
        if !wanted.contains(&self.base) {
            return Step::MoveBase(first.clone());
        }
        let unwanted = self.replicas.iter().find(|replica| !wanted.contains(&replica.region));
        match unwanted {
            None => Step::Nothing,
            Some(replica) if replica.progress == Progress::Unbinding => {
                Step::Leaving(replica.region.clone())
            }
            Some(replica) => Step::Unbind(replica.region.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::global_table::{Serve, Sync};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn table() -> GlobalTable {
        let mut table = GlobalTable::new("t/0001", 1, "r1", Sync::Row, Serve::PrimarySecondary)
            .with_replica("r2", false, 0)
            .unwrap();
        table.advance("r2", Progress::Active, 0).unwrap();
        table
    }

    /// Does steps until there is nothing to do; returns them.
    fn steps(table: &mut GlobalTable, wanted: &[String]) -> Vec<Step> {
        let mut done = Vec::new();
        loop {
            let step = table.step_towards(wanted);
            match &step {
                Step::Nothing => return done,
                Step::Copying(_) | Step::Leaving(_) => {
                    assert!(!step.is_taken(), "it is only waited");
                    let waiting = table.replicas.iter().find(|r| r.progress != Progress::Active);
                    let waiting = waiting.unwrap().clone();
                    match waiting.progress {
                        Progress::Unbinding => table.remove(&waiting.region),
                        _ => drop(table.advance(&waiting.region, Progress::Active, 0)),
                    }
                    continue;
                }
                Step::Bind(region) => {
                    *table = table.clone().with_replica(region, false, 0).unwrap();
                }
                Step::Switchover(to) => {
                    assert_eq!(table.check_successor(to), Ok(true));
                    assert!(table.follow_writer(table.epoch + 1, to));
                }
                Step::MoveBase(to) => assert!(table.move_base(to, table.epoch)),
                Step::Unbind(region) => table.unbind(region, 0).unwrap(),
            }
            assert!(step.is_taken());
            done.push(step);
            let whole = table.replicas.iter().filter(|r| r.progress == Progress::Active).count();
            assert!(whole >= 2, "never fewer replicas than before");
        }
    }

    #[test]
    fn what_is_as_wanted_stays() {
        assert!(steps(&mut table(), &names(&["r1", "r2"])).is_empty());
        let turned = steps(&mut table(), &names(&["r2", "r1"]));
        assert_eq!(turned, [Step::Switchover("r2".into())]);
    }

    #[test]
    fn replica_moves_by_growing_first() {
        let done = steps(&mut table(), &names(&["r1", "r3"]));
        assert_eq!(done, [Step::Bind("r3".into()), Step::Unbind("r2".into())]);
    }

    #[test]
    fn all_of_it_can_move() {
        let mut moved = table();
        let done = steps(&mut moved, &names(&["r3", "r4"]));
        let expected = [
            Step::Bind("r3".into()),
            Step::Bind("r4".into()),
            Step::Switchover("r3".into()),
            Step::MoveBase("r3".into()),
            Step::Unbind("r1".into()),
            Step::Unbind("r2".into()),
        ];
        assert_eq!(done, expected);
        assert_eq!((moved.base.as_str(), moved.primary()), ("r3", "r3"));
        assert_eq!(moved.replicas.len(), 2);
    }
}
