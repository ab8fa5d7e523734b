//! The world: clients that count, wherever their rows are served, and what must hold.

use isthmus_model::key::EncodedKey;
use rand::Rng;
use rand::rngs::SmallRng;

use super::Planned;
use crate::checkers::Violation;
use crate::options::Options;
use crate::rng::{Purpose, split};
use crate::sync::group::{Group, Task, number_in};
use crate::sync::machines::Machines;
use crate::sync::plan::{Mode, Plan, REGIONS, encoded};
use crate::sync::writer::Ended;
use crate::sync::{failure, report};
use crate::tally::Tally;
use crate::world::{Failure, Report};

/// A client asks again after this, and does not know what became of its write.
const PATIENCE: u64 = 2000;
/// When nothing breaks any more all must be done within so many steps.
const HEALING_STEPS: u32 = 60_000;

/// A client, and what it knows of the row that it alone writes.
#[derive(Clone, Copy, Default)]
struct Client {
    asked: i64,
    acknowledged: i64,
    /// The most that any read has shown, where reads are of what is held by others.
    shown: i64,
    /// The number of its write, where it was asked for, of which table and since when.
    under_way: Option<(u64, usize, usize, u64)>,
}

/// All of it.
struct World {
    machines: Machines,
    plan: Planned,
    clients: Vec<Client>,
    numbers: u64,
    /// Acknowledged before and after the new partitions took the place of the old ones.
    made: [u64; 2],
    asking: SmallRng,
}

/// Runs the world of a seed.
pub(in crate::sync) fn run(options: &Options) -> Result<Report, Box<Failure>> {
    let (plan, reshape, rows) = Plan::draw_of_reshapes(options.seed, options.plant);
    let nature = format!("{plan:#?}\n{reshape:#?}");
    let mut machines = Machines::new(options, plan);
    machines.plan_reshape(&reshape);
    let mut world = World {
        machines,
        plan: reshape,
        clients: vec![Client::default(); rows],
        numbers: 0,
        made: [0; 2],
        asking: split(options.seed, Purpose::Clients),
    };
    match world.live() {
        Ok(()) => {
            let [before, after] = world.made;
            let report = report(&world.machines, before + after);
            let tally = Tally { made_in_new: after, ..report.tally };
            Ok(Report { tally, ..report })
        }
        Err(violation) => Err(Box::new(failure(violation, nature, world.machines))),
    }
}

impl World {
    fn live(&mut self) -> Result<(), Violation> {
        if let Some(broken) = self.machines.broken.take() {
            return Err(broken);
        }
        for _ in 0..self.machines.plan.steps {
            self.machines.break_something();
            self.step(true)?;
        }
        self.machines.heal();
        for _ in 0..HEALING_STEPS {
            self.step(false)?;
            if self.machines.base.is_taken && self.machines.rests() {
                return self.compare();
            }
        }
        Err(Violation::of("what is healed comes to rest", self.machines.stands()))
    }

    fn step(&mut self, asks: bool) -> Result<(), Violation> {
        let was_taken = self.machines.base.is_taken;
        let news = self.machines.step(asks)?;
        if self.machines.base.is_taken && !was_taken {
            self.machines.note("the new partitions take the place of the old ones");
        }
        for at in news.granted {
            let grant = self.machines.quorums[at].grant();
            self.machines.note(&format!("table {at} is granted: {grant:?}"));
        }
        for (place, number, ended) in news.ended {
            if matches!(ended, Ended::Made(_)) {
                self.take(place, number);
            }
        }
        let now = self.machines.now();
        self.look_at_clients(now);
        if asks {
            self.ask(now);
        }
        self.read(now)
    }

    fn take(&mut self, place: usize, number: u64) {
        for (row, client) in self.clients.iter_mut().enumerate() {
            let Some((_, _, at, _)) = client.under_way.filter(|(known, ..)| *known == number)
            else {
                continue;
            };
            client.under_way = None;
            client.acknowledged += 1;
            self.made[usize::from(self.plan.is_target(at))] += 1;
            let what = format!("region {place} has written row {row} of table {at}: {number}");
            return self.machines.note(&what);
        }
    }

    fn look_at_clients(&mut self, now: u64) {
        for client in &mut self.clients {
            let Some((number, place, at, since)) = client.under_way else { continue };
            let life = self.machines.regions[place].life.as_ref();
            let writer = life.and_then(|life| life.parts[at].writer.as_ref());
            if now >= since + PATIENCE || !writer.is_some_and(|writer| writer.has(number)) {
                client.under_way = None;
            }
        }
    }

