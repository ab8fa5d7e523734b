//! Splits and merges that nobody asks for: what limits ask for is begun, and given up where it is
//! in vain.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isthmus_control::distribution::reshape::automatic::{
    Choice, Measure, POINTS_MIN, Wanted, choose_point,
};
use isthmus_control::distribution::reshape::rates::Rate;
use isthmus_control::distribution::reshape::{Phase, Why};
use isthmus_control::distribution::{Distribution, name_of_partition, partition_named};
use isthmus_model::clock::Clock;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::super::ask::Look;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::events::EventKind;

/// A partition of which something was refused rests for so long.
const REST: Duration = Duration::from_secs(60);
/// And one of which something was given up.
const REST_LONG: Duration = Duration::from_secs(10 * 60);
/// One of which too little is known rests for so long.
const LOOKS_FOR_POINTS: Duration = Duration::from_secs(5);
/// What is begun by itself is given up when writes were held so many times in vain.
const HOLDS_MAX: u32 = 8;
/// What rates are smoothed over for limits, in seconds: a hot partition is found within few.
const RATE_SECONDS: f64 = 1.5;
/// Rates are taken of looks that are so far apart at least.
const LOOK_MIN: Duration = Duration::from_millis(700);

/// What the base knows of loads, and of what it has tried. Times are of the monotonic clock.
#[derive(Default)]
pub(in crate::node::distributions) struct Reshapings {
    /// By the names of partitions.
    rates: Mutex<BTreeMap<String, Rate>>,
    /// By the names of tables: when rates were last taken.
    looked_at: Mutex<BTreeMap<String, Duration>>,
    /// By the names of partitions: before this nothing is begun of them by itself.
    rests: Mutex<BTreeMap<String, Duration>>,
    /// By region: whether it knows what planned partitions are, as it said last.
    pub(super) know_plans: Mutex<BTreeMap<String, bool>>,
}

impl Reshapings {
    /// Forgets what was of a table.
    pub(in crate::node::distributions) fn forget(&self, table: &str) {
        self.keep_of(table, &BTreeSet::new());
        self.looked_at.lock().remove(table);
    }

    /// Forgets what was of partitions of a table other than these.
    pub(in crate::node::distributions) fn keep_of(&self, table: &str, numbers: &BTreeSet<u32>) {
        let is_kept = |name: &String| {
            partition_named(name)
                .is_none_or(|(of, number)| of != table || numbers.contains(&number))
        };
        self.rates.lock().retain(|name, _| is_kept(name));
        self.rests.lock().retain(|name, _| is_kept(name));
    }

    /// From now on no partition of a table rests.
    pub(super) fn end_rests(&self, table: &str) {
        let is_of_it = |name: &String| partition_named(name).is_some_and(|(of, _)| of == table);
        self.rests.lock().retain(|name, _| !is_of_it(name));
    }

    /// What was begun of partitions was given up.
    pub(super) fn rest_long(&self, clock: &dyn Clock, table: &str, numbers: &[u32]) {
        self.rest(clock.monotonic() + REST_LONG, table, numbers);
    }

    fn rest(&self, until: Duration, table: &str, numbers: &[u32]) {
        let names = numbers.iter().map(|number| name_of_partition(table, *number));
        self.rests.lock().extend(names.map(|name| (name, until)));
    }
}

impl Node {
    /// Begins what the limits of a table ask for. What is refused rests.
    pub(super) async fn look_at_limits(&self, looks: &[(String, Look)], record: &Distribution) {
        if !record.limits.are_set() || !self.take_rates(looks, record) {
            return;
        }
        let measure = |number| self.measure_of(looks, record, number);
        let wanted = record.wanted_reshape(measure, self.clock.wall_millis());
        let (numbers, begun) = match wanted {
            None => return,
            Some(Wanted::Merge(numbers, why)) => {
                (numbers.to_vec(), self.begin_merge(record, numbers, why, false).await.map(drop))
            }
            Some(Wanted::Split(number, Why::Load)) => {
                (vec![number], self.split_hot(record, number).await)
            }
            Some(Wanted::Split(number, why)) => {
                (vec![number], self.split_large(record, number, why).await)
            }
        };
        if let Err(error) = begun {
            self.rest_from_reshapes(&record.name, &numbers);
            let text = format!("a split or merge by itself was not begun: {error}");
            self.notice(EventKind::ReshapeFailed, &record.name, text, json!({ "of": numbers }));
        }
    }

    fn rest_from_reshapes(&self, table: &str, numbers: &[u32]) {
        let until = self.clock.monotonic() + REST;
        self.distributions.reshapings.rest(until, table, numbers);
    }

