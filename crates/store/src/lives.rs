//! Lives of a region's log, by which it is found out that an old disk was put back.
//!
//! A life begins at each start of the store and is named by its moment. Who holds entries of a
//! region remembers of which life they are. A life goes on where the one before it ended, as long
//! as the disk is the one that it was; lives that follow each other so are a run. If an older disk
//! is put in its place, then somebody may hold entries, of a life that this disk knows nothing of
//! or of one that it knows a part of, beyond those that are here. Such entries are taken back, and
//! a new run begins beyond all that is known to have been made.

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Lsn;

/// Runs that are told apart; of older ones as much is thought to be here as of the oldest.
const RUNS_MAX: usize = 8;

/// A run of lives that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// When its first life began.
    pub begun: Hlc,
    /// What it made is here through this LSN: in the log, or in rows.
    pub through: Lsn,
}

/// The lives of the log of one region and partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// When this life began; it names it.
    pub begun: Hlc,
    /// Entries of earlier lives of its run end here.
    pub after: Lsn,
    /// When the first life of its run began.
    pub run: Hlc,
    /// Earlier runs, by their moments.
    pub runs: Vec<Run>,
}

impl Lives {
    /// The life that begins with a start of the store, with a log that ends there.
    pub(crate) fn begin(&mut self, now: Hlc, end: Lsn) {
        let now = now.max(self.begun.next());
        if self.run == Hlc::MIN {
            self.run = now;
        }
        (self.begun, self.after) = (now, end);
    }

    /// Whether somebody who holds the log through `held`, by a life, holds something that was
    /// never here or is not here any more. The log ends at `end`. Of a life that is not known
    /// (`Hlc::MIN`) only what lies beyond that is noticed.
    pub fn lack(&self, life: Hlc, held: Lsn, end: Lsn) -> bool {
        let through = if life == Hlc::MIN { end } else { self.through(life).min(end) };
        life != self.begun && held > through
    }

    /// What was made by a life, and before it, is here through this.
    fn through(&self, life: Hlc) -> Lsn {
        if life >= self.run {
            return self.after;
        }
        let place = self.runs.partition_point(|run| run.begun <= life);
        self.runs.get(place.saturating_sub(1)).map_or(self.after, |run| run.through)
    }

    /// What somebody held through `held` by a life is here, or on its way; the log ended at `end`
    /// and goes on at `next`, in a new run.
    pub(crate) fn take_back(
        &mut self,
        (life, held): (Hlc, Lsn),
        (end, next): (Lsn, Lsn),
        now: Hlc,
    ) {
        let before = Run { begun: self.run, through: held.max(self.after) };
        let of_now = Run { begun: self.begun, through: end };
        if life >= self.run {
            self.runs.push(before);
            if end > self.after && self.begun > self.run {
                self.runs.push(of_now);
            }
        } else {
            let place = self.runs.partition_point(|run| run.begun <= life);
            if let Some(run) = self.runs.get_mut(place.saturating_sub(1)) {
                run.through = run.through.max(held);
            } else {
                self.runs.push(Run { begun: life, through: held });
            }
            self.runs.push(Run { begun: self.run, through: end });
        }
        let now = now.max(self.begun.next()).max(life.next());
        let superfluous = self.runs.len().saturating_sub(RUNS_MAX);
        self.runs.drain(..superfluous);
        (self.begun, self.after, self.run) = (now, next, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Lsn = Lsn(u64::MAX);

    fn started(lives: &Lives, now: u64, end: u64) -> Lives {
        let mut next = lives.clone();
        next.begin(Hlc(now), Lsn(end));
        next
    }

    #[test]
    fn a_log_that_goes_on_lacks_nothing() {
        let mut lives = started(&Lives::default(), 10, 0);
        for (now, end) in [(20, 100), (30, 100), (40, 170)] {
            lives = started(&lives, now, end);
            assert!(!lives.lack(Hlc(now), Lsn(9999), END), "its own entries are its own");
            for (life, held) in [(10, 0), (10, 100), (20, 100), (0, 9999)] {
                assert!(!lives.lack(Hlc(life), Lsn(held), END));
            }
        }
        assert_eq!(lives.runs, []);
    }

    #[test]
    fn a_disk_that_was_put_back_lacks_what_others_hold_until_it_has_taken_it_back() {
        // Copied in life 20, at 100; life 30 went on to 130.
        let copied = started(&started(&Lives::default(), 10, 0), 20, 80);
        let mut back = started(&copied, 40, 100);
        assert!(back.lack(Hlc(20), Lsn(101), END) && back.lack(Hlc(30), Lsn(120), END));
        assert!(!back.lack(Hlc(30), Lsn(100), END), "met, and nothing had come");
        // Life 40 has made five entries before it heard of that.
        back.take_back((Hlc(30), Lsn(120)), (Lsn(105), Lsn(121)), Hlc(41));
        assert!(!back.lack(Hlc(30), Lsn(120), END) && !back.lack(Hlc(20), Lsn(120), END));
        assert!(!back.lack(Hlc(40), Lsn(105), END));
        assert!(back.lack(Hlc(40), Lsn(106), END), "a disk put back twice");
        assert!(back.lack(Hlc(30), Lsn(123), END), "somebody else holds more");
        let later = started(&back, 50, 400);
        assert!(later.lack(Hlc(30), Lsn(123), END), "it is not forgotten");
        assert!(!later.lack(Hlc(41), Lsn(400), END));
        back.take_back((Hlc(30), Lsn(123)), (Lsn(150), Lsn(151)), Hlc(42));
        assert!(!back.lack(Hlc(30), Lsn(123), END) && !back.lack(Hlc(41), Lsn(150), END));
        assert!(back.lack(Hlc(41), Lsn(151), END));
    }

    #[test]
    fn a_lost_disk_lacks_what_others_hold() {
        let mut empty = started(&Lives::default(), 50, 0);
        assert!(empty.lack(Hlc(30), Lsn(7), END));
        assert!(empty.lack(Hlc(0), Lsn(7), Lsn(6)) && !empty.lack(Hlc(0), Lsn(7), Lsn(7)));
        empty.take_back((Hlc(30), Lsn(7)), (Lsn(0), Lsn(8)), Hlc(51));
        assert!(!empty.lack(Hlc(30), Lsn(7), END) && empty.lack(Hlc(30), Lsn(9), END));
    }

    #[test]
    fn few_runs_are_remembered() {
        let mut lives = started(&Lives::default(), 10, 0);
        for n in 1..100u64 {
            let end = Lsn(n * 10);
            lives.take_back((Hlc(n * 100 - 50), end), (end, end.next()), Hlc(n * 100));
        }
        assert_eq!(lives.runs.len(), RUNS_MAX);
    }
}
