//! What is told of splits and merges of partitions.

use std::fmt::Error;

use super::families::{Families, Histogram, Labels};
use crate::node::{RESHAPE_KINDS as KINDS, ReshapeFigures};

fn by_kind(kind: usize) -> Labels {
    vec![("kind", KINDS[kind].to_owned())]
}

/// Writes them out.
pub(super) fn encode(told: &ReshapeFigures, to: &mut Families<'_>) -> Result<(), Error> {
    let running = (0..KINDS.len()).map(|kind| (by_kind(kind), told.running[kind] as f64));
    let help = "Splits and merges under way, of tables whose record is kept here";
    to.gauge("reshapes_running", help, running)?;
    let counts = (0..KINDS.len()).flat_map(|kind| {
        let outcomes = ["begun", "done", "given-up"].into_iter().zip(told.counts[kind]);
        outcomes.map(move |(outcome, count)| {
            let mut labels = by_kind(kind);
            labels.push(("outcome", outcome.to_owned()));
            (labels, count)
        })
    });
    to.counter("reshapes", "Splits and merges, of tables whose record is kept here", counts)?;
    let help = "How long writes of partitions were held for the end of a split or merge";
    let held = Histogram::of_classes(&told.held);
    to.histogram("reshape_held_seconds", help, [(Labels::new(), &held)])?;
    let help = "How often they were held in vain";
    to.counter("reshape_holds_in_vain", help, [(Labels::new(), told.in_vain)])
}
