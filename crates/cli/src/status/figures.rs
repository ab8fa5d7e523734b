//! Availability, how long replicas were alike, and what the loss of a region would cost: one line
//! for the instance, for each region and for each table.
//!
//! What must hold: of what several regions tell the worst is shown, since clients of any of them
//! count.

use std::collections::BTreeMap;

use isthmus_server::status::{Ratios, RpoStatus, RtoStatus};

use super::Told;
use crate::output;

/// What is known of one subject.
#[derive(Default)]
struct Subject {
    availability: Option<Ratios>,
    alike: Option<Ratios>,
    rpo: Option<RpoStatus>,
    rto: Option<RtoStatus>,
}

impl Subject {
    fn is_known(&self) -> bool {
        let is_measured = self.availability.is_some() || self.alike.is_some();
        is_measured || self.rpo.is_some() || self.rto.is_some()
    }
}

/// The lines; `None` where nothing was measured yet.
pub(super) fn text(told: &[Told]) -> Option<String> {
    let mut subjects = BTreeMap::<(u8, String), Subject>::new();
    for status in told.iter().filter_map(|told| told.status.as_ref().ok()) {
        if let Some(ratios) = &status.instance_availability {
            let name = format!("instance {}", output::plain(&status.instance));
            worst(&mut subjects.entry((0, name)).or_default().availability, ratios);
        }
        for probe in &status.probes {
            let name = format!("region {}", output::plain(&probe.region));
            let subject = subjects.entry((1, name)).or_default();
            worst(&mut subject.availability, &probe.availability);
            worst(&mut subject.alike, &probe.consistency);
        }
        for table in &status.tables {
            let name = format!("table {}", output::plain(&table.name));
            let subject = subjects.entry((2, name)).or_default();
            if let Some(ratios) = &table.availability {
                worst(&mut subject.availability, ratios);
            }
            if let Some(ratios) = &table.alike {
                worst(&mut subject.alike, ratios);
            }
            let lost = |rpo: &RpoStatus| (rpo.entries, rpo.ms);
            if table.rpo.as_ref().map(lost) > subject.rpo.as_ref().map(lost) {
                subject.rpo.clone_from(&table.rpo);
            }
            if subject.rto.is_none() {
                subject.rto.clone_from(&table.rto);
            }
        }
    }
    subjects.retain(|_, subject| subject.is_known());
    let rows: Vec<Vec<String>> =
        subjects.iter().map(|((_, name), subject)| row(name, subject)).collect();
    let headings =
        ["AVAILABLE", "1 H", "24 H", "30 D", "SINCE START", "ALIKE 24 H", "RPO NOW", "RTO"];
    (!rows.is_empty()).then(|| output::table_text(&headings, &rows))
}

fn worst(of: &mut Option<Ratios>, other: &Ratios) {
    let least = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let so_far = of.unwrap_or_default();
    *of = Some(Ratios {
        hour: least(so_far.hour, other.hour),
        day: least(so_far.day, other.day),
        days_30: least(so_far.days_30, other.days_30),
        since_start: least(so_far.since_start, other.since_start),
    });
}

fn row(name: &str, subject: &Subject) -> Vec<String> {
    let available = subject.availability.unwrap_or_default();
    let alike = subject.alike.unwrap_or_default();
    vec![
        name.to_owned(),
        percent(available.hour),
        percent(available.day),
        percent(available.days_30),
        percent(available.since_start),
        percent(alike.day),
        subject.rpo.as_ref().map_or_else(|| "-".to_owned(), rpo),
        subject.rto.as_ref().map_or_else(|| "-".to_owned(), rto),
    ]
}

/// Cut, not rounded: what was not always available is never shown as such.
fn percent(ratio: Option<f64>) -> String {
    match ratio {
        None => "-".to_owned(),
        Some(ratio) => format!("{:.3} %", (ratio * 1e5).floor() / 1e3),
    }
}

fn rpo(rpo: &RpoStatus) -> String {
    match rpo.entries {
        0 => "nothing".to_owned(),
        entries => format!("{entries} entries, {}", output::span(rpo.ms)),
    }
}

fn rto(rto: &RtoStatus) -> String {
    let mut text = match (rto.by_hand, rto.most_ms) {
        (false, Some(most)) => {
            format!("{} to {}", output::span(rto.least_ms), output::span(most))
        }
        (_, _) => "by hand".to_owned(),
    };
    if let Some(measured) = rto.measured_ms {
        text += &format!("; drilled {}", output::span(measured));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_what_is_told_is_shown() {
        let mut of = None;
        let ratios = |hour| Ratios { hour, ..Ratios::default() };
        for hour in [None, Some(1.0), Some(0.5), Some(0.75)] {
            worst(&mut of, &ratios(hour));
        }
        assert_eq!(of, Some(ratios(Some(0.5))));
        assert_eq!(text(&super::super::tests::two_regions()), None);
    }

    #[test]
    fn figures_are_told_in_words() {
        assert_eq!(percent(Some(0.999_999)), "99.999 %");
        assert_eq!((percent(Some(1.0)), percent(None)), ("100.000 %".into(), "-".into()));
        let held = |entries, ms| RpoStatus { entries, ms, held_by: "r2".into() };
        assert_eq!(rpo(&held(0, 0)), "nothing");
        assert_eq!(rpo(&held(3, 40)), "3 entries, 40 ms");
        let mut told = RtoStatus {
            by_hand: false,
            least_ms: 1_900,
            most_ms: Some(3_700),
            measured_ms: Some(2_500),
        };
        assert_eq!(rto(&told), "1.9 s to 3.7 s; drilled 2.5 s");
        (told.by_hand, told.most_ms, told.measured_ms) = (true, None, None);
        assert_eq!(rto(&told), "by hand");
    }
}
