//! What is told of batches of several partitions.

use std::fmt::Error;

use isthmus_store::Table;

use super::families::{Families, Labels};
use crate::node::Node;
use crate::status::BatchCounts;

/// Figures of all of them.
#[derive(Debug, Default)]
pub(super) struct BatchFigures {
    counts: BatchCounts,
    in_doubt: u64,
    oldest_ms: u64,
    unsettled: u64,
}

impl BatchFigures {
    /// What is counted; what tables keep is added.
    pub(super) fn of(node: &Node) -> BatchFigures {
        BatchFigures { counts: node.batch_counts(), ..BatchFigures::default() }
    }

    /// Adds what a table keeps.
    pub(super) fn add(&mut self, node: &Node, table: &Table) {
        let Some(kept) = node.batches_status(table) else { return };
        self.in_doubt += kept.in_doubt;
        self.unsettled += kept.unsettled;
        let oldest = kept.oldest.first().map_or(0, |batch| batch.waited_ms);
        self.oldest_ms = self.oldest_ms.max(oldest);
    }

    /// Writes them out.
    pub(super) fn encode(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let counts = &self.counts;
        let help = "Batches of several partitions whose anchors are written here";
        to.counter("batches_begun", help, [(Labels::new(), counts.begun)])?;
        let ended =
            [("made", counts.made), ("refused", counts.refused), ("unknown", counts.unknown)];
        let ended = ended.map(|(outcome, count)| (label("outcome", outcome), count));
        to.counter("batches", "The same by how they were answered", ended)?;
        let settled = [
            ("anchor", counts.settled_by_anchor),
            ("upkeep", counts.settled_by_upkeep),
            ("hand", counts.settled_by_hand),
        ];
        let settled = settled.map(|(by, count)| (label("by", by), count));
        let help = "Parts of batches kept here that ended, by who saw to that";
        to.counter("batch_parts_settled", help, settled)?;
        let one = |figure: f64| [(Labels::new(), figure)];
        let help =
            "Parts of batches kept here whose batches are made or not, which nobody said yet";
        to.gauge("batches_in_doubt", help, one(self.in_doubt as f64))?;
        let help = "For how long the oldest of them is in doubt";
        to.gauge("batches_in_doubt_oldest_seconds", help, one(self.oldest_ms as f64 / 1e3))?;
        let help = "Batches decided in tables kept here that not all others are known to have made";
        to.gauge("batches_unsettled", help, one(self.unsettled as f64))
    }
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}
