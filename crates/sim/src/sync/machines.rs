//! The machines of a world: regions, ways, those who decide, time, and what breaks.

use std::sync::Arc;

use isthmus_store::StoreError;
use isthmus_store::engine::faulty::Fault;
use rand::Rng;
use rand::rngs::SmallRng;

use super::atomic::Answer;
use super::network::Network;
use super::plan::{Plan, REGIONS};
use super::quorum::Quorum;
use super::region::{Out, Region};
use super::reshape::{Base, Planned};
use super::writer::Ended;
use crate::checkers::Violation;
use crate::clock::{NodeClock, WorldTime};
use crate::options::Options;
use crate::rng::{Purpose, happens, split};
use crate::trace::Trace;

/// A region is down for so long at most, in milliseconds.
const DOWN_MAX: u64 = 1500;

/// All of them.
pub(super) struct Machines {
    pub(super) plan: Arc<Plan>,
    time: Arc<WorldTime>,
    pub(super) regions: Vec<Region>,
    /// When a region that is down comes back.
    back_at: [u64; REGIONS],
    /// Of each table.
    pub(super) quorums: Vec<Quorum>,
    pub(super) base: Base,
    network: Network,
    schedule: SmallRng,
    faults: SmallRng,
    pub(super) trace: Trace,
    pub(super) crashes: u64,
    /// What did not even begin.
    pub(super) broken: Option<Violation>,
}

/// What a step has brought to clients.
#[derive(Default)]
pub(super) struct News {
    /// Writes: their numbers, and where.
    pub(super) ended: Vec<(usize, u64, Ended)>,
    /// Batches, by the numbers of their clients.
    pub(super) answers: Vec<(u64, Answer)>,
    /// Tables that were granted.
    pub(super) granted: Vec<usize>,
}

impl News {
    fn take(&mut self, place: usize, out: &mut Out) {
        let ended = std::mem::take(&mut out.ended);
        self.ended.extend(ended.into_iter().map(|(_, number, ended)| (place, number, ended)));
        self.answers.append(&mut out.answers);
    }
}

impl Machines {
    pub(super) fn new(options: &Options, plan: Plan) -> Machines {
        let seed = options.seed;
        let one = |table: &super::plan::TablePlan| Quorum::new(table.mode.held_by(), table.first);
        let quorums: Vec<Quorum> = plan.tables.iter().map(one).collect();
        let time = Arc::new(WorldTime::default());
        let plan = Arc::new(plan);
        let mut broken = None;
        let mut regions = Vec::new();
        for place in 0..REGIONS {
            match Region::new(place, seed, &plan, NodeClock::new(time.clone()), &quorums) {
                Ok(region) => regions.push(region),
                Err(error) => broken = Some(Violation::of("a region starts", error.to_string())),
            }
        }
        let network = Network::new(split(seed, Purpose::Network), plan.loss, plan.delay);
        Machines {
            plan,
            time,
            regions,
            back_at: [0; REGIONS],
            quorums,
            base: Base::new(None),
            network,
            schedule: split(seed, Purpose::Schedule),
            faults: split(seed, Purpose::Faults),
            trace: Trace::new(options.dumps),
            crashes: 0,
            broken,
        }
    }

    /// Tables are to be split or merged.
    pub(super) fn plan_reshape(&mut self, plan: &Planned) {
        self.base = Base::new(Some(plan.clone()));
        self.regions.iter_mut().for_each(|region| region.plan_reshape(plan));
    }

    pub(super) fn now(&self) -> u64 {
        self.time.micros() / 1000
    }

    pub(super) fn note(&mut self, event: &str) {
        self.trace.note(self.time.micros(), event);
    }

    pub(super) fn epochs(&self) -> u64 {
        self.quorums.iter().map(Quorum::epochs).sum()
    }

    pub(super) fn commits(&self) -> u64 {
        self.regions.iter().map(|region| region.engine.commits()).sum()
    }

    /// A region is lost, and stays so until all heals.
    pub(super) fn lose(&mut self, place: usize) {
        self.crash(place, "is lost");
        self.back_at[place] = u64::MAX;
    }

    /// From now on nothing breaks.
    pub(super) fn heal(&mut self) {
        self.note("everything heals");
        self.network.heal();
        for region in &mut self.regions {
            region.engine.unplan();
            region.stalled_until = 0;
        }
        self.back_at = [0; REGIONS];
        self.base.silent_until = 0;
    }

