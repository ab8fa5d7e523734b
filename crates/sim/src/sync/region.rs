//! One region: a store on a disk that fails, the tables in it, and what it has to do with batches
//! of several of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_model::clock::Clock;
use isthmus_store::engine::faulty::{FaultOdds, FaultyEngine};
use isthmus_store::{Store, StoreError, StoreOptions};

use super::atomic::Batches;
use super::network::Message;
use super::part::{AtRest, Part};
use super::plan::{Plan, origin_of, spec, table_id};
use super::quorum::Quorum;
use super::reshape::{Base, Planned, Reshaping};
use super::writer::Ended;
use crate::clock::NodeClock;

/// A region and its machine.
pub(super) struct Region {
    place: usize,
    plan: Arc<Plan>,
    clock: Arc<NodeClock>,
    pub(super) engine: Arc<FaultyEngine>,
    /// Of each table.
    pub(super) at_rest: Vec<AtRest>,
    /// `None`: it is down.
    pub(super) life: Option<Life>,
    pub(super) stalled_until: u64,
    /// The ends of the logs of all tables, as of the last step.
    ends: Vec<(u64, u64)>,
    reshape: Option<Planned>,
}

/// From a start to a crash.
pub(super) struct Life {
    pub(super) store: Arc<Store>,
    /// The tables.
    pub(super) parts: Vec<Part>,
    pub(super) batches: Batches,
    pub(super) reshaping: Reshaping,
    fatal: Arc<AtomicBool>,
}

/// What a step brings to others.
#[derive(Default)]
pub(super) struct Out {
    pub(super) messages: Vec<(usize, Message)>,
    /// Writes that have come to something: of which table, and their numbers.
    pub(super) ended: Vec<(usize, u64, Ended)>,
    /// Batches that are answered, by the numbers of their clients.
    pub(super) answers: Vec<(u64, super::atomic::Answer)>,
}

impl Region {
    pub(super) fn new(
        place: usize,
        seed: u64,
        plan: &Arc<Plan>,
        clock: NodeClock,
        quorums: &[Quorum],
    ) -> Result<Region, StoreError> {
        let plan = plan.clone();
        let engine = Arc::new(FaultyEngine::new(seed ^ place as u64, FaultOdds::default()));
        let at_rest = plan.tables.iter().map(|_| AtRest::whole()).collect();
        let ends = vec![(0, 0); plan.tables.len()];
        let clock = Arc::new(clock);
        let store = open(place, &engine, &clock)?;
        for (at, table) in plan.tables.iter().enumerate() {
            let made = store.create_table(spec(place, at, table));
            while store.commit_step() {}
            drop(made);
        }
        let (life, stalled_until, reshape) = (None, 0, None);
        let mut region =
            Region { place, plan, clock, engine, at_rest, life, stalled_until, ends, reshape };
        region.start(quorums)?;
        Ok(region)
    }

    /// Starts from what is on the disk.
    pub(super) fn start(&mut self, quorums: &[Quorum]) -> Result<(), StoreError> {
        super::atomic::spoil(&self.engine, &self.plan);
        let store = open(self.place, &self.engine, &self.clock)?;
        let mut parts = Vec::new();
        for (at, quorum) in quorums.iter().enumerate() {
            let table = store.table(table_id(at)).ok_or(StoreError::NoTable(table_id(at)))?;
            let first = Quorum::new(quorum.held_by, self.plan.tables[at].first);
            parts.push(Part::new((self.place, at), &self.plan, table, first));
        }
        let fatal = Arc::new(AtomicBool::new(false));
        let told = fatal.clone();
        store.on_fatal(Arc::new(move |_| told.store(true, Ordering::Relaxed)));
        let batches = Batches::new(&store, self.clock.clone(), self.plan.plant);
        let reshaping = Reshaping::new(self.place, self.reshape.clone(), self.plan.plant);
        self.life = Some(Life { store, parts, batches, reshaping, fatal });
        Ok(())
    }

    /// What is planned of the tables is known here.
    pub(super) fn plan_reshape(&mut self, plan: &Planned) {
        self.reshape = Some(plan.clone());
        if let Some(life) = &mut self.life {
            life.reshaping = Reshaping::new(self.place, self.reshape.clone(), self.plan.plant);
        }
    }

    /// Power is gone.
    pub(super) fn crash(&mut self) {
        self.life = None;
        self.engine.crash();
    }

    /// Whether a commit has failed, so that it must stop.
    pub(super) fn is_fatal(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.fatal.load(Ordering::Relaxed))
    }

    /// Whether the newest grant of a table goes on without something that is durable here.
    pub(super) fn lacks(&self, at: usize, quorum: &Quorum) -> bool {
        let (log_epoch, end) = self.ends[at];
        quorum.has_tail(log_epoch, end)
    }

    /// Does what is to be done. `deciders`: those who decide, and the base, are reached.
    pub(super) fn step(
        &mut self,
        now: u64,
        mut deciders: Option<(&mut [Quorum], &mut Base)>,
        out: &mut Out,
    ) {
        let Some(life) = &mut self.life else { return };
        for (part, at_rest) in life.parts.iter_mut().zip(&mut self.at_rest) {
            let quorum = deciders.as_mut().map(|(quorums, _)| &mut quorums[part.at]);
            part.step(now, at_rest, quorum, out);
        }
        life.batches.step(now, &mut life.parts, out);
        let base = deciders.filter(|(_, base)| now >= base.silent_until);
        let base = base.map(|(quorums, base)| (base, &*quorums));
        life.reshaping.step(now, &mut life.parts, base, out);
        self.ends = life.parts.iter().map(Part::log).collect();
    }

    /// Takes what another region has sent.
    pub(super) fn receive(&mut self, now: u64, from: usize, message: Message, out: &mut Out) {
        let Some(life) = &mut self.life else { return };
        match message {
            Message::Of(at, message) => {
                life.parts[at].receive(now, from, message, &mut self.at_rest[at], out);
            }
            Message::OfBatch(told) => life.batches.receive(now, from, told, &mut life.parts, out),
            Message::OfReshape(word) => life.reshaping.receive(now, from, word, &life.parts, out),
        }
    }
}

fn open(
    place: usize,
    engine: &Arc<FaultyEngine>,
    clock: &Arc<NodeClock>,
) -> Result<Arc<Store>, StoreError> {
    let mut options = StoreOptions::new(origin_of(place));
    options.parts_cache_bytes = 4096;
    let clock: Arc<dyn Clock> = clock.clone();
    Store::open(engine.clone(), clock, options)
}
