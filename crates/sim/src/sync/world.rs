//! The world: time, ways, faults and clients, and what must hold.

use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

use isthmus_store::StoreError;
use isthmus_store::engine::faulty::Fault;

use super::network::Network;
use super::plan::{Plan, REGIONS};
use super::quorum::Quorum;
use super::region::{Out, Region};
use super::writer::counter;
use crate::checkers::Violation;
use crate::clock::{NodeClock, WorldTime};
use crate::options::Options;
use crate::rng::{Purpose, happens, split};
use crate::trace::Trace;

/// A client asks again after this, and does not know what became of its write.
const PATIENCE: u64 = 2000;
/// When nothing breaks any more all must be alike within so many steps.
const HEALING_STEPS: u32 = 60_000;
/// A region is down for so long at most, in milliseconds.
const DOWN_MAX: u64 = 1500;

/// A client, and what it knows of the row that it alone writes.
#[derive(Clone, Copy, Default)]
struct Client {
    asked: i64,
    acknowledged: i64,
    /// The most that any read has shown.
    shown: i64,
    /// The number of its write, where it was asked for and since when.
    under_way: Option<(u64, usize, u64)>,
}

/// All of it.
pub(super) struct World {
    plan: Plan,
    time: Arc<WorldTime>,
    regions: Vec<Region>,
    /// When a region that is down comes back.
    back_at: [u64; REGIONS],
    quorum: Quorum,
    network: Network,
    clients: Vec<Client>,
    numbers: u64,
    schedule: SmallRng,
    faults: SmallRng,
    asking: SmallRng,
    pub(super) trace: Trace,
    pub(super) crashes: u64,
    broken: Option<Violation>,
}

impl World {
    pub(super) fn new(options: &Options, plan: Plan) -> World {
        let seed = options.seed;
        let needed = plan.form.votes_needed(REGIONS - 1);
        let quorum = Quorum::new(needed);
        let time = Arc::new(WorldTime::default());
        let mut broken = None;
        let mut regions = Vec::new();
        for place in 0..REGIONS {
            match Region::new(place, seed, &plan, NodeClock::new(time.clone()), &quorum) {
                Ok(region) => regions.push(region),
                Err(error) => broken = Some(Violation::of("a region starts", error.to_string())),
            }
        }
        let network = Network::new(split(seed, Purpose::Network), plan.loss, plan.delay);
        World {
            clients: vec![Client::default(); plan.clients],
            plan,
            time,
            regions,
            back_at: [0; REGIONS],
            quorum,
            network,
            numbers: 0,
            schedule: split(seed, Purpose::Schedule),
            faults: split(seed, Purpose::Faults),
            asking: split(seed, Purpose::Clients),
            trace: Trace::new(options.dumps),
            crashes: 0,
            broken,
        }
    }

    fn now(&self) -> u64 {
        self.time.micros() / 1000
    }

    fn note(&mut self, event: &str) {
        self.trace.note(self.time.micros(), event);
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.clients.iter().map(|client| client.acknowledged.unsigned_abs()).sum()
    }

    pub(super) fn epochs(&self) -> u64 {
        self.quorum.epochs()
    }

    pub(super) fn batches(&self) -> u64 {
        self.regions.iter().map(|region| region.engine.commits()).sum()
    }

