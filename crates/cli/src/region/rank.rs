//! Ranks places for another replica, by what was measured and what is told of them. Pure.
//!
//! What must hold: what is not known is never taken for good: it ranks behind what is known; each
//! place has its reasons, in the order in which they count.

use std::collections::BTreeMap;

use isthmus_control::forecast::Measures;
use isthmus_server::node::measures::WayMeasured;
use serde::Serialize;

const GIB: f64 = (1u64 << 30) as f64;
/// Seconds of a month.
const MONTH: f64 = 30.0 * 86_400.0;

/// What matters most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// That one fault does not take two places.
    Survival,
    /// The way from the region that writes.
    Delay,
    /// What the first copy and a month cost.
    Cost,
}

/// Where a replica could be.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Name.
    pub(super) name: String,
    /// URL of its public port, where it is no region yet.
    pub(super) endpoint: Option<String>,
    /// What else is known of it.
    pub(super) labels: BTreeMap<String, String>,
}

/// What a region that holds the table has found.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Its name.
    pub(super) from: String,
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
    /// What a GiB costs that leaves it.
    pub(super) price: Option<f64>,
    /// The ways from it.
    pub(super) ways: Vec<WayMeasured>,
    /// What a copy carries.
    pub(super) copy: Measures,
    /// Bytes each second that another replica gets of it now.
    pub(super) wire_bytes_rate: Option<f64>,
}

/// A place, with why it has its rank.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Place {
    /// Name.
    pub(super) name: String,
    /// Whether it is a region that is configured.
    pub(super) is_region: bool,
    /// The region that would feed it.
    pub(super) fed_by: Option<String>,
    /// From there and back.
    pub(super) round_trip_ms: Option<f64>,
    /// By how much one round trip differs from the next.
    pub(super) jitter_ms: Option<f64>,
    /// Bytes each second.
    pub(super) bandwidth: Option<f64>,
    /// How long the first copy takes.
    pub(super) copy_seconds: Option<f64>,
    /// Bytes that it sends.
    pub(super) copy_bytes: Option<u64>,
    /// What they cost.
    pub(super) copy_cost: Option<f64>,
    /// What a month costs, at the rate of now.
    pub(super) month_cost: Option<f64>,
    /// Labels that it shares with regions that hold the table.
    pub(super) shared: Vec<String>,
    /// Why.
    pub(super) reasons: Vec<String>,
    /// Whether its labels and those of the others are known.
    #[serde(skip)]
    is_told: bool,
}

/// Ranks them, the best first.
pub(super) fn rank(
    candidates: &[Candidate],
    seen: &[Seen],
    writer: Option<&str>,
    by: By,
) -> Vec<Place> {
    let mut places: Vec<Place> =
        candidates.iter().map(|candidate| place(candidate, seen, writer)).collect();
    let unknown = f64::INFINITY;
    let delay = |place: &Place| {
        let (round_trip, jitter) = (place.round_trip_ms?, place.jitter_ms?);
        Some(round_trip + 2.0 * jitter)
    };
    let cost = |place: &Place| match (place.copy_cost, place.month_cost) {
        (Some(copy), month) => copy + month.unwrap_or(0.0),
        (None, _) => unknown,
    };
    // A place that shares nothing is better than one that shares; one of which nothing is told is
    // not known to be apart.
    let apart = |place: &Place| (!place.is_told, place.shared.len());
    places.sort_by(|a, b| {
        let reached = a.round_trip_ms.is_none().cmp(&b.round_trip_ms.is_none());
        let survival = apart(a).cmp(&apart(b));
        let (near_a, near_b) = (delay(a).unwrap_or(unknown), delay(b).unwrap_or(unknown));
        let nearer = near_a.total_cmp(&near_b);
        let cheaper = cost(a).total_cmp(&cost(b));
        let order = match by {
            By::Survival => survival.then(nearer).then(cheaper),
            By::Delay => nearer.then(survival).then(cheaper),
            By::Cost => cheaper.then(survival).then(nearer),
        };
        reached.then(order).then(a.name.cmp(&b.name))
    });
    places
}

