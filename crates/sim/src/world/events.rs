//! What can happen, and the steps that every node takes again and again.

use isthmus_replication::terms::Direction;

use super::{Phase, World};
use crate::checkers::{acked, digest, held, prefix};
use crate::network::{StreamId, Way};

/// Not left to chance, which decides the order of all else.
const READ_AS_OF_EVERY: u64 = 90_017;

/// What happens at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A node's committer takes a step.
    Commit(usize),
    /// A node's streams send what they have.
    Pump(usize),
    /// Time is told to a node's links.
    Tick(usize),
    /// A node trims logs and moves horizons.
    Upkeep(usize),
    /// A node logs what has expired and sweeps.
    Background(usize),
    /// A node looks after its digests, which are then held against its rows.
    Digest(usize),
    /// A node makes what it must have.
    Reconcile(usize),
    /// A client asks for something.
    Client,
    /// A client reads.
    Read,
    /// A client reads as of a cut.
    ReadAsOf,
    /// A frame arrives.
    Deliver(StreamId, Way),
    /// A node dials another, so that the first can ship to the second.
    Dial(Direction, usize, usize),
    /// One end sees that a stream has broken: the one that frames go there from, or the other.
    Notice(StreamId, Way),
    /// A node starts.
    Start(usize),
    /// A node that cannot sync ends.
    End(usize),
    /// Power fails somewhere.
    CrashSomewhere,
    /// A stream breaks somewhere.
    BreakSomewhere,
    /// A stream breaks.
    Break(StreamId),
    /// A wire is cut somewhere.
    CutSomewhere,
    /// A wire is clogged somewhere.
    ClogSomewhere,
    /// A wire moves again.
    Unblock(usize, usize),
    /// The edges of a table change.
    EdgesChange,
    /// A clock steps.
    ClockSteps,
    /// A disk is full.
    DiskFills,
    /// A disk has room.
    DiskFrees(usize),
    /// A person asks something of a link somewhere.
    AskSomewhere,
    /// A person says when writes of a table are answered.
    ModeSet,
    /// A disk is copied somewhere.
    CopyDisk,
    /// The copy is put back.
    PutBackDisk,
    /// Another region is to write some table.
    SwitchSomewhere,
    /// A client asks whether a region has a write.
    Receipt,
    /// A region is unbound from some table, or bound again.
    BindSomewhere,
}

impl World {
    pub(super) fn begin_chores(&mut self) {
        for node in 0..self.nature.regions {
            self.soon(1000, Event::Commit(node));
            self.soon(1000, Event::Pump(node));
            self.soon(100_000, Event::Tick(node));
            self.soon(300_000, Event::Upkeep(node));
            self.soon(500_000, Event::Background(node));
            self.soon(400_000, Event::Digest(node));
            self.soon(50_000, Event::Reconcile(node));
        }
        self.soon(30_000, Event::Client);
        self.soon(50_000, Event::Read);
        self.after(READ_AS_OF_EVERY, Event::ReadAsOf);
        // What an old disk has lost is told of by addresses that are given again.
        if self.nature.put_back_every.is_none() {
            self.after(READ_AS_OF_EVERY, Event::Receipt);
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Commit(node) => self.commit(node),
            Event::Pump(node) => {
                self.pump(node);
                self.soon(self.nature.pump_pause_max, event);
            }
            Event::Tick(node) => {
                if let Some(life) = self.life(node) {
                    life.tick();
                }
                self.note_tick(node);
                self.soon(200_000, event);
            }
            Event::Upkeep(node) => {
                let plant = self.options.plant;
                if let Some(life) = self.life(node) {
                    life.look_after(plant);
                }
                self.soon(900_000, event);
            }
            Event::Background(node) => {
                self.background(node);
                self.soon(1_500_000, event);
            }
            Event::Digest(node) => {
                self.digest(node);
                self.soon(600_000, event);
            }
            Event::Reconcile(node) => {
                self.reconcile(node);
                self.follow_writers(node);
                self.soon(250_000, event);
            }
            Event::Client => self.client(),
            Event::Read => self.read(),
            Event::ReadAsOf => {
                self.read_as_of();
                self.after(READ_AS_OF_EVERY, event);
            }
            Event::Deliver(stream, way) => self.deliver(stream, way),
            Event::Dial(direction, from, to) => self.dial(direction, from, to),
            Event::Notice(stream, way) => self.notice(stream, way),
            Event::Start(node) => self.start(node),
            Event::End(node) => self.crash(node),
            Event::AskSomewhere => self.ask_somewhere(),
            Event::ModeSet => self.set_mode(),
            Event::CopyDisk => self.copy_disk(),
            Event::PutBackDisk => self.put_back_disk(),
            Event::SwitchSomewhere => self.switch_somewhere(),
            Event::Receipt => self.ask_for_receipt(),
            Event::BindSomewhere => self.bind_somewhere(),
            Event::CrashSomewhere
            | Event::BreakSomewhere
            | Event::Break(_)
            | Event::CutSomewhere
            | Event::ClogSomewhere
            | Event::Unblock(..)
            | Event::EdgesChange
            | Event::ClockSteps
            | Event::DiskFills
            | Event::DiskFrees(_) => self.fault(event),
        }
    }