    /// From chaos to rest.
    pub(super) fn live(&mut self) -> Result<(), Violation> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        for _ in 0..self.plan.steps {
            self.break_something();
            self.step(true)?;
        }
        self.note("everything heals");
        self.network.heal();
        for region in &mut self.regions {
            region.engine.unplan();
            region.stalled_until = 0;
        }
        self.back_at = [0; REGIONS];
        for _ in 0..HEALING_STEPS {
            self.step(false)?;
            if self.rests() {
                return self.compare();
            }
        }
        let stands: Vec<String> = self.regions.iter().map(stand).collect();
        let what = format!("{stands:?}; {:?}", self.quorum);
        Err(Violation::of("what is healed comes to rest", what))
    }

    fn break_something(&mut self) {
        let place = self.faults.random_range(0..REGIONS);
        if happens(&mut self.faults, self.plan.crash) && self.regions[place].life.is_some() {
            self.crash(place, "loses power");
        }
        if happens(&mut self.faults, self.plan.commit_fails) {
            let kept = self.faults.random();
            self.regions[place].engine.plan([if kept { Fault::Kept } else { Fault::Lost }]);
        }
        if happens(&mut self.faults, self.plan.stall) {
            self.stall(place, 1500);
        }
        if happens(&mut self.faults, self.plan.cut) {
            let (from, to) = (place, self.faults.random_range(0..REGIONS));
            let way = &mut self.network.is_cut[from][to];
            *way = !*way;
            let what = if *way { "cut" } else { "whole" };
            self.note(&format!("the way from {from} to {to} is {what}"));
        }
    }

    fn stall(&mut self, place: usize, millis_max: u64) {
        self.regions[place].stalled_until = self.now() + self.faults.random_range(1..millis_max);
        self.note(&format!("region {place} stalls"));
    }

    fn crash(&mut self, place: usize, how: &str) {
        self.regions[place].crash();
        self.back_at[place] = self.now() + self.faults.random_range(0..DOWN_MAX);
        self.crashes += 1;
        self.note(&format!("region {place} {how}"));
    }

    fn step(&mut self, asks: bool) -> Result<(), Violation> {
        let passed = self.schedule.random_range(1..=4);
        self.time.advance((self.now() + passed) * 1000);
        let now = self.now();
        let epochs = self.quorum.epochs();
        self.quorum.tick(now);
        if asks && self.plan.stalls_at_grants && self.quorum.epochs() > epochs {
            let after = self.faults.random_range(1..REGIONS);
            self.stall((self.quorum.grant().writer + after) % REGIONS, 3000);
        }
        for (from, to, message) in self.network.arrived(now) {
            // What comes to a process that stalls waits in its buffers, or is lost.
            if self.regions[to].stalled_until <= now {
                let mut out = Out::default();
                self.regions[to].receive(now, from, message, &mut out);
                self.take(to, out)?;
            }
        }
        for place in 0..REGIONS {
            self.step_region(place, now)?;
        }
        self.look_at_clients(now);
        if asks {
            self.ask(now);
        }
        self.read(now)
    }

    fn step_region(&mut self, place: usize, now: u64) -> Result<(), Violation> {
        let region = &mut self.regions[place];
        if region.life.is_none() && now >= self.back_at[place] {
            match region.start(&self.quorum) {
                Ok(()) => self.note(&format!("region {place} starts")),
                // Its first commit failed.
                Err(StoreError::Stopped) => self.crash(place, "stops at its start"),
                Err(error) => return Err(Violation::of("a region starts", error.to_string())),
            }
        }
        let region = &mut self.regions[place];
        if region.stalled_until > now {
            return Ok(());
        }
        let commits = self.schedule.random_range(0..3);
        if let Some(life) = &region.life {
            for _ in 0..commits {
                life.store.commit_step();
            }
        }
        if region.is_fatal() {
            self.crash(place, "stops, since a commit failed");
            return Ok(());
        }
        let mut out = Out::default();
        let quorum = (!self.network.is_cut[place][place]).then_some(&mut self.quorum);
        region.step(now, quorum, &mut out);
        self.take(place, out)
    }

    fn take(&mut self, place: usize, out: Out) -> Result<(), Violation> {
        let now = self.now();
        for (to, message) in out.messages {
            self.network.send(now, place, to, message);
        }
        for number in out.acknowledged {
            let asked = self.clients.iter_mut().enumerate();
            let mut asked = asked.filter_map(|(row, one)| Some((row, one.under_way?, one)));
            if let Some((row, _, client)) =
                asked.find(|(_, (under_way, ..), _)| *under_way == number)
            {
                client.under_way = None;
                client.acknowledged += 1;
                self.note(&format!("region {place} has written row {row}: write {number}"));
            }
        }
        Ok(())
    }

    fn look_at_clients(&mut self, now: u64) {
        for client in &mut self.clients {
            let Some((number, place, since)) = client.under_way else { continue };
            let life = self.regions[place].life.as_ref();
            let writer = life.and_then(|life| life.writer.as_ref());
            if now >= since + PATIENCE || !writer.is_some_and(|writer| writer.has(number)) {
                client.under_way = None;
            }
        }
    }

    fn ask(&mut self, now: u64) {
        let row = self.asking.random_range(0..self.clients.len());
        let place = self.asking.random_range(0..REGIONS);
        if self.clients[row].under_way.is_some() || self.regions[place].stalled_until > now {
            return;
        }
        let Some(life) = &mut self.regions[place].life else { return };
        let Some(writer) = &mut life.writer else { return };
        let number = self.numbers + 1;
        if writer.write(&life.table, row, number) {
            self.numbers = number;
            self.clients[row].asked += 1;
            self.clients[row].under_way = Some((number, place, now));
            self.note(&format!("row {row} is written in region {place}: write {number}"));
        }
    }

    /// A read of the newest state, wherever it is given.
    fn read(&mut self, now: u64) -> Result<(), Violation> {
        let row = self.asking.random_range(0..self.clients.len());
        for place in 0..REGIONS {
            let region = &self.regions[place];
            let Some(life) = region.life.as_ref().filter(|_| region.stalled_until <= now) else {
                continue;
            };
            let Some(writer) = life.writer.as_ref().filter(|writer| writer.is_open()) else {
                continue;
            };
            if !life.holds(writer.epoch, now) {
                continue;
            }
            let shown = counter(&life.table, row);
            let shown = shown.map_err(|error| Violation::of("a row is read", error.to_string()))?;
            self.judge(&format!("region {place}"), row, shown)?;
        }
        Ok(())
    }

    fn judge(&mut self, place: &str, row: usize, shown: i64) -> Result<(), Violation> {
        let client = &mut self.clients[row];
        let least = client.acknowledged.max(client.shown);
        let is_right = least <= shown && shown <= client.asked;
        client.shown = client.shown.max(shown);
        let Client { asked, acknowledged, .. } = *client;
        is_right.then_some(()).ok_or_else(|| {
            let what = format!(
                "{place} shows {shown} in row {row}: {acknowledged} are acknowledged of {asked}, \
                 and {least} were shown or acknowledged"
            );
            Violation::of("rows are linearizable", what)
        })
    }

    fn rests(&self) -> bool {
        let Some(writer) = self.quorum.writer() else { return false };
        let ends = |region: &Region| {
            let life = region.life.as_ref()?;
            region.at_rest.is_whole.then(|| life.log())
        };
        let Some(end) = ends(&self.regions[writer]) else { return false };
        let life = self.regions[writer].life.as_ref();
        life.is_some_and(|life| life.writer.as_ref().is_some_and(|writer| writer.rests()))
            && self.regions.iter().all(|region| ends(region) == Some(end))
    }

    fn compare(&mut self) -> Result<(), Violation> {
        self.note("everything rests");
        for place in 0..REGIONS {
            let Some(table) = self.regions[place].life.as_ref().map(|life| life.table.clone())
            else {
                continue;
            };
            for row in 0..self.clients.len() {
                let shown = counter(&table, row)
                    .map_err(|error| Violation::of("a row is read", error.to_string()))?;
                self.judge(&format!("in the end region {place}"), row, shown)?;
            }
            if table.prepared_count() > 0 {
                let what = format!("region {place}: {:?}", table.prepared());
                return Err(Violation::of("nothing stays prepared", what));
            }
        }
        Ok(())
    }
}

fn stand(region: &Region) -> String {
    let Some(life) = &region.life else { return "down".to_owned() };
    let word = life.table.writer_word();
    format!(
        "log {:?}, sealed {}, accepts {}, whole {}, writes: {:?}",
        life.log(),
        life.table.epoch(),
        word.accepts,
        region.at_rest.is_whole,
        life.writer.as_ref().map(|writer| writer.told()),
    )
}
