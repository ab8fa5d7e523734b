//! Repairs by rule, where the configuration asks for them.

use std::sync::Arc;
use std::time::Duration;

use isthmus_control::global_table::Serve;
use tokio::runtime::Handle;

use super::look::Suspect;
use crate::config::AutoRepair;
use crate::node::Node;
use crate::node::jobs::spec::{RepairMode, RepairSpec, Spec};
use crate::node::verify::place::Place;

/// Between two repairs by rule of one pair.
const REPAIR_EVERY: Duration = Duration::from_secs(60);

impl Node {
    /// Starts a repair, if the configuration says so.
    pub(super) fn repair_by_rule(
        self: &Arc<Self>,
        suspect: &Suspect,
        place: &Place,
        rows: u64,
        runtime: &Handle,
    ) {
        let rule = &self.config.verify;
        let table = &suspect.record.table;
        let pair = [self.config.region.name.as_str(), place.region.as_str()];
        let Some((from, to, mode)) =
            repair_of(rule.auto_repair, table.serve, table.speaker(), pair)
        else {
            return;
        };
        let now = self.clock.monotonic();
        let known = self.verification.gauge.pair(suspect.table.id(), &place.region);
        if rows > rule.auto_repair_rows_max
            || now < known.repair_after
            || self.jobs.is_busy_with(&table.name)
        {
            return;
        }
        let after = now + REPAIR_EVERY;
        self.verification.gauge.repair_after(suspect.table.id(), &place.region, after);
        let spec = Spec::Repair(RepairSpec {
            table: table.name.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
            mode,
            dry_run: false,
            rows_per_second: None,
            rows_max: None,
        });
        match runtime.block_on(self.start_job(spec)) {
            Ok(id) => tracing::info!(table = %table.name, %id, "repair by rule begun"),
            Err(error) => tracing::warn!(table = %table.name, %error, "repair by rule not begun"),
        }
    }
}

/// From where to where a pair is repaired by rule.
fn repair_of<'a>(
    rule: AutoRepair,
    serve: Serve,
    base: &str,
    pair: [&'a str; 2],
) -> Option<(&'a str, &'a str, RepairMode)> {
    match (rule, serve) {
        (AutoRepair::Off, _) | (AutoRepair::FromPrimary, Serve::PeerToPeer) => None,
        (AutoRepair::Merge, Serve::PeerToPeer) => Some((pair[0], pair[1], RepairMode::Merge)),
        (AutoRepair::FromPrimary | AutoRepair::Merge, Serve::PrimarySecondary) => {
            let from = pair.iter().position(|region| *region == base)?;
            Some((pair[from], pair[1 - from], RepairMode::OneWay))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_which_side_is_repaired() {
        let pair = ["a", "b"];
        let of = |rule, serve, base| repair_of(rule, serve, base, pair);
        let (one, many) = (Serve::PrimarySecondary, Serve::PeerToPeer);
        assert_eq!(of(AutoRepair::Off, one, "a"), None);
        assert_eq!(of(AutoRepair::FromPrimary, many, "a"), None);
        assert_eq!(of(AutoRepair::FromPrimary, one, "b"), Some(("b", "a", RepairMode::OneWay)));
        assert_eq!(of(AutoRepair::Merge, one, "a"), Some(("a", "b", RepairMode::OneWay)));
        assert_eq!(of(AutoRepair::Merge, one, "c"), None);
        assert_eq!(of(AutoRepair::Merge, many, "c"), Some(("a", "b", RepairMode::Merge)));
    }
}
