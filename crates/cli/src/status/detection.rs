//! How a region observes the others, in one line.

use isthmus_server::status::{DetectionStatus, SeenStatus};

use super::Told;
use crate::output;

/// A line for each region that tells of it.
pub(super) fn text(told: &[Told]) -> Option<String> {
    let lines: Vec<String> = told
        .iter()
        .filter_map(|told| told.status.as_ref().ok())
        .filter_map(|status| {
            let detection = status.quorum.as_ref()?.detection.as_ref()?;
            Some(format!("{} detects {}", output::plain(&status.region), in_line(detection)))
        })
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// What is observed, at what cost, and what came of it.
pub(crate) fn in_line(told: &DetectionStatus) -> String {
    let rate = |bytes: f64| output::bytes(bytes.max(0.0) as u64);
    let mut line = format!(
        "{}: probes {}/s of at most {}/s, quorum {}/s",
        output::plain(&told.by),
        rate(told.probe_bytes_per_second),
        output::bytes(told.probe_bytes_per_second_max.into()),
        rate(told.quorum_bytes_per_second),
    );
    line += &match (told.detected_after_last_ms, told.detected_after_p50_ms) {
        (Some(last), Some(p50)) => format!(
            "; {} suspected, after {} (p50), the last one after {}",
            told.detections,
            output::span(p50),
            output::span(last)
        ),
        _ => "; none suspected yet".to_owned(),
    };
    let regions: Vec<String> = told.regions.iter().map(seen).collect();
    if !regions.is_empty() {
        line += &format!("; {}", regions.join(", "));
    }
    if let Some(disk) = &told.disk {
        line += &format!("; {}", output::plain(disk));
    }
    line
}

fn seen(seen: &SeenStatus) -> String {
    let heard = [seen.renewal_ms_ago, seen.frame_ms_ago, seen.answer_ms_ago, seen.question_ms_ago];
    let heard = match heard.into_iter().flatten().min() {
        Some(ago) => format!("heard {} ago", output::span(ago)),
        None => "not heard yet".to_owned(),
    };
    let (region, verdict) = (output::plain(&seen.region), output::plain(&seen.verdict));
    format!("{region} {verdict}, {heard}, phi {:.1}", seen.phi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_observed_and_its_cost_are_told_in_one_line() {
        let seen = SeenStatus {
            region: "r2".into(),
            verdict: "suspect".into(),
            phi: 9.26,
            renewal_ms_ago: Some(1_300),
            frame_ms_ago: Some(1_250),
            answer_ms_ago: None,
            question_ms_ago: None,
            round_trip_ms: None,
        };
        let told = DetectionStatus {
            by: "mixed".into(),
            probe_every_ms: 400,
            suspect_after_ms: 1_000,
            suspect_within_ms: 1_600,
            probe_bytes_per_second: 512.4,
            probe_bytes_per_second_max: 16_384,
            probe_bytes: 5_000,
            quorum_bytes_per_second: 2_048.0,
            detections: 3,
            detected_after_last_ms: Some(1_250),
            detected_after_p50_ms: Some(1_200),
            regions: vec![seen],
            disk: None,
        };
        let line = "mixed: probes 512 B/s of at most 16.0 KiB/s, quorum 2.0 KiB/s; 3 suspected, \
                    after 1.2 s (p50), the last one after 1.2 s; r2 suspect, heard 1.2 s ago, \
                    phi 9.3";
        assert_eq!(in_line(&told), line);
        let quiet = DetectionStatus {
            detected_after_last_ms: None,
            detected_after_p50_ms: None,
            regions: Vec::new(),
            disk: Some("the disk is slow".into()),
            ..told
        };
        assert!(in_line(&quiet).ends_with("; none suspected yet; the disk is slow"));
    }
}
