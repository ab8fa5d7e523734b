//! The world of a trial: regions, what lies between them, and one random step after another.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use isthmus_model::clock::Clock;
use isthmus_model::entry::Entry;
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::{Epoch, Lsn, Origin};
use isthmus_model::key::EncodedKey;
use isthmus_store::keys::log::decode_record;
use isthmus_store::{Pending, StoreError, Written};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::checkers::{Violation, digest};
use crate::clock::{NodeClock, WorldTime};
use crate::options::Options;
use crate::rng::{Purpose, split};
use crate::trace::Trace;
use crate::verify::judge::Watch;
use crate::verify::nature::{Nature, PARTITION, origin_of};
use crate::verify::region::{Region, others};
use crate::verify::truth::{Moment, Truth};
use crate::verify::writes::{self, Writes};

/// Bytes of a log handed over at once, at most.
const SLICES: [usize; 4] = [1, 200, 2000, 1 << 20];
const MILLIS_OF_A_LEAP: i64 = 5 * 3600 * 1000;
/// Steps in which a quiet world must have come to rest.
const QUIET_ROUNDS: u32 = 400;

/// A request that is not answered yet.
struct Request {
    region: usize,
    answer: Pending<Vec<Result<Written, StoreError>>>,
}

/// When a row of a region was last seen to be other than its logs say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) step: u64,
    pub(super) lsn: Lsn,
}

/// A trial's world.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) nature: Nature,
    pub(super) time: Arc<WorldTime>,
    pub(super) regions: Vec<Region>,
    pub(super) rng: SmallRng,
    pub(super) trace: Trace,
    pub(super) step: u64,
    /// Clients write by now.
    pub(super) is_busy: bool,
    /// Things break by now.
    pub(super) breaks: bool,
    pub(super) truth: Truth,
    pub(super) moments: Vec<Moment>,
    /// Per region: rows that were other than they ought to be.
    pub(super) deviated: Vec<BTreeMap<EncodedKey, Seen>>,
    /// Per region: where its log ended when a row was changed behind its back.
    pub(super) planted: Vec<BTreeMap<EncodedKey, Lsn>>,
    /// Per region: rows whose stored bytes were flipped, and when.
    pub(super) rotten: Vec<BTreeMap<EncodedKey, u64>>,
    /// Rows whose repair may be on its way.
    pub(super) mended: BTreeSet<EncodedKey>,
    /// Entries that clients were told of.
    pub(super) acknowledged: BTreeSet<(Origin, Lsn)>,
    /// Where, of each row, something was last logged.
    pub(super) logged: BTreeMap<EncodedKey, u64>,
    pub(super) watch: Option<Watch>,
    pub(super) crashes: u64,
    pub(super) digests_checked: u64,
    pub(super) violation: Option<Violation>,
    requests: Vec<Request>,
    number: u64,
}

impl World {
    pub(super) fn new(options: &Options, nature: Nature) -> Result<World, Violation> {
        let time = Arc::new(WorldTime::default());
        let regions = (0..nature.regions)
            .map(|place| {
                let clock = NodeClock::new(time.clone());
                Region::new(place, options.seed, clock, &nature, options.plant)
            })
            .collect::<Result<Vec<_>, _>>();
        let regions = regions.map_err(|error| Violation::of("a store opens", error.to_string()))?;
        let count = nature.regions;
        let mut world = World {
            options: options.clone(),
            truth: Truth::new(count),
            moments: vec![Moment::default(); count],
            deviated: vec![BTreeMap::new(); count],
            planted: vec![BTreeMap::new(); count],
            rotten: vec![BTreeMap::new(); count],
            mended: BTreeSet::new(),
            nature,
            time,
            regions,
            rng: split(options.seed, Purpose::Schedule),
            trace: Trace::new(options.dumps),
            step: 0,
            is_busy: false,
            breaks: false,
            acknowledged: BTreeSet::new(),
            logged: BTreeMap::new(),
            watch: None,
            crashes: 0,
            digests_checked: 0,
            violation: None,
            requests: Vec::new(),
            number: 0,
        };
        (0..count).for_each(|region| world.look(region));
        Ok(world)
    }

    pub(super) fn note(&mut self, event: &str) {
        self.trace.note(self.time.micros(), event);
    }

    pub(super) fn judge(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked {
            self.violation.get_or_insert(violation);
        }
    }

    /// The first thing that did not hold, as an error.
    pub(super) fn held(&self) -> Result<(), Violation> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    pub(super) fn happens(&mut self, one_in: Option<u32>) -> bool {
        one_in.is_some_and(|one_in| self.rng.random_range(0..one_in.max(1)) == 0)
    }

