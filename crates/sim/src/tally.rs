//! What trials did, to see that they do anything.

/// Counts over one trial or many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows changed behind the back of the log.
    pub planted: u64,
    /// Comparisons that ended while the world went on.
    pub compared: u64,
    /// Of these, how many could not tell.
    pub could_not_tell: u64,
    /// Rows that kept changing while they were compared.
    pub unsettled: u64,
    /// Comparisons while nothing happened.
    pub compared_in_quiet: u64,
    /// Rows that were named as differing.
    pub rows_named: u64,
    /// Ranges that a scrub has found to have rotted.
    pub rot_found: u64,
    /// Rows that were repaired.
    pub repaired: u64,
    /// Changes of schemas that were asked for.
    pub schema_changes: u64,
    /// Requests that were answered when other regions held them.
    pub held: u64,
    /// Old disks that were put back.
    pub put_backs: u64,
    /// Epochs that a successor has opened.
    pub switches: u64,
    /// Batches of several tables that were refused.
    pub batches_refused: u64,
    /// Batches of which a part was lost with a region, in tables that are written asynchronously.
    pub batches_torn: u64,
    /// Moments at which the rows of all tables were summed up.
    pub sums: u64,
    /// Changes that were acknowledged by partitions that took the place of others.
    pub made_in_new: u64,
    /// Regions that held a table again after they had left it.
    pub bound_again: u64,
    /// Receipts of which a region said that it has them.
    pub receipts: u64,
    /// Conflicts that were held against what was written.
    pub conflicts: u64,
    /// Replicas that take less than all, and were held against the history.
    pub extracts: u64,
    /// Parcels that were held to the timing of their link.
    pub timed_parcels: u64,
}

impl Tally {
    /// Adds those of another trial.
    pub fn add(&mut self, other: &Tally) {
        self.planted += other.planted;
        self.compared += other.compared;
        self.could_not_tell += other.could_not_tell;
        self.unsettled += other.unsettled;
        self.compared_in_quiet += other.compared_in_quiet;
        self.rows_named += other.rows_named;
        self.rot_found += other.rot_found;
        self.repaired += other.repaired;
        self.schema_changes += other.schema_changes;
        self.held += other.held;
        self.put_backs += other.put_backs;
        self.switches += other.switches;
        self.batches_refused += other.batches_refused;
        self.batches_torn += other.batches_torn;
        self.sums += other.sums;
        self.made_in_new += other.made_in_new;
        self.bound_again += other.bound_again;
        self.receipts += other.receipts;
        self.conflicts += other.conflicts;
        self.extracts += other.extracts;
        self.timed_parcels += other.timed_parcels;
    }
}
