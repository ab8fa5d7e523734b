//! Branches of a region's log, as an old disk that was put back makes them.
//!
//! A log forks where the old disk ended: what was made on the newer one lies on a branch that was
//! left, and what is made from then on lies on another, at addresses that may be the same. Whoever
//! follows a log by entries must stay on one branch, and have all that lies on it. What was left
//! behind is known to others and comes back as rows.

use std::collections::BTreeSet;

use isthmus_model::ids::Lsn;

/// A branch, by its number. The first is 0.
pub(crate) type BranchNumber = usize;

#[derive(Clone, Debug, Default)]
struct Branch {
    /// The branch that it forks from, and where; the first forks from none.
    fork: Option<(BranchNumber, Lsn)>,
    /// Addresses of the region's own entries on it.
    made: BTreeSet<Lsn>,
    /// How far it was ever durable.
    end: Lsn,
}

/// All branches of the log of one region and partition.
#[derive(Clone, Debug)]
pub(crate) struct Branches(Vec<Branch>);

impl Default for Branches {
    fn default() -> Branches {
        Branches(vec![Branch::default()])
    }
}

impl Branches {
    /// An old disk is put back, whose log ended at `lsn` on a branch. Gives the branch on which it
    /// goes on.
    pub(crate) fn fork(&mut self, from: BranchNumber, lsn: Lsn) -> BranchNumber {
        let fork = Some((from, lsn));
        self.0.push(Branch { fork, made: BTreeSet::new(), end: lsn });
        self.0.len() - 1
    }

    /// The region has made an entry.
    pub(crate) fn made(&mut self, branch: BranchNumber, lsn: Lsn) {
        if let Some(branch) = self.0.get_mut(branch) {
            branch.made.insert(lsn);
        }
    }

    /// The log is durable through this.
    pub(crate) fn durable(&mut self, branch: BranchNumber, lsn: Lsn) {
        if let Some(branch) = self.0.get_mut(branch) {
            branch.end = branch.end.max(lsn);
        }
    }

    /// The branches that have come so far: on one of them lies what a copy brings.
    pub(crate) fn reaching(&self, lsn: Lsn) -> BTreeSet<BranchNumber> {
        (0..self.0.len()).filter(|branch| self.0[*branch].end >= lsn).collect()
    }

    /// Whether what lies before an address is the same on two branches.
    pub(crate) fn are_one(&self, a: BranchNumber, b: BranchNumber, lsn: Lsn) -> bool {
        self.trunk(a, lsn) == self.trunk(b, lsn)
    }

    /// The branches on which someone may be after he has taken the entries `taken` of the range
    /// `(from, to]`, and nothing else of it, where he was on one of `at`. None: he has left out
    /// something, or has what lies elsewhere.
    pub(crate) fn followed(
        &self,
        at: &BTreeSet<BranchNumber>,
        (from, to): (Lsn, Lsn),
        taken: &BTreeSet<Lsn>,
    ) -> BTreeSet<BranchNumber> {
        let follows = |branch: &BranchNumber| {
            at.iter().any(|known| self.are_one(*known, *branch, from))
                && self.entries(*branch, from, to) == *taken
        };
        self.reaching(to).into_iter().filter(follows).collect()
    }

    /// The branch on which an address lies that a branch has.
    fn trunk(&self, branch: BranchNumber, lsn: Lsn) -> BranchNumber {
        let mut branch = branch;
        while let Some((parent, fork)) = self.0.get(branch).and_then(|known| known.fork)
            && lsn <= fork
        {
            branch = parent;
        }
        branch
    }

    /// The entries of a range, as a branch has them.
    fn entries(&self, branch: BranchNumber, from: Lsn, to: Lsn) -> BTreeSet<Lsn> {
        let mut found = BTreeSet::new();
        let (mut branch, mut to) = (branch, to);
        while let Some(known) = self.0.get(branch)
            && from < to
        {
            let (parent, fork) = known.fork.unwrap_or((usize::MAX, Lsn(0)));
            let begin = from.max(fork);
            if begin < to {
                found.extend(known.made.range(begin.next()..=to));
            }
            (branch, to) = (parent, to.min(fork));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsns(numbers: &[u64]) -> BTreeSet<Lsn> {
        numbers.iter().map(|number| Lsn(*number)).collect()
    }

    fn range(from: u64, to: u64) -> (Lsn, Lsn) {
        (Lsn(from), Lsn(to))
    }

    /// Entries at 3 and 8 before an old disk that ended at 5 was put back, then at 7 and 12.
    fn forked() -> Branches {
        let mut branches = Branches::default();
        for lsn in [3, 8] {
            branches.made(0, Lsn(lsn));
        }
        branches.durable(0, Lsn(9));
        assert_eq!(branches.fork(0, Lsn(5)), 1);
        for lsn in [7, 12] {
            branches.made(1, Lsn(lsn));
        }
        branches.durable(1, Lsn(12));
        branches
    }

    #[test]
    fn who_was_before_the_fork_goes_on_along_either_branch() {
        let (branches, first) = (forked(), BTreeSet::from([0]));
        assert_eq!(branches.followed(&first, range(2, 9), &lsns(&[3, 8])), BTreeSet::from([0]));
        assert_eq!(branches.followed(&first, range(2, 9), &lsns(&[3, 7])), BTreeSet::from([1]));
        assert_eq!(branches.followed(&first, range(5, 12), &lsns(&[7, 12])), BTreeSet::from([1]));
        // Both are alike as far as nothing was made on either.
        assert_eq!(branches.followed(&first, range(2, 6), &lsns(&[3])), BTreeSet::from([0, 1]));
    }

    #[test]
    fn mixtures_and_holes_are_seen() {
        let (branches, first) = (forked(), BTreeSet::from([0]));
        // Something is left out, or is of both.
        assert!(branches.followed(&first, range(2, 9), &lsns(&[3])).is_empty());
        assert!(branches.followed(&first, range(2, 9), &lsns(&[3, 7, 8])).is_empty());
        // He has what was left, and goes on along what came in its place.
        assert!(branches.followed(&first, range(8, 12), &lsns(&[12])).is_empty());
        assert!(branches.followed(&first, range(6, 12), &lsns(&[7, 12])).is_empty());
        // It was never made so far.
        assert!(branches.followed(&first, range(8, 13), &lsns(&[12])).is_empty());
    }

    #[test]
    fn what_was_left_is_the_same_only_before_the_fork() {
        let branches = forked();
        assert!(branches.are_one(0, 1, Lsn(5)) && !branches.are_one(0, 1, Lsn(6)));
        assert_eq!(branches.reaching(Lsn(10)), BTreeSet::from([1]));
    }
}