    /// Lets some steps happen.
    pub(super) fn wander(&mut self) {
        let steps = self.rng.random_range(0..=self.nature.wander_max);
        (0..steps).for_each(|_| self.go());
    }

    /// One random step.
    pub(super) fn go(&mut self) {
        let passed = self.rng.random_range(1..=self.nature.hurry_millis * 1000);
        self.time.advance(self.time.micros() + passed);
        let region = self.rng.random_range(0..self.regions.len());
        if self.breaks && self.happens(self.nature.crash_one_in) {
            return self.crash(region);
        }
        if self.happens(self.nature.leap_one_in) && self.watch.is_none() {
            return self.leap();
        }
        match self.rng.random_range(0..20) {
            0..=6 if self.is_busy => self.write(region),
            0..=11 => self.commit(region),
            12..=15 => self.ship_somewhere(region),
            16 => self.upkeep(region),
            17 => self.background(region),
            18 => self.move_horizon(region),
            _ => self.check_digest(region),
        }
    }

    fn leap(&mut self) {
        let millis = self.rng.random_range(1..MILLIS_OF_A_LEAP) as u64;
        self.time.advance(self.time.micros() + millis * 1000);
        self.note(&format!("{} minutes pass", millis / 60_000));
    }

    /// A client asks for something, where clients write by now.
    pub(super) fn write(&mut self, region: usize) {
        use crate::verify::nature::Busy;
        let is_busy = match self.nature.busy {
            Busy::Nowhere => self.watch.is_none(),
            Busy::One(only) => self.watch.is_none() || only == region,
            Busy::Everywhere => true,
        };
        if !is_busy || !self.nature.is_writer(region) {
            return;
        }
        if self.nature.schema_changes
            && region == self.nature.base
            && self.rng.random_range(0..60) == 0
        {
            return self.change_schema(region);
        }
        let count = if self.rng.random_range(0..4) == 0 { self.rng.random_range(2..6) } else { 1 };
        let atomic = self.rng.random();
        let keys = 0..self.nature.keys;
        self.ask_for(region, count, atomic, &keys);
    }

    /// A client asks for some change of a row.
    pub(super) fn write_row(&mut self, region: usize, key: &EncodedKey) {
        if let Some(number) = (0..self.nature.keys).find(|number| writes::key(*number) == *key) {
            self.ask_for(region, 1, false, &(number..number + 1));
        }
    }

    fn ask_for(&mut self, region: usize, count: usize, atomic: bool, keys: &Range<i64>) {
        let Some(table) = self.regions[region].table() else { return };
        let schema = table.schema();
        let mut changes = Vec::new();
        for _ in 0..count {
            self.number += 1;
            let mut writes = Writes {
                rng: &mut self.rng,
                schema: &schema,
                now_millis: self.regions[region].clock.wall_millis(),
                keys: keys.clone(),
                number: self.number,
            };
            changes.extend(writes.change());
        }
        self.note(&format!("region {region} is asked for {changes:?}"));
        let answer = table.write(changes, atomic && count > 1);
        self.requests.push(Request { region, answer });
    }

    fn change_schema(&mut self, region: usize) {
        let Some(table) = self.regions[region].table() else { return };
        let versions = self.rng.random_range(1..4);
        let ttl = [None, Some(86_400), Some(200_000)][self.rng.random_range(0..3)];
        let changes_ttl = self.rng.random_range(0..3) == 0;
        let before = table.schema().options.families.clone();
        let families = (self.rng.random_range(0..4) == 0)
            .then(|| crate::families::change(&mut self.rng, &before));
        drop(table.change_schema(|schema| {
            let mut schema = schema.clone();
            if let Some(families) = families.filter(|_| schema.options.families == before) {
                schema.options.families = families;
            }
            schema.options.max_versions = versions;
            if changes_ttl {
                schema.options.time_to_live_seconds = ttl;
            }
            Ok(schema)
        }));
        self.note(&format!("schema: {versions} versions, {changes_ttl} {ttl:?}"));
    }

    /// A region's committer takes a step.
    pub(super) fn commit(&mut self, region: usize) {
        use isthmus_store::engine::faulty::Fault;
        if self.breaks && self.happens(self.nature.commit_fails_one_in) {
            let fault = if self.rng.random() { Fault::Kept } else { Fault::Lost };
            self.regions[region].disk.engine.plan([fault]);
        }
        let moved = self.regions[region].life.store.commit_step();
        if self.regions[region].is_fatal() {
            return self.crash(region);
        }
        if moved {
            self.look(region);
        }
    }

    /// Commits all that waits.
    pub(super) fn commit_all(&mut self, region: usize) {
        while self.regions[region].life.store.commit_step() {}
        if self.regions[region].is_fatal() {
            return self.crash(region);
        }
        self.look(region);
    }