fn place(candidate: &Candidate, seen: &[Seen], writer: Option<&str>) -> Place {
    let name = candidate.name.clone();
    let mut place = Place { name, is_region: candidate.endpoint.is_none(), ..Place::default() };
    let way = |seen: &Seen| seen.ways.iter().find(|way| way.to == candidate.name).cloned();
    let ways: Vec<(&Seen, WayMeasured)> =
        seen.iter().filter_map(|seen| Some((seen, way(seen)?))).collect();
    let open = || ways.iter().filter(|(_, way)| way.error.is_empty());
    let of_writer = open().find(|(seen, _)| Some(seen.from.as_str()) == writer);
    let nearest = || open().min_by(|(_, a), (_, b)| a.round_trip_ms.total_cmp(&b.round_trip_ms));
    match of_writer.or_else(nearest) {
        Some((seen, way)) => fed(&mut place, seen, way, writer),
        None => {
            let error = ways.first().map(|(_, way)| way.error.as_str()).unwrap_or("no way");
            place.reasons.push(format!("it cannot be reached: {error}"));
        }
    }
    labelled(&mut place, candidate, seen);
    for (seen, way) in ways.iter().filter(|(_, way)| !way.error.is_empty()) {
        if place.round_trip_ms.is_some() {
            place.reasons.push(format!("not reached from {}: {}", seen.from, way.error));
        }
    }
    if !place.is_region {
        place.reasons.push("it is no region yet: set one up there first".to_owned());
    }
    place
}

/// What follows from the way that feeds it.
fn fed(place: &mut Place, seen: &Seen, way: &WayMeasured, writer: Option<&str>) {
    let measures = Measures {
        bandwidth: way.bandwidth,
        round_trip_ms: way.round_trip_ms,
        compression: seen.copy.compression.max(1.0),
        parallelism: 1.0,
        // What its disk takes is not known.
        takes: f64::INFINITY,
        ..seen.copy
    };
    let forecast = measures.forecast();
    let cost = |bytes: f64| seen.price.map(|price| bytes / GIB * price);
    place.fed_by = Some(seen.from.clone());
    place.round_trip_ms = Some(way.round_trip_ms);
    place.jitter_ms = Some(way.jitter_ms);
    place.bandwidth = Some(way.bandwidth);
    place.copy_seconds = Some(forecast.seconds);
    place.copy_bytes = Some(forecast.wire_bytes);
    place.copy_cost = cost(forecast.wire_bytes as f64);
    place.month_cost = seen.wire_bytes_rate.and_then(|rate| cost(rate * MONTH));
    let role = match writer {
        Some(writer) if writer == seen.from => "which writes",
        Some(_) => "the nearest that could be asked",
        None => "the nearest",
    };
    place.reasons.push(format!(
        "{:.1} ms from {}, {role}, and back: a write that waits for it takes so much longer, and \
         shows there after {:.1} ms",
        way.round_trip_ms, seen.from, forecast.sync_delay_ms
    ));
    if way.jitter_ms > way.round_trip_ms / 2.0 && way.jitter_ms > 1.0 {
        place.reasons.push(format!("its way is unsteady: {:.1} ms of jitter", way.jitter_ms));
    }
    if seen.price.is_none() {
        let from = &seen.from;
        place.reasons.push(format!("costs are not known: {from} has no price_per_gib_egress"));
    }
}

