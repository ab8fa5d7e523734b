//! The world: time, the order of steps, and the phases of a run.
//!
//! Everything that happens is an event with a moment; the earliest comes first, and each node's
//! steps come again and again after pauses drawn by chance. First there is load and everything
//! breaks; then all is healed and drains; then regions are compared, and once more when a sweep
//! has removed all tombstones.

mod away;
mod bindings;
mod cuts;
mod drops;
mod events;
mod faults;
mod links;
mod modes;
mod receipts;
mod restores;
mod wishes;
pub(crate) mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_control::global_table::GlobalTable;
use isthmus_model::clock::Clock;
use isthmus_model::ids::PartitionId;
use isthmus_replication::frame::FORMAT;
use isthmus_replication::terms::Direction;
use isthmus_store::Store;
use isthmus_store::engine::Batch;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::checkers::crossings::Crossings;
use crate::checkers::receipts::Receipt;
use crate::checkers::timing::Timings;
use crate::checkers::{Violation, acked, alike, digest};
use crate::clients::Clients;
use crate::clock::{NodeClock, WorldTime};
use crate::disk::Disk;
use crate::network::Network;
use crate::node::{Asked, Life, Node, SemiSyncs};
use crate::observer::{Observer, Saved};
use crate::options::{Nature, Options, Scenario, TablePlan};
use crate::rng::{Purpose, split};
use crate::tally::Tally;
use crate::trace::Trace;

use events::Event;

/// After healing, everything must have settled within this.
const DRAIN_MICROS_MAX: u64 = 240_000_000;
/// Long enough for a second sweep.
const SWEEP_MICROS: u64 = 700_000_000;
const QUIET_EVERY: u64 = 200_000;

/// A run that held.
#[derive(Clone, Debug)]
pub struct Report {
    /// Equal for equal histories.
    pub trace_hash: u64,
    /// Events in it.
    pub events: u64,
    /// Changes that were acknowledged.
    pub acknowledged: u64,
    /// Batches that became durable.
    pub batches: u64,
    /// Lives that ended in a crash.
    pub crashes: u64,
    /// Digests that were held against their rows.
    pub digests_checked: u64,
    /// Tables that were read as of a cut.
    pub cuts_checked: u64,
    /// What trials did.
    pub tally: Tally,
}

/// A run that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What did not hold.
    pub violation: Violation,
    /// What the world was like.
    pub nature: String,
    /// What happened last.
    pub trace: Trace,
}

/// Runs a seed.
pub(crate) fn run(options: &Options) -> Result<Report, Box<Failure>> {
    let mut world = World::new(options);
    let ran = match options.scenario {
        Scenario::Away => world.run_away(),
        _ => world.run(),
    };
    let observer = world.observer.lock();
    match ran {
        Ok(()) => Ok(Report {
            trace_hash: world.trace.hash(),
            events: world.trace.events(),
            acknowledged: world.clients.acknowledged,
            batches: observer.batches(),
            crashes: world.crashes,
            digests_checked: world.digests_checked,
            cuts_checked: world.cuts_checked,
            tally: Tally {
                schema_changes: world.clients.schema_changes,
                held: world.clients.held,
                put_backs: world.put_backs,
                switches: observer.writers.opened,
                bound_again: observer.bound_again(),
                receipts: world.receipts_checked,
                conflicts: observer.conflicts.checked,
                extracts: world.extracts_checked,
                timed_parcels: world.timings.judged,
                ..Tally::default()
            },
        }),
        Err(violation) => Err(Box::new(Failure {
            violation,
            nature: format!("{:#?}", world.nature),
            trace: world.trace,
        })),
    }
}

/// What the world does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Chaos,
    Drain,
}

struct World {
    options: Options,
    nature: Nature,
    time: Arc<WorldTime>,
    phase: Phase,
    queue: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    nodes: Vec<Node>,
    network: Network,
    observer: Arc<Mutex<Observer>>,
    clients: Clients,
    schedule: SmallRng,
    faults: SmallRng,
    wishes: SmallRng,
    modes: SmallRng,
    switches: SmallRng,
    bindings: SmallRng,
    receipts: SmallRng,
    /// What nodes have said that they have.
    said: Vec<(usize, Receipt)>,
    receipts_checked: u64,
    trace: Trace,
    crashes: u64,
    digests_checked: u64,
    cuts: SmallRng,
    cuts_checked: u64,
    /// What the base regions say of their tables.
    records: BTreeMap<PartitionId, GlobalTable>,
    /// Tables that were dropped and that their bases remove last.
    gone: BTreeSet<PartitionId>,
    crossings: Crossings,
    timings: Timings,
    /// Links that were stopped, for a planted bug; when they are resumed, where the log began and
    /// what the replica had.
    passed_over: BTreeMap<(usize, usize, PartitionId), Option<(u64, u64)>>,
    /// A disk that is to be put back.
    saved: Option<(usize, Batch, Saved)>,
    /// The node whose disk is to go, as soon as others hold all that it has made. Until then
    /// nothing is asked of it.
    loses_disk: Option<usize>,
    put_backs: u64,
    extracts_checked: u64,
    /// A region that does not come back for now.
    away: Option<usize>,
}

