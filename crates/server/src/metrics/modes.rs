//! What is told of writes that wait for other regions.

use std::collections::BTreeMap;
use std::fmt::Error;

use isthmus_model::ids::PartitionId;
use isthmus_replication::mode::ModeReport;

use super::families::{Families, Histogram, table_label};
use crate::node::Node;

/// The tables of one label.
#[derive(Debug, Default)]
struct OfLabel {
    fallen_back: u64,
    waiting: u64,
    lag: u64,
    falls: u64,
    outcomes: [(&'static str, u64); 4],
}

impl OfLabel {
    fn add(&mut self, report: &ModeReport) {
        let counts = report.counts;
        self.fallen_back += u64::from(report.fallen_back);
        self.waiting += report.waiting as u64;
        self.lag += report.lag.unwrap_or(0);
        self.falls += counts.fallen_back;
        let told = [
            ("held", counts.held),
            ("not-held", counts.not_held),
            ("gave-up", counts.gave_up),
            ("refused", counts.refused),
        ];
        for (outcome, (name, count)) in self.outcomes.iter_mut().zip(told) {
            *outcome = (name, outcome.1 + count);
        }
    }
}

/// Figures of all tables whose writes wait.
#[derive(Debug)]
pub(super) struct ModeFigures {
    labels: BTreeMap<String, OfLabel>,
    waited: Histogram,
}

impl ModeFigures {
    /// Reads them; `label` gives the label of a table.
    pub(super) fn of(node: &Node, label: impl Fn(PartitionId) -> String) -> ModeFigures {
        let modes = node.shared().modes;
        let mut labels = BTreeMap::<String, OfLabel>::new();
        for partition in modes.partitions() {
            if let Some(report) = modes.report(partition) {
                labels.entry(label(partition)).or_default().add(&report);
            }
        }
        ModeFigures { labels, waited: Histogram::of(modes.waited()) }
    }

    /// Writes them out.
    pub(super) fn encode(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let gauge = |figure: fn(&OfLabel) -> u64| {
            let samples = self.labels.iter();
            samples.map(move |(table, it)| (table_label(table), figure(it) as f64))
        };
        let help = "Whether too few other regions keep up with the table's writes";
        to.gauge("semi_sync_fallen_back", help, gauge(|it| it.fallen_back))?;
        let help = "Writes that wait until other regions hold them";
        to.gauge("semi_sync_waiting", help, gauge(|it| it.waiting))?;
        let help = "Entries that not as many other regions hold as the table asks for";
        to.gauge("semi_sync_lag_entries", help, gauge(|it| it.lag))?;
        let falls = self.labels.iter().map(|(table, it)| (table_label(table), it.falls));
        to.counter("semi_sync_falls", "How often too few others kept up", falls)?;
        let outcomes = self.labels.iter().flat_map(|(table, it)| {
            it.outcomes.iter().map(move |(outcome, count)| {
                let mut labels = table_label(table);
                labels.push(("outcome", (*outcome).to_owned()));
                (labels, *count)
            })
        });
        to.counter("semi_sync_writes", "Writes by how they were answered", outcomes)?;
        let help = "How long writes waited for other regions";
        to.histogram("semi_sync_wait_seconds", help, [(Vec::new(), &self.waited)])
    }
}