    fn commit(&mut self, node: usize) {
        let mut ends = false;
        let mut moved = false;
        if let Some(life) = self.life(node) {
            moved = life.store.commit_step();
            ends = life.is_fatal();
            life.look_at_writers();
        }
        if moved {
            self.note_durable(node);
        }
        if moved && !ends {
            self.look_at_bound(node);
            self.look_at_replicas(node);
        }
        if ends {
            self.soon(5000, Event::End(node));
        }
        self.soon(self.nature.commit_pause_max, Event::Commit(node));
    }

    /// What clients may read of tables with one writer is a state that the origin has had.
    fn look_at_replicas(&mut self, node: usize) {
        let Some(life) = self.nodes.get(node).and_then(|place| place.life.as_ref()) else { return };
        let mut observer = self.observer.lock();
        for plan in &self.nature.tables {
            let partition = plan.partition;
            if !life.roles.is_shared(partition) || !life.is_usable(partition) {
                continue;
            }
            if let Some(view) = observer.view(node, partition)
                && !view.spec.writers.are_many()
                && !observer.is_apart(node, partition)
            {
                let checked = prefix::check(&observer, node, view);
                observer.judge(checked);
            }
        }
    }

    fn background(&mut self, node: usize) {
        let Some(life) = self.life(node) else { return };
        life.store.expire_step();
        life.store.sweep_step();
        life.store.digest_step();
        life.learn_step();
    }

    fn digest(&mut self, node: usize) {
        let Some(life) = self.life(node) else { return };
        for _ in 0..8 {
            if !life.store.digest_step() {
                break;
            }
        }
        self.check_digests(node);
    }

    /// Holds the digests of a node against its rows.
    pub(super) fn check_digests(&mut self, node: usize) {
        let Some(life) = self.nodes.get(node).and_then(|place| place.life.as_ref()) else { return };
        if life.is_fatal() {
            return;
        }
        match digest::check(node, &life.store) {
            Ok(checked) => self.digests_checked += checked,
            Err(violation) => self.observer.lock().judge(Err(violation)),
        }
    }

    /// Makes and shares the tables that a node must have.
    fn reconcile(&mut self, node: usize) {
        self.make_tables(node);
        let now = self.now();
        let plans = self.nature.tables.clone();
        for plan in plans {
            if now < plan.shared_at && self.phase == Phase::Chaos {
                continue;
            }
            let cut = self.network.is_cut(plan.base, node) || self.network.is_cut(node, plan.base);
            let Some(base) = self.life(plan.base) else { continue };
            let Some(spec) = base.store.table(plan.id).map(|table| table.spec()) else { continue };
            if spec.schema.options.is_dropped && node == plan.base {
                self.reconcile_drop(&plan);
            }
            if self.has_left(&plan, &spec, node) {
                continue;
            }
            if self.nature.bind_every.is_some() {
                self.reconcile_binding(&plan, &spec, node);
                continue;
            }
            let Some(base) = self.life(plan.base) else { continue };
            // Replicas are told of it once the base has it at rest.
            if node != plan.base && (cut || !base.roles.is_shared(plan.partition)) {
                continue;
            }
            let record = self.records.get(&plan.partition).cloned();
            if let Some(life) = self.life(node) {
                life.share(&plan, &spec);
                if let Some(record) = record {
                    life.roles.obey(plan.partition, &record);
                }
            }
        }
    }

    fn client(&mut self) {
        if self.phase == Phase::Drain {
            return;
        }
        self.soon(self.nature.client_pause_max, Event::Client);
        let node = self.random_node();
        let Some(place) = self.nodes.get(node) else { return };
        let Some(life) = &place.life else { return };
        if self.loses_disk == Some(node) {
            return;
        }
        let checked = held::check_in_force(node, life, &self.nature.tables);
        self.observer.lock().judge(checked);
        let waits = self.nature.put_back_every.is_some();
        let asked = self.clients.ask(node, life, &self.nature.tables, &place.clock, waits);
        if let Some(asked) = asked {
            self.note(&asked);
        }
    }

    fn read(&mut self) {
        self.soon(60_000, Event::Read);
        let node = self.random_node();
        let Some(life) = self.nodes.get(node).and_then(|place| place.life.as_ref()) else { return };
        if life.is_fatal() {
            return;
        }
        let mut observer = self.observer.lock();
        for table in life.store.tables() {
            let checked = acked::check_read(&observer, node, &table);
            observer.judge(checked);
        }
    }
}