impl World {
    fn new(options: &Options) -> World {
        let nature = Nature::draw(options);
        let seed = options.seed;
        let time = Arc::new(WorldTime::default());
        let observer = Arc::new(Mutex::new(Observer::new(nature.regions)));
        let node = |place: usize| Node {
            clock: Arc::new(NodeClock::new(time.clone()).beginning_at(nature.begins_millis)),
            disk: Arc::new(Disk::new(place, seed, options.plant, observer.clone())),
            format: nature.formats[place],
            asked: Asked::new(),
            modes: SemiSyncs::new(),
            life: None,
        };
        World {
            records: nature.tables.iter().map(|p| (p.partition, p.record.clone())).collect(),
            gone: BTreeSet::new(),
            crossings: Crossings::default(),
            timings: Timings::default(),
            passed_over: BTreeMap::new(),
            saved: None,
            loses_disk: None,
            put_backs: 0,
            extracts_checked: 0,
            away: None,
            nodes: (0..nature.regions).map(node).collect(),
            network: Network::new(split(seed, Purpose::Network), nature.latency),
            clients: Clients::new(split(seed, Purpose::Clients), &nature, options.scenario),
            schedule: split(seed, Purpose::Schedule),
            faults: split(seed, Purpose::Faults),
            wishes: split(seed, Purpose::Wishes),
            modes: split(seed, Purpose::Modes),
            switches: split(seed, Purpose::Switches),
            bindings: split(seed, Purpose::Bindings),
            receipts: split(seed, Purpose::Receipts),
            said: Vec::new(),
            receipts_checked: 0,
            options: options.clone(),
            phase: Phase::Chaos,
            queue: BTreeMap::new(),
            next_event: 0,
            trace: Trace::new(options.dumps),
            crashes: 0,
            digests_checked: 0,
            cuts: split(seed, Purpose::Cuts),
            cuts_checked: 0,
            nature,
            time,
            observer,
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        self.boot();
        let chaos_ends = self.nature.chaos_micros;
        if !self.go_on(chaos_ends)? {
            return Ok(());
        }
        self.heal();
        if !self.drain()? {
            return Ok(());
        }
        self.compare(false)?;
        self.sweep_all()?;
        Ok(())
    }

    fn now(&self) -> u64 {
        self.time.micros()
    }

    fn at(&mut self, micros: u64, event: Event) {
        self.next_event += 1;
        self.queue.insert((micros, self.next_event), event);
    }

    fn after(&mut self, pause: u64, event: Event) {
        let at = self.now() + pause;
        self.at(at, event);
    }

    /// After a pause drawn by chance.
    fn soon(&mut self, pause_max: u64, event: Event) {
        let pause = self.schedule.random_range(1..=pause_max.max(1));
        self.after(pause, event);
    }

    /// Lets happen what happens until a moment. Gives whether to go on after that.
    fn go_on(&mut self, until_micros: u64) -> Result<bool, Violation> {
        while let Some(entry) = self.queue.first_entry() {
            let (micros, _) = *entry.key();
            if micros > until_micros {
                break;
            }
            let event = entry.remove();
            self.time.advance(micros);
            self.happen(event);
            self.look()?;
            if self.options.until.is_some_and(|until| self.trace.events() >= until) {
                return Ok(false);
            }
        }
        self.time.advance(until_micros);
        Ok(true)
    }

    /// Takes note of what the last event brought, and stops at the first violation.
    fn look(&mut self) -> Result<(), Violation> {
        let mut observer = self.observer.lock();
        let mut told = observer.take_notes();
        told.extend(self.clients.listen(&mut observer));
        let violation = observer.violation();
        drop(observer);
        for line in told {
            self.note(&line);
        }
        match violation {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    fn note(&mut self, event: &str) {
        let now = self.now();
        self.trace.note(now, event);
    }

    fn boot(&mut self) {
        for node in 0..self.nature.regions {
            self.start(node);
            self.make_tables(node);
        }
        self.begin_chores();
        self.begin_faults();
    }

    /// Makes the tables whose base a node is, as far as they are not there.
    fn make_tables(&mut self, node: usize) {
        let Some(life) = self.nodes.get(node).and_then(|node| node.life.as_ref()) else { return };
        let gone = &self.gone;
        let plans = self.nature.tables.iter().filter(|plan| plan.base == node);
        for plan in plans.filter(|plan| !gone.contains(&plan.partition)) {
            if life.store.table(plan.id).is_none() {
                // Asked again until it is there.
                drop(life.store.create_table(plan.spec()));
            }
        }
    }

    /// Starts a node from its disk.
    fn start(&mut self, node: usize) {
        if self.away == Some(node) {
            return;
        }
        let Some(place) = self.nodes.get_mut(node).filter(|place| place.life.is_none()) else {
            return;
        };
        match Life::start(node, place, &self.nature) {
            Ok(life) => {
                // Whoever starts again has been upgraded.
                place.format = FORMAT;
                let checked = acked::check_restart(&self.observer.lock(), node, &life.store);
                self.observer.lock().judge(checked);
                place.life = Some(life);
                let wall = place.clock.wall_millis();
                self.timings.starts(node, self.time.micros(), wall);
                self.note(&format!("node {node} starts"));
                self.check_digests(node);
                self.check_said(node);
                for peer in (0..self.nature.regions).filter(|peer| *peer != node) {
                    self.soon(20_000, Event::Dial(Direction::Push, node, peer));
                    self.soon(20_000, Event::Dial(Direction::Pull, peer, node));
                }
            }
            Err(error) => {
                self.note(&format!("node {node} does not start: {error}"));
                if let Some(place) = self.nodes.get(node) {
                    place.disk.crash();
                }
                self.soon(300_000, Event::Start(node));
            }
        }
    }

    fn heal(&mut self) {
        self.note("heal");
        self.phase = Phase::Drain;
        self.withdraw_wishes();
        self.bind_all();
        self.network.unblock_all();
        (0..self.nature.regions).for_each(|node| self.note_clock(node));
        for place in &self.nodes {
            place.disk.set_odds(0, 0);
            place.disk.set_full(false);
            // A clock that goes back could not tell a life from an earlier one.
            if self.nature.put_back_every.is_none() {
                place.clock.set_offset(0);
            }
        }
        for node in 0..self.nature.regions {
            self.soon(50_000, Event::Start(node));
        }
    }

    /// Whether all is answered, shipped and trimmed; else what is not.
    fn is_quiet(&self) -> Result<(), String> {
        if !self.clients.is_idle() {
            return Err("a request is not answered".to_owned());
        }
        for (node, place) in self.nodes.iter().enumerate() {
            let life = place.life.as_ref().ok_or("a node is down")?;
            self.are_dropped_gone(life)?;
            let left = |plan: &&TablePlan| {
                !self.gone.contains(&plan.partition) && self.is_bound(node, plan.partition)
            };
            life.has_shipped_all(self.nature.tables.iter().filter(left))?;
        }
        self.are_bindings_done()?;
        for (node, place) in self.nodes.iter().enumerate() {
            let life = place.life.as_ref().ok_or("a node is down")?;
            digest::are_ready(node, &life.store)?;
        }
        Ok(())
    }

    /// Whether no row remembers a kill any more.
    fn is_swept(&self) -> Result<(), String> {
        for (node, place) in self.nodes.iter().enumerate() {
            let tables = place.life.iter().flat_map(|life| life.store.tables());
            let mut bound = tables.into_iter().filter(|t| self.counts(node, t.partition()));
            if let Some(table) = bound.find(|table| table.remembers_kills()) {
                return Err(format!("rows of {} at node {node} remember kills", table.name()));
            }
        }
        Ok(())
    }

    fn compare(&mut self, exact: bool) -> Result<(), Violation> {
        let stores: Vec<&Store> = self
            .nodes
            .iter()
            .filter_map(|place| place.life.as_ref())
            .map(|life| &*life.store)
            .collect();
        let now_millis = self.nodes.first().map_or(0, |place| place.clock.wall_millis());
        let counts = |node, partition| self.counts(node, partition);
        alike::check(&self.observer.lock(), &stores, counts, now_millis, exact)?;
        for (node, store) in stores.iter().enumerate() {
            digest::check(node, store)?;
        }
        digest::check_alike(&stores, counts)?;
        drop(stores);
        self.check_extracts()?;
        self.note(&format!("regions are alike, exactly {exact}"));
        Ok(())
    }

    /// Lets horizons pass everything that was written, sweeps, and compares exactly.
    fn sweep_all(&mut self) -> Result<(), Violation> {
        // The sweep pauses between passes, and tables with rules forget a kill only when the
        // horizon has passed once more; events wait where they are.
        for _ in 0..3 {
            self.jump(SWEEP_MICROS);
            let later = self.now();
            // Over edges promises and safe times go from region to region.
            let hops = self.nature.regions as u64 - 2;
            if !self.go_on(later + 6_000_000 * hops)? {
                return Ok(());
            }
        }
        let deadline = self.now() + DRAIN_MICROS_MAX;
        while let Err(waits) = self.is_quiet().and_then(|()| self.is_swept()) {
            if self.now() > deadline {
                return Err(Violation::of("what is healed gets on", waits));
            }
            let then = self.now() + QUIET_EVERY;
            self.go_on(then)?;
        }
        self.compare(true)
    }
}