    pub(super) fn break_something(&mut self) {
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
        if self.base.plan.is_some() && happens(&mut self.faults, self.plan.stall) {
            self.base.silent_until = self.now() + self.faults.random_range(1..3000);
            self.note("the base is silent");
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

    /// Goes on a little. `breaks`: things break.
    pub(super) fn step(&mut self, breaks: bool) -> Result<News, Violation> {
        let mut news = News::default();
        let passed = self.schedule.random_range(1..=4);
        self.time.advance((self.now() + passed) * 1000);
        let now = self.now();
        for at in 0..self.quorums.len() {
            let epochs = self.quorums[at].epochs();
            self.quorums[at].tick(now);
            if self.quorums[at].epochs() > epochs {
                news.granted.push(at);
                if breaks && self.plan.stalls_at_grants {
                    let after = self.faults.random_range(1..REGIONS);
                    self.stall((self.quorums[at].grant().writer + after) % REGIONS, 3000);
                }
            }
        }
        self.base.tick(now, &mut self.quorums);
        for (from, to, message) in self.network.arrived(now) {
            // What comes to a process that stalls waits in its buffers, or is lost.
            if self.regions[to].stalled_until <= now {
                let mut out = Out::default();
                self.regions[to].receive(now, from, message, &mut out);
                self.send(to, out, &mut news);
            }
        }
        for place in 0..REGIONS {
            self.step_region(place, now, &mut news)?;
        }
        Ok(news)
    }

    fn step_region(&mut self, place: usize, now: u64, news: &mut News) -> Result<(), Violation> {
        let region = &mut self.regions[place];
        if region.life.is_none() && now >= self.back_at[place] {
            match region.start(&self.quorums) {
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
        let deciders = (&mut self.quorums[..], &mut self.base);
        let deciders = (!self.network.is_cut[place][place]).then_some(deciders);
        region.step(now, deciders, &mut out);
        self.send(place, out, news);
        Ok(())
    }

    /// Sends what a region has to tell.
    pub(super) fn send(&mut self, place: usize, mut out: Out, news: &mut News) {
        let now = self.now();
        news.take(place, &mut out);
        for (to, message) in out.messages {
            self.network.send(now, place, to, message);
        }
    }

    /// Whether a region answers clients now.
    pub(super) fn is_up(&self, place: usize) -> bool {
        let region = &self.regions[place];
        region.stalled_until <= self.now() && region.life.is_some()
    }

    /// Whether all regions have all of a table and nothing is under way in it.
    pub(super) fn rests(&self) -> bool {
        (0..self.quorums.len()).all(|at| self.table_rests(at).unwrap_or(false))
    }

    fn table_rests(&self, at: usize) -> Option<bool> {
        let ends = |region: &Region| {
            let life = region.life.as_ref()?;
            region.at_rest[at].is_whole.then(|| life.parts[at].log())
        };
        let writing = &self.regions[self.quorums[at].writer()?];
        let end = ends(writing)?;
        let part = &writing.life.as_ref()?.parts[at];
        let is_idle =
            part.table.is_dropped() || part.writer.as_ref().is_some_and(|writer| writer.rests());
        Some(is_idle && self.regions.iter().all(|region| ends(region) == Some(end)))
    }

    /// How all stands, in words.
    pub(super) fn stands(&self) -> String {
        let stands: Vec<String> = self.regions.iter().map(stand).collect();
        format!("{stands:#?}; {:?}", self.quorums)
    }
}

fn stand(region: &Region) -> String {
    let Some(life) = &region.life else { return "down".to_owned() };
    let tables = life.parts.iter().zip(&region.at_rest).map(|(part, at_rest)| {
        let word = part.table.writer_word();
        format!(
            "log {:?}, sealed {}, accepts {}, whole {}, {:?}, writes: {:?}",
            part.log(),
            part.table.epoch(),
            word.accepts,
            at_rest.is_whole,
            part.table.intents(),
            part.writer.as_ref().map(|writer| writer.told()),
        )
    });
    let tables: Vec<String> = tables.collect();
    format!("{}\n{}", tables.join("\n"), life.reshaping.told())
}