    async fn split_large(
        &self,
        record: &Distribution,
        number: u32,
        why: Why,
    ) -> Result<(), ApiError> {
        let place = record.place_numbered(number).ok_or_else(ApiError::internal)?;
        let at = self.middle_of(record, place).await?;
        self.begin_split(record, number, &at, why, false).await.map(drop)
    }

    /// Splits a partition in the middle of what it is asked for.
    async fn split_hot(&self, record: &Distribution, number: u32) -> Result<(), ApiError> {
        let place = record.place_numbered(number).ok_or_else(ApiError::internal)?;
        let partition = &record.partitions[place];
        let own = self.config.region.name.clone();
        let mut points = Vec::new();
        for region in self.others.keys().chain([&own]) {
            if self.is_reached(region) || *region == own {
                // One that does not answer leaves a smaller sample.
                let told = self.points_at(record, partition, region, Why::Load).await;
                points.extend(told.unwrap_or_default());
            }
        }
        let choice = match points.len() < POINTS_MIN {
            true => Choice::Unknown,
            false => choose_point(&partition.from, points),
        };
        match choice {
            Choice::At(at) => {
                self.begin_split(record, number, &at, Why::Load, false).await.map(drop)
            }
            Choice::OneKey(percent) => {
                self.rest_from_reshapes(&record.name, &[number]);
                let text = format!(
                    "{percent} % of its requests are for one first key column: no split helps"
                );
                let name = name_of_partition(&record.name, number);
                let detail = json!({ "percent": percent });
                self.notice(EventKind::PartitionHot, &name, text, detail);
                Ok(())
            }
            // Others have their turn before it is known what this one is asked for.
            Choice::Unknown => {
                let soon = self.clock.monotonic() + LOOKS_FOR_POINTS;
                self.distributions.reshapings.rest(soon, &record.name, &[number]);
                Ok(())
            }
        }
    }

    /// Gives up what was begun by itself where writes are held in vain. Returns whether it does.
    pub(super) async fn give_up_what_is_vain(
        &self,
        looks: &[(String, Look)],
        record: &Distribution,
    ) -> Result<bool, ApiError> {
        let reshape = record.reshape.as_ref();
        let is_by_itself =
            reshape.is_some_and(|it| it.why != Why::Asked && it.phase == Phase::Filling);
        let fillings = looks.iter().filter_map(|(_, look)| look.filling.as_ref());
        if !is_by_itself || fillings.map(|filling| filling.holds).max() < Some(HOLDS_MAX) {
            return Ok(false);
        }
        self.cancel_reshape(record, false).await?;
        let text = format!("writes were held {HOLDS_MAX} times in vain: it is given up");
        self.notice(EventKind::ReshapeFailed, &record.name, text, Json::Null);
        Ok(true)
    }

    /// Brings the rates of a table up to date. Returns whether it was time for that.
    fn take_rates(&self, looks: &[(String, Look)], record: &Distribution) -> bool {
        let reshapings = &self.distributions.reshapings;
        let now = self.clock.monotonic();
        let before = reshapings.looked_at.lock().get(&record.name).copied();
        let since = before.map(|before| now.saturating_sub(before));
        if since.is_some_and(|since| since < LOOK_MIN) {
            return false;
        }
        reshapings.looked_at.lock().insert(record.name.clone(), now);
        let mut rates = reshapings.rates.lock();
        for partition in &record.partitions {
            let counts = looks.iter().flat_map(|(region, look)| {
                look.requests.iter().map(move |(number, count, _)| (region, *number, *count))
            });
            let of_it = counts.filter(|(_, number, _)| *number == partition.number);
            let counts = of_it.map(|(region, _, count)| (region.as_str(), count));
            let name = name_of_partition(&record.name, partition.number);
            rates.entry(name).or_default().note(counts, now, RATE_SECONDS);
        }
        since.is_some()
    }

    /// How often a partition is asked for in a second, by what limits go by; 0: it is not known.
    pub(super) fn rate_of(&self, table: &str, number: u32) -> f64 {
        let rates = self.distributions.reshapings.rates.lock();
        rates.get(&name_of_partition(table, number)).map_or(0.0, Rate::each_second)
    }

    fn measure_of(&self, looks: &[(String, Look)], record: &Distribution, number: u32) -> Measure {
        let name = name_of_partition(&record.name, number);
        let reshapings = &self.distributions.reshapings;
        let rate = self.rate_of(&record.name, number);
        let until = reshapings.rests.lock().get(&name).copied();
        let is_resting = until.is_some_and(|until| self.clock.monotonic() < until);
        let seen = looks.iter().flat_map(|(_, look)| &look.partitions);
        let bytes = seen.filter(|seen| seen.number == number).filter_map(|seen| seen.bytes).max();
        Measure { bytes, rate, is_resting }
    }
}
