//! Measures the ways from this region to others, and to places that are no regions yet, for whoever
//! decides where a replica is to be.
//!
//! Short and bounded: some round trips and little more than a MiB for each way, one after the
//! other. It changes nothing. A region is measured over the connection that regions have; a place
//! that is none yet by requests to its public port that nobody has signed, which a region refuses
//! before it does anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use isthmus_connectors::http::{Http, HttpError, HttpOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::Node;
use super::plan::{LONG, MESSAGE_BYTES, PATIENCE, each_second};
use crate::api_error::ApiError;

/// Round trips of one way.
const ROUND_TRIPS: usize = 10;
/// Ways that are measured by one request.
const WAYS_MAX: usize = 32;
/// What a place is asked for; without a signature it is refused.
const PATH: &str = "/ListTable";

/// What is to be measured.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// Other regions.
    #[serde(default)]
    to: Vec<String>,
    /// Places that are no regions yet.
    #[serde(default)]
    places: Vec<PlaceWish>,
    /// A table, for the size of its first copy.
    #[serde(default)]
    table: Option<String>,
}

/// A place that is no region yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceWish {
    name: String,
    endpoint: String,
}

/// A way from this region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WayMeasured {
    /// Where it ends.
    pub to: String,
    /// From a question to its answer, in the middle.
    pub round_trip_ms: f64,
    /// By how much one round trip differs from the next, on average.
    pub jitter_ms: f64,
    /// Bytes that one stream carries each second.
    pub bandwidth: f64,
    /// Why it could not be measured; empty: it was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

impl WayMeasured {
    fn of(to: &str, round_trips: &[Duration], bandwidth: f64) -> WayMeasured {
        let mut sorted = round_trips.to_vec();
        sorted.sort_unstable();
        let middle = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let changes = round_trips.windows(2).map(|pair| pair[0].abs_diff(pair[1]));
        let jitter = changes.sum::<Duration>() / (round_trips.len().max(2) - 1) as u32;
        WayMeasured {
            to: to.to_owned(),
            round_trip_ms: middle.as_secs_f64() * 1e3,
            jitter_ms: jitter.as_secs_f64() * 1e3,
            bandwidth,
            error: String::new(),
        }
    }

    fn failed(to: &str, error: String) -> WayMeasured {
        WayMeasured { to: to.to_owned(), error, ..WayMeasured::default() }
    }
}

impl Node {
    /// Measures what a person asks for. `body` is its JSON.
    pub async fn measure_ways(self: &Arc<Self>, body: &[u8]) -> Result<Json, ApiError> {
        let wish: Wish = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("The wish is wrong: {error}.")))?;
        if wish.to.len() + wish.places.len() > WAYS_MAX {
            return Err(ApiError::invalid(format!(
                "At most {WAYS_MAX} ways are measured at once."
            )));
        }
        let size = match &wish.table {
            Some(name) => Some(self.clone().size_of_copy(name).await?),
            None => None,
        };
        // One after the other: side by side they would take each other's bandwidth.
        let mut ways = Vec::with_capacity(wish.to.len() + wish.places.len());
        for to in &wish.to {
            ways.push(self.way_to_region(to).await);
        }
        for place in &wish.places {
            ways.push(self.way_to_place(place).await);
        }
        let own = &self.config.region;
        Ok(json!({
            "from": own.name,
            "labels": own.labels,
            "price_per_gib_egress": own.price_per_gib_egress,
            "ways": ways,
            "copy": size,
        }))
    }

    async fn way_to_region(self: &Arc<Self>, to: &str) -> WayMeasured {
        if !self.is_member(to) {
            return WayMeasured::failed(to, "it is not configured".to_owned());
        }
        let measured = async {
            let round_trips = self.round_trips(to, ROUND_TRIPS).await?;
            let network = self.measure_network(to).await?;
            Ok::<_, ApiError>(WayMeasured::of(to, &round_trips, network.bandwidth))
        };
        measured.await.unwrap_or_else(|error| WayMeasured::failed(to, error.message))
    }

    /// How long a place took to refuse so many bytes.
    async fn post_unsigned(&self, http: &Http, bytes: usize) -> Result<Duration, HttpError> {
        let began = self.clock.monotonic();
        http.send(Method::POST, PATH, &[], Bytes::from(vec![0; bytes])).await?;
        Ok(self.clock.monotonic().saturating_sub(began))
    }

    async fn way_to_place(&self, place: &PlaceWish) -> WayMeasured {
        let options =
            HttpOptions { connect_timeout: PATIENCE, answer_timeout: PATIENCE, idle_max: 1 };
        let measured = async {
            let http = Http::new(&place.endpoint, options)?;
            // The first one also opens the connection.
            self.post_unsigned(&http, 0).await?;
            let mut round_trips = Vec::with_capacity(ROUND_TRIPS);
            for _ in 0..ROUND_TRIPS {
                round_trips.push(self.post_unsigned(&http, 0).await?);
            }
            let way = WayMeasured::of(&place.name, &round_trips, 0.0);
            let round_trip = Duration::from_secs_f64(way.round_trip_ms / 1e3);
            let mut bandwidth = 0.0f64;
            for size in MESSAGE_BYTES {
                let took = self.post_unsigned(&http, size).await?;
                bandwidth = bandwidth.max(each_second(size, took, round_trip));
                if took > LONG {
                    break;
                }
            }
            Ok::<_, HttpError>(WayMeasured { bandwidth, ..way })
        };
        measured.await.unwrap_or_else(|error| WayMeasured::failed(&place.name, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_how_much_round_trips_differ_from_each_other() {
        let trips = [10, 12, 10, 30].map(Duration::from_millis);
        let way = WayMeasured::of("r2", &trips, 5.0);
        assert_eq!((way.round_trip_ms, way.jitter_ms), (12.0, 8.0));
        let none = WayMeasured::of("r2", &[], 0.0);
        assert_eq!((none.round_trip_ms, none.jitter_ms), (0.0, 0.0));
        let text = serde_json::to_string(&WayMeasured::failed("r2", "away".into())).unwrap();
        assert!(text.contains("away"));
    }
}