    /// The tables that a row is, or will be, in.
    fn tables_of(&self, row: usize) -> [usize; 2] {
        let has = |at: &usize| self.machines.plan.tables[*at].has(row as i64);
        let source = self.plan.sources().find(has);
        [source.unwrap_or(0), self.plan.target_of(row as i64)]
    }

    fn ask(&mut self, now: u64) {
        let row = self.asking.random_range(0..self.clients.len());
        let place = self.asking.random_range(0..REGIONS);
        if self.clients[row].under_way.is_some() || !self.machines.is_up(place) {
            return;
        }
        let tables = self.tables_of(row);
        let Some(life) = &mut self.machines.regions[place].life else { return };
        for at in tables {
            if !life.reshaping.is_served(at, &life.parts) || life.parts[at].table.is_dropped() {
                continue;
            }
            let part = &mut life.parts[at];
            let Some(writer) = &mut part.writer else { continue };
            let number = self.numbers + 1;
            if writer.write(&part.table, Group::increment(row), Task::Rows, number) {
                self.numbers = number;
                self.clients[row].asked += 1;
                self.clients[row].under_way = Some((number, place, at, now));
                let what = format!("row {row} of table {at} is written in {place}: {number}");
                return self.machines.note(&what);
            }
        }
    }

    /// A read of the newest state, wherever it is given.
    fn read(&mut self, now: u64) -> Result<(), Violation> {
        let row = self.asking.random_range(0..self.clients.len());
        for place in 0..REGIONS {
            if !self.machines.is_up(place) {
                continue;
            }
            for at in self.tables_of(row) {
                let Some(life) = self.machines.regions[place].life.as_ref() else { continue };
                let part = &life.parts[at];
                let is_served = life.reshaping.is_served(at, &life.parts)
                    && !part.table.is_dropped()
                    && part
                        .writer
                        .as_ref()
                        .is_some_and(|writer| writer.is_open() && part.holds(writer.epoch, now));
                if !is_served {
                    continue;
                }
                let shown = number_in(&part.table, row as i64, b"n");
                let shown =
                    shown.map_err(|error| Violation::of("a row is read", error.to_string()))?;
                self.judge(&format!("table {at} in region {place}"), row, shown)?;
            }
        }
        Ok(())
    }

    fn judge(&mut self, place: &str, row: usize, shown: i64) -> Result<(), Violation> {
        let client = &mut self.clients[row];
        let least = client.acknowledged.max(client.shown);
        let is_right = least <= shown && shown <= client.asked;
        if self.machines.plan.tables[0].mode != Mode::SemiSync {
            client.shown = client.shown.max(shown);
        }
        let Client { asked, acknowledged, .. } = *client;
        is_right.then_some(()).ok_or_else(|| {
            let what = format!(
                "{place} shows {shown} in row {row}: {acknowledged} are acknowledged of {asked}, \
                 and {least} were shown or acknowledged"
            );
            Violation::of("no row is lost or old", what)
        })
    }

    fn compare(&mut self) -> Result<(), Violation> {
        self.machines.note("everything rests");
        let unread =
            |error: isthmus_store::StoreError| Violation::of("a row is read", error.to_string());
        for place in 0..REGIONS {
            let life = self.machines.regions[place].life.as_ref();
            let Some(life) = life else { continue };
            let tables: Vec<_> = life.parts.iter().map(|part| part.table.clone()).collect();
            for row in 0..self.clients.len() {
                let [_, target] = self.tables_of(row);
                for at in self.plan.targets() {
                    let key: EncodedKey = encoded(row as i64);
                    let is_there = tables[at].get(&key).map_err(unread)?.is_some();
                    if is_there && at != target {
                        let what = format!("row {row} is in table {at} of region {place}, too");
                        return Err(Violation::of("a row is in one partition", what));
                    }
                }
                let shown = number_in(&tables[target], row as i64, b"n").map_err(unread)?;
                self.judge(&format!("in the end table {target} in {place}"), row, shown)?;
            }
            if let Some(at) = self.plan.sources().find(|at| !tables[*at].is_dropped()) {
                let what = format!("table {at} in region {place}");
                return Err(Violation::of("old partitions have ended", what));
            }
        }
        Ok(())
    }
}
