//! Partitions that are split and merged, and what became of batches of several partitions.
//!
//! What must hold: one line for each split or merge, whichever regions know of it; counts are shown
//! only where there is something to count.

use std::collections::BTreeMap;

use isthmus_server::status::{ReshapeStatus, Status};

use super::Told;
use crate::output;

/// The lines; `None` where nothing is to be told.
pub(super) fn text(told: &[Told]) -> Option<String> {
    let statuses: Vec<&Status> = told.iter().filter_map(|told| told.status.as_ref().ok()).collect();
    let mut lines = under_way(&statuses);
    lines.extend(statuses.iter().flat_map(|status| counts(status)));
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// What is split and merged. How far it is, the region knows that writes; what it waits for, that
/// one or the one that keeps the record.
fn under_way(statuses: &[&Status]) -> Vec<String> {
    let mut all: BTreeMap<(&str, &[u32]), (i64, ReshapeStatus)> = BTreeMap::new();
    for status in statuses {
        for one in &status.reshapes {
            let known = all.entry((one.table.as_str(), one.sources.as_slice()));
            let (_, known) = known.or_insert_with(|| (status.now_ms, one.clone()));
            if known.doing.is_none() && one.doing.is_some() {
                let waits = one.waits.clone().or_else(|| known.waits.take());
                *known = ReshapeStatus { waits, ..one.clone() };
            }
            known.waits = known.waits.take().or_else(|| one.waits.clone());
        }
    }
    all.into_values().map(|(now, one)| line(now, &one)).collect()
}

fn line(now_ms: i64, one: &ReshapeStatus) -> String {
    let numbers = |all: &[u32]| {
        let all: Vec<String> = all.iter().map(u32::to_string).collect();
        all.join(" and ")
    };
    let mut text = format!(
        "{}: partition {} becomes {}, {}, since {}: {}",
        output::plain(&one.table),
        numbers(&one.sources),
        numbers(&one.targets),
        output::plain(&one.why),
        super::age(now_ms, one.begun_ms),
        output::plain(one.doing.as_ref().unwrap_or(&one.phase)),
    );
    if let (Some(done), Some(total)) = (one.rows_done, one.rows_total) {
        text += &format!(", {done} of {total} rows");
    }
    if let Some(waits) = &one.waits {
        text += &format!("; it waits: {}", output::plain(waits));
    }
    text
}

fn counts(status: &Status) -> Vec<String> {
    let region = output::plain(&status.region);
    let batches = status.batches.map(|it| {
        format!(
            "batches of several partitions in {region}: {} begun, {} made, {} refused, {} unknown; \
             {} parts settled as told, {} by asking",
            it.begun, it.made, it.refused, it.unknown, it.settled_by_anchor, it.settled_by_upkeep,
        )
    });
    let reshaped = status.reshaped.map(|it| {
        format!(
            "splits and merges in {region}: {} begun, {} done, {} given up; writes held {} times, \
             {} in vain, {} in all",
            it.begun,
            it.done,
            it.given_up,
            it.holds,
            it.holds_in_vain,
            output::span(it.held_ms),
        )
    });
    batches.into_iter().chain(reshaped).collect()
}

#[cfg(test)]
mod tests {
    use isthmus_server::status::{BatchCounts, ReshapeCounts};

    use super::super::tests::{status, told};
    use super::*;

    #[test]
    fn a_split_is_one_line_whoever_knows_of_it() {
        let planned = ReshapeStatus {
            table: "t".into(),
            sources: vec![3],
            targets: vec![7, 8],
            why: "for its load".into(),
            phase: "filling".into(),
            begun_ms: 3_000,
            ..ReshapeStatus::default()
        };
        let base = ReshapeStatus { waits: Some("r3 is silent".into()), ..planned.clone() };
        let writer = ReshapeStatus {
            doing: Some("copying".into()),
            rows_done: Some(5),
            rows_total: Some(9),
            ..planned.clone()
        };
        let knows = |region: &str, one: &ReshapeStatus| {
            told(region, Ok(Status { reshapes: vec![one.clone()], ..status(region, 0) }))
        };
        let line = "t: partition 3 becomes 7 and 8, for its load, since 2.0 s: copying, 5 of 9 \
                    rows; it waits: r3 is silent";
        let all = [knows("r1", &planned), knows("r2", &writer), knows("r3", &base)];
        assert_eq!(text(&all).as_deref(), Some(line));
        let all = [knows("r3", &base), knows("r2", &writer)];
        assert_eq!(text(&all).as_deref(), Some(line));
        let text = text(&all[..1]).unwrap();
        assert!(text.ends_with("filling; it waits: r3 is silent"), "{text}");
    }

    #[test]
    fn counts_are_shown_where_there_are_any() {
        assert_eq!(text(&[told("r1", Ok(status("r1", 0)))]), None);
        let batches = BatchCounts { begun: 3, made: 2, unknown: 1, ..BatchCounts::default() };
        let reshaped = ReshapeCounts { begun: 1, holds: 2, held_ms: 90, ..Default::default() };
        let counted =
            Status { batches: Some(batches), reshaped: Some(reshaped), ..status("r1", 0) };
        let text = text(&[told("r1", Ok(counted))]).unwrap();
        assert!(text.contains("3 begun, 2 made, 0 refused, 1 unknown"), "{text}");
        assert!(text.contains("held 2 times, 0 in vain, 90 ms in all"), "{text}");
    }
}