    fn listen(&mut self) {
        let mut open = Vec::new();
        for mut request in std::mem::take(&mut self.requests) {
            let Some(answer) = request.answer.try_take() else {
                open.push(request);
                continue;
            };
            for written in answer.into_iter().flatten().flatten() {
                let place = (written.stamp.origin, written.lsn);
                self.acknowledged.insert(place);
                let is_there = self.truth.entries.get(&place).map(|entry| entry.stamp);
                if is_there != Some(written.stamp) {
                    let what = format!("region {}: {written:?} is not durable", request.region);
                    self.judge(Err(Violation::of("acknowledged is kept", what)));
                }
            }
        }
        self.requests = open;
    }

    /// Takes note of what is durable in a region by now.
    pub(super) fn look(&mut self, region: usize) {
        let Some(table) = self.regions[region].table() else { return };
        let origin = self.regions[region].origin();
        if self.nature.is_writer(region) {
            for entry in read_entries(&table, self.truth.last(origin), usize::MAX, origin) {
                self.truth.entries.insert((origin, entry.origin_lsn), entry);
            }
        }
        self.listen();
        for (origin, lsn) in self.watermarks(region) {
            for key in self.truth.applied(region, origin, lsn) {
                self.logged.insert(key, self.step);
            }
        }
        let safe = self.regions[region].safe_time(&self.nature);
        match Moment::of(&table, safe, &self.moments[region]) {
            Ok(moment) => {
                let seen = Seen { step: self.step, lsn: moment.lsn };
                for key in self.truth.deviating(region, &moment) {
                    self.deviated[region].insert(key, seen);
                }
                self.moments[region] = moment;
            }
            Err(error) => {
                let what = format!("region {region}: {error}");
                self.judge(Err(Violation::of("a table can be read", what)));
            }
        }
        self.step += 1;
        self.watch_on(region);
    }

    /// What a region has applied of each origin.
    fn watermarks(&self, region: usize) -> Vec<(Origin, Lsn)> {
        let Some(table) = self.regions[region].table() else { return Vec::new() };
        if !self.nature.writers.are_many() {
            return vec![(origin_of(self.nature.base), table.durable_lsn())];
        }
        let own = self.regions[region].origin();
        let all = (0..self.regions.len()).map(origin_of);
        all.map(|origin| match origin == own {
            true => (origin, table.durable_lsn()),
            false => (origin, table.watermark(origin).0),
        })
        .collect()
    }

    fn ship_somewhere(&mut self, to: usize) {
        let from = self.rng.random_range(0..self.regions.len());
        let bytes = SLICES[self.rng.random_range(0..SLICES.len())];
        self.ship(from, to, bytes);
    }