/// What follows from labels.
fn labelled(place: &mut Place, candidate: &Candidate, seen: &[Seen]) {
    place.is_told = !candidate.labels.is_empty() && seen.iter().any(|it| !it.labels.is_empty());
    if !place.is_told {
        let why = match candidate.labels.is_empty() {
            true => "it has no labels",
            false => "the regions that hold the table have no labels",
        };
        place.reasons.push(format!("not known whether one fault takes both: {why}"));
        return;
    }
    for (key, value) in &candidate.labels {
        let same = seen.iter().filter(|seen| seen.labels.get(key) == Some(value));
        let regions: Vec<&str> = same.map(|seen| seen.from.as_str()).collect();
        if !regions.is_empty() {
            place.shared.push(format!("{key}={value}"));
            place.reasons.push(format!("shares {key}={value} with {}", regions.join(", ")));
        }
    }
    if place.shared.is_empty() {
        place.reasons.push("shares no label with the regions that hold the table".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn candidate(name: &str, of: &[(&str, &str)]) -> Candidate {
        Candidate { name: name.to_owned(), endpoint: None, labels: labels(of) }
    }

    fn way(to: &str, round_trip_ms: f64) -> WayMeasured {
        let (jitter_ms, bandwidth) = (0.1, 10.0 * 1024.0 * 1024.0);
        let to = to.to_owned();
        WayMeasured { to, round_trip_ms, jitter_ms, bandwidth, error: String::new() }
    }

    fn seen(ways: Vec<WayMeasured>) -> Seen {
        let copy = Measures {
            rows: 1 << 20,
            row_bytes: 1024.0,
            compression: 2.0,
            reads: 1e9,
            ..Measures::default()
        };
        Seen {
            from: "r1".to_owned(),
            labels: labels(&[("country", "de"), ("provider", "a")]),
            price: Some(0.5),
            ways,
            copy,
            wire_bytes_rate: Some(1000.0),
        }
    }

    fn names(places: &[Place]) -> Vec<&str> {
        places.iter().map(|place| place.name.as_str()).collect()
    }

    #[test]
    fn what_matters_most_comes_first_and_what_is_not_reached_last() {
        let candidates = [
            candidate("near", &[("country", "de"), ("provider", "b")]),
            candidate("far", &[("country", "jp"), ("provider", "b")]),
            candidate("gone", &[("country", "us")]),
            candidate("untold", &[]),
        ];
        let gone = WayMeasured { to: "gone".into(), error: "refused".into(), ..way("gone", 0.0) };
        let ways = vec![way("near", 5.0), way("far", 200.0), gone, way("untold", 1.0)];
        let seen = [seen(ways)];
        let by = |by| rank(&candidates, &seen, Some("r1"), by);
        assert_eq!(names(&by(By::Survival)), ["far", "near", "untold", "gone"]);
        assert_eq!(names(&by(By::Delay)), ["untold", "near", "far", "gone"]);
        let places = by(By::Cost);
        assert_eq!(names(&places), ["far", "near", "untold", "gone"]);
        assert_eq!(places[1].shared, ["country=de"]);
        assert!(places[1].reasons.iter().any(|it| it == "shares country=de with r1"));
        assert!(places[3].reasons[0].contains("refused"));
    }

    #[test]
    fn time_and_cost_follow_from_size_way_and_price() {
        let places =
            rank(&[candidate("x", &[])], &[seen(vec![way("x", 10.0)])], Some("r1"), By::Delay);
        let place = &places[0];
        // A GiB at twice ten MiB each second, half a GiB on the way at 0.5 each.
        assert!((place.copy_seconds.unwrap() - 51.21).abs() < 0.01, "{place:?}");
        assert_eq!((place.copy_bytes, place.copy_cost), (Some(1 << 29), Some(0.25)));
        let month = 1000.0 * MONTH / GIB * 0.5;
        assert!((place.month_cost.unwrap() - month).abs() < 1e-9);
        let free = Seen { price: None, ..seen(vec![way("x", 10.0)]) };
        let places = rank(&[candidate("x", &[])], &[free], None, By::Cost);
        assert_eq!((places[0].copy_cost, places[0].month_cost), (None, None));
        assert!(places[0].reasons.iter().any(|it| it.contains("costs are not known")));
    }
}
