//! How long regions take to answer reads, and how many wait there: which one is asked next.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::distribution::choose::{Candidate, order, smoothed};
use isthmus_protocol::error_code::ErrorCode;
use parking_lot::Mutex;
use prost::Message;

use super::Partition;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::reconcile::told;
use crate::peer::CALL_TIMEOUT;
use crate::peer::call::{Moments, MomentsTold, Question, Read};

/// How long one replica may take to read a row; then the next one is asked.
const ROW_PATIENCE: Duration = Duration::from_secs(3);

const GET_ROW: &str = "/GetRow";

/// The ways to the other regions.
pub(in crate::node) struct Ways {
    by_region: BTreeMap<String, Way>,
    turns: AtomicU64,
}

#[derive(Default)]
struct Way {
    in_flight: AtomicU32,
    round_trip: Mutex<Option<Duration>>,
}

/// A read that is on its way; it is counted until it is answered or given up.
struct OnItsWay<'a>(&'a Way);

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ways {
    /// To these regions.
    pub(super) fn new<'a>(others: impl Iterator<Item = &'a String>) -> Ways {
        let by_region = others.map(|name| (name.clone(), Way::default())).collect();
        Ways { by_region, turns: AtomicU64::new(0) }
    }

    /// The round trip to a region, smoothed.
    pub(super) fn round_trip(&self, region: &str) -> Option<Duration> {
        *self.by_region.get(region)?.round_trip.lock()
    }
}

impl Node {
    /// The other regions that hold a partition, in the order in which to ask them for reads; then
    /// those that may hold it though it is not known.
    pub(crate) fn readers(&self, partition: &Partition<'_>) -> Vec<String> {
        let part = &partition.table.partitions[partition.place];
        let held: Vec<&String> =
            part.held.iter().filter(|region| self.others.contains_key(*region)).collect();
        let candidate = |region: &&String| {
            let way = self.distributions.ways.by_region.get(*region);
            Candidate {
                round_trip: way.and_then(|way| *way.round_trip.lock()),
                in_flight: way.map_or(0, |way| way.in_flight.load(Ordering::Relaxed)),
                is_reached: self.is_reached(region),
            }
        };
        let candidates: Vec<Candidate> = held.iter().map(candidate).collect();
        let turn = self.distributions.ways.turns.fetch_add(1, Ordering::Relaxed);
        let mut all: Vec<String> =
            order(&candidates, turn).into_iter().map(|place| held[place].clone()).collect();
        for region in part.wanted.iter().chain(self.others.keys()) {
            if self.others.contains_key(region) && !all.contains(region) {
                all.push(region.clone());
            }
        }
        all
    }

    /// Has a read of a partition done in another region.
    pub(crate) async fn forward_read(&self, region: &str, read: Read) -> Result<Bytes, ApiError> {
        // Many rows may be a long way, and a moment may have to be waited for.
        let is_short = read.path == GET_ROW && read.cut.is_none();
        let patience = if is_short { ROW_PATIENCE } else { CALL_TIMEOUT };
        self.ask_replica(region, Question::Read(read), patience).await
    }

    /// As of which moments another region can read its replica of a partition.
    pub(crate) async fn ask_moments(
        &self,
        region: &str,
        partition: &str,
    ) -> Result<MomentsTold, ApiError> {
        let asked = Question::Moments(Moments { table: partition.to_owned() });
        let told = self.ask_replica(region, asked, ROW_PATIENCE).await?;
        MomentsTold::decode(told).map_err(|_| ApiError::internal())
    }

    /// Asks a region about a replica that it has, and takes note of how long that takes.
    async fn ask_replica(
        &self,
        region: &str,
        asked: Question,
        patience: Duration,
    ) -> Result<Bytes, ApiError> {
        let unavailable = |why: &str| {
            let message = format!("Region {region} cannot be reached: {why}.");
            ApiError::new(ErrorCode::ServerUnavailable, message)
        };
        let other = self.others.get(region).ok_or_else(ApiError::elsewhere)?;
        let way = self.distributions.ways.by_region.get(region).ok_or_else(ApiError::elsewhere)?;
        let reached = other.reached();
        if !reached.connected {
            return Err(unavailable(&reached.reason));
        }
        way.in_flight.fetch_add(1, Ordering::Relaxed);
        let _counted = OnItsWay(way);
        let began = self.clock.monotonic();
        let answer = other.ask_within(asked, patience).await;
        let took = self.clock.monotonic().saturating_sub(began);
        let mut round_trip = way.round_trip.lock();
        *round_trip = Some(smoothed(*round_trip, took));
        drop(round_trip);
        let reply = answer.map_err(|status| unavailable(status.message()))?;
        match reply.failure {
            None => Ok(reply.body),
            Some(failure) => Err(told(failure)),
        }
    }
}