    /// Hands over some of what a region has logged, or its promise if there is nothing.
    pub(super) fn ship(&mut self, from: usize, to: usize, bytes: usize) {
        if from == to || !self.nature.is_writer(from) {
            return;
        }
        let origin = origin_of(from);
        let (Some(source), Some(target)) = (self.regions[from].table(), self.regions[to].table())
        else {
            return;
        };
        if let Some(pending) = &mut self.regions[to].life.applying[from] {
            match pending.try_take() {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let line = format!("region {to} could not apply: {error}");
                    self.note(&line);
                }
            }
            self.regions[to].life.applying[from] = None;
        }
        let promise = self.regions[from].life.store.promise();
        let end = source.durable_lsn();
        let after = match self.nature.writers.are_many() {
            true => target.watermark(origin).0,
            false => target.durable_lsn(),
        };
        if after >= end {
            self.regions[to].life.safe_times.applied(PARTITION, origin, promise);
            return;
        }
        let Ok(slice) = source.read_log(after, bytes) else { return };
        let mut entries = entries_of(&slice.records, origin);
        entries.retain(|entry| entry.origin_lsn > after && entry.origin_lsn <= slice.to);
        self.note(&format!("{from} ships to {to} {after}..{}", slice.to));
        let epoch = Epoch(1);
        let pending = target.apply(origin, epoch, after, slice.to, entries);
        self.regions[to].life.applying[from] = Some(pending);
    }

    fn upkeep(&mut self, region: usize) {
        let more = self.regions[region].life.store.digest_step();
        self.note(&format!("region {region} looks after its digest, more {more}"));
    }

    fn background(&mut self, region: usize) {
        let store = &self.regions[region].life.store;
        let expires = store.expire_step();
        let sweeps = store.sweep_step();
        self.note(&format!("region {region} expires {expires}, sweeps {sweeps}"));
    }

    fn move_horizon(&mut self, region: usize) {
        if !self.nature.writers.are_many() {
            return;
        }
        let Some(table) = self.regions[region].table() else { return };
        let reports: Vec<_> = (0..self.regions.len())
            .map(|other| (origin_of(other), self.regions[other].safe_time(&self.nature)))
            .collect();
        let life = &self.regions[region].life;
        for (origin, safe) in reports {
            life.safe_times.reported(PARTITION, origin, safe);
        }
        let others = others(region, &self.nature);
        let horizon = life.safe_times.horizon(PARTITION, &others, life.store.promise());
        table.set_horizon(horizon);
        self.note(&format!("horizon of {region} is {horizon}"));
    }

    /// Holds a region's digest against its rows.
    pub(super) fn check_digest(&mut self, region: usize) {
        // Rot is what the digest is not to follow.
        if !self.rotten[region].is_empty() {
            return;
        }
        let Some(table) = self.regions[region].table() else { return };
        match digest::check_table(region, &table) {
            Ok(checked) => self.digests_checked += u64::from(checked),
            Err(violation) => self.judge(Err(violation)),
        }
    }

    /// Power fails, and comes back at once.
    pub(super) fn crash(&mut self, region: usize) {
        self.crash_with(region, |_| {});
    }

    /// Power fails, and something is done to the disk before it comes back.
    pub(super) fn crash_with(
        &mut self,
        region: usize,
        between: impl FnOnce(&crate::verify::engine::Disk),
    ) {
        self.note(&format!("power fails in region {region}"));
        self.listen();
        self.requests.retain(|request| request.region != region);
        self.crashes += 1;
        let plant = self.options.plant;
        if let Err(error) = self.regions[region].restart(&self.nature, plant, between) {
            let what = format!("region {region}: {error}");
            return self.judge(Err(Violation::of("a store opens", what)));
        }
        // The table may have been lost with the power.
        if self.regions[region].table().is_none() {
            let made = self.regions[region].life.store.create_table(self.nature.spec(region));
            while self.regions[region].life.store.commit_step() {}
            drop(made);
        }
        self.look(region);
        self.check_digest(region);
    }

    /// Lets everything arrive and settle, without clients.
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        let (busy, breaks) = (self.is_busy, self.breaks);
        (self.is_busy, self.breaks) = (false, false);
        for round in 0..QUIET_ROUNDS {
            // Who was just restarted may be ahead of the clocks of others.
            let micros = if round < 10 { 2000 } else { 50_000 };
            self.time.advance(self.time.micros() + micros);
            for region in 0..self.regions.len() {
                self.commit_all(region);
                for from in 0..self.regions.len() {
                    self.ship(from, region, 1 << 20);
                }
                self.regions[region].life.store.digest_step();
            }
            self.held()?;
            if round > 3 && self.is_settled() {
                (self.is_busy, self.breaks) = (busy, breaks);
                self.mended.clear();
                // A digest that was built meanwhile tells more than it did.
                (0..self.regions.len()).for_each(|region| self.look(region));
                self.note("all is quiet");
                return Ok(());
            }
        }
        Err(Violation::of("what is left alone settles", format!("{:?}", self.marks())))
    }

    fn marks(&self) -> Vec<Vec<(Origin, Lsn)>> {
        (0..self.regions.len()).map(|region| self.watermarks(region)).collect()
    }

    fn is_settled(&self) -> bool {
        let marks = self.marks();
        let newest = self.truth.entries.values().map(|entry| entry.stamp.hlc).max();
        let many = self.nature.writers.are_many();
        let is_ready = |region: &Region| {
            digest::are_ready(region.place, &region.life.store).is_ok()
                && (!many || newest.is_none_or(|newest| region.safe_time(&self.nature) > newest))
        };
        marks.windows(2).all(|pair| pair[0] == pair[1]) && self.regions.iter().all(is_ready)
    }
}

/// The entries of an origin after an LSN.
fn read_entries(
    table: &isthmus_store::Table,
    after: Lsn,
    bytes: usize,
    origin: Origin,
) -> Vec<Entry> {
    let Ok(slice) = table.read_log(after, bytes) else { return Vec::new() };
    let mut entries = entries_of(&slice.records, origin);
    entries.retain(|entry| entry.origin_lsn > after && entry.origin_lsn <= slice.to);
    entries
}

fn entries_of(records: &[bytes::Bytes], origin: Origin) -> Vec<Entry> {
    let decoded = records.iter().filter_map(|record| decode_record(record).ok());
    let is_own = |stamp: &Stamp| stamp.origin == origin;
    decoded.flat_map(|(_, entries)| entries).filter(|entry| is_own(&entry.stamp)).collect()
}
